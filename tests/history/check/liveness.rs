//! Promise 11: who went silent is GONE within the timeout and its slack; who beats is never expired, whatever the clocks do.
//!
//! The slack is the documented one (1 s, or 2 % of the timeout if that is more). What this machine adds is measured while it runs and not
//! guessed: how late an observer's sleeps ended, and how long threads of the process stood ready without a processor
//! (`/proc/PID/task/*/schedstat`), in the span that is judged. A process that is late by its own doing gets nothing for it.

use super::facts::{Facts, Life, SECOND, Session, Time};
use super::{Verdict, line};

/// The process stands still, and every deadline moves by as long.
const FREEZE: &str = "freeze";

/// The process tells liveness time in whole milliseconds, and so a silence that is up to one shorter from one that is not.
const GRAIN: Time = 1_000;

/// The log takes no Disconnected, and the silence clock of who sent a message stands.
const DISK: &[&str] = &["disk_full", "sync_fails"];

pub(super) fn judge(facts: &Facts<'_>, verdict: &mut Verdict) {
    for life in &facts.lives {
        if verdict.broken.contains(life.connection) {
            continue;
        }
        let sessions: Vec<_> = life.sessions.iter().map(|at| &facts.sessions[*at]).collect();
        let Some(last) = sessions.last() else { continue };
        beating(facts, life, last, verdict);
        silent(facts, life, last, verdict);
        unresumed(facts, life, last, verdict);
    }
}

/// A resumable client whose socket was lost, and who did not come back, is GONE when its window is over and not before.
fn unresumed(facts: &Facts<'_>, life: &Life<'_>, session: &Session<'_>, verdict: &mut Verdict) {
    let Some((lost, how)) = session.closing.filter(|_| !life.subprotocol.is_empty()) else { return };
    let Some(run) = facts.runs.get(&session.run) else { return };
    let window = run.resume_window * 1_000;
    let due = lost + window + SECOND;
    let seen = life.end.map(|(_, end)| end.seen);
    if !matches!(how, "reset" | "vanish" | "half_close") {
        return;
    }
    let until = seen.unwrap_or(facts.end).max(due);
    let stood = facts.in_faults(&[FREEZE], lost, until) + 2 * facts.in_faults(DISK, lost, until);
    let allowed = due + stood + facts.lateness(lost, until.min(due + SECOND));
    if facts.run_ended_by(session.run, allowed + SECOND) || allowed >= facts.end {
        return;
    }
    verdict.judged(11);
    let evidence = || [line(session.record)].into_iter().chain(life.end.map(|(_, end)| line(end.record)));
    if seen.is_none_or(|seen| seen > allowed) {
        let what = format!("{} lost its socket, did not resume, and was not GONE in time", life.client);
        verdict.violation(11, what, evidence());
    }
    if life.cause() == Some("connection_lost") && seen.is_some_and(|seen| seen < lost + window) {
        let what = format!("{} lost its socket, and the resume window was cut short", life.client);
        verdict.violation(11, what, evidence());
    }
}

/// Expired though something of it was in the kernel within the timeout.
fn beating(facts: &Facts<'_>, life: &Life<'_>, session: &Session<'_>, verdict: &mut Verdict) {
    let Some((_, end)) = life.end else { return };
    if life.cause() != Some("heartbeat_timeout") {
        // It beat to its end, and that was no timeout.
        if session.beats.len() > 1 {
            verdict.judged(11);
        }
        return;
    }
    let timeout =
        life.cadences.iter().filter(|(from, ..)| *from <= end.seen).map(|(_, _, timeout)| timeout * 1_000).min();
    let Some(timeout) = timeout else { return };
    verdict.judged(11);
    let spoken = session.beats.iter().copied();
    let beats: Vec<(Time, Time)> = spoken.filter(|(_, by)| session.silent.is_none_or(|silent| *by <= silent)).collect();
    let stood = facts.in_faults(DISK, end.seen.saturating_sub(timeout), end.seen);
    let late = SECOND / 4 + facts.lateness(end.seen.saturating_sub(SECOND), end.seen) + stood;
    // When it may have been decided. Either just before somebody saw it, and after the thaw if the process stood still just before;
    let thaws = || {
        facts
            .faults
            .iter()
            .filter(|fault| fault.name == FREEZE && fault.to <= end.seen && fault.to + SECOND + late > end.seen)
    };
    let thawed = thaws().map(|fault| fault.to).max().unwrap_or(0);
    let mut moments = vec![(end.seen, end.seen.saturating_sub(late).max(thawed))];
    // or before the freeze, and seen after it.
    moments.extend(thaws().map(|fault| (fault.from, fault.from.saturating_sub(late))));
    // A beat of before a moment and within the timeout says that it was not then.
    let said = |(latest, earliest): &(Time, Time)| {
        let newest = beats.iter().copied().filter(|(_, by)| by <= earliest).max();
        newest.map(|(from, _)| from).filter(|from| latest - from + GRAIN < timeout)
    };
    if let (Some(heard), true) = (said(&moments[0]), moments.iter().all(|moment| said(moment).is_some())) {
        let what = format!(
            "{} was expired {} ms after it was heard; its timeout is {} ms",
            life.client,
            (end.seen - heard) / 1_000,
            timeout / 1_000
        );
        verdict.violation(11, what, [line(session.record), line(end.record)]);
    }
}

/// Silent, and not GONE in time.
fn silent(facts: &Facts<'_>, life: &Life<'_>, session: &Session<'_>, verdict: &mut Verdict) {
    let Some(silent) = session.silent else { return };
    let Some((_, _, timeout)) = life.cadences.iter().max_by_key(|(_, _, timeout)| *timeout) else { return };
    let timeout = timeout * 1_000;
    let slack = SECOND.max(timeout / 50);
    // New settings begin with a silence of nothing.
    let retuned = life.cadences.iter().map(|(from, ..)| *from).max().unwrap_or(0);
    let since = silent.max(retuned);
    let due = since + timeout + slack;
    let seen = life.end.map(|(_, end)| end.seen);
    let until = seen.unwrap_or(facts.end).max(due);
    let disk = facts.in_faults(DISK, silent, until);
    // A log that is back has a second to catch up.
    let stood = facts.in_faults(&[FREEZE], silent, until) + disk + if disk > 0 { SECOND } else { 0 };
    let mut allowed = due + stood + facts.lateness(since + timeout, until.min(due + SECOND));
    let window = facts.runs.get(&session.run).map_or(0, |run| run.resume_window * 1_000);
    if let (Some(over), false) = (session.over, life.subprotocol.is_empty()) {
        // Its socket was lost before its silence was over, and it may resume.
        allowed = allowed.max(over + window + SECOND + facts.lateness(over, over + window + SECOND));
    }
    // The process ended before it was due, and its next run says of it what it says.
    if facts.run_ended_by(session.run, allowed + SECOND) || allowed >= facts.end {
        return;
    }
    verdict.judged(11);
    if seen.is_none_or(|seen| seen > allowed) {
        let how_long = seen.map_or_else(|| "never".to_owned(), |seen| format!("{} ms later", (seen - silent) / 1_000));
        let what = format!(
            "{} went silent and was seen GONE {how_long}; at most {} ms were allowed",
            life.client,
            (allowed - silent) / 1_000
        );
        verdict.violation(
            11,
            what,
            [line(session.record)].into_iter().chain(life.end.map(|(_, end)| line(end.record))),
        );
    }
}
