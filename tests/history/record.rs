//! What a history is made of: JSON lines, one file an actor, on one monotonic clock.
//!
//! Every party writes down what it itself did and saw, and nothing else; the checker reads only these files.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds of the monotonic clock since the run began.
    pub t: u64,
    /// Whose line it is; also the name of the file.
    pub actor: String,
    #[serde(flatten)]
    pub what: What,
}

/// A place in the log: the epoch and the offset in it. Actors take cursors apart only to write them down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pos {
    pub epoch: String,
    pub offset: i64,
}

impl std::fmt::Display for Pos {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.epoch, self.offset)
    }
}

/// Where a stream was asked to begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    Snapshot,
    Now,
    Beginning,
    Cursor(Pos),
    /// Where the server keeps the position of the consumer; the epoch is not known beforehand.
    Kept,
}

/// The filter of a stream; empty passes all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An event as a subscriber got it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// None in a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Pos>,
    /// Wall time of the node in microseconds, as it says.
    pub wall: i64,
    pub client: String,
    pub connection: String,
    pub generation: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(flatten)]
    pub kind: Kind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    Connected { address: String, subprotocol: String, state: String, interval: u64, timeout: u64, replaces: i64 },
    Suspected { socket_lost: bool },
    Recovered { resumed: bool },
    Disconnected { cause: String, code: i32, unacked: Vec<String>, unacked_count: i64 },
    MessageReceived { id: String, bytes: usize },
    LabelsChanged { previous: BTreeMap<String, String> },
    HeartbeatChanged { interval: u64, timeout: u64 },
    MessageExpired { message_id: String },
    Unknown,
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connected { .. } => "connected",
            Self::Suspected { .. } => "suspected",
            Self::Recovered { .. } => "recovered",
            Self::Disconnected { .. } => "disconnected",
            Self::MessageReceived { .. } => "message_received",
            Self::LabelsChanged { .. } => "labels_changed",
            Self::HeartbeatChanged { .. } => "heartbeat_changed",
            Self::MessageExpired { .. } => "message_expired",
            Self::Unknown => "unknown",
        }
    }
}

/// A connection as a list or a get showed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    pub client: String,
    pub connection: String,
    pub generation: i64,
    pub state: String,
    pub labels: BTreeMap<String, String>,
    pub interval: u64,
    pub timeout: u64,
}

/// One delivery of an answered send.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub connection: String,
    pub stage: String,
    /// Empty: no failure.
    pub failure: String,
}

/// How a call ended: `ok`, or the canonical code in lower case with its reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub code: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Pos>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Pos>,
}

impl Outcome {
    pub fn ok() -> Self {
        Self { code: "ok".to_owned(), ..Self::default() }
    }

    pub fn is_ok(&self) -> bool {
        self.code == "ok"
    }
}

/// Whom a call was for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aim {
    Client(String),
    Connection(String),
    Everyone,
    Labels(BTreeMap<String, String>),
}

/// What a process holds at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gauge {
    /// Open sockets of the process less those that the actors know to be open.
    pub sockets: i64,
    /// Other descriptors.
    pub files: i64,
    pub resident_bytes: i64,
    pub log_bytes: i64,
    pub connections: i64,
    pub outbox_frames: i64,
    pub outbox_bytes: i64,
    /// `Subscribe` streams that the process counts less those that the actors know to be open.
    pub subscribers: i64,
    /// Its sockets: local port, the peer's port and the state as the kernel numbers it (01 is established, 0A listens); `closed` is one
    /// that the kernel has done with and the process holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<String>,
}

