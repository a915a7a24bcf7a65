//! One point of the measurement: a node with so many connections at rest, and what the heap holds then.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use heartwire::app::{Addresses, App, Listeners};
use heartwire::clock::Clock;
use heartwire::config::{Config, ListenAddress};
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use crate::crowd::{Server, listed};
use crate::kind::Kind;

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
pub fn hold(kind: &str, connections: &str, file: &Path) -> Result<(), String> {
    let kind = Kind::named(kind).ok_or("which kind?")?;
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
        let (app, tls) = node(kind).await?;
        let Addresses { ws, admin, .. } = app.addresses().clone();
        let server = Server { kind, address: ws, tls };
        let clients = tokio::task::spawn_blocking(move || fill(&server, admin, connections)).await;
        let clients = clients.map_err(|error| error.to_string())??;
        Ok::<_, String>((app, clients))
    });
    // What is on the heap now is what is written; then everything goes at once.
    drop(profiler);
    outcome.map(drop)
}

/// A node, and whom its clients are to trust if they speak TLS.
async fn node(kind: Kind) -> Result<(App, Option<Arc<ClientConfig>>), String> {
    let mut config = Config::default();
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    config.ws.listen = free;
    config.grpc.listen = ListenAddress::Tcp(free);
    config.admin.listen = free;
    config.log.max_bytes = LOG_BYTES.parse().map_err(|error| format!("{LOG_BYTES}: {error}"))?;
    // Nobody is beaten or silent while it runs.
    config.heartbeat.interval = Duration::from_secs(3_600);
    config.heartbeat.timeout = Duration::from_secs(86_400);
    let certificate = match kind {
        Kind::Tls => Some(Certificate::made()?),
        Kind::Plain | Kind::Session => None,
    };
    if let Some(certificate) = &certificate {
        (config.ws.tls_certificate, config.ws.tls_key) = certificate.files();
    }
    let listeners = Listeners::bind(&config).await.map_err(|error| error.to_string())?;
    let app = App::start(config, listeners, Clock::default()).map_err(|error| error.to_string())?;
    Ok((app, certificate.map(|certificate| certificate.client).transpose()?))
}

/// A certificate that signs itself.
struct Certificate {
    directory: TempDir,
    client: Result<Arc<ClientConfig>, String>,
}

impl Certificate {
    fn made() -> Result<Self, String> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(|error| error.to_string())?;
        let directory = TempDir::new().map_err(|error| error.to_string())?;
        let certificate = Self { directory, client: client(made.cert.der().clone()) };
        let (chain, key) = certificate.files();
        let written =
            std::fs::write(chain, made.cert.pem()).and_then(|()| std::fs::write(key, made.signing_key.serialize_pem()));
        written.map_err(|error| error.to_string())?;
        Ok(certificate)
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        (self.directory.path().join("certificate.pem"), self.directory.path().join("key.pem"))
    }
}

/// Clients that trust this certificate, and know no ticket of an earlier session.
fn client(trusted: CertificateDer<'static>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).map_err(|error| error.to_string())?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects them and waits until they are listed and nothing moves any more.
fn fill(server: &Server, admin: SocketAddr, connections: usize) -> Result<Vec<std::net::TcpStream>, String> {
    server.fill_log(256 << 10)?;
    let clients = server.crowd(connections)?;
    let begun = Instant::now();
    while listed(admin)? != connections {
        if begun.elapsed() > PATIENCE {
            return Err(format!("{} of {connections} connections are listed", listed(admin)?));
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
