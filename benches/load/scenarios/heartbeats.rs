//! Bursts of heartbeats: what one costs.

use super::{Scenario, burst, count};
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

/// Bursts of each kind; well within what Heartwire's limits let one client send.
const BURSTS: usize = 10;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "heartbeats",
    about: "the server's processor time for a heartbeat",
    parameters: |options| {
        format!("{} connections, {BURSTS} bursts of one beat from each", count(options.connections, 15_000))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, stage.connections(15_000))?;
    let mut outcome = Outcome::default();
    for beat in stage.beats() {
        // The first burst brings code and pages in.
        burst::cpu_per_beat(&server, &mut crowd, *beat, 1)?;
        let micros = burst::cpu_per_beat(&server, &mut crowd, *beat, BURSTS)?;
        outcome.measured.push(Measured::less_is_better(
            format!("processor for a heartbeat by {}", beat.name()),
            "µs",
            micros,
        ));
    }
    Ok(outcome)
}
