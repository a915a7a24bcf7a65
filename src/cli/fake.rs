//! A server for the tests: it answers what it was told to, in order, keeps what it was asked, and hangs when it has
//! nothing left to answer.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::pb;
use crate::pb::connection_service_server::{ConnectionService, ConnectionServiceServer};
use crate::pb::event_service_server::{EventService, EventServiceServer};
use crate::pb::message_service_server::{MessageService, MessageServiceServer};

/// A queue that the test and the server share.
pub(super) struct Shared<T>(Arc<Mutex<VecDeque<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Shared<T> {
    pub(super) fn extend(&self, items: impl IntoIterator<Item = T>) {
        self.0.lock().unwrap().extend(items);
    }

    pub(super) fn taken(&self) -> Vec<T> {
        self.0.lock().unwrap().drain(..).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    async fn next(&self) -> T {
        let next = self.0.lock().unwrap().pop_front();
        match next {
            Some(item) => item,
            None => pending().await,
        }
    }
}

/// What one `Subscribe` gets: batches and then its end. None: it stays open.
pub(super) type Script = (Vec<pb::SubscribeResponse>, Option<Status>);

type Answers<T> = Shared<Result<T, Status>>;

#[derive(Clone, Default)]
pub(super) struct Fake {
    pub(super) streams: Answers<Script>,
    pub(super) subscriptions: Shared<pb::SubscribeRequest>,
    pub(super) lists: Answers<pb::ListConnectionsResponse>,
    pub(super) list_requests: Shared<pb::ListConnectionsRequest>,
    pub(super) counts: Answers<pb::CountConnectionsResponse>,
    pub(super) consumer_lists: Answers<pb::ListConsumersResponse>,
    pub(super) consumer_list_requests: Shared<pb::ListConsumersRequest>,
    pub(super) consumer_deletes: Answers<pb::DeleteConsumerResponse>,
    pub(super) consumer_delete_requests: Shared<pb::DeleteConsumerRequest>,
    pub(super) disconnects: Answers<pb::DisconnectResponse>,
    pub(super) disconnect_requests: Shared<pb::DisconnectRequest>,
    pub(super) sends: Answers<pb::SendResponse>,
    pub(super) send_requests: Shared<(pb::SendRequest, Option<String>)>,
    pub(super) broadcasts: Answers<pb::BroadcastResponse>,
    pub(super) broadcast_requests: Shared<pb::BroadcastRequest>,
}

/// A status as Heartwire makes them.
pub(super) fn refusal(code: Code, reason: &str) -> Status {
    let details = ErrorDetails::with_error_info(reason, "heartwire", HashMap::new());
    Status::with_error_details(code, "refused", details)
}

impl Fake {
    /// A channel to this server, through memory; as long as the test runs it can reconnect.
    pub(super) async fn channel(&self) -> Channel {
        serve(self.services()).await
    }

    pub(super) fn services(&self) -> tonic::transport::server::Router {
        Server::builder()
            .add_service(EventServiceServer::new(self.clone()))
            .add_service(ConnectionServiceServer::new(self.clone()))
            .add_service(MessageServiceServer::new(self.clone()))
    }
}

/// Serves in memory and connects.
pub(super) async fn serve(server: tonic::transport::server::Router) -> Channel {
    let (dialled, incoming) = mpsc::channel::<DuplexStream>(4);
    let incoming = ReceiverStream::new(incoming).map(Ok::<_, std::io::Error>);
    tokio::spawn(server.serve_with_incoming(incoming));
    let dial = tower::service_fn(move |_| {
        let dialled = dialled.clone();
        async move {
            let (near, far) = duplex(64 * 1024);
            dialled.send(far).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(near))
        }
    });
    Endpoint::from_static("http://fake").connect_with_connector(dial).await.unwrap()
}

type Batches = Pin<Box<dyn Stream<Item = Result<pb::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl EventService for Fake {
    type SubscribeStream = Batches;

    async fn subscribe(&self, request: Request<pb::SubscribeRequest>) -> Result<Response<Batches>, Status> {
        self.subscriptions.extend([request.into_inner()]);
        let (batches, end) = self.streams.next().await?;
        let batches = tokio_stream::iter(batches.into_iter().map(Ok));
        Ok(Response::new(match end {
            Some(status) if status.code() == Code::Ok => Box::pin(batches),
            Some(status) => Box::pin(batches.chain(tokio_stream::once(Err(status)))),
            None => Box::pin(batches.chain(tokio_stream::pending())),
        }))
    }

    async fn acknowledge(
        &self,
        _: Request<pb::AcknowledgeRequest>,
    ) -> Result<Response<pb::AcknowledgeResponse>, Status> {
        pending().await
    }

    async fn list_consumers(
        &self,
        request: Request<pb::ListConsumersRequest>,
    ) -> Result<Response<pb::ListConsumersResponse>, Status> {
        self.consumer_list_requests.extend([request.into_inner()]);
        self.consumer_lists.next().await.map(Response::new)
    }

    async fn delete_consumer(
        &self,
        request: Request<pb::DeleteConsumerRequest>,
    ) -> Result<Response<pb::DeleteConsumerResponse>, Status> {
        self.consumer_delete_requests.extend([request.into_inner()]);
        self.consumer_deletes.next().await.map(Response::new)
    }
}

#[tonic::async_trait]
impl ConnectionService for Fake {
    async fn list_connections(
        &self,
        request: Request<pb::ListConnectionsRequest>,
    ) -> Result<Response<pb::ListConnectionsResponse>, Status> {
        self.list_requests.extend([request.into_inner()]);
        self.lists.next().await.map(Response::new)
    }

    async fn get_connection(
        &self,
        _: Request<pb::GetConnectionRequest>,
    ) -> Result<Response<pb::GetConnectionResponse>, Status> {
        pending().await
    }

    async fn get_client(&self, _: Request<pb::GetClientRequest>) -> Result<Response<pb::GetClientResponse>, Status> {
        pending().await
    }

    async fn count_connections(
        &self,
        _: Request<pb::CountConnectionsRequest>,
    ) -> Result<Response<pb::CountConnectionsResponse>, Status> {
        self.counts.next().await.map(Response::new)
    }

    async fn disconnect(
        &self,
        request: Request<pb::DisconnectRequest>,
    ) -> Result<Response<pb::DisconnectResponse>, Status> {
        self.disconnect_requests.extend([request.into_inner()]);
        self.disconnects.next().await.map(Response::new)
    }

    async fn update_labels(
        &self,
        _: Request<pb::UpdateLabelsRequest>,
    ) -> Result<Response<pb::UpdateLabelsResponse>, Status> {
        pending().await
    }

    async fn probe(&self, _: Request<pb::ProbeRequest>) -> Result<Response<pb::ProbeResponse>, Status> {
        pending().await
    }

    async fn update_heartbeat(
        &self,
        _: Request<pb::UpdateHeartbeatRequest>,
    ) -> Result<Response<pb::UpdateHeartbeatResponse>, Status> {
        pending().await
    }
}

#[tonic::async_trait]
impl MessageService for Fake {
    async fn send(&self, request: Request<pb::SendRequest>) -> Result<Response<pb::SendResponse>, Status> {
        let deadline = request.metadata().get("grpc-timeout").map(|value| value.to_str().unwrap().to_owned());
        self.send_requests.extend([(request.into_inner(), deadline)]);
        self.sends.next().await.map(Response::new)
    }

    type SendStreamStream = Pin<Box<dyn Stream<Item = Result<pb::SendStreamResponse, Status>> + Send>>;

    async fn send_stream(
        &self,
        _: Request<tonic::Streaming<pb::SendStreamRequest>>,
    ) -> Result<Response<Self::SendStreamStream>, Status> {
        pending().await
    }

    async fn broadcast(
        &self,
        request: Request<pb::BroadcastRequest>,
    ) -> Result<Response<pb::BroadcastResponse>, Status> {
        self.broadcast_requests.extend([request.into_inner()]);
        self.broadcasts.next().await.map(Response::new)
    }
}
