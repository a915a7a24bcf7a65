//! The way down: everything is carried first, then streams end, then connections.

use super::*;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn a_stream_carries_everything_up_to_the_last_event_and_then_ends() {
    let rig = Rig::start().await;
    let mut held = Vec::new();
    for i in 0..1_500 {
        held.push(rig.join(&format!("c{i}")).await);
    }
    let mut reading = rig.stream(NOW, None).await;
    let filter = pb::EventFilter { client_ids: vec!["nobody".into()], ..Default::default() };
    let mut filtered = rig.stream(NOW, Some(filter)).await;
    drop(held);
    eventually("all are gone", || rig.registry.count() == 0).await;
    rig.closing.end_after(rig.head());
    let mut carried = 0;
    let error = loop {
        match reading.next().await {
            Ok(response) => carried += response.events.len(),
            Err(error) => break error,
        }
    };
    assert_error(&error, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(carried, 1_500);
    assert_error(&filtered.error().await, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(rig.metrics.subscriptions_ended.get(), 2);
    // One that resumes now gets what it missed, and is told the same.
    let mut late = rig.stream(BEGINNING, None).await;
    let mut carried = 0;
    let error = loop {
        match late.next().await {
            Ok(response) => carried += response.events.len(),
            Err(error) => break error,
        }
    };
    assert_error(&error, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(carried, 3_000);
}

#[tokio::test]
async fn an_idle_stream_waits_for_the_last_event_and_then_ends() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let mut stream = rig.stream(NOW, None).await;
    let closing = rig.closing.clone();
    // Known before it is there, as with a Disconnected that is submitted and not yet committed.
    closing.end_after(rig.head() + 1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(alice);
    assert_eq!(stream.events(1).await[0].client_id, "alice");
    assert_error(&stream.error().await, Code::Unavailable, "SHUTTING_DOWN");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_streams_end_as_they_are() {
    let rig = Rig::paused(Options::default());
    let shared = Arc::clone(&rig.services.shared);
    // In process: over a connection the server may drop everything before the status is through.
    let begun = crate::grpc::events::Events(shared);
    use futures_util::StreamExt as _;
    let mut stream = begun.subscribe(tonic::Request::new(from(NOW, None))).await.expect("begun").into_inner();
    rig.closing.end_after(rig.head() + 10);
    let closing = rig.closing.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        closing.end_now();
    });
    let began = Instant::now();
    stream.next().await.expect("where it begins").expect("no error");
    let error = stream.next().await.expect("an end").expect_err("an error");
    assert_error(&error, Code::Unavailable, "SHUTTING_DOWN");
    assert_eq!(began.elapsed().as_secs(), 3);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn once_the_streams_end_other_calls_are_refused() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    rig.closing.end_after(rig.head());
    let get = pb::GetClientRequest { client_id: "alice".into(), ..Default::default() };
    let send = pb::SendRequest {
        target: client("alice"),
        payload: Some(pb::send_request::Payload::Text("hi".into())),
        ..Default::default()
    };
    let broadcast = pb::BroadcastRequest { everyone: true, ..Default::default() };
    let refused = [
        rig.connections().get_client(get).await.expect_err("refused"),
        rig.messages().send(send).await.expect_err("refused"),
        rig.messages().broadcast(broadcast).await.expect_err("refused"),
        rig.nodes().get_node(pb::GetNodeRequest {}).await.expect_err("refused"),
        rig.nodes().drain(pb::DrainRequest::default()).await.expect_err("refused"),
    ];
    for refused in refused {
        assert_error(&refused, Code::Unavailable, "SHUTTING_DOWN");
    }
    drop(alice);
}

#[tokio::test]
async fn with_streams_of_every_kind_open_serving_ends_without_the_deadline() {
    let mut rig = Rig::start().await;
    let mut subscribed = rig.stream(NOW, None).await;
    let (requests, taken) = tokio::sync::mpsc::channel(1);
    let sends = rig.messages().send_stream(tokio_stream::wrappers::ReceiverStream::new(taken)).await;
    let _sends = sends.expect("open").into_inner();
    let health = HealthClient::new(rig.channel.clone()).watch(HealthCheckRequest::default()).await;
    let mut health = health.expect("watched").into_inner();
    health.message().await.expect("told");
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(rig.channel.clone());
    let never = tokio_stream::pending::<tonic_reflection::pb::v1::ServerReflectionRequest>();
    let reflecting =
        tokio::spawn(async move { reflection.server_reflection_info(never).await?.into_inner().message().await });
    let began = Instant::now();
    rig.closing.end_after(rig.head());
    assert_error(&subscribed.error().await, Code::Unavailable, "SHUTTING_DOWN");
    assert!(began.elapsed() < Duration::from_secs(5), "not woken by the news, but by its next bookmark");
    assert_error(&health.message().await.expect_err("ended"), Code::Unavailable, "SHUTTING_DOWN");
    rig.stop.cancel();
    let serving = rig.serving.take().expect("served");
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("in time").expect("no panic");
    let _ = reflecting.await;
    drop(requests);
}

#[tokio::test]
async fn a_peer_that_does_not_end_is_dropped_at_the_deadline() {
    let mut rig = Rig::start().await;
    let _alice = rig.join("alice").await;
    let _stream = rig.stream(NOW, None).await;
    // Streams are not told, as when one has not carried everything.
    rig.stop.cancel();
    let mut serving = rig.serving.take().expect("served");
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut serving).await.is_err(), "it waits");
    rig.closing.end_now();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("in time").expect("no panic");
}
