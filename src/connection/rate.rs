//! How fast one client may send: token buckets, of which a client that only heartbeats has one.

use crate::clock::Millis;
use crate::close::Excess;

/// Milliseconds that a heartbeat, Ping or Pong takes of the rate: a hundred a second are a hundred times what a lively client needs.
const CONTROL_COST: Millis = 10;

/// How many of them may come at once: two seconds' worth.
const CONTROL_BURST: u32 = 200;

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

/// The bucket of what each costs the same: the same in units of that cost, which fits in 32 bits for 497 days; then it begins anew.
#[derive(Clone, Copy, Default, Debug)]
struct Even(u32);

impl Even {
    /// Takes one at a moment, if no more than `burst` are then owed.
    fn take(&mut self, now: u32, burst: u32) -> bool {
        // Never more than a burst is owed, so what looks like more is a moment that is past.
        let owed = Some(self.0.wrapping_sub(now)).filter(|owed| *owed <= burst).unwrap_or(0);
        let fits = owed < burst;
        if fits {
            self.0 = now.wrapping_add(owed + 1);
        }
        fits
    }
}

/// The buckets of one client.
#[derive(Default, Debug)]
pub(super) struct Limiter {
    /// There from the first message on: most clients send heartbeats and nothing else.
    business: Option<Box<Business>>,
    control: Even,
}

/// The buckets of what is for backends.
#[derive(Default, Debug)]
struct Business {
    messages: Bucket,
    bytes: Bucket,
}

impl Limiter {
    /// A business message of so many bytes.
    pub(super) fn message(&mut self, rates: Rates, max_message: usize, size: usize, now: Millis) -> Result<(), Excess> {
        let now = now * 1_000;
        if let Some(cost) = 1_000_000u64.checked_div(rates.messages)
            && !self.business().messages.take(now, cost, BURST_MICROS.max(cost))
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
            if !self.business().bytes.take(now, cost(size), BURST_MICROS.max(cost(max_message))) {
                return Err(Excess::Bytes);
            }
        }
        Ok(())
    }

    fn business(&mut self) -> &mut Business {
        self.business.get_or_insert_default()
    }

    /// A heartbeat, Ping or Pong.
    pub(super) fn control(&mut self, now: Millis) -> Result<(), Excess> {
        // Cut to 32 bits: only what is a burst away or less matters.
        let fits = self.control.take((now / CONTROL_COST) as u32, CONTROL_BURST);
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
        assert!(limiter.control(9).is_err());
        assert!(limiter.control(10).is_ok() && limiter.control(10).is_err());
    }

    #[test]
    fn control_frames_are_counted_over_years_and_where_the_count_begins_anew() {
        const TURN: Millis = (1 << 32) * CONTROL_COST;
        let mut limiter = Limiter::default();
        for now in [0, 5_000, TURN / 2, TURN - 1_000, TURN + 900, TURN * 2 + 1_000_000] {
            let taken = (0..1_000).filter(|_| limiter.control(now).is_ok()).count();
            let since = if now == TURN + 900 { 190 } else { 200 };
            assert_eq!(taken, since, "{now}");
        }
    }

    #[test]
    fn who_only_heartbeats_pays_for_no_other_bucket() {
        let mut limiter = Limiter::default();
        assert!(limiter.control(0).is_ok() && limiter.padding(RATES, 10, 256, 0).is_ok());
        assert!(limiter.business.is_none());
        assert!(limiter.message(Rates { messages: 0, bytes: 0 }, 10, 5, 0).is_ok());
        assert!(limiter.business.is_none(), "nothing is counted without a limit");
        assert!(limiter.message(RATES, 10, 5, 0).is_ok());
        assert!(limiter.business.is_some());
    }
}
