//! Many backends that hear of the same events.

use std::time::Duration;

use super::{Scenario, count, time};
use crate::backend::{Backend, Start, Subscription};
use crate::clock;
use crate::crowd::Crowd;
use crate::frames::{self, Opcode};
use crate::process::Server;
use crate::results::{Measured, Outcome};
use crate::stage::{Stage, at_rate};

/// Time for the last events to arrive.
const ARRIVED_BY: Duration = Duration::from_secs(5);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fanout",
    about: "many live subscribers to the same events: the server's processor time for each delivery",
    parameters: |options| {
        format!(
            "{} subscribers and first only 1, {} clients, {} events/s, {} each",
            options.subscribers,
            count(options.connections, 100),
            count(options.rate, 1_000),
            time(options.window, 10)
        )
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, stage.connections(100))?;
    let backend = stage.need_backend(&server)?;
    let mut outcome = Outcome::default();
    let many = usize::try_from(stage.options.subscribers).unwrap_or(1);
    for subscribers in [1, many] {
        window(stage, &server, &mut crowd, &backend, subscribers, &mut outcome)?;
    }
    Ok(outcome)
}

fn window(
    stage: &Stage<'_>,
    server: &Server,
    crowd: &mut Crowd,
    backend: &Backend,
    subscribers: usize,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let subscriptions: Vec<_> = (0..subscribers).map(|_| backend.subscribe(Start::Now)).collect::<Result<_, _>>()?;
    let rate = f64::from(count(stage.options.rate, 1_000));
    let clients = crowd.len();
    let before = server.cpu();
    let mut said = 0;
    at_rate(
        crowd,
        rate,
        stage.window(),
        |crowd, turn| {
            let index = usize::try_from(turn).unwrap_or(0) % clients;
            crowd.send(index, &frames::masked(Opcode::Text, clock::stamp().as_bytes()));
            said = turn + 1;
        },
        |_, _| {},
    )?;
    let told = |subscriptions: &[Subscription]| subscriptions.iter().map(Subscription::events).sum::<u64>();
    let wanted = said * subscribers as u64;
    crowd.turn_until(ARRIVED_BY, |_, _| {}, |_| told(&subscriptions) >= wanted)?;
    let spent = server.cpu().saturating_sub(before);
    let deliveries = told(&subscriptions);
    let of = |words: &str| format!("{words}, {subscribers} subscribers");
    outcome.measured.push(Measured::less_is_better(
        of("processor"),
        "%",
        spent.as_secs_f64() * 100.0 / stage.window().as_secs_f64(),
    ));
    outcome.measured.push(Measured::less_is_better(
        of("processor for an event told"),
        "µs",
        spent.as_secs_f64() * 1e6 / deliveries.max(1) as f64,
    ));
    if deliveries != wanted {
        outcome.remarks.push(of(&format!("{wanted} events should have been told, and {deliveries} were")));
    }
    Ok(())
}
