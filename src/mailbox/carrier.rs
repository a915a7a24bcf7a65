//! The carrier: the one task that takes a client's messages from the store to the outbox of its connection, and hears what becomes of them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use super::table::{self, Letter, Sequence};
use super::{Inner, STORE_RETRY, Stage};
use crate::ids::ClientId;
use crate::metrics::{MailOutcome, SendOutcome};
use crate::outbox::{Frame, Refused, Written};
use crate::registry::{Connection, signal};

/// Messages read from the store at once.
const READ_MESSAGES: usize = 32;

/// Bytes read from the store at once, unless one message alone is more.
const READ_BYTES: u64 = 256 << 10;

/// When a full outbox is tried again, if no receipt comes first.
const OUTBOX_RETRY: Duration = Duration::from_millis(100);

/// How long a full outbox from which nothing goes is waited for, where there is another connection to send to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the receipts of a connection that has ended are waited for. Its last writes have two seconds, so this is for what should not be.
const LAST_RECEIPTS: Duration = Duration::from_secs(5);

/// What a receipt says of a message. The one place that decides when one is delivered: ACKED by a client that acknowledges; of one that
/// only takes frames, WRITTEN is all there is to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// It is delivered and need not be kept.
    Delivered(Stage),
    /// It is on its way.
    Written,
    /// The connection ended and did not say that it is delivered.
    Lost,
    /// Nothing that matters: another receipt decides.
    Nothing,
}

/// What is to be told of one frame, each as it comes.
type Receipt = Pin<Box<dyn Future<Output = (Sequence, Told)> + Send>>;

async fn written(sequence: Sequence, receipt: oneshot::Receiver<Written>, decides: bool) -> (Sequence, Told) {
    let told = match (receipt.await, decides) {
        (Ok(Written::Yes), true) => Told::Delivered(Stage::Written),
        (Ok(Written::Yes), false) => Told::Written,
        (Ok(Written::Expired) | Err(_), true) => Told::Lost,
        (Ok(Written::Expired) | Err(_), false) => Told::Nothing,
    };
    (sequence, told)
}

async fn acknowledged(sequence: Sequence, receipt: oneshot::Receiver<()>) -> (Sequence, Told) {
    (sequence, if receipt.await.is_ok() { Told::Delivered(Stage::Acked) } else { Told::Lost })
}

/// Carries the mail of a client until there is none to send or nobody to send it to.
pub(super) async fn carry(inner: Arc<Inner>, client_id: ClientId, woken: Arc<Notify>) {
    while let Some(connection) = next_bearer(&inner, &client_id) {
        let mut carrier = Carrier {
            inner: &inner,
            client_id: &client_id,
            connection: &connection,
            in_flight: FuturesUnordered::new(),
            ready: VecDeque::new(),
            moved: false,
        };
        tokio::select! {
            () = carrier.run(&woken) => {}
            () = inner.stop.cancelled() => return carrier.hear_the_last(),
        }
    }
}

/// The connection to send to next; if there is none, the carrier has ended, and whoever comes later starts another.
fn next_bearer(inner: &Inner, client_id: &ClientId) -> Option<Arc<Connection>> {
    let mut index = inner.index();
    let bearer = index.has_ready(client_id, inner.now()).then(|| inner.registry.oldest_open(client_id)).flatten();
    if bearer.is_none() {
        index.rest(client_id);
    }
    bearer
}

/// What came of putting messages in the outbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Put {
    /// All that may be sent is in it.
    All,
    /// It is full.
    Full,
    /// The store cannot be read.
    Unread,
    /// The connection is ending.
    Ended,
}

struct Carrier<'a> {
    inner: &'a Inner,
    client_id: &'a ClientId,
    connection: &'a Arc<Connection>,
    /// What is in the outbox; at most as many as it holds.
    in_flight: FuturesUnordered<Receipt>,
    /// Read from the store and not yet in the outbox; at most one reading.
    ready: VecDeque<(Sequence, Letter)>,
    /// Whether the outbox took a message, or a receipt came, since this was last looked at.
    moved: bool,
}

