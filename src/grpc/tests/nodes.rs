//! The node, its drain, its health, and reflection.

use super::*;
use pb::event::Kind;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::{v1, v1alpha};

#[tokio::test]
async fn a_node_says_who_it_is_and_how_it_does() {
    let rig = Rig::start().await;
    let start = rig.cursor(rig.head());
    let _alice = rig.join("alice").await;
    let node = rig.nodes().get_node(pb::GetNodeRequest {}).await.expect("answered").into_inner();
    assert_eq!((node.node_id.as_str(), node.incarnation.as_str()), ("test-node", "run-1"));
    assert_eq!(node.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(node.start_time.map(|time| time.seconds), Some(1_000));
    assert_eq!((node.oldest_cursor, node.head_cursor), (start, rig.cursor(rig.head())));
    assert_eq!((node.connections, node.max_connections, node.draining), (1, 77, false));
}

#[tokio::test]
async fn a_drain_closes_everyone_and_tells_its_progress_to_all_who_watch() {
    let rig = Rig::start().await;
    let mut held = Vec::new();
    for i in 0..100 {
        held.push(rig.join(&format!("c{i}")).await);
    }
    let mut stream = rig.stream(NOW, None).await;
    let request = pb::DrainRequest { connections_per_second: 200, reconnect_jitter: None };
    let began = Instant::now();
    let mut first = rig.nodes().drain(request).await.expect("begun").into_inner();
    let mut second = rig.nodes().drain(pb::DrainRequest::default()).await.expect("watched").into_inner();
    let mut told = Vec::new();
    while let Some(progress) = first.message().await.expect("no error") {
        told.push((progress.remaining, progress.closed));
    }
    // At 200 a second it takes half a second, and a repeated call does not hasten it.
    assert!(began.elapsed() >= Duration::from_millis(400), "{:?}", began.elapsed());
    assert!(told.len() <= 10, "{told:?}");
    assert_eq!(told.last(), Some(&(0, 100)));
    assert!(told.windows(2).all(|pair| pair[0].1 <= pair[1].1));
    let mut last = None;
    while let Some(progress) = second.message().await.expect("no error") {
        last = Some(progress.remaining);
    }
    assert_eq!(last, Some(0));
    let ends = stream.events(100).await;
    let drained = |event: &pb::Event| matches!(&event.kind, Some(Kind::Disconnected(end)) if end.cause == pb::DisconnectCause::Drained as i32);
    assert!(ends.iter().all(drained));
    let node = rig.nodes().get_node(pb::GetNodeRequest {}).await.expect("answered").into_inner();
    assert!(node.draining);
    // Who comes to watch afterwards sees that it is done.
    let mut late = rig.nodes().drain(pb::DrainRequest::default()).await.expect("watched").into_inner();
    assert_eq!(late.message().await.expect("no error").map(|progress| progress.remaining), Some(0));
    assert!(late.message().await.expect("no error").is_none());
}

#[tokio::test]
async fn a_bad_drain_drains_nothing() {
    let rig = Rig::start().await;
    let refused = async |request| rig.nodes().drain(request).await.expect_err("refused");
    let negative = pb::DrainRequest { connections_per_second: -1, reconnect_jitter: None };
    assert_field(&refused(negative).await, "connections_per_second");
    let long = Some(prost_types::Duration { seconds: 601, nanos: 0 });
    let long = pb::DrainRequest { connections_per_second: 0, reconnect_jitter: long };
    assert_field(&refused(long).await, "reconnect_jitter");
    assert!(!rig.registry.is_draining());
}

#[tokio::test]
async fn a_drain_of_nobody_is_done_at_once_and_its_watch_ends_at_the_deadline_of_a_stop() {
    let rig = Rig::start().await;
    let mut empty = rig.nodes().drain(pb::DrainRequest::default()).await.expect("begun").into_inner();
    let mut last = None;
    while let Some(progress) = empty.message().await.expect("no error") {
        last = Some((progress.remaining, progress.closed));
    }
    assert_eq!(last, Some((0, 0)));
    let rig = Rig::start().await;
    let _all = [rig.join("a").await, rig.join("b").await];
    let slow = pb::DrainRequest { connections_per_second: 1, reconnect_jitter: None };
    let mut slow = rig.nodes().drain(slow).await.expect("begun").into_inner();
    slow.message().await.expect("progress");
    rig.closing.end_now();
    // The server drops what is open at its deadline, so the status may not get through.
    while let Ok(progress) = slow.message().await {
        assert!(progress.is_some(), "it is not done");
    }
}

async fn check(rig: &Rig, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.into() };
    Ok(HealthClient::new(rig.channel.clone()).check(request).await?.into_inner().status())
}

#[tokio::test]
async fn health_is_not_serving_until_ready_and_again_once_it_drains() {
    let rig = Rig::start().await;
    let names = [
        "",
        "heartwire.v1.EventService",
        "heartwire.v1.ConnectionService",
        "heartwire.v1.MessageService",
        "heartwire.v1.NodeService",
    ];
    let request = HealthCheckRequest { service: names[1].into() };
    let mut watch = HealthClient::new(rig.channel.clone()).watch(request).await.expect("watched").into_inner();
    let status = |told: Option<HealthCheckResponse>| told.expect("open").status();
    assert_eq!(status(watch.message().await.expect("told")), ServingStatus::NotServing);
    for name in names {
        assert_eq!(check(&rig, name).await.expect("known"), ServingStatus::NotServing);
    }
    rig.services.health().set_ready(true);
    for name in names {
        assert_eq!(check(&rig, name).await.expect("known"), ServingStatus::Serving);
    }
    assert_eq!(status(watch.message().await.expect("told")), ServingStatus::Serving);
    assert_eq!(check(&rig, "other").await.expect_err("unknown").code(), Code::NotFound);
    rig.drain.begin(crate::drain::Pace { per_second: 1, reconnect_jitter: Duration::ZERO });
    assert_eq!(status(watch.message().await.expect("told")), ServingStatus::NotServing);
    rig.services.health().set_ready(true);
    for name in names {
        assert_eq!(check(&rig, name).await.expect("known"), ServingStatus::NotServing);
    }
}

#[tokio::test]
async fn both_reflections_know_every_service() {
    let rig = Rig::start().await;
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(rig.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("served").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    let expected = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "heartwire.v1.ConnectionService",
        "heartwire.v1.EventService",
        "heartwire.v1.MessageService",
        "heartwire.v1.NodeService",
    ];
    assert_eq!(names, expected);
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "heartwire.v1.EventService".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(rig.channel.clone());
    let mut answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("served").into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    use v1alpha::server_reflection_response::MessageResponse as Alpha;
    assert!(matches!(answer.message_response, Some(Alpha::FileDescriptorResponse(_))), "{answer:?}");
}
