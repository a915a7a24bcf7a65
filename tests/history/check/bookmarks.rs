//! Promise 5: nothing at or before a bookmark, or any other cursor of a stream, comes after it.

use super::facts::{Facts, Stream};
use super::{Verdict, line};

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    for stream in &facts.streams {
        judge_stream(stream, verdict);
    }
}

fn judge_stream(stream: &Stream<'_>, verdict: &mut Verdict) {
    let (mut cursor, mut event) = (None, i64::MIN);
    for batch in &stream.batches {
        for at in batch.events.iter().filter_map(|event| event.at.as_ref()) {
            // What comes again, or in the wrong order, is promise 2's.
            if let Some((told, record)) = cursor
                && at.offset <= told
                && at.offset > event
            {
                let what = format!("{}: {at} comes after a cursor of {told}", stream.actor);
                verdict.violation(5, what, [line(record), line(batch.record)]);
            }
            event = event.max(at.offset);
        }
        let Some(next) = batch.cursor else { continue };
        verdict.judged(5);
        let behind = batch.events.iter().filter_map(|e| e.at.as_ref()).any(|at| at.offset > next.offset);
        if behind || cursor.is_some_and(|(told, _)| next.offset < told) {
            let what = format!("{}: the cursor {next} is behind what the stream had before it", stream.actor);
            verdict.violation(5, what, [line(batch.record)]);
        }
        cursor = Some((next.offset, batch.record));
    }
}
