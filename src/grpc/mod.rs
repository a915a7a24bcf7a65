//! The control plane: what backends call over gRPC. One file a service; generated types stop here.

mod arguments;
mod at_once;
mod batch;
mod call;
mod connections;
mod consumers;
mod convert;
mod encode;
mod error;
mod event_batch;
mod events;
mod fields;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod intake;
mod leases;
mod listener;
mod messages;
mod nodes;
mod page;
mod preface;
mod routes;
mod send_stream;
mod server;
mod snapshot;
mod subscribe;
mod subscribers;
mod subscription;
#[cfg(test)]
mod tests;

pub use error::DOMAIN;
pub use health::Health;
pub use listener::{Listener, UnixSocket};
pub use routes::{Answering, Routes};
pub use server::{MAX_CONNECTIONS, ServeError, Serving, serve};
pub use subscribers::Subscribers;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::consumers::Consumers;
use crate::dispatch::Dispatch;
use crate::drain::Drain;
use crate::mailbox::Mailboxes;
use crate::metrics::Metrics;
use crate::pb;
use crate::registry::Registry;
use crate::shutdown::Closing;
use crate::store::Store;

/// A request may be this much larger than the payload in it.
const REQUEST_OVERHEAD: usize = 64 << 10;
/// The largest request that is read, unless payloads may be larger: what gRPC takes by default.
const REQUEST_BYTES: usize = 4 << 20;

/// Who this node is, for `GetNode`; its name is in the registry's settings.
#[derive(Clone, Debug)]
pub struct Node {
    /// Names this run of the process.
    pub incarnation: String,
    /// When it started.
    pub start_time: SystemTime,
    /// The most connections it takes.
    pub max_connections: usize,
}

/// How many may do what is dear at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open `Subscribe` streams; one more is refused.
    pub max_subscribers: usize,
    /// Snapshots under way; one more waits.
    pub max_snapshots: usize,
}

/// What the pace of a drain comes from when the call names none.
#[derive(Clone, Copy, Debug)]
pub struct DrainDefaults {
    /// The deadline of a shutdown; a part of it is what a drain is spread over.
    pub deadline: Duration,
    /// Connections closed a second; 0 to spread them.
    pub close_rate: u64,
    /// The hints that clients get are spread over this.
    pub reconnect_jitter: Duration,
}

/// What the services work on.
pub struct Deps {
    /// The connections.
    pub registry: Arc<Registry>,
    /// The way to their outboxes.
    pub dispatch: Dispatch,
    /// Where messages wait for clients.
    pub mailboxes: Mailboxes,
    /// What outlives the process.
    pub store: Store,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// The drain of this node.
    pub drain: Arc<Drain>,
    /// The way down.
    pub closing: Closing,
    /// Facts of this run.
    pub node: Node,
    /// Bounds.
    pub limits: Limits,
    /// The pace of a drain.
    pub drain_defaults: DrainDefaults,
}

/// What every service holds.
struct Shared {
    registry: Arc<Registry>,
    dispatch: Dispatch,
    mailboxes: Mailboxes,
    consumers: Consumers,
    metrics: Arc<Metrics>,
    drain: Arc<Drain>,
    closing: Closing,
    node: Node,
    drain_defaults: DrainDefaults,
    subscribers: Arc<Subscribers>,
    snapshots: Arc<leases::Leases>,
}

/// All services of the control plane; cheap to clone.
#[derive(Clone)]
pub struct Services {
    shared: Arc<Shared>,
    health: Health,
}

impl Services {
    /// The services over the parts of the node. Their health is NOT_SERVING until [`Health::set_ready`].
    #[must_use]
    pub fn new(deps: Deps) -> Self {
        let Deps { registry, dispatch, mailboxes, store, metrics, drain, closing, node, limits, drain_defaults } = deps;
        let health = Health::new(drain.begun(), registry.log().watch_health());
        let subscribers = Arc::new(Subscribers::new(limits.max_subscribers));
        let snapshots = Arc::new(leases::Leases::new(limits.max_snapshots));
        let consumers = Consumers::new(store, registry.clock().clone());
        let shared = Shared {
            registry,
            dispatch,
            mailboxes,
            consumers,
            metrics,
            drain,
            closing,
            node,
            drain_defaults,
            subscribers,
            snapshots,
        };
        Self { shared: Arc::new(shared), health }
    }

    /// The open `Subscribe` streams, for metrics.
    #[must_use]
    pub fn subscribers(&self) -> &Arc<Subscribers> {
        &self.shared.subscribers
    }

    /// The named positions of subscribers, to be swept.
    #[must_use]
    pub fn consumers(&self) -> &Consumers {
        &self.shared.consumers
    }

    /// The health that is served, to be set ready.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The routes: the four services, health and reflection.
    ///
    /// # Errors
    /// Only if the descriptors that were compiled in cannot be read.
    pub fn routes(&self) -> Result<Routes, ServeError> {
        use pb::connection_service_server::ConnectionServiceServer;
        use pb::message_service_server::MessageServiceServer;
        use pb::node_service_server::NodeServiceServer;

        let largest = self.shared.registry.settings().outbox.bytes.saturating_add(REQUEST_OVERHEAD).max(REQUEST_BYTES);
        let shared = || Arc::clone(&self.shared);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                // So that tools can show the details of errors.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        };
        let messages = MessageServiceServer::new(messages::Messages(shared())).max_decoding_message_size(largest);
        let others = tonic::service::Routes::new(subscribe::EventServer::new(events::Events(shared())))
            .add_service(ConnectionServiceServer::new(connections::Connections(shared())))
            .add_service(NodeServiceServer::new(nodes::Nodes(shared())))
            .add_service(self.health.service())
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        Ok(Routes::new(messages, others))
    }
}
