//! Where configuration comes from.

use std::fmt;
use std::path::PathBuf;

use super::error::printable;

/// The layers of a configuration, each over the one before it, all over the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// A TOML file. One that is named and cannot be read is an error.
    pub file: Option<PathBuf>,
    /// Environment variables, name and value; those that do not begin with `HEARTWIRE_` are ignored.
    pub env: Vec<(String, String)>,
    /// Flags: `section.key` and value. Of two for one key the later wins.
    pub overrides: Vec<(String, String)>,
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Where in it, if known.
        place: Option<Place>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// The command line.
    Flag,
}

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, place } => {
                f.write_str(&printable(&path.to_string_lossy()))?;
                match place {
                    Some(Place { line, column }) => write!(f, ", line {line}, column {column}"),
                    None => Ok(()),
                }
            }
            Self::Environment { name } => write!(f, "environment variable {}", printable(name)),
            Self::Flag => f.write_str("command-line flag"),
        }
    }
}
