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
    /// What the keeper does beside committing was begun long ago, and is not done. From here on: no reason yet to refuse anybody.
    Keeping,
    /// No checkpoint can be written.
    Checkpoint,
    /// What is forgotten cannot be removed.
    Removal,
}

impl Part {
    const ALL: [Self; 6] = [Self::Commit, Self::Answer, Self::Spare, Self::Keeping, Self::Checkpoint, Self::Removal];

    /// Whether the log can go on without it for now.
    const fn can_wait(self) -> bool {
        matches!(self, Self::Keeping | Self::Checkpoint | Self::Removal)
    }
}

/// The health of a journal: failing while any part is that cannot wait, ailing while any other is.
pub(super) struct Health {
    /// Since when the writer waits for the disk, if it does.
    asked: Mutex<Option<Instant>>,
    /// What the keeper is doing, and since when.
    keeping: Mutex<Option<(&'static str, Instant)>>,
    parts: Mutex<[Option<Arc<str>>; Part::ALL.len()]>,
    told: watch::Sender<LogHealth>,
    budget: Budget,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(super) fn new(budget: Budget, metrics: Arc<Metrics>) -> Self {
        Self {
            asked: Mutex::default(),
            keeping: Mutex::default(),
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

    /// The keeper begins a step of its work, named for people.
    pub(super) fn keeping(&self, what: &'static str) {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        *keeping = Some((what, Instant::now()));
        self.works(Part::Keeping);
    }

    /// The keeper has done what it had to, or failed at it.
    pub(super) fn kept(&self) {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        *keeping = None;
        self.works(Part::Keeping);
    }

    /// Looks whether the writer or the keeper waits for too long; they cannot say so themselves.
    pub(super) fn look(&self, directory: &Path) {
        // Held throughout, so that an answer that comes now is not taken back.
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let late = asked.is_some_and(|asked| asked.elapsed() >= LATE);
        if late && !self.has_failed(Part::Answer) {
            let why = format!("{}: the disk has not answered for {} s", directory.display(), LATE.as_secs());
            self.failed(Part::Answer, &why);
        }
        drop(asked);
        let keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((what, begun)) = *keeping
            && begun.elapsed() >= LATE
            && !self.has_failed(Part::Keeping)
        {
            let why = format!("{}: {what} has taken more than {} s", directory.display(), LATE.as_secs());
            self.failed(Part::Keeping, &why);
        }
    }

    /// Whether the keeper is at work.
    #[cfg(test)]
    pub(super) fn is_keeping(&self) -> bool {
        self.keeping.lock().unwrap_or_else(PoisonError::into_inner).is_some()
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
        let first = |can_wait| {
            let mut of = Part::ALL.into_iter().filter(|part| part.can_wait() == can_wait);
            of.find_map(|part| parts[part as usize].clone())
        };
        let health = match (first(false), first(true)) {
            (Some(why), _) => LogHealth::Failing(why),
            (None, Some(why)) => LogHealth::Ailing(why),
            (None, None) => LogHealth::Committing,
        };
        let was = self.told.borrow().clone();
        if was == health {
            return;
        }
        // What is queued already can be carried; more might not.
        self.budget.set_open(health.is_committing());
        if !was.is_committing() && health.is_committing() {
            tracing::info!("the log can be written again");
        }
        match (&was, &health) {
            (LogHealth::Committing | LogHealth::Ailing(_), LogHealth::Failing(why)) => {
                tracing::error!(%why, "the log cannot be written; newcomers are refused, and it is tried again until it can");
            }
            (LogHealth::Committing | LogHealth::Failing(_), LogHealth::Ailing(why)) => {
                tracing::warn!(%why, "the log is written, but not kept up; left so, it will fail. It is tried again until it works");
            }
            (LogHealth::Ailing(_), LogHealth::Committing) => tracing::info!("the log is kept up again"),
            _ => {}
        }
        self.told.send_replace(health);
    }
}
