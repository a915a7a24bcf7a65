//! The log: the ordered record of events, which is the truth that everything else is a fold of.
//!
//! Append is two steps. [`Log::submit`] puts an event in the log's queue and never waits; queue order is log order. Later the
//! log commits it (in the ring, synced, or acked, by implementation), gives it to the [`Apply`]er, and only then lets
//! readers see it. `contract.rs` is the suite that every implementation must pass.

mod budget;
#[cfg(test)]
pub(crate) mod contract;
pub mod journal;
mod memory;
mod queue;
mod ring;

pub use budget::{Budget, Slot};
pub use journal::JournalLog;
pub use memory::{MemoryLog, Retention};
pub use queue::Entry;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::UnixNanos;
use crate::event::Record;
use crate::position::{Epoch, Offset, Position};

/// A future behind `dyn Log`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The most records that one read hands out.
pub const READ_RECORDS: usize = 512;

/// An ordered record of events.
pub trait Log: Send + Sync + 'static {
    /// Which life of the log this is.
    fn epoch(&self) -> Epoch;

    /// What is kept.
    fn bounds(&self) -> Bounds;

    /// The offset of the newest record that is committed and applied, by itself: the least that can be asked, also under a lock.
    fn head(&self) -> Offset;

    /// The room in the queue, to be reserved from before a lock is taken.
    fn budget(&self) -> &Budget;

    /// Appends an event. Never waits and never fails: the room was reserved before.
    fn submit(&self, entry: Entry);

    /// Appends two events with nothing between them, committed together.
    fn submit_pair(&self, first: Entry, second: Entry);

    /// The records after `after`, oldest first, at most [`READ_RECORDS`]; none if there is nothing newer yet.
    /// Only what has been applied is handed out.
    fn read(&self, after: Offset) -> BoxFuture<'_, Result<Vec<Arc<Record>>, ReadError>>;

    /// The offset of the newest record that is committed and applied; changes wake the readers.
    fn watch_head(&self) -> watch::Receiver<Offset>;

    /// Whether it commits; changes wake those who watch.
    fn watch_health(&self) -> watch::Receiver<LogHealth>;

    /// Forgets what is too old by age; committing forgets what is too much. Called from time to time.
    fn retain(&self);
}

/// Whether a log can commit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LogHealth {
    /// It does.
    #[default]
    Committing,
    /// It does, but what it must do beside that fails or is not done in time, and it says what, for people: left so, it will fail. Newcomers are
    /// let in.
    Ailing(Arc<str>),
    /// It cannot, and says why, for people. What is submitted waits in its reserved room; it recovers by itself.
    Failing(Arc<str>),
}

impl LogHealth {
    /// Whether newcomers can expect to be committed.
    #[must_use]
    pub const fn is_committing(&self) -> bool {
        !matches!(self, Self::Failing(_))
    }
}

/// The ends of what a log keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// The offset before the oldest record kept: a reader at it misses nothing.
    pub before_oldest: Offset,
    /// The newest record that is committed and applied, hence seen by readers.
    pub head: Offset,
    /// The newest record that is committed; a cursor past it is not ours.
    pub committed: Offset,
    /// When the oldest record kept happened.
    pub oldest_time: Option<UnixNanos>,
    /// How many records are kept.
    pub records: usize,
    /// How many bytes they keep alive.
    pub bytes: usize,
}

/// Takes what was committed, in order, before any reader sees it.
pub trait Apply: Send + Sync {
    /// Applies a committed batch.
    fn apply(&self, batch: &[Arc<Record>]);
}

/// An applier whose fold can be copied, a part at a time, so that a start need not read what is older than the copy.
pub trait Checkpoint: Apply {
    /// How many parts there are.
    fn parts(&self) -> usize;

    /// One part as it is now.
    fn copy_part(&self, part: usize) -> FoldPart;
}

/// A part of the fold as it was at an offset.
pub struct FoldPart {
    /// Everything in the part up to here is in the copy, and perhaps a little more.
    pub exact_at: Offset,
    /// Its connections, each as the `Connected` that would make it what it is now.
    pub connections: Vec<Record>,
}

/// Folds nothing, for a log that nobody folds: the journal before anybody is connected, a benchmark, a test.
impl Apply for () {
    fn apply(&self, _: &[Arc<Record>]) {}
}

/// No parts: nobody is connected, however far the log has come. Where somebody is, a checkpoint of this would forget them.
impl Checkpoint for () {
    fn parts(&self) -> usize {
        0
    }

    fn copy_part(&self, _: usize) -> FoldPart {
        FoldPart { exact_at: 0, connections: Vec::new() }
    }
}

/// Why nothing can be read from a place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Records after that place are no longer kept.
    #[error("the log no longer keeps what follows this position")]
    Expired,
    /// What is kept cannot be read now, and perhaps soon can be: no descriptor is free, or the disk fails; says where and why, for people.
    #[error("the log cannot be read: {0}")]
    Unavailable(Arc<str>),
    /// What is kept cannot be read back; says where and why, for people.
    #[error("the log is damaged: {0}")]
    Damaged(Arc<str>),
}

/// A place to read from that a cursor names, checked against the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Another life of the log.
    #[error("the cursor is of another epoch of the log")]
    OtherEpoch,
    /// Past the end: not a cursor of this log.
    #[error("the cursor is ahead of the log")]
    Ahead,
    /// What follows it is no longer kept.
    #[error("the log no longer keeps what follows the cursor")]
    Expired,
}

/// The offset to read on from for a position that a backend hands in.
///
/// # Errors
/// Says why the log cannot be read from there.
pub fn resume_from(log: &dyn Log, position: Position) -> Result<Offset, CursorError> {
    if position.epoch != log.epoch() {
        return Err(CursorError::OtherEpoch);
    }
    let bounds = log.bounds();
    if position.offset > bounds.committed {
        return Err(CursorError::Ahead);
    }
    if position.offset < bounds.before_oldest {
        return Err(CursorError::Expired);
    }
    Ok(position.offset)
}
