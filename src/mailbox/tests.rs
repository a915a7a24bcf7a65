//! Mailboxes over a real registry and a real store, with clients whose driver is the test.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::Clock;
use crate::close::CloseReason;
use crate::event::{EventKind, Payload, RELIABLE, Record};
use crate::heartbeat::Cadence;
use crate::log::{Log as _, MemoryLog, Retention};
use crate::outbox::{Frame, OutboxLimits, Refused, Written};
use crate::registry::{Connection, Duplicates, MailState, Newcomer, Registration, Target};
use crate::store::WriteTransaction;

const SOON: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);
const LIMITS: Limits = Limits { max_messages: 100, max_bytes: 100_000, max_total_bytes: 1_000_000 };
const OUTBOX: OutboxLimits = OutboxLimits { frames: 8, bytes: 10_000 };

struct World {
    log: Arc<MemoryLog>,
    registry: Arc<Registry>,
    mailboxes: Mailboxes,
    store: Store,
    /// Seconds of wall time.
    wall: Arc<AtomicI64>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl World {
    fn new() -> Self {
        Self::over(Store::in_memory().expect("a store"), LIMITS)
    }

    fn allowing(most: usize) -> Self {
        Self::with(Store::in_memory().expect("a store"), LIMITS, Duplicates::Allow { most })
    }

    fn over(store: Store, limits: Limits) -> Self {
        Self::with(store, limits, Duplicates::Replace)
    }

    fn with(store: Store, limits: Limits, duplicates: Duplicates) -> Self {
        let wall = Arc::new(AtomicI64::new(1_000));
        let read = Arc::clone(&wall);
        let clock = Clock::new(move || {
            SystemTime::UNIX_EPOCH + Duration::from_secs(read.load(Ordering::SeqCst).unsigned_abs())
        });
        let metrics = Arc::new(Metrics::default());
        let retention = Retention { max_bytes: 64 << 20, max_age: None };
        let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let settings = crate::registry::Settings {
            node_id: "node".into(),
            cadence: Cadence { interval: 30_000, timeout: 60_000 },
            quiet: true,
            duplicates,
            takeovers_per_minute: 0,
            outbox: OUTBOX,
        };
        let registry = Arc::new(Registry::new(Arc::clone(&log) as _, clock, settings, Arc::clone(&metrics)));
        let settings = Settings { limits, trust_self_named: true };
        let (registered, counted) = (Arc::clone(&registry), Arc::clone(&metrics));
        let mailboxes = Mailboxes::open(store.clone(), registered, settings, counted).expect("readable");
        let (stop, running) = (CancellationToken::new(), TaskTracker::new());
        let (committing, applier, token) = (Arc::clone(&log), Arc::clone(&registry), stop.clone());
        running.spawn(async move { committing.run(&*applier, token).await });
        let (kept, token) = (mailboxes.clone(), stop.clone());
        running.spawn(async move { kept.run(token).await });
        running.close();
        Self { log, registry, mailboxes, store, wall, metrics, stop, running }
    }

    async fn stopped(self) {
        self.stop.cancel();
        self.running.wait().await;
    }

    async fn join(&self, client: &str) -> Registration {
        self.join_with(client, "").await
    }

    async fn join_with(&self, client: &str, subprotocol: &'static str) -> Registration {
        let newcomer = Newcomer { client_id: Some(id(client)), remote_address: None, subprotocol };
        self.registry.join(newcomer).await.expect("joined")
    }

    fn begin(&self, mail: Mail) -> Posting {
        self.mailboxes.post(mail).expect("taken")
    }

    async fn post(&self, mail: Mail) -> Result<Posted, PostError> {
        self.mailboxes.post(mail)?.settle(SOON).await
    }

    fn totals(&self) -> (usize, u64) {
        self.mailboxes.inner.index().totals()
    }

    async fn empty(&self) {
        eventually("the mailboxes are empty", || self.totals() == (0, 0)).await;
        let left = self.store.read(|transaction| {
            let mut left = 0;
            table::scan(transaction, |_, _| left += 1)?;
            Ok(left)
        });
        assert_eq!(left.await, Ok(0));
    }

    async fn expired(&self) -> Vec<(String, String)> {
        let mut records: Vec<Arc<Record>> = Vec::new();
        loop {
            let after = records.last().map_or(self.log.bounds().before_oldest, |record| record.offset);
            let more = self.log.read(after).await.expect("kept");
            if more.is_empty() {
                break;
            }
            records.extend(more);
        }
        let expired = records.iter().filter_map(|record| match &record.event.kind {
            EventKind::MessageExpired { message_id, .. } => {
                assert_eq!(record.event.connection.connection_id, ConnectionId::NONE);
                Some((record.event.connection.client_id.as_str().to_owned(), message_id.to_string()))
            }
            _ => None,
        });
        expired.collect()
    }
}

fn id(client: &str) -> ClientId {
    ClientId::named(client).expect("an id")
}

fn mail(client: &str, text: &str) -> Mail {
    Mail {
        client_id: id(client),
        payload: Payload::Text(Bytes::copy_from_slice(text.as_bytes())),
        message_id: "".into(),
        ttl: HOUR,
        until: Stage::Stored,
    }
}

fn named(client: &str, text: &str, message_id: &str) -> Mail {
    Mail { message_id: message_id.into(), ..mail(client, text) }
}

fn plain(connection: &Connection, text: &str) -> Result<(), Refused> {
    let payload = Payload::Text(Bytes::copy_from_slice(text.as_bytes()));
    connection.outbox.push(Frame { payload, id: None, receipt: None, acked: None, deadline: None }, OUTBOX)
}

fn pop(connection: &Connection) -> Option<Frame> {
    connection.outbox.pop(Instant::now()).0
}

fn text(frame: &Frame) -> String {
    String::from_utf8(frame.payload.bytes().to_vec()).expect("UTF-8")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let looked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, looked).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Does what a driver does, until it has written so many.
async fn write(connection: &Connection, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let mut frame = None;
        eventually("a frame", || {
            frame = pop(connection);
            frame.is_some()
        })
        .await;
        let frame = frame.expect("there");
        texts.push(text(&frame));
        if let Some(receipt) = frame.receipt {
            let _ = receipt.send(Written::Yes);
        }
    }
    texts
}

