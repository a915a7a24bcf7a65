//! Dispatch: from a target to outboxes, and from outboxes to receipts.

mod awaited;
mod once;
mod window;

pub use once::{Attempt, Begun, Caller, Joined, Once, REMEMBERED, REMEMBERED_FOR};

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::UnixNanos;
use crate::event::{Generation, Payload};
use crate::ids::ConnectionId;
use crate::labels::Labels;
use crate::metrics::{Metrics, SendOutcome};
use crate::outbox::{Frame, Refused, Sent, Taken};
use crate::registry::{Connection, OtherGeneration, Registry, SHARDS, Target};
use awaited::{Awaited, Receipts};

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
    /// What the sender calls it; a repeat of one that was sent is not sent again.
    pub id: Option<Arc<str>>,
    /// Whose id it is.
    pub caller: Caller,
    /// Not to be written after this.
    pub deadline: Option<Instant>,
    /// Only to the connection of this generation.
    pub if_generation: Option<Generation>,
    /// Whether it is written right here where the client's line is free, which is soonest; otherwise the driver does it, which gathers what comes in
    /// quick succession into few writes.
    pub at_once: bool,
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

/// Why a message reached no connection at all. But for [`SendError::Unsettled`], it was not and will not be delivered.
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
    /// Another message was sent, or is being sent, with the same id.
    #[error("the id belongs to another message")]
    IdReused,
    /// The time to wait is over, and the message may still be taken out of the outbox, its deadline having passed. The one error after which it may
    /// have been delivered.
    #[error("the deadline passed, and whether the message was written before is not known yet")]
    Unsettled,
}

/// How a broadcast went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BroadcastOutcome {
    /// Connections that matched.
    pub matched: u64,
    /// Those whose outbox took it.
    pub accepted: u64,
}

/// A message that was put in outboxes, with the receipts to come; or one that had been, under the same id.
#[derive(Debug)]
pub struct Accepted(Progress);

#[derive(Debug)]
enum Progress {
    /// All that is to be known is known.
    Settled(Settled),
    /// Receipts are to come.
    Awaited(Awaited),
    /// Another call is sending it.
    Joined(Box<(Joined, Outgoing)>),
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settled {
    /// One for each connection.
    pub deliveries: Vec<Delivery>,
    /// Whether another call has sent it, with the same id.
    pub replayed: bool,
}

/// Drivers that write a broadcast at once: a few for each of the clients' threads, so that none of those runs out of work.
const BROADCAST_HELPERS: usize = 16;

/// Recipients of a broadcast between two turns of others.
const BROADCAST_TURN: usize = 64;

/// How often what is too old to be remembered is looked for when no message with an id comes.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// Sends to connections by client id, connection id or labels.
#[derive(Clone)]
pub struct Dispatch {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    once: Arc<Once>,
}

impl Dispatch {
    /// Over the connections of `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, metrics: Arc<Metrics>) -> Self {
        let once = Arc::new(Once::new(registry.clock().clone()));
        Self { registry, metrics, once }
    }

    /// The ids of the messages that were sent lately, for a message that does not only go to outboxes.
    #[must_use]
    pub fn once(&self) -> &Arc<Once> {
        &self.once
    }

