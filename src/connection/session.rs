//! From a finished handshake to a driver: identify, join, then hand over to a small task of its own.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Either};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::driver::Driver;
use super::identify::{Identified, identify};
use super::rate::Limiter;
use super::sessions::Sessions;
use super::{ConnectionSettings, Entry, FrameSocket, Full, closer, envelope, greet};
use crate::close::{CloseReason, Excess, Violation};
use crate::ids::ClientId;
use crate::metrics::{Metrics, Refusal};
use crate::registry::{JoinError, Newcomer, Registry};

/// What every connection shares.
pub struct Host {
    /// Where connections register.
    pub registry: Arc<Registry>,
    /// How they behave.
    pub settings: ConnectionSettings,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The sessions that may be resumed.
    pub sessions: Arc<Sessions>,
    /// Where their tasks run, to be waited for at the end.
    pub tasks: TaskTracker,
    /// Cancelled when the node begins to drain.
    pub draining: CancellationToken,
}

/// What a handshake has told.
#[derive(Debug)]
pub struct Handshaken {
    /// The client id that it named.
    pub client_id: Option<ClientId>,
    /// The client's end of the TCP connection.
    pub remote_address: SocketAddr,
    /// Whether [`RELIABLE`](crate::event::RELIABLE) was agreed on.
    pub reliable: bool,
}

/// Takes a socket from its handshake to its driver's task. Ready when the driver has it or the socket was refused and closed.
pub fn run(
    host: Arc<Host>,
    socket: impl FrameSocket,
    handshaken: Handshaken,
    entry: Entry,
) -> impl Future<Output = ()> + Send {
    if handshaken.reliable {
        // Of a kind that its session may change for another.
        // In a box of its own, or every plain connection would carry the room for it.
        Either::Left(Box::pin(greet::run(host, socket.boxed(), handshaken, entry)))
    } else {
        Either::Right(run_plain(host, socket, handshaken, entry))
    }
}

#[expect(clippy::manual_async_fn, reason = "an async function has room for its arguments twice")]
fn run_plain(
    host: Arc<Host>,
    mut socket: impl FrameSocket,
    handshaken: Handshaken,
    entry: Entry,
) -> impl Future<Output = ()> + Send {
    async move {
        let Handshaken { client_id: named, remote_address, .. } = handshaken;
        let mut limiter = Limiter::default();
        let identified = match named {
            Some(id) => Ok(Identified { client_id: Some(id), first: None, speaks_text: false }),
            // In a box too: a future is copied whole, more than once, on its way to its task.
            None => Box::pin(async {
                tokio::select! {
                    identified = identify(&mut socket, &host.settings, &mut limiter, host.registry.clock(), &host.metrics) => identified,
                    () = host.draining.cancelled() => Err(host.restart()),
                }
            })
            .await,
        };
        let identified = match identified {
            Ok(identified) => identified,
            Err(reason) => return host.refuse(socket, reason).await,
        };
        let admission = match entry.settle() {
            Ok(admission) => admission,
            Err(full) => return host.refuse(socket, no_place(full)).await,
        };
        let newcomer =
            Newcomer { client_id: identified.client_id, remote_address: Some(remote_address), subprotocol: "" };
        match host.registry.join(newcomer).await {
            Ok(registration) => {
                let driver = Driver::new(
                    Arc::clone(&host),
                    registration,
                    socket,
                    limiter,
                    identified.first,
                    identified.speaks_text,
                    admission,
                );
                // A task of its own, so that what the handshake needed is freed.
                host.tasks.spawn(driver);
            }
            Err(error) => {
                let reason = if error == JoinError::Draining { host.restart() } else { error.close_reason(0) };
                host.refuse(socket, reason).await;
            }
        }
    }
}

/// What a newcomer is told for which there is no place after all.
pub(super) fn no_place(full: Full) -> CloseReason {
    match full {
        Full::Node => CloseReason::Overloaded,
        Full::Address => CloseReason::RateLimited(Excess::Connections),
    }
}

impl Host {
    /// What a client is told that comes while the node drains.
    pub(super) fn restart(&self) -> CloseReason {
        let jitter = self.settings.reconnect_jitter.as_millis() as u64;
        CloseReason::Restart { reconnect_after: fastrand::u64(0..=jitter) }
    }

    /// Closes a socket that never became a connection. In a box: whoever is not refused should not carry the room for it.
    pub(super) fn refuse(&self, socket: impl FrameSocket, reason: CloseReason) -> BoxFuture<'static, ()> {
        self.count_refusal(&reason);
        Box::pin(closer::close(socket, reason))
    }

    /// The same for a client of the reliable subprotocol, which is told in an envelope too.
    pub(super) fn refuse_reliable(&self, socket: impl FrameSocket, reason: CloseReason) -> BoxFuture<'_, ()> {
        self.count_refusal(&reason);
        Box::pin(self.dismiss(socket, reason))
    }

    /// Closes a socket of the reliable subprotocol that no driver has.
    pub(super) async fn dismiss(&self, mut socket: impl FrameSocket, reason: CloseReason) {
        if let Some(frame) = envelope::farewell(&reason) {
            socket.queue(&frame);
        }
        closer::close(socket, reason).await;
    }

    fn count_refusal(&self, reason: &CloseReason) {
        let counted = match reason {
            CloseReason::BadIdentity(_) => Refusal::BadIdentity,
            CloseReason::IdInUse => Refusal::IdInUse,
            CloseReason::RateLimited(Excess::Takeovers) => Refusal::Takeovers,
            CloseReason::IdentifyTimeout => Refusal::IdentifyTimeout,
            CloseReason::Overloaded => Refusal::Overloaded,
            CloseReason::Restart { .. } => Refusal::Draining,
            CloseReason::Violation(Violation::SessionUnknown, _) => Refusal::SessionUnknown,
            _ => Refusal::Gone,
        };
        self.metrics.refusals.of(counted).inc();
        tracing::debug!(code = reason.code(), reason = %reason.text().escape_debug(), "refused before it was a connection");
    }
}
