//! What holds of records and segments whatever bytes a disk gives back; for the fuzz targets, and for a test over their seeds.

use std::path::Path;

use super::codec;
use super::frame::{self, Place, Salt};
use super::recovery::{Tail, scan};
use super::segment::{HEADER, Header, Segment};
use crate::event::EventKind;
use crate::position::{Epoch, Offset};

/// Bytes as a record.
///
/// # Panics
/// If something does not hold.
pub fn record(bytes: &[u8]) {
    let Ok(record) = codec::decode(7, bytes) else { return };
    let event = &record.event;
    assert_eq!(codec::time_of(bytes), Some(event.time));
    assert_eq!(codec::is_message(bytes), matches!(event.kind, EventKind::MessageReceived(_)));
    // Numbers can be written longer than need be, and labels in any order; from the second time on it is the same.
    let written = |record: &crate::event::Record| {
        let mut out = Vec::new();
        codec::encode(&record.event, &mut out);
        assert!(out.len() <= codec::most_bytes(&record.event), "more room than was reserved");
        out
    };
    let once = written(&record);
    assert!(once.len() <= bytes.len());
    let again = codec::decode(7, &once).expect("what was written is read");
    assert_eq!(written(&again), once);
    assert_eq!(format!("{:?}", again.event), format!("{event:?}"));
}

/// Bytes as a script: the batches of a segment, and what then happens to its file.
///
/// # Panics
/// If something does not hold.
pub fn segment(script: &[u8]) {
    let mut script = Script(script);
    let first = 1 + Offset::from(script.byte()) * 1_000_003;
    let header = Header { epoch: Epoch::from_bytes([7; 16]), first, salt: [script.byte(); 8] };
    assert_eq!(Header::from_bytes(&header.to_bytes()), Some(header));
    let written = Written::new(header, &mut script);
    let (file, harm) = happens(&written, &mut script);

    let scan = scan(&file, Segment::empty(Path::new(""), header));
    // All batches that nothing happened to, and nothing else.
    let whole = written.batches.iter().take_while(|batch| batch.end <= harm.from).count();
    let (last, end) = written.batches[..whole].last().map_or((first - 1, HEADER), |batch| (batch.last, batch.end));
    assert_eq!((scan.segment.last, scan.segment.end), (last, end as u64));
    let mut at = HEADER;
    for (offset, record) in written.records.iter().take_while(|(offset, _)| *offset <= last) {
        let read = frame::first(&file[at..], Salt::new(header.salt)).expect("whole");
        assert_eq!((read.place.offset, read.record), (*offset, &**record));
        assert!(scan.segment.before(*offset) <= at as u64);
        at += read.size;
    }
    assert_eq!(at, end);
    // What a crash leaves may be cut off. What it cannot leave must be told: the middle is never dropped in silence.
    let later = harm.leaves_the_rest && whole + 1 < written.batches.len();
    let untouched = whole == written.batches.len();
    match scan.tail {
        Tail::Damaged { at } => assert!(later && at >= end as u64 && at < file.len() as u64),
        Tail::Torn { at } => assert!(!later && !untouched && at >= end as u64),
        Tail::Blank => assert!(!later && file[end..].iter().all(|byte| *byte == 0)),
    }
}

/// A batch, and where its frames are.
struct Batch {
    last: Offset,
    end: usize,
}

/// A segment as it was written.
struct Written {
    file: Vec<u8>,
    batches: Vec<Batch>,
    records: Vec<(Offset, Vec<u8>)>,
}

impl Written {
    fn new(header: Header, script: &mut Script<'_>) -> Self {
        let mut file = header.to_bytes().to_vec();
        let (mut batches, mut records) = (Vec::new(), Vec::new());
        let mut next = header.first;
        for _ in 0..script.byte() % 16 {
            let count = 1 + u32::from(script.byte() % 4);
            for index in 0..count {
                let length = script.byte();
                let record = script.bytes(length.into()).to_vec();
                let place = Place { offset: next, index, last: index + 1 == count };
                frame::put(&mut file, Salt::new(header.salt), place, |out| out.extend_from_slice(&record));
                records.push((next, record));
                next += 1;
            }
            batches.push(Batch { last: next - 1, end: file.len() });
        }
        Self { file, batches, records }
    }
}

/// What happened to a file.
struct Harm {
    /// The first byte that is not as it was written; the file's end if all are.
    from: usize,
    /// Whether what comes behind is as it was.
    leaves_the_rest: bool,
}

fn happens(written: &Written, script: &mut Script<'_>) -> (Vec<u8>, Harm) {
    let mut file = written.file.clone();
    let what = script.byte() % 4;
    let at = HEADER + usize::from(script.word()) % (file.len() - HEADER + 1);
    match what {
        // The kernel never got the rest.
        1 => file.truncate(at),
        // It has room for the rest, and wrote none of it.
        2 => file[at..].fill(0),
        // The disk forgot something.
        3 if at < file.len() => file[at] ^= script.byte().max(1),
        _ => {}
    }
    // Space that was set aside; it may be just what is missing.
    file.resize(file.len() + usize::from(script.byte()), 0);
    let pairs = written.file.iter().enumerate();
    let from = pairs.take_while(|(at, byte)| file.get(*at) == Some(byte)).count();
    (file, Harm { from, leaves_the_rest: what == 3 })
}

/// Bytes to decide by; zeros once there are no more.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::codec;

    #[test]
    fn every_seed_of_a_journal_holds() {
        for (target, check) in [("record", super::record as fn(&[u8])), ("segment", super::segment)] {
            let seeds = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
            let seeds: Vec<_> = std::fs::read_dir(seeds).expect("seeds").collect();
            assert!(!seeds.is_empty());
            for seed in seeds {
                check(&std::fs::read(seed.expect("a seed").path()).expect("is read"));
            }
        }
    }

    proptest! {
        #[test]
        fn a_file_is_read_up_to_what_happened_to_it(script in proptest::collection::vec(any::<u8>(), 0..600)) {
            super::segment(&script);
        }

        #[test]
        fn every_record_that_is_written_holds(record in codec::tests::record()) {
            let mut bytes = Vec::new();
            codec::encode(&record.event, &mut bytes);
            super::record(&bytes);
        }
    }
}
