//! The WebSocket listener: accepts, shakes hands off the accept loop, and hands sockets over to [`crate::connection`].

mod boundaries;
mod handshake;
mod prompt;
mod short;
mod socket;
mod wire;

pub use handshake::HandshakeSettings;
pub use socket::WsSocket;
pub use wire::Wire;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::connection::{self, Admissions, Handshaken, Host};
use crate::line::Line;
use crate::log::LogHealth;
use crate::metrics::Handshake;
use handshake::{Denied, Granted, judge, switching};
use prompt::Prompt;

/// The most header fields of a handshake; more are answered 431.
const MAX_HEADERS: usize = 100;

/// The most bytes of a handshake; more are answered 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// How long accepting rests after it failed, so that running out of descriptors does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What the listener needs.
pub struct WsServer {
    /// What connections share.
    pub host: Arc<Host>,
    /// The places for connections.
    pub admissions: Admissions,
    /// What a handshake may say.
    pub handshake: HandshakeSettings,
    /// How long one may take.
    pub handshake_timeout: Duration,
    /// How many may be under way; beyond it, newcomers wait in the kernel's backlog.
    pub max_handshakes: usize,
    /// Whether the log can take newcomers.
    pub log: watch::Receiver<LogHealth>,
}

/// Accepts connections until the node drains; then the listener is closed. Each is handled in a task of its own.
pub async fn serve(listener: TcpListener, server: Arc<WsServer>) {
    let slots = Arc::new(Semaphore::new(server.max_handshakes));
    let draining = server.host.draining.clone();
    let (mut prompt, mut failures) = (Prompt::of(&listener), 0u64);
    loop {
        let accepted = tokio::select! {
            () = draining.cancelled() => return,
            accepted = async {
                // The semaphore is never closed.
                let slot = Arc::clone(&slots).acquire_owned().await;
                (slot, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (slot, Ok((stream, address))) => {
                failures = 0;
                prompt.see_to(&stream);
                let server = Arc::clone(&server);
                let tasks = server.host.tasks.clone();
                tasks.spawn(async move {
                    let shaken = tokio::select! {
                        // A handshake that dawdles must not hold a shutdown up.
                        () = server.host.draining.cancelled() => return,
                        shaken = shake_hands(&server, stream, address) => shaken,
                    };
                    if let Some((socket, granted)) = shaken {
                        drop(slot);
                        let handshaken = Handshaken {
                            client_id: granted.client_id,
                            remote_address: address,
                            reliable: granted.reliable,
                        };
                        connection::run(Arc::clone(&server.host), socket, handshaken, granted.entry).await;
                    }
                });
            }
            (_, Err(error)) => {
                server.host.metrics.accept_errors.inc();
                if failures.is_multiple_of(100) {
                    tracing::warn!(%error, "cannot accept a connection; trying on");
                }
                failures += 1;
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// What the request handler found, taken out when HTTP is over.
#[derive(Default)]
struct Verdict {
    granted: Option<(Granted, OnUpgrade)>,
    outcome: Option<Handshake>,
}

async fn shake_hands(server: &WsServer, stream: TcpStream, address: SocketAddr) -> Option<(WsSocket<Line>, Granted)> {
    let verdict = Arc::new(Mutex::new(Verdict::default()));
    let handler = service_fn(|mut request: Request<Incoming>| {
        let verdict = Arc::clone(&verdict);
        async move {
            let judged = if server.host.registry.is_draining() {
                Err(Denied::draining())
            } else if !server.log.borrow().is_committing() {
                Err(Denied::log_failing())
            } else {
                judge(&request, &server.handshake, &server.admissions, address.ip())
            };
            let mut verdict = verdict.lock().unwrap_or_else(PoisonError::into_inner);
            Ok::<_, Infallible>(match judged {
                Ok(granted) => {
                    verdict.granted = Some((granted, hyper::upgrade::on(&mut request)));
                    switching(request.headers())
                }
                Err(denied) => {
                    verdict.outcome = Some(denied.outcome);
                    denied.response()
                }
            })
        }
    });
    let http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(server.handshake_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades();
    let served = tokio::time::timeout(server.handshake_timeout, http).await;
    let Verdict { granted, outcome } = std::mem::take(&mut *verdict.lock().unwrap_or_else(PoisonError::into_inner));
    let count = |outcome| {
        server.host.metrics.handshakes.of(outcome).inc();
    };
    let Some((granted, upgrade)) = granted else {
        match (outcome, served) {
            (Some(outcome), _) => count(outcome),
            (None, Err(_)) => count(Handshake::TimedOut),
            (None, Ok(Err(error))) if error.is_timeout() => count(Handshake::TimedOut),
            (None, Ok(Err(_))) => count(Handshake::Malformed),
            // Opened and closed with nothing said, as health checks of load balancers do.
            (None, Ok(Ok(()))) => {}
        }
        return None;
    };
    let upgraded = match tokio::time::timeout(server.handshake_timeout, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        // The answer could not be written, or not in time.
        _ => {
            count(Handshake::TimedOut);
            return None;
        }
    };
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().ok()?;
    count(Handshake::Upgraded);
    let max_message = server.host.settings.max_message;
    Some((WsSocket::new(Line::new(parts.io.into_inner()), &parts.read_buf, max_message), granted))
}
