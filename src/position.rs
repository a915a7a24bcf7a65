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
