//! Connections from the handshake to the end, over real framing and in-memory pipes on paused time. What happened is read from the log.

mod beats;
mod client;
mod closing;
mod duplicates;
mod guards;
mod heartbeat;
mod identity;
mod lines;
mod messages;
mod outbox;
mod rates;
mod reliable;
mod resume;
mod scripts;
mod several;
mod stalled_log;
mod torn_writes;
mod violations;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::client::{Client, Raw};
use super::{Admissions, ConnectionSettings, FrameSocket, Handshaken, Host, Rates, ServerBeat, run};
use crate::clock::Clock;
use crate::dispatch::{Accepted, Caller, Dispatch, Failure, Outgoing, SendError, Stage};
use crate::event::{ConnectionInfo, EventKind, KindTag, Payload, Record, Replaces, Stats};
use crate::heartbeat::Cadence;
use crate::ids::{ClientId, ConnectionId};
use crate::log::{Log, MemoryLog, Retention};
use crate::metrics::Metrics;
use crate::outbox::OutboxLimits;
use crate::registry::{Duplicates, Registry, Settings, Target};
use crate::ws::WsSocket;

/// What a pipe holds that stands for a client's and a server's kernel buffers.
const PIPE: usize = 64 * 1024;

const PLACES: usize = 200;

const SECOND: Duration = Duration::from_secs(1);

/// Everything that can be configured, beginning with the defaults.
struct Options {
    connection: ConnectionSettings,
    registry: Settings,
    places: usize,
}

/// A node without its listeners.
struct World {
    host: Arc<Host>,
    registry: Arc<Registry>,
    log: Arc<MemoryLog>,
    dispatch: Dispatch,
    admissions: Admissions,
    places: usize,
    start: Instant,
    commits: Option<(CancellationToken, JoinHandle<()>)>,
    /// Ends the sweeps with the world, for a test may make many.
    _sweeps: DropGuard,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some((stop, _)) = &self.commits {
            stop.cancel();
        }
    }
}

fn options() -> Options {
    Options {
        connection: ConnectionSettings {
            identify_timeout: 10 * SECOND,
            write_timeout: 10 * SECOND,
            resume_window: 30 * SECOND,
            assign_ids: true,
            server_beat: ServerBeat::Auto,
            any_frame_counts: true,
            rates: Rates { messages: 100, bytes: 256 * 1024 },
            max_message: 64 * 1024,
            uncommitted: 256 * 1024,
            reconnect_jitter: 5 * SECOND,
        },
        registry: Settings {
            node_id: "node".into(),
            cadence: Cadence::new(30 * SECOND, 60 * SECOND),
            quiet: false,
            duplicates: Duplicates::Replace,
            takeovers_per_minute: 5,
            outbox: OutboxLimits { frames: 1024, bytes: 1 << 20 },
        },
        places: PLACES,
    }
}

