//! Dispatch: from a target to outboxes, and from outboxes to receipts.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::clock::UnixNanos;
use crate::event::{Generation, Payload};
use crate::ids::ConnectionId;
use crate::labels::Labels;
use crate::metrics::{Metrics, SendOutcome};
use crate::outbox::{Frame, Refused, Written};
use crate::registry::{Connection, OtherGeneration, Registry, SHARDS, Target};

/// Something to send.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// To whom.
    pub target: Target,
    /// What.
    pub payload: Payload,
    /// Whether the sender wants to know when the kernel has taken it.
    pub written: bool,
    /// Whether the sender also wants to know when the client has acknowledged it.
    pub acked: bool,
    /// What the sender calls it.
    pub id: Option<Arc<str>>,
    /// Not to be written after this.
    pub deadline: Option<Instant>,
    /// Only to the connection of this generation.
    pub if_generation: Option<Generation>,
}

/// How far a message came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// In the outbox.
    Accepted,
    /// The kernel took its last byte before our Close.
    Written,
    /// The client said that it has it.
    Acked,
}

/// Why one connection did not get a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It was ending.
    NotConnected,
    /// Its outbox was full.
    OutboxFull,
    /// It ended with the message on the way; the client may or may not have it.
    OutcomeUnknown,
    /// The caller's deadline passed with the message still in the outbox; it was taken out.
    Expired,
}

/// What became of a message to one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// The connection.
    pub connection_id: ConnectionId,
    /// The stage reached; none if it was not accepted.
    pub stage: Option<Stage>,
    /// When.
    pub time: UnixNanos,
    /// Why no further, if it went wrong.
    pub failure: Option<Failure>,
}

/// Why a message reached no connection at all. It was not and will not be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Nobody there.
    #[error("the client is not connected")]
    NotConnected,
    /// Every outbox was full.
    #[error("the outbox of the connection is full")]
    OutboxFull,
    /// Another generation than the one asked for.
    #[error(transparent)]
    Generation(#[from] OtherGeneration),
    /// An acknowledgement is wanted of clients none of which can give one.
    #[error("the client speaks no protocol that acknowledges")]
    AckUnsupported,
    /// The caller's deadline passed with the message still in every outbox that had taken it; it was taken out.
    #[error("the deadline passed before the message was written; it was not sent")]
    Expired,
}

/// How a broadcast went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BroadcastOutcome {
    /// Connections that matched.
    pub matched: u64,
    /// Those whose outbox took it.
    pub accepted: u64,
}

/// A message that was put in outboxes, with the receipts to come.
#[derive(Debug)]
pub struct Accepted {
    deliveries: Vec<(Delivery, Option<Receipts>)>,
}

/// What is still to be told of one delivery.
#[derive(Debug)]
struct Receipts {
    written: oneshot::Receiver<Written>,
    /// Only for a connection that can acknowledge.
    acked: Option<oneshot::Receiver<()>>,
}

/// Sends to connections by client id, connection id or labels.
#[derive(Clone)]
pub struct Dispatch {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
}

