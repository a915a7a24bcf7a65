//! Single sends, each a call: at a fixed rate, or as fast as so many in flight go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use heartwire::pb;
use tokio::sync::Semaphore;
use tonic::Code;

use super::nchan::Pool;
use super::unary::Calls;
use super::{Backend, Became, CALL_LIMIT, Load, Tally, Targets};
use crate::clock;
use crate::peers::ControlKind;

/// At a fixed rate: beyond so many in flight a send is left out and counted.
const MOST_IN_FLIGHT: usize = 1024;

const SEND: &str = "/heartwire.v1.MessageService/Send";

/// One way of sending to one client.
#[derive(Clone)]
enum Post {
    Grpc(Calls),
    Nchan(Pool),
}

impl Post {
    async fn send(&mut self, id: &str) -> Became {
        match self {
            Self::Grpc(calls) => {
                let request = request(id, clock::stamp());
                match tokio::time::timeout(CALL_LIMIT, calls.call(&request)).await {
                    Ok(Some(Code::Ok)) => Became::Accepted,
                    Ok(Some(Code::ResourceExhausted)) => Became::Refused,
                    Ok(Some(Code::NotFound)) => Became::Absent,
                    Ok(Some(_) | None) | Err(_) => Became::Failed,
                }
            }
            Self::Nchan(pool) => pool.send(id, &clock::stamp()).await,
        }
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
    fn post(&self) -> Result<Post, String> {
        Ok(match self.kind {
            ControlKind::Heartwire => Post::Grpc(self.runtime.block_on(Calls::open(self.grpc, SEND))?),
            ControlKind::Nchan => Post::Nchan(Pool::new(self.server)),
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
                    let (mut post, counted, targets) = (post.clone(), Arc::clone(&counted), targets.clone());
                    tokio::spawn(async move {
                        counted.count(post.send(targets.at(sent)).await);
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
            let (mut post, tally, targets, next) =
                (post.clone(), Arc::clone(&tally), targets.clone(), Arc::clone(&next));
            self.runtime.spawn(async move {
                while Instant::now() < end {
                    let target = targets.at(next.fetch_add(1, Ordering::Relaxed));
                    tally.count(post.send(target).await);
                }
            })
        });
        Ok(Load { tasks: tasks.collect(), tally })
    }
}
