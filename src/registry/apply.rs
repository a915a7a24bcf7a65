//! The applier: the only code that edits the fold, called by the log with what it committed.

use std::sync::Arc;

use super::fold::{Change, Index};
use super::registration::uncommitted_cost;
use super::wheel::tick_at;
use super::{Local, Registry, SHARDS, Shard, signal};
use crate::clock::Millis;
use crate::event::{Connected, Event, EventKind, Record, Replaces};
use crate::heartbeat::Pulse;
use crate::log::{Apply, Checkpoint, FoldPart};

impl Apply for Registry {
    fn apply(&self, batch: &[Arc<Record>]) {
        let now = self.clock.now();
        for record in batch {
            let mut shard = self.lock_of(&record.event.connection);
            shard.apply(record, now);
        }
    }
}

impl Checkpoint for Registry {
    fn parts(&self) -> usize {
        SHARDS
    }

    fn copy_part(&self, part: usize) -> FoldPart {
        let shard = self.lock(part);
        let connections = shard.fold.iter().map(|(_, member)| Record {
            offset: member.info.generation(),
            event: Event {
                time: member.info.connect_time,
                connection: Arc::clone(&member.info),
                labels: member.labels.clone(),
                kind: EventKind::Connected(Connected {
                    cadence: member.cadence,
                    state: member.state,
                    replaces: Replaces::Nothing,
                }),
            },
        });
        FoldPart { connections: connections.collect(), exact_at: self.exact_at(&shard) }
    }
}

impl Shard {
    fn apply(&mut self, record: &Record, now: Millis) {
        let event = &record.event;
        let (joining, mut joined) = (&mut self.joining, None);
        let change = self.fold.apply(record, |client| {
            let connection = joining.take(client, event.connection.connection_id)?;
            joined = Some(Arc::clone(&connection));
            let pulse = Pulse::start(now, connection.cadence(), fastrand::f64());
            Some(Local { connection, pulse, due: 0 })
        });
        match change {
            Change::Joined(index) => {
                self.look_at(index, now);
                // Only now is it routable and listed; so only now may its driver go on.
                if let Some(connection) = joined {
                    self.joined_with_mail(&connection);
                    connection.signal(signal::COMMITTED);
                }
            }
            Change::Left(member) => {
                if let Some(local) = member.held {
                    local.connection.set_ended_at(record.offset);
                }
            }
            Change::Touched(index) => self.touched(index, &event.kind, now),
            Change::Unknown => {}
        }
        self.last_applied = record.offset;
    }

    fn touched(&mut self, index: Index, kind: &EventKind, now: Millis) {
        let Some(Some(local)) = self.fold.held_mut(index) else { return };
        match kind {
            EventKind::MessageReceived(payload) => {
                local.connection.sub_uncommitted(uncommitted_cost(payload.len()));
                local.connection.committed_message();
            }
            // A lost socket is no flapping heartbeat: whoever resumed may be SUSPECT again at once.
            EventKind::Recovered { resumed: false, .. } => local.pulse.recovered(now),
            EventKind::HeartbeatChanged(cadence) => {
                local.connection.set_cadence(*cadence);
                if local.connection.reliable().is_some() {
                    // Its client is told.
                    local.connection.wake();
                }
                // The new settings count from now: what was silence under the old ones is not held against the client.
                local.connection.excuse(now);
                local.pulse.next_beat = local.pulse.next_beat.min(now + Millis::from(cadence.interval));
                self.look_at(index, now);
            }
            _ => {}
        }
    }

    /// Has the sweep look at a connection as soon as it can, which sets its next timer.
    fn look_at(&mut self, index: Index, now: Millis) {
        let due = self.wheel.set(index, tick_at(now));
        if let Some(Some(local)) = self.fold.held_mut(index) {
            local.due = due;
        }
    }
}
