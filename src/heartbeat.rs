//! The heartbeat decision, pure: from what was last heard and the time, what to do with a connection and when next.

use std::time::Duration;

use crate::clock::Millis;

/// A plain connection that recovered becomes SUSPECT again no sooner than this, so that a flapping client does not fill the log.
pub const SUSPECT_AGAIN_AFTER: Millis = 5 * 60 * 1000;

/// How often heartbeats are due and how long silence is borne.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    /// Milliseconds between heartbeats; 100 ms to 1 h.
    pub interval: u32,
    /// Milliseconds of silence after which a connection is GONE; above the interval, at most 24 h.
    pub timeout: u32,
}

impl Cadence {
    /// From spans; a span over 49 days is cut to that.
    #[must_use]
    pub fn new(interval: Duration, timeout: Duration) -> Self {
        let millis = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Self { interval: millis(interval), timeout: millis(timeout) }
    }

    /// The interval as a span.
    #[must_use]
    pub const fn interval(self) -> Duration {
        Duration::from_millis(self.interval as u64)
    }

    /// The timeout as a span.
    #[must_use]
    pub const fn timeout(self) -> Duration {
        Duration::from_millis(self.timeout as u64)
    }

    /// Both numbers in one word, for an atomic.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.interval as u64) << 32 | self.timeout as u64
    }

    /// The reverse of [`Cadence::to_bits`].
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self { interval: (bits >> 32) as u32, timeout: bits as u32 }
    }

    /// How many whole intervals have passed in `silence`: the heartbeats that were missed.
    #[must_use]
    pub const fn missed(self, silence: Millis) -> u32 {
        (silence / if self.interval == 0 { 1 } else { self.interval as u64 }) as u32
    }

    const fn suspect_after(self) -> Millis {
        self.interval as u64 + self.interval as u64 / 2
    }
}

/// What the sweep keeps of a connection between two looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// When the server's next heartbeat is due.
    pub next_beat: Millis,
    /// Before this it is not called SUSPECT again.
    pub suspect_from: Millis,
}

impl Pulse {
    /// A new connection's: the first beat falls at `phase` (0 up to 1) of the interval, at random, so that a reconnect storm does not
    /// become a heartbeat storm.
    #[must_use]
    pub fn start(now: Millis, cadence: Cadence, phase: f64) -> Self {
        Self { next_beat: now + (f64::from(cadence.interval) * phase) as Millis, suspect_from: 0 }
    }

    /// After it recovered from SUSPECT.
    pub fn recovered(&mut self, now: Millis) {
        self.suspect_from = now + SUSPECT_AGAIN_AFTER;
    }
}

/// What silence calls for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: it was heard lately enough.
    Well,
    /// A heartbeat is overdue.
    Suspect,
    /// The timeout is over.
    Expire,
}

/// The outcome of one look at a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judgement {
    /// What its silence calls for.
    pub verdict: Verdict,
    /// Whether the server's heartbeat is due now.
    pub beat: bool,
    /// When to look again; always after `now`.
    pub look_again: Millis,
}