impl Carrier<'_> {
    /// Sends over one connection until there is nothing more to send and every receipt is there, or it takes nothing while another would.
    async fn run(&mut self, woken: &Notify) {
        let mut ended_at = None;
        let mut full_since = None;
        loop {
            let put = match ended_at {
                None => self.put().await,
                Some(_) => Put::Ended,
            };
            if put == Put::Ended || self.connection.has(signal::SEALED) {
                ended_at.get_or_insert_with(Instant::now);
            }
            if self.in_flight.is_empty() && (put == Put::All || ended_at.is_some()) {
                return;
            }
            let moved = std::mem::take(&mut self.moved);
            full_since = match full_since {
                _ if put != Put::Full || ended_at.is_some() => None,
                Some(since) if !moved => Some(since),
                _ => Some(Instant::now()),
            };
            if full_since.is_some_and(|since| since.elapsed() >= PATIENCE)
                && self.inner.registry.pass_over(self.connection)
            {
                tracing::debug!(client_id = self.client_id.as_str(), "a connection takes no mail; another gets it");
                return self.give_up();
            }
            let try_again = match (ended_at, put) {
                (Some(ended_at), _) => Some(ended_at + LAST_RECEIPTS),
                (None, Put::Full) => Some(Instant::now() + OUTBOX_RETRY),
                (None, Put::Unread) => Some(Instant::now() + STORE_RETRY),
                (None, Put::All | Put::Ended) => None,
            };
            tokio::select! {
                Some((sequence, told)) = self.in_flight.next() => {
                    self.told(sequence, told);
                    // More are there at once where a write took many frames.
                    while let Some(Some((sequence, told))) = futures_util::FutureExt::now_or_never(self.in_flight.next()) {
                        self.told(sequence, told);
                    }
                }
                () = woken.notified() => {}
                () = at(try_again) => if ended_at.is_some() {
                    tracing::warn!("receipts of a connection that has ended did not come; its mail is sent again");
                    return self.give_up();
                },
            }
        }
    }

    /// Puts messages in the outbox as long as there are any and it takes them.
    async fn put(&mut self) -> Put {
        loop {
            if self.ready.is_empty() {
                let next = self.inner.index().next(self.client_id, self.inner.now(), READ_MESSAGES, READ_BYTES);
                if next.is_empty() {
                    return Put::All;
                }
                let client_id = self.client_id.clone();
                let read = self.inner.store.read(move |transaction| table::read(transaction, &client_id, &next)).await;
                match read {
                    Ok(letters) => self.take(letters),
                    Err(error) => {
                        // Once a second for each who waits; what is wrong with the store is told by those who write.
                        tracing::debug!(%error, "stored messages cannot be read");
                        return Put::Unread;
                    }
                }
            }
            while let Some((sequence, letter)) = self.ready.pop_front() {
                match self.push(sequence, &letter) {
                    Ok(()) => {}
                    Err(Refused::Closed) => return Put::Ended,
                    Err(Refused::Full) => {
                        self.ready.push_front((sequence, letter));
                        return Put::Full;
                    }
                }
            }
        }
    }

    fn take(&mut self, letters: Vec<(Sequence, Option<Letter>)>) {
        for (sequence, letter) in letters {
            match letter {
                Some(letter) => self.ready.push_back((sequence, letter)),
                None => {
                    // Only if somebody else has had a hand in the file.
                    tracing::error!(sequence, "a stored message is gone from the store");
                    let mut index = self.inner.index();
                    index.forget(self.client_id, sequence);
                    self.inner.tell(&index, self.client_id);
                }
            }
        }
    }

    /// Puts one message in the outbox, unless it has expired meanwhile.
    fn push(&mut self, sequence: Sequence, letter: &Letter) -> Result<(), Refused> {
        let inner = self.inner;
        let mut index = inner.index();
        let now = inner.now();
        let Some(last) = index.may_carry(self.client_id, sequence, now) else { return Ok(()) };
        let (receipt, of_writing) = oneshot::channel();
        let (acked, of_acking) = self.connection.reliable().is_some().then(oneshot::channel).unzip();
        let id = (!letter.message_id.is_empty()).then(|| Arc::from(&*letter.message_id));
        let frame = Frame { payload: letter.payload.clone(), id, receipt: Some(receipt), acked, deadline: None };
        let outbox = &self.connection.outbox;
        outbox.push_mail(frame, inner.registry.settings().outbox, last).map_err(|(refused, _)| refused)?;
        index.carried(self.client_id, sequence, self.connection.info().connection_id, now);
        if last {
            inner.tell(&index, self.client_id);
        }
        drop(index);
        self.moved = true;
        inner.metrics.sends.of(SendOutcome::Accepted).inc();
        self.connection.wake();
        self.in_flight.push(Box::pin(written(sequence, of_writing, of_acking.is_none())));
        if let Some(of_acking) = of_acking {
            self.in_flight.push(Box::pin(acknowledged(sequence, of_acking)));
        }
        Ok(())
    }

    /// A receipt is there, or will never be.
    fn told(&mut self, sequence: Sequence, told: Told) {
        self.moved = true;
        let inner = self.inner;
        let mut index = inner.index();
        match told {
            Told::Nothing => return,
            Told::Written => {
                index.reached(self.client_id, sequence, Stage::Written, false, inner.now());
                return;
            }
            Told::Delivered(stage) => {
                if index.reached(self.client_id, sequence, stage, true, inner.now()) {
                    inner.metrics.mail.of(MailOutcome::Delivered).inc();
                    inner.remove_later(self.client_id.clone(), sequence);
                }
            }
            Told::Lost => index.returned(self.client_id, sequence),
        }
        inner.tell(&index, self.client_id);
        drop(index);
        if told == Told::Lost {
            inner.sooner.notify_one();
        }
    }

    /// Hears what is told already, when the node stops: what is delivered is not to be sent again by the next run.
    fn hear_the_last(&mut self) {
        while let Some(Some((sequence, told))) = futures_util::FutureExt::now_or_never(self.in_flight.next()) {
            self.told(sequence, told);
        }
    }

    /// Whatever is not told counts as unsent, and is taken out of the outbox. What has left that, and may yet be written, comes twice: it has
    /// to come on the next connection before what is behind it.
    fn give_up(&mut self) {
        self.in_flight = FuturesUnordered::new();
        self.ready = VecDeque::new();
        let mut index = self.inner.index();
        self.inner.metrics.sends.of(SendOutcome::Dropped).inc_by(self.connection.outbox.withdraw_mail());
        index.return_all(self.client_id, self.connection.info().connection_id);
        self.inner.tell(&index, self.client_id);
        drop(index);
        self.inner.sooner.notify_one();
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
