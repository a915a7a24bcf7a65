//! What a client that acknowledges was sent and has not acknowledged: numbered, kept to be sent again, and told when the connection ends.
//!
//! Behind a lock of its own because whoever ends the connection reads it; taken after a ledger's and before an outbox's, never across an await.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::event::{Payload, Unacked};
use crate::outbox::{Frame, Outbox, Written};

/// The half of a connection of the reliable subprotocol that a plain one does not have.
#[derive(Default)]
pub struct Reliable {
    window: Mutex<Window>,
    /// Messages of the client that are committed; their number is the newest one's sequence number.
    committed: AtomicU64,
}

/// Messages to the client from the oldest that it has not acknowledged to the newest that was numbered.
///
/// Bounded by [`Window::MAX_MESSAGES`] and [`Window::MAX_BYTES`], beyond which nothing more is taken out of the outbox, which then fills and refuses.
#[derive(Default)]
pub struct Window {
    messages: VecDeque<Sent>,
    /// Payload bytes of `messages`.
    bytes: usize,
    /// The number of the newest message that the client has acknowledged, or that is no longer kept because the connection is ending.
    acked: u64,
    /// The newest that was given to the present socket.
    handed: u64,
    /// The newest that the kernel has taken whole, on this socket or an earlier one.
    written: u64,
    /// The connection is ending: acknowledgements count no more, and what is written need not be kept.
    closed: bool,
}

struct Sent {
    payload: Payload,
    id: Option<Arc<str>>,
    receipt: Option<oneshot::Sender<Written>>,
    acked: Option<oneshot::Sender<()>>,
}

/// A message to be sent, for the first time or again.
pub struct Numbered {
    /// Its sequence number.
    pub sequence: u64,
    /// What the backend called it.
    pub id: Option<Arc<str>>,
    /// What to send.
    pub payload: Payload,
}

/// What a flush has newly brought to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Why a cumulative acknowledgement does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AckError {
    /// Of a message that was not sent.
    #[error("received is {received}, and {sent} is the last that was sent")]
    Ahead {
        /// What the client says it has.
        received: u64,
        /// What it can have.
        sent: u64,
    },
    /// Of less than before, by a client that wants to go on from there.
    #[error("received is {received}, and {acked} was acknowledged before")]
    Behind {
        /// What the client says it has.
        received: u64,
        /// What it said before.
        acked: u64,
    },
}

impl Reliable {
    /// What is sent and not acknowledged.
    pub fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the client's messages are committed, which is what it may be told that the server has.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    pub(super) fn commit_one(&self) {
        self.committed.fetch_add(1, Ordering::AcqRel);
    }
}

impl Window {
    /// The most messages that are kept.
    pub const MAX_MESSAGES: usize = 1_000;
    /// The most bytes of their payloads; a message that is larger goes alone.
    pub const MAX_BYTES: usize = 1 << 20;

