//! The two clocks: wall time for what people read and what is kept, liveness time for heartbeats.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A moment or a span of liveness time, in milliseconds since the process began.
pub type Millis = u64;

/// A moment of wall time, in nanoseconds since the Unix epoch; fits until the year 2262.
pub type UnixNanos = i64;

/// How late a sweep must be before the lateness is taken for a frozen process rather than a busy one.
pub const FROZEN_AFTER: Duration = Duration::from_secs(1);

/// Milliseconds in the unit of what sweeps promise; 32 bits of them are 13 years.
const GRAIN: Millis = 100;

fn grains(millis: Millis) -> u32 {
    u32::try_from(millis / GRAIN).unwrap_or(u32::MAX)
}

/// What the sweeps have said, in one word.
#[derive(Clone, Copy)]
struct Sweeps {
    due: u32,
    frozen: u32,
}

impl Sweeps {
    const fn to_bits(self) -> u64 {
        (self.due as u64) << 32 | self.frozen as u64
    }

    const fn from_bits(bits: u64) -> Self {
        Self { due: (bits >> 32) as u32, frozen: bits as u32 }
    }
}

type WallClock = dyn Fn() -> SystemTime + Send + Sync;

/// The clocks of one process; cheap to clone.
///
/// *Liveness time* is monotonic time less the time the process stood still. CLOCK_MONOTONIC does not run while
/// a machine is suspended, but it does while a process is stopped; on waking everyone would look expired
/// with their heartbeats unread in the kernel. So the sweep says when it will come next ([`Clock::expect_sweep`]), and
/// liveness time runs at most [`FROZEN_AFTER`] past that promise until the sweep has come and taken its lateness out.
#[derive(Clone)]
pub struct Clock {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Instant,
    /// When the next sweep is due, in monotonic [`GRAIN`]s, and how long the process stood still in all, in the same: two halves of one
    /// word, because whoever saw the one of before a freeze and the other of after it would be wrong by all of it.
    sweeps: AtomicU64,
    wall: Box<WallClock>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").finish_non_exhaustive()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(SystemTime::now)
    }
}

impl Clock {
    /// A clock whose wall time is `wall`, so that tests can make it jump.
    pub fn new(wall: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self {
            inner: Arc::new(Inner {
                origin: Instant::now(),
                sweeps: AtomicU64::new(Sweeps { due: u32::MAX, frozen: 0 }.to_bits()),
                wall: Box::new(wall),
            }),
        }
    }

    /// Monotonic milliseconds since the clock was made, whether the process stood still or not.
    #[must_use]
    pub fn uptime(&self) -> Millis {
        self.inner.origin.elapsed().as_millis() as Millis
    }

    /// Monotonic time since the clock was made, to the nanosecond.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        self.inner.origin.elapsed()
    }

    /// Liveness time now.
    #[must_use]
    pub fn now(&self) -> Millis {
        self.liveness_at(self.uptime())
    }

    /// Liveness time at a moment of [`Clock::uptime`] that is not long ago.
    #[must_use]
    pub fn liveness_at(&self, uptime: Millis) -> Millis {
        let sweeps = Sweeps::from_bits(self.inner.sweeps.load(Ordering::Acquire));
        let latest = Millis::from(sweeps.due) * GRAIN + FROZEN_AFTER.as_millis() as Millis;
        uptime.min(latest).saturating_sub(Millis::from(sweeps.frozen) * GRAIN)
    }

    /// What the clocks say now, to tell the times of many connections by.
    #[must_use]
    pub fn moment(&self) -> Moment {
        let monotonic = self.inner.origin.elapsed();
        let uptime = monotonic.as_millis() as Millis;
        let now = self.liveness_at(uptime);
        let frozen = Duration::from_millis(uptime.saturating_sub(now));
        Moment { uptime, now, liveness: monotonic.saturating_sub(frozen), wall: self.wall_nanos() }
    }

    /// The first moment from now on at which monotonic time is a whole number of `period`s.
    #[must_use]
    pub fn next_multiple(&self, period: Duration) -> Instant {
        let period = period.as_nanos().max(1);
        let next = self.inner.origin.elapsed().as_nanos().next_multiple_of(period);
        self.inner.origin + Duration::from_nanos(u64::try_from(next).unwrap_or(u64::MAX))
    }

    /// Says that a sweep is running and that the next is due in `period`. If this one came more than
    /// [`FROZEN_AFTER`] late, the lateness is taken out of liveness time and returned.
    pub fn expect_sweep(&self, period: Duration) -> Option<Duration> {
        let now = self.uptime();
        // Only the sweep writes this word.
        let Sweeps { due, frozen } = Sweeps::from_bits(self.inner.sweeps.load(Ordering::Acquire));
        let late = Duration::from_millis(now.saturating_sub(Millis::from(due) * GRAIN));
        let lost = if late > FROZEN_AFTER { grains(late.as_millis() as Millis) } else { 0 };
        let due = grains((now + period.as_millis() as Millis).next_multiple_of(GRAIN));
        let next = Sweeps { due, frozen: frozen.saturating_add(lost) };
        self.inner.sweeps.store(next.to_bits(), Ordering::Release);
        (lost > 0).then_some(late)
    }

    /// Wall time now.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        (self.inner.wall)()
    }

    /// Wall time now in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn wall_nanos(&self) -> UnixNanos {
        unix_nanos(self.wall())
    }

    /// The wall time at which liveness time was `then`, as far as can be told now.
    #[must_use]
    pub fn wall_nanos_at(&self, then: Millis) -> UnixNanos {
        self.moment().wall_nanos_at(then)
    }
}

