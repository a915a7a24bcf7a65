//! The guard that a connection's driver holds: what the driver says to the registry, and the end that it owes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Connection, Registry, signal};
use crate::clock::Millis;
use crate::close::CloseReason;
use crate::event::{Event, EventKind, Payload};
use crate::log::{Entry, Slot};
use crate::metrics::SendOutcome;
use crate::outbox::OutboxLimits;

/// What a message costs in the allowance of uncommitted bytes beside its payload.
const MESSAGE_OVERHEAD: u32 = 128;

/// A connection's place in the registry. Dropping it ends the connection, so that a `Connected` never stays without its `Disconnected`.
pub struct Registration {
    registry: Arc<Registry>,
    connection: Arc<Connection>,
}

impl Registration {
    pub(super) fn new(registry: Arc<Registry>, connection: Arc<Connection>) -> Self {
        Self { registry, connection }
    }

    /// The shared half of the connection.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// The registry it is in.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The bounds of the outbox.
    #[must_use]
    pub fn outbox_limits(&self) -> OutboxLimits {
        self.registry.settings.outbox
    }

    /// The client was heard. If it was SUSPECT, it has recovered.
    pub fn heard(&self) {
        self.heard_at(self.registry.clock.uptime());
    }

    /// The same, with the uptime as it was read just now.
    pub fn heard_at(&self, uptime: Millis) {
        let now = self.registry.clock.liveness_at(uptime);
        self.connection.seen_at(now);
        if self.connection.has(signal::SUSPECT) {
            self.recover(now);
        }
    }

    /// The client is listened to again, after it was not; its silence counts from now.
    pub fn listen_again(&self) {
        self.connection.set_paused(false);
        self.connection.excuse(self.registry.clock.now());
    }

    #[cold]
    fn recover(&self, now: u64) {
        let registry = &*self.registry;
        // With no room now, the next heartbeat tries again.
        let Some(room) = registry.log.budget().try_reserve(0) else { return };
        let _shard = registry.lock_of(self.connection.info());
        if self.connection.has(signal::SEALED) || !self.connection.has(signal::SUSPECT) {
            return;
        }
        self.connection.clear(signal::SUSPECT);
        registry.log.submit(Entry::new(self.recovered(now, false), room));
    }

    /// The socket is lost and a resume is waited for: the client is SUSPECT from now on, if it was not before.
    pub fn suspend(&self, room: Slot) {
        let registry = &*self.registry;
        let _shard = registry.lock_of(self.connection.info());
        if !self.connection.has(signal::SEALED) && !self.connection.has(signal::SUSPECT) {
            registry.log.submit(Entry::new(self.suspected(), room));
        }
    }

    /// The client goes on with another socket, and is ALIVE. If it was not SUSPECT, that the old socket was lost is told here too. False if the
    /// connection is ending.
    pub fn resume(&self, [first, second]: [Slot; 2]) -> bool {
        let registry = &*self.registry;
        let _shard = registry.lock_of(self.connection.info());
        if self.connection.has(signal::SEALED) {
            return false;
        }
        let suspected = (!self.connection.has(signal::SUSPECT)).then(|| self.suspected());
        let now = registry.clock.now();
        self.connection.seen_at(now);
        self.connection.excuse(now);
        // In the same moment, so that no newcomer takes over from it as from one without a socket.
        self.connection.clear(signal::SUSPECT | signal::DETACHED);
        let recovered = Entry::new(self.recovered(now, true), first);
        match suspected {
            Some(suspected) => registry.log.submit_pair(Entry::new(suspected, second), recovered),
            None => registry.log.submit(recovered),
        }
        true
    }

    /// Marks it SUSPECT; under the shard's lock.
    fn suspected(&self) -> Event {
        let clock = &self.registry.clock;
        self.connection.set_suspect();
        let labels = {
            let mut ledger = self.connection.ledger();
            ledger.suspect_since = clock.now();
            ledger.labels.clone()
        };
        let last_seen = clock.wall_nanos_at(self.connection.last_seen()).max(self.connection.info().connect_time);
        self.registry.event(&self.connection, labels, EventKind::Suspected { last_seen, socket_lost: true })
    }

    fn recovered(&self, now: Millis, resumed: bool) -> Event {
        let (labels, since) = {
            let ledger = self.connection.ledger();
            (ledger.labels.clone(), ledger.suspect_since)
        };
        let suspected_for = std::time::Duration::from_millis(now.saturating_sub(since));
        self.registry.event(&self.connection, labels, EventKind::Recovered { suspected_for, resumed })
    }

    /// Submits a message of the client; the commit is not waited for. One of a connection that is ending is dropped: it comes after the end.
    ///
    /// # Errors
    /// Hands the payload back when the log has no room for it.
    pub fn message(&self, payload: Payload) -> Result<(), Payload> {
        match self.registry.log.budget().try_reserve(payload.len()) {
            Some(room) => {
                self.message_with(payload, room);
                Ok(())
            }
            None => Err(payload),
        }
    }

    /// The same with room that was waited for.
    pub fn message_with(&self, payload: Payload, room: Slot) {
        let registry = &*self.registry;
        let size = payload.len();
        let _shard = registry.lock_of(self.connection.info());
        if self.connection.has(signal::SEALED) {
            return;
        }
        let traffic = &self.connection.traffic;
        traffic.messages_in.fetch_add(1, Ordering::Relaxed);
        traffic.bytes_in.fetch_add(size as u64, Ordering::Relaxed);
        registry.metrics.received_bytes.inc_by(size as u64);
        self.connection.add_uncommitted(uncommitted_cost(size));
        let labels = self.connection.ledger().labels.clone();
        let event = registry.event(&self.connection, labels, EventKind::MessageReceived(payload));
        registry.log.submit(Entry::new(event, room));
    }

    /// Ends the connection. False if it was ending already, for a reason that stands.
    pub fn end(&self, reason: CloseReason) -> bool {
        self.registry.end(&self.connection, reason)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // Whoever was in charge ended it and this does nothing, or was stopped half-way (a panic, the runtime going down) and this is the end.
        self.registry.end(&self.connection, CloseReason::Internal);
        let dropped = self.connection.drop_unsent(true);
        self.registry.metrics.sends.of(SendOutcome::Dropped).inc_by(dropped);
    }
}

/// What a message of this size takes of a connection's allowance of uncommitted bytes.
pub(super) fn uncommitted_cost(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX / 2).saturating_add(MESSAGE_OVERHEAD)
}
