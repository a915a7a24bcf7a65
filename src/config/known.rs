//! Which keys there are, taken from the serialised defaults so that no list has to be kept in step.

use std::collections::BTreeMap;

use toml::Value;

use super::Config;
use super::suggest::nearest;

/// What every environment variable of Heartwire begins with.
pub(super) const ENV_PREFIX: &str = "HEARTWIRE_";

/// The known keys, as `section.key`, with their default values.
pub(super) struct Known {
    defaults: BTreeMap<String, Value>,
    sections: Vec<String>,
}

impl Known {
    pub(super) fn new() -> Self {
        let table = toml::Table::try_from(Config::default()).expect("the defaults can be written as TOML");
        // The order of a table is up to a feature of the toml crate, which any dependency may turn on.
        let mut sections: Vec<String> = table.keys().cloned().collect();
        sections.sort();
        let mut defaults = BTreeMap::new();
        for (section, body) in table {
            if let Value::Table(body) = body {
                defaults.extend(body.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)));
            }
        }
        Self { defaults, sections }
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.defaults.keys().map(String::as_str)
    }

    pub(super) fn has_section(&self, section: &str) -> bool {
        self.sections.iter().any(|known| known == section)
    }

    /// The default of a key, which also says of what type its values are; `None` for an unknown key.
    pub(super) fn default_of(&self, key: &str) -> Option<&Value> {
        self.defaults.get(key)
    }

    /// The known key that an environment variable is for.
    pub(super) fn key_of_variable(&self, name: &str) -> Option<&str> {
        self.keys().find(|key| variable_of(key) == name)
    }

    /// What is wrong with an unknown `section.key`.
    pub(super) fn unknown_key(&self, key: &str) -> String {
        let last = key.rsplit('.').next().unwrap_or(key);
        // The right key in the wrong section is more edits away than many a wrong key.
        let moved = || self.keys().find(|known| known.split('.').nth(1) == Some(last));
        match nearest(key, self.keys()).or_else(moved) {
            Some(known) => format!("unknown key, did you mean `{known}`?"),
            None => "unknown key".to_owned(),
        }
    }

    /// What is wrong with an unknown section.
    pub(super) fn unknown_section(&self, section: &str) -> String {
        match nearest(section, self.sections.iter().map(String::as_str)) {
            Some(known) => format!("unknown section, did you mean `[{known}]`?"),
            None => format!("unknown section, expected one of {}", self.sections.join(", ")),
        }
    }

    /// What is wrong with an unknown environment variable.
    pub(super) fn unknown_variable(&self, name: &str) -> String {
        let names: Vec<String> = self.keys().map(variable_of).collect();
        match nearest(name, names.iter().map(String::as_str)) {
            Some(known) => format!("unknown, did you mean {known}?"),
            None => "unknown, expected HEARTWIRE_SECTION__KEY such as HEARTWIRE_WS__LISTEN".to_owned(),
        }
    }
}

fn variable_of(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_known_the_optional_ones_too() {
        let known = Known::new();
        assert_eq!(known.keys().count(), 45);
        for key in ["ws.listen", "log.max_age", "node.id"] {
            assert!(known.default_of(key).is_some(), "{key}");
        }
    }

    #[test]
    fn a_variable_is_the_key_in_capitals_with_two_underscores() {
        let known = Known::new();
        assert_eq!(known.key_of_variable("HEARTWIRE_WS__MAX_MESSAGE"), Some("ws.max_message"));
        for name in ["HEARTWIRE_WS_MAX_MESSAGE", "HEARTWIRE_ws__max_message", "HEARTWIRE_WS__", "WS__LISTEN"] {
            assert_eq!(known.key_of_variable(name), None, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_comes_with_the_one_that_was_meant() {
        let known = Known::new();
        assert!(known.unknown_key("ws.max_mesage").contains("`ws.max_message`"));
        assert!(known.unknown_key("ws.timeout").contains("`heartbeat.timeout`"));
        assert!(known.unknown_section("heartbeats").contains("`[heartbeat]`"));
        assert!(known.unknown_section("tls").contains("admin, grpc, heartbeat"));
        assert!(known.unknown_variable("HEARTWIRE_WS_LISTEN").contains("HEARTWIRE_WS__LISTEN?"));
        assert!(known.unknown_variable("HEARTWIRE_VERBOSE").contains("HEARTWIRE_SECTION__KEY"));
    }
}