impl Dispatch {
    /// Over the connections of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>) -> Self {
        Self { registry, metrics }
    }

    /// Puts a message in the outbox of each connection that its target names. Never waits.
    ///
    /// # Errors
    /// [`SendError`] if no outbox took it.
    pub fn accept(&self, outgoing: &Outgoing) -> Result<Accepted, SendError> {
        let connections = self.registry.open_of(&outgoing.target, outgoing.if_generation)?;
        let can_ack = |connection: &Arc<Connection>| connection.reliable().is_some();
        if outgoing.acked && !connections.is_empty() && !connections.iter().any(can_ack) {
            return Err(SendError::AckUnsupported);
        }
        let deliveries: Vec<_> = connections.iter().map(|connection| self.push(connection, outgoing)).collect();
        if deliveries.iter().any(|(delivery, _)| delivery.failure.is_none()) {
            return Ok(Accepted { deliveries });
        }
        let full = deliveries.iter().any(|(delivery, _)| delivery.failure == Some(Failure::OutboxFull));
        if full {
            return Err(SendError::OutboxFull);
        }
        if deliveries.is_empty() {
            self.metrics.sends.of(SendOutcome::NotConnected).inc();
        }
        Err(SendError::NotConnected)
    }

    fn push(&self, connection: &Arc<Connection>, outgoing: &Outgoing) -> (Delivery, Option<Receipts>) {
        let (receipt, written) = (outgoing.written || outgoing.acked).then(oneshot::channel).unzip();
        let (acked, told) = (outgoing.acked && connection.reliable().is_some()).then(oneshot::channel).unzip();
        let frame = Frame {
            payload: outgoing.payload.clone(),
            id: outgoing.id.clone(),
            receipt,
            acked,
            deadline: outgoing.deadline,
        };
        let pushed = connection.outbox.push(frame, self.registry.settings().outbox);
        let (outcome, stage, failure) = match pushed {
            Ok(()) => (SendOutcome::Accepted, Some(Stage::Accepted), None),
            Err(Refused::Full) => (SendOutcome::OutboxFull, None, Some(Failure::OutboxFull)),
            Err(Refused::Closed) => (SendOutcome::NotConnected, None, Some(Failure::NotConnected)),
        };
        self.metrics.sends.of(outcome).inc();
        if pushed.is_ok() {
            connection.wake();
        }
        let time = self.registry.clock().wall_nanos();
        let delivery = Delivery { connection_id: connection.info().connection_id, stage, time, failure };
        let receipts = written.filter(|_| pushed.is_ok()).map(|written| Receipts { written, acked: told });
        (delivery, receipts)
    }

    /// Waits for the receipts of a message, at most until `timeout` has passed; then the stages reached stand.
    ///
    /// # Errors
    /// [`SendError::Expired`] if no connection got it, and on some the deadline of the message passed before it was written.
    pub async fn settle(&self, accepted: Accepted, timeout: Duration) -> Result<Vec<Delivery>, SendError> {
        let until = Instant::now() + timeout;
        // All at once, so that the time of each is its own.
        let settled =
            accepted.deliveries.into_iter().map(|(delivery, receipts)| self.receive(delivery, receipts, until));
        let deliveries = join_all(settled).await;
        let got_nothing = |failure| matches!(failure, Failure::NotConnected | Failure::OutboxFull | Failure::Expired);
        let nobody = deliveries.iter().all(|delivery| delivery.failure.is_some_and(got_nothing));
        let expired = deliveries.iter().any(|delivery| delivery.failure == Some(Failure::Expired));
        if nobody && expired { Err(SendError::Expired) } else { Ok(deliveries) }
    }

    async fn receive(&self, mut delivery: Delivery, receipts: Option<Receipts>, until: Instant) -> Delivery {
        let Some(Receipts { written, acked }) = receipts else { return delivery };
        match tokio::time::timeout_at(until, written).await {
            Ok(Ok(Written::Yes)) => {
                self.reached(&mut delivery, Stage::Written);
                if let Some(acked) = acked {
                    match tokio::time::timeout_at(until, acked).await {
                        Ok(Ok(())) => self.reached(&mut delivery, Stage::Acked),
                        // The connection ended first.
                        Ok(Err(_)) => delivery.failure = Some(Failure::OutcomeUnknown),
                        Err(_) => {}
                    }
                }
            }
            Ok(Ok(Written::Expired)) => delivery.failure = Some(Failure::Expired),
            // The connection ended with the frame in its outbox or half in the kernel.
            Ok(Err(_)) => delivery.failure = Some(Failure::OutcomeUnknown),
            Err(_) => {}
        }
        delivery
    }

    fn reached(&self, delivery: &mut Delivery, stage: Stage) {
        delivery.stage = Some(stage);
        delivery.time = self.registry.clock().wall_nanos();
    }

    /// Puts a message in the outbox of every connection whose labels match; an empty selector matches all. Waits for no recipient, and lets others
    /// have their turn after each shard.
    pub async fn broadcast(&self, selector: &Labels, payload: &Payload) -> BroadcastOutcome {
        let mut outcome = BroadcastOutcome::default();
        let limits = self.registry.settings().outbox;
        for shard in 0..SHARDS {
            self.registry.for_each_open(shard, selector, |connection| {
                outcome.matched += 1;
                let frame = Frame { payload: payload.clone(), id: None, receipt: None, acked: None, deadline: None };
                let result = match connection.outbox.push(frame, limits) {
                    Ok(()) => {
                        outcome.accepted += 1;
                        connection.wake();
                        SendOutcome::Accepted
                    }
                    Err(Refused::Full) => SendOutcome::OutboxFull,
                    Err(Refused::Closed) => SendOutcome::NotConnected,
                };
                self.metrics.sends.of(result).inc();
            });
            tokio::task::yield_now().await;
        }
        outcome
    }
}

impl Accepted {
    /// The deliveries as they are, without waiting for receipts.
    #[must_use]
    pub fn deliveries(self) -> Vec<Delivery> {
        self.deliveries.into_iter().map(|(delivery, _)| delivery).collect()
    }
}
