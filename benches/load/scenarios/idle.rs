//! Connections that only heartbeat: their memory, and what they cost at rest.

use std::time::Duration;

use super::{Scenario, count, filling, time};
use crate::kernel;
use crate::results::{Measured, Outcome};
use crate::stage::{HANDSHAKES, Stage, at_rate};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "idle",
    about: "memory of a connection that only heartbeats, and processor time at rest",
    parameters: |options| {
        format!("{} connections, at rest for {}", count(options.connections, 15_000), time(options.window, 10))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let connections = stage.connections(15_000);
    let server = stage.start()?;
    filling::fill(stage, &server)?;
    let empty = server.settled_pss(|time| {
        std::thread::sleep(time);
        Ok(())
    })?;
    let kernel_empty = kernel::sockets_memory();
    let mut crowd = stage.clients(&server, 'c', connections)?;
    let third = connections / 3;
    stage.connect(&mut crowd, 0..third, HANDSHAKES)?;
    let third_full = server.settled_pss(|time| crowd.turn_for(time, |_, _| {}))?;
    stage.connect(&mut crowd, third..connections, HANDSHAKES)?;
    if let Some(backend) = stage.backend(&server)? {
        backend.wait_for_count(connections, Duration::from_secs(10))?;
    }
    // They beat meanwhile, as they would; a server's memory at rest includes what that needs.
    let rate = connections as f64 / stage.interval.as_secs_f64();
    let beat = stage.beat()?;
    let frame = beat.frame();
    let one = |crowd: &mut crate::crowd::Crowd, turn: u64| {
        let index = usize::try_from(turn).unwrap_or(0) % connections;
        crowd.send(index, &frame);
    };
    let mut beaten = 0;
    let full = server.settled_pss(|time| {
        let from = beaten;
        at_rate(
            &mut crowd,
            rate,
            time,
            |crowd, turn| {
                one(crowd, from + turn);
                beaten = from + turn + 1;
            },
            |_, _| {},
        )
    })?;
    let kernel_full = kernel::sockets_memory();
    let before = server.cpu();
    at_rate(&mut crowd, rate, stage.window(), |crowd, turn| one(crowd, beaten + turn), |_, _| {})?;
    let spent = server.cpu().saturating_sub(before);
    let lost = connections - crowd.open();
    let bytes = full as f64 - empty as f64;
    // Beyond the first third: memory that the server kept from before, and what it needs only once, are not in it.
    let further = full as f64 - third_full as f64;
    let mut outcome = Outcome {
        measured: vec![
            Measured::less_is_better("memory of a connection", "B", bytes / connections as f64),
            Measured::less_is_better(
                "memory of a further connection",
                "B",
                further / (connections - third).max(1) as f64,
            ),
            Measured::less_is_better(
                "processor at rest",
                "%",
                spent.as_secs_f64() * 100.0 / stage.window().as_secs_f64(),
            ),
            Measured::less_is_better("memory before the clients", "KiB", empty as f64 / 1024.0),
        ],
        remarks: if lost > 0 { vec![format!("{lost} connections were lost")] } else { Vec::new() },
    };
    match (kernel_empty, kernel_full) {
        (Some(empty), Some(full)) => {
            // The client's socket is on this machine as well, and costs the kernel the same.
            let ends = 2.0 * connections as f64;
            let bytes = (full as f64 - empty as f64) / ends;
            outcome.measured.push(Measured::less_is_better("kernel memory of a connection", "B", bytes));
        }
        _ => outcome.remarks.push("this kernel does not tell, or not this user, what sockets take of it".to_owned()),
    }
    Ok(outcome)
}
