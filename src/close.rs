//! Why a connection ends: the one table of causes, WebSocket close codes and whether to reconnect.

use std::borrow::Cow;

use crate::clock::Millis;

/// The cause that a `Disconnected` event carries; the same names as `DisconnectCause` of the proto.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// The client sent a Close, or an empty text message.
    ClientClosed,
    /// The socket ended without a closing handshake.
    ConnectionLost,
    /// Nothing was heard for the heartbeat timeout.
    HeartbeatTimeout,
    /// A backend disconnected it.
    Kicked,
    /// A newer connection took the client id over.
    Replaced,
    /// A write was not taken in time.
    SlowClient,
    /// Over a rate or a flood limit.
    RateLimited,
    /// It broke RFC 6455, or sent what is not allowed.
    ProtocolError,
    /// Its token ran out.
    TokenExpired,
    /// The node is shutting down, or was told to drain.
    Drained,
    /// The node died with the connection open, and said so when it started again.
    NodeRestarted,
    /// The node was lost, and another said so.
    NodeLost,
    /// A fault of Heartwire itself.
    InternalError,
    /// The log did not take its events in time.
    Overloaded,
}

impl Cause {
    /// Every cause, for metrics that list them all from the start.
    pub const ALL: [Self; 14] = [
        Self::ClientClosed,
        Self::ConnectionLost,
        Self::HeartbeatTimeout,
        Self::Kicked,
        Self::Replaced,
        Self::SlowClient,
        Self::RateLimited,
        Self::ProtocolError,
        Self::TokenExpired,
        Self::Drained,
        Self::NodeRestarted,
        Self::NodeLost,
        Self::InternalError,
        Self::Overloaded,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ConnectionLost => "connection_lost",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::Kicked => "kicked",
            Self::Replaced => "replaced",
            Self::SlowClient => "slow_client",
            Self::RateLimited => "rate_limited",
            Self::ProtocolError => "protocol_error",
            Self::TokenExpired => "token_expired",
            Self::Drained => "drained",
            Self::NodeRestarted => "node_restarted",
            Self::NodeLost => "node_lost",
            Self::InternalError => "internal_error",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Whether a client that was closed should come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reconnect {
    /// No: the same would happen again, or somebody meant it.
    No,
    /// Yes, at once or after the hint in the reason.
    Yes,
    /// Yes, waiting longer from try to try.
    BackingOff,
}

/// What was sent too fast; part of the reason that the client sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excess {
    /// Business messages, by count.
    Messages,
    /// Bytes of business messages.
    Bytes,
    /// Heartbeats, Pings, Pongs.
    ControlFrames,
    /// A message in endless or empty fragments.
    Fragments,
    /// Takeovers of one client id.
    Takeovers,
    /// Connections from one address.
    Connections,
}

/// How a client broke the reliable subprotocol; each is a `code` of its `error` envelope.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Violation {
    /// The text is not one JSON object.
    BadJson,
    /// A member is missing, of the wrong type or out of its range.
    BadEnvelope,
    /// There is no such `type`.
    UnknownType,
    /// Not at this point.
    Unexpected,
    /// A message's number is not the next one.
    SequenceGap,
    /// An acknowledgement of what was not sent.
    AckAhead,
    /// A binary frame.
    NotText,
    /// No session to resume.
    SessionUnknown,
}

impl Violation {
    /// Every violation.
    pub const ALL: [Self; 8] = [
        Self::BadJson,
        Self::BadEnvelope,
        Self::UnknownType,
        Self::Unexpected,
        Self::SequenceGap,
        Self::AckAhead,
        Self::NotText,
        Self::SessionUnknown,
    ];

    /// The `code` of the `error` envelope.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "BAD_JSON",
            Self::BadEnvelope => "BAD_ENVELOPE",
            Self::UnknownType => "UNKNOWN_TYPE",
            Self::Unexpected => "UNEXPECTED",
            Self::SequenceGap => "SEQUENCE_GAP",
            Self::AckAhead => "ACK_AHEAD",
            Self::NotText => "NOT_TEXT",
            Self::SessionUnknown => "SESSION_UNKNOWN",
        }
    }

    const fn close_code(self) -> u16 {
        match self {
            Self::BadJson => 1007,
            Self::BadEnvelope | Self::UnknownType | Self::Unexpected | Self::SequenceGap | Self::AckAhead => 1002,
            Self::NotText => 1003,
            Self::SessionUnknown => 4404,
        }
    }
}

