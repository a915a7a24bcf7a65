//! The present state, joined to the log with no gap and no duplicate.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use pb::event::Kind;

/// What a backend knows of a connection.
#[derive(Clone, PartialEq, Debug)]
struct Known {
    connection_id: String,
    state: i32,
    labels: BTreeMap<String, String>,
    heartbeat: pb::HeartbeatSettings,
}

/// What a backend makes of the events it gets, by client id and generation; stricter than a backend need be: an event that does not fit what is known is a gap or a
/// duplicate, and fails.
#[derive(Clone, Default, PartialEq, Debug)]
struct Fold(BTreeMap<(String, i64), Known>);

impl Fold {
    fn apply(&mut self, event: &pb::Event) {
        let labels: BTreeMap<_, _> = event.labels.clone().into_iter().collect();
        match event.kind.as_ref().expect("a kind") {
            Kind::Connected(connected) => {
                let known = Known {
                    connection_id: event.connection_id.clone(),
                    state: connected.state,
                    labels,
                    heartbeat: connected.heartbeat.expect("settings"),
                };
                let before = self.0.insert((event.client_id.clone(), event.generation), known);
                assert_eq!(before, None, "a second Connected: {event:?}");
            }
            Kind::Disconnected(_) => {
                self.known(event);
                self.0.remove(&(event.client_id.clone(), event.generation));
            }
            Kind::Suspected(_) => self.known(event).state = pb::ConnectionState::Suspect.into(),
            Kind::Recovered(_) => self.known(event).state = pb::ConnectionState::Alive.into(),
            Kind::LabelsChanged(changed) => {
                let known = self.known(event);
                let previous: BTreeMap<_, _> = changed.previous_labels.clone().into_iter().collect();
                assert_eq!(known.labels, previous, "a change of labels is missing, or came twice");
                known.labels = labels;
            }
            Kind::HeartbeatChanged(changed) => {
                self.known(event).heartbeat = changed.heartbeat.expect("settings");
            }
            Kind::MessageReceived(_) => {
                self.known(event);
            }
            Kind::MessageExpired(_) => panic!("there are none"),
        }
    }

    fn known(&mut self, event: &pb::Event) -> &mut Known {
        let known = self.0.get_mut(&(event.client_id.clone(), event.generation));
        known.unwrap_or_else(|| panic!("an event of a connection that is not known: {event:?}"))
    }

    fn of_registry(connections: Vec<pb::Connection>) -> Self {
        let known = connections.into_iter().map(|connection| {
            let known = Known {
                connection_id: connection.connection_id,
                state: connection.state,
                labels: connection.labels.into_iter().collect(),
                heartbeat: connection.heartbeat.expect("settings"),
            };
            ((connection.client_id, connection.generation), known)
        });
        Self(known.collect())
    }
}

/// Joins, leaves, changes and chatters at random until told to stop.
async fn churn(rig: Arc<Rig>, seed: u64, stop: Arc<AtomicBool>) -> Vec<Registration> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut held: Vec<Registration> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("c{}", random.u32(..300));
        match random.u32(..12) {
            // At the limit of an id it is refused.
            0..5 => held.extend(rig.try_join(&id).await.ok()),
            5..7 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
            7 => {
                let target = crate::registry::Target::Client(ClientId::named(&id).expect("an id"));
                let value = random.u32(..1000).to_string();
                let _ = rig.registry.update_labels(&target, [("k", &*value)].into_iter(), [].into_iter(), None).await;
            }
            8 => {
                let target = crate::registry::Target::Client(ClientId::named(&id).expect("an id"));
                let interval = random.u32(100..1000);
                let _ = rig.registry.update_heartbeat(&target, Some(interval), None, None).await;
            }
            _ if !held.is_empty() => {
                let one = &held[random.usize(..held.len())];
                one.heard();
                let _ = one.message(text("chatter"));
            }
            _ => {}
        }
        if held.len() > 400 {
            held.drain(..200);
        }
        tokio::task::yield_now().await;
    }
    held
}

