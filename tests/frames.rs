//! Frames that no honest client sends: the code that each is closed with, what it costs, and the one `Disconnected` it leaves.

use std::time::{Duration, SystemTime};

use heartwire::config::ByteSize;
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::subscribe_request::Start;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::client::{frame, raw_close_code, raw_websocket};
use crate::harness::{Events, Node, Process, SOON, eventually};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// The head of a masked frame that declares so many bytes.
fn declares(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first, 0xff];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

async fn raw(node: &Node, id: &str, events: &mut Events) -> TcpStream {
    let stream = raw_websocket(node.ws, &format!("?client_id={id}")).await;
    assert_eq!(events.connected().await.0.client_id, id);
    stream
}

/// The next event must be the end of `id`; and nothing of it follows, as somebody else's coming shows.
async fn the_end(node: &Node, id: &str, events: &mut Events) -> pb::Disconnected {
    let (event, end) = events.disconnected().await;
    assert_eq!(event.client_id, id);
    let (_client, _) = node.connect_seen("next", events).await;
    drop(_client);
    assert_eq!(events.disconnected().await.0.client_id, "next");
    end
}

/// Sends each to a client of its own and expects its code on the wire and in the log.
async fn each_is_closed_with(cases: &[(&str, u16, Vec<u8>)]) {
    let node = Node::with(|config| config.limits.bytes_per_second = ByteSize::mib(16)).await;
    let mut events = node.events().await;
    for (what, code, bytes) in cases {
        let mut stream = raw(&node, "alice", &mut events).await;
        // A good message behind the bad frame is not listened to.
        let _ = stream.write_all(&[bytes, &frame(TEXT, b"later")[..]].concat()).await;
        assert_eq!(raw_close_code(&mut stream).await, Some(*code), "{what}");
        let end = the_end(&node, "alice", &mut events).await;
        assert_eq!((end.cause(), end.close_code), (Cause::ProtocolError, i32::from(*code)), "{what}");
        ends(&mut stream).await;
    }
}

/// The server has shut its side of the stream.
async fn ends(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end too.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.expect("the stream ends");
    assert!(rest.is_empty(), "{rest:?} after the Close");
}

#[tokio::test]
async fn a_violation_of_the_framing_is_closed_with_1002() {
    let unmasked = [&[TEXT, 5][..], b"hello"].concat();
    each_is_closed_with(&[
        ("unmasked", 1002, unmasked),
        ("RSV1", 1002, frame(0xc1, b"x")),
        ("RSV2", 1002, frame(0xa1, b"x")),
        ("RSV3", 1002, frame(0x91, b"x")),
        ("reserved data opcode", 1002, frame(0x83, b"x")),
        ("reserved control opcode", 1002, frame(0x8b, b"x")),
        ("fragmented ping", 1002, frame(0x09, b"x")),
        ("ping of 126 bytes", 1002, frame(0x89, &[0; 126])),
        ("close of 126 bytes", 1002, frame(CLOSE, &[3; 126])),
        ("stray continuation", 1002, frame(0x80, b"x")),
        ("a message within another", 1002, [frame(0x01, b"a"), frame(TEXT, b"b")].concat()),
        ("close with half a code", 1002, frame(CLOSE, &[3])),
    ])
    .await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_closed_with_1007_even_across_fragments() {
    each_is_closed_with(&[
        ("a bad byte", 1007, frame(TEXT, b"a\xffb")),
        ("cut short", 1007, frame(TEXT, b"\xe2\x82")),
        ("a surrogate", 1007, frame(TEXT, b"\xed\xa0\x80")),
        ("bad across fragments", 1007, [frame(0x01, b"\xe2\x82"), frame(0x80, b"\x28")].concat()),
        ("cut short in the last fragment", 1007, [frame(0x01, b"ok"), frame(0x80, b"\xf0\x9f")].concat()),
    ])
    .await;
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_closed_with_1009_before_it_comes() {
    let half = vec![0; 40_000];
    each_is_closed_with(&[
        ("one byte over", 1009, declares(TEXT, 65_537)),
        ("2^62", 1009, declares(0x82, 1 << 62)),
        ("2^63 - 1", 1009, declares(0x82, (1 << 63) - 1)),
        ("fragments that add up", 1009, [frame(0x02, &half), frame(0x80, &half)].concat()),
        ("a first fragment", 1009, declares(0x02, 65_537)),
    ])
    .await;
}

#[tokio::test]
async fn connections_that_only_declare_large_frames_cost_no_memory_for_them() {
    const MANY: usize = 400;
    let process = Process::start(&[]).await;
    let mut streams = Vec::new();
    for n in 0..MANY {
        streams.push(raw_websocket(process.ws, &format!("?client_id=c{n}")).await);
    }
    eventually("all are connected", || async { (process.list().await.0.len() == MANY).then_some(()) }).await;
    let before = process.resident();
    let sent = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    for stream in &mut streams {
        stream.write_all(&[&declares(TEXT, 65_536)[..], &[b'x'; 100]].concat()).await.expect("writes");
    }
    let heard = |connection: &pb::Connection| {
        let seen = connection.stats.and_then(|stats| stats.last_seen_time).expect("observed");
        SystemTime::try_from(seen).expect("a time") > sent
    };
    eventually("all were read", || async { process.list().await.0.iter().all(heard).then_some(()) }).await;
    let growth = process.resident().saturating_sub(before);
    // The bytes that came and their pages; 64 KiB each would be 25 MiB.
    assert!(growth < MANY * 12 * 1024, "{} KiB for {MANY} connections", growth / 1024);
}

#[tokio::test]
async fn a_half_closed_socket_is_lost() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let mut stream = raw(&node, "alice", &mut events).await;
    stream.shutdown().await.expect("shuts");
    let end = the_end(&node, "alice", &mut events).await;
    assert_eq!((end.cause(), end.close_code), (Cause::ConnectionLost, 1006));
    ends(&mut stream).await;
}

#[tokio::test]
async fn a_reset_socket_is_lost() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let stream = raw(&node, "alice", &mut events).await;
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("set");
    drop(stream);
    let end = the_end(&node, "alice", &mut events).await;
    assert_eq!((end.cause(), end.close_code), (Cause::ConnectionLost, 1006));
}

