//! Promise 1: each Connected is followed by exactly one Disconnected of the same connection, and nothing of it comes after.

use std::collections::HashMap;

use super::facts::{Facts, Life, Log, SECOND};
use super::{Verdict, line};
use crate::record::Kind;

#[derive(Clone, Copy, PartialEq)]
enum Step {
    Open,
    Gone,
}

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    for log in facts.logs.values() {
        automaton(log, verdict);
    }
    let broken = verdict.broken.clone();
    let lives: Vec<_> = facts.lives.iter().filter(|life| !broken.contains(life.connection)).collect();
    owed(facts, &lives, verdict);
    drained(facts, &lives, verdict);
    restarts(facts, &lives, verdict);
    settled(facts, verdict);
}

/// One connection at a time: nothing before its Connected, one Disconnected, nothing after.
fn automaton(log: &Log<'_>, verdict: &mut Verdict) {
    let mut steps: HashMap<&str, (Step, String)> = HashMap::new();
    for logged in log.events.values() {
        let event = logged.event;
        // Messages outside the life of their connection are promise 9's; what has no connection has no life.
        if matches!(event.kind, Kind::MessageReceived { .. } | Kind::MessageExpired { .. }) {
            continue;
        }
        let known = steps.get(event.connection.as_str());
        let wrong = match (known.map(|(step, _)| *step), &event.kind) {
            (None, Kind::Connected { .. }) => None,
            (None, kind) => Some(format!("{} before its Connected", kind.name())),
            (Some(Step::Open), Kind::Connected { .. }) => Some("Connected twice".to_owned()),
            (Some(Step::Open), _) => None,
            (Some(Step::Gone), kind) => Some(format!("{} after its Disconnected", kind.name())),
        };
        if let Some(wrong) = wrong {
            let before = known.map(|(_, before)| before.clone());
            verdict.broken.insert(event.connection.clone());
            let what = format!("connection {} of {}: {wrong}", event.connection, event.client);
            verdict.violation(1, what, before.into_iter().chain([line(logged.record)]));
        }
        let step = if matches!(event.kind, Kind::Disconnected { .. }) { Step::Gone } else { Step::Open };
        if known.is_none_or(|(known, _)| *known == Step::Open) {
            steps.insert(&event.connection, (step, line(logged.record)));
        }
    }
}

/// When nobody is left, every Disconnected has come.
fn owed(facts: &Facts<'_>, lives: &[&Life<'_>], verdict: &mut Verdict) {
    for life in lives {
        let quiet = facts.quiets.iter().find(|quiet| {
            quiet.gone && quiet.head.epoch == life.epoch && quiet.head.offset >= life.at && facts.knows(quiet.head)
        });
        let Some(quiet) = quiet else { continue };
        verdict.judged(1);
        if life.end.is_none_or(|(end, _)| end > quiet.head.offset) {
            verdict.broken.insert(life.connection.to_owned());
            let what = format!(
                "connection {} of {} has no Disconnected though all is quiet and nobody is left",
                life.connection, life.client
            );
            verdict.violation(1, what, [line(life.connected.record), line(quiet.record)]);
        }
    }
}

/// A process that stopped in order told every subscriber of every end before it ended their streams.
fn drained(facts: &Facts<'_>, lives: &[&Life<'_>], verdict: &mut Verdict) {
    for run in facts.runs.values() {
        let (Some((ending, _)), Some((ended, Some(0)))) = (&run.ending, run.ended) else { continue };
        let carried = facts.streams.iter().find(|stream| {
            let said = stream.end.is_some_and(|(.., cut, outcome)| !cut && outcome.reason == "SHUTTING_DOWN");
            stream.run == run.number && stream.filter.is_empty() && said
        });
        // At its deadline it ends them whatever they have carried.
        let (Some(stream), true) = (carried, ended.saturating_sub(*ending) < 6 * SECOND) else { continue };
        for life in lives.iter().filter(|life| life.epoch == run.head.epoch && life.connected.seen < *ending) {
            verdict.judged(1);
            if life.end.is_none_or(|(_, end)| end.seen > ended + SECOND) {
                verdict.broken.insert(life.connection.to_owned());
                let what = format!("{} was open at an orderly stop, and no Disconnected was told", life.client);
                let told = stream.end.map(|(_, record, ..)| line(record));
                verdict.violation(1, what, [line(life.connected.record)].into_iter().chain(told));
            }
        }
    }
}

/// NODE_RESTARTED is said of just those that an ended process left open, and only where the log outlives it.
fn restarts(facts: &Facts<'_>, lives: &[&Life<'_>], verdict: &mut Verdict) {
    for life in lives {
        let Some(last) = life.sessions.last() else { continue };
        let Some(run) = facts.runs.get(&facts.sessions[*last].run) else { continue };
        let ended = run.ended.map(|(t, _)| t);
        let said = life.cause() == Some("node_restarted");
        let seen = life.end.map(|(_, end)| end.seen);
        let evidence = || life.end.iter().map(|(_, end)| line(end.record)).chain([line(life.connected.record)]);
        if said && (!run.journal || ended.is_none_or(|ended| seen.is_some_and(|seen| seen < ended))) {
            let what = format!("connection {}: NODE_RESTARTED with no restart that would explain it", life.connection);
            verdict.violation(1, what, evidence());
        }
        // What the next run says of it can only be that.
        let next = facts.runs.get(&(run.number + 1));
        let later = next.zip(seen).is_some_and(|(next, seen)| next.journal && seen > next.started + 5 * SECOND);
        if later && !said && run.journal && ended.is_some() {
            let what =
                format!("connection {} ended in a later run than its own, and not as NODE_RESTARTED", life.connection);
            verdict.violation(1, what, evidence());
        }
    }
}

/// A client that is connected and at rest is in the log.
fn settled(facts: &Facts<'_>, verdict: &mut Verdict) {
    for quiet in facts.quiets.iter().filter(|quiet| !quiet.gone && facts.knows(quiet.head)) {
        let Some(run) = facts.run_at(quiet.t) else { continue };
        for session in facts.sessions.iter().filter(|session| session.run == run.number && session.well_at(quiet.t)) {
            let settled = session.opened.is_some_and(|(opened, _)| opened + 2 * SECOND < quiet.t);
            // What ends just after the quiet point may have been ending at it.
            let stays = session.last_moment().is_none_or(|last| last > quiet.t + SECOND);
            if !settled || !stays {
                continue;
            }
            verdict.judged(1);
            let life = session.life.map(|at| &facts.lives[at]);
            let open = life.is_some_and(|life| {
                life.at <= quiet.head.offset && life.end.is_none_or(|(end, _)| end > quiet.head.offset)
            });
            if !open && life.is_none_or(|life| !verdict.broken.contains(life.connection)) {
                let what = format!("{} is connected and at rest, and not in the log", session.actor);
                let known = life.map(|life| line(life.end.map_or(life.connected, |(_, end)| end).record));
                verdict.violation(1, what, [line(session.record), line(quiet.record)].into_iter().chain(known));
            }
        }
    }
}
