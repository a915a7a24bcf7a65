//! Opening a journal: every record kept is verified, a torn end is cut off, and anything else that is not as it was written is refused.
//!
//! The rules, which the module of the frames makes possible:
//! - A batch is written whole or is the last: one sync ends it before the next begins. So a batch that is not whole, and behind which no
//!   later batch is found, is the one that was being written: nobody was shown it, and it is cut off and told.
//! - Anything else that cannot be read is damage. What is known to have been durable (a later segment, a checkpoint) is never cut off.
//! - A batch whose sync failed was written again to a new segment, which begins with its offset. What the old one has from there on does
//!   not count.

use std::fs;
use std::path::{Path, PathBuf};

use super::OpenError;
use super::checkpoint::{self, Written};
use super::codec;
use super::directory::Format;
use super::frame::{self, NoFrame, Salt};
use super::opens::Opens;
use super::segment::{self, HEADER, Header, Segment};
use crate::position::Offset;

/// What a directory holds.
pub(super) struct Recovered {
    /// The segments, the oldest first. None in a journal that is new.
    pub(super) segments: Vec<Segment>,
    /// Of the last segment: the length of its file, and the bytes of its last batch, whose sync may not have been finished.
    pub(super) last: Option<LastSegment>,
    /// The connections that the log leaves open.
    pub(super) opens: Opens,
    /// The checkpoints that are whole, the newest first.
    pub(super) checkpoints: Vec<Written>,
}

/// What is to be done with the last segment before it is trusted.
pub(super) struct LastSegment {
    pub(super) length: u64,
    /// Whether what follows its end is not blank.
    pub(super) torn: bool,
    /// Where its last batch begins, and the batch.
    pub(super) batch: (u64, Vec<u8>),
}

/// Reads and verifies everything; changes nothing.
pub(super) fn recover(directory: &Path, format: Format) -> Result<Recovered, OpenError> {
    let files = segment_files(directory)?;
    let mut checkpoints = Vec::new();
    let mut opens = None;
    for path in checkpoint::list(directory).map_err(OpenError::io(directory))? {
        let read = checkpoint::read(&path).map_err(OpenError::io(&path))?;
        let Some((written, records)) = read.filter(|(written, _)| written.header.epoch == format.epoch) else {
            tracing::warn!(file = %path.display(), "a checkpoint is damaged; the one before it, or the log from its beginning, has to do");
            continue;
        };
        if opens.is_none() {
            opens = Some((written.header.from, records));
        }
        checkpoints.push(written);
    }
    let durable = checkpoints.iter().map(|checkpoint| checkpoint.header.durable).max();
    let kept_from = files.first().map_or(format.first, |(first, _)| *first);
    let (from, records) = match opens {
        Some((from, records)) if from + 1 >= kept_from => (from, records),
        None if kept_from == format.first => (format.first - 1, Vec::new()),
        _ => {
            return Err(OpenError::Missing {
                path: directory.to_owned(),
                what: format!(
                    "no checkpoint can be read that reaches the oldest events kept, which begin at offset {kept_from}, so who was connected cannot be known"
                ),
            });
        }
    };
    let mut opens = {
        let mut all = Opens::default();
        records.into_iter().for_each(|record| all.apply(record));
        all
    };

    let (mut segments, mut last) = (Vec::with_capacity(files.len()), None);
    let mut after = kept_from - 1;
    for (number, (first, path)) in files.iter().enumerate() {
        if *first != after + 1 {
            return Err(OpenError::gap(path, after + 1, first - 1));
        }
        let bytes = fs::read(path).map_err(OpenError::io(path))?;
        let header = header(&bytes, path, *first, format)?;
        let mut scan = scan(&bytes, Segment::empty(directory, header));
        let next = files.get(number + 1).map(|(next, _)| *next);
        match next {
            Some(next) => settle_earlier(&mut scan, next)?,
            None => last = Some(settle_last(&scan, &bytes, durable)?),
        }
        replay(&bytes, &scan.segment, from, &mut opens)?;
        after = scan.segment.last;
        segments.push(scan.segment);
    }
    if let Some(durable) = durable.filter(|durable| *durable > after) {
        return Err(OpenError::Missing {
            path: directory.to_owned(),
            what: format!("the events at offsets {} to {durable} are missing at its end", after + 1),
        });
    }
    Ok(Recovered { segments, last, opens, checkpoints })
}

fn segment_files(directory: &Path) -> Result<Vec<(Offset, PathBuf)>, OpenError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(OpenError::io(directory))? {
        let path = entry.map_err(OpenError::io(directory))?.path();
        if let Some(first) = path.file_name().and_then(|name| segment::offset_of(name.to_str()?)) {
            files.push((first, path));
        }
    }
    files.sort();
    Ok(files)
}

fn header(bytes: &[u8], path: &Path, first: Offset, format: Format) -> Result<Header, OpenError> {
    let header = Header::from_bytes(bytes).ok_or_else(|| OpenError::damaged(path, 0, "the header cannot be read"))?;
    if header.epoch != format.epoch {
        let what = format!("the file is of epoch {}, and the directory of {}", header.epoch, format.epoch);
        return Err(OpenError::damaged(path, 16, what));
    }
    if header.first != first {
        let what = format!("the file begins with offset {}, which is not in its name", header.first);
        return Err(OpenError::damaged(path, 32, what));
    }
    Ok(header)
}

