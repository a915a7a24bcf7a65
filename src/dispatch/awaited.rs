//! A message in outboxes, with its receipts to come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

use super::once::Attempt;
use super::{Delivery, Failure, SendError, Stage};
use crate::clock::Clock;
use crate::outbox::Written;

/// How long a message that nobody waits for any more is followed to its last stage; the longest that anyone could have waited.
const FOLLOWED_FOR: Duration = Duration::from_secs(60);

/// A message that outboxes took. If it has an id, it is remembered with what came of it, also when who sent it has left: dropped, it settles by itself.
#[derive(Debug)]
pub(super) struct Awaited {
    deliveries: Vec<(Delivery, Receipts)>,
    /// Whether what is not written at a deadline is taken out.
    pub(super) bounded: bool,
    pub(super) clock: Clock,
    /// Of a message with an id, until it is settled.
    pub(super) attempt: Option<Attempt>,
}

/// What is still to be told of one delivery.
#[derive(Debug, Default)]
pub(super) struct Receipts {
    pub(super) written: Option<oneshot::Receiver<Written>>,
    /// Only for a connection that can acknowledge.
    pub(super) acked: Option<oneshot::Receiver<()>>,
}

impl Awaited {
    pub(super) fn new(deliveries: Vec<(Delivery, Receipts)>, bounded: bool, clock: Clock) -> Self {
        Self { deliveries, bounded, clock, attempt: None }
    }

    /// The deliveries as they are.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        self.deliveries.iter().map(|(delivery, _)| *delivery).collect()
    }

    /// Whether there is nothing to wait for.
    pub(super) fn is_settled(&self) -> bool {
        self.deliveries.iter().all(|(_, receipts)| receipts.written.is_none() && receipts.acked.is_none())
    }

    /// Whether it may yet be taken out of an outbox that is said to have taken it.
    pub(super) fn may_be_taken_out(&self) -> bool {
        self.bounded && self.deliveries.iter().any(|(_, receipts)| receipts.written.is_some())
    }

    /// Waits until everything is told. All at once, so that the time of each is its own.
    pub(super) async fn all(&mut self) {
        std::future::poll_fn(|context| {
            let clock = &self.clock;
            let waiting = self
                .deliveries
                .iter_mut()
                .filter_map(|(delivery, receipts)| receipts.poll(delivery, clock, context).is_pending().then_some(()));
            if waiting.count() == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What came of it by now.
    ///
    /// # Errors
    /// [`SendError::Expired`] if no connection got it, and on some the deadline passed before it was written; [`SendError::Unsettled`] if that may yet
    /// turn out.
    pub(super) fn outcome(&self) -> Result<Vec<Delivery>, SendError> {
        if self.may_be_taken_out() {
            return Err(SendError::Unsettled);
        }
        let deliveries = self.deliveries();
        let got_nothing = |failure| matches!(failure, Failure::NotConnected | Failure::OutboxFull | Failure::Expired);
        let nobody = deliveries.iter().all(|delivery| delivery.failure.is_some_and(got_nothing));
        let expired = deliveries.iter().any(|delivery| delivery.failure == Some(Failure::Expired));
        if nobody && expired { Err(SendError::Expired) } else { Ok(deliveries) }
    }

    /// What came of it by now is how it is remembered, if it has an id; not if it may still turn out that it was not sent, which is then left open.
    pub(super) fn settle(mut self) -> Result<Vec<Delivery>, SendError> {
        let outcome = self.outcome();
        match &outcome {
            Ok(deliveries) => {
                if let Some(attempt) = self.attempt.take() {
                    attempt.sent(deliveries);
                }
            }
            Err(SendError::Unsettled) => {}
            // Not sent: a repeat is to be sent.
            Err(_) => drop(self.attempt.take()),
        }
        outcome
    }

    /// Follows it until it is settled, with nobody waiting. The attempt is held apart: a task that is dropped with its runtime must not follow anew.
    async fn follow(mut self, attempt: Attempt) {
        // By then every stage that stands is remembered; only what may be taken out is followed further, as far as its connection lives.
        let whole = tokio::time::timeout(FOLLOWED_FOR, self.all()).await.is_ok();
        if !whole && self.may_be_taken_out() {
            self.all().await;
        }
        // Otherwise it was not sent, and a repeat is to be.
        if let Ok(deliveries) = self.outcome() {
            attempt.sent(&deliveries);
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let Some(attempt) = self.attempt.take() else { return };
        let rest = Self::new(std::mem::take(&mut self.deliveries), self.bounded, self.clock.clone());
        // As many at once as there are frames whose senders have left. Without a runtime the process is at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(rest.follow(attempt));
        }
    }
}

impl Receipts {
    /// Takes in what is told; ready once nothing more is to come.
    fn poll(&mut self, delivery: &mut Delivery, clock: &Clock, context: &mut Context<'_>) -> Poll<()> {
        if let Some(written) = &mut self.written {
            let Poll::Ready(written) = Pin::new(written).poll(context) else { return Poll::Pending };
            self.written = None;
            match written {
                Ok(Written::Yes) => reach(delivery, Stage::Written, clock),
                Ok(Written::Expired) => delivery.failure = Some(Failure::Expired),
                // The connection ended with the frame in its outbox or half in the kernel.
                Err(_) => delivery.failure = Some(Failure::OutcomeUnknown),
            }
            if delivery.failure.is_some() {
                self.acked = None;
            }
        }
        if let Some(acked) = &mut self.acked {
            let Poll::Ready(acked) = Pin::new(acked).poll(context) else { return Poll::Pending };
            self.acked = None;
            match acked {
                Ok(()) => reach(delivery, Stage::Acked, clock),
                // The connection ended first.
                Err(_) => delivery.failure = Some(Failure::OutcomeUnknown),
            }
        }
        Poll::Ready(())
    }
}

fn reach(delivery: &mut Delivery, stage: Stage, clock: &Clock) {
    delivery.stage = Some(stage);
    delivery.time = clock.wall_nanos();
}
