//! EventService: the log as streams.

use std::sync::Arc;

use tonic::Request;

use super::Shared;
use super::call;
use super::error::{Error, Items, Reply, reply};
use super::filter::Filter;
use super::snapshot::Snapshot;
use super::subscription::{Start, Subscription};
use crate::log::resume_from;
use crate::pb;
use crate::pb::event_service_server::EventService;
use crate::position::{Offset, Position};

pub(super) struct Events(pub(super) Arc<Shared>);

impl Events {
    async fn begin(&self, request: pb::SubscribeRequest) -> Result<Subscription, Error> {
        use pb::subscribe_request::Start as Asked;
        let shared = &self.0;
        check_built(&request)?;
        let filter = Filter::parse(request.filter)?;
        let log = shared.registry.log();
        let seat = shared.subscribers.sit(shared.head())?;
        let start = match request.start {
            None | Some(Asked::Now(_)) => Start::Now(log.bounds().head),
            Some(Asked::Beginning(_)) => Start::Beginning,
            Some(Asked::Cursor(cursor)) => Start::Cursor(self.resume(&cursor)?),
            Some(Asked::Snapshot(_)) => Start::Snapshot(Snapshot::new(shared.snapshots.place().await?)),
        };
        Ok(Subscription::new(Arc::clone(shared), filter, seat, start))
    }

    fn resume(&self, cursor: &str) -> Result<Offset, Error> {
        let position = Position::from_cursor(cursor).map_err(|_| Error::CursorDamaged)?;
        let registry = &self.0.registry;
        resume_from(&**registry.log(), position).map_err(|error| Error::cursor(error, registry))
    }
}

/// Refuses what the contract has and this release does not.
fn check_built(request: &pb::SubscribeRequest) -> Result<(), Error> {
    if !request.consumer.is_empty() {
        return Err(Error::NotImplemented("consumer"));
    }
    if request.reset_consumer {
        return Err(Error::NotImplemented("reset_consumer"));
    }
    match pb::Scope::try_from(request.scope) {
        Ok(pb::Scope::Unspecified | pb::Scope::Node) => Ok(()),
        Ok(pb::Scope::Cluster) => Err(Error::NotImplemented("SCOPE_CLUSTER")),
        Err(_) => Err(Error::field("scope", "is not a scope")),
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type SubscribeStream = Items<pb::SubscribeResponse>;

    async fn subscribe(&self, request: Request<pb::SubscribeRequest>) -> Reply<Self::SubscribeStream> {
        let deadline = call::deadline(request.metadata());
        // Also while the node goes down: a stream that begins then still carries what is left.
        let begun = self.0.timed(deadline, self.begin(request.into_inner())).await;
        let stream = begun.map(|subscription| -> Self::SubscribeStream { Box::pin(subscription.into_stream()) });
        reply(stream)
    }

    async fn acknowledge(&self, _: Request<pb::AcknowledgeRequest>) -> Reply<pb::AcknowledgeResponse> {
        reply(Err(Error::NotImplemented("Acknowledge")))
    }

    async fn list_consumers(&self, _: Request<pb::ListConsumersRequest>) -> Reply<pb::ListConsumersResponse> {
        reply(Err(Error::NotImplemented("ListConsumers")))
    }

    async fn delete_consumer(&self, _: Request<pb::DeleteConsumerRequest>) -> Reply<pb::DeleteConsumerResponse> {
        reply(Err(Error::NotImplemented("DeleteConsumer")))
    }
}
