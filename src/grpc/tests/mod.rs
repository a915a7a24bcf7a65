//! The services over real HTTP/2, with a log in memory and clients that exist only in the registry.

mod batches;
mod connections;
mod consumers;
mod filters;
mod listing;
mod mail;
mod nodes;
mod repeats;
mod send_streams;
mod sends;
mod serving;
mod shutdown;
mod snapshots;
mod starts;
mod steering;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::intake::Intake;
use super::server::{Ended, Front, serve_connection};
use super::{Deps, DrainDefaults, Limits, Listener, Node, Routes, Services, Serving, serve};
use crate::clock::Clock;
use crate::dispatch::Dispatch;
use crate::drain::Drain;
use crate::heartbeat::Cadence;
use crate::ids::ClientId;
use crate::log::{Log as _, MemoryLog, Retention};
use crate::mailbox::{self, Mailboxes};
use crate::metrics::Metrics;
use crate::outbox::{OutboxLimits, Written};
use crate::pb;
use crate::pb::connection_service_client::ConnectionServiceClient;
use crate::pb::event_service_client::EventServiceClient;
use crate::pb::message_service_client::MessageServiceClient;
use crate::pb::node_service_client::NodeServiceClient;
use crate::pb::subscribe_request::Start;
use crate::position::Offset;
use crate::registry::{Duplicates, JoinError, Newcomer, Registration, Registry, Settings};
use crate::shutdown::Closing;
use crate::store::Store;

/// What a test may want otherwise.
#[derive(Clone)]
struct Options {
    log_bytes: usize,
    outbox: OutboxLimits,
    cadence: Cadence,
    duplicates: Duplicates,
    limits: Limits,
    mail: mailbox::Limits,
    trust_self_named: bool,
    /// Whether what is submitted is committed; otherwise the test does it.
    commits: bool,
    /// What outlives the node; otherwise one that does not.
    store: Option<Store>,
    /// The log of another rig, as a journal is that of the run before.
    log: Option<Arc<MemoryLog>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_bytes: 64 << 20,
            outbox: OutboxLimits { frames: 16, bytes: 64 << 10 },
            cadence: Cadence { interval: 30_000, timeout: 60_000 },
            duplicates: Duplicates::Replace,
            limits: Limits { max_subscribers: 100, max_snapshots: 16 },
            mail: mailbox::Limits { max_messages: 10, max_bytes: 64 << 10, max_total_bytes: 1 << 20 },
            trust_self_named: true,
            commits: true,
            store: None,
            log: None,
        }
    }
}

/// A node without WebSockets.
struct Rig {
    registry: Arc<Registry>,
    log: Arc<MemoryLog>,
    metrics: Arc<Metrics>,
    closing: Closing,
    drain: Arc<Drain>,
    services: Services,
    stop: CancellationToken,
    /// Stops what runs beside the server.
    rest: CancellationToken,
    channel: Channel,
    serving: Option<JoinHandle<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.rest.cancel();
        self.closing.end_now();
    }
}

impl Rig {
    /// Over TCP.
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let (mut rig, routes) = Self::parts(options);
        let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound");
        let address = listener.local_address().expect("TCP");
        let serving =
            Serving { routes, closing: rig.closing.clone(), stop: rig.stop.clone(), metrics: Arc::clone(&rig.metrics) };
        rig.serving = Some(tokio::spawn(serve(listener, serving)));
        rig.channel = Endpoint::from_shared(format!("http://{address}")).expect("a URI").connect_lazy();
        rig
    }

    /// Over a pipe in memory, so that time can be paused: the kernel is no part of it.
    fn paused(options: Options) -> Self {
        let (mut rig, routes) = Self::parts(options);
        let front = Front { routes, closing: rig.closing.clone(), intake: Intake::default() };
        let ended = Ended { stop: rig.stop.clone(), now: rig.closing.now().clone() };
        let connector = tower::service_fn(move |_| {
            let (front, ended) = (front.clone(), ended.clone());
            let (ours, theirs) = tokio::io::duplex(16 << 10);
            tokio::spawn(serve_connection(theirs, front, ended));
            async move { Ok::<_, std::io::Error>(TokioIo::new(ours)) }
        });
        // A small window, so that who does not read is soon noticed.
        let endpoint = Endpoint::from_static("http://in.memory").initial_stream_window_size(64 << 10);
        rig.channel = endpoint.connect_with_connector_lazy(connector);
        rig
    }

    fn parts(options: Options) -> (Self, Routes) {
        let (clock, metrics) = (Clock::default(), Arc::new(Metrics::default()));
        let retention = Retention { max_bytes: options.log_bytes, max_age: None };
        let new_log = || Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
        let log = options.log.unwrap_or_else(new_log);
        let settings = Settings {
            node_id: "test-node".into(),
            cadence: options.cadence,
            quiet: true,
            duplicates: options.duplicates,
            takeovers_per_minute: 0,
            outbox: options.outbox,
        };
        let registry = Arc::new(Registry::new(Arc::clone(&log) as _, clock, settings, Arc::clone(&metrics)));
        let rest = CancellationToken::new();
        if options.commits {
            let (log, registry, rest) = (Arc::clone(&log), Arc::clone(&registry), rest.clone());
            tokio::spawn(async move { log.run(&*registry, rest).await });
        }
        let store = options.store.unwrap_or_else(|| Store::in_memory().expect("a store"));
        let mail = mailbox::Settings { limits: options.mail, trust_self_named: options.trust_self_named };
        let mailboxes = Mailboxes::open(store.clone(), Arc::clone(&registry), mail, Arc::clone(&metrics));
        let mailboxes = mailboxes.expect("an empty store");
        let (kept, token) = (mailboxes.clone(), rest.clone());
        tokio::spawn(async move { kept.run(token).await });
        let (closing, drain) = (Closing::default(), Drain::new(Arc::clone(&registry)));
        let services = Services::new(Deps {
            registry: Arc::clone(&registry),
            dispatch: Dispatch::new(Arc::clone(&registry), Arc::clone(&metrics)),
            mailboxes,
            store,
            metrics: Arc::clone(&metrics),
            drain: Arc::clone(&drain),
            closing: closing.clone(),
            node: Node {
                incarnation: "run-1".into(),
                start_time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000),
                max_connections: 77,
            },
            limits: options.limits,
            drain_defaults: DrainDefaults {
                deadline: Duration::from_secs(10),
                close_rate: 0,
                reconnect_jitter: Duration::from_secs(5),
            },
        });
        let routes = services.routes().expect("descriptors");
        let channel = Endpoint::from_static("http://nowhere").connect_lazy();
        let stop = CancellationToken::new();
        let rig = Self { registry, log, metrics, closing, drain, services, stop, rest, channel, serving: None };
        (rig, routes)
    }

    fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel.clone())
    }

    fn messages(&self) -> MessageServiceClient<Channel> {
        MessageServiceClient::new(self.channel.clone())
    }

    fn nodes(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone())
    }

    async fn join(&self, client: &str) -> Registration {
        self.try_join(client).await.expect("joined")
    }

    async fn try_join(&self, client: &str) -> Result<Registration, JoinError> {
        let client_id = (!client.is_empty()).then(|| ClientId::named(client).expect("an id"));
        let remote_address = Some("192.0.2.1:4000".parse().expect("an address"));
        self.registry.join(Newcomer { client_id, remote_address, subprotocol: "" }).await
    }

    fn mailbox_messages(&self) -> i64 {
        let mut reading = crate::metrics::Reading::default();
        self.services.shared.mailboxes.read_gauges(&mut reading);
        reading.mailbox_messages
    }

    fn head(&self) -> Offset {
        self.log.bounds().head
    }

    fn cursor(&self, offset: Offset) -> String {
        self.registry.position(offset).to_cursor()
    }

    async fn subscribe(&self, request: pb::SubscribeRequest) -> Result<Stream, Status> {
        Ok(Stream(self.events().subscribe(request).await?.into_inner()))
    }

    /// A stream that is expected to begin.
    async fn stream(&self, start: Start, filter: Option<pb::EventFilter>) -> Stream {
        self.subscribe(from(start, filter)).await.expect("subscribed")
    }
}

