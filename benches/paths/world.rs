//! A node without sockets and threads: registry, log, dispatch and drivers on one runtime, and clients whose wire is memory.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::{io, mem};

use heartwire::clock::Clock;
use heartwire::connection::{Admissions, ConnectionSettings, Handshaken, Host, Rates, ServerBeat};
use heartwire::dispatch::Dispatch;
use heartwire::heartbeat::Cadence;
use heartwire::ids::ClientId;
use heartwire::log::{MemoryLog, Retention};
use heartwire::metrics::Metrics;
use heartwire::outbox::OutboxLimits;
use heartwire::registry::{Duplicates, Registry, Settings};
use heartwire::ws::{Wire, WsSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::yield_now;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const MAX_MESSAGE: usize = 64 << 10;

/// The defaults, but for rates: a path says in a moment what a client says in hours.
pub const CADENCE: Cadence = Cadence { interval: 30_000, timeout: 60_000 };

/// A node whose log commits when it is told to.
pub struct World {
    pub registry: Arc<Registry>,
    pub log: Arc<MemoryLog>,
    pub metrics: Arc<Metrics>,
    pub dispatch: Dispatch,
    host: Arc<Host>,
    admissions: Admissions,
}

impl World {
    pub fn new() -> Self {
        Self::with(CADENCE, 1 << 20)
    }

    /// With other heartbeats, and a log of so many bytes.
    pub fn with(cadence: Cadence, log_bytes: usize) -> Self {
        let (clock, metrics) = (Clock::default(), Arc::new(Metrics::default()));
        let retention = Retention { max_bytes: log_bytes, max_age: None };
        let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let settings = Settings {
            node_id: "node-1".into(),
            cadence,
            quiet: false,
            duplicates: Duplicates::Replace,
            takeovers_per_minute: 5,
            outbox: OutboxLimits { frames: 1024, bytes: 1 << 20 },
        };
        let registry = Arc::new(Registry::new(log.clone(), clock.clone(), settings, Arc::clone(&metrics)));
        let dispatch = Dispatch::new(Arc::clone(&registry), Arc::clone(&metrics));
        let host = Arc::new(Host {
            registry: Arc::clone(&registry),
            settings: ConnectionSettings {
                identify_timeout: Duration::from_secs(10),
                resume_window: Duration::from_secs(30),
                write_timeout: Duration::from_secs(10),
                assign_ids: true,
                server_beat: ServerBeat::Auto,
                any_frame_counts: true,
                // Large, not off: what they cost is part of every path.
                rates: Rates { messages: 1_000_000, bytes: 1 << 40 },
                max_message: MAX_MESSAGE,
                uncommitted: 256 << 10,
                reconnect_jitter: Duration::from_secs(5),
            },
            metrics: Arc::clone(&metrics),
            sessions: Arc::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        });
        Self { registry, log, metrics, dispatch, host, admissions: Admissions::new(1 << 20, 0) }
    }

    /// Commits everything that was submitted; at least one event.
    pub fn commit(&self) {
        assert!(self.log.commit(&*self.registry), "nothing was submitted");
        while self.log.commit(&*self.registry) {}
    }

    /// A client that is connected and listed. From the end of its handshake on it is what a real one is.
    pub async fn connect(&self, id: &str) -> Client {
        let client = Client::default();
        let socket = WsSocket::new(MemoryWire(Arc::clone(&client.0)), &[], MAX_MESSAGE);
        let handshaken = Handshaken {
            client_id: Some(ClientId::named(id).expect("a good id")),
            remote_address: SocketAddr::new(ADDRESS, 40_000),
            reliable: false,
        };
        let entry = self.admissions.admit(ADDRESS, false).expect("a place");
        tokio::spawn(heartwire::connection::run(Arc::clone(&self.host), socket, handshaken, entry));
        yield_now().await;
        self.commit();
        // The joiner makes the driver, and the driver begins to read.
        client.until(Ends::is_read).await;
        client
    }

    pub async fn connect_many(&self, count: usize) -> Vec<Client> {
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            clients.push(self.connect(&name(number)).await);
        }
        clients
    }
}

/// Ids of 16 bytes, each in a shard of its own making.
pub fn name(number: usize) -> String {
    format!("client-{number:09}")
}

/// The client's end of a wire.
#[derive(Clone, Default)]
pub struct Client(Arc<Mutex<Ends>>);

/// Both ends of a wire.
#[derive(Default)]
pub struct Ends {
    /// On the way to the server, of which `read` bytes have arrived.
    inbound: Vec<u8>,
    read: usize,
    closed: bool,
    reader: Option<Waker>,
    /// Bytes that the server has written in all.
    pub written: usize,
}

impl Ends {
    /// Whether the server waits for more.
    pub fn is_read(&self) -> bool {
        self.read == self.inbound.len() && self.reader.is_some()
    }
}

impl Client {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, change: impl FnOnce(&mut Ends)) {
        let mut ends = self.ends();
        change(&mut ends);
        let waker = ends.reader.take();
        drop(ends);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Sends bytes.
    pub fn say(&self, bytes: &[u8]) {
        self.tell(|ends| ends.inbound.extend_from_slice(bytes));
    }

    /// Goes away with no Close.
    pub fn vanish(&self) {
        self.tell(|ends| ends.closed = true);
    }

    /// Lets the node run until something is true of the wire.
    pub async fn until(&self, is_so: impl Fn(&Ends) -> bool) {
        for _ in 0..100 {
            if is_so(&self.ends()) {
                return;
            }
            yield_now().await;
        }
        panic!("waited in vain");
    }

    /// Sends bytes and lets the node read them.
    pub async fn say_and_be_read(&self, bytes: &[u8]) {
        self.say(bytes);
        self.until(Ends::is_read).await;
    }

    /// How much the server has written to it, in bytes.
    pub fn written(&self) -> usize {
        self.ends().written
    }
}

/// The server's end of a wire; it behaves as a socket of tokio does that takes whatever is written.
struct MemoryWire(Arc<Mutex<Ends>>);

impl MemoryWire {
    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire for MemoryWire {}

impl AsyncRead for MemoryWire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut ends = self.ends();
        let waiting = &ends.inbound[ends.read..];
        let count = waiting.len().min(buffer.remaining());
        if count > 0 {
            buffer.put_slice(&waiting[..count]);
            ends.read += count;
            if ends.read == ends.inbound.len() {
                ends.read = 0;
                ends.inbound.clear();
            }
            return Poll::Ready(Ok(()));
        }
        if ends.closed {
            return Poll::Ready(Ok(()));
        }
        ends.reader = Some(context.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for MemoryWire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.ends().written += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for MemoryWire {
    fn drop(&mut self) {
        // Nobody waits for a socket that is gone.
        drop(mem::take(&mut self.ends().reader));
    }
}

/// A masked frame of at most 125 bytes, as a client sends it.
pub fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    assert!(payload.len() <= 125, "a short frame");
    let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [first_byte, 0x80 | payload.len() as u8].into_iter().chain(MASK).chain(masked).collect()
}
