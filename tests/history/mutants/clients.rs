//! Mutants of what clients, callers and the world wrote down.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::facts::{Facts, Life, SECOND, Sending, Session};
use crate::check::stored_owed;
use crate::files::History;
use crate::record::{Aim, Kind, Outcome, Record, Shown, What};

/// The session of a record of a client.
fn session_number(record: &Record) -> Option<u32> {
    match &record.what {
        What::Opening { session, .. } => Some(*session),
        _ => None,
    }
}

pub(super) fn list_shows_ghost(history: &mut History) -> Option<()> {
    let (place, ghost) = {
        let facts = Facts::gather(history);
        facts.records.iter().enumerate().find_map(|(place, record)| {
            let What::Shown { client: None, cursor: Some(cursor), outcome, .. } = &record.what else { return None };
            // A list that is followed by a quiet point in its epoch.
            let followed = facts.quiets.iter().any(|quiet| {
                let later = quiet.t >= record.t && quiet.head.offset >= cursor.offset;
                later && quiet.head.epoch == cursor.epoch && facts.knows(quiet.head)
            });
            let gone =
                |life: &&Life<'_>| life.epoch == cursor.epoch && life.end.is_some_and(|(end, _)| end < cursor.offset);
            let life = facts.lives.iter().find(gone).filter(|_| followed && outcome.is_ok())?;
            let shown = Shown {
                client: life.client.to_owned(),
                connection: life.connection.to_owned(),
                generation: life.generation,
                state: "alive".to_owned(),
                labels: Default::default(),
                interval: 1_000,
                timeout: 3_000,
            };
            Some((place, shown))
        })?
    };
    if let What::Shown { connections, .. } = &mut history.records[place].what {
        connections.push(ghost);
    }
    Some(())
}

pub(super) fn wrong_labels(history: &mut History) -> Option<()> {
    let place = {
        let facts = Facts::gather(history);
        facts.records.iter().position(|record| match &record.what {
            What::Shown { client: Some(_), cursor: Some(cursor), outcome, connections, .. } => {
                let known = facts.logs.contains_key(cursor.epoch.as_str()) && facts.knows(cursor);
                known && outcome.is_ok() && !connections.is_empty()
            }
            _ => false,
        })?
    };
    if let What::Shown { connections, .. } = &mut history.records[place].what {
        connections.first_mut()?.labels.insert("room".to_owned(), "elsewhere".to_owned());
    }
    Some(())
}

pub(super) fn written_never_received(history: &mut History) -> Option<()> {
    let id = {
        let facts = Facts::gather(history);
        let send = facts.sends.iter().find(|send| {
            let Some((answered, _, deliveries, _)) = send.answer else { return false };
            let written = deliveries.iter().find(|delivery| delivery.stage == "written" && delivery.failure.is_empty());
            let life = written.and_then(|delivery| facts.life(&delivery.connection));
            let Some(session) = life.and_then(|life| life.sessions.last()).map(|at| &facts.sessions[*at]) else {
                return false;
            };
            let until = answered + 2 * SECOND + facts.lateness(send.t, answered + 2 * SECOND);
            session.well_at(until)
                && !session.stalled_between(send.t, until)
                && life.is_some_and(|life| life.sessions.len() == 1)
                && session.rx.iter().any(|message| message.id == send.id)
                && !facts.run_ended_by(session.run, until + SECOND)
        })?;
        send.id.to_owned()
    };
    forget_rx(history, &id);
    Some(())
}

fn forget_rx(history: &mut History, gone: &str) {
    history.records.retain(|record| !matches!(&record.what, What::Rx { id, .. } if id == gone));
}

pub(super) fn acked_unsaid(history: &mut History) -> Option<()> {
    let (actors, before) = {
        let facts = Facts::gather(history);
        facts.sends.iter().find_map(|send| {
            let (answered, _, deliveries, _) = send.answer?;
            let life = deliveries.iter().find(|delivery| delivery.stage == "acked")?;
            let sessions = &facts.life(&life.connection)?.sessions;
            let actors: Vec<_> = sessions.iter().map(|at| facts.sessions[*at].actor.to_owned()).collect();
            (!actors.is_empty()).then_some((actors, answered))
        })?
    };
    history.records.retain(|record| {
        !(record.t <= before && matches!(record.what, What::TxAck { .. }) && actors.contains(&record.actor))
    });
    Some(())
}