#[tokio::test]
async fn what_was_stored_for_one_who_is_away_comes_first_and_in_order_and_is_then_removed() {
    let world = World::new();
    for n in 0..20 {
        let posted = world.post(mail("alice", &n.to_string())).await.expect("stored");
        assert_eq!((posted.progress.stage, posted.replayed), (Stage::Stored, false));
        assert!(posted.progress.connection_id == ConnectionId::NONE && posted.progress.time.is_some());
    }
    assert_eq!(world.totals(), (20, 20 * 256 + 30));
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full), "held before it can be sent to");
    let first = write(alice.connection(), 4).await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full));
    let rest = write(alice.connection(), 16).await;
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!([first, rest].concat(), expected);
    eventually("others may go again", || plain(alice.connection(), "now").is_ok()).await;
    world.empty().await;
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Delivered).get(), 20);
}

#[tokio::test]
async fn one_who_is_connected_gets_it_at_once_and_the_sender_hears_how_far_it_came() {
    let world = World::new();
    let alice = world.join("alice").await;
    let accepted = world.post(Mail { until: Stage::Accepted, ..mail("alice", "a") }).await.expect("stored");
    let connection_id = alice.connection().info().connection_id;
    assert_eq!((accepted.progress.stage, accepted.progress.connection_id), (Stage::Accepted, connection_id));
    let posting = world.begin(Mail { until: Stage::Written, ..mail("alice", "b") });
    let (written, texts) = tokio::join!(posting.settle(SOON), write(alice.connection(), 2));
    let written = written.expect("stored").progress;
    assert_eq!((written.stage, written.connection_id), (Stage::Written, connection_id));
    assert!(written.time.is_some());
    assert_eq!(texts, ["a", "b"]);
    world.empty().await;
    assert!(world.mailboxes.inner.index().clients().next().is_none());
}

#[tokio::test]
async fn a_receipt_that_does_not_come_leaves_the_stage_reached_and_the_message() {
    let world = World::new();
    let wait = Duration::from_millis(20);
    let away = world.begin(Mail { until: Stage::Written, ..mail("alice", "a") }).settle(wait).await.expect("stored");
    assert_eq!((away.progress.stage, away.progress.connection_id), (Stage::Stored, ConnectionId::NONE));
    let alice = world.join("alice").await;
    eventually("it is in the outbox", || alice.connection().outbox.depth().0 == 1).await;
    let unread = world.begin(Mail { until: Stage::Written, ..mail("alice", "b") }).settle(wait).await.expect("stored");
    assert_eq!(unread.progress.stage, Stage::Accepted);
    assert_eq!(write(alice.connection(), 2).await, ["a", "b"]);
    world.empty().await;
}

