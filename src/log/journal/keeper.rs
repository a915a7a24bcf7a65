//! What is done beside committing, because it takes time: keeping a spare segment, checkpoints, and removing what is forgotten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::checkpoint::{self, KEPT, Written};
use super::disk::{Disk, DiskFile};
use super::health::{Health, Part};
use super::{JournalLog, LEAST_BACKOFF, MOST_BACKOFF};
use crate::event::Record;
use crate::log::{Apply, Checkpoint, FoldPart};
use crate::position::Offset;

const PREFIX: &str = "spare-";

/// A segment file that is set aside: when the disk is full, what is already queued can still be written, owed ends above all.
pub(super) struct Spare {
    directory: PathBuf,
    /// What a spare takes.
    size: u64,
    /// Names are not used twice, so that making one never gets in the way of one that is just becoming a segment.
    number: AtomicU64,
    file: Mutex<Option<(PathBuf, Box<dyn DiskFile>)>>,
}

impl Spare {
    /// The spare that the last run left, if there is one; what it left besides goes.
    pub(super) fn adopt(disk: &dyn Disk, directory: &Path, size: u64) -> io::Result<Self> {
        let mut kept = None;
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| name.starts_with(PREFIX)) {
                continue;
            }
            let path = entry.path();
            if kept.is_none() && entry.metadata()?.len() == size {
                kept = Some((path.clone(), disk.open(&path)?));
            } else {
                disk.remove(&path)?;
            }
        }
        let number = AtomicU64::new(fastrand::u64(..) >> 1);
        Ok(Self { directory: directory.to_owned(), size, number, file: Mutex::new(kept) })
    }

    /// Takes the spare, if it is there and large enough.
    pub(super) fn take(&self, size: u64) -> Option<(PathBuf, Box<dyn DiskFile>)> {
        if size > self.size {
            return None;
        }
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Makes a file with so much space set aside.
    pub(super) fn make(&self, disk: &dyn Disk, size: u64) -> io::Result<(PathBuf, Box<dyn DiskFile>)> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{PREFIX}{number:016x}"));
        let file = disk.create(&path)?;
        match file.allocate(size).and_then(|()| file.sync()) {
            Ok(()) => Ok((path, file)),
            Err(error) => {
                drop(file);
                let _ = disk.remove(&path);
                Err(error)
            }
        }
    }

    pub(super) fn is_there(&self) -> bool {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn put(&self, spare: (PathBuf, Box<dyn DiskFile>)) {
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(spare);
    }
}

/// What the keeping thread has to itself.
pub(super) struct Keeper {
    /// The checkpoints in the directory that are whole, the newest first.
    checkpoints: Vec<Written>,
    /// The segment that was written to when the newest was made, by its first offset.
    made_in: Option<Offset>,
    /// Whether what the log has set aside made way for one already, since the last that could be written.
    made_way: bool,
}

impl Keeper {
    pub(super) fn new(checkpoints: Vec<Written>) -> Self {
        Self { checkpoints, made_in: None, made_way: false }
    }

    /// Up to where nothing is needed by a checkpoint that is kept.
    fn needless(&self) -> Option<Offset> {
        self.checkpoints.last().map(|oldest| oldest.header.from)
    }
}

