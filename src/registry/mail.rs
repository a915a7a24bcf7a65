//! What the registry knows of mailboxes: for whom mail is stored, so that nothing overtakes it, and who of them has come to be sent it.
//!
//! It is told under the lock that every connection of the client id joins under, so that a connection either finds the mail or is found by it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::{Connection, Registry, Shard, Target, signal};
use crate::clock::UnixNanos;
use crate::event::{ConnectionInfo, Event, EventKind};
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::{Entry, Slot};
use crate::position::Offset;

/// How far the mail of a client id is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MailState {
    /// Some is in no outbox. The outboxes of the client are held for it.
    Unsent,
    /// All of it is in the outbox of this connection. While that is open, so are the outboxes of the client; once it ends they are held, because
    /// what was in it may have to come first on another.
    Sent(ConnectionId),
    /// There is none.
    None,
}

/// The client ids of one shard that have mail, and how far it is.
pub(super) struct Mail {
    clients: HashMap<ClientId, MailState>,
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
        Self { clients: HashMap::new(), arrivals }
    }

    fn of(&self, client_id: &ClientId) -> Option<MailState> {
        if self.clients.is_empty() { None } else { self.clients.get(client_id).copied() }
    }

    fn set(&mut self, client_id: &ClientId, state: MailState) {
        if state == MailState::None {
            self.clients.remove(client_id);
            if self.clients.is_empty() {
                self.clients = HashMap::new();
            }
        } else if let Some(known) = self.clients.get_mut(client_id) {
            *known = state;
        } else {
            self.clients.insert(client_id.clone(), state);
        }
    }
}

impl Shard {
    /// Whether mail in this state comes before anything else on the connections that are open.
    fn comes_first(&self, state: MailState) -> bool {
        match state {
            MailState::Unsent => true,
            MailState::Sent(by) => {
                let bearer = self.fold.find(by).and_then(|index| self.fold.get(index));
                let open = bearer.and_then(|member| member.held.as_ref());
                open.is_none_or(|local| local.connection.has(signal::SEALED))
            }
            MailState::None => false,
        }
    }

    /// A connection is about to become routable.
    pub(super) fn joined_with_mail(&self, connection: &Connection) {
        let client_id = &connection.info().client_id;
        let Some(state) = self.mail.of(client_id) else { return };
        if self.comes_first(state) {
            connection.outbox.hold(true);
            self.mail.arrivals.push(client_id);
        }
    }

    /// A connection has been sealed. If mail was in its outbox, that comes first on the others.
    pub(super) fn sealed_with_mail(&self, connection: &Connection) {
        let info = connection.info();
        if self.mail.of(&info.client_id) == Some(MailState::Sent(info.connection_id)) {
            for (_, member) in self.fold.of_client(info.client_id.as_str()) {
                if let Some(other) = &member.held {
                    other.connection.outbox.hold(true);
                }
            }
        }
    }
}

impl Registry {
    /// Says how far the mail of a client id is. With some unsent, the client is among the next [`mail_arrivals`](Self::mail_arrivals) if it is
    /// connected, and again whenever it connects.
    pub fn set_mail(&self, client_id: &ClientId, state: MailState) {
        let mut shard = self.lock_client(client_id.as_str());
        let shard = &mut *shard;
        shard.mail.set(client_id, state);
        let target = Target::Client(client_id.clone());
        let held = shard.comes_first(state);
        let mut connected = false;
        for connection in Self::open_in(shard, &target) {
            connection.outbox.hold(held);
            connected = true;
        }
        if state == MailState::Unsent && connected {
            shard.mail.arrivals.push(client_id);
        }
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

    /// Has the others of its client id come before a connection for mail, from now on: the next oldest, and once all have had their turn the oldest
    /// again. False if there is no other to send to.
    pub fn pass_over(&self, connection: &Connection) -> bool {
        let ConnectionInfo { client_id, connection_id, .. } = &**connection.info();
        let shard = self.lock_client(client_id.as_str());
        let others = || {
            let open = shard.open_of_client(client_id).filter(|other| other.info().connection_id != *connection_id);
            open.filter(|other| !other.has(signal::DETACHED))
        };
        if others().next().is_none() {
            return false;
        }
        if others().all(|other| other.has(signal::PASSED_OVER)) {
            others().for_each(|other| other.clear(signal::PASSED_OVER));
        }
        connection.set_passed_over();
        true
    }

    /// Submits `MessageExpired` into `room`; what is answered is told its offset once it is committed.
    pub fn mail_expired(
        &self,
        client_id: &ClientId,
        message_id: Box<str>,
        send_time: UnixNanos,
        room: Slot,
    ) -> oneshot::Receiver<Offset> {
        let connection = Arc::new(ConnectionInfo::absent(client_id.clone(), Arc::clone(&self.settings.node_id)));
        let kind = EventKind::MessageExpired { message_id, send_time };
        let _shard = self.lock_client(client_id.as_str());
        let event = Event { time: self.clock.wall_nanos(), connection, labels: Labels::NONE, kind };
        let mut entry = Entry::new(event, room);
        let committed = entry.notify();
        self.log.submit(entry);
        committed
    }
}
