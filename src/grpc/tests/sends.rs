//! Send and Broadcast.

use super::*;
use crate::close::CloseReason;
use pb::send_request::Payload;
use pb::{DeliveryFailure, SendRequest, Stage};

fn hello(id: &str) -> SendRequest {
    SendRequest { target: client(id), payload: Some(Payload::Text("hello".into())), ..Default::default() }
}

fn written(id: &str) -> SendRequest {
    SendRequest { receipt: Stage::Written.into(), ..hello(id) }
}

async fn send(rig: &Rig, request: SendRequest) -> Result<pb::SendResponse, Status> {
    Ok(rig.messages().send(request).await?.into_inner())
}

#[tokio::test]
async fn an_accepted_message_is_in_the_outbox_in_order() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let first = send(&rig, hello("alice")).await.expect("accepted");
    let [delivery] = &first.deliveries[..] else { panic!("{first:?}") };
    assert_eq!(delivery.connection_id, alice.connection().info().connection_id.to_string());
    assert_eq!((delivery.stage, delivery.failure), (Stage::Accepted.into(), 0));
    assert!(delivery.time.is_some() && !first.replayed);
    let generation = alice.connection().info().generation();
    let binary = SendRequest {
        target: connection(&alice),
        payload: Some(Payload::Binary(bytes::Bytes::new())),
        receipt: Stage::Accepted.into(),
        if_generation: generation,
        min_cursor: rig.cursor(rig.head()),
        ..Default::default()
    };
    send(&rig, binary).await.expect("accepted");
    assert_eq!(write_out(&alice), ["hello", ""]);
}

#[tokio::test]
async fn a_written_message_is_answered_when_it_is_written() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let driving = async {
        eventually("a frame waits", || !write_out(&alice).is_empty()).await;
    };
    let (answer, ()) = tokio::join!(send(&rig, written("alice")), driving);
    assert_eq!(answer.expect("written").deliveries[0].stage, i32::from(Stage::Written));
}

#[tokio::test]
async fn a_receipt_that_does_not_come_in_time_is_ok_with_the_stage_reached() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let receipt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let answer = send(&rig, SendRequest { receipt_timeout, ..written("alice") }).await.expect("no error");
    assert_eq!((answer.deliveries[0].stage, answer.deliveries[0].failure), (Stage::Accepted.into(), 0));
    assert_eq!(write_out(&alice), ["hello"], "it stays in the outbox");
}

#[tokio::test(start_paused = true)]
async fn what_was_answered_as_accepted_is_not_taken_out_again_at_a_deadline_of_the_call_that_came_later() {
    let rig = Rig::paused(Options::default());
    let alice = rig.join("alice").await;
    let receipt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let mut request = tonic::Request::new(SendRequest { receipt_timeout, ..written("alice") });
    request.set_timeout(Duration::from_secs(2));
    let answer = rig.messages().send(request).await.expect("no error").into_inner();
    assert_eq!(answer.deliveries[0].stage, i32::from(Stage::Accepted));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(write_out(&alice), ["hello"]);
}

#[tokio::test]
async fn a_connection_that_ends_with_the_message_on_the_way_leaves_the_outcome_unknown() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let ending = async {
        eventually("a frame waits", || alice.connection().outbox.depth().0 == 1).await;
        alice.end(CloseReason::Lost);
        alice.connection().outbox.clear();
    };
    let (answer, ()) = tokio::join!(send(&rig, written("alice")), ending);
    let delivery = &answer.expect("no error").deliveries[0];
    assert_eq!(delivery.failure, i32::from(DeliveryFailure::OutcomeUnknown));
    assert_eq!(delivery.stage, i32::from(Stage::Accepted));
}

