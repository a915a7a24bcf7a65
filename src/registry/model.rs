//! The registry against a simple model: whatever happens in whatever order, the log tells it right and the fold equals the log.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::close::Cause;
use crate::event::{Payload, Record, Replaces};
use crate::log::{Log as _, MemoryLog, Retention};

pub(super) struct World {
    pub(super) log: Arc<MemoryLog>,
    pub(super) registry: Arc<Registry>,
}

impl World {
    pub(super) fn new(duplicates: Duplicates) -> Self {
        let metrics = Arc::new(Metrics::default());
        let clock = Clock::default();
        let retention = Retention { max_bytes: 1 << 30, max_age: None };
        let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let settings = Settings {
            node_id: "node".into(),
            cadence: Cadence { interval: 30_000, timeout: 60_000 },
            quiet: false,
            duplicates,
            takeovers_per_minute: 0,
            outbox: OutboxLimits { frames: 10, bytes: 1_000 },
        };
        let registry = Arc::new(Registry::new(Arc::clone(&log) as Arc<dyn Log>, clock, settings, metrics));
        Self { log, registry }
    }

    pub(super) fn join(&self, client: &str) -> Result<Registration, JoinError> {
        let room = self.log.budget().try_reserve(0).expect("room");
        let client_id = Some(ClientId::named(client).expect("a good id"));
        self.registry.submit_join(Newcomer { client_id, remote_address: None, subprotocol: "" }, room)
    }

    pub(super) fn commit_all(&self) {
        while self.log.commit(&*self.registry) {}
    }

    pub(super) fn records(&self) -> Vec<Arc<Record>> {
        let mut all = Vec::new();
        let mut after = self.log.bounds().before_oldest;
        loop {
            let batch = self.log.read(after).now_or_never().expect("ready").expect("kept");
            let Some(last) = batch.last() else { return all };
            after = last.offset;
            all.extend(batch);
        }
    }

    /// The fold as the registry has it: client id and labels by connection.
    fn fold(&self) -> BTreeMap<ConnectionKey, (String, Labels)> {
        let mut fold = BTreeMap::new();
        self.registry.visit(PageStart::default(), |view| {
            let before = fold.insert(view.info.connection_id, (view.info.client_id.as_str().to_owned(), view.labels));
            assert!(before.is_none(), "visited twice");
            true
        });
        fold
    }
}

type ConnectionKey = crate::ids::ConnectionId;

#[derive(Clone, Debug)]
enum Op {
    Connect(u8),
    Message(usize),
    Kick(usize),
    Timeout(usize),
    Drop(usize),
    Panic(usize),
    Label(usize, u8),
    KickClient(u8),
    /// Only the connection at the first, by its client id and generation.
    KickGeneration(usize),
    LabelClient(u8, u8),
    Commit,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0u8..4).prop_map(Op::Connect),
        4 => (0usize..32).prop_map(Op::Message),
        1 => (0usize..32).prop_map(Op::Kick),
        1 => (0usize..32).prop_map(Op::Timeout),
        1 => (0usize..32).prop_map(Op::Drop),
        1 => (0usize..32).prop_map(Op::Panic),
        1 => (0usize..32, 0u8..3).prop_map(|(at, label)| Op::Label(at, label)),
        1 => (0u8..4).prop_map(Op::KickClient),
        1 => (0usize..32).prop_map(Op::KickGeneration),
        2 => (0u8..4, 0u8..3).prop_map(|(client, label)| Op::LabelClient(client, label)),
        3 => Just(Op::Commit),
    ]
}

/// One line of what the log should say.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Line {
    Connected { client: String, connection: ConnectionKey, replaces: Option<ConnectionKey> },
    Message { connection: ConnectionKey, text: u32 },
    Labels { connection: ConnectionKey, labels: Labels },
    Disconnected { connection: ConnectionKey, cause: Cause },
}

