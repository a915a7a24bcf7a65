//! What backends do to connections: labels, heartbeat settings, probes, the end; and that what an event told is so at once.

use std::collections::HashMap;
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::harness::client::raw_websocket;
use crate::harness::{Node, client_target, connection_target, reason, span};

fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn relabel(
    node: &Node,
    id: &str,
    set: &[(&str, &str)],
    remove: &[&str],
) -> Result<pb::UpdateLabelsResponse, Status> {
    let request = pb::UpdateLabelsRequest {
        target: Some(client_target(id)),
        set: labels(set),
        remove: remove.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    };
    node.connections().update_labels(request).await.map(tonic::Response::into_inner)
}

async fn retune(node: &Node, id: &str, interval: i64, timeout: i64) -> Result<pb::UpdateHeartbeatResponse, Status> {
    let request = pb::UpdateHeartbeatRequest {
        target: Some(client_target(id)),
        heartbeat: Some(pb::HeartbeatSettings { interval: span(interval), timeout: span(timeout) }),
        ..Default::default()
    };
    node.connections().update_heartbeat(request).await.map(tonic::Response::into_inner)
}

fn refused_field(status: &Status) -> (Code, String) {
    (status.code(), reason(status))
}

#[tokio::test]
async fn labels_are_set_and_removed_and_the_change_is_logged() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let _alice = node.connect_seen("alice", &mut events).await;
    let answer = relabel(&node, "alice", &[("room", "7"), ("tier", "")], &[]).await.expect("labels");
    assert_eq!(answer.connections[0].labels, labels(&[("room", "7"), ("tier", "")]));
    let changed = events.next().await;
    assert_eq!(changed.cursor, answer.cursor);
    let Some(Kind::LabelsChanged(change)) = &changed.kind else { panic!("{changed:?}") };
    assert!(change.previous_labels.is_empty());
    assert_eq!(changed.labels, labels(&[("room", "7"), ("tier", "")]));

    relabel(&node, "alice", &[("room", "8")], &["tier", "not there"]).await.expect("labels");
    let changed = events.next().await;
    let Some(Kind::LabelsChanged(change)) = &changed.kind else { panic!("{changed:?}") };
    assert_eq!(change.previous_labels, labels(&[("room", "7"), ("tier", "")]));
    assert_eq!(node.get("alice").await[0].labels, labels(&[("room", "8")]));
    // What comes after bears them.
    node.disconnect("alice", 0, "").await.expect("answers");
    assert_eq!(events.disconnected().await.0.labels, labels(&[("room", "8")]));
}

#[tokio::test]
async fn labels_over_a_limit_change_nothing() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let _alice = node.connect_seen("alice", &mut events).await;
    relabel(&node, "alice", &[("room", "7")], &[]).await.expect("labels");
    let keys: Vec<_> = (0..16).map(|n| format!("k{n}")).collect();
    let sixteen: Vec<_> = keys.iter().map(|key| (&**key, "v")).collect();
    let (long_key, long_value) = ("k".repeat(65), "v".repeat(1020));
    let cases: [(&[_], &[_]); 5] = [
        (&sixteen, &[]),
        (&[(&long_key, "v")], &[]),
        (&[("key", &long_value)], &[]),
        (&[("", "v")], &[]),
        (&[("a", "b")], &["a"]),
    ];
    for (set, remove) in cases {
        let refused = relabel(&node, "alice", set, remove).await.expect_err("over a limit");
        assert_eq!(refused_field(&refused), (Code::InvalidArgument, "FIELD_INVALID".to_owned()), "{set:?}");
    }
    assert_eq!(node.get("alice").await[0].labels, labels(&[("room", "7")]));
    let nobody = relabel(&node, "nobody", &[("a", "b")], &[]).await.expect_err("nobody");
    assert_eq!(refused_field(&nobody), (Code::NotFound, "CLIENT_NOT_CONNECTED".to_owned()));
}

