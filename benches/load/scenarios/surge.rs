//! Many who connect at once to a server that others are on already: whether those still get their heartbeats on time.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::{Scenario, count};
use crate::crowd::{Crowd, Seen};
use crate::frames::Opcode;
use crate::latency::Latencies;
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

/// Those who were there before and say nothing but Pongs.
const RESIDENTS: usize = 1_000;

/// Intervals that are watched before the surge.
const CALM: u32 = 3;

/// Intervals that are watched at least from its beginning on: in each of them everybody is owed a heartbeat.
const WATCHED: u32 = 2;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "surge",
    about: "many connect at once: how late the server's own heartbeats to those already there become",
    parameters: |options| format!("{RESIDENTS} clients stay, {} connect at once", count(options.connections, 14_000)),
    interval: Duration::from_secs(2),
    run,
};

/// What the residents' thread does with a heartbeat.
#[repr(u8)]
enum Phase {
    /// Each needs a first one, to tell the next from.
    Early,
    Calm,
    Surge,
    Over,
}

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let newcomers = stage.connections(14_000);
    let server = stage.start()?;
    let mut residents = stage.crowd(&server, RESIDENTS)?;
    let mut crowd = stage.clients(&server, 'n', newcomers)?;
    let backend = stage.backend(&server)?;
    let phase = AtomicU8::new(Phase::Early as u8);
    let enter = |next: Phase| phase.store(next as u8, Ordering::Release);
    // On a thread of their own: what the newcomers' keeps busy must not look like the server's lateness.
    let (surged, beats) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&mut residents, stage.interval, &phase));
        let mut surge = || {
            std::thread::sleep(stage.interval * 3 / 2);
            enter(Phase::Calm);
            std::thread::sleep(stage.interval * CALM);
            enter(Phase::Surge);
            let begin = Instant::now();
            let failures = stage.connect(&mut crowd, 0..newcomers, newcomers)?;
            if let Some(backend) = &backend {
                backend.wait_for_count(RESIDENTS + newcomers, Duration::from_secs(10))?;
            }
            let elapsed = begin.elapsed();
            let rest = (stage.interval * WATCHED).saturating_sub(elapsed);
            crowd.turn_for(rest, |_, _| {})?;
            Ok::<_, String>((elapsed, failures))
        };
        let surged = surge();
        enter(Phase::Over);
        (surged, watching.join())
    });
    let (elapsed, failures) = surged?;
    let beats = beats.map_err(|_| "the residents' thread panicked".to_owned())??;
    if beats.calm.len() == 0 {
        return Err("it sends no heartbeats of its own".to_owned());
    }
    let mut outcome = Outcome::default();
    outcome.measured.extend(beats.calm.measured("heartbeat late before the surge"));
    outcome.measured.extend(beats.surge.measured("heartbeat late in the surge"));
    outcome.measured.push(Measured::less_is_better("residents lost", "", beats.gone as f64));
    outcome.measured.push(Measured::less_is_better("all newcomers in after", "s", elapsed.as_secs_f64()));
    outcome.measured.push(Measured::less_is_better("connects that failed and were made again", "", failures as f64));
    if beats.overdue > 0 {
        outcome.remarks.push(format!(
            "{} heartbeats were still owed at the end; they count as late as they were by then",
            beats.overdue
        ));
    }
    Ok(outcome)
}

/// What the residents noticed.
struct Beats {
    calm: Latencies,
    surge: Latencies,
    /// Owed and not come when it was over.
    overdue: u64,
    /// Connections that ended.
    gone: u64,
}

/// Serves the residents until it is over. A heartbeat is as late as the time since the one before is longer than the interval.
fn watch(residents: &mut Crowd, interval: Duration, phase: &AtomicU8) -> Result<Beats, String> {
    let mut last: Vec<Option<Instant>> = vec![None; residents.len()];
    let mut beats = Beats { calm: Latencies::new()?, surge: Latencies::new()?, overdue: 0, gone: 0 };
    let nanos = |late: Duration| u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
    loop {
        let now_in = phase.load(Ordering::Acquire);
        if now_in == Phase::Over as u8 {
            break;
        }
        residents.turn(Duration::from_millis(2), |index, seen| match seen {
            Seen::Frame(Opcode::Ping, _) => {
                let now = Instant::now();
                let Some(before) = last[index].replace(now) else { return };
                let late = nanos((now - before).saturating_sub(interval));
                if now_in == Phase::Calm as u8 {
                    beats.calm.record(late);
                } else if now_in == Phase::Surge as u8 {
                    beats.surge.record(late);
                }
            }
            Seen::Gone => {
                last[index] = None;
                beats.gone += 1;
            }
            _ => {}
        })?;
    }
    for owed in last.into_iter().flatten().filter_map(|before| before.elapsed().checked_sub(interval)) {
        beats.overdue += 1;
        beats.surge.record(nanos(owed));
    }
    Ok(beats)
}