fn line(record: &Record) -> Line {
    let connection = record.event.connection.connection_id;
    match &record.event.kind {
        EventKind::Connected(connected) => Line::Connected {
            client: record.event.connection.client_id.as_str().to_owned(),
            connection,
            replaces: match &connected.replaces {
                Replaces::Connection(info) => Some(info.connection_id),
                _ => None,
            },
        },
        EventKind::MessageReceived(payload) => {
            let text = u32::from_be_bytes(payload.bytes()[..].try_into().expect("four bytes"));
            Line::Message { connection, text }
        }
        EventKind::LabelsChanged { .. } => Line::Labels { connection, labels: record.event.labels.clone() },
        EventKind::Disconnected(end) => Line::Disconnected { connection, cause: end.cause },
        other => panic!("unexpected {other:?}"),
    }
}

/// The model: who holds each id, as of what was submitted, and what was written down.
#[derive(Default)]
struct Model {
    /// The connections of each id that are not ending, the oldest first.
    owners: HashMap<String, Vec<ConnectionKey>>,
    committed: BTreeMap<ConnectionKey, (String, Labels)>,
    lines: Vec<Line>,
    applied: usize,
}

impl Model {
    fn owners(&self, client: &str) -> &[ConnectionKey] {
        self.owners.get(client).map_or(&[], Vec::as_slice)
    }

    fn owns(&self, registration: &Registration) -> bool {
        let info = registration.connection().info();
        self.owners(info.client_id.as_str()).contains(&info.connection_id)
    }

    /// Those that commands for a client id mean, the oldest first.
    fn open(&self, client: &str) -> Vec<ConnectionKey> {
        self.owners(client).iter().filter(|id| self.committed.contains_key(id)).copied().collect()
    }

    fn submitted_labels(&self, id: ConnectionKey) -> Labels {
        let newest = self.lines.iter().rev().find_map(|line| match line {
            Line::Labels { connection, labels } if *connection == id => Some(labels.clone()),
            _ => None,
        });
        newest.unwrap_or_default()
    }

    fn end(&mut self, client: &str, connection: ConnectionKey, cause: Cause) {
        let Some(owners) = self.owners.get_mut(client) else { return };
        if let Some(at) = owners.iter().position(|owner| *owner == connection) {
            owners.remove(at);
            self.lines.push(Line::Disconnected { connection, cause });
        }
    }

    fn end_of(&mut self, registration: &Registration, cause: Cause) {
        let info = registration.connection().info();
        self.end(info.client_id.as_str(), info.connection_id, cause);
    }

    /// Labels those of a client id that are open; true if there was nothing to change.
    fn label(&mut self, open: &[ConnectionKey], labels: &Labels) -> bool {
        let different = |id: &&ConnectionKey| self.submitted_labels(**id) != *labels;
        let changed: Vec<_> = open.iter().filter(different).copied().collect();
        let nothing = changed.is_empty();
        self.lines.extend(changed.into_iter().map(|connection| Line::Labels { connection, labels: labels.clone() }));
        nothing
    }

    /// Applies what was written down since the last time.
    fn commit(&mut self) {
        for line in &self.lines[self.applied..] {
            match line {
                Line::Connected { client, connection, .. } => {
                    self.committed.insert(*connection, (client.clone(), Labels::NONE));
                }
                Line::Disconnected { connection, .. } => {
                    self.committed.remove(connection);
                }
                Line::Labels { connection, labels } => {
                    if let Some((_, current)) = self.committed.get_mut(connection) {
                        *current = labels.clone();
                    }
                }
                Line::Message { .. } => {}
            }
        }
        self.applied = self.lines.len();
    }
}

/// What the policy makes of a newcomer: whom it replaces, or that it is refused.
fn policy(duplicates: Duplicates, owners: &[ConnectionKey]) -> Result<Option<ConnectionKey>, JoinError> {
    match (duplicates, owners) {
        (_, []) => Ok(None),
        (Duplicates::Replace, [owner]) => Ok(Some(*owner)),
        (Duplicates::Replace, _) => panic!("owned twice"),
        (Duplicates::Allow { most }, owners) if owners.len() < most => Ok(None),
        (Duplicates::Reject | Duplicates::Allow { .. }, _) => Err(JoinError::IdInUse),
    }
}

