//! A backend that subscribes: one that misses nothing, ones that are cut and resume, one that reads slowly.

use std::collections::VecDeque;
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::subscribe_request::Start as Wanted;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Actor, convert};
use crate::orders::{Counted, Order, Progress};
use crate::record::{Filter, Outcome, Pos, Start, What};
use crate::world::{Address, pos};

/// How a subscriber is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// From the beginning, without a break of its own.
    Auditor,
    /// Cut at random and resumed, often where it was and sometimes from an older cursor.
    Cutter,
    /// Takes a snapshot now and then.
    Snapshots,
    /// Reads slowly while others are told to stall.
    Slow,
}

struct Subscriber {
    actor: Actor,
    manner: Manner,
    filter: Filter,
    stream: u32,
    /// Cursors it was given, the newest last; opaque strings with what is written down of them.
    cursors: VecDeque<(String, Pos)>,
    progress: Option<Progress>,
}

/// How many old cursors are kept to resume from.
const CURSORS: usize = 200;

pub async fn run(actor: Actor, manner: Manner, filter: Filter) {
    // Those that are always there and have no filter come to every head.
    let told = filter.is_empty() && matches!(manner, Manner::Auditor | Manner::Slow | Manner::Cutter);
    let progress = told.then(|| actor.pulse.progress());
    let mut me = Subscriber { actor, manner, filter, stream: 0, cursors: VecDeque::new(), progress };
    while let Some(address) = me.actor.process().await {
        if manner == Manner::Snapshots && !me.actor.busy().await {
            return;
        }
        me.subscribe(address).await;
        let pause = match manner {
            Manner::Auditor | Manner::Slow => Duration::from_millis(10),
            Manner::Cutter => me.actor.between(1, 100),
            Manner::Snapshots => me.actor.between(100, 700),
        };
        sleep(pause).await;
    }
}

impl Subscriber {
    fn start(&mut self) -> (Start, Wanted) {
        let snapshot = (Start::Snapshot, Wanted::Snapshot(pb::SnapshotStart {}));
        if self.manner == Manner::Snapshots {
            return snapshot;
        }
        // Sometimes from further back, where it had been before.
        let back = match self.manner {
            Manner::Cutter if self.actor.rng.u32(0..4) == 0 => self.actor.rng.usize(0..self.cursors.len().max(1)),
            _ => 0,
        };
        match self.cursors.iter().rev().nth(back) {
            Some((cursor, at)) => (Start::Cursor(at.clone()), Wanted::Cursor(cursor.clone())),
            None if self.manner == Manner::Auditor => (Start::Beginning, Wanted::Beginning(pb::BeginningStart {})),
            None if self.manner == Manner::Slow => (Start::Now, Wanted::Now(pb::NowStart {})),
            None => snapshot,
        }
    }

    async fn subscribe(&mut self, address: Address) {
        let window = (self.manner == Manner::Slow).then_some(65_535);
        let Ok(channel) = self.actor.channels.open_with(address.grpc, window).await else { return };
        let (start, wanted) = self.start();
        self.stream += 1;
        let (stream, filter) = (self.stream, self.filter.clone());
        let request = pb::SubscribeRequest { start: Some(wanted), filter: convert::filter(&filter), ..Default::default() };
        self.actor.journal.note(What::Subscribe { stream, run: address.run, start, filter, consumer: String::new() });
        let counted = Counted::one(&self.actor.pulse.streams);
        let (cut, outcome) = match EventServiceClient::new(channel.channel.clone()).subscribe(request).await {
            Ok(responses) => self.read(responses.into_inner()).await,
            Err(status) => (false, convert::outcome(&status)),
        };
        drop(counted);
        // What is kept is of no use any more.
        if matches!(outcome.reason.as_str(), "EPOCH_CHANGED" | "CURSOR_EXPIRED") {
            self.cursors.clear();
        }
        self.actor.journal.note(What::Unsubscribed { stream, cut, outcome });
    }

    async fn read(&mut self, mut responses: tonic::Streaming<pb::SubscribeResponse>) -> (bool, Outcome) {
        let cut_at = Instant::now() + self.actor.between(200, 3_000);
        let mut whole = false;
        loop {
            let order = self.actor.order();
            if order == Order::Quit || (self.manner == Manner::Snapshots && whole) {
                return (true, Outcome::ok());
            }
            // At rest everybody stays, so that all is seen by all.
            let wants_cut = self.manner == Manner::Cutter && order.busy();
            if self.manner == Manner::Slow && order == Order::Stall {
                tokio::select! {
                    () = sleep(Duration::from_millis(700)) => {}
                    _ = self.actor.orders.changed() => continue,
                }
            }
            let response = tokio::select! {
                response = responses.message() => response,
                () = sleep_until(cut_at), if wants_cut => return (true, Outcome::ok()),
                _ = self.actor.orders.changed() => continue,
            };
            match response {
                Ok(Some(response)) => {
                    let cursor = pos(&response.cursor);
                    let events: Vec<_> = response.events.iter().map(convert::event).collect();
                    let snapshot = response.snapshot;
                    let stream = self.stream;
                    // Any event's cursor will do to resume from.
                    for event in response.events.iter().filter(|event| !event.cursor.is_empty()) {
                        self.keep(event.cursor.clone());
                    }
                    self.actor.journal.note(What::Batch { stream, snapshot, cursor: cursor.clone(), events });
                    if cursor.is_some() {
                        whole = true;
                        self.keep(response.cursor);
                        if let Some(progress) = &self.progress {
                            *progress.lock().expect("nobody panicked") = cursor;
                        }
                    }
                }
                Ok(None) => return (false, Outcome::ok()),
                Err(status) => return (false, convert::outcome(&status)),
            }
        }
    }

    fn keep(&mut self, cursor: String) {
        if let Some(at) = pos(&cursor) {
            if self.cursors.back().is_some_and(|(last, _)| *last == cursor) {
                return;
            }
            if self.cursors.len() == CURSORS {
                self.cursors.pop_front();
            }
            self.cursors.push_back((cursor, at));
        }
    }
}
