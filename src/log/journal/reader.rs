//! Reading records back from a segment's file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::codec;
use super::frame::{self, NoFrame, Salt};
use crate::event::Record;
use crate::log::READ_RECORDS;
use crate::position::Offset;

/// Bytes read from a file at once, unless a record is larger.
const CHUNK: usize = 64 << 10;

/// Bytes of records after which a read has enough: a reader costs about so much memory, however large the events are.
const ENOUGH: usize = 1 << 20;

/// Where to begin in a segment.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) path: PathBuf,
    pub(super) salt: Salt,
    /// Where a frame begins that is no later than the one looked for.
    pub(super) at: u64,
    /// Where the last frame ends.
    pub(super) end: u64,
    /// The offset of the last record.
    pub(super) last: Offset,
}

/// Why nothing was read.
#[derive(Debug)]
pub(super) enum Unread {
    /// The file is not there any more.
    Gone,
    /// The file cannot be read now: no descriptor is free, or the disk fails.
    Unavailable(Arc<str>),
    /// What is in the file is not what was written, or less.
    Damaged(Arc<str>),
}

/// The records after `after` and not past `until`, as many as one read hands out, at least one.
pub(super) fn read(spot: &Spot, after: Offset, until: Offset) -> Result<Vec<Arc<Record>>, Unread> {
    let place_of = |at: u64, why: &dyn std::fmt::Display| format!("{}, byte {at}: {why}", spot.path.display()).into();
    let damaged = |at, why: &dyn std::fmt::Display| Unread::Damaged(place_of(at, why));
    let failed = |at, error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(at, &"the file ends too early"),
        _ => Unread::Unavailable(place_of(at, &error)),
    };
    let file = match File::open(&spot.path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Unread::Gone),
        Err(error) => return Err(failed(0, error)),
    };
    let until = until.min(spot.last);
    let (mut records, mut size) = (Vec::new(), 0);
    // A window of the file that begins at `base`, and where in it the next frame begins.
    let (mut window, mut base, mut at) = (Vec::new(), spot.at, 0);
    loop {
        let place = base + at as u64;
        match frame::first(&window[at..], spot.salt) {
            Ok(frame) if frame.place.offset > until => return Ok(records),
            Ok(frame) => {
                at += frame.size;
                if frame.place.offset <= after {
                    continue;
                }
                let record = codec::decode(frame.place.offset, frame.record).map_err(|why| damaged(place, &why))?;
                records.push(Arc::new(record));
                size += frame.size;
                if records.len() == READ_RECORDS || size >= ENOUGH || frame.place.offset == until {
                    return Ok(records);
                }
            }
            Err(missing) => {
                // Not a frame, as far as the window goes: look further, unless it goes far enough.
                let wanted = match missing {
                    NoFrame::Short(wanted) => wanted,
                    NoFrame::Head if window.len() - at < frame::HEAD => CHUNK,
                    NoFrame::Head | NoFrame::Record => return Err(damaged(place, &"an event cannot be read")),
                };
                let left = usize::try_from(spot.end.saturating_sub(place)).unwrap_or(usize::MAX);
                if left <= window.len() - at || matches!(missing, NoFrame::Short(wanted) if wanted > left) {
                    return Err(damaged(place, &"an event cannot be read"));
                }
                base = place;
                at = 0;
                window.resize(wanted.max(CHUNK).min(left), 0);
                file.read_exact_at(&mut window, base).map_err(|error| failed(base, error))?;
            }
        }
    }
}