#[tokio::test]
async fn what_a_connection_takes_to_its_grave_comes_again_on_the_next_and_nothing_overtakes_it() {
    let world = World::new();
    let first = world.join("alice").await;
    for text in ["a", "b", "c"] {
        world.post(mail("alice", text)).await.expect("stored");
    }
    let connection = Arc::clone(first.connection());
    eventually("all are in the outbox", || connection.outbox.depth().0 == 3).await;
    assert_eq!(plain(&connection, "after the mail"), Ok(()));
    assert_eq!(write(&connection, 1).await, ["a"]);
    // On its way in the driver when the next connection comes.
    let frame = pop(&connection).expect("b");
    let second = world.join("alice").await;
    assert!(connection.has(crate::registry::signal::SEALED));
    assert_eq!(plain(second.connection(), "too early"), Err(Refused::Full), "b may have to come first");
    assert_eq!(second.connection().outbox.depth().0, 0);
    // Told a moment late, when the connection has ended already, that all is sent.
    world.registry.set_mail(&id("alice"), MailState::Sent(connection.info().connection_id));
    assert_eq!(plain(second.connection(), "too early"), Err(Refused::Full));
    drop((frame, first));
    assert_eq!(write(second.connection(), 2).await, ["b", "c"]);
    eventually("others may go again", || plain(second.connection(), "now").is_ok()).await;
    world.empty().await;
}

#[tokio::test]
async fn one_who_acknowledges_has_it_when_it_says_so_and_gets_it_again_if_it_never_did() {
    let world = World::new();
    for (text, name) in [("a", "m-a"), ("b", "m-b")] {
        world.post(named("alice", text, name)).await.expect("stored");
    }
    let first = world.join_with("alice", RELIABLE).await;
    let connection = Arc::clone(first.connection());
    let reliable = connection.reliable().expect("it acknowledges");
    eventually("both are in the outbox", || connection.outbox.depth().0 == 2).await;
    for name in ["m-a", "m-b"] {
        let message = reliable.window().next(&connection.outbox, Instant::now()).0.expect("a message");
        assert_eq!(message.id.as_deref(), Some(name));
    }
    let posting = world.begin(Mail { until: Stage::Written, ..named("alice", "a", "m-a") });
    reliable.window().flushed();
    assert_eq!(posting.settle(SOON).await.expect("stored").progress.stage, Stage::Written);
    assert_eq!(world.totals().0, 2, "written is not enough");
    let posting = world.begin(Mail { until: Stage::Acked, ..named("alice", "a", "m-a") });
    tokio::task::yield_now().await;
    reliable.window().ack(1).expect("sent");
    assert_eq!(posting.settle(SOON).await.expect("stored").progress.stage, Stage::Acked);
    eventually("it is removed", || world.totals().0 == 1).await;
    drop(first);
    let second = world.join("alice").await;
    // One that only takes frames never acknowledges; written is as far as it comes.
    let posting = world.begin(Mail { until: Stage::Acked, ..named("alice", "b", "m-b") });
    let (posted, texts) = tokio::join!(posting.settle(SOON), write(second.connection(), 1));
    assert_eq!((posted.expect("stored").progress.stage, texts), (Stage::Written, vec!["b".to_owned()]));
    world.empty().await;
}

#[tokio::test]
async fn of_several_connections_the_oldest_gets_the_mail_and_no_other_is_ahead_of_it() {
    let world = World::allowing(3);
    let (first, second) = (world.join("alice").await, world.join("alice").await);
    world.post(mail("alice", "a")).await.expect("stored");
    eventually("the oldest has it", || first.connection().outbox.depth().0 == 1).await;
    assert_eq!(plain(second.connection(), "plain"), Ok(()), "it is in an outbox");
    let third = world.join("alice").await;
    assert_eq!(plain(third.connection(), "plain"), Ok(()));
    let connection = Arc::clone(first.connection());
    let frame = pop(&connection).expect("a");
    first.end(CloseReason::Kicked(1000, "".into()));
    // Told a moment late, with the end not committed.
    world.registry.set_mail(&id("alice"), MailState::Sent(connection.info().connection_id));
    // Not known to be delivered, so it may have to come first on these.
    for other in [&second, &third] {
        assert_eq!(plain(other.connection(), "too early"), Err(Refused::Full));
    }
    drop((frame, first));
    assert_eq!(write(second.connection(), 2).await, ["plain", "a"]);
    assert_eq!(write(third.connection(), 1).await, ["plain"]);
    for other in [&second, &third] {
        eventually("others may go again", || plain(other.connection(), "now").is_ok()).await;
    }
    world.empty().await;
}

