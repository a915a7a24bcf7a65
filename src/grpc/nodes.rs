//! NodeService: the node itself, and emptying it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Request;

use super::Shared;
use super::arguments;
use super::convert;
use super::error::{Error, Item, Items, Reply, reply};
use crate::drain::{Pace, Progress};
use crate::pb;
use crate::pb::node_service_server::NodeService;

const RECONNECT_JITTER: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);

/// The part of a shutdown's deadline that a drain without a pace of its own is spread over.
const DRAIN_SHARE: f64 = 0.4;

/// Progress is told no more often than this.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

pub(super) struct Nodes(pub(super) Arc<Shared>);

impl Nodes {
    fn node(&self) -> Result<pb::GetNodeResponse, Error> {
        let shared = &*self.0;
        shared.check_open()?;
        let bounds = shared.registry.log().bounds();
        Ok(pb::GetNodeResponse {
            node_id: shared.registry.settings().node_id.as_ref().to_owned(),
            incarnation: shared.node.incarnation.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(convert::timestamp_of(shared.node.start_time)),
            oldest_cursor: shared.cursor(bounds.before_oldest),
            head_cursor: shared.cursor(bounds.head),
            connections: convert::count(shared.registry.count()),
            max_connections: convert::count(shared.node.max_connections),
            draining: shared.registry.is_draining(),
        })
    }

    fn begin_drain(&self, request: pb::DrainRequest) -> Result<watch::Receiver<Progress>, Error> {
        let shared = &*self.0;
        shared.check_open()?;
        let pace = self.pace(request)?;
        let progress = shared.drain.progress();
        if !shared.drain.begun().is_cancelled() {
            shared.drain.begin(pace);
        }
        Ok(progress)
    }

    fn pace(&self, request: pb::DrainRequest) -> Result<Pace, Error> {
        let defaults = &self.0.drain_defaults;
        let per_second = u64::try_from(request.connections_per_second)
            .map_err(|_| Error::field("connections_per_second", "must not be negative"))?;
        let jitter = arguments::span("reconnect_jitter", request.reconnect_jitter, RECONNECT_JITTER)?;
        let reconnect_jitter = jitter.unwrap_or(defaults.reconnect_jitter);
        Ok(match (per_second, defaults.close_rate) {
            (0, 0) => {
                let connections = self.0.registry.count();
                Pace::within(defaults.deadline.mul_f64(DRAIN_SHARE), connections, reconnect_jitter)
            }
            (0, per_second) | (per_second, _) => Pace { per_second, reconnect_jitter },
        })
    }
}

/// What a watcher of a drain is at.
struct Watch {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    told: Option<(Progress, Instant)>,
}

impl Watch {
    /// The progress, when there is some; none after the last.
    async fn next(&mut self) -> Result<Option<Progress>, Error> {
        if let Some((told, at)) = self.told {
            if told.done {
                return Ok(None);
            }
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                biased;
                () = shared.closing.now().cancelled() => return Err(Error::ShuttingDown),
                () = self.changed(at) => {}
            }
        }
        let progress = *self.progress.borrow_and_update();
        self.told = Some((progress, Instant::now()));
        Ok(Some(progress))
    }

    /// Waits for progress, and then for the time to tell it; the end is told at once.
    async fn changed(&mut self, told: Instant) {
        // An error would mean that the drain is gone, and this holds it.
        let _ = self.progress.changed().await;
        let done = self.progress.wait_for(|progress| progress.done);
        let _ = tokio::time::timeout_at(told + PROGRESS_EVERY, done).await;
    }

    fn into_stream(self) -> impl Stream<Item = Item<pb::DrainResponse>> {
        stream::unfold(Some(self), |watch| async move {
            let mut watch = watch?;
            match watch.next().await {
                Ok(progress) => {
                    let Progress { remaining, closed, .. } = progress?;
                    let response =
                        pb::DrainResponse { remaining: convert::count(remaining), closed: convert::count(closed) };
                    Some((Ok(response), Some(watch)))
                }
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }
}

#[tonic::async_trait]
impl NodeService for Nodes {
    async fn get_node(&self, _: Request<pb::GetNodeRequest>) -> Reply<pb::GetNodeResponse> {
        reply(self.node())
    }

    type DrainStream = Items<pb::DrainResponse>;

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Reply<Self::DrainStream> {
        let progress = self.begin_drain(request.into_inner());
        let watch = progress.map(|progress| Watch { shared: Arc::clone(&self.0), progress, told: None });
        reply(watch.map(|watch| -> Self::DrainStream { Box::pin(watch.into_stream()) }))
    }
}
