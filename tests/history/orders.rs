//! What the run tells its actors to do, and what they tell it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use crate::record::Pos;

/// What everybody is to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Connect, talk, come and go, each by its nature.
    Load,
    /// The same; those who are made for it stall.
    Stall,
    /// The same; everybody says a lot at once, so that the log is busy.
    Burst,
    /// Begin nothing new; clients stay connected and beat.
    Settle,
    /// Clients close and stay away.
    Leave,
    /// End.
    Quit,
}

impl Order {
    /// Whether there is to be traffic.
    pub fn busy(self) -> bool {
        matches!(self, Self::Load | Self::Stall | Self::Burst)
    }
}

/// What each client says in a burst.
pub const BURST: usize = 12;

/// What the run needs to know of its actors.
#[derive(Clone, Default)]
pub struct Pulse {
    /// WebSockets that clients hold open.
    pub sockets: Arc<AtomicUsize>,
    /// Clients that are silent or stalled, or wait to come back.
    pub unsettled: Arc<AtomicUsize>,
    /// `Subscribe` calls that are open.
    pub streams: Arc<AtomicI64>,
    /// Calls of backends under way.
    pub calls: Arc<AtomicUsize>,
    /// How far each subscriber without a filter has come.
    pub progress: Arc<Mutex<Vec<Progress>>>,
}

/// How far one subscriber has come.
pub type Progress = Arc<Mutex<Option<Pos>>>;

impl Pulse {
    pub fn progress(&self) -> Progress {
        let progress = Progress::default();
        self.progress.lock().expect("nobody panicked").push(Arc::clone(&progress));
        progress
    }

    /// Whether all who told their progress have come to a position.
    pub fn caught_up(&self, head: &Pos) -> bool {
        self.progress.lock().expect("nobody panicked").iter().all(|progress| {
            let progress = progress.lock().expect("nobody panicked");
            progress.as_ref().is_some_and(|at| at.epoch == head.epoch && at.offset >= head.offset)
        })
    }
}

/// Counts one more for as long as it lives.
pub struct Counted<T: Counter>(Arc<T>);

/// What can be counted up and down.
pub trait Counter {
    fn up(&self);
    fn down(&self);
}

impl Counter for AtomicUsize {
    fn up(&self) {
        self.fetch_add(1, Ordering::SeqCst);
    }
    fn down(&self) {
        self.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Counter for AtomicI64 {
    fn up(&self) {
        self.fetch_add(1, Ordering::SeqCst);
    }
    fn down(&self) {
        self.fetch_sub(1, Ordering::SeqCst);
    }
}

impl<T: Counter> Counted<T> {
    pub fn one(counter: &Arc<T>) -> Self {
        counter.up();
        Self(Arc::clone(counter))
    }
}

impl<T: Counter> Drop for Counted<T> {
    fn drop(&mut self) {
        self.0.down();
    }
}
