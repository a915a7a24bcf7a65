//! What every log must do, as tests to be run over each implementation with `contract::suite!(Harness)`.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::{Apply, Budget, Entry, Log, ReadError, Retention, resume_from};
use crate::clock::Clock;
use crate::event::{Connected, ConnectionInfo, Event, EventKind, Liveness, Payload, Record, Replaces};
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::CursorError;
use crate::position::{Epoch, Offset, Position};

/// Retention that forgets nothing in a test.
pub(crate) const ROOMY: Retention = Retention { max_bytes: 64 << 20, max_age: None };

/// One implementation under test, with commits made by hand.
pub(crate) trait Harness {
    /// A new, empty log.
    fn open(retention: Retention, clock: Clock) -> Self;
    /// The log.
    fn log(&self) -> Arc<dyn Log>;
    /// Commits everything submitted so far.
    fn commit_all(&self, applier: &dyn Apply);
}

/// An applier that notes what it was given.
#[derive(Default)]
pub(crate) struct Applied(Mutex<Vec<Arc<Record>>>);

impl Apply for Applied {
    fn apply(&self, batch: &[Arc<Record>]) {
        self.0.lock().expect("not poisoned").extend(batch.iter().cloned());
    }
}

impl Applied {
    pub(crate) fn offsets(&self) -> Vec<Offset> {
        self.0.lock().expect("not poisoned").iter().map(|record| record.offset).collect()
    }
}

pub(crate) fn info(client: &str) -> Arc<ConnectionInfo> {
    let id = ConnectionId::for_client(client, SystemTime::now());
    let client = ClientId::named(client).expect("a good id");
    Arc::new(ConnectionInfo::new(client, id, "node".into(), 0, None, ""))
}

fn event(connection: Arc<ConnectionInfo>, kind: EventKind) -> Event {
    Event { time: 0, connection, labels: Labels::NONE, kind }
}

fn connected_kind() -> EventKind {
    let cadence = Cadence { interval: 30_000, timeout: 60_000 };
    EventKind::Connected(Connected { cadence, state: Liveness::Alive, replaces: Replaces::default() })
}

pub(crate) fn connected(budget: &Budget, client: &str) -> Entry {
    Entry::new(event(info(client), connected_kind()), budget.try_reserve(0).expect("room"))
}

fn message(budget: &Budget, client: &str, bytes: usize) -> Entry {
    let payload = Payload::Binary(vec![0; bytes].into());
    Entry::new(event(info(client), EventKind::MessageReceived(payload)), budget.try_reserve(bytes).expect("room"))
}

async fn read_all(log: &dyn Log, mut after: Offset) -> Vec<Arc<Record>> {
    let mut all = Vec::new();
    loop {
        let batch = log.read(after).await.expect("kept");
        let Some(last) = batch.last() else { return all };
        after = last.offset;
        all.extend(batch);
    }
}

pub(crate) async fn offsets_rise_by_one_in_the_order_of_submission<H: Harness>() {
    let (harness, applied) = (H::open(ROOMY, Clock::default()), Applied::default());
    let log = harness.log();
    for i in 0..2_000 {
        log.submit(connected(log.budget(), &format!("c{i}")));
        if i % 700 == 0 {
            harness.commit_all(&applied);
        }
    }
    harness.commit_all(&applied);
    let records = read_all(&*log, log.bounds().before_oldest).await;
    let clients: Vec<_> = records.iter().map(|r| r.event.connection.client_id.as_str().to_owned()).collect();
    assert_eq!(clients, (0..2_000).map(|i| format!("c{i}")).collect::<Vec<_>>());
    assert!(records.windows(2).all(|pair| pair[1].offset == pair[0].offset + 1));
    assert_eq!(applied.offsets(), records.iter().map(|r| r.offset).collect::<Vec<_>>());
}

pub(crate) async fn the_first_offset_is_no_less_than_the_wall_clock<H: Harness>() {
    let clock = Clock::new(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567));
    let harness = H::open(ROOMY, clock);
    let log = harness.log();
    log.submit(connected(log.budget(), "a"));
    harness.commit_all(&Applied::default());
    assert_eq!(log.bounds().head, 1_234_567);
}

