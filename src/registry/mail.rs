//! What the registry knows of mailboxes: for whom mail is stored, so that nothing overtakes it, and who of them has come to be sent it.
//!
//! It is told under the lock that every connection of the client id joins under, so that a connection either finds the mail or is found by it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::commands::{CommandError, LOG_DEADLINE};
use super::{Connection, Registry, Shard, Target};
use crate::clock::UnixNanos;
use crate::event::{ConnectionInfo, Event, EventKind};
use crate::ids::ClientId;
use crate::labels::Labels;
use crate::log::Entry;
use crate::position::Offset;

/// How far the mail of a client id is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailState {
    /// Some is in no outbox. The outboxes of the client are held for it.
    Unsent,
    /// All of it is in outboxes. They are open, and those of later connections are held: what was in the old ones may have to come first.
    Sent,
    /// There is none.
    None,
}

/// The client ids of one shard that have mail.
pub(super) struct Mail {
    clients: HashSet<ClientId>,
    arrivals: Arc<Arrivals>,
}

/// Clients with mail who can be sent it; each at most once, so at most as many as have mail and a connection.
#[derive(Default)]
pub(super) struct Arrivals {
    clients: Mutex<HashSet<ClientId>>,
    came: Notify,
}

impl Arrivals {
    fn clients(&self) -> MutexGuard<'_, HashSet<ClientId>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, client_id: &ClientId) {
        let new = self.clients().insert(client_id.clone());
        if new {
            self.came.notify_one();
        }
    }
}

impl Mail {
    pub(super) fn new(arrivals: Arc<Arrivals>) -> Self {
        Self { clients: HashSet::new(), arrivals }
    }

    /// A connection is about to become routable.
    pub(super) fn joined(&self, connection: &Connection) {
        let client_id = &connection.info().client_id;
        if !self.clients.is_empty() && self.clients.contains(client_id) {
            connection.outbox.hold(true);
            self.arrivals.push(client_id);
        }
    }
}

impl Registry {
    /// Says how far the mail of a client id is. With some unsent, the client is among the next [`mail_arrivals`](Self::mail_arrivals) if it is
    /// connected, and again whenever it connects.
    pub fn set_mail(&self, client_id: &ClientId, state: MailState) {
        let mut shard = self.lock_client(client_id.as_str());
        let shard = &mut *shard;
        if state == MailState::None {
            shard.mail.clients.remove(client_id);
            if shard.mail.clients.is_empty() {
                shard.mail.clients.shrink_to_fit();
            }
        } else if !shard.mail.clients.contains(client_id) {
            shard.mail.clients.insert(client_id.clone());
        }
        let target = Target::Client(client_id.clone());
        let unsent = state == MailState::Unsent;
        let mut connected = false;
        for connection in Self::open_in(shard, &target) {
            connection.outbox.hold(unsent);
            connected = true;
        }
        if unsent && connected {
            shard.mail.arrivals.push(client_id);
        }
    }

    /// The connection that is sent the mail of a client id: the oldest that is open.
    #[must_use]
    pub fn mail_bearer(&self, client_id: &ClientId) -> Option<Arc<Connection>> {
        let target = Target::Client(client_id.clone());
        let oldest = |shard: &mut Shard| Self::open_in(shard, &target).min_by_key(|open| open.info().generation());
        self.with_target(&target, oldest)
    }

    /// Waits for clients that have unsent mail and are connected. For one caller.
    pub async fn mail_arrivals(&self) -> Vec<ClientId> {
        loop {
            let came = std::mem::take(&mut *self.arrivals.clients());
            if !came.is_empty() {
                return came.into_iter().collect();
            }
            self.arrivals.came.notified().await;
        }
    }

    /// Submits `MessageExpired`; what is answered is told its offset once it is committed.
    ///
    /// # Errors
    /// [`CommandError::LogUnavailable`] if the log has no room for 5 s.
    pub async fn mail_expired(
        &self,
        client_id: &ClientId,
        message_id: Box<str>,
        send_time: UnixNanos,
    ) -> Result<oneshot::Receiver<Offset>, CommandError> {
        let room = tokio::time::timeout(LOG_DEADLINE, self.log.budget().reserve(message_id.len())).await;
        let room = room.map_err(|_| CommandError::LogUnavailable)?;
        let connection = Arc::new(ConnectionInfo::absent(client_id.clone(), Arc::clone(&self.settings.node_id)));
        let kind = EventKind::MessageExpired { message_id, send_time };
        let _shard = self.lock_client(client_id.as_str());
        let event = Event { time: self.clock.wall_nanos(), connection, labels: Labels::NONE, kind };
        let mut entry = Entry::new(event, room);
        let committed = entry.notify();
        self.log.submit(entry);
        Ok(committed)
    }
}
