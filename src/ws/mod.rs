//! The WebSocket listener: accepts, shakes hands with a few at a time, and hands sockets over to [`crate::connection`].

mod boundaries;
mod handshake;
mod prompt;
mod short;
mod socket;
mod tls;
mod turns;
mod wire;

pub use handshake::HandshakeSettings;
pub use socket::WsSocket;
pub use tls::{Certificate, CertificateError, Tls};
pub use wire::Wire;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::stream::{self, Stream};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinSet, unconstrained};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::{self, Admissions, AnySocket, Handshaken, Host};
use crate::line::Line;
use crate::log::LogHealth;
use crate::metrics::{Handshake, Metrics};
use handshake::{Denied, Granted, judge, switching};
use prompt::Prompt;
use tls::HandshakeError;
use turns::{TOGETHER, Turns};

/// The most header fields of a handshake; more are answered 431.
const MAX_HEADERS: usize = 100;

/// The most bytes of a handshake; more are answered 431.
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// How long accepting rests after it failed, so that running out of descriptors does not spin.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Connections accepted in one turn of others: a third of a millisecond.
const ACCEPTED_TOGETHER: usize = 64;

/// Connections that may wait for their handshake to begin; the others wait in the kernel. Each is some 500 bytes and what the kernel has of it anyway.
const MOST_WAITING: usize = 16_384;

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
    /// What TLS needs; none where it is not spoken.
    pub tls: Option<Tls>,
    /// How many may be under way; beyond it newcomers wait, accepted where there are places for them, and then in the kernel's queue.
    pub max_handshakes: usize,
    /// Whether the log can take newcomers.
    pub log: watch::Receiver<LogHealth>,
}

