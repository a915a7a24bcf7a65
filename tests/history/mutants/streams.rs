//! Mutants of single streams: one reader is told something else than the others.

use super::edit::remove;
use crate::check::facts::{Facts, Stream};
use crate::check::passes;
use crate::files::History;
use crate::record::{Event, Outcome, Pos, Start, What};

/// What names a stream.
type Name = (String, u32);

fn name(stream: &Stream<'_>) -> Option<Name> {
    match &stream.record.what {
        What::Subscribe { stream: number, .. } => Some((stream.actor.to_owned(), *number)),
        _ => None,
    }
}

fn find<T>(history: &History, pick: impl Fn(&Facts<'_>, &Stream<'_>) -> Option<T>) -> Option<T> {
    let facts = Facts::gather(history);
    facts.streams.iter().find_map(|stream| pick(&facts, stream))
}

/// The batches of one stream.
fn edit(history: &mut History, name: &Name, mut edit: impl FnMut(&mut Option<Pos>, &mut Vec<Event>, bool)) {
    for record in history.records.iter_mut().filter(|record| record.actor == name.0) {
        if let What::Batch { stream, cursor, events, snapshot } = &mut record.what
            && *stream == name.1
        {
            edit(cursor, events, *snapshot);
        }
    }
}

/// Whether another stream has this too.
fn shared(facts: &Facts<'_>, stream: &Stream<'_>, at: &Pos) -> bool {
    let others = facts.streams.iter().filter(|other| !std::ptr::eq(*other, stream));
    others.flat_map(Stream::news).any(|(_, other, _)| other.at.as_ref() == Some(at))
}

/// An event in the middle of a stream: one that is neither its first nor its last, in the stretch that it answers for, that another stream
/// has too, and that lies where a kill leaves nothing open.
fn middle(facts: &Facts<'_>, stream: &Stream<'_>, filtered: bool) -> Option<(Name, Pos)> {
    if stream.filter.is_empty() == filtered {
        return None;
    }
    let news: Vec<_> = stream.news().map(|(_, event, _)| event).collect();
    if news.len() < 4 {
        return None;
    }
    let (from, until) = stream.covers(facts)?;
    let at = news[1..news.len() - 1].iter().find_map(|event| {
        let at = event.at.as_ref().filter(|at| from < at.offset && at.offset <= until)?;
        (facts.settled(&at.epoch, at.offset) && shared(facts, stream, at)).then(|| at.clone())
    })?;
    Some((name(stream)?, at))
}

pub(super) fn drop_from_one(history: &mut History) -> Option<()> {
    drop_middle(history, false)
}

pub(super) fn drop_from_filtered(history: &mut History) -> Option<()> {
    drop_middle(history, true)
}

fn drop_middle(history: &mut History, filtered: bool) -> Option<()> {
    let ((actor, number), at) = find(history, |facts, stream| middle(facts, stream, filtered))?;
    remove(history, |a, n| a == actor && n == number, |event| event.at.as_ref() == Some(&at));
    Some(())
}

pub(super) fn double_in_one(history: &mut History) -> Option<()> {
    let (name, at) = find(history, |facts, stream| middle(facts, stream, false))?;
    edit(history, &name, |_, events, _| {
        if let Some(i) = events.iter().position(|event| event.at.as_ref() == Some(&at)) {
            events.insert(i, events[i].clone());
        }
    });
    Some(())
}

pub(super) fn swap_in_one(history: &mut History) -> Option<()> {
    let (name, at) = find(history, |facts, stream| middle(facts, stream, false))?;
    let next = Pos { epoch: at.epoch.clone(), offset: at.offset + 1 };
    let find_event = |history: &History, wanted: &Pos| {
        history.records.iter().filter(|record| record.actor == name.0).find_map(|record| match &record.what {
            What::Batch { events, .. } => events.iter().find(|event| event.at.as_ref() == Some(wanted)).cloned(),
            _ => None,
        })
    };
    let (one, two) = (find_event(history, &at)?, find_event(history, &next)?);
    edit(history, &name, |cursor, events, _| {
        // Where they are in two responses, the first one's cursor is for what it has now.
        if *cursor == one.at {
            cursor.clone_from(&two.at);
        }
        for event in events {
            if event.at == one.at {
                *event = two.clone();
            } else if event.at == two.at {
                *event = one.clone();
            }
        }
    });
    Some(())
}

