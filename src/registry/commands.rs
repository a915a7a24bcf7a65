//! What backends ask of connections: disconnect, labels, heartbeat settings, probes, drain. Each answers when the log has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::connection::Ledger;
use super::view::only;
use super::{Connection, ConnectionView, OtherGeneration, Registry, SHARDS, Shard, Target, signal};
use crate::close::CloseReason;
use crate::event::{EventKind, Generation};
use crate::heartbeat::Cadence;
use crate::ids::ConnectionId;
use crate::labels::{Labels, LabelsError};
use crate::log::{Entry, Slot};
use crate::position::Offset;

/// How long a command waits for the log.
pub(super) const LOG_DEADLINE: Duration = Duration::from_secs(5);

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Nobody there.
    #[error("the client is not connected")]
    NotConnected,
    /// Another generation than the one asked for.
    #[error(transparent)]
    Generation(#[from] OtherGeneration),
    /// The labels that would result are over a bound.
    #[error(transparent)]
    Labels(#[from] LabelsError),
    /// The heartbeat settings that would result contradict each other.
    #[error("the heartbeat timeout of {timeout} ms is not above the interval of {interval} ms")]
    Cadence {
        /// Milliseconds.
        interval: u32,
        /// Milliseconds.
        timeout: u32,
    },
    /// The log did not take the event, or did not commit it, in time. If it was taken, it will still happen.
    #[error("the log did not take the event in time")]
    LogUnavailable,
}

/// A command that was carried out.
pub struct Commanded {
    /// The connections it was carried out on, the oldest first, as of just after it.
    pub connections: Vec<ConnectionView>,
    /// The offset as of which that is so.
    pub offset: Offset,
}

/// What a command changes of one connection.
enum Change {
    Labels(Labels),
    Cadence(Cadence),
}

impl Change {
    fn make(self, ledger: &mut Ledger) -> EventKind {
        match self {
            Self::Labels(labels) => {
                let previous = std::mem::replace(&mut ledger.labels, labels);
                EventKind::LabelsChanged { previous }
            }
            Self::Cadence(cadence) => {
                ledger.cadence = cadence;
                EventKind::HeartbeatChanged(cadence)
            }
        }
    }
}

/// How the critical section of a command went.
enum Attempt {
    /// Submitted; the last event tells its offset. None if there was nothing to change.
    Done(Vec<ConnectionView>, Option<oneshot::Receiver<Offset>>),
    /// Connections came since room was reserved: this many events need some. Nothing was done.
    NeedsRoom(usize),
}

impl Registry {
    /// Ends the connections that a target names, and answers once they are GONE, with those it found, the oldest first. Nobody there is no
    /// error.
    ///
    /// # Errors
    /// [`CommandError::Generation`], [`CommandError::LogUnavailable`].
    pub async fn disconnect(
        &self,
        target: &Target,
        code: u16,
        reason: &str,
        if_generation: Option<Generation>,
    ) -> Result<(Vec<ConnectionId>, Offset), CommandError> {
        let (ended, seen_at) = self.with_target(target, |shard| {
            // One that is ending already is waited for too: the caller wants it gone.
            let there = Self::members(shard, target).filter_map(|member| member.held.as_ref());
            let mut there: Vec<_> = there.map(|local| Arc::clone(&local.connection)).collect();
            there.sort_unstable_by_key(|connection| connection.info().generation());
            let ended = only(there, if_generation)?;
            for connection in &ended {
                if let Some(event) = self.seal(shard, connection, CloseReason::Kicked(code, reason.into())) {
                    self.log.submit(Entry::ending(event));
                }
            }
            Ok::<_, CommandError>((ended, self.exact_at(shard)))
        })?;
        let all_gone = async {
            let mut offset = seen_at;
            for connection in &ended {
                offset = offset.max(self.gone(connection).await);
            }
            offset
        };
        let offset = tokio::time::timeout(LOG_DEADLINE, all_gone).await.map_err(|_| CommandError::LogUnavailable)?;
        Ok((ended.iter().map(|connection| connection.info().connection_id).collect(), offset))
    }

    /// Waits until the `Disconnected` of a sealed connection is visible.
    async fn gone(&self, connection: &Connection) -> Offset {
        let mut head = self.log.watch_head();
        loop {
            if let Some(offset) = connection.ended_at()
                && *head.borrow_and_update() >= offset
            {
                return offset;
            }
            if head.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Changes the labels of the connections that a target names.
    ///
    /// # Errors
    /// [`CommandError`]; nothing is changed then, except after [`CommandError::LogUnavailable`], when it may still come.
    pub async fn update_labels<'a>(
        &self,
        target: &Target,
        set: impl Iterator<Item = (&'a str, &'a str)> + Clone,
        remove: impl Iterator<Item = &'a str> + Clone,
        if_generation: Option<Generation>,
    ) -> Result<Commanded, CommandError> {
        self.command(target, if_generation, |ledger| {
            let labels = ledger.labels.changed(set.clone(), remove.clone())?;
            Ok((labels != ledger.labels).then_some(Change::Labels(labels)))
        })
        .await
    }

    /// Retunes the heartbeats of the connections that a target names; what is none stays.
    ///
    /// # Errors
    /// As for [`Registry::update_labels`].
    pub async fn update_heartbeat(
        &self,
        target: &Target,
        interval: Option<u32>,
        timeout: Option<u32>,
        if_generation: Option<Generation>,
    ) -> Result<Commanded, CommandError> {
        self.command(target, if_generation, |ledger| {
            let old = ledger.cadence;
            let cadence =
                Cadence { interval: interval.unwrap_or(old.interval), timeout: timeout.unwrap_or(old.timeout) };
            if cadence.timeout <= cadence.interval {
                return Err(CommandError::Cadence { interval: cadence.interval, timeout: cadence.timeout });
            }
            Ok((cadence != old).then_some(Change::Cadence(cadence)))
        })
        .await
    }

    /// Submits what is decided on for each connection that a target names, and waits until all of it is visible. When there is nothing to
    /// change, it waits for what was submitted before, so that the answer is of the log all the same.
    async fn command(
        &self,
        target: &Target,
        if_generation: Option<Generation>,
        decide: impl Fn(&Ledger) -> Result<Option<Change>, CommandError>,
    ) -> Result<Commanded, CommandError> {
        let until = Instant::now() + LOG_DEADLINE;
        let mut events = self.open_of(target, if_generation)?.len();
        let (views, committed) = loop {
            let room = tokio::time::timeout_at(until, self.log.budget().reserve_events(events)).await;
            let room = room.map_err(|_| CommandError::LogUnavailable)?;
            match self.with_target(target, |shard| self.attempt(shard, target, if_generation, room, &decide))? {
                Attempt::Done(views, committed) => break (views, committed),
                Attempt::NeedsRoom(more) => events = more,
            }
        };
        let Some(committed) = committed else {
            return self.until_applied(target, views).await;
        };
        let committed = tokio::time::timeout(LOG_DEADLINE, committed).await;
        let offset = committed.ok().and_then(Result::ok).ok_or(CommandError::LogUnavailable)?;
        Ok(Commanded { connections: views, offset })
    }

    /// The critical section of a command: all is decided before anything is done, so that an error changes nothing.
    fn attempt(
        &self,
        shard: &Shard,
        target: &Target,
        if_generation: Option<Generation>,
        mut room: Vec<Slot>,
        decide: &impl Fn(&Ledger) -> Result<Option<Change>, CommandError>,
    ) -> Result<Attempt, CommandError> {
        let connections = only(Self::open_in(shard, target), if_generation)?;
        if connections.is_empty() {
            return Err(CommandError::NotConnected);
        }
        let changes = connections.iter().map(|connection| decide(&connection.ledger()));
        let changes = changes.collect::<Result<Vec<_>, _>>()?;
        let needed = changes.iter().flatten().count();
        if needed > room.len() {
            return Ok(Attempt::NeedsRoom(needed));
        }
        let (mut views, mut last) = (Vec::with_capacity(connections.len()), None);
        let now = self.clock.moment();
        for (connection, change) in connections.iter().zip(changes) {
            let mut ledger = connection.ledger();
            let kind = change.map(|change| change.make(&mut ledger));
            let (labels, cadence) = (ledger.labels.clone(), ledger.cadence);
            drop(ledger);
            if let Some((kind, room)) = kind.zip(room.pop()) {
                let entry = Entry::new(self.event(connection, labels.clone(), kind), room);
                if let Some(earlier) = last.replace(entry) {
                    self.log.submit(earlier);
                }
            }
            let member = shard.fold.find(connection.info().connection_id).and_then(|index| shard.fold.get(index));
            views.extend(member.map(|member| ConnectionView { labels, cadence, ..Self::view(member, &now) }));
        }
        // The queue's order is the log's: when the last is visible, so are those before it, which others may have submitted.
        let committed = last.map(|mut last| {
            let committed = last.notify();
            self.log.submit(last);
            committed
        });
        Ok(Attempt::Done(views, committed))
    }

    /// Waits until the fold shows these connections of a target as they are, or does not have them any more.
    async fn until_applied(&self, target: &Target, views: Vec<ConnectionView>) -> Result<Commanded, CommandError> {
        let mut head = self.log.watch_head();
        let applied = async {
            loop {
                head.mark_unchanged();
                let look = |shard: &mut Shard| (views.iter().all(|view| shows(shard, view)), self.exact_at(shard));
                let (all, exact_at) = self.with_target(target, look);
                if all || head.changed().await.is_err() {
                    return exact_at;
                }
            }
        };
        let offset = tokio::time::timeout(LOG_DEADLINE, applied).await.map_err(|_| CommandError::LogUnavailable)?;
        Ok(Commanded { connections: views, offset })
    }

    /// Asks for a Ping to each connection that a target names, now; each answers with the round trip, or with nothing if it ends first.
    #[must_use]
    pub fn probe(&self, target: &Target) -> Vec<(ConnectionId, oneshot::Receiver<Duration>)> {
        self.with_target(target, |shard| {
            Self::open_in(shard, target)
                .into_iter()
                .map(|connection| {
                    let (sender, receiver) = oneshot::channel();
                    if connection.ledger().add_probe(sender) {
                        connection.signal(signal::PROBE);
                    }
                    (connection.info().connection_id, receiver)
                })
                .collect()
        })
    }

    /// From now on nobody joins. Answers the connections there are, none of which will be followed by another.
    pub fn begin_drain(&self) -> Vec<Arc<Connection>> {
        self.draining.store(true, Ordering::SeqCst);
        (0..SHARDS).flat_map(|shard| self.lock(shard).locals().cloned().collect::<Vec<_>>()).collect()
    }
}

/// Whether the fold shows a connection as it is in a view, or as it came to be since, or does not have it any more.
fn shows(shard: &Shard, view: &ConnectionView) -> bool {
    let Some(member) = shard.fold.find(view.info.connection_id).and_then(|index| shard.fold.get(index)) else {
        return true;
    };
    let as_viewed = member.labels == view.labels && member.cadence == view.cadence;
    as_viewed
        || member.held.as_ref().is_some_and(|local| {
            let ledger = local.connection.ledger();
            member.labels == ledger.labels && member.cadence == ledger.cadence
        })
}
