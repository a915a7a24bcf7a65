//! MessageService: from backends to clients.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Streaming};

use super::Shared;
use super::arguments;
use super::call;
use super::convert;
use super::error::{Error, Items, Reply, reply};
use super::send_stream;
use crate::dispatch::{Accepted, Caller, Outgoing, Settled};
use crate::labels::Labels;
use crate::mailbox::{self, MAX_TTL, Mail, Posting};
use crate::pb;
use crate::pb::message_service_server::MessageService;
use crate::registry::Target;

const RECEIPT_DEFAULT: Duration = Duration::from_secs(5);
const RECEIPT_TIMEOUT: RangeInclusive<Duration> = Duration::from_nanos(1)..=Duration::from_secs(60);

const TTL: RangeInclusive<Duration> = Duration::from_nanos(1)..=MAX_TTL;

pub(super) struct Messages(pub(super) Arc<Shared>);

/// A send whose request was in order.
pub(super) struct Order {
    message: Message,
    /// How long to wait for the receipt; none if none is wanted.
    receipt: Option<Duration>,
    /// The caller's.
    deadline: Option<Instant>,
    pub(super) min_cursor: String,
}

/// What is to be done with a message.
enum Message {
    /// Put in the outboxes there are.
    Now(Outgoing),
    /// Stored first.
    Kept(Mail),
}

/// A send that has begun, with its receipts to come.
pub(super) enum Begun {
    Accepted(Accepted),
    Posting(Posting),
}

impl Begun {
    /// The answer, if it is there already; otherwise the send as it was.
    pub(super) fn settled(self) -> Result<pb::SendResponse, Self> {
        match self {
            Self::Accepted(accepted) => match accepted.settled() {
                Ok(settled) => Ok(answer(&settled)),
                Err(accepted) => Err(Self::Accepted(accepted)),
            },
            Self::Posting(posting) => Err(Self::Posting(posting)),
        }
    }
}

impl Order {
    pub(super) fn parse(shared: &Shared, request: pb::SendRequest, deadline: Option<Instant>) -> Result<Self, Error> {
        let target = arguments::target(request.target)?;
        let payload = arguments::payload(request.payload, shared.registry.settings().outbox.bytes)?;
        let timeout = arguments::span("receipt_timeout", request.receipt_timeout, RECEIPT_TIMEOUT)?;
        let if_generation = arguments::if_generation(request.if_generation)?;
        let ttl = arguments::span("ttl", request.ttl, TTL)?;
        let message_id = arguments::message_id(&request.message_id)?;
        let asked = pb::Stage::try_from(request.receipt);
        let asked = asked.map_err(|_| Error::field("receipt", "is not a stage"))?;
        if let Some(ttl) = ttl {
            let Target::Client(client_id) = target else {
                return Err(Error::field("ttl", "only a client_id has a mailbox"));
            };
            if if_generation.is_some() {
                return Err(Error::field("if_generation", "must not be set together with ttl"));
            }
            let until = match asked {
                pb::Stage::Accepted => mailbox::Stage::Accepted,
                pb::Stage::Written => mailbox::Stage::Written,
                pb::Stage::Acked => mailbox::Stage::Acked,
                pb::Stage::Unspecified | pb::Stage::Stored => mailbox::Stage::Stored,
            };
            let message_id = message_id.as_deref().unwrap_or_default().into();
            let receipt = (until > mailbox::Stage::Stored).then(|| timeout.unwrap_or(RECEIPT_DEFAULT));
            let mail = Mail { client_id, payload, message_id, ttl, until };
            return Ok(Self { message: Message::Kept(mail), receipt, deadline, min_cursor: request.min_cursor });
        }
        let (written, acked) = match asked {
            pb::Stage::Unspecified | pb::Stage::Accepted => (false, false),
            pb::Stage::Written => (true, false),
            pb::Stage::Acked => (true, true),
            pb::Stage::Stored => return Err(Error::field("receipt", "only a message with a ttl is stored")),
        };
        let receipt = written.then(|| timeout.unwrap_or(RECEIPT_DEFAULT));
        let (id, caller, at_once) = (message_id, Caller::ANYONE, true);
        // The deadline that it is to have is known when it begins.
        let outgoing = Outgoing { target, payload, written, acked, id, caller, deadline: None, if_generation, at_once };
        Ok(Self { message: Message::Now(outgoing), receipt, deadline, min_cursor: request.min_cursor })
    }

    /// The same, left to the drivers to write, which gather what comes in quick succession.
    pub(super) fn gathered(mut self) -> Self {
        if let Message::Now(outgoing) = &mut self.message {
            outgoing.at_once = false;
        }
        self
    }