fn play(duplicates: Duplicates, ops: Vec<Op>) {
    let world = World::new(duplicates);
    let mut model = Model::default();
    let mut held: Vec<Registration> = Vec::new();
    let mut texts = 0u32;
    let pick = |held: &Vec<Registration>, at: usize| (!held.is_empty()).then(|| at % held.len());
    let client_target = |client: &str| Target::Client(ClientId::named(client).expect("a good id"));
    for op in ops {
        match op {
            Op::Connect(client) => {
                let client = format!("c{client}");
                match (world.join(&client), policy(duplicates, model.owners(&client))) {
                    (Ok(registration), Ok(replaces)) => {
                        let connection = registration.connection().info().connection_id;
                        if let Some(old) = replaces {
                            model.end(&client, old, Cause::Replaced);
                        }
                        model.owners.entry(client.clone()).or_default().push(connection);
                        model.lines.push(Line::Connected { client, connection, replaces });
                        held.push(registration);
                    }
                    (Err(error), Err(expected)) => assert_eq!(error, expected),
                    (joined, expected) => panic!("{:?} instead of {expected:?}", joined.err()),
                }
            }
            Op::Message(at) => {
                let Some(at) = pick(&held, at) else { continue };
                texts += 1;
                if model.owns(&held[at]) {
                    let connection = held[at].connection().info().connection_id;
                    model.lines.push(Line::Message { connection, text: texts });
                }
                held[at].message(Payload::Binary(texts.to_be_bytes().to_vec().into())).expect("room");
            }
            Op::Kick(at) => {
                let Some(at) = pick(&held, at) else { continue };
                model.end_of(&held[at], Cause::Kicked);
                world.registry.end(held[at].connection(), CloseReason::Kicked(1000, "".into()));
            }
            Op::Timeout(at) => {
                let Some(at) = pick(&held, at) else { continue };
                model.end_of(&held[at], Cause::HeartbeatTimeout);
                held[at].end(CloseReason::HeartbeatTimeout);
            }
            Op::Drop(at) => {
                let Some(at) = pick(&held, at) else { continue };
                model.end_of(&held[at], Cause::InternalError);
                drop(held.remove(at));
            }
            Op::Panic(at) => {
                let Some(at) = pick(&held, at) else { continue };
                model.end_of(&held[at], Cause::InternalError);
                let registration = held.remove(at);
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    let _held = registration;
                    std::panic::resume_unwind(Box::new("a driver panics"));
                }));
                assert!(panicked.is_err());
            }
            Op::KickClient(client) => {
                let client = format!("c{client}");
                // Submitted at its first poll; nobody waits for the answer.
                world.registry.disconnect(&client_target(&client), 1000, "", None).now_or_never();
                for connection in model.open(&client) {
                    model.end(&client, connection, Cause::Kicked);
                }
            }
            Op::KickGeneration(at) => {
                let Some(at) = pick(&held, at) else { continue };
                let info = Arc::clone(held[at].connection().info());
                let client = info.client_id.as_str();
                let generation = Some(info.generation());
                let answered = world.registry.disconnect(&client_target(client), 1000, "", generation).now_or_never();
                if model.committed.contains_key(&info.connection_id) {
                    model.end(client, info.connection_id, Cause::Kicked);
                } else {
                    // Not committed yet, or gone: nobody is there, or only others are.
                    let newest = model.committed.iter().filter(|(_, (of, _))| of == client);
                    match answered.expect("nothing to wait for") {
                        Ok((ended, _)) => assert!(ended.is_empty() && newest.count() == 0),
                        Err(error) => {
                            assert!(matches!(error, CommandError::Generation(_)), "{error}");
                            assert!(newest.count() > 0);
                        }
                    }
                }
            }
            Op::Label(at, label) => {
                let Some(at) = pick(&held, at) else { continue };
                let id = held[at].connection().info().connection_id;
                let open = if model.owns(&held[at]) && model.committed.contains_key(&id) { vec![id] } else { vec![] };
                relabel(&world, &mut model, &Target::Connection(id), &open, label);
            }
            Op::LabelClient(client, label) => {
                let client = format!("c{client}");
                let open = model.open(&client);
                relabel(&world, &mut model, &client_target(&client), &open, label);
            }
            Op::Commit => {
                world.commit_all();
                model.commit();
                assert_eq!(world.fold(), model.committed);
                for client in (0..4).map(|client| format!("c{client}")) {
                    let oldest = world.registry.oldest_open(&ClientId::named(&client).expect("a good id"));
                    let oldest = oldest.map(|connection| connection.info().connection_id);
                    assert_eq!(oldest, model.open(&client).first().copied());
                }
            }
        }
    }
    drop(held);
    let ended: Vec<_> = model.owners.values().flatten().copied().collect();
    world.commit_all();
    let records = world.records();
    let said: Vec<_> = records.iter().map(|record| line(record)).collect();
    let (known, last) = said.split_at(model.lines.len());
    assert_eq!(known, model.lines);
    // Who was left is ended by its guard, once each.
    assert_eq!(last.len(), ended.len());
    for connection in ended {
        assert!(last.contains(&Line::Disconnected { connection, cause: Cause::InternalError }));
    }
    assert!(world.fold().is_empty());
    assert!(world.log.budget().is_whole(), "a slot leaked");
    generations_fence(&records);
}

