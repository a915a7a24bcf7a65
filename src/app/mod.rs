//! The application: binds the listeners, wires the parts, and takes them down in order. The only place that names concrete backends.

mod apart;
mod banner;
mod descriptors;
mod listeners;
mod process;
mod settings;
mod vital;

pub use listeners::{BindErrors, Listeners};
pub use process::run;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState, Readiness};
use crate::clock::Clock;
use crate::config::{Config, ListenAddress};
use crate::connection::{Admissions, Host};
use crate::consumers::SWEEP_EVERY;
use crate::dispatch::Dispatch;
use crate::drain::{Drain, Pace};
use crate::grpc::{self, DrainDefaults, Health, Services, Serving};
use crate::log::journal::{DataDir, JournalLog, OpenError};
use crate::log::{Log, MemoryLog, Retention};
use crate::mailbox::Mailboxes;
use crate::metrics::{Metrics, Reading};
use crate::registry::Registry;
use crate::shutdown::Closing;
use crate::store::{Store, StoreError};
use crate::ws::{self, Certificate, CertificateError, Tls, WsServer};
use apart::Apart;
use vital::Vital;

/// The part of the shutdown deadline within which connections are closed; the rest is for streams to carry it to their backends.
const CLOSING_PART: f64 = 0.4;

/// Set aside at the end of the shutdown deadline for what has to happen after it.
const LAST_STEPS: Duration = Duration::from_millis(300);

/// How long closing handshakes are waited for after the last connection is GONE; each has two seconds of its own.
const CLOSE_HANDSHAKES: Duration = Duration::from_millis(2_200);

/// A node that runs.
pub struct App {
    config: Config,
    addresses: Addresses,
    max_connections: usize,
    registry: Arc<Registry>,
    drain: Arc<Drain>,
    closing: Closing,
    certificate: Option<Arc<Certificate>>,
    readiness: watch::Sender<Readiness>,
    health: Health,
    connections: TaskTracker,
    grpc_stop: CancellationToken,
    grpc: JoinHandle<()>,
    /// Where `grpc` runs; goes with the node.
    backends: Apart,
    stop: CancellationToken,
    background: TaskTracker,
    failed: CancellationToken,
}

/// Where a node is reached.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The WebSocket listener.
    pub ws: SocketAddr,
    /// The gRPC listener, with the port that the system chose.
    pub grpc: ListenAddress,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Why a node cannot start on listeners that were bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The compiled-in contract cannot be served.
    #[error(transparent)]
    Contract(#[from] grpc::ServeError),
    /// What must outlive the process cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] OpenError),
    /// TLS cannot be spoken with what is configured for it.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The threads of the control plane cannot be started.
    #[error("cannot start the threads of the control plane: {0}")]
    Runtime(std::io::Error),
}

impl StartError {
    /// Whether another configuration would help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::DataDir(error) => error.is_configuration(),
            Self::Certificate(error) => error.is_configuration(),
            _ => false,
        }
    }
}

/// How a shutdown went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every connection was closed, and the log says so; at most a stream that nobody read was cut off.
    Clean,
    /// The deadline came before every connection was closed.
    Late,
}

/// The log, of whichever kind.
enum AnyLog {
    Memory(Arc<MemoryLog>),
    Journal(Arc<JournalLog>),
}

impl AnyLog {
    fn log(&self) -> Arc<dyn Log> {
        match self {
            Self::Memory(log) => Arc::clone(log) as Arc<dyn Log>,
            Self::Journal(log) => Arc::clone(log) as Arc<dyn Log>,
        }
    }

    async fn run(self, fold: Arc<Registry>, stop: CancellationToken) {
        match self {
            Self::Memory(log) => log.run(&*fold, stop).await,
            Self::Journal(log) => log.run(fold, stop).await,
        }
    }
}

/// What outlives the process where there is a data directory, and ends with it where there is none.
fn kept(
    config: &Config,
    retention: Retention,
    clock: &Clock,
    metrics: &Arc<Metrics>,
) -> Result<(AnyLog, Store), StartError> {
    let (clock, metrics) = (clock.clone(), Arc::clone(metrics));
    if config.log.data_dir.as_os_str().is_empty() {
        return Ok((AnyLog::Memory(Arc::new(MemoryLog::new(retention, clock, metrics))), Store::in_memory()?));
    }
    let directory = DataDir::open(&config.log.data_dir)?;
    let store = directory.store();
    let log = JournalLog::open(directory, retention, config.ws.max_message.as_usize(), clock, metrics)?;
    Ok((AnyLog::Journal(Arc::new(log)), Store::open(&store)?))
}

