//! The queue of submitted events: its order is the order of the log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::Slot;
use crate::event::Event;
use crate::position::Offset;

/// A submitted event on its way to being committed.
pub struct Entry {
    pub(super) event: Event,
    /// Given back, by being dropped, when the event is committed. None for a `Disconnected`: its room was set aside when its connection began.
    pub(super) slot: Option<Slot>,
    /// Told the offset once the event is committed and applied.
    pub(super) committed: Option<oneshot::Sender<Offset>>,
    pub(super) submitted: Instant,
    /// Must be committed together with the entry behind it.
    joined_to_next: bool,
}

impl Entry {
    /// An event that room was reserved for.
    #[must_use]
    pub fn new(event: Event, slot: Slot) -> Self {
        Self { event, slot: Some(slot), committed: None, submitted: Instant::now(), joined_to_next: false }
    }

    /// The `Disconnected` of a connection. Its room needs no slot: there is one for each connection that has a `Connected` in the log, and
    /// connections are bounded, so the queue stays bounded and ending a connection never waits.
    #[must_use]
    pub fn ending(event: Event) -> Self {
        Self { event, slot: None, committed: None, submitted: Instant::now(), joined_to_next: false }
    }

    /// Lets the submitter know when it is committed and applied.
    pub fn notify(&mut self) -> oneshot::Receiver<Offset> {
        let (sender, receiver) = oneshot::channel();
        self.committed = Some(sender);
        receiver
    }
}

/// Submitted and not yet committed. Bounded by the slots that entries hold and by the number of connections; it never refuses,
/// because who submits has the room already.
#[derive(Default)]
pub(super) struct SubmitQueue {
    entries: Mutex<VecDeque<Entry>>,
    filled: Notify,
}

impl SubmitQueue {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, entry: Entry) {
        self.entries().push_back(entry);
        self.filled.notify_one();
    }

    pub(super) fn push_pair(&self, mut first: Entry, second: Entry) {
        first.joined_to_next = true;
        {
            let mut entries = self.entries();
            entries.push_back(first);
            entries.push_back(second);
        }
        self.filled.notify_one();
    }

    /// The next batch, at most about `most` entries and `bytes` as `size` measures them, and at least one; a pair is not cut.
    pub(super) fn take(&self, most: usize, bytes: usize, size: impl Fn(&Event) -> usize) -> Vec<Entry> {
        let mut entries = self.entries();
        let (mut count, mut taken) = (0, 0);
        for entry in entries.iter().take(most) {
            taken += size(&entry.event);
            if count > 0 && taken > bytes {
                break;
            }
            count += 1;
        }
        while count > 0 && count < entries.len() && entries[count - 1].joined_to_next {
            count += 1;
        }
        let batch = entries.drain(..count).collect();
        if entries.is_empty() && entries.capacity() > 4096 {
            // What a storm of endings needed is not kept for ever.
            entries.shrink_to(1024);
        }
        batch
    }

    /// Waits until something may have been pushed.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }
}
