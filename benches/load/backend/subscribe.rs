//! Subscriptions that count what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use heartwire::pb;
use heartwire::pb::event::Kind;
use heartwire::pb::subscribe_request::Start as PbStart;
use prost::{DecodeError, Message};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

use super::{Backend, CALL_LIMIT};

/// Where a subscription begins.
#[derive(Clone, Copy)]
pub enum Start {
    Now,
    Beginning,
}

const SUBSCRIBE: &str = "/heartwire.v1.EventService/Subscribe";

/// The text that ends a replay.
pub const LAST_WORD: &str = "the last word";

/// A subscription that is read by a task of its own, until this is dropped.
pub struct Subscription {
    events: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    finished: Arc<AtomicU64>,
    task: tokio::task::AbortHandle,
}

impl Drop for Subscription {
    /// Ends the call.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subscription {
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Whether the stream came to its end, which it should not.
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// From the call to the last word; `None` while it has not come.
    pub fn finished(&self) -> Option<Duration> {
        match self.finished.load(Ordering::Acquire) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

/// A `SubscribeResponse` whose events are left as they came. The whole of their fields, each a string of its own, take a reader of the log longer than
/// the server that is to be measured; to find where each begins and ends is enough to count them.
#[derive(Clone, PartialEq, Message)]
struct Batch {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    events: Vec<Bytes>,
}

/// A call that was answered, and when it was begun.
struct Opened<B> {
    stream: Streaming<B>,
    begun: Instant,
}

impl Backend {
    /// Subscribes over a channel of its own and counts from there on. It is there when the first answer is.
    pub fn subscribe(&self, start: Start) -> Result<Subscription, String> {
        let opened = self.open(start)?;
        Ok(self.read(opened, |batch: Batch| {
            let last = batch.events.last().map(|event| pb::Event::decode(event.clone())).transpose()?;
            Ok((batch.events.len(), last.is_some_and(|event| is_last_word(&event))))
        }))
    }

    /// The same, with something to do for each event as it is read.
    pub fn subscribe_with(
        &self,
        start: Start,
        mut each: impl FnMut(&pb::Event) + Send + 'static,
    ) -> Result<Subscription, String> {
        let opened = self.open(start)?;
        Ok(self.read(opened, move |batch: pb::SubscribeResponse| {
            batch.events.iter().for_each(&mut each);
            Ok((batch.events.len(), batch.events.last().is_some_and(is_last_word)))
        }))
    }

    fn open<B: Message + Default + 'static>(&self, start: Start) -> Result<Opened<B>, String> {
        let mut client = Grpc::new(self.another_channel()?).max_decoding_message_size(16 << 20);
        let start = match start {
            Start::Now => PbStart::Now(pb::NowStart {}),
            Start::Beginning => PbStart::Beginning(pb::BeginningStart {}),
        };
        let begun = Instant::now();
        let request = pb::SubscribeRequest { start: Some(start), ..Default::default() };
        let call = async {
            client.ready().await.map_err(|error| error.to_string())?;
            let codec = ProstCodec::<pb::SubscribeRequest, B>::default();
            let answer = client.server_streaming(Request::new(request), PathAndQuery::from_static(SUBSCRIBE), codec);
            answer.await.map_err(|status| format!("cannot subscribe: {status}"))
        };
        let call = async { tokio::time::timeout(CALL_LIMIT, call).await };
        let answer = self.runtime.block_on(call).map_err(|_| "no subscription in time".to_owned())??;
        Ok(Opened { stream: answer.into_inner(), begun })
    }

    /// Reads in a task. `take` tells how many events a batch has, and whether the last is the last word.
    fn read<B: Send + 'static>(
        &self,
        opened: Opened<B>,
        mut take: impl FnMut(B) -> Result<(usize, bool), DecodeError> + Send + 'static,
    ) -> Subscription {
        let Opened { mut stream, begun } = opened;
        let (events, ended, finished): (Arc<AtomicU64>, Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let told = (Arc::clone(&events), Arc::clone(&ended), Arc::clone(&finished));
        let task = self.runtime.spawn(async move {
            let (events, ended, finished) = told;
            while let Ok(Some(batch)) = stream.message().await {
                // What cannot be read is an end that should not be.
                let Ok((count, last)) = take(batch) else { break };
                events.fetch_add(count as u64, Ordering::Relaxed);
                if last {
                    finished.store(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        Subscription { events, ended, finished, task: task.abort_handle() }
    }
}

fn is_last_word(event: &pb::Event) -> bool {
    let Some(Kind::MessageReceived(message)) = &event.kind else { return false };
    matches!(&message.payload, Some(pb::message_received::Payload::Text(text)) if text == LAST_WORD)
}
