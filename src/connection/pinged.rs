//! The newest Ping of a connection: whether its Pong is awaited, how long that took, and who wants to know.

use std::num::NonZeroU64;
use std::time::Duration;

use tokio::sync::oneshot;

use super::PingPayload;

/// How long a Ping's own Pong is waited for before the next Ping counts instead.
const AWAITED: Duration = Duration::from_secs(10);

/// The newest Ping. What only few need at a time is in a box, and times are in monotonic time.
#[derive(Default)]
pub(super) struct Pinged {
    /// When it was sent; none once it was answered.
    sent: Option<Stamp>,
    /// Who waits for its Pong; nobody most of the time.
    probes: Option<Box<Probes>>,
}

/// A moment in microseconds, and one more. Its last bytes travel in the payload and tell a Ping's own Pong from that of one before: two that
/// have the same were sent a multiple of 71 minutes apart, to the microsecond.
#[derive(Clone, Copy)]
struct Stamp(NonZeroU64);

impl Stamp {
    fn of(moment: Duration) -> Self {
        Self(NonZeroU64::MIN.saturating_add(u64::try_from(moment.as_micros()).unwrap_or(u64::MAX)))
    }

    const fn payload(self) -> PingPayload {
        (self.0.get() as u32).to_be_bytes()
    }

    /// How long ago it was.
    fn elapsed(self, now: Duration) -> Duration {
        Duration::from_micros(Self::of(now).0.get().saturating_sub(self.0.get()))
    }
}

/// Bounded by the calls that backends have open.
#[derive(Default)]
struct Probes {
    waiting: Vec<oneshot::Sender<Duration>>,
    /// One came while nothing could be written.
    held_back: bool,
}

impl Pinged {
    /// The payload of a Ping that is sent now. One that is on its way is repeated rather than replaced: with a round trip longer than the
    /// interval no Pong would ever match.
    pub(super) fn next(&mut self, now: Duration) -> PingPayload {
        let on_its_way = self.sent.filter(|_| self.is_awaited(now));
        self.sent.insert(on_its_way.unwrap_or_else(|| Stamp::of(now))).payload()
    }

    /// Whether the Pong of the newest Ping may still come.
    fn is_awaited(&self, now: Duration) -> bool {
        self.sent.is_some_and(|sent| sent.elapsed(now) <= AWAITED)
    }

    /// Takes in who waits; whether a Ping is to be sent for them now. While nothing can be written, Pings would only pile up: one follows when
    /// something can. And the Pong that is awaited already will do, so that a thousand probes are not a thousand Pings.
    pub(super) fn probe(&mut self, probes: Vec<oneshot::Sender<Duration>>, can_write: bool, now: Duration) -> bool {
        let all = &mut **self.probes.get_or_insert_default();
        all.waiting.retain(|probe| !probe.is_closed());
        all.waiting.extend(probes);
        all.held_back |= !can_write;
        can_write && !self.is_awaited(now)
    }

    /// Whether a Ping that was held back is to be sent now that something can be written.
    pub(super) fn take_held_back(&mut self, now: impl FnOnce() -> Duration) -> bool {
        let held_back = self.probes.as_mut().is_some_and(|probes| std::mem::take(&mut probes.held_back));
        held_back && !self.is_awaited(now())
    }

    /// The round trip, if this is the Pong that was awaited; whoever waited is told.
    pub(super) fn answered(&mut self, payload: PingPayload, now: Duration) -> Option<Duration> {
        let round_trip = self.sent.take_if(|sent| sent.payload() == payload)?.elapsed(now);
        for probe in self.probes.take().into_iter().flat_map(|probes| probes.waiting) {
            // Whoever asked may have stopped waiting.
            let _ = probe.send(round_trip);
        }
        Some(round_trip)
    }

    /// The socket is lost, and with it the Pong; whoever waits has a Ping sent on the next one.
    pub(super) fn lose(&mut self) {
        self.sent = None;
        if let Some(probes) = &mut self.probes {
            probes.held_back = true;
        }
    }

    /// No Pong is listened for any more; whoever waits for one learns it by this.
    pub(super) fn give_up(&mut self) {
        self.probes = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_round_trip_longer_than_the_interval_is_measured_all_the_same() {
        let mut pinged = Pinged::default();
        let first = pinged.next(at(0));
        assert_eq!(pinged.next(at(100)), first, "one that is on its way is repeated");
        assert_eq!(pinged.answered(first, at(150)), Some(at(150)));
        assert_eq!(pinged.answered(first, at(150)), None, "the Pong of the repetition");
        assert_ne!(pinged.next(at(150)), first);
    }

    #[test]
    fn a_pong_that_never_came_is_given_up_and_an_old_one_does_not_count() {
        let mut pinged = Pinged::default();
        let lost = pinged.next(at(0));
        let late = AWAITED + at(1);
        let next = pinged.next(late);
        assert_ne!(next, lost);
        assert_eq!(pinged.answered(lost, late), None);
        assert_eq!(pinged.answered(next, late), Some(Duration::ZERO));
    }

    #[test]
    fn one_that_was_never_answered_is_not_awaited_when_its_payload_comes_round_again() {
        let mut pinged = Pinged::default();
        let lost = pinged.next(at(0));
        let round = Duration::from_micros(1 << 32);
        assert_eq!(pinged.next(round), lost);
        assert_eq!(pinged.answered(lost, round + at(3)), Some(at(3)));
    }

    #[test]
    fn probes_share_one_ping_and_all_are_told() {
        let mut pinged = Pinged::default();
        let (one, mut first) = oneshot::channel();
        let (two, mut second) = oneshot::channel();
        assert!(!pinged.probe(vec![one], false, at(0)), "nothing can be written");
        assert!(pinged.take_held_back(|| at(0)));
        let payload = pinged.next(at(0));
        assert!(!pinged.probe(vec![two], true, at(0)), "a Pong is awaited already");
        pinged.answered(payload, at(7));
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(at(7)), Ok(at(7))));
    }
}