pub(super) fn stored_never_received(history: &mut History) -> Option<()> {
    let id = {
        let facts = Facts::gather(history);
        let received = |id: &str| facts.sessions.iter().any(|s| s.rx.iter().any(|message| message.id == id));
        let expired = |id: &str| {
            let mut events = facts.logs.values().flat_map(|log| log.events.values());
            events.any(|logged| matches!(&logged.event.kind, Kind::MessageExpired { message_id } if message_id == id))
        };
        // Of one that was answered with more than STORED other receipts would be missed as well.
        let owed =
            facts.sends.iter().find(|s| s.receipt == "stored" && stored_owed(&facts, s).is_some() && received(s.id));
        owed.filter(|s| !expired(s.message_id))?.id.to_owned()
    };
    forget_rx(history, &id);
    Some(())
}

/// Somebody receives what was answered with this reason.
fn received_after(history: &mut History, reason: &str) -> Option<()> {
    let (t, actor, session, id) = {
        let facts = Facts::gather(history);
        facts.sends.iter().find_map(|send| {
            let (answered, outcome, ..) = send.answer?;
            let Aim::Client(client) = send.to else { return None };
            // Of one that was sent twice the other may have come.
            let once = || facts.sends.iter().filter(|other| other.id == send.id).count() == 1;
            let sure = outcome.reason == reason && send.message_id.is_empty() && send.ttl == 0 && once();
            let there = |session: &&Session<'_>| session.client == client && session.life.is_some();
            let session = facts.sessions.iter().find(there).filter(|_| sure)?;
            let t = session.opened?.0.max(answered);
            Some((t, session.actor.to_owned(), session_number(session.record)?, send.id.to_owned()))
        })?
    };
    let at = history.records.partition_point(|record| record.t <= t);
    history.records.insert(at, Record { t, actor, what: What::Rx { session, id, seq: 0 } });
    Some(())
}

pub(super) fn received_after_not_found(history: &mut History) -> Option<()> {
    received_after(history, "CLIENT_NOT_CONNECTED")
}

pub(super) fn received_after_full(history: &mut History) -> Option<()> {
    received_after(history, "OUTBOX_FULL")
}

pub(super) fn answered_internal(history: &mut History) -> Option<()> {
    let at = {
        let facts = Facts::gather(history);
        // Not about when a process ends, which leaves any answer open.
        let answer = facts.sends.iter().find_map(|send| {
            let (answered, outcome, _, record) = send.answer?;
            let run = facts.run_at(send.t)?.number;
            let lives = !facts.run_ended_by(run, answered + 2 * SECOND) && send.t > facts.runs.get(&run)?.started;
            (outcome.reason == "CLIENT_NOT_CONNECTED" && lives).then_some(record)
        })?;
        history.records.iter().position(|record| std::ptr::eq(record, answer))?
    };
    if let What::Sent { outcome, .. } = &mut history.records[at].what {
        *outcome = Outcome { code: "internal".to_owned(), reason: "INTERNAL".to_owned(), ..Outcome::default() };
    }
    Some(())
}

pub(super) fn receive_twice(history: &mut History) -> Option<()> {
    let at = {
        let facts = Facts::gather(history);
        let joined: Vec<_> = facts.sessions.iter().filter(|session| session.life.is_some()).collect();
        let message = joined.iter().flat_map(|session| &session.rx).find(|message| message.seq == 0)?;
        history.records.iter().position(|record| std::ptr::eq(record, message.record))?
    };
    history.records.insert(at, history.records[at].clone());
    Some(())
}

