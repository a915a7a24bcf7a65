//! Mailboxes: messages stored with a time-to-live for a client id, sent in order, at least once, before anything else.
//!
//! A message is in the [`Store`], and in the index in memory, which says how far it has come: stored, in an outbox, delivered, expired.
//! For a client that has mail and a connection, one task (the carrier) moves messages from the store to the outbox; for any other there is none.
//! A message is *delivered* when its receipt says so, which is decided in one place (`Told` in `carrier.rs`), and then removed.
//!
//! Lock order: index, then shard, then outbox. The store's thread takes the index within a transaction and never a shard; nobody waits
//! for the store with a lock held.
//!
//! What could go wrong, and why it does not:
//!
//! - *A message is stored while its client connects.* The registry keeps the ids of clients with mail in the shard where they join, and is told
//!   under that shard's lock before STORED is answered: so the connection finds the mail when it becomes routable, or the mail finds the connection.
//!   Either way its outbox is held for the mail before anybody could send to it, and the carrier is told.
//! - *A Send without ttl while the last of the mail is sent.* The last message opens the outbox in the critical section in which it is put in:
//!   others come before the hold (and so before STORED was answered) or after the last message.
//! - *Two messages at once for one client.* Their place is given in the store's thread, where one transaction is after the other. One that is not
//!   known to be synced holds up those behind it, so they are sent in the order in which they are stored, and will be the same after a restart.
//! - *The connection ends with mail in its outbox.* Every receipt is told or dropped. What was not told goes back to waiting and is sent on the next
//!   connection: it may come twice, and is not lost. Until that is known, the outbox of the next connection is held too, so that nothing overtakes it.
//! - *A connection with mail in its outbox is stuck, and the client has others.* After ten seconds without a move the next oldest is the bearer. What
//!   nobody has begun to write is taken back; what has left the outbox may be written later and comes twice, because it has to come on the next
//!   before what is behind it. Nobody hears the receipts of the one passed over any more.
//! - *kill -9.* What was answered as STORED is synced. What was delivered and not yet removed is sent again. `MessageExpired` is committed before
//!   the message is removed, so a crash between the two logs it twice, and none loses it.
//! - *The log takes nothing while messages expire.* They are given up all the same, so nothing waits for them, and are owed to the log: they stay
//!   in the store, and in its bounds, until `MessageExpired` is committed.
//! - *The receipt comes, and the end of the connection before the removal.* The receipt stands: the message is delivered in the index from that
//!   moment, and its removal is tried until the store has done it.
//! - *The caller does not hear that its message was delivered, and repeats it.* An id is known until its message is removed, by the store; and for
//!   ten minutes more in memory, where it is noted in the transaction that removes the message.
//! - *The caller goes away, or the store answers too late.* What follows from a write is done in a task of its own, and what is not known of
//!   a write is asked of the store behind it: its queue is in order.

mod carrier;
mod index;
mod post;
mod recent;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;

pub use post::{Mail, PostError, Posted, Posting};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::UnixNanos;
use crate::ids::{ClientId, ConnectionId};
use crate::metrics::{Metrics, Reading};
use crate::registry::Registry;
use crate::store::{Store, StoreError};
use index::Index;
use recent::Recent;
use table::Sequence;

/// What may be on its way into the store, in [`POST_GRAIN`]s; beyond it a message is refused.
const MAX_POSTS: usize = 64 << 10;

/// Bytes of a message on its way into the store that count as one; every message is at least one.
const POST_GRAIN: usize = 1 << 10;

/// When the store is tried again after it failed.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How long what is delivered may take to be removed at the end.
const LAST_REMOVALS: Duration = Duration::from_secs(2);

/// How long a message may be kept at most.
pub const MAX_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is counted for a message beside its payload and its id: what keeping it costs.
pub const MESSAGE_OVERHEAD: usize = 256;

/// How much may be stored. Over a bound, a message is refused.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages for one client id.
    pub max_messages: usize,
    /// Bytes for one client id, with [`MESSAGE_OVERHEAD`] for each message.
    pub max_bytes: u64,
    /// Bytes in all.
    pub max_total_bytes: u64,
}

/// How mailboxes are kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The bounds.
    pub limits: Limits,
    /// Whether a client that named itself, with nobody checking, may have a mailbox: whoever takes its id gets its mail.
    pub trust_self_named: bool,
}

