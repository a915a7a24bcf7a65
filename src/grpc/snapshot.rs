//! A snapshot under way: the state shard by shard, then what changed while it was copied.

use super::batch::BATCH_EVENTS;
use super::error::Error;
use super::event_batch::EventBatch;
use super::filter::Filter;
use super::leases::Lease;
use crate::event::{KindTag, Record};
use crate::position::Offset;
use crate::registry::{Registry, SHARDS};

/// The copy of the shards. Each copy is exact at its own offset; the log from the least of them to the greatest, less what the copies show
/// already, makes them one state.
pub(super) struct Snapshot {
    lease: Lease,
    /// The offset at which the copy of each shard is exact; as many as were copied.
    noted: Vec<Offset>,
}

impl Snapshot {
    pub(super) fn new(lease: Lease) -> Self {
        Self { lease, noted: Vec::with_capacity(SHARDS) }
    }

    /// The next connections; none once all were handed out. Gives way to other tasks after each shard.
    pub(super) async fn next_state(
        &mut self,
        registry: &Registry,
        filter: &Filter,
    ) -> Result<Option<EventBatch>, Error> {
        let mut batch = EventBatch::expecting(BATCH_EVENTS);
        loop {
            let mut members = self.lease.take()?;
            while let Some(view) = members.pop() {
                if filter.passes_connection(&view.info, &view.labels) && !batch.offer_state(&view) {
                    members.push(view);
                    self.lease.keep(members);
                    return Ok(Some(batch));
                }
            }
            if self.noted.len() == SHARDS {
                return Ok((!batch.is_empty()).then_some(batch));
            }
            let copy = registry.copy_shard(self.noted.len());
            self.noted.push(copy.offset);
            if filter.passes_kind(KindTag::Connected) {
                self.lease.keep(copy.members);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Says that the snapshot is being read.
    pub(super) fn touch(&self) -> Result<(), Error> {
        self.lease.take().map(|members| self.lease.keep(members))
    }

    /// What the log has to be read through: after the first offset, up to the second, where the state is whole.
    pub(super) fn stretch(&self) -> (Offset, Offset) {
        let least = self.noted.iter().copied().min().unwrap_or(0);
        (least, self.noted.iter().copied().max().unwrap_or(0))
    }

    /// Whether a record changes the state that was sent. Messages, received or expired, are no state.
    pub(super) fn changes(&self, record: &Record) -> bool {
        let event = &record.event;
        !matches!(event.kind.tag(), KindTag::MessageReceived | KindTag::MessageExpired)
            && record.offset > self.noted[Registry::shard_of(&event.connection.client_id)]
    }
}
