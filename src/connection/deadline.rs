//! Deadlines for what a client or the log owes, in liveness time: a process that stood still holds it against nobody.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::clock::{Clock, Millis};

/// A moment of liveness time to be waited for. Made only when something is late, so that who is on time pays nothing for it.
pub(super) struct Deadline {
    until: Millis,
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    pub(super) fn after(span: Duration, clock: &Clock) -> Self {
        Self { until: clock.now() + span.as_millis() as Millis, sleep: Box::pin(sleep(span)) }
    }

    pub(super) fn poll(&mut self, clock: &Clock, context: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(context));
            let left = self.until.saturating_sub(clock.now());
            if left == 0 {
                return Poll::Ready(());
            }
            // The timer runs on while a process is stopped; liveness time does not.
            self.sleep = Box::pin(sleep(Duration::from_millis(left)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_does_not_use_a_deadline_up() {
        let clock = Clock::default();
        let period = Duration::from_millis(100);
        clock.expect_sweep(period);
        let mut deadline = Deadline::after(Duration::from_secs(10), &clock);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let mut over = is_over(&mut deadline, &clock).await;
        assert!(!over, "an hour asleep is not ten seconds of waiting");
        for _ in 0..101 {
            clock.expect_sweep(period);
            over = is_over(&mut deadline, &clock).await;
            tokio::time::advance(period).await;
        }
        assert!(over);
    }

    async fn is_over(deadline: &mut Deadline, clock: &Clock) -> bool {
        poll_fn(|context| Poll::Ready(deadline.poll(clock, context).is_ready())).await
    }
}
