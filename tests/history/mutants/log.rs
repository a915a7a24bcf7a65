//! Mutants of the log itself: every reader agrees, and it is wrong.

use super::edit::{each_event, each_generation, log_after, unlog};
use crate::check::facts::{Facts, Life, SECOND};
use crate::files::History;
use crate::record::{Event, Kind, Pos};

/// The position of something in a life.
fn pos(life: &Life<'_>, offset: i64) -> Pos {
    Pos { epoch: life.epoch.to_owned(), offset }
}

/// Finds the first life that fits, and what of it.
fn find<T>(history: &History, pick: impl Fn(&Facts<'_>, &Life<'_>) -> Option<T>) -> Option<T> {
    let facts = Facts::gather(history);
    facts.lives.iter().find_map(|life| pick(&facts, life))
}

/// A quiet point with nobody left comes after this life, and the log is known up to it.
fn judged(facts: &Facts<'_>, life: &Life<'_>) -> bool {
    let after = |offset: i64| life.end.is_some_and(|(end, _)| end < offset);
    facts.quiets.iter().any(|q| q.gone && q.head.epoch == life.epoch && after(q.head.offset) && facts.knows(q.head))
}

/// A life that ended, and its end lies where a kill leaves nothing open.
fn ended(facts: &Facts<'_>, life: &Life<'_>) -> Option<i64> {
    life.end.map(|(end, _)| end).filter(|end| facts.settled(life.epoch, *end))
}

/// The end of the connection that this one took over from, just before its own Connected.
fn taken_over(facts: &Facts<'_>, life: &Life<'_>) -> Option<i64> {
    let Kind::Connected { replaces, .. } = life.connected.event.kind else { return None };
    let old = facts.lives.iter().find(|old| {
        replaces != 0 && old.generation == replaces && old.epoch == life.epoch && old.client == life.client
    })?;
    let (end, _) = old.end.filter(|_| old.cause() == Some("replaced"))?;
    let policy = &facts.runs.values().find(|run| run.head.epoch == life.epoch)?.duplicates;
    (end + 1 == life.at && policy == "replace" && facts.settled(life.epoch, life.at)).then_some(end)
}

fn plain(life: &Life<'_>) -> bool {
    life.subprotocol.is_empty() && !life.sessions.is_empty()
}

pub(super) fn lose_disconnected(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let quiet = life.cause().is_some_and(|cause| !["replaced", "node_restarted"].contains(&cause));
        (judged(facts, life) && plain(life) && quiet).then(|| life.end.map(|(end, _)| pos(life, end)))?
    })?;
    unlog(history, &at);
    Some(())
}

pub(super) fn lose_node_restarted(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let owed = judged(facts, life) && life.cause() == Some("node_restarted");
        owed.then(|| life.end.map(|(end, _)| pos(life, end)))?
    })?;
    unlog(history, &at);
    Some(())
}

pub(super) fn double_disconnected(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let end = ended(facts, life).filter(|_| life.cause() != Some("replaced"))?;
        Some(pos(life, end))
    })?;
    log_after(history, &at, |event| event.kind.clone());
    Some(())
}

pub(super) fn lose_connected(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let Kind::Connected { replaces: 0, .. } = life.connected.event.kind else { return None };
        (ended(facts, life).is_some() && life.cause() != Some("replaced") && plain(life)).then(|| pos(life, life.at))
    })?;
    unlog(history, &at);
    Some(())
}

pub(super) fn swap_messages(history: &mut History) -> Option<()> {
    let (one, two) = find(history, |_, life| {
        let [one, two, ..] = life.messages.as_slice() else { return None };
        (plain(life)).then(|| (one.1.to_owned(), two.1.to_owned()))
    })?;
    each_event(history, |_, _, _, event| {
        if let Kind::MessageReceived { id, .. } = &mut event.kind {
            if *id == one {
                id.clone_from(&two);
            } else if *id == two {
                id.clone_from(&one);
            }
        }
    });
    Some(())
}