impl World {
    fn new(configure: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        configure(&mut options);
        options.registry.quiet = options.connection.server_beat == ServerBeat::Off;
        let start = Instant::now();
        // Wall time follows paused time, so that the times of events can be told exactly.
        let clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 30) + start.elapsed());
        let metrics = Arc::new(Metrics::default());
        let retention = Retention { max_bytes: 1 << 30, max_age: None };
        let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let as_log = Arc::clone(&log) as Arc<dyn Log>;
        let registry = Arc::new(Registry::new(as_log, clock, options.registry, Arc::clone(&metrics)));
        let host = Arc::new(Host {
            registry: Arc::clone(&registry),
            settings: options.connection,
            metrics: Arc::clone(&metrics),
            sessions: Arc::default(),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        });
        let sweeper = Arc::clone(&registry);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { sweeper.run_sweeps(stopped).await });
        let dispatch = Dispatch::new(Arc::clone(&registry), metrics);
        let places = options.places;
        let admissions = Admissions::new(places, 0);
        let mut world = Self {
            host,
            registry,
            log,
            dispatch,
            admissions,
            places,
            start,
            commits: None,
            _sweeps: stop.drop_guard(),
        };
        world.resume_commits();
        world
    }

    fn resume_commits(&mut self) {
        let stop = CancellationToken::new();
        let (log, registry, stopped) = (Arc::clone(&self.log), Arc::clone(&self.registry), stop.clone());
        let task = tokio::spawn(async move { log.run(&*registry, stopped).await });
        self.commits = Some((stop, task));
    }

    /// From now on nothing that is submitted is committed.
    async fn stall_commits(&mut self) {
        let (stop, task) = self.commits.take().expect("commits are running");
        stop.cancel();
        task.await.expect("the log's task ends well");
    }

    /// Has the server run a connection over any socket.
    fn serve(&self, socket: impl FrameSocket, named: Option<&str>) -> JoinHandle<()> {
        self.serve_as(socket, named, false)
    }

    fn serve_as(&self, socket: impl FrameSocket, named: Option<&str>, reliable: bool) -> JoinHandle<()> {
        let admission = self.admissions.admit([127, 0, 0, 1].into(), reliable).expect("a place");
        let client_id = named.map(|id| ClientId::chosen(id).expect("a good id"));
        let handshaken = Handshaken { client_id, remote_address: SocketAddr::from(([127, 0, 0, 1], 4711)), reliable };
        self.host.tasks.spawn(run(Arc::clone(&self.host), socket, handshaken, admission))
    }

    /// The client's end of a new connection whose pipe holds so many bytes each way.
    fn open(&self, named: Option<&str>, pipe: usize) -> DuplexStream {
        let (ours, theirs) = duplex(pipe);
        self.serve(WsSocket::new(ours, &[], self.host.settings.max_message), named);
        theirs
    }

    /// A well-behaved client that has yet to say who it is.
    async fn stranger(&self) -> Client {
        Client::new(self.open(None, PIPE)).await
    }

    /// A well-behaved client, named in the handshake and connected.
    async fn client(&self, name: &str) -> Client {
        let client = Client::new(self.open(Some(name), PIPE)).await;
        settle().await;
        client
    }

    /// A client that speaks bytes rather than frames, named in the handshake and connected.
    async fn raw(&self, name: &str) -> Raw {
        let raw = Raw::new(self.open(Some(name), PIPE));
        settle().await;
        raw
    }

    fn records(&self) -> Vec<Arc<Record>> {
        let mut all = Vec::new();
        let mut after = self.log.bounds().before_oldest;
        loop {
            let batch = futures_util::FutureExt::now_or_never(self.log.read(after));
            let batch = batch.expect("a log in memory never waits").expect("nothing is forgotten");
            let Some(last) = batch.last() else { return all };
            after = last.offset;
            all.extend(batch);
        }
    }

    /// What the log says, a line an event, once everything has come to rest.
    async fn told(&self) -> Vec<String> {
        settle().await;
        self.records().iter().map(|record| line(record)).collect()
    }

    /// When events of a kind happened, in milliseconds since the world began.
    fn times(&self, kind: KindTag) -> Vec<u64> {
        let of_kind = self.records().into_iter().filter(|record| record.event.kind.tag() == kind);
        of_kind.map(|record| (record.event.time / 1_000_000) as u64 - (1u64 << 30) * 1_000).collect()
    }

    fn count(&self, kind: KindTag) -> usize {
        self.records().iter().filter(|record| record.event.kind.tag() == kind).count()
    }

    fn messages(&self) -> Vec<Payload> {
        let payload = |record: &Arc<Record>| match &record.event.kind {
            EventKind::MessageReceived(payload) => Some(payload.clone()),
            _ => None,
        };
        self.records().iter().filter_map(payload).collect()
    }

    /// What is observed of a client that is connected.
    fn stats(&self, name: &str) -> Stats {
        self.registry.get(&target(name)).0[0].stats.expect("a connection of this node")
    }

    /// Puts a text in a client's outbox.
    fn send(&self, name: &str, text: &str) -> Result<Accepted, SendError> {
        self.dispatch.accept(&Self::outgoing(name, text))
    }

    /// The stage that a message reached, and why no further, as far as is known now.
    async fn outcome(&self, accepted: Accepted) -> (Option<Stage>, Option<Failure>) {
        let deliveries = self.dispatch.settle(accepted, Duration::ZERO).await.expect("not expired").deliveries;
        (deliveries[0].stage, deliveries[0].failure)
    }

    fn outgoing(name: &str, text: &str) -> Outgoing {
        let payload = Payload::Text(Bytes::copy_from_slice(text.as_bytes()));
        Outgoing {
            target: target(name),
            payload,
            written: true,
            acked: false,
            id: None,
            caller: Caller::ANYONE,
            deadline: None,
            if_generation: None,
            at_once: true,
        }
    }

    async fn kick(&self, name: &str, code: u16, reason: &str) {
        self.registry.disconnect(&target(name), code, reason, None).await.expect("disconnected");
    }

    /// With every client gone: no task, no place, no room in the log and no entry in the fold is left, and every connection's
    /// story is whole.
    async fn rests(self) {
        self.host.tasks.close();
        tokio::time::timeout(3 * SECOND, self.host.tasks.wait()).await.expect("every task ends");
        settle().await;
        assert_eq!(self.registry.count(), 0, "the fold is empty");
        assert!(self.host.sessions.is_empty(), "no session is left");
        assert_eq!(self.host.metrics.detached.get(), 0, "nor one without a socket");
        assert!(self.log.budget().is_whole(), "the log's room is free");
        let places: Vec<_> =
            (0..self.places).map(|_| self.admissions.admit([127, 0, 0, 1].into(), false).ok()).collect();
        assert!(places.iter().all(Option::is_some), "every place is free");
        let mut open: HashMap<ConnectionId, bool> = HashMap::new();
        let mut owners: HashMap<ClientId, Vec<ConnectionId>> = HashMap::new();
        let most = match self.registry.settings().duplicates {
            Duplicates::Allow { most } => most,
            Duplicates::Replace | Duplicates::Reject => 1,
        };
        for record in self.records() {
            let ConnectionInfo { connection_id: id, client_id, .. } = &*record.event.connection;
            match record.event.kind {
                EventKind::Connected(_) => {
                    assert_eq!(open.insert(*id, true), None, "connected once");
                    let owners = owners.entry(client_id.clone()).or_default();
                    owners.push(*id);
                    assert!(owners.len() <= most, "too many owners");
                }
                EventKind::Disconnected(_) => {
                    assert_eq!(open.insert(*id, false), Some(true), "ended once");
                    let owners = owners.get_mut(client_id).expect("an owner");
                    let at = owners.iter().position(|owner| owner == id);
                    owners.remove(at.expect("by its owner"));
                }
                _ => assert_eq!(open.get(id), Some(&true), "nothing before the beginning or after the end"),
            }
        }
        assert!(open.values().all(|open| !open), "every connection has ended");
    }
}