pub(crate) async fn nothing_is_read_before_it_is_applied<H: Harness>() {
    struct Peek(Arc<dyn Log>, Mutex<Vec<(Offset, Offset)>>);
    impl Apply for Peek {
        fn apply(&self, batch: &[Arc<Record>]) {
            let bounds = self.0.bounds();
            assert!(batch.iter().all(|record| record.offset > bounds.head), "readers saw it first");
            self.1.lock().expect("not poisoned").push((bounds.head, bounds.committed));
        }
    }
    let harness = H::open(ROOMY, Clock::default());
    let log = harness.log();
    let peek = Peek(Arc::clone(&log), Mutex::default());
    let start = log.bounds().head;
    log.submit(connected(log.budget(), "a"));
    assert!(log.read(start).await.expect("kept").is_empty());
    harness.commit_all(&peek);
    assert_eq!(*peek.1.lock().expect("not poisoned"), [(start, start + 1)]);
    assert_eq!(log.read(start).await.expect("kept").len(), 1);
}

pub(crate) async fn a_connected_gets_its_own_offset_as_generation<H: Harness>() {
    let harness = H::open(ROOMY, Clock::default());
    let log = harness.log();
    let connection = info("a");
    let slot = log.budget().try_reserve(0).expect("room");
    log.submit(Entry::new(event(Arc::clone(&connection), connected_kind()), slot));
    assert_eq!(connection.generation(), 0);
    harness.commit_all(&Applied::default());
    assert_eq!(connection.generation(), log.bounds().head);
}

pub(crate) async fn a_pair_stands_together<H: Harness>() {
    struct Batches(Mutex<Vec<Vec<Offset>>>);
    impl Apply for Batches {
        fn apply(&self, batch: &[Arc<Record>]) {
            self.0.lock().expect("not poisoned").push(batch.iter().map(|r| r.offset).collect());
        }
    }
    let (harness, batches) = (H::open(ROOMY, Clock::default()), Batches(Mutex::default()));
    let log = harness.log();
    let first = log.bounds().committed + 1;
    // Pairs at every other place: wherever the log cuts its batches, it must not cut one of them.
    log.submit(connected(log.budget(), "single"));
    for i in 0..2_000 {
        log.submit_pair(connected(log.budget(), &format!("a{i}")), connected(log.budget(), &format!("b{i}")));
    }
    harness.commit_all(&batches);
    for batch in batches.0.lock().expect("not poisoned").iter() {
        let last_in_pairs = (batch.last().expect("not empty") - first) % 2;
        assert_eq!(last_in_pairs, 0, "a batch ends inside a pair: {:?}..{:?}", batch.first(), batch.last());
    }
}

pub(crate) async fn the_submitter_is_told_once_the_event_can_be_read<H: Harness>() {
    let harness = H::open(ROOMY, Clock::default());
    let log = harness.log();
    let mut entry = connected(log.budget(), "a");
    let mut told = entry.notify();
    log.submit(entry);
    assert!(told.try_recv().is_err());
    harness.commit_all(&Applied::default());
    let offset = told.try_recv().expect("told");
    assert_eq!(log.read(offset - 1).await.expect("kept")[0].offset, offset);
}

pub(crate) async fn readers_are_woken_by_a_commit<H: Harness>() {
    let harness = H::open(ROOMY, Clock::default());
    let log = harness.log();
    let mut head = log.watch_head();
    head.mark_unchanged();
    log.submit(connected(log.budget(), "a"));
    assert!(!head.has_changed().expect("open"));
    harness.commit_all(&Applied::default());
    assert!(head.has_changed().expect("open"));
    assert_eq!(*head.borrow(), log.bounds().head);
}

pub(crate) async fn room_is_given_back_on_commit<H: Harness>() {
    let harness = H::open(ROOMY, Clock::default());
    let log = harness.log();
    for i in 0..100 {
        log.submit(message(log.budget(), &format!("c{i}"), 10_000));
    }
    assert!(!log.budget().is_whole());
    harness.commit_all(&Applied::default());
    assert!(log.budget().is_whole());
}

pub(crate) async fn the_oldest_go_when_there_are_too_many_bytes_and_their_reader_is_told<H: Harness>() {
    let harness = H::open(Retention { max_bytes: 1 << 20, max_age: None }, Clock::default());
    let log = harness.log();
    let start = log.bounds().head;
    for i in 0..64 {
        log.submit(message(log.budget(), &format!("c{i}"), 64 << 10));
        harness.commit_all(&Applied::default());
    }
    let bounds = log.bounds();
    assert!(bounds.bytes <= 1 << 20 && bounds.records >= 8, "{bounds:?}");
    assert_eq!(bounds.head - bounds.before_oldest, bounds.records as i64);
    assert_eq!(log.read(start).await.err(), Some(ReadError::Expired));
    assert_eq!(log.read(bounds.before_oldest - 1).await.err(), Some(ReadError::Expired));
    assert_eq!(read_all(&*log, bounds.before_oldest).await.len(), bounds.records);
}

