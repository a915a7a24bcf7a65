//! The log on disk: committed means written and synced. It outlives the process, and its next run goes on in the same epoch.
//!
//! - `codec` and `frame` say what bytes a record is, `segment` what a file of them is, `disk` what is asked of a file system.
//! - `directory` holds the data directory; `recovery` reads all of it at the start; `opens` is who was connected then.
//! - `commit` writes batches, one write and one sync each; `keeper` does beside it what takes time: the spare segment, checkpoints, and
//!   removing what is forgotten.
//! - `kept` knows the segments and forgets the oldest; `reader` reads them; `health` says whether all this works.

mod checkpoint;
mod codec;
mod commit;
mod directory;
mod disk;
mod error;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod keeper;
mod kept;
mod opens;
mod reader;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use codec::tests::record as any_record;
pub use directory::DataDir;
pub use error::OpenError;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::commit::Writer;
use self::directory::Format;
use self::disk::{Disk, RealDisk};
use self::health::Health;
use self::keeper::{Keeper, Spare};
use self::kept::Kept;
use self::opens::Open;
use self::recovery::{LastSegment, Recovered, recover};
use self::segment::HEADER;
use super::queue::SubmitQueue;
use super::ring::Ring;
use super::{Bounds, BoxFuture, Budget, Checkpoint, Entry, Log, LogHealth, ReadError, Retention};
use crate::clock::Clock;
use crate::close::CloseReason;
use crate::event::{Disconnected, Event, EventKind, Record, Unacked};
use crate::metrics::Metrics;
use crate::position::{Epoch, Offset};

/// The bytes of events that may wait to be committed.
const QUEUE_BYTES: usize = 32 << 20;

/// The newest records are kept in memory too, for readers that keep up; at most so many bytes of them.
const RING_BYTES: usize = 16 << 20;

/// Reads of files under way at once; further ones wait. Each holds about a mebibyte.
const FILE_READS: usize = 8;

/// The size of segment files: a part of what is kept, so that forgetting the oldest forgets little.
const SEGMENT_PART: usize = 16;
const LEAST_SEGMENT: usize = 64 << 10;
const MOST_SEGMENT: usize = 16 << 20;

/// What an event takes in a file beyond its payload, at most: its labels twice, names, the ids of unacknowledged messages.
const EVENT_OVERHEAD: usize = 24 << 10;

/// How often it is looked whether the disk answers.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Between one try and the next of something that failed.
const LEAST_BACKOFF: Duration = Duration::from_millis(100);
const MOST_BACKOFF: Duration = Duration::from_secs(1);

/// A log that is a directory of segment files.
pub struct JournalLog {
    epoch: Epoch,
    queue: SubmitQueue,
    budget: Budget,
    ring: Mutex<Ring>,
    kept: Mutex<Kept>,
    head: watch::Sender<Offset>,
    health: Health,
    /// Held throughout a commit; nobody else takes it.
    writer: Mutex<Writer>,
    /// Held throughout the slow work beside it; nobody else takes it.
    keeper: Mutex<Keeper>,
    spare: Spare,
    /// Wakes the writer for what is not in its queue.
    rotate: Notify,
    /// Wakes the keeper.
    keep: Notify,
    reads: Arc<Semaphore>,
    disk: Arc<dyn Disk>,
    /// Where the files are.
    directory: PathBuf,
    /// The data directory, held until the log has ended.
    held: Mutex<Option<DataDir>>,
    /// The size of a segment file.
    segment_bytes: usize,
    max_age: Option<Duration>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

impl JournalLog {
    /// The log in a data directory; a new epoch if there is none yet. Verifies all that is kept, and logs that the connections which the last
    /// run left open have ended. `max_payload` is the most bytes that one event carries for a client. Blocks, for as long as reading
    /// everything takes.
    ///
    /// # Errors
    /// [`OpenError`]; then nothing was changed, or only ends were logged that are owed.
    pub fn open(
        directory: DataDir,
        retention: Retention,
        max_payload: usize,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        Self::open_on(Arc::new(RealDisk), directory, retention, max_payload, clock, metrics)
    }

