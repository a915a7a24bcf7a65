//! The log as its subscribers see it: the same for all, from any place, and the state that it implies.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::event::Kind;
use heartwire::pb::subscribe_request::Start;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;

use crate::harness::client::{frame, raw_websocket};
use crate::harness::{Backend, Events, Node, client_target, reason};

fn beginning() -> Start {
    Start::Beginning(pb::BeginningStart {})
}

fn filtered(start: Start, filter: pb::EventFilter) -> pb::SubscribeRequest {
    pb::SubscribeRequest { start: Some(start), filter: Some(filter), ..Default::default() }
}

async fn take(events: &mut Events, count: usize) -> Vec<pb::Event> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(events.next().await);
    }
    taken
}

/// What somebody is told who resumes with a cursor that will not do.
async fn refusal(backend: &Backend, cursor: String) -> tonic::Status {
    let request = pb::SubscribeRequest { start: Some(Start::Cursor(cursor)), ..Default::default() };
    match backend.event_service().subscribe(request).await {
        Err(refused) => refused,
        Ok(stream) => stream.into_inner().message().await.expect_err("refused"),
    }
}

async fn label(backend: &Backend, id: &str, key: &str, value: &str) {
    let set = [(key.to_owned(), value.to_owned())].into();
    let request = pb::UpdateLabelsRequest { target: Some(client_target(id)), set, ..Default::default() };
    backend.connections().update_labels(request).await.expect("labels");
}

/// What events make of the state: the labels of each connection that exists, by generation and client id.
#[derive(Default, PartialEq, Debug, Clone)]
struct Fold(BTreeMap<(String, i64), (String, HashMap<String, String>)>);

impl Fold {
    fn apply(&mut self, event: &pb::Event) {
        let key = (event.client_id.clone(), event.generation);
        match event.kind.as_ref().expect("a kind") {
            Kind::Connected(_) | Kind::LabelsChanged(_) => {
                self.0.insert(key, (event.connection_id.clone(), event.labels.clone()));
            }
            Kind::Disconnected(_) => drop(self.0.remove(&key)),
            _ => {}
        }
    }

    fn of_list(list: Vec<pb::Connection>) -> Self {
        Self(list.into_iter().map(|c| ((c.client_id, c.generation), (c.connection_id, c.labels))).collect())
    }
}

#[tokio::test]
async fn a_stream_cut_anywhere_and_resumed_is_the_whole_stream() {
    let node = Node::start().await;
    let mut live = node.events().await;
    for n in 0..4 {
        let (mut client, _) = node.connect_seen(&format!("c{n}"), &mut live).await;
        client.text("one").await;
        client.text("two").await;
        take(&mut live, 2).await;
        label(&node, &format!("c{n}"), "n", "1").await;
        client.text("").await;
        take(&mut live, 2).await;
    }
    const ALL: usize = 4 * 5;
    let whole = take(&mut node.events_from(beginning()).await, ALL).await;
    let head = node.head().await.head_cursor;
    assert_eq!(whole.last().expect("events").cursor, head);
    for cut in 0..ALL {
        let mut resumed = node.events_from(Start::Cursor(whole[cut].cursor.clone())).await;
        assert_eq!(take(&mut resumed, ALL - 1 - cut).await, whole[cut + 1..], "cut after {cut}");
    }
    // A cursor that no log ever gave is told apart from one of another life of the log.
    let other = Node::start().await;
    let foreign = other.head().await.head_cursor;
    let damaged = format!("{}x", &head[..head.len() - 1]);
    for (cursor, code, why) in [
        (foreign, Code::OutOfRange, "EPOCH_CHANGED"),
        (damaged, Code::InvalidArgument, "CURSOR_INVALID"),
        (String::new(), Code::InvalidArgument, "CURSOR_INVALID"),
    ] {
        let refused = refusal(&node, cursor).await;
        assert_eq!((refused.code(), &*reason(&refused)), (code, why));
    }
}

#[tokio::test]
async fn a_log_that_let_go_of_what_follows_a_cursor_says_so() {
    let node = Node::with(|config| {
        config.log.max_bytes = heartwire::config::ByteSize::mib(1);
        config.limits.messages_per_second = 0;
        config.limits.bytes_per_second = heartwire::config::ByteSize(0);
    })
    .await;
    let mut live = node.events().await;
    let (mut client, came) = node.connect_seen("alice", &mut live).await;
    let large = "x".repeat(60_000);
    for _ in 0..40 {
        client.text(&large).await;
        live.text().await;
    }
    let status = refusal(&node, came.cursor).await;
    assert_eq!((status.code(), &*reason(&status)), (Code::OutOfRange, "CURSOR_EXPIRED"));
    // The oldest that is kept can be read, and the state is not lost.
    assert_eq!(node.events_from(beginning()).await.next().await.client_id, "alice");
    assert_eq!(node.get("alice").await.len(), 1);
}

