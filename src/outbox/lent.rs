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

/// What became of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// How it was taken, if it was.
    pub taken: Result<Taken, Refused>,
    /// Whether the driver has something to do, and is to be woken: also where the frame was refused it may wait for the line.
    pub wake: bool,
}

/// How a frame was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// The kernel has all of it; no frame was made.
    Written,
    /// It waits for the driver.
    Waits,
}

/// What a driver finds that takes its line back.
#[derive(Debug)]
pub enum Reclaimed {
    /// A sender is writing; the driver is woken when that is over.
    NotYet,
    /// The line, and nothing waits to be written.
    Idle,
    /// The line, with what was begun and is to be ended before anything else is written: the frame, and how many bytes of it and its header went out.
    Yes(Option<(Frame, usize)>),
}

impl Outbox {
    /// Sends a frame: by the line, if that lies here and nothing waits, so that the kernel has it when this returns; otherwise it waits in the outbox. While
    /// the outbox is held for stored messages it is full. The frame is only made where it has to wait; `written` counts it where it has not, while the
    /// client's answer cannot be read yet.
    pub fn send(
        &self,
        payload: &Payload,
        deadline: Option<Instant>,
        limits: OutboxLimits,
        written: impl FnOnce(),
        frame: impl FnOnce() -> Frame,
    ) -> Sent {
        let mut queue = self.queue();
        if queue.held && !queue.closed {
            return Sent { taken: Err(Refused::Full), wake: false };
        }
        let in_time = deadline.is_none_or(|deadline| deadline > Instant::now());
        if in_time && let Some(line) = queue.take_line(payload.len(), limits) {
            drop(queue);
            return self.put(line, payload, written, frame);
        }
        let taken = queue.push(frame(), limits, false).map(|()| Taken::Waits).map_err(|(refused, _)| refused);
        Sent { taken, wake: taken.is_ok() }
    }

    /// Writes to the line that was taken, and brings it back.
    fn put(&self, line: Line, payload: &Payload, written: impl FnOnce(), frame: impl FnOnce() -> Frame) -> Sent {
        let put = line.put(payload);
        if put == Put::Whole {
            written();
        }
        let mut queue = self.queue();
        let begun = match put {
            Put::Whole => {
                let rests = queue.waiting.is_none() && queue.holder != Holder::Awaited && !queue.closed;
                queue.bring_back(line, if rests { Holder::Here } else { Holder::Driver });
                return Sent { taken: Ok(Taken::Written), wake: !rests };
            }
            Put::Part(begun) => begun,
            // The driver tries, waits, and meets the error if there is one.
            Put::Nothing => 0,
        };
        queue.bring_back(line, Holder::Driver);
        if begun == 0 && queue.closed {
            return Sent { taken: Err(Refused::Closed), wake: true };
        }
        // Before those that came meanwhile, which may make it one over the limits.
        queue.put_first(frame(), begun);
        Sent { taken: Ok(Taken::Waits), wake: true }
    }

    /// Lends the line, if there is nothing to write; `line` is asked for it once. The driver may then write no more until it has it back.
    pub fn lend(&self, line: impl FnOnce() -> Option<Line>) -> bool {
        let mut queue = self.queue();
        if !queue.is_idle() || queue.closed {
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
        if queue.is_idle() { Reclaimed::Idle } else { Reclaimed::Yes(queue.take_begun()) }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits { frames: 4, bytes: 100 };

    fn payload(bytes: usize) -> Payload {
        Payload::Binary(vec![7; bytes].into())
    }

    fn frame(bytes: usize) -> Frame {
        Frame { payload: payload(bytes), id: None, receipt: None, acked: None, deadline: None }
    }

    fn send(outbox: &Outbox, bytes: usize) -> Sent {
        outbox.send(&payload(bytes), None, LIMITS, || {}, || frame(bytes))
    }

    const WRITTEN: Sent = Sent { taken: Ok(Taken::Written), wake: false };
    const WRITTEN_AND_AWAITED: Sent = Sent { taken: Ok(Taken::Written), wake: true };
    const WAITS: Sent = Sent { taken: Ok(Taken::Waits), wake: true };

    const fn refused(refused: Refused) -> Sent {
        Sent { taken: Err(refused), wake: false }
    }

    /// An outbox that a line was lent to, and the client's end.
    async fn lent() -> (Outbox, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (client, server) =
            tokio::join!(TcpStream::connect(listener.local_addr().expect("an address")), listener.accept());
        let server = server.expect("accepted").0;
        server.writable().await.expect("writable");
        let outbox = Outbox::default();
        assert!(outbox.lend(|| Some(Line::new(server))));
        (outbox, client.expect("connected"))
    }

    /// What there is to read until the end of the stream.
    async fn all(client: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut all)).await;
        read.expect("the end").expect("readable");
        all
    }

    #[tokio::test]
    async fn the_driver_waits_for_a_sender_and_is_woken_when_the_line_is_back() {
        let (outbox, _client) = lent().await;
        let line = outbox.queue().take_line(1, LIMITS).expect("lent");
        assert!(matches!(outbox.reclaim(), Reclaimed::NotYet));
        assert!(matches!(outbox.reclaim(), Reclaimed::NotYet), "however often it asks");
        assert_eq!(send(&outbox, 2), WAITS, "there is one line");
        assert_eq!(outbox.put(line, &payload(1), || {}, || frame(1)), WRITTEN_AND_AWAITED);
        assert!(!outbox.is_lent());
        assert!(matches!(outbox.reclaim(), Reclaimed::Yes(None)));
        assert_eq!(send(&outbox, 3), WAITS, "the line is the driver's");
        assert_eq!(outbox.depth(), (2, 5));
    }