    fn open_on(
        disk: Arc<dyn Disk>,
        held: DataDir,
        retention: Retention,
        max_payload: usize,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let directory = held.journal();
        let (format, recovered) = begin_or_recover(&held, &clock)?;
        let Recovered { segments, last, opens, checkpoints } = recovered;
        let newest = segments.last().map_or(format.first - 1, |segment| segment.last);
        let active = match (last, segments.last()) {
            (Some(last), Some(segment)) => Some(settle(&*disk, segment, &last).map_err(OpenError::io(&segment.path))?),
            _ => None,
        };
        let segment_bytes = segment_bytes(retention.max_bytes, max_payload);
        // What the spare takes is not there for events.
        let limit = retention.max_bytes.saturating_sub(segment_bytes) as u64;
        let budget = Budget::new(QUEUE_BYTES);
        let log = Self {
            epoch: format.epoch,
            queue: SubmitQueue::default(),
            health: Health::new(budget.clone(), Arc::clone(&metrics)),
            budget,
            ring: Mutex::new(Ring::new(newest, RING_BYTES.min(retention.max_bytes))),
            kept: Mutex::new(Kept::new(segments, newest, limit, active.as_ref().map_or(0, |active| active.size))),
            head: watch::Sender::new(newest),
            writer: Mutex::new(Writer::new(active, newest)),
            keeper: Mutex::new(Keeper::new(checkpoints)),
            spare: Spare::adopt(&*disk, &directory, segment_bytes as u64).map_err(OpenError::io(&directory))?,
            rotate: Notify::new(),
            keep: Notify::new(),
            reads: Arc::new(Semaphore::new(FILE_READS)),
            disk,
            directory,
            held: Mutex::new(Some(held)),
            segment_bytes,
            max_age: retention.max_age,
            clock,
            metrics,
        };
        log.end_all(opens.into_sorted())?;
        // Nobody is connected now, so this is small, and the next start has little to replay.
        log.checkpoint(&mut log.keeper(), &(), false);
        log.retain();
        log.keep_up(&());
        Ok(log)
    }

    /// Logs the end of what the last run left open.
    fn end_all(&self, opens: Vec<Open>) -> Result<(), OpenError> {
        let count = opens.len();
        for open in opens {
            let time = self.clock.wall_nanos();
            let reason = CloseReason::NodeRestarted;
            let connected_for = u64::try_from(time.saturating_sub(open.info.connect_time)).unwrap_or(0);
            let end = Disconnected {
                cause: reason.cause(),
                code: reason.code(),
                reason: reason.text().into(),
                connected_for: Duration::from_nanos(connected_for),
                stats: None,
                unacked: Unacked::default(),
            };
            self.metrics.disconnects.of(end.cause).inc();
            let kind = EventKind::Disconnected(Box::new(end));
            self.submit(Entry::ending(Event { time, connection: open.info, labels: open.labels, kind }));
        }
        while self.commit_batch(&()) {}
        match &*self.health.watch().borrow() {
            LogHealth::Failing(why) if count > 0 => {
                return Err(OpenError::Failing { path: self.directory.clone(), why: Arc::clone(why) });
            }
            _ => {}
        }
        if count > 0 {
            tracing::info!(connections = count, "the last run left connections open; the log now says that they ended");
        }
        Ok(())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits what is submitted until `stop`, then what is left, and leaves the directory in order. Writing has threads of its own, so that
    /// a slow disk never takes one that heartbeats need.
    pub async fn run(self: Arc<Self>, fold: Arc<dyn Checkpoint + 'static>, stop: CancellationToken) {
        let runtime = tokio::runtime::Handle::current();
        let writing = {
            let (log, fold, runtime, stop) = (Arc::clone(&self), Arc::clone(&fold), runtime.clone(), stop.clone());
            tokio::task::spawn_blocking(move || log.write_until(&*fold, &runtime, &stop))
        };
        let keeping = {
            let (log, fold) = (Arc::clone(&self), Arc::clone(&fold));
            tokio::task::spawn_blocking(move || log.keep_until(&*fold, &runtime, &stop))
        };
        let ending = async {
            tokio::try_join!(writing, keeping)?;
            let log = Arc::clone(&self);
            tokio::task::spawn_blocking(move || log.end(&*fold)).await
        };
        let ended = self.watch_over(ending).await;
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    /// Looks after the disk while the threads that wait for it cannot.
    async fn watch_over<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => self.health.look(&self.directory),
            }
        }
    }

    /// Commits one batch: orders it, writes and syncs it, has it applied, and lets readers see it. False if nothing was submitted, or if it
    /// failed; then the batch is tried again by the next call. Does the slow work beside it too, where that is due.
    pub fn commit(&self, fold: &dyn Checkpoint) -> bool {
        let committed = self.commit_batch(fold);
        self.keep_up(fold);
        committed
    }

