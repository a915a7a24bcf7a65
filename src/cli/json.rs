//! Messages of the contract as one line of canonical proto3 JSON, as `grpcurl` shows them.

use std::io::{self, Write};
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde::Serialize as _;

use crate::pb;

/// Decoded once; `None` only if the descriptors compiled in were damaged, which the tests would show.
static POOL: LazyLock<Option<DescriptorPool>> = LazyLock::new(|| {
    let mut pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET).ok()?;
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).ok()?;
    Some(pool)
});

/// Writes a message of the given name, in `heartwire.v1` unless it says its package, and a line end.
pub(super) fn write_line(out: &mut dyn Write, name: &str, message: &impl Message) -> io::Result<()> {
    let line = to_json(name, message).map_err(io::Error::other)?;
    writeln!(out, "{}", inert(&line))
}

/// JSON lets characters stand in strings that a terminal acts on, C1 controls and changes of direction among them.
/// They occur in strings only, so escaping them leaves the meaning as it is.
fn inert(line: &str) -> String {
    let acts = |c: char| matches!(c, '\x7f'..='\u{9f}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut inert = String::with_capacity(line.len());
    for c in line.chars() {
        match acts(c) {
            true => inert.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => inert.push(c),
        }
    }
    inert
}

fn to_json(name: &str, message: &impl Message) -> Result<String, String> {
    let full_name = if name.contains('.') { name.to_owned() } else { format!("heartwire.v1.{name}") };
    let descriptor = POOL.as_ref().and_then(|pool| pool.get_message_by_name(&full_name));
    let descriptor = descriptor.ok_or_else(|| format!("no descriptor for {name}"))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice());
    let mut serializer = serde_json::Serializer::new(Vec::new());
    dynamic
        .map_err(|error| error.to_string())?
        .serialize(&mut serializer)
        .map_err(|error| format!("{name} cannot be written as JSON: {error}"))?;
    String::from_utf8(serializer.into_inner()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(name: &str, message: &impl Message) -> serde_json::Value {
        let mut out = Vec::new();
        write_line(&mut out, name, message).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn an_event_is_written_in_the_canonical_mapping() {
        let disconnected = pb::Disconnected {
            cause: pb::DisconnectCause::HeartbeatTimeout.into(),
            close_code: 4408,
            connected_for: Some(prost_types::Duration { seconds: 61, nanos: 500_000_000 }),
            ..Default::default()
        };
        let event = pb::Event {
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 }),
            client_id: "alice\n".to_owned(),
            generation: 1_700_000_000_000_000_001,
            labels: [("room".to_owned(), "7".to_owned())].into(),
            kind: Some(pb::event::Kind::Disconnected(disconnected)),
            ..Default::default()
        };
        let expected = serde_json::json!({
            "time": "2023-11-14T22:13:20.005Z",
            "clientId": "alice\n",
            "generation": "1700000000000000001",
            "labels": {"room": "7"},
            "disconnected": {
                "cause": "DISCONNECT_CAUSE_HEARTBEAT_TIMEOUT",
                "closeCode": 4408,
                "connectedFor": "61.500s",
            },
        });
        assert_eq!(json("Event", &event), expected);
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped_and_means_the_same() {
        let event = pb::Event { client_id: "a\u{9b}2J\x7f\u{202e}\x1bé".to_owned(), ..Default::default() };
        let line = to_json("Event", &event).unwrap();
        assert!(inert(&line).chars().all(|c| c == 'é' || c.is_ascii_graphic()), "{}", inert(&line));
        assert_eq!(json("Event", &event)["clientId"], event.client_id);
    }

    #[test]
    fn bytes_are_base64() {
        let payload = pb::message_received::Payload::Binary(bytes::Bytes::from_static(&[0, 255, 1]));
        let message = pb::MessageReceived { payload: Some(payload) };
        assert_eq!(json("MessageReceived", &message), serde_json::json!({"binary": "AP8B"}));
    }

    #[test]
    fn every_message_that_the_subcommands_print_has_its_descriptor() {
        for name in ["Event", "Connection", "CountConnectionsResponse", "SendResponse", "BroadcastResponse", "Consumer"]
        {
            assert!(to_json(name, &pb::NowStart {}).is_ok(), "{name}");
        }
        assert!(to_json("DisconnectResponse", &pb::NowStart {}).is_ok());
        assert!(to_json("DeleteConsumerResponse", &pb::NowStart {}).is_ok());
        assert!(to_json("grpc.health.v1.HealthCheckResponse", &pb::NowStart {}).is_ok());
        assert!(to_json("Nothing", &pb::NowStart {}).is_err());
    }
}