    #[tokio::test]
    async fn a_driver_that_has_its_line_back_knows_whether_something_waits() {
        let (outbox, _client) = lent().await;
        assert!(matches!(outbox.reclaim(), Reclaimed::Idle));
        assert!(outbox.lend(|| panic!("the outbox has it")));
        let late = Frame { deadline: Some(Instant::now()), ..frame(2) };
        outbox.push(late, LIMITS).expect("room");
        assert!(matches!(outbox.reclaim(), Reclaimed::Yes(None)));
        assert_eq!(outbox.drop_late(Instant::now()), 1);
        assert!(matches!(outbox.reclaim(), Reclaimed::Idle));
    }

    #[tokio::test]
    async fn what_comes_while_a_sender_writes_is_left_to_the_driver() {
        let (outbox, _client) = lent().await;
        let line = outbox.queue().take_line(1, LIMITS).expect("lent");
        outbox.push(frame(2), LIMITS).expect("room");
        assert_eq!(outbox.put(line, &payload(1), || {}, || frame(1)), WRITTEN_AND_AWAITED);
        assert_eq!(send(&outbox, 3), WAITS, "behind it");
        assert!(!outbox.lend(|| None), "there is something to write");
        assert!(matches!(outbox.reclaim(), Reclaimed::Yes(None)));
        let next = [(); 2].map(|()| outbox.pop(Instant::now()).0.expect("a frame").payload.len());
        assert_eq!(next, [2, 3]);
        assert!(outbox.lend(|| panic!("the outbox has it")));
        assert_eq!(send(&outbox, 4), WRITTEN);
    }

    #[tokio::test]
    async fn what_the_kernel_does_not_take_is_first_and_what_was_begun_is_ended_however_late() {
        let (outbox, _client) = lent().await;
        let limits = OutboxLimits { frames: 4, bytes: 1 << 20 };
        let deadline = Some(Instant::now() + Duration::from_millis(1));
        // Nobody reads, so that in the end one goes out in part, or not at all.
        let sent = |outbox: &Outbox| {
            outbox.send(&payload(99_999), None, limits, || {}, || Frame { deadline, ..frame(99_999) })
        };
        assert!((0..10_000).any(|_| sent(&outbox) == WAITS));
        std::thread::sleep(Duration::from_millis(2));
        outbox.push(frame(1), limits).expect("room");
        let late = outbox.drop_late(Instant::now());
        let Reclaimed::Yes(begun) = outbox.reclaim() else { panic!("nobody writes") };
        match begun {
            Some((frame, begun)) => {
                assert_eq!((late, frame.payload.len()), (0, 99_999));
                assert!((1..100_009).contains(&begun));
            }
            None => assert_eq!(late, 1, "of which nothing was written"),
        }
        assert_eq!(outbox.pop(Instant::now()).0.expect("a frame").payload.len(), 1);
    }

    #[tokio::test]
    async fn of_a_connection_that_ends_the_line_is_let_go_by_whoever_has_it() {
        let (outbox, mut client) = lent().await;
        outbox.close();
        assert_eq!(all(&mut client).await, [0; 0], "it lay in the outbox");
        let (outbox, mut client) = lent().await;
        let line = outbox.queue().take_line(1, LIMITS).expect("lent");
        outbox.close();
        let sent = outbox.put(line, &payload(1), || {}, || frame(1));
        assert_eq!(sent, WRITTEN_AND_AWAITED, "before the driver's Close");
        assert_eq!(all(&mut client).await, [0x82, 1, 7]);
        assert!(!outbox.lend(|| panic!("nobody may send")));
        assert_eq!(send(&outbox, 1), refused(Refused::Closed));
    }

    #[tokio::test]
    async fn the_driver_of_a_connection_that_ends_is_woken_though_the_kernel_took_nothing() {
        let (outbox, _client) = lent().await;
        let limits = OutboxLimits { frames: 4, bytes: 1 << 20 };
        let full = payload(1 << 20);
        let line = outbox.queue().take_line(1, limits).expect("lent");
        // Nobody reads.
        while line.put(&full) != Put::Nothing {}
        assert!(matches!(outbox.reclaim(), Reclaimed::NotYet));
        outbox.close();
        let sent = outbox.put(line, &full, || panic!("nothing was written"), || frame(1));
        assert_eq!(sent, Sent { taken: Err(Refused::Closed), wake: true });
        assert!(matches!(outbox.reclaim(), Reclaimed::Idle));
    }

    #[tokio::test]
    async fn limits_deadlines_and_mail_hold_for_a_lent_line_too() {
        let (outbox, _client) = lent().await;
        assert_eq!(send(&outbox, 101), refused(Refused::Full));
        outbox.hold(true);
        assert_eq!(send(&outbox, 1), refused(Refused::Full));
        outbox.hold(false);
        let passed = Some(Instant::now());
        let late = outbox.send(&payload(1), passed, LIMITS, || {}, || Frame { deadline: passed, ..frame(1) });
        assert_eq!(late, WAITS);
        assert!(matches!(outbox.pop(Instant::now()), (None, 1)), "it is never written");
        assert_eq!(send(&outbox, 1), WRITTEN);
    }
}
