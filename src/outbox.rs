//! The outbox: the bounded queue of frames waiting to be written to one connection, and its line while that has nothing to do.

mod lent;

pub use lent::{Reclaimed, Sent, Taken};

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::event::Payload;
use crate::line::Line;
use lent::Holder;

/// How much may wait for one connection.
#[derive(Clone, Copy, Debug)]
pub struct OutboxLimits {
    /// Frames.
    pub frames: usize,
    /// Bytes of their payloads.
    pub bytes: usize,
}

/// A frame on its way to a client.
#[derive(Debug)]
pub struct Frame {
    /// What to send.
    pub payload: Payload,
    /// What the backend called it.
    pub id: Option<Arc<str>>,
    /// Told when the kernel has taken the last byte; dropped if that will never be known, or never happen.
    pub receipt: Option<oneshot::Sender<Written>>,
    /// Told when the client has acknowledged it; dropped if that will never be known.
    pub acked: Option<oneshot::Sender<()>>,
    /// Not to be written after this.
    pub deadline: Option<Instant>,
}

/// What becomes of a frame that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// The kernel took its last byte before our Close.
    Yes,
    /// Its deadline passed first; no byte of it was written.
    Expired,
}

/// Why a frame is not accepted. Full is not closed: the one may be tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Over the limits.
    Full,
    /// The connection is ending.
    Closed,
}

/// The frames waiting for one connection. When full it refuses; nothing waits for a slow client. Empty, it owns no memory.
#[derive(Debug, Default)]
pub struct Outbox(Mutex<Queue>);

/// A frame, and whether it is a stored message, which can be taken back.
#[derive(Debug)]
struct Queued {
    frame: Frame,
    mail: bool,
    /// How many bytes of it, header and all, went out by the line; more than 0 only at the front, until the driver takes the line back.
    begun: usize,
}

#[derive(Debug, Default)]
struct Queue {
    /// None when there is nothing: of most connections at most times, which is why it is not in here.
    waiting: Option<Box<Waiting>>,
    /// Of an open connection, once its driver has lent it, unless a sender has it.
    line: Option<Line>,
    /// Dropped because they were late, and not counted yet by who pops.
    expired: u32,
    closed: bool,
    /// Stored messages come first: anything else is refused as if it were full.
    held: bool,
    holder: Holder,
}

/// What waits; never empty.
#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Queued>,
    /// Of their payloads.
    bytes: usize,
}

impl Outbox {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame. While the outbox is held for stored messages it is full for anything else.
    ///
    /// # Errors
    /// [`Refused`], with the frame dropped.
    pub fn push(&self, frame: Frame, limits: OutboxLimits) -> Result<(), Refused> {
        let mut queue = self.queue();
        if queue.held && !queue.closed {
            return Err(Refused::Full);
        }
        queue.push(frame, limits, false).map_err(|(refused, _)| refused)
    }

    /// Adds a stored message; an empty outbox takes one of any size, or it could never be sent once the limits are lower than they were when it
    /// was stored. With the last of them the outbox is open to others again, in the same moment, so that nothing comes between.
    ///
    /// # Errors
    /// [`Refused`], with the frame handed back.
    pub fn push_mail(&self, frame: Frame, limits: OutboxLimits, last: bool) -> Result<(), (Refused, Frame)> {
        let mut queue = self.queue();
        queue.drop_late(Instant::now());
        let bytes = if queue.waiting.is_none() { usize::MAX } else { limits.bytes };
        queue.push(frame, OutboxLimits { bytes, ..limits }, true)?;
        queue.held &= !last;
        Ok(())
    }

    /// Takes the stored messages back that nobody has begun to write; their receipts learn nothing more. The rest stays, in its order.
    ///
    /// Answers how many were.
    pub fn withdraw_mail(&self) -> u64 {
        let mut queue = self.queue();
        let Some(waiting) = &mut queue.waiting else { return 0 };
        let before = waiting.frames.len();
        waiting.frames.retain(|queued| !queued.mail);
        let withdrawn = before - waiting.frames.len();
        waiting.bytes = waiting.frames.iter().map(|queued| queued.frame.payload.len()).sum();
        if waiting.frames.is_empty() {
            queue.waiting = None;
        }
        withdrawn as u64
    }

    /// Says whether stored messages come first.
    pub fn hold(&self, held: bool) {
        self.queue().held = held;
    }

    /// Takes the next frame to write. One whose deadline has passed is told so and skipped; how many were is the second answer.
    pub fn pop(&self, now: Instant) -> (Option<Frame>, u64) {
        self.pop_fitting(now, usize::MAX)
    }