/// What the clocks of a process said at one moment. Reading a clock costs more than what is told by it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Monotonic time.
    pub uptime: Millis,
    /// Liveness time.
    pub now: Millis,
    /// The same to the nanosecond, so that a time asked for twice is told the same to within what reading two clocks takes.
    liveness: Duration,
    /// Wall time.
    pub wall: UnixNanos,
}

impl Moment {
    /// The wall time at which liveness time was `then`.
    #[must_use]
    pub fn wall_nanos_at(&self, then: Millis) -> UnixNanos {
        let ago = self.liveness.saturating_sub(Duration::from_millis(then));
        self.wall - UnixNanos::try_from(ago.as_nanos()).unwrap_or(0)
    }
}

/// Nanoseconds since the Unix epoch; a time before it counts as the epoch itself.
#[must_use]
pub fn unix_nanos(time: SystemTime) -> UnixNanos {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| UnixNanos::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    #[tokio::test(start_paused = true)]
    async fn liveness_time_runs_with_punctual_sweeps() {
        let clock = Clock::default();
        for _ in 0..50 {
            assert_eq!(clock.expect_sweep(TICK), None);
            tokio::time::advance(TICK).await;
        }
        assert_eq!(clock.now(), 5_000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_process_does_not_age_its_clients() {
        let clock = Clock::default();
        clock.expect_sweep(TICK);
        tokio::time::advance(Duration::from_secs(3600)).await;
        // A heartbeat read after the thaw and before the sweep is stamped with a time that did not jump.
        assert_eq!(clock.now(), 1_100);
        assert_eq!(clock.expect_sweep(TICK), Some(Duration::from_millis(3_599_900)));
        assert_eq!(clock.now(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_is_a_little_late_is_a_busy_machine_and_time_runs_on() {
        let clock = Clock::default();
        clock.expect_sweep(TICK);
        tokio::time::advance(Duration::from_millis(1_050)).await;
        assert_eq!(clock.expect_sweep(TICK), None);
        assert_eq!(clock.now(), 1_050);
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_says_what_the_clocks_say_and_tells_wall_times_by_liveness_time() {
        let start = Instant::now();
        let clock = Clock::new(move || SystemTime::UNIX_EPOCH + start.elapsed());
        clock.expect_sweep(TICK);
        tokio::time::advance(Duration::from_secs(3600)).await;
        clock.expect_sweep(TICK);
        tokio::time::advance(Duration::from_millis(50)).await;
        let moment = clock.moment();
        assert_eq!((moment.uptime, moment.now), (clock.uptime(), clock.now()));
        assert_eq!((moment.uptime, moment.now), (3_600_050, 150));
        // 30 ms of liveness time ago, and not at all of the hour.
        assert_eq!(moment.wall_nanos_at(120), 3_600_020 * 1_000_000);
        assert_eq!(
            moment.wall_nanos_at(200),
            moment.wall_nanos_at(150),
            "what is later than the moment is told as the moment"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_multiple_of_a_period_is_now_or_less_than_a_period_away() {
        let clock = Clock::default();
        let start = Instant::now();
        for (advance, next) in [(0, 0), (1, 100_000), (99_998, 100_000), (1, 100_000), (37_000, 200_000)] {
            tokio::time::advance(Duration::from_micros(advance)).await;
            assert_eq!(clock.next_multiple(TICK), start + Duration::from_micros(next));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_clock_may_jump_without_moving_liveness_time() {
        let hour = Arc::new(AtomicU64::new(10));
        let read = Arc::clone(&hour);
        let clock =
            Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * read.load(Ordering::Relaxed)));
        let before = clock.now();
        hour.store(2, Ordering::Relaxed);
        assert_eq!(clock.now(), before);
        assert_eq!(clock.wall_nanos(), 7200 * 1_000_000_000);
    }
}