pub(super) fn receive_swapped(history: &mut History) -> Option<()> {
    let (actor, session, one, two) = {
        let facts = Facts::gather(history);
        let sends =
            |id: &str| facts.sends.iter().find(|send| send.id == id && send.ttl == 0 && send.message_id.is_empty());
        // On the only socket of its connection: what was resent has a place on each.
        let only = |session: &&Session<'_>| session.life.is_some_and(|at| facts.lives[at].sessions.len() == 1);
        facts.sessions.iter().filter(only).find_map(|session| {
            let received: BTreeSet<&str> = session.rx.iter().map(|message| message.id).collect();
            // The checker looks so far back only.
            let near = |one: &Sending<'_>, two: &Sending<'_>| {
                let between = facts.sends.iter().filter(|send| (one.t..=two.t).contains(&send.t));
                between.filter(|send| received.contains(send.id)).count() < 40
            };
            let ordered = session.rx.windows(2).find(|pair| {
                let (Some(one), Some(two)) = (sends(pair[0].id), sends(pair[1].id)) else { return false };
                let known = near(one, two);
                known && one.answer.is_some_and(|(t, outcome, ..)| outcome.is_ok() && t < two.t)
            })?;
            let (one, two) = (ordered[0].id.to_owned(), ordered[1].id.to_owned());
            Some((session.actor.to_owned(), session_number(session.record)?, one, two))
        })?
    };
    for record in history.records.iter_mut().filter(|record| record.actor == actor) {
        if let What::Rx { session: number, id, .. } = &mut record.what
            && *number == session
        {
            if *id == one {
                id.clone_from(&two);
            } else if *id == two {
                id.clone_from(&one);
            }
        }
    }
    Some(())
}

pub(super) fn late_expiry(history: &mut History) -> Option<()> {
    // It was silent for so much longer already.
    const LONGER: u64 = 3 * SECOND;
    let (actor, number) = {
        let facts = Facts::gather(history);
        facts.lives.iter().find_map(|life| {
            let session = &facts.sessions[*life.sessions.last()?];
            let (_, end) = life.end.filter(|_| life.cause() == Some("heartbeat_timeout"))?;
            let since = session.silent?.checked_sub(LONGER)?;
            // It was there by then, with the settings that it had at its end.
            let was = session.opened?.0 < since && life.cadences.iter().all(|(from, ..)| *from < since);
            let timeout = life.cadences.iter().map(|(_, _, timeout)| timeout * 1_000).max()?;
            let calm = facts.in_faults(&["freeze", "disk_full", "sync_fails"], since, end.seen + SECOND) == 0;
            // Beyond the slack of promise 11, the window of one that may resume, and all that the machine added.
            let may_resume = !life.subprotocol.is_empty() && session.over.is_some();
            let most = since + timeout + SECOND.max(timeout / 50) + facts.lateness(since, end.seen + SECOND);
            let judged = !facts.run_ended_by(session.run, end.seen + 2 * SECOND);
            let sure = was && calm && judged && !may_resume && end.seen > most;
            sure.then(|| Some((session.actor.to_owned(), session_number(session.record)?)))?
        })?
    };
    let place = history.records.iter().position(|record| {
        record.actor == actor && matches!(record.what, What::Silent { session } if session == number)
    })?;
    history.records[place].t -= LONGER;
    history.records.sort_by_key(|record| record.t);
    Some(())
}

pub(super) fn left_socket(history: &mut History) -> Option<()> {
    drained(history, |gauge| gauge.sockets += 1)
}

pub(super) fn left_memory(history: &mut History) -> Option<()> {
    drained(history, |gauge| gauge.resident_bytes += 4 << 30)
}

fn drained(history: &mut History, change: impl FnOnce(&mut crate::record::Gauge)) -> Option<()> {
    let mut baselines = BTreeSet::new();
    let gauge = history.records.iter_mut().find_map(|record| match &mut record.what {
        What::Holds { run, moment, .. } if moment == "baseline" => {
            baselines.insert(*run);
            None
        }
        What::Holds { run, moment, gauge } if moment == "drained" && baselines.contains(run) => Some(gauge),
        _ => None,
    })?;
    // Fewer than at the start would make up for the one that is left.
    gauge.sockets = gauge.sockets.max(1_000);
    change(gauge);
    Some(())
}