/// How far a stored message has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The store has synced it.
    Stored,
    /// In the outbox of a connection.
    Accepted,
    /// The kernel took its last byte before our Close.
    Written,
    /// The client said that it has it.
    Acked,
}

/// The stage that a message has reached, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// The connection; [`ConnectionId::NONE`] while it is only stored.
    pub connection_id: ConnectionId,
    /// When, if that is known.
    pub time: Option<UnixNanos>,
}

impl Progress {
    const STORED: Self = Self { stage: Stage::Stored, connection_id: ConnectionId::NONE, time: None };
}

/// All mailboxes of this node; cheap to clone.
#[derive(Clone)]
pub struct Mailboxes {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    store: Store,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    index: Arc<Mutex<Index>>,
    /// Looked at in the store's thread only.
    recent: Arc<Mutex<Recent>>,
    /// Room for messages on their way into the store.
    posts: Arc<Semaphore>,
    /// Given up, and not known to be logged; at most what is in the store, from which it is found again after a restart.
    owed: Mutex<VecDeque<(ClientId, Sequence)>>,
    owing: Notify,
    /// To be removed from the store; at most what is in it.
    removals: Mutex<Vec<(ClientId, Sequence)>>,
    removing: Notify,
    /// Something may expire earlier than was known.
    sooner: Notify,
    stop: CancellationToken,
    carriers: TaskTracker,
}

impl Mailboxes {
    /// The mailboxes that are in the store. Nothing is sent or expires until [`run`](Self::run).
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the store cannot be read.
    pub fn open(
        store: Store,
        registry: Arc<Registry>,
        settings: Settings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StoreError> {
        let index = store.read_now(|transaction| {
            let mut index = Index::new(settings.limits);
            table::scan(transaction, |client_id, head| {
                // It was an id when it was stored; what else is there is left alone.
                if let Ok(client_id) = ClientId::named(client_id) {
                    index.load(&client_id, head);
                }
            })?;
            Ok(index)
        })?;
        for client_id in index.clients() {
            registry.set_mail(client_id, index.mail_state(client_id));
        }
        let (messages, bytes) = index.totals();
        if messages > 0 {
            tracing::info!(messages, bytes, "found stored messages");
        }
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                store,
                registry,
                metrics,
                index: Arc::new(Mutex::new(index)),
                recent: Arc::new(Mutex::new(Recent::new())),
                posts: Arc::new(Semaphore::new(MAX_POSTS)),
                owed: Mutex::new(VecDeque::new()),
                owing: Notify::new(),
                removals: Mutex::new(Vec::new()),
                removing: Notify::new(),
                sooner: Notify::new(),
                stop: CancellationToken::new(),
                carriers: TaskTracker::new(),
            }),
        })
    }

    /// Sends mail to those who have come, gives up what has expired and removes what is delivered, until `stop`; then lets go.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        tokio::select! {
            () = inner.send_to_arrivals() => {}
            () = inner.expire() => {}
            () = inner.log_expiries() => {}
            () = inner.remove() => {}
            () = stop.cancelled() => {}
        }
        inner.stop.cancel();
        inner.carriers.close();
        inner.carriers.wait().await;
        // So that what was just delivered is not sent again by the next run.
        let removed = timeout(LAST_REMOVALS, async { while inner.remove_some().await == Ok(true) {} });
        if removed.await.is_err() {
            tracing::warn!("messages that are delivered were not removed in time; they are sent again");
        }
    }

    /// The gauges that can be read here.
    pub fn read_gauges(&self, reading: &mut Reading) {
        let (messages, bytes) = self.inner.index().totals();
        reading.mailbox_messages = i64::try_from(messages).unwrap_or(i64::MAX);
        reading.mailbox_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn now(&self) -> UnixNanos {
        self.registry.clock().wall_nanos()
    }

    /// Tells the registry how far the mail of a client is, with the index locked, so that it is told in the order in which it happens.
    fn tell(&self, index: &Index, client_id: &ClientId) {
        self.registry.set_mail(client_id, index.mail_state(client_id));
    }

    /// Starts or wakes the carriers of those who can be sent mail.
    async fn send_to_arrivals(self: &Arc<Self>) {
        loop {
            for client_id in self.registry.mail_arrivals().await {
                let woken = self.index().wake_carrier(&client_id, self.now());
                if let Some(woken) = woken {
                    self.carriers.spawn(carrier::carry(Arc::clone(self), client_id, woken));
                }
            }
        }
    }
}
