//! Promise 10: under `replace` a client id has one owner at a time, and the newest wins.

use std::collections::{BTreeMap, HashMap};

use super::facts::{Facts, Log, Logged, SECOND};
use super::{Verdict, line};
use crate::record::Kind;

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    let policies: BTreeMap<&str, &str> =
        facts.runs.values().map(|run| (run.head.epoch.as_str(), run.duplicates.as_str())).collect();
    for (epoch, log) in &facts.logs {
        generations(log, verdict);
        // With `allow` an id has many owners, and nothing is promised of their number here.
        if policies.get(epoch).is_none_or(|policy| *policy != "allow") {
            owners(log, verdict);
        }
    }
    if policies.values().any(|policy| *policy == "replace") {
        newest(facts, verdict);
    }
}

/// A generation is the offset of the Connected, and the same in all events of a connection.
fn generations(log: &Log<'_>, verdict: &mut Verdict) {
    let mut known: HashMap<&str, i64> = HashMap::new();
    for (offset, logged) in &log.events {
        let event = logged.event;
        if matches!(event.kind, Kind::MessageExpired { .. }) {
            continue;
        }
        let expected = match event.kind {
            Kind::Connected { .. } => Some(*offset),
            _ => known.get(event.connection.as_str()).copied(),
        };
        known.entry(&event.connection).or_insert(event.generation);
        if expected.is_some_and(|expected| expected != event.generation) {
            let what = format!("{} at {offset} has the generation {}", event.connection, event.generation);
            verdict.violation(10, what, [line(logged.record)]);
        }
    }
}

/// The old owner's Disconnected comes just before the new one's Connected, and each names the other.
fn owners(log: &Log<'_>, verdict: &mut Verdict) {
    let mut owner: HashMap<&str, Logged<'_>> = HashMap::new();
    let mut before: Option<(i64, Logged<'_>)> = None;
    for (offset, logged) in &log.events {
        let event = logged.event;
        let replaced = before.filter(|(at, b)| {
            *at == offset - 1
                && b.event.client == event.client
                && matches!(&b.event.kind, Kind::Disconnected { cause, .. } if cause == "replaced")
        });
        if let Some((_, last)) = before
            && matches!(&last.event.kind, Kind::Disconnected { cause, .. } if cause == "replaced")
        {
            verdict.judged(10);
            let generation = last.event.generation;
            let named = matches!(event.kind, Kind::Connected { replaces, .. } if replaces == generation);
            if replaced.is_none() || !named {
                let what = format!("{} was replaced at {}, and no Connected that says so comes next", last.event.client, offset - 1);
                verdict.violation(10, what, [line(last.record), line(logged.record)]);
            }
        }
        match &event.kind {
            Kind::Connected { replaces, .. } => {
                verdict.judged(10);
                if let Some(old) = owner.get(event.client.as_str())
                    && !verdict.broken.contains(&old.event.connection)
                {
                    let what = format!("{} has two owners from {offset} on", event.client);
                    verdict.violation(10, what, [line(old.record), line(logged.record)]);
                } else if *replaces != 0 && replaced.is_none() {
                    let what = format!("{} at {offset} says it replaces {replaces}, which did not end just before", event.client);
                    verdict.violation(10, what, [line(logged.record)]);
                }
                owner.insert(&event.client, *logged);
            }
            Kind::Disconnected { .. } => {
                let own = owner.get(event.client.as_str()).is_some_and(|o| o.event.connection == event.connection);
                if own {
                    owner.remove(event.client.as_str());
                }
            }
            _ => {}
        }
        before = Some((*offset, *logged));
    }
}

/// Of all that connected with one id and stayed, the last is there at a quiet point, and only it.
fn newest(facts: &Facts<'_>, verdict: &mut Verdict) {
    for quiet in facts.quiets.iter().filter(|quiet| !quiet.gone && facts.knows(quiet.head)) {
        let Some(run) = facts.run_at(quiet.t) else { continue };
        let mut well: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for session in facts.sessions.iter().filter(|s| s.run == run.number && !s.client.is_empty()) {
            let stays = session.last_moment().is_none_or(|last| last > quiet.t + SECOND);
            if session.well_at(quiet.t) && stays {
                well.entry(session.client).or_default().push(session);
            }
        }
        for (client, sessions) in well {
            verdict.judged(10);
            if sessions.len() > 1 {
                let what = format!("{client} is connected {} times at rest", sessions.len());
                verdict.violation(10, what, sessions.iter().map(|session| line(session.record)).chain([line(quiet.record)]));
            }
        }
    }
}