/// What somebody did or saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    // The world: processes, faults, phases.
    /// A process answers; `head` is the head of its log then.
    Started {
        run: u32,
        pid: u32,
        head: Pos,
        journal: bool,
        interval: u64,
        timeout: u64,
        resume_window: u64,
        duplicates: String,
    },
    /// About to end it, by this.
    Ending {
        run: u32,
        how: String,
    },
    /// It is gone.
    Ended {
        run: u32,
        code: Option<i32>,
    },
    /// A fault begins or is healed.
    Fault {
        name: String,
        on: bool,
        detail: String,
    },
    /// How late this machine ran things since the last such line: an observer that only sleeps, and the process under test, whose
    /// threads stood ready without a processor for so long at the worst.
    Late {
        observer: u64,
        starved: u64,
    },
    /// A phase of the plan; `calm` is the measure for one in which somebody stalls.
    Phase {
        number: u32,
        name: String,
        calm: bool,
        stalled: bool,
    },
    /// What the process holds; `moment` is `baseline`, `stalled` or `drained`.
    Holds {
        run: u32,
        moment: String,
        gauge: Gauge,
    },
    /// All is quiet: faults healed, clients settled, subscribers caught up to this head. `gone`: no client is left.
    Quiet {
        number: u32,
        head: Pos,
        gone: bool,
    },

    // Clients. A session is one WebSocket of an actor.
    /// Begins a handshake. `client` is empty for one that names nobody.
    Opening {
        session: u32,
        run: u32,
        client: String,
        subprotocol: String,
        proxied: bool,
    },
    /// It is answered; the server sees this address.
    Opened {
        session: u32,
        address: String,
    },
    /// It failed.
    Refused {
        session: u32,
        why: String,
    },
    /// Is about to write this message. `seq` is 0 in the plain protocol.
    Tx {
        session: u32,
        id: String,
        seq: u64,
    },
    /// Bytes that prove it alive are in the kernel of the server's machine; the last of them since so many microseconds at the most, which the
    /// write took.
    Beat {
        session: u32,
        #[serde(default)]
        took: u64,
    },
    /// Got a message.
    Rx {
        session: u32,
        id: String,
        seq: u64,
    },
    /// Reliable: the server's `hello`.
    Hello {
        session: u32,
        client: String,
        connection: String,
        resumed: bool,
        received: u64,
    },
    /// Reliable: the server acknowledged everything up to this.
    RxAck {
        session: u32,
        received: u64,
    },
    /// Reliable: is about to acknowledge everything up to this.
    TxAck {
        session: u32,
        received: u64,
    },
    /// Does nothing more on this socket, which stays open: from here on it is silent.
    Silent {
        session: u32,
    },
    /// Stops reading, or begins again.
    Stalled {
        session: u32,
        on: bool,
    },
    /// Begins to close, in this way: `close`, `empty`, `bye`, `reset`, `vanish`, `half_close`.
    Closing {
        session: u32,
        how: String,
    },
    /// Got the server's Close.
    Closed {
        session: u32,
        code: u16,
        reason: String,
    },
    /// The socket is over.
    Over {
        session: u32,
        why: String,
    },

    // Backends.
    Subscribe {
        stream: u32,
        run: u32,
        start: Start,
        filter: Filter,
        consumer: String,
    },
    Batch {
        stream: u32,
        snapshot: bool,
        cursor: Option<Pos>,
        events: Vec<Event>,
    },
    /// The stream ended; `cut`: by the subscriber itself.
    Unsubscribed {
        stream: u32,
        cut: bool,
        outcome: Outcome,
    },
    Acknowledge {
        consumer: String,
        at: Pos,
    },
    Acknowledged {
        consumer: String,
        at: Option<Pos>,
        outcome: Outcome,
    },
    /// `order` is the number of the `SendStream` it goes over; 0 for a call of its own.
    Send {
        call: u32,
        order: u32,
        to: Aim,
        id: String,
        receipt: String,
        generation: i64,
        ttl: u64,
        message_id: String,
        deadline: u64,
    },
    Sent {
        call: u32,
        outcome: Outcome,
        deliveries: Vec<Delivery>,
        replayed: bool,
    },
    Broadcast {
        call: u32,
        to: Aim,
        id: String,
    },
    Broadcasted {
        call: u32,
        outcome: Outcome,
        matched: i64,
        accepted: i64,
        refused: i64,
    },
    /// All pages of a list, or one client's connections: what it asked for and what it got.
    Shown {
        asked: u64,
        client: Option<String>,
        outcome: Outcome,
        cursor: Option<Pos>,
        connections: Vec<Shown>,
    },
    /// A count of the connections.
    Counted {
        asked: u64,
        count: i64,
        cursor: Option<Pos>,
    },
    Command {
        call: u32,
        name: String,
        to: Aim,
    },
    Commanded {
        call: u32,
        outcome: Outcome,
        connections: Vec<String>,
        cursor: Option<Pos>,
    },
}
