//! Consumers: named positions in the log that the server keeps for subscribers, in the store.
//!
//! The store is the truth: each decision (`kept.rs`) is made within its transaction, on what is there. In memory is only who uses which
//! (`attached.rs`). A stream enters before its position is looked up and takes the consumer over after, so that a deletion in between is heard of and a
//! stream that cannot begin ends no other.

mod attached;
mod kept;
mod lag;
mod name;
mod table;

pub use attached::{Attachment, Ended};
pub use kept::{Fresh, Kept, MAX_CONSUMERS, Opened, UNUSED_FOR};
pub use lag::{Lag, lag};
pub use name::{ConsumerName, MAX_NAME_BYTES, NameError};

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::position::Position;
use crate::store::{Store, StoreError};
use attached::Attached;
use table::Change;

/// How often those that nobody uses are looked for. How long one was unused is known to within this.
pub const SWEEP_EVERY: Duration = Duration::from_secs(60 * 60);

/// The consumers of this node; cheap to clone.
#[derive(Clone)]
pub struct Consumers {
    store: Store,
    clock: Clock,
    attached: Arc<Attached>,
}

/// What became of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acknowledged {
    /// This is kept and synced.
    Kept(Position),
    /// It is of more than the open stream, which began with a reset, was sent. Nothing changed.
    NotSent,
    /// There is no such consumer.
    Missing,
}

/// One consumer, as listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What is kept of it.
    pub kept: Kept,
    /// Whether a stream has it.
    pub attached: bool,
}

impl Consumers {
    /// Those in `store`. `clock` tells how long one was unused.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, attached: Arc::default() }
    }

    /// A stream is about to begin that will use a consumer. The first step, before [`Consumers::open`]; [`Attachment::take_over`] is the last.
    #[must_use]
    pub fn enter(&self, name: &ConsumerName) -> Attachment {
        self.attached.enter(name)
    }

    /// Where the stream of a use begins; what is kept from now on is synced when this answers. `reset`: not at the kept position.
    ///
    /// # Errors
    /// [`StoreError`]; then it may or may not be kept.
    pub async fn open(&self, attachment: &Attachment, fresh: Fresh, reset: bool) -> Result<Opened, StoreError> {
        let (name, number) = (attachment.name().clone(), attachment.number());
        let (attached, now) = (Arc::clone(&self.attached), self.clock.wall_nanos());
        let write = self.store.write(move |transaction| {
            table::change(transaction, &name, |kept, consumers| {
                let (keep, opened) = kept::open(kept, consumers, fresh, reset, now);
                let Some(keep) = keep else { return (Change::Nothing, opened) };
                // A position that is only looked up is nobody's loss: its stream is told as soon as it begins.
                if opened == Opened::Fresh && attached.is_superseded(&name, number) {
                    return (Change::Nothing, Opened::TakenOver);
                }
                // All of it in the transaction, so that neither an acknowledgement nor an older stream comes between.
                attached.opened(&name, number);
                if reset {
                    attached.reset(&name, number, keep.position.map(|position| position.offset));
                }
                (Change::Put(keep), opened)
            })
        });
        write.await
    }

    /// Moves a kept position forward to `position`, one of the log's present epoch, and answers the one that is kept and synced. One that is behind
    /// changes nothing.
    ///
    /// # Errors
    /// [`StoreError`]; then it may or may not have moved. Safe to repeat.
    pub async fn acknowledge(&self, name: &ConsumerName, position: Position) -> Result<Acknowledged, StoreError> {
        let (name, now) = (name.clone(), self.clock.wall_nanos());
        let attached = Arc::clone(&self.attached);
        let write = self.store.write(move |transaction| {
            table::change(transaction, &name, |kept, _| match kept {
                Some(_) if !attached.may_acknowledge(&name, position.offset) => {
                    (Change::Nothing, Acknowledged::NotSent)
                }
                Some(kept) => {
                    let kept = kept::acknowledge(kept, position, now);
                    (Change::Put(kept), Acknowledged::Kept(kept.position.unwrap_or(position)))
                }
                None => (Change::Nothing, Acknowledged::Missing),
            })
        });
        write.await
    }

    /// Forgets a consumer and ends the streams that use it. False: there is no such consumer.
    ///
    /// # Errors
    /// [`StoreError`]; then it may or may not be forgotten, and its streams go on. Safe to repeat.
    pub async fn delete(&self, name: &ConsumerName) -> Result<bool, StoreError> {
        let (this, name) = (self.clone(), name.clone());
        // A task of its own: whoever asked may leave once the write is on its way, and the streams must hear of it all the same.
        let deleting = tokio::spawn(async move {
            let named = name.clone();
            let write = this.store.write(move |transaction| {
                table::change(transaction, &named, |kept, _| (Change::Remove, kept.is_some()))
            });
            let was_there = write.await?;
            // Also if it was not there: an earlier call may have failed with its write done.
            this.attached.delete(&name);
            Ok(was_there)
        });
        deleting.await.unwrap_or_else(|_| Err(StoreError::Failed("the deletion was cut short".into())))
    }

    /// At most so many in the order of their names, after one of them (empty: from the first).
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub async fn list(&self, after: String, most: usize) -> Result<Vec<Listed>, StoreError> {
        let rows = self.store.read(move |transaction| table::list(transaction, &after, most)).await?;
        let listed = rows.into_iter().map(|(name, kept)| {
            let attached = ConsumerName::new(&name).is_ok_and(|name| self.attached.is_owned(&name));
            Listed { name, kept, attached }
        });
        Ok(listed.collect())
    }

    /// Forgets those that were not used for [`UNUSED_FOR`], and notes that those with a stream are in use. Answers how many were forgotten.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep(&self) -> Result<usize, StoreError> {
        // Taken before the write: one that enters later notes its use in a write after this one.
        let (names, now) = (self.attached.names(), self.clock.wall_nanos());
        let names: HashSet<_> = names.iter().map(|name| name.as_str().to_owned()).collect();
        let write = self.store.write(move |transaction| {
            table::sweep(transaction, now, |name| names.contains(name), |kept| kept::is_unused(kept, now))
        });
        Ok(write.await?.len())
    }

    /// Sweeps at once and then each time `period` has passed ([`SWEEP_EVERY`]), until `stop`.
    pub async fn run_sweeps(&self, period: Duration, stop: CancellationToken) {
        loop {
            match self.sweep().await {
                Ok(0) => {}
                Ok(forgotten) => tracing::info!(forgotten, "consumers were unused for 30 days and are forgotten"),
                Err(error) => tracing::warn!(%error, "unused consumers cannot be looked for"),
            }
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
