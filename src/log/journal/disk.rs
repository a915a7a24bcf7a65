//! The few things that a journal asks of a file system, so that a test can make each of them fail.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::FallocateFlags;

/// Where files are. All of it blocks.
pub(super) trait Disk: Send + Sync + 'static {
    /// A new, empty file; one that is there is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// A file that is there, to be written to.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, in place of what has it. Durable once the directory is synced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file away. Durable once the directory is synced.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// An open file.
pub(super) trait DiskFile: Send + Sync {
    /// Makes the file this long, with all its space set aside; what is new reads as zeros.
    fn allocate(&self, length: u64) -> io::Result<()>;
    /// Cuts the file to this length.
    fn truncate(&self, length: u64) -> io::Result<()>;
    /// Writes all of it.
    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Makes what was written, and the length, durable.
    fn sync(&self) -> io::Result<()>;
}

/// The one there is.
pub(super) struct RealDisk;

struct RealFile(File);

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Box::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

impl DiskFile for RealFile {
    fn allocate(&self, length: u64) -> io::Result<()> {
        let now = self.0.metadata()?.len();
        let set_aside = || rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, length);
        match rustix::io::retry_on_intr(set_aside) {
            Ok(()) => Ok(()),
            // Space cannot be set aside here; written zeros come close.
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(&self.0, now, length),
            Err(error) => Err(error.into()),
        }
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    const ZEROS: &[u8] = &[0; 64 << 10];
    while from < to {
        let count = usize::try_from(to - from).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_all_at(&ZEROS[..count], from)?;
        from += count as u64;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod faulty {
    //! A disk that fails on command, and counts.

    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What fails for now.
    #[derive(Default)]
    pub(in super::super) struct Faults {
        pub(in super::super) allocate: AtomicBool,
        pub(in super::super) write: AtomicBool,
        pub(in super::super) sync: AtomicBool,
        pub(in super::super) sync_directory: AtomicBool,
        /// No checkpoint and no spare has space until a spare is removed.
        pub(in super::super) full: AtomicBool,
        /// A sync waits for as long as somebody has this.
        pub(in super::super) answers: Mutex<()>,
        /// A new file waits for as long as somebody has this.
        pub(in super::super) creates: Mutex<()>,
        pub(in super::super) checkpoint: AtomicBool,
        pub(in super::super) syncs: AtomicU64,
        pub(in super::super) writes: AtomicU64,
    }

    impl Faults {
        pub(in super::super) fn set(fault: &AtomicBool, on: bool) {
            fault.store(on, Ordering::SeqCst);
        }

        fn check(fault: &AtomicBool, error: io::ErrorKind) -> io::Result<()> {
            if fault.load(Ordering::SeqCst) { Err(error.into()) } else { Ok(()) }
        }
    }

    pub(in super::super) struct FaultyDisk(pub(in super::super) Arc<Faults>);

    struct FaultyFile(Box<dyn DiskFile>, Arc<Faults>);

    impl Disk for FaultyDisk {
        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            drop(self.0.creates.lock());
            Faults::check(&self.0.full, io::ErrorKind::StorageFull)?;
            if path.ends_with("checkpoint.new") {
                Faults::check(&self.0.checkpoint, io::ErrorKind::StorageFull)?;
            }
            Ok(Box::new(FaultyFile(RealDisk.create(path)?, Arc::clone(&self.0))))
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            Ok(Box::new(FaultyFile(RealDisk.open(path)?, Arc::clone(&self.0))))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            RealDisk.rename(from, to)
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            if path.to_string_lossy().contains("spare-") {
                Faults::set(&self.0.full, false);
            }
            RealDisk.remove(path)
        }

        fn sync_directory(&self, _: &Path) -> io::Result<()> {
            Faults::check(&self.0.sync_directory, io::ErrorKind::StorageFull)
        }
    }

    impl DiskFile for FaultyFile {
        fn allocate(&self, length: u64) -> io::Result<()> {
            Faults::check(&self.1.allocate, io::ErrorKind::StorageFull)?;
            self.0.allocate(length)
        }

        fn truncate(&self, length: u64) -> io::Result<()> {
            self.0.truncate(length)
        }

        fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
            self.1.writes.fetch_add(1, Ordering::SeqCst);
            if self.1.write.load(Ordering::SeqCst) {
                // Half of it gets there, as it may.
                self.0.write(&bytes[..bytes.len() / 2], at)?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.write(bytes, at)
        }

        fn sync(&self) -> io::Result<()> {
            self.1.syncs.fetch_add(1, Ordering::SeqCst);
            drop(self.1.answers.lock());
            // EIO has no kind of its own. What is written is there for the next to open it, synced or not, and tests are many.
            if self.1.sync.load(Ordering::SeqCst) { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
        }
    }
}
