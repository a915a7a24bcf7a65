//! A good history made by hand: small, with something of every promise in it, so that each can be broken.

use std::collections::BTreeMap;

use crate::check::passes;
use crate::files::History;
use crate::record::{Aim, Delivery, Event, Filter, Gauge, Kind, Outcome, Pos, Record, Shown, Start, What};

const MILLI: u64 = 1_000;
const SECOND: u64 = 1_000_000;

struct Reader {
    actor: &'static str,
    stream: u32,
    filter: Filter,
}

/// Makes the history of a server that does everything right.
struct Forge {
    t: u64,
    records: Vec<Record>,
    head: Pos,
    readers: Vec<Reader>,
    open: BTreeMap<String, Shown>,
    /// Sessions and calls so far, over all actors.
    numbers: u32,
    run: u32,
}

/// A client in the story.
#[derive(Clone)]
struct Client {
    name: &'static str,
    session: u32,
    connection: String,
    generation: i64,
}

pub fn history() -> History {
    let mut forge = Forge {
        t: 0,
        records: Vec::new(),
        head: Pos { epoch: "e1".to_owned(), offset: 1_000_000 },
        readers: Vec::new(),
        open: BTreeMap::new(),
        numbers: 0,
        run: 0,
    };
    forge.tell();
    History::of(forge.records)
}

impl Forge {
    fn note(&mut self, actor: &str, what: What) {
        self.t += MILLI;
        self.records.push(Record { t: self.t, actor: actor.to_owned(), what });
    }

    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    fn start(&mut self, journal: bool) {
        self.run += 1;
        let what = What::Started {
            run: self.run,
            pid: 1,
            head: self.head.clone(),
            journal,
            interval: 1_000,
            timeout: 3_000,
            resume_window: 2_000,
            duplicates: "replace".to_owned(),
        };
        self.note("world", what);
    }

    fn kill(&mut self) {
        let run = self.run;
        self.note("world", What::Ending { run, how: "kill -9".to_owned() });
        self.note("world", What::Ended { run, code: None });
        for reader in std::mem::take(&mut self.readers) {
            let outcome = Outcome { code: "unavailable".to_owned(), ..Outcome::default() };
            self.note(reader.actor, What::Unsubscribed { stream: reader.stream, cut: false, outcome });
        }
    }

    fn subscribe(&mut self, actor: &'static str, start: Start, filter: Filter) {
        self.subscribe_as(actor, start, filter, "");
    }

    fn subscribe_as(&mut self, actor: &'static str, start: Start, filter: Filter, consumer: &str) {
        let (stream, run) = (self.number(), self.run);
        let consumer = consumer.to_owned();
        let greets = matches!(start, Start::Now | Start::Snapshot);
        let snapshot = start == Start::Snapshot;
        self.note(actor, What::Subscribe { stream, run, start, filter: filter.clone(), consumer });
        if snapshot {
            let events = self.open.values().map(as_event).collect();
            self.note(actor, What::Batch { stream, snapshot: true, cursor: None, events });
        }
        if greets {
            let cursor = Some(self.head.clone());
            self.note(actor, What::Batch { stream, snapshot: false, cursor, events: Vec::new() });
        }
        self.readers.push(Reader { actor, stream, filter });
    }

    fn cut(&mut self, actor: &str) {
        let Some(at) = self.readers.iter().position(|reader| reader.actor == actor) else { return };
        let stream = self.readers.remove(at).stream;
        self.note(actor, What::Unsubscribed { stream, cut: true, outcome: Outcome::ok() });
    }

    fn commit(&mut self, client: &Client, kind: Kind) {
        self.head.offset += 1;
        let mut event = Event {
            at: Some(self.head.clone()),
            wall: self.t as i64,
            client: client.name.to_owned(),
            connection: client.connection.clone(),
            generation: client.generation,
            labels: self.open.get(&client.connection).map(|shown| shown.labels.clone()).unwrap_or_default(),
            kind,
        };
        match &event.kind {
            Kind::Connected { interval, timeout, .. } => {
                event.generation = self.head.offset;
                let shown = Shown {
                    client: event.client.clone(),
                    connection: event.connection.clone(),
                    generation: event.generation,
                    state: "alive".to_owned(),
                    labels: BTreeMap::new(),
                    interval: *interval,
                    timeout: *timeout,
                };
                self.open.insert(event.connection.clone(), shown);
            }
            Kind::Disconnected { .. } => {
                self.open.remove(&event.connection);
            }
            Kind::LabelsChanged { .. } => {
                event.labels = BTreeMap::from([("room".to_owned(), "7".to_owned())]);
                if let Some(shown) = self.open.get_mut(&event.connection) {
                    shown.labels.clone_from(&event.labels);
                }
            }
            _ => {}
        }
        let readers: Vec<_> =
            self.readers.iter().filter(|r| passes(&r.filter, &event)).map(|r| (r.actor, r.stream)).collect();
        for (actor, stream) in readers {
            let (cursor, events) = (event.at.clone(), vec![event.clone()]);
            self.note(actor, What::Batch { stream, snapshot: false, cursor, events });
        }
    }

