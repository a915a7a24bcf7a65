//! What goes wrong in a call: the domain's errors as canonical codes with a reason. The only file that makes a `tonic::Status`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tonic::body::Body;
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::consumers::Ended;
use crate::dispatch::SendError;
use crate::event::Generation;
use crate::log::CursorError;
use crate::mailbox::PostError;
use crate::registry::{CommandError, OtherGeneration, Registry};
use crate::store::StoreError;

/// `ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "heartwire";

/// When to try again after an outbox was full: time for a client to read some of it.
const OUTBOX_RETRY: Duration = Duration::from_millis(100);
/// When to try again after all places were taken.
const PLACE_RETRY: Duration = Duration::from_secs(1);

/// What a unary method returns.
pub(super) type Reply<T> = Result<Response<T>, Status>;
/// What a server stream carries.
pub(super) type Item<T> = Result<T, Status>;
/// A server stream.
pub(super) type Items<T> = Pin<Box<dyn Stream<Item = Item<T>> + Send>>;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// A field of the request breaks its contract.
    #[error("{field}: {problem}")]
    Field {
        /// Its path in the request.
        field: Cow<'static, str>,
        /// What is wrong with it.
        problem: Cow<'static, str>,
    },
    /// In the contract, and not built yet.
    #[error("{0} is not implemented in this release")]
    NotImplemented(&'static str),
    #[error("the cursor is damaged")]
    CursorDamaged,
    #[error("the cursor is ahead of the log")]
    CursorAhead,
    #[error("the log no longer keeps what follows the cursor; take a snapshot")]
    CursorExpired(Ends),
    #[error("the cursor is of another epoch of the log; take a snapshot and drop what is not in it")]
    EpochChanged(Ends),
    #[error("the log no longer keeps what follows the position of the consumer; take a snapshot, with reset_consumer")]
    ConsumerExpired(Ends),
    #[error(
        "the position of the consumer is of another epoch of the log; take a snapshot, with reset_consumer, and drop what is not in it"
    )]
    ConsumerEpoch(Ends),
    #[error("a newer stream has the consumer")]
    ConsumerTakenOver,
    #[error("the consumer was deleted")]
    ConsumerDeleted,
    #[error(
        "the consumer was reset, and its open stream has not been sent this cursor; what acknowledges it is of before the reset"
    )]
    CursorNotSent,
    #[error("there is no such consumer")]
    NoSuchConsumer,
    #[error("there are {0} consumers, which is the limit; delete one")]
    ConsumersLimit(usize),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the page token is damaged, or of another filter or epoch; begin again with page one")]
    PageToken,
    #[error("the client is not connected")]
    NotConnected,
    #[error("there is no such connection")]
    NoSuchConnection,
    #[error("there is no such service")]
    NoSuchService,
    #[error("the newest generation connected is {actual}, and none is {expected}")]
    Generation { expected: Generation, actual: Generation },
    #[error("the outbox of the client is full; the message was not sent")]
    OutboxFull,
    #[error("the client does not speak heartwire.v1.json and cannot acknowledge; the message was not sent")]
    AckUnsupported,
    #[error("message_id names another message")]
    MessageIdReused,
    #[error("too many receipts are awaited on this stream; the message was not sent")]
    ReceiptsLimit,
    #[error("the outcomes were not read for 10 s")]
    ResponsesUnread,
    #[error("the client id is not verified: clients name themselves here, so a mailbox could be taken by anybody")]
    IdentityUnverified,
    #[error("{0}; the message was not stored")]
    MailboxFull(&'static str),
    #[error("the store did not sync the message in time; it may still be stored and sent")]
    StoreLate,
    #[error("the log did not take or show the event in time")]
    LogUnavailable,
    #[error("the log cannot be read now: {0}")]
    LogUnread(Arc<str>),
    #[error("the log is damaged: {0}")]
    LogDamaged(Arc<str>),
    #[error("{0} subscribers are connected, which is the limit")]
    SubscribersLimit(usize),
    #[error("{0} snapshots are being taken, which is the limit")]
    SnapshotsLimit(usize),
    #[error("the snapshot was not read for 30 s while others waited for its place")]
    SnapshotStalled,
    #[error("the deadline of the call passed")]
    DeadlineExceeded,
    #[error("the deadline of the call passed before the message was written; it was not sent")]
    Expired,
    #[error("the node is shutting down")]
    ShuttingDown,
    #[error("the request is larger than this node reads")]
    RequestTooLarge,
    #[error("the request is not an encoded message of this method, or has a string that is not UTF-8")]
    RequestMalformed,
    #[error("the request did not arrive whole within 30 s")]
    RequestTooSlow,
    #[error("too many large requests are arriving at once")]
    RequestsLimit,
    #[error("a fault of Heartwire itself")]
    Internal,
}

/// The ends of the log, as cursors, for whoever has to start anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ends {
    oldest: String,
    head: String,
}

impl Ends {
    pub(super) fn of(registry: &Registry) -> Self {
        let bounds = registry.log().bounds();
        Self {
            oldest: registry.position(bounds.before_oldest).to_cursor(),
            head: registry.position(bounds.head).to_cursor(),
        }
    }
}

