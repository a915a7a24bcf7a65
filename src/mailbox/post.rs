//! How a message comes into its mailbox: checked, stored, and followed as far as its sender asked.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};
use tokio::time::timeout;

use super::index::Over;
use super::recent::Known;
use super::table::{self, Letter, Sequence};
use super::{Inner, MAX_POSTS, MESSAGE_OVERHEAD, Mailboxes, POST_GRAIN, Progress, STORE_RETRY, Stage, lock};
use crate::event::Payload;
use crate::ids::ClientId;
use crate::metrics::MailOutcome;
use crate::store::{Outcome, StoreError, WriteTransaction};

/// A message to be stored.
#[derive(Clone, Debug)]
pub struct Mail {
    /// For whom.
    pub client_id: ClientId,
    /// What.
    pub payload: Payload,
    /// Names the message among those stored for the client id and those removed lately, so that a repeat is not stored twice; empty for no name.
    pub message_id: Box<str>,
    /// For how long, by wall time; at most [`super::MAX_TTL`].
    pub ttl: Duration,
    /// How far its sender wants to follow it.
    pub until: Stage,
}

/// Why a message was not stored. None of these is ever delivered, except after [`PostError::Late`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// Clients name themselves here, and nobody checked it.
    #[error("the client id is not verified: clients name themselves here")]
    Unverified,
    /// It would not fit in an empty mailbox.
    #[error("a mailbox holds at most {most} bytes")]
    TooLarge {
        /// The bytes that a payload with such an id may have.
        most: u64,
    },
    /// The mailbox of the client is full.
    #[error("the mailbox of the client is full")]
    ClientFull,
    /// All mailboxes together are full.
    #[error("the mailboxes are full")]
    AllFull,
    /// The id names another message that is stored.
    #[error("the message id names another message")]
    IdReused,
    /// The store has failed, or is too busy.
    #[error(transparent)]
    Store(StoreError),
    /// The store did not sync it in time. It may still do so.
    #[error("the store did not sync the message in time; it may still be stored")]
    Late,
}

/// A message that is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Posted {
    /// How far it has come.
    pub progress: Progress,
    /// Whether it was stored before, by an earlier call with its id.
    pub replayed: bool,
}

/// A message on its way into the store. Dropping it withdraws nothing.
pub struct Posting {
    answered: oneshot::Receiver<Result<Booked, PostError>>,
    until: Stage,
}

/// What became of the write.
enum Decision {
    New(Sequence),
    Again(Sequence),
    /// It was stored, and is through.
    Past(Progress),
    Reused,
    Full(Over),
}

/// A message that is stored, followed.
struct Booked {
    posted: Posted,
    followed: Option<Followed>,
}

/// Keeps track of a message for as long as somebody waits.
struct Followed {
    inner: Arc<Inner>,
    sequence: Sequence,
    progress: Option<watch::Receiver<Progress>>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.progress = None;
        self.inner.index().unwatch(self.sequence);
    }
}

impl Mailboxes {
    /// Begins to store a message. Messages are stored in the order of these calls.
    ///
    /// # Errors
    /// [`PostError`] if that is known at once.
    pub fn post(&self, mail: Mail) -> Result<Posting, PostError> {
        let (post, letter, place) = self.prepare(mail)?;
        let until = post.until;
        let work = post.clone().work(letter);
        let store = post.inner.store.clone();
        // Not cut short by a task's budget, so that the first look puts it in the store's queue: the order of calls is the order of messages.
        let mut writing = Box::pin(tokio::task::unconstrained(async move { store.write(work).await }));
        let at_once = (&mut writing).now_or_never();
        let (answer, answered) = oneshot::channel();
        // On its own, because what follows from the write must follow whether or not the caller stays.
        tokio::spawn(async move {
            let written = match at_once {
                Some(written) => written,
                None => writing.await,
            };
            post.book(written, answer, place).await;
        });
        Ok(Posting { answered, until })
    }

