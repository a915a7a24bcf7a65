//! Which streams use which consumer, in memory: the newest owns it, and who owned it before is told.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::name::ConsumerName;
use crate::position::Offset;

/// Why a stream may no longer use its consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// A newer stream has it.
    TakenOver,
    /// It was deleted.
    Deleted,
}

/// The streams by the consumer that they use. Bounded by the number of streams.
#[derive(Debug, Default)]
pub(super) struct Attached {
    uses: Mutex<HashMap<ConsumerName, Uses>>,
    /// The number of the next use. None is used twice: a write of one that has gone may still be under way.
    next: AtomicU64,
}

/// Who uses one consumer; there as long as anybody does.
#[derive(Debug, Default)]
struct Uses {
    /// In the order of their numbers.
    uses: Vec<Use>,
    /// The newest that owns it or has owned it: an older one that begins later does not take it back.
    owner: Option<u64>,
}

#[derive(Debug)]
struct Use {
    /// Tells the uses apart.
    number: u64,
    /// Whether the stream has begun; before that it has ended no other.
    owns: bool,
    /// Whether its position was looked up, so that it begins unless something else is in its way.
    opened: bool,
    sent: Sent,
    ended: watch::Sender<Option<Ended>>,
}

/// What a stream was sent, where that matters.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// It goes on from the kept position, or begins it: who acknowledges more has it from an earlier stream.
    Whatever,
    /// It was reset and has been given no cursor yet.
    Nothing,
    /// It was reset, and this is the last cursor that it was given.
    UpTo(Offset),
}

/// A stream's use of a consumer; dropping it ends the use.
#[derive(Debug)]
pub struct Attachment {
    attached: Arc<Attached>,
    name: ConsumerName,
    number: u64,
    ended: watch::Receiver<Option<Ended>>,
}

impl Attached {
    fn uses(&self) -> MutexGuard<'_, HashMap<ConsumerName, Uses>> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream is about to begin. From here on it hears of a deletion, and the consumer counts as used; it takes nothing from anyone yet, since its
    /// beginning may fail.
    pub(super) fn enter(self: &Arc<Self>, name: &ConsumerName) -> Attachment {
        let (sender, ended) = watch::channel(None);
        let mut uses = self.uses();
        let uses = uses.entry(name.clone()).or_default();
        // Within the lock, so that they are in the order of their numbers.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        uses.uses.push(Use { number, owns: false, opened: false, sent: Sent::Whatever, ended: sender });
        Attachment { attached: Arc::clone(self), name: name.clone(), number, ended }
    }

    /// Ends every use of a consumer that was deleted.
    pub(super) fn delete(&self, name: &ConsumerName) {
        for one in self.uses().get(name).into_iter().flat_map(|uses| &uses.uses) {
            end(one, Ended::Deleted);
        }
    }

    /// The position of a use was looked up: what an older one wants kept comes too late from here on, unless this one ends without having begun.
    pub(super) fn opened(&self, name: &ConsumerName, number: u64) {
        let mut all = self.uses();
        let own = all.get_mut(name).and_then(|uses| uses.uses.iter_mut().find(|one| one.number == number));
        if let Some(own) = own {
            own.opened = true;
        }
    }

    /// Whether a newer use has the consumer, has had it, or has looked its position up and is about to have it.
    pub(super) fn is_superseded(&self, name: &ConsumerName, number: u64) -> bool {
        self.uses().get(name).is_some_and(|uses| {
            let begun = uses.owner.is_some_and(|owner| owner > number);
            begun || uses.uses.iter().any(|one| one.number > number && one.opened)
        })
    }

    /// A consumer is reset for the stream of a use, which begins here, or with a snapshot.
    pub(super) fn reset(&self, name: &ConsumerName, number: u64, from: Option<Offset>) {
        let mut all = self.uses();
        let own = all.get_mut(name).and_then(|uses| uses.uses.iter_mut().find(|one| one.number == number));
        if let Some(own) = own {
            own.sent = from.map_or(Sent::Nothing, Sent::UpTo);
        }
    }

    /// Whether a place may be acknowledged: not if a consumer was reset and the stream that it was reset for has not come so far. Whoever says so
    /// speaks of a stream before the reset, and would undo it.
    pub(super) fn may_acknowledge(&self, name: &ConsumerName, offset: Offset) -> bool {
        let all = self.uses();
        let Some(uses) = all.get(name) else { return true };
        let mut present = uses.uses.iter().filter(|one| uses.owner.is_none_or(|owner| owner <= one.number));
        present.all(|one| match one.sent {
            Sent::Whatever => true,
            Sent::Nothing => false,
            Sent::UpTo(sent) => offset <= sent,
        })
    }

    /// Whether a stream has a consumer.
    pub(super) fn is_owned(&self, name: &ConsumerName) -> bool {
        self.uses().get(name).is_some_and(|uses| uses.uses.iter().any(|one| one.owns))
    }

    /// The consumers that are used, or about to be.
    pub(super) fn names(&self) -> Vec<ConsumerName> {
        self.uses().keys().cloned().collect()
    }
}

/// The first reason stays.
fn end(one: &Use, why: Ended) {
    one.ended.send_if_modified(|ended| {
        let first = ended.is_none();
        ended.get_or_insert(why);
        first
    });
}