    /// The newest number that was given to a message.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.acked + self.messages.len() as u64
    }

    /// The next message for the present socket: one that is to be sent again, or else the next of the outbox. Also how many of the outbox's
    /// were dropped because their deadline has passed.
    pub fn next(&mut self, outbox: &Outbox, now: Instant) -> (Option<Numbered>, u64) {
        let mut expired = 0;
        if self.handed == self.last() {
            let full = self.messages.len() >= Self::MAX_MESSAGES && !self.closed;
            let room = match self.messages.is_empty() || self.closed {
                true => usize::MAX,
                false => Self::MAX_BYTES.saturating_sub(self.bytes),
            };
            let (frame, late) = if full { (None, outbox.drop_late(now)) } else { outbox.pop_fitting(now, room) };
            expired = late;
            let Some(Frame { payload, id, receipt, acked, .. }) = frame else { return (None, expired) };
            self.bytes += payload.len();
            // Nobody is told of an acknowledgement that comes after the end.
            let acked = acked.filter(|_| !self.closed);
            self.messages.push_back(Sent { payload, id, receipt, acked });
        }
        self.handed += 1;
        let sent = self.messages.get((self.handed - self.acked - 1) as usize);
        let numbered =
            sent.map(|sent| Numbered { sequence: self.handed, id: sent.id.clone(), payload: sent.payload.clone() });
        (numbered, expired)
    }

    /// Whether something was given to the socket that the kernel may not have.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.handed > self.written
    }

    /// The kernel has everything that was given to the socket. Each message counts once, however often it is sent.
    pub fn flushed(&mut self) -> Flushed {
        let flushed = self.written_up_to(self.handed);
        if self.closed {
            // What an earlier socket took and this one was not given yet is still to be sent again.
            self.forget_up_to(self.written.min(self.handed));
        }
        flushed
    }

    fn written_up_to(&mut self, sequence: u64) -> Flushed {
        let mut flushed = Flushed::default();
        while self.written < sequence {
            self.written += 1;
            let Some(sent) = self.messages.get_mut((self.written - self.acked - 1) as usize) else { continue };
            flushed.messages += 1;
            flushed.bytes += sent.payload.len() as u64;
            if let Some(receipt) = sent.receipt.take() {
                // Whoever asked may have stopped waiting.
                let _ = receipt.send(Written::Yes);
            }
        }
        flushed
    }

    fn forget_up_to(&mut self, sequence: u64) {
        while self.acked < sequence
            && let Some(sent) = self.messages.pop_front()
        {
            self.acked += 1;
            self.bytes -= sent.payload.len();
            if let Some(acked) = sent.acked {
                let _ = acked.send(());
            }
        }
        if self.messages.is_empty() {
            self.messages = VecDeque::new();
        }
    }

    /// The client has everything up to `received`; answers how many messages that is news of, and what it shows to have been written.
    ///
    /// # Errors
    /// [`AckError::Ahead`] if it says so of what was not sent.
    pub fn ack(&mut self, received: u64) -> Result<(u64, Flushed), AckError> {
        // What has a number was given to a socket, this one or an earlier.
        let sent = self.last();
        if received > sent {
            return Err(AckError::Ahead { received, sent });
        }
        if self.closed || received <= self.acked {
            return Ok((0, Flushed::default()));
        }
        let news = received - self.acked;
        // What the client has, the kernel has had, whether the flush has come to its end or not.
        let flushed = self.written_up_to(received);
        self.forget_up_to(received);
        self.handed = self.handed.max(received);
        Ok((news, flushed))
    }

    /// The socket is gone: what is not acknowledged will be sent again.
    pub fn detach(&mut self) {
        self.handed = self.acked;
    }

    /// Whether a new socket's client may have so much only.
    ///
    /// # Errors
    /// [`AckError::Behind`] if it has acknowledged more.
    pub const fn may_attach(&self, received: u64) -> Result<(), AckError> {
        if received < self.acked { Err(AckError::Behind { received, acked: self.acked }) } else { Ok(()) }
    }

    /// Goes on with a new socket from what its client has.
    ///
    /// # Errors
    /// [`AckError`] if that cannot be.
    pub fn attach(&mut self, received: u64) -> Result<(u64, Flushed), AckError> {
        self.may_attach(received)?;
        self.detach();
        let acked = self.ack(received)?;
        // At the end nothing is acknowledged any more, and yet nothing is sent that the client has.
        self.handed = self.handed.max(received);
        Ok(acked)
    }

    /// The connection ends: what its client has not acknowledged, the outbox included. From here on nothing is acknowledged any more.
    pub(super) fn close(&mut self, outbox: &Outbox) -> Unacked {
        self.closed = true;
        let mut unacked = Unacked::default();
        let mut bytes = 0;
        let mut note = |id: &Option<Arc<str>>| {
            unacked.count += 1;
            let Some(id) = id.as_deref() else { return };
            // The first that does not fit is the end of them.
            bytes += id.len();
            if unacked.ids.len() < Unacked::MAX_IDS && bytes <= Unacked::MAX_ID_BYTES {
                unacked.ids.push(id.into());
            }
        };
        for sent in &mut self.messages {
            note(&sent.id);
            sent.acked = None;
        }
        outbox.for_each(|frame| note(&frame.id));
        unacked
    }

    /// Drops what the present socket was not given; with `all`, everything. Answers how many messages were never written.
    pub fn clear(&mut self, all: bool) -> u64 {
        let keep = if all { 0 } else { (self.handed - self.acked) as usize };
        let unwritten = self.last().saturating_sub(self.written.max(self.acked + keep as u64));
        self.messages.truncate(keep);
        self.bytes = self.messages.iter().map(|sent| sent.payload.len()).sum();
        unwritten
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::OutboxLimits;
    use proptest::prelude::*;

    const LIMITS: OutboxLimits = OutboxLimits { frames: 10_000, bytes: 1 << 30 };

    fn put(outbox: &Outbox, id: u32, bytes: usize) -> (oneshot::Receiver<Written>, oneshot::Receiver<()>) {
        let ((receipt, written), (acked, told)) = (oneshot::channel(), oneshot::channel());
        let payload = Payload::Binary(vec![0; bytes].into());
        let id = Some(id.to_string().into());
        let frame = Frame { payload, id, receipt: Some(receipt), acked: Some(acked), deadline: None };
        outbox.push(frame, LIMITS).expect("room");
        (written, told)
    }

    fn next(window: &mut Window, outbox: &Outbox) -> Option<u64> {
        window.next(outbox, Instant::now()).0.map(|message| message.sequence)
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_is_sent_again_in_order_with_its_numbers_and_written_once() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        let mut receipts: Vec<_> = (1..=4).map(|id| put(&outbox, id, 10)).collect();
        assert_eq!([next(&mut window, &outbox), next(&mut window, &outbox)], [Some(1), Some(2)]);
        assert_eq!(window.flushed(), Flushed { messages: 2, bytes: 20 });
        assert_eq!(next(&mut window, &outbox), Some(3));
        assert_eq!(window.ack(1), Ok((1, Flushed::default())));
        assert_eq!((receipts[0].0.try_recv(), receipts[0].1.try_recv()), (Ok(Written::Yes), Ok(())));
        window.detach();
        assert_eq!(window.attach(1), Ok((0, Flushed::default())));
        for expected in [Some(2), Some(3), Some(4), None] {
            assert_eq!(next(&mut window, &outbox), expected);
        }
        assert_eq!(window.flushed(), Flushed { messages: 2, bytes: 20 }, "the second was counted already");
        assert_eq!(window.ack(5), Err(AckError::Ahead { received: 5, sent: 4 }));
        assert_eq!(window.attach(0), Err(AckError::Behind { received: 0, acked: 1 }));
        assert_eq!(window.ack(4).map(|(news, _)| news), Ok(3));
        assert!(receipts.iter_mut().skip(1).all(|(_, acked)| acked.try_recv() == Ok(())));
        assert_eq!((window.bytes, window.messages.capacity()), (0, 0));
    }

    #[tokio::test]
    async fn a_full_window_leaves_the_rest_in_the_outbox_and_a_message_larger_than_it_goes_alone() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        for id in 0..1_001 {
            put(&outbox, id, 1);
        }
        assert_eq!((0..).take_while(|_| next(&mut window, &outbox).is_some()).count(), 1_000);
        window.ack(1).expect("sent");
        assert_eq!(next(&mut window, &outbox), Some(1_001));
        window.ack(1_001).expect("sent");
        put(&outbox, 0, Window::MAX_BYTES + 1);
        put(&outbox, 0, Window::MAX_BYTES);
        put(&outbox, 0, 1);
        for sequence in 1_002..=1_004 {
            assert_eq!(next(&mut window, &outbox), Some(sequence));
            assert_eq!(next(&mut window, &outbox), None);
            window.ack(sequence).expect("sent");
        }
    }

    #[tokio::test]
    async fn at_the_end_the_ids_are_told_and_nothing_is_acknowledged_any_more() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        let mut receipts: Vec<_> = (0..150).map(|id| put(&outbox, id, 1)).collect();
        (0..30).for_each(|_| assert!(next(&mut window, &outbox).is_some()));
        window.ack(10).expect("sent");
        let unacked = window.close(&outbox);
        assert_eq!((unacked.count, unacked.ids.len()), (140, Unacked::MAX_IDS));
        assert_eq!((&*unacked.ids[0], &*unacked.ids[99]), ("10", "109"));
        assert_eq!(window.ack(20).map(|(news, _)| news), Ok(0));
        assert_eq!(receipts[15].1.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        // What was accepted before the end may still be written, and then is not kept.
        while next(&mut window, &outbox).is_some() {}
        assert_eq!(window.flushed().messages, 140);
        assert!(receipts.iter_mut().all(|(written, _)| written.try_recv() == Ok(Written::Yes)));
        assert!(window.messages.is_empty());
    }

    #[tokio::test]
    async fn long_ids_are_told_as_far_as_they_fit_and_without_a_gap() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        for length in [2_000, 40, 20, 1] {
            let id = Some("x".repeat(length).into());
            let frame = Frame { payload: Payload::Binary("".into()), id, receipt: None, acked: None, deadline: None };
            outbox.push(frame, LIMITS).expect("room");
        }
        let unacked = window.close(&outbox);
        assert_eq!((unacked.count, unacked.ids.len(), unacked.bytes()), (4, 2, 2_040));
    }

    #[tokio::test]
    async fn what_an_earlier_socket_took_is_sent_again_although_the_end_has_come() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        (0..3).for_each(|id| drop(put(&outbox, id, 1)));
        (0..2).for_each(|_| assert!(next(&mut window, &outbox).is_some()));
        window.flushed();
        window.attach(0).expect("received");
        assert_eq!(window.close(&outbox).count, 3);
        assert_eq!(window.flushed(), Flushed::default());
        for expected in [Some(1), Some(2), Some(3), None] {
            assert_eq!(next(&mut window, &outbox), expected);
            window.flushed();
        }
        assert!(window.messages.is_empty());
    }

    #[tokio::test]
    async fn what_is_dropped_at_the_end_is_counted_if_it_was_never_written() {
        let (mut window, outbox) = (Window::default(), Outbox::default());
        (0..5).for_each(|id| drop(put(&outbox, id, 1)));
        (0..2).for_each(|_| assert!(next(&mut window, &outbox).is_some()));
        window.flushed();
        (0..3).for_each(|_| assert!(next(&mut window, &outbox).is_some()));
        window.detach();
        next(&mut window, &outbox);
        assert_eq!(window.clear(false), 3);
        assert_eq!((window.clear(true), window.bytes), (0, 0));
    }

    proptest! {
        /// Whatever is lost, a client that keeps its place gets every message once and in order, and every number means one message.
        #[test]
        fn a_client_gets_everything_once_and_in_order(steps in proptest::collection::vec((0u8..40, 1usize..20), 1..200)) {
            let (mut window, outbox) = (Window::default(), Outbox::default());
            let (mut put_in, mut on_the_way, mut got) = (0u32, VecDeque::new(), Vec::new());
            let mut ended = None;
            for (what, count) in steps {
                match what {
                    0..12 if ended.is_none() => for _ in 0..count { put(&outbox, put_in, 1); put_in += 1; },
                    12..24 => for _ in 0..count { on_the_way.extend(window.next(&outbox, Instant::now()).0); },
                    24..28 => { window.flushed(); }
                    28..32 => for message in on_the_way.drain(..count.min(on_the_way.len())) {
                        prop_assert_eq!(message.sequence, got.len() as u64 + 1);
                        got.push(message.id.expect("an id").to_string());
                    },
                    32..36 => { window.ack(got.len() as u64).expect("received"); }
                    // The end comes at any time, even between the loss of a socket and the next; then no socket is gone on with.
                    36..40 if ended.is_none() => {
                        if what < 39 {
                            on_the_way.clear();
                            window.detach();
                        }
                        let acked = window.acked;
                        if what > 37 {
                            ended = Some(window.close(&outbox).count);
                            prop_assert_eq!(ended, Some(u64::from(put_in) - acked));
                        }
                        if what < 39 {
                            window.attach(got.len() as u64).expect("received");
                        }
                    }
                    _ => {}
                }
            }
            if ended.is_some() {
                // What was accepted before the end is all written.
                while let Some(message) = window.next(&outbox, Instant::now()).0 {
                    on_the_way.push_back(message);
                    window.flushed();
                }
                got.extend(on_the_way.into_iter().map(|message| message.id.expect("an id").to_string()));
                prop_assert_eq!(got.len(), put_in as usize);
                window.flushed();
                prop_assert!(window.messages.is_empty() && !window.is_in_flight());
            }
            prop_assert_eq!(&got, &(0..got.len()).map(|id| id.to_string()).collect::<Vec<_>>());
            if ended.is_none() {
                let unacked = window.close(&outbox);
                prop_assert_eq!(unacked.count, u64::from(put_in) - window.acked);
            }
        }
    }
}
