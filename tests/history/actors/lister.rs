//! A backend that looks: lists, gets and counts.

use heartwire::pb;
use heartwire::pb::connection_service_client::ConnectionServiceClient;
use tokio::time::sleep;
use tonic::transport::Channel;

use super::{Actor, convert};
use crate::orders::Counted;
use crate::record::{Outcome, What};
use crate::world::pos;

pub async fn run(mut actor: Actor, clients: Vec<String>) {
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
            match actor.rng.u32(0..6) {
                0 => list(&actor, &mut client).await,
                1 => count(&actor, &mut client).await,
                _ => {
                    let id = clients[actor.rng.usize(0..clients.len())].clone();
                    get(&actor, &mut client, id).await;
                }
            }
            drop(counted);
            let pause = actor.between(30, 200);
            sleep(pause).await;
        }
    }
}

/// All pages.
pub async fn list(actor: &Actor, client: &mut ConnectionServiceClient<Channel>) {
    let asked = actor.journal.now();
    let (mut connections, mut cursor, mut page_token, mut outcome) = (Vec::new(), None, String::new(), Outcome::ok());
    loop {
        // Small pages, so that much happens between them.
        let request = pb::ListConnectionsRequest { page_token, page_size: 16, ..Default::default() };
        match client.list_connections(request).await {
            Ok(page) => {
                let page = page.into_inner();
                connections.extend(page.connections.iter().map(convert::shown));
                cursor = cursor.or(pos(&page.cursor));
                page_token = page.next_page_token;
            }
            Err(status) => {
                outcome = convert::outcome(&status);
                break;
            }
        }
        if page_token.is_empty() {
            break;
        }
    }
    actor.journal.note(What::Shown { asked, client: None, outcome, cursor, connections });
}

async fn get(actor: &Actor, client: &mut ConnectionServiceClient<Channel>, id: String) {
    let asked = actor.journal.now();
    let request = pb::GetClientRequest { client_id: id.clone(), ..Default::default() };
    let what = match client.get_client(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let connections = answer.connections.iter().map(convert::shown).collect();
            What::Shown { asked, client: Some(id), outcome: Outcome::ok(), cursor: pos(&answer.cursor), connections }
        }
        Err(status) => {
            let outcome = convert::outcome(&status);
            What::Shown { asked, client: Some(id), outcome, cursor: None, connections: Vec::new() }
        }
    };
    actor.journal.note(what);
}

async fn count(actor: &Actor, client: &mut ConnectionServiceClient<Channel>) {
    let asked = actor.journal.now();
    if let Ok(answer) = client.count_connections(pb::CountConnectionsRequest::default()).await {
        let answer = answer.into_inner();
        actor.journal.note(What::Counted { asked, count: answer.count, cursor: pos(&answer.cursor) });
    }
}
