//! Labels: the small set of key-value pairs that a backend hangs on a connection, and selectors over them.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The most labels a connection may have.
pub const MAX_LABELS: usize = 16;
/// The longest label key, in bytes.
pub const MAX_KEY_BYTES: usize = 64;
/// The most bytes of keys and values together.
pub const MAX_LABELS_BYTES: usize = 1024;

/// A connection's labels, shared and never changed in place; most connections have none, and that costs nothing.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Labels(Option<Arc<BTreeMap<Box<str>, Box<str>>>>);

/// Why a set of labels is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// More than [`MAX_LABELS`].
    #[error("{0} labels, at most 16 are allowed")]
    TooMany(usize),
    /// Empty, or over [`MAX_KEY_BYTES`].
    #[error("a label key has {0} bytes, 1 to 64 are allowed")]
    KeyLength(usize),
    /// A control character in a key or a value.
    #[error("the label {0:?} has a control character")]
    ControlCharacter(Box<str>),
    /// Over [`MAX_LABELS_BYTES`] in all.
    #[error("labels have {0} bytes in all, at most 1,024 are allowed")]
    TooBig(usize),
}

impl Labels {
    /// No labels.
    pub const NONE: Self = Self(None);

    /// Labels from pairs; of equal keys the last wins.
    ///
    /// # Errors
    /// Says which bound the labels break.
    pub fn new<K: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, LabelsError> {
        let map: BTreeMap<Box<str>, Box<str>> =
            pairs.into_iter().map(|(k, v)| (k.as_ref().into(), v.as_ref().into())).collect();
        Self::checked(map)
    }

    /// These labels with `remove` taken away and then `set` put in.
    ///
    /// # Errors
    /// Says which bound the result would break.
    pub fn changed<'a>(
        &self,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
        remove: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, LabelsError> {
        let mut map = self.0.as_deref().cloned().unwrap_or_default();
        for key in remove {
            map.remove(key);
        }
        for (key, value) in set {
            map.insert(key.into(), value.into());
        }
        Self::checked(map)
    }

    fn checked(map: BTreeMap<Box<str>, Box<str>>) -> Result<Self, LabelsError> {
        if map.len() > MAX_LABELS {
            return Err(LabelsError::TooMany(map.len()));
        }
        for (key, value) in &map {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(LabelsError::KeyLength(key.len()));
            }
            if key.chars().chain(value.chars()).any(char::is_control) {
                return Err(LabelsError::ControlCharacter(key.clone()));
            }
        }
        let bytes = map.iter().map(|(k, v)| k.len() + v.len()).sum();
        if bytes > MAX_LABELS_BYTES {
            return Err(LabelsError::TooBig(bytes));
        }
        Ok(if map.is_empty() { Self::NONE } else { Self(Some(Arc::new(map))) })
    }

    /// The pairs in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|map| map.iter()).map(|(k, v)| (&**k, &**v))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.as_ref()?.get(key).map(|value| &**value)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether every pair of `selector` is among these labels; an empty selector matches all.
    #[must_use]
    pub fn match_all(&self, selector: &Self) -> bool {
        selector.iter().all(|(key, value)| self.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::new(pairs.iter().copied()).expect("good labels")
    }

    #[test]
    fn a_selector_matches_when_each_of_its_pairs_is_there() {
        let one = labels(&[("room", "7"), ("team", "red")]);
        assert!(one.match_all(&Labels::NONE));
        assert!(one.match_all(&labels(&[("room", "7")])));
        assert!(!one.match_all(&labels(&[("room", "8")])));
        assert!(!one.match_all(&labels(&[("room", "7"), ("x", "")])));
        assert!(!Labels::NONE.match_all(&labels(&[("room", "7")])));
    }

    #[test]
    fn removing_the_last_label_leaves_none() {
        let left = labels(&[("room", "7")]).changed([], ["room"]).expect("good");
        assert!(left.is_empty());
        assert_eq!(left, Labels::NONE);
    }

    #[test]
    fn setting_wins_over_removing_the_same_key() {
        let next = labels(&[("room", "7")]).changed([("room", "8")], ["room"]).expect("good");
        assert_eq!(next.get("room"), Some("8"));
    }

    #[test]
    fn the_bounds_are_kept_and_named() {
        let many: Vec<_> = (0..17).map(|i| (i.to_string(), "x")).collect();
        assert_eq!(Labels::new(many), Err(LabelsError::TooMany(17)));
        assert_eq!(Labels::new([("", "x")]), Err(LabelsError::KeyLength(0)));
        assert_eq!(Labels::new([("k".repeat(65), "x")]), Err(LabelsError::KeyLength(65)));
        assert_eq!(Labels::new([("k", "x".repeat(1024))]), Err(LabelsError::TooBig(1025)));
        assert!(matches!(Labels::new([("k", "a\nb")]), Err(LabelsError::ControlCharacter(_))));
    }
}
