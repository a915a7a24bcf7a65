//! The contract's messages as they are written down.

use std::collections::BTreeMap;

use heartwire::pb;
use heartwire::pb::event::Kind as Named;
use tonic_types::StatusExt as _;

use crate::record::{Delivery, Event, Filter, Kind, Outcome, Shown};
use crate::world::pos;

/// The name of an enum's value without its prefix, in lower case.
fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

fn millis(span: Option<&prost_types::Duration>) -> u64 {
    span.map_or(0, |span| span.seconds as u64 * 1_000 + span.nanos as u64 / 1_000_000)
}

pub fn span(millis: u64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds: (millis / 1_000) as i64, nanos: (millis % 1_000) as i32 * 1_000_000 })
}

fn state(state: pb::ConnectionState) -> String {
    short(state.as_str_name(), "CONNECTION_STATE_")
}

fn cadence(heartbeat: Option<&pb::HeartbeatSettings>) -> (u64, u64) {
    heartbeat.map_or((0, 0), |settings| (millis(settings.interval.as_ref()), millis(settings.timeout.as_ref())))
}

/// The id in a payload: `m|ID|...` or `c|ID|...`; of anything else, its beginning.
pub fn id_of(payload: &str) -> String {
    let mut parts = payload.split('|');
    match (parts.next(), parts.next()) {
        (Some("m" | "c"), Some(id)) => id.to_owned(),
        _ => payload.chars().take(40).collect(),
    }
}

/// A payload that carries an id, at least so long.
pub fn payload(mark: char, id: &str, bytes: usize) -> String {
    let mut text = format!("{mark}|{id}|");
    text.extend(std::iter::repeat_n('x', bytes.saturating_sub(text.len())));
    text
}

pub fn event(event: &pb::Event) -> Event {
    let sorted = |labels: &std::collections::HashMap<String, String>| -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let kind = match &event.kind {
        Some(Named::Connected(one)) => {
            let (interval, timeout) = cadence(one.heartbeat.as_ref());
            Kind::Connected {
                address: one.remote_address.clone(),
                subprotocol: one.subprotocol.clone(),
                state: state(one.state()),
                interval,
                timeout,
                replaces: one.replaces_generation,
            }
        }
        Some(Named::Suspected(one)) => Kind::Suspected { socket_lost: one.socket_lost },
        Some(Named::Recovered(one)) => Kind::Recovered { resumed: one.resumed },
        Some(Named::Disconnected(one)) => Kind::Disconnected {
            cause: short(one.cause().as_str_name(), "DISCONNECT_CAUSE_"),
            code: one.close_code,
            unacked: one.unacked_message_ids.clone(),
            unacked_count: one.unacked_count,
        },
        Some(Named::MessageReceived(one)) => {
            let text = match &one.payload {
                Some(pb::message_received::Payload::Text(text)) => text.clone(),
                Some(pb::message_received::Payload::Binary(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
                None => String::new(),
            };
            Kind::MessageReceived { id: id_of(&text), bytes: text.len() }
        }
        Some(Named::LabelsChanged(one)) => Kind::LabelsChanged { previous: sorted(&one.previous_labels) },
        Some(Named::HeartbeatChanged(one)) => {
            let (interval, timeout) = cadence(one.heartbeat.as_ref());
            Kind::HeartbeatChanged { interval, timeout }
        }
        Some(Named::MessageExpired(one)) => Kind::MessageExpired { message_id: one.message_id.clone() },
        None => Kind::Unknown,
    };
    let wall = event.time.as_ref().map_or(0, |time| time.seconds * 1_000_000 + i64::from(time.nanos) / 1_000);
    Event {
        at: pos(&event.cursor),
        wall,
        client: event.client_id.clone(),
        connection: event.connection_id.clone(),
        generation: event.generation,
        labels: sorted(&event.labels),
        kind,
    }
}

pub fn shown(connection: &pb::Connection) -> Shown {
    let (interval, timeout) = cadence(connection.heartbeat.as_ref());
    Shown {
        client: connection.client_id.clone(),
        connection: connection.connection_id.clone(),
        generation: connection.generation,
        state: state(connection.state()),
        labels: connection.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        interval,
        timeout,
    }
}

pub fn delivery(delivery: &pb::Delivery) -> Delivery {
    let failure = short(delivery.failure().as_str_name(), "DELIVERY_FAILURE_");
    Delivery {
        connection: delivery.connection_id.clone(),
        stage: short(delivery.stage().as_str_name(), "STAGE_"),
        failure: if failure == "unspecified" { String::new() } else { failure },
    }
}

pub fn outcome(status: &tonic::Status) -> Outcome {
    let info = status.get_details_error_info();
    let cursor = |name: &str| info.as_ref().and_then(|info| pos(info.metadata.get(name)?));
    Outcome {
        code: code(status.code()),
        oldest: cursor("oldest_cursor"),
        head: cursor("head_cursor"),
        reason: info.map(|info| info.reason).unwrap_or_default(),
        message: status.message().to_owned(),
    }
}

pub fn code(code: tonic::Code) -> String {
    // `NotFound` as `not_found`.
    let mut text = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

pub fn filter(filter: &Filter) -> Option<pb::EventFilter> {
    let kinds = filter.kinds.iter().map(|kind| {
        let name = format!("EVENT_KIND_{}", kind.to_uppercase());
        pb::EventKind::from_str_name(&name).expect("a kind").into()
    });
    (!filter.is_empty()).then(|| pb::EventFilter {
        kinds: kinds.collect(),
        client_ids: filter.clients.clone(),
        client_id_prefix: filter.prefix.clone(),
        labels: filter.labels.clone().into_iter().collect(),
    })
}

pub fn client_target(id: &str) -> Option<pb::Target> {
    Some(pb::Target { target: Some(pb::target::Target::ClientId(id.to_owned())) })
}
