//! From a client's connect to a live subscriber that sees it.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use heartwire::pb::event::Kind;

use super::{Scenario, count, time};
use crate::args::Options;
use crate::backend::Start;
use crate::clock;
use crate::crowd::{Crowd, Seen};
use crate::latency::Latencies;
use crate::results::{Measured, Outcome};
use crate::stage::{Stage, at_rate};

/// Connects a second by default.
const RATE: u32 = 500;

/// Connects for so long come first and are not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// Most connections in all: none of them ends meanwhile.
const MOST: usize = 18_000;

/// Time for the last events to be seen.
const SEEN_BY: Duration = Duration::from_secs(5);

/// First letter of the ids of those that are watched.
const PREFIX: char = 's';

pub(super) const SCENARIO: Scenario = Scenario {
    name: "seen",
    about: "connects at a fixed rate: from the connect to the event at a live subscriber",
    parameters: |options| {
        format!(
            "{} connects/s for {}, beside {} clients that are there already, 1 subscriber",
            count(options.rate, RATE),
            time(options.window, 10),
            count(options.connections, 1_000),
        )
    },
    interval: super::USUAL,
    run,
};

fn rate(options: &Options) -> f64 {
    f64::from(count(options.rate, RATE))
}

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let others = stage.connections(1_000);
    let of = |time: Duration| (time.as_secs_f64() * rate(stage.options)) as usize;
    let (first, total) = (of(WARM_UP), of(WARM_UP + stage.window()));
    if others + total > MOST {
        return Err(format!(
            "{total} connects beside {others} clients are more than {MOST}: a lower --rate or --window"
        ));
    }
    let server = stage.start()?;
    let mut rest = stage.crowd(&server, others)?;
    let backend = stage.need_backend(&server)?;
    // When each was seen, by its index; 0 is not yet.
    let seen_at: Arc<[AtomicU64]> = (0..total).map(|_| AtomicU64::new(0)).collect();
    let note = Arc::clone(&seen_at);
    let subscription = backend.subscribe_with(Start::Now, move |event| {
        if matches!(event.kind, Some(Kind::Connected(_)))
            && let Some(place) = Crowd::index_of(&event.client_id, PREFIX).and_then(|index| note.get(index))
        {
            place.store(clock::nanos(), Ordering::Release);
        }
    })?;

    let mut crowd = stage.clients(&server, PREFIX, total)?;
    let mut outcome = Outcome::default();
    let mut begun = vec![0; total];
    let (refused, lost) = (Cell::new(0u64), Cell::new(0u64));
    let open_at = RefCell::new(vec![0; total]);
    let seen = |index: usize, seen: Seen<'_>| match seen {
        Seen::Open => open_at.borrow_mut()[index] = clock::nanos(),
        Seen::Gone => lost.set(lost.get() + 1),
        Seen::Refused(_) | Seen::Frame(..) => {}
    };
    let mut spent = Duration::ZERO;
    let mut from = 0;
    for (window, end) in [(WARM_UP, first), (stage.window(), total)] {
        let before = server.cpu();
        at_rate(
            &mut crowd,
            rate(stage.options),
            window,
            |crowd, turn| {
                let index = from + usize::try_from(turn).unwrap_or(0);
                if index < end {
                    begun[index] = clock::nanos();
                    refused.set(refused.get() + u64::from(crowd.start(index).is_err()));
                }
            },
            seen,
        )?;
        // Pings of those who were there before.
        rest.turn(Duration::ZERO, |_, _| {})?;
        spent = server.cpu().saturating_sub(before);
        from = end;
    }
    // What the last turn left out for want of time does not count.
    let wanted = |index: &usize| begun[*index] > 0;
    let all_seen = |_: &Crowd| (first..total).filter(wanted).all(|index| seen_at[index].load(Ordering::Acquire) > 0);
    crowd.turn_until(SEEN_BY, seen, all_seen)?;

    let (mut opened, mut told, mut missing) = (Latencies::new()?, Latencies::new()?, 0u64);
    let open_at = open_at.borrow();
    for index in (first..total).filter(wanted) {
        if open_at[index] > 0 {
            opened.record(open_at[index] - begun[index]);
        }
        match seen_at[index].load(Ordering::Acquire) {
            0 => missing += 1,
            at => told.record(at.saturating_sub(begun[index])),
        }
    }
    outcome.measured.extend(told.measured("seen by the subscriber after"));
    outcome.measured.extend(opened.measured("open at the client after"));
    let micros = spent.as_secs_f64() * 1e6 / told.len().max(1) as f64;
    outcome.measured.push(Measured::less_is_better("processor for a connect that is told", "µs", micros));
    if missing + refused.get() + lost.get() > 0 {
        outcome.remarks.push(format!(
            "{missing} connects were not seen within {SEEN_BY:?}, {} could not begin, {} connections were lost",
            refused.get(),
            lost.get()
        ));
    }
    if subscription.ended() {
        outcome.remarks.push("the subscription ended".to_owned());
    }
    Ok(outcome)
}
