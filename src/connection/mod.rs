//! One connection's whole life: who it is, what its frames mean, how fast they may come, and how it ends.

mod admission;
mod closer;
mod deadline;
mod driver;
mod dues;
mod envelope;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod greet;
mod identify;
mod pinged;
mod plain;
mod rate;
mod session;
mod sessions;
mod socket;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Admissions, Entry, Full, MOST_PROVISIONAL, Provisional};
pub use plain::HEARTBEAT;
pub use rate::Rates;
pub use session::{Handshaken, Host, run};
pub use sessions::Sessions;
pub use socket::{AnySocket, FrameSocket, Inbound, PingPayload, SocketError};

use std::time::Duration;

/// Bytes on the wire that one message may take: one-byte fragments cost seven bytes each, and anything beyond this is empty fragments.
const fn wire_limit(max_message: usize) -> usize {
    max_message.saturating_mul(16).saturating_add(64 * 1024)
}

/// Which heartbeats the server sends of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerBeat {
    /// A Ping; and the text `heartbeat` to a client that speaks text heartbeats itself.
    Auto,
    /// A Ping.
    Ping,
    /// The text `heartbeat`.
    Text,
    /// Both, to everyone.
    Both,
    /// None.
    Off,
}

/// How connections behave.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// How long a client has to send its first data frame.
    pub identify_timeout: Duration,
    /// How long a client of the reliable subprotocol may be without a socket; zero for not at all.
    pub resume_window: Duration,
    /// How long one write may take.
    pub write_timeout: Duration,
    /// Whether clients that name no id are given one.
    pub assign_ids: bool,
    /// Which heartbeats the server sends.
    pub server_beat: ServerBeat,
    /// Whether whatever arrives proves life, or heartbeats only.
    pub any_frame_counts: bool,
    /// How fast a client may send.
    pub rates: Rates,
    /// The largest message, in bytes.
    pub max_message: usize,
    /// Bytes of a client's messages that may wait to be committed before it is read no further.
    pub uncommitted: u32,
    /// The longest that a client refused by a drain is told to wait.
    pub reconnect_jitter: Duration,
}
