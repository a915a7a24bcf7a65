//! One `Subscribe` stream: a reader of the log at its own place, which does something only when it is polled.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Shared;
use super::error::{Ends, Error, Item};
use super::event_batch::{EventBatch, Response};
use super::filter::Filter;
use super::snapshot::Snapshot;
use super::subscribers::Seat;
use crate::consumers::Attachment;
use crate::event::Record;
use crate::log::ReadError;
use crate::position::{Cursors, Offset};

/// An idle stream says this often how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

/// Where a stream begins.
pub(super) enum Start {
    /// The state, then the log.
    Snapshot(Snapshot),
    /// The log after this offset, which the caller is told at once: lost before its first event, it could not resume otherwise.
    At(Offset),
    /// The log after this offset, which the caller knows.
    Cursor(Offset),
    /// The oldest that is kept by the time it is read.
    Beginning,
}

/// What the stream is doing.
enum Phase {
    /// About to say where it begins.
    Greeting,
    /// Sending copies of the shards.
    State(Snapshot),
    /// Sending what changed until the offset at which the copies are one state.
    Changes(Snapshot, Offset),
    /// Sending the log. `pinned` once something depends on the place it reads from; before that, the oldest kept will do.
    Log { pinned: bool },
}

pub(super) struct Subscription {
    shared: Arc<Shared>,
    filter: Filter,
    seat: Seat,
    cursors: Cursors,
    phase: Phase,
    /// Everything up to here was sent, or does not pass.
    at: Offset,
    head: watch::Receiver<Offset>,
    /// The last offset to carry in a shutdown.
    last: watch::Receiver<Option<Offset>>,
    now: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The use of a consumer, if it has one.
    attachment: Option<Attachment>,
    /// When something was sent last, and a timer that comes up no later than the bookmark is due.
    sent: Instant,
    bookmark: Pin<Box<Sleep>>,
}

impl Subscription {
    pub(super) fn new(
        shared: Arc<Shared>,
        filter: Filter,
        seat: Seat,
        start: Start,
        attachment: Option<Attachment>,
    ) -> Self {
        let log = shared.registry.log();
        let bounds = log.bounds();
        let (phase, at) = match start {
            Start::Snapshot(snapshot) => (Phase::State(snapshot), bounds.head),
            Start::At(offset) => (Phase::Greeting, offset),
            Start::Cursor(offset) => (Phase::Log { pinned: true }, offset),
            Start::Beginning => (Phase::Log { pinned: false }, bounds.before_oldest),
        };
        seat.moved(at);
        let cursors = Cursors::new(log.epoch());
        let (head, last) = (log.watch_head(), shared.closing.last());
        let now = Box::pin(shared.closing.now().clone().cancelled_owned());
        let sent = Instant::now();
        let bookmark = Box::pin(tokio::time::sleep_until(sent + BOOKMARK_EVERY));
        Self { shared, filter, seat, cursors, phase, at, head, last, now, attachment, sent, bookmark }
    }

