//! A batch of events on its way to a subscriber, within its bounds.

use prost::length_delimiter_len;

use crate::pb;

/// The most events of a batch.
pub(super) const BATCH_EVENTS: usize = 512;
/// The most bytes of an encoded batch, unless one event alone has more.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// What a response has beside its items, with tags: a cursor of 39 bytes and a flag, or a cursor and a page token of 78.
const RESPONSE_OVERHEAD: usize = 160;

/// Encoded messages that share a response.
pub(super) struct Batch<T> {
    items: Vec<T>,
    bytes: usize,
    most: usize,
}

impl<T: prost::Message> Batch<T> {
    /// At most so many, or [`BATCH_EVENTS`].
    pub(super) fn new(most: usize) -> Self {
        Self { items: Vec::new(), bytes: RESPONSE_OVERHEAD, most: most.min(BATCH_EVENTS) }
    }

    /// Adds an item, or hands it back if the batch has no room for it. The first always has.
    pub(super) fn offer(&mut self, item: T) -> Result<(), T> {
        let length = item.encoded_len();
        // The tag of the field takes one byte.
        let bytes = self.bytes + 1 + length_delimiter_len(length) + length;
        if !self.items.is_empty() && (self.items.len() >= self.most || bytes > BATCH_BYTES) {
            return Err(item);
        }
        self.bytes = bytes;
        self.items.push(item);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}

/// A batch of news and the cursor after it; without events a bookmark.
pub(super) fn news(batch: Batch<pb::Event>, cursor: String) -> pb::SubscribeResponse {
    pb::SubscribeResponse { events: batch.into_items(), cursor, snapshot: false }
}

/// A batch of state.
pub(super) fn state(batch: Batch<pb::Event>) -> pb::SubscribeResponse {
    pb::SubscribeResponse { events: batch.into_items(), cursor: String::new(), snapshot: true }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn event(bytes: usize) -> pb::Event {
        let payload = pb::message_received::Payload::Binary(vec![0; bytes].into());
        let kind = pb::event::Kind::MessageReceived(pb::MessageReceived { payload: Some(payload) });
        pb::Event { cursor: "c".repeat(39), kind: Some(kind), ..Default::default() }
    }

    #[test]
    fn a_full_batch_encodes_to_no_more_than_its_bound() {
        for size in [0, 100, 1_000, 60_000, 130_000] {
            let mut batch = Batch::new(BATCH_EVENTS);
            while batch.offer(event(size)).is_ok() {}
            let response = news(batch, "c".repeat(39));
            assert!(response.encoded_len() <= BATCH_BYTES, "{size}");
            assert!(response.events.len() == BATCH_EVENTS || response.encoded_len() + size + 100 > BATCH_BYTES);
        }
    }

    #[test]
    fn an_event_larger_than_the_bound_goes_alone() {
        let mut batch = Batch::new(BATCH_EVENTS);
        assert!(batch.offer(event(BATCH_BYTES * 2)).is_ok());
        assert!(batch.offer(event(0)).is_err());
        let mut batch = Batch::new(BATCH_EVENTS);
        assert!(batch.offer(event(0)).is_ok());
        assert!(batch.offer(event(BATCH_BYTES * 2)).is_err());
    }
}
