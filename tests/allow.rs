//! Several connections of one client id: what is for the id is for each of them, and each can be picked by its generation.

use std::collections::HashMap;

use heartwire::config::{ByteSize, Config, DuplicatePolicy};
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::raw_websocket;
use crate::harness::{Client, Events, Node, client_target, connection_target, eventually, reason, span};

fn allow(config: &mut Config) {
    config.identity.duplicates = DuplicatePolicy::Allow;
}

/// A node with two connections of alice, the older first.
async fn two() -> (Node, Events, [(Client, pb::Event); 2]) {
    let node = Node::with(allow).await;
    let mut events = node.events().await;
    let mut next = async || {
        let client = node.connect("alice").await;
        let (event, connected) = events.connected().await;
        assert_eq!((event.client_id.as_str(), connected.replaces_generation), ("alice", 0));
        (client, event)
    };
    let both = [next().await, next().await];
    assert!(both[0].1.generation < both[1].1.generation);
    (node, events, both)
}

fn ids(both: &[(Client, pb::Event); 2]) -> [String; 2] {
    [both[0].1.connection_id.clone(), both[1].1.connection_id.clone()]
}

fn text(target: pb::Target, text: &str) -> pb::SendRequest {
    let payload = Some(pb::send_request::Payload::Text(text.to_owned()));
    pb::SendRequest { target: Some(target), payload, receipt: pb::Stage::Written.into(), ..Default::default() }
}

async fn send(node: &Node, request: pb::SendRequest) -> Result<Vec<pb::Delivery>, tonic::Status> {
    node.messages().send(request).await.map(|answer| answer.into_inner().deliveries)
}

#[tokio::test]
async fn what_is_sent_to_the_id_goes_to_each_connection_and_the_answer_has_a_delivery_for_each() {
    let (node, mut events, mut both) = two().await;
    let deliveries = send(&node, text(client_target("alice"), "both")).await.expect("sends");
    let told: Vec<_> = deliveries.iter().map(|one| (one.connection_id.clone(), one.stage(), one.failure)).collect();
    assert_eq!(told, ids(&both).map(|id| (id, pb::Stage::Written, 0)));
    for (client, _) in &mut both {
        assert_eq!(client.next_text().await, "both");
    }
    // By connection, and by generation, only the one.
    let [older, newer] = [both[0].1.clone(), both[1].1.clone()];
    send(&node, text(connection_target(&older.connection_id), "to the older")).await.expect("sends");
    let by_generation =
        pb::SendRequest { if_generation: newer.generation, ..text(client_target("alice"), "to the newer") };
    let deliveries = send(&node, by_generation.clone()).await.expect("sends");
    assert_eq!(deliveries.len(), 1);
    assert_eq!(deliveries[0].connection_id, newer.connection_id);
    assert_eq!(both[0].0.next_text().await, "to the older");
    assert_eq!(both[1].0.next_text().await, "to the newer");
    // What each says is its own.
    for (client, came) in &mut both {
        client.text("mine").await;
        assert_eq!(events.text().await.0.connection_id, came.connection_id);
    }

    let other = pb::SendRequest { if_generation: older.generation - 1, ..by_generation };
    let refused = send(&node, other).await.expect_err("no such generation");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "GENERATION_MISMATCH"));
    let metadata = refused.get_details_error_info().expect("an ErrorInfo").metadata;
    assert_eq!(metadata["actual_generation"], newer.generation.to_string());
    // A backend that counts heads counts both.
    let broadcast = pb::BroadcastRequest {
        everyone: true,
        payload: Some(pb::broadcast_request::Payload::Text("all".to_owned())),
        ..Default::default()
    };
    let answer = node.messages().broadcast(broadcast).await.expect("broadcasts").into_inner();
    assert_eq!((answer.matched, answer.accepted), (2, 2));
}