#[tokio::test]
async fn a_heartbeat_that_was_made_quicker_finds_a_silent_client_sooner() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let _silent = raw_websocket(node.ws, "?client_id=alice").await;
    events.connected().await;
    let answer = retune(&node, "alice", 200, 500).await.expect("retunes");
    let settings = answer.connections[0].heartbeat.expect("settings");
    assert_eq!((settings.interval, settings.timeout), (span(200), span(500)));
    let changed = events.next().await;
    let Some(Kind::HeartbeatChanged(change)) = &changed.kind else { panic!("{changed:?}") };
    assert_eq!(change.heartbeat, Some(settings));
    let began = Instant::now();
    let (_, end) = events.next_disconnected().await;
    assert_eq!(end.cause(), Cause::HeartbeatTimeout);
    assert!(began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_heartbeat_that_was_made_slower_spares_a_silent_client() {
    let node = Node::with(|config| {
        config.heartbeat.interval = Duration::from_millis(200);
        config.heartbeat.timeout = Duration::from_millis(500);
    })
    .await;
    let mut events = node.events().await;
    let _silent = raw_websocket(node.ws, "?client_id=slow").await;
    events.connected().await;
    retune(&node, "slow", 30_000, 60_000).await.expect("retunes");
    let _other = raw_websocket(node.ws, "?client_id=other").await;
    let (gone, _) = events.next_disconnected().await;
    assert_eq!(gone.client_id, "other");
    assert_eq!(node.get("slow").await.len(), 1);
    // The pair is judged as it would be.
    for (interval, timeout) in [(99, 60_000), (30_000, 30_000), (30_000, 86_401_000), (3_600_001, 86_400_000)] {
        let refused = retune(&node, "slow", interval, timeout).await.expect_err("out of range");
        assert_eq!(refused_field(&refused), (Code::InvalidArgument, "FIELD_INVALID".to_owned()));
    }
}

#[tokio::test]
async fn a_probe_tells_who_answers_and_how_fast() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut lively, came) = node.connect_seen("lively", &mut events).await;
    let reading = tokio::spawn(async move { lively.socket_until_end().await });
    let _mute = raw_websocket(node.ws, "?client_id=mute").await;
    events.connected().await;
    let probe = async |id: &str| {
        let request = pb::ProbeRequest { target: Some(client_target(id)), timeout: span(300) };
        node.connections().probe(request).await.map(tonic::Response::into_inner)
    };
    let answer = probe("lively").await.expect("answers");
    let [result] = &answer.results[..] else { panic!("{answer:?}") };
    assert!(result.answered && result.connection_id == came.connection_id, "{result:?}");
    let round_trip = Duration::try_from(result.round_trip_time.expect("set")).expect("a span");
    assert!(round_trip < Duration::from_millis(300), "{round_trip:?}");
    let observed = node.get("lively").await[0].stats.expect("stats").round_trip_time;
    assert!(observed.is_some());
    let answer = probe("mute").await.expect("answers");
    assert!(!answer.results[0].answered && answer.results[0].round_trip_time.is_none());
    let nobody = probe("nobody").await.expect_err("nobody");
    assert_eq!(refused_field(&nobody), (Code::NotFound, "CLIENT_NOT_CONNECTED".to_owned()));
    reading.abort();
}