#[tokio::test]
async fn at_the_callers_deadline_an_unsent_frame_is_dropped_and_the_answer_says_so() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let mut request = tonic::Request::new(written("alice"));
    request.metadata_mut().insert("grpc-timeout", "30m".parse().expect("ascii"));
    // In process: a generated client gives up by itself, before the answer comes.
    let server = crate::grpc::messages::Messages(Arc::clone(&rig.services.shared));
    let sending = pb::message_service_server::MessageService::send(&server, request);
    let driving = async {
        eventually("a frame waits", || alice.connection().outbox.depth().0 == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(write_out(&alice).is_empty(), "written after its deadline");
    };
    let (answer, ()) = tokio::join!(sending, driving);
    assert_error(&answer.expect_err("too late"), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    // A frame that nobody waits for is not dropped.
    let mut request = tonic::Request::new(hello("alice"));
    request.metadata_mut().insert("grpc-timeout", "30m".parse().expect("ascii"));
    rig.messages().send(request).await.expect("accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(write_out(&alice), ["hello"]);
}

#[tokio::test]
async fn nobody_a_full_outbox_and_another_generation_are_definite_failures() {
    let rig = Rig::start().await;
    assert_error(&send(&rig, hello("alice")).await.expect_err("nobody"), Code::NotFound, "CLIENT_NOT_CONNECTED");
    let alice = rig.join("alice").await;
    let other = SendRequest { if_generation: 1, ..hello("alice") };
    assert_error(&send(&rig, other).await.expect_err("other"), Code::FailedPrecondition, "GENERATION_MISMATCH");
    for _ in 0..16 {
        send(&rig, hello("alice")).await.expect("room");
    }
    let full = send(&rig, hello("alice")).await.expect_err("full");
    let details = assert_error(&full, Code::ResourceExhausted, "OUTBOX_FULL");
    assert!(details.retry_info().expect("a RetryInfo").retry_delay.is_some());
    assert_eq!(write_out(&alice).len(), 16);
    assert!(send(&rig, hello("alice")).await.is_ok());
}

#[tokio::test]
async fn a_bad_send_is_refused_with_its_field_and_nothing_is_sent() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let span = |seconds, nanos| Some(prost_types::Duration { seconds, nanos });
    let base = || hello("alice");
    let big = 64 << 10;
    let cases = [
        ("target", SendRequest { target: None, ..base() }),
        ("payload", SendRequest { payload: None, ..base() }),
        ("text", SendRequest { payload: Some(Payload::Text(String::new())), ..base() }),
        ("text", SendRequest { payload: Some(Payload::Text("x".repeat(big + 1))), ..base() }),
        ("binary", SendRequest { payload: Some(Payload::Binary(vec![0; big + 1].into())), ..base() }),
        ("receipt", SendRequest { receipt: 99, ..base() }),
        ("receipt_timeout", SendRequest { receipt_timeout: span(0, 0), ..written("alice") }),
        ("receipt_timeout", SendRequest { receipt_timeout: span(60, 1), ..written("alice") }),
        ("if_generation", SendRequest { if_generation: -1, ..base() }),
    ];
    for (field, request) in cases {
        assert_field(&send(&rig, request).await.expect_err("refused"), field);
    }
    let cursor = SendRequest { min_cursor: "x".into(), ..base() };
    assert_error(&send(&rig, cursor).await.expect_err("refused"), Code::InvalidArgument, "CURSOR_INVALID");
    let acked = SendRequest { receipt: Stage::Acked.into(), ..base() };
    let plain = send(&rig, acked).await.expect_err("a plain client cannot");
    assert_error(&plain, Code::FailedPrecondition, "ACK_UNSUPPORTED");
    assert!(write_out(&alice).is_empty());
    let most = SendRequest { payload: Some(Payload::Binary(vec![0; big].into())), ..base() };
    assert!(send(&rig, most).await.is_ok());
}

#[tokio::test]
async fn a_broadcast_reaches_whom_it_means_and_counts_the_refused() {
    use pb::broadcast_request::Payload;
    let rig = Rig::start().await;
    let all = [rig.join("a").await, rig.join("b").await, rig.join("c").await];
    for id in ["a", "b"] {
        let set = pb::UpdateLabelsRequest { target: client(id), set: labels(&[("room", "7")]), ..Default::default() };
        rig.connections().update_labels(set).await.expect("set");
    }
    for _ in 0..16 {
        send(&rig, hello("b")).await.expect("room");
    }
    let broadcast = async |labels, everyone, payload| {
        let request = pb::BroadcastRequest { labels, everyone, payload };
        rig.messages().broadcast(request).await.map(tonic::Response::into_inner)
    };
    let none = || labels(&[]);
    let room = || labels(&[("room", "7")]);
    let hi = || Some(Payload::Text("hi".into()));
    let to_room = broadcast(room(), false, hi()).await.expect("done");
    assert_eq!((to_room.matched, to_room.accepted, to_room.refused), (2, 1, 1));
    assert_eq!(to_room.cursor, rig.cursor(rig.head()));
    write_out(&all[1]);
    let to_all = broadcast(none(), true, Some(Payload::Binary("x".into()))).await.expect("done");
    assert_eq!((to_all.matched, to_all.accepted, to_all.refused), (3, 3, 0));
    assert_eq!(write_out(&all[0]), ["hi", "x"]);
    assert_eq!(write_out(&all[2]), ["x"]);
    let nobody = broadcast(labels(&[("room", "8")]), false, hi()).await.expect("no error");
    assert_eq!(nobody.matched, 0);
    assert_field(&broadcast(none(), false, hi()).await.expect_err("refused"), "labels");
    assert_field(&broadcast(room(), true, hi()).await.expect_err("refused"), "everyone");
    assert_field(&broadcast(labels(&[("", "")]), false, hi()).await.expect_err("refused"), "labels");
    assert_field(&broadcast(none(), true, None).await.expect_err("refused"), "payload");
    let empty = Some(Payload::Text(String::new()));
    assert_field(&broadcast(none(), true, empty).await.expect_err("refused"), "text");
}
