//! Committing: a batch is ordered, written, synced, applied and shown, in this order.
//!
//! What failed is never synced again: the kernel may have thrown the pages away and called them clean. The batch is written anew to another
//! segment, which begins with its offset, and until that is synced nobody is told or shown anything of it.

use std::io;
use std::sync::{Arc, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::codec;
use super::disk::DiskFile;
use super::frame::{self, HEAD, Place};
use super::health::Part;
use super::segment::{HEADER, Header, Segment};
use super::{JournalLog, LEAST_BACKOFF, MOST_BACKOFF};
use crate::event::{Event, EventKind, Record};
use crate::log::{Apply, Log as _, Slot};
use crate::position::Offset;

/// The most events committed at once: at this many a sync costs each next to nothing.
const COMMIT_RECORDS: usize = 4_096;

/// The most bytes committed at once, about.
const COMMIT_BYTES: usize = 1 << 20;

/// What the committing thread has to itself.
pub(super) struct Writer {
    /// The file of the newest segment; none before the first, and after a failure.
    active: Option<Active>,
    /// Ordered, and not yet written.
    pending: Option<Batch>,
    /// The offset of the newest event that was ordered.
    newest: Offset,
    /// What is written, kept for its space.
    buffer: Frames,
}

/// A segment's file that is written to.
pub(super) struct Active {
    pub(super) file: Box<dyn DiskFile>,
    /// Bytes that are set aside for it.
    pub(super) size: u64,
}

/// Frames as they are written, and the size of each.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    sizes: Vec<usize>,
}

/// Events with their offsets, on their way to the disk.
struct Batch {
    records: Vec<Arc<Record>>,
    waiting: Vec<(oneshot::Sender<Offset>, Offset)>,
    submitted: Vec<Instant>,
    /// Given back once it is committed.
    slots: Vec<Slot>,
}

impl Writer {
    pub(super) fn new(active: Option<Active>, newest: Offset) -> Self {
        Self { active, pending: None, newest, buffer: Frames::default() }
    }
}

fn frame_bytes(event: &Event) -> usize {
    HEAD + frame::ALIGN + codec::most_bytes(event)
}

