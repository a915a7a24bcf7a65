//! Promises 7 and 8: the stages of a send mean what they say, and a failure is definite.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::facts::{Facts, Life, Quiet, SECOND, Sending, Session, Time};
use super::{Verdict, line};
use crate::record::{Aim, Delivery, Kind, Outcome, Record};

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    let got = Got::of(facts);
    for send in &facts.sends {
        let Some((answered, outcome, deliveries, answer)) = send.answer else { continue };
        for delivery in deliveries {
            let Some(life) = facts.life(&delivery.connection) else { continue };
            reached(facts, &got, send, answered, delivery, life, answer, verdict);
            if matches!(delivery.failure.as_str(), "not_connected" | "outbox_full") {
                verdict.judged(8);
                if let Some(received) = got.on(&delivery.connection, send.id) {
                    let what = format!("{} was answered {} and received", send.id, delivery.failure);
                    verdict.violation(8, what, [line(answer), line(received)]);
                }
            }
        }
        answerable(facts, send, answered, outcome, answer, verdict);
    }
    failures(facts, &got, verdict);
    stored(facts, &got, verdict);
}

/// What clients received.
struct Got<'a> {
    anywhere: HashMap<&'a str, &'a Record>,
    on: HashMap<(&'a str, &'a str), &'a Record>,
}

impl<'a> Got<'a> {
    fn of(facts: &'a Facts<'_>) -> Self {
        let (mut anywhere, mut on) = (HashMap::new(), HashMap::new());
        for session in &facts.sessions {
            let life = session.life.map(|at| facts.lives[at].connection);
            for message in &session.rx {
                anywhere.entry(message.id).or_insert(message.record);
                if let Some(connection) = life {
                    on.entry((connection, message.id)).or_insert(message.record);
                }
            }
        }
        Self { anywhere, on }
    }

    fn on(&self, connection: &'a str, id: &'a str) -> Option<&'a Record> {
        self.on.get(&(connection, id)).copied()
    }
}

/// A stage that was answered was reached.
#[expect(clippy::too_many_arguments, reason = "the parts of one answer")]
fn reached<'a>(
    facts: &'a Facts<'_>,
    got: &Got<'a>,
    send: &'a Sending<'_>,
    answered: Time,
    delivery: &'a Delivery,
    life: &'a Life<'_>,
    answer: &Record,
    verdict: &mut Verdict,
) {
    let sessions: Vec<_> = life.sessions.iter().map(|at| &facts.sessions[*at]).collect();
    // Nobody wrote down what this connection's client got.
    if sessions.is_empty() {
        return;
    }
    let received = got.on(&delivery.connection, send.id);
    let evidence = || [line(send.record), line(answer)].into_iter().chain(sessions.iter().map(|s| line(s.record)));
    if delivery.stage == "acked" {
        verdict.judged(7);
        let said = sessions.iter().any(|session| {
            let acked = session.tx_acks.iter().filter(|(t, _)| *t <= answered).map(|(_, upto)| *upto).max();
            session.rx.iter().any(|message| message.id == send.id && acked.is_some_and(|acked| acked >= message.seq))
        });
        // Received on one socket and acknowledged on the next, after a resume.
        let seq = sessions.iter().flat_map(|session| &session.rx).find(|m| m.id == send.id).map(|m| m.seq);
        let acked =
            sessions.iter().flat_map(|s| &s.tx_acks).filter(|(t, _)| *t <= answered).map(|(_, upto)| *upto).max();
        if !said && seq.is_none_or(|seq| acked.is_none_or(|acked| acked < seq)) {
            let what = format!("{} was answered ACKED, and the client had not acknowledged it", send.id);
            verdict.violation(7, what, evidence());
        }
    } else if matches!(delivery.stage.as_str(), "written" | "accepted") && delivery.failure.is_empty() {
        let written = delivery.stage == "written";
        if received.is_some() || owed(facts, &sessions, life, send.t, answered, written) {
            verdict.judged(7);
            if received.is_none() {
                let what = format!("{} was answered {} and never received", send.id, delivery.stage.to_uppercase());
                verdict.violation(7, what, evidence());
            }
        }
    }
}

/// How long what the kernel took may be on its way to a client that reads.
const SOON: Time = 300_000;

