//! Calls that can be answered at once are answered by the connection's own task; only those that have to wait get a task of their own.
//!
//! Most calls never wait: their request came whole with its headers, and a `Send` is written to the client's socket by the call itself. A task for each,
//! as hyper makes with a runtime's executor, is woken on the other thread, where it contends with the connection for h2's lock of the
//! connection's streams; with 64 calls in flight that cost a third of the processor time of a `Send` (docs/performance.md).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;

/// Calls that are tried before what they answered is written, so that the first of many need not wait for the last.
const TOGETHER: usize = 32;

/// How often that may follow upon one another before other tasks of the thread have their turn: a backend whose calls never cease must not
/// keep another waiting for more than some milliseconds.
const TURNS: usize = 4;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The calls of one connection that nobody has tried to answer yet: no more than it may have streams, since each comes of one.
#[derive(Clone, Default)]
pub(super) struct AtOnce(Arc<Mutex<VecDeque<Call>>>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for AtOnce {
    /// Called by the connection for each request, from within [`AtOnce::drive`].
    fn execute(&self, call: F) {
        self.calls().push_back(Box::pin(call));
    }
}

impl AtOnce {
    /// Drives a connection that hands its calls to this, and tries to answer them. It may be dropped and called again, as long as the connection is the same.
    pub(super) async fn drive<C: Future>(&self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|context| {
            for _ in 0..TURNS {
                // Reads whatever has come, and writes what was answered below.
                let polled = connection.as_mut().poll(context);
                if polled.is_ready() {
                    // What was asked before the end is done all the same.
                    self.calls().drain(..).for_each(|call| drop(tokio::spawn(call)));
                    return polled;
                }
                if !self.try_some() {
                    return Poll::Pending;
                }
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Tries the oldest calls; false if there was none.
    fn try_some(&self) -> bool {
        for tried in 0..TOGETHER {
            let Some(call) = self.next() else { return tried > 0 };
            try_one(call);
        }
        true
    }

    fn next(&self) -> Option<Call> {
        self.calls().pop_front()
    }

    /// Nobody panics while holding it.
    fn calls(&self) -> MutexGuard<'_, VecDeque<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that cannot be answered yet goes on in a task, which polls it again; so nobody has to be woken for this time.
fn try_one(mut call: Call) {
    let mut context = Context::from_waker(Waker::noop());
    // As in a task, a panic ends the call, whose stream is reset as it is dropped, and nobody else's.
    if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(&mut context))) {
        tokio::spawn(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use tokio::sync::mpsc::{Sender, channel};

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection that hands over one call each time it is polled, and ends when there is none left.
    fn connection(calls: &AtOnce, each: Vec<Call>) -> impl Future<Output = ()> + use<> {
        let (calls, mut each) = (calls.clone(), VecDeque::from(each));
        poll_fn(move |context| {
            let Some(call) = each.pop_front() else { return Poll::Ready(()) };
            calls.execute(call);
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Tells in which task it was answered.
    fn answered_in(task: Sender<Option<tokio::task::Id>>) -> Call {
        Box::pin(async move { task.try_send(tokio::task::try_id()).expect("room") })
    }

    async fn run(calls: Vec<Call>) -> Option<tokio::task::Id> {
        let at_once = AtOnce::default();
        let connection = connection(&at_once, calls);
        let driven = tokio::spawn(async move {
            at_once.drive(std::pin::pin!(connection)).await;
            tokio::task::try_id()
        });
        driven.await.expect("the connection's task lives")
    }

    #[tokio::test]
    async fn a_call_that_need_not_wait_is_answered_in_the_connections_task() {
        let (told, mut answered) = channel(2 * TOGETHER);
        let task = run(vec![answered_in(told)]).await;
        assert_eq!(answered.recv().await, Some(task));
    }

    #[tokio::test]
    async fn a_call_that_waits_goes_on_in_a_task_of_its_own_and_stalls_nobody() {
        let (told, mut answered) = channel(2 * TOGETHER);
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let waiting = answered_in(told.clone());
        let waiting: Call = Box::pin(async move {
            released.await.expect("released");
            waiting.await;
        });
        let task = run(vec![waiting, answered_in(told)]).await;
        assert_eq!(answered.recv().await, Some(task), "the second is not held up by the first");
        release.send(()).expect("it waits");
        let other = answered.recv().await.expect("answered");
        assert!(other.is_some() && other != task, "{other:?}");
    }

    #[tokio::test]
    async fn a_call_that_panics_ends_no_other() {
        let (told, mut answered) = channel(2 * TOGETHER);
        let panicking: Call = Box::pin(async { panic!("a test's own") });
        let task = run(vec![panicking, answered_in(told)]).await;
        assert_eq!(answered.recv().await, Some(task));
    }

    #[tokio::test]
    async fn what_was_asked_before_the_connection_ended_is_done() {
        let (told, mut answered) = channel(2 * TOGETHER);
        let at_once = AtOnce::default();
        at_once.execute(answered_in(told));
        at_once.drive(std::pin::pin!(std::future::ready(()))).await;
        assert!(answered.recv().await.is_some());
    }

    #[tokio::test]
    async fn a_connection_whose_calls_never_cease_lets_others_have_their_turn() {
        let (told, answered) = channel(2 * TURNS);
        let at_once = AtOnce::default();
        let calls = at_once.clone();
        let mut endless = std::pin::pin!(poll_fn(move |_| {
            calls.execute(answered_in(told.clone()));
            Poll::<()>::Pending
        }));
        let mut driven = std::pin::pin!(at_once.drive(endless.as_mut()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for turns in 1..=2 {
            assert!(driven.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!((answered.len(), woken.0.load(Ordering::Relaxed)), (turns * TURNS, turns), "and goes on");
        }
    }

    #[tokio::test]
    async fn no_more_than_so_many_are_tried_before_the_connection_may_write() {
        let at_once = AtOnce::default();
        let (told, answered) = channel(2 * TOGETHER);
        (0..TOGETHER + 1).for_each(|_| at_once.execute(answered_in(told.clone())));
        assert!(at_once.try_some());
        assert_eq!(answered.len(), TOGETHER);
        assert!(at_once.try_some());
        assert!(!at_once.try_some(), "nothing is left");
        assert_eq!(answered.len(), TOGETHER + 1);
    }
}
