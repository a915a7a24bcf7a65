//! Fields of protobuf messages, written straight into a buffer: no message is made first, and nothing is measured that can be seen afterwards.
//!
//! Fields that are written in the order of their numbers, and not at all when they are what proto3 leaves out, are byte for byte what prost writes.

use prost::length_delimiter_len;

const VARINT: u8 = 0;
const LENGTH_DELIMITED: u8 = 2;

/// The longest varint.
const VARINT_BYTES: usize = 10;

/// The tag of a field whose number is below 16; there are no others here.
const fn tag(field: u8, wire_type: u8) -> u8 {
    assert!(field < 16, "its tag has two bytes");
    field << 3 | wire_type
}

/// A varint and how many bytes of it count. All of them are made whatever the value is: that is quicker than to ask at each byte whether it is the last.
fn varint(value: u64) -> ([u8; VARINT_BYTES], usize) {
    let mut bytes = [0; VARINT_BYTES];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = (value >> (7 * at)) as u8 | 0x80;
    }
    let last = (value | 1).ilog2() as usize / 7;
    bytes[last] &= 0x7f;
    (bytes, last + 1)
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    if value < 0x80 {
        return out.push(value as u8);
    }
    let (bytes, length) = varint(value);
    // All of it and back again: a copy of a known size is no call.
    let end = out.len() + length;
    out.extend_from_slice(&bytes);
    out.truncate(end);
}

/// An int64 or int32; left out if 0.
pub(super) fn number(out: &mut Vec<u8>, field: u8, value: i64) {
    if value != 0 {
        out.push(tag(field, VARINT));
        put_varint(out, value as u64);
    }
}

/// A bool; left out if false.
pub(super) fn flag(out: &mut Vec<u8>, field: u8, value: bool) {
    number(out, field, value.into());
}

/// A string, which must be UTF-8, or bytes; left out if empty.
pub(super) fn bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        chosen_bytes(out, field, bytes);
    }
}

/// The same in a oneof, where what is empty is there nevertheless.
pub(super) fn chosen_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(tag(field, LENGTH_DELIMITED));
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A string of a length that is known to the compiler, which copies it without a call.
pub(super) fn fixed<const N: usize>(out: &mut Vec<u8>, field: u8, bytes: &[u8; N]) {
    const { assert!(N > 0 && N < 0x80, "its length is one byte") };
    out.extend_from_slice(&[tag(field, LENGTH_DELIMITED), N as u8]);
    out.extend_from_slice(bytes);
}

/// A message in a message, which is written by `fields`. About as long as `expected`, or what was written is moved once more.
pub(super) fn message(out: &mut Vec<u8>, field: u8, expected: usize, fields: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag(field, LENGTH_DELIMITED));
    let (at, room) = (out.len(), length_delimiter_len(expected));
    out.extend_from_slice(&[0; VARINT_BYTES]);
    out.truncate(at + room);
    fields(out);
    let length = out.len() - at - room;
    match (room, length) {
        // Nearly all.
        (1, 0..0x80) => out[at] = length as u8,
        (2, 0x80..0x4000) => out[at..at + 2].copy_from_slice(&[length as u8 | 0x80, (length >> 7) as u8]),
        _ => {
            let (bytes, needed) = varint(length as u64);
            out.splice(at..at + room, bytes[..needed].iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_is_what_prost_writes(shift in 0u32..64, value: u64) {
            let value = value >> shift;
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            put_varint(&mut ours, value);
            prost::encoding::encode_varint(value, &mut theirs);
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn a_message_has_its_length_in_front_whatever_was_expected(length in 0usize..40_000, expected in 0usize..40_000) {
            let mut out = vec![1, 2, 3];
            message(&mut out, 15, expected, |out| out.resize(out.len() + length, 7));
            let mut wanted = vec![1, 2, 3, 15 << 3 | 2];
            prost::encode_length_delimiter(length, &mut wanted).expect("grows");
            wanted.resize(wanted.len() + length, 7);
            prop_assert!(out == wanted);
        }
    }
}
