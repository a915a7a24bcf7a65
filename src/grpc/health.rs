//! Health as gRPC clients ask for it (`grpc.health.v1`): not serving until ready, and no more once a drain begins.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthMethods, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::error::{Error, Items, Reply, reply};
use crate::log::LogHealth;

/// The services whose health is told; the empty name stands for the whole server.
const NAMES: [&str; 5] = [
    "",
    "heartwire.v1.EventService",
    "heartwire.v1.ConnectionService",
    "heartwire.v1.MessageService",
    "heartwire.v1.NodeService",
];

/// The one service that is of no use while the log fails. The others go on, and so does the whole: a client that checks it would give up a
/// channel over which it still can send.
const OF_THE_LOG: &str = "heartwire.v1.EventService";

/// The health of the services; cheap to clone. All have the same, but for the log's.
#[derive(Clone)]
pub struct Health {
    ready: Arc<watch::Sender<bool>>,
    draining: CancellationToken,
    log: watch::Receiver<LogHealth>,
}

impl Health {
    pub(super) fn new(draining: CancellationToken, log: watch::Receiver<LogHealth>) -> Self {
        Self { ready: Arc::new(watch::Sender::new(false)), draining, log }
    }

    /// Says that the node takes clients and calls; or that it does not, for a while. Once it drains it never does again.
    pub fn set_ready(&self, ready: bool) {
        self.ready.send_replace(ready);
    }

    /// The service to serve.
    pub(super) fn service(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    fn now(&self, service: &str) -> ServingStatus {
        let fails = service == OF_THE_LOG && !self.log.borrow().is_committing();
        if *self.ready.borrow() && !self.draining.is_cancelled() && !fails {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        }
    }

    /// Waits until it is other than `told`.
    async fn other_than(&self, service: &str, told: Option<ServingStatus>) -> ServingStatus {
        let (mut ready, mut log) = (self.ready.subscribe(), self.log.clone());
        loop {
            log.mark_unchanged();
            let now = self.now(service);
            if told != Some(now) {
                return now;
            }
            tokio::select! {
                _ = ready.changed() => {}
                Ok(()) = log.changed() => {}
                () = self.draining.cancelled(), if !self.draining.is_cancelled() => {}
            }
        }
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl HealthMethods for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Reply<HealthCheckResponse> {
        let known = NAMES.contains(&request.get_ref().service.as_str());
        reply(if known { Ok(answer(self.now(&request.get_ref().service))) } else { Err(Error::NoSuchService) })
    }

    type WatchStream = Items<HealthCheckResponse>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Reply<Self::WatchStream> {
        let name = request.into_inner().service;
        let health = NAMES.iter().find(|known| **known == name).map(|name| (*name, self.clone()));
        let told = stream::unfold((health, None), |(health, told)| async move {
            let status = match &health {
                Some((name, health)) => health.other_than(name, told).await,
                // The protocol wants the watch of an unknown service to stay open.
                None if told.is_none() => ServingStatus::ServiceUnknown,
                None => std::future::pending().await,
            };
            Some((Ok(answer(status)), (health, Some(status))))
        });
        // The server ends it when the node goes down, as it does with any stream that knows nothing of that.
        reply(Ok(Box::pin(told)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn while_the_log_fails_only_its_own_service_is_not_served() {
        let log = watch::Sender::new(LogHealth::Committing);
        let health = Health::new(CancellationToken::new(), log.subscribe());
        health.set_ready(true);
        let (sees, told) = (health.clone(), ServingStatus::Serving);
        let turned = tokio::spawn(async move { sees.other_than(OF_THE_LOG, Some(told)).await });
        tokio::task::yield_now().await;
        log.send_replace(LogHealth::Failing("no space".into()));
        assert_eq!(turned.await.expect("no panic"), ServingStatus::NotServing);
        for name in NAMES {
            let expected = if name == OF_THE_LOG { ServingStatus::NotServing } else { ServingStatus::Serving };
            assert_eq!(health.now(name), expected, "{name:?}");
        }
        log.send_replace(LogHealth::Committing);
        assert_eq!(health.other_than(OF_THE_LOG, Some(ServingStatus::NotServing)).await, ServingStatus::Serving);
    }
}
