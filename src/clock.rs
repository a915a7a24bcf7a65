//! The two clocks: wall time for what people read and what is kept, liveness time for heartbeats.

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
    /// Monotonic milliseconds at which the next sweep is due.
    sweep_due: AtomicU64,
    /// Milliseconds that the process stood still in all.
    frozen: AtomicU64,
    wall: Box<WallClock>,
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
                sweep_due: AtomicU64::new(u64::MAX / 2),
                frozen: AtomicU64::new(0),
                wall: Box::new(wall),
            }),
        }
    }

    /// Monotonic milliseconds since the clock was made, whether the process stood still or not.
    #[must_use]
    pub fn uptime(&self) -> Millis {
        self.inner.origin.elapsed().as_millis() as Millis
    }

    /// Liveness time now.
    #[must_use]
    pub fn now(&self) -> Millis {
        // The promise is written before the frozen time and read after it, so whoever sees the new frozen time sees
        // the new promise too. One that reads between the two writes sees time run ahead, which spares a client.
        let frozen = self.inner.frozen.load(Ordering::Acquire);
        let latest = self.inner.sweep_due.load(Ordering::Acquire) + FROZEN_AFTER.as_millis() as Millis;
        self.uptime().min(latest).saturating_sub(frozen)
    }

    /// Says that a sweep is running and that the next is due in `period`. If this one came more than
    /// [`FROZEN_AFTER`] late, the lateness is taken out of liveness time and returned.
    pub fn expect_sweep(&self, period: Duration) -> Option<Duration> {
        let now = self.uptime();
        let due = self.inner.sweep_due.swap(now + period.as_millis() as Millis, Ordering::AcqRel);
        let late = now.saturating_sub(due);
        if Duration::from_millis(late) <= FROZEN_AFTER {
            return None;
        }
        self.inner.frozen.fetch_add(late, Ordering::AcqRel);
        Some(Duration::from_millis(late))
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
        let ago = self.now().saturating_sub(then);
        self.wall_nanos() - UnixNanos::try_from(ago.saturating_mul(1_000_000)).unwrap_or(0)
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
