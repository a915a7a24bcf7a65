//! Clients that fall silent: how long until the server gives them up.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use super::{Scenario, count};
use crate::crowd::Seen;
use crate::frames::Opcode;
use crate::results::{Measured, Outcome};
use crate::stage::{Stage, at_rate};

/// How much later than promised a server may be before the scenario goes on without it.
const GRACE: Duration = Duration::from_secs(15);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "silence",
    about: "clients that fall silent: how much later than the timeout the server closes them",
    parameters: |options| format!("{} connections, timeout twice the interval", count(options.connections, 1_000)),
    // The shortest that every server here can be set to.
    interval: Duration::from_secs(4),
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let connections = stage.connections(1_000);
    let server = stage.start()?;
    let mut crowd = stage.crowd(&server, connections)?;
    let beat = stage.beat()?;
    let frame = beat.frame();
    let rate = connections as f64 / stage.interval.as_secs_f64();

    // One beat each, spread over an interval, and then one last beat each: nobody was silent for longer before.
    at_rate(
        &mut crowd,
        rate,
        stage.interval,
        |crowd, turn| {
            crowd.send(usize::try_from(turn).unwrap_or(0) % connections, &frame);
        },
        |_, _| {},
    )?;
    let last: RefCell<Vec<Option<Instant>>> = RefCell::new(vec![None; connections]);
    let late: RefCell<Vec<f64>> = RefCell::default();
    let early = RefCell::new(0);
    let timeout = stage.timeout().as_secs_f64();
    let seen = |index: usize, seen: Seen<'_>| {
        if !matches!(seen, Seen::Gone | Seen::Frame(Opcode::Close, _)) {
            return;
        }
        // Its Close tells, and the end of its socket after that tells nothing new.
        match last.borrow_mut().get_mut(index).and_then(Option::take) {
            Some(beat) => late.borrow_mut().push((beat.elapsed().as_secs_f64() - timeout) * 1e3),
            None if matches!(seen, Seen::Frame(..)) => *early.borrow_mut() += 1,
            None => {}
        }
    };
    at_rate(
        &mut crowd,
        rate,
        stage.interval,
        |crowd, turn| {
            let index = usize::try_from(turn).unwrap_or(0);
            if index < connections {
                crowd.send(index, &frame);
                crowd.silence(index);
                last.borrow_mut()[index] = Some(Instant::now());
            }
        },
        seen,
    )?;
    let done = |_: &crate::crowd::Crowd| last.borrow().iter().all(Option::is_none);
    crowd.turn_until(stage.timeout() + GRACE, seen, done)?;

    let mut late = late.into_inner();
    late.sort_by(f64::total_cmp);
    let mut outcome = Outcome::default();
    let left = last.borrow().iter().flatten().count();
    if left > 0 {
        outcome.remarks.push(format!("{left} of {connections} were not closed within {GRACE:?} after the timeout"));
    }
    if early.into_inner() > 0 {
        outcome.remarks.push("some were closed while they still beat".to_owned());
    }
    if late.is_empty() {
        return Err("nobody was closed".to_owned());
    }
    let at = |share: f64| late[((late.len() - 1) as f64 * share).round() as usize];
    for (name, share) in [("least", 0.0), ("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
        outcome.measured.push(Measured::less_is_better(format!("closed after the timeout, {name}"), "ms", at(share)));
    }
    Ok(outcome)
}