#[tokio::test]
async fn a_full_outbox_of_one_connection_is_told_beside_the_delivery_to_the_other() {
    let node = Node::with(|config| {
        allow(config);
        config.limits.outbox_bytes = ByteSize::kib(256);
    })
    .await;
    let mut events = node.events().await;
    let _never_reads = raw_websocket(node.ws, "?client_id=alice").await;
    let (slow, _) = events.connected().await;
    let (mut reads, came) = node.connect_seen("alice", &mut events).await;
    let large = "x".repeat(60_000);
    let fill = pb::SendRequest { receipt: 0, ..text(connection_target(&slow.connection_id), &large) };
    let mut sent = 0;
    let full = loop {
        match send(&node, fill.clone()).await {
            Ok(_) => sent += 1,
            Err(full) => break full,
        }
        assert!(sent < 1_000, "nothing is ever full");
    };
    assert_eq!((full.code(), &*reason(&full)), (Code::ResourceExhausted, "OUTBOX_FULL"));

    let deliveries = send(&node, text(client_target("alice"), &large)).await.expect("one took it");
    let told: Vec<_> = deliveries.iter().map(|one| (&one.connection_id, one.stage(), one.failure())).collect();
    let full = (&slow.connection_id, pb::Stage::Unspecified, pb::DeliveryFailure::OutboxFull);
    assert_eq!(told, [full, (&came.connection_id, pb::Stage::Written, pb::DeliveryFailure::Unspecified)]);
    assert!(deliveries[0].time.is_none());
    assert_eq!(reads.next_text().await.len(), 60_000);
}

#[tokio::test]
async fn a_probe_is_answered_with_a_round_trip_of_each_connection() {
    let (node, _events, both) = two().await;
    let expected = ids(&both);
    let reading = both.map(|(mut client, _)| tokio::spawn(async move { client.socket_until_end().await }));
    let request = pb::ProbeRequest { target: Some(client_target("alice")), timeout: span(5_000) };
    let results = node.connections().probe(request).await.expect("answers").into_inner().results;
    assert_eq!(results.iter().map(|result| result.connection_id.clone()).collect::<Vec<_>>(), expected);
    assert!(results.iter().all(|result| result.answered && result.round_trip_time.is_some()), "{results:?}");
    for reading in reading {
        reading.abort();
    }
}

#[tokio::test]
async fn a_kick_by_generation_leaves_the_other_and_one_by_id_ends_all() {
    let (node, mut events, mut both) = two().await;
    let [older, newer] = ids(&both);
    let kick = |if_generation| pb::DisconnectRequest {
        target: Some(client_target("alice")),
        if_generation,
        ..Default::default()
    };
    let refused = node.connections().disconnect(kick(1)).await.expect_err("no such generation");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "GENERATION_MISMATCH"));
    let answer = node.connections().disconnect(kick(both[0].1.generation)).await.expect("answers").into_inner();
    assert_eq!(answer.connection_ids, std::slice::from_ref(&older));
    let (gone, end) = events.disconnected().await;
    assert_eq!((&gone.connection_id, gone.cursor, end.cause()), (&older, answer.cursor, Cause::Kicked));
    assert_eq!(both[0].0.closed().await.0, 1000);
    send(&node, text(client_target("alice"), "still you")).await.expect("sends");
    assert_eq!(both[1].0.next_text().await, "still you");

    let (_third, third) = node.connect_seen("alice", &mut events).await;
    let listed: Vec<_> = node.get("alice").await.into_iter().map(|one| one.connection_id).collect();
    assert_eq!(listed, [newer.clone(), third.connection_id.clone()]);
    let answer = node.disconnect("alice", 4000, "all of you").await.expect("answers");
    assert_eq!(answer.connection_ids, [newer, third.connection_id]);
    assert_eq!(both[1].0.closed().await, (4000, "all of you".to_owned()));
    let ends = [events.disconnected().await.0, events.disconnected().await.0];
    assert_eq!(ends[1].cursor, answer.cursor);
    assert!(node.get("alice").await.is_empty());
}

