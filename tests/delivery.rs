//! From a backend to clients: how far a message comes, in what order, and whom a slow reader delays.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use heartwire::config::ByteSize;
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::send_request::Payload;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::raw_websocket;
use crate::harness::{Node, client_target, connection_target, reason};

fn request(id: &str, payload: Payload) -> pb::SendRequest {
    pb::SendRequest { target: Some(client_target(id)), payload: Some(payload), ..Default::default() }
}

fn text(id: &str, text: impl Into<String>) -> pb::SendRequest {
    request(id, Payload::Text(text.into()))
}

async fn send(node: &Node, request: pb::SendRequest) -> Result<pb::SendResponse, tonic::Status> {
    node.messages().send(request).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_message_goes_to_a_client_or_a_connection_and_the_answer_says_how_far() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut alice, came) = node.connect_seen("alice", &mut events).await;
    let by_connection = pb::SendRequest {
        target: Some(connection_target(&came.connection_id)),
        receipt: pb::Stage::Written.into(),
        if_generation: came.generation,
        ..text("", "by connection")
    };
    let binary = Bytes::from_static(&[0, 159, 146, 150]);
    let cases = [
        (text("alice", "accepted"), pb::Stage::Accepted, Message::text("accepted")),
        (
            pb::SendRequest { receipt: pb::Stage::Written.into(), ..text("alice", "\u{e9}crit") },
            pb::Stage::Written,
            Message::text("\u{e9}crit"),
        ),
        (by_connection, pb::Stage::Written, Message::text("by connection")),
        (request("alice", Payload::Binary(binary.clone())), pb::Stage::Accepted, Message::binary(binary)),
        (request("alice", Payload::Binary(Bytes::new())), pb::Stage::Accepted, Message::binary(Bytes::new())),
        // Larger than what clients may send: only the outbox bounds it.
        (text("alice", "x".repeat(200_000)), pb::Stage::Accepted, Message::text("x".repeat(200_000))),
    ];
    for (request, stage, received) in cases {
        let answer = send(&node, request).await.expect("sends");
        let [delivery] = &answer.deliveries[..] else { panic!("{answer:?}") };
        assert_eq!((&delivery.connection_id, delivery.stage()), (&came.connection_id, stage));
        assert!(delivery.failure == 0 && delivery.time.is_some() && !answer.replayed, "{answer:?}");
        assert_eq!(alice.next().await, Some(received));
    }
}

#[tokio::test]
async fn nobody_there_is_a_definite_failure() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut alice, came) = node.connect_seen("alice", &mut events).await;
    node.disconnect("alice", 0, "").await.expect("answers");
    let gone = pb::SendRequest { target: Some(connection_target(&came.connection_id)), ..text("", "x") };
    for request in [text("nobody", "x"), text("alice", "x"), gone] {
        let refused = send(&node, request).await.expect_err("nobody");
        assert_eq!((refused.code(), &*reason(&refused)), (Code::NotFound, "CLIENT_NOT_CONNECTED"));
    }
    assert_eq!(alice.closed().await.0, 1000);
}

#[tokio::test]
async fn a_thousand_sends_arrive_in_the_order_in_which_they_were_accepted() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut alice, _) = node.connect_seen("alice", &mut events).await;
    let reading = tokio::spawn(async move {
        for n in 0..1_000 {
            assert_eq!(alice.next_text().await, n.to_string());
        }
    });
    let mut messages = node.messages();
    for n in 0..1_000 {
        let accepted = messages.send(text("alice", n.to_string())).await.expect("sends").into_inner();
        assert_eq!(accepted.deliveries.len(), 1);
    }
    reading.await.expect("in order");
}

#[tokio::test]
async fn what_was_accepted_before_a_disconnect_comes_before_the_close() {
    let node = Node::start().await;
    let mut events = node.events().await;
    for round in 0..20 {
        let (mut alice, _) = node.connect_seen("alice", &mut events).await;
        for n in 0..10 {
            send(&node, text("alice", format!("{round} {n}"))).await.expect("sends");
        }
        node.disconnect("alice", 4001, "enough").await.expect("answers");
        for n in 0..10 {
            assert_eq!(alice.next_text().await, format!("{round} {n}"));
        }
        assert_eq!(alice.closed().await, (4001, "enough".to_owned()));
        assert_eq!(events.disconnected().await.1.cause(), Cause::Kicked);
    }
}

