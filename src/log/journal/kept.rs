//! Which segments there are, and which of them are still read from: retention by whole segments, without touching a file.

use std::collections::VecDeque;

use super::reader::Spot;
use super::segment::Segment;
use crate::clock::UnixNanos;
use crate::position::Offset;

/// The segments, the oldest first.
///
/// Forgetting is a matter of memory and never waits; the files of what is forgotten go later, once no checkpoint needs them.
pub(super) struct Kept {
    /// What can be read. The last of them is the one that is written to.
    live: VecDeque<Segment>,
    /// Forgotten, with files that are still there; the oldest first.
    dropped: Vec<Segment>,
    /// The offset before the first that can be read.
    before_oldest: Offset,
    /// Bytes that files may take.
    limit: u64,
    /// What the segment that is written to takes, filled or not.
    whole: u64,
    /// What all the others that can be read take, so that nobody has to add it up.
    sealed: u64,
}

impl Kept {
    pub(super) fn new(segments: Vec<Segment>, last: Offset, limit: u64, whole: u64) -> Self {
        let before_oldest = segments.first().map_or(last, |segment| segment.first - 1);
        let sealed = segments.iter().rev().skip(1).map(|segment| segment.end).sum();
        let mut kept = Self { live: segments.into(), dropped: Vec::new(), before_oldest, limit, whole, sealed };
        kept.forget_excess();
        kept
    }

    pub(super) fn before_oldest(&self) -> Offset {
        self.before_oldest
    }

    /// When the oldest event that can be read happened.
    pub(super) fn oldest_time(&self) -> Option<UnixNanos> {
        self.readable().find_map(|segment| segment.oldest)
    }

    /// Bytes of what can be read.
    pub(super) fn bytes(&self) -> u64 {
        let unread = |segment: &&Segment| segment.last <= self.before_oldest;
        match (self.live.front(), self.live.back()) {
            (Some(oldest), Some(current)) if self.live.len() > 1 && !unread(&current) => {
                // Only the oldest can be forgotten for its age and still be there.
                self.sealed + current.end - Some(oldest).filter(unread).map_or(0, |oldest| oldest.end)
            }
            (_, current) => current.filter(|current| !unread(current)).map_or(0, |current| current.end),
        }
    }

    /// Bytes of the segments that have anything after an offset.
    pub(super) fn bytes_after(&self, offset: Offset) -> u64 {
        self.live.iter().filter(|segment| segment.last > offset).map(|segment| segment.end).sum()
    }

    fn readable(&self) -> impl Iterator<Item = &Segment> {
        self.live.iter().filter(|segment| segment.last > self.before_oldest)
    }

    /// The one that is written to.
    pub(super) fn current(&mut self) -> Option<&mut Segment> {
        self.live.back_mut()
    }

    /// Goes on to a new segment, whose file takes `whole` bytes, and forgets what there is no room for beside it. It takes the place of an
    /// empty one, in which a write failed and whose name it has.
    pub(super) fn begin(&mut self, segment: Segment, whole: u64) {
        if self.live.back().is_some_and(|last| last.first == segment.first) {
            self.live.pop_back();
        } else if let Some(last) = self.live.back() {
            self.sealed += last.end;
        }
        self.live.push_back(segment);
        self.whole = whole;
        self.forget_excess();
    }

    fn forget_excess(&mut self) {
        while self.live.len() > 1 && self.taken() > self.limit {
            self.drop_oldest();
        }
    }

    fn taken(&self) -> u64 {
        self.sealed + self.whole
    }

    fn drop_oldest(&mut self) {
        if let Some(segment) = self.live.pop_front() {
            // It was not the one that is written to: that is never forgotten.
            self.sealed -= segment.end;
            self.before_oldest = self.before_oldest.max(segment.last);
            self.dropped.push(segment);
        }
    }

    /// Forgets segments in which everything happened before `time`. True if the one that is written to would be among them: its events can no
    /// longer be read, and its file goes once it is no more the one.
    pub(super) fn forget_before(&mut self, time: UnixNanos) -> bool {
        let old = |segment: &Segment| segment.newest < time || segment.is_empty();
        while self.live.len() > 1 && self.live.front().is_some_and(old) {
            self.drop_oldest();
        }
        match self.live.back() {
            Some(segment) if self.live.len() == 1 && !segment.is_empty() && segment.newest < time => {
                self.before_oldest = segment.last;
                true
            }
            _ => false,
        }
    }

    /// The newest offset among what is forgotten and still has a file.
    pub(super) fn newest_dropped(&self) -> Option<Offset> {
        self.dropped.last().map(|segment| segment.last)
    }

    /// Takes out what is forgotten and wholly at or before `offset`, to have its files removed.
    pub(super) fn take_dropped(&mut self, offset: Offset) -> Vec<Segment> {
        let count = self.dropped.partition_point(|segment| segment.last <= offset);
        self.dropped.drain(..count).collect()
    }

    /// Puts back what could not be removed.
    pub(super) fn put_back(&mut self, segments: Vec<Segment>) {
        self.dropped.splice(0..0, segments);
    }

    /// Where to look for the records after `after`; none if no segment has any.
    pub(super) fn spot(&self, after: Offset) -> Option<Spot> {
        let at = self.live.partition_point(|segment| segment.last <= after);
        let segment = self.live.get(at)?;
        Some(Spot {
            path: segment.path.clone(),
            salt: segment.salt,
            at: segment.before(after + 1),
            end: segment.end,
            last: segment.last,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::super::segment::Header;
    use super::*;
    use crate::position::Epoch;

    proptest! {
        #[test]
        fn the_running_totals_are_what_adding_up_gives(steps in prop::collection::vec((0..4u8, 1..5_000usize), 0..60)) {
            let mut kept = Kept::new(Vec::new(), 99, 40_000, 0);
            let (mut now, mut next) = (0, 100);
            for (step, size) in steps {
                now += 10;
                match (step, kept.current()) {
                    (0, _) | (_, None) => {
                        let segment = Segment::empty(Path::new("x"), Header::new(Epoch::random(), next));
                        kept.begin(segment, 10_000);
                    }
                    (1, _) => drop(kept.forget_before(now - size as i64 / 50)),
                    (_, Some(segment)) => {
                        segment.push(now, size);
                        next += 1;
                    }
                }
                let added: u64 = kept.readable().map(|segment| segment.end).sum();
                prop_assert_eq!(kept.bytes(), added);
                let sealed: u64 = kept.live.iter().rev().skip(1).map(|segment| segment.end).sum();
                prop_assert_eq!(kept.sealed, sealed);
            }
        }
    }
}
