//! What is counted: handles that the parts hold, and the registry that the admin endpoint writes out.
//!
//! Names follow Prometheus: the prefix `heartwire_`, base units, `_total` for counters (added on encoding). No client id is ever a label.

use std::fmt::Debug;
use std::marker::PhantomData;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::close::Cause;
use crate::event::KindTag;

type Label = Vec<(&'static str, &'static str)>;

/// A small enum whose values are counted apart.
pub trait Counted: Copy + Debug {
    /// The place of a value among all of the enum's, in the order in which they are declared.
    fn place(self) -> usize;
}

macro_rules! counted {
    ($($name:ty),*) => {
        $(impl Counted for $name {
            fn place(self) -> usize {
                self as usize
            }
        })*
    };
}

counted!(KindTag, Cause, Handshake, Refusal, Beat, SendOutcome, MailOutcome, Resume);

/// Counters for every value of a small enum, looked up without a lock or a search and present from the start.
pub struct CounterPer<T: Counted> {
    counters: Box<[Counter]>,
    of: PhantomData<T>,
}

impl<T: Counted> CounterPer<T> {
    fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        label: &'static str,
        values: &[(T, &'static str)],
    ) -> Self {
        let family = Family::<Label, Counter>::default();
        let mut counters = vec![Counter::default(); values.len()];
        for (value, text) in values {
            counters[value.place()] = family.get_or_create_owned(&vec![(label, *text)]);
        }
        registry.register(name, help, family);
        Self { counters: counters.into(), of: PhantomData }
    }

    /// The counter of one value.
    ///
    /// # Panics
    /// Never for the values it was made with, which are all of the enum's.
    #[must_use]
    pub fn of(&self, value: T) -> &Counter {
        &self.counters[value.place()]
    }
}

/// How a handshake ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Handshake {
    /// A WebSocket, waiting to be identified.
    Upgraded,
    /// Not a WebSocket handshake, or a malformed one: 400, 405 or 426.
    BadRequest,
    /// Not HTTP at all, or over its limits.
    Malformed,
    /// The Origin is not on the list: 403.
    ForbiddenOrigin,
    /// The client id in the handshake is not allowed: 400.
    BadIdentity,
    /// Over the limit of connections: 503.
    TooMany,
    /// Over the limit of one address: 429.
    TooManyFromAddress,
    /// The node is draining: 503.
    Draining,
    /// The log cannot take newcomers: 503.
    LogFailing,
    /// Not finished in time.
    TimedOut,
    /// No TLS where TLS is spoken, or none that both know.
    TlsFailed,
}

impl Handshake {
    const ALL: [(Self, &'static str); 11] = [
        (Self::LogFailing, "log_failing"),
        (Self::Draining, "draining"),
        (Self::Upgraded, "upgraded"),
        (Self::BadRequest, "bad_request"),
        (Self::Malformed, "malformed"),
        (Self::ForbiddenOrigin, "forbidden_origin"),
        (Self::BadIdentity, "bad_identity"),
        (Self::TooMany, "too_many"),
        (Self::TooManyFromAddress, "too_many_from_address"),
        (Self::TimedOut, "timed_out"),
        (Self::TlsFailed, "tls_failed"),
    ];
}

/// Why an upgraded WebSocket never became a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// 4400, or the id-less client where ids are required.
    BadIdentity,
    /// 4410.
    IdInUse,
    /// 4429.
    Takeovers,
    /// 4411.
    IdentifyTimeout,
    /// 1013: the log did not take the event in time.
    Overloaded,
    /// 1012: the node is draining.
    Draining,
    /// 4404: it wanted to resume a session that is not there.
    SessionUnknown,
    /// It closed, was lost or broke the protocol before it was identified.
    Gone,
}

impl Refusal {
    const ALL: [(Self, &'static str); 8] = [
        (Self::BadIdentity, "bad_identity"),
        (Self::SessionUnknown, "session_unknown"),
        (Self::IdInUse, "id_in_use"),
        (Self::Takeovers, "takeovers"),
        (Self::IdentifyTimeout, "identify_timeout"),
        (Self::Overloaded, "overloaded"),
        (Self::Draining, "draining"),
        (Self::Gone, "gone"),
    ];
}

/// How a send to one connection ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SendOutcome {
    /// In the outbox.
    Accepted,
    /// Taken by the kernel.
    Written,
    /// Acknowledged by the client.
    Acked,
    /// Nobody there.
    NotConnected,
    /// The outbox was full.
    OutboxFull,
    /// The connection ended, or the deadline passed, with the frame unsent.
    Dropped,
}

