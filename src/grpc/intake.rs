//! The body of a request that is read whole before anything is done: in time, and within what all such bodies may hold together.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::error::Error;

/// How long a request may take to arrive.
const DEADLINE: Duration = Duration::from_secs(30);

/// What requests that are still arriving may hold in all, over all connections: room for sixteen of the largest.
const BYTES: usize = 64 << 20;

/// The unit that is counted in.
const GRAIN: usize = 1 << 10;

/// The room for requests that are arriving.
#[derive(Clone)]
pub(super) struct Intake(Arc<Semaphore>);

impl Default for Intake {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BYTES / GRAIN)))
    }
}

impl Intake {
    /// A body that is bounded in time and in what it holds. What is over a bound is refused; nothing waits.
    pub(super) fn bound<B>(&self, body: B) -> Bounded<B> {
        Bounded { body, room: Arc::clone(&self.0), held: None, deadline: None }
    }
}

/// See [`Intake::bound`].
pub(super) struct Bounded<B> {
    body: B,
    room: Arc<Semaphore>,
    held: Option<OwnedSemaphorePermit>,
    /// Until when it has to be there; none before it had to be waited for. Most requests come whole with their headers.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Bounded<B> {
    fn take_room(&mut self, bytes: usize) -> Result<(), Error> {
        let count = u32::try_from(bytes.div_ceil(GRAIN)).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.room).try_acquire_many_owned(count).map_err(|_| Error::RequestsLimit)?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| self.take_room(data.len()));
                Poll::Ready(Some(taken.map(|()| frame).map_err(Status::from)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(Status::from_error(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(DEADLINE)));
                deadline.as_mut().poll(context).map(|()| Some(Err(Error::RequestTooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tonic_types::StatusExt as _;

    fn reason(status: &Status) -> String {
        status.get_details_error_info().expect("an ErrorInfo").reason
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_ends_is_given_up() {
        let stream = StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, Status>>());
        let began = tokio::time::Instant::now();
        let refused = Intake::default().bound(stream).collect().await.expect_err("given up");
        assert_eq!((reason(&refused).as_str(), began.elapsed()), ("REQUEST_TOO_SLOW", DEADLINE));
    }

    #[tokio::test]
    async fn requests_that_arrive_hold_so_much_together_and_give_it_back() {
        let intake = Intake::default();
        let full = || intake.bound(Full::new(Bytes::from(vec![0; BYTES / 2])));
        let (mut first, mut second) = (full(), full());
        first.frame().await.expect("a frame").expect("room");
        second.frame().await.expect("a frame").expect("room");
        let refused = full().frame().await.expect("a frame").expect_err("no room");
        assert_eq!(reason(&refused), "REQUESTS_LIMIT");
        drop(first);
        full().frame().await.expect("a frame").expect("room");
    }
}
