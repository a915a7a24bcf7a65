//! Subscriptions that count what they are told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartwire::pb;
use heartwire::pb::event::Kind;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::subscribe_request::Start as PbStart;

use super::{Backend, CALL_LIMIT};

/// Where a subscription begins.
#[derive(Clone, Copy)]
pub enum Start {
    Now,
    Beginning,
}

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

impl Backend {
    /// Subscribes over a channel of its own and reads from there on. It is there when the first answer is.
    pub fn subscribe(&self, start: Start) -> Result<Subscription, String> {
        self.subscribe_with(start, |_| {})
    }

    /// The same, with something to do for each event as it is read.
    pub fn subscribe_with(
        &self,
        start: Start,
        mut each: impl FnMut(&pb::Event) + Send + 'static,
    ) -> Result<Subscription, String> {
        let mut client = EventServiceClient::new(self.another_channel()?).max_decoding_message_size(16 << 20);
        let start = match start {
            Start::Now => PbStart::Now(pb::NowStart {}),
            Start::Beginning => PbStart::Beginning(pb::BeginningStart {}),
        };
        let begun = Instant::now();
        let request = pb::SubscribeRequest { start: Some(start), ..Default::default() };
        let call = async { tokio::time::timeout(CALL_LIMIT, client.subscribe(request)).await };
        let mut stream = self
            .runtime
            .block_on(call)
            .map_err(|_| "no subscription in time".to_owned())?
            .map_err(|status| format!("cannot subscribe: {status}"))?
            .into_inner();
        let (events, ended, finished): (Arc<AtomicU64>, Arc<AtomicBool>, Arc<AtomicU64>) = Default::default();
        let told = (Arc::clone(&events), Arc::clone(&ended), Arc::clone(&finished));
        let task = self.runtime.spawn(async move {
            let (events, ended, finished) = told;
            while let Ok(Some(batch)) = stream.message().await {
                batch.events.iter().for_each(&mut each);
                events.fetch_add(batch.events.len() as u64, Ordering::Relaxed);
                if batch.events.last().is_some_and(is_last_word) {
                    finished.store(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Release);
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
        Ok(Subscription { events, ended, finished, task: task.abort_handle() })
    }
}

fn is_last_word(event: &pb::Event) -> bool {
    let Some(Kind::MessageReceived(message)) = &event.kind else { return false };
    matches!(&message.payload, Some(pb::message_received::Payload::Text(text)) if text == LAST_WORD)
}