    /// What is known at once of a message, and its place among those on their way.
    fn prepare(&self, mail: Mail) -> Result<(Post, Letter, OwnedSemaphorePermit), PostError> {
        let inner = Arc::clone(&self.inner);
        let refused = |error| {
            inner.metrics.mail.of(MailOutcome::Refused).inc();
            Err(error)
        };
        if !inner.settings.trust_self_named {
            return refused(PostError::Unverified);
        }
        let beside = (mail.message_id.len() + MESSAGE_OVERHEAD) as u64;
        let most = inner.settings.limits.max_bytes.min(inner.settings.limits.max_total_bytes).min(u32::MAX.into());
        let weight = match u32::try_from(mail.payload.len() as u64 + beside) {
            Ok(weight) if u64::from(weight) <= most => weight,
            _ => return refused(PostError::TooLarge { most: most.saturating_sub(beside) }),
        };
        let grains = (1 + weight as usize / POST_GRAIN).min(MAX_POSTS) as u32;
        let Ok(place) = Arc::clone(&inner.posts).try_acquire_many_owned(grains) else {
            return refused(PostError::Store(StoreError::Busy));
        };
        let Mail { client_id, payload, message_id, ttl, until } = mail;
        let letter = Letter { payload, message_id, send_time: inner.now() };
        let given = Arc::new(OnceLock::new());
        let post = Post { inner: Arc::clone(&inner), client_id, weight, ttl, given, until };
        Ok((post, letter, place))
    }

    /// Stores a message by a write that is then said to have failed, as one does that fails in its last step. Answers what follows.
    #[cfg(test)]
    pub(super) async fn post_failing(&self, mail: Mail) -> impl Future<Output = ()> + use<> {
        let (post, letter, place) = self.prepare(mail).expect("taken");
        post.inner.store.write(post.clone().work(letter)).await.expect("written");
        let (answer, answered) = oneshot::channel();
        async move {
            post.book(Err(StoreError::Failed("made up".into())), answer, place).await;
            assert!(matches!(answered.await, Ok(Err(PostError::Store(_)))));
        }
    }
}

#[derive(Clone, Copy)]
struct Given {
    sequence: Sequence,
    replayed: bool,
}

#[derive(Clone)]
struct Post {
    inner: Arc<Inner>,
    client_id: ClientId,
    weight: u32,
    ttl: Duration,
    /// The message that was stored or found, if its transaction came so far.
    given: Arc<OnceLock<Given>>,
    until: Stage,
}