    /// The stream; after an error it ends, and what it held is freed with it.
    pub(super) fn into_stream(self) -> impl Stream<Item = Item<Response>> {
        stream::unfold(Some(self), |subscription| async move {
            let mut subscription = subscription?;
            match subscription.next().await {
                Ok(response) => {
                    subscription.sent = Instant::now();
                    subscription.seat.moved(subscription.at);
                    if let Some(attachment) = subscription.attachment.as_ref().filter(|_| response.has_cursor) {
                        attachment.sent(subscription.at);
                    }
                    subscription.shared.metrics.delivered.inc_by(response.events as u64);
                    Some((Ok(response), Some(subscription)))
                }
                Err(error) => {
                    subscription.shared.metrics.subscriptions_ended.inc();
                    Some((Err(error.into()), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Response, Error> {
        loop {
            self.check_ended()?;
            let response = match &mut self.phase {
                Phase::Greeting => Some(self.greet()),
                Phase::State(_) => self.next_state().await?,
                Phase::Changes(..) => self.next_changes().await?,
                Phase::Log { .. } => self.next_news().await?,
            };
            if let Some(response) = response {
                return Ok(response);
            }
        }
    }

    /// Ends the stream when its consumer is no longer its own, at the deadline of a shutdown, or once it has carried everything.
    fn check_ended(&self) -> Result<(), Error> {
        if let Some(ended) = self.attachment.as_ref().and_then(Attachment::ended) {
            return Err(ended.into());
        }
        let carried = matches!(self.phase, Phase::Log { .. }) && self.last.borrow().is_some_and(|last| self.at >= last);
        if carried || self.shared.closing.now().is_cancelled() { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    fn greet(&mut self) -> Response {
        self.phase = Phase::Log { pinned: true };
        self.bookmark()
    }

    /// Says how far the stream is.
    fn bookmark(&self) -> Response {
        Response::bookmark(&self.cursors.at(self.at))
    }

    async fn next_state(&mut self) -> Result<Option<Response>, Error> {
        let Phase::State(snapshot) = &mut self.phase else { return Ok(None) };
        if let Some(batch) = snapshot.next_state(&self.shared.registry, &self.filter).await? {
            return Ok(Some(batch.state()));
        }
        let (from, until) = snapshot.stretch();
        self.at = from;
        if let Phase::State(snapshot) = std::mem::replace(&mut self.phase, Phase::Log { pinned: true }) {
            self.phase = Phase::Changes(snapshot, until);
        }
        Ok(None)
    }

    async fn next_changes(&mut self) -> Result<Option<Response>, Error> {
        let Phase::Changes(snapshot, until) = &self.phase else { return Ok(None) };
        let until = *until;
        if self.at >= until {
            // Whole: the response that says so has the cursor, and the snapshot's place is free.
            self.phase = Phase::Log { pinned: true };
            return Ok(Some(self.bookmark()));
        }
        snapshot.touch()?;
        let Some(records) = self.read().await? else {
            // A copy may be a little ahead of what readers see.
            self.wait().await?;
            return Ok(None);
        };
        let Phase::Changes(snapshot, _) = &self.phase else { return Ok(None) };
        let mut batch = EventBatch::expecting(records.len());
        for record in records.iter().take_while(|record| record.offset <= until) {
            let passes = snapshot.changes(record) && self.filter.passes(&record.event);
            if passes && !batch.offer(&record.event, None) {
                break;
            }
            self.at = record.offset;
        }
        if batch.is_empty() {
            tokio::task::yield_now().await;
            return Ok(None);
        }
        Ok(Some(batch.state()))
    }

    async fn next_news(&mut self) -> Result<Option<Response>, Error> {
        let Some(records) = self.read().await? else {
            let due = self.wait().await?;
            return Ok(due.then(|| self.bookmark()));
        };
        let mut batch = EventBatch::expecting(records.len());
        for record in &records {
            // What has no room is read again next time: keeping it would keep its payload alive for a stream that may never be read.
            if self.filter.passes(&record.event) && !batch.offer(&record.event, Some(&self.cursors.at(record.offset))) {
                break;
            }
            self.at = record.offset;
        }
        if batch.is_empty() && self.sent.elapsed() < BOOKMARK_EVERY {
            self.seat.moved(self.at);
            tokio::task::yield_now().await;
            return Ok(None);
        }
        Ok(Some(batch.news(&self.cursors.at(self.at))))
    }

    /// The records after the present place; none if there are none yet.
    async fn read(&mut self) -> Result<Option<Vec<Arc<Record>>>, Error> {
        // Seen before it is read: what comes in between makes the next wait return at once.
        if *self.head.borrow_and_update() <= self.at {
            return Ok(None);
        }
        let log = self.shared.registry.log();
        loop {
            let read = tokio::select! {
                biased;
                // A disk that does not answer does not hold up the end.
                () = self.now.as_mut() => return Err(Error::ShuttingDown),
                read = log.read(self.at) => read,
            };
            match read {
                Ok(records) => {
                    if let Phase::Log { pinned } = &mut self.phase {
                        *pinned = true;
                    }
                    return Ok((!records.is_empty()).then_some(records));
                }
                Err(ReadError::Expired) if matches!(self.phase, Phase::Log { pinned: false }) => {
                    self.at = log.bounds().before_oldest;
                }
                Err(ReadError::Expired) => return Err(Error::CursorExpired(Ends::of(&self.shared.registry))),
                Err(ReadError::Unavailable(why)) => return Err(Error::LogUnread(why)),
                Err(ReadError::Damaged(why)) => return Err(Error::LogDamaged(why)),
            }
        }
    }

    /// Waits for a newer head, news of a shutdown or of its consumer (false), or until a bookmark is due (true).
    async fn wait(&mut self) -> Result<bool, Error> {
        if self.bookmark.is_elapsed() {
            let due = self.sent + BOOKMARK_EVERY;
            if due <= Instant::now() {
                return Ok(true);
            }
            self.bookmark.as_mut().reset(due);
        }
        let (now, bookmark) = (&mut self.now, &mut self.bookmark);
        let over = std::future::poll_fn(|context| {
            if now.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(Error::ShuttingDown));
            }
            bookmark.as_mut().poll(context).map(Ok)
        });
        tokio::select! {
            biased;
            over = over => over?,
            // An error would mean that its sender is gone; both live as long as the services.
            () = not_ours(&mut self.attachment) => {}
            _ = self.last.changed() => {}
            _ = self.head.changed() => {}
        }
        Ok(false)
    }
}

/// Waits until the consumer is no longer the stream's own; for ever if it has none.
async fn not_ours(attachment: &mut Option<Attachment>) {
    match attachment {
        Some(attachment) => attachment.wait_ended().await,
        None => std::future::pending().await,
    }
}
