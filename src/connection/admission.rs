//! How many connections there may be, in all and from one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands out the places for connections.
pub struct Admissions {
    places: Arc<Semaphore>,
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
    _place: OwnedSemaphorePermit,
    _address: Option<Box<AddressPlace>>,
}

struct AddressPlace {
    counts: Arc<PerAddress>,
    address: IpAddr,
}

impl Admissions {
    /// So many places, and so many for one address (0: no limit).
    #[must_use]
    pub fn new(places: usize, per_address: usize) -> Self {
        let per_address =
            (per_address > 0).then(|| Arc::new(PerAddress { most: per_address, counts: Mutex::default() }));
        Self { places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))), per_address }
    }

    /// A place for a connection from `address`.
    ///
    /// # Errors
    /// [`Full`] if there is none.
    pub fn admit(&self, address: IpAddr) -> Result<Admission, Full> {
        // The same client must not count twice by being reached over a socket of both families.
        let address = address.to_canonical();
        let of_address = match &self.per_address {
            None => None,
            Some(counts) => Some(Box::new(counts.enter(address).ok_or(Full::Address)?)),
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Full::Node)?;
        Ok(Admission { _place: place, _address: of_address })
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
        let first = admissions.admit(a).ok();
        let _second = admissions.admit("::ffff:127.0.0.1".parse().expect("an address")).ok();
        assert_eq!(admissions.admit(a).err(), Some(Full::Address));
        let _third = admissions.admit(b).ok();
        assert_eq!(admissions.admit(b).err(), Some(Full::Node));
        drop(first);
        assert!(admissions.admit(a).is_ok());
    }
}
