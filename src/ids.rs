//! Client ids and connection ids: what they may look like and how a connection id is made.

use std::fmt;
use std::time::SystemTime;

use uuid::Uuid;

/// What an assigned client id begins with; no client may choose such an id.
pub const ASSIGNED_PREFIX: char = '~';

/// The longest client id, in bytes of UTF-8.
pub const MAX_CLIENT_ID_BYTES: usize = 128;

/// The name a backend knows a client by: 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(Box<str>);

/// Why a string is not a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientIdError {
    /// No characters at all.
    #[error("client id is empty")]
    Empty,
    /// More than [`MAX_CLIENT_ID_BYTES`].
    #[error("client id has {0} bytes, at most 128 are allowed")]
    TooLong(usize),
    /// A control character (Unicode category Cc).
    #[error("client id has a control character")]
    ControlCharacter,
    /// Begins with `~`, which marks ids that Heartwire assigns.
    #[error("client id begins with `~`, which is kept for assigned ids")]
    Reserved,
    /// Not UTF-8.
    #[error("client id is not UTF-8")]
    NotUtf8,
}

impl ClientId {
    /// An id that a client, a header or a query chose.
    ///
    /// # Errors
    /// Says which rule of the client id the string breaks.
    pub fn chosen(id: &str) -> Result<Self, ClientIdError> {
        if id.starts_with(ASSIGNED_PREFIX) {
            return Err(ClientIdError::Reserved);
        }
        Self::named(id)
    }

    /// An id that a backend names in a call; assigned ids are allowed.
    ///
    /// # Errors
    /// Says which rule of the client id the string breaks.
    pub fn named(id: &str) -> Result<Self, ClientIdError> {
        if id.is_empty() {
            return Err(ClientIdError::Empty);
        }
        if id.len() > MAX_CLIENT_ID_BYTES {
            return Err(ClientIdError::TooLong(id.len()));
        }
        // Nearly all are ASCII, where a byte is a character; looked at as a whole, without asking at each whether it was the one.
        let control = if id.is_ascii() {
            id.bytes().fold(false, |any, byte| any | byte.is_ascii_control())
        } else {
            id.chars().any(char::is_control)
        };
        if control {
            return Err(ClientIdError::ControlCharacter);
        }
        Ok(Self(id.into()))
    }

    /// The id given to a connection whose client named none: `~<connection id>`.
    #[must_use]
    pub fn assigned(connection: ConnectionId) -> Self {
        Self(format!("{ASSIGNED_PREFIX}{connection}").into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// One WebSocket connection's id, a UUID of version 7 (RFC 9562, section 5.7).
///
/// Its last byte is the [`bucket`] of its client id, so that a connection is found by its own id in the shard
/// of its client id, with no second index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ConnectionId(Uuid);

impl ConnectionId {
    /// The id of no connection, which an event without one carries.
    pub const NONE: Self = Self(Uuid::nil());

    /// A new id for a connection of `client_id`.
    #[must_use]
    pub fn for_client(client_id: &str, now: SystemTime) -> Self {
        Self::with_bucket(bucket(client_id), now)
    }

    /// A new id for a connection whose client id will be assigned from it.
    #[must_use]
    pub fn for_assigned(now: SystemTime) -> Self {
        Self::with_bucket(fastrand::u8(..), now)
    }

    fn with_bucket(bucket: u8, now: SystemTime) -> Self {
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let mut random = [0u8; 10];
        fastrand::fill(&mut random);
        random[9] = bucket;
        Self(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
    }

    /// The id in 16 bytes, for a file.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The reverse of [`ConnectionId::to_bytes`].
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Parses the usual text form of a UUID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// The text form, in place.
    #[must_use]
    pub fn to_text(self) -> [u8; 36] {
        let mut text = [0; 36];
        self.0.hyphenated().encode_lower(&mut text);
        text
    }

    /// The bucket of the client id that this connection belongs to.
    #[must_use]
    pub fn bucket(self) -> u8 {
        self.0.as_bytes()[15]
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of 256 buckets a client id falls in; the shard follows from it.
///
/// An assigned id carries its connection's bucket; any other is hashed by CRC-32, which is stable across runs and
/// machines. An attacker who aims at one bucket gains contention on one lock and nothing else: the tables inside
/// a shard hash with a random key.
#[must_use]
pub fn bucket(client_id: &str) -> u8 {
    client_id
        .strip_prefix(ASSIGNED_PREFIX)
        .and_then(ConnectionId::parse)
        .map_or_else(|| crc32fast::hash(client_id.as_bytes()) as u8, ConnectionId::bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_choose_a_bad_id() {
        for (id, error) in [
            ("", ClientIdError::Empty),
            ("~x", ClientIdError::Reserved),
            ("a\nb", ClientIdError::ControlCharacter),
            ("a\u{85}b", ClientIdError::ControlCharacter),
            ("a\u{7f}", ClientIdError::ControlCharacter),
        ] {
            assert_eq!(ClientId::chosen(id), Err(error), "{id:?}");
        }
        assert_eq!(ClientId::chosen(&"é".repeat(65)), Err(ClientIdError::TooLong(130)));
        assert_eq!(ClientId::chosen(&"é".repeat(64)).map(|id| id.as_str().len()), Ok(128));
    }

    #[test]
    fn a_connection_id_leads_to_the_bucket_of_its_client_id() {
        let now = SystemTime::now();
        let named = ConnectionId::for_client("alice", now);
        assert_eq!(named.bucket(), bucket("alice"));
        for _ in 0..100 {
            let anonymous = ConnectionId::for_assigned(now);
            assert_eq!(anonymous.bucket(), bucket(ClientId::assigned(anonymous).as_str()));
        }
    }

    #[test]
    fn connection_ids_are_uuids_of_version_seven_with_the_time_in_front() {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(0x0123_4567_89ab);
        let id = ConnectionId::for_client("a", now).to_string();
        assert!(id.starts_with("01234567-89ab-7"), "{id}");
        assert_eq!(ConnectionId::parse(&id).map(|id| id.to_string()), Some(id));
    }
}
