//! The log in memory: committed means in the ring. It dies with the process, and the next one is a new epoch.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::queue::SubmitQueue;
use super::ring::Ring;
use super::{Apply, Bounds, BoxFuture, Budget, Entry, Log, LogHealth, ReadError};
use crate::clock::Clock;
use crate::event::{EventKind, Record};
use crate::metrics::Metrics;
use crate::position::{Epoch, Offset};

/// The bytes of events that may wait to be committed.
const QUEUE_BYTES: usize = 32 << 20;

/// The most events committed at once, so that readers and the fold take turns.
const COMMIT_RECORDS: usize = 512;

/// How much a log keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// At most so many bytes.
    pub max_bytes: usize,
    /// Nothing older than this.
    pub max_age: Option<Duration>,
}

/// A log that is a ring in memory.
pub struct MemoryLog {
    epoch: Epoch,
    queue: SubmitQueue,
    budget: Budget,
    ring: Mutex<Ring>,
    head: watch::Sender<Offset>,
    max_age: Option<Duration>,
    /// A batch holds no more bytes, so that one cannot evict what a prompt reader has not been shown yet.
    commit_bytes: usize,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl MemoryLog {
    /// A new epoch. Its first offset is the Unix time in nanoseconds, so that generations rise from run to run.
    #[must_use]
    pub fn new(retention: Retention, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let last = clock.wall_nanos() - 1;
        Self {
            epoch: Epoch::random(),
            queue: SubmitQueue::default(),
            budget: Budget::new(QUEUE_BYTES),
            ring: Mutex::new(Ring::new(last, retention.max_bytes)),
            head: watch::Sender::new(last),
            max_age: retention.max_age,
            commit_bytes: retention.max_bytes / 4,
            clock,
            metrics,
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what is submitted until `stop`, then what is left, and returns.
    pub async fn run(&self, applier: &dyn Apply, stop: CancellationToken) {
        loop {
            while self.commit(applier) {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                () = self.queue.filled() => {}
                () = stop.cancelled() => break,
            }
        }
        while self.commit(applier) {}
    }

    /// Commits one batch: orders it, keeps it, has it applied, and lets readers see it. False if nothing was submitted.
    pub fn commit(&self, applier: &dyn Apply) -> bool {
        let entries = self.queue.take(COMMIT_RECORDS, self.commit_bytes, |event| event.kind.varying_len());
        if entries.is_empty() {
            return false;
        }
        let mut offset = self.ring().last();
        let mut records = Vec::with_capacity(entries.len());
        let mut waiting = Vec::new();
        // Read once: all of the batch is committed at the same moment.
        let now = Instant::now();
        for entry in entries {
            offset += 1;
            if let EventKind::Connected(_) = entry.event.kind {
                entry.event.connection.set_generation(offset);
            }
            if let Some(waiter) = entry.committed {
                waiting.push((waiter, offset));
            }
            let took = now.saturating_duration_since(entry.submitted);
            self.metrics.commit_seconds.observe(took.as_secs_f64());
            self.metrics.events.of(entry.event.kind.tag()).inc();
            records.push(Arc::new(Record { offset, event: entry.event }));
        }
        self.ring().push(&records);
        applier.apply(&records);
        self.head.send_if_modified(|head| {
            *head = offset;
            // Telling nobody costs as much as telling somebody. Who begins to watch meanwhile waits for this to be over and finds the head moved.
            self.head.receiver_count() > 0
        });
        for (waiter, offset) in waiting {
            // Whoever asked may have given up; the event stands.
            let _ = waiter.send(offset);
        }
        true
    }
}

impl Log for MemoryLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn bounds(&self) -> Bounds {
        let head = *self.head.borrow();
        let ring = self.ring();
        Bounds {
            before_oldest: ring.before_oldest(),
            head,
            committed: ring.last(),
            oldest_time: ring.oldest_time(),
            records: ring.len(),
            bytes: ring.bytes(),
        }
    }

    fn head(&self) -> Offset {
        *self.head.borrow()
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn submit(&self, entry: Entry) {
        self.queue.push(entry);
    }

    fn submit_pair(&self, first: Entry, second: Entry) {
        self.queue.push_pair(first, second);
    }

    fn read(&self, after: Offset) -> BoxFuture<'_, Result<Vec<Arc<Record>>, ReadError>> {
        let head = *self.head.borrow();
        let records = self.ring().read(after, head);
        Box::pin(std::future::ready(records))
    }

    fn watch_head(&self) -> watch::Receiver<Offset> {
        self.head.subscribe()
    }

    fn watch_health(&self) -> watch::Receiver<LogHealth> {
        // Memory does not fail; a receiver keeps the value after its sender is gone.
        watch::Sender::new(LogHealth::Committing).subscribe()
    }

    fn retain(&self) {
        if let Some(max_age) = self.max_age {
            let age = i64::try_from(max_age.as_nanos()).unwrap_or(i64::MAX);
            self.ring().forget_before(self.clock.wall_nanos().saturating_sub(age));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::contract::{self, Harness};

    struct Memory {
        log: Arc<MemoryLog>,
    }

    impl Harness for Memory {
        fn open(retention: Retention, clock: Clock) -> Self {
            Self { log: Arc::new(MemoryLog::new(retention, clock, Arc::new(Metrics::default()))) }
        }

        fn log(&self) -> Arc<dyn Log> {
            Arc::clone(&self.log) as Arc<dyn Log>
        }

        fn commit_all(&self, applier: &dyn Apply) {
            while self.log.commit(applier) {}
        }
    }

    contract::suite!(Memory);

    #[tokio::test]
    async fn run_commits_what_is_left_when_it_is_told_to_stop() {
        let memory = Memory::open(contract::ROOMY, Clock::default());
        let applied = contract::Applied::default();
        for i in 0..1_000 {
            memory.log.submit(contract::connected(memory.log.budget(), &format!("c{i}")));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        memory.log.run(&applied, stop).await;
        assert_eq!(applied.offsets().len(), 1_000);
        assert!(memory.log.budget().is_whole());
    }
}
