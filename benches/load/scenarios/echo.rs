//! Through a backend and back: a client's message becomes an event, the backend sends it back.

use std::cell::RefCell;
use std::time::Duration;

use super::send::WARM_UP;
use super::{Scenario, count, time};
use crate::clock;
use crate::crowd::{Crowd, Seen};
use crate::frames::{self, Opcode};
use crate::latency::Latencies;
use crate::results::{Measured, Outcome};
use crate::stage::{Stage, at_rate};

/// Time for the last echoes.
const ARRIVED_BY: Duration = Duration::from_secs(5);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "echo",
    about: "from a client through a backend that subscribes and sends back: the round trip",
    parameters: |options| {
        format!(
            "{} clients, {} messages/s of {} B, {}",
            count(options.connections, 100),
            count(options.rate, 2_000),
            clock::STAMP_BYTES,
            time(options.window, 10)
        )
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let clients = stage.connections(100);
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, clients)?;
    let backend = stage.need_backend(&server)?;
    backend.echo()?;
    echoes(stage, &mut crowd, WARM_UP)?;
    let before = server.cpu();
    let (said, latencies) = echoes(stage, &mut crowd, stage.window())?;
    let spent = server.cpu().saturating_sub(before);
    let mut outcome = Outcome { measured: latencies.measured("round trip"), remarks: Vec::new() };
    let micros = spent.as_secs_f64() * 1e6 / latencies.len().max(1) as f64;
    outcome.measured.push(Measured::less_is_better("processor for an echo", "µs", micros));
    if latencies.len() != said {
        outcome.remarks.push(format!("{} messages were said and {} came back", said, latencies.len()));
    }
    Ok(outcome)
}

/// How many messages were said for so long, and how long each took to come back.
fn echoes(stage: &Stage<'_>, crowd: &mut Crowd, window: Duration) -> Result<(u64, Latencies), String> {
    let latencies = RefCell::new(Latencies::new()?);
    let seen = |_, seen: Seen<'_>| {
        if let Seen::Frame(_, payload) = seen
            && let Some(age) = clock::age(payload)
        {
            latencies.borrow_mut().record(age);
        }
    };
    let rate = f64::from(count(stage.options.rate, 2_000));
    let clients = crowd.len();
    let mut said = 0;
    let say = |crowd: &mut Crowd, turn: u64| {
        let index = usize::try_from(turn).unwrap_or(0) % clients;
        crowd.send(index, &frames::masked(Opcode::Text, clock::stamp().as_bytes()));
        said = turn + 1;
    };
    at_rate(crowd, rate, window, say, seen)?;
    crowd.turn_until(ARRIVED_BY, seen, |_| latencies.borrow().len() >= said)?;
    Ok((said, latencies.into_inner()))
}
