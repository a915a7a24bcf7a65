//! Editing histories: walking over what they say of positions, and moving them.

use crate::files::History;
use crate::record::{Event, Kind, Outcome, Pos, Start, What};

/// Generations of one epoch lie so close to the offset they are compared with.
const REACH: i64 = 900_000;

/// Goes over every event that a subscriber got, with the actor, the stream and the time.
pub(super) fn each_event(history: &mut History, mut see: impl FnMut(&str, u32, u64, &mut Event)) {
    for record in &mut history.records {
        if let What::Batch { stream, events, .. } = &mut record.what {
            for event in events {
                see(&record.actor, *stream, record.t, event);
            }
        }
    }
}

/// Takes out of all streams, or of those that `from` names, the events that `gone` names.
pub(super) fn remove(history: &mut History, from: impl Fn(&str, u32) -> bool, gone: impl Fn(&Event) -> bool) {
    for record in &mut history.records {
        if let What::Batch { stream, events, .. } = &mut record.what
            && from(&record.actor, *stream)
        {
            events.retain(|event| !gone(event));
        }
    }
}

fn outcome_positions(outcome: &mut Outcome) -> impl Iterator<Item = &mut Pos> {
    outcome.oldest.iter_mut().chain(&mut outcome.head)
}

/// Goes over every position that is said.
fn each_position(what: &mut What, mut see: impl FnMut(&mut Pos)) {
    match what {
        What::Started { head, .. } | What::Quiet { head, .. } => see(head),
        What::Subscribe { start: Start::Cursor(at), .. } | What::Acknowledge { at, .. } => see(at),
        What::Batch { cursor, events, .. } => {
            cursor.iter_mut().for_each(&mut see);
            events.iter_mut().filter_map(|event| event.at.as_mut()).for_each(see);
        }
        What::Unsubscribed { outcome, .. } => outcome_positions(outcome).for_each(see),
        What::Acknowledged { at, outcome, .. } => {
            at.iter_mut().for_each(&mut see);
            outcome_positions(outcome).for_each(see);
        }
        What::Shown { cursor, .. } | What::Counted { cursor, .. } | What::Commanded { cursor, .. } => {
            cursor.iter_mut().for_each(see);
        }
        _ => {}
    }
}

/// Goes over every generation that is said.
pub(super) fn each_generation(what: &mut What, mut see: impl FnMut(&mut i64)) {
    match what {
        What::Batch { events, .. } => {
            for event in events {
                see(&mut event.generation);
                if let Kind::Connected { replaces, .. } = &mut event.kind {
                    see(replaces);
                }
            }
        }
        What::Shown { connections, .. } => connections.iter_mut().for_each(|shown| see(&mut shown.generation)),
        What::Send { generation, .. } => see(generation),
        _ => {}
    }
}

/// Moves every position from this one on, and the generations that are such positions.
pub(super) fn shift(history: &mut History, from: &Pos, by: i64) {
    for record in &mut history.records {
        each_position(&mut record.what, |pos| {
            if pos.epoch == from.epoch && pos.offset >= from.offset {
                pos.offset += by;
            }
        });
        each_generation(&mut record.what, |generation| {
            if (from.offset..from.offset + REACH).contains(generation) {
                *generation += by;
            }
        });
    }
}

/// Takes an event out of the log, as if it had never been.
pub(super) fn unlog(history: &mut History, at: &Pos) {
    remove(history, |_, _| true, |event| event.at.as_ref() == Some(at));
    shift(history, at, -1);
}

/// Puts an event into the log just after another one, for all who saw that, with its kind made by `kind`.
pub(super) fn log_after(history: &mut History, at: &Pos, kind: impl Fn(&Event) -> Kind) {
    let next = Pos { epoch: at.epoch.clone(), offset: at.offset + 1 };
    shift(history, &next, 1);
    for record in &mut history.records {
        if let What::Batch { events, cursor, .. } = &mut record.what
            && let Some(i) = events.iter().position(|event| event.at.as_ref() == Some(at))
        {
            let mut event = events[i].clone();
            event.kind = kind(&event);
            event.at = Some(next.clone());
            events.insert(i + 1, event);
            if cursor.as_ref() == Some(at) {
                *cursor = Some(next.clone());
            }
        }
    }
}
