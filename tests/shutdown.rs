//! The way down of the built binary: what its clients, its backends and whoever started it see.

use std::collections::BTreeMap;
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use heartwire::pb::subscribe_request::Start;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;

use crate::harness::client::{raw_close_code, raw_websocket};
use crate::harness::{Backend, Client, Events, Process, eventually, reason};

/// A client that reads until it is closed: the code and the reason.
fn until_closed(mut client: Client) -> JoinHandle<(u16, String)> {
    tokio::spawn(async move { client.closed().await })
}

/// The hint in the reason of a 1012.
fn reconnect_after(reason: &str) -> u64 {
    let hint = reason.rsplit("reconnect_after_ms=").next().expect("a hint");
    hint.parse().unwrap_or_else(|_| panic!("no hint in {reason}"))
}

/// An HTTP/2 connection to the gRPC port that has said what it must and then says nothing more.
async fn mute_http2_peer(backend: &Backend) -> TcpStream {
    let mut peer = TcpStream::connect(backend.grpc).await.expect("connects");
    let settings = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    peer.write_all(settings).await.expect("writes");
    peer
}

/// A `Subscribe` stream that has more to carry than fits on the way and that nobody reads.
async fn unread_subscriber(backend: &Backend) -> Events {
    let other = backend.another_with_small_windows();
    let unread = other.events_from(Start::Beginning(pb::BeginningStart {})).await;
    let mut events = backend.events().await;
    let (mut talker, _) = backend.connect_seen("talker", &mut events).await;
    for _ in 0..12 {
        talker.send(Message::binary(vec![0; 40_000])).await;
    }
    talker.text("").await;
    events.next_disconnected().await;
    unread
}

async fn not_ready(process: &Process) {
    eventually("not ready", || async { (process.admin_get("/readyz").await.0 == 503).then_some(()) }).await;
}

async fn refused(address: std::net::SocketAddr) {
    eventually("nobody is accepted", || async { TcpStream::connect(address).await.is_err().then_some(()) }).await;
}

#[tokio::test]
async fn sigterm_closes_clients_with_a_hint_tells_subscribers_all_and_exits_0_whoever_hangs_on() {
    const DEADLINE: Duration = Duration::from_millis(2_500);
    let settings = ["shutdown.deadline=2500ms", "shutdown.reconnect_jitter=3s", "limits.bytes_per_second=16MiB"];
    let mut process = Process::start(&settings).await;
    let _unread = unread_subscriber(&process).await;
    let _mute = mute_http2_peer(&process).await;
    let _silent = TcpStream::connect(process.grpc).await.expect("connects");
    let mut events = process.events().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(until_closed(process.connect_seen(&format!("c{n}"), &mut events).await.0));
    }
    let mut unnamed = process.connect_unnamed().await;
    // One that never answers its Close.
    let mut rude = raw_websocket(process.ws, "?client_id=rude").await;
    events.connected().await;

    process.signal("TERM");
    let began = Instant::now();
    not_ready(&process).await;
    assert_eq!(process.admin_get("/livez").await.0, 200);
    refused(process.ws).await;

    let mut hints = Vec::new();
    for client in clients {
        let (code, reason) = client.await.expect("no panic");
        assert_eq!(code, 1012, "{reason}");
        hints.push(reconnect_after(&reason));
    }
    assert!(hints.iter().all(|hint| *hint <= 3_000), "{hints:?}");
    assert!(hints.iter().any(|hint| *hint != hints[0]), "not spread: {hints:?}");
    assert_eq!(unnamed.closed().await.0, 1012);
    assert_eq!(raw_close_code(&mut rude).await, Some(1012));

    let (told, end) = events.until_its_end().await;
    let drained = told.iter().filter(|event| match &event.kind {
        Some(Kind::Disconnected(end)) => end.cause() == Cause::Drained && end.close_code == 1012,
        _ => false,
    });
    assert_eq!((drained.count(), told.len()), (21, 21));
    let end = end.expect_err("a status");
    assert_eq!((end.code(), &*reason(&end)), (Code::Unavailable, "SHUTTING_DOWN"));

    assert_eq!(process.exit_code(DEADLINE).await, Some(0));
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn with_nobody_there_it_ends_at_once_by_either_signal() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&[]).await;
        process.signal(signal);
        assert_eq!(process.exit_code(Duration::from_secs(2)).await, Some(0), "{signal}");
    }
}

#[tokio::test]
async fn a_subscriber_that_reads_does_not_hold_it_up() {
    let mut process = Process::start(&[]).await;
    let mut events = process.events().await;
    let (client, _) = process.connect_seen("alice", &mut events).await;
    let closed = until_closed(client);
    process.signal("TERM");
    let (told, end) = events.until_its_end().await;
    assert_eq!((told.len(), end.expect_err("a status").code()), (1, Code::Unavailable));
    assert_eq!(process.exit_code(Duration::from_secs(2)).await, Some(0));
    assert_eq!(closed.await.expect("no panic").0, 1012);
}