#[tokio::test]
async fn a_snapshot_under_churn_is_the_state_at_its_cursor_and_converges_to_the_list() {
    let node = Node::with(|config| config.identity.takeovers_per_minute = 0).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut churn = JoinSet::new();
    for lane in 0..4usize {
        let (backend, stop) = (node.backend.clone(), stop.clone());
        churn.spawn(async move {
            let mut kept = Vec::new();
            for n in 0usize.. {
                if stop.is_cancelled() {
                    return kept;
                }
                // Some ids of this lane, and some that all lanes fight for.
                let id = if n % 3 == 0 { format!("shared{}", n % 5) } else { format!("c{lane}-{}", n % 20) };
                let stream = raw_websocket(backend.ws, &format!("?client_id={id}")).await;
                if n % 4 == 0 {
                    let set = [("n".to_owned(), n.to_string())].into();
                    let target = Some(client_target(&id));
                    let request = pb::UpdateLabelsRequest { target, set, ..Default::default() };
                    // It may be replaced already.
                    let _ = backend.connections().update_labels(request).await;
                }
                kept.push(stream);
                if kept.len() > 15 {
                    kept.remove(n % 15);
                }
            }
            kept
        });
    }
    let mut snapshots = Vec::new();
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        let mut stream = node.events_from(Start::Snapshot(pb::SnapshotStart {})).await;
        let (mut fold, mut rest) = (Fold::default(), Vec::new());
        while stream.cursor.is_empty() {
            let response = stream.response().await.expect("goes on").expect("goes on");
            match response.snapshot {
                true => response.events.iter().for_each(|event| fold.apply(event)),
                false => rest = response.events,
            }
        }
        assert!(rest.is_empty(), "the first news came with the mark");
        snapshots.push((stream.cursor.clone(), fold, stream));
    }
    stop.cancel();
    let kept = churn.join_all().await;
    let whole = {
        // A last event that ends every stream.
        let _last = node.connect("the-last").await;
        let mut events = node.events_from(beginning()).await;
        let mut whole = Vec::new();
        while whole.last().is_none_or(|event: &pb::Event| event.client_id != "the-last") {
            whole.push(events.next().await);
        }
        whole
    };
    let list = Fold::of_list(node.list().await.0.into_iter().filter(|c| c.client_id != "the-last").collect());
    for (cursor, fold, mut stream) in snapshots {
        let at = whole.iter().position(|event| event.cursor == cursor).expect("a position of the log");
        let mut replayed = Fold::default();
        whole[..=at].iter().for_each(|event| replayed.apply(event));
        assert_eq!(fold, replayed, "the snapshot is not the fold at its cursor");
        assert!(!fold.0.is_empty());
        let mut followed = fold;
        loop {
            let event = stream.next().await;
            if event.client_id == "the-last" {
                break;
            }
            followed.apply(&event);
        }
        assert_eq!(followed, list, "the snapshot and what followed is not the list");
    }
    drop(kept);
}

