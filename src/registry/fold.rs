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

/// The hash of a client id in one fold.
#[derive(Clone, Copy, Debug)]
pub struct ClientHash(pub(super) u64);

/// Who is connected, since when, and with which labels: found by client id, by connection id and by index.
pub struct Fold<H> {
    members: Slab<Member<H>>,
    by_client: HashTable<Index>,
    by_connection: HashTable<Index>,
    hasher: RandomState,
    /// A random odd number; see [`Fold::hash_connection`].
    key: u64,
}

impl<H> Default for Fold<H> {
    fn default() -> Self {
        let hasher = RandomState::new();
        let key = hasher.hash_one(0) | 1;
        Self { members: Slab::new(), by_client: HashTable::new(), by_connection: HashTable::new(), hasher, key }
    }
}

impl<H> Fold<H> {
    /// Applies the next record; `held` is asked for what to keep with a connection that joins, and told the hash of its client id.
    pub fn apply(&mut self, record: &Record, held: impl FnOnce(ClientHash) -> H) -> Change<H> {
        let event = &record.event;
        let id = event.connection.connection_id;
        if let EventKind::Connected(connected) = &event.kind {
            let client = self.hash_client(event.connection.client_id.as_str());
            let member = Member {
                info: Arc::clone(&event.connection),
                state: connected.state,
                labels: event.labels.clone(),
                cadence: connected.cadence,
                held: held(client),
            };
            return Change::Joined(self.insert(client, member));
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

    /// The hash of a client id, with a random key: clients choose their ids, and must not choose where these fall.
    pub(super) fn hash_client(&self, client_id: &str) -> ClientHash {
        ClientHash(self.hasher.hash_one(client_id))
    }

    /// The hash of a connection id. Nobody chooses that: its last bytes were drawn at random by a node, but for the very last, which is the same
    /// for many in a shard, and two bits. So all it takes is to spread them, with a key that nobody knows.
    fn hash_connection(key: u64, id: ConnectionId) -> u64 {
        let [.., a, b, c, d, e, f, g, h, _] = id.to_bytes();
        let product = u128::from(u64::from_le_bytes([a, b, c, d, e, f, g, h])) * u128::from(key);
        (product >> 64) as u64 ^ product as u64
    }

    fn insert(&mut self, client: ClientHash, member: Member<H>) -> Index {
        let Self { members, by_client, by_connection, hasher, key } = self;
        let connection = Self::hash_connection(*key, member.info.connection_id);
        let index = members.insert(member) as Index;
        let info = |at: &Index| &members[*at as usize].info;
        by_client.insert_unique(client.0, index, |at| hasher.hash_one(info(at).client_id.as_str()));
        by_connection.insert_unique(connection, index, |at| Self::hash_connection(*key, info(at).connection_id));
        index
    }

    fn remove(&mut self, index: Index) -> Member<H> {
        let member = self.members.remove(index as usize);
        let client = self.hash_client(member.info.client_id.as_str()).0;
        let connection = Self::hash_connection(self.key, member.info.connection_id);
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
        let hash = Self::hash_connection(self.key, id);
        self.by_connection.find(hash, |at| self.members[*at as usize].info.connection_id == id).copied()
    }

    /// The connections of a client id.
    pub fn of_client(&self, client_id: &str) -> impl Iterator<Item = (Index, &Member<H>)> {
        self.of_hashed(self.hash_client(client_id), client_id)
    }

    /// The same, by the hash that is known already.
    pub(super) fn of_hashed(&self, hash: ClientHash, client_id: &str) -> impl Iterator<Item = (Index, &Member<H>)> {
        self.by_client
            .iter_hash(hash.0)
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