impl Error {
    pub(super) fn field(field: impl Into<Cow<'static, str>>, problem: impl Into<Cow<'static, str>>) -> Self {
        Self::Field { field: field.into(), problem: problem.into() }
    }

    pub(super) fn cursor(error: CursorError, registry: &Registry) -> Self {
        match error {
            CursorError::OtherEpoch => Self::EpochChanged(Ends::of(registry)),
            CursorError::Ahead => Self::CursorAhead,
            CursorError::Expired => Self::CursorExpired(Ends::of(registry)),
        }
    }

    /// Why a stream cannot begin at the position that is kept. One ahead of the log is of one that was lost.
    pub(super) fn kept_position(error: CursorError, registry: &Registry) -> Self {
        match error {
            CursorError::OtherEpoch | CursorError::Ahead => Self::ConsumerEpoch(Ends::of(registry)),
            CursorError::Expired => Self::ConsumerExpired(Ends::of(registry)),
        }
    }

    /// The canonical code and the reason: the table of the contract.
    pub(super) const fn code(&self) -> (Code, &'static str) {
        match self {
            Self::Field { .. } => (Code::InvalidArgument, "FIELD_INVALID"),
            Self::NotImplemented(_) => (Code::Unimplemented, "NOT_IMPLEMENTED"),
            Self::CursorDamaged | Self::CursorAhead => (Code::InvalidArgument, "CURSOR_INVALID"),
            Self::CursorExpired(_) | Self::ConsumerExpired(_) => (Code::OutOfRange, "CURSOR_EXPIRED"),
            Self::EpochChanged(_) | Self::ConsumerEpoch(_) => (Code::OutOfRange, "EPOCH_CHANGED"),
            Self::ConsumerTakenOver => (Code::Aborted, "CONSUMER_TAKEN_OVER"),
            Self::ConsumerDeleted => (Code::Aborted, "CONSUMER_DELETED"),
            Self::CursorNotSent => (Code::FailedPrecondition, "CURSOR_NOT_SENT"),
            Self::NoSuchConsumer => (Code::NotFound, "CONSUMER_NOT_FOUND"),
            Self::ConsumersLimit(_) => (Code::ResourceExhausted, "CONSUMERS_LIMIT"),
            Self::Store(_) => (Code::Unavailable, "STORE_UNAVAILABLE"),
            Self::PageToken => (Code::InvalidArgument, "PAGE_TOKEN_INVALID"),
            Self::NotConnected => (Code::NotFound, "CLIENT_NOT_CONNECTED"),
            Self::NoSuchConnection => (Code::NotFound, "CONNECTION_NOT_FOUND"),
            Self::NoSuchService => (Code::NotFound, "SERVICE_NOT_FOUND"),
            Self::Generation { .. } => (Code::FailedPrecondition, "GENERATION_MISMATCH"),
            Self::OutboxFull => (Code::ResourceExhausted, "OUTBOX_FULL"),
            Self::AckUnsupported => (Code::FailedPrecondition, "ACK_UNSUPPORTED"),
            Self::MessageIdReused => (Code::AlreadyExists, "MESSAGE_ID_REUSED"),
            Self::ReceiptsLimit => (Code::ResourceExhausted, "RECEIPTS_LIMIT"),
            Self::ResponsesUnread => (Code::Aborted, "RESPONSES_UNREAD"),
            Self::IdentityUnverified => (Code::FailedPrecondition, "IDENTITY_UNVERIFIED"),
            Self::MailboxFull(_) => (Code::ResourceExhausted, "MAILBOX_FULL"),
            Self::StoreLate => (Code::DeadlineExceeded, "STORE_LATE"),
            Self::LogUnavailable | Self::LogUnread(_) => (Code::Unavailable, "LOG_UNAVAILABLE"),
            Self::LogDamaged(_) => (Code::DataLoss, "LOG_DAMAGED"),
            Self::SubscribersLimit(_) => (Code::ResourceExhausted, "SUBSCRIBERS_LIMIT"),
            Self::SnapshotsLimit(_) => (Code::ResourceExhausted, "SNAPSHOTS_LIMIT"),
            Self::SnapshotStalled => (Code::Aborted, "SNAPSHOT_STALLED"),
            Self::DeadlineExceeded => (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::Expired => (Code::DeadlineExceeded, "EXPIRED"),
            Self::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
            Self::RequestTooLarge => (Code::ResourceExhausted, "REQUEST_TOO_LARGE"),
            Self::RequestMalformed => (Code::InvalidArgument, "REQUEST_MALFORMED"),
            Self::RequestTooSlow => (Code::DeadlineExceeded, "REQUEST_TOO_SLOW"),
            Self::RequestsLimit => (Code::ResourceExhausted, "REQUESTS_LIMIT"),
            Self::Internal => (Code::Internal, "INTERNAL"),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let pairs = match self {
            Self::Field { field, .. } => vec![("field", field.to_string())],
            Self::NotImplemented(what) => vec![("feature", (*what).to_owned())],
            Self::CursorExpired(ends)
            | Self::EpochChanged(ends)
            | Self::ConsumerExpired(ends)
            | Self::ConsumerEpoch(ends) => {
                vec![("oldest_cursor", ends.oldest.clone()), ("head_cursor", ends.head.clone())]
            }
            Self::Generation { expected, actual } => {
                vec![("expected_generation", expected.to_string()), ("actual_generation", actual.to_string())]
            }
            Self::SubscribersLimit(limit) | Self::SnapshotsLimit(limit) | Self::ConsumersLimit(limit) => {
                vec![("limit", limit.to_string())]
            }
            _ => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::OutboxFull | Self::ReceiptsLimit => Some(OUTBOX_RETRY),
            Self::SubscribersLimit(_)
            | Self::SnapshotsLimit(_)
            | Self::LogUnavailable
            | Self::LogUnread(_)
            | Self::Store(_)
            | Self::MailboxFull(_)
            | Self::RequestsLimit => Some(PLACE_RETRY),
            _ => None,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let (code, reason) = error.code();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, error.metadata());
        if let Error::Field { field, problem } = &error {
            details.add_bad_request_violation(field.as_ref(), problem.as_ref());
        }
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(delay));
        }
        Self::with_error_details(code, error.to_string(), details)
    }
}

