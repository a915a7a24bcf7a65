//! The admin endpoint: liveness, readiness and metrics over HTTP/1.

mod serve;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use crate::log::LogHealth;
use crate::metrics::{Metrics, Reading};

pub use self::serve::{MAX_CONNECTIONS, serve};

/// How long the figures may take to be gathered before the scrape is answered 503.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What Prometheus asks for and `Metrics::encode` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const INDEX: &str =
    "Heartwire\n\n/livez    the process is alive\n/readyz   it takes connections\n/metrics  OpenMetrics\n";

/// Whether the node takes connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Readiness {
    /// Not yet.
    Starting,
    /// Yes.
    Ready,
    /// Not any more.
    Draining,
}

/// What the pages show.
#[derive(Clone)]
pub struct AdminState {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Reads the gauges, at each scrape, on a thread that may block.
    pub reading: Arc<dyn Fn() -> Reading + Send + Sync>,
    /// Whether the node takes connections. Keeps its last value if the sender is gone.
    pub readiness: watch::Receiver<Readiness>,
    /// Whether the log commits; while it does not, newcomers are refused. Keeps its last value if the sender is gone.
    pub log: watch::Receiver<LogHealth>,
}

fn router(state: AdminState) -> Router {
    Router::new()
        .route("/", get(|| async { plain(StatusCode::OK, INDEX) }))
        .route("/livez", get(|| async { plain(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async { plain(StatusCode::NOT_FOUND, "not found; / lists what there is\n") })
        .method_not_allowed_fallback(|| async { plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n") })
        .with_state(state)
}

/// An answer is of its moment: nothing on the way may keep it.
fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, text.into()).into_response()
}

async fn readyz(State(state): State<AdminState>) -> Response {
    match *state.readiness.borrow() {
        Readiness::Ready => match &*state.log.borrow() {
            LogHealth::Committing => plain(StatusCode::OK, "ready\n"),
            // Ready all the same: whoever looks here learns of it before it fails.
            LogHealth::Ailing(why) => plain(StatusCode::OK, format!("ready\nthe log is ailing: {why}\n")),
            LogHealth::Failing(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("the log is failing: {why}\n")),
        },
        Readiness::Starting => plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        Readiness::Draining => plain(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

/// Reading the gauges takes locks, so it happens where blocking harms nobody and /livez still answers.
async fn metrics(State(state): State<AdminState>) -> Result<Response, Infallible> {
    let text = tokio::task::spawn_blocking(move || state.metrics.encode((state.reading)()));
    Ok(match tokio::time::timeout(REQUEST_TIMEOUT, text).await {
        Ok(Ok(Ok(text))) => {
            let headers = [(header::CONTENT_TYPE, OPENMETRICS), (header::CACHE_CONTROL, "no-store")];
            (headers, text).into_response()
        }
        Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the figures were not gathered in time\n"),
        Ok(_) => plain(StatusCode::INTERNAL_SERVER_ERROR, "the figures cannot be written\n"),
    })
}

#[cfg(test)]
mod tests;
