//! The driver: the one task of a connection. It turns signals, frames and its outbox into each other, and waits for nothing else.
//!
//! Written by hand as a future rather than as an async function, so that what an idle connection keeps is what is written here.

mod reliable;
mod resume;
mod writing;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use self::reliable::Reliable;
use self::resume::Detached;
use self::writing::InFlight;
use super::closer::Closer;
use super::deadline::Deadline;
use super::dues::Dues;
use super::identify::{close_reason, closed_by_client};
use super::pinged::Pinged;
use super::plain::{HEARTBEAT, Meaning, meaning};
use super::rate::Limiter;
use super::session::Host;
use super::{Admission, FrameSocket, Inbound, greet, wire_limit};
use crate::clock::{Clock, Millis};
use crate::close::{CloseReason, Excess};
use crate::event::Payload;
use crate::log::{BoxFuture, Slot};
use crate::metrics::{Beat, SendOutcome};
use crate::registry::{Connection, Registration, signal};

/// Frames handled at one go before others get their turn.
const READ_BURST: usize = 32;

/// Frames read from a socket that cannot be written to any more, to find its client's Close.
const LAST_WORDS: usize = 10 * READ_BURST;

/// How long a message waits for the log before its client is told to try later.
const LOG_DEADLINE: Duration = Duration::from_secs(10);

/// How long a message may take from its first fragment to its last.
const ASSEMBLY_DEADLINE: Millis = 60_000;

/// Why reading has stopped, and for how long at the most.
struct Pause {
    /// A message that the log has no room for yet.
    message: Option<(Payload, BoxFuture<'static, Slot>)>,
    deadline: Deadline,
}

/// What a connection is in that is not open.
enum Phase {
    Paused(Pause),
    /// The socket is lost, and a resume may bring another.
    Detached(Detached),
    Closing(Closer, CloseReason),
}

/// One connection's task.
pub(super) struct Driver<S> {
    // Dropped first: whatever happens, the end is submitted before the socket is gone.
    registration: Registration,
    host: Arc<Host>,
    socket: S,
    /// None while it is open: most connections wait most of the time, and what only the others need is in boxes.
    phase: Option<Box<Phase>>,
    limiter: Limiter,
    /// None while nothing is.
    in_flight: Option<Box<InFlight>>,
    pinged: Pinged,
    dues: Dues,
    speaks_text: bool,
    /// Senders may be writing to the line.
    lent: bool,
    admission: Admission,
    /// Only with the reliable subprotocol.
    reliable: Option<Box<Reliable<S>>>,
}

impl<S: FrameSocket> Driver<S> {
    /// `first` is what named the client, if it is still to be dealt with.
    pub(super) fn new(
        host: Arc<Host>,
        registration: Registration,
        socket: S,
        limiter: Limiter,
        first: Option<Inbound>,
        speaks_text: bool,
        admission: Admission,
    ) -> Self {
        let mut driver = Self {
            registration,
            host,
            socket,
            phase: None,
            limiter,
            in_flight: None,
            pinged: Pinged::default(),
            dues: Dues::default(),
            speaks_text,
            lent: false,
            admission,
            reliable: None,
        };
        if let Some(first) = first
            && let Err(reason) = driver.take(first)
        {
            driver.end(reason);
        }
        driver
    }

    fn connection(&self) -> &Arc<Connection> {
        self.registration.connection()
    }

    fn clock(&self) -> &Clock {
        self.registration.registry().clock()
    }

    fn is_open(&self) -> bool {
        self.phase.is_none()
    }

    fn is_paused(&self) -> bool {
        matches!(self.phase.as_deref(), Some(Phase::Paused(_)))
    }

    fn is_detached(&self) -> bool {
        matches!(self.phase.as_deref(), Some(Phase::Detached(_)))
    }

    fn end(&mut self, reason: CloseReason) {
        self.registration.end(reason);
        self.begin_closing();
    }

