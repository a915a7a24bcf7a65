//! The name of a consumer: what it may look like.

use std::fmt;

/// The longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 128;

/// The name that a backend gives a position: 1 to 128 bytes of UTF-8 without control characters. The rules of a client id, but that `~` has no
/// meaning here and may come first: no name is ever assigned.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConsumerName(Box<str>);

/// Why a string is not the name of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No characters at all.
    #[error("is empty")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("has {0} bytes, at most 128 are allowed")]
    TooLong(usize),
    /// A control character (Unicode category Cc).
    #[error("has a control character")]
    ControlCharacter,
}

impl ConsumerName {
    /// A name that a backend gave.
    ///
    /// # Errors
    /// Says which rule the string breaks.
    pub fn new(name: &str) -> Result<Self, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(name.len()));
        }
        if name.chars().any(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConsumerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_refused_and_a_tilde_means_nothing() {
        let long = "é".repeat(65);
        for (name, error) in [
            ("", NameError::Empty),
            ("a\nb", NameError::ControlCharacter),
            ("a\u{85}b", NameError::ControlCharacter),
            (&long, NameError::TooLong(130)),
        ] {
            assert_eq!(ConsumerName::new(name), Err(error), "{name:?}");
        }
        for good in ["~db", "billing / 日本", &"é".repeat(64)] {
            assert_eq!(ConsumerName::new(good).map(|name| name.as_str().to_owned()).as_deref(), Ok(good));
        }
    }
}
