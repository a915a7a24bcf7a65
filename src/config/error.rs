//! What can be wrong with a configuration, said so that it can be put right.

use std::fmt;

use super::source::Origin;

/// As much of a mistaken value as an error repeats.
const QUOTED_CHARS: usize = 60;

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key as `section.key`, or a section; `None` when it is about a whole file or an unknown variable.
    pub key: Option<String>,
    /// Where the value came from; `None` when the configuration was not loaded but built by code.
    pub origin: Option<Origin>,
    /// What is wrong and what is allowed.
    pub message: String,
    /// For a contradiction: the other key.
    pub other: Option<&'static str>,
    /// Where the other key's value came from.
    pub other_origin: Option<Origin>,
}

impl Problem {
    /// A problem of one key.
    pub(super) fn of(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..Self::general(message) }
    }

    /// A problem of no key in particular.
    pub(super) fn general(message: impl Into<String>) -> Self {
        Self { key: None, origin: None, message: message.into(), other: None, other_origin: None }
    }

    pub(super) fn at(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    pub(super) fn against(self, other: &'static str) -> Self {
        Self { other: Some(other), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.origin) {
            (Some(key), _) => write!(f, "{}: {}", printable(key), printable(&self.message))?,
            (None, Some(origin)) => return write!(f, "{origin}: {}", printable(&self.message)),
            (None, None) => return f.write_str(&printable(&self.message)),
        }
        let Some(origin) = &self.origin else { return Ok(()) };
        write!(f, " ({origin}")?;
        if let (Some(other), Some(origin)) = (self.other, &self.other_origin) {
            write!(f, "; {other}: {origin}")?;
        }
        f.write_str(")")
    }
}

/// Everything wrong with a configuration: at least one problem, in the order of file, environment, flags, and last what
/// only shows in the whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", describe(.problems))]
pub struct ConfigErrors {
    /// The problems.
    pub problems: Vec<Problem>,
}

fn describe(problems: &[Problem]) -> String {
    let mut text = match problems {
        [one] => return format!("invalid configuration: {one}"),
        many => format!("invalid configuration: {} problems", many.len()),
    };
    for problem in problems {
        text.push_str(&format!("\n  - {problem}"));
    }
    text
}

/// A mistaken value as an error repeats it: in quotes, escaped, and not at any length.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Errors go to terminals and log lines, and parsers repeat what they were given: no control characters.
pub(super) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_key_its_cause_and_its_origin() {
        let problem = Problem::of("ws.listen", "must be different").at(Origin::Flag);
        assert_eq!(problem.to_string(), "ws.listen: must be different (command-line flag)");
    }

    #[test]
    fn several_problems_are_told_one_a_line() {
        let problems = vec![Problem::of("a.b", "is wrong"), Problem::general("is\nmissing").at(Origin::Default)];
        let text = ConfigErrors { problems }.to_string();
        assert_eq!(text, "invalid configuration: 2 problems\n  - a.b: is wrong\n  - default: is\\nmissing");
    }

    #[test]
    fn a_long_value_is_repeated_in_part() {
        assert_eq!(quoted("é\n"), "\"é\\n\"");
        assert_eq!(quoted(&"é".repeat(1000)).chars().count(), QUOTED_CHARS + 5);
    }
}
