//! What backends ask of connections: disconnect, labels, heartbeat settings, probes, drain. Each answers when the log has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Connection, ConnectionView, Registry, SHARDS, Target, signal};
use crate::close::CloseReason;
use crate::event::{EventKind, Generation};
use crate::heartbeat::Cadence;
use crate::ids::ConnectionId;
use crate::labels::LabelsError;
use crate::log::Entry;
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
    #[error("the connection's generation is {actual}, not {expected}")]
    Generation {
        /// The one asked for.
        expected: Generation,
        /// The one that is there.
        actual: Generation,
    },
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
    /// The connections it was carried out on, as of just after it.
    pub connections: Vec<ConnectionView>,
    /// The offset as of which that is so.
    pub offset: Offset,
}

impl Registry {
    /// Ends the connections that a target names, and answers once they are GONE. Nobody there is no error.
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
            let mut ended = Vec::new();
            // One that is ending already is waited for too: the caller wants it gone.
            for member in Self::members(shard, target) {
                let Some(local) = &member.held else { continue };
                check_generation(&local.connection, if_generation)?;
                ended.push(Arc::clone(&local.connection));
            }
            for connection in &ended {
                if let Some(event) = self.seal(shard, connection, CloseReason::Kicked(code, reason.into())) {
                    self.log.submit(Entry::ending(event));
                }
            }
            Ok::<_, CommandError>((ended, self.exact_at(shard)))
        })?;
        let mut offset = seen_at;
        for connection in &ended {
            offset = offset.max(self.gone(connection).await?);
        }
        Ok((ended.iter().map(|connection| connection.info().connection_id).collect(), offset))
    }

    /// Waits until the `Disconnected` of a sealed connection is visible.
    async fn gone(&self, connection: &Connection) -> Result<Offset, CommandError> {
        let mut head = self.log.watch_head();
        let gone = async {
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
        };
        tokio::time::timeout(LOG_DEADLINE, gone).await.map_err(|_| CommandError::LogUnavailable)
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
        self.command(target, if_generation, |connection| {
            let mut ledger = connection.ledger();
            let labels = ledger.labels.changed(set.clone(), remove.clone())?;
            if labels == ledger.labels {
                return Ok(None);
            }
            let previous = std::mem::replace(&mut ledger.labels, labels);
            Ok(Some(EventKind::LabelsChanged { previous }))
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
        self.command(target, if_generation, |connection| {
            let mut ledger = connection.ledger();
            let old = ledger.cadence;
            let cadence =
                Cadence { interval: interval.unwrap_or(old.interval), timeout: timeout.unwrap_or(old.timeout) };
            if cadence.timeout <= cadence.interval {
                return Err(CommandError::Cadence { interval: cadence.interval, timeout: cadence.timeout });
            }
            if cadence == old {
                return Ok(None);
            }
            ledger.cadence = cadence;
            Ok(Some(EventKind::HeartbeatChanged(cadence)))
        })
        .await
    }

    /// Submits the event that is decided on for the connection that a target names, and waits until it is visible. When there is nothing to
    /// change, it waits for what was submitted before, so that the answer is of the log all the same.
    async fn command(
        &self,
        target: &Target,
        if_generation: Option<Generation>,
        mut decide: impl FnMut(&Arc<Connection>) -> Result<Option<EventKind>, CommandError>,
    ) -> Result<Commanded, CommandError> {
        let room = tokio::time::timeout(LOG_DEADLINE, self.log.budget().reserve(0));
        let mut room = Some(room.await.map_err(|_| CommandError::LogUnavailable)?);
        let (views, committed) = self.with_target(target, |shard| {
            // Under `replace` and `reject` a target names one connection at most.
            let Some(connection) = Self::open_in(shard, target).next() else { return Err(CommandError::NotConnected) };
            check_generation(&connection, if_generation)?;
            let kind = decide(&connection)?;
            let (labels, cadence) = {
                let ledger = connection.ledger();
                (ledger.labels.clone(), ledger.cadence)
            };
            let views: Vec<_> = Self::members(shard, target)
                .filter(|member| member.info.connection_id == connection.info().connection_id)
                .map(|member| ConnectionView { labels: labels.clone(), cadence, ..self.view(member) })
                .collect();
            let committed = match (kind, room.take()) {
                (Some(kind), Some(room)) => {
                    let mut entry = Entry::new(self.event(&connection, labels.clone(), kind), room);
                    let committed = entry.notify();
                    self.log.submit(entry);
                    Some(committed)
                }
                _ => None,
            };
            Ok((views, committed))
        })?;
        let Some(committed) = committed else {
            return self.until_applied(views).await;
        };
        let committed = tokio::time::timeout(LOG_DEADLINE, committed).await;
        let offset = committed.ok().and_then(Result::ok).ok_or(CommandError::LogUnavailable)?;
        Ok(Commanded { connections: views, offset })
    }

    /// Waits until the fold shows these connections as they are, or does not have them any more.
    async fn until_applied(&self, views: Vec<ConnectionView>) -> Result<Commanded, CommandError> {
        let mut head = self.log.watch_head();
        let applied = async {
            loop {
                head.mark_unchanged();
                let mut exact_at = 0;
                let all = views.iter().all(|view| {
                    let (found, offset) = self.get(&Target::Connection(view.info.connection_id));
                    exact_at = offset;
                    found.iter().all(|now| now.labels == view.labels && now.cadence == view.cadence)
                });
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
                .map(|connection| {
                    let (sender, receiver) = oneshot::channel();
                    let mut ledger = connection.ledger();
                    // Those who gave up waiting make room.
                    ledger.probes.retain(|probe| !probe.is_closed());
                    ledger.probes.push(sender);
                    drop(ledger);
                    connection.signal(signal::PROBE);
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

fn check_generation(connection: &Connection, expected: Option<Generation>) -> Result<(), CommandError> {
    let actual = connection.info().generation();
    match expected {
        Some(expected) if expected != actual => Err(CommandError::Generation { expected, actual }),
        _ => Ok(()),
    }
}
