//! A backend that acts on connections: disconnects them, labels them, retunes and probes them.

use std::collections::HashMap;
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::connection_service_client::ConnectionServiceClient;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::{Actor, convert};
use crate::orders::Counted;
use crate::record::{Aim, Outcome, What};
use crate::world::pos;

/// What is being asked, once it is known how it went: the connections and the cursor of the answer.
type Answer = Result<(Vec<String>, String), tonic::Status>;

pub async fn run(mut actor: Actor, clients: Vec<String>, pause: u64) {
    let mut call = 0;
    while let Some(address) = actor.process().await {
        if !actor.busy().await {
            return;
        }
        let Ok(channel) = actor.channels.open(address.grpc).await else {
            sleep(actor.between(20, 100)).await;
            continue;
        };
        let mut client = ConnectionServiceClient::new(channel.channel.clone());
        while *actor.address.borrow() == Some(address) && actor.order().busy() {
            let counted = Counted::one(&actor.pulse.calls);
            call += 1;
            let id = clients[actor.rng.usize(0..clients.len())].clone();
            let name = ["disconnect", "labels", "labels", "labels", "probe", "heartbeat"][actor.rng.usize(0..6)];
            actor.journal.note(What::Command { call, name: name.to_owned(), to: Aim::Client(id.clone()) });
            let answer = command(&mut actor, &mut client, name, &id).await;
            let (outcome, connections, cursor) = match answer {
                Ok((connections, cursor)) => (Outcome::ok(), connections, pos(&cursor)),
                Err(status) => (convert::outcome(&status), Vec::new(), None),
            };
            actor.journal.note(What::Commanded { call, outcome, connections, cursor });
            drop(counted);
            let pause = actor.between(pause / 2, pause * 2);
            sleep(pause).await;
        }
    }
}

async fn command(actor: &mut Actor, client: &mut ConnectionServiceClient<Channel>, name: &str, id: &str) -> Answer {
    let target = convert::client_target(id);
    let ids = |connections: Vec<pb::Connection>| connections.into_iter().map(|one| one.connection_id).collect();
    match name {
        "disconnect" => {
            let request = pb::DisconnectRequest { target, code: 4_000, reason: "told to".to_owned(), ..Default::default() };
            let answer = client.disconnect(limited(request)).await?.into_inner();
            Ok((answer.connection_ids, answer.cursor))
        }
        "labels" => {
            let set = HashMap::from([("room".to_owned(), actor.rng.u32(0..3).to_string())]);
            let request = pb::UpdateLabelsRequest { target, set, ..Default::default() };
            let answer = client.update_labels(limited(request)).await?.into_inner();
            Ok((ids(answer.connections), answer.cursor))
        }
        "heartbeat" => {
            let heartbeat = pb::HeartbeatSettings { interval: None, timeout: convert::span(actor.rng.u64(2_800..3_400)) };
            let request = pb::UpdateHeartbeatRequest { target, heartbeat: Some(heartbeat), ..Default::default() };
            let answer = client.update_heartbeat(limited(request)).await?.into_inner();
            Ok((ids(answer.connections), answer.cursor))
        }
        _ => {
            let request = pb::ProbeRequest { target, timeout: convert::span(300) };
            let answer = client.probe(limited(request)).await?.into_inner();
            Ok((answer.results.into_iter().map(|result| result.connection_id).collect(), String::new()))
        }
    }
}

fn limited<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    request.set_timeout(Duration::from_secs(8));
    request
}
