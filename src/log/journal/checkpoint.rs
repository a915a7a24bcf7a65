//! Checkpoints: the fold in a file, so that a start need not replay what is older.
//!
//! A header like a segment's, then a frame for each connection, holding the `Connected` that would make it what it is, then a frame that is the
//! last and holds nothing. A file is written beside, synced and renamed; it is whole or it is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::codec;
use super::disk::{Disk, DiskFile};
use super::frame::{self, Place, Salt};
use super::segment::VERSION;
use crate::event::Record;
use crate::log::Checkpoint;
use crate::position::{Epoch, Offset};

const MAGIC: &[u8; 8] = b"HWCHKPNT";
const HEADER: usize = 64;
const SUFFIX: &str = ".ckpt";

/// The name of one that is being written.
const NEW: &str = "checkpoint.new";

/// How many are kept: if the newest cannot be read, the one before can.
pub(super) const KEPT: usize = 2;

/// What a checkpoint is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Header {
    pub(super) epoch: Epoch,
    /// Everything up to here is in it; replay begins after.
    pub(super) from: Offset,
    /// Everything up to here was durable when it was made.
    pub(super) durable: Offset,
    /// Whether nothing followed: the process ended in order.
    pub(super) clean: bool,
    salt: [u8; 8],
}

impl Header {
    pub(super) fn new(epoch: Epoch, from: Offset, durable: Offset, clean: bool) -> Self {
        let mut salt = [0; 8];
        fastrand::fill(&mut salt);
        Self { epoch, from, durable, clean, salt }
    }

    fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12] = u8::from(self.clean);
        bytes[16..32].copy_from_slice(&self.epoch.to_bytes());
        bytes[32..40].copy_from_slice(&self.from.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.durable.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.salt);
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.first_chunk()?;
        let whole = crc32c::crc32c(&bytes[..60]).to_le_bytes() == bytes[60..];
        if !whole || bytes[..8] != *MAGIC || bytes[8..12] != VERSION.to_le_bytes() {
            return None;
        }
        Some(Self {
            epoch: Epoch::from_bytes(*bytes[16..].first_chunk()?),
            from: Offset::from_le_bytes(*bytes[32..].first_chunk()?),
            durable: Offset::from_le_bytes(*bytes[40..].first_chunk()?),
            clean: bytes[12] != 0,
            salt: *bytes[48..].first_chunk()?,
        })
    }
}

/// A checkpoint that is in place.
#[derive(Clone, Debug)]
pub(super) struct Written {
    pub(super) path: PathBuf,
    pub(super) header: Header,
    pub(super) bytes: u64,
}

/// The name of the checkpoint from which replay begins after an offset.
fn file_name(from: Offset) -> String {
    format!("{from:020}{SUFFIX}")
}

/// Writes a checkpoint of the fold, or leaves nothing of it; everything up to `durable` is durable, and applied. The fold goes on changing meanwhile, and is
/// locked a part at a time only.
pub(super) fn write(
    disk: &dyn Disk,
    directory: &Path,
    epoch: Epoch,
    clean: bool,
    fold: &dyn Checkpoint,
    durable: impl FnOnce() -> Offset,
) -> io::Result<Written> {
    let new = directory.join(NEW);
    let put_in_place = || {
        let file = disk.create(&new)?;
        let (header, bytes) = fill(&*file, Header::new(epoch, 0, 0, clean), fold, durable)?;
        let path = directory.join(file_name(header.from));
        disk.rename(&new, &path)?;
        disk.sync_directory(directory)?;
        Ok(Written { path, header, bytes })
    };
    let written = put_in_place();
    if written.is_err() {
        // What space it took is needed for the next try. If it stays, the next begins with emptying it.
        let _ = disk.remove(&new);
    }
    written
}

/// Writes the file of a checkpoint and syncs it: its header, drafted without offsets, and how many bytes it has.
fn fill(
    file: &dyn DiskFile,
    draft: Header,
    fold: &dyn Checkpoint,
    durable: impl FnOnce() -> Offset,
) -> io::Result<(Header, u64)> {
    // The header comes last: what it says is known only then. Its salt is needed now.
    let salt = Salt::new(draft.salt);
    let (mut at, mut count) = (HEADER as u64, 0u32);
    let mut from = Offset::MAX;
    let mut bytes = Vec::new();
    for part in 0..fold.parts() {
        let copy = fold.copy_part(part);
        from = from.min(copy.exact_at);
        bytes.clear();
        for record in &copy.connections {
            let place = Place { offset: record.offset, index: count, last: false };
            frame::put(&mut bytes, salt, place, |out| codec::encode(&record.event, out));
            count += 1;
        }
        file.write(&bytes, at)?;
        at += bytes.len() as u64;
    }
    bytes.clear();
    frame::put(&mut bytes, salt, Place { offset: 0, index: count, last: true }, |_| {});
    file.write(&bytes, at)?;
    at += bytes.len() as u64;
    let durable = durable();
    let header = Header { from: from.min(durable), durable, ..draft };
    file.write(&header.to_bytes(), 0)?;
    file.sync()?;
    Ok((header, at))
}

/// The checkpoints in a directory by their names, the newest first.
pub(super) fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(SUFFIX)) {
            found.push(path);
        }
    }
    found.sort();
    found.reverse();
    Ok(found)
}

/// Reads a checkpoint whole: what it is of and its connections. None if it is not exactly what was written.
pub(super) fn read(path: &Path) -> io::Result<Option<(Written, Vec<Record>)>> {
    let bytes = fs::read(path)?;
    let Some(header) = Header::from_bytes(&bytes) else { return Ok(None) };
    let salt = Salt::new(header.salt);
    let named = path.file_name().is_some_and(|name| *name == *file_name(header.from));
    let (mut at, mut records) = (HEADER, Vec::new());
    while named && at < bytes.len() {
        let Ok(frame) = frame::first(&bytes[at..], salt) else { break };
        at += frame.size;
        if frame.place.index as usize != records.len() {
            break;
        }
        if frame.place.last {
            let written = Written { path: path.to_owned(), header, bytes: bytes.len() as u64 };
            return Ok((at == bytes.len()).then_some((written, records)));
        }
        let Ok(record) = codec::decode(frame.place.offset, frame.record) else { break };
        records.push(record);
    }
    Ok(None)
}
