//! The tasks without which a node is of no use: if one ends by itself, the process must not go on looking well.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns them and says when one has failed.
pub(super) struct Vital {
    tasks: TaskTracker,
    stop: CancellationToken,
    failed: CancellationToken,
}

impl Vital {
    /// They run among `tasks` and may end once `stop` is cancelled.
    pub(super) fn new(tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { tasks, stop, failed: CancellationToken::new() }
    }

    /// Cancelled when one has ended by itself.
    pub(super) fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    pub(super) fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn_until(self.stop.clone(), name, task);
    }

    /// Spawns one that may end once `until` is cancelled.
    pub(super) fn spawn_until(
        &self,
        until: CancellationToken,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let failed = self.failed.clone();
        self.tasks.spawn(async move {
            // Nothing it shares is used again: the process ends.
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if ended.is_err() || !until.is_cancelled() {
                tracing::error!(part = name, panicked = ended.is_err(), "a part that everything depends on has ended");
                failed.cancel();
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_panics_or_ends_early_is_noticed_and_one_that_was_told_to_is_not() {
        for (task, told, fails) in [("panics", false, true), ("ends", false, true), ("ends", true, false)] {
            let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
            let vital = Vital::new(tasks.clone(), stop.clone());
            if told {
                stop.cancel();
            }
            vital.spawn("a part", async move {
                if task == "panics" {
                    std::panic::resume_unwind(Box::new("a part panics"));
                }
            });
            tasks.close();
            tasks.wait().await;
            assert_eq!(vital.failed().is_cancelled(), fails, "{task}, told: {told}");
        }
    }
}