#[tokio::test]
async fn a_client_that_never_answers_a_close_is_gone_at_once_and_its_socket_within_two_seconds() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let mut stream = raw(&node, "alice", &mut events).await;
    let began = tokio::time::Instant::now();
    node.disconnect("alice", 4000, "bye").await.expect("answers");
    let end = the_end(&node, "alice", &mut events).await;
    assert_eq!((end.cause(), end.close_code, &*end.close_reason), (Cause::Kicked, 4000, "bye"));
    assert!(began.elapsed() < Duration::from_secs(1), "the end waited for the closing handshake");
    assert_eq!(raw_close_code(&mut stream).await, Some(4000));
    ends(&mut stream).await;
    assert!(began.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn data_after_a_close_is_not_delivered() {
    let node = Node::start().await;
    let mut events = node.events().await;
    for (what, close, code) in
        [("with a code", [&3001u16.to_be_bytes()[..], b"done"].concat(), 3001), ("without one", Vec::new(), 1005)]
    {
        let mut stream = raw(&node, "alice", &mut events).await;
        let bytes = [frame(TEXT, b"before"), frame(CLOSE, &close), frame(TEXT, b"after"), frame(CLOSE, &close)];
        stream.write_all(&bytes.concat()).await.expect("writes");
        assert_eq!(events.text().await.1, "before");
        let end = the_end(&node, "alice", &mut events).await;
        assert_eq!((end.cause(), end.close_code), (Cause::ClientClosed, code), "{what}");
        assert_eq!(end.close_reason, if code == 3001 { "done" } else { "" });
        assert_eq!(end.stats.expect("stats").messages_in, 1);
    }
}

#[tokio::test]
async fn data_after_an_empty_text_is_not_delivered() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let mut stream = raw(&node, "alice", &mut events).await;
    let bytes = [frame(TEXT, b" \r\n"), frame(TEXT, b"after")];
    stream.write_all(&bytes.concat()).await.expect("writes");
    assert_eq!(raw_close_code(&mut stream).await, Some(1000));
    let end = the_end(&node, "alice", &mut events).await;
    assert_eq!((end.cause(), end.close_code, &*end.close_reason), (Cause::ClientClosed, 1000, "Closed by client"));
}

#[tokio::test]
async fn floods_are_closed_with_4429() {
    let node = Node::with(|config| {
        config.ws.max_message = ByteSize::kib(1);
        config.limits.messages_per_second = 10;
    })
    .await;
    let pings = frame(0x89, b"x").repeat(1_000);
    let heartbeats = frame(TEXT, b"heartbeat").repeat(1_000);
    let messages = frame(0x82, b"").repeat(100);
    // Seven bytes on the wire for nothing at all.
    let fragments = [frame(0x01, b"a"), frame(0x00, b"").repeat(40_000)].concat();
    for (what, bytes) in
        [("pings", pings), ("heartbeats", heartbeats), ("messages", messages), ("empty fragments", fragments)]
    {
        let mut events = node.events().await;
        let mut stream = raw(&node, "alice", &mut events).await;
        let (mut reading, mut writing) = stream.split();
        let (_, code) = tokio::join!(writing.write_all(&bytes), raw_close_code(&mut reading));
        assert_eq!(code, Some(4429), "{what}");
        let (_, end) = events.next_disconnected().await;
        assert_eq!((end.cause(), end.close_code), (Cause::RateLimited, 4429), "{what}");
        assert!(end.stats.expect("stats").messages_in <= 20, "{what}");
    }
}

#[tokio::test]
async fn every_end_is_told_exactly_once_whatever_came_first() {
    let node = Node::start().await;
    let (mut threads, many) = (Vec::new(), 60);
    for n in 0..many {
        let backend = node.backend.clone();
        threads.push(tokio::spawn(async move {
            let id = format!("c{n}");
            let mut stream = raw_websocket(backend.ws, &format!("?client_id={id}")).await;
            // Its own end and the backend's race.
            let own = async {
                match n % 3 {
                    0 => stream.write_all(&frame(CLOSE, &[])).await.expect("writes"),
                    1 => stream.write_all(&frame(0xff, b"x")).await.expect("writes"),
                    _ => stream.shutdown().await.expect("shuts"),
                }
            };
            let (_, kicked) = tokio::join!(own, backend.disconnect(&id, 0, ""));
            kicked.expect("answers");
        }));
    }
    for thread in threads {
        thread.await.expect("no panic");
    }
    eventually("all are gone", || async { node.list().await.0.is_empty().then_some(()) }).await;
    let mut events = node.events_from(Start::Beginning(pb::BeginningStart {})).await;
    let mut open = std::collections::BTreeMap::new();
    for _ in 0..2 * many {
        let event = events.next().await;
        let count: &mut u32 = open.entry(event.connection_id.clone()).or_default();
        *count += 1;
        match event.kind {
            Some(pb::event::Kind::Connected(_)) => assert_eq!(*count, 1),
            Some(pb::event::Kind::Disconnected(_)) => assert_eq!(*count, 2),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(open.len(), many);
}
