//! The plain protocol as a backend sees it: what each thing that a client says becomes.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use heartwire::config::{AnonymousPolicy, ByteSize};
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use heartwire::pb::message_received::Payload;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::harness::client::{frame, raw_websocket};
use crate::harness::{Events, Node};

async fn payload(events: &mut Events) -> Payload {
    match events.next().await.kind {
        Some(Kind::MessageReceived(pb::MessageReceived { payload: Some(payload) })) => payload,
        other => panic!("no message: {other:?}"),
    }
}

fn text(text: &str) -> Payload {
    Payload::Text(text.to_owned())
}

#[tokio::test]
async fn a_backend_sees_a_client_come_speak_and_go_with_every_detail() {
    let node = Node::with(|config| config.node.id = "n1".to_owned()).await;
    let mut events = node.events().await;
    let before = SystemTime::now() - Duration::from_millis(5);
    let mut client = node.connect_unnamed().await;
    let local = match client.socket.get_ref() {
        tokio_tungstenite::MaybeTlsStream::Plain(stream) => stream.local_addr().expect("connected"),
        _ => panic!("no TLS here"),
    };
    client.text("heartbeat:alice").await;
    let (came, details) = events.connected().await;
    assert_eq!((&*came.client_id, &*came.node_id, &*details.subprotocol), ("alice", "n1", ""));
    assert_eq!(details.remote_address, local.to_string());
    assert_eq!((details.state(), details.replaces_generation), (pb::ConnectionState::Alive, 0));
    let settings = details.heartbeat.expect("settings");
    assert_eq!((settings.interval.expect("set").seconds, settings.timeout.expect("set").seconds), (30, 60));
    assert_eq!(uuid::Uuid::parse_str(&came.connection_id).expect("a UUID").get_version_num(), 7);
    assert!(came.generation > 0 && came.labels.is_empty() && !came.cursor.is_empty());
    let time = SystemTime::try_from(came.time.expect("set")).expect("a time");
    assert!((before..=SystemTime::now()).contains(&time));

    client.text("hello").await;
    client.send(Message::binary(vec![0, 255])).await;
    let (said, _) = events.text().await;
    assert_eq!((&said.connection_id, said.generation), (&came.connection_id, came.generation));
    assert_eq!(payload(&mut events).await, Payload::Binary(Bytes::from_static(&[0, 255])));
    node.send("alice", "four", pb::Stage::Written).await.expect("sends");

    client.text("").await;
    assert_eq!(client.closed().await, (1000, "Closed by client".to_owned()));
    let (gone, end) = events.disconnected().await;
    assert_eq!((gone.connection_id, gone.generation), (came.connection_id, came.generation));
    assert_eq!((end.cause(), end.close_code), (Cause::ClientClosed, 1000));
    let stats = end.stats.expect("stats");
    assert_eq!((stats.messages_in, stats.bytes_in, stats.messages_out, stats.bytes_out), (2, 7, 1, 4));
    assert_eq!((stats.missed_heartbeats, end.unacked_count), (0, 0));
    let connected_for = Duration::try_from(end.connected_for.expect("set")).expect("a span");
    assert!(connected_for < Duration::from_secs(5), "{connected_for:?}");
}

#[tokio::test]
async fn the_first_data_frame_names_the_connection_only_if_it_is_a_heartbeat_with_a_separator() {
    let node = Node::start().await;
    for (first, id, message) in [
        ("heartbeat:alice", Some("alice"), None),
        ("  heartbeat alice\r\n", Some("alice"), None),
        ("heartbeat=a:b=c", Some("a:b=c"), None),
        ("heartbeat:\u{e9}\u{1f600}", Some("\u{e9}\u{1f600}"), None),
        ("heartbeat", None, None),
        ("heartbeat2026-11-23", None, None),
        ("hello", None, Some("hello")),
    ] {
        let mut events = node.events().await;
        let mut client = node.connect_unnamed().await;
        // What proves life before names nobody.
        client.send(Message::Ping(Bytes::from_static(b"x"))).await;
        client.text(first).await;
        let (came, _) = events.connected().await;
        match id {
            Some(id) => assert_eq!(came.client_id, id, "{first:?}"),
            None => assert_eq!(came.client_id, format!("~{}", came.connection_id), "{first:?}"),
        }
        if let Some(message) = message {
            assert_eq!(payload(&mut events).await, text(message));
        }
        // Later a heartbeat is only that, whatever follows.
        client.text("heartbeat:mallory").await;
        client.text(" said\n").await;
        assert_eq!(payload(&mut events).await, text(" said\n"), "{first:?}");
        client.text(" \t").await;
        assert_eq!(events.disconnected().await.0.client_id, came.client_id);
    }
}

