//! The sweep: finds who is silent and whose heartbeat is due, with no message from anybody.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::fold::Index;
use super::wheel::{TICK, Tick, tick_at};
use super::{Registry, Shard, signal};
use crate::clock::Millis;
use crate::event::EventKind;
use crate::heartbeat::{Verdict, judge};
use crate::log::Entry;

/// How often the wheels are swept.
pub const SWEEP_PERIOD: Duration = Duration::from_millis(TICK);

/// How often the log is asked to forget by age, in sweeps.
const RETAIN_EVERY: u64 = 50;

impl Registry {
    /// Sweeps every [`SWEEP_PERIOD`] until `stop`.
    pub async fn run_sweeps(&self, stop: CancellationToken) {
        // In step with the wheels, also after it was late: a timer comes up by the tick that it is due in, and a sweep between two ticks would come
        // by so much later to all of them, on top of the up to a whole tick that some wait anyway.
        let mut ticks = tokio::time::interval_at(self.clock.next_multiple(SWEEP_PERIOD), SWEEP_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // The first may be late too.
        self.clock.expect_sweep(SWEEP_PERIOD);
        let mut count = 0u64;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Some(late) = self.clock.expect_sweep(SWEEP_PERIOD) {
                self.metrics.frozen.inc();
                tracing::warn!(
                    seconds = late.as_secs_f64(),
                    "the process stood still; every heartbeat deadline moves by as much"
                );
            }
            self.sweep();
            count += 1;
            if count.is_multiple_of(RETAIN_EVERY) {
                self.log.retain();
            }
        }
    }

    /// Looks at every connection whose timer is due.
    pub fn sweep(&self) {
        let now = self.clock.now();
        // Everything due at or before the tick that has begun.
        let tick = (now / TICK) as Tick;
        let mut due = Vec::new();
        for shard in 0..self.shards.len() {
            let mut shard = self.lock(shard);
            shard.wheel.sweep(tick, &mut due);
            for (index, at) in due.drain(..) {
                self.look(&mut shard, index, at, now);
            }
        }
    }

    fn look(&self, shard: &mut Shard, index: Index, at: Tick, now: Millis) {
        let Shard { fold, wheel, .. } = shard;
        let Some(Some(local)) = fold.held_mut(index) else { return };
        if local.due != at {
            return;
        }
        let connection = &local.connection;
        if connection.has(signal::SEALED) {
            return;
        }
        if connection.has(signal::PAUSED) || connection.has(signal::DETACHED) {
            // The server is not reading, so silence says nothing about the client. One without a socket has the resume window instead.
            connection.excuse(now);
        }
        let silent_since = connection.silent_since();
        let suspect = connection.has(signal::SUSPECT);
        let judgement = judge(&mut local.pulse, connection.cadence(), silent_since, suspect, self.settings.quiet, now);
        if judgement.beat {
            connection.signal(signal::BEAT);
        }
        let mut look_again = judgement.look_again;
        match judgement.verdict {
            Verdict::Well => {}
            // The driver reads what may be waiting in the kernel before it ends anything.
            Verdict::Expire => connection.signal(signal::EXPIRE),
            Verdict::Suspect => match self.log.budget().try_reserve(0) {
                Some(room) if connection.mark_suspect(silent_since) => {
                    let labels = {
                        let mut ledger = connection.ledger();
                        ledger.suspect_since = now;
                        ledger.labels.clone()
                    };
                    let last_seen = self.clock.wall_nanos_at(connection.last_seen());
                    let kind = EventKind::Suspected { last_seen, socket_lost: false };
                    self.log.submit(Entry::new(self.event(connection, labels, kind), room));
                }
                // Heard just now, or no room in the log: the next sweep looks again.
                _ => look_again = now + TICK,
            },
        }
        local.due = wheel.set(index, tick_at(look_again));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::Duplicates;
    use super::super::model::World;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_is_found_within_a_tick_of_the_timeout_at_whatever_moment_the_sweeps_began() {
        for begun in [0, 1, 50, 99] {
            let world = World::new(Duplicates::Replace);
            let clock = world.registry.clock().clone();
            tokio::time::advance(Duration::from_millis(begun)).await;
            let (registry, stop) = (Arc::clone(&world.registry), CancellationToken::new());
            let token = stop.clone();
            let sweeps = tokio::spawn(async move { registry.run_sweeps(token).await });
            let mut joined = Vec::new();
            for number in 0..20 {
                let registration = world.join(&format!("c{number}")).expect("joins");
                world.commit_all();
                joined.push((registration, clock.now()));
                tokio::time::sleep(Duration::from_millis(7)).await;
            }
            for (registration, heard) in joined {
                let found_by = heard + 60_000 + TICK;
                tokio::time::sleep(Duration::from_millis(found_by + 1 - clock.now())).await;
                assert!(registration.connection().has(signal::EXPIRE), "heard at {heard}, sweeps began at {begun}");
            }
            stop.cancel();
            sweeps.await.expect("ends");
        }
    }
}
