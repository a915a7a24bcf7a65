//! Calls that can be answered at once are answered by the connection's own task; only those that have to wait get a task of their own.
//!
//! A `Send` hardly ever waits: its request came whole with its headers, and it is written to the client's socket by the call itself. A task for each,
//! as hyper makes with a runtime's executor, is woken on the other thread, where it contends with the connection for h2's lock of the
//! connection's streams; with 64 calls in flight that cost a third of the processor time of a `Send` (docs/performance.md).

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use hyper::rt::Executor;

/// Calls that are tried before what they answered is written, so that the first of many need not wait for the last.
const TOGETHER: usize = 32;

/// How often that may follow upon one another before other tasks of the thread have their turn: a backend whose calls never cease must not
/// keep another waiting for more than some milliseconds.
const TURNS: usize = 4;

/// Calls that may wait to be tried; the others get their tasks at once. More than a backend usually has in flight.
const MOST_WAITING: usize = TURNS * TOGETHER;

type Call = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The calls of one connection, which is driven by [`Calls::drive`]. When this is dropped, so are those that nobody has tried.
#[derive(Default)]
pub(super) struct Calls(Arc<Mutex<Waiting>>);

/// Where the connection hands its calls over. Each of them has a clone, so it must not keep alive what they wait in.
#[derive(Clone)]
pub(super) struct AtOnce(Weak<Mutex<Waiting>>);

/// Calls that nobody has tried yet, and whether they are about to be: while the connection is polled.
#[derive(Default)]
struct Waiting {
    calls: VecDeque<Call>,
    looked_after: bool,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for AtOnce {
    fn execute(&self, call: F) {
        if let Some(waiting) = self.0.upgrade() {
            let mut waiting = lock(&waiting);
            if waiting.looked_after && waiting.calls.len() < MOST_WAITING {
                return waiting.calls.push_back(Box::pin(call));
            }
        }
        tokio::spawn(call);
    }
}

impl Calls {
    /// What the connection is to be given.
    pub(super) fn executor(&self) -> AtOnce {
        AtOnce(Arc::downgrade(&self.0))
    }

