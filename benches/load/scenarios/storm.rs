//! A server that is killed and comes back, and everybody at once with it.

use std::time::{Duration, Instant};

use super::{Scenario, count};
use crate::process::Ports;
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "storm",
    about: "a killed server comes back and all clients reconnect at once: the time until the last is in",
    parameters: |options| format!("{} connections, all in flight at once", count(options.connections, 15_000)),
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let connections = stage.connections(15_000);
    let ports = Ports::free()?;
    let server = stage.start_at(ports)?;
    let mut crowd = stage.crowd(&server, connections)?;
    server.kill();
    crowd.turn_until(Duration::from_secs(30), |_, _| {}, |crowd| crowd.open() == 0)?;
    let server = stage.start_at(ports)?;
    let backend = stage.backend(&server)?;
    let begin = Instant::now();
    let failures = stage.connect(&mut crowd, 0..connections, connections)?;
    if let Some(backend) = &backend {
        backend.wait_for_count(connections, Duration::from_secs(10))?;
    }
    Ok(Outcome {
        measured: vec![
            Measured::less_is_better("all back after", "s", begin.elapsed().as_secs_f64()),
            Measured::less_is_better("connects that failed and were made again", "", failures as f64),
            Measured::less_is_better("restart to serving", "ms", server.started_in.as_secs_f64() * 1e3),
        ],
        remarks: Vec::new(),
    })
}
