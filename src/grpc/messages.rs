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
use crate::pb;
use crate::pb::message_service_server::MessageService;

const RECEIPT_DEFAULT: Duration = Duration::from_secs(5);
const RECEIPT_TIMEOUT: RangeInclusive<Duration> = Duration::from_nanos(1)..=Duration::from_secs(60);

pub(super) struct Messages(pub(super) Arc<Shared>);

/// A send whose request was in order.
pub(super) struct Order {
    outgoing: Outgoing,
    /// How long to wait for the receipt; none if none is wanted.
    receipt: Option<Duration>,
    pub(super) min_cursor: String,
}

impl Order {
    pub(super) fn parse(shared: &Shared, request: pb::SendRequest, deadline: Option<Instant>) -> Result<Self, Error> {
        let target = arguments::target(request.target)?;
        let payload = arguments::payload(request.payload, shared.registry.settings().outbox.bytes)?;
        let timeout = arguments::span("receipt_timeout", request.receipt_timeout, RECEIPT_TIMEOUT)?;
        let if_generation = arguments::if_generation(request.if_generation)?;
        if request.ttl.is_some() {
            return Err(Error::NotImplemented("ttl"));
        }
        let id = arguments::message_id(&request.message_id)?;
        let (written, acked) = match pb::Stage::try_from(request.receipt) {
            Ok(pb::Stage::Unspecified | pb::Stage::Accepted) => (false, false),
            Ok(pb::Stage::Written) => (true, false),
            Ok(pb::Stage::Acked) => (true, true),
            Ok(pb::Stage::Stored) => return Err(Error::NotImplemented("STAGE_STORED")),
            Err(_) => return Err(Error::field("receipt", "is not a stage")),
        };
        let receipt = written.then(|| timeout.unwrap_or(RECEIPT_DEFAULT));
        // Only who still waits at the deadline can be told that the frame was dropped at it; who was answered before, with the stage reached, was
        // told that it stays in the outbox.
        let deadline = deadline.filter(|deadline| receipt.is_some_and(|receipt| *deadline <= Instant::now() + receipt));
        let outgoing =
            Outgoing { target, payload, written, acked, id, caller: Caller::ANYONE, deadline, if_generation };
        Ok(Self { outgoing, receipt, min_cursor: request.min_cursor })
    }

    /// Whether a receipt is to be waited for.
    pub(super) fn wants_receipt(&self) -> bool {
        self.receipt.is_some()
    }

    /// How long its outcome is to be waited for. Without a receipt there is only a repeat to wait for that another call is about to send.
    pub(super) fn timeout(&self) -> Duration {
        self.receipt.unwrap_or(RECEIPT_DEFAULT)
    }

    /// Puts it in the outboxes.
    pub(super) fn accept(&self, shared: &Shared) -> Result<Accepted, Error> {
        Ok(shared.dispatch.accept(&self.outgoing)?)
    }
}

/// The answer once the receipt is there, or once it was accepted if none is wanted.
pub(super) async fn settle(shared: &Shared, accepted: Accepted, timeout: Duration) -> Result<pb::SendResponse, Error> {
    Ok(answer(&shared.dispatch.settle(accepted, timeout).await?))
}

pub(super) fn answer(settled: &Settled) -> pb::SendResponse {
    let deliveries = settled.deliveries.iter().map(convert::delivery).collect();
    pb::SendResponse { deliveries, replayed: settled.replayed }
}

impl Messages {
    async fn send(&self, request: pb::SendRequest, deadline: Option<Instant>) -> Result<pb::SendResponse, Error> {
        let shared = &*self.0;
        let order = Order::parse(shared, request, deadline)?;
        shared.reach_cursor(&order.min_cursor, deadline).await?;
        settle(shared, order.accept(shared)?, order.timeout()).await
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