/// Whether the client must have received it: neither side had begun to close, and the client read.
fn owed(
    facts: &Facts<'_>,
    sessions: &[&Session<'_>],
    life: &Life<'_>,
    sent: Time,
    answered: Time,
    written: bool,
) -> bool {
    let Some(last) = sessions.last() else { return false };
    // What the kernel has it hands over at once; the client reads it when the machine lets it.
    let late = answered + SOON + facts.lateness(answered, answered + SOON);
    // The process may have ended with it in the outbox, or the kernel have thrown away what it had written.
    let alive = !facts.run_ended_by(last.run, late);
    let client_stays = |until: Time| {
        sessions.iter().all(|session| {
            // Whoever closes in order reads on until our Close, and with it what the kernel had before.
            let reads_on = |t: Time, how: &str| {
                written && t > answered && matches!(how, "close" | "empty" | "half_close") && session.closed.is_some()
            };
            session.closing.is_none_or(|(t, how)| t > until || reads_on(t, how))
                && session.silent.is_none_or(|t| t > until)
                && !session.stalled_between(sent, until)
        })
    };
    let there = || {
        facts.quiets.iter().any(|quiet| {
            quiet.t > late
                && last.well_at(quiet.t)
                && life.end.is_none_or(|(end, _)| end > quiet.head.offset)
                && quiet.head.epoch == life.epoch
        })
    };
    // A resumable connection outlives its sockets: who is there at the next quiet point has everything.
    if alive && !life.subprotocol.is_empty() && there() {
        return true;
    }
    if !alive || !client_stays(late) {
        return false;
    }
    let over = last.over.or(last.closed.map(|(t, ..)| t));
    if written {
        // Read until our Close, or still reading. What ended without a Close was lost on the way.
        last.closed.is_some() || over.is_none_or(|over| over > late)
    } else {
        // It may wait behind others; whoever is there at the next quiet point has it.
        there()
    }
}

/// Codes that say for certain that a message was not sent.
fn definite(outcome: &Outcome) -> bool {
    match outcome.code.as_str() {
        "not_found"
        | "resource_exhausted"
        | "failed_precondition"
        | "invalid_argument"
        | "unimplemented"
        | "out_of_range" => true,
        "deadline_exceeded" => outcome.reason == "EXPIRED",
        _ => false,
    }
}

/// A message that only ever failed for certain is never received.
fn failures(facts: &Facts<'_>, got: &Got<'_>, verdict: &mut Verdict) {
    let mut by_id: BTreeMap<&str, Vec<&Sending<'_>>> = BTreeMap::new();
    for send in &facts.sends {
        by_id.entry(send.id).or_default().push(send);
    }
    for (id, sends) in by_id {
        if !sends.iter().all(|send| send.answer.is_some_and(|(_, outcome, ..)| definite(outcome))) {
            continue;
        }
        verdict.judged(8);
        if let Some(received) = got.anywhere.get(id) {
            let (_, outcome, _, answer) = sends[0].answer.expect("was looked at");
            let said = if outcome.reason.is_empty() { &outcome.code } else { &outcome.reason };
            verdict.violation(8, format!("{id} was answered {said} and received"), [line(answer), line(received)]);
        }
    }
}

/// Only a deadline and a process that ends leave open what happened.
fn answerable(
    facts: &Facts<'_>,
    send: &Sending<'_>,
    answered: Time,
    outcome: &Outcome,
    answer: &Record,
    verdict: &mut Verdict,
) {
    let known = outcome.is_ok()
        || definite(outcome)
        || matches!(outcome.code.as_str(), "deadline_exceeded" | "cancelled" | "already_exists")
        || outcome.code == "unavailable" && !outcome.reason.is_empty();
    if known {
        verdict.judged(8);
        return;
    }
    let run = facts.run_at(send.t).map_or(0, |run| run.number);
    let restarted = (send.t..=answered + SECOND).contains(&facts.runs.get(&(run + 1)).map_or(0, |run| run.started));
    if !restarted && !facts.run_ended_by(run, answered + SECOND) {
        let what = format!("{} was answered {} though the process lived", send.id, outcome.code);
        verdict.violation(8, what, [line(send.record), line(answer)]);
    }
}

/// A stored message comes sooner or later, or is said to have expired.
fn stored(facts: &Facts<'_>, got: &Got<'_>, verdict: &mut Verdict) {
    let expired: BTreeSet<&str> = facts
        .logs
        .values()
        .flat_map(|log| log.events.values())
        .filter_map(|logged| match &logged.event.kind {
            Kind::MessageExpired { message_id } => Some(message_id.as_str()),
            _ => None,
        })
        .collect();
    for send in &facts.sends {
        let Some(quiet) = stored_owed(facts, send) else { continue };
        let Some((.., answer)) = send.answer else { continue };
        verdict.judged(7);
        if !got.anywhere.contains_key(send.id) && !expired.contains(send.message_id) {
            let what = format!("{} was stored, and its client was there afterwards and never got it", send.id);
            verdict.violation(7, what, [line(send.record), line(answer), line(quiet.record)]);
        }
    }
}

/// The quiet point by which the client of a stored message must have it: it was there within the time to live, and the mailbox outlived what
/// happened to the process. A plain client has it once the kernel took it, which says nothing of a client that was just going: then
/// nothing is owed.
pub fn stored_owed<'a>(facts: &'a Facts<'_>, send: &Sending<'_>) -> Option<&'a Quiet<'a>> {
    let (Some((answered, outcome, ..)), Aim::Client(client)) = (send.answer, send.to) else { return None };
    if send.ttl == 0 || !outcome.is_ok() {
        return None;
    }
    let run = facts.run_at(send.t)?;
    // In memory the mailbox ends with the process.
    let kept_until = if run.journal { Time::MAX } else { run.ending.as_ref().map_or(Time::MAX, |(t, _)| *t) };
    let due = answered + send.ttl * 1_000;
    let theirs: Vec<_> = facts.sessions.iter().filter(|session| session.client == client).collect();
    facts.quiets.iter().find(|quiet| {
        let there = theirs.iter().any(|session| {
            session.opened.is_some_and(|(opened, _)| opened + 2 * SECOND < quiet.t)
                && session.well_at(quiet.t)
                && session.life.is_some()
        });
        // A connection may outlive its client: while the log takes nothing its end is not there, and what is read no further is not noticed.
        let known = |session: &Session<'_>| {
            let end = session.life.and_then(|at| facts.lives[at].end).map(|(_, end)| end.seen);
            session.over.is_none_or(|over| over.max(end.unwrap_or(over)) > send.t)
        };
        let between = theirs.iter().filter(|s| s.record.t < quiet.t && known(s));
        let reliable = |session: &Session<'_>| session.life.is_some_and(|at| !facts.lives[at].subprotocol.is_empty());
        let mut lossless = between.map(|session| {
            let stayed = session.well_at(quiet.t) || session.opened.is_none();
            reliable(session) || stayed && !session.stalled_between(send.t, quiet.t)
        });
        quiet.t > answered + 2 * SECOND && quiet.t < kept_until.min(due) && there && lossless.all(|lossless| lossless)
    })
}
