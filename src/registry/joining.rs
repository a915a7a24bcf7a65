//! The connections of one shard that are submitted and not yet committed.

use std::sync::Arc;

use hashbrown::HashTable;

use super::Connection;
use super::fold::ClientHash;
use crate::ids::{ClientId, ConnectionId};

/// Who is joining, found by client id. Keeps the hashes that it is given, so that none is made twice.
#[derive(Default)]
pub(super) struct Joining(HashTable<(ClientHash, Arc<Connection>)>);

impl Joining {
    pub(super) fn insert(&mut self, hash: ClientHash, connection: Arc<Connection>) {
        self.0.insert_unique(hash.0, (hash, connection), |(hash, _)| hash.0);
    }

    /// Takes out a connection, by the hash of its client id.
    pub(super) fn take(&mut self, hash: ClientHash, id: ConnectionId) -> Option<Arc<Connection>> {
        let entry = self.0.find_entry(hash.0, |(_, connection)| connection.info().connection_id == id).ok()?;
        let ((_, connection), _) = entry.remove();
        Some(connection)
    }

    /// Those of a client id.
    pub(super) fn of_client<'a>(
        &'a self,
        hash: ClientHash,
        client_id: &'a ClientId,
    ) -> impl Iterator<Item = &'a Arc<Connection>> {
        let found = self.0.iter_hash(hash.0).map(|(_, connection)| connection);
        found.filter(move |connection| connection.info().client_id == *client_id)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Connection>> {
        self.0.iter().map(|(_, connection)| connection)
    }
}
