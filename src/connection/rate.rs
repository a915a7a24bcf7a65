//! How fast one client may send: three token buckets of eight bytes each.

use crate::clock::Millis;
use crate::close::Excess;

/// Heartbeats, Pings and Pongs a second: a hundred times what a lively client needs.
const CONTROL_PER_SECOND: u64 = 100;

/// Bytes of a heartbeat or an acknowledgement that are free; the longest client id fits.
const CONTROL_TEXT: usize = 256;

/// What may come at once, in seconds' worth of the rate.
const BURST_MICROS: u64 = 2_000_000;

/// The rates; 0 stands for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Business messages a second.
    pub messages: u64,
    /// Their bytes a second; a burst always has room for the largest message.
    pub bytes: u64,
}

/// A token bucket by its theoretical arrival time (the generic cell rate algorithm, ITU-T I.371, 1996), in microseconds.
#[derive(Clone, Copy, Default, Debug)]
struct Bucket(u64);

impl Bucket {
    /// Takes what costs so many microseconds of the rate, if no more than `burst` is then owed.
    fn take(&mut self, now: u64, cost: u64, burst: u64) -> bool {
        let next = self.0.max(now).saturating_add(cost);
        let fits = next - now <= burst;
        if fits {
            self.0 = next;
        }
        fits
    }
}

/// The buckets of one client.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Limiter {
    messages: Bucket,
    bytes: Bucket,
    control: Bucket,
}

impl Limiter {
    /// A business message of so many bytes.
    pub(super) fn message(&mut self, rates: Rates, max_message: usize, size: usize, now: Millis) -> Result<(), Excess> {
        let now = now * 1_000;
        if let Some(cost) = 1_000_000u64.checked_div(rates.messages)
            && !self.messages.take(now, cost, BURST_MICROS.max(cost))
        {
            return Err(Excess::Messages);
        }
        self.bytes(rates, max_message, size, now)
    }

    /// A heartbeat or an acknowledgement as text of so many bytes: what none needs is taken from the allowance of bytes.
    pub(super) fn padding(&mut self, rates: Rates, max_message: usize, size: usize, now: Millis) -> Result<(), Excess> {
        match size.saturating_sub(CONTROL_TEXT) {
            0 => Ok(()),
            padding => self.bytes(rates, max_message, padding, now * 1_000),
        }
    }

    fn bytes(&mut self, rates: Rates, max_message: usize, size: usize, now: u64) -> Result<(), Excess> {
        if rates.bytes > 0 {
            let cost = |bytes: usize| (bytes as u64).saturating_mul(1_000_000) / rates.bytes;
            if !self.bytes.take(now, cost(size), BURST_MICROS.max(cost(max_message))) {
                return Err(Excess::Bytes);
            }
        }
        Ok(())
    }

    /// A heartbeat, Ping or Pong.
    pub(super) fn control(&mut self, now: Millis) -> Result<(), Excess> {
        let fits = self.control.take(now * 1_000, 1_000_000 / CONTROL_PER_SECOND, BURST_MICROS);
        if fits { Ok(()) } else { Err(Excess::ControlFrames) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { messages: 100, bytes: 1_000 };

    #[test]
    fn twice_the_rate_may_come_at_once_and_then_the_rate() {
        let mut limiter = Limiter::default();
        for _ in 0..200 {
            assert_eq!(limiter.message(RATES, 10, 0, 5), Ok(()));
        }
        assert_eq!(limiter.message(RATES, 10, 0, 5), Err(Excess::Messages));
        assert_eq!(limiter.message(RATES, 10, 0, 15), Ok(()));
        assert_eq!(limiter.message(RATES, 10, 0, 15), Err(Excess::Messages));
    }

    #[test]
    fn the_largest_message_always_fits_an_unused_bucket() {
        let mut limiter = Limiter::default();
        assert_eq!(limiter.message(RATES, 100_000, 100_000, 1_000), Ok(()));
        assert_eq!(limiter.message(RATES, 100_000, 1_000, 1_000), Err(Excess::Bytes));
        assert_eq!(limiter.message(RATES, 100_000, 100_000, 101_000), Ok(()));
    }

    #[test]
    fn a_text_that_is_larger_than_a_heartbeat_needs_to_be_costs_its_bytes() {
        let mut limiter = Limiter::default();
        assert!((0..1_000).all(|_| limiter.padding(RATES, 10, 256, 0).is_ok()));
        assert_eq!(limiter.padding(RATES, 10, 256 + 2_000, 0), Ok(()));
        assert_eq!(limiter.padding(RATES, 10, 256 + 1, 0), Err(Excess::Bytes));
    }

    #[test]
    fn zero_is_no_limit() {
        let mut limiter = Limiter::default();
        for _ in 0..10_000 {
            assert_eq!(limiter.message(Rates { messages: 0, bytes: 0 }, 10, 1 << 20, 0), Ok(()));
        }
    }

    #[test]
    fn a_flood_of_control_frames_is_noticed() {
        let mut limiter = Limiter::default();
        let taken = (0..1_000).filter(|_| limiter.control(0).is_ok()).count();
        assert_eq!(taken, 200);
    }
}
