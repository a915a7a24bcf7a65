//! Promise 4: what was cut and resumed equals what was never cut; where that cannot be, OUT_OF_RANGE says so.

use super::facts::{Facts, Run, Stream};
use super::order::passes;
use super::{Verdict, line};
use crate::record::{Outcome, Pos, Record, Start, What};

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    epochs(facts, verdict);
    for stream in &facts.streams {
        let Some(run) = facts.runs.get(&stream.run) else { continue };
        match stream.start {
            Start::Cursor(cursor) => resumed(facts, stream, run, cursor, verdict),
            Start::Kept => kept(facts, stream, verdict),
            _ => {}
        }
    }
}

/// A journal outlives its process and loses nothing that a reader had; a log in memory is a new epoch each time.
fn epochs(facts: &Facts<'_>, verdict: &mut Verdict) {
    for (before, after) in facts.runs.values().zip(facts.runs.values().skip(1)) {
        verdict.judged(4);
        let same = before.head.epoch == after.head.epoch;
        if before.journal && after.journal && !same {
            verdict.violation(4, format!("the journal of run {} is a new epoch in run {}", before.number, after.number), [
                format!("{} then {}", before.head, after.head),
            ]);
        } else if !after.journal && same {
            verdict.violation(4, format!("run {} has a log in memory and the epoch of the run before", after.number), [
                format!("{} then {}", before.head, after.head),
            ]);
        } else if same && let Some(log) = facts.logs.get(before.head.epoch.as_str()) {
            let lost = log.events.values().filter(|logged| logged.seen < after.started).next_back();
            if let Some(logged) = lost
                && logged.event.at.as_ref().is_some_and(|at| at.offset > after.head.offset)
            {
                let what = format!("run {} begins at {}, behind what a reader had", after.number, after.head);
                verdict.violation(4, what, [line(logged.record)]);
            }
        }
    }
}

fn resumed(facts: &Facts<'_>, stream: &Stream<'_>, run: &Run, cursor: &Pos, verdict: &mut Verdict) {
    if let Some((_, record, false, outcome)) = stream.end {
        refused(stream, run, cursor, record, outcome, verdict);
    }
    let Some(epoch) = stream.epoch() else { return };
    verdict.judged(4);
    if epoch != cursor.epoch {
        let what = format!("{}: resumed in another epoch with no word of it", stream.actor);
        verdict.violation(4, what, [line(stream.record), line(stream.batches[0].record)]);
        return;
    }
    let first = stream.news().next();
    if let Some((offset, _, batch)) = first
        && offset <= cursor.offset
    {
        let what = format!("{}: {epoch}/{offset} comes again after resuming at {cursor}", stream.actor);
        verdict.violation(4, what, [line(stream.record), line(batch.record)]);
    }
    // Up to the first event; what is missing further on is promise 2's or 3's.
    let until = first.map(|(offset, ..)| offset - 1).or(stream.covers(facts).map(|(_, until)| until));
    missing(facts, stream, cursor.offset, until.unwrap_or(cursor.offset), verdict);
}

fn missing(facts: &Facts<'_>, stream: &Stream<'_>, from: i64, until: i64, verdict: &mut Verdict) {
    let Some(log) = stream.epoch().and_then(|epoch| facts.logs.get(epoch)) else { return };
    if let Some((offset, logged)) = log.between(from, until).find(|(_, logged)| passes(stream.filter, logged.event)) {
        let what = format!("{}: resumed after {from}, and {offset} never came", stream.actor);
        verdict.violation(4, what, [line(stream.record), line(logged.record)]);
    }
}

/// A refusal says the truth: the position is of another epoch, or no longer kept.
fn refused(
    stream: &Stream<'_>,
    run: &Run,
    cursor: &Pos,
    record: &Record,
    outcome: &Outcome,
    verdict: &mut Verdict,
) {
    // A live stream may be overtaken: then what counts is how far it had come.
    let last = stream.batches.iter().filter_map(|batch| batch.cursor).next_back().unwrap_or(cursor);
    let wrong = match outcome.reason.as_str() {
        "EPOCH_CHANGED" => cursor.epoch == run.head.epoch,
        "CURSOR_EXPIRED" => {
            outcome.oldest.as_ref().is_none_or(|oldest| oldest.epoch == last.epoch && oldest.offset <= last.offset)
        }
        // Every cursor that is given back was given out.
        "CURSOR_INVALID" => true,
        _ => return,
    };
    verdict.judged(4);
    if wrong {
        let what = format!("{}: {} for {last}, which is not so", stream.actor, outcome.reason);
        verdict.violation(4, what, [line(stream.record), line(record)]);
    }
}

/// A consumer goes on after what it acknowledged: nothing is skipped, and nothing comes again that was acknowledged.
fn kept(facts: &Facts<'_>, stream: &Stream<'_>, verdict: &mut Verdict) {
    let Some(epoch) = stream.epoch() else { return };
    let Some((first, _, batch)) = stream.news().next() else { return };
    let (mut surely, mut maybe) = (None, None);
    for record in facts.records.iter().take_while(|record| record.t <= batch.t) {
        match &record.what {
            What::Acknowledge { consumer, at } if consumer == stream.consumer && at.epoch == epoch => {
                maybe = maybe.max(Some(at.offset));
            }
            What::Acknowledged { consumer, at: Some(at), outcome }
                if consumer == stream.consumer && at.epoch == epoch && outcome.is_ok() && record.t < stream.asked =>
            {
                surely = surely.max(Some(at.offset));
            }
            _ => {}
        }
    }
    let (Some(surely), Some(maybe)) = (surely, maybe.max(surely)) else { return };
    verdict.judged(4);
    if first <= surely {
        let what = format!("{}: {first} comes again though {surely} was acknowledged", stream.actor);
        verdict.violation(4, what, [line(stream.record), line(batch.record)]);
    }
    // It begins with a bookmark of the kept position, which is at least what was surely acknowledged and at most what was tried.
    let told = stream.batches.first().filter(|batch| batch.events.is_empty()).and_then(|batch| batch.cursor);
    let told = told.map(|cursor| cursor.offset);
    if told.is_some_and(|told| told < surely || told > maybe) {
        let what = format!("{}: begins at {told:?}, and {surely} was acknowledged", stream.actor);
        verdict.violation(4, what, [line(stream.record), line(stream.batches[0].record)]);
    }
    missing(facts, stream, told.unwrap_or(maybe), first - 1, verdict);
}