impl Attachment {
    /// The stream has begun: it owns the consumer, and whoever did is told. If one that entered later has begun before, it is this one that is told.
    pub fn take_over(&self) {
        let mut all = self.attached.uses();
        let Some(uses) = all.get_mut(&self.name) else { return };
        let overtaken = uses.owner.is_some_and(|owner| owner > self.number);
        if !overtaken {
            uses.owner = Some(self.number);
        }
        for one in &mut uses.uses {
            match one.number == self.number {
                true if overtaken => end(one, Ended::TakenOver),
                true => one.owns = true,
                false if !overtaken && std::mem::take(&mut one.owns) => end(one, Ended::TakenOver),
                false => {}
            }
        }
    }

    /// The consumer that is used.
    pub(super) fn name(&self) -> &ConsumerName {
        &self.name
    }

    /// Which use it is.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The stream is about to be given a cursor.
    pub fn sent(&self, offset: Offset) {
        let mut all = self.attached.uses();
        let own = all.get_mut(&self.name).and_then(|uses| uses.uses.iter_mut().find(|one| one.number == self.number));
        if let Some(Use { sent: sent @ (Sent::Nothing | Sent::UpTo(_)), .. }) = own {
            *sent = Sent::UpTo(offset);
        }
    }

    /// Why the stream has to end, if it has to.
    #[must_use]
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// Waits until the stream has to end.
    pub async fn wait_ended(&mut self) {
        // Its sender lives as long as this.
        let _ = self.ended.wait_for(Option::is_some).await;
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut all = self.attached.uses();
        if let Some(uses) = all.get_mut(&self.name) {
            uses.uses.retain(|one| one.number != self.number);
            if uses.uses.is_empty() {
                all.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ConsumerName {
        ConsumerName::new(name).expect("a good name")
    }

    #[test]
    fn the_newest_that_has_begun_owns_it_and_the_one_before_is_told_at_once() {
        let attached = Arc::new(Attached::default());
        let first = attached.enter(&name("a"));
        assert!(!attached.is_owned(&name("a")));
        first.take_over();
        let other = attached.enter(&name("b"));
        other.take_over();
        let second = attached.enter(&name("a"));
        assert_eq!(first.ended(), None, "a stream that may not begin at all takes nothing");
        second.take_over();
        assert_eq!((first.ended(), second.ended(), other.ended()), (Some(Ended::TakenOver), None, None));
        drop(second);
        assert!(!attached.is_owned(&name("a")), "the older does not get it back");
        drop(first);
        assert_eq!(attached.names(), [name("b")]);
    }

    #[test]
    fn one_that_entered_earlier_and_begins_later_takes_nothing_from_the_newer_one() {
        let attached = Arc::new(Attached::default());
        let [oldest, older, newer] = std::array::from_fn(|_| attached.enter(&name("a")));
        newer.take_over();
        older.take_over();
        assert_eq!((older.ended(), newer.ended()), (Some(Ended::TakenOver), None));
        assert!(attached.is_owned(&name("a")));
        drop(newer);
        oldest.take_over();
        assert_eq!(oldest.ended(), Some(Ended::TakenOver), "also when the newer one has gone");
        assert!(!attached.is_owned(&name("a")));
        let newest = attached.enter(&name("a"));
        newest.take_over();
        assert_eq!(newest.ended(), None);
    }

    #[test]
    fn a_deletion_ends_also_those_that_are_about_to_begin() {
        let attached = Arc::new(Attached::default());
        let (owner, entering) = (attached.enter(&name("a")), attached.enter(&name("a")));
        owner.take_over();
        attached.delete(&name("a"));
        assert_eq!((owner.ended(), entering.ended()), (Some(Ended::Deleted), Some(Ended::Deleted)));
        let later = attached.enter(&name("a"));
        later.take_over();
        assert_eq!((owner.ended(), later.ended()), (Some(Ended::Deleted), None), "the first reason stays");
    }

    #[test]
    fn after_a_reset_only_what_its_stream_was_sent_may_be_acknowledged_until_another_has_it() {
        let attached = Arc::new(Attached::default());
        let may = |offsets: [Offset; 3]| offsets.map(|offset| attached.may_acknowledge(&name("a"), offset));
        let before = attached.enter(&name("a"));
        before.take_over();
        before.sent(9);
        assert_eq!(may([0, 9, 10]), [true; 3]);
        let reset = attached.enter(&name("a"));
        attached.reset(&name("a"), reset.number(), None);
        assert_eq!(may([0, 9, 10]), [false; 3]);
        reset.take_over();
        reset.sent(9);
        assert_eq!(may([0, 9, 10]), [true, true, false]);
        let after = attached.enter(&name("a"));
        attached.reset(&name("a"), after.number(), Some(4));
        assert_eq!(may([4, 5, 9]), [true, false, false]);
        drop(after);
        let after = attached.enter(&name("a"));
        after.take_over();
        assert_eq!(may([9, 10, 11]), [true; 3], "the reset one has it no more");
        drop((before, reset, after));
        assert_eq!(may([9, 10, 11]), [true; 3]);
    }

    #[tokio::test]
    async fn waiting_for_the_end_sees_one_that_came_before() {
        let attached = Arc::new(Attached::default());
        let mut first = attached.enter(&name("a"));
        attached.delete(&name("a"));
        first.wait_ended().await;
        assert_eq!(first.ended(), Some(Ended::Deleted));
    }
}