#[tokio::test]
async fn who_may_not_connect_is_closed_with_a_code_and_never_seen_by_a_backend() {
    let node = Node::with(|config| {
        config.identity.anonymous = AnonymousPolicy::Reject;
        config.ws.identify_timeout = Duration::from_millis(200);
    })
    .await;
    let mut events = node.events().await;
    let long = format!("heartbeat:{}", "x".repeat(129));
    for first in ["heartbeat:", "heartbeat:~x", "heartbeat:a\u{7}b", "heartbeat", "hello", &long] {
        let mut client = node.connect_unnamed().await;
        client.text(first).await;
        assert_eq!(client.closed().await.0, 4400, "{first:?}");
    }
    let mut client = node.connect_unnamed().await;
    client.send(Message::binary("heartbeat:alice")).await;
    assert_eq!(client.closed().await.0, 4400);
    let mut mute = node.connect_unnamed().await;
    assert_eq!(mute.closed().await.0, 4411);
    let mut empty = node.connect_unnamed().await;
    empty.text("").await;
    assert_eq!(empty.closed().await.0, 1000);
    for (reason, count) in [("bad_identity", 7.0), ("identify_timeout", 1.0), ("gone", 1.0)] {
        let series = format!("heartwire_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(node.metric(&series).await, count, "{reason}");
    }
    // The first event is of the first who is let in.
    let _alice = node.connect_seen("alice", &mut events).await;
}

#[tokio::test]
async fn a_message_of_just_the_limit_comes_whole_and_one_more_byte_is_too_big() {
    let node = Node::with(|config| config.ws.max_message = ByteSize::kib(8)).await;
    let mut events = node.events().await;
    let (mut client, _) = node.connect_seen("alice", &mut events).await;
    let largest = "\u{e9}".repeat(4096);
    client.text(&largest).await;
    assert_eq!(payload(&mut events).await, text(&largest));
    client.send(Message::binary(vec![7; 8192])).await;
    assert_eq!(payload(&mut events).await, Payload::Binary(vec![7; 8192].into()));
    client.send(Message::binary(Bytes::new())).await;
    assert_eq!(payload(&mut events).await, Payload::Binary(Bytes::new()));
    client.send(Message::binary(vec![7; 8193])).await;
    let (_, end) = events.disconnected().await;
    assert_eq!((end.cause(), end.close_code), (Cause::ProtocolError, 1009));
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn a_message_in_fragments_comes_whole_with_control_frames_between_them() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let mut stream = raw_websocket(node.ws, "?client_id=alice").await;
    events.connected().await;
    let fragments = [
        // A character cut in two.
        frame(0x01, b"caf\xc3"),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        frame(0x8a, b"pong"),
        frame(0x80, b"\xa9"),
        frame(0x02, &[1; 200]),
        frame(0x80, &[2; 65_000]),
    ]
    .concat();
    // Byte by byte at first: nothing depends on where the segments end.
    for byte in &fragments[..40] {
        stream.write_all(&[*byte]).await.expect("writes");
        tokio::task::yield_now().await;
    }
    stream.write_all(&fragments[40..]).await.expect("writes");
    assert_eq!(payload(&mut events).await, text("caf\u{e9}"));
    assert_eq!(payload(&mut events).await, Payload::Binary([vec![1; 200], vec![2; 65_000]].concat().into()));
    // A heartbeat may come in fragments too, and an empty message closes.
    stream.write_all(&[frame(0x01, b"heart"), frame(0x80, b"beat")].concat()).await.expect("writes");
    stream.write_all(&[frame(0x01, b""), frame(0x80, b"")].concat()).await.expect("writes");
    assert_eq!(events.disconnected().await.1.cause(), Cause::ClientClosed);
}

#[tokio::test]
async fn a_clients_own_close_is_told_as_it_said_it_and_answered() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut client, _) = node.connect_seen("alice", &mut events).await;
    let close = CloseFrame { code: 3210.into(), reason: "off \u{1b}[2J home".into() };
    client.send(Message::Close(Some(close))).await;
    let (_, end) = events.disconnected().await;
    assert_eq!((end.cause(), end.close_code, &*end.close_reason), (Cause::ClientClosed, 3210, "off \u{1b}[2J home"));
    assert_eq!(client.closed().await.0, 3210);
}