pub(super) fn message_after_end(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let end = ended(facts, life).filter(|_| life.cause() != Some("replaced"))?;
        Some(pos(life, end))
    })?;
    log_after(history, &at, |_| Kind::MessageReceived { id: "posthumous".to_owned(), bytes: 1 });
    Some(())
}

pub(super) fn lose_last_message(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        ended(facts, life)?;
        let session = &facts.sessions[*life.sessions.last()?];
        // One whose messages the log did not take was not read to its end.
        let closing = session.closing.filter(|_| session.closed.is_none_or(|(_, code, _)| code != 1013))?;
        let (last, ..) = life.messages.last()?;
        let read = plain(life) && life.cause() == Some("client_closed") && matches!(closing.1, "close" | "empty");
        read.then(|| pos(life, *last))
    })?;
    unlog(history, &at);
    Some(())
}

pub(super) fn two_owners(history: &mut History) -> Option<()> {
    // The new one's Connected changes places with the old one's Disconnected, and its generation with it.
    let (first, connection, generation) = find(history, |facts, life| {
        let end = taken_over(facts, life)?;
        Some((pos(life, end), life.connection.to_owned(), life.generation))
    })?;
    let second = Pos { epoch: first.epoch.clone(), offset: first.offset + 1 };
    let seen = |history: &History, wanted: &Pos| {
        let mut event = None;
        each_event(&mut history.clone(), |_, _, _, e| {
            if e.at.as_ref() == Some(wanted) {
                event = Some(e.clone());
            }
        });
        event
    };
    let (ended, began) = (seen(history, &first)?, seen(history, &second)?);
    each_event(history, |_, _, _, event| {
        if event.at.as_ref() == Some(&first) {
            *event = Event { at: Some(first.clone()), ..began.clone() };
        } else if event.at.as_ref() == Some(&second) {
            *event = Event { at: Some(second.clone()), ..ended.clone() };
        }
    });
    for record in &mut history.records {
        each_generation(&mut record.what, |known| {
            if *known == generation {
                *known -= 1;
            }
        });
    }
    each_event(history, |_, _, _, event| {
        if event.connection == connection
            && let Kind::Connected { replaces, .. } = &mut event.kind
        {
            *replaces = 0;
        }
    });
    Some(())
}

pub(super) fn unnamed_takeover(history: &mut History) -> Option<()> {
    let connection = find(history, |facts, life| taken_over(facts, life).map(|_| life.connection.to_owned()))?;
    each_event(history, |_, _, _, event| {
        if event.connection == connection
            && let Kind::Connected { replaces, .. } = &mut event.kind
        {
            *replaces = 0;
        }
    });
    Some(())
}

pub(super) fn early_expiry(history: &mut History) -> Option<()> {
    let connection = find(history, |facts, life| {
        let session = &facts.sessions[*life.sessions.last()?];
        let (_, end) = life.end.filter(|_| plain(life) && life.cause() == Some("client_closed"))?;
        let timeout = life.cadences.iter().map(|(_, _, timeout)| timeout * 1_000).min()?;
        // Nothing that a process which stood still, or a log that took nothing, may have moved.
        let from = end.seen.saturating_sub(timeout + 2 * SECOND);
        let shaken = facts.in_faults(&["freeze", "disk_full", "sync_fails"], from, end.seen) > 0;
        // Heard surely before it was decided, and surely within its timeout.
        let late = 270_000 + facts.lateness(end.seen.saturating_sub(SECOND), end.seen);
        let heard = session.beats.iter().any(|(from, by)| by + late <= end.seen && from + timeout > end.seen + 100_000);
        (heard && !shaken && session.silent.is_none()).then(|| life.connection.to_owned())
    })?;
    each_event(history, |_, _, _, event| {
        if event.connection == connection
            && let Kind::Disconnected { cause, .. } = &mut event.kind
        {
            *cause = "heartbeat_timeout".to_owned();
        }
    });
    Some(())
}
