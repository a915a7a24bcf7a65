//! The data directory: who holds it, of what format and epoch it is, and where things are in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::OpenError;
use super::segment::VERSION;
use crate::position::{Epoch, Offset};

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const JOURNAL: &str = "journal";
const STORE: &str = "store.redb";
const TITLE: &str = "heartwire data directory";

/// The data directory, held by this process for as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked; the system lets go of it with the process, however that ends.
    _lock: File,
}

/// What the file `FORMAT` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Format {
    pub(super) epoch: Epoch,
    /// The epoch's first offset: with it, a log whose oldest segments are gone is told from one that begins.
    pub(super) first: Offset,
}

impl DataDir {
    /// Makes the directory if it is not there, and takes hold of it.
    ///
    /// # Errors
    /// [`OpenError`]: it is no directory, may not be written, or another process has it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let unusable = |error: io::Error| OpenError::Unusable { path: path.to_owned(), error };
        match fs::metadata(path) {
            Ok(found) if !found.is_dir() => return Err(unusable(io::ErrorKind::NotADirectory.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path).map_err(unusable)?,
            Err(error) => return Err(unusable(error)),
        }
        let lock = path.join(LOCK);
        let lock =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(lock).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(unusable(error)),
        }
        let directory = Self { path: path.to_owned(), _lock: lock };
        make(&directory.journal()).map_err(unusable)?;
        Ok(directory)
    }

    /// The file for what is kept beside the log.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join(STORE)
    }

    /// Where segments and checkpoints are.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// What `FORMAT` says; none in a directory that is new.
    pub(super) fn format(&self) -> Result<Option<Format>, OpenError> {
        let path = self.path.join(FORMAT);
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(OpenError::Io { path, error }),
        };
        parse(&text).map(Some).map_err(|problem| match problem {
            Problem::Newer(found) => OpenError::Newer { path: self.path.clone(), found, known: VERSION },
            Problem::Unreadable => OpenError::Format { path },
        })
    }

    /// Says of what format and epoch the directory is; durable when this returns.
    pub(super) fn set_format(&self, format: Format) -> io::Result<()> {
        let text = format!("{TITLE}\nversion {VERSION}\nepoch {}\nfirst {}\n", format.epoch, format.first);
        let text = format!("{text}crc32c {:08x}\n", crc32c::crc32c(text.as_bytes()));
        let new = self.path.join("FORMAT.new");
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, self.path.join(FORMAT))?;
        File::open(&self.path)?.sync_all()
    }
}

/// Makes a directory and those above it that are missing; they are there after a loss of power too when this returns.
fn make(path: &Path) -> io::Result<()> {
    let parents = parents_of_missing(path);
    fs::create_dir_all(path)?;
    parents.iter().try_for_each(|parent| File::open(parent)?.sync_all())
}

/// The directories that get a new name in them when one is made with all that is missing above it, the innermost first.
fn parents_of_missing(path: &Path) -> Vec<PathBuf> {
    let missing = path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let here = |parent: &Path| if parent.as_os_str().is_empty() { ".".into() } else { parent.to_owned() };
    missing.filter_map(Path::parent).map(here).collect()
}

enum Problem {
    Newer(u32),
    Unreadable,
}

/// The version is looked at first and by itself: what a newer one has in the other lines is not for us to judge.
fn parse(text: &str) -> Result<Format, Problem> {
    let mut lines = text.lines();
    if lines.next() != Some(TITLE) {
        return Err(Problem::Unreadable);
    }
    let mut word = |name: &str| {
        let value = lines.next()?.strip_prefix(name)?.strip_prefix(' ')?;
        Some(value.to_owned())
    };
    let version: u32 = word("version").and_then(|version| version.parse().ok()).ok_or(Problem::Unreadable)?;
    if version > VERSION {
        return Err(Problem::Newer(version));
    }
    let epoch = word("epoch").and_then(|epoch| Epoch::parse(&epoch));
    let first = word("first").and_then(|first| first.parse().ok());
    let checksum = word("crc32c").and_then(|checksum| u32::from_str_radix(&checksum, 16).ok());
    let checked = text.rfind("crc32c ").map(|at| crc32c::crc32c(&text.as_bytes()[..at]));
    match (epoch, first) {
        (Some(epoch), Some(first)) if version == VERSION && checksum.is_some() && checksum == checked => {
            Ok(Format { epoch, first })
        }
        _ => Err(Problem::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_and_held_by_one_at_a_time() {
        let scratch = tempfile::tempdir().expect("a directory");
        let path = scratch.path().join("a/b");
        let held = DataDir::open(&path).expect("made");
        let error = DataDir::open(&path).expect_err("held").to_string();
        assert!(error.contains("held by another process") && error.contains(&path.display().to_string()), "{error}");
        drop(held);
        assert!(DataDir::open(&path).is_ok());
    }

    #[test]
    fn every_directory_that_gets_a_new_name_in_it_is_known_before() {
        let scratch = tempfile::tempdir().expect("a directory");
        let root = scratch.path();
        assert_eq!(parents_of_missing(&root.join("a/b/c")), [root.join("a/b"), root.join("a"), root.to_owned()]);
        make(&root.join("a/b")).expect("made");
        assert_eq!(parents_of_missing(&root.join("a/b/c")), [root.join("a/b")]);
        assert!(root.join("a/b").is_dir() && parents_of_missing(root).is_empty());
        assert_eq!(parents_of_missing(Path::new("not-here/either")), [Path::new("not-here"), Path::new(".")]);
    }

    #[test]
    fn what_cannot_be_a_data_directory_is_a_matter_of_configuration() {
        let scratch = tempfile::tempdir().expect("a directory");
        let file = scratch.path().join("file");
        fs::write(&file, "").expect("written");
        for path in [&file, &file.join("below")] {
            let error = DataDir::open(path).expect_err("no directory");
            assert!(error.is_configuration(), "{error}");
            let text = error.to_string();
            assert!(text.contains("log.data_dir") && text.contains(&path.display().to_string()), "{text}");
        }
    }

    #[test]
    fn the_format_reads_back_and_any_changed_byte_is_refused() {
        let scratch = tempfile::tempdir().expect("a directory");
        let directory = DataDir::open(scratch.path()).expect("opened");
        assert_eq!(directory.format().expect("none"), None);
        let format = Format { epoch: Epoch::random(), first: 42 };
        directory.set_format(format).expect("written");
        assert_eq!(directory.format().expect("read"), Some(format));
        let path = scratch.path().join(FORMAT);
        let bytes = fs::read(&path).expect("read");
        for at in 0..bytes.len() {
            for change in [1, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                fs::write(&path, &changed).expect("written");
                match directory.format() {
                    Ok(read) => assert_eq!(read, Some(format), "{at}"),
                    Err(error) => {
                        assert!(error.to_string().contains("FORMAT") || error.to_string().contains("version"))
                    }
                }
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_both_versions() {
        let scratch = tempfile::tempdir().expect("a directory");
        let directory = DataDir::open(scratch.path()).expect("opened");
        fs::write(scratch.path().join(FORMAT), format!("{TITLE}\nversion 7\nwho knows\n")).expect("written");
        let error = directory.format().expect_err("newer").to_string();
        assert!(error.contains("version 7") && error.contains("version 1"), "{error}");
    }
}
