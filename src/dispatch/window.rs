//! The window of message ids: what was sent lately and is not to be sent again. A pure state machine of what it knows, what it is asked, and the time.

use std::collections::{HashMap, VecDeque};

use hashbrown::HashTable;

use super::Delivery;
use crate::clock::Millis;

/// Stands for a message: a keyed hash of who sends it, to whom, and what they call it. 128 bits, so that no two meet by chance; keyed, so that no
/// two meet on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key(pub(super) u64, pub(super) u64);

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The newest so many.
    pub(super) messages: usize,
    /// For so long.
    pub(super) age: Millis,
}

/// What is known of a message that is to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Known {
    /// Nothing: it is to be sent, and is in flight until [`Window::finish`].
    New,
    /// It is in flight; [`Window::join`] waits for it.
    InFlight,
    /// It was sent, with this outcome.
    Sent(Vec<Delivery>),
    /// The id belongs to another message.
    Reused,
}

/// The ids in flight and those of the messages that were sent. `J` is what waits for one in flight.
#[derive(Debug)]
pub(super) struct Window<J> {
    bounds: Bounds,
    /// As many as there are sends that are not settled: each has a frame in an outbox, or a call that waits.
    in_flight: HashMap<Key, InFlight<J>>,
    /// Oldest first. When it is full the oldest goes.
    sent: VecDeque<Sent>,
    /// How many went before the first of `sent`, wrapping.
    gone: u32,
    /// Where each is in `sent`, counted from the first ever.
    places: HashTable<u32>,
}

#[derive(Debug)]
struct InFlight<J> {
    fingerprint: u64,
    /// What stands whatever comes; none while it may yet turn out that nothing was sent.
    stands: Option<Vec<Delivery>>,
    joined: Vec<J>,
}

#[derive(Debug)]
struct Sent {
    key: Key,
    fingerprint: u64,
    at: Millis,
    outcome: Outcome,
}

/// Nearly always there is one delivery, which then costs no allocation.
#[derive(Debug)]
enum Outcome {
    One(Delivery),
    Several(Box<[Delivery]>),
}

impl Outcome {
    fn of(deliveries: &[Delivery]) -> Self {
        match deliveries {
            [one] => Self::One(*one),
            several => Self::Several(several.into()),
        }
    }

    fn to_vec(&self) -> Vec<Delivery> {
        match self {
            Self::One(one) => vec![*one],
            Self::Several(several) => several.to_vec(),
        }
    }
}

impl<J> Window<J> {
    pub(super) fn new(bounds: Bounds) -> Self {
        let (sent, places) = (VecDeque::new(), HashTable::new());
        Self { bounds, in_flight: HashMap::new(), sent, gone: 0, places }
    }

    /// What is known of a message. If nothing is, it is in flight from here on. `fingerprint` tells what it says from what another of the same id says.
    pub(super) fn begin(&mut self, key: Key, fingerprint: u64, now: Millis) -> Known {
        self.forget_old(now);
        if let Some(flight) = self.in_flight.get(&key) {
            return if flight.fingerprint == fingerprint { Known::InFlight } else { Known::Reused };
        }
        if let Some(sent) = self.find(key) {
            return if sent.fingerprint == fingerprint { Known::Sent(sent.outcome.to_vec()) } else { Known::Reused };
        }
        self.in_flight.insert(key, InFlight { fingerprint, stands: None, joined: Vec::new() });
        Known::New
    }

    /// Waits for one that is in flight; hands `waiter` back if it is not. Those who do not wait any more give way.
    pub(super) fn join(&mut self, key: Key, waiter: J, waits: impl Fn(&J) -> bool) -> Result<(), J> {
        match self.in_flight.get_mut(&key) {
            Some(flight) => {
                flight.joined.retain(waits);
                flight.joined.push(waiter);
                Ok(())
            }
            None => Err(waiter),
        }
    }

    /// Notes that a message in flight came so far, and that nothing takes that back.
    pub(super) fn stands(&mut self, key: Key, deliveries: &[Delivery]) {
        if let Some(flight) = self.in_flight.get_mut(&key) {
            flight.stands = Some(deliveries.to_vec());
        }
    }

