//! A backend whose position the server keeps: it acknowledges now and then, goes away, and goes on where it was.

use std::time::Duration;

use heartwire::pb;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::subscribe_request::Start as Wanted;
use tokio::time::{Instant, sleep, sleep_until};
use tonic::transport::Channel;

use super::{Actor, convert};
use crate::orders::{Counted, Order};
use crate::record::{Filter, Outcome, Start, What};
use crate::world::{Address, pos};

struct Consumer {
    actor: Actor,
    name: String,
    stream: u32,
    /// The server has a position of it.
    known: bool,
    reset: bool,
}

pub async fn run(actor: Actor, name: String) {
    let mut me = Consumer { actor, name, stream: 0, known: false, reset: false };
    let mut run = 0;
    while let Some(address) = me.actor.process().await {
        // Without a journal its position went with the process.
        if run != address.run {
            run = address.run;
        }
        me.subscribe(address).await;
        let pause = me.actor.between(1, 200);
        sleep(pause).await;
    }
}

impl Consumer {
    async fn subscribe(&mut self, address: Address) {
        let Ok(channel) = self.actor.channels.open(address.grpc).await else { return };
        self.stream += 1;
        let stream = self.stream;
        let start = if self.known && !self.reset { Start::Kept } else { Start::Now };
        let request = pb::SubscribeRequest {
            start: Some(Wanted::Now(pb::NowStart {})),
            consumer: self.name.clone(),
            reset_consumer: self.reset,
            ..Default::default()
        };
        let (filter, consumer) = (Filter::default(), self.name.clone());
        self.actor.journal.note(What::Subscribe { stream, run: address.run, start, filter, consumer });
        let counted = Counted::one(&self.actor.pulse.streams);
        let mut client = EventServiceClient::new(channel.channel.clone());
        let (cut, outcome) = match client.subscribe(request).await {
            Ok(responses) => {
                (self.known, self.reset) = (true, false);
                self.read(responses.into_inner(), client).await
            }
            Err(status) => (false, convert::outcome(&status)),
        };
        drop(counted);
        match outcome.reason.as_str() {
            "EPOCH_CHANGED" | "CURSOR_EXPIRED" => self.reset = true,
            _ => {}
        }
        self.actor.journal.note(What::Unsubscribed { stream, cut, outcome });
    }

    async fn read(
        &mut self,
        mut responses: tonic::Streaming<pb::SubscribeResponse>,
        mut client: EventServiceClient<Channel>,
    ) -> (bool, Outcome) {
        let cut_at = Instant::now() + self.actor.between(300, 2_500);
        let mut last = String::new();
        let mut acknowledge_at = Instant::now() + Duration::from_millis(100);
        loop {
            if self.actor.order() == Order::Quit {
                return (true, Outcome::ok());
            }
            let cuts = self.actor.order().busy();
            let response = tokio::select! {
                response = responses.message() => response,
                () = sleep_until(cut_at), if cuts => return (true, Outcome::ok()),
                () = sleep_until(acknowledge_at), if !last.is_empty() => {
                    self.acknowledge(&mut client, &last).await;
                    acknowledge_at = Instant::now() + self.actor.between(50, 400);
                    continue;
                }
                _ = self.actor.orders.changed() => continue,
            };
            match response {
                Ok(Some(response)) => {
                    let events = response.events.iter().map(convert::event).collect();
                    let (stream, snapshot, cursor) = (self.stream, response.snapshot, pos(&response.cursor));
                    self.actor.journal.note(What::Batch { stream, snapshot, cursor, events });
                    last = response.cursor;
                }
                Ok(None) => return (false, Outcome::ok()),
                Err(status) => return (false, convert::outcome(&status)),
            }
        }
    }

    async fn acknowledge(&mut self, client: &mut EventServiceClient<Channel>, cursor: &str) {
        let Some(at) = pos(cursor) else { return };
        let consumer = self.name.clone();
        self.actor.journal.note(What::Acknowledge { consumer: consumer.clone(), at });
        let mut request =
            tonic::Request::new(pb::AcknowledgeRequest { consumer: consumer.clone(), cursor: cursor.to_owned() });
        request.set_timeout(Duration::from_secs(3));
        let (at, outcome) = match client.acknowledge(request).await {
            Ok(answer) => (pos(&answer.into_inner().cursor), Outcome::ok()),
            Err(status) => (None, convert::outcome(&status)),
        };
        self.actor.journal.note(What::Acknowledged { consumer, at, outcome });
    }
}
