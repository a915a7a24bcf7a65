//! One server that takes more and more connections: whether each costs as much as the one before.

use super::{Scenario, burst, count, filling};
use crate::results::{Measured, Outcome};
use crate::stage::{HANDSHAKES, Stage};

/// Points of the curve by default.
const POINTS: [usize; 7] = [1_000, 3_000, 6_000, 9_000, 12_000, 15_000, 18_000];

/// Bursts at each point.
const BURSTS: usize = 5;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "growth",
    about: "memory of a connection and processor time for a heartbeat as connections grow",
    parameters: |options| {
        format!("up to {} connections, {BURSTS} bursts of heartbeats at each point", count(options.connections, 18_000))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let most = stage.connections(18_000);
    let server = stage.start()?;
    filling::fill(stage, &server)?;
    let empty = server.settled_pss(|time| {
        std::thread::sleep(time);
        Ok(())
    })?;
    let beat = stage.beat()?;
    let mut outcome = Outcome::default();
    let mut crowd = stage.clients(&server, 'c', 0)?;
    for point in POINTS.map(|point| (point * most).div_ceil(18_000)) {
        let first = crowd.len();
        crowd.grow(point);
        stage.connect(&mut crowd, first..point, HANDSHAKES)?;
        let full = server.settled_pss(|time| crowd.turn_for(time, |_, _| {}))?;
        let bytes = (full as f64 - empty as f64) / point as f64;
        outcome.measured.push(Measured::less_is_better("memory of a connection", "B", bytes).at(point));
        burst::cpu_per_beat(&server, &mut crowd, beat, 1)?;
        let micros = burst::cpu_per_beat(&server, &mut crowd, beat, BURSTS)?;
        outcome.measured.push(Measured::less_is_better("processor for a heartbeat", "µs", micros).at(point));
    }
    Ok(outcome)
}
