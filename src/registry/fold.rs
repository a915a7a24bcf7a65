//! The fold: the state that the log implies, and nothing else. Pure: records in, state out.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use slab::Slab;

use crate::event::{ConnectionInfo, EventKind, Liveness, Record};
use crate::heartbeat::Cadence;
use crate::ids::ConnectionId;
use crate::labels::Labels;

/// One connection in the fold, with `H`, which the fold keeps for its owner and never looks at.
#[derive(Debug)]
pub struct Member<H> {
    /// What never changes.
    pub info: Arc<ConnectionInfo>,
    /// ALIVE or SUSPECT.
    pub state: Liveness,
    /// As of the newest event.
    pub labels: Labels,
    /// As of the newest event.
    pub cadence: Cadence,
    /// The owner's.
    pub held: H,
}

/// Where a member sits; stays the same for as long as it is a member.
pub type Index = u32;

/// What a record did to the fold.
#[derive(Debug)]
pub enum Change<H> {
    /// A connection joined at this index.
    Joined(Index),
    /// A connection left.
    Left(Member<H>),
    /// The connection at this index changed, or said something.
    Touched(Index),
    /// A record of a connection that is not in the fold, because its beginning is older than the log.
    Unknown,
}

/// Who is connected, since when, and with which labels: found by client id, by connection id and by index.
pub struct Fold<H> {
    members: Slab<Member<H>>,
    by_client: HashTable<Index>,
    by_connection: HashTable<Index>,
    hasher: RandomState,
}

impl<H> Default for Fold<H> {
    fn default() -> Self {
        Self {
            members: Slab::new(),
            by_client: HashTable::new(),
            by_connection: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<H> Fold<H> {
    /// Applies the next record; `held` is asked for what to keep with a connection that joins.
    pub fn apply(&mut self, record: &Record, held: impl FnOnce() -> H) -> Change<H> {
        let event = &record.event;
        let id = event.connection.connection_id;
        if let EventKind::Connected(connected) = &event.kind {
            return Change::Joined(self.insert(Member {
                info: Arc::clone(&event.connection),
                state: connected.state,
                labels: event.labels.clone(),
                cadence: connected.cadence,
                held: held(),
            }));
        }
        let Some(index) = self.find(id) else { return Change::Unknown };
        if let EventKind::Disconnected(_) = event.kind {
            return Change::Left(self.remove(index));
        }
        let member = &mut self.members[index as usize];
        match &event.kind {
            EventKind::Suspected { .. } => member.state = Liveness::Suspect,
            EventKind::Recovered { .. } => member.state = Liveness::Alive,
            EventKind::LabelsChanged { .. } => member.labels = event.labels.clone(),
            EventKind::HeartbeatChanged(cadence) => member.cadence = *cadence,
            EventKind::MessageReceived(_)
            | EventKind::MessageExpired { .. }
            | EventKind::Connected(_)
            | EventKind::Disconnected(_) => {}
        }
        Change::Touched(index)
    }

    fn insert(&mut self, member: Member<H>) -> Index {
        let Self { members, by_client, by_connection, hasher } = self;
        let client = hasher.hash_one(member.info.client_id.as_str());
        let connection = hasher.hash_one(member.info.connection_id);
        let index = members.insert(member) as Index;
        by_client.insert_unique(client, index, |at| hasher.hash_one(members[*at as usize].info.client_id.as_str()));
        by_connection.insert_unique(connection, index, |at| hasher.hash_one(members[*at as usize].info.connection_id));
        index
    }

    fn remove(&mut self, index: Index) -> Member<H> {
        let member = self.members.remove(index as usize);
        let client = self.hasher.hash_one(member.info.client_id.as_str());
        let connection = self.hasher.hash_one(member.info.connection_id);
        for (table, hash) in [(&mut self.by_client, client), (&mut self.by_connection, connection)] {
            if let Ok(entry) = table.find_entry(hash, |at| *at == index) {
                entry.remove();
            }
        }
        member
    }

    /// The index of a connection.
    #[must_use]
    pub fn find(&self, id: ConnectionId) -> Option<Index> {
        let hash = self.hasher.hash_one(id);
        self.by_connection.find(hash, |at| self.members[*at as usize].info.connection_id == id).copied()
    }

    /// The connections of a client id.
    pub fn of_client(&self, client_id: &str) -> impl Iterator<Item = (Index, &Member<H>)> {
        self.by_client
            .iter_hash(self.hasher.hash_one(client_id))
            .map(|at| (*at, &self.members[*at as usize]))
            .filter(move |(_, member)| member.info.client_id.as_str() == client_id)
    }

    /// The member at an index, if there is one.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<&Member<H>> {
        self.members.get(index as usize)
    }

    /// The member at an index, to change what its owner keeps with it.
    pub(super) fn held_mut(&mut self, index: Index) -> Option<&mut H> {
        self.members.get_mut(index as usize).map(|member| &mut member.held)
    }

    /// All members in the order of their indices, which does not change while they are members.
    pub fn iter(&self) -> impl Iterator<Item = (Index, &Member<H>)> {
        self.members.iter().map(|(index, member)| (index as Index, member))
    }

    /// The members at `first` and after.
    pub fn iter_from(&self, first: Index) -> impl Iterator<Item = (Index, &Member<H>)> {
        (first as usize..self.members.capacity())
            .filter_map(|index| self.members.get(index).map(|member| (index as Index, member)))
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
