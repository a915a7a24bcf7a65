//! Positions in the log, and cursors: the opaque strings that stand for them outside.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

/// One life of a log. A log that was lost, or that went backwards, goes on as a new epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(Uuid);

impl Epoch {
    /// A fresh epoch.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid())
    }

    /// The epoch in 16 bytes, for a file.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The reverse of [`Epoch::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The reverse of its text form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The place of an event in a log. Offsets rise by one from event to event within an epoch, and never fall from
/// one epoch to the next (unless the wall clock was set back between two runs of a memory log).
pub type Offset = i64;

/// A place in a log: just after the event at `offset` of `epoch`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Position {
    /// Which life of the log.
    pub epoch: Epoch,
    /// The offset of the last event before this place.
    pub offset: Offset,
}

/// The string is no cursor that this software made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is damaged: it is not one that Heartwire gave out")]
pub struct DamagedCursor;

const FORMAT: u8 = 1;
const BODY: usize = 1 + 16 + 8;
const WHOLE: usize = BODY + 4;

/// A cursor as text: 39 characters of base64url.
pub type Cursor = [u8; 39];

impl Position {
    /// The cursor for this position: base64url of format, epoch, offset and a CRC-32 that tells a damaged one.
    #[must_use]
    pub fn to_cursor(self) -> String {
        let mut bytes = [0u8; WHOLE];
        bytes[0] = FORMAT;
        bytes[1..17].copy_from_slice(self.epoch.0.as_bytes());
        bytes[17..BODY].copy_from_slice(&self.offset.to_be_bytes());
        let checksum = crc32fast::hash(&bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&checksum.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The position that a cursor stands for.
    ///
    /// # Errors
    /// [`DamagedCursor`] when the string was not made by [`Position::to_cursor`], or was altered since.
    pub fn from_cursor(cursor: &str) -> Result<Self, DamagedCursor> {
        let mut bytes = [0u8; WHOLE];
        let length = URL_SAFE_NO_PAD.decode_slice(cursor, &mut bytes).map_err(|_| DamagedCursor)?;
        let (body, checksum) = bytes.split_at(BODY);
        let whole = length == WHOLE && crc32fast::hash(body).to_be_bytes() == checksum;
        if !whole || bytes[0] != FORMAT {
            return Err(DamagedCursor);
        }
        let epoch = Uuid::from_slice(&bytes[1..17]).map_err(|_| DamagedCursor)?;
        let offset = bytes[17..BODY].try_into().map_err(|_| DamagedCursor)?;
        Ok(Self { epoch: Epoch(epoch), offset: Offset::from_be_bytes(offset) })
    }
}

/// The cursors of one epoch, for who makes many: what all of them have in common is made once.
#[derive(Clone, Debug)]
pub struct Cursors {
    /// The text of the first bytes, as many as make whole characters.
    common: [u8; COMMON / 3 * 4],
    /// The bytes after those and before the offset.
    rest: [u8; BODY - 8 - COMMON],
    /// Of all that is before the offset.
    checksum: crc32fast::Hasher,
}

/// Three bytes are four characters, and the bytes before the offset are not a multiple of that.
const COMMON: usize = (BODY - 8) / 3 * 3;

impl Cursors {
    /// Those of an epoch.
    #[must_use]
    pub fn new(epoch: Epoch) -> Self {
        let mut before = [FORMAT; BODY - 8];
        before[1..].copy_from_slice(&epoch.to_bytes());
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&before);
        let (mut common, mut rest) = ([0; COMMON / 3 * 4], [0; BODY - 8 - COMMON]);
        base64url(&before[..COMMON], &mut common);
        rest.copy_from_slice(&before[COMMON..]);
        Self { common, rest, checksum }
    }

    /// The same as [`Position::to_cursor`].
    #[must_use]
    pub fn at(&self, offset: Offset) -> Cursor {
        let offset = offset.to_be_bytes();
        let mut checksum = self.checksum.clone();
        checksum.update(&offset);
        let mut bytes = [0; WHOLE - COMMON];
        bytes[..self.rest.len()].copy_from_slice(&self.rest);
        bytes[self.rest.len()..][..8].copy_from_slice(&offset);
        bytes[self.rest.len() + 8..].copy_from_slice(&checksum.finalize().to_be_bytes());
        let mut cursor = [0; size_of::<Cursor>()];
        cursor[..self.common.len()].copy_from_slice(&self.common);
        base64url(&bytes, &mut cursor[self.common.len()..]);
        cursor
    }
}

/// Unpadded base64url (RFC 4648, section 5) of a few bytes, without what it takes to be fast for many.
#[inline]
fn base64url(bytes: &[u8], text: &mut [u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (three, four) in bytes.chunks(3).zip(text.chunks_mut(4)) {
        let bits = three.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (24 - 8 * three.len());
        for (at, character) in four.iter_mut().enumerate() {
            *character = ALPHABET[(bits >> (18 - 6 * at)) as usize & 63];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cursor_reads_back_as_its_position(offset: i64) {
            let position = Position { epoch: Epoch::random(), offset };
            prop_assert_eq!(Position::from_cursor(&position.to_cursor()), Ok(position));
        }

        #[test]
        fn the_cursors_of_an_epoch_are_those_of_its_positions(offset: i64) {
            let epoch = Epoch::random();
            prop_assert_eq!(Cursors::new(epoch).at(offset).to_vec(), Position { epoch, offset }.to_cursor().into_bytes());
        }

        #[test]
        fn any_string_is_read_without_a_panic(text: String) {
            prop_assert_eq!(Position::from_cursor(&text), Err(DamagedCursor));
        }

        #[test]
        fn one_changed_character_is_noticed(offset: i64, at in 0usize..39, to in "[A-Za-z0-9_-]") {
            let cursor = Position { epoch: Epoch::random(), offset }.to_cursor();
            let mut altered = cursor.clone();
            altered.replace_range(at..=at, &to);
            prop_assume!(altered != cursor);
            prop_assert_eq!(Position::from_cursor(&altered), Err(DamagedCursor));
        }
    }
}
