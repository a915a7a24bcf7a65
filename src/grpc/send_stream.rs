//! One `SendStream`: sends in, an outcome for each out.
//!
//! A task of its own reads and sends, because it must notice on its own that its responses stay unread; the response stream only hands them on.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Streaming;

use super::Shared;
use super::error::{Error, Item, is_malformed, is_too_large};
use super::messages::{Order, settle};
use crate::pb;
use crate::pb::{SendOutcome, SendStreamRequest, SendStreamResponse, TaggedSend};

/// The most sends of one stream that wait: for a receipt, or for a position. One more is refused.
const MAX_WAITING: usize = 4096;
/// The most outcomes of one response.
const RESPONSE_OUTCOMES: usize = 512;
/// How long responses may stay unread.
const UNREAD_DEADLINE: Duration = Duration::from_secs(10);

/// Begins the stream; answers its responses.
pub(super) fn run(
    shared: Arc<Shared>,
    requests: Streaming<SendStreamRequest>,
    deadline: Option<Instant>,
) -> impl Stream<Item = Item<SendStreamResponse>> + Send {
    // One response waits to be taken. When it is not, the task stops reading, and HTTP/2 pushes back on the caller.
    let (responses, handed_on) = mpsc::channel(1);
    let (ended, how) = oneshot::channel();
    let sends = Sends { shared, responses, waiting: FuturesUnordered::new(), deadline };
    tokio::spawn(async move {
        let outcome = sends.run(requests).await;
        // Nobody is there to be told if the call was cancelled.
        let _ = ended.send(outcome);
    });
    stream::unfold(Some((handed_on, how)), |state| async move {
        let (mut responses, how) = state?;
        if let Some(response) = responses.recv().await {
            return Some((Ok(response), Some((responses, how))));
        }
        // The task has ended; without a word only if it panicked.
        match how.await.unwrap_or(Err(Error::Internal)) {
            Ok(()) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

/// A send whose outcome is still to come.
type Waiting = Pin<Box<dyn Future<Output = SendOutcome> + Send>>;

struct Sends {
    shared: Arc<Shared>,
    responses: mpsc::Sender<SendStreamResponse>,
    waiting: FuturesUnordered<Waiting>,
    deadline: Option<Instant>,
}

impl Sends {
    async fn run(mut self, mut requests: Streaming<SendStreamRequest>) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let closing = shared.closing.begun();
        tokio::pin!(closing);
        let (mut open, mut sends) = (true, Vec::new().into_iter());
        while open || !self.waiting.is_empty() || sends.len() > 0 {
            let mut outcomes = Vec::new();
            if sends.len() == 0 {
                tokio::select! {
                    biased;
                    Some(outcome) = self.waiting.next() => outcomes.push(outcome),
                    () = &mut closing => return Err(Error::ShuttingDown),
                    () = self.responses.closed() => return Ok(()),
                    request = requests.message(), if open => match request {
                        Ok(Some(request)) => sends = request.sends.into_iter(),
                        Ok(None) => open = false,
                        Err(status) if is_too_large(&status) => return Err(Error::RequestTooLarge),
                        Err(status) if is_malformed(&status) => return Err(Error::RequestMalformed),
                        // The caller has gone; nobody waits for outcomes.
                        Err(_) => return Ok(()),
                    },
                }
            }
            for send in sends.by_ref() {
                // Receipts that are there already make room for more.
                while self.waiting.len() >= MAX_WAITING
                    && let Some(Some(outcome)) = self.waiting.next().now_or_never()
                {
                    outcomes.push(outcome);
                }
                outcomes.extend(self.take(send));
                if outcomes.len() >= RESPONSE_OUTCOMES {
                    break;
                }
            }
            while outcomes.len() < RESPONSE_OUTCOMES
                && let Some(Some(outcome)) = self.waiting.next().now_or_never()
            {
                outcomes.push(outcome);
            }
            if !outcomes.is_empty() {
                self.hand_on(outcomes).await?;
            }
        }
        Ok(())
    }

    /// Hands on a response. While the one before it is not taken, nothing else is read.
    async fn hand_on(&mut self, outcomes: Vec<SendOutcome>) -> Result<(), Error> {
        let taken = self.responses.send_timeout(SendStreamResponse { outcomes }, UNREAD_DEADLINE);
        let taken = tokio::select! {
            taken = taken => taken,
            () = self.shared.closing.now().cancelled() => return Err(Error::ShuttingDown),
        };
        match taken {
            Ok(()) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Error::ResponsesUnread),
            // Cancelled: the next look at the channel ends it.
            Err(mpsc::error::SendTimeoutError::Closed(_)) => Ok(()),
        }
    }

    /// Does one send. None if its outcome is still to come.
    fn take(&self, send: TaggedSend) -> Option<SendOutcome> {
        let tag = send.tag;
        match self.begin(send) {
            Ok(Some(response)) => Some(outcome(tag, Ok(response))),
            Ok(None) => None,
            Err(error) => Some(outcome(tag, Err(error))),
        }
    }

    fn begin(&self, send: TaggedSend) -> Result<Option<pb::SendResponse>, Error> {
        let TaggedSend { tag, request } = send;
        let request = request.ok_or_else(|| Error::field("request", "must be set"))?;
        let order = Order::parse(&self.shared, request, self.deadline)?.gathered();
        let reach = self.shared.still_to_reach(&order.min_cursor)?;
        let full = self.waiting.len() >= MAX_WAITING;
        // Checked before it is begun: a refused one is neither sent nor stored.
        if full && (reach.is_some() || !order.is_immediate()) {
            return Err(Error::ReceiptsLimit);
        }
        let (shared, deadline, timeout) = (Arc::clone(&self.shared), self.deadline, order.timeout());
        // Begun here and not in the future, so that the order of the stream is the order of the outbox, or of the mailbox.
        let (offset, later, begun) = match reach {
            Some(offset) => (Some(offset), Some(order), None),
            None => match order.begin(&shared)?.settled() {
                Ok(response) => return Ok(Some(response)),
                // A repeat of one that another call is about to send.
                Err(_) if full => return Err(Error::ReceiptsLimit),
                Err(begun) => (None, None, Some(begun)),
            },
        };
        self.waiting.push(Box::pin(async move {
            let response = async {
                if let Some(offset) = offset {
                    shared.reach(offset, deadline).await?;
                }
                let begun = begun.or(later.map(|order| order.begin(&shared)).transpose()?).ok_or(Error::Internal)?;
                settle(&shared, begun, timeout).await
            };
            outcome(tag, response.await)
        }));
        Ok(None)
    }
}

fn outcome(tag: i64, outcome: Result<pb::SendResponse, Error>) -> SendOutcome {
    match outcome {
        Ok(response) => SendOutcome { tag, response: Some(response), ..SendOutcome::default() },
        Err(error) => {
            let (code, reason) = error.code();
            SendOutcome {
                tag,
                code: code as i32,
                reason: reason.to_owned(),
                message: error.to_string(),
                response: None,
            }
        }
    }
}
