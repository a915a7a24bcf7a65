//! Sending once: the window of message ids for all who send, and the guard of a message that is in flight.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::Delivery;
use super::window::{Bounds, Key, Known, Window};
use crate::clock::{Clock, Millis};
use crate::registry::Target;

/// How long an id is known after its message was sent.
pub const REMEMBERED_FOR: Millis = 10 * 60 * 1_000;

/// How many ids are known at most; the oldest give way. A million take about 75 MiB.
pub const REMEMBERED: usize = 1_000_000;

/// Who calls: ids of different callers have nothing to do with each other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caller(u64);

impl Caller {
    /// Everyone, while callers are not told apart.
    pub const ANYONE: Self = Self(0);
}

/// What was sent lately and is not to be sent again; one for all who send.
#[derive(Debug)]
pub struct Once {
    window: Mutex<Window<oneshot::Sender<Vec<Delivery>>>>,
    /// Keys that nobody outside knows: who could make two ids meet could suppress the messages of another.
    keys: [RandomState; 3],
    clock: Clock,
}

/// What is to be done with a message that has an id.
#[derive(Debug)]
pub enum Begun {
    /// It is the first: send it, and say how that went.
    First(Attempt),
    /// It is being sent: what comes of it, or nothing if it was not sent after all and is to be begun again.
    InFlight(Joined),
    /// It was sent: this is what came of it.
    Sent(Vec<Delivery>),
    /// Its id belongs to another message.
    Reused,
}

/// A message in flight, for which the sender answers. Dropped without [`Attempt::sent`], it was not sent: nothing is remembered, and who waits for it
/// sends in its own right.
#[derive(Debug)]
pub struct Attempt {
    once: Arc<Once>,
    /// None once it is settled.
    key: Option<Key>,
}

/// The wait for another's message in flight.
#[derive(Debug)]
pub struct Joined {
    once: Arc<Once>,
    key: Key,
    told: oneshot::Receiver<Vec<Delivery>>,
}

impl Once {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let bounds = Bounds { messages: REMEMBERED, age: REMEMBERED_FOR };
        Self { window: Mutex::new(Window::new(bounds)), keys: std::array::from_fn(|_| RandomState::new()), clock }
    }

    fn window(&self) -> MutexGuard<'_, Window<oneshot::Sender<Vec<Delivery>>>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a message up before it is sent. `says` is all that a repeat has in common with it: payload and options.
    pub fn begin(self: &Arc<Self>, caller: Caller, target: &Target, id: &str, says: impl Hash) -> Begun {
        let name = match target {
            Target::Client(client) => (0, client.as_str().to_owned(), caller, id),
            Target::Connection(connection) => (1, connection.to_string(), caller, id),
        };
        let key = Key(self.keys[0].hash_one(&name), self.keys[1].hash_one(&name));
        let fingerprint = self.keys[2].hash_one(says);
        let mut window = self.window();
        match window.begin(key, fingerprint, self.clock.uptime()) {
            Known::New => Begun::First(Attempt { once: Arc::clone(self), key: Some(key) }),
            Known::Sent(deliveries) => Begun::Sent(deliveries),
            Known::Reused => Begun::Reused,
            Known::InFlight => {
                let (waiter, told) = oneshot::channel();
                // In flight under this lock.
                let _ = window.join(key, waiter, |waiter| !waiter.is_closed());
                Begun::InFlight(Joined { once: Arc::clone(self), key, told })
            }
        }
    }

    /// Forgets what is too old. Each message with an id does so too; this is for when none comes.
    pub fn forget_old(&self) {
        self.window().forget_old(self.clock.uptime());
    }

    /// How many ids are known of messages that were sent.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.window().remembered()
    }

    fn finish(&self, key: Key, outcome: Option<&[Delivery]>) {
        let waiting = self.window().finish(key, outcome, self.clock.uptime());
        for waiter in waiting {
            // Who waits is told what was sent; that nothing was shows in the channel's end.
            if let Some(deliveries) = outcome {
                let _ = waiter.send(deliveries.to_vec());
            }
        }
    }
}

impl Attempt {
    /// It was sent; this is remembered, and what every repeat is answered. It must not say more than has happened and stays true.
    pub fn sent(mut self, deliveries: &[Delivery]) {
        if let Some(key) = self.key.take() {
            self.once.finish(key, Some(deliveries));
        }
    }

    /// It came so far, and nothing takes that back: what a repeat is answered that does not wait until it is settled.
    pub fn stands(&self, deliveries: &[Delivery]) {
        if let Some(key) = self.key {
            self.once.window().stands(key, deliveries);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.once.finish(key, None);
        }
    }
}

impl Joined {
    /// What comes of it; none if it was not sent, and is to be begun again.
    pub async fn told(&mut self) -> Option<Vec<Delivery>> {
        (&mut self.told).await.ok()
    }

    /// How far it came by now; none if that may be taken back.
    #[must_use]
    pub fn standing(&mut self) -> Option<Vec<Delivery>> {
        self.told.try_recv().ok().or_else(|| self.once.window().standing(self.key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, ConnectionId};

    fn client(id: &str) -> Target {
        Target::Client(ClientId::named(id).expect("an id"))
    }

    #[tokio::test]
    async fn caller_target_and_id_are_the_name_and_the_rest_is_what_it_says() {
        let once = Arc::new(Once::new(Clock::default()));
        let begin = |caller, target: &Target, id, says: &str| once.begin(Caller(caller), target, id, says);
        let Begun::First(attempt) = begin(0, &client("a"), "m", "hi") else { panic!("not the first") };
        attempt.sent(&[]);
        assert!(matches!(begin(0, &client("a"), "m", "hi"), Begun::Sent(_)));
        assert!(matches!(begin(0, &client("a"), "m", "ho"), Begun::Reused));
        let connection = Target::Connection(ConnectionId::NONE);
        for (caller, target, id) in
            [(1, &client("a"), "m"), (0, &client("b"), "m"), (0, &client("a"), "n"), (0, &connection, "m")]
        {
            assert!(matches!(begin(caller, target, id, "hi"), Begun::First(_)), "{caller} {target:?} {id}");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_is_dropped_was_not_sent_and_who_joined_hears_of_it() {
        let once = Arc::new(Once::new(Clock::default()));
        let begin = || once.begin(Caller::ANYONE, &client("a"), "m", "hi");
        let Begun::First(attempt) = begin() else { panic!("not the first") };
        let Begun::InFlight(mut joined) = begin() else { panic!("not in flight") };
        assert_eq!(joined.standing(), None);
        attempt.stands(&[]);
        assert_eq!(joined.standing(), Some(vec![]));
        drop(attempt);
        assert_eq!(joined.told().await, None);
        assert!(matches!(begin(), Begun::First(_)));
    }
}
