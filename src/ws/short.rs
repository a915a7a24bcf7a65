//! Short messages, which is what heartbeats are: one that came whole and by itself is taken without a protocol machine.

use bytes::Bytes;

use crate::connection::Inbound;

/// Bytes before the payload of a short masked frame: two, and the key (RFC 6455, 5.2).
const HEADER: usize = 6;

/// The greatest payload whose length is in the second byte (RFC 6455, 5.2).
const LONGEST: usize = 125;

/// The set bit of the second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// First bytes: a message in one frame, no reserved bit (RFC 6455, 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const PONG: u8 = 0x8a;

/// The message, if these bytes are all of one that is short, sound, and asks for no answer. Whatever else they are is for the machine to say, which
/// knows every violation by name.
pub(super) fn message(bytes: &[u8], max_message: usize) -> Option<Inbound> {
    let (&[first, second, a, b, c, d], payload) = bytes.split_first_chunk::<HEADER>()?;
    let length = usize::from(second & !MASKED);
    if second & MASKED == 0 || length != payload.len() || length > LONGEST.min(max_message) {
        return None;
    }
    if !matches!(first, TEXT | BINARY | PONG) {
        return None;
    }
    let key = [a, b, c, d];
    let mut clear = [0; LONGEST];
    let clear = &mut clear[..length];
    for (at, byte) in clear.iter_mut().enumerate() {
        *byte = payload[at] ^ key[at % 4];
    }
    match first {
        TEXT => std::str::from_utf8(clear).ok().map(|_| Inbound::Text(Bytes::copy_from_slice(clear))),
        BINARY => Some(Inbound::Binary(Bytes::copy_from_slice(clear))),
        _ => Some(Inbound::Pong(Bytes::copy_from_slice(clear))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, second: u8, payload: &[u8]) -> Vec<u8> {
        let key = [1, 2, 3, 250];
        let masked = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
        [first, second].into_iter().chain(key).chain(masked).collect()
    }

    #[test]
    fn one_that_is_short_and_whole_is_taken() {
        for length in [0, 1, 3, 4, 5, 124, 125] {
            let payload: Vec<u8> = (0..length).collect();
            let taken = |first| message(&frame(first, MASKED | length, &payload), 1_000);
            let bytes = Bytes::from(payload.clone());
            assert_eq!(taken(TEXT), Some(Inbound::Text(bytes.clone())));
            assert_eq!(taken(BINARY), Some(Inbound::Binary(bytes.clone())));
            assert_eq!(taken(PONG), Some(Inbound::Pong(bytes)));
        }
        assert_eq!(message(&frame(TEXT, 0x82, "é".as_bytes()), 2), Some(Inbound::Text("é".into())));
    }

    #[test]
    fn all_else_is_for_the_machine() {
        let payload = b"heartbeat";
        let whole = frame(TEXT, MASKED | 9, payload);
        for cut in 0..whole.len() {
            assert_eq!(message(&whole[..cut], 1_000), None, "in part");
        }
        assert_eq!(message(&[&whole[..], &[0x81]].concat(), 1_000), None, "with more behind it");
        assert_eq!(message(&frame(TEXT, 9, payload), 1_000), None, "unmasked");
        assert_eq!(message(&whole, 8), None, "over the limit");
        assert_eq!(message(&frame(TEXT, MASKED | 2, &[0xff, 0xff]), 1_000), None, "no UTF-8");
        assert_eq!(message(&frame(TEXT, MASKED | 126, &[0; 126]), 1_000), None, "a longer length");
        for first in (0..=u8::MAX).filter(|first| ![TEXT, BINARY, PONG].contains(first)) {
            assert_eq!(message(&frame(first, MASKED | 9, payload), 1_000), None, "{first:x}");
        }
    }
}
