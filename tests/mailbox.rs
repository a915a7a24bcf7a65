//! Mailboxes: what is stored for a client that is away, or whose connection dies, comes once it can, in order and before the rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use heartwire::clock::Clock;
use heartwire::config::Config;
use heartwire::pb;
use heartwire::pb::Stage;
use heartwire::pb::event::Kind;
use heartwire::pb::send_request::Payload;
use tokio_tungstenite::tungstenite::Message;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::harness::client::raw_websocket;
use crate::harness::{Node, Process, client_target, eventually, reason, span};

fn trusting(config: &mut Config) {
    config.identity.trust_self_named = true;
}

fn kept(id: &str, text: impl Into<String>) -> pb::SendRequest {
    pb::SendRequest {
        target: Some(client_target(id)),
        payload: Some(Payload::Text(text.into())),
        ttl: span(3_600_000),
        ..Default::default()
    }
}

fn plain(id: &str, text: impl Into<String>) -> pb::SendRequest {
    pb::SendRequest { ttl: None, ..kept(id, text) }
}

async fn send(node: &Node, request: pb::SendRequest) -> Result<pb::SendResponse, tonic::Status> {
    node.messages().send(request).await.map(tonic::Response::into_inner)
}

fn stage(answer: &pb::SendResponse) -> (Stage, String) {
    let [delivery] = &answer.deliveries[..] else { panic!("{answer:?}") };
    assert_eq!(delivery.failure, 0);
    (delivery.stage(), delivery.connection_id.clone())
}

async fn messages(node: &Node) -> f64 {
    node.metric("heartwire_mailbox_messages").await
}

async fn is_empty(node: &Node) {
    eventually("the mailboxes are empty", || async { (messages(node).await == 0.0).then_some(()) }).await;
}

#[tokio::test]
async fn a_client_that_was_away_gets_what_was_stored_in_order_and_before_anything_else() {
    let node = Node::with(trusting).await;
    let mut events = node.events().await;
    for n in 0..100 {
        assert_eq!(stage(&send(&node, kept("alice", n.to_string())).await.expect("stored")).0, Stage::Stored);
    }
    let binary = pb::SendRequest { payload: Some(Payload::Binary(vec![0, 255].into())), ..kept("alice", "") };
    send(&node, binary).await.expect("stored");
    assert_eq!(messages(&node).await, 101.0);
    let mut alice = node.connect("alice").await;
    events.connected().await;
    // Whoever hears that she is there cannot get ahead of the mail.
    let overtaking = eventually("room", || async { send(&node, plain("alice", "plain")).await.ok() });
    let reading = async {
        for n in 0..100 {
            assert_eq!(alice.next_text().await, n.to_string());
        }
        assert_eq!(alice.next().await, Some(Message::binary(vec![0, 255])));
        assert_eq!(alice.next_text().await, "plain");
    };
    tokio::join!(overtaking, reading);
    is_empty(&node).await;
    assert_eq!(node.metric("heartwire_mail_total{outcome=\"stored\"}").await, 101.0);
    assert_eq!(node.metric("heartwire_mail_total{outcome=\"delivered\"}").await, 101.0);
}

#[tokio::test]
async fn a_client_that_is_there_gets_it_at_once_and_it_is_written() {
    let node = Node::with(trusting).await;
    let mut events = node.events().await;
    let (mut alice, came) = node.connect_seen("alice", &mut events).await;
    for n in 0..50 {
        let request = pb::SendRequest { receipt: Stage::Written.into(), ..kept("alice", n.to_string()) };
        let answer = send(&node, request).await.expect("written");
        assert_eq!(stage(&answer), (Stage::Written, came.connection_id.clone()));
        assert_eq!(alice.next_text().await, n.to_string());
        // In its turn at once: the mailbox holds nothing unsent.
        send(&node, plain("alice", "plain")).await.expect("accepted");
        assert_eq!(alice.next_text().await, "plain");
    }
    is_empty(&node).await;
}

#[tokio::test]
async fn a_client_that_dies_before_it_reads_gets_the_rest_on_its_next_connection() {
    let node = Node::with(|config| {
        trusting(config);
        config.mailbox.max_bytes = "64MiB".parse().expect("a size");
    })
    .await;
    let mut events = node.events().await;
    // It reads nothing, so what the kernel does not take stays.
    let stuck = raw_websocket(node.ws, "?client_id=alice").await;
    events.connected().await;
    let large = |n: usize| format!("{n:03} {}", "x".repeat(200_000));
    for n in 0..60 {
        send(&node, kept("alice", large(n))).await.expect("stored");
    }
    assert!(messages(&node).await > 10.0, "the kernel has taken it all");
    let refused = send(&node, plain("alice", "plain")).await.expect_err("mail comes first");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "OUTBOX_FULL"));
    assert!(refused.get_details_retry_info().is_some());
    drop(stuck);
    events.next_disconnected().await;
    let mut alice = node.connect("alice").await;
    let first: usize = alice.next_text().await[..3].parse().expect("a number");
    assert!(first < 60, "nothing was left to send again");
    for n in first + 1..60 {
        assert!(alice.next_text().await.starts_with(&format!("{n:03}")));
    }
    is_empty(&node).await;
}

