//! The HTTP server under the admin pages: every connection and every wait in it is bounded.

use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AdminState, router};

/// Connections at a time; further ones wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 256;

/// How long a request's head may take, and how long a kept-alive connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a connection may live, busy or not; it bounds a peer that asks and never reads. A scraper reconnects.
const MAX_AGE: Duration = Duration::from_secs(60);

/// How long an exchange under way may still take after `MAX_AGE` or the stop.
const GRACE: Duration = Duration::from_secs(2);

const MAX_HEADERS: usize = 64;

/// Head of a request, and hyper's whole read buffer.
const MAX_BUFFER: usize = 16 * 1024;

const LEAST_BACKOFF: Duration = Duration::from_millis(50);
const MOST_BACKOFF: Duration = Duration::from_secs(1);

/// Serves the admin pages on `listener` until `stop` is cancelled; exchanges under way get 2 s more.
pub async fn serve(listener: TcpListener, state: AdminState, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept_errors = state.metrics.accept_errors.clone();
    let service = router(state);
    let connections = TaskTracker::new();
    let mut backoff = LEAST_BACKOFF;
    while let Some((slot, accepted)) = stop.run_until_cancelled(next(&listener, &slots)).await {
        match accepted {
            Ok(stream) => {
                backoff = LEAST_BACKOFF;
                connections.spawn(converse(stream, service.clone(), slot, stop.clone()));
            }
            // The peer's doing, and the next one may be fine.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(error) => {
                accept_errors.inc();
                if backoff == LEAST_BACKOFF {
                    tracing::warn!(%error, "the admin listener cannot accept; it keeps trying");
                }
                if stop.run_until_cancelled(tokio::time::sleep(backoff)).await.is_none() {
                    break;
                }
                backoff = (backoff * 2).min(MOST_BACKOFF);
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The slot comes first, so that a socket is not taken from the kernel's queue only to wait here.
async fn next(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (Option<OwnedSemaphorePermit>, std::io::Result<TcpStream>) {
    // Never closed, so there is always a permit in time.
    let slot = Arc::clone(slots).acquire_owned().await.ok();
    (slot, listener.accept().await.map(|(stream, _)| stream))
}

async fn converse(stream: TcpStream, service: Router, slot: Option<OwnedSemaphorePermit>, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    // Errors are the peer's: garbage, a reset, a head that never ended. The connection is closed either way.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = tokio::time::sleep(MAX_AGE) => finish(connection).await,
        () = stop.cancelled() => finish(connection).await,
    }
    drop(slot);
}

type Connection = http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>>;

async fn finish(mut connection: std::pin::Pin<&mut Connection>) {
    connection.as_mut().graceful_shutdown();
    let _ = tokio::time::timeout(GRACE, connection).await;
}