impl JournalLog {
    /// Commits until `stop`, then what is left, but does not try again any more what fails then.
    pub(super) fn write_until(&self, fold: &dyn Apply, runtime: &Handle, stop: &CancellationToken) {
        let mut backoff = LEAST_BACKOFF;
        loop {
            while self.commit_batch(fold) {
                backoff = LEAST_BACKOFF;
            }
            let behind = self.is_behind();
            if stop.is_cancelled() {
                return;
            }
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.queue.filled(), if !behind => {}
                    () = self.rotate.notified(), if !behind => self.leave_old(),
                    () = tokio::time::sleep(backoff), if behind => backoff = (backoff * 2).min(MOST_BACKOFF),
                }
            });
        }
    }

    /// Commits one batch. False if nothing was submitted, or if it failed; then the next call tries the same batch again.
    pub(super) fn commit_batch(&self, fold: &dyn Apply) -> bool {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = &mut *writer;
        let Some(batch) = writer.pending.take().or_else(|| self.take(&mut writer.newest)) else { return false };
        self.health.asked();
        let written = self.write(writer, &batch.records).inspect_err(|_| self.abandon(writer));
        self.health.answered();
        if let Err(error) = written {
            writer.pending = Some(batch);
            self.health.failed(Part::Commit, &format!("{}: {error}", self.directory.display()));
            return false;
        }
        self.health.works(Part::Commit);
        let Batch { records, waiting, submitted, slots } = batch;
        let newest = writer.newest;
        self.ring().push(&records);
        fold.apply(&records);
        self.head.send_replace(newest);
        drop(slots);
        for (waiter, offset) in waiting {
            // Whoever asked may have given up; the event stands.
            let _ = waiter.send(offset);
        }
        // Read once: all of the batch is committed at the same moment.
        let now = Instant::now();
        for (record, submitted) in records.iter().zip(submitted) {
            self.metrics.commit_seconds.observe(now.saturating_duration_since(submitted).as_secs_f64());
            self.metrics.events.of(record.event.kind.tag()).inc();
        }
        true
    }

    /// Takes the next batch from the queue and orders it.
    fn take(&self, newest: &mut Offset) -> Option<Batch> {
        // It fits in one segment.
        let most = COMMIT_BYTES.min(self.segment_bytes - HEADER);
        let entries = self.queue.take(COMMIT_RECORDS, most, frame_bytes);
        if entries.is_empty() {
            return None;
        }
        let mut batch = Batch {
            records: Vec::with_capacity(entries.len()),
            waiting: Vec::new(),
            submitted: Vec::with_capacity(entries.len()),
            slots: Vec::new(),
        };
        for entry in entries {
            *newest += 1;
            let offset = *newest;
            if let EventKind::Connected(_) = entry.event.kind {
                entry.event.connection.set_generation(offset);
            }
            if let Some(waiter) = entry.committed {
                batch.waiting.push((waiter, offset));
            }
            batch.submitted.push(entry.submitted);
            batch.slots.extend(entry.slot);
            batch.records.push(Arc::new(Record { offset, event: entry.event }));
        }
        Some(batch)
    }

    /// Whether a batch waits for the disk.
    pub(super) fn is_behind(&self) -> bool {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).pending.is_some()
    }

    /// Whether everything that was ordered is committed.
    pub(super) fn is_caught_up(&self) -> bool {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.pending.is_none() && writer.newest == *self.head.borrow()
    }

    /// Writes and syncs a batch; durable when this returns.
    fn write(&self, writer: &mut Writer, records: &[Arc<Record>]) -> io::Result<()> {
        let Some(first) = records.first() else { return Ok(()) };
        let place = self.kept().current().map(|segment| (segment.salt, segment.end));
        let fits = match (&writer.active, place) {
            (Some(active), Some((salt, end))) => {
                encode(records, salt, &mut writer.buffer);
                end + writer.buffer.bytes.len() as u64 <= active.size
            }
            _ => false,
        };
        if !fits {
            let most: usize = records.iter().map(|record| frame_bytes(&record.event)).sum();
            self.begin_segment(writer, first.offset, most)?;
            if let Some(segment) = self.kept().current() {
                encode(records, segment.salt, &mut writer.buffer);
            }
        }
        let end = self.kept().current().map_or(0, |segment| segment.end);
        let Some(active) = &writer.active else { return Err(io::ErrorKind::NotFound.into()) };
        active.file.write(&writer.buffer.bytes, end)?;
        self.sync(&*active.file)?;
        if let Some(segment) = self.kept().current() {
            for (record, size) in records.iter().zip(&writer.buffer.sizes) {
                segment.push(record.event.time, *size);
            }
        }
        if writer.buffer.bytes.capacity() > 2 * COMMIT_BYTES {
            writer.buffer = Frames::default();
        }
        Ok(())
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        let begun = Instant::now();
        let synced = file.sync();
        self.metrics.journal_syncs.inc();
        self.metrics.journal_sync_seconds.observe(begun.elapsed().as_secs_f64());
        synced
    }

    /// Goes on to a new segment that begins with `first` and has room for a batch of so many bytes.
    fn begin_segment(&self, writer: &mut Writer, first: Offset, room: usize) -> io::Result<()> {
        if let Some(active) = writer.active.take() {
            // Its unused space is given back. If that fails, it is only space.
            let end = self.kept().current().map_or(u64::MAX, |segment| segment.end);
            let _ = active.file.truncate(end.min(active.size));
        }
        let size = self.segment_bytes.max((HEADER + room).next_multiple_of(4096)) as u64;
        let header = Header::new(self.epoch, first);
        let segment = Segment::empty(&self.directory, header);
        let (path, file) = match self.spare.take(size) {
            Some(spare) => spare,
            None => self.spare.make(&*self.disk, size)?,
        };
        let renamed = file
            .write(&header.to_bytes(), 0)
            .and_then(|()| self.sync(&*file))
            .and_then(|()| self.disk.rename(&path, &segment.path));
        if let Err(error) = renamed {
            drop(file);
            // Its space is needed for the next try.
            let _ = self.disk.remove(&path);
            return Err(error);
        }
        if let Err(error) = self.disk.sync_directory(&self.directory) {
            // The file stays, for it may have taken the place of the only segment there is; its space is needed for the next try.
            let _ = file.truncate(HEADER as u64);
            return Err(error);
        }
        self.kept().begin(segment, size);
        writer.active = Some(Active { file, size });
        self.keep.notify_one();
        Ok(())
    }

    /// Leaves a segment in which something failed. What is committed stays. An empty one stays too, until the next takes its name: all the
    /// others may be forgotten, and a directory without any segment could not be told from one that lost them.
    fn abandon(&self, writer: &mut Writer) {
        let Some(active) = writer.active.take() else { return };
        let end = self.kept().current().map_or(u64::MAX, |segment| segment.end);
        let _ = active.file.truncate(end.min(active.size));
    }

    /// Goes on to a new segment when all events of the present one are forgotten, so that its file can go.
    pub(super) fn leave_old(&self) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let first = writer.newest + 1;
        let old = self.kept().current().is_some_and(|segment| !segment.is_empty()) && self.bounds().records == 0;
        if !old || writer.pending.is_some() {
            return;
        }
        let begun = self.begin_segment(&mut writer, first, 0);
        drop(writer);
        match begun {
            // Now the old one can go.
            Ok(()) => self.retain(),
            // Not at once again: the next look for what is too old comes soon enough.
            Err(error) => {
                tracing::warn!(%error, "cannot begin a new segment of the log; it is tried again with the next event, or soon");
            }
        }
    }
}

/// The batch as it is written.
fn encode(records: &[Arc<Record>], salt: frame::Salt, frames: &mut Frames) {
    let Frames { bytes, sizes } = frames;
    bytes.clear();
    sizes.clear();
    for (index, record) in records.iter().enumerate() {
        let place = Place { offset: record.offset, index: index as u32, last: index + 1 == records.len() };
        let start = bytes.len();
        frame::put(bytes, salt, place, |out| codec::encode(&record.event, out));
        sizes.push(bytes.len() - start);
    }
}