/// What was found in a segment.
pub(super) struct Scan {
    /// With the batches that are whole, up to the first thing that is not.
    pub(super) segment: Segment,
    /// The first offset of the last of them and where it begins.
    batch: (Offset, u64),
    pub(super) tail: Tail,
}

/// What follows the last batch that is whole.
pub(super) enum Tail {
    /// Nothing but zeros.
    Blank,
    /// Something, with no whole frame of a later batch behind it.
    Torn { at: u64 },
    /// Something, with later batches behind it.
    Damaged { at: u64 },
}

pub(super) fn scan(bytes: &[u8], segment: Segment) -> Scan {
    let batch = (segment.first, segment.end);
    let mut scan = Scan { segment, batch, tail: Tail::Blank };
    let salt = scan.segment.salt;
    let mut at = HEADER;
    // The frames of the batch that has begun, to be counted once its end is there.
    let mut begun = Vec::new();
    loop {
        let expected = scan.segment.last + 1 + begun.len() as Offset;
        let frame = frame::first(&bytes[at..], salt);
        match frame {
            Ok(frame) if frame.place.offset == expected && frame.place.index as usize == begun.len() => {
                at += frame.size;
                begun.push((codec::time_of(frame.record).unwrap_or(0), frame.size));
                if frame.place.last {
                    scan.batch = (scan.segment.last + 1, scan.segment.end);
                    begun.drain(..).for_each(|(time, size)| scan.segment.push(time, size));
                }
            }
            other => {
                let blank = bytes[at..].iter().all(|byte| *byte == 0);
                let batch = scan.segment.last + 1;
                let at = at as u64;
                scan.tail = match blank {
                    true if begun.is_empty() => Tail::Blank,
                    // A whole frame that belongs elsewhere is no torn one.
                    false if other.is_ok() || later(bytes, salt, at, batch) => Tail::Damaged { at },
                    _ => Tail::Torn { at },
                };
                return scan;
            }
        }
    }
}

/// Whether a whole frame of a batch after the one that begins with `batch` is behind `at`.
fn later(bytes: &[u8], salt: Salt, at: u64, batch: Offset) -> bool {
    frame::find(bytes, salt, at as usize, |place| place.batch() > batch).is_some()
}

/// A segment with another behind it ends where that begins.
fn settle_earlier(scan: &mut Scan, next: Offset) -> Result<(), OpenError> {
    let segment = &mut scan.segment;
    if next == scan.batch.0 && !segment.is_empty() {
        // Its last batch was written again.
        segment.cut(next, scan.batch.1);
        return Ok(());
    }
    match scan.tail {
        Tail::Damaged { at } => Err(damage(&segment.path, at, segment.last + 1)),
        // Less than a batch, which was written again.
        _ if next == segment.last + 1 => Ok(()),
        Tail::Torn { at } => Err(damage(&segment.path, at, segment.last + 1)),
        Tail::Blank if next > segment.last => Err(OpenError::gap(&segment.path, segment.last + 1, next - 1)),
        Tail::Blank => {
            let what = format!("the file goes on to offset {}, and the next begins with {next}", segment.last);
            Err(OpenError::damaged(&segment.path, segment.end, what))
        }
    }
}

fn settle_last(scan: &Scan, bytes: &[u8], durable: Option<Offset>) -> Result<LastSegment, OpenError> {
    let segment = &scan.segment;
    let torn = match scan.tail {
        Tail::Blank => false,
        Tail::Damaged { at } => return Err(damage(&segment.path, at, segment.last + 1)),
        Tail::Torn { at } if durable.is_some_and(|durable| durable > segment.last) => {
            return Err(damage(&segment.path, at, segment.last + 1));
        }
        Tail::Torn { at } => {
            tracing::warn!(
                file = %segment.path.display(),
                byte = segment.end,
                unreadable_at = at,
                offset = segment.last + 1,
                "the log ends in a batch that was not written whole, as a crash leaves it; nobody was shown it, and it is cut off"
            );
            true
        }
    };
    let batch =
        if segment.is_empty() { Vec::new() } else { bytes[scan.batch.1 as usize..segment.end as usize].to_vec() };
    Ok(LastSegment { length: bytes.len() as u64, torn, batch: (scan.batch.1, batch) })
}

fn damage(path: &Path, at: u64, expected: Offset) -> OpenError {
    OpenError::damaged(
        path,
        at,
        format!("the event at about offset {expected} cannot be read, and it is not at the log's end"),
    )
}

/// Applies what a segment has after `from`.
fn replay(bytes: &[u8], segment: &Segment, from: Offset, opens: &mut Opens) -> Result<(), OpenError> {
    if segment.last <= from {
        return Ok(());
    }
    let mut at = segment.before(from + 1) as usize;
    while (at as u64) < segment.end {
        let frame = match frame::first(&bytes[at..], segment.salt) {
            Ok(frame) => frame,
            // It was whole a moment ago.
            Err(NoFrame::Short(_) | NoFrame::Head | NoFrame::Record) => {
                return Err(OpenError::damaged(&segment.path, at as u64, "an event cannot be read"));
            }
        };
        if frame.place.offset > from && !codec::is_message(frame.record) {
            let record = codec::decode(frame.place.offset, frame.record)
                .map_err(|error| OpenError::damaged(&segment.path, at as u64, error.to_string()))?;
            opens.apply(record);
        }
        at += frame.size;
    }
    Ok(())
}
