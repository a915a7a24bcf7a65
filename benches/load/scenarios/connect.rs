//! Connecting: how many a second, until the last is known to the backend.

use std::time::{Duration, Instant};

use nix::time::ClockId;

use super::{Scenario, count};
use crate::results::{Measured, Outcome};
use crate::stage::{HANDSHAKES, Stage};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "connect",
    about: "connections a second, until all are open and counted by the server",
    parameters: |options| {
        format!("{} connections, {HANDSHAKES} handshakes in flight", count(options.connections, 15_000))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let connections = stage.connections(15_000);
    let server = stage.start()?;
    let backend = stage.backend(&server)?;
    let mut crowd = stage.clients(&server, 'c', connections)?;
    let before = server.cpu();
    let own = clients_cpu()?;
    let begin = Instant::now();
    let failures = stage.connect(&mut crowd, 0..connections, HANDSHAKES)?;
    let own = clients_cpu()?.saturating_sub(own);
    if let Some(backend) = &backend {
        backend.wait_for_count(connections, Duration::from_secs(10))?;
    }
    let elapsed = begin.elapsed();
    let spent = server.cpu().saturating_sub(before);
    let each = |time: Duration| time.as_secs_f64() * 1e6 / connections as f64;
    let mut outcome = Outcome {
        measured: vec![
            Measured::more_is_better("connections", "1/s", connections as f64 / elapsed.as_secs_f64()),
            Measured::less_is_better("processor for a connect", "µs", each(spent)),
            // Nobody can be faster than the clients, whose kernel does most of a TCP handshake on the loopback.
            Measured::less_is_better("the clients' own processor for a connect", "µs", each(own)),
            Measured::less_is_better("start to serving", "ms", server.started_in.as_secs_f64() * 1e3),
        ],
        remarks: Vec::new(),
    };
    if failures > 0 {
        outcome.remarks.push("some connects failed first and were made again".to_owned());
    }
    Ok(outcome)
}

/// Processor time of the clients so far, who are all on this thread.
fn clients_cpu() -> Result<Duration, String> {
    let time = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
    time.map(Duration::from).map_err(|error| format!("cannot read the processor time of a thread: {error}"))
}