#[tokio::test]
async fn a_second_sigterm_ends_it_at_once() {
    let mut process = Process::start(&["limits.bytes_per_second=16MiB"]).await;
    let _unread = unread_subscriber(&process).await;
    process.signal("TERM");
    not_ready(&process).await;
    assert!(process.child.try_wait().expect("waited for").is_none(), "it ended without a second signal");
    process.signal("TERM");
    assert_eq!(process.exit_code(Duration::from_secs(2)).await, Some(1));
}

#[tokio::test]
async fn a_drain_empties_the_node_and_leaves_the_process_to_sigterm() {
    let mut process = Process::start(&[]).await;
    let mut events = process.events().await;
    let mut clients = Vec::new();
    for n in 0..30 {
        clients.push(until_closed(process.connect_seen(&format!("c{n}"), &mut events).await.0));
    }
    let request = pb::DrainRequest { connections_per_second: 100, reconnect_jitter: crate::harness::span(100) };
    let began = Instant::now();
    let mut progress = process.node().drain(request).await.expect("drains").into_inner();
    let mut told = Vec::new();
    while let Some(response) = progress.message().await.expect("goes on") {
        told.push((response.remaining, response.closed));
    }
    assert_eq!(told.last(), Some(&(0, 30)), "{told:?}");
    assert!(told.is_sorted_by_key(|(_, closed)| *closed), "{told:?}");
    assert!(began.elapsed() > Duration::from_millis(200), "faster than asked for: {:?}", began.elapsed());
    for client in clients {
        let (code, reason) = client.await.expect("no panic");
        assert!(code == 1012 && reconnect_after(&reason) <= 100, "{code} {reason}");
    }
    for _ in 0..30 {
        assert_eq!(events.disconnected().await.1.cause(), Cause::Drained);
    }

    // Not ready and closed to newcomers, but there for its backends.
    not_ready(&process).await;
    refused(process.ws).await;
    assert!(process.node().get_node(pb::GetNodeRequest {}).await.expect("answers").into_inner().draining);
    process.signal("TERM");
    let (rest, end) = events.until_its_end().await;
    assert_eq!((rest.len(), end.expect_err("a status").code()), (0, Code::Unavailable));
    assert_eq!(process.exit_code(Duration::from_secs(2)).await, Some(0));
}

#[tokio::test]
async fn under_load_every_connection_that_was_told_of_is_told_to_have_ended() {
    let mut process = Process::start(&["shutdown.deadline=5s", "limits.messages_per_second=0"]).await;
    let events = process.events().await;
    let record = tokio::spawn(async move {
        let mut events = events;
        events.until_its_end().await
    });
    let mut load = Vec::new();
    for n in 0..20 {
        let backend = process.backend.clone();
        load.push(tokio::spawn(async move {
            for round in 0.. {
                let id = format!("c{n}-{round}");
                let request = format!("ws://{}/?client_id={id}", backend.ws);
                let Ok((socket, _)) = tokio_tungstenite::connect_async(request).await else { return };
                let mut client = Client { socket };
                for _ in 0..5 {
                    let _ = backend.send(&id, "hi", pb::Stage::Accepted).await;
                    if futures_util::SinkExt::send(&mut client.socket, Message::text("hello")).await.is_err() {
                        break;
                    }
                }
            }
        }));
    }
    let began = Instant::now();
    tokio::time::sleep(Duration::from_millis(400)).await;
    process.signal("TERM");
    assert_eq!(process.exit_code(Duration::from_secs(5)).await, Some(0), "after {:?}", began.elapsed());
    let (events, end) = record.await.expect("no panic");
    let end = end.expect_err("a status");
    assert_eq!((end.code(), &*reason(&end)), (Code::Unavailable, "SHUTTING_DOWN"));
    let mut open: BTreeMap<String, bool> = BTreeMap::new();
    for event in &events {
        match &event.kind {
            Some(Kind::Connected(_)) => assert_eq!(open.insert(event.connection_id.clone(), true), None),
            Some(Kind::Disconnected(_)) => assert_eq!(open.insert(event.connection_id.clone(), false), Some(true)),
            _ => assert_eq!(open.get(&event.connection_id), Some(&true), "{event:?}"),
        }
    }
    assert!(open.len() > 20, "no load: {}", open.len());
    assert!(open.values().all(|open| !open), "{open:?}");
    for task in load {
        task.await.expect("no panic");
    }
}

#[tokio::test]
async fn a_close_rate_too_slow_for_the_deadline_is_hastened_so_that_every_client_gets_its_close() {
    let mut node = crate::harness::Node::with(|config| {
        config.shutdown.close_rate = 1;
        config.shutdown.deadline = Duration::from_secs(2);
    })
    .await;
    let mut clients = Vec::new();
    for i in 0..20 {
        clients.push(until_closed(node.connect(&format!("c{i}")).await));
    }
    assert_eq!(node.shutdown().await, heartwire::app::Outcome::Clean);
    for client in clients {
        assert_eq!(client.await.expect("a Close").0, 1012);
    }
}
