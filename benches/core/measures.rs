//! What is measured of connections that are alive, by the real clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use heartwire::labels::Labels;
use heartwire::metrics::Reading;
use heartwire::registry::{PageStart, Registration, SHARDS, Target};

use crate::process::{cost, median, peak, pss};
use crate::world::{Crowd, World, client_id, keep, shuffled};
use crate::{MEMORY, Measured, Shape};

const HEARD: usize = 1_000_000;
const LOOKUPS: usize = 100_000;
const PAGE: usize = 1_000;

/// Sweeps that are measured, 100 ms apart.
const SWEEPS: usize = 40;

/// Work that is repeated until it has been done for about so many connections.
const WORTH: usize = 300_000;

/// Joins so many and measures them; they stay.
pub(crate) fn alive(connections: usize, measured: &mut Measured) -> Crowd {
    let world = World::new();
    // Twice, because it is as it stays only once it has forgotten.
    world.fill_ring();
    world.fill_ring();
    // What the drivers would hold, and every page of it touched.
    let mut registrations: Vec<_> = (0..connections).map(|_| None).collect();
    let before = pss();
    let ((), joins) = cost(|| world.join(&mut registrations));
    // What the ring keeps of joining goes, so that only connections are counted.
    world.fill_ring();
    let each = connections as f64;
    measured.add(MEMORY, "B PSS", Shape::Flat, (pss() - before) / each);
    measured.add("joining, with commit and apply", "ns", Shape::Flat, joins / each);
    let mut crowd = Crowd::new(world, registrations);
    sweeps(&mut crowd, measured);
    heard(&crowd, measured);
    lookups(connections, &crowd, measured);
    reads(connections, &crowd, measured);
    crowd
}

/// Drivers and clients do what they are asked to; answers how many were asked.
fn answer(crowd: &mut Crowd) -> usize {
    let woken = crowd.woken.take();
    crowd.drive(&woken, |_, registration| registration.heard());
    woken.len()
}

fn sweeps(crowd: &mut Crowd, measured: &mut Measured) {
    let registry = Arc::clone(&crowd.world.registry);
    let period = heartwire::registry::SWEEP_PERIOD;
    // All who have joined are looked at once.
    std::thread::sleep(period * 2);
    let ((), all) = cost(|| registry.sweep());
    answer(crowd);
    let (mut idle, mut due, mut beats) = (Vec::new(), Vec::new(), 0);
    for _ in 0..SWEEPS {
        std::thread::sleep(period);
        due.push(cost(|| registry.sweep()).1);
        beats += answer(crowd);
        idle.push(cost(|| registry.sweep()).1);
    }
    let (idle, total) = (median(&mut idle), due.iter().sum::<f64>());
    let each = (total - idle * SWEEPS as f64) / beats.max(1) as f64;
    measured.add("a sweep with nothing due", "µs", Shape::Flat, idle / 1e3);
    measured.add("a sweep with 1/300 due", "µs", Shape::Linear, median(&mut due) / 1e3);
    measured.add("the same for each that is due", "ns", Shape::Flat, each);
    measured.add("a sweep with all due, for each", "ns", Shape::Flat, all / crowd.len() as f64);
    measured.add("the same: one shard locked for", "µs", Shape::Linear, all / SHARDS as f64 / 1e3);
}

fn heard(crowd: &Crowd, measured: &mut Measured) {
    let order = shuffled(crowd.len());
    let registrations = || order.iter().cycle().take(HEARD).filter_map(|index| crowd.at(*index));
    // Once before, so that what fits in the caches is there.
    keep(registrations().take(crowd.len()).map(|registration| registration.connection().last_seen()).max());
    // What cannot be had for less: the time, which the processor does not read ahead of, and one atomic wherever it is.
    let touch = |registration: &Registration| {
        keep(crowd.world.registry.clock().uptime());
        registration.connection().traffic.messages_in.fetch_add(1, Ordering::Relaxed);
    };
    let ((), touches) = cost(|| registrations().for_each(touch));
    let ((), beats) = cost(|| registrations().for_each(|registration| registration.heard()));
    measured.add("1,000,000 × heard(), in no order", "ms", Shape::Flat, beats / 1e6);
    measured.add("beside it: the clock and one atomic in each one's memory", "ms", Shape::Flat, touches / 1e6);
}

fn lookups(connections: usize, crowd: &Crowd, measured: &mut Measured) {
    let registry = &crowd.world.registry;
    let order = shuffled(connections);
    let ids: Vec<_> = order.iter().cycle().take(LOOKUPS).map(|index| client_id(*index as usize)).collect();
    let targets: Vec<_> = ids.into_iter().map(Target::Client).collect();
    let (found, all) = cost(|| targets.iter().map(|target| registry.open(target).len()).sum::<usize>());
    keep(found);
    measured.add("looking a client up by its id", "ns", Shape::Flat, all / LOOKUPS as f64);
}

fn reads(connections: usize, crowd: &Crowd, measured: &mut Measured) {
    let registry = &crowd.world.registry;
    let rounds = (WORTH / connections).clamp(3, 50);
    let each = connections as f64;

    let (mut whole, mut longest) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let shards: Vec<_> = (0..SHARDS).map(|shard| cost(|| registry.copy_shard(shard)).1).collect();
        whole.push(shards.iter().sum());
        longest.push(shards.iter().copied().fold(0.0, f64::max));
    }
    let whole = median(&mut whole);
    measured.add("a snapshot's copies of all shards", "ms", Shape::Linear, whole / 1e6);
    measured.add("the same for each connection", "ns", Shape::Flat, whole / each);
    measured.add("the same: the longest that one shard was locked", "µs", Shape::Linear, median(&mut longest) / 1e3);

    let page = |start: PageStart| {
        let mut views = Vec::with_capacity(PAGE);
        let next = registry.visit(start, |view| {
            let room = views.len() < PAGE;
            if room {
                views.push(view);
            }
            room
        });
        keep(views);
        next
    };
    let mut first: Vec<_> = (0..50).map(|_| cost(|| page(PageStart::default())).1).collect();
    measured.add("the first page of 1,000", "µs", Shape::Flat, median(&mut first) / 1e3);
    let all_pages = || {
        let mut start = Some(PageStart::default());
        while let Some(from) = start {
            start = page(from);
        }
    };
    let mut all: Vec<_> = (0..rounds).map(|_| cost(all_pages).1).collect();
    let all = median(&mut all);
    measured.add("all pages of 1,000", "ms", Shape::Linear, all / 1e6);
    measured.add("the same for each connection", "ns", Shape::Flat, all / each);

    let mut counts: Vec<_> = (0..50).map(|_| cost(|| keep(registry.count())).1).collect();
    measured.add("a count of all", "µs", Shape::Flat, median(&mut counts) / 1e3);
    let broadcast = || {
        let mut found = 0;
        (0..SHARDS).for_each(|shard| registry.for_each_open(shard, &Labels::NONE, |_| found += 1));
        keep(found)
    };
    let mut broadcasts: Vec<_> = (0..rounds).map(|_| cost(broadcast).1).collect();
    measured.add("finding all for a broadcast, for each", "ns", Shape::Flat, median(&mut broadcasts) / each);
    let scrape = || registry.read_gauges(&mut Reading::default());
    let mut scrapes: Vec<_> = (0..rounds).map(|_| cost(scrape).1).collect();
    measured.add("reading the gauges, for each", "ns", Shape::Flat, median(&mut scrapes) / each);
    measured.add("memory at most so far", "MB", Shape::Linear, peak() / 1e6);
    // What was copied is given back before anything else is measured.
    std::thread::sleep(Duration::from_millis(50));
}