    /// Goes over to closing, for the reason that stands: another may have ended the connection first.
    fn begin_closing(&mut self) {
        let reason = self.connection().ending().unwrap_or(CloseReason::Internal);
        // With no socket there is nothing to write it to.
        if !reason.flushes_outbox() || self.is_detached() {
            self.drop_outbox();
        }
        self.end_session();
        self.drop_greeting();
        self.connection().set_paused(false);
        self.pinged.give_up();
        // From here on the deadline of the Close is the only one.
        self.dues.written();
        self.phase = Some(Box::new(Phase::Closing(Closer::new(), reason)));
    }

    fn drop_outbox(&self) {
        let dropped = self.connection().drop_unsent(false);
        self.host.metrics.sends.of(SendOutcome::Dropped).inc_by(dropped);
    }

    fn obey(&mut self, signals: u32) {
        if signals & signal::PROBE != 0 {
            let (probes, now) = (self.connection().take_probes(), self.clock().monotonic());
            if self.pinged.probe(probes, self.takes_writes(), now) {
                self.ping();
            }
        }
        if signals & signal::BEAT != 0 {
            self.beat();
        }
    }

    /// Reads frames until there are none, reading has to stop, or the connection ends. Ready(Ok) when there is more to do at once.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        for _ in 0..READ_BURST {
            if self.is_paused() {
                return Poll::Ready(Ok(()));
            }
            match self.socket.poll_read(context) {
                Poll::Ready(Ok(inbound)) => {
                    if self.socket.partial_bytes() == 0 {
                        self.dues.assembled();
                    }
                    self.take(inbound)?;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(close_reason(error))),
                Poll::Pending => {
                    self.check_partial()?;
                    return Poll::Pending;
                }
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Why a connection ends that failed to be written to. What its client said before it went may still wait to be read, its Close too. While
    /// the log has no room for that it is not read, and lost with the socket: then a Close behind it does not make a good end of it.
    fn last_words(&mut self, reason: CloseReason, context: &mut Context<'_>) -> CloseReason {
        if reason != CloseReason::Lost || !self.is_open() {
            return reason;
        }
        for _ in 0..LAST_WORDS / READ_BURST {
            if let Poll::Ready(Err(said)) = self.poll_read(context) {
                return said;
            }
        }
        reason
    }

    /// Notes that bytes came which are no message yet, and ends a message that takes for ever.
    fn check_partial(&mut self) -> Result<(), CloseReason> {
        let (active, partial) = (self.socket.take_activity(), self.socket.partial_bytes());
        if !active || partial == 0 {
            // What came was whole, and was heard when it was taken.
            return Ok(());
        }
        if self.host.settings.any_frame_counts {
            self.registration.heard();
        }
        let now = self.clock().now();
        let late = now.saturating_sub(self.dues.partial_since(now)) > ASSEMBLY_DEADLINE;
        if late || partial > wire_limit(self.host.settings.max_message) {
            return Err(CloseReason::RateLimited(Excess::Fragments));
        }
        Ok(())
    }

    /// What one frame means.
    fn take(&mut self, inbound: Inbound) -> Result<(), CloseReason> {
        // Read once: a heartbeat costs little more than this.
        let now = self.clock().monotonic();
        let uptime = now.as_millis() as Millis;
        if self.host.settings.any_frame_counts {
            self.registration.heard_at(uptime);
        }
        match inbound {
            // What most messages are, known without a look at their characters. It needs no padding.
            Inbound::Text(text) if self.reliable.is_none() && *text == *HEARTBEAT.as_bytes() => {
                self.speaks_text = true;
                self.take_heartbeat(Beat::TextIn, true, uptime)
            }
            Inbound::Text(text) => {
                let checked = std::str::from_utf8(&text).map_err(|_| CloseReason::BadUtf8)?;
                if self.reliable.is_some() {
                    return self.take_envelope(checked, uptime);
                }
                match meaning(checked) {
                    Meaning::Heartbeat(_) => {
                        self.speaks_text = true;
                        self.limit_padding(text.len(), uptime)?;
                        self.take_heartbeat(Beat::TextIn, true, uptime)
                    }
                    Meaning::Close => Err(CloseReason::EmptyText),
                    Meaning::Business => self.take_message(Payload::Text, &text, uptime),
                }
            }
            Inbound::Binary(_) if self.reliable.is_some() => Err(greet::not_text()),
            Inbound::Binary(bytes) => self.take_message(Payload::Binary, &bytes, uptime),
            Inbound::Ping => self.take_heartbeat(Beat::PingIn, true, uptime),
            Inbound::Pong(payload) => {
                // The answer to our own Ping is not the client's haste.
                let asked_for = payload.is_some_and(|payload| self.pong(payload, now));
                self.take_heartbeat(Beat::PongIn, !asked_for, uptime)
            }
            Inbound::Close(close) => Err(closed_by_client(close)),
        }
    }

    fn take_heartbeat(&mut self, kind: Beat, limited: bool, uptime: Millis) -> Result<(), CloseReason> {
        self.host.metrics.heartbeats.of(kind).inc();
        if limited {
            self.limiter.control(uptime).map_err(CloseReason::RateLimited)?;
        }
        if !self.host.settings.any_frame_counts {
            self.registration.heard_at(uptime);
        }
        Ok(())
    }

    fn take_message(&mut self, kind: fn(Bytes) -> Payload, bytes: &Bytes, uptime: Millis) -> Result<(), CloseReason> {
        self.limit_message(bytes.len(), uptime)?;
        // A copy: the bytes as read are a window into the read buffer, and would keep all of it.
        self.submit(kind(Bytes::copy_from_slice(bytes)));
        Ok(())
    }

    fn limit_message(&mut self, bytes: usize, uptime: Millis) -> Result<(), CloseReason> {
        let settings = &self.host.settings;
        self.limiter.message(settings.rates, settings.max_message, bytes, uptime).map_err(CloseReason::RateLimited)
    }

    fn limit_padding(&mut self, bytes: usize, uptime: Millis) -> Result<(), CloseReason> {
        let settings = &self.host.settings;
        self.limiter.padding(settings.rates, settings.max_message, bytes, uptime).map_err(CloseReason::RateLimited)
    }

    /// Hands a message to the log, and stops reading while that is behind.
    fn submit(&mut self, payload: Payload) {
        if let Err(payload) = self.registration.message(payload) {
            let budget = self.registration.registry().log().budget().clone();
            let size = payload.len();
            self.pause(Some((payload, Box::pin(async move { budget.reserve(size).await }))));
        } else if self.connection().uncommitted() >= self.host.settings.uncommitted {
            self.pause(None);
        }
    }

    fn pause(&mut self, message: Option<(Payload, BoxFuture<'static, Slot>)>) {
        self.connection().set_paused(true);
        let deadline = Deadline::after(LOG_DEADLINE, self.clock());
        self.phase = Some(Box::new(Phase::Paused(Pause { message, deadline })));
    }

    /// Waits until the log has caught up. Ready(Ok) when reading may go on.
    fn poll_pause(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Some(Phase::Paused(pause)) = self.phase.as_deref_mut() else { return Poll::Ready(Ok(())) };
        if let Some((_, room)) = &mut pause.message
            && let Poll::Ready(room) = room.as_mut().poll(context)
            && let Some((payload, _)) = pause.message.take()
        {
            self.registration.message_with(payload, room);
        }
        let behind = self.registration.connection().uncommitted() >= self.host.settings.uncommitted;
        if pause.message.is_some() || behind {
            ready!(pause.deadline.poll(self.registration.registry().clock(), context));
            return Poll::Ready(Err(CloseReason::Overloaded));
        }
        self.phase = None;
        self.registration.listen_again();
        Poll::Ready(Ok(()))
    }

    /// The timeout is over. What the runtime knew of has been read; what waits in the kernel all the same, because a busy machine let nobody look
    /// there, is read now, before the client is held to be silent.
    fn expire(&mut self, context: &mut Context<'_>) -> Result<(), CloseReason> {
        if !self.is_silent() {
            return Ok(());
        }
        // One that the last look was not done with floods, and it is no heartbeats that it sends.
        let floods = self.socket.asks_kernel();
        self.socket.ask_kernel();
        if let Poll::Ready(read) = self.poll_read(context) {
            read?;
        }
        // More than one burst is read on, and judged by the next look.
        let all_was_read = floods || !self.socket.asks_kernel();
        if all_was_read && self.is_open() && self.is_silent() { Err(CloseReason::HeartbeatTimeout) } else { Ok(()) }
    }

    fn is_silent(&self) -> bool {
        let connection = self.connection();
        let silence = self.clock().now().saturating_sub(connection.silent_since());
        silence >= Millis::from(connection.cadence().timeout)
    }

    /// `idle` says that the outbox is.
    fn poll_open(&mut self, mut idle: bool, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        loop {
            let signals = self.connection().take_signals();
            if signals & signal::SEALED != 0 {
                self.begin_closing();
                return Poll::Ready(Ok(()));
            }
            self.obey(signals);
            if signals & signal::RESUME != 0 {
                self.go_on()?;
                continue;
            }
            if self.is_detached() {
                return self.poll_detached(context);
            }
            let idle = std::mem::take(&mut idle);
            let nothing_to_write = self.is_quiet() && (idle || self.connection().outbox.is_idle());
            if !nothing_to_write && let Poll::Ready(Err(reason)) = self.poll_write(context) {
                return Poll::Ready(Err(self.last_words(reason, context)));
            }
            let progress = if self.is_paused() { self.poll_pause(context)? } else { self.poll_read(context)? };
            if signals & signal::EXPIRE != 0 && self.is_open() {
                self.expire(context)?;
                if self.is_paused() {
                    // What it read has to wait for the log, and nothing else would wake this task for that.
                    continue;
                }
            }
            if progress.is_pending() && self.owes_envelope() && self.takes_writes() {
                // What was read has to be answered, and nothing else would wake this task for it.
                continue;
            }
            ready!(progress);
        }
    }

    fn poll_closing(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(Phase::Closing(closer, reason)) = self.phase.as_deref_mut() else { return Poll::Ready(()) };
        let (lost, flushes_outbox) = (matches!(reason, CloseReason::Lost), reason.flushes_outbox());
        // Where nobody is left to close and nothing to write, no deadline is begun.
        let done = lost && self.in_flight.is_none() && self.reliable.is_none();
        if done || closer.is_late(context) {
            return Poll::Ready(());
        }
        let bid_farewell = self.reliable.as_ref().is_some_and(|reliable| reliable.bid_farewell);
        if !bid_farewell && (flushes_outbox || self.is_in_flight()) {
            // What was accepted before the end goes out before the Close; a socket that fails here has nothing to close.
            if ready!(self.poll_write(context)).is_err() {
                return Poll::Ready(());
            }
        }
        let Some(Phase::Closing(closer, reason)) = self.phase.as_deref_mut() else { return Poll::Ready(()) };
        if let Some(reliable) = &mut self.reliable {
            reliable.bid_farewell(&mut self.socket, reason);
        }
        closer.poll(&mut self.socket, reason, context)
    }
}

impl<S: FrameSocket> Future for Driver<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.connection().register(context);
        let mut idle = ready!(this.reclaim_line());
        if !matches!(this.phase.as_deref(), Some(Phase::Closing(..))) {
            loop {
                match this.poll_open(std::mem::take(&mut idle), context) {
                    Poll::Pending => {
                        this.lend_line();
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(())) => break,
                    Poll::Ready(Err(reason)) if this.may_be_resumed(&reason) => this.detach(reason),
                    Poll::Ready(Err(reason)) => {
                        this.end(reason);
                        break;
                    }
                }
            }
        }
        ready!(this.poll_closing(context));
        // What was handed to the socket and not taken whole; what is still in the outbox is counted as the registration goes.
        let cut_off = this.in_flight.as_ref().map_or(0, |in_flight| in_flight.frames);
        this.host.metrics.sends.of(SendOutcome::Dropped).inc_by(cut_off);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a plain socket takes; a test in `ws` holds it to that.
    type PlainSocket = [usize; 4];

    #[test]
    fn the_task_of_a_plain_connection_is_within_256_bytes() {
        // What tokio puts around a future: header, scheduler, id and trailer.
        const TASK: usize = 96;
        let tracked = size_of::<tokio_util::task::task_tracker::TrackedFuture<Driver<PlainSocket>>>();
        assert!(TASK + tracked <= 256, "{tracked}");
    }
}