    fn join(&mut self, name: &'static str, replaces: i64, reliable: bool) -> Client {
        let (session, run) = (self.number(), self.run);
        let address = format!("127.0.0.1:{}", 40_000 + session);
        let subprotocol = if reliable { "heartwire.v1.json" } else { "" }.to_owned();
        self.note(
            name,
            What::Opening { session, run, client: name.to_owned(), subprotocol: subprotocol.clone(), proxied: false },
        );
        self.note(name, What::Opened { session, address: address.clone() });
        let mut client = Client { name, session, connection: format!("c{session}"), generation: 0 };
        let state = "alive".to_owned();
        self.commit(
            &client,
            Kind::Connected { address, subprotocol, state, interval: 1_000, timeout: 3_000, replaces },
        );
        client.generation = self.head.offset;
        if reliable {
            let connection = client.connection.clone();
            self.note(name, What::Hello { session, client: name.to_owned(), connection, resumed: false, received: 0 });
        }
        self.note(name, What::Beat { session, took: 0 });
        client
    }

    fn beat(&mut self, client: &Client) {
        self.note(client.name, What::Beat { session: client.session, took: 0 });
    }

    /// Lets time pass, with these beating.
    fn pass(&mut self, seconds: u64, beating: &[&Client]) {
        for _ in 0..seconds * 2 {
            self.t += SECOND / 2;
            for client in beating {
                self.beat(client);
            }
        }
    }

    fn say(&mut self, client: &Client, n: u64, seq: u64) {
        let id = format!("{}.{}:{n}", client.name, client.session);
        self.note(client.name, What::Tx { session: client.session, id: id.clone(), seq });
        self.commit(client, Kind::MessageReceived { id, bytes: 10 });
        if seq > 0 {
            self.note(client.name, What::RxAck { session: client.session, received: seq });
        }
    }

    fn end(&mut self, client: &Client, cause: &str, code: u16) {
        let kind =
            Kind::Disconnected { cause: cause.to_owned(), code: code.into(), unacked: Vec::new(), unacked_count: 0 };
        self.commit(client, kind);
        let session = client.session;
        if code != 1006 {
            self.note(client.name, What::Closed { session, code, reason: String::new() });
        }
        if cause != "heartbeat_timeout" && cause != "node_restarted" {
            self.note(client.name, What::Over { session, why: "end of stream".to_owned() });
        }
    }

    fn leave(&mut self, client: &Client) {
        self.note(client.name, What::Closing { session: client.session, how: "close".to_owned() });
        self.end(client, "client_closed", 1000);
    }

    fn send(
        &mut self,
        to: &Client,
        id: &str,
        receipt: &str,
        ttl: u64,
        answer: (&str, &str, &[Delivery]),
        seq: Option<u64>,
    ) {
        let call = self.number();
        let what = What::Send {
            call,
            order: 0,
            to: Aim::Client(to.name.to_owned()),
            id: id.to_owned(),
            receipt: receipt.to_owned(),
            generation: 0,
            ttl,
            message_id: String::new(),
            deadline: 0,
        };
        self.note("sender", what);
        if let Some(seq) = seq {
            self.note(to.name, What::Rx { session: to.session, id: id.to_owned(), seq });
        }
        if let (Some(seq), "acked") = (seq, receipt) {
            self.note(to.name, What::TxAck { session: to.session, received: seq });
        }
        let (code, reason, deliveries) = answer;
        let outcome = Outcome { code: code.to_owned(), reason: reason.to_owned(), ..Outcome::default() };
        self.note("sender", What::Sent { call, outcome, deliveries: deliveries.to_vec(), replayed: false });
    }

    fn show(&mut self, client: Option<&str>) {
        let wanted = |shown: &&Shown| client.is_none_or(|client| shown.client == client);
        let connections: Vec<_> = self.open.values().filter(wanted).cloned().collect();
        let (asked, cursor) = (self.t, Some(self.head.clone()));
        let client = client.map(str::to_owned);
        self.note("lister", What::Shown { asked, client, outcome: Outcome::ok(), cursor, connections });
    }

