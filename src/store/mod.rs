//! The store: what must outlive the process beside the log (named positions, mailboxes), in one transactional file; in memory where there
//! is no data directory.
//!
//! One thread owns the writes. What waits when it is free goes into one transaction with one sync, so that many small writes cost little
//! more than one. The modules that keep something here define their own tables; a table belongs to one module.

mod database;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use database::Database;
pub use redb::{
    ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    WriteTransaction,
};

/// Writes that may wait for the thread. When it is full a writer waits, up to [`DEADLINE`].
const QUEUE: usize = 1_024;

/// Writes that share a transaction at most.
const BATCH: usize = 512;

/// Reads at once; more of them wait, up to [`DEADLINE`]. Each has a thread, also when whoever asked has given up on a disk that does not answer.
const READS: usize = 64;

/// How long a write waits for room in the queue, and then for its sync; and a read for all it waits for.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot write or read; says why, for people. The write did not happen, or, if the failure was in the last step, may turn out to have
    /// happened after a restart.
    #[error("the store failed: {0}")]
    Failed(Arc<str>),
    /// The queue was full for [`DEADLINE`]. The write did not happen.
    #[error("the store is too busy")]
    Busy,
    /// The write was not synced within [`DEADLINE`], and may still happen; or nothing was read within it.
    #[error("the store did not finish in time")]
    Late,
}

impl StoreError {
    fn of(error: &impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string().into())
    }
}

/// What a write or read does within its transaction. It decides before it changes anything: an error is one of the storage, undoes the
/// transaction, and with it the writes that share it.
pub type Outcome<T> = Result<T, redb::Error>;

/// A handle to the store; cheap to clone. The thread ends with the last handle.
#[derive(Clone)]
pub struct Store {
    writes: mpsc::Sender<Box<dyn Write>>,
    database: Arc<Database>,
    reads: Arc<Semaphore>,
}

impl Store {
    /// A store that ends with the process.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if its thread cannot be started.
    pub fn in_memory() -> Result<Self, StoreError> {
        Self::over(Database::in_memory()?)
    }

    /// The store in a file, which is made if it never was there: a file beside it notes that it was made. Repairs by itself what an unclean end left.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if it is damaged, missing, held by another process, or cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::over(Database::open(path)?)
    }

    fn over(database: Database) -> Result<Self, StoreError> {
        let database = Arc::new(database);
        let (writes, queue) = mpsc::channel(QUEUE);
        let owned = Arc::clone(&database);
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || run(&owned, queue))
            .map_err(|error| StoreError::of(&error))?;
        Ok(Self { writes, database, reads: Arc::new(Semaphore::new(READS)) })
    }

    /// Writes, and answers once it is synced.
    ///
    /// # Errors
    /// [`StoreError`]. Dropping the future withdraws nothing.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let write = Box::new(Pending { work: Some(work), done: None, answer });
        timeout(DEADLINE, self.writes.send(write))
            .await
            .map_err(|_| StoreError::Busy)?
            .map_err(|_| StoreError::Failed("its thread has ended".into()))?;
        let answered = timeout(DEADLINE, answered).await.map_err(|_| StoreError::Late)?;
        answered.unwrap_or_else(|_| Err(StoreError::Failed("its thread has ended".into())))
    }

    /// Reads what is synced.
    ///
    /// # Errors
    /// [`StoreError::Failed`], or [`StoreError::Late`].
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Outcome<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (database, reads) = (Arc::clone(&self.database), Arc::clone(&self.reads));
        let cut_short = || StoreError::Failed("the read was cut short".into());
        let reading = async {
            let place = reads.acquire_owned().await.map_err(|_| cut_short())?;
            let read = tokio::task::spawn_blocking(move || {
                let read = database.read(work);
                drop(place);
                read
            });
            read.await.unwrap_or_else(|_| Err(cut_short()))
        };
        timeout(DEADLINE, reading).await.unwrap_or(Err(StoreError::Late))
    }

    /// Reads before there is a runtime, at the start.
    ///
    /// # Errors
    /// [`StoreError::Failed`].
    pub fn read_now<T>(&self, work: impl FnOnce(&ReadTransaction) -> Outcome<T>) -> Result<T, StoreError> {
        self.database.read(work)
    }
}

/// A failure of the storage, for tests of those who write.
#[cfg(test)]
pub(crate) fn made_up_failure() -> redb::Error {
    redb::Error::Corrupted("made up".to_owned())
}

