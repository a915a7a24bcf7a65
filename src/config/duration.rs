//! Durations as people write them: `30s`, `500ms`, `1m 30s`. A serde module for plain `Duration` fields.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

use super::error::quoted;

const EXPECTED: &str = "a duration with its unit, such as \"30s\", \"500ms\" or \"1m 30s\"";

pub(super) fn parse(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|_| format!("{} is not {EXPECTED}", quoted(text)))
}

pub(super) fn show(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_any(DurationVisitor).and_then(|text| parse(&text).map_err(de::Error::custom))
}

/// A duration that may be absent, written "". It has a written form so that every key shows in `--print-config` and
/// that a flag can take back what a file sets.
pub(super) mod optional {
    use super::{Deserializer, Duration, DurationVisitor, Serializer, de, parse, show};

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration.map(show).unwrap_or_default())
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = deserializer.deserialize_any(DurationVisitor)?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        parse(&text).map(Some).map_err(de::Error::custom)
    }
}

/// Takes text only, but says of a bare number that it lacks a unit.
struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [("30s", 30_000), ("500ms", 500), ("1m 30s", 90_000), (" 1h ", 3_600_000), ("0s", 0)] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in ["", "30", "s", "-1s", "30 parsecs", "99999999999999999999s"] {
            assert!(parse(text).unwrap_err().contains("such as \"30s\""), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_is_read_back_as_it_was_shown(seconds in 0u64..1 << 50, nanos in 0u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse(&show(duration)), Ok(duration));
            let whole = Duration::from_millis(seconds);
            prop_assert_eq!(parse(&show(whole)), Ok(whole));
        }

        #[test]
        fn no_text_makes_reading_a_duration_panic(text in "\\PC*", number in "([0-9.]{0,25} ?[a-z]{0,6} ?){0,3}") {
            let _ = parse(&text);
            let _ = parse(&number);
        }
    }
}