    fn quiet(&mut self, number: u32, gone: bool) {
        self.t += 3 * SECOND;
        let head = self.head.clone();
        self.note("world", What::Quiet { number, head, gone });
        self.t += 2 * SECOND;
    }

    fn holds(&mut self, moment: &str) {
        let gauge = Gauge { sockets: 3, files: 12, resident_bytes: 30 << 20, ..Gauge::default() };
        self.note("world", What::Holds { run: self.run, moment: moment.to_owned(), gauge });
    }

    fn phase(&mut self, number: u32, calm: bool, stalled: bool) {
        self.note("world", What::Phase { number, name: "story".to_owned(), calm, stalled });
    }

    fn tell(&mut self) {
        self.start(true);
        self.subscribe("auditor", Start::Beginning, Filter::default());
        self.subscribe("cutter", Start::Now, Filter::default());
        self.subscribe("picky", Start::Now, Filter { prefix: "a".to_owned(), ..Filter::default() });
        self.subscribe_as("consumer", Start::Now, Filter::default(), "billing");
        self.holds("baseline");
        self.first_run();
        self.second_run();
        self.kill();
        self.open.clear();
        self.head = Pos { epoch: "e2".to_owned(), offset: 9_000_000 };
        self.start(false);
        self.memory_run();
    }

    fn first_run(&mut self) {
        let nobody = Client { name: "alice", session: 0, connection: String::new(), generation: 0 };
        self.send(&nobody, "s:1", "accepted", 0, ("not_found", "CLIENT_NOT_CONNECTED", &[]), None);
        self.send(&nobody, "s:2", "stored", 60_000, ("ok", "", &[]), None);
        let alice = self.join("alice", 0, false);
        self.note("alice", What::Rx { session: alice.session, id: "s:2".to_owned(), seq: 0 });
        let old = self.join("bob", 0, false);
        let disconnected =
            Kind::Disconnected { cause: "replaced".to_owned(), code: 4409, unacked: Vec::new(), unacked_count: 0 };
        // The takeover: one batch, the old one's end just before the new one's beginning.
        let (session, run) = (self.number(), self.run);
        let address = format!("127.0.0.1:{}", 40_000 + session);
        self.note(
            "bob2",
            What::Opening { session, run, client: "bob".to_owned(), subprotocol: String::new(), proxied: false },
        );
        self.note("bob2", What::Opened { session, address: address.clone() });
        self.commit(&old, disconnected);
        let mut bob = Client { name: "bob", session, connection: format!("c{session}"), generation: 0 };
        let replaces = old.generation;
        let state = "alive".to_owned();
        let subprotocol = String::new();
        self.commit(&bob, Kind::Connected { address, subprotocol, state, interval: 1_000, timeout: 3_000, replaces });
        bob.generation = self.head.offset;
        self.note("bob", What::Closed { session: old.session, code: 4409, reason: String::new() });
        let carol = self.join("carol", 0, false);
        let dave = self.join("dave", 0, true);
        self.phase(1, true, false);
        let everyone = [&alice, &carol, &dave];
        for n in 0..60 {
            self.pass(u64::from(n % 10 == 0), &everyone);
            self.say(&alice, n, 0);
        }
        self.say(&dave, 1, 1);
        self.say(&dave, 2, 2);
        let to = |client: &Client, stage: &str| {
            vec![Delivery { connection: client.connection.clone(), stage: stage.to_owned(), failure: String::new() }]
        };
        self.send(&alice, "s:3", "written", 0, ("ok", "", &to(&alice, "written")), Some(0));
        self.send(&alice, "s:4", "written", 0, ("ok", "", &to(&alice, "written")), Some(0));
        self.send(&dave, "s:5", "acked", 0, ("ok", "", &to(&dave, "acked")), Some(1));
        self.send(&alice, "s:6", "accepted", 0, ("resource_exhausted", "OUTBOX_FULL", &[]), None);
        self.commit(&alice, Kind::LabelsChanged { previous: BTreeMap::new() });
        self.cut("cutter");
        let cursor = self.head.clone();
        self.say(&alice, 60, 0);
        self.subscribe("cutter", Start::Cursor(cursor.clone()), Filter::default());
        self.catch_up("cutter", &cursor);
        self.consume();
        self.subscribe("late", Start::Snapshot, Filter::default());
        self.show(None);
        self.show(Some("alice"));
        self.note("carol", What::Silent { session: carol.session });
        self.phase(2, false, true);
        for n in 61..130 {
            self.pass(u64::from(n % 10 == 0), &[&alice, &dave]);
            if n == 95 {
                self.end(&carol, "heartbeat_timeout", 1006);
            }
            self.say(&alice, n, 0);
        }
        self.quiet(1, false);
        self.leave(&alice);
        self.note("bob2", What::Closing { session: bob.session, how: "reset".to_owned() });
        self.commit(
            &bob,
            Kind::Disconnected {
                cause: "connection_lost".to_owned(),
                code: 1006,
                unacked: Vec::new(),
                unacked_count: 0,
            },
        );
        self.end(&dave, "kicked", 1000);
        self.show(None);
        self.quiet(2, true);
        self.holds("drained");
    }