/// Lets time go by that nobody waits for: paused here only, because the store's thread is real.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_that_takes_nothing_for_ten_seconds_gives_way_to_the_next_and_order_holds() {
    let world = World::allowing(3);
    let [first, second, third] = [world.join("alice").await, world.join("alice").await, world.join("alice").await];
    let first = Arc::clone(first.connection());
    let posted = async |from: usize, to: usize| {
        for n in from..to {
            world.post(mail("alice", &n.to_string())).await.expect("stored");
        }
    };
    posted(0, 12).await;
    eventually("it is full", || first.outbox.depth().0 == OUTBOX.frames).await;
    // Some of it has left the outbox, and stays with the driver.
    let on_its_way = [pop(&first).expect("0"), pop(&first).expect("1")];
    eventually("it is full", || first.outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_millis(9_500)).await;
    assert_eq!(second.connection().outbox.depth().0, 0, "not yet");
    later(Duration::from_secs(1)).await;
    eventually("the next has it", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    assert_eq!(first.outbox.depth(), (0, 0), "what nobody began to write comes once");
    for held in [&first, second.connection(), third.connection()] {
        assert_eq!(plain(held, "too early"), Err(Refused::Full));
    }
    let numbers = |from: usize, to: usize| (from..to).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(write(second.connection(), 12).await, numbers(0, 12));
    world.empty().await;
    // Written after all: nobody counts it twice.
    for frame in on_its_way {
        let _ = frame.receipt.expect("wanted").send(Written::Yes);
    }
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Delivered).get(), 12);

    // The one that was passed over does not hold up what comes later, and neither does the next if it is slow too.
    posted(12, 24).await;
    eventually("the second has it", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    // A receipt in time, and its ten seconds begin anew.
    later(Duration::from_secs(9)).await;
    assert_eq!(write(second.connection(), 1).await, ["12"]);
    eventually("it is full again", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_secs(9)).await;
    assert_eq!(third.connection().outbox.depth().0, 0, "not yet");
    later(Duration::from_secs(2)).await;
    assert_eq!(write(third.connection(), 1).await, numbers(13, 14));
    // All have been passed over, so it begins with the oldest again.
    later(Duration::from_secs(11)).await;
    assert_eq!(write(&first, 10).await, numbers(14, 24));
    world.empty().await;
}

#[tokio::test]
async fn a_connection_that_takes_nothing_keeps_its_mail_if_there_is_no_other() {
    let world = World::allowing(2);
    let alice = world.join("alice").await;
    for n in 0..12 {
        world.post(mail("alice", &n.to_string())).await.expect("stored");
    }
    eventually("it is full", || alice.connection().outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_secs(60)).await;
    assert_eq!(alice.connection().outbox.depth().0, OUTBOX.frames);
    let expected: Vec<_> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(write(alice.connection(), 12).await, expected);
    world.empty().await;
}

#[tokio::test]
async fn a_receipt_stands_even_if_the_connection_ends_before_the_message_is_removed() {
    let world = World::new();
    let alice = world.join("alice").await;
    world.post(mail("alice", "a")).await.expect("stored");
    let connection = Arc::clone(alice.connection());
    eventually("it is in the outbox", || connection.outbox.depth().0 == 1).await;
    let frame = pop(&connection).expect("a");
    alice.end(CloseReason::Kicked(1000, "".into()));
    // A driver that closes still writes what it was given.
    frame.receipt.expect("wanted").send(Written::Yes).expect("awaited");
    drop(alice);
    world.empty().await;
    let again = world.join("alice").await;
    assert_eq!(plain(again.connection(), "first"), Ok(()));
    assert_eq!(write(again.connection(), 1).await, ["first"]);
}

#[tokio::test]
async fn a_full_outbox_is_waited_for_whoever_filled_it() {
    let world = World::new();
    let alice = world.join("alice").await;
    for n in 0..OUTBOX.frames {
        plain(alice.connection(), &format!("plain {n}")).expect("room");
    }
    let posted = world.post(mail("alice", "mail")).await.expect("stored");
    assert_eq!(posted.progress.stage, Stage::Stored);
    assert_eq!(pop(alice.connection()).map(|frame| text(&frame)), Some("plain 0".to_owned()));
    let texts = write(alice.connection(), OUTBOX.frames).await;
    assert_eq!(texts.last().map(String::as_str), Some("mail"));
    world.empty().await;
}

#[tokio::test]
async fn over_a_bound_a_message_is_refused_and_there_is_room_again_once_one_is_gone() {
    let limits = Limits { max_messages: 2, max_bytes: 1_000, max_total_bytes: 1_200 };
    let world = World::over(Store::in_memory().expect("a store"), limits);
    let of = |client: &str, bytes: usize| mail(client, &"x".repeat(bytes));
    let too_large = world.post(of("alice", 745)).await;
    assert_eq!(too_large, Err(PostError::TooLarge { most: 744 }));
    world.post(of("alice", 0)).await.expect("room");
    world.post(of("alice", 0)).await.expect("room");
    assert_eq!(world.post(of("alice", 0)).await, Err(PostError::ClientFull), "by messages");
    world.post(of("bob", 200)).await.expect("room");
    assert_eq!(world.post(of("bob", 300)).await, Err(PostError::ClientFull), "by bytes");
    assert_eq!(world.post(of("carol", 0)).await, Err(PostError::AllFull));
    let alice = world.join("alice").await;
    write(alice.connection(), 2).await;
    eventually("there is room", || world.totals().0 == 1).await;
    world.post(of("carol", 0)).await.expect("room again");
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Refused).get(), 4);
}

