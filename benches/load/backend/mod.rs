//! The backend's side: sends, streams and subscriptions, on one thread of its own.

mod echo;
mod http;
mod sends;
mod stream;
mod subscribe;
mod unary;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartwire::pb;
use heartwire::pb::connection_service_client::ConnectionServiceClient;
use heartwire::pb::message_service_client::MessageServiceClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::peers::{Control, ControlKind};
use crate::process::Server;
pub use stream::Pace;
pub use subscribe::{LAST_WORD, Start, Subscription};

/// How long any one call may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// A backend of one server.
pub struct Backend {
    runtime: Runtime,
    kind: ControlKind,
    grpc: std::net::SocketAddr,
    channel: Option<Channel>,
}

/// What became of the sends so far.
#[derive(Default)]
pub struct Tally {
    pub accepted: AtomicU64,
    /// The server said no because the client's outbox, or what else a send takes, is full.
    pub refused: AtomicU64,
    /// The server said that the client is not there.
    pub absent: AtomicU64,
    /// No answer, or one that says nothing of the message.
    pub failed: AtomicU64,
    /// Not sent at a fixed rate, because too many were in flight already.
    pub skipped: AtomicU64,
}

impl Tally {
    pub fn count(&self, what: Became) {
        let counter = match what {
            Became::Accepted => &self.accepted,
            Became::Refused => &self.refused,
            Became::Absent => &self.absent,
            Became::Failed => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What did not go as wished, in words; `None` if all was accepted.
    pub fn remark(&self, phase: &str) -> Option<String> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (refused, absent) = (read(&self.refused), read(&self.absent));
        let (failed, skipped) = (read(&self.failed), read(&self.skipped));
        (refused + absent + failed + skipped > 0).then(|| {
            format!(
                "{phase}: {refused} sends refused since something was full, {absent} since the client was not there, \
                 {failed} failed, {skipped} left out since too many were in flight"
            )
        })
    }
}

/// What became of one send.
#[derive(Clone, Copy)]
pub enum Became {
    Accepted,
    Refused,
    Absent,
    Failed,
}

/// Whom to send to, in turn.
#[derive(Clone)]
pub struct Targets(pub Arc<Vec<String>>);

impl Targets {
    fn at(&self, count: u64) -> &str {
        let index = usize::try_from(count).unwrap_or(0) % self.0.len().max(1);
        self.0.get(index).map_or("", String::as_str)
    }
}

/// A load of sends that is under way.
pub struct Load {
    pub tally: Arc<Tally>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    /// Whether every task of it has ended.
    pub fn is_over(&self) -> bool {
        self.tasks.iter().all(tokio::task::JoinHandle::is_finished)
    }
}

impl Backend {
    pub fn new(server: &Server, control: Control) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start the backend: {error}"))?;
        let mut backend = Self { runtime, kind: control.kind, grpc: server.grpc, channel: None };
        if control.kind == ControlKind::Heartwire {
            backend.channel = Some(backend.another_channel()?);
        }
        Ok(backend)
    }

    /// A channel of its own, as another backend would have.
    fn another_channel(&self) -> Result<Channel, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).map_err(|error| error.to_string())?;
        let endpoint = endpoint.connect_timeout(CALL_LIMIT);
        self.runtime.block_on(endpoint.connect()).map_err(|error| format!("cannot reach the control plane: {error:?}"))
    }

    fn channel(&self) -> Result<Channel, String> {
        self.channel.clone().ok_or_else(|| "this server has no gRPC".to_owned())
    }

    /// Waits until the server counts so many connections; at once for one that does not count.
    pub fn wait_for_count(&self, wanted: usize, limit: Duration) -> Result<(), String> {
        let Some(channel) = self.channel.clone() else { return Ok(()) };
        let end = Instant::now() + limit;
        self.runtime.block_on(async {
            let mut client = ConnectionServiceClient::new(channel);
            loop {
                let call = client.count_connections(pb::CountConnectionsRequest::default());
                let answer = tokio::time::timeout(CALL_LIMIT, call).await.map_err(|_| "no count in time".to_owned())?;
                let count = answer.map_err(|status| format!("cannot count: {status}"))?.into_inner().count;
                if usize::try_from(count).unwrap_or(0) >= wanted {
                    return Ok(());
                }
                if Instant::now() > end {
                    return Err(format!("the server counts {count} connections, not {wanted}"));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    /// Sends to everyone once; how many the server says it meant.
    pub fn start_broadcast(&self, text: String) -> Result<tokio::task::JoinHandle<Result<u64, String>>, String> {
        match self.kind {
            ControlKind::Heartwire => {
                let mut client = MessageServiceClient::new(self.channel()?);
                Ok(self.runtime.spawn(async move {
                    let payload = Some(pb::broadcast_request::Payload::Text(text));
                    let request = pb::BroadcastRequest { everyone: true, payload, ..Default::default() };
                    let answer =
                        client.broadcast(request).await.map_err(|status| format!("cannot broadcast: {status}"))?;
                    Ok(u64::try_from(answer.into_inner().accepted).unwrap_or(0))
                }))
            }
            // A channel that everybody subscribes to.
            ControlKind::Nchan | ControlKind::Centrifugo | ControlKind::Anycable => {
                let post = self.post()?;
                Ok(self.runtime.spawn(async move {
                    match post.send("everyone", text).await {
                        Became::Accepted => Ok(0),
                        _ => Err("the server did not take the message".to_owned()),
                    }
                }))
            }
        }
    }

    /// Waits for a task of this backend, at most for the limit of a call.
    pub fn wait_for<T>(&self, task: tokio::task::JoinHandle<Result<T, String>>) -> Result<T, String> {
        self.runtime.block_on(async {
            match tokio::time::timeout(CALL_LIMIT, task).await {
                Ok(Ok(result)) => result,
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            }
        })
    }
}
