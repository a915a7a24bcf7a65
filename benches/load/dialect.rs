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
    /// Offered in the upgrade request.
    pub subprotocol: Option<String>,
    /// What is spoken in the messages.
    #[serde(default)]
    pub protocol: Protocol,
    /// The channel that a client subscribes to before it counts as open; `{id}` stands for the client id.
    pub subscribes: Option<String>,
    /// The ways of heartbeating that the server understands.
    pub heartbeats: Vec<Beat>,
    /// What is otherwise in some scenarios, by their names.
    #[serde(default)]
    pub ways: BTreeMap<String, Way>,
}

/// What clients do otherwise in one scenario; what is not named stays as it is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Way {
    pub path: Option<String>,
    pub subprotocol: Option<String>,
    pub subscribes: Option<String>,
}

impl Dialect {
    /// As it is spoken in this scenario.
    pub fn in_scenario(&self, name: &str) -> Self {
        let mut dialect = self.clone();
        if let Some(way) = self.ways.get(name).cloned() {
            dialect.path = way.path.unwrap_or(dialect.path);
            dialect.subprotocol = way.subprotocol.or(dialect.subprotocol);
            dialect.subscribes = way.subscribes.or(dialect.subscribes);
        }
        dialect
    }

    /// What a client says first once the WebSocket is there, and whether that is all there is to an introduction.
    pub fn greet(&self, id: &str, timeout: Duration) -> Step {
        match self.protocol {
            Protocol::Plain => Step::Open,
            Protocol::Mqtt => Step::Say(frames::masked(Opcode::Binary, &mqtt_connect(id, timeout))),
            // Several commands may share a frame, a line each.
            Protocol::Centrifugo => Step::Say(match self.channel(id) {
                None => frames::masked(Opcode::Text, CENTRIFUGO_CONNECT.as_bytes()),
                Some(channel) => {
                    let subscribe = serde_json::json!({ "id": 2, "subscribe": { "channel": channel } });
                    frames::masked(Opcode::Text, format!("{CENTRIFUGO_CONNECT}\n{subscribe}").as_bytes())
                }
            }),
            Protocol::Anycable => Step::Wait,
            // The handshake has named the client.
            Protocol::Session => Step::Say(frames::masked(Opcode::Text, br#"{"type":"hello"}"#)),
        }
    }

    /// What a message from the server means to a client that introduces itself.
    pub fn introduce(&self, id: &str, payload: &[u8]) -> Step {
        let has = |words: &str| payload.windows(words.len()).any(|window| window == words.as_bytes());
        let open_if = |is_open: bool| if is_open { Step::Open } else { Step::Wait };
        match (self.protocol, self.channel(id)) {
            (Protocol::Plain, _) => Step::Open,
            (Protocol::Mqtt, _) => open_if(payload.first() == Some(&0x20) && payload.get(3) == Some(&0)),
            (Protocol::Centrifugo, None) => open_if(has("\"connect\"")),
            (Protocol::Centrifugo, Some(_)) => open_if(has("\"subscribe\"")),
            (Protocol::Anycable, None) => open_if(has("\"welcome\"")),
            (Protocol::Anycable, Some(channel)) if has("\"welcome\"") => {
                // AnyCable's own channel for streams that need no permission.
                let identifier = serde_json::json!({ "channel": "$pubsub", "stream_name": channel }).to_string();
                let subscribe = serde_json::json!({ "command": "subscribe", "identifier": identifier });
                Step::Say(frames::masked(Opcode::Text, subscribe.to_string().as_bytes()))
            }
            (Protocol::Anycable, Some(_)) => open_if(has("\"confirm_subscription\"")),
            (Protocol::Session, _) => open_if(payload.starts_with(br#"{"type":"hello""#)),
        }
    }

    /// What a client must answer to a message from the server if it is to be taken for alive, or sent more.
    pub fn answer(&self, payload: &[u8]) -> Option<Vec<u8>> {
        match self.protocol {
            Protocol::Plain | Protocol::Mqtt => None,
            // Its ping is an empty answer, and so is the pong.
            Protocol::Centrifugo => (payload == b"{}").then(|| frames::masked(Opcode::Text, b"{}")),
            // Only the extended protocol has pongs.
            Protocol::Anycable => {
                let asks = self.subprotocol.as_deref() == Some(ANYCABLE_WITH_PONGS)
                    && payload.starts_with(br#"{"type":"ping""#);
                asks.then(|| frames::masked(Opcode::Text, br#"{"command":"pong"}"#))
            }
            // Each message by itself, at once: heartbeats could acknowledge them too, but the server keeps few that are not.
            Protocol::Session => {
                let ack = format!(r#"{{"type":"ack","received":{}}}"#, sequence(payload)?);
                Some(frames::masked(Opcode::Text, ack.as_bytes()))
            }
        }
    }

    fn channel(&self, id: &str) -> Option<String> {
        self.subscribes.as_ref().map(|channel| channel.replace("{id}", id))
    }
}

/// The number of a session's message; `None` if it is another envelope.
fn sequence(payload: &[u8]) -> Option<u64> {
    let rest = payload.strip_prefix(br#"{"type":"message","seq":"#)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}

const CENTRIFUGO_CONNECT: &str = r#"{"id":1,"connect":{}}"#;

const ANYCABLE_WITH_PONGS: &str = "actioncable-v1-ext-json";

/// What comes next in an introduction.
pub enum Step {
    /// The connection counts as open.
    Open,
    /// A frame for the server.
    Say(Vec<u8>),
    /// Nothing before the server says more.
    Wait,
}

/// What is spoken inside WebSocket messages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Anything: the handshake has said who it is.
    #[default]
    Plain,
    /// MQTT 3.1.1: CONNECT, answered by CONNACK.
    Mqtt,
    /// Centrifugo's JSON: `connect`, answered, and `subscribe`, answered.
    Centrifugo,
    /// Action Cable: the server says welcome; `subscribe`, confirmed.
    Anycable,
    /// `heartwire.v1.json`: `hello`, answered; messages are acknowledged.
    Session,
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
    /// The envelope of a session, answered by one of the server. Those that the server sends by itself look the same and are taken for
    /// answers too: in an interval there is one of them for each client.
    Envelope,
}

impl Beat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Ping => "Ping",
            Self::Mqtt => "PINGREQ",
            Self::Envelope => "envelope",
        }
    }

    pub fn frame(self) -> Vec<u8> {
        match self {
            Self::Text => frames::masked(Opcode::Text, b"heartbeat"),
            Self::Ping => frames::masked(Opcode::Ping, b"beat"),
            Self::Mqtt => frames::masked(Opcode::Binary, &[0xc0, 0]),
            Self::Envelope => frames::masked(Opcode::Text, br#"{"type":"heartbeat"}"#),
        }
    }

    /// Whether a frame from the server answers it; a beat that nothing answers has no such frame.
    pub fn is_answered_by(self, opcode: Opcode, payload: &[u8]) -> bool {
        match self {
            Self::Text => false,
            Self::Ping => opcode == Opcode::Pong,
            Self::Mqtt => opcode == Opcode::Binary && payload.first() == Some(&0xd0),
            Self::Envelope => opcode == Opcode::Text && payload.starts_with(br#"{"type":"heartbeat""#),
        }
    }

    pub fn is_answered(self) -> bool {
        self != Self::Text
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
