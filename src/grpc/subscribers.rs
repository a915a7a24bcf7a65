//! The table of open `Subscribe` streams: how many there may be, and how far behind each is.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slab::Slab;

use super::error::Error;
use crate::metrics::Reading;
use crate::position::Offset;

/// The open streams.
#[derive(Debug)]
pub struct Subscribers {
    most: usize,
    seats: Mutex<Slab<Arc<AtomicI64>>>,
}

/// A stream's place in the table; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    table: Arc<Subscribers>,
    key: usize,
    position: Arc<AtomicI64>,
}

impl Subscribers {
    pub(super) fn new(most: usize) -> Self {
        Self { most, seats: Mutex::default() }
    }

    fn seats(&self) -> MutexGuard<'_, Slab<Arc<AtomicI64>>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a stream that is at `position`.
    pub(super) fn sit(self: &Arc<Self>, position: Offset) -> Result<Seat, Error> {
        let position = Arc::new(AtomicI64::new(position));
        let mut seats = self.seats();
        if seats.len() >= self.most {
            return Err(Error::SubscribersLimit(self.most));
        }
        let key = seats.insert(Arc::clone(&position));
        Ok(Seat { table: Arc::clone(self), key, position })
    }

    /// How many there are, and how far the furthest is behind `head`.
    pub fn read_gauges(&self, head: Offset, reading: &mut Reading) {
        let seats = self.seats();
        reading.subscribers = i64::try_from(seats.len()).unwrap_or(i64::MAX);
        let behind = seats.iter().map(|(_, position)| head.saturating_sub(position.load(Ordering::Relaxed)));
        reading.subscriber_lag = behind.max().unwrap_or(0).max(0);
    }
}

impl Seat {
    /// The stream has handed on everything up to `position`.
    pub(super) fn moved(&self, position: Offset) {
        self.position.store(position, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.table.seats().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_that_is_given_back_can_be_taken_again() {
        let table = Arc::new(Subscribers::new(1));
        let seat = table.sit(5).expect("room");
        assert_eq!(table.sit(5).err(), Some(Error::SubscribersLimit(1)));
        drop(seat);
        assert!(table.sit(5).is_ok());
    }

    #[test]
    fn the_lag_is_that_of_the_furthest_behind() {
        let table = Arc::new(Subscribers::new(3));
        let read = || {
            let mut reading = Reading::default();
            table.read_gauges(110, &mut reading);
            (reading.subscribers, reading.subscriber_lag)
        };
        assert_eq!(read(), (0, 0));
        let (near, far) = (table.sit(109).expect("room"), table.sit(10).expect("room"));
        assert_eq!(read(), (2, 100));
        far.moved(111);
        assert_eq!(read(), (2, 1));
        drop((near, far));
        assert_eq!(read(), (0, 0));
    }
}
