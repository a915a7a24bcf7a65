//! Events: the entries of the log, and what each of them says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::UnixNanos;
use crate::close::Cause;
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::labels::Labels;
use crate::position::Offset;

/// The log offset of a connection's `Connected`: a fencing token. Compared only within one client id, where the later connection has the greater.
pub type Generation = i64;

/// The subprotocol with numbered messages, acknowledgements and sessions that outlive their sockets.
pub const RELIABLE: &str = "heartwire.v1.json";

/// What never changes in a connection's life. One copy, shared by its events, its entry in the fold and its task.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// The name a backend knows the client by.
    pub client_id: ClientId,
    /// This connection's own id; [`ConnectionId::NONE`] on an event that has no connection.
    pub connection_id: ConnectionId,
    /// The node that holds the socket.
    pub node_id: Arc<str>,
    /// When the handshake was done.
    pub connect_time: UnixNanos,
    /// The other end of the TCP connection.
    pub remote_address: Option<SocketAddr>,
    /// The WebSocket subprotocol agreed on; empty for the plain protocol.
    pub subprotocol: &'static str,
    generation: AtomicI64,
}

impl ConnectionInfo {
    /// A connection that is not yet in the log.
    #[must_use]
    pub fn new(
        client_id: ClientId,
        connection_id: ConnectionId,
        node_id: Arc<str>,
        connect_time: UnixNanos,
        remote_address: Option<SocketAddr>,
        subprotocol: &'static str,
    ) -> Self {
        Self {
            client_id,
            connection_id,
            node_id,
            connect_time,
            remote_address,
            subprotocol,
            generation: AtomicI64::new(0),
        }
    }

    /// What stands in for a connection on an event that has none, such as the expiry of a stored message.
    #[must_use]
    pub fn absent(client_id: ClientId, node_id: Arc<str>) -> Self {
        Self::new(client_id, ConnectionId::NONE, node_id, 0, None, "")
    }

    /// The generation; 0 while the log has not given its `Connected` an offset.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation.load(Ordering::Acquire)
    }

    /// Called by the log, once, when it gives the `Connected` its offset; later events of the connection, which may have been
    /// submitted before, thereby know it.
    pub fn set_generation(&self, generation: Generation) {
        self.generation.store(generation, Ordering::Release);
    }
}

/// One entry of the log.
#[derive(Clone, Debug)]
pub struct Event {
    /// When it happened, by the wall clock of the node.
    pub time: UnixNanos,
    /// The connection it is about.
    pub connection: Arc<ConnectionInfo>,
    /// The connection's labels as of just after the event.
    pub labels: Labels,
    /// What happened.
    pub kind: EventKind,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum EventKind {
    /// A connection exists from here on.
    Connected(Connected),
    /// A heartbeat is overdue.
    Suspected {
        /// When the client was last heard.
        last_seen: UnixNanos,
        /// Whether the socket of a resumable client dropped.
        socket_lost: bool,
    },
    /// It was heard again.
    Recovered {
        /// How long it had been SUSPECT.
        suspected_for: Duration,
        /// Whether it came back on a new socket.
        resumed: bool,
    },
    /// The connection is gone for good.
    Disconnected(Box<Disconnected>),
    /// The client said something.
    MessageReceived(Payload),
    /// A backend changed its labels; the event carries the new ones.
    LabelsChanged {
        /// The labels before.
        previous: Labels,
    },
    /// A backend retuned its heartbeat.
    HeartbeatChanged(Cadence),
    /// A stored message was given up, its time-to-live being over. Has no connection.
    MessageExpired {
        /// What the backend called it; empty for nothing.
        message_id: Box<str>,
        /// When it was sent.
        send_time: UnixNanos,
    },
}

/// The discriminants of [`EventKind`], for filters and metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum KindTag {
    /// [`EventKind::Connected`]
    Connected,
    /// [`EventKind::Suspected`]
    Suspected,
    /// [`EventKind::Recovered`]
    Recovered,
    /// [`EventKind::Disconnected`]
    Disconnected,
    /// [`EventKind::MessageReceived`]
    MessageReceived,
    /// [`EventKind::LabelsChanged`]
    LabelsChanged,
    /// [`EventKind::HeartbeatChanged`]
    HeartbeatChanged,
    /// [`EventKind::MessageExpired`]
    MessageExpired,
}

impl KindTag {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Connected,
        Self::Suspected,
        Self::Recovered,
        Self::Disconnected,
        Self::MessageReceived,
        Self::LabelsChanged,
        Self::HeartbeatChanged,
        Self::MessageExpired,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Suspected => "suspected",
            Self::Recovered => "recovered",
            Self::Disconnected => "disconnected",
            Self::MessageReceived => "message_received",
            Self::LabelsChanged => "labels_changed",
            Self::HeartbeatChanged => "heartbeat_changed",
            Self::MessageExpired => "message_expired",
        }
    }
}

/// A connection's beginning.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its heartbeat settings.
    pub cadence: Cadence,
    /// Liveness as of the event: ALIVE in the log, and what it is in a snapshot.
    pub state: Liveness,
    /// The generation of the connection that this one took the client id from.
    pub replaces: Replaces,
}

