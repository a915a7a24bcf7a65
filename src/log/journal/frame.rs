//! Frames: what makes damage visible. A frame is a head of 24 bytes and a record, padded to eight.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | length of the record, without the padding |
//! | 4..8 | CRC-32C of the record and its padding |
//! | 8..16 | offset of the record |
//! | 16..20 | its place in its batch, from 0; the highest bit marks the last of the batch |
//! | 20..24 | CRC-32C of the 20 bytes before |
//!
//! Both checksums begin with the segment's salt, so that no client can send bytes that look like a frame to a reader in search of one.
//! All frames begin at a multiple of eight, so a search need look nowhere else.

use crate::position::Offset;

/// What precedes the record.
pub(super) const HEAD: usize = 24;

/// Where frames begin: at multiples of this.
pub(super) const ALIGN: usize = 8;

const LAST: u32 = 1 << 31;

/// What a checksum begins with, which differs from segment to segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(bytes: [u8; 8]) -> Self {
        Self(crc32c::crc32c(&bytes))
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// Where a record belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) offset: Offset,
    /// Its place in its batch, from 0.
    pub(super) index: u32,
    /// Whether the batch ends with it.
    pub(super) last: bool,
}

impl Place {
    /// The offset of the first record of its batch.
    pub(super) fn batch(self) -> Offset {
        self.offset - Offset::from(self.index)
    }
}

/// A frame that is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Frame<'a> {
    pub(super) place: Place,
    pub(super) record: &'a [u8],
    /// How many bytes it takes, with head and padding.
    pub(super) size: usize,
}

/// Why there is no frame at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoFrame {
    /// Its head is whole and there are fewer bytes than it takes; so many would do.
    Short(usize),
    /// The head does not match its checksum, or there is not even room for one.
    Head,
    /// The head is whole and the record is not.
    Record,
}

/// Appends a frame, with the record as `write` appends it.
pub(super) fn put(out: &mut Vec<u8>, salt: Salt, place: Place, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    debug_assert!(start.is_multiple_of(ALIGN));
    out.extend_from_slice(&[0; HEAD]);
    write(out);
    let length = out.len() - start - HEAD;
    out.resize((out.len()).next_multiple_of(ALIGN), 0);
    let checksum = salt.checksum(&out[start + HEAD..]);
    let index = place.index | if place.last { LAST } else { 0 };
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[4..8].copy_from_slice(&checksum.to_le_bytes());
    head[8..16].copy_from_slice(&place.offset.to_le_bytes());
    head[16..20].copy_from_slice(&index.to_le_bytes());
    let checksum = salt.checksum(&head[..20]);
    head[20..].copy_from_slice(&checksum.to_le_bytes());
    out[start..start + HEAD].copy_from_slice(&head);
}

/// The frame that `bytes` begin with.
pub(super) fn first(bytes: &[u8], salt: Salt) -> Result<Frame<'_>, NoFrame> {
    let head: &[u8; HEAD] = bytes.first_chunk().ok_or(NoFrame::Head)?;
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    if salt.checksum(&head[..20]) != word(20) {
        return Err(NoFrame::Head);
    }
    let length = word(0) as usize;
    let size = HEAD + length.next_multiple_of(ALIGN);
    let body = bytes.get(HEAD..size).ok_or(NoFrame::Short(size))?;
    if salt.checksum(body) != word(4) {
        return Err(NoFrame::Record);
    }
    let offset = Offset::from(word(8)) | Offset::from(word(12)) << 32;
    let place = Place { offset, index: word(16) & !LAST, last: word(16) & LAST != 0 };
    Ok(Frame { place, record: &body[..length], size })
}

/// Where in `bytes` whole frames begin that satisfy `wanted`, searched from `from`, which need not be a place where one begins.
pub(super) fn find(bytes: &[u8], salt: Salt, from: usize, wanted: impl Fn(Place) -> bool) -> Option<usize> {
    let mut at = from.next_multiple_of(ALIGN);
    while at + HEAD <= bytes.len() {
        match first(&bytes[at..], salt) {
            Ok(frame) if wanted(frame.place) => return Some(at),
            Ok(frame) => at += frame.size,
            Err(_) => at += ALIGN,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: Salt = Salt(7);

    fn frame(record: &[u8], offset: Offset, index: u32, last: bool) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, SALT, Place { offset, index, last }, |out| out.extend_from_slice(record));
        out
    }

    #[test]
    fn a_frame_reads_back_and_takes_a_multiple_of_eight() {
        for length in 0..40 {
            let record: Vec<u8> = (0..length).collect();
            let mut bytes = frame(&record, 1 << 40, 3, true);
            assert!(bytes.len().is_multiple_of(ALIGN));
            let size = bytes.len();
            bytes.extend([0xff; 9]);
            let read = first(&bytes, SALT).expect("whole");
            assert_eq!((read.record, read.size), (&*record, size));
            assert_eq!(read.place, Place { offset: 1 << 40, index: 3, last: true });
            assert_eq!(read.place.batch(), (1 << 40) - 3);
        }
    }

    #[test]
    fn any_changed_bit_and_any_cut_is_seen() {
        let bytes = frame(b"a record", 9, 0, false);
        for at in 0..bytes.len() {
            assert!(first(&bytes[..at], SALT).is_err(), "{at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(first(&changed, SALT).is_err(), "{at}:{bit}");
            }
        }
    }

    #[test]
    fn a_frame_of_another_segment_is_none() {
        assert_eq!(first(&frame(b"a", 9, 0, true), Salt(8)), Err(NoFrame::Head));
    }

    #[test]
    fn blank_space_is_no_frame() {
        assert_eq!(first(&[0; 64], SALT), Err(NoFrame::Head));
    }

    #[test]
    fn a_search_finds_the_first_that_is_wanted_behind_anything() {
        let mut bytes = vec![0xa5; 16];
        let early = bytes.len();
        bytes.extend(frame(b"early", 4, 0, true));
        bytes.extend([0; 8]);
        let late = bytes.len();
        bytes.extend(frame(b"late", 5, 0, true));
        assert_eq!(find(&bytes, SALT, 1, |_| true), Some(early));
        assert_eq!(find(&bytes, SALT, 0, |place| place.offset > 4), Some(late));
        assert_eq!(find(&bytes, SALT, late + 1, |_| true), None);
    }
}
