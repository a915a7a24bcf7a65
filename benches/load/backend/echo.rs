//! The least of a backend: what a client says is sent back to it.

use heartwire::pb;
use heartwire::pb::event::Kind;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::message_received::Payload as Received;
use heartwire::pb::message_service_client::MessageServiceClient;
use heartwire::pb::send_request::Payload as Sent;
use heartwire::pb::subscribe_request::Start;
use heartwire::pb::target::Target;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Backend, CALL_LIMIT};

/// Requests made and not yet taken by HTTP/2; when full, the subscription is read no further.
const REQUESTS: usize = 64;

impl Backend {
    /// Subscribes to messages and sends each back over one `SendStream`, for as long as this backend lives.
    pub fn echo(&self) -> Result<(), String> {
        let mut events = EventServiceClient::new(self.channel()?);
        let mut messages = MessageServiceClient::new(self.channel()?);
        let filter = pb::EventFilter { kinds: vec![pb::EventKind::MessageReceived as i32], ..Default::default() };
        let request = pb::SubscribeRequest {
            start: Some(Start::Now(pb::NowStart {})),
            filter: Some(filter),
            ..Default::default()
        };
        let (answers, taken) = mpsc::channel(REQUESTS);
        let begin = async {
            let stream = events.subscribe(request).await?.into_inner();
            let outcomes = messages.send_stream(ReceiverStream::new(taken)).await?.into_inner();
            Ok::<_, tonic::Status>((stream, outcomes))
        };
        let (mut stream, mut outcomes) = self
            .runtime
            .block_on(async { tokio::time::timeout(CALL_LIMIT, begin).await })
            .map_err(|_| "no subscription in time".to_owned())?
            .map_err(|status| format!("cannot echo: {status}"))?;
        self.runtime.spawn(async move { while let Ok(Some(_)) = outcomes.message().await {} });
        self.runtime.spawn(async move {
            while let Ok(Some(batch)) = stream.message().await {
                let sends: Vec<_> = batch.events.into_iter().filter_map(answer).collect();
                if !sends.is_empty() && answers.send(pb::SendStreamRequest { sends }).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }
}

fn answer(event: pb::Event) -> Option<pb::TaggedSend> {
    let Some(Kind::MessageReceived(message)) = event.kind else { return None };
    let payload = match message.payload? {
        Received::Text(text) => Sent::Text(text),
        Received::Binary(bytes) => Sent::Binary(bytes),
    };
    let target = pb::Target { target: Some(Target::ConnectionId(event.connection_id)) };
    Some(pb::TaggedSend {
        tag: 0,
        request: Some(pb::SendRequest { target: Some(target), payload: Some(payload), ..Default::default() }),
    })
}
