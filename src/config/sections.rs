//! The sections of the configuration: each key with its unit, range, default and where the number comes from.
//!
//! Ranges are enforced by `validate.rs`; a type here only says what can be written at all.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::address::{self, ListenAddress};
use super::byte_size::ByteSize;
use super::choices::{AnonymousPolicy, DuplicatePolicy, LogFormat, ProofOfLife, ServerHeartbeat};
use super::duration;

/// `[ws]`: the listener that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WsConfig {
    /// IP address and port; port 0 picks a free one. Default `0.0.0.0:8181`: clients come from anywhere, and 8181 is
    /// the port of the service that Heartwire follows.
    #[serde(with = "address::socket_address")]
    pub listen: SocketAddr,
    /// Connections at once, 1 to 10,000,000. Beyond it a handshake is answered 503. Default 65,536: one descriptor
    /// each within what common systems let a process raise its limit to.
    pub max_connections: usize,
    /// Greatest message from a client, 1 B to 3 MiB; what is sent to clients is bounded by `limits.outbox_bytes`. A
    /// greater one closes the connection with 1009 before anything is allocated for it. Default 64 KiB: it bounds what one client costs, and heartbeats and chat fit. At
    /// most 3 MiB, because Go, Java, Python and tonic gRPC clients refuse by default what is over 4 MiB, and an event
    /// carries more than its message.
    pub max_message: ByteSize,
    /// Time for a handshake to be finished, 1 ms to 10 min. Default 5 s: several round trips over a bad mobile link,
    /// and short enough that half-open sockets do not pile up.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
    /// Time from the handshake to the first data frame, 1 ms to 10 min, for a client not yet named; then closed 4411.
    /// Default 10 s: clients name themselves at once or not at all.
    #[serde(with = "duration")]
    pub identify_timeout: Duration,
    /// Time for one write to a client, 1 ms to 10 min; one that takes longer closes it with 4413. Default 10 s: over
    /// several TCP retransmissions, so only a peer that stopped reading gets there.
    #[serde(with = "duration")]
    pub write_timeout: Duration,
    /// Time that a client of the subprotocol `heartwire.v1.json` whose socket is lost has to resume on another, 0 s to
    /// 10 min; then it is GONE. 0 = no resuming. Default 30 s: a tunnel, a change of networks, a laptop's lid.
    #[serde(with = "duration")]
    pub resume_window: Duration,
    /// Handshakes under way at once, 1 to 1,000,000; beyond it sockets wait: accepted, 16,384 at most and
    /// no more than there are places for, and then in the kernel's queue. Default 512: a reconnect storm is admitted in
    /// slices that the processor can carry.
    pub max_handshakes: usize,
    /// `Origin` header values let in, compared exactly; others are answered 403. Each is `scheme://host[:port]`
    /// or `null`. Default empty = any origin, since clients that are not browsers send none that means anything.
    pub allowed_origins: Vec<String>,
    /// Connections at once from one IP address, 0 = off; beyond it 429. Default 0: behind an ingress everyone has
    /// one address.
    pub max_connections_per_address: usize,
    /// File with the certificate that clients are shown, in PEM, and behind it those that lead to its root; "" = no TLS
    /// (`ws://`), and only with `tls_key`. With it clients must speak TLS 1.2 or 1.3 (`wss://`). It is read again at SIGHUP and
    /// within a minute after it changed. Default "": most run behind a proxy that ends TLS.
    pub tls_certificate: PathBuf,
    /// File with the private key of `tls_certificate`, in PEM (PKCS #8, PKCS #1 or SEC 1); "" = no TLS. Default "".
    pub tls_key: PathBuf,
}

impl WsConfig {
    /// The files of the certificate and its key; none where TLS is not spoken.
    #[must_use]
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        let off = self.tls_certificate.as_os_str().is_empty() || self.tls_key.as_os_str().is_empty();
        (!off).then_some((&self.tls_certificate, &self.tls_key))
    }
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8181)),
            max_connections: 65_536,
            max_message: ByteSize::kib(64),
            handshake_timeout: Duration::from_secs(5),
            identify_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            resume_window: Duration::from_secs(30),
            max_handshakes: 512,
            allowed_origins: Vec::new(),
            max_connections_per_address: 0,
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