    /// How far a message in flight came; none if that may be taken back, or if it is in flight no more.
    pub(super) fn standing(&self, key: Key) -> Option<Vec<Delivery>> {
        self.in_flight.get(&key)?.stands.clone()
    }

    /// A message is in flight no more. Its outcome is remembered if it was sent; if not (none), nothing is, and a repeat is a new one. Answers who waits.
    pub(super) fn finish(&mut self, key: Key, outcome: Option<&[Delivery]>, now: Millis) -> Vec<J> {
        self.forget_old(now);
        let Some(flight) = self.in_flight.remove(&key) else { return Vec::new() };
        if let Some(deliveries) = outcome {
            if self.sent.len() >= self.bounds.messages {
                self.forget_oldest();
            }
            let place = self.gone.wrapping_add(self.sent.len() as u32);
            let outcome = Outcome::of(deliveries);
            self.sent.push_back(Sent { key, fingerprint: flight.fingerprint, at: now, outcome });
            let (sent, gone) = (&self.sent, self.gone);
            self.places.insert_unique(key.0, place, |place| sent[place.wrapping_sub(gone) as usize].key.0);
        }
        flight.joined
    }

    /// Forgets what is too old, and gives memory back that a burst has taken.
    pub(super) fn forget_old(&mut self, now: Millis) {
        while self.sent.front().is_some_and(|oldest| now.saturating_sub(oldest.at) >= self.bounds.age) {
            self.forget_oldest();
        }
        let few = self.sent.len().max(512) * 2;
        if self.sent.capacity() > few * 4 {
            self.sent.shrink_to(few);
            let (sent, gone) = (&self.sent, self.gone);
            self.places.shrink_to(few, |place| sent[place.wrapping_sub(gone) as usize].key.0);
        }
    }

    /// How many were sent and are known.
    pub(super) fn remembered(&self) -> usize {
        self.sent.len()
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.sent.pop_front() else { return };
        if let Ok(place) = self.places.find_entry(oldest.key.0, |place| *place == self.gone) {
            place.remove();
        }
        self.gone = self.gone.wrapping_add(1);
    }

