//! Reading the fold: one connection, one client, pages, counts, copies of shards, each with the offset it is exact at.

use std::sync::Arc;

use super::fold::{Index, Member};
use super::{Connection, Held, Registry, SHARDS, Shard, shard_of, signal};
use crate::clock::Moment;
use crate::event::{ConnectionInfo, Generation, Liveness, Stats};
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::LogHealth;
use crate::metrics::Reading;
use crate::position::Offset;

/// Whom a call is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// The connections of a client id.
    Client(ClientId),
    /// One connection.
    Connection(ConnectionId),
}

/// None of the connections that a target names has the generation asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection's generation is {actual}, not {expected}")]
pub struct OtherGeneration {
    /// The one asked for.
    pub expected: Generation,
    /// The newest that is there.
    pub actual: Generation,
}

/// One connection as the fold has it.
#[derive(Clone)]
pub struct ConnectionView {
    /// What never changes.
    pub info: Arc<ConnectionInfo>,
    /// ALIVE or SUSPECT.
    pub state: Liveness,
    /// Its labels.
    pub labels: Labels,
    /// Its heartbeat settings.
    pub cadence: Cadence,
    /// What this node observed of it; none for one of another node.
    pub stats: Option<Stats>,
}

/// A shard as it was at an offset.
pub struct ShardCopy {
    /// The copy shows the shard as of this offset.
    pub offset: Offset,
    /// Its members.
    pub members: Vec<ConnectionView>,
}

/// Where a page of the list begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageStart {
    /// The shard.
    pub shard: u16,
    /// The first index in it.
    pub index: Index,
}

impl Registry {
    /// The shard that an event's client id falls in.
    #[must_use]
    pub fn shard_of(client_id: &ClientId) -> usize {
        shard_of(client_id.as_str())
    }

    /// The offset as of which a locked shard is exact: everything visible has been applied to it, and perhaps more of its own.
    pub(super) fn exact_at(&self, shard: &Shard) -> Offset {
        self.log.head().max(shard.last_applied)
    }

    /// One member as of a moment; of many at once the same one, because they are looked at under a lock and reading the clocks would be most of it.
    pub(super) fn view(member: &Member<Held>, at: &Moment) -> ConnectionView {
        ConnectionView {
            info: Arc::clone(&member.info),
            state: member.state,
            labels: member.labels.clone(),
            cadence: member.cadence,
            stats: member.held.as_ref().map(|local| local.connection.stats(at)),
        }
    }

    pub(super) fn members<'a>(shard: &'a Shard, target: &'a Target) -> impl Iterator<Item = &'a Member<Held>> {
        let (client, connection) = match target {
            Target::Client(id) => (Some(shard.fold.of_client(id.as_str()).map(|(_, member)| member)), None),
            Target::Connection(id) => (None, shard.fold.find(*id).and_then(|index| shard.fold.get(index))),
        };
        client.into_iter().flatten().chain(connection)
    }