/// `[identity]`: how a connection gets its client id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Name of the query parameter that carries the client id, of letters, digits, `-`, `.`, `_` and `~`; "" = off.
    /// Default `client_id`: a browser's script can set no header.
    pub query_parameter: String,
    /// Name of the request header that carries the client id; "" = off. A client can send any header, so a trusted
    /// proxy in front must set or remove this one. Default off.
    pub header: String,
    /// What happens to a connection whose first data frame names nobody. Default `assign`: a bare `heartbeat` works.
    pub anonymous: AnonymousPolicy,
    /// What happens when a client id connects again while it is connected. Default `replace`: after a lost link the
    /// newer connection is the one that lives.
    pub duplicates: DuplicatePolicy,
    /// Takeovers of one client id in a minute, 0 = unlimited; beyond it the newcomer is closed 4429. Default 5: more
    /// than a roaming device needs, fewer than two clients fighting for one id make.
    pub takeovers_per_minute: u64,
    /// Whether clients that name themselves, with nobody checking, may have mailboxes. Default false: whoever takes an
    /// id gets the mail that is stored for it.
    pub trust_self_named: bool,
    /// Connections of one client id at once where `duplicates` is `allow`, 2 to 1,024; beyond it the newcomer is closed
    /// 4410. Otherwise unused. Default 16: more than one person's devices and tabs, and a leak is soon noticed.
    pub max_connections_per_client: usize,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            query_parameter: "client_id".to_owned(),
            header: String::new(),
            anonymous: AnonymousPolicy::default(),
            duplicates: DuplicatePolicy::default(),
            takeovers_per_minute: 5,
            trust_self_named: false,
            max_connections_per_client: 16,
        }
    }
}

/// `[heartbeat]`: how clients prove themselves alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeartbeatConfig {
    /// Time between heartbeats, the server's own and those expected, 100 ms to 1 h. A client silent for 1.5 of it is
    /// SUSPECT. Default 30 s: under the idle timeouts of common proxies (60 s), and the original service's interval.
    #[serde(with = "duration")]
    pub interval: Duration,
    /// Silence after which a client is GONE and closed 4408: longer than the interval, at most 24 h. Default 60 s:
    /// two intervals, so that one lost heartbeat drops nobody; the original service's timeout. With less than 1.5
    /// intervals a client goes straight to GONE and is never SUSPECT.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// What the server sends each interval. Default `auto`: a Ping, and text too for clients that speak text.
    pub server: ServerHeartbeat,
    /// What counts as a client's heartbeat. Default `any_frame`: a throttled browser tab still answers Pings.
    pub counts: ProofOfLife,
}

impl Default for HeartbeatConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            server: ServerHeartbeat::default(),
            counts: ProofOfLife::default(),
        }
    }
}

/// `[limits]`: what one connection may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Messages a second from one connection, 0 = unlimited; over it for long closes 4429. Default 100: far over a
    /// person's typing, and one client cannot evict everyone's history from the log.
    pub messages_per_second: u64,
    /// Bytes of messages a second from one connection, 0 = unlimited; over it for long closes 4429. May be less than
    /// `ws.max_message`: the burst allows for one whole message. Default 256 KiB, for the same reason.
    pub bytes_per_second: ByteSize,
    /// Frames waiting to be written to one connection, 1 to 1,000,000; when full, sends to it are refused. Default
    /// 1,024: some seconds of a busy feed.
    pub outbox_frames: usize,
    /// Bytes waiting to be written to one connection, 1 KiB to 1 GiB; when full, sends to it are refused. Default
    /// 1 MiB: what a reader that never reads may cost.
    pub outbox_bytes: ByteSize,
    /// Bytes of one connection's messages that may wait for the log before reading from it stops and TCP pushes
    /// back, 1 B to 1 GiB. One message is always let through. Default 256 KiB: a second at `bytes_per_second`.
    pub uncommitted_bytes: ByteSize,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            messages_per_second: 100,
            bytes_per_second: ByteSize::kib(256),
            outbox_frames: 1024,
            outbox_bytes: ByteSize::mib(1),
            uncommitted_bytes: ByteSize::kib(256),
        }
    }
}

