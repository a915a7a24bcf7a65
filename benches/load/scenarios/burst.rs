//! Bursts of heartbeats, one from each client, and what a server pays for them.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::crowd::{Crowd, Seen};
use crate::dialect::Beat;
use crate::process::Server;

/// Beats sent before the answers to earlier ones are read.
const SLICE: usize = 256;

/// How long a server is watched to tell whether it still works, and how much of that it may work when it does not.
const WATCH: Duration = Duration::from_millis(20);
const AT_REST: Duration = Duration::from_millis(1);

/// Time for one burst to be done with.
const BURST_LIMIT: Duration = Duration::from_secs(20);

/// Processor time of the server for each of so many bursts' beats, in microseconds. A burst is over when each beat was answered, or,
/// where nothing answers, when the server is at rest.
pub fn cpu_per_beat(server: &Server, crowd: &mut Crowd, beat: Beat, bursts: usize) -> Result<f64, String> {
    let frame = beat.frame();
    settle(server, crowd)?;
    let before = server.cpu();
    let mut sent = 0;
    for _ in 0..bursts {
        let answered = Cell::new(0);
        let seen = |_, seen: Seen<'_>| {
            if let Seen::Frame(opcode, payload) = seen
                && beat.is_answered_by(opcode, payload)
            {
                answered.set(answered.get() + 1);
            }
        };
        for index in 0..crowd.len() {
            crowd.send(index, &frame);
            if index % SLICE == 0 {
                crowd.turn(Duration::ZERO, seen)?;
            }
        }
        sent += crowd.len();
        if beat.is_answered() {
            let wanted = crowd.len();
            if !crowd.turn_until(BURST_LIMIT, seen, |_| answered.get() >= wanted)? {
                return Err(format!("{} of {wanted} heartbeats were answered within {BURST_LIMIT:?}", answered.get()));
            }
        } else {
            settle(server, crowd)?;
        }
    }
    let spent = server.cpu().saturating_sub(before);
    if crowd.open() < crowd.len() {
        return Err(format!("{} of {} clients were lost meanwhile", crowd.len() - crowd.open(), crowd.len()));
    }
    Ok(spent.as_secs_f64() * 1e6 / sent.max(1) as f64)
}

/// Waits until the server does next to nothing.
pub fn settle(server: &Server, crowd: &mut Crowd) -> Result<(), String> {
    let end = Instant::now() + BURST_LIMIT;
    while Instant::now() < end {
        let before = server.cpu();
        crowd.turn_for(WATCH, |_, _| {})?;
        if server.cpu().saturating_sub(before) <= AT_REST {
            return Ok(());
        }
    }
    Ok(())
}
