//! Room in a log's queue, reserved before it is needed so that submitting never waits.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

/// The bytes that one permit stands for; an event without a payload costs one.
const GRAIN: usize = 256;

/// Bounds the bytes that may wait in a log's queue. When it is full, `reserve` waits and `try_reserve` answers none; what that
/// means is for the caller: a driver stops reading, a call fails with UNAVAILABLE.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    whole: u32,
    /// While false nobody gets room, full or not: the log cannot commit, and what is queued is enough to carry.
    open: Arc<watch::Sender<bool>>,
}

/// Reserved room for one event; dropping it gives the room back.
#[must_use]
pub struct Slot {
    permits: Arc<Semaphore>,
    count: u32,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.permits.add_permits(self.count as usize);
    }
}

impl Budget {
    /// A budget of about this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let whole =
            u32::try_from(bytes / GRAIN).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS.min(1 << 30) as u32);
        Self { permits: Arc::new(Semaphore::new(whole as usize)), whole, open: Arc::new(watch::Sender::new(true)) }
    }

    /// Gives no new room from now on, or gives it again. Room given before stays good.
    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_if_modified(|now| std::mem::replace(now, open) != open);
    }

    /// An event larger than the whole budget takes all of it, and so goes alone.
    fn cost(&self, payload: usize) -> u32 {
        u32::try_from(1 + payload / GRAIN).unwrap_or(u32::MAX).min(self.whole)
    }

    /// Room for an event with a payload of so many bytes, if there is room now.
    #[must_use]
    pub fn try_reserve(&self, payload: usize) -> Option<Slot> {
        if !*self.open.borrow() {
            return None;
        }
        let count = self.cost(payload);
        let permit = self.permits.try_acquire_many(count).ok()?;
        permit.forget();
        Some(Slot { permits: Arc::clone(&self.permits), count })
    }

    /// Whether anybody gets room: not while the log is failing.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// Room for an event with a payload of so many bytes, as soon as there is some. Callers set the deadline.
    pub async fn reserve(&self, payload: usize) -> Slot {
        let count = self.cost(payload);
        self.take(count).await;
        Slot { permits: Arc::clone(&self.permits), count }
    }

    /// Room for so many events without a payload, as soon as there is room for all of them, which waits for nothing that itself waits for
    /// more. More events than the whole budget has room for take all of it, and so go alone. Callers set the deadline.
    pub async fn reserve_events(&self, count: usize) -> Vec<Slot> {
        let permits = u32::try_from(count).unwrap_or(u32::MAX).min(self.whole);
        self.take(permits).await;
        let slot = |at| Slot { permits: Arc::clone(&self.permits), count: u32::from(at < permits as usize) };
        (0..count).map(slot).collect()
    }

    async fn take(&self, count: u32) {
        loop {
            // Its sender lives as long as the budget does.
            let _ = self.open.subscribe().wait_for(|open| *open).await;
            // The semaphore is never closed, so the only outcome is a permit.
            let Ok(permit) = self.permits.acquire_many(count).await else { continue };
            if *self.open.borrow() {
                return permit.forget();
            }
        }
    }

    /// Whether nothing is reserved.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.permits.available_permits() == self.whole as usize
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_full_budget_refuses_until_a_slot_is_dropped() {
        let budget = Budget::new(2 * GRAIN);
        let first = budget.try_reserve(0).expect("room");
        let second = budget.try_reserve(0).expect("room");
        assert!(budget.try_reserve(0).is_none());
        drop(first);
        assert!(budget.try_reserve(0).is_some());
        drop(second);
        assert!(budget.is_whole());
    }

    #[tokio::test]
    async fn room_for_several_events_is_had_all_at_once_or_not_at_all() {
        let budget = Budget::new(3 * GRAIN);
        let held = budget.try_reserve(0).expect("room");
        let mut three = Box::pin(budget.reserve_events(3));
        assert!((&mut three).now_or_never().is_none());
        drop(held);
        let mut three = three.await;
        assert!(three.len() == 3 && budget.try_reserve(0).is_none());
        // Each is given back by itself.
        three.pop();
        let again = budget.try_reserve(0).expect("room");
        drop((three, again));
        let more = budget.reserve_events(5).await;
        assert!(more.len() == 5 && budget.try_reserve(0).is_none());
        drop(more);
        assert!(budget.is_whole());
        assert!(budget.reserve_events(0).await.is_empty());
    }

    #[tokio::test]
    async fn a_closed_budget_gives_nobody_room_until_it_is_opened() {
        let budget = Budget::new(2 * GRAIN);
        let all = budget.try_reserve(GRAIN).expect("room");
        budget.set_open(false);
        let mut waiting = Box::pin(budget.reserve(0));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(all);
        // There is room, and it is not for newcomers.
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(budget.try_reserve(0).is_none() && budget.is_whole());
        budget.set_open(true);
        drop(waiting.await);
        assert!(budget.try_reserve(0).is_some());
    }

    #[tokio::test]
    async fn an_event_larger_than_the_budget_waits_for_all_of_it_and_goes_alone() {
        let budget = Budget::new(4 * GRAIN);
        let small = budget.try_reserve(0).expect("room");
        assert!(budget.try_reserve(1 << 30).is_none());
        drop(small);
        let large = budget.reserve(1 << 30).await;
        assert!(budget.try_reserve(0).is_none());
        drop(large);
        assert!(budget.is_whole());
    }
}
