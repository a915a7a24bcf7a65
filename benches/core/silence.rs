//! How late silence is found, in simulated time: what the sweep decides by its own rhythm, with nothing of the machine's in it.

use std::sync::Arc;
use std::time::Duration;

use heartwire::registry::SWEEP_PERIOD;
use tokio_util::sync::CancellationToken;

use crate::process::{cost, peak, pss, quantile};
use crate::world::{CADENCE, Crowd};
use crate::{Measured, Shape};

/// One in so many falls silent while the others speak.
const SHARE: u32 = 8;

/// Milliseconds, less than which a client takes to answer a beat.
const ANSWER_WITHIN: usize = 128;

/// A share of the crowd falls silent and is found by sweeps that run as in a server; then all others at the same moment.
pub(crate) async fn falls(mut crowd: Crowd, measured: &mut Measured) {
    tokio::time::pause();
    some(&mut crowd, measured).await;
    let before = pss();
    let left = everyone(&mut crowd, measured).await;
    // Mimalloc gives pages back some time after they are free, when it is asked for others.
    for _ in 0..3 {
        crowd.world.fill_ring();
        std::thread::sleep(Duration::from_millis(700));
    }
    crowd.world.fill_ring();
    measured.add("memory that comes back when they end", "B PSS", Shape::Flat, (before - pss()) / left.max(1) as f64);
    measured.add("memory at most", "MB", Shape::Linear, peak() / 1e6);
}

async fn some(crowd: &mut Crowd, measured: &mut Measured) {
    // In step with nothing, as a server that was started at some moment.
    let uptime = crowd.world.registry.clock().uptime();
    tokio::time::advance(Duration::from_millis(173 - uptime % 100)).await;
    let stop = CancellationToken::new();
    let (sweeper, token) = (Arc::clone(&crowd.world.registry), stop.clone());
    let sweeps = tokio::spawn(async move { sweeper.run_sweeps(token).await });
    let woken = Arc::clone(&crowd.woken);
    let (log, registry) = (Arc::clone(&crowd.world.log), Arc::clone(&crowd.world.registry));

    // One and a half intervals in which all beat, the timeout, and time to spare.
    let begun = registry.clock().now();
    let falls = begun + u64::from(CADENCE.interval) * 3 / 2;
    let until = falls + u64::from(CADENCE.timeout) + 3_000;
    let (mut late, mut answers) = (Vec::new(), vec![Vec::new(); ANSWER_WITHIN]);
    // Each millisecond, so that clients are heard in step with nothing.
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    while registry.clock().now() < until {
        tokio::select! {
            () = woken.some() => {}
            _ = ticks.tick() => {
                let now = registry.clock().now() as usize % ANSWER_WITHIN;
                answers[now].drain(..).filter_map(|index| crowd.at(index)).for_each(|registration| registration.heard());
            }
        }
        let now = registry.clock().now();
        late.extend(crowd.drive(&woken.take(), |index, _| {
            if now < falls || index % SHARE != 0 {
                answers[(now as usize + fastrand::usize(1..ANSWER_WITHIN)) % ANSWER_WITHIN].push(index);
            }
        }));
        while log.commit(&*registry) {}
    }
    stop.cancel();
    let _ = sweeps.await;
    late.sort_by(f64::total_cmp);
    let silent = crowd.len().div_ceil(SHARE as usize);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let name = format!("silence found after the timeout, {name}");
        measured.add(&name, "ms simulated", Shape::Flat, quantile(&late, share));
    }
    measured.add("of those that fell silent, found", "%", Shape::Flat, late.len() as f64 / silent as f64 * 100.0);
}

/// All were heard in the same moment and never again: the most that one sweep can have to do. Answers how many there were.
async fn everyone(crowd: &mut Crowd, measured: &mut Measured) -> usize {
    let registry = Arc::clone(&crowd.world.registry);
    // Time stood still for the sweeps since the last of them.
    registry.clock().expect_sweep(SWEEP_PERIOD);
    tokio::time::advance(Duration::from_millis(37)).await;
    let left: Vec<u32> = (0..crowd.len() as u32).filter(|index| crowd.at(*index).is_some()).collect();
    left.iter().filter_map(|index| crowd.at(*index)).for_each(|registration| registration.heard());
    let steps = u64::from(CADENCE.timeout) / SWEEP_PERIOD.as_millis() as u64 + 20;
    let (mut found, mut worst_sweep, mut ends, mut commits) = (Vec::new(), 0f64, 0.0, 0.0);
    for _ in 0..steps {
        tokio::time::advance(Duration::from_millis(1)).await;
        tokio::time::sleep_until(registry.clock().next_multiple(SWEEP_PERIOD)).await;
        registry.clock().expect_sweep(SWEEP_PERIOD);
        let ((), sweep) = cost(|| registry.sweep());
        let woken = crowd.woken.take();
        let (late, end) = cost(|| crowd.drive(&woken, |_, _| ()));
        let ((), commit) = cost(|| crowd.world.commit());
        if !late.is_empty() {
            (ends, commits) = (ends + end, commits + commit);
        }
        worst_sweep = worst_sweep.max(sweep);
        found.extend(late);
    }
    let each = left.len().max(1) as f64;
    let ends_and_commits = (ends + commits) / each;
    found.sort_by(f64::total_cmp);
    measured.add(
        "all silent at once: found after the timeout, max",
        "ms simulated",
        Shape::Flat,
        quantile(&found, 1.0),
    );
    measured.add("the same: of them found", "%", Shape::Flat, found.len() as f64 / each * 100.0);
    measured.add("the same: the longest sweep", "ms", Shape::Linear, worst_sweep / 1e6);
    measured.add("the same for each connection", "ns", Shape::Flat, worst_sweep / each);
    measured.add("their ends, with commit and apply, for each", "ns", Shape::Flat, ends_and_commits);
    left.len()
}
