//! `Subscribe` as it is served: its responses come encoded. The generated server would have each made as a message first, which is most of what
//! telling an event costs; it serves the other methods of the service.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BufMut as _;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::codegen::http;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Status};
use tonic_prost::ProstDecoder;

use super::error::Items;
use super::event_batch::Response;
use super::events::Events;
use crate::pb;
use crate::pb::event_service_server::{EventServiceServer, SERVICE_NAME};

const SUBSCRIBE: &str = "/heartwire.v1.EventService/Subscribe";

/// EventService.
#[derive(Clone)]
pub(super) struct EventServer {
    events: Arc<Events>,
    generated: EventServiceServer<Events>,
}

impl EventServer {
    pub(super) fn new(events: Events) -> Self {
        let events = Arc::new(events);
        Self { generated: EventServiceServer::from_arc(Arc::clone(&events)), events }
    }
}

impl NamedService for EventServer {
    const NAME: &'static str = SERVICE_NAME;
}

impl Service<http::Request<Body>> for EventServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() != SUBSCRIBE {
            return self.generated.call(request);
        }
        let subscribe = Subscribe(Arc::clone(&self.events));
        Box::pin(async move { Ok(Grpc::new(EncodedCodec).server_streaming(subscribe, request).await) })
    }
}

struct Subscribe(Arc<Events>);

impl ServerStreamingService<pb::SubscribeRequest> for Subscribe {
    type Response = Response;
    type ResponseStream = Items<Response>;
    type Future = BoxFuture<tonic::Response<Self::ResponseStream>, Status>;

    fn call(&mut self, request: Request<pb::SubscribeRequest>) -> Self::Future {
        let events = Arc::clone(&self.0);
        Box::pin(async move { events.subscribe(request).await })
    }
}

/// Requests as prost decodes them; responses as they are.
struct EncodedCodec;

impl Codec for EncodedCodec {
    type Encode = Response;
    type Decode = pb::SubscribeRequest;
    type Encoder = Self;
    type Decoder = ProstDecoder<pb::SubscribeRequest>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

impl Encoder for EncodedCodec {
    type Item = Response;
    type Error = Status;

    fn encode(&mut self, response: Response, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.reserve(response.bytes.len());
        out.put_slice(&response.bytes);
        Ok(())
    }
}