/// Reads a snapshot and what follows up to `until`; answers the state where the snapshot was whole, the cursor there, and the state at the end.
async fn follow(
    rig: Arc<Rig>,
    slow: bool,
    until: tokio::sync::watch::Receiver<Option<String>>,
) -> (Fold, String, Fold) {
    let mut stream = rig.stream(SNAPSHOT, None).await;
    let (mut fold, mut whole) = (Fold::default(), None);
    loop {
        let response = stream.next().await.expect("no error");
        let begun = whole.is_some();
        assert_eq!(response.snapshot, response.cursor.is_empty());
        assert!(!(begun && response.snapshot), "state after the snapshot was whole");
        for event in &response.events {
            assert_eq!(event.cursor.is_empty(), response.snapshot);
            fold.apply(event);
        }
        if !response.cursor.is_empty() {
            whole.get_or_insert_with(|| (fold.clone(), response.cursor.clone()));
        }
        if until.borrow().as_ref() == Some(&response.cursor) {
            let (state, cursor) = whole.expect("whole by now");
            return (state, cursor, fold);
        }
        if slow {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_churn_a_snapshot_is_the_fold_at_its_cursor_and_the_stream_goes_on_from_there() {
    snapshots_under_churn(Duplicates::Replace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_shows_each_of_a_clients_connections_under_churn_too() {
    snapshots_under_churn(Duplicates::Allow { most: 4 }).await;
}

async fn snapshots_under_churn(duplicates: Duplicates) {
    let options = Options { cadence: Cadence { interval: 100, timeout: 3_600_000 }, duplicates, ..Options::default() };
    let rig = Arc::new(Rig::with(options).await);
    let sweeps = tokio::spawn({
        let (registry, rest) = (Arc::clone(&rig.registry), rig.rest.clone());
        async move { registry.run_sweeps(rest).await }
    });
    // The reference: every event with its cursor.
    let mut reference = rig.stream(NOW, None).await;
    let stop = Arc::new(AtomicBool::new(false));
    let churning: Vec<_> = (0..4).map(|seed| tokio::spawn(churn(Arc::clone(&rig), seed, Arc::clone(&stop)))).collect();
    let (until, watch) = tokio::sync::watch::channel(None);
    let mut followers = Vec::new();
    for i in 0..30 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        followers.push(tokio::spawn(follow(Arc::clone(&rig), i % 3 == 0, watch.clone())));
    }
    stop.store(true, Ordering::Relaxed);
    let mut held = Vec::new();
    for churning in churning {
        held.extend(churning.await.expect("no panic"));
    }
    sweeps.abort();
    // One more event, so that everyone has something to wait for.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let last = rig.join("last").await.connection().info().generation();
    eventually("the last has left", || rig.head() > last).await;
    let end = rig.cursor(rig.head());
    until.send_replace(Some(end.clone()));
    let truth = reference.until(&end).await;
    assert!(truth.len() > 300, "too little happened to prove anything: {}", truth.len());
    let now = Fold::of_registry(rig.listed().await);
    for follower in followers {
        let (state, cursor, fold) = follower.await.expect("no gap and no duplicate");
        let mut expected = Fold::default();
        let mut reached = false;
        for event in &truth {
            expected.apply(event);
            if event.cursor == cursor {
                reached = true;
                break;
            }
        }
        // A snapshot before the first event is empty.
        if reached {
            assert_eq!(state, expected, "the snapshot is not the fold at its cursor");
        }
        assert_eq!(fold, now, "the stream did not lead to the present state");
    }
    drop(held);
}

impl Rig {
    /// Every connection, page by page.
    pub(super) async fn listed(&self) -> Vec<pb::Connection> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListConnectionsRequest { page_token, page_size: 100, ..Default::default() };
            let page = self.connections().list_connections(request).await.expect("a page").into_inner();
            all.extend(page.connections);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return all;
            }
        }
    }
}

#[tokio::test]
async fn a_snapshot_shows_the_present_state_and_ends_with_a_cursor_of_its_own() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let request = pb::UpdateLabelsRequest { target: client("alice"), set: labels(&[("a", "b")]), ..Default::default() };
    rig.connections().update_labels(request).await.expect("updated");
    let heartbeat =
        pb::HeartbeatSettings { interval: Some(prost_types::Duration { seconds: 7, nanos: 0 }), timeout: None };
    let request =
        pb::UpdateHeartbeatRequest { target: client("alice"), heartbeat: Some(heartbeat), ..Default::default() };
    rig.connections().update_heartbeat(request).await.expect("updated");
    let mut stream = rig.stream(SNAPSHOT, None).await;
    let state = stream.next().await.expect("state");
    assert!(state.snapshot && state.cursor.is_empty());
    let [event] = &state.events[..] else { panic!("{state:?}") };
    let info = alice.connection().info();
    assert_eq!((event.cursor.as_str(), event.client_id.as_str()), ("", "alice"));
    assert_eq!(event.generation, info.generation());
    assert_eq!(event.labels, labels(&[("a", "b")]));
    let time = event.time.expect("set");
    assert_eq!(time.seconds * 1_000_000_000 + i64::from(time.nanos), info.connect_time);
    let Some(Kind::Connected(connected)) = &event.kind else { panic!("{event:?}") };
    assert_eq!(connected.state, i32::from(pb::ConnectionState::Alive));
    assert_eq!(connected.remote_address, "192.0.2.1:4000");
    assert_eq!(connected.heartbeat.expect("set").interval.expect("set").seconds, 7);
    let whole = stream.next().await.expect("the end of the snapshot");
    assert!(!whole.snapshot && whole.events.is_empty());
    assert_eq!(whole.cursor, rig.cursor(rig.head()));
    drop(alice);
    let news = stream.next().await.expect("news");
    assert!(matches!(news.events[0].kind, Some(Kind::Disconnected(_))) && !news.snapshot);
}