#[tokio::test]
async fn a_filter_passes_just_what_it_says() {
    let node = Node::start().await;
    let mut live = node.events().await;
    let filters: [(&str, pb::EventFilter); 5] = [
        ("kinds", pb::EventFilter { kinds: vec![pb::EventKind::MessageReceived.into()], ..Default::default() }),
        ("client ids", pb::EventFilter { client_ids: vec!["ab".to_owned(), "c".to_owned()], ..Default::default() }),
        ("prefix", pb::EventFilter { client_id_prefix: "a".to_owned(), ..Default::default() }),
        ("labels", pb::EventFilter { labels: [("room".to_owned(), "7".to_owned())].into(), ..Default::default() }),
        (
            "several",
            pb::EventFilter {
                kinds: vec![pb::EventKind::Connected.into(), pb::EventKind::Disconnected.into()],
                client_id_prefix: "a".to_owned(),
                ..Default::default()
            },
        ),
    ];
    let mut clients = Vec::new();
    for id in ["a", "ab", "b", "c"] {
        let (mut client, _) = node.connect_seen(id, &mut live).await;
        client.text(id).await;
        live.text().await;
        clients.push(client);
    }
    // Into the room, a word, and out of it: leaving is seen, what comes after is not.
    for room in ["7", "8"] {
        label(&node, "b", "room", room).await;
        live.next().await;
        clients[2].text("here").await;
        live.text().await;
    }
    for client in &mut clients {
        client.text("").await;
        live.disconnected().await;
    }
    let whole = take(&mut node.events_from(beginning()).await, 4 * 3 + 4).await;
    let tag = |event: &pb::Event| match event.kind.as_ref().expect("a kind") {
        Kind::Connected(_) => "connected",
        Kind::Disconnected(_) => "disconnected",
        Kind::MessageReceived(_) => "message",
        Kind::LabelsChanged(_) => "labels",
        _ => "other",
    };
    let in_room = |labels: &HashMap<String, String>| labels.get("room").is_some_and(|room| room == "7");
    for (what, filter) in filters {
        let expected: Vec<_> = whole
            .iter()
            .filter(|event| match what {
                "kinds" => tag(event) == "message",
                "client ids" => matches!(&*event.client_id, "ab" | "c"),
                "prefix" => event.client_id.starts_with('a'),
                "labels" => match event.kind.as_ref().expect("a kind") {
                    Kind::LabelsChanged(change) => in_room(&event.labels) || in_room(&change.previous_labels),
                    _ => in_room(&event.labels),
                },
                _ => event.client_id.starts_with('a') && tag(event).ends_with("connected"),
            })
            .cloned()
            .collect();
        assert!(expected.len() >= 3 && expected.len() < whole.len(), "{what} tests nothing");
        let mut stream = node.subscribe(filtered(beginning(), filter)).await;
        assert_eq!(take(&mut stream, expected.len()).await, expected, "{what}");
        // Nothing more: the next that passes is of somebody who comes now.
        assert!(tokio::time::timeout(Duration::from_millis(30), stream.next()).await.is_err(), "{what}");
    }
}

#[tokio::test]
async fn of_two_hundred_subscribers_one_that_never_reads_delays_none_of_the_others() {
    const MESSAGES: usize = 200;
    let node = Node::with(|config| {
        config.limits.messages_per_second = 0;
        config.limits.bytes_per_second = heartwire::config::ByteSize(0);
    })
    .await;
    let mut alice = raw_websocket(node.ws, "?client_id=alice").await;
    let mut first = node.events_from(beginning()).await;
    first.connected().await;
    let head = node.head().await.head_cursor;
    let stalled = node.another_with_small_windows();
    let _unread = stalled.events_from(Start::Cursor(head.clone())).await;
    let mut readers = JoinSet::new();
    for lane in 0..4 {
        let backend = node.another();
        for n in 0..if lane == 0 { 49 } else { 50 } {
            let mut events = backend.events_from(Start::Cursor(head.clone())).await;
            readers.spawn(async move {
                for message in 0..MESSAGES {
                    let (_, text) = events.text().await;
                    assert!(text.starts_with(&format!("{message}:")), "reader {lane} {n}");
                }
            });
        }
    }
    assert_eq!(node.metric("heartwire_subscribers").await, 201.0);
    // 800 KB: more than a batch and the stalled stream's window and send buffer hold.
    for message in 0..MESSAGES {
        let text = format!("{message}:{}", "x".repeat(4_000));
        alice.write_all(&frame(0x81, text.as_bytes())).await.expect("writes");
    }
    let done = readers.join_all().await;
    assert_eq!(done.len(), 199);
    assert!(node.metric("heartwire_subscriber_lag_events").await > 0.0, "nobody was stalled");
}

#[tokio::test]
async fn a_cancelled_stream_frees_its_place_within_a_second() {
    let node = Node::with(|config| config.grpc.max_subscribers = 1).await;
    let subscribe = async || {
        let request = pb::SubscribeRequest { start: Some(beginning()), ..Default::default() };
        node.event_service().subscribe(request).await
    };
    for _ in 0..3 {
        let held = subscribe().await.expect("the place is free");
        let refused = subscribe().await.expect_err("the place is taken");
        assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "SUBSCRIBERS_LIMIT"));
        drop(held);
        let cancelled = Instant::now();
        while node.metric("heartwire_subscribers").await > 0.0 {
            assert!(cancelled.elapsed() < Duration::from_secs(1), "still counted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // A backend that vanishes frees its own too.
    let other = node.another();
    let held = other.events_from(beginning()).await;
    drop((held, other));
    let gone = Instant::now();
    while subscribe().await.is_err() {
        assert!(gone.elapsed() < Duration::from_secs(1), "still counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
