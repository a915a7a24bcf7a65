//! Who is found silent and who is not, whatever the clocks and the machine do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use heartwire::clock::Clock;
use heartwire::config::{Config, ProofOfLife, ServerHeartbeat};
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::client::{frame, raw_close_code, raw_websocket, read_frame};
use crate::harness::{Backend, Events, Node, Process};

/// How late a deadline may be noticed.
const SLACK: Duration = Duration::from_secs(1);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn quick(interval: u64, timeout: u64) -> impl FnOnce(&mut Config) {
    move |config| {
        config.heartbeat.interval = millis(interval);
        config.heartbeat.timeout = millis(timeout);
    }
}

/// A client that sends text heartbeats and reads nothing, until it is aborted.
async fn beating(backend: &Backend, id: &str, every: Duration) -> JoinHandle<()> {
    let mut stream = raw_websocket(backend.ws, &format!("?client_id={id}")).await;
    tokio::spawn(async move {
        while stream.write_all(&frame(0x81, b"heartbeat")).await.is_ok() {
            sleep(every).await;
        }
    })
}

/// Whose connections ended within a while, and by what.
async fn ends_within(events: &mut Events, span: Duration) -> Vec<(String, Cause)> {
    let mut ends = Vec::new();
    let until = Instant::now() + span;
    while let Ok(event) = tokio::time::timeout_at(until, events.next()).await {
        if let Some(Kind::Disconnected(end)) = &event.kind {
            ends.push((event.client_id, end.cause()));
        }
    }
    ends
}

#[tokio::test]
async fn a_silent_client_is_suspect_and_then_gone_in_time_with_no_message_from_anybody() {
    let node = Node::with(quick(200, 600)).await;
    let mut events = node.events().await;
    let began = Instant::now();
    let mut stream = raw_websocket(node.ws, "?client_id=alice").await;
    let (connected, _) = events.connected().await;
    let suspected = events.next().await;
    assert!(matches!(suspected.kind, Some(Kind::Suspected(pb::Suspected { socket_lost: false, .. }))), "{suspected:?}");
    let suspected_after = began.elapsed();
    assert!((millis(300)..millis(300) + SLACK).contains(&suspected_after), "{suspected_after:?}");
    assert_eq!(node.get("alice").await[0].state(), pb::ConnectionState::Suspect);
    let (event, end) = events.disconnected().await;
    let gone_after = began.elapsed();
    assert!((millis(600)..millis(600) + SLACK).contains(&gone_after), "{gone_after:?}");
    assert_eq!((end.cause(), end.close_code, &*end.close_reason), (Cause::HeartbeatTimeout, 4408, "Heartbeat timeout"));
    assert_eq!((event.connection_id, event.generation), (connected.connection_id, connected.generation));
    assert!(end.stats.expect("stats").missed_heartbeats >= 3);
    assert!(node.get("alice").await.is_empty());
    assert_eq!(raw_close_code(&mut stream).await, Some(4408));
}

#[tokio::test]
async fn a_client_that_only_answers_pings_stays_and_one_that_recovers_is_told() {
    let node = Node::with(quick(150, 400)).await;
    let mut events = node.events().await;
    let (mut quiet, _) = node.connect_seen("quiet", &mut events).await;
    let reading = tokio::spawn(async move { quiet.socket_until_end().await });
    let mut flapping = raw_websocket(node.ws, "?client_id=flapping").await;
    events.connected().await;
    let suspected = events.next().await;
    assert!(matches!(suspected.kind, Some(Kind::Suspected(_))), "{suspected:?}");
    flapping.write_all(&frame(0x8a, b"unasked for")).await.expect("writes");
    let recovered = events.next().await;
    assert!(matches!(recovered.kind, Some(Kind::Recovered(pb::Recovered { resumed: false, .. }))), "{recovered:?}");
    // Not suspect again so soon, but gone in time all the same.
    let (event, end) = events.disconnected().await;
    assert_eq!((&*event.client_id, end.cause()), ("flapping", Cause::HeartbeatTimeout));
    assert_eq!(node.get("quiet").await.len(), 1);
    reading.abort();
}

#[tokio::test]
async fn what_counts_as_a_heartbeat_is_as_configured() {
    for (counts, expected) in [(ProofOfLife::AnyFrame, &[][..]), (ProofOfLife::HeartbeatsOnly, &["talker"][..])] {
        let node = Node::with(|config| {
            quick(150, 400)(config);
            config.heartbeat.counts = counts;
        })
        .await;
        let mut events = node.events().await;
        let beater = beating(&node, "beater", millis(50)).await;
        let mut stream = raw_websocket(node.ws, "?client_id=talker").await;
        let talker = tokio::spawn(async move {
            while stream.write_all(&frame(0x81, b"hello")).await.is_ok() {
                sleep(millis(50)).await;
            }
        });
        let ends = ends_within(&mut events, millis(800)).await;
        assert_eq!(ends.iter().map(|(id, _)| &**id).collect::<Vec<_>>(), expected, "{counts:?}");
        beater.abort();
        talker.abort();
    }
}

