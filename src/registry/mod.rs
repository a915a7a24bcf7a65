//! The registry: the fold of the log in shards, and the one place where events of connections are submitted.
//!
//! One critical section a client id: all its events are submitted under the lock of its shard, so queue order, which is log
//! order, is the order of what happened. Lock order: shard, then a connection's ledger, then the log's queue; never two shards, never
//! across an await. Nothing but the applier (`apply.rs`) edits the fold.

mod apply;
mod commands;
mod connection;
mod fold;
mod join;
mod joining;
mod mail;
#[cfg(test)]
mod model;
mod registration;
#[cfg(test)]
mod several;
mod sweep;
mod view;
mod wheel;
mod window;

pub use commands::{CommandError, Commanded};
pub use connection::{Connection, Traffic, signal};
pub use fold::{Change, ClientHash, Fold, Index, Member};
pub use join::{JoinError, Newcomer};
pub use mail::MailState;
pub use registration::Registration;
pub use sweep::SWEEP_PERIOD;
pub use view::{ConnectionView, OtherGeneration, PageStart, ShardCopy, Target};
pub use window::{AckError, Flushed, Numbered, Reliable, Window};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::close::CloseReason;
use crate::event::{ConnectionInfo, Disconnected, Event, EventKind};
use crate::heartbeat::{Cadence, Pulse};
use crate::ids::{self, ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::{Entry, Log};
use crate::metrics::Metrics;
use crate::outbox::OutboxLimits;
use crate::position::{Offset, Position};
use connection::Fate;
use joining::Joining;
use mail::{Arrivals, Mail};
use wheel::{Tick, Wheel};

/// How many shards there are: a power of two up to 256, many more than cores so that a lock is seldom met held.
pub const SHARDS: usize = 64;

/// What happens when a client id connects that is connected already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Duplicates {
    /// The newest wins; the older connection ends.
    Replace,
    /// The newer is refused.
    Reject,
    /// Both stay, up to a limit; beyond it the newer is refused.
    Allow {
        /// The most open connections of one client id, those that are still joining too.
        most: usize,
    },
}

/// How the registry treats connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node's id, for events.
    pub node_id: Arc<str>,
    /// The heartbeat settings that a connection begins with.
    pub cadence: Cadence,
    /// Whether the server sends no heartbeats of its own.
    pub quiet: bool,
    /// What a second connection of a client id does.
    pub duplicates: Duplicates,
    /// Takeovers of one client id within a minute; 0 for no limit.
    pub takeovers_per_minute: u32,
    /// What may wait for one connection.
    pub outbox: OutboxLimits,
}

/// Everything about the connections of this node, as the log tells it.
pub struct Registry {
    shards: Box<[Mutex<Shard>]>,
    log: Arc<dyn Log>,
    clock: Clock,
    settings: Settings,
    metrics: Arc<Metrics>,
    /// No newcomer joins any more. Looked at under the shard's lock, so that a drain which sets it and then visits every shard meets everyone.
    draining: AtomicBool,
    /// Clients for whom mail is stored and who can be sent it.
    arrivals: Arc<Arrivals>,
}

/// What one lock guards.
struct Shard {
    fold: Fold<Held>,
    joining: Joining,
    wheel: Wheel,
    mail: Mail,
    last_applied: Offset,
}

/// What the fold keeps for a connection of this node; nothing for one of another.
type Held = Option<Local>;

struct Local {
    connection: Arc<Connection>,
    pulse: Pulse,
    /// When the timer that counts comes up; any other in the wheel is stale.
    due: Tick,
}

impl Registry {
    /// A registry that submits to `log` and is to be given what that commits.
    #[must_use]
    pub fn new(log: Arc<dyn Log>, clock: Clock, settings: Settings, metrics: Arc<Metrics>) -> Self {
        let arrivals = Arc::new(Arrivals::default());
        let shards = (0..SHARDS)
            .map(|_| {
                Mutex::new(Shard {
                    fold: Fold::default(),
                    joining: Joining::default(),
                    wheel: Wheel::new(),
                    mail: Mail::new(Arc::clone(&arrivals)),
                    last_applied: 0,
                })
            })
            .collect();
        Self { shards, log, clock, settings, metrics, draining: AtomicBool::new(false), arrivals }
    }

    /// The clocks.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<dyn Log> {
        &self.log
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The position of an offset in the present epoch.
    #[must_use]
    pub fn position(&self, offset: Offset) -> Position {
        Position { epoch: self.log.epoch(), offset }
    }