pub(crate) async fn a_batch_never_evicts_what_no_reader_was_shown<H: Harness>() {
    struct Prompt(Arc<dyn Log>);
    impl Apply for Prompt {
        fn apply(&self, _: &[Arc<Record>]) {
            // A reader at the head has seen all there was to see, so what follows it must still be there.
            let bounds = self.0.bounds();
            assert!(bounds.before_oldest <= bounds.head, "{bounds:?}");
        }
    }
    let harness = H::open(Retention { max_bytes: 1 << 20, max_age: None }, Clock::default());
    let log = harness.log();
    for i in 0..64 {
        log.submit(message(log.budget(), &format!("c{i}"), 64 << 10));
    }
    harness.commit_all(&Prompt(Arc::clone(&log)));
    assert!(log.bounds().bytes <= 1 << 20);
}

pub(crate) async fn the_oldest_go_when_they_are_too_old<H: Harness>() {
    use std::sync::atomic::{AtomicU64, Ordering};
    let now = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&now);
    let clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed)));
    let harness = H::open(Retention { max_bytes: 1 << 30, max_age: Some(Duration::from_secs(60)) }, clock);
    let log = harness.log();
    log.submit(connected(log.budget(), "old"));
    harness.commit_all(&Applied::default());
    now.store(60, Ordering::Relaxed);
    log.retain();
    assert_eq!(log.bounds().records, 1);
    now.store(61, Ordering::Relaxed);
    log.retain();
    let bounds = log.bounds();
    assert_eq!((bounds.records, bounds.before_oldest), (0, bounds.head));
    // Offsets go on where they were.
    log.submit(connected(log.budget(), "new"));
    harness.commit_all(&Applied::default());
    assert_eq!(log.bounds().head, bounds.head + 1);
}

pub(crate) async fn a_cursor_is_checked_against_epoch_end_and_retention<H: Harness>() {
    let harness = H::open(Retention { max_bytes: 1 << 20, max_age: None }, Clock::default());
    let log = harness.log();
    let (epoch, start) = (log.epoch(), log.bounds().head);
    for i in 0..64 {
        log.submit(message(log.budget(), &format!("c{i}"), 64 << 10));
    }
    harness.commit_all(&Applied::default());
    let bounds = log.bounds();
    let check = |epoch, offset| resume_from(&*log, Position { epoch, offset });
    assert_eq!(check(epoch, bounds.head), Ok(bounds.head));
    assert_eq!(check(epoch, bounds.before_oldest), Ok(bounds.before_oldest));
    assert_eq!(check(epoch, bounds.before_oldest - 1), Err(CursorError::Expired));
    assert_eq!(check(epoch, start), Err(CursorError::Expired));
    assert_eq!(check(epoch, bounds.committed + 1), Err(CursorError::Ahead));
    assert_eq!(check(Epoch::random(), bounds.head), Err(CursorError::OtherEpoch));
}

/// Makes a test of each promise for one harness.
macro_rules! suite {
    ($harness:ty) => {
        $crate::log::contract::suite!($harness:
            offsets_rise_by_one_in_the_order_of_submission,
            the_first_offset_is_no_less_than_the_wall_clock,
            nothing_is_read_before_it_is_applied,
            a_connected_gets_its_own_offset_as_generation,
            a_pair_stands_together,
            the_submitter_is_told_once_the_event_can_be_read,
            readers_are_woken_by_a_commit,
            room_is_given_back_on_commit,
            the_oldest_go_when_there_are_too_many_bytes_and_their_reader_is_told,
            a_batch_never_evicts_what_no_reader_was_shown,
            the_oldest_go_when_they_are_too_old,
            a_cursor_is_checked_against_epoch_end_and_retention,
        );
    };
    ($harness:ty: $($promise:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $promise() {
                $crate::log::contract::$promise::<$harness>().await;
            }
        )*
    };
}
pub(crate) use suite;
