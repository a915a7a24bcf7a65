//! A segment: one file of consecutive records. Its header, its name, and what is kept in memory to find a record in it.

use std::path::{Path, PathBuf};

use super::frame::Salt;
use crate::clock::UnixNanos;
use crate::position::{Epoch, Offset};

/// The header of a segment file.
///
/// | bytes | what |
/// |---|---|
/// | 0..8 | `HWSEGMNT` |
/// | 8..12 | version of the format |
/// | 16..32 | epoch |
/// | 32..40 | offset of the first record |
/// | 40..48 | salt of the checksums |
/// | 60..64 | CRC-32C of the bytes before |
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) epoch: Epoch,
    pub(super) first: Offset,
    pub(super) salt: [u8; 8],
}

/// How long it is; the first frame follows.
pub(super) const HEADER: usize = 64;

/// The version of the format; also in the file `FORMAT`.
pub(super) const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"HWSEGMNT";

const SUFFIX: &str = ".seg";

/// Bytes between two entries of a segment's index, about.
const STRIDE: u64 = 64 << 10;

impl Header {
    pub(super) fn new(epoch: Epoch, first: Offset) -> Self {
        let mut salt = [0; 8];
        fastrand::fill(&mut salt);
        Self { epoch, first, salt }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.epoch.to_bytes());
        bytes[32..40].copy_from_slice(&self.first.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.salt);
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// None if it is not whole, or of another version.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let whole = crc32c::crc32c(&bytes[..60]).to_le_bytes() == bytes[60..];
        if !whole || bytes[..8] != *MAGIC || bytes[8..12] != VERSION.to_le_bytes() {
            return None;
        }
        Some(Self {
            epoch: Epoch::from_bytes(*bytes[16..].first_chunk()?),
            first: Offset::from_le_bytes(*bytes[32..].first_chunk()?),
            salt: *bytes[40..].first_chunk()?,
        })
    }
}

/// The name of the segment that begins with an offset; names sort as offsets do.
pub(super) fn file_name(first: Offset) -> String {
    format!("{first:020}{SUFFIX}")
}

/// The offset in a segment's name.
pub(super) fn offset_of(name: &str) -> Option<Offset> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// A segment as it is known in memory.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) salt: Salt,
    /// The offset of its first record, whether it is there yet or not.
    pub(super) first: Offset,
    /// The offset of its newest record; the one before `first` when there is none.
    pub(super) last: Offset,
    /// Where the next frame goes: everything before is committed.
    pub(super) end: u64,
    /// When the first record happened, and the latest time of any.
    pub(super) oldest: Option<UnixNanos>,
    pub(super) newest: UnixNanos,
    /// Offsets and where their frames begin, one about every [`STRIDE`] bytes.
    index: Vec<(Offset, u64)>,
}

impl Segment {
    /// One with no records yet.
    pub(super) fn empty(directory: &Path, header: Header) -> Self {
        Self {
            path: directory.join(file_name(header.first)),
            salt: Salt::new(header.salt),
            first: header.first,
            last: header.first - 1,
            end: HEADER as u64,
            oldest: None,
            newest: UnixNanos::MIN,
            index: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last < self.first
    }

    /// The next record is in the frame at the end, which is so long.
    pub(super) fn push(&mut self, time: UnixNanos, size: usize) {
        self.last += 1;
        if self.index.last().is_none_or(|(_, at)| self.end - at >= STRIDE) {
            self.index.push((self.last, self.end));
        }
        self.oldest.get_or_insert(time);
        self.newest = self.newest.max(time);
        self.end += size as u64;
    }

    /// Forgets the records from this offset on, whose first frame begins here.
    pub(super) fn cut(&mut self, from: Offset, at: u64) {
        self.last = from - 1;
        self.end = at;
        self.index.retain(|(offset, _)| *offset < from);
        if self.is_empty() {
            self.oldest = None;
        }
    }

    /// Where to begin to look for a record: no later than its frame, and not long before it.
    pub(super) fn before(&self, offset: Offset) -> u64 {
        let at = self.index.partition_point(|(indexed, _)| *indexed <= offset);
        at.checked_sub(1).and_then(|at| self.index.get(at)).map_or(HEADER as u64, |(_, at)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back_and_any_changed_byte_is_seen() {
        let header = Header::new(Epoch::random(), 1_700_000_000_000_000_000);
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Some(header));
        for at in 0..HEADER {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Header::from_bytes(&changed), None, "{at}");
            assert_eq!(Header::from_bytes(&bytes[..at]), None, "{at}");
        }
    }

    #[test]
    fn names_have_twenty_digits_and_read_back() {
        assert_eq!(file_name(42), "00000000000000000042.seg");
        assert_eq!(offset_of("00000000000000000042.seg"), Some(42));
        for other in ["42.seg", "0000000000000000004x.seg", "00000000000000000042", "99999999999999999999.seg", "-"] {
            assert_eq!(offset_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_index_leads_to_a_place_at_or_before_the_record() {
        let mut segment = Segment::empty(Path::new("x"), Header::new(Epoch::random(), 100));
        let mut places = Vec::new();
        for _ in 0..1_000 {
            places.push(segment.end);
            segment.push(0, 1_000);
        }
        assert!((10..30).contains(&segment.index.len()), "{}", segment.index.len());
        for (i, place) in places.iter().enumerate() {
            let before = segment.before(100 + i as Offset);
            assert!(before <= *place && place - before < STRIDE + 1_000);
        }
    }
}