    /// What a resumed stream missed comes to it.
    fn catch_up(&mut self, actor: &'static str, after: &Pos) {
        let stream = self.readers.iter().find(|reader| reader.actor == actor).map_or(0, |reader| reader.stream);
        let missed: Vec<Event> = self
            .records
            .iter()
            .filter(|record| record.actor == "auditor")
            .filter_map(|record| match &record.what {
                What::Batch { events, .. } => Some(events.iter()),
                _ => None,
            })
            .flatten()
            .filter(|event| event.at.as_ref().is_some_and(|at| at.epoch == after.epoch && at.offset > after.offset))
            .cloned()
            .collect();
        let cursor = missed.last().and_then(|event| event.at.clone());
        self.note(actor, What::Batch { stream, snapshot: false, cursor, events: missed });
    }

    /// The consumer acknowledges, goes away and comes back.
    fn consume(&mut self) {
        let at = self.head.clone();
        self.note("consumer", What::Acknowledge { consumer: "billing".to_owned(), at: at.clone() });
        let acknowledged = What::Acknowledged { consumer: "billing".to_owned(), at: Some(at), outcome: Outcome::ok() };
        self.note("consumer", acknowledged);
        self.cut("consumer");
        self.subscribe_as("consumer", Start::Kept, Filter::default(), "billing");
    }

    /// Somebody is connected when the process is killed; with a journal the next run says what became of that.
    fn second_run(&mut self) {
        let erin = self.join("erin", 0, true);
        self.say(&erin, 1, 1);
        self.pass(1, &[&erin]);
        self.kill();
        self.note("erin", What::Over { session: erin.session, why: "reset".to_owned() });
        let before = self.head.clone();
        let kind = Kind::Disconnected {
            cause: "node_restarted".to_owned(),
            code: 1006,
            unacked: Vec::new(),
            unacked_count: 0,
        };
        self.open.clear();
        self.head.offset += 1;
        self.start(true);
        self.head.offset -= 1;
        self.subscribe("auditor", Start::Cursor(before.clone()), Filter::default());
        self.subscribe("cutter", Start::Cursor(before), Filter::default());
        self.commit(&erin, kind);
        let frank = self.join("frank", 0, false);
        for n in 0..5 {
            self.say(&frank, n, 0);
            self.pass(1, &[&frank]);
        }
        self.leave(&frank);
        self.quiet(3, true);
    }

    /// Without a journal the next run is a new epoch, and says so.
    fn memory_run(&mut self) {
        let cursor = Pos { epoch: "e1".to_owned(), offset: 1_000_005 };
        let (stream, run) = (self.number(), self.run);
        let subscribe = What::Subscribe {
            stream,
            run,
            start: Start::Cursor(cursor),
            filter: Filter::default(),
            consumer: String::new(),
        };
        self.note("cutter", subscribe);
        let ends = Some(self.head.clone());
        let outcome = Outcome {
            code: "out_of_range".to_owned(),
            reason: "EPOCH_CHANGED".to_owned(),
            oldest: ends.clone(),
            head: ends,
            ..Outcome::default()
        };
        self.note("cutter", What::Unsubscribed { stream, cut: false, outcome });
        self.subscribe("auditor", Start::Beginning, Filter::default());
        let grace = self.join("grace", 0, false);
        self.say(&grace, 1, 0);
        self.pass(3, &[&grace]);
        self.leave(&grace);
        self.quiet(4, true);
    }
}

fn as_event(shown: &Shown) -> Event {
    Event {
        at: None,
        wall: 0,
        client: shown.client.clone(),
        connection: shown.connection.clone(),
        generation: shown.generation,
        labels: shown.labels.clone(),
        kind: Kind::Connected {
            address: String::new(),
            subprotocol: String::new(),
            state: shown.state.clone(),
            interval: shown.interval,
            timeout: shown.timeout,
            replaces: 0,
        },
    }
}
