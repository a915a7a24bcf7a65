//! One owner of a client id, however many want it.

use heartwire::config::DuplicatePolicy;
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use tonic::Code;

use crate::harness::{Client, Node, client_target, reason};

#[tokio::test]
async fn of_a_hundred_clients_that_race_for_one_id_the_last_one_owns_it() {
    const MANY: usize = 100;
    let node = Node::with(|config| config.identity.takeovers_per_minute = 0).await;
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
    let mut owner: Option<pb::Event> = None;
    for _ in 0..MANY {
        let next = events.next().await;
        let came = match (owner.take(), &next.kind) {
            (None, Some(Kind::Connected(came))) => {
                assert_eq!(came.replaces_generation, 0);
                next
            }
            (Some(old), Some(Kind::Disconnected(end))) => {
                assert_eq!((end.cause(), end.close_code), (Cause::Replaced, 4409));
                assert_eq!((&next.connection_id, next.generation), (&old.connection_id, old.generation));
                let (newer, came) = events.connected().await;
                assert_eq!(came.replaces_generation, old.generation);
                assert!(newer.generation > old.generation);
                newer
            }
            (owner, other) => panic!("{other:?} while {owner:?} owns the id"),
        };
        owner = Some(came);
    }
    let owner = owner.expect("somebody");
    let connected = node.get("alice").await;
    assert_eq!(connected.len(), 1);
    assert_eq!((&connected[0].connection_id, connected[0].generation), (&owner.connection_id, owner.generation));

    // The one who is left gets what is sent; all the others were told why not.
    node.send("alice", "you are it", pb::Stage::Written).await.expect("sends");
    let mut winners = 0;
    for mut client in clients {
        match client.next().await {
            Some(message) if message.is_text() => winners += 1,
            Some(message) if message.is_close() => {
                let text = format!("{message:?}");
                assert!(text.contains("4409"), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn the_replaced_is_closed_with_4409_after_what_it_was_sent() {
    let node = Node::start().await;
    let mut old = node.connect("alice").await;
    let mut events = node.events_from(pb::subscribe_request::Start::Beginning(pb::BeginningStart {})).await;
    events.connected().await;
    node.send("alice", "for the old", pb::Stage::Accepted).await.expect("sends");
    let mut newer = node.connect("alice").await;
    assert_eq!(old.next_text().await, "for the old");
    assert_eq!(old.closed().await, (4409, "Replaced by a newer connection".to_owned()));
    assert_eq!(events.disconnected().await.1.cause(), Cause::Replaced);
    events.connected().await;
    node.send("alice", "for the new", pb::Stage::Written).await.expect("sends");
    assert_eq!(newer.next_text().await, "for the new");
}

#[tokio::test]
async fn where_duplicates_are_rejected_the_newer_is_closed_with_4410_and_the_older_stays() {
    let node = Node::with(|config| config.identity.duplicates = DuplicatePolicy::Reject).await;
    let mut events = node.events().await;
    let (mut older, came) = node.connect_seen("alice", &mut events).await;
    let mut by_query = node.connect("alice").await;
    assert_eq!(by_query.closed().await.0, 4410);
    let mut by_frame = node.connect_unnamed().await;
    by_frame.text("heartbeat:alice").await;
    assert_eq!(by_frame.closed().await.0, 4410);
    assert_eq!(node.metric("heartwire_refusals_total{reason=\"id_in_use\"}").await, 2.0);
    assert_eq!(node.get("alice").await[0].generation, came.generation);
    // Once the older is gone the id is free.
    older.text("").await;
    assert_eq!(events.disconnected().await.0.generation, came.generation);
    let _newer = node.connect_seen("alice", &mut events).await;
}

#[tokio::test]
async fn too_many_takeovers_in_a_minute_close_the_newcomer_with_4429() {
    let node = Node::with(|config| config.identity.takeovers_per_minute = 3).await;
    let mut events = node.events().await;
    let (mut owner, mut came) = node.connect_seen("alice", &mut events).await;
    for _ in 0..3 {
        owner = node.connect("alice").await;
        events.disconnected().await;
        came = events.connected().await.0;
    }
    let mut newcomer = node.connect("alice").await;
    assert_eq!(newcomer.closed().await.0, 4429);
    assert_eq!(node.metric("heartwire_refusals_total{reason=\"takeovers\"}").await, 1.0);
    assert_eq!(node.get("alice").await[0].generation, came.generation);
    owner.text("still here").await;
    assert_eq!(events.text().await.1, "still here");
    // Another id has a count of its own.
    let _bob = node.connect_seen("bob", &mut events).await;
}

#[tokio::test]
async fn a_late_call_for_the_old_generation_does_not_touch_the_newer_connection() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (_old, old) = node.connect_seen("alice", &mut events).await;
    let mut newer = node.connect("alice").await;
    events.disconnected().await;
    let (came, _) = events.connected().await;

    let target = Some(client_target("alice"));
    let mut connections = node.connections();
    let stale = old.generation;
    let disconnect = pb::DisconnectRequest { target: target.clone(), if_generation: stale, ..Default::default() };
    let labels = pb::UpdateLabelsRequest {
        target: target.clone(),
        set: [("a".to_owned(), "b".to_owned())].into(),
        if_generation: stale,
        ..Default::default()
    };
    let heartbeat = pb::UpdateHeartbeatRequest {
        target: target.clone(),
        heartbeat: Some(pb::HeartbeatSettings { interval: crate::harness::span(500), timeout: None }),
        if_generation: stale,
    };
    let send = pb::SendRequest {
        target,
        payload: Some(pb::send_request::Payload::Text("stale".to_owned())),
        if_generation: stale,
        ..Default::default()
    };
    for refused in [
        connections.disconnect(disconnect.clone()).await.expect_err("refused"),
        connections.update_labels(labels).await.expect_err("refused"),
        connections.update_heartbeat(heartbeat).await.expect_err("refused"),
        node.messages().send(send).await.expect_err("refused"),
    ] {
        assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "GENERATION_MISMATCH"));
    }
    let now = &node.get("alice").await[0];
    assert!(now.generation == came.generation && now.labels.is_empty());
    node.send("alice", "still you", pb::Stage::Written).await.expect("sends");
    assert_eq!(newer.next_text().await, "still you");

    // The right generation does.
    let right = pb::DisconnectRequest { if_generation: came.generation, ..disconnect };
    let gone = connections.disconnect(right).await.expect("answers").into_inner();
    assert_eq!(gone.connection_ids, [came.connection_id]);
    assert_eq!(newer.closed().await.0, 1000);
}