/// Accepts connections until the node drains; then the listener is closed, and handshakes that are not done are given up. As many lanes as the
/// runtime has threads share the work.
pub async fn serve(listener: TcpListener, server: Arc<WsServer>) {
    let lanes = Handle::current().metrics().num_workers().min(server.max_handshakes).max(1);
    let (listener, waiting, mut serving) = (Arc::new(listener), Arc::new(Waiting::default()), JoinSet::new());
    for number in 0..lanes {
        // Their sum is the whole.
        let most = (server.max_handshakes + number) / lanes;
        let (listener, waiting, server) = (Arc::clone(&listener), Arc::clone(&waiting), Arc::clone(&server));
        serving.spawn(lane(listener, waiting, server, most));
    }
    drop(listener);
    while let Some(ended) = serving.join_next().await {
        if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Connections whose handshakes have not begun, of all lanes.
#[derive(Default)]
struct Waiting {
    arrivals: Mutex<VecDeque<Arrival>>,
    /// Wakes a lane that can begin some.
    called: Notify,
}

/// One of them, its client's end, and since when it waits.
type Arrival = (TcpStream, SocketAddr, Instant);

impl Waiting {
    fn arrivals(&self) -> MutexGuard<'_, VecDeque<Arrival>> {
        // Nobody panics while holding it.
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts connections, and shakes hands with `most` of them at a time. Accepting is the lesser part, and runs ahead: what the kernel's queue has no room
/// for is sent again after a second, which is long for whoever comes back after a restart.
async fn lane(listener: Arc<TcpListener>, waiting: Arc<Waiting>, server: Arc<WsServer>, most: usize) {
    let mut draining = pin!(server.host.draining.cancelled());
    let mut arriving = pin!(arriving(listener, Arc::clone(&server.host.metrics)));
    let mut called = pin!(waiting.called.notified());
    let mut handshakes = Turns::new();
    poll_fn(|context| {
        if draining.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        // Each will want a place, and what has a place, or is a handshake under way, has a descriptor. One waits in any case.
        let room = (server.admissions.free() + (most - handshakes.len())).clamp(1, MOST_WAITING);
        let (mut arrived, mut listens) = (0, false);
        while arrived < ACCEPTED_TOGETHER && !listens && waiting.arrivals().len() < room {
            match arriving.as_mut().poll_next(context) {
                Poll::Ready(Some(arrival)) => {
                    waiting.arrivals().push_back(arrival);
                    arrived += 1;
                }
                Poll::Ready(None) | Poll::Pending => listens = true,
            }
        }
        for _ in 0..TOGETHER.min(most - handshakes.len()) {
            let Some(arrival) = waiting.arrivals().pop_front() else { break };
            handshakes.push(welcome(Arc::clone(&server), arrival));
        }
        handshakes.poll_some(context);

        let may_begin = handshakes.len() < most;
        let left = {
            let mut arrivals = waiting.arrivals();
            if arrivals.is_empty() {
                arrivals.shrink_to(ACCEPTED_TOGETHER);
            }
            arrivals.len()
        };
        let is_called = left > 0 || (may_begin && called.as_mut().poll(context).is_ready());
        if is_called || !may_begin {
            // It has been heard; and a lane that can begin none is not to be called: a call that it has not heard goes on to another.
            called.set(waiting.called.notified());
        }
        if left > 0 {
            // There may be others that can begin some of them now.
            waiting.called.notify_one();
        }
        if may_begin && is_called {
            context.waker().wake_by_ref();
        }
        if !listens && left < room {
            // Nothing else would wake this task for those that may be accepted now.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
}

/// Who comes, without an end.
fn arriving(listener: Arc<TcpListener>, metrics: Arc<Metrics>) -> impl Stream<Item = Arrival> {
    let prompt = Prompt::of(&listener);
    stream::unfold((listener, metrics, prompt), |(listener, metrics, mut prompt)| async move {
        let mut failures = 0u64;
        loop {
            match listener.accept().await {
                Ok((stream, address)) => {
                    prompt.see_to(&stream);
                    return Some(((stream, address, Instant::now()), (listener, metrics, prompt)));
                }
                Err(error) => {
                    metrics.accept_errors.inc();
                    if failures.is_multiple_of(100) {
                        tracing::warn!(%error, "cannot accept a connection; trying on");
                    }
                    failures += 1;
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    })
}

/// From a TCP connection to a task that has its WebSocket.
async fn welcome(server: Arc<WsServer>, (stream, address, since): Arrival) {
    // Who has waited that long and said nothing has had its time. Otherwise a few thousand such would keep everybody behind them waiting for minutes.
    if since.elapsed() >= server.handshake_timeout && unconstrained(stream.peek(&mut [0])).now_or_never().is_none() {
        server.host.metrics.handshakes.of(Handshake::TimedOut).inc();
        return;
    }
    let Some((socket, granted)) = take_in(&server, stream, address).await else { return };
    let handshaken = Handshaken { client_id: granted.client_id, remote_address: address, reliable: granted.reliable };
    let (host, tasks) = (Arc::clone(&server.host), &server.host.tasks);
    match socket {
        Socket::Plain(socket) => drop(tasks.spawn(connection::run(host, socket, handshaken, granted.entry))),
        Socket::Tls(socket) => drop(tasks.spawn(connection::run(host, socket, handshaken, granted.entry))),
    }
}

/// What the request handler found, taken out when HTTP is over.
#[derive(Default)]
struct Verdict {
    granted: Option<(Granted, OnUpgrade)>,
    outcome: Option<Handshake>,
}

/// A socket whose handshake is done.
enum Socket {
    Plain(WsSocket<Line>),
    /// Boxed, since it is larger than what a plain one needs, and so are its keys.
    Tls(AnySocket),
}

/// From a TCP connection to a WebSocket, or an answer that it is none.
async fn take_in(server: &WsServer, stream: TcpStream, address: SocketAddr) -> Option<(Socket, Granted)> {
    let max_message = server.host.settings.max_message;
    let Some(tls) = &server.tls else {
        let (stream, read_ahead, granted) = shake_hands(server, stream, address, server.handshake_timeout).await?;
        return Some((Socket::Plain(WsSocket::new(Line::new(stream), &read_ahead, max_message)), granted));
    };
    let secure = async {
        let deadline = Instant::now() + server.handshake_timeout;
        let outcome = match timeout_at(deadline, tls.accept(Line::new(stream))).await {
            Ok(Ok(stream)) => {
                let left = deadline.saturating_duration_since(Instant::now());
                let (stream, read_ahead, granted) = shake_hands(server, stream, address, left).await?;
                let socket = WsSocket::new(*stream, &read_ahead, max_message);
                return Some((Socket::Tls(Box::new(socket)), granted));
            }
            // Opened and closed, as health checks of load balancers do, or lost.
            Ok(Err(HandshakeError::Io(_) | HandshakeError::Ended)) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, "no TLS with a client");
                Handshake::TlsFailed
            }
            Err(_) => Handshake::TimedOut,
        };
        server.host.metrics.handshakes.of(outcome).inc();
        None
    };
    // In a box of its own, or every plain handshake would carry the room for it.
    Box::pin(secure).await
}

/// The HTTP handshake. What is left of the stream, what was read of it already, and what was granted; none if it was answered otherwise.
async fn shake_hands<S>(
    server: &WsServer,
    stream: S,
    address: SocketAddr,
    time: Duration,
) -> Option<(S, Bytes, Granted)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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
        // Nobody needs hyper's own timer beside the deadline below.
        .header_read_timeout(None)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(TokioIo::new(stream), handler)
        .with_upgrades();
    let served = timeout(time, http).await;
    let Verdict { granted, outcome } = std::mem::take(&mut *verdict.lock().unwrap_or_else(PoisonError::into_inner));
    let count = |outcome| {
        server.host.metrics.handshakes.of(outcome).inc();
    };
    let Some((granted, upgrade)) = granted else {
        match (outcome, served) {
            (Some(outcome), _) => count(outcome),
            (None, Err(_)) => count(Handshake::TimedOut),
            (None, Ok(Err(_))) => count(Handshake::Malformed),
            // Opened and closed with nothing said, as health checks of load balancers do.
            (None, Ok(Ok(()))) => {}
        }
        return None;
    };
    let upgraded = match timeout(time, upgrade).await {
        Ok(Ok(upgraded)) => upgraded,
        // The answer could not be written, or not in time.
        _ => {
            count(Handshake::TimedOut);
            return None;
        }
    };
    let parts = upgraded.downcast::<TokioIo<S>>().ok()?;
    count(Handshake::Upgraded);
    Some((parts.io.into_inner(), parts.read_buf, granted))
}
