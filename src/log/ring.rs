//! The records that a log keeps in memory, bounded by bytes and age.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{READ_RECORDS, ReadError};
use crate::clock::UnixNanos;
use crate::event::Record;
use crate::position::Offset;

/// Consecutive records, the newest of a log. When it holds more than its bytes the oldest go; it never waits for a reader.
pub(super) struct Ring {
    records: VecDeque<Arc<Record>>,
    /// The offset before the first record kept.
    before_oldest: Offset,
    bytes: usize,
    max_bytes: usize,
}

impl Ring {
    /// An empty ring whose first record will have the offset after `last`.
    pub(super) fn new(last: Offset, max_bytes: usize) -> Self {
        Self { records: VecDeque::new(), before_oldest: last, bytes: 0, max_bytes }
    }

    /// The offset of the newest record ever pushed.
    pub(super) fn last(&self) -> Offset {
        self.before_oldest + self.records.len() as Offset
    }

    pub(super) fn before_oldest(&self) -> Offset {
        self.before_oldest
    }

    pub(super) fn oldest_time(&self) -> Option<UnixNanos> {
        self.records.front().map(|record| record.event.time)
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the next records.
    pub(super) fn push(&mut self, batch: &[Arc<Record>]) {
        for record in batch {
            debug_assert_eq!(record.offset, self.last() + 1);
            self.bytes += record.weight();
            self.records.push_back(Arc::clone(record));
        }
        // The newest is kept whatever its size: otherwise nobody could ever read it.
        while self.bytes > self.max_bytes && self.records.len() > 1 {
            self.forget_oldest();
        }
    }

    /// Forgets what happened before `time`.
    pub(super) fn forget_before(&mut self, time: UnixNanos) {
        while self.oldest_time().is_some_and(|oldest| oldest < time) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(record) = self.records.pop_front() {
            self.bytes -= record.weight();
            self.before_oldest = record.offset;
        }
    }

    /// The records after `after` and not past `until`.
    pub(super) fn read(&self, after: Offset, until: Offset) -> Result<Vec<Arc<Record>>, ReadError> {
        if after < self.before_oldest {
            return Err(ReadError::Expired);
        }
        let skip = usize::try_from(after - self.before_oldest).unwrap_or(usize::MAX).min(self.records.len());
        let end = usize::try_from(until - self.before_oldest).unwrap_or(0).min(self.records.len());
        let end = end.min(skip.saturating_add(READ_RECORDS));
        Ok(if skip >= end { Vec::new() } else { self.records.range(skip..end).cloned().collect() })
    }
}
