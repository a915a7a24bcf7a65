//! The timer wheel of one shard: 8 bytes a timer, re-armed lazily when it comes up.

use super::fold::Index;
use crate::clock::Millis;

/// A moment in units of [`TICK`].
pub(super) type Tick = u32;

/// The grain of the wheel, and how often it is swept: 100 ms finds silence well within the 150 ms that are aimed at.
pub(super) const TICK: Millis = 100;

/// 256 slots are 25.6 s; a timer further off stays in its slot for more than one turn.
const SLOTS: usize = 256;

/// Timers by the moment they are due. It does not know who is gone: whoever takes a timer out checks that it still means something.
pub(super) struct Wheel {
    slots: Box<[Vec<(Index, Tick)>]>,
    swept: Tick,
}

/// The first tick at or after a moment.
pub(super) fn tick_at(moment: Millis) -> Tick {
    Tick::try_from(moment.div_ceil(TICK)).unwrap_or(Tick::MAX)
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { slots: vec![Vec::new(); SLOTS].into(), swept: 0 }
    }

    /// Sets a timer, not before the next sweep; answers when it is due.
    pub(super) fn set(&mut self, index: Index, due: Tick) -> Tick {
        let due = due.max(self.swept + 1);
        self.slots[due as usize % SLOTS].push((index, due));
        due
    }

    /// Takes out what is due at or before `now`.
    pub(super) fn sweep(&mut self, now: Tick, due: &mut Vec<(Index, Tick)>) {
        let turns = (now.saturating_sub(self.swept)) as usize;
        for step in 0..turns.min(SLOTS) {
            let slot = &mut self.slots[(self.swept as usize + 1 + step) % SLOTS];
            // As most are that few connections share, and one that is empty keeps no memory.
            if slot.is_empty() {
                continue;
            }
            slot.retain(|timer| {
                let stays = timer.1 > now;
                if !stays {
                    due.push(*timer);
                }
                stays
            });
            // 16,384 slots in all would keep more than the connections have timers.
            if slot.len() * 4 < slot.capacity() {
                slot.shrink_to(slot.len() * 2);
            }
        }
        self.swept = self.swept.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_timer_comes_up_once_in_the_first_sweep_at_or_after_it_is_due(
            timers in proptest::collection::vec(1u32..2_000, 0..200), steps in proptest::collection::vec(1u32..700, 1..40),
        ) {
            let mut wheel = Wheel::new();
            for (index, due) in timers.iter().enumerate() {
                wheel.set(index as Index, *due);
            }
            let (mut now, mut seen) = (0, vec![0u32; timers.len()]);
            for step in steps.into_iter().chain([4_000]) {
                let before = now;
                now += step;
                let mut due = Vec::new();
                wheel.sweep(now, &mut due);
                for (index, at) in due {
                    prop_assert!(at > before && at <= now);
                    prop_assert_eq!(at, timers[index as usize]);
                    seen[index as usize] += 1;
                }
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn a_timer_set_for_the_past_comes_up_in_the_next_sweep() {
        let mut wheel = Wheel::new();
        wheel.sweep(1_000, &mut Vec::new());
        assert_eq!(wheel.set(7, 3), 1_001);
        let mut due = Vec::new();
        wheel.sweep(1_001, &mut due);
        assert_eq!(due, [(7, 1_001)]);
    }
}
