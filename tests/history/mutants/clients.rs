//! Mutants of what clients, callers and the world wrote down.

use crate::check::facts::{Facts, SECOND};
use crate::check::stored_owed;
use crate::files::History;
use crate::record::{Aim, Outcome, Record, Shown, What};

/// The session of a record of a client.
fn session_number(record: &Record) -> Option<u32> {
    match &record.what {
        What::Opening { session, .. } => Some(*session),
        _ => None,
    }
}

pub(super) fn list_shows_ghost(history: &mut History) -> Option<()> {
    let ghost = {
        let facts = Facts::gather(history);
        let life = facts.lives.iter().find(|life| {
            let (end, _) = life.end.unwrap_or((i64::MAX, life.connected));
            let lists = facts.records.iter().filter_map(|record| match &record.what {
                What::Shown { client: None, cursor: Some(cursor), .. } => Some(cursor),
                _ => None,
            });
            let mut lists = lists.filter(|cursor| cursor.epoch == life.epoch && cursor.offset > end);
            // A list that is followed by a quiet point in its epoch.
            lists.any(|cursor| {
                facts.quiets.iter().any(|q| q.head.epoch == cursor.epoch && q.head.offset >= cursor.offset)
            })
        })?;
        let (end, _) = life.end?;
        let shown = Shown {
            client: life.client.to_owned(),
            connection: life.connection.to_owned(),
            generation: life.generation,
            state: "alive".to_owned(),
            labels: Default::default(),
            interval: 1_000,
            timeout: 3_000,
        };
        (life.epoch.to_owned(), end, shown)
    };
    let (epoch, end, shown) = ghost;
    history.records.iter_mut().find_map(|record| match &mut record.what {
        What::Shown { client: None, cursor: Some(cursor), connections, .. }
            if cursor.epoch == epoch && cursor.offset > end =>
        {
            connections.push(shown.clone());
            Some(())
        }
        _ => None,
    })
}

pub(super) fn wrong_labels(history: &mut History) -> Option<()> {
    let known: Vec<bool> = {
        let facts = Facts::gather(history);
        let known = |record: &Record| match &record.what {
            What::Shown { client: Some(_), cursor: Some(cursor), .. } => facts.knows(cursor),
            _ => false,
        };
        history.records.iter().map(known).collect()
    };
    history.records.iter_mut().zip(known).filter(|(_, known)| *known).find_map(|(record, _)| match &mut record.what {
        What::Shown { connections, .. } => {
            connections.first_mut()?.labels.insert("room".to_owned(), "elsewhere".to_owned());
            Some(())
        }
        _ => None,
    })
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
        // Of one that was answered with more than STORED other receipts would be missed as well.
        let owed =
            facts.sends.iter().find(|s| s.receipt == "stored" && stored_owed(&facts, s).is_some() && received(s.id));
        owed?.id.to_owned()
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
            let sure = outcome.reason == reason && send.message_id.is_empty() && send.ttl == 0;
            let there =
                |session: &&crate::check::facts::Session<'_>| session.client == client && session.life.is_some();
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
        facts.sessions.iter().filter(|session| session.life.is_some()).find_map(|session| {
            let ordered = session.rx.windows(2).find(|pair| {
                let (Some(one), Some(two)) = (sends(pair[0].id), sends(pair[1].id)) else { return false };
                one.answer.is_some_and(|(t, outcome, ..)| outcome.is_ok() && t < two.t)
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
    let (actor, number) = {
        let facts = Facts::gather(history);
        facts.lives.iter().find_map(|life| {
            let session = &facts.sessions[*life.sessions.last()?];
            let (_, end) = life.end.filter(|_| life.cause() == Some("heartbeat_timeout"))?;
            let silent = session
                .silent
                .filter(|silent| *silent > 3 * SECOND && !facts.run_ended_by(session.run, end.seen + 2 * SECOND))?;
            let calm = facts.lateness(silent, end.seen + SECOND) < 2 * SECOND
                && facts.in_faults(&["freeze", "disk_full", "sync_fails"], silent - 3 * SECOND, end.seen) == 0;
            calm.then(|| Some((session.actor.to_owned(), session_number(session.record)?)))?
        })?
    };
    // It was silent for so much longer already.
    let place = history.records.iter().position(|record| {
        record.actor == actor && matches!(record.what, What::Silent { session } if session == number)
    })?;
    history.records[place].t -= 3 * SECOND;
    history.records.sort_by_key(|record| record.t);
    Some(())
}

pub(super) fn left_socket(history: &mut History) -> Option<()> {
    drained(history, |gauge| gauge.sockets += 1)
}

pub(super) fn left_memory(history: &mut History) -> Option<()> {
    drained(history, |gauge| gauge.resident_bytes += 300 << 20)
}

fn drained(history: &mut History, change: impl FnOnce(&mut crate::record::Gauge)) -> Option<()> {
    let gauge = history.records.iter_mut().find_map(|record| match &mut record.what {
        What::Holds { moment, gauge, .. } if moment == "drained" => Some(gauge),
        _ => None,
    })?;
    // Fewer than at the start would make up for the one that is left.
    gauge.sockets = gauge.sockets.max(1_000);
    change(gauge);
    Some(())
}

pub(super) fn slow_while_stalled(history: &mut History) -> Option<()> {
    let began = history.records.iter().find(|record| matches!(record.what, What::Phase { stalled: true, .. }))?.t;
    let over =
        history.records.iter().find(|r| r.t > began && matches!(r.what, What::Phase { .. } | What::Quiet { .. }));
    let over = over.map_or(u64::MAX, |record| record.t);
    // Clients that were there before it sent everything a second earlier than they did.
    let (mut sessions, mut moved) = (std::collections::BTreeSet::new(), 0);
    for record in &mut history.records {
        match &record.what {
            What::Opened { session, .. } if record.t < began => {
                sessions.insert((record.actor.clone(), *session));
            }
            What::Tx { session, .. }
                if (began..over).contains(&record.t) && sessions.contains(&(record.actor.clone(), *session)) =>
            {
                record.t = record.t.saturating_sub(SECOND).max(began);
                moved += 1;
            }
            _ => {}
        }
    }
    history.records.sort_by_key(|record| record.t);
    (moved >= 50).then_some(())
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
