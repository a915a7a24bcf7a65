//! A backend that reads a log from its beginning.

use std::time::{Duration, Instant};

use super::{Scenario, count, filling};
use crate::backend::{LAST_WORD, Start};
use crate::frames::{self, Opcode};
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

/// Events by default: about half of what the default log keeps of this size.
const EVENTS: u32 = 200_000;

/// Messages of one client: what Heartwire's default limits let through at once.
const EACH: usize = 190;

/// Payload of an event.
const PAYLOAD: usize = 32;

/// Replays in one round; the middle one counts.
const REPLAYS: usize = 3;

/// Time for one replay.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "replay",
    about: "one subscriber reads the log from its beginning: events a second",
    parameters: |options| {
        format!("{} messages of {PAYLOAD} B in the log, {REPLAYS} replays", count(options.total, EVENTS))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let events = usize::try_from(count(stage.options.total, EVENTS)).unwrap_or(0);
    let server = stage.start()?;
    // In lots, so that descriptors do not run out.
    let mut clients = events.div_ceil(EACH);
    while clients > 0 {
        let lot = clients.min(1_000);
        filling::say(stage, &server, lot, EACH, PAYLOAD)?;
        clients -= lot;
    }
    let mut last = stage.crowd(&server, 1)?;
    last.send(0, &frames::masked(Opcode::Text, LAST_WORD.as_bytes()));
    last.turn_for(Duration::from_millis(200), |_, _| {})?;

    let mut rates = Vec::new();
    let mut counts = Vec::new();
    let mut spent = Duration::ZERO;
    for _ in 0..REPLAYS {
        let backend = stage.need_backend(&server)?;
        let before = server.cpu();
        let subscription = backend.subscribe(Start::Beginning)?;
        let begin = Instant::now();
        let elapsed = loop {
            if let Some(elapsed) = subscription.finished() {
                break elapsed;
            }
            if subscription.ended() || begin.elapsed() > REPLAY_LIMIT {
                return Err(format!("the last word did not come; {} events did", subscription.events()));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        spent += server.cpu().saturating_sub(before);
        counts.push(subscription.events());
        rates.push(subscription.events() as f64 / elapsed.as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    let read: u64 = counts.iter().sum();
    let mut outcome = Outcome {
        measured: vec![
            Measured::more_is_better("events read", "1/s", rates[REPLAYS / 2]),
            Measured::less_is_better("processor for an event", "µs", spent.as_secs_f64() * 1e6 / read.max(1) as f64),
        ],
        remarks: Vec::new(),
    };
    if counts.iter().any(|count| *count < events as u64) {
        outcome.remarks.push(format!("the log kept only {} events", counts[0]));
    }
    Ok(outcome)
}