#[tokio::test]
async fn over_its_bounds_a_mailbox_refuses() {
    let node = Node::with(|config| {
        trusting(config);
        config.mailbox.max_messages = 2;
    })
    .await;
    for _ in 0..2 {
        send(&node, kept("alice", "a")).await.expect("room");
    }
    let full = send(&node, kept("alice", "a")).await.expect_err("full");
    assert_eq!((full.code(), &*reason(&full)), (Code::ResourceExhausted, "MAILBOX_FULL"));
    assert!(full.get_details_retry_info().is_some());
    assert_eq!(node.metric("heartwire_mail_total{outcome=\"refused\"}").await, 1.0);
}

#[tokio::test]
async fn what_expires_is_told_and_never_comes() {
    let hours = Arc::new(AtomicU64::new(500_000));
    let read = Arc::clone(&hours);
    let clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(3600 * read.load(Ordering::SeqCst)));
    let node = Node::with_clock(trusting, clock).await;
    let mut events = node.events().await;
    send(&node, pb::SendRequest { message_id: "m-1".into(), ..kept("alice", "a") }).await.expect("stored");
    send(&node, pb::SendRequest { ttl: span(2 * 3_600_000), ..kept("alice", "b") }).await.expect("stored");
    hours.fetch_add(1, Ordering::SeqCst);
    let expired = events.next().await;
    assert_eq!((&*expired.client_id, &*expired.connection_id), ("alice", ""));
    let Some(Kind::MessageExpired(message)) = expired.kind else { panic!("{expired:?}") };
    assert_eq!(message.message_id, "m-1");
    assert_eq!(message.send_time.map(|time| time.seconds), Some(3600 * 500_000));
    let mut alice = node.connect("alice").await;
    assert_eq!(alice.next_text().await, "b");
    is_empty(&node).await;
}

#[tokio::test]
async fn a_repeat_with_its_id_comes_once() {
    let node = Node::with(trusting).await;
    let named = || pb::SendRequest { message_id: "m".into(), ..kept("alice", "a") };
    let replayed = |answer: pb::SendResponse| answer.replayed;
    assert!(!replayed(send(&node, named()).await.expect("stored")));
    assert!(replayed(send(&node, named()).await.expect("stored")));
    let other = pb::SendRequest { payload: Some(Payload::Text("b".into())), ..named() };
    let refused = send(&node, other).await.expect_err("another message");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::AlreadyExists, "MESSAGE_ID_REUSED"));
    send(&node, kept("alice", "last")).await.expect("stored");
    let mut alice = node.connect("alice").await;
    assert_eq!((alice.next_text().await, alice.next_text().await), ("a".to_owned(), "last".to_owned()));
}

#[tokio::test]
async fn clients_that_name_themselves_have_no_mailbox_unless_they_are_trusted() {
    let node = Node::start().await;
    let refused = send(&node, kept("alice", "a")).await.expect_err("refused");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "IDENTITY_UNVERIFIED"));
}

#[tokio::test]
async fn what_was_answered_as_stored_outlives_a_kill() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = format!("log.data_dir={}", directory.path().display());
    let settings = [&*data, "identity.trust_self_named=true"];
    let send = async |node: &Process, request| node.messages().send(request).await.map(tonic::Response::into_inner);
    let named = |n: usize| pb::SendRequest { message_id: format!("m-{n}"), ..kept("alice", n.to_string()) };
    let mut node = Process::start(&settings).await;
    for n in 0..20 {
        send(&node, named(n)).await.expect("stored");
    }
    node.child.kill().await.expect("killed");
    let node = Process::start(&settings).await;
    assert!(send(&node, named(7)).await.expect("stored").replayed);
    let mut alice = node.connect("alice").await;
    for n in 0..20 {
        assert_eq!(alice.next_text().await, n.to_string());
    }
}

#[tokio::test]
async fn a_drain_ends_with_mail_in_the_boxes_and_sends_it_to_nobody_twice() {
    let mut node = Node::with(trusting).await;
    let mut events = node.events().await;
    let (mut alice, _) = node.connect_seen("alice", &mut events).await;
    send(&node, kept("bob", "b")).await.expect("stored");
    for n in 0..10 {
        send(&node, kept("alice", n.to_string())).await.expect("stored");
    }
    let reading = tokio::spawn(async move {
        let mut texts = Vec::new();
        while let Some(Message::Text(text)) = alice.next().await {
            texts.push(text.to_string());
        }
        texts
    });
    assert_eq!(node.shutdown().await, heartwire::app::Outcome::Clean);
    // What its carrier had not come to stays stored; what was sent is in order, each once.
    let expected: Vec<_> = (0..10).map(|n| n.to_string()).collect();
    let read = reading.await.expect("read");
    assert_eq!(read, expected[..read.len()]);
}
