//! One message to everyone: how long until the last has it.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::{Scenario, count};
use crate::clock;
use crate::crowd::Seen;
use crate::latency::Latencies;
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

/// Broadcasts in one round, one after the other.
const BROADCASTS: usize = 10;

/// Time for one to reach everyone.
const ARRIVED_BY: Duration = Duration::from_secs(20);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "broadcast",
    about: "one message to everyone: the time until the last client has it",
    parameters: |options| {
        format!("{} clients, {BROADCASTS} broadcasts of {} B", count(options.connections, 15_000), clock::STAMP_BYTES)
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let clients = stage.connections(15_000);
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, clients)?;
    let backend = stage.need_backend(&server)?;
    let latencies = RefCell::new(Latencies::new()?);
    let mut outcome = Outcome::default();
    let (mut whole, mut spent) = (Duration::ZERO, Duration::ZERO);
    for turn in 0..=BROADCASTS {
        let arrived = Cell::new(0);
        let (before, begin) = (server.cpu(), Instant::now());
        let call = backend.start_broadcast(clock::stamp())?;
        let seen = |_, seen: Seen<'_>| {
            if let Seen::Frame(_, payload) = seen
                && let Some(age) = clock::age(payload)
            {
                arrived.set(arrived.get() + 1);
                // The first one brings code and pages in.
                if turn > 0 {
                    latencies.borrow_mut().record(age);
                }
            }
        };
        crowd.turn_until(ARRIVED_BY, seen, |_| arrived.get() >= clients)?;
        if turn > 0 {
            whole += begin.elapsed();
            spent += server.cpu().saturating_sub(before);
        }
        backend.wait_for(call)?;
        if arrived.get() != clients {
            outcome.remarks.push(format!("a broadcast reached {} of {clients}", arrived.get()));
        }
    }
    let broadcasts = BROADCASTS as f64;
    outcome.measured.push(Measured::less_is_better(
        "everyone has it after",
        "ms",
        whole.as_secs_f64() * 1e3 / broadcasts,
    ));
    outcome.measured.extend(latencies.borrow().measured("delivery"));
    let deliveries = broadcasts * clients as f64;
    outcome.measured.push(Measured::less_is_better(
        "processor for a delivery",
        "µs",
        spent.as_secs_f64() * 1e6 / deliveries,
    ));
    Ok(outcome)
}