    /// The same, but a frame with a payload of more bytes than `room` stays where it is, and so does what is behind it.
    pub fn pop_fitting(&self, now: Instant, room: usize) -> (Option<Frame>, u64) {
        let mut queue = self.queue();
        queue.drop_late(now);
        let expired = u64::from(std::mem::take(&mut queue.expired));
        (queue.pop_if(|queued| queued.frame.payload.len() <= room), expired)
    }

    /// Drops frames at the front whose deadline has passed and tells them so, where nothing can be written for now. Answers how many were.
    pub fn drop_late(&self, now: Instant) -> u64 {
        let mut queue = self.queue();
        queue.drop_late(now);
        u64::from(std::mem::take(&mut queue.expired))
    }

    /// Accepts no more; what is in it may still be written.
    pub fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        // Nobody may send any more, and the socket is to be closed when its driver goes.
        queue.line = None;
    }

    /// Drops what is in it; its receipts learn nothing more.
    pub fn clear(&self) -> usize {
        let mut queue = self.queue();
        let waiting = queue.waiting.take().map_or(0, |waiting| waiting.frames.len());
        waiting + std::mem::take(&mut queue.expired) as usize
    }

    /// Looks at what waits, oldest first.
    pub fn for_each(&self, mut look: impl FnMut(&Frame)) {
        let queue = self.queue();
        let waiting = queue.waiting.iter().flat_map(|waiting| &waiting.frames);
        waiting.map(|queued| &queued.frame).for_each(&mut look);
    }

    /// Whether there is nothing to pop, not even the news that something was late.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue().is_idle()
    }

    /// Frames and bytes waiting.
    #[must_use]
    pub fn depth(&self) -> (usize, usize) {
        self.queue().depth()
    }
}