#[tokio::test]
async fn labels_and_heartbeats_are_set_on_each_connection_and_logged_for_each() {
    let (node, mut events, both) = two().await;
    let labels: HashMap<_, _> = [("room".to_owned(), "7".to_owned())].into();
    let set =
        pb::UpdateLabelsRequest { target: Some(client_target("alice")), set: labels.clone(), ..Default::default() };
    let answer = node.connections().update_labels(set.clone()).await.expect("labels").into_inner();
    assert_eq!(answer.connections.iter().map(|one| one.connection_id.clone()).collect::<Vec<_>>(), ids(&both));
    assert!(answer.connections.iter().all(|one| one.labels == labels));
    let mut last = String::new();
    for id in ids(&both) {
        let changed = events.next().await;
        assert!(matches!(changed.kind, Some(Kind::LabelsChanged(_))) && changed.connection_id == id);
        last = changed.cursor;
    }
    assert_eq!(last, answer.cursor, "answered when both are visible");
    assert!(node.get("alice").await.iter().all(|one| one.labels == labels));

    let heartbeat = Some(pb::HeartbeatSettings { interval: span(10_000), timeout: span(20_000) });
    let of_one = pb::UpdateHeartbeatRequest {
        target: Some(client_target("alice")),
        heartbeat,
        if_generation: both[1].1.generation,
    };
    let answer = node.connections().update_heartbeat(of_one.clone()).await.expect("retunes").into_inner();
    assert_eq!(answer.connections.len(), 1);
    assert_eq!(node.get("alice").await.iter().filter(|one| one.heartbeat == heartbeat).count(), 1);
    let of_both = pb::UpdateHeartbeatRequest { if_generation: 0, ..of_one };
    let answer = node.connections().update_heartbeat(of_both).await.expect("retunes").into_inner();
    assert!(answer.connections.len() == 2 && answer.connections.iter().all(|one| one.heartbeat == heartbeat));
    // One event each: the newer had the settings already when both were meant.
    let retuned = [events.next().await, events.next().await].map(|event| event.connection_id);
    assert_eq!(retuned, [both[1].1.connection_id.clone(), both[0].1.connection_id.clone()]);
}

#[tokio::test]
async fn each_connection_is_listed_counted_and_in_a_snapshot() {
    let (node, _events, both) = two().await;
    let mut expected = ids(&both);
    expected.sort();
    let mut listed: Vec<_> = node.list().await.0.into_iter().map(|one| one.connection_id).collect();
    listed.sort();
    assert_eq!(listed, expected);
    let count = node.connections().count_connections(pb::CountConnectionsRequest::default()).await;
    assert_eq!(count.expect("counts").into_inner().count, 2);
    let mut snapshot = node.events_from(pb::subscribe_request::Start::Snapshot(pb::SnapshotStart {})).await;
    let mut seen = [snapshot.connected().await.0.connection_id, snapshot.connected().await.0.connection_id];
    seen.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn of_a_hundred_clients_that_race_for_one_id_as_many_as_the_limit_stay_and_the_rest_get_4410_and_no_event() {
    const MANY: usize = 100;
    const MOST: usize = 16;
    let node = Node::with(allow).await;
    let mut events = node.events().await;
    let racers: Vec<_> = (0..MANY)
        .map(|_| {
            let ws = node.ws;
            tokio::spawn(async move { Client::connect(&format!("ws://{ws}/?client_id=alice")).await })
        })
        .collect();
    let mut clients = Vec::new();
    for racer in racers {
        clients.push(racer.await.expect("no panic"));
    }
    eventually("the others are refused", || async {
        let refused = node.metric("heartwire_refusals_total{reason=\"id_in_use\"}").await;
        (refused as usize == MANY - MOST).then_some(())
    })
    .await;
    let mut connected: Vec<_> = node.get("alice").await.into_iter().map(|one| one.connection_id).collect();
    assert_eq!(connected.len(), MOST);

    // Everyone is told: those who stay by a message, the others by a Close.
    assert_eq!(send(&node, text(client_target("alice"), "you stay")).await.expect("sends").len(), MOST);
    let mut staying = Vec::new();
    for mut client in clients {
        match client.next().await {
            Some(message) if message.is_text() => staying.push(client),
            Some(message) => assert!(format!("{message:?}").contains("4410"), "{message:?}"),
            None => panic!("ended with no Close"),
        }
    }
    assert_eq!(staying.len(), MOST);
    // One leaves, and there is a place.
    staying.pop().expect("one").text("").await;
    let mut told: Vec<_> = Vec::new();
    let gone = loop {
        let event = events.next().await;
        match event.kind {
            Some(Kind::Connected(_)) => told.push(event.connection_id),
            Some(Kind::Disconnected(_)) => break event,
            other => panic!("{other:?}"),
        }
    };
    assert!(told.contains(&gone.connection_id));
    told.sort();
    connected.sort();
    assert_eq!(told, connected, "nothing is logged for those who were refused");
    let _next = node.connect_seen("alice", &mut events).await;
    assert_eq!(node.connect("alice").await.closed().await.0, 4410);
}