fn target(name: &str) -> Target {
    Target::Client(ClientId::named(name).expect("a good id"))
}

/// A client of the reliable subprotocol, which counts what it sends and gets.
struct Speaker {
    client: Client,
    /// The server's newest `hello`.
    hello: Value,
    /// The number of the last message that it sent.
    sent: u64,
    /// The number of the last message that it got.
    received: u64,
}

impl Speaker {
    async fn say(&mut self, envelope: Value) {
        self.client.text(&envelope.to_string()).await;
    }

    /// Sends the next message.
    async fn message(&mut self, text: &str) {
        self.sent += 1;
        self.say(json!({"type": "message", "seq": self.sent, "text": text})).await;
    }

    async fn ack(&mut self, received: u64) {
        self.say(json!({"type": "ack", "received": received})).await;
    }

    /// The next envelope.
    async fn hears(&mut self) -> Value {
        serde_json::from_str(&self.client.hears().await).expect("JSON")
    }

    /// The next envelope that is no heartbeat.
    async fn hears_more(&mut self) -> Value {
        loop {
            let envelope = self.hears().await;
            if envelope["type"] != "heartbeat" {
                return envelope;
            }
        }
    }

    /// The text of the next message, which must have the next number.
    async fn hears_message(&mut self) -> String {
        loop {
            let envelope = self.hears_more().await;
            if envelope["type"] == "ack" {
                continue;
            }
            assert_eq!((&envelope["type"], &envelope["seq"]), (&json!("message"), &json!(self.received + 1)));
            self.received += 1;
            return envelope["text"].as_str().expect("a text").to_owned();
        }
    }

    /// Waits for an acknowledgement of so many messages.
    async fn is_acked(&mut self, upto: u64) {
        while self.hears().await["received"] != upto {}
    }

    /// Reads to the end: the envelopes but heartbeats that still came, and the Close.
    async fn hears_out(&mut self) -> (Vec<Value>, Option<(u16, String)>) {
        let (texts, close) = self.client.hears_out().await;
        let envelopes = texts.iter().map(|text| serde_json::from_str::<Value>(text).expect("JSON"));
        (envelopes.filter(|envelope| envelope["type"] != "heartbeat").collect(), close)
    }