/// One write on its way: done in a transaction, then told how the transaction went.
trait Write: Send {
    fn work(&mut self, transaction: &WriteTransaction) -> Outcome<()>;
    fn tell(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Pending<T, F> {
    work: Option<F>,
    done: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T: Send, F: FnOnce(&WriteTransaction) -> Outcome<T> + Send> Write for Pending<T, F> {
    fn work(&mut self, transaction: &WriteTransaction) -> Outcome<()> {
        if let Some(work) = self.work.take() {
            self.done = Some(work(transaction)?);
        }
        Ok(())
    }

    fn tell(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { done, answer, .. } = *self;
        let not_reached = || StoreError::Failed("another write of the same transaction failed".into());
        // Whoever asked may have given up.
        let _ = answer.send(outcome.and_then(|()| done.ok_or_else(not_reached)));
    }
}

fn run(database: &Database, mut queue: mpsc::Receiver<Box<dyn Write>>) {
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let outcome = database.write(|transaction| batch.iter_mut().try_for_each(|write| write.work(transaction)));
        for write in batch {
            write.tell(outcome.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: TableDefinition<'_, &str, u64> = TableDefinition::new("words");

    fn put(word: &'static str, value: u64) -> impl FnOnce(&WriteTransaction) -> Outcome<()> + Send + 'static {
        move |transaction| {
            transaction.open_table(WORDS)?.insert(word, value)?;
            Ok(())
        }
    }

    async fn get(store: &Store, word: &'static str) -> Option<u64> {
        let read = store.read(move |transaction| Ok(transaction.open_table(WORDS)?.get(word)?.map(|v| v.value())));
        read.await.expect("read")
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_the_store_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store.redb");
        let store = Store::open(&path).expect("opened");
        store.write(put("a", 1)).await.expect("written");
        let all = (0..100).map(|i| store.write(put("b", i)));
        assert!(futures_util::future::join_all(all).await.iter().all(Result::is_ok));
        assert_eq!(get(&store, "a").await, Some(1));
        drop(store);
        // The thread lets go of the file when it notices.
        let store = loop {
            match Store::open(&path) {
                Ok(store) => break store,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert_eq!((get(&store, "a").await, get(&store, "b").await), (Some(1), Some(99)));
    }

    #[tokio::test]
    async fn a_failed_write_changes_nothing_and_the_next_one_works() {
        let store = Store::in_memory().expect("a store");
        store.write(put("a", 1)).await.expect("written");
        let failing = store.write(|transaction| {
            transaction.open_table(WORDS)?.insert("a", 2)?;
            Err::<(), _>(redb::Error::Corrupted("made up".to_owned()))
        });
        assert!(matches!(failing.await, Err(StoreError::Failed(why)) if why.contains("made up")));
        assert_eq!(get(&store, "a").await, Some(1));
        store.write(put("a", 3)).await.expect("written");
        assert_eq!(get(&store, "a").await, Some(3));
    }

    #[tokio::test]
    async fn a_read_that_does_not_end_is_given_up_and_so_is_one_that_finds_no_place() {
        let store = Store::in_memory().expect("a store");
        store.write(put("a", 1)).await.expect("written");
        let (go_on, told) = std::sync::mpsc::channel::<()>();
        let told = Arc::new(std::sync::Mutex::new(told));
        let mut stuck = tokio::task::JoinSet::new();
        for _ in 0..=READS {
            let (store, told) = (store.clone(), Arc::clone(&told));
            stuck.spawn(async move {
                let read = store.read(move |_| {
                    let _ = told.lock().map(|told| told.recv());
                    Ok(())
                });
                read.await
            });
        }
        tokio::task::yield_now().await;
        tokio::time::pause();
        let mut late = 0;
        for _ in 0..100 {
            tokio::time::advance(Duration::from_secs(1)).await;
            while let Some(outcome) = stuck.try_join_next() {
                assert_eq!(outcome.expect("done"), Err(StoreError::Late));
                late += 1;
            }
        }
        assert_eq!(late, READS + 1);
        tokio::time::resume();
        drop(go_on);
        assert_eq!(get(&store, "a").await, Some(1));
    }

    #[tokio::test]
    async fn a_file_that_was_made_and_is_gone_is_not_made_anew_without_a_word() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store.redb");
        drop(Store::open(&path).expect("made"));
        while Store::open(&path).is_err() {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(&path).expect("removed");
        let refused = || Store::open(&path).err().expect("refused").to_string();
        let text = refused();
        assert!(text.contains("store.redb is missing") && text.contains("store.made"), "{text}");
        assert!(!path.exists());
        std::fs::write(&path, "").expect("written");
        assert!(refused().contains("store.redb is empty"));
        std::fs::remove_file(directory.path().join("store.made")).expect("removed");
        let store = Store::open(&path).expect("made anew");
        store.write(put("a", 1)).await.expect("written");
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store.redb");
        let garbage = vec![0xA5; 8192];
        std::fs::write(&path, &garbage).expect("written");
        assert!(matches!(Store::open(&path), Err(StoreError::Failed(_))));
        assert_eq!(std::fs::read(&path).expect("read"), garbage);
    }
}
