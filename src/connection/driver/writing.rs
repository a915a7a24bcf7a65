//! What a driver writes: its outbox, the server's heartbeats and Pings, by a line that it lends to senders while it has nothing to write.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::identify::close_reason;
use super::super::plain::HEARTBEAT;
use super::Driver;
use crate::close::CloseReason;
use crate::connection::{FrameSocket, PingPayload, ServerBeat};
use crate::event::Payload;
use crate::metrics::{Beat, SendOutcome};
use crate::outbox::{Frame, Reclaimed, Written};

/// Bytes gathered for one write.
pub(super) const WRITE_BURST: usize = 16 * 1024;

/// What is being written, and whom to tell when it is.
#[derive(Default)]
pub(super) struct InFlight {
    receipts: Vec<oneshot::Sender<Written>>,
    pub(super) frames: u64,
    bytes: u64,
}

impl<S: FrameSocket> Driver<S> {
    /// Writes what is in the outbox as far as the client takes it. Ready when there is nothing left.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        loop {
            match self.socket.poll_flush(context) {
                Poll::Ready(Ok(())) => self.written(),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(close_reason(error))),
                Poll::Pending => {
                    let (timeout, clock) = (self.host.settings.write_timeout, self.registration.registry().clock());
                    ready!(self.dues.poll_write(timeout, clock, context));
                    return Poll::Ready(Err(CloseReason::SlowClient));
                }
            }
            if !self.gather() && self.socket.buffered() == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Everything handed to the socket has been taken by the kernel.
    pub(super) fn written(&mut self) {
        self.dues.written();
        let clock = self.registration.registry().clock();
        if self.pinged.take_held_back(|| clock.monotonic()) {
            self.ping();
        }
        if self.reliable.is_some() {
            return self.flushed_envelopes();
        }
        let Some(written) = self.in_flight.take() else { return };
        let InFlight { receipts, frames, bytes } = *written;
        self.connection().traffic.count_written(frames, bytes, &self.host.metrics);
        for receipt in receipts {
            // Whoever asked may have stopped waiting.
            let _ = receipt.send(Written::Yes);
        }
    }

    /// Whether frames were given to the socket that the kernel has not taken whole.
    pub(super) fn is_in_flight(&self) -> bool {
        match self.connection().reliable() {
            Some(reliable) => reliable.window().is_in_flight(),
            None => self.in_flight.is_some(),
        }
    }

    /// Whether the client takes what it is sent, as far as is known.
    pub(super) fn takes_writes(&self) -> bool {
        !self.dues.is_write_waiting() && !self.is_detached()
    }

    /// Moves frames from the outbox to the socket; false if there are none.
    pub(super) fn gather(&mut self) -> bool {
        if self.reliable.is_some() {
            return self.gather_envelopes();
        }
        if self.connection().outbox.is_idle() {
            return false;
        }
        let now = Instant::now();
        let mut any = false;
        while self.socket.buffered() < WRITE_BURST {
            let (frame, expired) = self.connection().outbox.pop(now);
            self.host.metrics.sends.of(SendOutcome::Dropped).inc_by(expired);
            let Some(frame) = frame else { break };
            self.socket.queue(&frame.payload);
            self.note_in_flight(frame);
            any = true;
        }
        any
    }

    pub(super) fn note_in_flight(&mut self, frame: Frame) {
        let in_flight = self.in_flight.get_or_insert_default();
        in_flight.frames += 1;
        in_flight.bytes += frame.payload.len() as u64;
        in_flight.receipts.extend(frame.receipt);
    }

    /// Lends the line to senders when there is nothing to write, so that they need not wake this task.
    pub(super) fn lend_line(&mut self) {
        if self.is_open() && self.is_quiet() {
            let socket = &self.socket;
            self.lent = self.registration.connection().outbox.lend(|| socket.line());
        }
    }

    /// Whether there is nothing to write, and nothing was begun, beside what may be in the outbox.
    pub(super) fn is_quiet(&self) -> bool {
        let waits = self.in_flight.is_some() || self.dues.is_write_waiting();
        !waits && self.reliable.is_none() && self.socket.is_idle()
    }

    /// Takes the line back, before anything is read or written: an answer to what is read may be written too. Pending while a sender writes, which wakes
    /// this task when it has; it waits for nobody. Ready with whether the outbox is known to be idle: whoever puts something in it from now on wakes this
    /// task too.
    pub(super) fn reclaim_line(&mut self) -> Poll<bool> {
        if !self.lent {
            return Poll::Ready(false);
        }
        let begun = match self.connection().outbox.reclaim() {
            Reclaimed::NotYet => return Poll::Pending,
            Reclaimed::Idle => {
                self.lent = false;
                return Poll::Ready(true);
            }
            Reclaimed::Yes(begun) => begun,
        };
        self.lent = false;
        if let Some((frame, begun)) = begun {
            self.socket.queue_rest(&frame.payload, begun);
            self.note_in_flight(frame);
        }
        Poll::Ready(false)
    }

    /// The server's heartbeat.
    pub(super) fn beat(&mut self) {
        // A client that does not take what it is sent needs no more of it; its write deadline runs.
        if !self.takes_writes() {
            return;
        }
        let (ping, text) = match self.host.settings.server_beat {
            ServerBeat::Auto => (true, self.speaks_text),
            ServerBeat::Ping => (true, false),
            ServerBeat::Text => (false, true),
            ServerBeat::Both => (true, true),
            ServerBeat::Off => (false, false),
        };
        if ping {
            self.ping();
        }
        if text && self.reliable.is_some() {
            self.owe_beat();
        } else if text {
            self.socket.queue(&Payload::Text(Bytes::from_static(HEARTBEAT.as_bytes())));
            self.host.metrics.heartbeats.of(Beat::TextOut).inc();
        }
    }

    pub(super) fn ping(&mut self) {
        let now = self.clock().monotonic();
        self.socket.queue_ping(self.pinged.next(now));
        self.host.metrics.heartbeats.of(Beat::PingOut).inc();
    }

    /// Whether a Pong is the one that was waited for.
    pub(super) fn pong(&mut self, payload: PingPayload, now: Duration) -> bool {
        let Some(round_trip) = self.pinged.answered(payload, now) else { return false };
        let micros = u32::try_from(round_trip.as_micros()).unwrap_or(u32::MAX).max(1);
        self.connection().traffic.round_trip_micros.store(micros, Ordering::Relaxed);
        true
    }
}