#[tokio::test]
async fn a_repeat_by_its_id_is_stored_once_even_when_it_was_delivered_meanwhile() {
    let world = World::new();
    let first = world.post(named("alice", "a", "m")).await.expect("stored");
    let again = world.post(named("alice", "a", "m")).await.expect("stored");
    assert!(!first.replayed && again.replayed);
    assert_eq!((again.progress.stage, world.totals().0), (Stage::Stored, 1));
    assert_eq!(world.post(named("alice", "b", "m")).await, Err(PostError::IdReused));
    let binary = Mail { payload: Payload::Binary(Bytes::from_static(b"a")), ..named("alice", "a", "m") };
    assert_eq!(world.post(binary).await, Err(PostError::IdReused), "text is not binary");
    assert!(!world.post(named("bob", "b", "m")).await.expect("another client").replayed);
    for _ in 0..2 {
        assert!(!world.post(mail("alice", "a")).await.expect("no id").replayed);
    }
    assert_eq!(world.totals().0, 4);
    // Both of a pair at once.
    let (one, other) = (world.begin(named("carol", "c", "m")), world.begin(named("carol", "c", "m")));
    let (one, other) = tokio::join!(one.settle(SOON), other.settle(SOON));
    assert_eq!((one.expect("stored").replayed, other.expect("stored").replayed), (false, true));
    let alice = world.join("alice").await;
    let posting = world.begin(Mail { until: Stage::Written, ..named("alice", "a", "m") });
    let (posted, texts) = tokio::join!(posting.settle(SOON), write(alice.connection(), 3));
    let posted = posted.expect("stored");
    assert_eq!((posted.progress.stage, posted.replayed, texts.len()), (Stage::Written, true, 3));
    eventually("it is removed", || world.totals().0 == 2).await;
    // Its sender may not have heard of it.
    let past = world.post(named("alice", "a", "m")).await.expect("known");
    let by = alice.connection().info().connection_id;
    assert_eq!((past.progress.stage, past.progress.connection_id, past.replayed), (Stage::Written, by, true));
    assert_eq!(world.post(named("alice", "b", "m")).await, Err(PostError::IdReused));
    assert!(!world.post(named("alice", "b", "n")).await.expect("another id").replayed);
}

#[tokio::test]
async fn what_expires_is_logged_and_sent_to_nobody_and_what_is_in_an_outbox_is_left_to_its_receipt() {
    let world = World::new();
    let short = Duration::from_secs(10);
    world.post(Mail { ttl: short, ..named("alice", "a", "m-a") }).await.expect("stored");
    world.post(Mail { ttl: short, ..named("bob", "b", "m-b") }).await.expect("stored");
    world.post(named("bob", "c", "m-c")).await.expect("stored");
    let alice = world.join("alice").await;
    eventually("it is in the outbox", || alice.connection().outbox.depth().0 == 1).await;
    world.wall.fetch_add(10, Ordering::SeqCst);
    eventually("one is left of bob's", || world.totals().0 == 2).await;
    assert_eq!(world.expired().await, [("bob".to_owned(), "m-b".to_owned())]);
    let bob = world.join("bob").await;
    assert_eq!(write(bob.connection(), 1).await, ["c"]);
    eventually("bob's is removed", || world.totals().0 == 1).await;
    // Alice's is still there, although its time is over; then it comes back and is given up.
    drop(alice);
    world.empty().await;
    assert_eq!(world.expired().await.len(), 2);
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "first"), Ok(()));
}

#[tokio::test]
async fn an_expiry_of_all_that_waits_opens_the_outbox_again() {
    let world = World::new();
    let alice = world.join("alice").await;
    for _ in 0..OUTBOX.frames {
        plain(alice.connection(), "plain").expect("room");
    }
    world.post(Mail { ttl: Duration::from_secs(5), ..mail("alice", "mail") }).await.expect("stored");
    assert!(pop(alice.connection()).is_some());
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("others may go again", || plain(alice.connection(), "plain").is_ok()).await;
    world.empty().await;
    assert_eq!(world.expired().await.len(), 1);
}

