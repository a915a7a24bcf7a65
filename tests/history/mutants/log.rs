//! Mutants of the log itself: every reader agrees, and it is wrong.

use super::edit::{each_event, each_generation, log_after, unlog};
use crate::check::facts::{Facts, Life};
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

/// A quiet point with nobody left comes after this life.
fn judged(facts: &Facts<'_>, life: &Life<'_>) -> bool {
    facts.quiets.iter().any(|quiet| quiet.gone && quiet.head.epoch == life.epoch && quiet.head.offset > life.at + 1)
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
    let at = find(history, |_, life| {
        let (end, _) = life.end.filter(|_| life.cause() != Some("replaced"))?;
        Some(pos(life, end))
    })?;
    log_after(history, &at, |event| event.kind.clone());
    Some(())
}

pub(super) fn lose_connected(history: &mut History) -> Option<()> {
    let at = find(history, |_, life| {
        let Kind::Connected { replaces: 0, .. } = life.connected.event.kind else { return None };
        (life.end.is_some() && life.cause() != Some("replaced") && plain(life)).then(|| pos(life, life.at))
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
    let at = find(history, |_, life| {
        let (end, _) = life.end.filter(|_| life.cause() != Some("replaced"))?;
        Some(pos(life, end))
    })?;
    log_after(history, &at, |_| Kind::MessageReceived { id: "posthumous".to_owned(), bytes: 1 });
    Some(())
}

pub(super) fn lose_last_message(history: &mut History) -> Option<()> {
    let at = find(history, |facts, life| {
        let closing = facts.sessions[*life.sessions.last()?].closing?;
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
        let Kind::Connected { replaces, .. } = life.connected.event.kind else { return None };
        let old = facts.lives.iter().find(|old| replaces != 0 && old.generation == replaces && old.epoch == life.epoch)?;
        let (end, _) = old.end?;
        (end + 1 == life.at).then(|| (pos(life, end), life.connection.to_owned(), life.generation))
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
    let connection = find(history, |_, life| {
        let Kind::Connected { replaces, .. } = life.connected.event.kind else { return None };
        (replaces != 0).then(|| life.connection.to_owned())
    })?;
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
        let heard = session.beats.iter().any(|beat| (beat + 600_000..beat + 1_800_000).contains(&end.seen));
        let shaken = facts.lateness(end.seen.saturating_sub(1_000_000), end.seen) > 50_000
            || facts.faults.iter().any(|f| f.from <= end.seen && f.to + 2_000_000 >= end.seen);
        (heard && !shaken).then(|| life.connection.to_owned())
    });
    // In a story of clients that go right after a beat there is a longer one whose end is the same.
    let connection = connection.or_else(|| {
        find(history, |facts, life| {
            let session = &facts.sessions[*life.sessions.last()?];
            let (_, end) = life.end.filter(|_| plain(life) && life.cause() == Some("client_closed"))?;
            let heard = session.beats.iter().any(|beat| (beat + 300_000..beat + 2_900_000).contains(&end.seen));
            heard.then(|| life.connection.to_owned())
        })
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
