//! Promise 9: first in, first out, without duplicates, both ways; and no message outside the life of its connection.

use std::collections::{HashMap, HashSet};

use super::facts::{Facts, Life, Message, SECOND, Sending};
use super::{Verdict, line};
use crate::record::{Aim, Kind};

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    outside(facts, verdict);
    for life in facts.lives.iter().filter(|life| !life.sessions.is_empty()) {
        inbound(facts, life, verdict);
        outbound(facts, life, verdict);
    }
    elsewhere(facts, verdict);
}

/// No message before Connected, none after Disconnected.
fn outside(facts: &Facts<'_>, verdict: &mut Verdict) {
    let lives: HashMap<&str, &Life<'_>> = facts.lives.iter().map(|life| (life.connection, life)).collect();
    for log in facts.logs.values() {
        for (offset, logged) in &log.events {
            let Kind::MessageReceived { id, .. } = &logged.event.kind else { continue };
            verdict.judged(9);
            let life = lives.get(logged.event.connection.as_str());
            let within = life.is_some_and(|life| life.at < *offset && life.end.is_none_or(|(end, _)| end > *offset));
            if !within && !verdict.broken.contains(&logged.event.connection) {
                let what = format!("message {id} outside the life of connection {}", logged.event.connection);
                let end = life.and_then(|life| life.end).map(|(_, end)| line(end.record));
                verdict.violation(9, what, [line(logged.record)].into_iter().chain(end));
            }
        }
    }
}

/// The close code of a connection whose messages the log did not take in time.
const OVERLOADED: u16 = 1013;

/// What the log has of a client is what the client sent, from the first on and without a hole.
fn inbound(facts: &Facts<'_>, life: &Life<'_>, verdict: &mut Verdict) {
    let sessions: Vec<_> = life.sessions.iter().map(|at| &facts.sessions[*at]).collect();
    let mut sent: Vec<&Message<'_>> = Vec::new();
    let mut known = HashSet::new();
    for message in sessions.iter().flat_map(|session| &session.tx) {
        // After a resume a client sends again what was not acknowledged, with the same numbers.
        if message.seq == 0 || known.insert(message.seq) {
            sent.push(message);
        }
    }
    for (i, (offset, id, logged)) in life.messages.iter().enumerate() {
        let expected = sent.get(i);
        if expected.is_some_and(|message| message.id == *id) {
            continue;
        }
        let place = expected.map_or_else(|| "nothing".to_owned(), |message| message.id.to_owned());
        let again = life.messages[..i].iter().any(|(_, before, _)| before == id);
        let what = format!(
            "{} at {offset} {}; next of {} would be {place}",
            id,
            if again { "comes twice" } else { "is out of order, or another was lost before it" },
            life.client
        );
        verdict.violation(9, what, [line(logged.record)].into_iter().chain(expected.map(|m| line(m.record))));
        return;
    }
    // A client that closed after its last message, and was not closed before, was read to the end; so was one at rest.
    let Some(last) = sessions.last() else { return };
    // One that was closed because the log could not take what it said was told so, and was not read to its end.
    if last.closed.is_some_and(|(_, code, _)| code == OVERLOADED) {
        return;
    }
    let whole = match last.closing {
        Some((_, how)) => life.cause() == Some("client_closed") && matches!(how, "close" | "empty" | "bye"),
        None => facts.quiets.iter().any(|quiet| {
            last.well_at(quiet.t)
                && quiet.head.epoch == life.epoch
                && facts.knows(quiet.head)
                && life.end.is_none_or(|(end, _)| end > quiet.head.offset)
                && sent.iter().all(|message| message.t + 2 * SECOND < quiet.t)
        }),
    };
    if whole && life.messages.len() < sent.len() {
        let lost = sent[life.messages.len()];
        let what = format!(
            "{} of {} was sent on a connection that was read to its end, and is not in the log",
            lost.id, life.client
        );
        let end = life.end.map(|(_, end)| line(end.record));
        verdict.violation(9, what, [line(lost.record)].into_iter().chain(end));
    }
}

/// What a client gets is in the order in which it was accepted, each once.
fn outbound(facts: &Facts<'_>, life: &Life<'_>, verdict: &mut Verdict) {
    let received: Vec<&Message<'_>> = life.sessions.iter().flat_map(|at| &facts.sessions[*at].rx).collect();
    let mut first: HashMap<&str, (usize, &Message<'_>)> = HashMap::new();
    for (i, message) in received.iter().enumerate() {
        verdict.judged(9);
        match first.get(message.id) {
            None => {
                first.insert(message.id, (i, message));
            }
            // Sent again on a new socket with the same number: the client knows it as a repeat.
            Some((_, before)) if message.seq > 0 && before.seq == message.seq => {}
            Some((_, before)) => {
                let what = format!("{} received {} twice on one connection", life.client, message.id);
                verdict.violation(9, what, [line(before.record), line(message.record)]);
            }
        }
    }
    let sends: Vec<&Sending<'_>> =
        facts.sends.iter().filter(|send| first.contains_key(send.id) && send.ttl == 0).collect();
    for (later_at, later) in sends.iter().enumerate() {
        // One before: over the same stream, or answered before this was asked.
        for earlier in sends[..later_at].iter().rev().take(50) {
            let before = earlier.actor == later.actor && earlier.order == later.order && earlier.order > 0
                || earlier.answer.is_some_and(|(t, outcome, ..)| outcome.is_ok() && t < later.t);
            let repeated = !earlier.message_id.is_empty() || !later.message_id.is_empty();
            let ((i, one), (j, two)) = (first[earlier.id], first[later.id]);
            if before && !repeated && i > j {
                let what =
                    format!("{} received {} before {}, which was accepted first", life.client, later.id, earlier.id);
                verdict.violation(
                    9,
                    what,
                    [line(earlier.record), line(later.record), line(two.record), line(one.record)],
                );
            }
        }
    }
}

/// A message that is not stored goes to the connections that were answered, and to no other.
fn elsewhere(facts: &Facts<'_>, verdict: &mut Verdict) {
    let sends: HashMap<&str, &Sending<'_>> =
        facts.sends.iter().filter(|s| s.ttl == 0 && s.message_id.is_empty()).map(|send| (send.id, send)).collect();
    for session in &facts.sessions {
        let Some(life) = session.life.map(|at| &facts.lives[at]) else { continue };
        for message in &session.rx {
            let Some(send) = sends.get(message.id) else { continue };
            let Some((_, outcome, deliveries, answer)) = send.answer else { continue };
            let other_name = matches!(send.to, Aim::Client(client) if client != life.client);
            let answered = !outcome.is_ok() || deliveries.iter().any(|delivery| delivery.connection == life.connection);
            if other_name || !answered {
                let what = format!("{} received {}, which went to another connection", life.client, message.id);
                verdict.violation(9, what, [line(send.record), line(answer), line(message.record)]);
            }
        }
    }
}