#[tokio::test]
async fn what_waits_in_the_outbox_at_a_disconnect_is_written_before_the_close() {
    let node = Node::with(|config| config.limits.outbox_bytes = ByteSize::kib(256)).await;
    let mut events = node.events().await;
    let (mut alice, _) = node.connect_seen("alice", &mut events).await;
    // Until the kernel takes no more and the outbox is full.
    let mut accepted = 0;
    while send(&node, text("alice", format!("{accepted:04}{}", "x".repeat(60_000)))).await.is_ok() {
        accepted += 1;
    }
    node.disconnect("alice", 4001, "enough").await.expect("answers");
    for n in 0..accepted {
        assert!(alice.next_text().await.starts_with(&format!("{n:04}")), "{n} of {accepted}");
    }
    assert_eq!(alice.closed().await, (4001, "enough".to_owned()));
}

#[tokio::test]
async fn a_broadcast_reaches_everyone_or_those_whose_labels_match() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let mut clients = Vec::new();
    for n in 0..6 {
        let id = format!("c{n}");
        clients.push(node.connect_seen(&id, &mut events).await.0);
        let room = if n % 2 == 0 { "even" } else { "odd" };
        let set = [("room".to_owned(), room.to_owned()), ("n".to_owned(), n.to_string())].into();
        let labels = pb::UpdateLabelsRequest { target: Some(client_target(&id)), set, ..Default::default() };
        node.connections().update_labels(labels).await.expect("labels");
        events.next().await;
    }
    let broadcast = async |labels: &[(&str, &str)], everyone, text: &str| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let payload = Some(pb::broadcast_request::Payload::Text(text.to_owned()));
        let request = pb::BroadcastRequest { labels, everyone, payload };
        let answer = node.messages().broadcast(request).await.map(tonic::Response::into_inner)?;
        assert!(!answer.cursor.is_empty());
        Ok::<_, tonic::Status>((answer.matched, answer.accepted, answer.refused))
    };
    assert_eq!(broadcast(&[], true, "all").await.expect("sends"), (6, 6, 0));
    assert_eq!(broadcast(&[("room", "even")], false, "even").await.expect("sends"), (3, 3, 0));
    assert_eq!(broadcast(&[("room", "even"), ("n", "4")], false, "four").await.expect("sends"), (1, 1, 0));
    assert_eq!(broadcast(&[("room", "even"), ("n", "1")], false, "none").await.expect("sends"), (0, 0, 0));
    assert_eq!(broadcast(&[], true, "last").await.expect("sends"), (6, 6, 0));
    for (n, client) in clients.iter_mut().enumerate() {
        let mut expected = vec!["all", "last"];
        if n % 2 == 0 {
            expected.insert(1, "even");
        }
        if n == 4 {
            expected.insert(2, "four");
        }
        for text in expected {
            assert_eq!(client.next_text().await, text, "c{n}");
        }
    }
    for (labels, everyone) in [(&[][..], false), (&[("room", "even")], true)] {
        let refused = broadcast(labels, everyone, "x").await.expect_err("neither or both");
        assert_eq!((refused.code(), &*reason(&refused)), (Code::InvalidArgument, "FIELD_INVALID"));
    }
}