/// Which connection was replaced.
#[derive(Clone, Debug, Default)]
pub enum Replaces {
    /// None.
    #[default]
    Nothing,
    /// This one; named by its facts rather than its number, because that may not be known before the log orders both.
    Connection(Arc<ConnectionInfo>),
    /// The one of this generation, as read back from a log.
    Generation(Generation),
}

impl Replaces {
    /// The generation of the replaced connection; 0 for none.
    #[must_use]
    pub fn generation(&self) -> Generation {
        match self {
            Self::Nothing => 0,
            Self::Connection(info) => info.generation(),
            Self::Generation(generation) => *generation,
        }
    }
}

/// A connection's end, explained.
#[derive(Clone, Debug)]
pub struct Disconnected {
    /// Why.
    pub cause: Cause,
    /// The close code; 1005 and 1006 stand for none sent.
    pub code: u16,
    /// The close reason.
    pub reason: Box<str>,
    /// From the handshake to the end.
    pub connected_for: Duration,
    /// What was observed of it; none when its node died without saying.
    pub stats: Option<Stats>,
    /// What the client was sent and never acknowledged; nothing where it cannot acknowledge.
    pub unacked: Unacked,
}

/// Messages that a client which acknowledges has not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unacked {
    /// The ids of those that have one, oldest first; at most [`Unacked::MAX_IDS`] and [`Unacked::MAX_ID_BYTES`].
    pub ids: Vec<Box<str>>,
    /// How many there are, also beyond the ids.
    pub count: u64,
}

impl Unacked {
    /// The most ids that an event carries.
    pub const MAX_IDS: usize = 100;
    /// The most bytes of them.
    pub const MAX_ID_BYTES: usize = 2 * 1024;

    /// The bytes of the ids.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.ids.iter().map(|id| id.len()).sum()
    }
}

/// What the owner of a connection observed and nobody logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// When it was last heard.
    pub last_seen: UnixNanos,
    /// The newest Ping to Pong time.
    pub round_trip: Option<Duration>,
    /// Whole heartbeat intervals since it was last heard.
    pub missed_heartbeats: u32,
    /// Business messages from the client.
    pub messages_in: u64,
    /// Frames sent to it for backends.
    pub messages_out: u64,
    /// Payload bytes of the messages from the client.
    pub bytes_in: u64,
    /// Payload bytes of the frames sent for backends.
    pub bytes_out: u64,
}

/// Whether a heartbeat is overdue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Heard lately.
    Alive,
    /// A heartbeat is overdue.
    Suspect,
}

/// What a client says or is sent.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    /// UTF-8, checked where it came in.
    Text(Bytes),
    /// Anything.
    Binary(Bytes),
}

impl Payload {
    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    /// The number of bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether there are no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }
}

/// Payloads do not belong in logs; their size does.
impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if matches!(self, Self::Text(_)) { "Text" } else { "Binary" };
        write!(f, "{kind}({} bytes)", self.len())
    }
}

impl EventKind {
    /// The bytes that a client sent with it.
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        match self {
            Self::MessageReceived(payload) => payload.len(),
            _ => 0,
        }
    }

    /// The bytes of it that vary from event to event of its kind.
    #[must_use]
    pub fn varying_len(&self) -> usize {
        match self {
            Self::Disconnected(end) => end.unacked.bytes(),
            _ => self.payload_len(),
        }
    }

    /// Which kind it is.
    #[must_use]
    pub const fn tag(&self) -> KindTag {
        match self {
            Self::Connected(_) => KindTag::Connected,
            Self::Suspected { .. } => KindTag::Suspected,
            Self::Recovered { .. } => KindTag::Recovered,
            Self::Disconnected(_) => KindTag::Disconnected,
            Self::MessageReceived(_) => KindTag::MessageReceived,
            Self::LabelsChanged { .. } => KindTag::LabelsChanged,
            Self::HeartbeatChanged(_) => KindTag::HeartbeatChanged,
            Self::MessageExpired { .. } => KindTag::MessageExpired,
        }
    }
}

/// An event with its place in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its offset within the log's epoch.
    pub offset: Offset,
    /// The event.
    pub event: Event,
}

impl Record {
    /// About how many bytes it keeps alive, for retention: itself, its payload or reason, and its share of what it points to.
    #[must_use]
    pub fn weight(&self) -> usize {
        let kind = match &self.event.kind {
            // The connection's facts are first kept alive by its `Connected`.
            EventKind::Connected(_) => {
                size_of::<ConnectionInfo>() + 16 + self.event.connection.client_id.as_str().len()
            }
            EventKind::Disconnected(end) => {
                let ids = &end.unacked.ids;
                size_of::<Disconnected>() + end.reason.len() + ids.iter().map(|id| 16 + id.len()).sum::<usize>()
            }
            EventKind::MessageReceived(payload) => payload.len(),
            EventKind::LabelsChanged { previous } => {
                64 + previous.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
            }
            EventKind::MessageExpired { message_id, .. } => message_id.len(),
            EventKind::Suspected { .. } | EventKind::Recovered { .. } | EventKind::HeartbeatChanged(_) => 0,
        };
        // 16 for the reference counts, 8 for the pointer in the ring.
        size_of::<Self>() + 24 + kind
    }
}