#[tokio::test]
async fn an_empty_node_has_an_empty_snapshot_with_a_cursor() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(SNAPSHOT, None).await;
    let whole = stream.next().await.expect("whole");
    assert_eq!((whole.events.len(), whole.snapshot, whole.cursor), (0, false, rig.cursor(rig.head())));
}

#[tokio::test]
async fn a_great_snapshot_comes_in_bounded_batches() {
    use prost::Message as _;
    let rig = Rig::start().await;
    let mut all = Vec::new();
    for i in 0..3_000 {
        all.push(rig.join(&format!("client-{i}")).await);
    }
    let mut stream = rig.stream(SNAPSHOT, None).await;
    let (mut ids, mut batches) = (Vec::new(), 0);
    loop {
        let response = stream.next().await.expect("no error");
        if !response.snapshot {
            assert_eq!(response.cursor, rig.cursor(rig.head()));
            break;
        }
        batches += 1;
        assert!(response.events.len() <= 512 && response.encoded_len() <= 256 << 10);
        ids.extend(response.events.into_iter().map(|event| event.client_id));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3_000);
    // Small shards share a batch.
    assert!(batches <= 12, "{batches}");
}

/// A snapshot too large for the buffers on the way, of which nothing is read.
async fn stalled(rig: &Rig) -> Stream {
    rig.stream(SNAPSHOT, None).await
}

async fn crowd(rig: &Rig) -> Vec<Registration> {
    let mut all = Vec::new();
    for i in 0..2_000 {
        all.push(rig.join(&format!("{i:0>100}")).await);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn a_stalled_snapshot_loses_its_place_to_one_that_waits() {
    let limits = Limits { max_subscribers: 100, max_snapshots: 1 };
    let rig = Rig::paused(Options { limits, ..Options::default() });
    let _crowd = crowd(&rig).await;
    let mut stalled = stalled(&rig).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Not stalled for long enough: the next waits for 10 s in vain.
    let began = Instant::now();
    let error = rig.subscribe(from(SNAPSHOT, None)).await.err().expect("refused");
    let details = assert_error(&error, Code::ResourceExhausted, "SNAPSHOTS_LIMIT");
    assert!(details.retry_info().is_some());
    assert_eq!(began.elapsed().as_secs(), 10);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let mut next = rig.stream(SNAPSHOT, None).await;
    let waited = began.elapsed().as_secs();
    assert!((28..=30).contains(&waited), "{waited}");
    assert_eq!(next.until(&rig.cursor(rig.head())).await.len(), 2_000);
    assert_error(&stalled.error().await, Code::Aborted, "SNAPSHOT_STALLED");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_snapshot_that_nobody_waits_for_goes_on() {
    let limits = Limits { max_subscribers: 100, max_snapshots: 1 };
    let rig = Rig::paused(Options { limits, ..Options::default() });
    let _crowd = crowd(&rig).await;
    let mut stalled = stalled(&rig).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(stalled.until(&rig.cursor(rig.head())).await.len(), 2_000);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_whole_or_cancelled_gives_its_place_back() {
    let limits = Limits { max_subscribers: 100, max_snapshots: 1 };
    let rig = Rig::paused(Options { limits, ..Options::default() });
    let _crowd = crowd(&rig).await;
    let mut whole = rig.stream(SNAPSHOT, None).await;
    whole.until(&rig.cursor(rig.head())).await;
    let began = Instant::now();
    let cancelled = stalled(&rig).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(cancelled);
    let _third = rig.stream(SNAPSHOT, None).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