/// Why a connection ends. Each has one cause, one code, one reason and one answer to "reconnect?".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The client sent an empty text message, which asks to be closed.
    EmptyText,
    /// The client sent a Close with this code and reason (none: 1005).
    ByClient(Option<u16>, Box<str>),
    /// The client's `bye` of the reliable subprotocol, with the code and reason to close it with.
    Bye(u16, Box<str>),
    /// It broke the reliable subprotocol; what it did, for people, in at most 123 bytes and none of them its own.
    Violation(Violation, Cow<'static, str>),
    /// End of stream or an I/O error with no Close before it.
    Lost,
    /// The node died with the connection open; its next run says so.
    NodeRestarted,
    /// Nothing heard for the heartbeat timeout.
    HeartbeatTimeout,
    /// A backend's `Disconnect` with this code and reason.
    Kicked(u16, Box<str>),
    /// A newer connection of the same client id.
    Replaced,
    /// A write over its deadline.
    SlowClient,
    /// Too much of something.
    RateLimited(Excess),
    /// A violation of RFC 6455's framing.
    Protocol,
    /// Text that is not UTF-8.
    BadUtf8,
    /// A message or frame over the limit.
    TooBig,
    /// The log did not take an event in time, or an internal bound was met.
    Overloaded,
    /// Drain or shutdown; the client should wait this many milliseconds before it reconnects.
    Restart {
        /// The jittered hint.
        reconnect_after: Millis,
    },
    /// The client id in the first frame is not allowed.
    BadIdentity(Cow<'static, str>),
    /// The client id is in use and the policy allows no further connection.
    IdInUse,
    /// No data frame within the identify timeout.
    IdentifyTimeout,
    /// The connection's task ended without saying why (a panic, or the runtime going down).
    Internal,
}

/// The code of a client's Close that leaves its session of the reliable subprotocol to be resumed: a browser can end a socket in no other way.
pub const GOING_TO_RESUME: u16 = 4499;

impl CloseReason {
    /// The cause for the `Disconnected` event.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match self {
            Self::EmptyText | Self::ByClient(..) | Self::Bye(..) => Cause::ClientClosed,
            Self::Lost => Cause::ConnectionLost,
            Self::NodeRestarted => Cause::NodeRestarted,
            Self::HeartbeatTimeout => Cause::HeartbeatTimeout,
            Self::Kicked(..) => Cause::Kicked,
            Self::Replaced => Cause::Replaced,
            Self::SlowClient => Cause::SlowClient,
            Self::RateLimited(_) => Cause::RateLimited,
            Self::Protocol | Self::BadUtf8 | Self::TooBig | Self::BadIdentity(_) | Self::Violation(..) => {
                Cause::ProtocolError
            }
            Self::Overloaded => Cause::Overloaded,
            Self::Restart { .. } => Cause::Drained,
            Self::IdInUse | Self::IdentifyTimeout => Cause::Kicked,
            Self::Internal => Cause::InternalError,
        }
    }

    /// The close code: what Heartwire sends, or what the client sent; 1005 and 1006 stand for none (RFC 6455, 7.4.1).
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::EmptyText => 1000,
            Self::ByClient(code, _) => match code {
                Some(code) => *code,
                None => 1005,
            },
            Self::Lost | Self::NodeRestarted => 1006,
            Self::HeartbeatTimeout => 4408,
            Self::Kicked(code, _) | Self::Bye(code, _) => *code,
            Self::Violation(violation, _) => violation.close_code(),
            Self::Replaced => 4409,
            Self::SlowClient => 4413,
            Self::RateLimited(_) => 4429,
            Self::Protocol => 1002,
            Self::BadUtf8 => 1007,
            Self::TooBig => 1009,
            Self::Overloaded => 1013,
            Self::Restart { .. } => 1012,
            Self::BadIdentity(_) => 4400,
            Self::IdInUse => 4410,
            Self::IdentifyTimeout => 4411,
            Self::Internal => 1011,
        }
    }

    /// The reason text; at most 123 bytes (RFC 6455, 5.5).
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::EmptyText => "Closed by client".into(),
            Self::ByClient(_, text) | Self::Kicked(_, text) | Self::Bye(_, text) => Cow::Borrowed(text),
            Self::Violation(_, what) => Cow::Borrowed(what),
            Self::Lost => "Connection lost".into(),
            Self::NodeRestarted => "The node ended without closing the connection".into(),
            Self::HeartbeatTimeout => "Heartbeat timeout".into(),
            Self::Replaced => "Replaced by a newer connection".into(),
            Self::SlowClient => "Slow client: a write did not finish in time".into(),
            Self::RateLimited(Excess::Messages) => "Rate limited: messages".into(),
            Self::RateLimited(Excess::Bytes) => "Rate limited: bytes".into(),
            Self::RateLimited(Excess::ControlFrames) => "Rate limited: heartbeats and control frames".into(),
            Self::RateLimited(Excess::Fragments) => "Rate limited: fragments".into(),
            Self::RateLimited(Excess::Takeovers) => "Rate limited: takeovers of this client id".into(),
            Self::RateLimited(Excess::Connections) => "Rate limited: connections from this address".into(),
            Self::Protocol => "Protocol error".into(),
            Self::BadUtf8 => "Text is not UTF-8".into(),
            Self::TooBig => "Message too big".into(),
            Self::Overloaded => "Overloaded, try later".into(),
            Self::Restart { reconnect_after } => {
                format!("Closed by server: restart; reconnect_after_ms={reconnect_after}").into()
            }
            Self::BadIdentity(why) => Cow::Borrowed(why),
            Self::IdInUse => "Client id is in use".into(),
            Self::IdentifyTimeout => "No data frame within the identify timeout".into(),
            Self::Internal => "Internal error".into(),
        }
    }

    /// Whether the client should come back.
    #[must_use]
    pub const fn reconnect(&self) -> Reconnect {
        match self.code() {
            1001 | 1012 | 4404 | 4408 | 4411 | 4412 | 4413 => Reconnect::Yes,
            1011 | 1013 | 4410 | 4429 => Reconnect::BackingOff,
            _ => Reconnect::No,
        }
    }

    /// Whether it is the end of a socket only, where a session may be resumed on another.
    #[must_use]
    pub const fn leaves_session(&self) -> bool {
        matches!(self, Self::Lost | Self::ByClient(Some(GOING_TO_RESUME), _))
    }

    /// Whether a Close is to be sent: not when the socket is gone, nor when the client's own is being answered.
    #[must_use]
    pub const fn sends_close(&self) -> bool {
        !matches!(self, Self::Lost | Self::NodeRestarted | Self::ByClient(..))
    }

    /// Whether frames that were accepted before the end are still written ahead of the Close: yes when the
    /// client is well and somebody else ended it, so that "send, then disconnect" delivers.
    #[must_use]
    pub const fn flushes_outbox(&self) -> bool {
        matches!(self, Self::Kicked(..) | Self::Replaced | Self::Restart { .. } | Self::Overloaded)
    }

    /// Whether the client broke the framing, so that nothing it sends can be parsed any more.
    #[must_use]
    pub const fn framing_lost(&self) -> bool {
        matches!(self, Self::Protocol | Self::BadUtf8 | Self::TooBig | Self::RateLimited(Excess::Fragments))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<CloseReason> {
        use CloseReason as R;
        vec![
            R::EmptyText,
            R::ByClient(None, "".into()),
            R::Bye(1000, "".into()),
            R::Violation(Violation::BadJson, "".into()),
            R::Violation(Violation::BadEnvelope, "".into()),
            R::Violation(Violation::NotText, "".into()),
            R::Violation(Violation::SessionUnknown, "".into()),
            R::Lost,
            R::NodeRestarted,
            R::HeartbeatTimeout,
            R::Kicked(1000, "".into()),
            R::Replaced,
            R::SlowClient,
            R::RateLimited(Excess::Messages),
            R::RateLimited(Excess::Bytes),
            R::RateLimited(Excess::ControlFrames),
            R::RateLimited(Excess::Fragments),
            R::RateLimited(Excess::Takeovers),
            R::RateLimited(Excess::Connections),
            R::Protocol,
            R::BadUtf8,
            R::TooBig,
            R::Overloaded,
            R::Restart { reconnect_after: u64::MAX },
            R::BadIdentity("bad".into()),
            R::IdInUse,
            R::IdentifyTimeout,
            R::Internal,
        ]
    }

    #[test]
    fn every_reason_that_is_sent_fits_a_close_frame_and_has_a_code_that_may_be_sent() {
        for reason in all().into_iter().filter(CloseReason::sends_close) {
            assert!(reason.text().len() <= 123, "{reason:?}");
            assert!(matches!(reason.code(), 1000..=1003 | 1007..=1014 | 3000..=4999), "{reason:?}");
        }
    }

    #[test]
    fn a_failure_is_never_closed_with_1000() {
        for reason in all() {
            let meant = matches!(reason.cause(), Cause::ClientClosed | Cause::Kicked);
            assert!(reason.code() != 1000 || meant, "{reason:?}");
        }
    }

    #[test]
    fn the_table_answers_whether_to_reconnect_as_the_protocol_says() {
        use Reconnect::{BackingOff, No, Yes};
        let expected = [
            (1000, No),
            (1002, No),
            (1003, No),
            (1007, No),
            (1009, No),
            (1012, Yes),
            (1013, BackingOff),
            (4400, No),
            (4404, Yes),
            (4408, Yes),
            (4409, No),
            (4410, BackingOff),
            (4411, Yes),
            (4413, Yes),
            (4429, BackingOff),
        ];
        for (code, answer) in expected {
            let reason = all().into_iter().find(|r| r.code() == code).expect("a reason with the code");
            assert_eq!(reason.reconnect(), answer, "{code}");
        }
    }
}
