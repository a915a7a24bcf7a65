//! Events as they go over the wire. What is told often is written straight from the domain, without a generated type between; what is rare is
//! [converted](super::convert) and encoded by prost. Either way it is byte for byte what prost would write, but for labels, which come in
//! the order of their keys.

use super::convert;
use super::fields;
use crate::clock::UnixNanos;
use crate::event::{ConnectionInfo, Event, EventKind, Payload};
use crate::ids::ConnectionId;
use crate::labels::Labels;
use crate::position::Cursor;
use crate::registry::ConnectionView;

/// About what an event has beside its payload.
pub(super) const USUAL_BYTES: usize = 200;

/// An event of the log, as a field of another message; without a cursor in a snapshot.
pub(super) fn event(out: &mut Vec<u8>, field: u8, event: &Event, cursor: Option<&Cursor>) {
    fields::message(out, field, USUAL_BYTES + event.kind.varying_len(), |out| {
        head(out, &event.connection, &event.labels, event.time, cursor);
        match &event.kind {
            EventKind::MessageReceived(payload) => message_received(out, payload),
            kind => convert::kind(&event.connection, kind).encode(out),
        }
    });
}

/// A connection that exists, as the event of a snapshot.
pub(super) fn state(out: &mut Vec<u8>, field: u8, view: &ConnectionView) {
    fields::message(out, field, USUAL_BYTES, |out| {
        head(out, &view.info, &view.labels, view.info.connect_time, None);
        convert::existing(view).encode(out);
    });
}

/// What every event has: the fields of `Event` before its kind.
fn head(out: &mut Vec<u8>, info: &ConnectionInfo, labels: &Labels, time: UnixNanos, cursor: Option<&Cursor>) {
    if let Some(cursor) = cursor {
        fields::fixed(out, 1, cursor);
    }
    let time = convert::timestamp(time);
    fields::message(out, 2, size_of_val(&time), |out| {
        fields::number(out, 1, time.seconds);
        fields::number(out, 2, time.nanos.into());
    });
    fields::bytes(out, 3, info.node_id.as_bytes());
    fields::bytes(out, 4, info.client_id.as_str().as_bytes());
    if info.connection_id != ConnectionId::NONE {
        fields::fixed(out, 5, &info.connection_id.to_text());
    }
    fields::number(out, 6, info.generation());
    for (key, value) in labels.iter() {
        fields::message(out, 7, key.len() + value.len(), |out| {
            fields::bytes(out, 1, key.as_bytes());
            fields::bytes(out, 2, value.as_bytes());
        });
    }
}

fn message_received(out: &mut Vec<u8>, payload: &Payload) {
    // A tag and a length beside the payload.
    fields::message(out, 12, 4 + payload.len(), |out| match payload {
        Payload::Binary(bytes) => fields::chosen_bytes(out, 2, bytes),
        // It was checked where it came in; what is not UTF-8 after all is better altered than lost.
        Payload::Text(bytes) if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() => {
            fields::chosen_bytes(out, 1, bytes);
        }
        Payload::Text(bytes) => fields::chosen_bytes(out, 1, String::from_utf8_lossy(bytes).as_bytes()),
    });
}

#[cfg(test)]
mod tests;
