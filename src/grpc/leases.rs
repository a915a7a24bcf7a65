//! The places of snapshots: so many at once, the others wait; one that is not read loses its place to one that waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::Error;
use crate::registry::ConnectionView;

/// How long a snapshot waits for a place.
const PLACE_DEADLINE: Duration = Duration::from_secs(10);
/// A snapshot not polled for this long may lose its place.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// The places.
pub(super) struct Leases {
    most: usize,
    places: Mutex<Slab<Arc<Mutex<Held>>>>,
    freed: Notify,
}

/// A place of a snapshot; dropping it gives it back.
pub(super) struct Lease {
    table: Arc<Leases>,
    key: usize,
    held: Arc<Mutex<Held>>,
}

/// What goes with a place, so that losing it frees the memory too, though its owner is never polled again.
struct Held {
    polled: Instant,
    /// What is left of the shard that was copied last, the next at the end; none once the place is lost.
    members: Option<Vec<ConnectionView>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    pub(super) fn new(most: usize) -> Self {
        Self { most, places: Mutex::default(), freed: Notify::new() }
    }

    /// Waits for a place, for at most 10 s.
    pub(super) async fn place(self: &Arc<Self>) -> Result<Lease, Error> {
        let deadline = Instant::now() + PLACE_DEADLINE;
        loop {
            // Listening before looking, so that a place freed in between is not missed.
            let freed = self.freed.notified();
            let look_again = match self.try_place() {
                Ok(lease) => return Ok(lease),
                Err(look_again) => look_again.min(deadline),
            };
            if Instant::now() >= deadline {
                return Err(Error::SnapshotsLimit(self.most));
            }
            tokio::select! {
                () = freed => {}
                () = tokio::time::sleep_until(look_again) => {}
            }
        }
    }

    /// A place that is free, or that a stalled snapshot has to give up; else when the next might.
    fn try_place(self: &Arc<Self>) -> Result<Lease, Instant> {
        let now = Instant::now();
        let mut places = lock(&self.places);
        if places.len() >= self.most {
            let stalest = places.iter().map(|(key, held)| (lock(held).polled + STALLED_AFTER, key)).min();
            match stalest {
                Some((stalled_at, key)) if stalled_at <= now => {
                    let held = places.remove(key);
                    lock(&held).members = None;
                }
                Some((stalls_at, _)) => return Err(stalls_at),
                None => return Err(now + PLACE_DEADLINE),
            }
        }
        let held = Arc::new(Mutex::new(Held { polled: now, members: Some(Vec::new()) }));
        let key = places.insert(Arc::clone(&held));
        Ok(Lease { table: Arc::clone(self), key, held })
    }
}

impl Lease {
    /// Says that the snapshot is being read, and hands out the members left to send.
    pub(super) fn take(&self) -> Result<Vec<ConnectionView>, Error> {
        let mut held = lock(&self.held);
        held.polled = Instant::now();
        held.members.as_mut().map(std::mem::take).ok_or(Error::SnapshotStalled)
    }

    /// Keeps the members that are left.
    pub(super) fn keep(&self, members: Vec<ConnectionView>) {
        if let Some(kept) = &mut lock(&self.held).members {
            *kept = members;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut places = lock(&self.table.places);
        // Once the place was lost its key may be another's.
        if places.get(self.key).is_some_and(|held| Arc::ptr_eq(held, &self.held)) {
            places.remove(self.key);
            drop(places);
            self.table.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_too_many_waits_for_ten_seconds() {
        let leases = Arc::new(Leases::new(1));
        let _first = leases.place().await.expect("room");
        let began = Instant::now();
        assert_eq!(leases.place().await.err(), Some(Error::SnapshotsLimit(1)));
        assert_eq!(began.elapsed(), PLACE_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_becomes_free_is_taken_at_once() {
        let leases = Arc::new(Leases::new(1));
        let first = leases.place().await.expect("room");
        let waiting = tokio::spawn({
            let leases = Arc::clone(&leases);
            async move { leases.place().await }
        });
        tokio::time::sleep(Duration::from_secs(3)).await;
        let began = Instant::now();
        drop(first);
        assert!(waiting.await.expect("no panic").is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_snapshot_keeps_its_place_until_somebody_waits_and_then_loses_it() {
        let leases = Arc::new(Leases::new(1));
        let stalled = leases.place().await.expect("room");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(stalled.take().is_ok(), "nobody waited");
        tokio::time::sleep(Duration::from_secs(25)).await;
        let began = Instant::now();
        let next = leases.place().await.expect("the place of the stalled one");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert_eq!(stalled.take().err(), Some(Error::SnapshotStalled));
        // Its end does not take the place from the one who has it now.
        drop(stalled);
        assert!(next.take().is_ok());
        assert_eq!(lock(&leases.places).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_read_keeps_its_place_however_slow() {
        let leases = Arc::new(Leases::new(1));
        let slow = leases.place().await.expect("room");
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(19)).await;
            assert!(slow.take().is_ok());
            assert!(leases.place().await.is_err());
        }
    }
}