    /// The last checkpoint, which says that nothing follows; then the directory is let go of.
    fn end(&self, fold: &dyn Checkpoint) {
        if self.is_caught_up() {
            self.checkpoint(&mut self.keeper(), fold, true);
        }
        drop(self.held.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// The size of a segment file, which holds the largest event there may be.
fn segment_bytes(max_bytes: usize, max_payload: usize) -> usize {
    let part = (max_bytes / SEGMENT_PART).clamp(LEAST_SEGMENT, MOST_SEGMENT);
    part.max(HEADER + max_payload + EVENT_OVERHEAD).next_multiple_of(4096)
}

fn begin_or_recover(directory: &DataDir, clock: &Clock) -> Result<(Format, Recovered), OpenError> {
    let journal = directory.journal();
    let format = directory.format()?;
    if let Some(format) = format {
        let recovered = recover(&journal, format)?;
        if !recovered.segments.is_empty() || !recovered.checkpoints.is_empty() {
            return Ok((format, recovered));
        }
        // It was made, and nothing was ever written; or somebody took all of it away.
    } else if has_files(&journal).map_err(OpenError::io(&journal))? {
        return Err(OpenError::Missing {
            path: journal,
            what: "there is a journal, and the file FORMAT is missing beside it".into(),
        });
    }
    let known = format.map_or(0, |format| format.first);
    let format = Format { epoch: Epoch::random(), first: clock.wall_nanos().max(known + 1) };
    directory.set_format(format).map_err(OpenError::io(&journal))?;
    tracing::info!(epoch = %format.epoch, directory = %journal.display(), "a new log begins");
    Ok((format, recover(&journal, format)?))
}

fn has_files(directory: &std::path::Path) -> std::io::Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        if name.to_str().is_some_and(|name| segment::offset_of(name).is_some()) {
            return Ok(true);
        }
    }
    Ok(!checkpoint::list(directory)?.is_empty())
}

/// Makes the last segment fit to go on with: what is torn goes, and the last batch, which may have been on its way to the disk when the last
/// run ended, is written and synced again before anybody is shown it.
fn settle(disk: &dyn Disk, segment: &segment::Segment, last: &LastSegment) -> std::io::Result<commit::Active> {
    let file = disk.open(&segment.path)?;
    let mut size = last.length;
    if last.torn {
        file.truncate(segment.end)?;
        size = segment.end;
    }
    let (at, batch) = &last.batch;
    file.write(batch, *at)?;
    file.sync()?;
    Ok(commit::Active { file, size })
}

impl Log for JournalLog {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn bounds(&self) -> Bounds {
        let head = *self.head.borrow();
        let committed = self.ring().last();
        let kept = self.kept();
        let before_oldest = kept.before_oldest();
        Bounds {
            before_oldest,
            head,
            committed,
            oldest_time: kept.oldest_time(),
            records: usize::try_from(committed - before_oldest).unwrap_or(0),
            bytes: usize::try_from(kept.bytes()).unwrap_or(usize::MAX),
        }
    }

    fn head(&self) -> Offset {
        *self.head.borrow()
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn submit(&self, entry: Entry) {
        self.queue.push(entry);
    }

    fn submit_pair(&self, first: Entry, second: Entry) {
        self.queue.push_pair(first, second);
    }

    fn read(&self, after: Offset) -> BoxFuture<'_, Result<Vec<Arc<Record>>, ReadError>> {
        Box::pin(self.read_after(after))
    }

    fn watch_head(&self) -> watch::Receiver<Offset> {
        self.head.subscribe()
    }

    fn watch_health(&self) -> watch::Receiver<LogHealth> {
        self.health.watch()
    }

    fn retain(&self) {
        let Some(max_age) = self.max_age else { return };
        let age = i64::try_from(max_age.as_nanos()).unwrap_or(i64::MAX);
        let (current, dropped) = {
            let mut kept = self.kept();
            (kept.forget_before(self.clock.wall_nanos().saturating_sub(age)), kept.newest_dropped().is_some())
        };
        if current {
            self.rotate.notify_one();
        }
        if dropped {
            self.keep.notify_one();
        }
    }
}

impl JournalLog {
    async fn read_after(&self, after: Offset) -> Result<Vec<Arc<Record>>, ReadError> {
        let head = *self.head.borrow();
        if after < self.kept().before_oldest() {
            return Err(ReadError::Expired);
        }
        match self.ring().read(after, head) {
            // Older than what memory has.
            Err(ReadError::Expired) => {}
            read => return read,
        }
        // The semaphore is never closed.
        let place = Arc::clone(&self.reads).acquire_owned().await;
        let Some(spot) = self.kept().spot(after) else { return Err(ReadError::Expired) };
        let file = spot.path.clone();
        let reading = tokio::task::spawn_blocking(move || {
            // Its place is taken until it is done, whether anybody still waits for it or not.
            let _place = place;
            reader::read(&spot, after, head)
        });
        let read = reading.await;
        match read {
            Ok(Ok(records)) => Ok(records),
            Ok(Err(reader::Unread::Damaged(why))) => {
                tracing::error!(%why, "the log is damaged");
                Err(ReadError::Damaged(why))
            }
            Ok(Err(reader::Unread::Unavailable(why))) => {
                tracing::warn!(%why, "the log cannot be read now");
                Err(ReadError::Unavailable(why))
            }
            Ok(Err(reader::Unread::Gone)) if after < self.kept().before_oldest() => Err(ReadError::Expired),
            Ok(Err(reader::Unread::Gone)) => {
                Err(ReadError::Damaged(format!("{} is not there any more", file.display()).into()))
            }
            Err(_) => Err(ReadError::Unavailable(format!("reading {} was cut short", file.display()).into())),
        }
    }
}
