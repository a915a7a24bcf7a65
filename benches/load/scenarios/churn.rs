//! Clients that come and go through few places: what they leave behind.

use std::time::{Duration, Instant};

use super::{Scenario, count, filling};
use crate::results::{Measured, Outcome};
use crate::stage::Stage;

/// Connections in all by default.
const TOTAL: u32 = 50_000;

/// How many go and come at once.
const LOT: usize = 100;

/// Time for one lot to be let go.
const GONE_BY: Duration = Duration::from_secs(10);

pub(super) const SCENARIO: Scenario = Scenario {
    name: "churn",
    about: "clients that come and go through few places: memory at the end against the beginning",
    parameters: |options| {
        format!("{} connections through {} places", count(options.total, TOTAL), count(options.connections, 1_000))
    },
    interval: super::USUAL,
    run,
};

fn run(stage: &Stage<'_>) -> Result<Outcome, String> {
    let places = stage.connections(1_000);
    let total = usize::try_from(count(stage.options.total, TOTAL)).unwrap_or(0);
    let server = stage.start()?;
    filling::fill(stage, &server)?;
    let mut crowd = stage.crowd(&server, places)?;
    let mut come = places;
    // Once through all places first: what the first of them all needs is no leak.
    come += turn_over(stage, &mut crowd, places, places)?;
    let begin = server.settled_pss(|time| crowd.turn_for(time, |_, _| {}))?;
    let start = Instant::now();
    let churned = turn_over(stage, &mut crowd, places, total.saturating_sub(come))?;
    let elapsed = start.elapsed();
    let end = server.settled_pss(|time| crowd.turn_for(time, |_, _| {}))?;
    let grown = end as f64 - begin as f64;
    Ok(Outcome {
        measured: vec![
            Measured::less_is_better("memory grown", "KiB", grown / 1024.0),
            Measured::less_is_better("memory grown by a connection that went", "B", grown / churned.max(1) as f64),
            Measured::more_is_better("connections that came and went", "1/s", churned as f64 / elapsed.as_secs_f64()),
        ],
        remarks: Vec::new(),
    })
}

/// Lets so many go and as many come, in lots; returns how many.
fn turn_over(
    stage: &Stage<'_>,
    crowd: &mut crate::crowd::Crowd,
    places: usize,
    wanted: usize,
) -> Result<usize, String> {
    let mut done = 0;
    let mut first = 0;
    while done < wanted {
        let lot = first..(first + LOT).min(places);
        for index in lot.clone() {
            crowd.close(index);
        }
        let all_gone = |crowd: &crate::crowd::Crowd| lot.clone().all(|index| !crowd.is_open(index));
        if !crowd.turn_until(GONE_BY, |_, _| {}, all_gone)? {
            return Err(format!("some clients that said goodbye were not let go within {GONE_BY:?}"));
        }
        if first == 0 {
            crowd.next_generation();
        }
        done += lot.len();
        first = if lot.end == places { 0 } else { lot.end };
        stage.connect(crowd, lot, LOT)?;
    }
    Ok(done)
}
