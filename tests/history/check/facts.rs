//! What the records say, put together by subject: runs, logs, streams, sessions, connections, calls.

mod gather;

use std::collections::{BTreeMap, HashMap};

use crate::files::History;
use crate::record::{Aim, Delivery, Event, Filter, Kind, Outcome, Pos, Record, Start, What};

/// Microseconds.
pub type Time = u64;

pub const SECOND: Time = 1_000_000;

/// One process.
pub struct Run {
    pub number: u32,
    pub started: Time,
    pub head: Pos,
    pub journal: bool,
    pub resume_window: u64,
    pub duplicates: String,
    /// When it began to be ended, and how.
    pub ending: Option<(Time, String)>,
    pub ended: Option<(Time, Option<i32>)>,
}

/// An event of the log, as first seen.
#[derive(Clone, Copy)]
pub struct Logged<'a> {
    pub event: &'a Event,
    /// When the first subscriber had it.
    pub seen: Time,
    pub record: &'a Record,
}

/// The log of one epoch: what all subscribers together saw of it.
#[derive(Default)]
pub struct Log<'a> {
    pub events: BTreeMap<i64, Logged<'a>>,
    /// Two readers saw different events at one offset.
    pub conflicts: Vec<(i64, &'a Record, &'a Record)>,
}

impl<'a> Log<'a> {
    pub fn head(&self) -> i64 {
        self.events.last_key_value().map_or(i64::MIN, |(offset, _)| *offset)
    }

    /// The events after one offset up to another.
    pub fn between(&self, after: i64, until: i64) -> impl Iterator<Item = (i64, Logged<'a>)> + '_ {
        let range = if after < until { Some(self.events.range(after + 1..=until)) } else { None };
        range.into_iter().flatten().map(|(offset, logged)| (*offset, *logged))
    }
}

/// One response of a stream.
pub struct Batch<'a> {
    pub t: Time,
    pub record: &'a Record,
    pub snapshot: bool,
    pub cursor: Option<&'a Pos>,
    pub events: &'a [Event],
}

/// One `Subscribe` call.
pub struct Stream<'a> {
    pub actor: &'a str,
    pub run: u32,
    pub asked: Time,
    pub record: &'a Record,
    pub start: &'a Start,
    pub filter: &'a Filter,
    pub consumer: &'a str,
    pub batches: Vec<Batch<'a>>,
    pub end: Option<(Time, &'a Record, bool, &'a Outcome)>,
}

impl<'a> Stream<'a> {
    /// Its events after the snapshot, with their offsets.
    pub fn news(&self) -> impl Iterator<Item = (i64, &'a Event, &Batch<'a>)> + '_ {
        self.batches
            .iter()
            .filter(|batch| !batch.snapshot)
            .flat_map(|batch| batch.events.iter().filter_map(move |e| Some((e.at.as_ref()?.offset, e, batch))))
    }

    /// The epoch it speaks of.
    pub fn epoch(&self) -> Option<&'a str> {
        self.batches.iter().find_map(|batch| {
            let event = batch.events.iter().find_map(|event| event.at.as_ref());
            batch.cursor.or(event).map(|pos| pos.epoch.as_str())
        })
    }

    pub fn open_at(&self, t: Time) -> bool {
        self.asked <= t && self.end.is_none_or(|(end, ..)| end > t)
    }

    /// The offsets that it answers for: after the first, up to the second.
    pub fn covers(&self, facts: &Facts<'_>) -> Option<(i64, i64)> {
        let epoch = self.epoch()?;
        let first_event = self.news().next().map(|(offset, ..)| offset);
        let first_cursor = || self.batches.iter().find_map(|batch| batch.cursor).map(|pos| pos.offset);
        let from = match self.start {
            Start::Cursor(pos) => pos.offset,
            Start::Snapshot | Start::Now => {
                // A first response with news and a cursor begins before its news.
                let cursor = first_cursor()?;
                first_event.map_or(cursor, |event| cursor.min(event - 1))
            }
            Start::Beginning | Start::Kept => first_event? - 1,
        };
        let cursors = self.batches.iter().filter_map(|batch| batch.cursor).map(|pos| pos.offset);
        let events = self.news().map(|(offset, ..)| offset);
        // At a quiet point it has had time to get everything.
        let quiet = facts.quiets.iter().filter(|quiet| quiet.head.epoch == epoch && self.open_at(quiet.t));
        let began = self.batches.first().map_or(Time::MAX, |batch| batch.t);
        let quiet = quiet.filter(|quiet| quiet.t > began.saturating_add(SECOND)).map(|quiet| quiet.head.offset);
        Some((from, cursors.chain(events).chain(quiet).max()?))
    }
}

/// A message that a client sent or got.
pub struct Message<'a> {
    pub t: Time,
    pub id: &'a str,
    pub seq: u64,
    pub record: &'a Record,
}

