//! Who is connected, as far as the end of a log has to know: the fold of a start, which then ends them all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{ConnectionInfo, EventKind, Record};
use crate::ids::ConnectionId;
use crate::labels::Labels;

/// The connections that a stretch of log leaves open.
///
/// A copy of the fold may already show some of what is replayed over it. That does no harm: who has come already comes again, who has gone
/// already is not there to go, and of labels the newest stay.
#[derive(Default)]
pub(super) struct Opens(HashMap<ConnectionId, Open>);

/// One of them.
pub(super) struct Open {
    pub(super) info: Arc<ConnectionInfo>,
    pub(super) labels: Labels,
}

impl Opens {
    /// Applies the next record.
    pub(super) fn apply(&mut self, record: Record) {
        let event = record.event;
        let id = event.connection.connection_id;
        match event.kind {
            EventKind::Connected(_) => {
                self.0.insert(id, Open { info: event.connection, labels: event.labels });
            }
            EventKind::Disconnected(_) => drop(self.0.remove(&id)),
            EventKind::LabelsChanged { .. } => {
                if let Some(open) = self.0.get_mut(&id) {
                    open.labels = event.labels;
                }
            }
            EventKind::Suspected { .. }
            | EventKind::Recovered { .. }
            | EventKind::MessageReceived(_)
            | EventKind::HeartbeatChanged(_)
            | EventKind::MessageExpired { .. } => {}
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Open> {
        self.0.values()
    }

    /// All of them, the oldest first.
    pub(super) fn into_sorted(self) -> Vec<Open> {
        let mut all: Vec<_> = self.0.into_values().collect();
        all.sort_by_key(|open| open.info.generation());
        all
    }
}
