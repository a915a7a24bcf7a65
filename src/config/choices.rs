//! The keys whose value is one of a few words.

use serde::{Deserialize, Serialize};

/// `identity.anonymous`: what happens to a connection whose first data frame names nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnonymousPolicy {
    /// It gets the client id `~<connection id>`.
    #[default]
    Assign,
    /// It is closed.
    Reject,
}

/// `identity.duplicates`: what happens when a connected client id connects again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DuplicatePolicy {
    /// The newer connection wins; the older is closed 4409.
    #[default]
    Replace,
    /// The older connection stays; the newer is closed 4410.
    Reject,
    /// Both stay, up to `identity.max_connections_per_client`; beyond it the newer is closed 4410.
    Allow,
}

/// `heartbeat.server`: what the server sends each interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerHeartbeat {
    /// A Ping to everyone, and the text too to a client that itself speaks text heartbeats.
    #[default]
    Auto,
    /// A Ping.
    Ping,
    /// The text `heartbeat`.
    Text,
    /// A Ping and the text.
    Both,
    /// Nothing.
    Off,
}

/// `heartbeat.counts`: what counts as a client's heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofOfLife {
    /// Whatever arrives, Pongs too.
    #[default]
    AnyFrame,
    /// Heartbeat texts, Pings and Pongs, but no business message.
    HeartbeatsOnly,
}

/// `telemetry.format`: how log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
