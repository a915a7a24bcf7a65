//! Which service a request is for.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use hyper::body::{Body, Bytes};
use hyper::{Request, Response};
use tower::Service as _;

use super::messages::Messages;
use crate::pb::message_service_server::{MessageServiceServer, SERVICE_NAME as MESSAGES};

/// The answer to a request, in the making.
pub type Answering = Pin<Box<dyn Future<Output = Result<Response<tonic::body::Body>, Infallible>> + Send>>;

/// All services; cheap to clone. From [`Services::routes`](super::Services::routes).
#[derive(Clone)]
pub struct Routes {
    /// Called by name: tonic's router took some 7 % of the instructions of a `Send`, by callgrind.
    messages: MessageServiceServer<Messages>,
    others: tonic::service::Routes,
}

impl Routes {
    pub(super) fn new(messages: MessageServiceServer<Messages>, others: tonic::service::Routes) -> Self {
        Self { messages, others }
    }

    /// Calls the service that the path names; it refuses what it does not know. The answer has gRPC's status in it, whatever became of the call.
    pub fn call<B>(&self, request: Request<B>) -> Answering
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let service = request.uri().path().split('/').nth(1);
        if service == Some(MESSAGES) {
            self.messages.clone().call(request)
        } else {
            Box::pin(self.others.clone().call(request))
        }
    }
}
