//! What a driver does for a client of the reliable subprotocol: numbers, acknowledgements and envelopes where the plain protocol has bare frames.

use std::sync::Arc;

use tokio::time::Instant;

use super::super::envelope::{self, FromClient, FromServer, Hello};
use super::super::sessions::{Held, Secret, Sessions};
use super::writing::WRITE_BURST;
use super::{Driver, Phase};
use crate::clock::Millis;
use crate::close::{CloseReason, Violation};
use crate::connection::FrameSocket;
use crate::event::Payload;
use crate::heartbeat::Cadence;
use crate::metrics::{Beat, SendOutcome};
use crate::registry::{AckError, Flushed, Window, signal};

/// What a driver keeps for a client of the reliable subprotocol beside what it keeps for any.
pub(super) struct Reliable<S> {
    pub(super) held: Held<S>,
    /// What stands in for the socket while there is none.
    pub(super) spare: Option<S>,
    /// The newest of the client's numbers that was taken, committed or not.
    pub(super) received: u64,
    /// What the client was last told that the server has.
    told: u64,
    /// The heartbeat settings that the client was last told.
    told_cadence: Cadence,
    /// A `hello` is to be sent; whether it is one of a session that goes on.
    greeting: Option<bool>,
    /// Heartbeats to be sent: answers, and the server's own. A client that does not take them is bounded by its rate, and each costs this count only.
    owed_beats: u32,
    /// Something came again that is committed.
    ack_again: bool,
    /// An acknowledgement has made room for messages that may wait in the outbox.
    made_room: bool,
    /// Its last word has been said.
    pub(super) bid_farewell: bool,
}

impl<S> Reliable<S> {
    /// A socket begins or goes on.
    pub(super) fn begin(&mut self, resumed: bool) {
        self.greeting = Some(resumed);
        self.owed_beats = 0;
        self.ack_again = false;
    }

    /// Queues what comes before the Close, once.
    pub(super) fn bid_farewell(&mut self, socket: &mut S, reason: &CloseReason)
    where
        S: FrameSocket,
    {
        if !std::mem::replace(&mut self.bid_farewell, true)
            && let Some(frame) = envelope::farewell(reason)
        {
            socket.queue(&frame);
        }
    }
}

/// What a client is told whose acknowledgement does not hold.
pub(super) fn ack_violation(error: &AckError) -> CloseReason {
    let violation = match error {
        AckError::Ahead { .. } => Violation::AckAhead,
        AckError::Behind { .. } => Violation::BadEnvelope,
    };
    CloseReason::Violation(violation, format!("{}: {error}", violation.as_str()).into())
}

impl<S: FrameSocket> Driver<S> {
    /// The same for a client of the reliable subprotocol. `spare` stands in for a socket while there is none.
    pub(in crate::connection) fn with_session(mut self, sessions: &Arc<Sessions<S>>, secret: Secret, spare: S) -> Self {
        let resumable = !self.host.settings.resume_window.is_zero();
        self.reliable = Some(Box::new(Reliable {
            held: Held::new(sessions, secret, self.connection(), resumable),
            spare: Some(spare),
            received: 0,
            told: 0,
            told_cadence: self.connection().cadence(),
            greeting: Some(false),
            owed_beats: 0,
            ack_again: false,
            made_room: false,
            bid_farewell: false,
        }));
        self
    }

    /// How many of the client's messages are committed.
    fn committed(&self) -> u64 {
        self.connection().reliable().map_or(0, |reliable| reliable.committed())
    }

    /// Whether there is, or may be, something to be written because of what was read.
    pub(super) fn owes_envelope(&self) -> bool {
        let Some(reliable) = &self.reliable else { return false };
        reliable.greeting.is_some()
            || reliable.owed_beats > 0
            || reliable.ack_again
            || reliable.made_room
            || self.committed() > reliable.told
            || self.connection().cadence() != reliable.told_cadence
    }

    /// Another heartbeat is owed.
    pub(super) fn owe_beat(&mut self) {
        if let Some(reliable) = &mut self.reliable {
            reliable.owed_beats = reliable.owed_beats.saturating_add(1);
        }
    }

    /// The next envelope for the client.
    fn next_envelope(&mut self, now: Instant) -> Option<Payload> {
        let committed = self.committed();
        let connection = Arc::clone(self.connection());
        let (reliable, shared) = (self.reliable.as_mut()?, connection.reliable()?);
        if let Some(resumed) = reliable.greeting.take() {
            reliable.told = committed;
            reliable.ack_again = false;
            let (settings, cadence, info) = (&self.host.settings, connection.cadence(), connection.info());
            reliable.told_cadence = cadence;
            let hello = Hello {
                session: &reliable.held.secret().to_string(),
                client_id: info.client_id.as_str(),
                connection_id: &info.connection_id.to_string(),
                resumed,
                received: committed,
                heartbeat_interval_ms: cadence.interval,
                heartbeat_timeout_ms: cadence.timeout,
                resume_window: settings.resume_window,
                max_message_bytes: settings.max_message,
                max_unacked_messages: Window::MAX_MESSAGES,
                max_unacked_bytes: Window::MAX_BYTES,
                messages_per_second: settings.rates.messages,
                bytes_per_second: settings.rates.bytes,
            };
            return Some(FromServer::Hello(hello).to_frame());
        }
        let cadence = connection.cadence();
        let retuned = (cadence != reliable.told_cadence).then_some(cadence);
        if reliable.owed_beats > 0 || retuned.is_some() {
            reliable.owed_beats = reliable.owed_beats.saturating_sub(1);
            reliable.told_cadence = cadence;
            reliable.told = committed;
            reliable.ack_again = false;
            self.host.metrics.heartbeats.of(Beat::TextOut).inc();
            return Some(FromServer::Heartbeat(committed, retuned).to_frame());
        }
        if committed > reliable.told || reliable.ack_again {
            reliable.told = committed;
            reliable.ack_again = false;
            return Some(FromServer::Ack(committed).to_frame());
        }
        // The lock covers the way from the outbox to the window, so that whoever ends the connection finds the message in one of them.
        let (message, expired) = shared.window().next(&connection.outbox, now);
        self.host.metrics.sends.of(SendOutcome::Dropped).inc_by(expired);
        let message = message?;
        let (sequence, id) = (message.sequence, message.id.as_deref());
        Some(FromServer::Message { sequence, id, payload: &message.payload }.to_frame())
    }