#[tokio::test]
async fn a_log_that_takes_nothing_keeps_nothing_from_being_given_up_and_is_told_of_each_once_it_takes_it() {
    let world = World::new();
    let short = |client: &str, id: &str| Mail { ttl: Duration::from_secs(5), ..named(client, "mail", id) };
    let clients = ["alice", "bob"];
    let joined = [world.join(clients[0]).await, world.join(clients[1]).await];
    world.log.budget().set_open(false);
    // One after the other: the first is owed already when the second expires.
    for (client, one) in clients.into_iter().zip(&joined) {
        for _ in 0..OUTBOX.frames {
            plain(one.connection(), "plain").expect("room");
        }
        world.post(short(client, client)).await.expect("stored");
        assert!(pop(one.connection()).is_some());
        world.wall.fetch_add(5, Ordering::SeqCst);
        eventually("others may go again", || plain(one.connection(), "plain").is_ok()).await;
    }
    // More than a batch.
    for n in 0..3 * LIMITS.max_messages * 2 {
        let client = format!("client{}", n / LIMITS.max_messages);
        world.post(short(&client, &n.to_string())).await.expect("stored");
    }
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("all are given up", || world.mailboxes.inner.index().look_at().is_none()).await;
    // Neither lost nor out of the bounds while the log is asked in vain, and again; paused here, so that it takes no time.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert_eq!(world.totals().0, 602);
    assert!(world.expired().await.is_empty());
    assert_eq!(world.post(short("client0", "more")).await, Err(PostError::ClientFull));
    world.log.budget().set_open(true);
    world.empty().await;
    let mut told: Vec<_> = world.expired().await.into_iter().map(|(_, id)| id).collect();
    let mut expected: Vec<_> = clients.map(str::to_owned).into_iter().chain((0..600).map(|n| n.to_string())).collect();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected, "each is told, and once");
    assert!(world.log.budget().is_whole());
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Expired).get(), 602);
}

#[tokio::test]
async fn what_is_owed_to_a_log_that_takes_nothing_is_told_by_the_next_run() {
    let store = Store::in_memory().expect("a store");
    let world = World::over(store.clone(), LIMITS);
    world.log.budget().set_open(false);
    world.post(Mail { ttl: Duration::from_secs(5), ..named("alice", "a", "m") }).await.expect("stored");
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("it is given up", || world.mailboxes.inner.index().look_at().is_none()).await;
    world.stopped().await;
    let world = World::over(store, LIMITS);
    world.wall.fetch_add(5, Ordering::SeqCst);
    world.empty().await;
    assert_eq!(world.expired().await, [("alice".to_owned(), "m".to_owned())]);
}

#[tokio::test]
async fn the_file_keeps_mail_ids_and_order_over_a_restart_and_gives_up_what_expired_meanwhile() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let reopened = async || loop {
        // The thread of the one before lets go of the file when it notices.
        match Store::open(&path) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let world = World::over(reopened().await, LIMITS);
    for n in 0..12 {
        world.post(named("alice", &n.to_string(), &format!("m{n}"))).await.expect("stored");
    }
    world.post(Mail { ttl: Duration::from_secs(1), ..named("bob", "b", "m") }).await.expect("stored");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["0"]);
    eventually("it is removed", || world.totals().0 == 12).await;
    drop(alice);
    world.stopped().await;

    let world = World::over(reopened().await, LIMITS);
    assert_eq!(world.totals().0, 12);
    assert!(world.post(named("alice", "5", "m5")).await.expect("stored").replayed);
    assert_eq!(world.post(named("alice", "6", "m5")).await, Err(PostError::IdReused));
    assert!(!world.post(named("alice", "0", "m0")).await.expect("removed before").replayed);
    world.wall.fetch_add(1, Ordering::SeqCst);
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full));
    let expected: Vec<_> = (1..12).chain([0]).map(|n| n.to_string()).collect();
    assert_eq!(write(alice.connection(), 12).await, expected);
    world.empty().await;
    assert_eq!(world.expired().await, [("bob".to_owned(), "m".to_owned())]);
    world.stopped().await;
}

/// Keeps the store's thread busy until it is told to go on.
async fn stall(store: &Store) -> std::sync::mpsc::Sender<()> {
    let (go_on, told) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = tokio::sync::oneshot::channel();
    let store = store.clone();
    tokio::spawn(async move {
        let stalled = store.write(move |_: &WriteTransaction| {
            let _ = begin.send(());
            let _ = told.recv();
            Ok(())
        });
        let _ = stalled.await;
    });
    // What comes now is not in its transaction.
    begun.await.expect("it waits");
    go_on
}