/// What clients are shown, where TLS is configured.
///
/// # Errors
/// [`CertificateError`], which names the key of the configuration.
pub fn certificate(config: &Config) -> Result<Option<Arc<Certificate>>, CertificateError> {
    let files = config.ws.tls_files();
    files.map(|(certificate, key)| Certificate::load(certificate, key).map(Arc::new)).transpose()
}

impl App {
    /// Starts a node on listeners that are bound already. It is ready when this returns.
    ///
    /// # Errors
    /// [`StartError`] if a part cannot be made.
    pub fn start(config: Config, listeners: Listeners, clock: Clock) -> Result<Self, StartError> {
        let addresses = listeners.addresses(&config);
        let max_connections = descriptors::usable_connections(config.ws.max_connections, config.ws.max_handshakes);
        let metrics = Arc::new(Metrics::default());
        let stop = CancellationToken::new();
        let (background, connections) = (TaskTracker::new(), TaskTracker::new());
        // Before the data directory, which takes longer to find fault with.
        let certificate = certificate(&config)?;
        let vital = Vital::new(background.clone(), stop.clone());

        // The log, and the registry that is its fold.
        let retention = Retention { max_bytes: config.log.max_bytes.as_usize(), max_age: config.log.max_age };
        let (log, store) = kept(&config, retention, &clock, &metrics)?;
        let log_health = log.log().watch_health();
        let registry_settings = settings::registry(&config);
        let registry = Arc::new(Registry::new(log.log(), clock.clone(), registry_settings, Arc::clone(&metrics)));
        let (applier, token) = (Arc::clone(&registry), stop.clone());
        vital.spawn("the log", async move { log.run(applier, token).await });
        let (sweeper, token) = (Arc::clone(&registry), stop.clone());
        vital.spawn("the sweep", async move { sweeper.run_sweeps(token).await });

        let drain = Drain::new(Arc::clone(&registry));
        let closing = Closing::default();
        let dispatch = Dispatch::new(Arc::clone(&registry), Arc::clone(&metrics));

        let mailboxes =
            Mailboxes::open(store.clone(), Arc::clone(&registry), settings::mailbox(&config), Arc::clone(&metrics))?;
        let (running, token) = (mailboxes.clone(), stop.clone());
        vital.spawn("the mailboxes", async move { running.run(token).await });
        let (forgetful, token) = (dispatch.clone(), stop.clone());
        background.spawn(async move { forgetful.run_forgetting(token).await });

        // The control plane.
        let services = Services::new(grpc::Deps {
            registry: Arc::clone(&registry),
            dispatch,
            mailboxes: mailboxes.clone(),
            store,
            metrics: Arc::clone(&metrics),
            drain: Arc::clone(&drain),
            closing: closing.clone(),
            node: grpc::Node {
                incarnation: crate::position::Epoch::random().to_string(),
                start_time: clock.wall(),
                max_connections,
            },
            limits: grpc::Limits {
                max_subscribers: config.grpc.max_subscribers,
                max_snapshots: config.grpc.max_snapshots,
            },
            drain_defaults: DrainDefaults {
                deadline: config.shutdown.deadline,
                close_rate: config.shutdown.close_rate,
                reconnect_jitter: config.shutdown.reconnect_jitter,
            },
        });
        let (consumers, token) = (services.consumers().clone(), stop.clone());
        background.spawn(async move { consumers.run_sweeps(SWEEP_EVERY, token).await });
        let grpc_stop = CancellationToken::new();
        let serving = Serving {
            routes: services.routes()?,
            closing: closing.clone(),
            stop: grpc_stop.clone(),
            metrics: Arc::clone(&metrics),
        };
        let backends = Apart::new("backends").map_err(StartError::Runtime)?;
        let grpc = backends.spawn(grpc::serve(listeners.grpc, serving));

        // The admin endpoint.
        let (readiness, ready) = watch::channel(Readiness::Starting);
        let (gauged, subscribers) = (Arc::clone(&registry), Arc::clone(services.subscribers()));
        let reading = Arc::new(move || {
            let mut reading = Reading::default();
            gauged.read_gauges(&mut reading);
            mailboxes.read_gauges(&mut reading);
            subscribers.read_gauges(gauged.log().head(), &mut reading);
            reading
        });
        let admin_state =
            AdminState { metrics: Arc::clone(&metrics), reading, readiness: ready, log: log_health.clone() };
        background.spawn(admin::serve(listeners.admin, admin_state, stop.clone()));

        // Clients last: whoever connects finds everything there.
        let host = Arc::new(Host {
            registry: Arc::clone(&registry),
            settings: settings::connection(&config),
            metrics,
            sessions: Arc::default(),
            tasks: connections.clone(),
            draining: drain.begun(),
        });
        if let Some(certificate) = &certificate {
            background.spawn(Arc::clone(certificate).run_looking(stop.clone()));
        }
        let server = Arc::new(WsServer {
            host,
            tls: certificate.clone().map(Tls::new),
            admissions: Admissions::new(max_connections, config.ws.max_connections_per_address),
            handshake: settings::handshake(&config),
            handshake_timeout: config.ws.handshake_timeout,
            max_handshakes: config.ws.max_handshakes,
            log: log_health,
        });
        let draining = drain.begun();
        vital.spawn_until(draining, "the WebSocket listener", ws::serve(listeners.ws, server));

        let health = services.health().clone();
        health.set_ready(true);
        readiness.send_replace(Readiness::Ready);
        // A drain asked for by a backend makes the node as unready as one by a signal.
        let (begun, unready) = (drain.begun(), readiness.clone());
        let token = stop.clone();
        background.spawn(async move {
            tokio::select! {
                () = begun.cancelled() => drop(unready.send_replace(Readiness::Draining)),
                () = token.cancelled() => {}
            }
        });
        Ok(Self {
            config,
            addresses,
            max_connections,
            registry,
            drain,
            closing,
            certificate,
            readiness,
            health,
            connections,
            grpc_stop,
            grpc,
            backends,
            stop,
            background,
            failed: vital.failed(),
        })
    }

