//! The drain: a one-way state in which nobody joins and those who are here are closed at a pace, each with a hint when to come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock::Millis;
use crate::close::CloseReason;
use crate::registry::{Connection, Registry, signal};

/// How often connections are closed while draining; the pace is spread over these beats.
const BEAT: Duration = Duration::from_millis(20);

/// A default pace closes no fewer than this a second: below it there is no storm to spread.
const LEAST_PER_SECOND: u64 = 500;

/// How fast connections are closed and when their clients are told to come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Connections closed a second.
    pub per_second: u64,
    /// Each client is told to wait a random time up to this.
    pub reconnect_jitter: Duration,
}

impl Pace {
    /// A pace that closes so many connections within `span`, and small numbers at once.
    #[must_use]
    pub fn within(span: Duration, connections: usize, reconnect_jitter: Duration) -> Self {
        Self::at_least(LEAST_PER_SECOND, span, connections, reconnect_jitter)
    }

    /// A pace of `per_second`, or faster if so many connections would not be closed within `span` otherwise.
    #[must_use]
    pub fn at_least(per_second: u64, span: Duration, connections: usize, reconnect_jitter: Duration) -> Self {
        let needed = connections as f64 / span.as_secs_f64().max(0.001);
        Self { per_second: (needed.ceil() as u64).max(per_second), reconnect_jitter }
    }
}

/// How far a drain is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Connections not yet GONE.
    pub remaining: u64,
    /// Connections GONE since the drain began.
    pub closed: u64,
    /// Whether every connection that was here is GONE.
    pub done: bool,
}

/// The drain of one node.
pub struct Drain {
    registry: Arc<Registry>,
    begun: AtomicBool,
    /// Cancelled as soon as a drain begins: the node is not ready any more and accepts nobody.
    begin: CancellationToken,
    per_second: AtomicU64,
    progress: watch::Sender<Progress>,
}

impl Drain {
    /// Of the connections in `registry`.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Arc<Self> {
        Arc::new(Self {
            registry,
            begun: AtomicBool::new(false),
            begin: CancellationToken::new(),
            per_second: AtomicU64::new(0),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// Cancelled as soon as a drain begins.
    #[must_use]
    pub fn begun(&self) -> CancellationToken {
        self.begin.clone()
    }

    /// How far it is; changes until it is done.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Begins the drain, in a task of its own. If one has begun already it is only hastened, never slowed.
    pub fn begin(self: &Arc<Self>, pace: Pace) {
        self.per_second.fetch_max(pace.per_second.max(1), Ordering::AcqRel);
        if self.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        let connections = self.registry.begin_drain();
        self.progress.send_replace(Progress { remaining: connections.len() as u64, ..Progress::default() });
        self.begin.cancel();
        tracing::info!(connections = connections.len(), per_second = pace.per_second, "draining");
        let drain = Arc::clone(self);
        tokio::spawn(async move { drain.run(connections, pace.reconnect_jitter).await });
    }

    async fn run(&self, connections: Vec<Arc<Connection>>, jitter: Duration) {
        let jitter = jitter.as_millis() as Millis;
        // Those without a socket make no storm, and there is nothing to be told them.
        for connection in connections.iter().filter(|connection| connection.has(signal::DETACHED)) {
            self.registry.end(connection, CloseReason::Restart { reconnect_after: 0 });
        }
        let mut beats = tokio::time::interval(BEAT);
        let (mut closed, mut due) = (0, 0.0);
        while closed < connections.len() {
            beats.tick().await;
            due += self.per_second.load(Ordering::Acquire) as f64 * BEAT.as_secs_f64();
            let next = connections[closed..].iter().take((due as usize).saturating_sub(closed));
            for connection in next {
                let reconnect_after = fastrand::u64(0..=jitter);
                self.registry.end(connection, CloseReason::Restart { reconnect_after });
                closed += 1;
            }
            self.report(&connections);
        }
        let mut head = self.registry.log().watch_head();
        while !self.report(&connections) {
            if head.changed().await.is_err() {
                return;
            }
        }
    }

    fn report(&self, connections: &[Arc<Connection>]) -> bool {
        let head = self.registry.log().head();
        let gone = |connection: &&Arc<Connection>| connection.ended_at().is_some_and(|offset| offset <= head);
        let closed = connections.iter().filter(gone).count();
        let done = closed == connections.len();
        let progress = Progress { remaining: (connections.len() - closed) as u64, closed: closed as u64, done };
        self.progress.send_if_modified(|now| {
            let changed = *now != progress;
            *now = progress;
            changed
        });
        done
    }
}
