//! The configuration file, taken apart into single settings, each with its place.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::error::Problem;
use super::known::Known;
use super::load::{Entry, Raw, Setting};
use super::source::{Origin, Place};

/// The settings in a file and the mistaken ones, in its order; an error when there is no reading it at all.
pub(super) fn read(path: &Path, known: &Known) -> Result<Vec<Entry>, Box<Problem>> {
    let fail =
        |message: String, place| Box::new(Problem::general(message).at(Origin::File { path: path.to_owned(), place }));
    let text = fs::read_to_string(path).map_err(|error| fail(format!("cannot be read: {error}"), None))?;
    let table = DeTable::parse(&text)
        .map_err(|error| fail(error.message().to_owned(), error.span().map(|span| place(&text, span.start))))?;
    let mut reader = Reader { path, text: &text, known, entries: Vec::new() };
    reader.sections(table.into_inner());
    Ok(reader.entries)
}

/// One pass over a parsed file.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    known: &'a Known,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    fn sections(&mut self, table: DeTable<'_>) {
        for (name, body) in in_order(table) {
            let origin = self.origin(name.span().start);
            let name = name.into_inner().into_owned();
            let is_section = self.known.has_section(&name);
            let message = match body.into_inner() {
                DeValue::Table(body) if is_section => {
                    self.section(&name, body);
                    continue;
                }
                DeValue::Table(_) => self.known.unknown_section(&name),
                _ if is_section => format!("is a section, expected [{name}] and its keys under it"),
                _ => format!("{}; keys belong in a section such as [ws]", self.known.unknown_key(&name)),
            };
            self.refuse(name, message, origin);
        }
    }

    fn section(&mut self, section: &str, body: DeTable<'_>) {
        for (name, value) in in_order(body) {
            let origin = self.origin(name.span().start);
            let key = format!("{section}.{}", name.into_inner());
            if self.known.default_of(&key).is_none() {
                let message = self.known.unknown_key(&key);
                self.refuse(key, message, origin);
                continue;
            }
            match plain(value) {
                Ok(value) => self.entries.push(Ok(Setting { key, value: Raw::Typed(value), origin })),
                Err(error) => self.refuse(key, error.message().to_owned(), origin),
            }
        }
    }

    fn refuse(&mut self, key: String, message: String, origin: Origin) {
        self.entries.push(Err(Box::new(Problem::of(key, message).at(origin))));
    }

    fn origin(&self, offset: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), place: Some(place(self.text, offset)) }
    }
}

type Named<'i> = (Spanned<Cow<'i, str>>, Spanned<DeValue<'i>>);

/// As the file has them, where a table sorts them by name.
fn in_order(table: DeTable<'_>) -> Vec<Named<'_>> {
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn plain(value: Spanned<DeValue<'_>>) -> Result<Value, toml::de::Error> {
    let deserializer: ValueDeserializer<'_> = value.into_deserializer();
    Value::deserialize(deserializer)
}

fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.bytes().filter(|byte| *byte == b'\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_lines_and_characters() {
        let text = "a\néb = 1";
        assert_eq!(place(text, 0), Place { line: 1, column: 1 });
        assert_eq!(place(text, 4), Place { line: 2, column: 2 });
        assert_eq!(place(text, 3), Place { line: 2, column: 6 + 1 }, "inside a character counts as the end");
        assert_eq!(place(text, 999), Place { line: 2, column: 6 + 1 });
    }
}
