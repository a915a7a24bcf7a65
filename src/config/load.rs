//! Lays the sources over the defaults, key by key, so that one mistake does not hide another.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Table, Value};

use super::error::{ConfigErrors, Problem, quoted};
use super::known::Known;
use super::source::{Origin, Sources};
use super::{Config, LogConfig, environment, file};

/// One known key set by one source.
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: Raw,
    pub(super) origin: Origin,
}

/// What a source has for one key: a setting, or why it is none.
pub(super) type Entry = Result<Setting, Box<Problem>>;

/// A value as its source has it.
pub(super) enum Raw {
    /// From TOML, with a type of its own.
    Typed(Value),
    /// From the environment or a flag: to be read as what its key wants.
    Text(String),
}

impl Config {
    /// Loads the configuration: flags over environment over file over defaults, validated.
    ///
    /// # Errors
    /// All problems at once. A value that does not parse is one even where a higher layer hides it; ranges and
    /// contradictions are those of the effective values.
    pub fn load(sources: &Sources) -> Result<Self, ConfigErrors> {
        let known = Known::new();
        let mut layers = Layers::default();
        // Without what the file would have said, contradictions would be guesses.
        let mut complete = true;
        match sources.file.as_deref().map(|path| file::read(path, &known)) {
            Some(Ok(entries)) => layers.lay(entries, &known),
            Some(Err(problem)) => {
                layers.problems.push(*problem);
                complete = false;
            }
            None => {}
        }
        layers.lay(environment::read(&sources.env, &known), &known);
        layers.lay(flags(&sources.overrides, &known), &known);
        layers.default_for_a_directory();

        let mut problems = std::mem::take(&mut layers.problems);
        let config = match Self::deserialize(Value::Table(layers.merged.clone())) {
            Ok(config) => config,
            // Each part was accepted alone, so this cannot happen; if it does, it must not pass for the defaults.
            Err(error) => {
                problems.push(Problem::general(error.message()));
                Self::default()
            }
        };
        if complete {
            problems.extend(config.validate().into_iter().filter_map(|problem| layers.locate(problem)));
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigErrors { problems }) }
    }
}

fn flags(overrides: &[(String, String)], known: &Known) -> Vec<Entry> {
    let entry = |(key, value): &(String, String)| match known.default_of(key) {
        Some(_) => Ok(Setting { key: key.clone(), value: Raw::Text(value.clone()), origin: Origin::Flag }),
        None => Err(Box::new(Problem::of(key.clone(), known.unknown_key(key)).at(Origin::Flag))),
    };
    overrides.iter().map(entry).collect()
}

/// The settings merged so far, where each came from, and what was wrong with the others.
#[derive(Default)]
struct Layers {
    merged: Table,
    origins: BTreeMap<String, Origin>,
    /// Keys with a value that did not parse: what they contradict is not known.
    unsure: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Layers {
    /// Lays a source over those before it.
    fn lay(&mut self, entries: Vec<Entry>, known: &Known) {
        for entry in entries {
            let Setting { key, value, origin } = match entry {
                Ok(setting) => setting,
                Err(problem) => {
                    self.problems.push(*problem);
                    continue;
                }
            };
            // The sources hand on known keys only.
            let Some(default) = known.default_of(&key) else { continue };
            match accept(&key, value, default) {
                Ok(value) => self.set(key, value, origin),
                Err(problem) => {
                    self.problems.push(problem.at(origin));
                    self.unsure.insert(key);
                }
            }
        }
    }

    fn set(&mut self, key: String, value: Value, origin: Origin) {
        let (section, name) = key.split_once('.').unwrap_or((&key, ""));
        let body = self.merged.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(body) = body {
            body.insert(name.to_owned(), value);
        }
        self.origins.insert(key, origin);
    }

    /// A log on disk has other defaults than one in memory.
    fn default_for_a_directory(&mut self) {
        let Some(Value::Table(log)) = self.merged.get_mut("log") else { return };
        if log.get("data_dir").and_then(Value::as_str).is_none_or(str::is_empty) {
            return;
        }
        for (key, value) in LogConfig::ON_DISK {
            log.entry(key).or_insert_with(|| Value::String(value.to_owned()));
        }
    }

    /// Adds to a problem of the effective values where they came from; `None` if it may only follow from a problem
    /// already told.
    fn locate(&self, mut problem: Problem) -> Option<Problem> {
        // An item of a list, `ws.allowed_origins[1]`, came from where its list did.
        let whole = |key: &str| key.split('[').next().unwrap_or(key).to_owned();
        let origin = |key: &str| Some(self.origins.get(&whole(key)).cloned().unwrap_or(Origin::Default));
        if problem.key.as_deref().into_iter().chain(problem.other).any(|key| self.unsure.contains(&whole(key))) {
            return None;
        }
        problem.origin = problem.key.as_deref().and_then(origin);
        problem.other_origin = problem.other.and_then(origin);
        Some(problem)
    }
}

/// A value that its key takes, tried by itself over the defaults.
fn accept(key: &str, raw: Raw, default: &Value) -> Result<Value, Box<Problem>> {
    let value = match raw {
        Raw::Typed(value) => value,
        Raw::Text(text) => read_as(default, text.trim()).map_err(|message| Box::new(Problem::of(key, message)))?,
    };
    check_type(&value, default).map_err(|message| Box::new(Problem::of(key, message)))?;

    let (section, name) = key.split_once('.').unwrap_or((key, ""));
    let body = Table::from_iter([(name.to_owned(), value.clone())]);
    let alone = Value::Table(Table::from_iter([(section.to_owned(), Value::Table(body))]));
    match serde_path_to_error::deserialize::<_, Config>(alone) {
        Ok(_) => Ok(value),
        Err(error) => {
            // The path goes on into lists: `ws.allowed_origins[1]`.
            let path = error.path().to_string();
            let key = if path.starts_with(key) { path } else { key.to_owned() };
            let message = error.inner().message().replace("unknown variant", "unknown value");
            Err(Box::new(Problem::of(key, message)))
        }
    }
}

/// Text as a value of the default's type.
fn read_as(default: &Value, text: &str) -> Result<Value, String> {
    match default {
        Value::Integer(_) => match text.parse() {
            Ok(number) => Ok(Value::Integer(number)),
            Err(_) => Err(format!("{} is not a whole number such as {default}", quoted(text))),
        },
        Value::Boolean(_) => match text {
            "true" => Ok(Value::Boolean(true)),
            "false" => Ok(Value::Boolean(false)),
            _ => Err(format!("{} is neither true nor false", quoted(text))),
        },
        Value::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Ok(Value::String(text.to_owned())),
    }
}

/// Says what serde would say in the words of Rust's types.
fn check_type(value: &Value, default: &Value) -> Result<(), String> {
    let expected = match (default, value) {
        (Value::Integer(_), Value::Integer(number)) if *number < 0 => {
            return Err(format!("{number} is negative, expected 0 or more"));
        }
        (Value::Integer(_), other) if !other.is_integer() => format!("a whole number such as {default}"),
        (Value::Boolean(_), other) if !other.is_bool() => "true or false".to_owned(),
        // serde would take a date for its text, unquoted.
        (Value::String(_), Value::Datetime(_)) => "a string in quotes".to_owned(),
        (Value::Array(_), other) if !other.is_array() => "a list such as [\"a\", \"b\"]".to_owned(),
        _ => return Ok(()),
    };
    Err(format!("is of type {}, expected {expected}", value.type_str()))
}

#[cfg(test)]
mod tests;
