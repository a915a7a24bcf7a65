//! The journal as a log, on a real file system and on one that fails on command.

mod checkpoints;
mod failing;
mod kept;
mod recovery;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tempfile::TempDir;

use super::disk::faulty::{Faults, FaultyDisk};
use super::opens::Opens;
use super::*;
use crate::event::{Connected, ConnectionInfo, Liveness, Payload, Replaces};
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::log::contract::{self, Harness, ROOMY};
use crate::log::{Apply, FoldPart};

/// The largest payload in tests of the contract.
const PAYLOAD: usize = 64 << 10;

/// An applier whose fold can be copied, beside another applier.
pub(super) struct Folding<'a> {
    beside: Option<&'a dyn Apply>,
    state: &'a Mutex<(Opens, Offset)>,
}

impl Apply for Folding<'_> {
    fn apply(&self, batch: &[Arc<Record>]) {
        let mut state = self.state.lock().expect("not poisoned");
        for record in batch {
            state.0.apply(Record::clone(record));
            state.1 = record.offset;
        }
        drop(state);
        if let Some(beside) = self.beside {
            beside.apply(batch);
        }
    }
}

impl Checkpoint for Folding<'_> {
    fn parts(&self) -> usize {
        1
    }

    fn copy_part(&self, _: usize) -> FoldPart {
        let state = self.state.lock().expect("not poisoned");
        let connections = state.0.iter().map(|open| Record {
            offset: open.info.generation(),
            event: Event {
                time: open.info.connect_time,
                connection: Arc::clone(&open.info),
                labels: open.labels.clone(),
                kind: connected_kind(),
            },
        });
        FoldPart { exact_at: state.1, connections: connections.collect() }
    }
}

/// A journal in a directory of its own, committed by hand, with the fold that goes with it.
pub(super) struct Journal {
    pub(super) log: Arc<JournalLog>,
    fold: Mutex<(Opens, Offset)>,
    pub(super) faults: Arc<Faults>,
    pub(super) scratch: Arc<TempDir>,
}

/// Small segments, so that there are several.
pub(super) const SMALL: Retention = Retention { max_bytes: 1 << 20, max_age: None };

impl Journal {
    pub(super) fn new(retention: Retention, clock: Clock) -> Self {
        Self::at(Arc::new(tempfile::tempdir().expect("a directory")), retention, clock).expect("opened")
    }

    pub(super) fn at(scratch: Arc<TempDir>, retention: Retention, clock: Clock) -> Result<Self, OpenError> {
        let faults = Arc::new(Faults::default());
        let held = DataDir::open(scratch.path())?;
        let disk = Arc::new(FaultyDisk(Arc::clone(&faults)));
        let metrics = Arc::new(Metrics::default());
        let log = Arc::new(JournalLog::open_on(disk, held, retention, PAYLOAD, clock, metrics)?);
        let fold = Mutex::new((Opens::default(), *log.head.borrow()));
        Ok(Self { log, fold, faults, scratch })
    }

    /// As after a kill: nothing is written any more, and the directory is opened again.
    pub(super) fn crash(self) -> Result<Self, OpenError> {
        let Self { log, scratch, .. } = self;
        drop(log);
        Self::at(scratch, SMALL, Clock::default())
    }

    pub(super) fn fold<'a>(&'a self, beside: Option<&'a dyn Apply>) -> Folding<'a> {
        Folding { beside, state: &self.fold }
    }

    /// Commits everything submitted; the number of batches.
    pub(super) fn commit(&self) -> usize {
        let mut batches = 0;
        while self.log.commit(&self.fold(None)) {
            batches += 1;
        }
        batches
    }

    /// Ends it in order.
    pub(super) fn end(&self) {
        self.commit();
        self.log.end(&self.fold(None));
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.scratch.path().join("journal")
    }

    pub(super) fn format(&self) -> Format {
        let held = self.log.held.lock().expect("not poisoned");
        held.as_ref().expect("held").format().expect("read").expect("there")
    }

    /// Submits an event of a connection, and commits it.
    pub(super) fn log_one(&self, connection: &Arc<ConnectionInfo>, kind: EventKind) {
        self.submit(connection, kind);
        assert_eq!(self.commit(), 1);
    }

    pub(super) fn submit(&self, connection: &Arc<ConnectionInfo>, kind: EventKind) {
        let event = Event { time: 0, connection: Arc::clone(connection), labels: Labels::NONE, kind };
        self.log.submit(Entry::ending(event));
    }

    pub(super) fn connect(&self, client: &str) -> Arc<ConnectionInfo> {
        let connection = info(client);
        self.log_one(&connection, connected_kind());
        connection
    }

    /// Everything that can be read, as text.
    pub(super) async fn all(&self) -> Vec<String> {
        let (mut after, mut all) = (self.log.bounds().before_oldest, Vec::new());
        loop {
            let batch = self.log.read(after).await.expect("kept");
            let Some(last) = batch.last() else { return all };
            after = last.offset;
            all.extend(batch.iter().map(|record| told(record)));
        }
    }
}

/// What a subscriber would see of a record.
pub(super) fn told(record: &Record) -> String {
    let event = &record.event;
    let what = match &event.kind {
        EventKind::MessageReceived(payload) => {
            format!("{} bytes, {:08x}", payload.len(), crc32c::crc32c(payload.bytes()))
        }
        EventKind::Disconnected(end) => format!("{:?} {} {:?}", end.cause, end.code, end.stats.is_some()),
        kind => kind.tag().as_str().to_owned(),
    };
    let info = &event.connection;
    format!("{} {:?} {} {:?} {what}", record.offset, info.client_id, info.generation(), event.labels)
}

pub(super) fn info(client: &str) -> Arc<ConnectionInfo> {
    let id = ConnectionId::for_client(client, SystemTime::now());
    let client = ClientId::named(client).expect("a good id");
    Arc::new(ConnectionInfo::new(client, id, "node".into(), 1_000, None, ""))
}

pub(super) fn connected_kind() -> EventKind {
    let cadence = Cadence { interval: 30_000, timeout: 60_000 };
    EventKind::Connected(Connected { cadence, state: Liveness::Alive, replaces: Replaces::default() })
}

pub(super) fn text(bytes: usize) -> EventKind {
    EventKind::MessageReceived(Payload::Text("x".repeat(bytes).into()))
}

pub(super) fn left() -> EventKind {
    EventKind::Disconnected(Box::new(Disconnected {
        cause: crate::close::Cause::ClientClosed,
        code: 1000,
        reason: "".into(),
        connected_for: Duration::ZERO,
        stats: None,
        unacked: Unacked::default(),
    }))
}

/// The segment files, the oldest first.
pub(super) fn segments(directory: &Path) -> Vec<PathBuf> {
    files(directory, ".seg")
}

pub(super) fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(suffix));
    found.sort();
    found
}

impl Harness for Journal {
    fn open(retention: Retention, clock: Clock) -> Self {
        Self::new(retention, clock)
    }

    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log) as Arc<dyn Log>
    }

    fn commit_all(&self, applier: &dyn Apply) {
        while self.log.commit(&self.fold(Some(applier))) {}
    }
}

contract::suite!(Journal);
