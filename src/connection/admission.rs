//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

/// The most places of [`Admissions`] for handshakes that may go on with a session, which has a place already.
pub const MOST_PROVISIONAL: usize = 256;

/// Hands out the places for connections.
pub struct Admissions {
    places: Places,
    /// Until its first frame, a socket for which there is no place may turn out to need none.
    provisional: Places,
}

/// Some places, in all and by address.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    per_address: Option<Arc<PerAddress>>,
}

struct PerAddress {
    most: usize,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// Why there is no place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// Too many connections in all.
    Node,
    /// Too many from this address.
    Address,
}

/// One connection's place; dropping it gives the place back.
pub struct Admission {
    _place: Place,
    _address: Option<Box<AddressPlace>>,
}

/// One of those in all. Unlike the semaphore's own permit it is always one, and so takes no room to say how many it is.
struct Place(Arc<Semaphore>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.add_permits(1);
    }
}

/// What a handshake is let in with.
pub enum Entry {
    /// A place of its own.
    Place(Admission),
    /// None, until its first frame: a session that goes on has one.
    Provisional(Provisional),
}

/// A stay that is short, and what may become a place.
pub struct Provisional {
    _stay: Admission,
    places: Places,
    address: IpAddr,
}

struct AddressPlace {
    counts: Arc<PerAddress>,
    address: IpAddr,
}

impl Admissions {
    /// So many places, and so many for one address (0: no limit).
    #[must_use]
    pub fn new(places: usize, per_address: usize) -> Self {
        Self {
            places: Places::new(places, per_address),
            provisional: Places::new(places.min(MOST_PROVISIONAL), per_address),
        }
    }

    /// How many places nobody has.
    #[must_use]
    pub fn free(&self) -> usize {
        self.places.free.available_permits()
    }

    /// A place for a connection from `address`. Where there is none, one that `may_resume` is let in for a while: sessions that have lost
    /// their sockets keep their places, and must not be kept from going on by them.
    ///
    /// # Errors
    /// [`Full`] if there is none.
    pub fn admit(&self, address: IpAddr, may_resume: bool) -> Result<Entry, Full> {
        // The same client must not count twice by being reached over a socket of both families.
        let address = address.to_canonical();
        let full = match self.places.take(address) {
            Ok(place) => return Ok(Entry::Place(place)),
            Err(full) if !may_resume => return Err(full),
            Err(full) => full,
        };
        let stay = self.provisional.take(address).map_err(|_| full)?;
        Ok(Entry::Provisional(Provisional { _stay: stay, places: self.places.clone(), address }))
    }
}

impl Entry {
    /// The place for a new connection.
    ///
    /// # Errors
    /// [`Full`] if there is still none.
    pub(super) fn settle(self) -> Result<Admission, Full> {
        match self {
            Self::Place(place) => Ok(place),
            Self::Provisional(provisional) => provisional.places.take(provisional.address),
        }
    }
}

impl Places {
    fn new(places: usize, per_address: usize) -> Self {
        let per_address =
            (per_address > 0).then(|| Arc::new(PerAddress { most: per_address, counts: Mutex::default() }));
        Self { free: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))), per_address }
    }

    fn take(&self, address: IpAddr) -> Result<Admission, Full> {
        let of_address = match &self.per_address {
            None => None,
            Some(counts) => Some(Box::new(counts.enter(address).ok_or(Full::Address)?)),
        };
        self.free.try_acquire().map_err(|_| Full::Node)?.forget();
        Ok(Admission { _place: Place(Arc::clone(&self.free)), _address: of_address })
    }
}

impl PerAddress {
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<AddressPlace> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(AddressPlace { counts: Arc::clone(self), address })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.counts.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_by_address_and_given_back() {
        let admissions = Admissions::new(3, 2);
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let first = admissions.admit(a, false).ok();
        let _second = admissions.admit("::ffff:127.0.0.1".parse().expect("an address"), false).ok();
        assert_eq!(admissions.admit(a, false).err(), Some(Full::Address));
        let _third = admissions.admit(b, false).ok();
        assert_eq!(admissions.admit(b, false).err(), Some(Full::Node));
        drop(first);
        assert!(admissions.admit(a, false).is_ok());
    }

    #[test]
    fn who_may_resume_is_let_in_for_a_while_and_gets_a_place_only_if_one_is_free_by_then() {
        let admissions = Admissions::new(2, 1);
        let (a, b) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        let place = admissions.admit(a, true).expect("a place").settle().ok();
        let early = admissions.admit(a, true).expect("a stay");
        assert_eq!(admissions.admit(a, true).err(), Some(Full::Address), "one stay as one place");
        assert_eq!(early.settle().err(), Some(Full::Address));
        let late = admissions.admit(a, true).expect("the stay is free again");
        drop(place);
        let _place = late.settle().expect("a place");
        let _other = admissions.admit(b, false).expect("another place");
        assert!(matches!(admissions.admit(IpAddr::from([127, 0, 0, 3]), true), Ok(Entry::Provisional(_))));
    }
}