/// Labels what a target names, of which `open` are there and not ending.
fn relabel(world: &World, model: &mut Model, target: &Target, open: &[ConnectionKey], label: u8) {
    let value = label.to_string();
    // Submitted at its first poll; nobody waits for the answer.
    let asked = world.registry.update_labels(target, [("k", &*value)].into_iter(), [].into_iter(), None);
    let answered = asked.now_or_never();
    if open.is_empty() {
        assert!(matches!(answered, Some(Err(CommandError::NotConnected))), "not committed, or ending");
        return;
    }
    let labels = Labels::new([("k", value)]).expect("good");
    let shown = open.iter().all(|id| model.committed[id].1 == labels);
    let nothing = model.label(open, &labels);
    assert_eq!(matches!(answered, Some(Ok(_))), nothing && shown);
}

/// Within a client id later connections have greater generations, and every event names the generation of its own connection.
fn generations_fence(records: &[Arc<Record>]) {
    let mut newest: HashMap<&str, i64> = HashMap::new();
    for record in records {
        let info = &record.event.connection;
        if let EventKind::Connected(connected) = &record.event.kind {
            assert_eq!(info.generation(), record.offset);
            let before = newest.insert(info.client_id.as_str(), record.offset).unwrap_or(0);
            assert!(record.offset > before);
            assert!(connected.replaces.generation() <= before);
        }
        assert!(info.generation() <= record.offset);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_log_tells_what_happened_and_the_fold_equals_it(ops in proptest::collection::vec(op(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let _inside = runtime.enter();
        for duplicates in [Duplicates::Replace, Duplicates::Reject, Duplicates::Allow { most: 3 }] {
            play(duplicates, ops.clone());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_that_race_for_one_id_exactly_one_holds_it_at_any_time() {
    let world = World::new(Duplicates::Replace);
    let stop = CancellationToken::new();
    let (log, registry, token) = (Arc::clone(&world.log), Arc::clone(&world.registry), stop.clone());
    let committer = tokio::spawn(async move { log.run(&*registry, token).await });
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let registry = Arc::clone(&world.registry);
        racers.spawn(async move {
            let client_id = Some(ClientId::named("one").expect("a good id"));
            registry.join(Newcomer { client_id, remote_address: None, subprotocol: "" }).await.expect("joined")
        });
    }
    let all = racers.join_all().await;
    assert_eq!(all.iter().filter(|r| !r.connection().has(signal::SEALED)).count(), 1);
    drop(all);
    stop.cancel();
    committer.await.expect("commits");
    let mut owner = None;
    for record in world.records() {
        let id = record.event.connection.connection_id;
        match record.event.kind {
            EventKind::Connected(_) => assert_eq!(owner.replace(id), None, "owned twice"),
            EventKind::Disconnected(_) => assert_eq!(owner.take(), Some(id), "ended by another"),
            _ => {}
        }
    }
    assert_eq!(owner, None);
    assert_eq!(world.records().len(), 200);
}

#[tokio::test(start_paused = true)]
async fn two_changes_of_one_heartbeat_that_are_under_way_at_once_do_not_undo_each_other() {
    let world = World::new(Duplicates::Replace);
    let registration = world.join("a").expect("joined");
    world.commit_all();
    let target = Target::Client(ClientId::named("a").expect("a good id"));
    let mut interval = Box::pin(world.registry.update_heartbeat(&target, Some(50_000), None, None));
    let mut timeout = Box::pin(world.registry.update_heartbeat(&target, None, Some(55_000), None));
    // Both are submitted before either is committed.
    assert!(interval.as_mut().now_or_never().is_none() && timeout.as_mut().now_or_never().is_none());
    world.commit_all();
    for (asked, expected) in [(interval, (50_000, 60_000)), (timeout, (50_000, 55_000))] {
        let done = asked.await.expect("done");
        let cadence = done.connections[0].cadence;
        assert_eq!((cadence.interval, cadence.timeout), expected);
    }
    assert_eq!(registration.connection().cadence(), Cadence { interval: 50_000, timeout: 55_000 });
    // What is judged is what was asked for last, not what is in force.
    let refused = world.registry.update_heartbeat(&target, None, Some(45_000), None).await;
    assert!(matches!(refused, Err(CommandError::Cadence { interval: 50_000, timeout: 45_000 })));
}

#[tokio::test(start_paused = true)]
async fn silence_makes_a_connection_suspect_and_a_heartbeat_recovers_it() {
    let world = World::new(Duplicates::Replace);
    let registration = world.join("a").expect("joined");
    world.commit_all();
    let mut kinds = Vec::new();
    for step in 0..=590 {
        world.registry.clock().expect_sweep(SWEEP_PERIOD);
        world.registry.sweep();
        if step == 500 {
            registration.heard();
        }
        world.commit_all();
        kinds = world.records().iter().map(|record| (step, record.event.kind.tag().as_str())).collect();
        if kinds.len() == 2 && step < 449 {
            panic!("suspect after {step} steps of 100 ms");
        }
        tokio::time::advance(SWEEP_PERIOD).await;
    }
    let kinds: Vec<_> = kinds.into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["connected", "suspected", "recovered"]);
    let recovered = world.records().pop().expect("a record");
    let EventKind::Recovered { suspected_for, resumed: false } = recovered.event.kind else { panic!("{recovered:?}") };
    assert_eq!(suspected_for, Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_driver_is_told_to_expire_a_silent_client_on_time_and_to_beat_once_an_interval() {
    let world = World::new(Duplicates::Replace);
    let registration = world.join("a").expect("joined");
    world.commit_all();
    let connection = Arc::clone(registration.connection());
    let (mut beats, mut expired) = (0, None);
    for step in 0..=620u64 {
        world.registry.clock().expect_sweep(SWEEP_PERIOD);
        world.registry.sweep();
        let signals = connection.take_signals();
        beats += u32::from(signals & signal::BEAT != 0);
        if signals & signal::EXPIRE != 0 && expired.is_none() {
            expired = Some(step * 100);
        }
        tokio::time::advance(SWEEP_PERIOD).await;
    }
    // The first falls anywhere in the interval, so there is time for two or three.
    assert!((2..=3).contains(&beats), "{beats}");
    let expired = expired.expect("told to expire");
    assert!((60_000..=60_150).contains(&expired), "{expired}");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_process_expires_nobody_when_it_wakes() {
    let world = World::new(Duplicates::Replace);
    let registration = world.join("a").expect("joined");
    world.commit_all();
    let step = || {
        world.registry.clock().expect_sweep(SWEEP_PERIOD);
        world.registry.sweep();
        world.commit_all();
    };
    step();
    tokio::time::advance(Duration::from_secs(3600)).await;
    for _ in 0..400 {
        step();
        tokio::time::advance(SWEEP_PERIOD).await;
    }
    assert!(registration.connection().take_signals() & signal::EXPIRE == 0);
    assert_eq!(world.records().len(), 1, "not even SUSPECT after an hour asleep and 40 s awake");
}
