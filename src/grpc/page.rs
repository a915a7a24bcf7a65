//! Page tokens: opaque to callers, and refused when they are not ours, of another filter, or of another epoch.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::arguments::ConnectionFilter;
use crate::position::Position;
use crate::registry::PageStart;

const FORMAT: u8 = 1;
/// Tells a token of consumers apart: format, the last name, then a CRC-32.
const CONSUMER_FORMAT: u8 = 2;
/// Format, shard, index, hash of the filter; then page one's cursor; then a CRC-32.
const HEAD: usize = 1 + 2 + 4 + 8;

/// Where the next page begins, and what page one said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PageToken {
    pub(super) start: PageStart,
    /// Of just before page one.
    pub(super) position: Position,
    pub(super) filter: u64,
}

/// Tells filters apart. Stable within a build, which is as long as a token is of use.
pub(super) fn fingerprint(filter: &ConnectionFilter) -> u64 {
    let mut hasher = DefaultHasher::new();
    filter.hash(&mut hasher);
    hasher.finish()
}

impl PageToken {
    pub(super) fn to_text(self) -> String {
        let mut bytes = Vec::with_capacity(80);
        bytes.push(FORMAT);
        bytes.extend(self.start.shard.to_be_bytes());
        bytes.extend(self.start.index.to_be_bytes());
        bytes.extend(self.filter.to_be_bytes());
        bytes.extend(self.position.to_cursor().into_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// None if it is not one of ours, or was altered.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let (head, cursor) = body.split_first_chunk::<HEAD>()?;
        if head[0] != FORMAT || crc32fast::hash(body).to_be_bytes() != *checksum {
            return None;
        }
        Some(Self {
            start: PageStart {
                shard: u16::from_be_bytes(head[1..3].try_into().ok()?),
                index: u32::from_be_bytes(head[3..7].try_into().ok()?),
            },
            filter: u64::from_be_bytes(head[7..HEAD].try_into().ok()?),
            position: Position::from_cursor(std::str::from_utf8(cursor).ok()?).ok()?,
        })
    }
}

/// Where the next page of consumers begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ConsumerToken {
    /// The last name of the page before.
    pub(super) after: String,
}

impl ConsumerToken {
    pub(super) fn to_text(&self) -> String {
        let mut bytes = vec![CONSUMER_FORMAT];
        bytes.extend(self.after.as_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend(checksum.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// None if it is not one of ours, or was altered.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let (format, after) = body.split_first()?;
        if *format != CONSUMER_FORMAT || crc32fast::hash(body).to_be_bytes() != *checksum {
            return None;
        }
        Some(Self { after: std::str::from_utf8(after).ok()?.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_token_reads_back_and_an_altered_one_does_not(
            shard: u16, index: u32, offset: i64, filter: u64, at in 0usize..70, to in "[A-Za-z0-9_-]",
        ) {
            let position = Position { epoch: Epoch::random(), offset };
            let token = PageToken { start: PageStart { shard, index }, position, filter };
            let text = token.to_text();
            prop_assert_eq!(PageToken::from_text(&text), Some(token));
            let mut altered = text.clone();
            altered.replace_range(at..=at, &to);
            prop_assume!(altered != text);
            prop_assert_eq!(PageToken::from_text(&altered), None);
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            prop_assert_eq!(PageToken::from_text(&text), None);
            prop_assert_eq!(ConsumerToken::from_text(&text), None);
        }

        #[test]
        fn a_token_of_consumers_reads_back_and_is_none_of_connections(
            after: String, at: prop::sample::Index, to in "[A-Za-z0-9_-]",
        ) {
            let token = ConsumerToken { after };
            let text = token.to_text();
            prop_assert_eq!(ConsumerToken::from_text(&text), Some(token));
            prop_assert_eq!(PageToken::from_text(&text), None);
            let mut altered = text.clone();
            let at = at.index(text.len());
            altered.replace_range(at..=at, &to);
            prop_assume!(altered != text);
            prop_assert_eq!(ConsumerToken::from_text(&altered), None);
        }
    }
}