    fn find(&self, key: Key) -> Option<&Sent> {
        let at = |place: &u32| place.wrapping_sub(self.gone) as usize;
        let place = self.places.find(key.0, |place| self.sent[at(place)].key == key)?;
        self.sent.get(at(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Stage;
    use crate::ids::ConnectionId;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { messages: 3, age: 100 };

    fn delivery(time: i64) -> Delivery {
        Delivery { connection_id: ConnectionId::NONE, stage: Some(Stage::Accepted), time, failure: None }
    }

    fn key(n: u64) -> Key {
        // The first halves meet: the second tells them apart.
        Key(n % 2, n)
    }

    #[test]
    fn a_message_that_was_sent_is_known_until_it_is_too_old() {
        let mut window = Window::<()>::new(BOUNDS);
        assert_eq!(window.begin(key(1), 7, 0), Known::New);
        assert_eq!(window.begin(key(1), 7, 1), Known::InFlight);
        assert_eq!(window.begin(key(1), 8, 1), Known::Reused);
        let outcome = [delivery(1), delivery(2)];
        window.finish(key(1), Some(&outcome), 10);
        assert_eq!(window.begin(key(1), 7, 109), Known::Sent(outcome.to_vec()));
        assert_eq!(window.begin(key(1), 8, 109), Known::Reused);
        assert_eq!(window.begin(key(1), 8, 110), Known::New);
    }

    #[test]
    fn a_message_that_was_not_sent_is_new_again_and_who_joined_is_named() {
        let mut window = Window::new(BOUNDS);
        let all = |_: &_| true;
        assert_eq!(window.join(key(1), "too early", all), Err("too early"));
        window.begin(key(1), 7, 0);
        window.join(key(1), "left", all).expect("in flight");
        window.join(key(1), "a", |waiter| *waiter != "left").expect("in flight");
        window.join(key(1), "b", all).expect("in flight");
        assert_eq!(window.standing(key(1)), None);
        window.stands(key(1), &[delivery(1)]);
        assert_eq!(window.standing(key(1)), Some(vec![delivery(1)]));
        assert_eq!(window.finish(key(1), None, 1), ["a", "b"]);
        assert_eq!((window.standing(key(1)), window.begin(key(1), 8, 1)), (None, Known::New));
    }

    #[test]
    fn a_million_messages_take_some_tens_of_megabytes_and_give_them_back() {
        assert!(size_of::<Sent>() <= 64, "{}", size_of::<Sent>());
        let key = |n: u64| Key(n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n);
        let mut window = Window::<()>::new(Bounds { messages: 20_000, age: 100 });
        for n in 0..50_000 {
            window.begin(key(n), 0, 0);
            window.finish(key(n), Some(&[delivery(0)]), 0);
        }
        assert_eq!((window.sent.len(), window.places.len()), (20_000, 20_000));
        assert!(window.sent.capacity() <= 40_000);
        assert_eq!(window.begin(key(29_999), 0, 0), Known::New, "the oldest are forgotten");
        assert_eq!(window.begin(key(30_000), 0, 0), Known::Sent(vec![delivery(0)]));
        window.forget_old(100);
        assert!(window.sent.is_empty() && window.places.is_empty() && window.sent.capacity() <= 4_096);
        assert!(window.places.capacity() <= 8_192);
    }

    #[test]
    fn places_go_on_past_the_end_of_their_numbers() {
        let mut window = Window::<()>::new(BOUNDS);
        window.gone = u32::MAX - 1;
        for n in 0..10 {
            assert_eq!(window.begin(key(n), 0, 0), Known::New);
            window.finish(key(n), Some(&[delivery(n as i64)]), 0);
            assert_eq!(window.begin(key(n), 0, 0), Known::Sent(vec![delivery(n as i64)]));
        }
        assert_eq!(window.begin(key(6), 0, 0), Known::New);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Begin(u64, u64),
        Join(u64),
        Finish(u64, bool),
        Wait(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0u64..6, 0u64..2).prop_map(|(key, fingerprint)| Op::Begin(key, fingerprint)),
            1 => (0u64..6).prop_map(Op::Join),
            4 => (0u64..6, any::<bool>()).prop_map(|(key, sent)| Op::Finish(key, sent)),
            1 => (0u64..60).prop_map(Op::Wait),
        ]
    }

    proptest! {
        /// Against lists that are searched from end to end.
        #[test]
        fn it_knows_what_a_plain_list_knows(ops in proptest::collection::vec(op(), 0..200)) {
            let mut window = Window::new(BOUNDS);
            let mut flights: Vec<(u64, u64, Vec<usize>)> = Vec::new();
            let mut sent: Vec<(u64, u64, u64, Delivery)> = Vec::new();
            let mut now = 0;
            for (number, op) in ops.into_iter().enumerate() {
                sent.retain(|(_, _, at, _)| now - at < BOUNDS.age);
                match op {
                    Op::Wait(time) => now += time,
                    Op::Begin(n, fingerprint) => {
                        let flight = flights.iter().find(|flight| flight.0 == n);
                        let known = sent.iter().find(|sent| sent.0 == n);
                        let expected = match (flight, known) {
                            (Some(flight), _) if flight.1 == fingerprint => Known::InFlight,
                            (None, Some(known)) if known.1 == fingerprint => Known::Sent(vec![known.3]),
                            (None, None) => Known::New,
                            _ => Known::Reused,
                        };
                        if expected == Known::New {
                            flights.push((n, fingerprint, Vec::new()));
                        }
                        prop_assert_eq!(window.begin(key(n), fingerprint, now), expected);
                    }
                    Op::Join(n) => {
                        let flight = flights.iter_mut().find(|flight| flight.0 == n);
                        prop_assert_eq!(window.join(key(n), number, |_| true).is_ok(), flight.is_some());
                        flight.into_iter().for_each(|flight| flight.2.push(number));
                    }
                    Op::Finish(n, good) => {
                        let outcome = delivery(number as i64);
                        let told = window.finish(key(n), good.then_some(&[outcome][..]), now);
                        let Some(at) = flights.iter().position(|flight| flight.0 == n) else {
                            prop_assert!(told.is_empty());
                            continue;
                        };
                        let (_, fingerprint, joined) = flights.remove(at);
                        prop_assert_eq!(told, joined);
                        if good {
                            sent.push((n, fingerprint, now, outcome));
                            sent.drain(..sent.len().saturating_sub(BOUNDS.messages));
                        }
                    }
                }
            }
        }
    }
}
