//! Consumers of a node that dies: what was acknowledged is on disk, and the rest comes again.

use std::time::Duration;

use heartwire::pb;
use heartwire::pb::event::Kind;
use heartwire::pb::subscribe_request::Start;

use crate::harness::Process;

/// Events of a consumer's stream, at least one, and the cursor after them.
async fn read(node: &Process, at_least: usize) -> (Vec<pb::Event>, String) {
    let request = pb::SubscribeRequest {
        consumer: "db".into(),
        start: Some(Start::Beginning(pb::BeginningStart {})),
        ..Default::default()
    };
    let mut stream = node.event_service().subscribe(request).await.expect("subscribed").into_inner();
    let (mut events, mut cursor) = (Vec::new(), String::new());
    while events.len() < at_least {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.message()).await.expect("in time");
        let response = next.expect("no error").expect("the stream goes on");
        events.extend(response.events);
        cursor = response.cursor;
    }
    (events, cursor)
}

#[tokio::test]
async fn after_a_kill_a_consumer_goes_on_after_what_it_acknowledged() {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = format!("log.data_dir={}", directory.path().display());
    let mut node = Process::start(&[&data_dir]).await;
    let _alice = node.connect("alice").await;
    let (first, cursor) = read(&node, 1).await;
    assert_eq!(first[0].client_id, "alice");
    let request = pb::AcknowledgeRequest { consumer: "db".into(), cursor: cursor.clone() };
    let kept = node.event_service().acknowledge(request).await.expect("kept").into_inner();
    assert_eq!(kept.cursor, cursor);
    let _bob = node.connect("bob").await;
    let (unacknowledged, _) = read(&node, 1).await;
    assert_eq!(unacknowledged[0].client_id, "bob");
    node.signal("KILL");
    node.exit_code(Duration::from_secs(10)).await;

    let node = Process::start(&[&data_dir]).await;
    // Bob comes again, and then the ends of both, which the next run owed.
    let (events, cursor) = read(&node, 3).await;
    let told: Vec<_> = events
        .iter()
        .map(|event| (event.client_id.as_str(), matches!(event.kind, Some(Kind::Disconnected(_)))))
        .collect();
    assert_eq!(told[0], ("bob", false), "{told:?}");
    let mut ends = told[1..].to_vec();
    ends.sort_unstable();
    assert_eq!(ends, [("alice", true), ("bob", true)]);
    let request = pb::AcknowledgeRequest { consumer: "db".into(), cursor };
    node.event_service().acknowledge(request).await.expect("kept");
    let list = pb::ListConsumersRequest::default();
    let listed = node.event_service().list_consumers(list).await.expect("listed").into_inner().consumers;
    assert_eq!((listed.len(), listed[0].lag_events, listed[0].expired), (1, 0, false));
}
