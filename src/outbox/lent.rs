//! Whose the line of a connection is. While the driver has nothing to write, it lends the line to the outbox, and whoever sends may take it from there,
//! write one frame, and bring it back: no task is woken, and no other thread. It is never written to with a lock held, so nobody waits for the kernel.
//!
//! ```text
//!            lend                  take
//!   Driver's ----> Here (line in) ----> Out (line at a sender's)
//!      ^  ^          | reclaim, close     | bring back: Here, if nothing came meanwhile
//!      |  +----------+                    v
//!      +---------------------------------- otherwise, with the driver woken
//! ```

use tokio::time::Instant;

use super::{Frame, Outbox, OutboxLimits, Queue, Queued, Refused};
use crate::event::Payload;
use crate::line::{Line, Put};

/// Who may write to the line.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Holder {
    /// The driver.
    #[default]
    Driver,
    /// Nobody: it lies in the outbox.
    Here,
    /// A sender.
    Sender,
    /// A sender, and the driver waits for it.
    Awaited,
}

/// How a frame was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Whether the kernel has all of it already; then no frame was made.
    pub written: bool,
    /// Whether the driver has something to do.
    pub wake: bool,
}

/// What a driver finds that takes its line back.
#[derive(Debug)]
pub enum Reclaimed {
    /// A sender is writing; the driver is woken when that is over.
    NotYet,
    /// The line, with what was begun and is to be ended before anything else is written: the frame, and how many bytes of it and its header went out.
    Yes(Option<(Frame, usize)>),
}

impl Outbox {
    /// Sends a frame: by the line, if that lies here and nothing waits, so that the kernel has it when this returns; otherwise it waits in the outbox. While
    /// the outbox is held for stored messages it is full. The frame is only made where it has to wait.
    ///
    /// # Errors
    /// [`Refused`], with nothing sent.
    pub fn send(
        &self,
        payload: &Payload,
        deadline: Option<Instant>,
        limits: OutboxLimits,
        frame: impl FnOnce() -> Frame,
    ) -> Result<Taken, Refused> {
        let mut queue = self.queue();
        if queue.held && !queue.closed {
            return Err(Refused::Full);
        }
        let in_time = deadline.is_none_or(|deadline| deadline > Instant::now());
        if in_time && let Some(line) = queue.take_line(payload.len(), limits) {
            drop(queue);
            return self.put(line, payload, frame);
        }
        queue.push(frame(), limits, false).map_err(|(refused, _)| refused)?;
        Ok(Taken { written: false, wake: true })
    }

    /// Writes to the line that was taken, and brings it back.
    fn put(&self, line: Line, payload: &Payload, frame: impl FnOnce() -> Frame) -> Result<Taken, Refused> {
        let put = line.put(payload);
        let mut queue = self.queue();
        let begun = match put {
            Put::Whole => {
                let rests = queue.waiting.is_none() && queue.holder != Holder::Awaited && !queue.closed;
                queue.bring_back(line, if rests { Holder::Here } else { Holder::Driver });
                return Ok(Taken { written: true, wake: !rests });
            }
            Put::Part(begun) => begun,
            // The driver tries, waits, and meets the error if there is one.
            Put::Nothing => 0,
        };
        queue.bring_back(line, Holder::Driver);
        if begun == 0 && queue.closed {
            return Err(Refused::Closed);
        }
        // Before those that came meanwhile.
        queue.put_first(frame(), begun);
        Ok(Taken { written: false, wake: true })
    }

    /// Lends the line, if there is nothing to write; `line` is asked for it once. The driver may then write no more until it has it back.
    pub fn lend(&self, line: impl FnOnce() -> Option<Line>) -> bool {
        let mut queue = self.queue();
        if queue.waiting.is_some() || queue.expired > 0 || queue.closed {
            return false;
        }
        if queue.line.is_none() {
            queue.line = line();
        }
        if queue.line.is_some() {
            queue.holder = Holder::Here;
        }
        queue.line.is_some()
    }

    /// Whether the line lies here.
    #[must_use]
    pub fn is_lent(&self) -> bool {
        let queue = self.queue();
        queue.holder == Holder::Here && queue.line.is_some()
    }

    /// Takes the line back.
    pub fn reclaim(&self) -> Reclaimed {
        let mut queue = self.queue();
        if let Holder::Sender | Holder::Awaited = queue.holder {
            queue.holder = Holder::Awaited;
            return Reclaimed::NotYet;
        }
        queue.holder = Holder::Driver;
        Reclaimed::Yes(queue.take_begun())
    }
}

impl Queue {
    /// The line, if it lies here and a frame of so many bytes may go out by it now.
    fn take_line(&mut self, bytes: usize, limits: OutboxLimits) -> Option<Line> {
        let fits = limits.frames > 0 && bytes <= limits.bytes;
        if self.holder != Holder::Here || self.waiting.is_some() || self.closed || !fits {
            return None;
        }
        let line = self.line.take()?;
        self.holder = Holder::Sender;
        Some(line)
    }

    /// Of a connection that is ending the line is not kept: the socket is to be closed when its driver goes.
    fn bring_back(&mut self, line: Line, holder: Holder) {
        self.holder = holder;
        if !self.closed {
            self.line = Some(line);
        }
    }

    fn put_first(&mut self, frame: Frame, begun: usize) {
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += frame.payload.len();
        waiting.frames.push_front(Queued { frame, mail: false, begun });
    }

    fn take_begun(&mut self) -> Option<(Frame, usize)> {
        let mut begun = 0;
        let frame = self.pop_if(|queued| {
            begun = queued.begun;
            begun > 0
        })?;
        Some((frame, begun))
    }
}