    /// Gives the memory of ids that are too old back, also when no message with an id comes; until `stop`.
    pub async fn run_forgetting(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(FORGET_EVERY) => self.once.forget_old(),
                () = stop.cancelled() => return,
            }
        }
    }

    /// Puts a message in the outbox of each connection that its target names, unless it has an id under which that was done already. Never waits.
    ///
    /// # Errors
    /// [`SendError`] if no outbox took it, or if its id belongs to another.
    pub fn accept(&self, outgoing: &Outgoing) -> Result<Accepted, SendError> {
        let Some(id) = &outgoing.id else { return Ok(Accepted::of(self.put(outgoing)?, outgoing)) };
        match self.once.begin(outgoing.caller, &outgoing.target, id, outgoing.says()) {
            Begun::Reused => Err(SendError::IdReused),
            Begun::Sent(deliveries) => Ok(Accepted(Progress::Settled(Settled { deliveries, replayed: true }))),
            Begun::InFlight(joined) => Ok(Accepted(Progress::Joined(Box::new((joined, outgoing.clone()))))),
            Begun::First(attempt) => {
                let mut awaited = self.put(outgoing)?;
                if !awaited.may_be_taken_out() {
                    attempt.stands(&awaited.deliveries());
                }
                awaited.attempt = Some(attempt);
                Ok(Accepted::of(awaited, outgoing))
            }
        }
    }

    fn put(&self, outgoing: &Outgoing) -> Result<Awaited, SendError> {
        let connections = self.registry.open_of(&outgoing.target, outgoing.if_generation)?;
        let can_ack = |connection: &Arc<Connection>| connection.reliable().is_some();
        if outgoing.acked && !connections.is_empty() && !connections.iter().any(can_ack) {
            return Err(SendError::AckUnsupported);
        }
        let deliveries: Vec<_> = connections.iter().map(|connection| self.push(connection, outgoing)).collect();
        if deliveries.iter().any(|(delivery, _)| delivery.failure.is_none()) {
            return Ok(Awaited::new(deliveries, outgoing.deadline.is_some(), self.registry.clock().clone()));
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

    fn push(&self, connection: &Arc<Connection>, outgoing: &Outgoing) -> (Delivery, Receipts) {
        // Of one with an id it must be known whether it was taken out: then a repeat is to be sent.
        let may_vanish = outgoing.id.is_some() && outgoing.deadline.is_some();
        let wanted = outgoing.written || outgoing.acked || may_vanish;
        let mut receipts = Receipts::default();
        let mut frame = || {
            let (receipt, written) = wanted.then(oneshot::channel).unzip();
            let (acked, told) = (outgoing.acked && connection.reliable().is_some()).then(oneshot::channel).unzip();
            receipts = Receipts { written, acked: told };
            Frame {
                payload: outgoing.payload.clone(),
                id: outgoing.id.clone(),
                receipt,
                acked,
                deadline: outgoing.deadline,
            }
        };
        let (outbox, limits) = (&connection.outbox, self.registry.settings().outbox);
        let sent = if outgoing.at_once {
            let written = || connection.traffic.count_written(1, outgoing.payload.len() as u64, &self.metrics);
            outbox.send(&outgoing.payload, outgoing.deadline, limits, written, frame)
        } else {
            let taken = outbox.push(frame(), limits).map(|()| Taken::Waits);
            Sent { taken, wake: taken.is_ok() }
        };
        let (outcome, stage, failure) = match sent.taken {
            // Who asked for no more than that it is accepted is told no more, whichever way it went.
            Ok(Taken::Written) if outgoing.written || outgoing.acked => {
                (SendOutcome::Accepted, Some(Stage::Written), None)
            }
            Ok(_) => (SendOutcome::Accepted, Some(Stage::Accepted), None),
            Err(Refused::Full) => (SendOutcome::OutboxFull, None, Some(Failure::OutboxFull)),
            Err(Refused::Closed) => (SendOutcome::NotConnected, None, Some(Failure::NotConnected)),
        };
        self.metrics.sends.of(outcome).inc();
        if sent.wake {
            connection.wake();
        }
        if sent.taken.is_err() {
            // Nothing is to come of it.
            receipts = Receipts::default();
        }
        let time = self.registry.clock().wall_nanos();
        let delivery = Delivery { connection_id: connection.info().connection_id, stage, time, failure };
        (delivery, receipts)
    }

    /// Waits for the receipts of a message, at most until `timeout` has passed; then the stages reached stand.
    ///
    /// # Errors
    /// [`SendError::Expired`] if no connection got it, and on some the deadline of the message passed before it was written;
    /// [`SendError::Unsettled`] if that may yet turn out; of a repeat of one that was not sent after all, also those of [`Dispatch::accept`].
    pub async fn settle(&self, accepted: Accepted, timeout: Duration) -> Result<Settled, SendError> {
        let until = Instant::now() + timeout;
        let mut accepted = accepted;
        loop {
            let (mut joined, outgoing) = match accepted.0 {
                Progress::Settled(settled) => return Ok(settled),
                Progress::Awaited(mut awaited) => {
                    // When the time is over, what was told stands.
                    let _ = tokio::time::timeout_at(until, awaited.all()).await;
                    return Ok(Settled { deliveries: awaited.settle()?, replayed: false });
                }
                Progress::Joined(joined) => *joined,
            };
            accepted = match tokio::time::timeout_at(until, joined.told()).await {
                Ok(Some(deliveries)) => return Ok(Settled { deliveries, replayed: true }),
                // The other call did not send it after all.
                Ok(None) => self.accept(&outgoing)?,
                Err(_) => {
                    let deliveries = joined.standing().ok_or(SendError::Unsettled)?;
                    return Ok(Settled { deliveries, replayed: true });
                }
            };
        }
    }

    /// Sends a message to every connection whose labels match; an empty selector matches all. Waits for no recipient, and lets others have their turn
    /// now and then.
    pub async fn broadcast(&self, selector: &Labels, payload: &Payload) -> BroadcastOutcome {
        let mut outcome = BroadcastOutcome::default();
        let mut helpers = Helpers::default();
        let limits = self.registry.settings().outbox;
        let frame = || Frame { payload: payload.clone(), id: None, receipt: None, acked: None, deadline: None };
        for shard in 0..SHARDS {
            // Taken out of the shard first: nothing is written under its lock.
            let mut open = Vec::new();
            self.registry.for_each_open(shard, selector, |connection| open.push(Arc::clone(connection)));
            for (number, connection) in open.into_iter().enumerate() {
                let outbox = &connection.outbox;
                let sent = if helpers.are_busy() {
                    let written = || connection.traffic.count_written(1, payload.len() as u64, &self.metrics);
                    outbox.send(payload, None, limits, written, frame)
                } else {
                    let taken = outbox.push(frame(), limits).map(|()| Taken::Waits);
                    Sent { taken, wake: taken.is_ok() }
                };
                let result = match sent.taken {
                    Ok(_) => SendOutcome::Accepted,
                    Err(Refused::Full) => SendOutcome::OutboxFull,
                    Err(Refused::Closed) => SendOutcome::NotConnected,
                };
                outcome.matched += 1;
                outcome.accepted += u64::from(sent.taken.is_ok());
                self.metrics.sends.of(result).inc();
                if sent.wake {
                    connection.wake();
                    helpers.add(connection);
                }
                if number % BROADCAST_TURN == BROADCAST_TURN - 1 {
                    tokio::task::yield_now().await;
                }
            }
            tokio::task::yield_now().await;
        }
        outcome
    }
}

/// The drivers that were woken to write a broadcast and have not yet. While there are enough of them to keep the clients' threads busy, whoever
/// broadcasts writes too.
#[derive(Default)]
struct Helpers(Vec<Arc<Connection>>);

impl Helpers {
    fn are_busy(&mut self) -> bool {
        if self.0.len() >= BROADCAST_HELPERS {
            self.0.retain(|connection| !connection.outbox.is_idle());
        }
        self.0.len() >= BROADCAST_HELPERS
    }

    fn add(&mut self, connection: Arc<Connection>) {
        self.0.push(connection);
    }
}

impl Accepted {
    fn of(awaited: Awaited, outgoing: &Outgoing) -> Self {
        let wanted = outgoing.written || outgoing.acked;
        if wanted && !awaited.is_settled() {
            return Self(Progress::Awaited(awaited));
        }
        let deliveries = awaited.deliveries();
        // Nothing is to come that could make it an error.
        let _ = awaited.settle();
        Self(Progress::Settled(Settled { deliveries, replayed: false }))
    }

    /// What became of it, if that is known without waiting; otherwise it is handed back.
    ///
    /// # Errors
    /// The message itself, to be given to [`Dispatch::settle`].
    pub fn settled(self) -> Result<Settled, Self> {
        match self.0 {
            Progress::Settled(settled) => Ok(settled),
            progress => Err(Self(progress)),
        }
    }
}

impl Outgoing {
    /// What a repeat has in common with it. Not for how long receipts are waited for: who repeats may wait longer.
    fn says(&self) -> impl std::hash::Hash + '_ {
        let (kind, bytes) = match &self.payload {
            Payload::Text(bytes) => (0, bytes),
            Payload::Binary(bytes) => (1, bytes),
        };
        (kind, bytes, self.written, self.acked, self.if_generation)
    }
}

#[cfg(test)]
mod tests;