/// Looks at a connection last heard at `last_seen` and moves its pulse on.
///
/// `suspect` says whether it is SUSPECT already; `quiet` that the server sends no heartbeats of its own.
pub fn judge(
    pulse: &mut Pulse,
    cadence: Cadence,
    last_seen: Millis,
    suspect: bool,
    quiet: bool,
    now: Millis,
) -> Judgement {
    let silence = now.saturating_sub(last_seen);
    let gone_at = last_seen + Millis::from(cadence.timeout);
    let suspect_at = (last_seen + cadence.suspect_after()).max(pulse.suspect_from);

    let beat = !quiet && now >= pulse.next_beat;
    if beat {
        // From when it was due, not from now, so that beats do not drift; but never a burst to catch up.
        let interval = Millis::from(cadence.interval).max(1);
        pulse.next_beat += interval * ((now - pulse.next_beat) / interval + 1);
    }

    let verdict = if silence >= Millis::from(cadence.timeout) {
        Verdict::Expire
    } else if !suspect && now >= suspect_at {
        Verdict::Suspect
    } else {
        Verdict::Well
    };

    let mut look_again = gone_at;
    if !suspect && verdict == Verdict::Well {
        look_again = look_again.min(suspect_at);
    }
    if !quiet {
        look_again = look_again.min(pulse.next_beat);
    }
    Judgement { verdict, beat, look_again: look_again.max(now + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CADENCE: Cadence = Cadence { interval: 30_000, timeout: 60_000 };

    fn pulse() -> Pulse {
        Pulse::start(0, CADENCE, 0.5)
    }

    #[test]
    fn silence_of_one_and_a_half_intervals_makes_a_connection_suspect() {
        assert_eq!(judge(&mut pulse(), CADENCE, 0, false, true, 44_999).verdict, Verdict::Well);
        assert_eq!(judge(&mut pulse(), CADENCE, 0, false, true, 45_000).verdict, Verdict::Suspect);
        assert_eq!(judge(&mut pulse(), CADENCE, 0, true, true, 45_000).verdict, Verdict::Well);
    }

    #[test]
    fn silence_of_the_timeout_expires_it() {
        assert_eq!(judge(&mut pulse(), CADENCE, 0, true, true, 59_999).verdict, Verdict::Well);
        assert_eq!(judge(&mut pulse(), CADENCE, 0, true, true, 60_000).verdict, Verdict::Expire);
        assert_eq!(judge(&mut pulse(), CADENCE, 0, false, true, 60_000).verdict, Verdict::Expire);
    }

    #[test]
    fn one_that_recovered_is_not_suspect_again_for_five_minutes_but_may_be_gone() {
        let mut pulse = pulse();
        pulse.recovered(50_000);
        assert_eq!(judge(&mut pulse, CADENCE, 50_000, false, true, 100_000).verdict, Verdict::Well);
        assert_eq!(judge(&mut pulse, CADENCE, 50_000, false, true, 110_000).verdict, Verdict::Expire);
        assert_eq!(judge(&mut pulse, CADENCE, 310_000, false, true, 355_000).verdict, Verdict::Suspect);
    }

    #[test]
    fn the_first_beat_falls_at_its_phase_and_the_next_an_interval_later() {
        let mut pulse = pulse();
        assert!(!judge(&mut pulse, CADENCE, 0, false, false, 14_999).beat);
        assert!(judge(&mut pulse, CADENCE, 0, false, false, 15_000).beat);
        assert!(!judge(&mut pulse, CADENCE, 0, false, false, 15_001).beat);
        assert_eq!(pulse.next_beat, 45_000);
    }

    #[test]
    fn missed_beats_are_not_made_up_for_in_a_burst() {
        let mut pulse = pulse();
        assert!(judge(&mut pulse, CADENCE, 200_000, false, false, 200_000).beat);
        assert_eq!(pulse.next_beat, 225_000);
    }

    #[test]
    fn a_server_told_to_be_quiet_never_beats() {
        assert!(!judge(&mut pulse(), CADENCE, 0, false, true, 50_000).beat);
    }

    #[test]
    fn a_cadence_survives_its_atomic() {
        assert_eq!(Cadence::from_bits(CADENCE.to_bits()), CADENCE);
    }

    proptest! {
        /// Whatever happened before, looking when told to finds the silence no later than at its deadline.
        #[test]
        fn following_look_again_finds_every_deadline_on_time(
            interval in 100u32..100_000, extra in 1u32..100_000, heard in proptest::collection::vec(1u64..200_000, 0..20), phase in 0.0f64..1.0,
        ) {
            let cadence = Cadence { interval, timeout: interval + extra };
            let mut pulse = Pulse::start(0, cadence, phase);
            let (mut last_seen, mut now, mut suspect) = (0u64, 0u64, false);
            let mut beats = heard.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).peekable();
            loop {
                let judgement = judge(&mut pulse, cadence, last_seen, suspect, false, now);
                prop_assert!(judgement.look_again > now);
                let deadline = last_seen + u64::from(cadence.timeout);
                prop_assert!(judgement.look_again <= deadline.max(now + 1));
                match judgement.verdict {
                    Verdict::Expire => { prop_assert_eq!(now, deadline); break; }
                    Verdict::Suspect => suspect = true,
                    Verdict::Well => {}
                }
                now = judgement.look_again;
                while let Some(at) = beats.next_if(|at| *at <= now) {
                    if at < last_seen + u64::from(cadence.timeout) {
                        last_seen = at;
                        if suspect { suspect = false; pulse.recovered(at); }
                    }
                }
            }
        }
    }
}
