//! Why a data directory cannot be used.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::position::Offset;

/// Why a data directory cannot be used. Each names the key, the path and what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no directory, cannot be made, or cannot be written to.
    #[error("log.data_dir: cannot keep data in {}: {error}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// Another process has it.
    #[error("log.data_dir: {} is held by another process; only one can have a data directory", path.display())]
    Held {
        /// The directory.
        path: PathBuf,
    },
    /// A newer version made it.
    #[error(
        "log.data_dir: {} is of format version {found}, and this Heartwire knows up to version {known}: run the newer \
         one again, or name another directory", path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// The file that says what the directory is cannot be understood.
    #[error("log.data_dir: {} is damaged: {ADVICE}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
    },
    /// What is in a file is not what was written.
    #[error("log.data_dir: {}, byte {at}: {what}. Nothing was changed: {ADVICE}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in it.
        at: u64,
        /// What is wrong there.
        what: String,
    },
    /// Records that must be there are in no file.
    #[error("log.data_dir: {}: {what}. Nothing was changed: {ADVICE}", path.display())]
    Missing {
        /// The directory, or the file next to the gap.
        path: PathBuf,
        /// What is not there.
        what: String,
    },
    /// A file cannot be read or written.
    #[error("log.data_dir: {}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// The ends that are owed cannot be written.
    #[error("log.data_dir: {}: cannot log that the last run's connections ended: {why}", path.display())]
    Failing {
        /// The directory.
        path: PathBuf,
        /// The cause.
        why: Arc<str>,
    },
}

const ADVICE: &str =
    "restore the directory from a copy, or move it away; a new one begins a new epoch, and backends are told so";

impl OpenError {
    /// Whether another configuration, rather than a repair, would help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Unusable { .. })
    }

    pub(super) fn damaged(path: &Path, at: u64, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), at, what: what.into() }
    }

    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { path: path.to_owned(), error }
    }

    pub(super) fn gap(path: &Path, from: Offset, to: Offset) -> Self {
        Self::Missing { path: path.to_owned(), what: format!("the events at offsets {from} to {to} are missing there") }
    }
}