    fn lock_target(&self, target: &Target) -> std::sync::MutexGuard<'_, Shard> {
        match target {
            Target::Client(id) => self.lock_client(id.as_str()),
            Target::Connection(id) => self.lock(id.bucket() as usize % SHARDS),
        }
    }

    /// The connections that a target names, the oldest first, and the offset at which that is exact.
    #[must_use]
    pub fn get(&self, target: &Target) -> (Vec<ConnectionView>, Offset) {
        let shard = self.lock_target(target);
        let now = self.clock.moment();
        let mut views: Vec<_> = Self::members(&shard, target).map(|member| Self::view(member, &now)).collect();
        views.sort_unstable_by_key(|view| view.info.generation());
        (views, self.exact_at(&shard))
    }

    /// The connections of this node that a target names and that are not ending, the oldest first.
    #[must_use]
    pub fn open(&self, target: &Target) -> Vec<Arc<Connection>> {
        Self::open_in(&self.lock_target(target), target)
    }

    /// The same, and with a generation only the connection that has it. Nobody there is no error.
    ///
    /// # Errors
    /// [`OtherGeneration`] if there are connections and none of them has it.
    pub fn open_of(
        &self,
        target: &Target,
        if_generation: Option<Generation>,
    ) -> Result<Vec<Arc<Connection>>, OtherGeneration> {
        only(self.open(target), if_generation)
    }

    /// The connection that a client id has had longest, of those of this node that are not ending; one that was [passed over](Self::pass_over)
    /// only if all were, and one without a socket only if all are. While it stays, keeps its socket and is not passed over, every call answers
    /// the same one, however many come and go beside it.
    #[must_use]
    pub fn oldest_open(&self, client_id: &ClientId) -> Option<Arc<Connection>> {
        self.lock_client(client_id.as_str()).oldest_open(client_id).cloned()
    }

    pub(super) fn open_in(shard: &Shard, target: &Target) -> Vec<Arc<Connection>> {
        let mut open: Vec<_> = Self::members(shard, target)
            .filter_map(|member| member.held.as_ref())
            .filter(|local| !local.connection.has(signal::SEALED))
            .map(|local| Arc::clone(&local.connection))
            .collect();
        open.sort_unstable_by_key(|connection| connection.info().generation());
        open
    }

    pub(super) fn with_target<T>(&self, target: &Target, look: impl FnOnce(&mut Shard) -> T) -> T {
        look(&mut self.lock_target(target))
    }

    /// Goes through the members from `start` on, shard by shard, until `visit` answers false; then the place of the member it
    /// answered false for, to begin the next page with.
    ///
    /// A member keeps its place for life, so one that stays throughout is visited exactly once.
    pub fn visit(&self, start: PageStart, mut visit: impl FnMut(ConnectionView) -> bool) -> Option<PageStart> {
        for number in start.shard as usize..SHARDS {
            let first = if number == start.shard as usize { start.index } else { 0 };
            let shard = self.lock(number);
            let now = self.clock.moment();
            for (index, member) in shard.fold.iter_from(first) {
                if !visit(Self::view(member, &now)) {
                    return Some(PageStart { shard: number as u16, index });
                }
            }
        }
        None
    }

    /// How many connections there are.
    #[must_use]
    pub fn count(&self) -> usize {
        (0..SHARDS).map(|shard| self.lock(shard).fold.len()).sum()
    }

    /// Every open connection of this node in one shard whose labels match.
    pub fn for_each_open(&self, shard: usize, selector: &Labels, mut each: impl FnMut(&Arc<Connection>)) {
        let shard = self.lock(shard);
        for (_, member) in shard.fold.iter() {
            let Some(local) = &member.held else { continue };
            if member.labels.match_all(selector) && !local.connection.has(signal::SEALED) {
                each(&local.connection);
            }
        }
    }

    /// A copy of one shard, for a snapshot.
    #[must_use]
    pub fn copy_shard(&self, number: usize) -> ShardCopy {
        let shard = self.lock(number);
        let now = self.clock.moment();
        let members = shard.fold.iter().map(|(_, member)| Self::view(member, &now)).collect();
        ShardCopy { offset: self.exact_at(&shard), members }
    }

    /// The gauges that can be read here.
    pub fn read_gauges(&self, reading: &mut Reading) {
        for number in 0..SHARDS {
            let shard = self.lock(number);
            for (_, member) in shard.fold.iter() {
                match member.state {
                    Liveness::Alive => reading.alive += 1,
                    Liveness::Suspect => reading.suspect += 1,
                }
                if let Some(local) = &member.held {
                    let (frames, bytes) = local.connection.outbox.depth();
                    reading.outbox_frames += frames as i64;
                    reading.outbox_bytes += bytes as i64;
                }
            }
        }
        let bounds = self.log.bounds();
        reading.log_events = bounds.records as i64;
        let health = self.log.watch_health().borrow().clone();
        reading.log_healthy = i64::from(health.is_committing());
        reading.log_ailing = i64::from(matches!(health, LogHealth::Ailing(_)));
        reading.log_bytes = bounds.bytes as i64;
        reading.oldest_event_seconds =
            bounds.oldest_time.map_or(0.0, |time| (self.clock.wall_nanos() - time).max(0) as f64 / 1e9);
    }
}

/// Of connections in the order of their generations, those that a call with `if_generation` means.
pub(super) fn only(
    mut connections: Vec<Arc<Connection>>,
    if_generation: Option<Generation>,
) -> Result<Vec<Arc<Connection>>, OtherGeneration> {
    if let (Some(expected), Some(newest)) = (if_generation, connections.last()) {
        let actual = newest.info().generation();
        connections.retain(|connection| connection.info().generation() == expected);
        if connections.is_empty() {
            return Err(OtherGeneration { expected, actual });
        }
    }
    Ok(connections)
}
