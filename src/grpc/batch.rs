//! The bounds of a response that carries many, and a page that keeps within them.

use prost::length_delimiter_len;

/// The most events of a batch.
pub(super) const BATCH_EVENTS: usize = 512;
/// The most bytes of an encoded batch, unless one event alone has more.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// What a response has beside its items, with tags: a cursor of 39 bytes and a flag, or a cursor and a page token of 78.
pub(super) const RESPONSE_OVERHEAD: usize = 160;

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

    pub(super) fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;
    use prost::Message as _;

    fn connection(bytes: usize) -> pb::Connection {
        pb::Connection { client_id: "c".repeat(bytes), ..Default::default() }
    }

    #[test]
    fn a_full_page_encodes_to_no_more_than_its_bound() {
        for size in [0, 100, 1_000, 60_000, 130_000] {
            let mut page = Batch::new(BATCH_EVENTS);
            while page.offer(connection(size)).is_ok() {}
            let token = "c".repeat(78);
            let cursor = "c".repeat(39);
            let answer = pb::ListConnectionsResponse { connections: page.into_items(), next_page_token: token, cursor };
            assert!(answer.encoded_len() <= BATCH_BYTES, "{size}");
            assert!(answer.connections.len() == BATCH_EVENTS || answer.encoded_len() + size + 200 > BATCH_BYTES);
        }
    }

    #[test]
    fn an_item_larger_than_the_bound_goes_alone() {
        let mut page = Batch::new(BATCH_EVENTS);
        assert!(page.offer(connection(BATCH_BYTES * 2)).is_ok());
        assert!(page.offer(connection(0)).is_err());
        let mut page = Batch::new(BATCH_EVENTS);
        assert!(page.offer(connection(0)).is_ok());
        assert!(page.offer(connection(BATCH_BYTES * 2)).is_err());
    }
}
