//! One point of the measurement: a node with so many connections at rest, and what the heap holds then.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use heartwire::app::{Addresses, App, Listeners};
use heartwire::clock::Clock;
use heartwire::config::{Config, ListenAddress};
use tokio::time::Instant;

use crate::crowd;

/// The least that a log may keep: what it keeps is not what is measured.
const LOG_BYTES: &str = "256KiB";

/// How many frames of each allocation are noted: enough to get out of tokio and hyper to a line of our own.
const FRAMES: usize = 48;

/// Longer than anything takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(120);

/// Holds so many connections and writes what the heap holds to `file`.
///
/// # Errors
/// If they cannot be had.
pub fn hold(connections: &str, file: &Path) -> Result<(), String> {
    let connections: usize = connections.parse().map_err(|_| "how many connections?".to_owned())?;
    // Both ends of each are in this process.
    let needed = connections as u64 * 2 + 200;
    let limit = rlimit::increase_nofile_limit(needed).map_err(|error| error.to_string())?;
    if limit < needed {
        return Err(format!("{needed} descriptors are needed, and {limit} are to be had (`ulimit -Hn`)"));
    }
    let profiler = dhat::Profiler::builder().file_name(file).trim_backtraces(Some(FRAMES)).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let outcome = runtime.block_on(async {
        let app = node().await?;
        let addresses = app.addresses().clone();
        let clients = tokio::task::spawn_blocking(move || fill(&addresses, connections)).await;
        let clients = clients.map_err(|error| error.to_string())??;
        Ok::<_, String>((app, clients))
    });
    // What is on the heap now is what is written; then everything goes at once.
    drop(profiler);
    outcome.map(drop)
}

async fn node() -> Result<App, String> {
    let mut config = Config::default();
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    config.ws.listen = free;
    config.grpc.listen = ListenAddress::Tcp(free);
    config.admin.listen = free;
    config.log.max_bytes = LOG_BYTES.parse().map_err(|error| format!("{LOG_BYTES}: {error}"))?;
    // Nobody is beaten or silent while it runs.
    config.heartbeat.interval = Duration::from_secs(3_600);
    config.heartbeat.timeout = Duration::from_secs(86_400);
    let listeners = Listeners::bind(&config).await.map_err(|error| error.to_string())?;
    App::start(config, listeners, Clock::default()).map_err(|error| error.to_string())
}

/// Connects them and waits until they are listed and nothing moves any more.
fn fill(addresses: &Addresses, connections: usize) -> Result<Vec<std::net::TcpStream>, String> {
    crowd::fill_log(addresses.ws, 256 << 10)?;
    let clients = crowd::crowd(addresses.ws, connections)?;
    let begun = Instant::now();
    while crowd::listed(addresses.admin)? != connections {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} of {connections} connections are listed", crowd::listed(addresses.admin)?));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let blocks = || dhat::HeapStats::get().curr_blocks;
    let mut before = usize::MAX;
    while before != blocks() {
        if begun.elapsed() > PATIENCE {
            return Err("the heap does not come to rest".to_owned());
        }
        before = blocks();
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(clients)
}