    /// How long its outcome is to be waited for. Without a receipt there is only a repeat to wait for that another call is about to send.
    pub(super) fn timeout(&self) -> Duration {
        self.receipt.unwrap_or(RECEIPT_DEFAULT)
    }

    /// Whether there is nothing to wait for once it has begun.
    pub(super) fn is_immediate(&self) -> bool {
        self.receipt.is_none() && matches!(self.message, Message::Now(_))
    }

    /// Puts it in the outboxes, or on its way into the store.
    pub(super) fn begin(self, shared: &Shared) -> Result<Begun, Error> {
        match self.message {
            Message::Now(mut outgoing) => {
                // Only who still waits at the deadline can be told that the frame was dropped at it; who was answered before, with the stage
                // reached, was told that it stays in the outbox. The wait for the receipt begins here, after the one for `min_cursor`.
                let waits_until = self.receipt.map(|receipt| Instant::now() + receipt);
                outgoing.deadline =
                    self.deadline.filter(|deadline| waits_until.is_some_and(|until| *deadline <= until));
                Ok(Begun::Accepted(shared.dispatch.accept(&outgoing)?))
            }
            Message::Kept(mail) => Ok(Begun::Posting(shared.mailboxes.post(mail)?)),
        }
    }
}

/// The answer once the receipt is there, or once it was accepted if none is wanted.
pub(super) async fn settle(shared: &Shared, begun: Begun, timeout: Duration) -> Result<pb::SendResponse, Error> {
    match begun {
        Begun::Accepted(accepted) => Ok(answer(&shared.dispatch.settle(accepted, timeout).await?)),
        Begun::Posting(posting) => {
            let posted = posting.settle(timeout).await?;
            let deliveries = vec![convert::progress(&posted.progress)];
            Ok(pb::SendResponse { deliveries, replayed: posted.replayed })
        }
    }
}

fn answer(settled: &Settled) -> pb::SendResponse {
    let deliveries = settled.deliveries.iter().map(convert::delivery).collect();
    pb::SendResponse { deliveries, replayed: settled.replayed }
}

impl Messages {
    async fn send(&self, request: pb::SendRequest, deadline: Option<Instant>) -> Result<pb::SendResponse, Error> {
        let shared = &*self.0;
        let order = Order::parse(shared, request, deadline)?;
        shared.reach_cursor(&order.min_cursor, deadline).await?;
        let timeout = order.timeout();
        settle(shared, order.begin(shared)?, timeout).await
    }

    async fn broadcast(&self, request: pb::BroadcastRequest) -> Result<pb::BroadcastResponse, Error> {
        use pb::broadcast_request::Payload as Given;
        let shared = &*self.0;
        let selector = match (request.everyone, request.labels.is_empty()) {
            (true, true) => Labels::NONE,
            (false, false) => arguments::selector("labels", &request.labels)?,
            (true, false) => return Err(Error::field("everyone", "must not be set together with labels")),
            (false, true) => return Err(Error::field("labels", "either labels or everyone must be given")),
        };
        let payload = request.payload.map(|payload| match payload {
            Given::Text(text) => pb::send_request::Payload::Text(text),
            Given::Binary(binary) => pb::send_request::Payload::Binary(binary),
        });
        let payload = arguments::payload(payload, shared.registry.settings().outbox.bytes)?;
        // Taken before anyone is looked at.
        let cursor = shared.cursor(shared.head());
        let outcome = shared.dispatch.broadcast(&selector, &payload).await;
        Ok(pb::BroadcastResponse {
            matched: convert::count(outcome.matched),
            accepted: convert::count(outcome.accepted),
            refused: convert::count(outcome.matched - outcome.accepted),
            cursor,
        })
    }
}

#[tonic::async_trait]
impl MessageService for Messages {
    async fn send(&self, request: Request<pb::SendRequest>) -> Reply<pb::SendResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.send(request.into_inner(), deadline)).await)
    }

    type SendStreamStream = Items<pb::SendStreamResponse>;

    async fn send_stream(&self, request: Request<Streaming<pb::SendStreamRequest>>) -> Reply<Self::SendStreamStream> {
        let deadline = call::deadline(request.metadata());
        let begun = self.0.check_open().map(|()| -> Self::SendStreamStream {
            Box::pin(send_stream::run(Arc::clone(&self.0), request.into_inner(), deadline))
        });
        reply(begun)
    }

    async fn broadcast(&self, request: Request<pb::BroadcastRequest>) -> Reply<pb::BroadcastResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, self.broadcast(request.into_inner())).await)
    }
}
