//! Mailboxes over a real registry and a real store, with clients whose driver is the test.

mod bounds;
mod delivery;
mod expiry;
mod failing;
mod order;
mod repeats;
mod restart;
mod slow;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::*;
use crate::clock::Clock;
use crate::event::{EventKind, Payload, Record};
use crate::heartbeat::Cadence;
use crate::log::{Log as _, MemoryLog, Retention};
use crate::outbox::{Frame, OutboxLimits, Refused, Written};
use crate::registry::{Connection, Duplicates, Newcomer, Registration};
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