impl JournalLog {
    /// Keeps up until `stop`.
    pub(super) fn keep_until(&self, fold: &dyn Checkpoint, runtime: &Handle, stop: &CancellationToken) {
        let mut backoff = LEAST_BACKOFF;
        while !stop.is_cancelled() {
            let kept_up = self.keep_up(fold);
            runtime.block_on(async {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = self.keep.notified(), if kept_up => backoff = LEAST_BACKOFF,
                    () = tokio::time::sleep(backoff), if !kept_up => backoff = (backoff * 2).min(MOST_BACKOFF),
                }
            });
        }
    }

    /// Does what is due. False if something of it failed, to be tried again.
    pub(super) fn keep_up(&self, fold: &dyn Checkpoint) -> bool {
        let mut keeper = self.keeper();
        let spare = self.keep_spare();
        let noted = !self.checkpoint_is_due(&keeper) || self.checkpoint(&mut keeper, fold, false);
        // An older checkpoint is worth less than the space behind it, and is not to keep what the log has forgotten.
        let dropped = self.kept().newest_dropped();
        let covers = |checkpoint: &&Written| dropped.is_none_or(|dropped| checkpoint.header.from >= dropped);
        let covering = keeper.checkpoints.iter().take_while(covers).count();
        if covering > 0 && covering < keeper.checkpoints.len() {
            self.forget_checkpoints(&mut keeper, covering);
        }
        let removed = self.remove_dropped(&keeper);
        // There may be space only now, or it made way.
        let kept_up = (spare && self.spare.is_there() || self.keep_spare()) && noted && removed;
        self.health.kept();
        kept_up
    }

    fn keep_spare(&self) -> bool {
        if self.spare.is_there() {
            return true;
        }
        self.health.keeping("setting space aside");
        match self.spare.make(&*self.disk, self.spare.size) {
            Ok(spare) => {
                self.spare.put(spare);
                self.health.works(Part::Spare);
                true
            }
            Err(error) => {
                let why = format!("{}: cannot set space aside: {error}", self.directory.display());
                self.health.failed(Part::Spare, &why);
                false
            }
        }
    }

    /// A checkpoint is due with each new segment, but not before the log has grown by as much as the last one took, unless something waits for
    /// it to be removed.
    fn checkpoint_is_due(&self, keeper: &Keeper) -> bool {
        let (current, grown, dropped) = {
            let mut kept = self.kept();
            let since = keeper.checkpoints.first().map_or(0, |newest| newest.header.from);
            (kept.current().map(|segment| segment.first), kept.bytes_after(since), kept.newest_dropped())
        };
        let newest = keeper.checkpoints.first();
        let awaited = dropped.is_some_and(|dropped| newest.is_none_or(|newest| newest.header.from < dropped));
        let worth = newest.is_none_or(|newest| grown >= newest.bytes);
        awaited || (keeper.made_in != current && worth)
    }

    /// Writes a checkpoint; false if that failed. What is forgotten can go only after one: when the disk is too full for it, space that the
    /// log has set aside makes way, and is set aside again from what that frees.
    pub(super) fn checkpoint(&self, keeper: &mut Keeper, fold: &dyn Checkpoint, clean: bool) -> bool {
        let mut made = self.make_checkpoint(keeper, fold, clean);
        if made.as_ref().is_err_and(is_full) && !keeper.made_way && self.kept().newest_dropped().is_some() {
            // Once: if that is not enough, it would not be the next time.
            keeper.made_way = true;
            self.make_way(keeper);
            made = self.make_checkpoint(keeper, fold, clean);
        }
        match &made {
            Ok(()) => self.health.works(Part::Checkpoint),
            Err(error) => {
                let why = format!("{}: cannot write a checkpoint: {error}", self.directory.display());
                self.health.failed(Part::Checkpoint, &why);
            }
        }
        self.health.kept();
        made.is_ok()
    }

    fn make_checkpoint(&self, keeper: &mut Keeper, fold: &dyn Checkpoint, clean: bool) -> io::Result<()> {
        let current = self.kept().current().map(|segment| segment.first);
        let head = || *self.head.borrow();
        let fold = Stepping { fold, health: &self.health };
        fold.step();
        let written = checkpoint::write(&*self.disk, &self.directory, self.epoch, clean, &fold, head)?;
        keeper.checkpoints.retain(|older| older.path != written.path);
        keeper.checkpoints.insert(0, written);
        keeper.made_in = current;
        keeper.made_way = false;
        self.forget_checkpoints(keeper, KEPT);
        Ok(())
    }

    /// Gives up what the log can do without for a moment: older checkpoints, what only they need, and the spare.
    fn make_way(&self, keeper: &mut Keeper) {
        self.forget_checkpoints(keeper, 1);
        self.remove_dropped(keeper);
        if let Some((path, file)) = self.spare.take(0) {
            drop(file);
            // What stays is found by the next start.
            let _ = self.disk.remove(&path);
        }
    }

    /// Removes all but the newest checkpoints, also what is none.
    fn forget_checkpoints(&self, keeper: &mut Keeper, keep: usize) {
        self.health.keeping("removing old checkpoints");
        keeper.checkpoints.truncate(keep);
        for path in checkpoint::list(&self.directory).unwrap_or_default() {
            if keeper.checkpoints.iter().all(|kept| kept.path != path) {
                // If it stays it is looked at again with the next.
                let _ = self.disk.remove(&path);
            }
        }
    }

    /// Removes the files of what is forgotten and needed by no checkpoint; the oldest first, so that no gap is ever left.
    fn remove_dropped(&self, keeper: &Keeper) -> bool {
        let Some(needless) = keeper.needless() else { return true };
        let mut dropped = self.kept().take_dropped(needless);
        while let Some(segment) = dropped.first() {
            self.health.keeping("removing what is forgotten");
            // Each is durable before the next, or a crash could leave a gap.
            let removed = self.disk.remove(&segment.path).and_then(|()| self.disk.sync_directory(&self.directory));
            match removed {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let why = format!("{}: cannot remove what is forgotten: {error}", segment.path.display());
                    self.health.failed(Part::Removal, &why);
                    self.kept().put_back(dropped);
                    return false;
                }
            }
            dropped.remove(0);
        }
        self.health.works(Part::Removal);
        true
    }
}

/// A fold of which each part that is copied is a step of its own: a checkpoint of many connections may well take long.
struct Stepping<'a> {
    fold: &'a dyn Checkpoint,
    health: &'a Health,
}

impl Stepping<'_> {
    fn step(&self) {
        self.health.keeping("writing a checkpoint");
    }
}

impl Apply for Stepping<'_> {
    fn apply(&self, batch: &[Arc<Record>]) {
        self.fold.apply(batch);
    }
}

impl Checkpoint for Stepping<'_> {
    fn parts(&self) -> usize {
        self.fold.parts()
    }

    fn copy_part(&self, part: usize) -> FoldPart {
        self.step();
        self.fold.copy_part(part)
    }
}

/// Whether there was no space.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