/// What the server sends of its own to a client in a good three intervals.
async fn server_sends(server: ServerHeartbeat, speaks_text: bool) -> (ServerHeartbeat, bool, BTreeSet<&'static str>) {
    let node = Node::with(|config| {
        quick(100, 60_000)(config);
        config.heartbeat.server = server;
    })
    .await;
    let query = if speaks_text { "" } else { "?client_id=alice" };
    let mut stream = raw_websocket(node.ws, query).await;
    if speaks_text {
        stream.write_all(&frame(0x81, b"heartbeat:alice")).await.expect("writes");
    }
    let mut seen = BTreeSet::new();
    let read = async {
        while let Some((first, payload)) = read_frame(&mut stream).await {
            seen.insert(match (first, &*payload) {
                (0x89, _) => "ping",
                (0x81, b"heartbeat") => "text",
                other => panic!("{other:?}"),
            });
        }
    };
    assert!(timeout(millis(450), read).await.is_err(), "it ended");
    (server, speaks_text, seen)
}

#[tokio::test]
async fn the_server_beats_as_configured() {
    use ServerHeartbeat::{Auto, Both, Off, Ping, Text};
    let cases: [(_, _, &[&str]); 8] = [
        (Auto, false, &["ping"]),
        (Auto, true, &["ping", "text"]),
        (Ping, true, &["ping"]),
        (Text, false, &["text"]),
        (Text, true, &["text"]),
        (Both, false, &["ping", "text"]),
        (Off, false, &[]),
        (Off, true, &[]),
    ];
    let all = cases.map(|(server, speaks_text, _)| server_sends(server, speaks_text));
    for (outcome, (.., expected)) in futures_util::future::join_all(all).await.into_iter().zip(cases) {
        assert_eq!(outcome.2, expected.iter().copied().collect(), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_process_that_stood_still_expires_nobody_whose_heartbeats_kept_coming() {
    let process = Process::start(&["heartbeat.interval=200ms", "heartbeat.timeout=600ms"]).await;
    let mut events = process.events().await;
    let mut clients = Vec::new();
    for n in 0..20 {
        clients.push(beating(&process, &format!("c{n}"), millis(100)).await);
        events.connected().await;
    }
    process.freeze().await;
    sleep(millis(1_800)).await;
    process.signal("CONT");
    assert_eq!(ends_within(&mut events, millis(900)).await, []);
    assert_eq!(process.list().await.0.len(), 20);
    assert!(process.metric("heartwire_frozen_total").await >= 1.0);
    clients.iter().for_each(JoinHandle::abort);
}

#[tokio::test]
async fn after_standing_still_a_client_that_is_silent_is_found_when_its_remaining_time_is_over() {
    let process = Process::start(&["heartbeat.interval=500ms", "heartbeat.timeout=1500ms"]).await;
    let mut events = process.events().await;
    let _silent = raw_websocket(process.ws, "?client_id=silent").await;
    events.connected().await;
    sleep(millis(500)).await;
    process.freeze().await;
    sleep(millis(2_000)).await;
    process.signal("CONT");
    let woken = Instant::now();
    let (event, end) = events.next_disconnected().await;
    assert_eq!((&*event.client_id, end.cause()), ("silent", Cause::HeartbeatTimeout));
    let remaining = woken.elapsed();
    assert!((millis(700)..millis(1_100) + SLACK).contains(&remaining), "{remaining:?}");
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_expires_nobody_and_spares_nobody() {
    const HOUR: i64 = 3_600;
    let offset = Arc::new(AtomicI64::new(0));
    let read = Arc::clone(&offset);
    let clock = Clock::new(move || {
        let offset = read.load(Ordering::Relaxed);
        let span = Duration::from_secs(offset.unsigned_abs());
        if offset < 0 { SystemTime::now() - span } else { SystemTime::now() + span }
    });
    let node = Node::with_clock(quick(150, 500), clock).await;
    let mut events = node.events().await;
    let beater = beating(&node, "beater", millis(50)).await;
    for jump in [HOUR, -HOUR] {
        let began = Instant::now();
        let _silent = raw_websocket(node.ws, "?client_id=silent").await;
        offset.fetch_add(jump, Ordering::Relaxed);
        let (event, end) = events.next_disconnected().await;
        assert_eq!((&*event.client_id, end.cause()), ("silent", Cause::HeartbeatTimeout), "{jump}");
        let gone_after = began.elapsed();
        assert!((millis(500)..millis(500) + SLACK).contains(&gone_after), "{jump}: {gone_after:?}");
    }
    assert_eq!(node.get("beater").await.len(), 1);
    beater.abort();
}
