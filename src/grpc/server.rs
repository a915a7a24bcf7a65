//! Serving: accepting, one small task a connection, and the way down.
//!
//! The routes are served on hyper's own HTTP/2 builder, because tonic's server does not let the send buffer of a stream be bounded and spins when
//! descriptors run out.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http2;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;

use super::at_once::Calls;
use super::error::{in_our_words, trailers_of_shutdown};
use super::intake::Intake;
use super::listener::{Accepted, Listener};
use super::preface::greet;
use super::routes::{Answering, Routes};
use crate::metrics::Metrics;
use crate::shutdown::Closing;

/// Connections served at once; more wait to be accepted. A backend needs one.
pub const MAX_CONNECTIONS: usize = 1024;
/// Streams of one connection: a thousand subscribers may share it.
const MAX_STREAMS: u32 = 2048;
/// What a stream whose peer does not read may have buffered; hyper's own default is 400 KiB.
const SEND_BUFFER: usize = 64 << 10;
/// What a stream may send before we read it.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same of a connection: enough for many unread streams, so that one starves no other call.
const CONNECTION_WINDOW: u32 = 8 << 20;
const HEADER_LIST: u32 = 16 << 10;
const LOCAL_RESETS: usize = 1024;
/// Streams that the peer resets before we have looked at them. h2's own 20 is reached by a backend that cancels a burst of calls, and costs it its
/// `Subscribe` on the same channel; a flood is noticed all the same.
const PENDING_RESETS: usize = 512;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// The method that is called most, and that neither waits nor computes for long.
const SEND: &str = "/heartwire.v1.MessageService/Send";
/// The one method of ours that streams its requests.
const SENDS_STREAM: &str = "/heartwire.v1.MessageService/SendStream";
/// How long to wait after accepting failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is worth a line in the log.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);

/// The control plane cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors that were compiled in cannot be read.
    #[error("the compiled-in descriptors cannot be served: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// What serving needs beside a listener.
pub struct Serving {
    /// What is served, from [`Services::routes`](super::Services::routes).
    pub routes: Routes,
    /// The way down; connections still open at its deadline are dropped.
    pub closing: Closing,
    /// Cancelled to stop accepting and to let what is open come to its end.
    pub stop: CancellationToken,
    /// The counters.
    pub metrics: Arc<Metrics>,
}

/// Serves until `stop` is cancelled and every connection has ended, or until the deadline of `closing`. The streams end by `closing` alone, so
/// cancel `stop` only once that has begun.
pub async fn serve(listener: Listener, serving: Serving) {
    let Serving { routes, closing, stop, metrics } = serving;
    let front = Front { routes, closing: closing.clone(), intake: Intake::default() };
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let ended = Ended { stop: stop.clone(), now: closing.now().clone() };
    let accepting = async {
        let mut failures = Failures::default();
        loop {
            if places.available_permits() == 0 {
                failures.say("every place for a gRPC connection is taken; new ones wait");
            }
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let accepted = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    metrics.accept_errors.inc();
                    failures.pause(&error).await;
                    continue;
                }
            };
            metrics.grpc_connections.inc();
            let (front, ended) = (front.clone(), ended.clone());
            connections.spawn(async move {
                match accepted {
                    Accepted::Tcp(stream) => serve_connection(stream, front, ended).await,
                    Accepted::Unix(stream) => serve_connection(stream, front, ended).await,
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stop.cancelled() => {}
        () = closing.now().cancelled() => {}
    }
    // Nobody else connects; the file of a Unix socket goes.
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// When a connection is to end.
#[derive(Clone)]
pub(super) struct Ended {
    pub(super) stop: CancellationToken,
    pub(super) now: CancellationToken,
}

pub(super) async fn serve_connection<S>(stream: S, front: Front, ended: Ended)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = tokio::select! {
        greeted = greet(stream) => greeted,
        () = ended.stop.cancelled() => return,
        () = ended.now.cancelled() => return,
    };
    let Some(stream) = greeted else { return };
    let calls = Calls::default();
    let mut builder = http2::Builder::new(calls.executor());
    builder
        .timer(TokioTimer::new())
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_local_error_reset_streams(LOCAL_RESETS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_header_list_size(HEADER_LIST)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), front));
    let outcome = tokio::select! {
        outcome = calls.drive(connection.as_mut()) => outcome,
        () = ended.now.cancelled() => return,
        () = ended.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = calls.drive(connection) => outcome,
                () = ended.now.cancelled() => return,
            }
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a gRPC connection ended");
    }
}

/// How accepting has failed lately.
#[derive(Default)]
struct Failures {
    logged: Option<Instant>,
}

impl Failures {
    /// Waits before the next try, unless it was only the peer that left.
    async fn pause(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected};
        // The last two are what setting an option of a socket says whose peer has left.
        if matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | InvalidInput | NotConnected) {
            return;
        }
        self.say(&format!("cannot accept gRPC connections; trying again: {error}"));
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// Puts it in the log, unless something was put there just now.
    fn say(&mut self, what: &str) {
        if self.logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::warn!("{what}");
        }
    }
}

/// What hyper calls for each request.
#[derive(Clone)]
pub(super) struct Front {
    pub(super) routes: Routes,
    pub(super) closing: Closing,
    pub(super) intake: Intake,
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let routes = &self.routes;
        // Health and reflection are not ours, and their streams know nothing of a shutdown.
        if !request.uri().path().starts_with("/grpc.") {
            let at_once = request.uri().path() == SEND;
            // One that streams requests reads them as they come; any other is read whole before anything is done.
            let response = if request.uri().path() == SENDS_STREAM {
                routes.call(request)
            } else {
                let intake = self.intake.clone();
                routes.call(request.map(|body| intake.bound(body)))
            };
            return Box::pin(async move {
                if !at_once {
                    a_task_of_its_own().await;
                }
                Ok(in_our_words(response.await?))
            });
        }
        let closing = self.closing.clone();
        // The request ends too: reflection holds on to it, and with it to the connection, until it does.
        let response = routes.call(request.map(|body| UntilClosing::new(body, closing.clone(), None)));
        Box::pin(async move {
            a_task_of_its_own().await;
            let trailers = Some(trailers_of_shutdown());
            Ok(response.await?.map(|body| Body::new(UntilClosing::new(body, closing, trailers))))
        })
    }
}

/// What may look at many connections, or write for long, must not do so in its connection's time: not done when it is tried, it gets a task.
async fn a_task_of_its_own() {
    tokio::task::yield_now().await;
}

/// A body that ends, with trailers or without, when the node goes down.
struct UntilClosing<B> {
    body: Option<B>,
    begun: Pin<Box<dyn Future<Output = ()> + Send>>,
    trailers: Option<HeaderMap>,
}

impl<B> UntilClosing<B> {
    fn new(body: B, closing: Closing, trailers: Option<HeaderMap>) -> Self {
        Self { body: Some(body), begun: Box::pin(async move { closing.begun().await }), trailers }
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for UntilClosing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => {}
            ready => return ready,
        }
        if self.begun.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.body = None;
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
