use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::event::Liveness;
use crate::heartbeat::Cadence;
use crate::log::journal::any_record;
use crate::pb;
use crate::position::{Cursors, Epoch};

/// The field of a `SubscribeResponse`.
const EVENTS: u8 = 1;

/// The generated type for an event.
fn message(info: &ConnectionInfo, labels: &Labels, time: UnixNanos, cursor: &str, kind: pb::event::Kind) -> pb::Event {
    let connection_id = info.connection_id;
    pb::Event {
        cursor: cursor.to_owned(),
        time: Some(convert::timestamp(time)),
        node_id: info.node_id.to_string(),
        client_id: info.client_id.as_str().to_owned(),
        connection_id: if connection_id == ConnectionId::NONE { String::new() } else { connection_id.to_string() },
        generation: info.generation(),
        labels: labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        kind: Some(kind),
    }
}

/// What it would be if prost encoded it.
fn response(event: pb::Event) -> pb::SubscribeResponse {
    pb::SubscribeResponse { events: vec![event], ..Default::default() }
}

fn expected(event: &Event, cursor: &str) -> pb::SubscribeResponse {
    let kind = convert::kind(&event.connection, &event.kind);
    response(message(&event.connection, &event.labels, event.time, cursor, kind))
}

fn written(event: &Event, cursor: Option<&Cursor>) -> Vec<u8> {
    let mut out = Vec::new();
    super::event(&mut out, EVENTS, event, cursor);
    out
}

/// Whether prost, which writes labels in any order, can write it in but one way.
fn has_one_form(event: &Event) -> bool {
    let previous = match &event.kind {
        EventKind::LabelsChanged { previous } => previous.iter().count(),
        _ => 0,
    };
    event.labels.iter().count() <= 1 && previous <= 1
}

fn check(event: &Event, offset: Option<i64>) {
    let cursor = offset.map(|offset| Cursors::new(Epoch::random()).at(offset));
    let cursor_text = cursor.map_or_else(String::new, |cursor| String::from_utf8_lossy(&cursor).into_owned());
    let (written, expected) = (written(event, cursor.as_ref()), expected(event, &cursor_text));
    assert_eq!(pb::SubscribeResponse::decode(&written[..]).expect("can be read"), expected);
    assert_eq!(written.len(), expected.encoded_len());
    if has_one_form(event) {
        assert_eq!(written, expected.encode_to_vec());
    }
}

proptest! {
    #[test]
    fn an_event_is_byte_for_byte_what_prost_writes(record in any_record(), in_snapshot: bool) {
        check(&record.event, (!in_snapshot).then_some(record.offset));
    }

    #[test]
    fn so_is_a_message_of_any_size(record in any_record(), text: bool, size in 0usize..70_000) {
        let bytes = vec![b'x'; size].into();
        let kind = EventKind::MessageReceived(if text { Payload::Text(bytes) } else { Payload::Binary(bytes) });
        check(&Event { kind, ..record.event }, Some(record.offset));
    }

    #[test]
    fn so_is_a_connection_of_a_snapshot(record in any_record(), suspect: bool, interval: u32, timeout: u32) {
        let Event { connection: info, labels, .. } = record.event;
        let view = ConnectionView {
            info,
            state: if suspect { Liveness::Suspect } else { Liveness::Alive },
            labels,
            cadence: Cadence { interval, timeout },
            stats: None,
        };
        let expected =
            response(message(&view.info, &view.labels, view.info.connect_time, "", convert::existing(&view)));
        let mut written = Vec::new();
        state(&mut written, EVENTS, &view);
        prop_assert_eq!(&pb::SubscribeResponse::decode(&written[..]).expect("can be read"), &expected);
        if view.labels.iter().count() <= 1 {
            prop_assert_eq!(written, expected.encode_to_vec());
        }
    }
}

#[test]
fn an_event_without_a_connection_has_no_id_of_one_and_what_is_no_text_is_told_altered() {
    let client = crate::ids::ClientId::named("a").expect("a good id");
    let absent = std::sync::Arc::new(ConnectionInfo::absent(client, "n".into()));
    let expired = EventKind::MessageExpired { message_id: "m".into(), send_time: 7 };
    check(&Event { time: 0, connection: absent, labels: Labels::NONE, kind: expired }, Some(1));

    let client = crate::ids::ClientId::named("a").expect("a good id");
    let info = ConnectionInfo::new(client, ConnectionId::from_bytes([1; 16]), "n".into(), 0, None, "");
    let kind = EventKind::MessageReceived(Payload::Text(bytes::Bytes::from_static(b"a\xffb")));
    check(&Event { time: -1, connection: std::sync::Arc::new(info), labels: Labels::NONE, kind }, Some(1));
}
