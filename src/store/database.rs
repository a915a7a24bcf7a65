//! The file behind the store: opened with care, and opened anew after it failed.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::backends::InMemoryBackend;
use redb::{ReadTransaction, ReadableDatabase as _, WriteTransaction};

use super::{Outcome, StoreError};

/// Memory for pages: the tables are small, and redb's own default is 1 GiB.
const CACHE_BYTES: usize = 16 << 20;

/// The database, and where it is.
pub(super) struct Database {
    /// None while it could not be opened anew after a failure.
    open: RwLock<Option<redb::Database>>,
    /// None in memory.
    path: Option<PathBuf>,
}

impl Database {
    pub(super) fn in_memory() -> Result<Self, StoreError> {
        let database = builder().create_with_backend(InMemoryBackend::new()).map_err(|error| StoreError::of(&error))?;
        Ok(Self { open: RwLock::new(Some(database)), path: None })
    }

    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let database = if was_made(path)? { open(path) } else { make(path) };
        Ok(Self { open: RwLock::new(Some(database?)), path: Some(path.to_owned()) })
    }

    /// One transaction, synced when this returns. After a failure in the file the database is closed: redb takes no more of a file that
    /// failed once, and the next write opens it anew.
    pub(super) fn write(&self, work: impl FnOnce(&WriteTransaction) -> Outcome<()>) -> Result<(), StoreError> {
        self.reopen()?;
        let written = {
            let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
            let Some(database) = &*open else { return Err(StoreError::Failed("it is closed".into())) };
            catch_unwind(AssertUnwindSafe(|| commit(database, work)))
        };
        let written = written.unwrap_or_else(|_| Err(redb::Error::Corrupted("redb panicked".to_owned())));
        written.map_err(|error| {
            if self.path.is_some() {
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            StoreError::of(&error)
        })
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Outcome<T>) -> Result<T, StoreError> {
        self.reopen()?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = &*open else { return Err(StoreError::Failed("it is closed".into())) };
        let read = || work(&database.begin_read()?);
        let read = catch_unwind(AssertUnwindSafe(read));
        read.unwrap_or_else(|_| Err(redb::Error::Corrupted("redb panicked".to_owned())))
            .map_err(|error| StoreError::of(&error))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        if self.open.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let Some(path) = &self.path else { return Ok(()) };
        let mut closed = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if closed.is_none() {
            *closed = Some(open(path)?);
        }
        Ok(())
    }
}

fn builder() -> redb::Builder {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// The file beside the database that says that there is one: without it, one that somebody took away would begin anew without a word.
fn mark(path: &Path) -> PathBuf {
    path.with_extension("made")
}

fn was_made(path: &Path) -> Result<bool, StoreError> {
    let mark = mark(path);
    mark.try_exists().map_err(|error| StoreError::Failed(format!("{}: {error}", mark.display()).into()))
}

/// Makes the file if it is not there, and notes that; both are durable when this returns.
fn make(path: &Path) -> Result<redb::Database, StoreError> {
    let database = opened(path, |path| builder().create(path))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let noted = || {
        let directory = File::open(directory)?;
        // The file first: the mark must not be there without it.
        directory.sync_all()?;
        File::create(mark(path))?.sync_all()?;
        directory.sync_all()
    };
    noted().map_err(|error: io::Error| StoreError::Failed(format!("{}: {error}", mark(path).display()).into()))?;
    Ok(database)
}

/// Opens the file that was made.
fn open(path: &Path) -> Result<redb::Database, StoreError> {
    let gone = match path.metadata() {
        Ok(found) if found.len() == 0 => "is empty",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is missing",
        // What else is wrong with it is found out by opening it.
        _ => return opened(path, |path| builder().open(path)),
    };
    Err(StoreError::Failed(
        format!(
            "{} {gone}, and the stored messages and the positions of consumers were in it: put it back, or, to go on without them, remove {}",
            path.display(),
            mark(path).display()
        )
        .into(),
    ))
}

/// Damage from outside may make redb panic where it opens a file.
fn opened(
    path: &Path,
    open: impl FnOnce(&Path) -> Result<redb::Database, redb::DatabaseError>,
) -> Result<redb::Database, StoreError> {
    let opened = catch_unwind(AssertUnwindSafe(|| open(path)));
    let opened = opened.map_err(|_| StoreError::Failed(format!("{} is damaged", path.display()).into()))?;
    opened.map_err(|error| StoreError::Failed(format!("{}: {error}", path.display()).into()))
}

fn commit(database: &redb::Database, work: impl FnOnce(&WriteTransaction) -> Outcome<()>) -> Outcome<()> {
    let mut transaction = database.begin_write()?;
    // Recovery then needs no walk through the whole file.
    transaction.set_quick_repair(true);
    work(&transaction)?;
    transaction.commit()?;
    Ok(())
}
