//! Whether the journal can go on, and what follows for newcomers when it cannot.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::log::{Budget, LogHealth};
use crate::metrics::Metrics;

/// After so long without an answer a disk counts as failing: far more than a sync takes on one that is only busy.
const LATE: Duration = Duration::from_secs(3);

/// What may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A batch cannot be written or synced.
    Commit,
    /// A write or sync was begun long ago, and the disk neither did it nor said that it cannot.
    Answer,
    /// No space can be set aside for what comes next.
    Spare,
}

/// The health of a journal: failing while any part is.
pub(super) struct Health {
    /// Since when the writer waits for the disk, if it does.
    asked: Mutex<Option<Instant>>,
    parts: Mutex<[Option<Arc<str>>; 3]>,
    told: watch::Sender<LogHealth>,
    budget: Budget,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(super) fn new(budget: Budget, metrics: Arc<Metrics>) -> Self {
        Self {
            asked: Mutex::default(),
            parts: Mutex::default(),
            told: watch::Sender::new(LogHealth::Committing),
            budget,
            metrics,
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<LogHealth> {
        self.told.subscribe()
    }

    /// The writer turns to the disk.
    pub(super) fn asked(&self) {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The disk has done what the writer asked, or failed at it.
    pub(super) fn answered(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *asked = None;
        self.works(Part::Answer);
    }

    /// Looks whether the writer waits for too long; it cannot say so itself.
    pub(super) fn look(&self, directory: &Path) {
        // Held throughout, so that an answer that comes now is not taken back.
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let late = asked.is_some_and(|asked| asked.elapsed() >= LATE);
        if late && !self.has_failed(Part::Answer) {
            let why = format!("{}: the disk has not answered for {} s", directory.display(), LATE.as_secs());
            self.failed(Part::Answer, &why);
        }
    }

    fn has_failed(&self, part: Part) -> bool {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)[part as usize].is_some()
    }

    /// A part failed, for this reason.
    pub(super) fn failed(&self, part: Part, why: &str) {
        self.metrics.journal_failures.inc();
        self.set(part, Some(why.into()));
    }

    /// A part works.
    pub(super) fn works(&self, part: Part) {
        self.set(part, None);
    }

    fn set(&self, part: Part, why: Option<Arc<str>>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts[part as usize] = why;
        let health =
            parts.iter().flatten().next().map_or(LogHealth::Committing, |why| LogHealth::Failing(Arc::clone(why)));
        let was = self.told.borrow().clone();
        if was == health {
            return;
        }
        // What is queued already can be carried; more might not.
        self.budget.set_open(health.is_committing());
        match (&was, &health) {
            (LogHealth::Committing, LogHealth::Failing(why)) => {
                tracing::error!(%why, "the log cannot be written; newcomers are refused, and it is tried again until it can");
            }
            (LogHealth::Failing(_), LogHealth::Committing) => tracing::info!("the log can be written again"),
            _ => {}
        }
        self.told.send_replace(health);
    }
}
