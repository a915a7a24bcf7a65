//! Where a stream begins, and which cursors it takes.

use super::*;
use crate::position::{Epoch, Position};

fn ids(events: &[pb::Event]) -> Vec<&str> {
    events.iter().map(|event| event.client_id.as_str()).collect()
}

#[tokio::test]
async fn unset_is_now_and_carries_only_what_comes() {
    let rig = Rig::start().await;
    let _old = rig.join("old").await;
    for start in [None, Some(NOW)] {
        let request = pb::SubscribeRequest { start, ..Default::default() };
        let mut stream = rig.subscribe(request).await.expect("subscribed");
        let new = rig.join("new").await;
        let events = stream.events(1).await;
        assert_eq!(ids(&events), ["new"]);
        let info = new.connection().info();
        assert_eq!(events[0].generation, info.generation());
        assert_eq!(events[0].connection_id, info.connection_id.to_string());
        assert_eq!(events[0].cursor, rig.cursor(info.generation()));
        assert_eq!(events[0].node_id, "test-node");
        drop(new);
        stream.events(1).await;
    }
}

#[tokio::test]
async fn a_stream_that_begins_now_is_told_at_once_where_that_is_and_so_misses_nothing_when_it_is_lost() {
    let rig = Rig::start().await;
    let _before = rig.join("before").await;
    let mut lost = rig.stream(NOW, None).await;
    let begins = lost.next().await.expect("where it begins");
    assert!(begins.events.is_empty() && !begins.snapshot);
    drop(lost);
    let _meanwhile = rig.join("meanwhile").await;
    let mut resumed = rig.stream(Start::Cursor(begins.cursor), None).await;
    assert_eq!(ids(&resumed.events(1).await), ["meanwhile"]);
}

#[tokio::test]
async fn beginning_is_the_oldest_that_is_kept() {
    let rig = Rig::start().await;
    let _all = [rig.join("a").await, rig.join("b").await];
    let mut stream = rig.stream(BEGINNING, None).await;
    assert_eq!(ids(&stream.events(2).await), ["a", "b"]);
    let _later = rig.join("c").await;
    assert_eq!(ids(&stream.events(1).await), ["c"]);
}

#[tokio::test]
async fn cut_after_any_event_prefix_and_rest_are_the_whole() {
    let rig = Rig::start().await;
    for i in 0..10 {
        let registration = rig.join(&format!("c{i}")).await;
        registration.message(text("hello")).expect("room");
    }
    eventually("ten ends", || rig.registry.count() == 0).await;
    let whole = rig.stream(BEGINNING, None).await.events(30).await;
    for cut in [0, 1, 13, 29] {
        let mut rest = rig.stream(Start::Cursor(whole[cut].cursor.clone()), None).await;
        let rest = rest.events(30 - cut - 1).await;
        assert_eq!([&whole[..=cut], &rest[..]].concat(), whole);
    }
    // The cursor of a response is that of its last event.
    let mut stream = rig.stream(BEGINNING, None).await;
    let response = stream.next().await.expect("events");
    assert_eq!(response.events.last().expect("some").cursor, response.cursor);
    assert!(!response.snapshot);
}

#[tokio::test]
async fn a_cursor_that_cannot_be_resumed_says_why() {
    let rig = Rig::with(Options { log_bytes: 1 << 20, ..Options::default() }).await;
    let start = rig.head();
    let chatty = rig.join("chatty").await;
    for _ in 0..64 {
        chatty.message(text(&"x".repeat(64 << 10))).expect("room");
    }
    eventually("the log is full", || rig.log.bounds().before_oldest > start).await;
    eventually("all is committed", || rig.log.budget().is_whole()).await;
    let refused = async |cursor: String| {
        let refused = rig.subscribe(from(Start::Cursor(cursor), None)).await;
        refused.err().expect("refused")
    };
    let bounds = rig.log.bounds();
    let expected = [
        (rig.cursor(start), Code::OutOfRange, "CURSOR_EXPIRED", true),
        (Position { epoch: Epoch::random(), offset: start }.to_cursor(), Code::OutOfRange, "EPOCH_CHANGED", true),
        (rig.cursor(bounds.head + 1), Code::InvalidArgument, "CURSOR_INVALID", false),
        ("damaged".into(), Code::InvalidArgument, "CURSOR_INVALID", false),
        (String::new(), Code::InvalidArgument, "CURSOR_INVALID", false),
    ];
    for (cursor, code, reason, ends) in expected {
        let details = assert_error(&refused(cursor).await, code, reason);
        let metadata = &details.error_info().expect("checked").metadata;
        let told = (metadata.get("oldest_cursor"), metadata.get("head_cursor"));
        let wanted = (rig.cursor(bounds.before_oldest), rig.cursor(bounds.head));
        assert_eq!(told, if ends { (Some(&wanted.0), Some(&wanted.1)) } else { (None, None) }, "{reason}");
    }
    // What it names can be resumed from.
    assert!(rig.subscribe(from(Start::Cursor(rig.cursor(bounds.before_oldest)), None)).await.is_ok());
}

#[tokio::test]
async fn a_live_stream_that_retention_overtakes_ends_and_says_so() {
    let rig = Rig::with(Options { log_bytes: 1 << 20, ..Options::default() }).await;
    let mut stream = rig.stream(NOW, None).await;
    let chatty = rig.join("chatty").await;
    for _ in 0..200 {
        // Nothing is read meanwhile, so buffers fill up and the stream stands.
        chatty.message(text(&"x".repeat(64 << 10))).expect("room");
        eventually("it is committed", || rig.log.budget().is_whole()).await;
    }
    let details = assert_error(&stream.error().await, Code::OutOfRange, "CURSOR_EXPIRED");
    assert!(details.error_info().expect("checked").metadata.contains_key("oldest_cursor"));
}

#[tokio::test]
async fn what_is_not_built_is_unimplemented_and_named() {
    let rig = Rig::start().await;
    let scope = |scope| rig.subscribe(pb::SubscribeRequest { scope, ..Default::default() });
    let error = scope(pb::Scope::Cluster.into()).await.err().expect("refused");
    assert_error(&error, Code::Unimplemented, "NOT_IMPLEMENTED");
    assert!(error.message().contains("SCOPE_CLUSTER"), "{error:?}");
    assert!(scope(pb::Scope::Node.into()).await.is_ok());
    assert_field(&scope(99).await.err().expect("refused"), "scope");
}

#[tokio::test]
async fn one_subscriber_too_many_is_refused_until_another_leaves() {
    let limits = Limits { max_subscribers: 2, max_snapshots: 16 };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let first = rig.stream(NOW, None).await;
    let _second = rig.stream(NOW, None).await;
    let error = rig.subscribe(from(NOW, None)).await.err().expect("refused");
    let details = assert_error(&error, Code::ResourceExhausted, "SUBSCRIBERS_LIMIT");
    assert!(details.retry_info().is_some());
    let count = || {
        let mut reading = crate::metrics::Reading::default();
        rig.services.subscribers().read_gauges(rig.head(), &mut reading);
        reading.subscribers
    };
    assert_eq!(count(), 2);
    drop(first);
    eventually("a seat is free", || count() == 1).await;
    assert!(rig.subscribe(from(NOW, None)).await.is_ok());
}