impl Queue {
    const fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.expired == 0
    }

    fn push(&mut self, frame: Frame, limits: OutboxLimits, mail: bool) -> Result<(), (Refused, Frame)> {
        if self.closed {
            return Err((Refused::Closed, frame));
        }
        if !self.has_room(&frame, limits) {
            // What is late keeps nobody out, whether anything is written meanwhile or not.
            self.drop_late(Instant::now());
            if !self.has_room(&frame, limits) {
                return Err((Refused::Full, frame));
            }
        }
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += frame.payload.len();
        waiting.frames.push_back(Queued { frame, mail, begun: 0 });
        Ok(())
    }

    /// Takes the frame at the front if it is such a one.
    fn pop_if(&mut self, is_such: impl FnOnce(&Queued) -> bool) -> Option<Frame> {
        let waiting = self.waiting.as_mut()?;
        let Queued { frame, .. } = waiting.frames.pop_front_if(|queued| is_such(queued))?;
        waiting.bytes -= frame.payload.len();
        if waiting.frames.is_empty() {
            self.waiting = None;
        }
        Some(frame)
    }

    fn depth(&self) -> (usize, usize) {
        self.waiting.as_ref().map_or((0, 0), |waiting| (waiting.frames.len(), waiting.bytes))
    }

    fn has_room(&self, frame: &Frame, limits: OutboxLimits) -> bool {
        let (frames, bytes) = self.depth();
        frames < limits.frames && bytes + frame.payload.len() <= limits.bytes
    }

    fn drop_late(&mut self, now: Instant) {
        // One that was begun has to be ended.
        let is_late = |queued: &Queued| queued.begun == 0 && queued.frame.deadline.is_some_and(|at| at <= now);
        while let Some(frame) = self.pop_if(is_late) {
            self.expired += 1;
            if let Some(receipt) = frame.receipt {
                // The caller may have left at its deadline.
                let _ = receipt.send(Written::Expired);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LIMITS: OutboxLimits = OutboxLimits { frames: 2, bytes: 10 };

    fn frame(bytes: usize) -> Frame {
        let payload = Payload::Binary(vec![0; bytes].into());
        Frame { payload, id: None, receipt: None, acked: None, deadline: None }
    }

    #[tokio::test]
    async fn withdrawn_mail_leaves_the_rest_in_its_order_and_room_where_it_was() {
        let outbox = Outbox::default();
        let limits = OutboxLimits { frames: 4, bytes: 10 };
        outbox.push(frame(1), limits).expect("room");
        outbox.push_mail(frame(4), limits, false).expect("room");
        outbox.push_mail(frame(3), limits, true).expect("room");
        outbox.push(frame(2), limits).expect("room");
        assert_eq!(outbox.withdraw_mail(), 2);
        assert_eq!(outbox.depth(), (2, 3));
        let left = [1, 2].map(|_| outbox.pop(Instant::now()).0.expect("a frame").payload.len());
        assert_eq!(left, [1, 2]);
    }

    #[tokio::test]
    async fn it_is_full_by_frames_and_by_bytes_and_has_room_again_after_a_pop() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(frame(1), LIMITS), Ok(()));
        assert_eq!(outbox.push(frame(10), LIMITS), Err(Refused::Full));
        assert_eq!(outbox.push(frame(9), LIMITS), Ok(()));
        assert_eq!(outbox.push(frame(0), LIMITS), Err(Refused::Full));
        assert_eq!(outbox.depth(), (2, 10));
        assert!(outbox.pop(Instant::now()).0.is_some());
        assert_eq!(outbox.push(frame(1), LIMITS), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_fit_stays_and_what_is_late_goes_whether_it_fits_or_not() {
        let outbox = Outbox::default();
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        outbox.push(Frame { deadline, ..frame(5) }, LIMITS).expect("room");
        outbox.push(frame(4), LIMITS).expect("room");
        assert!(outbox.pop_fitting(Instant::now(), 4).0.is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(outbox.pop_fitting(Instant::now(), 3), (None, 1)));
        assert_eq!(outbox.depth(), (1, 4));
        assert!(outbox.pop_fitting(Instant::now(), 4).0.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_late_keeps_nobody_out_though_nothing_is_written() {
        let outbox = Outbox::default();
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        let (receipt, mut told) = oneshot::channel();
        outbox.push(Frame { deadline, receipt: Some(receipt), ..frame(5) }, LIMITS).expect("room");
        outbox.push(frame(5), LIMITS).expect("room");
        assert_eq!(outbox.push(frame(0), LIMITS), Err(Refused::Full));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(outbox.push(frame(5), LIMITS), Ok(()));
        assert_eq!(told.try_recv(), Ok(Written::Expired));
        assert_eq!(outbox.depth(), (2, 10));
        assert!(matches!(outbox.pop(Instant::now()), (Some(_), 1)), "it is counted, and once");
        assert!(matches!(outbox.pop(Instant::now()), (Some(_), 0)));
    }

    #[tokio::test]
    async fn closed_is_not_full_and_keeps_what_was_accepted() {
        let outbox = Outbox::default();
        outbox.push(frame(1), LIMITS).expect("room");
        outbox.close();
        assert_eq!(outbox.push(frame(1), LIMITS), Err(Refused::Closed));
        assert!(outbox.pop(Instant::now()).0.is_some());
    }

    #[tokio::test]
    async fn held_for_mail_it_refuses_the_rest_until_the_last_of_the_mail_is_in() {
        let outbox = Outbox::default();
        outbox.hold(true);
        assert_eq!(outbox.push(frame(1), LIMITS), Err(Refused::Full));
        assert!(outbox.push_mail(frame(2), LIMITS, false).is_ok());
        assert_eq!(outbox.push(frame(1), LIMITS), Err(Refused::Full));
        let over = outbox.push_mail(frame(9), LIMITS, true).expect_err("over the bytes");
        assert_eq!((over.0, over.1.payload.len()), (Refused::Full, 9));
        assert!(outbox.pop(Instant::now()).0.is_some());
        assert!(outbox.push_mail(over.1, LIMITS, true).is_ok());
        assert_eq!(outbox.push(frame(1), LIMITS), Ok(()));
        outbox.hold(true);
        outbox.close();
        assert_eq!(outbox.push(frame(1), LIMITS), Err(Refused::Closed));
    }

    #[tokio::test]
    async fn an_empty_one_takes_a_stored_message_of_any_size() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push(frame(11), LIMITS), Err(Refused::Full));
        assert!(outbox.push_mail(frame(11), LIMITS, false).is_ok());
        assert!(outbox.push_mail(frame(1), LIMITS, false).is_err());
        assert!(outbox.pop(Instant::now()).0.is_some());
        assert!(outbox.push_mail(frame(11), LIMITS, true).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_past_its_deadline_is_skipped_and_its_sender_told() {
        let outbox = Outbox::default();
        let (receipt, mut told) = oneshot::channel();
        let deadline = Some(Instant::now() + Duration::from_secs(1));
        outbox.push(Frame { receipt: Some(receipt), deadline, ..frame(1) }, LIMITS).expect("room");
        outbox.push(frame(2), LIMITS).expect("room");
        tokio::time::advance(Duration::from_secs(1)).await;
        let (next, expired) = outbox.pop(Instant::now());
        assert_eq!((next.map(|frame| frame.payload.len()), expired), (Some(2), 1));
        assert_eq!(told.try_recv(), Ok(Written::Expired));
    }

    #[tokio::test]
    async fn dropping_what_waits_leaves_its_receipts_without_an_answer() {
        let outbox = Outbox::default();
        let (receipt, mut told) = oneshot::channel();
        outbox.push(Frame { receipt: Some(receipt), ..frame(1) }, LIMITS).expect("room");
        assert_eq!(outbox.clear(), 1);
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