#[tokio::test]
async fn a_store_that_answers_too_late_is_told_as_such_and_what_it_stored_is_sent_all_the_same() {
    let world = World::new();
    let alice = world.join("alice").await;
    let go_on = stall(&world.store).await;
    let posting = world.begin(mail("alice", "late"));
    let behind = world.begin(mail("alice", "behind"));
    // Paused here, so that five seconds are nothing; what the store's thread does afterwards is real.
    tokio::time::pause();
    let (late, behind) = tokio::join!(posting.settle(SOON), behind.settle(SOON));
    assert_eq!((late, behind), (Err(PostError::Late), Err(PostError::Late)));
    tokio::time::resume();
    go_on.send(()).expect("it waits");
    assert_eq!(write(alice.connection(), 2).await, ["late", "behind"]);
    world.empty().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_withdraws_nothing() {
    let world = World::new();
    let go_on = stall(&world.store).await;
    drop(world.begin(mail("alice", "a")));
    go_on.send(()).expect("it waits");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
}

#[tokio::test]
async fn a_write_that_failed_is_not_sent_and_holds_nobody_up() {
    let world = World::new();
    let alice = world.join("alice").await;
    let go_on = stall(&world.store).await;
    // It shares the transaction of one that fails.
    let posting = world.begin(mail("alice", "a"));
    let failing = world.store.clone();
    let failing = tokio::spawn(async move {
        let failing = failing.write(|_: &WriteTransaction| Err::<(), _>(crate::store::made_up_failure()));
        failing.await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    go_on.send(()).expect("it waits");
    assert!(matches!(posting.settle(SOON).await, Err(PostError::Store(StoreError::Failed(_)))));
    assert!(failing.await.expect("done").is_err());
    eventually("nothing of it is left", || world.totals() == (0, 0)).await;
    world.post(mail("alice", "b")).await.expect("stored");
    assert_eq!(write(alice.connection(), 1).await, ["b"]);
    world.empty().await;
}

#[tokio::test]
async fn what_failed_but_is_in_the_store_is_removed_unless_a_repeat_was_told_that_it_is_stored() {
    let world = World::new();
    let failed = world.mailboxes.post_failing(named("alice", "a", "m")).await;
    assert!(world.post(named("alice", "a", "m")).await.expect("stored").replayed);
    failed.await;
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
    // A repeat that fails too keeps nothing, and one that fails takes nothing from the one that stored it.
    let failed = world.mailboxes.post_failing(named("bob", "b", "m")).await;
    world.mailboxes.post_failing(named("bob", "b", "m")).await.await;
    assert_eq!(world.totals().0, 1);
    failed.await;
    world.empty().await;
    world.post(named("bob", "b", "m")).await.expect("stored");
    world.mailboxes.post_failing(named("bob", "b", "m")).await.await;
    assert_eq!(world.totals().0, 1);
    let bob = world.join("bob").await;
    assert_eq!(write(bob.connection(), 1).await, ["b"]);
    world.empty().await;
}

#[tokio::test]
async fn a_repeat_of_a_message_that_expired_is_stored_anew_whether_or_not_that_is_removed() {
    let world = World::new();
    let short = |text| Mail { ttl: Duration::from_secs(5), ..named("alice", text, "m") };
    world.post(short("a")).await.expect("stored");
    world.wall.fetch_add(5, Ordering::SeqCst);
    world.empty().await;
    assert!(!world.post(short("a")).await.expect("stored").replayed);
    // Given up, and neither logged nor removed yet.
    let expired = world.mailboxes.inner.index().expire(world.mailboxes.inner.now() + 5_000_000_000, 1);
    assert_eq!(expired.len(), 1);
    assert!(!world.post(named("alice", "another", "m")).await.expect("stored").replayed);
    world.mailboxes.inner.remove_later(id("alice"), expired[0].1);
    eventually("the first is removed", || world.totals().0 == 1).await;
    assert!(world.post(named("alice", "another", "m")).await.expect("stored").replayed, "its id stands for it");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["another"]);
    world.empty().await;
}

#[tokio::test]
async fn a_repeat_of_a_message_whose_time_is_over_is_stored_anew_before_that_is_given_up() {
    let world = World::new();
    let short = |text| Mail { ttl: Duration::from_secs(5), ..named("alice", text, "m") };
    world.post(short("a")).await.expect("stored");
    world.wall.fetch_add(4, Ordering::SeqCst);
    assert!(world.post(short("a")).await.expect("stored").replayed, "its time is not over");
    // Queued in one step with the end of its time, so that no sweep comes between.
    let go_on = stall(&world.store).await;
    world.wall.fetch_add(1, Ordering::SeqCst);
    let (same, other) = (world.begin(short("a")), world.begin(short("b")));
    go_on.send(()).expect("it waits");
    // The sweep has no turn meanwhile: it shares this thread.
    let began = Instant::now();
    while world.totals().0 < 2 {
        assert!(began.elapsed() < SOON, "never stored anew");
        std::thread::yield_now();
    }
    let same = same.settle(SOON).await.expect("stored");
    assert_eq!((same.replayed, same.progress.stage), (false, Stage::Stored));
    assert_eq!(other.settle(SOON).await, Err(PostError::IdReused), "the id stands for the new one");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
    assert_eq!(world.expired().await, [("alice".to_owned(), "m".to_owned())], "the first, and only that");
}

#[tokio::test]
async fn what_is_written_in_the_moment_of_a_stop_is_not_sent_again_by_the_next_run() {
    let world = World::new();
    let alice = world.join("alice").await;
    for n in 0..5 {
        world.post(mail("alice", &n.to_string())).await.expect("stored");
    }
    let connection = Arc::clone(alice.connection());
    eventually("all are in the outbox", || connection.outbox.depth().0 == 5).await;
    let (store, running) = (world.store.clone(), world.running.clone());
    // In one step, so that no carrier hears of a receipt before the stop.
    world.stop.cancel();
    while let Some(frame) = pop(&connection) {
        frame.receipt.expect("wanted").send(Written::Yes).expect("awaited");
    }
    running.wait().await;
    let left = store.read(|transaction| {
        let mut left = 0;
        table::scan(transaction, |_, _| left += 1)?;
        Ok(left)
    });
    assert_eq!(left.await, Ok(0));
}

#[tokio::test]
async fn without_trust_nobody_has_a_mailbox() {
    let world = World::new();
    let settings = Settings { limits: LIMITS, trust_self_named: false };
    let strict =
        Mailboxes::open(world.store.clone(), Arc::clone(&world.registry), settings, Arc::new(Metrics::default()));
    let refused = strict.expect("readable").post(mail("alice", "a"));
    assert!(matches!(refused, Err(PostError::Unverified)));
}

/// Many senders, and a client that comes, goes, reads and dies as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_client_does_everything_stored_comes_in_order_and_nothing_overtakes_it() {
    let mut accepted = 0;
    for seed in 0..6 {
        let world = Arc::new(World::new());
        let mut random = fastrand::Rng::with_seed(seed);
        // Each sender: mail, then, once it is stored, something plain; the plain may be refused, but not come first.
        let senders = (0..3).map(|sender| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                for n in 0..25 {
                    let stored = world.post(mail("alice", &format!("mail {sender} {n}"))).await;
                    stored.expect("stored");
                    tokio::time::sleep(Duration::from_millis(n % 4)).await;
                    for connection in world.registry.open(&Target::Client(id("alice"))) {
                        if plain(&connection, &format!("plain {sender} {n}")).is_ok() {
                            accepted.push(n);
                        }
                    }
                    // A moment in which the client may have read everything.
                    tokio::time::sleep(Duration::from_millis(n % 3)).await;
                }
                accepted.len()
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut written: Vec<Vec<String>> = Vec::new();
        let began = Instant::now();
        while !senders.iter().all(tokio::task::JoinHandle::is_finished) || world.totals().0 > 0 {
            assert!(began.elapsed() < SOON, "seed {seed}: {:?} left", world.totals());
            let alice = world.join("alice").await;
            let mut texts = Vec::new();
            for _ in 0..random.usize(0..40) {
                match pop(alice.connection()) {
                    Some(frame) if random.u8(0..20) > 0 => {
                        texts.push(text(&frame));
                        if let Some(receipt) = frame.receipt {
                            let _ = receipt.send(Written::Yes);
                        }
                    }
                    Some(frame) => {
                        drop(frame);
                        break;
                    }
                    None => tokio::time::sleep(Duration::from_micros(200)).await,
                }
            }
            drop(alice);
            written.push(texts);
        }
        let done = futures_util::future::join_all(senders).await;
        accepted += done.into_iter().map(|done| done.expect("done")).sum::<usize>();
        world.empty().await;
        let all = written.concat();
        for sender in 0..3 {
            let mut newest = 0;
            for n in 0..25 {
                let place = |what: &str| all.iter().position(|text| *text == format!("{what} {sender} {n}"));
                let mail = place("mail").unwrap_or_else(|| panic!("seed {seed}: mail {sender} {n} is lost"));
                assert!(n == 0 || newest < mail, "seed {seed}: {sender} {n} is out of order");
                newest = mail;
                assert!(place("plain").is_none_or(|plain| mail < plain), "seed {seed}: {sender} {n} was overtaken");
            }
        }
    }
    assert!(accepted > 0, "the test proves nothing if nothing plain is ever accepted");
}
