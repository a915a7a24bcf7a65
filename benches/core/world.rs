//! A registry with a log in memory, and connections as their drivers would treat it: they join, beat when asked, and end when they are expired.

use std::future::Future as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use heartwire::clock::Clock;
use heartwire::close::CloseReason;
use heartwire::event::{ConnectionInfo, Event, EventKind, Payload};
use heartwire::heartbeat::Cadence;
use heartwire::ids::ClientId;
use heartwire::labels::Labels;
use heartwire::log::{Entry, Log, MemoryLog, Retention};
use heartwire::metrics::Metrics;
use heartwire::outbox::OutboxLimits;
use heartwire::registry::{Duplicates, Newcomer, Registration, Registry, Settings, signal};
use tokio::sync::Notify;
use tokio::task::coop::unconstrained;

/// As a server has it that is told nothing else.
pub(crate) const CADENCE: Cadence = Cadence { interval: 30_000, timeout: 60_000 };
const RING_BYTES: usize = 64 << 20;

/// How many join, end or speak before the log commits.
const BATCH: usize = 512;

pub(crate) struct World {
    pub(crate) registry: Arc<Registry>,
    pub(crate) log: Arc<MemoryLog>,
}

impl World {
    pub(crate) fn new() -> Self {
        let (metrics, clock) = (Arc::new(Metrics::default()), Clock::default());
        let retention = Retention { max_bytes: RING_BYTES, max_age: None };
        let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let settings = Settings {
            node_id: "node-1".into(),
            cadence: CADENCE,
            quiet: false,
            duplicates: Duplicates::Replace,
            takeovers_per_minute: 6,
            outbox: OutboxLimits { frames: 1_000, bytes: 1 << 20 },
        };
        let registry = Arc::new(Registry::new(Arc::clone(&log) as Arc<dyn Log>, clock, settings, metrics));
        Self { registry, log }
    }

    pub(crate) fn commit(&self) {
        while self.log.commit(&*self.registry) {}
    }

    /// Fills the ring with messages until nothing is left in it that was there before.
    pub(crate) fn fill_ring(&self) {
        let client = ClientId::named("nobody").expect("a good id");
        let connection = Arc::new(ConnectionInfo::absent(client, "node-1".into()));
        let head = self.log.head();
        while self.log.bounds().before_oldest < head || self.log.bounds().bytes < RING_BYTES - (1 << 10) {
            for _ in 0..BATCH {
                let room = self.log.budget().try_reserve(64).expect("the log is idle");
                let kind = EventKind::MessageReceived(Payload::Binary(vec![7; 64].into()));
                let event = Event { time: 1, connection: Arc::clone(&connection), labels: Labels::NONE, kind };
                self.log.submit(Entry::new(event, room));
            }
            self.commit();
        }
    }

    /// Has clients join, each with an id of 16 bytes, a batch to a commit.
    pub(crate) fn join(&self, into: &mut [Option<Registration>]) {
        for (batch, places) in into.chunks_mut(BATCH).enumerate() {
            let joining = |at: usize| {
                let newcomer = Newcomer {
                    client_id: Some(client_id(batch * BATCH + at)),
                    remote_address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000))),
                    subprotocol: "",
                };
                // Polled here and by no task that would have to give way.
                Box::pin(unconstrained(self.registry.join(newcomer)))
            };
            let mut joining: Vec<_> = (0..places.len()).map(joining).collect();
            let mut context = Context::from_waker(Waker::noop());
            for join in &mut joining {
                assert!(join.as_mut().poll(&mut context).is_pending(), "joined without a commit");
            }
            self.commit();
            for (mut join, place) in joining.into_iter().zip(places) {
                match join.as_mut().poll(&mut context) {
                    Poll::Ready(joined) => *place = Some(joined.expect("may join")),
                    Poll::Pending => unreachable!("it is committed"),
                }
            }
        }
    }
}

pub(crate) fn client_id(number: usize) -> ClientId {
    ClientId::named(&format!("client-{number:09}")).expect("a good id")
}

/// Whose drivers were woken since the last time.
#[derive(Default)]
pub(crate) struct Woken {
    indices: Mutex<Vec<u32>>,
    some: Notify,
}

impl Woken {
    fn indices(&self) -> MutexGuard<'_, Vec<u32>> {
        self.indices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.indices())
    }

    pub(crate) async fn some(&self) {
        self.some.notified().await;
    }
}

/// What a driver's task is to whoever wakes it.
struct Bell {
    woken: Arc<Woken>,
    index: u32,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.indices().push(self.index);
        self.woken.some.notify_one();
    }
}

/// Connections that have joined.
pub(crate) struct Crowd {
    pub(crate) world: World,
    pub(crate) registrations: Vec<Option<Registration>>,
    pub(crate) woken: Arc<Woken>,
    wakers: Vec<Waker>,
}

impl Crowd {
    /// Those who have joined, with drivers that can be woken.
    pub(crate) fn new(world: World, registrations: Vec<Option<Registration>>) -> Self {
        let woken = Arc::new(Woken::default());
        let bell = |index| Waker::from(Arc::new(Bell { woken: Arc::clone(&woken), index }));
        let wakers = (0..registrations.len() as u32).map(bell).collect();
        let crowd = Self { world, registrations, wakers, woken };
        (0..crowd.len() as u32).for_each(|index| _ = crowd.poll(index));
        crowd
    }

    /// What a driver does first when it is polled: it registers its waker, which a wake-up takes, and looks at its signals.
    fn poll(&self, index: u32) -> Option<(&Registration, u32)> {
        let registration = self.at(index)?;
        let connection = registration.connection();
        connection.register(&Context::from_waker(&self.wakers[index as usize]));
        Some((registration, connection.take_signals()))
    }

    pub(crate) fn len(&self) -> usize {
        self.registrations.len()
    }

    /// Whoever joined at this place and has not ended.
    pub(crate) fn at(&self, index: u32) -> Option<&Registration> {
        self.registrations.get(index as usize).and_then(Option::as_ref)
    }

    /// Does what drivers do that were woken. Whose client is asked for a beat is handed to `asked`. One that has been silent for its timeout is ended,
    /// and by how much later than that, in milliseconds, is answered.
    pub(crate) fn drive(&mut self, woken: &[u32], mut asked: impl FnMut(u32, &Registration)) -> Vec<f64> {
        let mut late = Vec::new();
        for index in woken {
            let Some((registration, signals)) = self.poll(*index) else { continue };
            let connection = registration.connection();
            if signals & signal::BEAT != 0 {
                asked(*index, registration);
            }
            if signals & signal::EXPIRE != 0 {
                let silence = self.world.registry.clock().now().saturating_sub(connection.silent_since());
                if silence >= u64::from(CADENCE.timeout) && registration.end(CloseReason::HeartbeatTimeout) {
                    late.push((silence - u64::from(CADENCE.timeout)) as f64);
                    self.registrations[*index as usize] = None;
                }
            }
        }
        late
    }
}

/// Keeps the compiler from leaving out what has no other use.
pub(crate) fn keep<T>(value: T) -> T {
    std::hint::black_box(value)
}

/// Numbers below `count` in no order, the same in every run.
pub(crate) fn shuffled(count: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count as u32).collect();
    fastrand::Rng::with_seed(7).shuffle(&mut order);
    order
}
