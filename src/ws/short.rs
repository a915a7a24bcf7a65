//! Short frames, which is what heartbeats are: one that came whole and by itself is taken without a protocol machine.

use bytes::Bytes;

use crate::connection::{HEARTBEAT, Inbound};

/// Bytes before the payload of a short masked frame: two, and the key (RFC 6455, 5.2).
const HEADER: usize = 6;

/// The greatest payload whose length is in the second byte (RFC 6455, 5.2).
const LONGEST: usize = 125;

/// The set bit of the second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// First bytes: a message in one frame, or a control frame, with no reserved bit (RFC 6455, 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// Bytes that a mask is taken off at once.
const WORD: usize = 8;

/// What a short frame is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Short {
    /// It asks for no answer.
    Message(Inbound),
    /// A Ping, and the Pong that it asks for.
    Ping(Pong),
}

/// A Pong to a client, as it goes over the wire.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Pong {
    bytes: [u8; 2 + LONGEST],
    length: usize,
}

impl Pong {
    fn new(payload: &[u8]) -> Self {
        let mut bytes = [0; 2 + LONGEST];
        bytes[..2].copy_from_slice(&[PONG, payload.len() as u8]);
        bytes[2..2 + payload.len()].copy_from_slice(payload);
        Self { bytes, length: 2 + payload.len() }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The frame, if these bytes are all of one that is short, sound, and a message by itself or a Ping or Pong. Whatever else they are is for the machine to
/// say, which knows every violation by name.
pub(super) fn frame(bytes: &[u8], max_message: usize) -> Option<Short> {
    let (&[first, second, a, b, c, d], payload) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::from(second & !MASKED);
    if second & MASKED == 0 || length != payload.len() || length > LONGEST.min(max_message) {
        return None;
    }
    if !matches!(first, TEXT | BINARY | PING | PONG) {
        return None;
    }
    let key = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut clear = [0; LONGEST.next_multiple_of(WORD)];
    clear[..length].copy_from_slice(payload);
    for word in clear.as_chunks_mut::<WORD>().0.iter_mut().take(length.div_ceil(WORD)) {
        *word = (u64::from_ne_bytes(*word) ^ key).to_ne_bytes();
    }
    let clear = &clear[..length];
    Some(Short::Message(match first {
        // What most messages are, and so needs no memory.
        TEXT if clear == HEARTBEAT.as_bytes() => Inbound::Text(Bytes::from_static(HEARTBEAT.as_bytes())),
        TEXT => Inbound::Text(std::str::from_utf8(clear).ok().map(|_| Bytes::copy_from_slice(clear))?),
        BINARY => Inbound::Binary(Bytes::copy_from_slice(clear)),
        PONG => Inbound::Pong((*clear).try_into().ok()),
        _ => return Some(Short::Ping(Pong::new(clear))),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, second: u8, payload: &[u8]) -> Vec<u8> {
        let key = [1, 2, 3, 250];
        let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        [first, second].into_iter().chain(key).chain(masked).collect()
    }

    #[test]
    fn one_that_is_short_and_whole_is_taken() {
        for length in [0, 1, 3, 4, 5, 124, 125] {
            let payload: Vec<u8> = (0..length).collect();
            let taken = |first| frame(&masked(first, MASKED | length, &payload), 1_000);
            let bytes = Bytes::from(payload.clone());
            assert_eq!(taken(TEXT), Some(Short::Message(Inbound::Text(bytes.clone()))));
            assert_eq!(taken(BINARY), Some(Short::Message(Inbound::Binary(bytes))));
            assert_eq!(taken(PONG), Some(Short::Message(Inbound::Pong((*payload).try_into().ok()))));
            let Some(Short::Ping(pong)) = taken(PING) else { panic!("a Ping of {length} bytes") };
            assert_eq!(pong.as_bytes(), [&[0x8a, length][..], &payload].concat());
        }
        for text in ["é", "heartbeat", "heartbeats", "Heartbeat"] {
            let length = text.len() as u8;
            let expected = Short::Message(Inbound::Text(text.into()));
            assert_eq!(frame(&masked(TEXT, MASKED | length, text.as_bytes()), text.len()), Some(expected));
        }
    }

    #[test]
    fn all_else_is_for_the_machine() {
        let payload = b"heartbeat";
        let whole = masked(TEXT, MASKED | 9, payload);
        for cut in 0..whole.len() {
            assert_eq!(frame(&whole[..cut], 1_000), None, "in part");
        }
        assert_eq!(frame(&[&whole[..], &[0x81]].concat(), 1_000), None, "with more behind it");
        assert_eq!(frame(&masked(TEXT, 9, payload), 1_000), None, "unmasked");
        assert_eq!(frame(&whole, 8), None, "over the limit");
        assert_eq!(frame(&masked(TEXT, MASKED | 2, &[0xff, 0xff]), 1_000), None, "no UTF-8");
        assert_eq!(frame(&masked(TEXT, MASKED | 126, &[0; 126]), 1_000), None, "a longer length");
        for first in [PING, PONG] {
            assert_eq!(frame(&masked(first, MASKED | 9, payload), 8), None, "over the limit");
        }
        for first in (0..=u8::MAX).filter(|first| ![TEXT, BINARY, PING, PONG].contains(first)) {
            assert_eq!(frame(&masked(first, MASKED | 9, payload), 1_000), None, "{first:x}");
        }
    }
}
