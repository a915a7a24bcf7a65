//! EventService: the log as streams.

use std::sync::Arc;

use tonic::Request;

use super::Shared;
use super::call;
use super::consumers;
use super::error::{Error, Items, Reply, reply};
use super::event_batch;
use super::filter::Filter;
use super::snapshot::Snapshot;
use super::subscription::{Start, Subscription};
use crate::consumers::{Attachment, Fresh, MAX_CONSUMERS, Opened};
use crate::log::resume_from;
use crate::pb;
use crate::pb::event_service_server::EventService;
use crate::pb::subscribe_request::Start as Asked;
use crate::position::{Offset, Position};

pub(super) struct Events(pub(super) Arc<Shared>);

impl Events {
    async fn begin(&self, request: pb::SubscribeRequest) -> Result<Subscription, Error> {
        let shared = &self.0;
        check_scope(request.scope)?;
        let filter = Filter::parse(request.filter)?;
        let name = match request.consumer.as_str() {
            "" if request.reset_consumer => return Err(Error::field("reset_consumer", "is set without a consumer")),
            "" => None,
            name => Some(consumers::name("consumer", name)?),
        };
        let seat = shared.subscribers.sit(shared.head())?;
        let asked = request.start.unwrap_or(Asked::Now(pb::NowStart {}));
        let (start, attachment) = match name {
            None => (self.asked(&asked)?.start(shared).await?, None),
            Some(name) => {
                let attachment = shared.consumers.enter(&name);
                let start = self.open(&attachment, &asked, request.reset_consumer).await?;
                attachment.take_over();
                (start, Some(attachment))
            }
        };
        Ok(Subscription::new(Arc::clone(shared), filter, seat, start, attachment))
    }

    /// Where a stream of a consumer begins, which is kept by the time this answers.
    pub(super) async fn open(&self, attachment: &Attachment, asked: &Asked, reset: bool) -> Result<Start, Error> {
        let shared = &self.0;
        let place = self.asked(asked);
        let fresh = match &place {
            Ok(Place::Now(offset) | Place::Beginning(offset) | Place::Cursor(offset)) => {
                Fresh::At(shared.registry.position(*offset))
            }
            Ok(Place::Snapshot) => Fresh::Snapshot,
            // It does not matter what is wrong with a start that does not serve.
            Err(_) => Fresh::Nowhere,
        };
        match shared.consumers.open(attachment, fresh, reset).await? {
            Opened::Fresh => place?.start(shared).await,
            Opened::TakenOver => Err(Error::ConsumerTakenOver),
            Opened::TooMany => Err(Error::ConsumersLimit(MAX_CONSUMERS)),
            Opened::Kept(position) => {
                let offset = resume_from(&**shared.registry.log(), position);
                // Told at once, as with a start at the present: the caller may not know it.
                offset.map(Start::At).map_err(|error| Error::kept_position(error, &shared.registry))
            }
        }
    }

    fn asked(&self, asked: &Asked) -> Result<Place, Error> {
        let log = self.0.registry.log();
        Ok(match asked {
            Asked::Now(_) => Place::Now(log.head()),
            Asked::Beginning(_) => Place::Beginning(log.bounds().before_oldest),
            Asked::Cursor(cursor) => Place::Cursor(self.resume(cursor)?),
            Asked::Snapshot(_) => Place::Snapshot,
        })
    }

    fn resume(&self, cursor: &str) -> Result<Offset, Error> {
        let position = Position::from_cursor(cursor).map_err(|_| Error::CursorDamaged)?;
        let registry = &self.0.registry;
        resume_from(&**registry.log(), position).map_err(|error| Error::cursor(error, registry))
    }
}

/// Where a stream was asked to begin, as an offset where that can be told.
enum Place {
    Now(Offset),
    Beginning(Offset),
    Cursor(Offset),
    Snapshot,
}

impl Place {
    async fn start(self, shared: &Shared) -> Result<Start, Error> {
        Ok(match self {
            Self::Now(offset) => Start::At(offset),
            // What is the oldest may be forgotten before it is read.
            Self::Beginning(_) => Start::Beginning,
            Self::Cursor(offset) => Start::Cursor(offset),
            Self::Snapshot => Start::Snapshot(Snapshot::new(shared.snapshots.place().await?)),
        })
    }
}

/// Refuses what the contract has and this release does not.
fn check_scope(scope: i32) -> Result<(), Error> {
    match pb::Scope::try_from(scope) {
        Ok(pb::Scope::Unspecified | pb::Scope::Node) => Ok(()),
        Ok(pb::Scope::Cluster) => Err(Error::NotImplemented("SCOPE_CLUSTER")),
        Err(_) => Err(Error::field("scope", "is not a scope")),
    }
}

impl Events {
    pub(super) async fn subscribe(
        &self,
        request: Request<pb::SubscribeRequest>,
    ) -> Reply<Items<event_batch::Response>> {
        let deadline = call::deadline(request.metadata());
        // Also while the node goes down: a stream that begins then still carries what is left.
        let begun = self.0.timed(deadline, self.begin(request.into_inner())).await;
        let stream = begun.map(|subscription| -> Items<_> { Box::pin(subscription.into_stream()) });
        reply(stream)
    }
}

#[tonic::async_trait]
impl EventService for Events {
    type SubscribeStream = Items<pb::SubscribeResponse>;

    /// Never called: [`subscribe`](super::subscribe) takes these calls before they come here.
    async fn subscribe(&self, _: Request<pb::SubscribeRequest>) -> Reply<Self::SubscribeStream> {
        reply(Err(Error::NotImplemented("Subscribe from generated code")))
    }

    async fn acknowledge(&self, request: Request<pb::AcknowledgeRequest>) -> Reply<pb::AcknowledgeResponse> {
        let deadline = call::deadline(request.metadata());
        // Also while the node goes down, as long as streams still carry something.
        reply(self.0.timed(deadline, consumers::acknowledge(&self.0, request.into_inner())).await)
    }

    async fn list_consumers(&self, request: Request<pb::ListConsumersRequest>) -> Reply<pb::ListConsumersResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, consumers::list(&self.0, request.into_inner())).await)
    }

    async fn delete_consumer(&self, request: Request<pb::DeleteConsumerRequest>) -> Reply<pb::DeleteConsumerResponse> {
        let deadline = call::deadline(request.metadata());
        reply(self.0.bounded(deadline, consumers::delete(&self.0, request.into_inner())).await)
    }
}