impl Post {
    /// What happens in the transaction.
    fn work(self, letter: Letter) -> impl FnOnce(&WriteTransaction) -> Outcome<Decision> + Send + 'static {
        move |transaction| {
            if !letter.message_id.is_empty()
                && let Some((sequence, payload)) = table::find(transaction, &self.client_id, &letter.message_id)?
            {
                let mut index = self.inner.index();
                // One that expired is stored anew, and its id stands for that; by the clock, because the sweep may give it up a moment later.
                if !index.is_over(&self.client_id, sequence, self.inner.now()) {
                    if payload != letter.payload {
                        return Ok(Decision::Reused);
                    }
                    index.claim(&self.client_id, sequence);
                    let _ = self.given.set(Given { sequence, replayed: true });
                    return Ok(Decision::Again(sequence));
                }
            }
            if !letter.message_id.is_empty() {
                let says = (matches!(letter.payload, Payload::Text(_)), &letter.payload.bytes()[..]);
                let now = self.inner.registry.clock().uptime();
                match lock(&self.inner.recent).find(&self.client_id, &letter.message_id, says, now) {
                    Some(Known::Same(progress)) => return Ok(Decision::Past(progress)),
                    Some(Known::Other) => return Ok(Decision::Reused),
                    None => {}
                }
            }
            let ttl = i64::try_from(self.ttl.as_nanos()).unwrap_or(i64::MAX);
            let expires = letter.send_time.saturating_add(ttl);
            let head = match self.inner.index().admit(&self.client_id, expires, self.weight) {
                Ok(head) => head,
                Err(over) => return Ok(Decision::Full(over)),
            };
            let _ = self.given.set(Given { sequence: head.sequence, replayed: false });
            table::insert(transaction, &self.client_id, head, &letter)?;
            Ok(Decision::New(head.sequence))
        }
    }

    /// Draws the consequences of the write, then answers.
    async fn book(
        self,
        written: Result<Decision, StoreError>,
        answer: oneshot::Sender<Result<Booked, PostError>>,
        _place: OwnedSemaphorePermit,
    ) {
        let booked = match &written {
            Ok(Decision::New(sequence)) => Ok(self.booked(*sequence, false)),
            Ok(Decision::Again(sequence)) => Ok(self.booked(*sequence, true)),
            Ok(Decision::Past(progress)) => {
                Ok(Booked { posted: Posted { progress: *progress, replayed: true }, followed: None })
            }
            Ok(Decision::Reused) => Err(PostError::IdReused),
            Ok(Decision::Full(Over::Client)) => Err(PostError::ClientFull),
            Ok(Decision::Full(Over::Total)) => Err(PostError::AllFull),
            Err(StoreError::Late) => Err(PostError::Late),
            Err(error @ (StoreError::Busy | StoreError::Failed(_))) => {
                tracing::debug!(%error, "a message could not be stored");
                Err(PostError::Store(error.clone()))
            }
        };
        if booked.is_err() {
            self.inner.metrics.mail.of(MailOutcome::Refused).inc();
        }
        // The caller may have gone.
        let _ = answer.send(booked);
        match written {
            Err(StoreError::Late) => self.find_out(true).await,
            Err(StoreError::Failed(_)) => {
                if let Some(given) = self.given.get() {
                    self.inner.index().release(&self.client_id, given.sequence);
                }
                self.find_out(false).await;
            }
            _ => {}
        }
    }

    /// The store has it.
    fn booked(&self, sequence: Sequence, replayed: bool) -> Booked {
        let mut index = self.inner.index();
        index.commit(&self.client_id, sequence);
        let mut progress = index.progress(&self.client_id, sequence);
        let followed = (self.until > progress.stage).then(|| Followed {
            inner: Arc::clone(&self.inner),
            sequence,
            progress: Some(index.watch(&self.client_id, sequence)),
        });
        self.inner.tell(&index, &self.client_id);
        drop(index);
        self.inner.sooner.notify_one();
        if !replayed {
            progress.time = Some(self.inner.now());
            self.inner.metrics.mail.of(MailOutcome::Stored).inc();
        }
        Booked { posted: Posted { progress, replayed }, followed }
    }

    /// Asks the store what became of a write that it did not answer for, or answered with a failure after which the file may hold it all the
    /// same. What was said to have failed is removed, so that it is true, unless a repeat has found it meanwhile and was told that it is stored.
    async fn find_out(&self, keep: bool) {
        loop {
            let (client_id, given, index) =
                (self.client_id.clone(), Arc::clone(&self.given), Arc::clone(&self.inner.index));
            // Behind the write in the queue, so that it is decided by then.
            let asked = self.inner.store.write(move |transaction| {
                let Some(Given { sequence, .. }) = given.get().copied() else { return Ok(false) };
                if !keep && !lock(&index).is_claimed(&client_id, sequence) {
                    table::remove(transaction, &[(client_id, sequence)], |_, _, _, _| {})?;
                    return Ok(false);
                }
                table::contains(transaction, &client_id, sequence)
            });
            let stored = match asked.await {
                Ok(stored) => stored,
                Err(_) => {
                    tokio::select! {
                        () = tokio::time::sleep(STORE_RETRY) => continue,
                        () = self.inner.stop.cancelled() => return,
                    }
                }
            };
            let Some(Given { sequence, replayed }) = self.given.get().copied() else { return };
            if stored {
                // Nobody follows it.
                drop(self.booked(sequence, replayed));
            } else {
                let mut index = self.inner.index();
                index.forget(&self.client_id, sequence);
                // Those behind it may go now.
                self.inner.tell(&index, &self.client_id);
            }
            return;
        }
    }
}

impl Posting {
    /// Waits until the message is stored, and then at most `wait` until it has come as far as asked for; then the stage reached stands.
    ///
    /// # Errors
    /// [`PostError`] if it was not stored.
    pub async fn settle(self, wait: Duration) -> Result<Posted, PostError> {
        // The task answers unless its runtime is going down.
        let Booked { mut posted, mut followed } = self.answered.await.unwrap_or(Err(PostError::Late))?;
        let Some(progress) = followed.as_mut().and_then(|followed| followed.progress.as_mut()) else {
            return Ok(posted);
        };
        let until = self.until;
        // It ends when the message is removed: delivered, which it tells before, or expired.
        let _ = timeout(wait, progress.wait_for(|progress| progress.stage >= until)).await;
        let reached = *progress.borrow();
        if reached.stage > Stage::Stored {
            posted.progress = reached;
        }
        Ok(posted)
    }
}
