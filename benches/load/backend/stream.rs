//! Sends over one `SendStream`: at a fixed rate, or as fast as the window allows.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use heartwire::pb;
use heartwire::pb::message_service_client::MessageServiceClient;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::sends::request;
use super::{Backend, Became, CALL_LIMIT, Load, Tally, Targets};
use crate::clock;

/// Sends without an outcome at once. Beyond it a saturating sender waits, and one at a fixed rate leaves out.
const WINDOW: usize = 8192;

/// Sends in one request when saturating.
const BATCH: u32 = 64;

/// Requests made and not yet taken by HTTP/2; when full, the sender waits.
const REQUESTS: usize = 16;

/// How fast to send.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many a second.
    Rate(u32),
    /// As fast as outcomes come.
    Saturated,
}

impl Backend {
    /// Sends for so long, and then reads the outcomes that are still owed.
    pub fn stream(&self, pace: Pace, targets: Targets, window: Duration) -> Result<Load, String> {
        let mut client = MessageServiceClient::new(self.channel()?);
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let places = Arc::new(Semaphore::new(WINDOW));
        let free = Arc::clone(&places);
        let (requests, taken) = mpsc::channel(REQUESTS);
        let outcomes = self
            .runtime
            .block_on(async { tokio::time::timeout(CALL_LIMIT, client.send_stream(ReceiverStream::new(taken))).await })
            .map_err(|_| "no stream of outcomes in time".to_owned())?
            .map_err(|status| format!("cannot open a stream: {status}"))?
            .into_inner();
        let sending = self.runtime.spawn(async move {
            let start = Instant::now();
            let mut sent = 0u64;
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            while start.elapsed() < window {
                let count = match pace {
                    Pace::Saturated => BATCH,
                    Pace::Rate(rate) => {
                        ticks.tick().await;
                        let due = (start.elapsed().as_secs_f64() * f64::from(rate)) as u64;
                        u32::try_from(due - sent.min(due)).unwrap_or(0)
                    }
                };
                if count == 0 {
                    continue;
                }
                let place = match pace {
                    Pace::Saturated => places.acquire_many(count).await.ok(),
                    Pace::Rate(_) => places.try_acquire_many(count).ok(),
                };
                let sends = (0..count).map(|_| {
                    sent += 1;
                    pb::TaggedSend { tag: sent as i64, request: Some(request(targets.at(sent), clock::stamp())) }
                });
                let request = pb::SendStreamRequest { sends: sends.collect() };
                let Some(place) = place else {
                    counted.skipped.fetch_add(u64::from(count), Ordering::Relaxed);
                    continue;
                };
                // Given back by the outcomes.
                place.forget();
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        });
        let (counted, free) = (Arc::clone(&tally), free);
        let reading = self.runtime.spawn(read(outcomes, counted, free));
        Ok(Load { tally, tasks: vec![sending, reading] })
    }
}

async fn read(mut outcomes: Streaming<pb::SendStreamResponse>, tally: Arc<Tally>, free: Arc<Semaphore>) {
    while let Ok(Ok(Some(response))) = tokio::time::timeout(CALL_LIMIT, outcomes.message()).await {
        free.add_permits(response.outcomes.len());
        for outcome in &response.outcomes {
            tally.count(match Code::from(outcome.code) {
                Code::Ok => Became::Accepted,
                Code::ResourceExhausted => Became::Refused,
                Code::NotFound => Became::Absent,
                _ => Became::Failed,
            });
        }
    }
}
