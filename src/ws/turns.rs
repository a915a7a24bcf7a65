//! Handshakes that take turns: many in one task, of which a few are polled before others of the thread have theirs.
//!
//! With a task for each, a crowd that connects at once puts hundreds of handshakes before whatever is woken next, the heartbeats of those who are
//! connected among it; measured, these came up to 0.3 s late where now they come within 0.08 s (docs/performance.md).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::future::CatchUnwind;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};

/// Those polled in one turn: some tenths of a millisecond. What TLS has to compute is done elsewhere.
pub(super) const TOGETHER: usize = 8;

/// Futures of one task, a few of which are polled in each turn.
pub(super) struct Turns<F> {
    under_way: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Turn<F>>>>,
    /// How many may still be polled in this turn.
    left: Arc<AtomicUsize>,
}

pin_project_lite::pin_project! {
    /// One of them.
    struct Turn<F> {
        #[pin]
        future: F,
        left: Arc<AtomicUsize>,
    }
}

impl<F: Future<Output = ()>> Turns<F> {
    pub(super) fn new() -> Self {
        Self { under_way: FuturesUnordered::new(), left: Arc::default() }
    }

    /// How many are not done.
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// One more, which is polled in the next turn.
    pub(super) fn push(&mut self, future: F) {
        let turn = Turn { future, left: Arc::clone(&self.left) };
        self.under_way.push(AssertUnwindSafe(turn).catch_unwind());
    }

    /// Polls those that were woken, no more than [`TOGETHER`], and roughly the first of them first. If there are more, the task is woken again at once.
    pub(super) fn poll_some(&mut self, context: &mut Context<'_>) {
        self.left.store(TOGETHER, Ordering::Relaxed);
        // As in a task, a panic ends one and no other.
        while let Poll::Ready(Some(_)) = self.under_way.poll_next_unpin(context) {}
    }
}

impl<F: Future<Output = ()>> Future for Turn<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // All are polled by one task, so nothing comes between.
        let left = this.left.load(Ordering::Relaxed);
        if left == 0 {
            // One that wakes itself is polled again in a later turn, behind the others, and ends this one (FuturesUnordered: the second that does).
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.left.store(left - 1, Ordering::Relaxed);
        this.future.poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, poll_fn, ready};
    use std::task::{Wake, Waker};

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A turn, and whether another is wanted.
    fn turn<F: Future<Output = ()>>(turns: &mut Turns<F>) -> bool {
        let woken = Arc::new(Woken::default());
        turns.poll_some(&mut Context::from_waker(&Waker::from(Arc::clone(&woken))));
        woken.0.load(Ordering::Relaxed) > 0
    }

    #[test]
    fn a_crowd_is_seen_to_a_few_in_each_turn_and_nobody_is_forgotten() {
        let mut turns = Turns::new();
        for _ in 0..3 * TOGETHER + 1 {
            turns.push(ready(()));
        }
        for left in [2 * TOGETHER + 1, TOGETHER + 1, 1] {
            assert!(turn(&mut turns), "there are more");
            assert_eq!(turns.len(), left);
        }
        assert!(!turn(&mut turns), "all are done");
        assert_eq!(turns.len(), 0);
    }

    #[test]
    fn those_that_are_polled_and_go_on_count_as_well_as_those_that_are_done() {
        let polls = AtomicUsize::new(0);
        let endless = || {
            poll_fn(|context| {
                polls.fetch_add(1, Ordering::Relaxed);
                context.waker().wake_by_ref();
                Poll::Pending
            })
        };
        let mut turns = Turns::new();
        (0..3 * TOGETHER).for_each(|_| turns.push(endless()));
        for _ in 0..100 {
            let before = polls.load(Ordering::Relaxed);
            assert!(turn(&mut turns));
            let polled = polls.load(Ordering::Relaxed) - before;
            assert!((1..=TOGETHER).contains(&polled), "{polled}");
        }
        assert_eq!(turns.len(), 3 * TOGETHER);
    }

    #[test]
    fn one_that_waits_holds_up_nobody_and_asks_for_no_turn() {
        let mut turns = Turns::new();
        let waits = |waits| async move {
            if waits {
                pending().await
            }
        };
        (0..TOGETHER).for_each(|_| turns.push(waits(true)));
        turns.push(waits(false));
        assert!(turn(&mut turns), "one more has not been polled");
        assert!(!turn(&mut turns));
        assert_eq!(turns.len(), TOGETHER);
    }

    #[test]
    fn one_that_panics_ends_no_other() {
        let mut turns = Turns::new();
        for panics in [false, true, false] {
            turns.push(async move {
                if panics {
                    std::panic::resume_unwind(Box::new("a test's own"));
                }
            });
        }
        assert!(!turn(&mut turns));
        assert_eq!(turns.len(), 0);
    }
}
