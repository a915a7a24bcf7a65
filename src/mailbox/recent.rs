//! The ids of messages that were removed lately: a repeat whose sender did not hear that it was delivered is not stored again. Pure.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;

use super::Progress;
use crate::clock::Millis;
use crate::ids::ClientId;

/// How long an id is known after its message was removed.
const REMEMBERED_FOR: Millis = 10 * 60 * 1_000;

/// How many are known at most; the oldest give way.
const REMEMBERED: usize = 1_000_000;

/// Stands for a client id and a message id: 128 bits, so that no two meet by chance; keyed, so that no two meet on purpose.
type Key = (u64, u64);

/// What is known of a message that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// It is this one, and came so far.
    Same(Progress),
    /// It is another.
    Other,
}

struct Entry {
    fingerprint: u64,
    at: Millis,
    progress: Progress,
}

/// The messages with an id that were removed lately. Bounded by [`REMEMBERED`]; ends with the process.
pub(super) struct Recent {
    keys: [RandomState; 3],
    entries: HashMap<Key, Entry>,
    /// Oldest first.
    order: VecDeque<(Millis, Key)>,
    most: usize,
}

impl Recent {
    pub(super) fn new() -> Self {
        Self::of(REMEMBERED)
    }

    fn of(most: usize) -> Self {
        let keys = std::array::from_fn(|_| RandomState::new());
        Self { keys, entries: HashMap::new(), order: VecDeque::new(), most }
    }

    fn key(&self, client_id: &ClientId, message_id: &str) -> Key {
        let name = (client_id.as_str(), message_id);
        (self.keys[0].hash_one(name), self.keys[1].hash_one(name))
    }

    /// A message is removed.
    pub(super) fn remember(
        &mut self,
        client_id: &ClientId,
        message_id: &str,
        says: (bool, &[u8]),
        progress: Progress,
        now: Millis,
    ) {
        self.forget_old(now);
        let key = self.key(client_id, message_id);
        let entry = Entry { fingerprint: self.keys[2].hash_one(says), at: now, progress };
        self.entries.insert(key, entry);
        self.order.push_back((now, key));
        if self.order.len() > self.most {
            self.forget_oldest();
        }
    }

    /// What is known of a message that is to be stored.
    pub(super) fn find(
        &mut self,
        client_id: &ClientId,
        message_id: &str,
        says: (bool, &[u8]),
        now: Millis,
    ) -> Option<Known> {
        self.forget_old(now);
        let entry = self.entries.get(&self.key(client_id, message_id))?;
        let same = entry.fingerprint == self.keys[2].hash_one(says);
        Some(if same { Known::Same(entry.progress) } else { Known::Other })
    }

    fn forget_old(&mut self, now: Millis) {
        while self.order.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= REMEMBERED_FOR) {
            self.forget_oldest();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            // What a busy hour needed is not kept for ever.
            (self.order, self.entries) = (VecDeque::new(), HashMap::new());
        }
    }

    fn forget_oldest(&mut self) {
        let Some((at, key)) = self.order.pop_front() else { return };
        // Remembered anew since, if its removal had to be tried again.
        if self.entries.get(&key).is_some_and(|entry| entry.at == at) {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_for_ten_minutes_by_client_id_and_message_id_and_told_from_another() {
        let (mut recent, progress) = (Recent::new(), Progress::STORED);
        let [alice, bob] = ["alice", "bob"].map(|id| ClientId::named(id).expect("an id"));
        recent.remember(&alice, "m", (true, b"a"), progress, 1_000);
        let until = 1_000 + REMEMBERED_FOR;
        assert_eq!(recent.find(&alice, "m", (true, b"a"), until - 1), Some(Known::Same(progress)));
        assert_eq!(recent.find(&alice, "m", (true, b"b"), until - 1), Some(Known::Other));
        assert_eq!(recent.find(&alice, "m", (false, b"a"), until - 1), Some(Known::Other));
        assert_eq!(recent.find(&alice, "n", (true, b"a"), until - 1), None);
        assert_eq!(recent.find(&bob, "m", (true, b"a"), until - 1), None);
        assert_eq!(recent.find(&alice, "m", (true, b"a"), until), None);
        assert!(recent.entries.is_empty() && recent.order.capacity() == 0);
    }

    #[test]
    fn the_oldest_give_way_and_one_remembered_twice_counts_from_the_second_time() {
        let mut recent = Recent::of(2);
        let alice = ClientId::named("alice").expect("an id");
        for (n, id) in ["a", "a", "b", "c"].into_iter().enumerate() {
            recent.remember(&alice, id, (true, b""), Progress::STORED, n as Millis);
        }
        let known = ["a", "b", "c"].map(|id| recent.find(&alice, id, (true, b""), 5).is_some());
        assert_eq!((known, recent.entries.len()), ([false, true, true], 2));
        let mut recent = Recent::of(10);
        recent.remember(&alice, "a", (true, b""), Progress::STORED, 0);
        recent.remember(&alice, "a", (true, b""), Progress::STORED, 10);
        assert!(recent.find(&alice, "a", (true, b""), REMEMBERED_FOR).is_some());
    }
}
