//! What is kept of a consumer, and what becomes of it: pure decisions, made within a transaction of the store.

use std::time::Duration;

use crate::clock::UnixNanos;
use crate::position::Position;

/// The most consumers; one more is refused.
pub const MAX_CONSUMERS: usize = 1_000;

/// A consumer without a stream and an acknowledgement for so long, in wall time, is forgotten.
pub const UNUSED_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What is kept of one consumer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Everything up to here was acknowledged. None: it began with a snapshot and has acknowledged nothing yet.
    pub position: Option<Position>,
    /// When it was used last, wall time; of a stream that is open, within the time between two sweeps.
    pub used: UnixNanos,
}

/// Where a stream is to begin that finds no kept position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fresh {
    /// Here, and this is kept from the first moment: lost before it acknowledged anything, it goes on from here.
    At(Position),
    /// With a snapshot. No position is kept until the first acknowledgement, so that one that was cut is taken again.
    Snapshot,
    /// Nowhere: what was asked for cannot be done. Nothing is changed.
    Nowhere,
}

/// Where a stream begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opened {
    /// At the position that is kept.
    Kept(Position),
    /// As was asked for: there was no position, or it was to be reset.
    Fresh,
    /// Nowhere: there are [`MAX_CONSUMERS`] already.
    TooMany,
    /// Nowhere: a newer stream has the position meanwhile, which stays as it is.
    TakenOver,
}

/// What a stream that begins makes of what is kept (None: there is no such consumer). The first answer is to be kept from now on; None for no change.
pub(super) fn open(
    kept: Option<Kept>,
    consumers: u64,
    fresh: Fresh,
    reset: bool,
    now: UnixNanos,
) -> (Option<Kept>, Opened) {
    if let Some(Kept { position: Some(position), .. }) = kept
        && !reset
    {
        return (Some(Kept { position: Some(position), used: now }), Opened::Kept(position));
    }
    let position = match fresh {
        Fresh::Nowhere => return (None, Opened::Fresh),
        Fresh::At(position) => Some(position),
        Fresh::Snapshot => None,
    };
    if kept.is_none() && consumers >= MAX_CONSUMERS as u64 {
        return (None, Opened::TooMany);
    }
    (Some(Kept { position, used: now }), Opened::Fresh)
}

/// What an acknowledgement makes of what is kept. It only moves forward; `position` is of the log's present epoch, and one of another epoch is behind
/// every one of it.
pub(super) fn acknowledge(kept: Kept, position: Position, now: UnixNanos) -> Kept {
    let further = kept.position.is_none_or(|kept| kept.epoch != position.epoch || kept.offset < position.offset);
    Kept { position: if further { Some(position) } else { kept.position }, used: now }
}

/// Whether it is to be forgotten. One last used in the future, before the clock was set back, is not.
pub(super) fn is_unused(kept: Kept, now: UnixNanos) -> bool {
    u128::try_from(now.saturating_sub(kept.used)).is_ok_and(|unused| unused > UNUSED_FOR.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;
    use proptest::prelude::*;

    fn kept(position: Option<Position>) -> Option<Kept> {
        Some(Kept { position, used: 1 })
    }

    #[test]
    fn a_kept_position_wins_unless_it_is_to_be_reset() {
        let epoch = Epoch::random();
        let (old, new) = (Position { epoch, offset: 5 }, Position { epoch, offset: 9 });
        let at = |position| Some(Kept { position, used: 2 });
        let cases = [
            (kept(Some(old)), Fresh::At(new), false, (at(Some(old)), Opened::Kept(old))),
            (kept(Some(old)), Fresh::Nowhere, false, (at(Some(old)), Opened::Kept(old))),
            (kept(Some(old)), Fresh::At(new), true, (at(Some(new)), Opened::Fresh)),
            (kept(Some(old)), Fresh::Snapshot, true, (at(None), Opened::Fresh)),
            (kept(Some(old)), Fresh::Nowhere, true, (None, Opened::Fresh)),
            (kept(None), Fresh::Snapshot, false, (at(None), Opened::Fresh)),
            (kept(None), Fresh::At(new), false, (at(Some(new)), Opened::Fresh)),
            (None, Fresh::At(new), false, (at(Some(new)), Opened::Fresh)),
            (None, Fresh::Snapshot, true, (at(None), Opened::Fresh)),
            (None, Fresh::Nowhere, false, (None, Opened::Fresh)),
        ];
        for (kept, fresh, reset, expected) in cases {
            assert_eq!(open(kept, 1, fresh, reset, 2), expected, "{kept:?} {fresh:?} {reset}");
        }
    }

    #[test]
    fn one_consumer_too_many_is_refused_and_those_there_are_go_on() {
        let (full, at) = (MAX_CONSUMERS as u64, Fresh::At(Position { epoch: Epoch::random(), offset: 1 }));
        assert_eq!(open(None, full, at, false, 2), (None, Opened::TooMany));
        assert_eq!(open(None, full - 1, at, false, 2).1, Opened::Fresh);
        assert_eq!(open(kept(None), full, at, false, 2).1, Opened::Fresh);
    }

    #[test]
    fn only_what_was_not_used_for_thirty_days_is_forgotten() {
        let month = UNUSED_FOR.as_nanos() as i64;
        let used = |used| Kept { position: None, used };
        assert!(!is_unused(used(10), 10 + month));
        assert!(is_unused(used(10), 11 + month));
        assert!(!is_unused(used(10), 0), "the clock was set back");
        assert!(!is_unused(used(i64::MAX), i64::MIN));
    }

    proptest! {
        #[test]
        fn acknowledged_in_any_order_and_any_number_of_times_the_greatest_is_kept(
            offsets in proptest::collection::vec(0i64..20, 1..20), first in proptest::option::of(0i64..20),
        ) {
            let epoch = Epoch::random();
            let at = |offset| Position { epoch, offset };
            let mut state = Kept { position: first.map(at), used: 0 };
            for (now, offset) in offsets.iter().enumerate() {
                let next = acknowledge(state, at(*offset), now as i64);
                prop_assert!(next.position.map(|p| p.offset) >= state.position.map(|p| p.offset) && next.used == now as i64);
                state = next;
            }
            let greatest = offsets.iter().copied().chain(first).max();
            prop_assert_eq!(state.position, greatest.map(at));
        }

        #[test]
        fn a_position_of_another_epoch_is_behind_every_one_of_the_present(kept: i64, offset: i64) {
            let old = Kept { position: Some(Position { epoch: Epoch::random(), offset: kept }), used: 0 };
            let new = Position { epoch: Epoch::random(), offset };
            prop_assert_eq!(acknowledge(old, new, 1).position, Some(new));
        }
    }
}
