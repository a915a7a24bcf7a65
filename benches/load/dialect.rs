//! What a server's clients say: where they connect to, how they introduce themselves, and how they heartbeat.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::frames::{self, Opcode};

/// `[client]` of a peer.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialect {
    /// Path of the upgrade request; `{id}` stands for the client id.
    pub path: String,
    /// Other paths that scenarios need, by their names.
    #[serde(default)]
    pub paths: BTreeMap<String, String>,
    /// Offered in the upgrade request.
    pub subprotocol: Option<String>,
    /// What must be said before a connection counts as open.
    #[serde(default)]
    pub hello: Hello,
    /// The ways of heartbeating that the server understands.
    pub heartbeats: Vec<Beat>,
}

/// The first words on a new WebSocket.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hello {
    /// None: the handshake said it all.
    #[default]
    None,
    /// MQTT 3.1.1 CONNECT, answered by CONNACK.
    Mqtt,
    /// Centrifugo's JSON `connect`, answered.
    Centrifugo,
    /// Action Cable: the server says welcome.
    Anycable,
}

/// A way of heartbeating.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beat {
    /// The text `heartbeat`, not answered.
    Text,
    /// A WebSocket Ping, answered by a Pong.
    Ping,
    /// MQTT PINGREQ, answered by PINGRESP.
    Mqtt,
}

impl Beat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Ping => "Ping",
            Self::Mqtt => "PINGREQ",
        }
    }

    pub fn frame(self) -> Vec<u8> {
        match self {
            Self::Text => frames::masked(Opcode::Text, b"heartbeat"),
            Self::Ping => frames::masked(Opcode::Ping, b"beat"),
            Self::Mqtt => frames::masked(Opcode::Binary, &[0xc0, 0]),
        }
    }

    /// Whether a frame from the server answers it; a beat that nothing answers has no such frame.
    pub fn is_answered_by(self, opcode: Opcode, payload: &[u8]) -> bool {
        match self {
            Self::Text => false,
            Self::Ping => opcode == Opcode::Pong,
            Self::Mqtt => opcode == Opcode::Binary && payload.first() == Some(&0xd0),
        }
    }

    pub fn is_answered(self) -> bool {
        self != Self::Text
    }
}

impl Hello {
    /// The frame that a client begins with.
    pub fn frame(self, id: &str, timeout: Duration) -> Option<Vec<u8>> {
        match self {
            Self::None | Self::Anycable => None,
            Self::Mqtt => Some(frames::masked(Opcode::Binary, &mqtt_connect(id, timeout))),
            Self::Centrifugo => Some(frames::masked(Opcode::Text, br#"{"id":1,"connect":{}}"#)),
        }
    }

    /// Whether this message from the server completes the introduction.
    pub fn is_complete(self, payload: &[u8]) -> bool {
        let has = |words: &[u8]| payload.windows(words.len()).any(|window| window == words);
        match self {
            Self::None => true,
            Self::Mqtt => payload.first() == Some(&0x20) && payload.get(3) == Some(&0),
            Self::Centrifugo => has(b"\"connect\""),
            Self::Anycable => has(b"\"welcome\""),
        }
    }
}

/// CONNECT with a clean session; the broker drops a client that is silent for 1.5 times the keep-alive.
fn mqtt_connect(id: &str, timeout: Duration) -> Vec<u8> {
    let keep_alive = u16::try_from(timeout.as_secs() * 2 / 3).unwrap_or(u16::MAX).max(1);
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2];
    body.extend_from_slice(&keep_alive.to_be_bytes());
    body.extend_from_slice(&u16::try_from(id.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(id.as_bytes());
    let mut packet = vec![0x10, u8::try_from(body.len()).unwrap_or(0)];
    packet.extend(body);
    packet
}
