//! Promises 2 and 3: one sequence, the same for every reader; and a filtered stream is the filtered log.

use std::collections::BTreeSet;

use super::facts::{Facts, Stream};
use super::{Verdict, line};
use crate::record::{Event, Filter, Kind, Start};

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    for (epoch, log) in &facts.logs {
        for (offset, one, two) in &log.conflicts {
            let what = format!("two readers saw different events at {epoch}/{offset}");
            verdict.violation(2, what, [line(one), line(two)]);
        }
        holes(facts, epoch, verdict);
    }
    for stream in &facts.streams {
        rising(stream, verdict);
        complete(facts, stream, verdict);
    }
}

/// The readers together miss nothing: offsets rise by one, from the first that the first process gave.
fn holes(facts: &Facts<'_>, epoch: &str, verdict: &mut Verdict) {
    let Some(log) = facts.logs.get(epoch) else { return };
    let first = facts.runs.values().find(|run| run.head.epoch == epoch);
    let mut expected = first.filter(|_| whole_from_start(facts, epoch)).map(|run| run.head.offset + 1);
    let mut before = None;
    for (offset, logged) in &log.events {
        if let Some(expected) = expected
            && *offset > expected
        {
            let what = format!("no reader saw {epoch}/{expected} to {epoch}/{}", offset - 1);
            verdict.violation(2, what, before.map(line).into_iter().chain([line(logged.record)]));
        }
        verdict.judged(2);
        expected = Some(offset + 1);
        before = Some(logged.record);
    }
}

/// Whether some stream without a filter began at the beginning of an epoch.
fn whole_from_start(facts: &Facts<'_>, epoch: &str) -> bool {
    let mut streams = facts.streams.iter().filter(|stream| stream.epoch() == Some(epoch));
    streams.any(|stream| stream.filter.is_empty() && *stream.start == Start::Beginning)
}

fn rising(stream: &Stream<'_>, verdict: &mut Verdict) {
    let mut last: Option<(&str, i64, &crate::record::Record)> = None;
    for (offset, event, batch) in stream.news() {
        let epoch = event.at.as_ref().map_or("", |at| &at.epoch);
        if let Some((known, before, record)) = last
            && (known != epoch || offset <= before)
        {
            let what = format!("{}: {epoch}/{offset} after {known}/{before}: positions only rise", stream.actor);
            verdict.violation(2, what, [line(record), line(batch.record)]);
        }
        last = Some((epoch, offset, batch.record));
    }
}

/// A stream has everything in its stretch of the log that its filter passes, and nothing else.
fn complete(facts: &Facts<'_>, stream: &Stream<'_>, verdict: &mut Verdict) {
    let promise = if stream.filter.is_empty() { 2 } else { 3 };
    for (_, event, batch) in stream.news() {
        if !passes(stream.filter, event) {
            let what = format!("{}: an event that its filter does not pass", stream.actor);
            verdict.violation(3, what, [line(stream.record), line(batch.record)]);
        }
    }
    let (Some((from, until)), Some(epoch)) = (stream.covers(facts), stream.epoch()) else { return };
    let Some(log) = facts.logs.get(epoch) else { return };
    let got: BTreeSet<i64> = stream.news().map(|(offset, ..)| offset).collect();
    // What is missing where it was resumed is promise 4's.
    let resumed = matches!(stream.start, Start::Cursor(_) | Start::Kept);
    let from = if resumed { got.first().copied().map_or(until, |first| first.max(from)) } else { from };
    for (offset, logged) in log.between(from, until) {
        if !passes(stream.filter, logged.event) {
            continue;
        }
        verdict.judged(promise);
        if !got.contains(&offset) {
            let what = format!("{}: {epoch}/{offset} is missing, which others saw", stream.actor);
            let after = stream.batches.iter().find(|batch| batch.cursor.is_some_and(|cursor| cursor.offset >= offset));
            let after = after.map(|batch| line(batch.record));
            verdict.violation(promise, what, [line(stream.record), line(logged.record)].into_iter().chain(after));
        }
    }
}

/// Whether an event passes a filter, as the contract says.
pub fn passes(filter: &Filter, event: &Event) -> bool {
    let has = |labels: &std::collections::BTreeMap<String, String>| {
        filter.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let left = matches!(&event.kind, Kind::LabelsChanged { previous } if has(previous));
    (filter.kinds.is_empty() || filter.kinds.iter().any(|kind| kind == event.kind.name()))
        && (filter.clients.is_empty() || filter.clients.contains(&event.client))
        && event.client.starts_with(&filter.prefix)
        && (has(&event.labels) || left)
}