pub(super) fn alter_in_one(history: &mut History) -> Option<()> {
    let (name, at) = find(history, |facts, stream| middle(facts, stream, false))?;
    edit(history, &name, |_, events, _| {
        events.iter_mut().filter(|event| event.at.as_ref() == Some(&at)).for_each(|event| event.wall += 1);
    });
    Some(())
}

pub(super) fn hole(history: &mut History) -> Option<()> {
    // A position that nobody sees: all that come after it have moved up by one.
    let (_, at) = find(history, |facts, stream| middle(facts, stream, false))?;
    super::edit::shift(history, &at, 1);
    Some(())
}

pub(super) fn stranger_in_filtered(history: &mut History) -> Option<()> {
    let (name, stranger) = find(history, |facts, stream| {
        let (first, ..) = stream.news().next().filter(|_| !stream.filter.is_empty())?;
        let log = facts.logs.get(stream.epoch()?)?;
        let (offset, stranger) = log.between(first, i64::MAX).find(|(_, l)| !passes(stream.filter, l.event))?;
        stream.news().any(|(after, ..)| after > offset).then(|| Some((name(stream)?, stranger.event.clone())))?
    })?;
    let (mut last, mut done) = (i64::MIN, false);
    let wanted = stranger.at.as_ref()?.offset;
    edit(history, &name, |_, events, snapshot| {
        let place = events.iter().position(|event| event.at.as_ref().is_some_and(|at| at.offset > wanted));
        if let (Some(place), false, false) = (place, snapshot, done) {
            events.insert(place, stranger.clone());
            done = true;
        }
        last = events.last().and_then(|event| event.at.as_ref()).map_or(last, |at| at.offset);
    });
    Some(())
}

/// A stream that was resumed at a cursor and got something.
fn resumed(facts: &Facts<'_>, stream: &Stream<'_>) -> Option<(Name, Pos, Event)> {
    let Start::Cursor(cursor) = stream.start else { return None };
    let (_, first, _) = stream.news().next().filter(|_| stream.filter.is_empty())?;
    // A first response with only its first event would leave a stream with nothing that says how far it came.
    let more = stream.news().count() > 2;
    let here = facts.runs.get(&stream.run).is_some_and(|run| run.head.epoch == cursor.epoch);
    (more && here && stream.epoch() == Some(cursor.epoch.as_str()))
        .then(|| Some((name(stream)?, cursor.clone(), first.clone())))?
}

pub(super) fn resume_with_gap(history: &mut History) -> Option<()> {
    let ((actor, number), _, first) = find(history, |facts, stream| {
        // What nobody else had is not missed.
        resumed(facts, stream).filter(|(.., first)| {
            first.at.as_ref().is_some_and(|at| facts.settled(&at.epoch, at.offset) && shared(facts, stream, at))
        })
    })?;
    remove(history, |a, n| a == actor && n == number, |event| event.at == first.at);
    Some(())
}

pub(super) fn resume_with_repeat(history: &mut History) -> Option<()> {
    let (name, first, before) = find(history, |facts, stream| {
        let (name, cursor, first) = resumed(facts, stream)?;
        let before = facts.logs.get(cursor.epoch.as_str())?.events.get(&cursor.offset)?;
        Some((name, first, before.event.clone()))
    })?;
    edit(history, &name, |_, events, _| {
        if let Some(i) = events.iter().position(|event| event.at == first.at) {
            events.insert(i, before.clone());
        }
    });
    Some(())
}

pub(super) fn refuse_good_cursor(history: &mut History) -> Option<()> {
    let (name, cursor) = find(history, |facts, stream| {
        let (name, cursor, _) = resumed(facts, stream)?;
        // Others still have what it had.
        (stream.actor != "auditor").then_some((name, cursor))
    })?;
    let (oldest, head) = (Some(cursor.clone()), Some(cursor));
    let refused = Outcome {
        code: "out_of_range".to_owned(),
        reason: "EPOCH_CHANGED".to_owned(),
        oldest,
        head,
        ..Outcome::default()
    };
    edit(history, &name, |cursor, events, _| {
        *cursor = None;
        events.clear();
    });
    for record in history.records.iter_mut().filter(|record| record.actor == name.0) {
        if let What::Unsubscribed { stream, cut, outcome } = &mut record.what
            && *stream == name.1
        {
            (*cut, *outcome) = (false, refused.clone());
            return Some(());
        }
    }
    let t = history.end();
    let what = What::Unsubscribed { stream: name.1, cut: false, outcome: refused };
    history.records.push(crate::record::Record { t, actor: name.0, what });
    Some(())
}

