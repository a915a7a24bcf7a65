//! Sends, a call each, from the backend to clients: their latency at a fixed rate, and how many a second at most.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::{Scenario, count, time};
use crate::backend::Load;
use crate::clock;
use crate::crowd::{Crowd, Seen};
use crate::latency::Latencies;
use crate::process::Server;
use crate::results::{Measured, Outcome};
use crate::stage::{Stage, targets};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "send",
    about: "single sends: from the call to the client's socket at a fixed rate, and saturated",
    parameters: |options| {
        format!(
            "{} clients, {} sends/s, then {} in flight, {} each, {} B of text",
            count(options.connections, 1_000),
            count(options.rate, 2_000),
            options.in_flight,
            time(options.window, 10),
            clock::STAMP_BYTES,
        )
    },
    interval: super::USUAL,
    run,
};

/// Time for what was accepted to arrive after the last send.
const ARRIVED_BY: Duration = Duration::from_secs(5);

/// What is sent first and not measured, so that what a server compiles or opens on first use is not its latency.
pub(super) const WARM_UP: Duration = Duration::from_secs(2);

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, stage.connections(1_000))?;
    let backend = stage.need_backend(&server)?;
    let targets = targets(&crowd);
    let mut outcome = Outcome::default();
    let rate = count(stage.options.rate, 2_000);
    let load = backend.sends_at(rate, targets.clone(), WARM_UP)?;
    receive(&server, &mut crowd, &load, "warming up", Told::Nothing, WARM_UP, &mut outcome)?;
    let load = backend.sends_at(rate, targets.clone(), stage.window())?;
    receive(&server, &mut crowd, &load, "at a fixed rate", Told::Latency, stage.window(), &mut outcome)?;
    let load = backend.sends_saturated(stage.options.in_flight, &targets, stage.window())?;
    receive(&server, &mut crowd, &load, "saturated", Told::Rate, stage.window(), &mut outcome)?;
    Ok(outcome)
}

/// What a load is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Latency,
    Rate,
}

/// Serves the clients until the load is over and what was accepted has arrived, and tells how that went.
pub(super) fn receive(
    server: &Server,
    crowd: &mut Crowd,
    load: &Load,
    phase: &str,
    told: Told,
    window: Duration,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let before = server.cpu();
    let latencies = RefCell::new(Latencies::new()?);
    let arrived = Cell::new(0u64);
    let seen = |_, seen: Seen<'_>| {
        if let Seen::Frame(_, payload) = seen
            && let Some(age) = clock::age(payload)
        {
            arrived.set(arrived.get() + 1);
            if told == Told::Latency {
                latencies.borrow_mut().record(age);
            }
        }
    };
    // Twice the window and what a last call may take: a load ends by itself, and this ends if it does not.
    crowd.turn_until(window * 2 + Duration::from_secs(10), seen, |_| load.is_over())?;
    let accepted = load.tally.accepted();
    crowd.turn_until(ARRIVED_BY, seen, |_| arrived.get() >= accepted)?;
    let spent = server.cpu().saturating_sub(before);
    let a_second = |count: u64| count as f64 / window.as_secs_f64();
    match told {
        Told::Nothing => return Ok(()),
        Told::Latency => outcome.measured.extend(latencies.borrow().measured("delivery")),
        Told::Rate => {
            outcome.measured.push(Measured::more_is_better("accepted", "1/s", a_second(accepted)));
            outcome.measured.push(Measured::more_is_better("arrived", "1/s", a_second(arrived.get())));
            outcome.measured.push(Measured::less_is_better("refused", "1/s", a_second(load.tally.refused())));
        }
    }
    let micros = spent.as_secs_f64() * 1e6 / arrived.get().max(1) as f64;
    outcome.measured.push(Measured::less_is_better(format!("processor for a delivery {phase}"), "µs", micros));
    // Of those that were accepted, so that it is zero unless a promise was broken.
    let lost = accepted.saturating_sub(arrived.get());
    outcome.measured.push(Measured::less_is_better(format!("accepted and lost {phase}"), "", lost as f64));
    outcome.remarks.extend(load.tally.remark(phase));
    if arrived.get() != accepted {
        outcome.remarks.push(format!("{phase}: {accepted} were accepted and {} arrived", arrived.get()));
    }
    Ok(())
}
