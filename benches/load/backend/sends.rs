//! Single sends, each a call: at a fixed rate, or as fast as so many in flight go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartwire::pb;
use tokio::sync::Semaphore;
use tonic::Code;

use super::http::{Api, Pool};
use super::unary::Calls;
use super::{Backend, Became, CALL_LIMIT, Load, Tally, Targets};
use crate::clock;
use crate::peers::ControlKind;

/// At a fixed rate: beyond so many in flight a send is left out and counted.
const MOST_IN_FLIGHT: usize = 1024;

const SEND: &str = "/heartwire.v1.MessageService/Send";
const CENTRIFUGO_PUBLISH: &str = "/centrifugal.centrifugo.api.CentrifugoApi/Publish";

/// One way of sending to one client, or to the channel that it listens to.
#[derive(Clone)]
pub(super) enum Post {
    Heartwire(Calls),
    Centrifugo(Calls),
    Http(Pool),
}

impl Post {
    pub(super) async fn send(&self, id: &str, text: String) -> Became {
        match self {
            Self::Heartwire(calls) => call(calls, &request(id, text)).await,
            Self::Centrifugo(calls) => call(calls, &CentrifugoPublish::new(id, &text)).await,
            Self::Http(pool) => pool.send(id, &text).await,
        }
    }
}

async fn call(calls: &Calls, request: &impl prost::Message) -> Became {
    match tokio::time::timeout(CALL_LIMIT, calls.call(request)).await {
        Ok(Some(Code::Ok)) => Became::Accepted,
        Ok(Some(Code::ResourceExhausted)) => Became::Refused,
        Ok(Some(Code::NotFound)) => Became::Absent,
        Ok(Some(_) | None) | Err(_) => Became::Failed,
    }
}

/// `PublishRequest` of Centrifugo's api.proto, as far as it is needed. The answer may carry an error inside; what it
/// did not deliver is then told as accepted and lost.
#[derive(Clone, PartialEq, prost::Message)]
struct CentrifugoPublish {
    #[prost(string, tag = "1")]
    channel: String,
    /// JSON.
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

impl CentrifugoPublish {
    fn new(channel: &str, text: &str) -> Self {
        Self { channel: channel.to_owned(), data: serde_json::Value::from(text).to_string().into() }
    }
}

/// A request for one text to one client id.
pub(super) fn request(id: &str, text: String) -> pb::SendRequest {
    let target = pb::target::Target::ClientId(id.to_owned());
    pb::SendRequest {
        target: Some(pb::Target { target: Some(target) }),
        payload: Some(pb::send_request::Payload::Text(text)),
        ..Default::default()
    }
}

impl Backend {
    pub(super) fn post(&self) -> Result<Post, String> {
        Ok(match self.kind {
            ControlKind::Heartwire => Post::Heartwire(self.runtime.block_on(Calls::open(self.grpc, SEND))?),
            ControlKind::Centrifugo => {
                Post::Centrifugo(self.runtime.block_on(Calls::open(self.grpc, CENTRIFUGO_PUBLISH))?)
            }
            ControlKind::Nchan => Post::Http(Pool::new(self.grpc, Api::Nchan)),
            ControlKind::Anycable => Post::Http(Pool::new(self.grpc, Api::Anycable)),
        })
    }

    /// So many sends a second, whether or not earlier ones were answered: an answer that is late delays no other.
    pub fn sends_at(&self, rate: u32, targets: Targets, window: Duration) -> Result<Load, String> {
        let post = self.post()?;
        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        let task = self.runtime.spawn(async move {
            let places = Arc::new(Semaphore::new(MOST_IN_FLIGHT));
            let mut ticks = tokio::time::interval(Duration::from_millis(1));
            let (start, mut sent) = (Instant::now(), 0);
            while start.elapsed() < window {
                ticks.tick().await;
                let due = start.elapsed().as_secs_f64() * f64::from(rate);
                while (sent as f64) < due {
                    sent += 1;
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        counted.skipped.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let (post, counted, targets) = (post.clone(), Arc::clone(&counted), targets.clone());
                    tokio::spawn(async move {
                        counted.count(post.send(targets.at(sent), clock::stamp()).await);
                        drop(place);
                    });
                }
            }
            // All answered, or given up.
            let _ = places.acquire_many(u32::try_from(MOST_IN_FLIGHT).unwrap_or(0)).await;
        });
        Ok(Load { tally, tasks: vec![task] })
    }

    /// So many senders, each waiting for its answer before it sends again.
    pub fn sends_saturated(&self, in_flight: u32, targets: &Targets, window: Duration) -> Result<Load, String> {
        let post = self.post()?;
        let tally = Arc::new(Tally::default());
        let next = Arc::new(AtomicU64::new(0));
        let end = Instant::now() + window;
        let tasks = (0..in_flight).map(|_| {
            let (post, tally, targets, next) = (post.clone(), Arc::clone(&tally), targets.clone(), Arc::clone(&next));
            self.runtime.spawn(async move {
                while Instant::now() < end {
                    let target = targets.at(next.fetch_add(1, Ordering::Relaxed));
                    tally.count(post.send(target, clock::stamp()).await);
                }
            })
        });
        Ok(Load { tasks: tasks.collect(), tally })
    }
}
