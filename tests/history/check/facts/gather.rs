//! Reading the records once for each subject, and joining what was found.

use std::collections::BTreeSet;

use super::*;

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