pub(super) fn silent_epoch(history: &mut History) -> Option<()> {
    let (actor, number) = find(history, |facts, stream| resumed(facts, stream).map(|(name, ..)| name))?;
    for record in history.records.iter_mut().filter(|record| record.actor == actor) {
        if let What::Subscribe { stream, start: Start::Cursor(cursor), .. } = &mut record.what
            && *stream == number
        {
            cursor.epoch = "another".to_owned();
        }
    }
    Some(())
}

pub(super) fn consumer_goes_back(history: &mut History) -> Option<()> {
    let (name, first, before) = find(history, |facts, stream| {
        let (first, event, _) = stream.news().next().filter(|_| *stream.start == Start::Kept)?;
        let epoch = stream.epoch()?;
        let before = facts.logs.get(epoch)?.events.get(&(first - 1))?;
        // The consumer had acknowledged the one before; otherwise it may come again.
        let acknowledged = facts.records.iter().any(|record| {
            record.t < stream.asked
                && matches!(&record.what, What::Acknowledged { consumer, at: Some(at), outcome }
                    if consumer == stream.consumer && outcome.is_ok() && at.epoch == epoch && at.offset >= first - 1)
        });
        acknowledged.then(|| Some((name(stream)?, event.clone(), before.event.clone())))?
    })?;
    edit(history, &name, |_, events, _| {
        if let Some(i) = events.iter().position(|event| event.at == first.at) {
            events.insert(i, before.clone());
        }
    });
    Some(())
}

/// Two responses of a stream, one after the other, both with a cursor and the second with events; not the first of the stream.
///
/// The first one's cursor is that of its last event; that of a filtered stream may be further on, and then one less takes nothing back.
fn consecutive(facts: &Facts<'_>, stream: &Stream<'_>) -> Option<(Name, Pos, Pos)> {
    let name = name(stream)?;
    // A cursor that somebody resumed from is also promise 4's.
    let used = |pos: &Pos| facts.streams.iter().any(|other| matches!(other.start, Start::Cursor(at) if at == pos));
    let batches: Vec<_> = stream.batches.iter().skip(2).collect();
    batches.windows(2).find_map(|pair| {
        let (one, two) = (pair[0].cursor?, pair[1].events.first()?.at.as_ref()?);
        let own = pair[0].events.last()?.at.as_ref() == Some(one);
        (own && !used(one)).then(|| (name.clone(), one.clone(), two.clone()))
    })
}

pub(super) fn early_bookmark(history: &mut History) -> Option<()> {
    let (name, old, new) = find(history, consecutive)?;
    edit(history, &name, |cursor, _, _| {
        if cursor.as_ref() == Some(&old) {
            *cursor = Some(new.clone());
        }
    });
    Some(())
}

pub(super) fn late_bookmark(history: &mut History) -> Option<()> {
    let (name, old, _) = find(history, consecutive)?;
    edit(history, &name, |cursor, _, _| {
        if cursor.as_ref() == Some(&old) {
            *cursor = Some(Pos { epoch: old.epoch.clone(), offset: old.offset - 1 });
        }
    });
    Some(())
}

pub(super) fn snapshot_lacks(history: &mut History) -> Option<()> {
    let (name, missing) = find(history, |facts, stream| {
        if *stream.start != Start::Snapshot || !stream.filter.is_empty() {
            return None;
        }
        let (first, whole) = stream.batches.iter().enumerate().find_map(|(i, batch)| Some((i, batch.cursor?)))?;
        // The response with the first cursor may tell of one that came meanwhile.
        let news = || stream.batches[..=first].iter().filter(|batch| !batch.snapshot).flat_map(|batch| batch.events);
        let events = stream.batches.iter().filter(|batch| batch.snapshot).flat_map(|batch| batch.events);
        let lasting = events.into_iter().find(|event| {
            let life = facts.life(&event.connection);
            let there = life.is_some_and(|life| {
                let stays = life.end.is_none_or(|(end, _)| end > whole.offset);
                life.epoch == whole.epoch && life.at <= whole.offset && stays
            });
            there && news().all(|other| other.connection != event.connection)
        })?;
        facts.knows(whole).then(|| Some((name(stream)?, lasting.connection.clone())))?
    })?;
    edit(history, &name, |_, events, snapshot| {
        if snapshot {
            events.retain(|event| event.connection != missing);
        }
    });
    Some(())
}