#[tokio::test]
async fn a_client_that_never_reads_fills_its_outbox_and_is_closed_and_delays_nobody() {
    let node = Node::with(|config| {
        config.ws.write_timeout = Duration::from_millis(1_200);
        config.limits.outbox_bytes = ByteSize::kib(256);
    })
    .await;
    let mut events = node.events().await;
    let _slow = raw_websocket(node.ws, "?client_id=slow").await;
    events.connected().await;
    let (mut fast, _) = node.connect_seen("fast", &mut events).await;

    let large = "x".repeat(60_000);
    let mut accepted = 0;
    let refused = loop {
        match send(&node, text("slow", large.clone())).await {
            Ok(_) => accepted += 1,
            Err(refused) => break refused,
        }
        assert!(accepted < 1_000, "nothing is ever full");
    };
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "OUTBOX_FULL"));
    let retry = refused.get_details_retry_info().and_then(|info| info.retry_delay).expect("a RetryInfo");
    assert!(retry > Duration::ZERO && retry < Duration::from_secs(60), "{retry:?}");
    // What cannot be written yet is answered as far as it came.
    let stuck = pb::SendRequest {
        receipt: pb::Stage::Written.into(),
        receipt_timeout: crate::harness::span(50),
        ..text("slow", "x")
    };
    let stuck = send(&node, stuck).await.expect("there is room for a byte");
    assert_eq!((stuck.deliveries[0].stage(), stuck.deliveries[0].failure), (pb::Stage::Accepted, 0));

    for n in 0..20 {
        let began = Instant::now();
        let answer = node.send("fast", &n.to_string(), pb::Stage::Written).await.expect("sends");
        assert_eq!(answer.deliveries[0].stage(), pb::Stage::Written);
        assert_eq!(fast.next_text().await, n.to_string());
        assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    }
    let (gone, end) = events.disconnected().await;
    assert_eq!((&*gone.client_id, end.cause(), end.close_code), ("slow", Cause::SlowClient, 4413));
    assert!(end.stats.expect("stats").messages_out <= accepted);
    assert_eq!(node.get("fast").await.len(), 1);
}

#[tokio::test]
async fn a_message_on_its_way_when_its_connection_ends_has_an_unknown_outcome() {
    let node = Node::with(|config| config.ws.write_timeout = Duration::from_millis(400)).await;
    let mut events = node.events().await;
    let _slow = raw_websocket(node.ws, "?client_id=slow").await;
    events.connected().await;
    let large = "x".repeat(250_000);
    while send(&node, text("slow", large.clone())).await.is_ok() {}
    let last = pb::SendRequest { receipt: pb::Stage::Written.into(), ..text("slow", "x") };
    let answer = send(&node, last).await.expect("accepted, and then?");
    assert_eq!(answer.deliveries[0].failure(), pb::DeliveryFailure::OutcomeUnknown);
    assert_eq!(events.disconnected().await.1.cause(), Cause::SlowClient);
}

#[tokio::test]
async fn a_stream_of_ten_thousand_sends_has_an_outcome_for_each_tag() {
    const MANY: i64 = 10_000;
    let node = Node::with(|config| {
        config.limits.outbox_frames = 20_000;
        config.limits.outbox_bytes = ByteSize::mib(16);
    })
    .await;
    let mut events = node.events().await;
    let (mut alice, _) = node.connect_seen("alice", &mut events).await;
    let batches = futures_util::stream::iter((0..MANY).step_by(100).map(|first| {
        pb::SendStreamRequest {
            sends: (first..first + 100)
                .map(|tag| {
                    // Every hundredth goes to nobody.
                    let id = if tag % 100 == 7 { "nobody" } else { "alice" };
                    pb::TaggedSend { tag, request: Some(text(id, tag.to_string())) }
                })
                .collect(),
        }
    }));
    let reading = tokio::spawn(async move {
        for tag in (0..MANY).filter(|tag| tag % 100 != 7) {
            assert_eq!(alice.next_text().await, tag.to_string());
        }
    });
    let mut answers = node.messages().send_stream(batches).await.expect("streams").into_inner();
    let mut outcomes = BTreeMap::new();
    while let Some(answer) = answers.message().await.expect("goes on") {
        for outcome in answer.outcomes {
            assert!(outcomes.insert(outcome.tag, outcome).is_none(), "two outcomes for one tag");
        }
    }
    assert_eq!(outcomes.len(), MANY as usize);
    for (tag, outcome) in outcomes {
        if tag % 100 == 7 {
            assert_eq!((outcome.code, &*outcome.reason), (Code::NotFound as i32, "CLIENT_NOT_CONNECTED"));
        } else {
            assert_eq!((outcome.code, outcome.response.map(|sent| sent.deliveries.len())), (0, Some(1)), "{tag}");
        }
    }
    reading.await.expect("in order");
}
