//! Whether the journal can go on, and what follows for newcomers when it cannot.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::log::{Budget, LogHealth};
use crate::metrics::Metrics;

/// What may be wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A batch cannot be written or synced.
    Commit,
    /// No space can be set aside for what comes next.
    Spare,
}

/// The health of a journal: failing while any part is.
pub(super) struct Health {
    parts: Mutex<[Option<Arc<str>>; 2]>,
    told: watch::Sender<LogHealth>,
    budget: Budget,
    metrics: Arc<Metrics>,
}

impl Health {
    pub(super) fn new(budget: Budget, metrics: Arc<Metrics>) -> Self {
        Self { parts: Mutex::default(), told: watch::Sender::new(LogHealth::Committing), budget, metrics }
    }

    pub(super) fn watch(&self) -> watch::Receiver<LogHealth> {
        self.told.subscribe()
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
