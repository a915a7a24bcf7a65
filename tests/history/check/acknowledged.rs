//! Promise 13: what the reliable subprotocol acknowledged to a client is in the log, and on disk where there is a journal.

use std::collections::HashSet;

use super::facts::Facts;
use super::{Verdict, line};
use crate::record::Pos;

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    for session in &facts.sessions {
        let Some((_, upto, ack)) = session.rx_acks.iter().max_by_key(|(_, upto, _)| *upto) else { continue };
        let Some(life) = session.life.map(|at| &facts.lives[at]) else {
            // In memory the log may have died before any subscriber saw the connection.
            missing_life(facts, session, ack, verdict);
            continue;
        };
        // In memory, what was acknowledged just before the process died died with it.
        if !survives(facts, life.epoch, ack.t) {
            continue;
        }
        let logged: HashSet<&str> = life.messages.iter().map(|(_, id, _)| *id).collect();
        let sockets = life.sessions.iter().map(|at| &facts.sessions[*at]);
        for message in sockets.flat_map(|session| &session.tx).filter(|message| message.seq <= *upto) {
            verdict.judged(13);
            if !logged.contains(message.id) {
                let what = format!("{} was acknowledged to {} and is not in the log", message.id, life.client);
                verdict.violation(13, what, [line(message.record), line(ack)]);
            }
        }
    }
}

fn missing_life(
    facts: &Facts<'_>,
    session: &super::facts::Session<'_>,
    ack: &crate::record::Record,
    verdict: &mut Verdict,
) {
    let Some(run) = facts.runs.get(&session.run) else { return };
    if survives(facts, &run.head.epoch, ack.t) && session.tx.iter().any(|message| message.seq > 0) {
        verdict.judged(13);
        let what = format!("{} had messages acknowledged, and its connection is not in the log", session.actor);
        verdict.violation(13, what, [line(session.record), line(ack)]);
    }
}

/// Whether what was in the log at a moment was to be seen by subscribers: a quiet point came after it in the same epoch.
fn survives(facts: &Facts<'_>, epoch: &str, t: u64) -> bool {
    facts.quiets.iter().any(|quiet| {
        let head: &Pos = quiet.head;
        quiet.t > t && head.epoch == epoch && facts.knows(head)
    })
}