    /// Reads to the end, which is a Close after an `error` of this code.
    async fn is_told(&mut self, code: &str) -> u16 {
        let (envelopes, close) = self.hears_out().await;
        let close = close.expect("a Close");
        let last = envelopes.last().expect("an error");
        assert_eq!((&last["type"], &last["code"]), (&json!("error"), &json!(code)), "{last}");
        assert_eq!(last["message"], close.1, "the same reason");
        close.0
    }

    fn session(&self) -> String {
        self.hello["session"].as_str().expect("a session").to_owned()
    }

    fn resume(&self) -> Value {
        json!({"type": "resume", "session": self.session(), "received": self.received})
    }
}

impl World {
    /// A client that has agreed on the reliable subprotocol and has yet to speak.
    async fn mute(&self, named: Option<&str>) -> Speaker {
        let (ours, theirs) = duplex(PIPE);
        self.serve_as(WsSocket::new(ours, &[], self.host.settings.max_message), named, true);
        Speaker { client: Client::new(theirs).await, hello: Value::Null, sent: 0, received: 0 }
    }

    /// A client with a new session.
    async fn speaker(&self, name: &str) -> Speaker {
        let mut speaker = self.mute(Some(name)).await;
        speaker.say(json!({"type": "hello"})).await;
        speaker.hello = speaker.hears().await;
        assert_eq!((&speaker.hello["type"], &speaker.hello["resumed"]), (&json!("hello"), &json!(false)));
        speaker
    }

    /// The same session on another socket, whatever becomes of the old one; it goes on sending after what the server has.
    async fn resumed(&self, old: &Speaker) -> Speaker {
        let mut speaker = self.mute(None).await;
        speaker.say(old.resume()).await;
        speaker.hello = speaker.hears().await;
        assert_eq!((&speaker.hello["type"], &speaker.hello["resumed"]), (&json!("hello"), &json!(true)));
        assert_eq!(speaker.hello["connection_id"], old.hello["connection_id"], "the same connection");
        speaker.sent = speaker.hello["received"].as_u64().expect("a number");
        speaker.received = old.received;
        speaker
    }

    /// Puts a text with an id in a client's outbox, to be told of its acknowledgement.
    fn send_acked(&self, name: &str, id: &str, text: &str) -> Result<Accepted, SendError> {
        self.dispatch.accept(&Outgoing { acked: true, id: Some(id.into()), ..Self::outgoing(name, text) })
    }

    /// What the end of the last connection tells of unacknowledged messages: their ids and how many.
    fn unacked(&self) -> (Vec<String>, u64) {
        let records = self.records();
        let mut ends = records.iter().rev().filter_map(|record| match &record.event.kind {
            EventKind::Disconnected(end) => Some(&end.unacked),
            _ => None,
        });
        let last = ends.next().expect("an end");
        (last.ids.iter().map(ToString::to_string).collect(), last.count)
    }
}

/// Lets every task do what it can do now: paused time moves on only when all of them wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

async fn pass(span: Duration) {
    tokio::time::sleep(span).await;
}

/// One event as a line; `~` stands for an id that was rightly assigned.
fn line(record: &Record) -> String {
    let info = &record.event.connection;
    let who = match info.client_id.as_str() {
        assigned if assigned == format!("~{}", info.connection_id) => "~",
        other => other,
    };
    match &record.event.kind {
        EventKind::Connected(connected) if !matches!(connected.replaces, Replaces::Nothing) => {
            format!("{who} connected, replacing")
        }
        EventKind::Connected(_) => format!("{who} connected"),
        EventKind::MessageReceived(Payload::Text(text)) => format!("{who} said {}", String::from_utf8_lossy(text)),
        EventKind::MessageReceived(Payload::Binary(bytes)) => format!("{who} sent {bytes:?}"),
        EventKind::Suspected { socket_lost: true, .. } => format!("{who} lost its socket"),
        EventKind::Recovered { resumed: true, .. } => format!("{who} resumed"),
        EventKind::Disconnected(end) => format!("{who} gone: {} {} {}", end.cause.as_str(), end.code, end.reason),
        other => format!("{who} {}", other.tag().as_str()),
    }
}
