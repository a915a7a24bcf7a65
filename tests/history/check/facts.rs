//! What the records say, put together by subject: runs, logs, streams, sessions, connections, calls.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    pub fn gather(history: &'a History) -> Self {
        let mut facts = Self {
            records: &history.records,
            end: history.end(),
            runs: BTreeMap::new(),
            logs: BTreeMap::new(),
            streams: Vec::new(),
            sessions: Vec::new(),
            lives: Vec::new(),
            sends: Vec::new(),
            quiets: Vec::new(),
            faults: Vec::new(),
            late: Vec::new(),
            by_connection: HashMap::new(),
        };
        facts.gather_world();
        facts.gather_streams();
        facts.gather_sessions();
        facts.gather_sends();
        facts.gather_logs();
        facts.cut_tails();
        facts.gather_lives();
        facts.join_sessions();
        facts
    }

    fn gather_world(&mut self) {
        let mut last_late = 0;
        for record in self.records {
            let t = record.t;
            match &record.what {
                What::Started { run, head, journal, resume_window, duplicates, .. } => {
                    let run = Run {
                        number: *run,
                        started: t,
                        head: head.clone(),
                        journal: *journal,
                        resume_window: *resume_window,
                        duplicates: duplicates.clone(),
                        ending: None,
                        ended: None,
                    };
                    self.runs.insert(run.number, run);
                }
                What::Ending { run, how } => {
                    if let Some(run) = self.runs.get_mut(run) {
                        run.ending = Some((t, how.clone()));
                    }
                }
                What::Ended { run, code } => {
                    if let Some(run) = self.runs.get_mut(run) {
                        run.ended = Some((t, *code));
                    }
                }
                What::Fault { name, on: true, .. } => self.faults.push(Fault { name, from: t, to: self.end }),
                What::Fault { name, on: false, .. } => {
                    let open = self.faults.iter_mut().rev().find(|f| f.name == name && f.to == self.end);
                    if let Some(fault) = open {
                        fault.to = t;
                    }
                }
                What::Late { observer, starved } => {
                    self.late.push((last_late, t, observer + starved));
                    last_late = t;
                }
                What::Quiet { head, gone, .. } => self.quiets.push(Quiet { t, head, gone: *gone, record }),
                _ => {}
            }
        }
    }

    fn gather_streams(&mut self) {
        let mut index: HashMap<(&str, u32), usize> = HashMap::new();
        for record in self.records {
            match &record.what {
                What::Subscribe { stream, run, start, filter, consumer } => {
                    index.insert((&record.actor, *stream), self.streams.len());
                    self.streams.push(Stream {
                        actor: &record.actor,
                        run: *run,
                        asked: record.t,
                        record,
                        start,
                        filter,
                        consumer,
                        batches: Vec::new(),
                        end: None,
                    });
                }
                What::Batch { stream, snapshot, cursor, events } => {
                    if let Some(at) = index.get(&(record.actor.as_str(), *stream)) {
                        let cursor = cursor.as_ref();
                        let batch = Batch { t: record.t, record, snapshot: *snapshot, cursor, events };
                        self.streams[*at].batches.push(batch);
                    }
                }
                What::Unsubscribed { stream, cut, outcome } => {
                    if let Some(at) = index.get(&(record.actor.as_str(), *stream)) {
                        self.streams[*at].end = Some((record.t, record, *cut, outcome));
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_sessions(&mut self) {
        let mut index: HashMap<(&str, u32), usize> = HashMap::new();
        for record in self.records {
            let t = record.t;
            if let What::Opening { session, run, client, .. } = &record.what {
                index.insert((&record.actor, *session), self.sessions.len());
                self.sessions.push(Session {
                    actor: &record.actor,
                    run: *run,
                    client,
                    record,
                    opened: None,
                    tx: Vec::new(),
                    rx: Vec::new(),
                    beats: Vec::new(),
                    hello: None,
                    rx_acks: Vec::new(),
                    tx_acks: Vec::new(),
                    silent: None,
                    stalls: Vec::new(),
                    closing: None,
                    closed: None,
                    over: None,
                    life: None,
                });
                continue;
            }
            let Some(number) = session_of(&record.what) else { continue };
            let Some(at) = index.get(&(record.actor.as_str(), number)) else { continue };
            let session = &mut self.sessions[*at];
            match &record.what {
                What::Opened { address, .. } => session.opened = Some((t, address)),
                What::Tx { id, seq, .. } => session.tx.push(Message { t, id, seq: *seq, record }),
                What::Rx { id, seq, .. } => session.rx.push(Message { t, id, seq: *seq, record }),
                What::Beat { took, .. } => session.beats.push((t - took, t)),
                What::Hello { connection, resumed, .. } => session.hello = Some((t, connection, *resumed)),
                What::RxAck { received, .. } => session.rx_acks.push((t, *received, record)),
                What::TxAck { received, .. } => session.tx_acks.push((t, *received)),
                What::Silent { .. } => session.silent = Some(t),
                What::Stalled { on, .. } => session.stalls.push((t, *on)),
                What::Closing { how, .. } => session.closing = session.closing.or(Some((t, how))),
                What::Closed { code, .. } => session.closed = Some((t, *code, record)),
                What::Over { .. } => session.over = Some(t),
                _ => {}
            }
        }
    }

    fn gather_sends(&mut self) {
        let mut index: HashMap<(&str, u32), usize> = HashMap::new();
        for record in self.records {
            match &record.what {
                What::Send { call, order, to, id, ttl, message_id, receipt, .. } => {
                    index.insert((&record.actor, *call), self.sends.len());
                    self.sends.push(Sending {
                        actor: &record.actor,
                        t: record.t,
                        record,
                        order: *order,
                        to,
                        id,
                        ttl: *ttl,
                        message_id,
                        receipt,
                        answer: None,
                    });
                }
                What::Sent { call, outcome, deliveries, .. } => {
                    if let Some(at) = index.get(&(record.actor.as_str(), *call)) {
                        self.sends[*at].answer = Some((record.t, outcome, deliveries, record));
                    }
                }
                _ => {}
            }
        }
    }

    fn gather_logs(&mut self) {
        for stream in &self.streams {
            for (offset, event, batch) in stream.news() {
                let Some(at) = &event.at else { continue };
                let log = self.logs.entry(at.epoch.as_str()).or_default();
                let seen = Logged { event, seen: batch.t, record: batch.record };
                match log.events.get_mut(&offset) {
                    None => {
                        log.events.insert(offset, seen);
                    }
                    Some(known) => {
                        if known.event != event {
                            log.conflicts.push((offset, known.record, batch.record));
                        } else if known.seen > batch.t {
                            known.seen = batch.t;
                        }
                    }
                }
            }
        }
    }

    /// What was seen after the last quiet point may have a hole, if the process was killed before all had seen it: no reader had the
    /// time to come so far. What lies behind such a hole is left out.
    fn cut_tails(&mut self) {
        for (epoch, log) in &mut self.logs {
            let quiets = self.quiets.iter().filter(|quiet| quiet.head.epoch == *epoch);
            let known = quiets.map(|quiet| quiet.head.offset).max().unwrap_or(i64::MIN);
            let mut offsets = log.events.keys().copied().filter(|offset| *offset > known);
            let mut last = offsets.next();
            let hole = offsets.find(|offset| {
                let next = last.is_none_or(|last| last + 1 == *offset);
                last = Some(*offset);
                !next
            });
            if let Some(behind) = hole {
                log.events.split_off(&behind);
            }
        }
    }

    fn gather_lives(&mut self) {
        for (epoch, log) in &self.logs {
            let mut index: HashMap<&str, usize> = HashMap::new();
            for (offset, logged) in &log.events {
                let event = logged.event;
                let known = index.get(event.connection.as_str()).copied();
                match (&event.kind, known) {
                    (Kind::Connected { address, subprotocol, interval, timeout, .. }, None) => {
                        index.insert(&event.connection, self.lives.len());
                        self.lives.push(Life {
                            epoch,
                            connection: &event.connection,
                            client: &event.client,
                            generation: event.generation,
                            address,
                            connected: *logged,
                            at: *offset,
                            subprotocol,
                            end: None,
                            messages: Vec::new(),
                            cadences: vec![(0, *interval, *timeout)],
                            sessions: Vec::new(),
                        });
                    }
                    (Kind::Disconnected { .. }, Some(at)) => {
                        let life = &mut self.lives[at];
                        life.end = life.end.or(Some((*offset, *logged)));
                    }
                    (Kind::MessageReceived { id, .. }, Some(at)) => {
                        self.lives[at].messages.push((*offset, id, *logged));
                    }
                    (Kind::HeartbeatChanged { interval, timeout }, Some(at)) => {
                        self.lives[at].cadences.push((logged.seen, *interval, *timeout));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Finds the connection of each session: the reliable protocol says it, and otherwise the address that both sides know.
    fn join_sessions(&mut self) {
        self.by_connection = self.lives.iter().enumerate().map(|(i, life)| (life.connection, i)).collect();
        // Where a port is used again: by address and run, in order.
        let mut lives: HashMap<(&str, u32), Vec<usize>> = HashMap::new();
        for (i, life) in self.lives.iter().enumerate() {
            if let Some(run) = self.run_of(life.epoch, life.at) {
                lives.entry((life.address, run)).or_default().push(i);
            }
        }
        let mut opened: HashMap<(&str, u32), Vec<usize>> = HashMap::new();
        let mut found: Vec<(usize, usize)> = Vec::new();
        for (i, session) in self.sessions.iter().enumerate() {
            if let Some((_, connection, _)) = session.hello {
                found.extend(self.by_connection.get(connection).map(|life| (i, *life)));
            } else if let Some((_, address)) = session.opened {
                opened.entry((address, session.run)).or_default().push(i);
            }
        }
        let mut taken: BTreeSet<usize> = found.iter().map(|(_, life)| *life).collect();
        for (at, mut sessions) in opened {
            sessions.sort_by_key(|i| self.sessions[*i].record.t);
            let mut lives = lives.remove(&at).unwrap_or_default();
            lives.retain(|life| !taken.contains(life));
            // One that was refused after its handshake has none; then each is of the last session that had been opened when it was seen.
            let one_each = sessions.len() == lives.len();
            for (place, life) in lives.into_iter().enumerate() {
                let before = |i: &&usize| self.sessions[**i].record.t <= self.lives[life].connected.seen;
                let session = if one_each { sessions.get(place) } else { sessions.iter().rev().find(before) };
                let named = |i: usize| [self.lives[life].client, ""].contains(&self.sessions[i].client);
                if let Some(session) = session.copied().filter(|i| named(*i))
                    && taken.insert(life)
                {
                    found.push((session, life));
                }
            }
        }
        found.sort_unstable();
        for (session, life) in found {
            self.sessions[session].life = Some(life);
            self.lives[life].sessions.push(session);
        }
    }

    /// The run that an offset was written in.
    fn run_of(&self, epoch: &str, offset: i64) -> Option<u32> {
        let of_epoch = self.runs.values().filter(|run| run.head.epoch == epoch);
        of_epoch.filter(|run| run.head.offset < offset).map(|run| run.number).max()
    }

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

fn session_of(what: &What) -> Option<u32> {
    match what {
        What::Opened { session, .. }
        | What::Refused { session, .. }
        | What::Tx { session, .. }
        | What::Beat { session, .. }
        | What::Rx { session, .. }
        | What::Hello { session, .. }
        | What::RxAck { session, .. }
        | What::TxAck { session, .. }
        | What::Silent { session }
        | What::Stalled { session, .. }
        | What::Closing { session, .. }
        | What::Closed { session, .. }
        | What::Over { session, .. } => Some(*session),
        _ => None,
    }
}
