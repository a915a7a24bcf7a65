//! How many events a second the log on disk commits, by how many share a sync, and how many syncs an event costs when it comes alone.
//!
//! `cargo bench --bench journal -- [directory] [rounds]`. It measures the disk that the directory is on; the system's directory for temporary
//! files is often memory. Nothing is asserted.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heartwire::clock::Clock;
use heartwire::event::{ConnectionInfo, Event, EventKind, Payload};
use heartwire::ids::{ClientId, ConnectionId};
use heartwire::labels::Labels;
use heartwire::log::journal::{DataDir, JournalLog};
use heartwire::log::{Entry, Log as _, Retention};
use heartwire::metrics::Metrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const BATCHES: [usize; 3] = [1, 64, 1_024];
const ROUND: Duration = Duration::from_secs(2);

/// A journal of its own.
struct Journal {
    log: Arc<JournalLog>,
    metrics: Arc<Metrics>,
    connection: Arc<ConnectionInfo>,
    path: PathBuf,
}

impl Journal {
    fn new(directory: &Path) -> Self {
        let path = directory.join(format!("heartwire-bench-{}-{:x}", std::process::id(), fastrand::u64(..)));
        let (retention, metrics) = (Retention { max_bytes: 1 << 30, max_age: None }, Arc::new(Metrics::default()));
        let held = DataDir::open(&path).expect("a directory that can be written to");
        let log = JournalLog::open(held, retention, 64 << 10, Clock::default(), Arc::clone(&metrics)).expect("opens");
        let id = ConnectionId::for_client("client-42", std::time::SystemTime::now());
        let client = ClientId::named("client-42").expect("a good id");
        let connection = Arc::new(ConnectionInfo::new(client, id, "node-1".into(), 0, None, ""));
        Self { log: Arc::new(log), metrics, connection, path }
    }

    /// About 120 bytes in the file, with the frame.
    fn event(&self) -> Event {
        let kind = EventKind::MessageReceived(Payload::Binary(vec![7; 36].into()));
        Event { time: 1, connection: Arc::clone(&self.connection), labels: Labels::NONE, kind }
    }

    fn submit(&self) {
        self.log.submit(Entry::ending(self.event()));
    }

    /// Events a second, with so many in each batch.
    fn rate(&self, batch: usize) -> f64 {
        let (begun, mut events) = (Instant::now(), 0usize);
        while begun.elapsed() < ROUND {
            for _ in 0..batch {
                self.submit();
            }
            assert!(self.log.commit(&()), "the log failed");
            events += batch;
        }
        events as f64 / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // It is ours, by its name.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn told(what: &str, values: &mut [f64]) -> f64 {
    let middle = median(values);
    println!("{what:<42} {middle:>12.0}  ({:.0} to {:.0})", values[0], values[values.len() - 1]);
    middle
}

/// Events a second through the running log, submitted as fast as there is room.
fn running(directory: &Path) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let journal = Journal::new(directory);
        let stop = CancellationToken::new();
        let run = tokio::spawn(Arc::clone(&journal.log).run(Arc::new(()), stop.clone()));
        let (mut head, first) = (journal.log.watch_head(), journal.log.bounds().head);
        let (begun, mut events) = (Instant::now(), 0i64);
        while begun.elapsed() < ROUND {
            for _ in 0..256 {
                let room = journal.log.budget().reserve(36).await;
                journal.log.submit(Entry::new(journal.event(), room));
                events += 1;
            }
        }
        head.wait_for(|head| *head == first + events).await.expect("committed");
        let rate = events as f64 / begun.elapsed().as_secs_f64();
        stop.cancel();
        run.await.expect("ends");
        rate
    })
}

fn main() {
    // cargo passes `--bench` first.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(5);
    println!("{} rounds of {ROUND:?} in {}; medians, with least and most", rounds, directory.display());
    let mut rates = vec![Vec::new(); BATCHES.len() + 1];
    for _ in 0..rounds.max(1) {
        for (batch, rates) in BATCHES.iter().zip(&mut rates) {
            rates.push(Journal::new(&directory).rate(*batch));
        }
        rates[BATCHES.len()].push(running(&directory));
    }
    let mut medians = Vec::new();
    for (batch, rates) in BATCHES.iter().zip(&mut rates) {
        medians.push(told(&format!("events/s, {batch} a sync"), rates));
    }
    told("events/s, through the running log", &mut rates[BATCHES.len()]);
    for (batch, rate) in BATCHES.iter().zip(&medians).skip(1) {
        println!("{:<42} {:>12.1}", format!("{batch} a sync, against one"), rate / medians[0]);
    }
    let journal = Journal::new(&directory);
    // The first begins a segment.
    journal.submit();
    journal.log.commit(&());
    let before = journal.metrics.journal_syncs.get();
    for _ in 0..100 {
        journal.submit();
        journal.log.commit(&());
    }
    let syncs = (journal.metrics.journal_syncs.get() - before) as f64 / 100.0;
    println!("{:<42} {syncs:>12.2}", "syncs an event, alone");
}
