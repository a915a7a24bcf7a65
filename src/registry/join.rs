//! How a client joins: `Connected` is submitted, replacing who holds the id, and waited for.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use super::connection::Takeovers;
use super::{Connection, Duplicates, Registration, Registry, signal};
use crate::close::{CloseReason, Excess};
use crate::event::{Connected, ConnectionInfo, Event, EventKind, Liveness, Replaces};
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::{Entry, Slot};

/// How long a newcomer waits for the log, first for room and then for the commit.
pub(super) const COMMIT_DEADLINE: Duration = Duration::from_secs(5);

/// A client whose id is known and who is about to join.
#[derive(Debug)]
pub struct Newcomer {
    /// The id it named; none to assign one.
    pub client_id: Option<ClientId>,
    /// Its end of the TCP connection.
    pub remote_address: Option<SocketAddr>,
    /// The subprotocol agreed on; empty for the plain one.
    pub subprotocol: &'static str,
}

/// Why a newcomer may not join. Nothing was logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The id is in use and the policy is to refuse the newer, or has as many connections as the policy allows.
    #[error("the client id is in use")]
    IdInUse,
    /// The id was taken over too often within the last minute.
    #[error("too many takeovers of the client id")]
    Takeovers,
    /// The log has no room.
    #[error("the log did not take the event in time")]
    Overloaded,
    /// The node is draining.
    #[error("the node is draining")]
    Draining,
}

impl JoinError {
    /// How the client is told. `reconnect_after` is the hint for one refused by a drain.
    #[must_use]
    pub fn close_reason(self, reconnect_after: u64) -> CloseReason {
        match self {
            Self::IdInUse => CloseReason::IdInUse,
            Self::Takeovers => CloseReason::RateLimited(Excess::Takeovers),
            Self::Overloaded => CloseReason::Overloaded,
            Self::Draining => CloseReason::Restart { reconnect_after },
        }
    }
}

impl Registry {
    /// Submits `Connected` for a newcomer and waits until it is committed. If that takes too long, the connection is ended
    /// (OVERLOADED) and returned all the same, as it is when somebody else ends it meanwhile: its driver then finds it sealed.
    ///
    /// # Errors
    /// [`JoinError`] if it may not join.
    pub async fn join(self: &Arc<Self>, newcomer: Newcomer) -> Result<Registration, JoinError> {
        let budget = self.log.budget();
        let room = match budget.try_reserve(0) {
            Some(room) => room,
            None => {
                // In a box, or every newcomer would carry the room for it.
                let room = Box::pin(tokio::time::timeout(COMMIT_DEADLINE, budget.reserve(0))).await;
                room.map_err(|_| JoinError::Overloaded)?
            }
        };
        let registration = self.submit_join(newcomer, room)?;
        let connection = Arc::clone(registration.connection());
        let committed = poll_fn(|context| {
            connection.register(context);
            if connection.has(signal::COMMITTED) { Poll::Ready(()) } else { Poll::Pending }
        });
        if tokio::time::timeout(COMMIT_DEADLINE, committed).await.is_err() {
            registration.end(CloseReason::Overloaded);
        }
        Ok(registration)
    }

    /// The critical section of joining: decides, seals whom it replaces, and submits.
    pub(super) fn submit_join(self: &Arc<Self>, newcomer: Newcomer, room: Slot) -> Result<Registration, JoinError> {
        let wall = self.clock.wall();
        let (client_id, connection_id) = match newcomer.client_id {
            Some(id) => {
                let connection_id = ConnectionId::for_client(id.as_str(), wall);
                (id, connection_id)
            }
            None => {
                let connection_id = ConnectionId::for_assigned(wall);
                (ClientId::assigned(connection_id), connection_id)
            }
        };
        let mut shard = self.lock_client(client_id.as_str());
        if self.draining.load(Ordering::SeqCst) {
            return Err(JoinError::Draining);
        }
        let hash = shard.fold.hash_client(client_id.as_str());
        let incumbent = match self.settings.duplicates {
            Duplicates::Replace => shard.owners(hash, &client_id).next().cloned(),
            Duplicates::Reject => match shard.owners(hash, &client_id).next() {
                // One that has lost its socket gives way: it may be the same client, which cannot resume.
                Some(incumbent) if !incumbent.has(signal::DETACHED) => return Err(JoinError::IdInUse),
                incumbent => incumbent.cloned(),
            },
            Duplicates::Allow { most } if shard.owners(hash, &client_id).count() >= most => {
                return Err(JoinError::IdInUse);
            }
            Duplicates::Allow { .. } => None,
        };
        let takeovers = match &incumbent {
            None => Takeovers::default(),
            Some(incumbent) => {
                let so_far = incumbent.ledger().takeovers;
                if incumbent.has(signal::DETACHED) {
                    // It has lost its socket, and nobody is pushed out.
                    so_far
                } else {
                    so_far.one_more(self.clock.now(), self.settings.takeovers_per_minute).ok_or(JoinError::Takeovers)?
                }
            }
        };
        let replaced = incumbent.and_then(|incumbent| {
            let event = self.seal(&shard, &incumbent, CloseReason::Replaced)?;
            Some((event, Arc::clone(incumbent.info())))
        });
        let info = Arc::new(ConnectionInfo::new(
            client_id,
            connection_id,
            Arc::clone(&self.settings.node_id),
            crate::clock::unix_nanos(wall),
            newcomer.remote_address,
            newcomer.subprotocol,
        ));
        let connection = Arc::new(Connection::new(info, self.settings.cadence, &self.clock, takeovers));
        let (ended, replaces) = replaced.unzip();
        let replaces = replaces.map_or(Replaces::Nothing, Replaces::Connection);
        let connected = Connected { cadence: self.settings.cadence, state: Liveness::Alive, replaces };
        let (time, kind) = (connection.info().connect_time, EventKind::Connected(connected));
        let event = Event { time, connection: Arc::clone(connection.info()), labels: Labels::NONE, kind };
        let entry = Entry::new(event, room);
        shard.joining.insert(hash, Arc::clone(&connection));
        match ended {
            // In one batch, so that no reader of the log ever sees the id owned twice, or by nobody.
            Some(ended) => self.log.submit_pair(Entry::ending(ended), entry),
            None => self.log.submit(entry),
        }
        drop(shard);
        Ok(Registration::new(Arc::clone(self), connection))
    }
}