impl From<Ended> for Error {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::TakenOver => Self::ConsumerTakenOver,
            Ended::Deleted => Self::ConsumerDeleted,
        }
    }
}

impl From<OtherGeneration> for Error {
    fn from(OtherGeneration { expected, actual }: OtherGeneration) -> Self {
        Self::Generation { expected, actual }
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotConnected => Self::NotConnected,
            SendError::OutboxFull => Self::OutboxFull,
            SendError::Generation(other) => Self::from(other),
            SendError::AckUnsupported => Self::AckUnsupported,
            SendError::Expired => Self::Expired,
            SendError::IdReused => Self::MessageIdReused,
            SendError::Unsettled => Self::DeadlineExceeded,
        }
    }
}

impl From<PostError> for Error {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Unverified => Self::IdentityUnverified,
            PostError::TooLarge { .. } => Self::field("payload", error.to_string()),
            PostError::ClientFull => Self::MailboxFull("the mailbox of the client is full"),
            PostError::AllFull => Self::MailboxFull("the mailboxes are full"),
            PostError::IdReused => Self::MessageIdReused,
            PostError::Store(error) => Self::Store(error),
            PostError::Late => Self::StoreLate,
        }
    }
}

impl From<CommandError> for Error {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::NotConnected => Self::NotConnected,
            CommandError::Generation(other) => Self::from(other),
            CommandError::Labels(error) => Self::field("set", error.to_string()),
            CommandError::Cadence { .. } => Self::field("heartbeat", error.to_string()),
            CommandError::LogUnavailable => Self::LogUnavailable,
        }
    }
}

/// What a server makes of the outcome of a method's own code.
pub(super) fn reply<T>(outcome: Result<T, Error>) -> Reply<T> {
    Ok(Response::new(outcome?))
}

/// Whether a status is tonic's own word for a request over its limit. It says OUT_OF_RANGE, which here means "take a snapshot": a backend that
/// obeys would do so for ever.
pub(super) fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.details().is_empty()
}

/// Whether a status is tonic's own word for bytes that do not decode. It says INTERNAL, but the fault is the caller's.
pub(super) fn is_malformed(status: &Status) -> bool {
    status.code() == Code::Internal && status.details().is_empty() && status.message().starts_with("failed to decode")
}

/// The answer to a call, with tonic's own words for a bad request put into ours.
pub(super) fn in_our_words(answer: hyper::Response<Body>) -> hyper::Response<Body> {
    match Status::from_header_map(answer.headers()) {
        Some(status) if is_too_large(&status) => Status::from(Error::RequestTooLarge).into_http(),
        Some(status) if is_malformed(&status) => Status::from(Error::RequestMalformed).into_http(),
        _ => answer,
    }
}

/// The trailers of a stream that is not ours and ends because the node goes down.
pub(super) fn trailers_of_shutdown() -> hyper::HeaderMap {
    let mut trailers = hyper::HeaderMap::new();
    if Status::from(Error::ShuttingDown).add_header(&mut trailers).is_err() {
        // Only a message that fits no header could fail; the code alone says it too.
        trailers.insert(Status::GRPC_STATUS, (Code::Unavailable as i32).into());
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_for_now_is_to_be_tried_again_and_damage_is_not() {
        let now = Status::from(Error::LogUnread("x.seg, byte 0: too many open files".into()));
        let damaged = Status::from(Error::LogDamaged("x.seg, byte 0".into()));
        assert_eq!((now.code(), damaged.code()), (Code::Unavailable, Code::DataLoss));
        let reason = |status: &Status| status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        assert_eq!((&*reason(&now), &*reason(&damaged)), ("LOG_UNAVAILABLE", "LOG_DAMAGED"));
        assert!(now.get_details_retry_info().is_some() && damaged.get_details_retry_info().is_none());
        assert!(now.message().contains("x.seg, byte 0"));
    }
}