    /// At the end: a session whose `Connected` is not committed has not begun for its client.
    pub(super) fn drop_greeting(&mut self) {
        let committed = self.connection().has(signal::COMMITTED);
        if let Some(reliable) = self.reliable.as_mut().filter(|_| !committed) {
            reliable.greeting = None;
        }
    }

    /// Moves envelopes to the socket; false if there are none.
    pub(super) fn gather_envelopes(&mut self) -> bool {
        if let Some(Phase::Closing(_, reason)) = self.phase.as_deref()
            && !reason.flushes_outbox()
        {
            // Only what the socket has already is still to be taken; nothing may come after the answer to the client's Close.
            return false;
        }
        if let Some(reliable) = &mut self.reliable {
            reliable.made_room = false;
        }
        let now = Instant::now();
        let mut any = false;
        while self.socket.buffered() < WRITE_BURST
            && let Some(frame) = self.next_envelope(now)
        {
            self.socket.queue(&frame);
            any = true;
        }
        any
    }

    /// What an envelope means.
    pub(super) fn take_envelope(&mut self, text: &str, uptime: Millis) -> Result<(), CloseReason> {
        let envelope = envelope::parse(text)?;
        if !matches!(envelope, FromClient::Message { .. }) {
            self.limit_padding(text.len(), uptime)?;
        }
        match envelope {
            FromClient::Heartbeat { received } => {
                self.take_heartbeat(Beat::TextIn, true, uptime)?;
                if let Some(received) = received {
                    self.take_ack(received)?;
                }
                self.owe_beat();
                Ok(())
            }
            FromClient::Ack { received } => {
                // One that tells something new is bounded by what was sent.
                if self.take_ack(received)? == 0 {
                    self.limiter.control(uptime).map_err(CloseReason::RateLimited)?;
                }
                Ok(())
            }
            FromClient::Message { sequence, payload } => self.take_numbered(sequence, payload, text.len(), uptime),
            FromClient::Bye { code, reason } => Err(CloseReason::Bye(code, reason)),
            FromClient::Hello { .. } | FromClient::Resume { .. } => {
                let what = "UNEXPECTED: hello and resume are first frames only";
                Err(CloseReason::Violation(Violation::Unexpected, what.into()))
            }
        }
    }

    fn take_numbered(
        &mut self,
        sequence: u64,
        payload: Payload,
        frame: usize,
        uptime: Millis,
    ) -> Result<(), CloseReason> {
        self.limit_message(frame, uptime)?;
        let committed = self.committed();
        let Some(reliable) = &mut self.reliable else { return Ok(()) };
        if sequence <= reliable.received {
            // One that is not committed yet is acknowledged when it is.
            reliable.ack_again |= sequence <= committed;
            return Ok(());
        }
        let next = reliable.received + 1;
        if sequence != next {
            let what = format!("SEQUENCE_GAP: message {sequence} came where {next} is the next");
            return Err(CloseReason::Violation(Violation::SequenceGap, what.into()));
        }
        reliable.received = next;
        self.submit(payload);
        Ok(())
    }

    /// The client says that it has everything up to `received`; how many messages that is news of.
    fn take_ack(&mut self, received: u64) -> Result<u64, CloseReason> {
        let Some(reliable) = self.connection().reliable() else { return Ok(0) };
        let acked = reliable.window().ack(received);
        let news = self.note_ack(acked)?;
        if let Some(reliable) = &mut self.reliable {
            reliable.made_room |= news > 0;
        }
        Ok(news)
    }

    pub(super) fn note_ack(&self, acked: Result<(u64, Flushed), AckError>) -> Result<u64, CloseReason> {
        let (news, flushed) = acked.map_err(|error| ack_violation(&error))?;
        self.count_written(flushed.messages, flushed.bytes);
        self.host.metrics.sends.of(SendOutcome::Acked).inc_by(news);
        Ok(news)
    }

    /// Everything given to the socket has been taken by the kernel.
    pub(super) fn flushed_envelopes(&self) {
        if let Some(reliable) = self.connection().reliable() {
            let Flushed { messages, bytes } = reliable.window().flushed();
            self.count_written(messages, bytes);
        }
    }

    pub(super) fn count_written(&self, frames: u64, bytes: u64) {
        if frames == 0 {
            return;
        }
        self.connection().traffic.count_written(frames, bytes, &self.host.metrics);
    }
}
