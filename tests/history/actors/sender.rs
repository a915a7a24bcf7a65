//! A backend that sends: one call at a time, or many over a stream; to those who are there and those who are not.

use std::time::Duration;

use heartwire::pb;
use heartwire::pb::message_service_client::MessageServiceClient;
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{Actor, convert};
use crate::orders::{Counted, Order};
use crate::record::{Aim, Outcome, What};
use crate::world::Address;

/// How a sender is.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Client ids to send to; some are of nobody.
    pub to: Vec<String>,
    /// Of those, the clients that stall: they are sent much while they do.
    pub stalling: Vec<String>,
    /// Of those, the clients that can acknowledge.
    pub reliable: Vec<String>,
    pub streams: bool,
    /// Milliseconds between two sends.
    pub pause: u64,
    /// What this release can do.
    pub ttl: bool,
    pub message_ids: bool,
}

struct Sender {
    actor: Actor,
    habits: Habits,
    call: u32,
    order: u32,
    /// The last send with a message id, to be repeated.
    repeat: Option<(u32, pb::SendRequest)>,
}

pub async fn run(actor: Actor, habits: Habits) {
    let mut me = Sender { actor, habits, call: 0, order: 0, repeat: None };
    while let Some(address) = me.actor.process().await {
        if !me.actor.busy().await {
            return;
        }
        let Ok(channel) = me.actor.channels.open(address.grpc).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let client = MessageServiceClient::new(channel.channel.clone());
        if me.habits.streams { me.stream(address, client).await } else { me.calls(address, client).await }
    }
}

impl Sender {
    fn same_process(&self, address: Address) -> bool {
        *self.actor.address.borrow() == Some(address) && self.actor.order() != Order::Quit
    }

    /// The next message, and what is written down of it.
    fn next(&mut self) -> (pb::SendRequest, u32) {
        self.call += 1;
        if let Some((_, request)) = self.repeat.take_if(|(call, _)| *call + 20 < self.call) {
            self.note(&request);
            return (request, self.call);
        }
        let rng = &mut self.actor.rng;
        let stalls = *self.actor.orders.borrow() == Order::Stall && !self.habits.stalling.is_empty();
        let (client, bytes) = if stalls && rng.bool() {
            (self.habits.stalling[rng.usize(0..self.habits.stalling.len())].clone(), 16 * 1024)
        } else {
            (self.habits.to[rng.usize(0..self.habits.to.len())].clone(), rng.usize(10..200))
        };
        let id = format!("{}:{}", self.actor.journal.actor(), self.call);
        let can_ack = self.habits.reliable.contains(&client);
        let receipt = match rng.u32(0..5) {
            0 if can_ack => pb::Stage::Acked,
            0..=2 => pb::Stage::Written,
            _ => pb::Stage::Accepted,
        };
        let mut request = pb::SendRequest {
            target: convert::client_target(&client),
            payload: Some(pb::send_request::Payload::Text(convert::payload('m', &id, bytes))),
            receipt: receipt.into(),
            receipt_timeout: (receipt != pb::Stage::Accepted).then(|| convert::span(400)).flatten(),
            ..Default::default()
        };
        if self.habits.ttl && rng.u32(0..8) == 0 {
            request.ttl = convert::span(60_000);
            request.message_id.clone_from(&id);
            request.set_receipt(pb::Stage::Stored);
            request.receipt_timeout = None;
        } else if self.habits.message_ids && rng.u32(0..8) == 0 {
            request.message_id.clone_from(&id);
            self.repeat = Some((self.call, request.clone()));
        }
        self.note(&request);
        (request, self.call)
    }

    fn note(&self, request: &pb::SendRequest) {
        let to = match request.target.as_ref().and_then(|target| target.target.clone()) {
            Some(pb::target::Target::ClientId(id)) => Aim::Client(id),
            Some(pb::target::Target::ConnectionId(id)) => Aim::Connection(id),
            None => Aim::Everyone,
        };
        let id = match &request.payload {
            Some(pb::send_request::Payload::Text(text)) => convert::id_of(text),
            _ => String::new(),
        };
        self.actor.journal.note(What::Send {
            call: self.call,
            order: if self.habits.streams { self.order } else { 0 },
            to,
            id,
            receipt: request.receipt().as_str_name().trim_start_matches("STAGE_").to_lowercase(),
            generation: request.if_generation,
            ttl: request.ttl.as_ref().map_or(0, |ttl| ttl.seconds as u64 * 1_000),
            message_id: request.message_id.clone(),
            deadline: 0,
        });
    }

