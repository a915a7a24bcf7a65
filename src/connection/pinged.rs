//! The newest Ping of a connection: whether its Pong is awaited, how long that took, and who wants to know.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// How long a Ping's own Pong is waited for before the next Ping counts instead.
const AWAITED: Duration = Duration::from_secs(10);

/// The newest Ping.
#[derive(Default)]
pub(super) struct Pinged {
    /// Rises by one from Ping to Ping, and travels in its payload.
    sequence: u32,
    /// When it was sent; none once it was answered.
    sent: Option<Instant>,
    /// Who waits for its Pong; nobody most of the time.
    probes: Option<Box<Probes>>,
    /// A probe came while nothing could be written.
    held_back: bool,
}

/// Bounded by the calls that backends have open.
#[derive(Default)]
struct Probes(Vec<oneshot::Sender<Duration>>);

impl Pinged {
    /// The payload of a Ping that is sent now. One that is on its way is repeated rather than replaced: with a round trip longer than the
    /// interval no Pong would ever match.
    pub(super) fn next(&mut self) -> [u8; 4] {
        if !self.is_awaited() {
            self.sequence = self.sequence.wrapping_add(1);
            self.sent = Some(Instant::now());
        }
        self.sequence.to_be_bytes()
    }

    /// Whether the Pong of the newest Ping may still come.
    fn is_awaited(&self) -> bool {
        self.sent.is_some_and(|sent| sent.elapsed() <= AWAITED)
    }

    /// Takes in who waits; whether a Ping is to be sent for them now. While nothing can be written, Pings would only pile up: one follows when
    /// something can. And the Pong that is awaited already will do, so that a thousand probes are not a thousand Pings.
    pub(super) fn probe(&mut self, probes: Vec<oneshot::Sender<Duration>>, can_write: bool) -> bool {
        let Probes(waiting) = &mut **self.probes.get_or_insert_default();
        waiting.retain(|probe| !probe.is_closed());
        waiting.extend(probes);
        self.held_back |= !can_write;
        can_write && !self.is_awaited()
    }

    /// Whether a Ping that was held back is to be sent now that something can be written.
    pub(super) fn take_held_back(&mut self) -> bool {
        std::mem::take(&mut self.held_back) && !self.is_awaited()
    }

    /// The round trip, if this is the Pong that was awaited; whoever waited is told.
    pub(super) fn answered(&mut self, payload: &[u8]) -> Option<Duration> {
        if payload != self.sequence.to_be_bytes() {
            return None;
        }
        let round_trip = self.sent.take()?.elapsed();
        for probe in self.probes.take().into_iter().flat_map(|probes| probes.0) {
            // Whoever asked may have stopped waiting.
            let _ = probe.send(round_trip);
        }
        Some(round_trip)
    }

    /// The socket is lost, and with it the Pong; whoever waits has a Ping sent on the next one.
    pub(super) fn lose(&mut self) {
        self.sent = None;
        self.held_back |= self.probes.is_some();
    }

    /// No Pong is listened for any more; whoever waits for one learns it by this.
    pub(super) fn give_up(&mut self) {
        self.probes = None;
        self.held_back = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_round_trip_longer_than_the_interval_is_measured_all_the_same() {
        let mut pinged = Pinged::default();
        let first = pinged.next();
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(pinged.next(), first, "one that is on its way is repeated");
        tokio::time::advance(Duration::from_millis(50)).await;
        assert_eq!(pinged.answered(&first), Some(Duration::from_millis(150)));
        assert_eq!(pinged.answered(&first), None, "the Pong of the repetition");
        assert_ne!(pinged.next(), first);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_that_never_came_is_given_up_and_an_old_one_does_not_count() {
        let mut pinged = Pinged::default();
        let lost = pinged.next();
        tokio::time::advance(AWAITED + Duration::from_millis(1)).await;
        let next = pinged.next();
        assert_ne!(next, lost);
        assert_eq!(pinged.answered(&lost), None);
        assert_eq!(pinged.answered(&next), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn probes_share_one_ping_and_all_are_told() {
        let mut pinged = Pinged::default();
        let (one, mut first) = oneshot::channel();
        let (two, mut second) = oneshot::channel();
        assert!(!pinged.probe(vec![one], false), "nothing can be written");
        assert!(pinged.take_held_back());
        let payload = pinged.next();
        assert!(!pinged.probe(vec![two], true), "a Pong is awaited already");
        tokio::time::advance(Duration::from_millis(7)).await;
        pinged.answered(&payload);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(Duration::from_millis(7)), Ok(Duration::from_millis(7))));
    }
}