fn from(start: Start, filter: Option<pb::EventFilter>) -> pb::SubscribeRequest {
    pb::SubscribeRequest { start: Some(start), filter, ..Default::default() }
}

const SNAPSHOT: Start = Start::Snapshot(pb::SnapshotStart {});
const NOW: Start = Start::Now(pb::NowStart {});
const BEGINNING: Start = Start::Beginning(pb::BeginningStart {});

/// A subscriber.
struct Stream(Streaming<pb::SubscribeResponse>);

impl Stream {
    /// The next response, which comes in time.
    async fn next(&mut self) -> Result<pb::SubscribeResponse, Status> {
        let response = tokio::time::timeout(Duration::from_secs(60), self.0.message()).await.expect("in time")?;
        Ok(response.expect("the stream goes on"))
    }

    /// The events up to an offset, of news; all that came on the way.
    async fn until(&mut self, cursor: &str) -> Vec<pb::Event> {
        let mut events = Vec::new();
        loop {
            let response = self.next().await.expect("no error");
            events.extend(response.events);
            if response.cursor == cursor {
                return events;
            }
        }
    }

    /// So many events.
    async fn events(&mut self, count: usize) -> Vec<pb::Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.expect("no error").events);
        }
        assert_eq!(events.len(), count);
        events
    }

    /// The error that it ends with, after what came before it.
    async fn error(&mut self) -> Status {
        loop {
            if let Err(error) = self.next().await {
                return error;
            }
        }
    }
}

/// Checks code, reason and domain; answers the details.
#[track_caller]
fn assert_error(status: &Status, code: Code, reason: &str) -> ErrorDetails {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (code, reason, "heartwire"), "{status:?}");
    details
}

/// Checks that a field is refused.
#[track_caller]
fn assert_field(status: &Status, field: &str) {
    let details = assert_error(status, Code::InvalidArgument, "FIELD_INVALID");
    let violations = &details.bad_request().expect("a BadRequest").field_violations;
    assert_eq!(violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(), [field]);
    assert!(!violations[0].description.is_empty());
}

fn client(id: &str) -> Option<pb::Target> {
    Some(pb::Target { target: Some(pb::target::Target::ClientId(id.into())) })
}

fn connection(registration: &Registration) -> Option<pb::Target> {
    let id = registration.connection().info().connection_id.to_string();
    Some(pb::Target { target: Some(pb::target::Target::ConnectionId(id)) })
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn text(bytes: &str) -> crate::event::Payload {
    crate::event::Payload::Text(bytes::Bytes::copy_from_slice(bytes.as_bytes()))
}

/// Does what a driver does with what waits: takes it, and tells that it was written. Answers the payloads.
fn write_out(registration: &Registration) -> Vec<bytes::Bytes> {
    let outbox = &registration.connection().outbox;
    let frames = std::iter::from_fn(|| outbox.pop(Instant::now()).0);
    let written = frames.map(|frame| {
        if let Some(receipt) = frame.receipt {
            let _ = receipt.send(Written::Yes);
        }
        frame.payload.bytes().clone()
    });
    written.collect()
}

/// Waits until something holds, which others bring about.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