/// `[mailbox]`: what may be stored for clients. A message counts with its payload, its id and 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MailboxConfig {
    /// Messages stored for one client id, 1 to 100,000; when full, sends with a `ttl` are refused. Default 1,000: a
    /// day away from a chatty backend.
    pub max_messages: usize,
    /// Bytes stored for one client id, 1 KiB to 1 GiB; likewise. Default 1 MiB: what an outbox takes.
    pub max_bytes: ByteSize,
    /// Bytes stored in all, 1 KiB to 1 TiB and at least `max_bytes`; likewise. Without `log.data_dir` this is memory.
    /// Default 64 MiB: what the log may take, in the memory of a small container.
    pub max_total_bytes: ByteSize,
}

impl Default for MailboxConfig {
    fn default() -> Self {
        Self { max_messages: 1_000, max_bytes: ByteSize::mib(1), max_total_bytes: ByteSize::mib(64) }
    }
}

/// `[log]`: how much of the log is kept for backends to resume from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Directory for the log and for what else must outlive the process; "" = none, everything is kept in memory and
    /// a restart begins a new epoch. It is made if it is not there, and only one process can have it. Default "".
    pub data_dir: PathBuf,
    /// Bytes of events kept, at least 256 KiB and at least `ws.max_message`; the oldest go first. Default 64 MiB: about
    /// half a million events of 120 bytes, in the memory of a small container; 1 GiB where `data_dir` is set. The directory may take more for a while: besides
    /// events it has up to three checkpoints of who is connected, and what is forgotten stays until the next of them is
    /// written.
    pub max_bytes: ByteSize,
    /// Age at which events go even when there is room, at least 1 s; `None` (unset, or "") = only `max_bytes` decides.
    /// Default unset; 7 d where `data_dir` is set.
    #[serde(with = "duration::optional")]
    pub max_age: Option<Duration>,
}

impl LogConfig {
    /// What other keys of the section are by default where `data_dir` is set.
    pub(super) const ON_DISK: [(&str, &str); 2] = [("max_bytes", "1GiB"), ("max_age", "7d")];
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { data_dir: PathBuf::new(), max_bytes: ByteSize::mib(64), max_age: None }
    }
}

/// `[grpc]`: the listener that backends connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// IP address and port, or `unix:/absolute/path`. Default `127.0.0.1:50051`: whoever reaches it can send to and
    /// disconnect every client, and 50051 is gRPC's customary port.
    pub listen: ListenAddress,
    /// Lets `listen` be other than loopback or a Unix socket. Default false: this release has neither TLS nor tokens,
    /// so that is a choice to make by name.
    pub insecure: bool,
    /// Open `Subscribe` streams, 1 to 1,000,000; beyond it RESOURCE_EXHAUSTED. Default 1,000: a subscriber costs at
    /// most a batch of memory.
    pub max_subscribers: usize,
    /// Snapshots under way at once, 1 to 1,000; others wait. Default 16: each holds a copy of one shard.
    pub max_snapshots: usize,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            listen: ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 50051))),
            insecure: false,
            max_subscribers: 1000,
            max_snapshots: 16,
        }
    }
}

/// `[admin]`: the listener for health and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// IP address and port. Default `127.0.0.1:8182`: it asks nobody who they are.
    #[serde(with = "address::socket_address")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8182)) }
    }
}

/// `[shutdown]`: how the process stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownConfig {
    /// Whole time from SIGTERM to exit, 1 s to 10 min. Default 25 s: Kubernetes kills after 30 s.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// Connections closed a second while draining; 0 = as fast as needed; a shutdown goes faster than this where its
    /// deadline demands it. Default 0: the closes are spread over a part of the deadline, however many there are.
    pub close_rate: u64,
    /// Clients are told to come back after a random time up to this, 0 s to 10 min. Default 5 s: a restart does not
    /// bring everyone back in one instant.
    #[serde(with = "duration")]
    pub reconnect_jitter: Duration,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(25), close_rate: 0, reconnect_jitter: Duration::from_secs(5) }
    }
}

/// `[telemetry]`: what the process writes about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// A `tracing` filter: a level, or directives such as `info,heartwire::ws=debug`. Default `info`: a line for what
    /// an operator should know, none for each client.
    pub log: String,
    /// How log lines are written. Default `text`.
    pub format: LogFormat,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { log: "info".to_owned(), format: LogFormat::default() }
    }
}

/// `[node]`: who this process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of this node in events and metrics, 1 to 64 visible ASCII characters; "" = the host name, or `heartwire`
    /// where there is none. Default "".
    pub id: String,
}
