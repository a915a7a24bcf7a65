//! Promise 6: a snapshot at its cursor, and whatever else is answered with a cursor, equals the fold there; a list and what follows come to it.

use std::collections::BTreeMap;

use super::facts::{Facts, Log, SECOND, Stream};
use super::fold::Fold;
use super::{Verdict, line};
use crate::record::{Pos, Record, Shown, Start, What};

/// The folds of one log, at rising offsets: each is made from the one before.
struct Folds<'a, 'b> {
    log: &'a Log<'b>,
    at: i64,
    fold: Fold,
}

impl Folds<'_, '_> {
    fn at(&mut self, offset: i64) -> &Fold {
        for (_, logged) in self.log.between(self.at, offset) {
            self.fold.apply(logged.event);
        }
        self.at = self.at.max(offset);
        &self.fold
    }
}

/// Something that was said of a position.
enum Claim<'a> {
    Snapshot(&'a Stream<'a>, usize),
    Client(&'a Record, &'a str, &'a [Shown]),
    List(&'a Record, &'a [Shown]),
    Count(&'a Record, i64),
    Ended(&'a Record, &'a [String]),
}

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    let mut claims: BTreeMap<(&str, i64), Vec<Claim<'_>>> = BTreeMap::new();
    for stream in facts.streams.iter().filter(|stream| *stream.start == Start::Snapshot) {
        let whole = stream.batches.iter().enumerate().find_map(|(i, batch)| Some((i, batch.cursor?)));
        if let Some((batches, cursor)) = whole {
            let claim = Claim::Snapshot(stream, batches);
            claims.entry((&cursor.epoch, cursor.offset)).or_default().push(claim);
        }
    }
    for record in facts.records {
        let (cursor, claim) = match &record.what {
            What::Shown { client: Some(client), outcome, cursor: Some(cursor), connections, .. } if outcome.is_ok() => {
                (cursor, Claim::Client(record, client, connections))
            }
            What::Shown { client: None, outcome, cursor: Some(cursor), connections, .. } if outcome.is_ok() => {
                (cursor, Claim::List(record, connections))
            }
            What::Counted { count, cursor: Some(cursor), .. } => (cursor, Claim::Count(record, *count)),
            What::Commanded { outcome, connections, cursor: Some(cursor), .. } if outcome.is_ok() => {
                (cursor, Claim::Ended(record, connections))
            }
            _ => continue,
        };
        claims.entry((&cursor.epoch, cursor.offset)).or_default().push(claim);
    }
    let mut folds: BTreeMap<&str, Folds<'_, '_>> = BTreeMap::new();
    for ((epoch, offset), claims) in &claims {
        let pos = Pos { epoch: (*epoch).to_owned(), offset: *offset };
        let (Some(log), true) = (facts.logs.get(epoch), facts.knows(&pos)) else { continue };
        let folds = folds.entry(epoch).or_insert_with(|| Folds { log, at: i64::MIN, fold: Fold::default() });
        let fold = folds.at(*offset);
        for claim in claims {
            claim.judge(facts, &pos, fold, verdict);
        }
    }
}

impl Claim<'_> {
    fn judge(&self, facts: &Facts<'_>, pos: &Pos, fold: &Fold, verdict: &mut Verdict) {
        let broken = verdict.broken.clone();
        let leave_out = |id: &str| broken.contains(id);
        match self {
            Self::Snapshot(stream, batches) => {
                // A snapshot with a filter shows what passes as of its events, which no fold can tell; only whole ones are judged.
                if !stream.filter.is_empty() {
                    return;
                }
                verdict.judged(6);
                let mut shown = Fold::default();
                // The response with the first cursor completes it, whatever events it has itself.
                for event in stream.batches[..=*batches].iter().flat_map(|batch| batch.events) {
                    shown.apply(event);
                }
                if let Some(difference) = fold.difference(&shown, leave_out) {
                    let what = format!("{}: the snapshot at {pos} is not the fold there: {difference}", stream.actor);
                    verdict.violation(6, what, [line(stream.record), line(stream.batches[*batches].record)]);
                }
            }
            Self::Client(record, client, connections) => {
                verdict.judged(6);
                let mut there = fold.clone();
                there.connections.retain(|_, shown| shown.client == *client);
                if let Some(difference) = there.difference(&Fold::of(connections), leave_out) {
                    let what = format!("{client} at {pos} is not what the fold says: {difference}");
                    verdict.violation(6, what, [line(record)]);
                }
            }
            Self::List(record, connections) => converges(facts, record, pos, connections, verdict),
            Self::Count(record, count) => {
                // It includes everything up to the cursor and may include some of what came just after.
                let log = &facts.logs[pos.epoch.as_str()];
                let after = log.events.range(pos.offset + 1..);
                // A subscriber may have got it a little later than the count was answered.
                let after = after.take_while(|(_, logged)| logged.seen <= record.t + SECOND);
                let slack = after.filter(|(_, l)| ["connected", "disconnected"].contains(&l.event.kind.name())).count();
                let there = fold.connections.len();
                if !broken.is_empty() {
                    return;
                }
                verdict.judged(6);
                if there.abs_diff(count.unsigned_abs() as usize) > slack {
                    let what = format!("a count of {count} at {pos}, where the fold has {there}");
                    verdict.violation(6, what, [line(record)]);
                }
            }
            Self::Ended(record, connections) => {
                if !matches!(&record.what, What::Commanded { .. }) || !is_disconnect(facts, record) {
                    return;
                }
                for connection in *connections {
                    verdict.judged(6);
                    if fold.connections.contains_key(connection) && !leave_out(connection) {
                        let what = format!("{connection} was answered to be gone at {pos}, and the fold has it");
                        verdict.violation(6, what, [line(record)]);
                    }
                }
            }
        }
    }
}

fn is_disconnect(facts: &Facts<'_>, answer: &Record) -> bool {
    let What::Commanded { call, .. } = &answer.what else { return false };
    facts.records.iter().any(|record| {
        record.actor == answer.actor
            && matches!(&record.what, What::Command { call: asked, name, .. } if asked == call && name == "disconnect")
    })
}

/// A list is of no one moment; with the events after its cursor it comes to the truth, by the next quiet point at the latest.
fn converges(facts: &Facts<'_>, record: &Record, pos: &Pos, connections: &[Shown], verdict: &mut Verdict) {
    let quiet = facts.quiets.iter().find(|quiet| {
        quiet.t >= record.t && quiet.head.epoch == pos.epoch && quiet.head.offset >= pos.offset && facts.knows(quiet.head)
    });
    let (Some(quiet), Some(log)) = (quiet, facts.logs.get(pos.epoch.as_str())) else { return };
    verdict.judged(6);
    let mut listed = Fold::of(connections);
    for (_, logged) in log.between(pos.offset, quiet.head.offset) {
        listed.apply(logged.event);
    }
    let mut truth = Fold::default();
    for (_, logged) in log.between(i64::MIN, quiet.head.offset) {
        truth.apply(logged.event);
    }
    if let Some(difference) = truth.difference(&listed, |id| verdict.broken.contains(id)) {
        let what = format!("a list with the events after {pos} does not come to the fold at {}: {difference}", quiet.head);
        verdict.violation(6, what, [line(record), line(quiet.record)]);
    }
}