    /// Drives the connection, and tries to answer its calls. May be dropped and called again for the same connection.
    pub(super) async fn drive<C: Future>(&self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|context| {
            for _ in 0..TURNS {
                // Reads whatever has come, and writes what was answered below.
                lock(&self.0).looked_after = true;
                let polled = connection.as_mut().poll(context);
                lock(&self.0).looked_after = false;
                if polled.is_ready() {
                    // What was asked before the end is done all the same.
                    while let Some(call) = self.next() {
                        tokio::spawn(call);
                    }
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
        lock(&self.0).calls.pop_front()
    }
}

/// Nobody panics while holding it.
fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that cannot be answered yet goes on in a task, which polls it again; so nobody has to be woken for this time.
fn try_one(mut call: Call) {
    // As in a task, a panic ends the call, whose stream is reset as it is dropped, and nobody else's.
    let tried = catch_unwind(AssertUnwindSafe(move || {
        let pending = call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
        pending.then_some(call)
    }));
    if let Ok(Some(call)) = tried {
        tokio::spawn(call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use tokio::sync::mpsc::{Receiver, Sender, channel};
    use tokio::task::Id;

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells in which task it was answered.
    fn answered_in(task: &Sender<Option<Id>>) -> Call {
        let task = task.clone();
        Box::pin(async move { task.try_send(tokio::task::try_id()).expect("room") })
    }

    fn answers() -> (Sender<Option<Id>>, Receiver<Option<Id>>) {
        channel(8 * MOST_WAITING)
    }

    /// The task of the next answer; one that does not come is a failure, and not waited for.
    async fn soon(answered: &mut Receiver<Option<Id>>) -> Option<Id> {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(1), answered.recv()).await;
        answer.expect("answered soon").expect("somebody to answer")
    }

    /// A connection that hands these calls over, so many each time it is polled, and ends when there is none left.
    fn connection(executor: AtOnce, calls: Vec<Call>, at_a_time: usize) -> impl Future<Output = ()> {
        let mut calls = calls.into_iter();
        poll_fn(move |context| {
            if calls.len() == 0 {
                return Poll::Ready(());
            }
            calls.by_ref().take(at_a_time).for_each(|call| executor.execute(call));
            context.waker().wake_by_ref();
            Poll::Pending
        })
    }

    /// Serves such a connection in a task, whose id this is.
    async fn serve(calls: Vec<Call>) -> Option<Id> {
        let driven = tokio::spawn(async move {
            let waiting = Calls::default();
            let connection = connection(waiting.executor(), calls, 1);
            waiting.drive(std::pin::pin!(connection)).await;
            tokio::task::try_id()
        });
        driven.await.expect("the connection's task lives")
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_need_not_wait_is_answered_in_the_connections_task() {
        let (told, mut answered) = answers();
        let task = serve(vec![answered_in(&told)]).await;
        assert_eq!(soon(&mut answered).await, task);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_waits_goes_on_in_a_task_of_its_own_and_stalls_nobody() {
        let (told, mut answered) = answers();
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let waiting = answered_in(&told);
        let waiting: Call = Box::pin(async move {
            released.await.expect("released");
            waiting.await;
        });
        let task = serve(vec![waiting, answered_in(&told)]).await;
        assert_eq!(soon(&mut answered).await, task, "the second is not held up by the first");
        release.send(()).expect("it waits");
        let other = soon(&mut answered).await;
        assert!(other.is_some() && other != task, "{other:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_or_cannot_be_dropped_ends_no_other() {
        struct Undroppable;
        impl Future for Undroppable {
            type Output = ();
            fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
                Poll::Ready(())
            }
        }
        impl Drop for Undroppable {
            fn drop(&mut self) {
                panic!("a test's own");
            }
        }
        let (told, mut answered) = answers();
        let panicking: Call = Box::pin(async { panic!("a test's own") });
        let task = serve(vec![panicking, Box::pin(Undroppable), answered_in(&told)]).await;
        assert_eq!(soon(&mut answered).await, task);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_in_the_connections_last_moment_is_done() {
        let (told, mut answered) = answers();
        let waiting = Calls::default();
        let (executor, mut call) = (waiting.executor(), Some(answered_in(&told)));
        let last = poll_fn(move |_| {
            executor.execute(call.take().expect("polled once"));
            Poll::Ready(())
        });
        waiting.drive(std::pin::pin!(last)).await;
        assert!(soon(&mut answered).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_calls_never_cease_lets_others_have_their_turn() {
        let (told, answered) = answers();
        let waiting = Calls::default();
        let executor = waiting.executor();
        let mut endless = std::pin::pin!(poll_fn(move |_| {
            executor.execute(answered_in(&told));
            Poll::<()>::Pending
        }));
        let mut driven = std::pin::pin!(waiting.drive(endless.as_mut()));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for turns in 1..=2 {
            assert!(driven.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!((answered.len(), woken.0.load(Ordering::Relaxed)), (turns * TURNS, turns), "and goes on");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_so_many_are_tried_before_the_connection_may_write() {
        let (told, answered) = answers();
        let waiting = Calls::default();
        let (executor, told_of) = (waiting.executor(), told.clone());
        let mut polls = Vec::new();
        let mut written = std::pin::pin!(poll_fn(|_| {
            if polls.is_empty() {
                (0..=TOGETHER).for_each(|_| executor.execute(answered_in(&told_of)));
            }
            polls.push(answered.len());
            if polls.len() < 3 { Poll::Pending } else { Poll::Ready(()) }
        }));
        waiting.drive(written.as_mut()).await;
        assert_eq!(polls, [0, TOGETHER, TOGETHER + 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_faster_than_it_is_tried_gets_tasks_and_does_not_pile_up() {
        let (told, mut answered) = answers();
        let waiting = Calls::default();
        let (executor, mut piled_up) = (waiting.executor(), None);
        let mut flood = std::pin::pin!(poll_fn(|_| {
            if piled_up.is_some() {
                return Poll::Ready(());
            }
            (0..3 * MOST_WAITING).for_each(|_| executor.execute(answered_in(&told)));
            piled_up = Some(lock(&waiting.0).calls.len());
            Poll::Pending
        }));
        waiting.drive(flood.as_mut()).await;
        assert_eq!(piled_up, Some(MOST_WAITING));
        for _ in 0..3 * MOST_WAITING {
            // Each is, in whichever task.
            soon(&mut answered).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_handed_over_by_a_call_that_goes_on_alone_is_done_though_the_connection_sleeps() {
        let (told, mut answered) = answers();
        let waiting = Calls::default();
        let executor = waiting.executor();
        let mut connection = std::pin::pin!(std::future::pending::<()>());
        let mut asleep = std::pin::pin!(waiting.drive(connection.as_mut()));
        assert!(asleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        executor.execute(answered_in(&told));
        assert!(soon(&mut answered).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_is_cut_off_leaves_no_call_behind() {
        let (told, answered) = answers();
        let waiting = Calls::default();
        // So many more than are tried that some are left.
        let at_a_time = TOGETHER + TURNS;
        let calls: Vec<Call> = (0..TURNS * at_a_time)
            .map(|_| {
                let (executor, call) = (waiting.executor(), answered_in(&told));
                Box::pin(async move {
                    call.await;
                    drop(executor);
                }) as Call
            })
            .collect();
        {
            let mut flood = std::pin::pin!(connection(waiting.executor(), calls, at_a_time));
            let mut driven = std::pin::pin!(waiting.drive(flood.as_mut()));
            assert!(driven.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        drop((waiting, told));
        assert_eq!(answered.len(), TURNS * TOGETHER);
        assert!(answered.is_closed(), "the calls that had not been tried are gone");
    }
}
