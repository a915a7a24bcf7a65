//! Times, durations, labels and strings as a terminal shows them. What clients wrote is escaped here.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// Shown where a field that is always set was not.
const NO_TIME: &str = "--:--:--.---";

/// Without control characters, line ends or characters that turn the direction of writing. Quotation marks stay.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for piece in text.split_inclusive(['\'', '"']) {
        let plain = piece.trim_end_matches(['\'', '"']);
        escaped.extend(plain.escape_debug());
        escaped.push_str(&piece[plain.len()..]);
    }
    escaped
}

/// In quotation marks, escaped, and of no more than so many characters.
pub(super) fn quoted(text: &str, most: usize) -> String {
    let (shown, cut) = match text.char_indices().nth(most) {
        Some((end, _)) => (&text[..end], text.len() - end),
        None => (text, 0),
    };
    let shown = escaped(shown).replace('"', "\\\"");
    if cut == 0 { format!("\"{shown}\"") } else { format!("\"{shown}\"... {cut} bytes more") }
}

/// `HH:MM:SS.mmm`, UTC.
pub(super) fn clock(time: Option<&prost_types::Timestamp>) -> String {
    let Some(time) = time else { return NO_TIME.to_owned() };
    let second = time.seconds.rem_euclid(24 * 60 * 60);
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", time.nanos.clamp(0, 999_999_999) / 1_000_000)
}

/// About how long, to two units: `350ms`, `12.3s`, `4m05s`, `3h07m`, `2d04h`.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// A duration of the contract. Negative ones come of clocks that were set back, and count as nothing.
pub(super) fn duration(time: Option<&prost_types::Duration>) -> Option<Duration> {
    time.map(|time| Duration::try_from(*time).unwrap_or_default())
}

/// Time from one moment to another; nothing if it is the other way round.
pub(super) fn between(from: Option<&prost_types::Timestamp>, to: SystemTime) -> Option<Duration> {
    let from = SystemTime::try_from(*from?).ok()?;
    Some(to.duration_since(from).unwrap_or_default())
}

/// `key=value` pairs in the order of their keys.
pub(super) fn labels(labels: &HashMap<String, String>) -> String {
    let mut pairs: Vec<_> = labels.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value))).collect();
    pairs.sort();
    pairs.join(" ")
}

/// An enum value of the contract without its prefix; a number that is not known stays a number.
pub(super) fn enum_name(name: Option<&'static str>, prefix: &str, number: i32) -> String {
    match name {
        Some(name) => name.strip_prefix(prefix).unwrap_or(name).to_owned(),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_of_day_is_utc_with_milliseconds() {
        let at = |seconds, nanos| clock(Some(&prost_types::Timestamp { seconds, nanos }));
        assert_eq!(at(0, 0), "00:00:00.000");
        assert_eq!(at(1_700_000_000, 123_999_999), "22:13:20.123");
        assert_eq!(at(-1, 0), "23:59:59.000");
        assert_eq!(clock(None).len(), at(0, 0).len());
    }

    #[test]
    fn a_span_is_given_to_two_units() {
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (12_345, "12.3s"),
            (59_999, "59.9s"),
            (245_000, "4m05s"),
            (11_220_000, "3h07m"),
            (187_200_000, "2d04h"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped_and_the_rest_stays_as_it_is() {
        assert_eq!(escaped("it's \"fine\", Łódź 日本"), "it's \"fine\", Łódź 日本");
        assert_eq!(escaped("a\x1b[31m\r\nb\u{202e}c\u{9b}d\\"), "a\\u{1b}[31m\\r\\nb\\u{202e}c\\u{9b}d\\\\");
        assert_eq!(quoted("say \"hi\"", 100), "\"say \\\"hi\\\"\"");
        assert_eq!(quoted("ééé", 2), "\"éé\"... 2 bytes more");
    }

    proptest! {
        #[test]
        fn no_text_brings_a_control_character_through(text in ".*", control in "[\\x00-\\x1f\\x7f-\\u{9f}\\u{2028}\\u{202e}\\u{2066}]*") {
            let mixed = format!("{text}{control}\"{control}{text}");
            for shown in [escaped(&mixed), quoted(&mixed, 10)] {
                prop_assert!(!shown.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c)), "{shown:?}");
            }
        }
    }
}
