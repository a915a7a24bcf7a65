//! Promise 12: somebody who stalls leaves the others' latency and memory alone; after a drain nothing is left.

use std::collections::HashMap;

use super::facts::{Facts, SECOND, Time};
use super::{Verdict, line};
use crate::record::{Gauge, Kind, Record, What};

/// Memory that the allocator may keep, and what the process learns in its first minutes, apart from what the log holds.
const KEPT_BYTES: i64 = 32 << 20;

/// A client that does not read costs its outbox (1 MiB) and what the kernels hold; a subscriber that does not, far less.
const STALLED_BYTES: i64 = 64 << 20;

/// Descriptors that are no sockets: files of the journal come and go with its segments.
const FILES: i64 = 8;

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    left_over(facts, verdict);
    latencies(facts, verdict);
}

fn left_over(facts: &Facts<'_>, verdict: &mut Verdict) {
    let mut baselines: HashMap<u32, (&Record, &Gauge)> = HashMap::new();
    for record in facts.records {
        let What::Holds { run, moment, gauge } = &record.what else { continue };
        if moment == "baseline" {
            baselines.insert(*run, (record, gauge));
            continue;
        }
        let Some((before, base)) = baselines.get(run) else { continue };
        verdict.judged(12);
        // An entry of the log takes more in memory than its weight says.
        let memory = base.resident_bytes + KEPT_BYTES + 2 * (gauge.log_bytes - base.log_bytes).max(0);
        let mut wrong = Vec::new();
        if moment == "stalled" {
            if gauge.resident_bytes > memory + STALLED_BYTES {
                wrong.push(format!("{} bytes resident while somebody stalls", gauge.resident_bytes));
            }
        } else {
            let nothing = [
                ("connections", gauge.connections),
                ("frames in outboxes", gauge.outbox_frames),
                ("bytes in outboxes", gauge.outbox_bytes),
                ("subscribers", gauge.subscribers),
                ("sockets", gauge.sockets - base.sockets),
            ];
            wrong.extend(nothing.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{n} {name} left")));
            if gauge.files > base.files + FILES {
                wrong.push(format!("{} files open, {} at the start", gauge.files, base.files));
            }
            if gauge.resident_bytes > memory {
                wrong.push(format!("{} bytes resident, at most {memory} were allowed", gauge.resident_bytes));
            }
        }
        if !wrong.is_empty() {
            verdict.violation(12, format!("{moment}: {}", wrong.join(", ")), [line(before), line(record)]);
        }
    }
}

/// From the client's write to the first subscriber that has it, in phases without and with somebody who stalls.
fn latencies(facts: &Facts<'_>, verdict: &mut Verdict) {
    let mut sent: HashMap<&str, Time> = HashMap::new();
    for message in facts.sessions.iter().flat_map(|session| &session.tx) {
        sent.entry(message.id).or_insert(message.t);
    }
    let phases: Vec<_> = facts
        .records
        .iter()
        .filter_map(|record| match &record.what {
            What::Phase { calm, stalled, .. } => Some((record.t, *calm, *stalled, record)),
            _ => None,
        })
        .collect();
    let (mut calm, mut stalled) = (Vec::new(), Vec::new());
    let mut evidence = Vec::new();
    for (i, (from, is_calm, is_stalled, record)) in phases.iter().enumerate() {
        if !is_calm && !is_stalled {
            continue;
        }
        evidence.push(line(record));
        let until = phases.get(i + 1).map_or(facts.end, |(t, ..)| *t);
        let into = if *is_stalled { &mut stalled } else { &mut calm };
        for logged in facts.logs.values().flat_map(|log| log.events.values()) {
            let Kind::MessageReceived { id, .. } = &logged.event.kind else { continue };
            let Some(t) = sent.get(id.as_str()).filter(|t| (*from..until).contains(*t)) else { continue };
            into.push(logged.seen.saturating_sub(*t).saturating_sub(facts.lateness(*t, logged.seen)));
        }
    }
    if calm.len() < 50 || stalled.len() < 50 {
        return;
    }
    calm.sort_unstable();
    stalled.sort_unstable();
    verdict.judged(12);
    let median = |values: &[Time]| values[values.len() / 2];
    let tail = |values: &[Time]| values[values.len() * 95 / 100];
    // Noise of a shared machine moves both; a stall that is felt moves them by its own length, which is seconds.
    let worse = median(&stalled) > 4 * median(&calm) + SECOND / 20 || tail(&stalled) > 4 * tail(&calm) + SECOND / 4;
    if worse {
        let what = format!(
            "with somebody stalled a message took {} µs (95 %: {} µs); without, {} µs ({} µs)",
            median(&stalled),
            tail(&stalled),
            median(&calm),
            tail(&calm)
        );
        verdict.violation(12, what, evidence);
    }
}