/// One WebSocket of a client.
pub struct Session<'a> {
    pub actor: &'a str,
    pub run: u32,
    pub client: &'a str,
    pub record: &'a Record,
    /// When its handshake was answered, and the address that the server sees.
    pub opened: Option<(Time, &'a str)>,
    pub tx: Vec<Message<'a>>,
    pub rx: Vec<Message<'a>>,
    /// When the server's machine had something of it that proves it alive: not before the one moment, and by the other.
    pub beats: Vec<(Time, Time)>,
    pub hello: Option<(Time, &'a str, bool)>,
    pub rx_acks: Vec<(Time, u64, &'a Record)>,
    pub tx_acks: Vec<(Time, u64)>,
    pub silent: Option<Time>,
    pub stalls: Vec<(Time, bool)>,
    pub closing: Option<(Time, &'a str)>,
    pub closed: Option<(Time, u16, &'a Record)>,
    pub over: Option<Time>,
    /// Its connection in [`Facts::lives`].
    pub life: Option<usize>,
}

impl Session<'_> {
    /// Whether it was open at a moment, with neither side closing and the client doing its part.
    pub fn well_at(&self, t: Time) -> bool {
        let before = |moment: Option<Time>| moment.is_some_and(|moment| moment <= t);
        self.opened.is_some_and(|(opened, _)| opened <= t)
            && !before(self.silent)
            && !before(self.closing.map(|(t, _)| t))
            && !before(self.closed.map(|(t, ..)| t))
            && !before(self.over)
            && !self.stalled_between(t, t)
    }

    /// Whether it did not read at some time of a span.
    pub fn stalled_between(&self, from: Time, to: Time) -> bool {
        let mut since = None;
        for (t, on) in &self.stalls {
            match (since, on) {
                (None, true) => since = Some(*t),
                (Some(began), false) => {
                    if began <= to && *t >= from {
                        return true;
                    }
                    since = None;
                }
                _ => {}
            }
        }
        since.is_some_and(|began| began <= to)
    }

    /// When it is over in whatever way, as far as the client knows.
    pub fn last_moment(&self) -> Option<Time> {
        [self.silent, self.closing.map(|(t, _)| t), self.closed.map(|(t, ..)| t), self.over].into_iter().flatten().min()
    }
}

/// A connection's life in the log.
pub struct Life<'a> {
    pub epoch: &'a str,
    pub connection: &'a str,
    pub client: &'a str,
    pub generation: i64,
    pub address: &'a str,
    pub connected: Logged<'a>,
    pub at: i64,
    pub subprotocol: &'a str,
    pub end: Option<(i64, Logged<'a>)>,
    pub messages: Vec<(i64, &'a str, Logged<'a>)>,
    /// Interval and timeout in milliseconds from each moment on.
    pub cadences: Vec<(Time, u64, u64)>,
    /// Its sockets in [`Facts::sessions`], in order.
    pub sessions: Vec<usize>,
}

impl Life<'_> {
    pub fn cause(&self) -> Option<&str> {
        match &self.end.as_ref()?.1.event.kind {
            Kind::Disconnected { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

/// One send, by itself or over a stream.
pub struct Sending<'a> {
    pub actor: &'a str,
    pub t: Time,
    pub record: &'a Record,
    pub order: u32,
    pub to: &'a Aim,
    pub id: &'a str,
    pub ttl: u64,
    pub message_id: &'a str,
    pub receipt: &'a str,
    pub answer: Option<(Time, &'a Outcome, &'a [Delivery], &'a Record)>,
}

/// All is quiet.
pub struct Quiet<'a> {
    pub t: Time,
    pub head: &'a Pos,
    pub gone: bool,
    pub record: &'a Record,
}

/// A fault from its beginning to its end.
pub struct Fault<'a> {
    pub name: &'a str,
    pub from: Time,
    pub to: Time,
}

/// Everything.
pub struct Facts<'a> {
    pub records: &'a [Record],
    pub end: Time,
    pub runs: BTreeMap<u32, Run>,
    pub logs: BTreeMap<&'a str, Log<'a>>,
    pub streams: Vec<Stream<'a>>,
    pub sessions: Vec<Session<'a>>,
    pub lives: Vec<Life<'a>>,
    pub sends: Vec<Sending<'a>>,
    pub quiets: Vec<Quiet<'a>>,
    pub faults: Vec<Fault<'a>>,
    /// Ends of spans, and how late the machine was in each: an observer and the process together.
    pub late: Vec<(Time, Time, u64)>,
    by_connection: HashMap<&'a str, usize>,
}

impl<'a> Facts<'a> {
    pub fn life(&self, connection: &str) -> Option<&Life<'a>> {
        self.by_connection.get(connection).map(|at| &self.lives[*at])
    }

    /// How late the machine ran things in a span, by its own measure: microseconds.
    pub fn lateness(&self, from: Time, to: Time) -> Time {
        self.late.iter().filter(|(a, b, _)| *b >= from && *a <= to).map(|(.., late)| late).sum()
    }

    /// How much of a span lies in faults of these names: microseconds. Faults of a kind do not overlap.
    pub fn in_faults(&self, names: &[&str], from: Time, to: Time) -> Time {
        let faults = self.faults.iter().filter(|fault| names.contains(&fault.name));
        faults.map(|fault| fault.to.min(to).saturating_sub(fault.from.max(from))).sum()
    }

    /// Whether a process had begun to be ended at a moment, or there is none of this number.
    pub fn run_ended_by(&self, run: u32, t: Time) -> bool {
        self.runs.get(&run).is_none_or(|run| run.ending.as_ref().is_some_and(|(ending, _)| *ending <= t))
    }

    /// The run that was on at a moment.
    pub fn run_at(&self, t: Time) -> Option<&Run> {
        self.runs.values().rev().find(|run| run.started <= t)
    }

    /// Whether all readers had the time to see the log up to this place and one more: a quiet point comes after it, which the log is known up to.
    /// Behind the last one a killed process leaves open what was there.
    pub fn settled(&self, epoch: &str, offset: i64) -> bool {
        self.quiets.iter().any(|q| q.head.epoch == epoch && q.head.offset > offset && self.knows(q.head))
    }

    /// Whether the log of an epoch is known up to this place.
    pub fn knows(&self, pos: &Pos) -> bool {
        let first = self.runs.values().find(|run| run.head.epoch == pos.epoch);
        let head = self.logs.get(pos.epoch.as_str()).map_or(i64::MIN, Log::head);
        head >= pos.offset || first.is_some_and(|run| run.head.offset == pos.offset)
    }
}