    /// Cancelled if a part without which the node is of no use has ended by itself.
    #[must_use]
    pub fn failed(&self) -> CancellationToken {
        self.failed.clone()
    }

    /// What clients are shown; none where TLS is not spoken.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }

    /// Where the node is reached.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The most connections it takes, after the descriptor limit.
    #[must_use]
    pub fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Takes the node down within the configured deadline: not ready; no newcomers; connections closed at a pace, each with a
    /// hint; streams end once they carried every `Disconnected`; then the rest.
    pub async fn shutdown(self) -> Outcome {
        let deadline = Instant::now() + self.config.shutdown.deadline.saturating_sub(LAST_STEPS);
        self.readiness.send_replace(Readiness::Draining);
        self.health.set_ready(false);
        self.drain.begin(self.pace());

        let mut progress = self.drain.progress();
        let drained = timeout_at(deadline, progress.wait_for(|progress| progress.done)).await.is_ok();
        self.closing.end_after(self.registry.log().head());
        self.grpc_stop.cancel();
        let mut grpc = self.grpc;
        let carried = timeout_at(deadline, &mut grpc).await.is_ok();
        if !carried {
            self.closing.end_now();
            // It ends at once now; what does not is dropped.
            if timeout(LAST_STEPS / 3, &mut grpc).await.is_err() {
                grpc.abort();
            }
        }
        self.connections.close();
        let closing_until = deadline.min(Instant::now() + CLOSE_HANDSHAKES);
        let closed = timeout_at(closing_until, self.connections.wait()).await.is_ok();
        self.stop.cancel();
        self.background.close();
        // A log on disk leaves its directory in order; without that, the next start has more to read and is no less right.
        let stopped = timeout_at(deadline.max(Instant::now() + LAST_STEPS / 3), self.background.wait()).await.is_ok();
        drop(self.backends);
        tracing::info!(drained, carried, closed, stopped, "stopped");
        if drained { Outcome::Clean } else { Outcome::Late }
    }

    fn pace(&self) -> Pace {
        let shutdown = &self.config.shutdown;
        let jitter = shutdown.reconnect_jitter;
        let (span, connections) = (shutdown.deadline.mul_f64(CLOSING_PART), self.registry.count());
        match shutdown.close_rate {
            0 => Pace::within(span, connections, jitter),
            // Never so slow that the deadline would cut clients off with no Close.
            rate => Pace::at_least(rate, span, connections, jitter),
        }
    }
}
