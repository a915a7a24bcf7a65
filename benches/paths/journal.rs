//! The log on disk: what it does for an event, without the kernel's part.

use std::sync::Arc;

use heartwire::clock::Clock;
use heartwire::event::{ConnectionInfo, Event, EventKind, Payload};
use heartwire::ids::{ClientId, ConnectionId};
use heartwire::labels::Labels;
use heartwire::log::journal::{DataDir, JournalLog};
use heartwire::log::{Entry, Log as _, Retention};
use heartwire::metrics::Metrics;

const BATCH: usize = 64;

pub fn commit(times: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let held = DataDir::open(&directory.path().join("data")).expect("can be written to");
    let retention = Retention { max_bytes: 64 << 20, max_age: None };
    let log =
        JournalLog::open(held, retention, 64 << 10, Clock::default(), Arc::new(Metrics::default())).expect("opens");
    let id = ConnectionId::for_client("client-000000042", std::time::SystemTime::now());
    let client = ClientId::named("client-000000042").expect("a good id");
    let connection = Arc::new(ConnectionInfo::new(client, id, "node-1".into(), 0, None, ""));
    for _ in 0..times / BATCH {
        for _ in 0..BATCH {
            let kind = EventKind::MessageReceived(Payload::Binary(vec![7; 64].into()));
            let event = Event { time: 1, connection: Arc::clone(&connection), labels: Labels::NONE, kind };
            log.submit(Entry::ending(event));
        }
        assert!(log.commit(&()), "the log failed");
    }
}
