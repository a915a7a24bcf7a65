//! How events are put together into responses, and what an idle stream says.

use super::*;
use crate::grpc::batch::{BATCH_BYTES, BATCH_EVENTS};
use prost::Message as _;

#[tokio::test]
async fn a_batch_is_bounded_by_count_and_by_bytes_and_nothing_is_lost_between() {
    let rig = Rig::start().await;
    let start = rig.cursor(rig.head());
    let mut sizes = Vec::new();
    let chatty = rig.join("chatty").await;
    for i in 0..3_000 {
        let size = if i % 10 == 0 { 20_000 } else { i % 100 };
        sizes.push(size);
        chatty.message(text(&"x".repeat(size))).expect("room");
        eventually("there is room", || rig.log.budget().try_reserve(1 << 20).is_some()).await;
    }
    eventually("all is committed", || rig.log.budget().is_whole()).await;
    let mut stream = rig.stream(Start::Cursor(start), None).await;
    let (mut received, mut batches) = (Vec::new(), 0);
    while received.len() <= sizes.len() {
        let response = stream.next().await.expect("no error");
        batches += 1;
        assert!(response.events.len() <= BATCH_EVENTS && response.encoded_len() <= BATCH_BYTES);
        received.extend(response.events);
    }
    let got: Vec<_> = received[1..]
        .iter()
        .map(|event| match event.kind.as_ref() {
            Some(pb::event::Kind::MessageReceived(pb::MessageReceived { payload: Some(payload) })) => match payload {
                pb::message_received::Payload::Text(text) => text.len(),
                pb::message_received::Payload::Binary(_) => panic!("a text came as binary"),
            },
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(got, sizes);
    assert!(batches >= 6_000_000 / BATCH_BYTES, "{batches}");
    assert_eq!(rig.metrics.delivered.get(), 3_001);
}

#[tokio::test]
async fn an_event_larger_than_a_batch_comes_alone() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(NOW, None).await;
    let chatty = rig.join("chatty").await;
    for size in [1, 2 << 20, 1] {
        chatty.message(text(&"x".repeat(size))).expect("room");
    }
    let mut received = 0;
    while received < 4 {
        let response = stream.next().await.expect("no error");
        assert!(response.encoded_len() <= BATCH_BYTES || response.events.len() == 1);
        received += response.events.len();
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_gets_a_bookmark_every_ten_seconds_and_filtered_stretches_move_it() {
    let rig = Rig::paused(Options::default());
    let filter = pb::EventFilter { client_ids: vec!["wanted".into()], ..Default::default() };
    let mut stream = rig.stream(NOW, Some(filter)).await;
    let began = Instant::now();
    assert_eq!(stream.next().await.expect("where it begins").cursor, rig.cursor(rig.head()));
    for _ in 0..3 {
        drop(rig.join("unwanted").await);
        eventually("it is gone", || rig.registry.count() == 0).await;
        let response = stream.next().await.expect("a bookmark");
        assert!(response.events.is_empty() && !response.snapshot);
        assert_eq!(response.cursor, rig.cursor(rig.head()));
    }
    let elapsed = began.elapsed().as_secs();
    assert!((30..=31).contains(&elapsed), "{elapsed}");
}

#[tokio::test(start_paused = true)]
async fn a_bookmark_waits_until_nothing_was_sent_for_ten_seconds() {
    let rig = Rig::paused(Options::default());
    let mut stream = rig.stream(NOW, None).await;
    assert!(stream.next().await.expect("where it begins").events.is_empty());
    let began = Instant::now();
    let alice = rig.join("alice").await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(6)).await;
        alice.message(text("hi")).expect("room");
    }
    let mut responses = Vec::new();
    while responses.iter().map(|r: &pb::SubscribeResponse| r.events.len()).sum::<usize>() < 5 {
        responses.push(stream.next().await.expect("no error"));
    }
    assert!(responses.iter().all(|response| !response.events.is_empty()), "{responses:?}");
    assert!(stream.next().await.expect("a bookmark").events.is_empty());
    let elapsed = began.elapsed().as_secs();
    assert!((34..=35).contains(&elapsed), "{elapsed}");
}

#[tokio::test]
async fn a_subscriber_that_never_reads_holds_no_one_up_and_loses_nothing() {
    let rig = Rig::start().await;
    let mut lazy = rig.stream(NOW, None).await;
    let mut keen = rig.stream(NOW, None).await;
    let chatty = rig.join("chatty").await;
    let payload = "x".repeat(10_000);
    for _ in 0..2_000 {
        chatty.message(text(&payload)).expect("room");
        eventually("there is room", || rig.log.budget().try_reserve(1 << 20).is_some()).await;
    }
    assert_eq!(keen.events(2_001).await.len(), 2_001);
    let lag = || {
        let mut reading = crate::metrics::Reading::default();
        rig.services.subscribers().read_gauges(rig.head(), &mut reading);
        reading.subscriber_lag
    };
    assert!(lag() > 1_000, "the one that never reads is far behind: {}", lag());
    assert_eq!(lazy.events(2_001).await.len(), 2_001);
}
