//! What a client owes while it is in the middle of something: to take what is being written to it, and to end the message that it began.

use std::task::{Context, Poll};
use std::time::Duration;

use super::deadline::Deadline;
use crate::clock::{Clock, Millis};

/// What is owed. In a box that is there only while something is: most clients owe nothing at most times.
#[derive(Default)]
pub(super) struct Dues(Option<Box<Owed>>);

#[derive(Default)]
struct Owed {
    /// Runs while a write waits for the client.
    write: Option<Deadline>,
    /// When the message that is being assembled began.
    partial_since: Option<Millis>,
}

impl Dues {
    /// Whether a write waits for the client.
    pub(super) fn is_write_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|owed| owed.write.is_some())
    }

    /// A write waits for the client; ready when it has for as long as `timeout`.
    pub(super) fn poll_write(&mut self, timeout: Duration, clock: &Clock, context: &mut Context<'_>) -> Poll<()> {
        let owed = self.0.get_or_insert_default();
        owed.write.get_or_insert_with(|| Deadline::after(timeout, clock)).poll(clock, context)
    }

    /// No write waits any more.
    pub(super) fn written(&mut self) {
        self.settle(|owed| owed.write = None);
    }

    /// Part of a message is there; since when that has been so.
    pub(super) fn partial_since(&mut self, now: Millis) -> Millis {
        *self.0.get_or_insert_default().partial_since.get_or_insert(now)
    }

    /// All that came is whole.
    pub(super) fn assembled(&mut self) {
        self.settle(|owed| owed.partial_since = None);
    }

    fn settle(&mut self, settle: impl FnOnce(&mut Owed)) {
        let Some(owed) = &mut self.0 else { return };
        settle(owed);
        if owed.write.is_none() && owed.partial_since.is_none() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_settled_by_itself_and_with_both_nothing_is_kept() {
        let clock = Clock::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut dues = Dues::default();
        assert_eq!(dues.partial_since(7), 7);
        assert!(dues.poll_write(Duration::from_secs(1), &clock, &mut context).is_pending());
        assert_eq!(dues.partial_since(9), 7, "since it began");
        dues.assembled();
        assert!(dues.is_write_waiting());
        dues.partial_since(11);
        dues.written();
        assert!(!dues.is_write_waiting());
        assert_eq!(dues.partial_since(13), 11);
        dues.assembled();
        assert!(dues.0.is_none());
    }
}