    fn sent(&self, call: u32, answer: Result<pb::SendResponse, Outcome>) {
        let what = match answer {
            Ok(answer) => What::Sent {
                call,
                outcome: Outcome::ok(),
                deliveries: answer.deliveries.iter().map(convert::delivery).collect(),
                replayed: answer.replayed,
            },
            Err(outcome) => What::Sent { call, outcome, deliveries: Vec::new(), replayed: false },
        };
        self.actor.journal.note(what);
    }

    /// One call at a time, now and then with a deadline that is hard to meet; a broadcast between them.
    async fn calls(&mut self, address: Address, mut client: MessageServiceClient<Channel>) {
        while self.same_process(address) && self.actor.order().busy() {
            let counted = Counted::one(&self.actor.pulse.calls);
            if self.actor.rng.u32(0..40) == 0 {
                self.broadcast(&mut client).await;
            }
            let (request, call) = self.next();
            let mut request = tonic::Request::new(request);
            let deadline = if self.actor.rng.u32(0..10) == 0 { self.actor.between(1, 10) } else { Duration::from_secs(5) };
            request.set_timeout(deadline);
            let answer = client.send(request).await;
            self.sent(call, answer.map(tonic::Response::into_inner).map_err(|status| convert::outcome(&status)));
            drop(counted);
            sleep(Duration::from_millis(self.habits.pause)).await;
        }
    }

    async fn broadcast(&mut self, client: &mut MessageServiceClient<Channel>) {
        self.call += 1;
        let (call, id) = (self.call, format!("{}:{}", self.actor.journal.actor(), self.call));
        let payload = pb::broadcast_request::Payload::Text(convert::payload('m', &id, 40));
        self.actor.journal.note(What::Broadcast { call, to: Aim::Everyone, id });
        let request = pb::BroadcastRequest { everyone: true, payload: Some(payload), ..Default::default() };
        let (outcome, answer) = match client.broadcast(request).await {
            Ok(answer) => (Outcome::ok(), answer.into_inner()),
            Err(status) => (convert::outcome(&status), pb::BroadcastResponse::default()),
        };
        let pb::BroadcastResponse { matched, accepted, refused, .. } = answer;
        self.actor.journal.note(What::Broadcasted { call, outcome, matched, accepted, refused });
    }

    /// Many at once, with their outcomes as they come.
    async fn stream(&mut self, address: Address, mut client: MessageServiceClient<Channel>) {
        self.order += 1;
        let counted = Counted::one(&self.actor.pulse.calls);
        let (requests, queue) = tokio::sync::mpsc::channel(64);
        let opened = client.send_stream(ReceiverStream::new(queue)).await;
        let Ok(mut outcomes) = opened.map(tonic::Response::into_inner) else { return };
        let mut open = std::collections::BTreeSet::new();
        let mut requests = Some(requests);
        let whole = self.actor.rng.u32(20..200);
        let mut left = whole;
        loop {
            let busy = left > 0 && self.same_process(address) && self.actor.order().busy();
            if !busy {
                // Half-closed: the outcomes that are owed still come.
                requests = None;
            }
            tokio::select! {
                response = outcomes.message() => match response {
                    Ok(Some(response)) => {
                        for outcome in response.outcomes {
                            open.remove(&(outcome.tag as u32));
                            let answer = match outcome.response {
                                Some(response) if outcome.code == 0 => Ok(response),
                                _ => Err(Outcome {
                                    code: convert::code(tonic::Code::from(outcome.code)),
                                    reason: outcome.reason,
                                    message: outcome.message,
                                    ..Outcome::default()
                                }),
                            };
                            self.sent(outcome.tag as u32, answer);
                        }
                    }
                    _ => break,
                },
                () = sleep(Duration::from_millis(self.habits.pause)), if busy => {
                    left -= 1;
                    let (request, call) = self.next();
                    open.insert(call);
                    let tagged = pb::TaggedSend { tag: i64::from(call), request: Some(request) };
                    let batch = pb::SendStreamRequest { sends: vec![tagged] };
                    if let Some(requests) = &requests && requests.send(batch).await.is_err() {
                        break;
                    }
                }
            }
        }
        drop(counted);
        // Those without an outcome are indefinite, and stay without an answer in the history.
    }
}