    /// Whether a drain has begun.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    fn lock(&self, shard: usize) -> MutexGuard<'_, Shard> {
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_client(&self, client_id: &str) -> MutexGuard<'_, Shard> {
        self.lock(shard_of(client_id))
    }

    /// The same for the client id of a connection, whose own id carries the bucket: nothing is hashed.
    fn lock_of(&self, info: &ConnectionInfo) -> MutexGuard<'_, Shard> {
        match info.connection_id {
            ConnectionId::NONE => self.lock_client(info.client_id.as_str()),
            id => self.lock(id.bucket() as usize % SHARDS),
        }
    }

    /// Ends a connection, whoever asks; the first wins, and answers true. Never waits: the room for the `Disconnected` was set aside when it joined.
    pub fn end(&self, connection: &Arc<Connection>, reason: CloseReason) -> bool {
        let shard = self.lock_of(connection.info());
        let ending = self.seal(&shard, connection, reason);
        ending.is_some_and(|event| {
            self.log.submit(Entry::ending(event));
            true
        })
    }

    /// Marks a connection as ending and makes its `Disconnected`, to be submitted in the same critical section; none if it was ending already.
    fn seal(&self, locked: &Shard, connection: &Arc<Connection>, reason: CloseReason) -> Option<Event> {
        let mut ledger = connection.ledger();
        if let Some(Fate::Ending(_)) = ledger.fate.as_deref() {
            return None;
        }
        // Closed first, so that nothing can be accepted that the end does not tell of.
        connection.outbox.close();
        let now = self.clock.moment();
        let end = Disconnected {
            cause: reason.cause(),
            code: reason.code(),
            reason: reason.text().into(),
            connected_for: connection.open_for(&now),
            stats: Some(connection.stats(&now)),
            unacked: connection.close_unacked(),
        };
        self.metrics.disconnects.of(end.cause).inc();
        // With it go those who wait for a Pong, and are told by this that none will come.
        ledger.fate = Some(Box::new(Fate::Ending(reason)));
        let labels = ledger.labels.clone();
        drop(ledger);
        connection.signal(signal::SEALED);
        locked.sealed_with_mail(connection);
        let (connection, kind) = (Arc::clone(connection.info()), EventKind::Disconnected(Box::new(end)));
        Some(Event { time: now.wall, connection, labels, kind })
    }

    fn event(&self, connection: &Arc<Connection>, labels: Labels, kind: EventKind) -> Event {
        Event { time: self.clock.wall_nanos(), connection: Arc::clone(connection.info()), labels, kind }
    }
}

impl Shard {
    /// The connections of this node that hold a client id as of what was submitted and are not ending: under `replace` and `reject` one at most.
    fn owners<'a>(&'a self, hash: ClientHash, client_id: &'a ClientId) -> impl Iterator<Item = &'a Arc<Connection>> {
        let joining = self.joining.of_client(hash, client_id);
        let members = self.fold.of_hashed(hash, client_id.as_str()).filter_map(|(_, member)| member.held.as_ref());
        let all = joining.chain(members.map(|local| &local.connection));
        all.filter(|connection| !connection.has(signal::SEALED))
    }

    /// The connection of this node that a client id has had longest, of those that are committed and not ending; one that was passed over only
    /// if all were, and one without a socket only if all are.
    fn oldest_open(&self, client_id: &ClientId) -> Option<&Arc<Connection>> {
        self.open_of_client(client_id).min_by_key(|connection| {
            let late = [signal::DETACHED, signal::PASSED_OVER].map(|signal| connection.has(signal));
            (late, connection.info().generation())
        })
    }

    /// The connections of this node that a client id has, of those that are committed and not ending.
    fn open_of_client(&self, client_id: &ClientId) -> impl Iterator<Item = &Arc<Connection>> {
        let members = self.fold.of_client(client_id.as_str()).filter_map(|(_, member)| member.held.as_ref());
        members.map(|local| &local.connection).filter(|connection| !connection.has(signal::SEALED))
    }

    /// Every connection of this node, joining ones too.
    fn locals(&self) -> impl Iterator<Item = &Arc<Connection>> {
        let members = self.fold.iter().filter_map(|(_, member)| member.held.as_ref()).map(|local| &local.connection);
        members.chain(self.joining.iter())
    }
}

/// The shard of a client id.
fn shard_of(client_id: &str) -> usize {
    ids::bucket(client_id) as usize % SHARDS
}