#[tokio::test]
async fn a_disconnect_closes_with_the_code_and_reason_asked_for() {
    let node = Node::start().await;
    let mut events = node.events().await;
    for (code, reason, sent) in
        [(0, "", 1000), (1000, "done", 1000), (1012, "", 1012), (3000, "", 3000), (4999, "x", 4999)]
    {
        let (mut alice, came) = node.connect_seen("alice", &mut events).await;
        let answer = node.disconnect("alice", code, reason).await.expect("answers");
        assert_eq!(answer.connection_ids, [came.connection_id]);
        // It is gone when the answer comes, and the id is free.
        assert!(node.get("alice").await.is_empty());
        let (gone, end) = events.disconnected().await;
        assert_eq!((end.cause(), end.close_code), (Cause::Kicked, sent));
        assert_eq!(gone.cursor, answer.cursor);
        let (got, said) = alice.closed().await;
        assert_eq!((i32::from(got), &said), (sent, &end.close_reason));
        assert!(reason.is_empty() || said == reason, "{said}");
    }
    for code in [-1, 1, 999, 1002, 1005, 1006, 1015, 2999, 5000, 65_536 + 1000] {
        let refused = node.disconnect("alice", code, "").await.expect_err("not a code to send");
        assert_eq!(refused_field(&refused), (Code::InvalidArgument, "FIELD_INVALID".to_owned()), "{code}");
    }
    assert!(node.disconnect("alice", 0, &"x".repeat(124)).await.is_err());
    assert!(node.disconnect("nobody", 0, "").await.expect("no error").connection_ids.is_empty());
    let request = pb::DisconnectRequest { target: Some(connection_target("not a UUID")), ..Default::default() };
    assert_eq!(node.connections().disconnect(request).await.expect_err("no id").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn who_was_told_to_be_connected_can_be_sent_to_and_seen_at_once() {
    let node = Node::with(|config| config.identity.takeovers_per_minute = 0).await;
    let mut events = node.events().await;
    let ws = node.ws;
    let coming = tokio::spawn(async move {
        let mut staying = std::collections::VecDeque::new();
        for n in 0..500 {
            let client = raw_websocket(ws, &format!("?client_id=c{}", n % 7)).await;
            // Some stay until they are replaced, or longer; some leave at once.
            if n % 3 > 0 {
                staying.push_back(client);
            }
            if staying.len() > 8 {
                staying.pop_front();
            }
        }
        staying
    });
    let (mut came, mut looked) = (0, 0);
    while came < 500 {
        let event = events.next().await;
        let Some(Kind::Connected(_)) = &event.kind else { continue };
        came += 1;
        let request = pb::SendRequest {
            target: Some(connection_target(&event.connection_id)),
            payload: Some(pb::send_request::Payload::Text("hi".to_owned())),
            ..Default::default()
        };
        match node.messages().send(request).await {
            Ok(_) => looked += 1,
            // Only if it has gone meanwhile, which the log then says.
            Err(status) => {
                assert_eq!(reason(&status), "CLIENT_NOT_CONNECTED");
                let past = node.events_from(pb::subscribe_request::Start::Cursor(event.cursor.clone())).await;
                the_end_of(past, &event.connection_id).await;
            }
        }
    }
    drop(coming.await.expect("no panic"));
    assert!(looked > 0, "nobody stayed long enough to be sent to");
}

/// Reads on to the end of a connection, which must be in the log already.
async fn the_end_of(mut events: crate::harness::Events, connection_id: &str) {
    loop {
        if events.next_disconnected().await.0.connection_id == connection_id {
            return;
        }
    }
}

#[tokio::test]
async fn five_hundred_times_on_seeing_connected_a_send_succeeds() {
    let node = Node::start().await;
    let mut events = node.events().await;
    for n in 0..500 {
        let id = format!("c{n}");
        let client = raw_websocket(node.ws, &format!("?client_id={id}")).await;
        let (came, _) = events.connected().await;
        node.send(&id, "hi", pb::Stage::Accepted).await.unwrap_or_else(|status| panic!("{n}: {status}"));
        let (got, cursor) = {
            let request = pb::GetClientRequest { client_id: id.clone(), ..Default::default() };
            let answer = node.connections().get_client(request).await.expect("answers").into_inner();
            (answer.connections, answer.cursor)
        };
        assert_eq!((got.len(), got[0].generation), (1, came.generation), "{n}");
        assert!(!cursor.is_empty());
        // Its end is as exact: once seen, it is not there any more.
        drop(client);
        events.disconnected().await;
        assert!(node.get(&id).await.is_empty(), "{n}");
    }
}