impl SendOutcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Accepted, "accepted"),
        (Self::Written, "written"),
        (Self::Acked, "acked"),
        (Self::NotConnected, "not_connected"),
        (Self::OutboxFull, "outbox_full"),
        (Self::Dropped, "dropped"),
    ];
}

/// What became of a message with a time-to-live.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MailOutcome {
    /// Stored.
    Stored,
    /// Delivered; it was stored too.
    Delivered,
    /// Given up, its time being over; it was stored too.
    Expired,
    /// Not stored.
    Refused,
}

impl MailOutcome {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Stored, "stored"),
        (Self::Delivered, "delivered"),
        (Self::Expired, "expired"),
        (Self::Refused, "refused"),
    ];
}

/// Heartbeats by who sent what.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Beat {
    /// Text heartbeat from a client.
    TextIn,
    /// Ping from a client.
    PingIn,
    /// Pong from a client.
    PongIn,
    /// Text heartbeat to a client.
    TextOut,
    /// Ping to a client.
    PingOut,
}

impl Beat {
    const ALL: [(Self, &'static str); 5] = [
        (Self::TextIn, "text_in"),
        (Self::PingIn, "ping_in"),
        (Self::PongIn, "pong_in"),
        (Self::TextOut, "text_out"),
        (Self::PingOut, "ping_out"),
    ];
}

/// How a resume of a session ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resume {
    /// The session goes on.
    Resumed,
    /// There is no such session (any more).
    Unknown,
    /// The log had no room for it in time.
    Overloaded,
    /// It says that it has less than it acknowledged; the session stands.
    Refused,
}

impl Resume {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Resumed, "resumed"),
        (Self::Unknown, "unknown"),
        (Self::Overloaded, "overloaded"),
        (Self::Refused, "refused"),
    ];
}

/// How many of something there are now.
pub struct Level(Gauge);

/// One of them; dropping it takes it away.
pub struct Inside(Gauge);

impl Level {
    /// One more.
    #[must_use]
    pub fn enter(&self) -> Inside {
        self.0.inc();
        Inside(self.0.clone())
    }

