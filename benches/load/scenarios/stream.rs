//! Sends over one stream: their latency at a fixed rate, and how many a second at most.

use super::send::{Told, WARM_UP, receive};
use super::{Scenario, count, time};
use crate::backend::Pace;
use crate::clock;
use crate::results::Outcome;
use crate::stage::{Stage, targets};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "stream",
    about: "sends over one SendStream: from the stream to the client's socket at a fixed rate, and saturated",
    parameters: |options| {
        format!(
            "{} clients, {} sends/s, then as many as get outcomes, {} each, {} B of text",
            count(options.connections, 1_000),
            count(options.rate, 2_000),
            time(options.window, 10),
            clock::STAMP_BYTES,
        )
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, stage.connections(1_000))?;
    let backend = stage.need_backend(&server)?;
    let targets = targets(&crowd);
    let mut outcome = Outcome::default();
    let rate = Pace::Rate(count(stage.options.rate, 2_000));
    let load = backend.stream(rate, targets.clone(), WARM_UP)?;
    receive(&server, &mut crowd, &load, "warming up", Told::Nothing, WARM_UP, &mut outcome)?;
    let load = backend.stream(rate, targets.clone(), stage.window())?;
    receive(&server, &mut crowd, &load, "at a fixed rate", Told::Latency, stage.window(), &mut outcome)?;
    let load = backend.stream(Pace::Saturated, targets, stage.window())?;
    receive(&server, &mut crowd, &load, "saturated", Told::Rate, stage.window(), &mut outcome)?;
    Ok(outcome)
}
