//! A batch of events on its way to a subscriber, encoded as it grows.

use super::batch::{BATCH_BYTES, BATCH_EVENTS, RESPONSE_OVERHEAD};
use super::encode;
use super::fields;
use crate::event::Event;
use crate::position::Cursor;
use crate::registry::ConnectionView;

/// The fields of `SubscribeResponse`.
const EVENTS: u8 = 1;
const CURSOR: u8 = 2;
const SNAPSHOT: u8 = 3;

/// The events of a `SubscribeResponse`.
pub(super) struct EventBatch {
    bytes: Vec<u8>,
    events: usize,
}

/// A whole `SubscribeResponse`, encoded.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) bytes: Vec<u8>,
    /// How many events are in it.
    pub(super) events: usize,
    /// Whether it says where it ends.
    pub(super) has_cursor: bool,
}

impl EventBatch {
    /// An empty one for so many events, or fewer.
    pub(super) fn expecting(events: usize) -> Self {
        Self {
            bytes: Vec::with_capacity((events * encode::USUAL_BYTES + RESPONSE_OVERHEAD).min(BATCH_BYTES)),
            events: 0,
        }
    }

    /// Adds an event, with its cursor or as part of a snapshot. False if the batch has no room for it; the first always has.
    pub(super) fn offer(&mut self, event: &Event, cursor: Option<&Cursor>) -> bool {
        // What cannot fit is not even written.
        (event.kind.payload_len() <= BATCH_BYTES.saturating_sub(self.bytes.len()) || self.events == 0)
            && self.add(|out| encode::event(out, EVENTS, event, cursor))
    }

    /// The same for a connection that exists.
    pub(super) fn offer_state(&mut self, view: &ConnectionView) -> bool {
        self.add(|out| encode::state(out, EVENTS, view))
    }

    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.events >= BATCH_EVENTS {
            return false;
        }
        let before = self.bytes.len();
        write(&mut self.bytes);
        if self.events > 0 && self.bytes.len() + RESPONSE_OVERHEAD > BATCH_BYTES {
            self.bytes.truncate(before);
            return false;
        }
        self.events += 1;
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// As news, with the cursor after it.
    pub(super) fn news(mut self, cursor: &Cursor) -> Response {
        fields::fixed(&mut self.bytes, CURSOR, cursor);
        Response { bytes: self.bytes, events: self.events, has_cursor: true }
    }

    /// As state.
    pub(super) fn state(mut self) -> Response {
        fields::flag(&mut self.bytes, SNAPSHOT, true);
        Response { bytes: self.bytes, events: self.events, has_cursor: false }
    }
}

impl Response {
    /// Without events: where the stream is.
    pub(super) fn bookmark(cursor: &Cursor) -> Self {
        EventBatch { bytes: Vec::new(), events: 0 }.news(cursor)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message as _;

    use super::*;
    use crate::event::{ConnectionInfo, EventKind, Payload};
    use crate::ids::{ClientId, ConnectionId};
    use crate::labels::Labels;
    use crate::pb;
    use crate::position::{Cursors, Epoch};

    fn event(bytes: usize) -> Event {
        let client_id = ClientId::named("a").expect("a good id");
        let id = ConnectionId::from_bytes([7; 16]);
        Event {
            time: 1,
            connection: Arc::new(ConnectionInfo::new(client_id, id, "n".into(), 0, None, "")),
            labels: Labels::NONE,
            kind: EventKind::MessageReceived(Payload::Binary(vec![0; bytes].into())),
        }
    }

    #[test]
    fn a_full_batch_is_no_more_than_its_bound() {
        let cursor = Cursors::new(Epoch::random()).at(1);
        for size in [0, 100, 1_000, 60_000, 130_000] {
            let mut batch = EventBatch::expecting(1);
            while batch.offer(&event(size), Some(&cursor)) {}
            let response = batch.news(&cursor);
            let decoded = pb::SubscribeResponse::decode(&response.bytes[..]).expect("is one");
            assert!(response.bytes.len() <= BATCH_BYTES, "{size}");
            assert!(response.events == BATCH_EVENTS || response.bytes.len() + size + 400 > BATCH_BYTES);
            assert_eq!(decoded.events.len(), response.events);
        }
    }

    #[test]
    fn an_event_larger_than_the_bound_goes_alone() {
        let mut batch = EventBatch::expecting(1);
        assert!(batch.offer(&event(BATCH_BYTES * 2), None));
        assert!(!batch.offer(&event(0), None));
        let mut batch = EventBatch::expecting(1);
        assert!(batch.offer(&event(0), None));
        assert!(!batch.offer(&event(BATCH_BYTES * 2), None) && !batch.offer(&event(BATCH_BYTES - 200), None));
        // What had no room has left no trace.
        let decoded = pb::SubscribeResponse::decode(&batch.state().bytes[..]).expect("is one");
        assert!(decoded.snapshot && decoded.events.len() == 1);
    }
}