    /// How many there are.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Gauges that are read from the parts when somebody looks, rather than kept up to date.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Connections that are ALIVE.
    pub alive: i64,
    /// Connections that are SUSPECT.
    pub suspect: i64,
    /// Frames waiting in all outboxes.
    pub outbox_frames: i64,
    /// Payload bytes waiting in all outboxes.
    pub outbox_bytes: i64,
    /// Events kept.
    pub log_events: i64,
    /// Bytes kept.
    pub log_bytes: i64,
    /// Whether the log commits: 1, or 0 while it fails.
    pub log_healthy: i64,
    /// Whether it commits, but is not kept up: 1, or 0 while it is.
    pub log_ailing: i64,
    /// Age of the oldest event kept, in seconds.
    pub oldest_event_seconds: f64,
    /// Messages in all mailboxes.
    pub mailbox_messages: i64,
    /// Bytes in all mailboxes, as their bounds count them.
    pub mailbox_bytes: i64,
    /// Open `Subscribe` streams.
    pub subscribers: i64,
    /// How many events the furthest behind of them is behind.
    pub subscriber_lag: i64,
}

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $field:ident: $type:ty,)*) => {
        /// Every handle. Made once, shared by reference.
        pub struct Metrics {
            registry: Registry,
            gauges: ReadingGauges,
            $($(#[doc = $doc])* pub $field: $type,)*
        }
    };
}

metrics! {
    /// Events committed, by kind.
    events: CounterPer<KindTag>,
    /// From submitting an event to its being visible to readers, in seconds.
    commit_seconds: Histogram,
    /// Syncs of the journal's files.
    journal_syncs: Counter,
    /// How long such a sync takes, in seconds.
    journal_sync_seconds: Histogram,
    /// Failures to write, to sync, to set space aside or to keep the directory up.
    journal_failures: Counter,
    /// Connections ended, by cause.
    disconnects: CounterPer<Cause>,
    /// Handshakes, by outcome.
    handshakes: CounterPer<Handshake>,
    /// WebSockets closed before they became connections, by reason.
    refusals: CounterPer<Refusal>,
    /// Heartbeats, by kind and direction.
    heartbeats: CounterPer<Beat>,
    /// Sends to one connection, by outcome.
    sends: CounterPer<SendOutcome>,
    /// Messages with a time-to-live, by what became of them.
    mail: CounterPer<MailOutcome>,
    /// Attempts to resume a session, by outcome.
    resumes: CounterPer<Resume>,
    /// Sessions without a socket that may still be resumed.
    detached: Level,
    /// Payload bytes received from clients.
    received_bytes: Counter,
    /// Payload bytes written to clients.
    sent_bytes: Counter,
    /// Sweeps that found the process had stood still.
    frozen: Counter,
    /// accept() failures.
    accept_errors: Counter,
    /// TCP connections accepted by the gRPC listener.
    grpc_connections: Counter,
    /// Events handed to subscribers.
    delivered: Counter,
    /// Subscribe streams that ended, with anything but a cancelled call.
    subscriptions_ended: Counter,
}

struct ReadingGauges {
    connections: Family<Label, Gauge>,
    outbox_frames: Gauge,
    outbox_bytes: Gauge,
    mailbox_messages: Gauge,
    mailbox_bytes: Gauge,
    log_events: Gauge,
    log_bytes: Gauge,
    log_healthy: Gauge,
    log_ailing: Gauge,
    oldest_event: Gauge<f64, std::sync::atomic::AtomicU64>,
    subscribers: Gauge,
    subscriber_lag: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("heartwire");
        let r = &mut registry;
        let gauges = ReadingGauges::register(r);
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("build", "The version that runs", version);
        let self_named = Gauge::<i64>::default();
        // Neither tokens nor an authorizer exist in this release.
        self_named.set(1);
        r.register("identity_self_named", "1 where clients name themselves and nothing checks it", self_named);
        let detached = Gauge::<i64>::default();
        r.register("detached_sessions", "Sessions whose socket is lost and that may be resumed", detached.clone());
        let kinds = KindTag::ALL.map(|kind| (kind, kind.as_str()));
        let causes = Cause::ALL.map(|cause| (cause, cause.as_str()));
        let commit_seconds = Histogram::new(exponential_buckets(0.000_01, 2.0, 20));
        r.register_with_unit(
            "event_commit",
            "From submitting an event to its being visible to readers",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let journal_sync_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        r.register_with_unit(
            "journal_sync",
            "Syncs of the log's files, with a data directory",
            Unit::Seconds,
            journal_sync_seconds.clone(),
        );
        Self {
            events: CounterPer::register(r, "events", "Events committed, by kind", "kind", &kinds),
            commit_seconds,
            journal_syncs: counter(r, "journal_syncs", "Syncs of the log's files, with a data directory"),
            journal_sync_seconds,
            journal_failures: counter(
                r,
                "journal_failures",
                "Failures to write or sync the log's files, to set space aside for them, to write a checkpoint or to remove old ones; each is tried again",
            ),
            disconnects: CounterPer::register(r, "disconnects", "Connections ended, by cause", "cause", &causes),
            handshakes: CounterPer::register(
                r,
                "handshakes",
                "WebSocket handshakes, by outcome",
                "outcome",
                &Handshake::ALL,
            ),
            refusals: CounterPer::register(
                r,
                "refusals",
                "WebSockets closed before they became connections, by reason",
                "reason",
                &Refusal::ALL,
            ),
            heartbeats: CounterPer::register(r, "heartbeats", "Heartbeats, by kind and direction", "kind", &Beat::ALL),
            sends: CounterPer::register(
                r,
                "sends",
                "Sends to one connection, by outcome; a written one was accepted too, an acked one written",
                "outcome",
                &SendOutcome::ALL,
            ),
            mail: CounterPer::register(
                r,
                "mail",
                "Messages with a time-to-live, by what became of them; a delivered or expired one was stored too",
                "outcome",
                &MailOutcome::ALL,
            ),
            resumes: CounterPer::register(
                r,
                "resumes",
                "Attempts to resume a session of the reliable subprotocol, by outcome",
                "outcome",
                &Resume::ALL,
            ),
            detached: Level(detached),
            received_bytes: counter(r, "received_bytes", "Payload bytes of business messages from clients"),
            sent_bytes: counter(r, "sent_bytes", "Payload bytes written to clients for backends"),
            frozen: counter(r, "frozen", "Times that the process was found to have stood still for over a second"),
            accept_errors: counter(
                r,
                "accept_errors",
                "Failures to accept a TCP connection, such as running out of descriptors",
            ),
            grpc_connections: counter(r, "grpc_connections", "TCP connections accepted by the gRPC listener"),
            delivered: counter(r, "delivered_events", "Events handed to subscribers"),
            subscriptions_ended: counter(
                r,
                "subscriptions_ended",
                "Subscribe streams that Heartwire ended with an error status",
            ),
            gauges,
            registry,
        }
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

impl ReadingGauges {
    fn register(registry: &mut Registry) -> Self {
        let gauges = Self {
            connections: Family::default(),
            outbox_frames: Gauge::default(),
            outbox_bytes: Gauge::default(),
            mailbox_messages: Gauge::default(),
            mailbox_bytes: Gauge::default(),
            log_events: Gauge::default(),
            log_bytes: Gauge::default(),
            log_healthy: Gauge::default(),
            log_ailing: Gauge::default(),
            oldest_event: Gauge::default(),
            subscribers: Gauge::default(),
            subscriber_lag: Gauge::default(),
        };
        registry.register("connections", "Connections now, by state", gauges.connections.clone());
        registry.register(
            "outbox_frames",
            "Frames waiting to be written, over all connections",
            gauges.outbox_frames.clone(),
        );
        registry.register(
            "outbox_bytes",
            "Payload bytes waiting to be written, over all connections",
            gauges.outbox_bytes.clone(),
        );
        registry.register(
            "mailbox_messages",
            "Messages with a time-to-live in all mailboxes",
            gauges.mailbox_messages.clone(),
        );
        registry.register(
            "mailbox_bytes",
            "Bytes of messages in all mailboxes, with what is counted for each message",
            gauges.mailbox_bytes.clone(),
        );
        registry.register("log_events", "Events kept in the log", gauges.log_events.clone());
        registry.register("log_bytes", "Bytes that the log keeps", gauges.log_bytes.clone());
        registry.register(
            "log_healthy",
            "1 while the log commits, 0 while it cannot and newcomers are refused",
            gauges.log_healthy.clone(),
        );
        registry.register(
            "log_ailing",
            "1 while the log commits, but a checkpoint, a spare segment or the removal of old files fails or hangs; /readyz says which",
            gauges.log_ailing.clone(),
        );
        registry.register("log_oldest_event_age_seconds", "Age of the oldest event kept", gauges.oldest_event.clone());
        registry.register("subscribers", "Open Subscribe streams", gauges.subscribers.clone());
        registry.register(
            "subscriber_lag_events",
            "How many events the slowest subscriber is behind the head",
            gauges.subscriber_lag.clone(),
        );
        gauges
    }
}

impl Metrics {
    /// Everything in the OpenMetrics text format, with the gauges of `reading`.
    ///
    /// # Errors
    /// Only if a value cannot be formatted.
    pub fn encode(&self, reading: Reading) -> Result<String, std::fmt::Error> {
        let g = &self.gauges;
        g.connections.get_or_create_owned(&vec![("state", "alive")]).set(reading.alive);
        g.connections.get_or_create_owned(&vec![("state", "suspect")]).set(reading.suspect);
        g.outbox_frames.set(reading.outbox_frames);
        g.outbox_bytes.set(reading.outbox_bytes);
        g.mailbox_messages.set(reading.mailbox_messages);
        g.mailbox_bytes.set(reading.mailbox_bytes);
        g.log_events.set(reading.log_events);
        g.log_bytes.set(reading.log_bytes);
        g.log_healthy.set(reading.log_healthy);
        g.log_ailing.set(reading.log_ailing);
        g.oldest_event.set(reading.oldest_event_seconds);
        g.subscribers.set(reading.subscribers);
        g.subscriber_lag.set(reading.subscriber_lag);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