pub(super) fn slow_while_stalled(history: &mut History) -> Option<()> {
    let moved = slowed(history)?;
    for record in &mut history.records {
        if matches!(&record.what, What::Tx { id, .. } if moved.contains(id)) {
            record.t -= SECOND;
        }
    }
    history.records.sort_by_key(|record| record.t);
    Some(())
}

/// What plain clients sent while somebody stalled, a second or more after he and they themselves began. Only where it is felt: messages were fast when
/// all was calm, these are enough to move the 95th percentile, and the machine itself did not make up for the second.
fn slowed(history: &History) -> Option<BTreeSet<String>> {
    let facts = Facts::gather(history);
    let phases: Vec<_> = history
        .records
        .iter()
        .filter_map(|record| match &record.what {
            What::Phase { calm, stalled, .. } => Some((record.t, *calm, *stalled)),
            _ => None,
        })
        .collect();
    // Where both are, and how many of each: what was sent, by whom, and when a reader had it.
    let span = |wanted: &dyn Fn(bool, bool) -> bool| {
        let i = phases.iter().position(|(_, calm, stalled)| wanted(*calm, *stalled))?;
        Some(phases[i].0..phases.get(i + 1).map_or(facts.end, |(t, ..)| *t))
    };
    if phases.iter().filter(|(_, calm, stalled)| *calm || *stalled).count() != 2 {
        return None;
    }
    let (calm, stalled) = (span(&|calm, _| calm)?, span(&|_, stalled| stalled)?);
    let seen: BTreeMap<&str, u64> =
        facts.lives.iter().flat_map(|l| &l.messages).map(|(_, id, logged)| (*id, logged.seen)).collect();
    let mut takes = Vec::new();
    let (mut all, mut felt, mut moved) = (0, 0, BTreeSet::new());
    for session in &facts.sessions {
        for message in &session.tx {
            let Some(seen) = seen.get(message.id) else { continue };
            if calm.contains(&message.t) {
                takes.push(seen.saturating_sub(message.t).saturating_sub(facts.lateness(message.t, *seen)));
            } else if stalled.contains(&message.t) {
                all += 1;
                let before = message.t.saturating_sub(SECOND);
                // One that is sent again after a resume has more than one time.
                let there = session.opened.is_some_and(|(opened, _)| opened < before);
                if before > stalled.start && message.seq == 0 && there {
                    moved.insert(message.id.to_owned());
                    felt += usize::from(facts.lateness(before, *seen) < 4 * SECOND / 10);
                }
            }
        }
    }
    takes.sort_unstable();
    let fast = takes.len() >= 50 && takes[takes.len() * 95 / 100] < 8 * SECOND / 100;
    (fast && all >= 50 && felt * 10 > all).then_some(moved)
}

pub(super) fn acknowledged_not_logged(history: &mut History) -> Option<()> {
    let (t, actor, number, seq) = {
        let facts = Facts::gather(history);
        facts.sessions.iter().find_map(|session| {
            let life = &facts.lives[session.life?];
            let (t, upto, _) = session.rx_acks.iter().max_by_key(|(_, upto, _)| *upto)?;
            let survives =
                facts.quiets.iter().any(|q| q.t > t + 1 && q.head.epoch == life.epoch && facts.knows(q.head));
            // One that closed in order would be missed under promise 9 too.
            let last = *life.sessions.last()?;
            let vanished = facts.sessions[last].closing.is_none_or(|(_, how)| how == "vanish" || how == "reset");
            let all = session.tx.iter().all(|message| message.seq <= *upto);
            let away = facts.quiets.iter().all(|quiet| !facts.sessions[last].well_at(quiet.t));
            (survives && vanished && all && away && life.sessions.len() == 1)
                .then(|| Some((t + 1, session.actor.to_owned(), session_number(session.record)?, upto + 1)))?
        })?
    };
    let at = history.records.partition_point(|record| record.t <= t);
    let record = |what| Record { t, actor: actor.clone(), what };
    let id = "never logged".to_owned();
    history.records.insert(at, record(What::RxAck { session: number, received: seq }));
    history.records.insert(at, record(What::Tx { session: number, id, seq }));
    Some(())
}
