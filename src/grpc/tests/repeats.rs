//! Sends with a message id: what is sent once, what a repeat is answered, and what is sent again because it was not.

use super::*;
use crate::close::CloseReason;
use pb::send_request::Payload;
use pb::{DeliveryFailure, SendRequest, SendStreamRequest, Stage, TaggedSend};

fn hello(message_id: &str) -> SendRequest {
    let payload = Some(Payload::Text("hello".into()));
    SendRequest { target: client("alice"), payload, message_id: message_id.into(), ..Default::default() }
}

fn written(message_id: &str) -> SendRequest {
    SendRequest { receipt: Stage::Written.into(), ..hello(message_id) }
}

fn timed(request: SendRequest, millis: u64) -> tonic::Request<SendRequest> {
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("grpc-timeout", format!("{millis}m").parse().expect("ascii"));
    request
}

impl Rig {
    async fn send(&self, request: SendRequest) -> Result<pb::SendResponse, Status> {
        Ok(self.messages().send(request).await?.into_inner())
    }

    /// In process: a generated client gives up by itself, before the answer to a late call comes.
    async fn send_within(&self, request: SendRequest, millis: u64) -> Result<pb::SendResponse, Status> {
        let server = crate::grpc::messages::Messages(Arc::clone(&self.services.shared));
        let answer = pb::message_service_server::MessageService::send(&server, timed(request, millis)).await;
        answer.map(tonic::Response::into_inner)
    }
}

fn depth(registration: &Registration) -> usize {
    registration.connection().outbox.depth().0
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_and_not_sent() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let first = rig.send(hello("m")).await.expect("sent");
    assert!(!first.replayed);
    for _ in 0..3 {
        let again = rig.send(hello("m")).await.expect("known");
        assert!(again.replayed && again.deliveries == first.deliveries, "{again:?}");
    }
    // The time to wait is not what it says, and the connection that got it may be gone.
    let patient = SendRequest { receipt_timeout: Some(prost_types::Duration { seconds: 9, nanos: 0 }), ..hello("m") };
    assert!(rig.send(patient).await.expect("known").replayed);
    assert_eq!(write_out(&alice), ["hello"]);
    drop(alice);
    eventually("alice is gone", || rig.registry.count() == 0).await;
    assert_eq!(rig.send(hello("m")).await.expect("known").deliveries, first.deliveries);
    let back = rig.join("alice").await;
    assert!(rig.send(hello("m")).await.expect("known").replayed);
    assert!(!rig.send(hello("n")).await.expect("sent").replayed, "another message");
    assert!(!rig.send(hello("")).await.expect("sent").replayed, "no id, no check");
    assert!(!rig.send(hello("")).await.expect("sent").replayed);
    assert_eq!(depth(&back), 3);
}

#[tokio::test]
async fn an_id_that_says_something_else_is_refused() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    rig.send(hello("m")).await.expect("sent");
    let others = [
        SendRequest { payload: Some(Payload::Text("hellO".into())), ..hello("m") },
        SendRequest { payload: Some(Payload::Binary("hello".into())), ..hello("m") },
        SendRequest { if_generation: alice.connection().info().generation(), ..hello("m") },
        written("m"),
    ];
    for other in others {
        assert_error(&rig.send(other).await.expect_err("refused"), Code::AlreadyExists, "MESSAGE_ID_REUSED");
    }
    // The same id to another target is another message.
    let direct = SendRequest { target: connection(&alice), ..hello("m") };
    assert!(!rig.send(direct).await.expect("sent").replayed);
    assert_eq!(write_out(&alice).len(), 2);
    for bad in ["x".repeat(129), "a\nb".into()] {
        assert_field(&rig.send(hello(&bad)).await.expect_err("refused"), "message_id");
    }
    assert!(rig.send(hello(&"x".repeat(128))).await.is_ok());
}

#[tokio::test]
async fn what_was_not_sent_is_not_remembered() {
    let rig = Rig::start().await;
    assert_error(&rig.send(hello("m")).await.expect_err("nobody"), Code::NotFound, "CLIENT_NOT_CONNECTED");
    let alice = rig.join("alice").await;
    for _ in 0..16 {
        rig.send(hello("")).await.expect("room");
    }
    assert_error(&rig.send(hello("m")).await.expect_err("full"), Code::ResourceExhausted, "OUTBOX_FULL");
    let other = SendRequest { if_generation: 1, ..hello("m") };
    assert_error(&rig.send(other).await.expect_err("other"), Code::FailedPrecondition, "GENERATION_MISMATCH");
    write_out(&alice);
    assert!(!rig.send(hello("m")).await.expect("sent").replayed);
    assert_eq!(write_out(&alice), ["hello"]);
}

#[tokio::test]
async fn a_repeat_in_flight_waits_for_the_first_and_is_answered_the_same() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let other = SendRequest { payload: Some(Payload::Text("other".into())), ..written("m") };
    let driving = async {
        eventually("a frame waits", || depth(&alice) == 1).await;
        let refused = rig.send(other).await.expect_err("refused");
        assert_error(&refused, Code::AlreadyExists, "MESSAGE_ID_REUSED");
        tokio::time::sleep(Duration::from_millis(50)).await;
        write_out(&alice)
    };
    let calls = futures_util::future::join_all((0..5).map(|_| rig.send(written("m"))));
    let (answers, frames) = tokio::join!(calls, driving);
    assert_eq!(frames, ["hello"]);
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.expect("written")).collect();
    assert_eq!(answers.iter().filter(|answer| !answer.replayed).count(), 1);
    assert!(answers.iter().all(|answer| answer.deliveries == answers[0].deliveries));
    assert_eq!(answers[0].deliveries[0].stage, i32::from(Stage::Written));
    assert_eq!(depth(&alice), 0);
}

#[tokio::test]
async fn a_repeat_after_the_first_was_cancelled_learns_what_became_of_it() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let cancelled = tokio::spawn({
        let mut messages = rig.messages();
        async move { messages.send(written("m")).await }
    });
    eventually("a frame waits", || depth(&alice) == 1).await;
    cancelled.abort();
    let _ = cancelled.await;
    let repeating = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        write_out(&alice)
    };
    let (answer, frames) = tokio::join!(rig.send(written("m")), repeating);
    let answer = answer.expect("written");
    assert_eq!((frames.len(), answer.deliveries[0].stage), (1, Stage::Written.into()));
    assert!(answer.replayed);
    assert!(rig.send(written("m")).await.expect("known").replayed);
    assert_eq!(depth(&alice), 0);
}

#[tokio::test]
async fn what_was_taken_out_at_the_callers_deadline_is_sent_when_it_is_repeated() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let late = rig.send_within(written("m"), 30).await.expect_err("too late");
    assert_error(&late, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(depth(&alice), 1, "nobody has looked at it yet");
    // It may not be answered as accepted: it will not be written.
    let receipt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let early = SendRequest { receipt_timeout, ..written("m") };
    assert_error(&rig.send(early).await.expect_err("open"), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    // A repeat that waits is sent once it is known that the first was not.
    let driving = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(write_out(&alice).is_empty(), "written after its deadline");
        eventually("it is sent again", || depth(&alice) == 1).await;
        write_out(&alice)
    };
    let (answer, frames) = tokio::join!(rig.send(written("m")), driving);
    let answer = answer.expect("written");
    assert!(frames.len() == 1 && !answer.replayed && answer.deliveries[0].stage == i32::from(Stage::Written));
    assert!(rig.send(written("m")).await.expect("known").replayed);
}

#[tokio::test]
async fn what_was_written_just_before_the_callers_deadline_is_remembered() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let driving = async {
        eventually("a frame waits", || depth(&alice) == 1).await;
        // The driver has it, and its bytes are on their way to the kernel while the deadline passes.
        let frame = alice.connection().outbox.pop(Instant::now()).0.expect("in time");
        tokio::time::sleep(Duration::from_millis(200)).await;
        frame
    };
    let (late, frame) = tokio::join!(rig.send_within(written("m"), 100), driving);
    assert_error(&late.expect_err("too late"), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    frame.receipt.expect("awaited").send(Written::Yes).expect("followed, though nobody waits");
    let answer = rig.send(written("m")).await.expect("known");
    assert!(answer.replayed && answer.deliveries[0].stage == i32::from(Stage::Written));
    assert_eq!(depth(&alice), 0);
}

#[tokio::test]
async fn a_receipt_that_does_not_come_in_time_is_remembered_as_far_as_it_came() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let receipt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 20_000_000 });
    let first = rig.send(SendRequest { receipt_timeout, ..written("m") }).await.expect("no error");
    let again = rig.send(written("m")).await.expect("known");
    assert_eq!((first.replayed, again.replayed), (false, true));
    assert_eq!(again.deliveries, first.deliveries);
    assert_eq!(again.deliveries[0].stage, i32::from(Stage::Accepted));
    assert_eq!(write_out(&alice), ["hello"], "it stays in the outbox, as was said");
}

#[tokio::test]
async fn a_message_lost_with_its_connection_stays_unknown_and_is_not_sent_again() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let ending = async {
        eventually("a frame waits", || depth(&alice) == 1).await;
        alice.end(CloseReason::Lost);
        alice.connection().outbox.clear();
    };
    let (first, ()) = tokio::join!(rig.send(written("m")), ending);
    let back = rig.join("alice").await;
    let again = rig.send(written("m")).await.expect("known");
    assert_eq!(again.deliveries[0].failure, i32::from(DeliveryFailure::OutcomeUnknown));
    assert!(again.replayed && again.deliveries == first.expect("no error").deliveries);
    assert_eq!(depth(&back), 0);
}

#[tokio::test(start_paused = true)]
async fn an_id_is_known_for_ten_minutes() {
    let rig = Rig::paused(Options::default());
    let _alice = rig.join("alice").await;
    rig.send(hello("m")).await.expect("sent");
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert!(rig.send(hello("m")).await.expect("known").replayed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!rig.send(hello("m")).await.expect("sent").replayed);
}

#[tokio::test]
async fn a_stream_has_the_same_memory_and_an_outcome_for_each() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    rig.send(hello("before")).await.expect("sent");
    let (requests, taken) = tokio::sync::mpsc::channel(1);
    let stream = rig.messages().send_stream(tokio_stream::wrappers::ReceiverStream::new(taken)).await.expect("open");
    let mut stream = stream.into_inner();
    let other = SendRequest { payload: Some(Payload::Text("other".into())), ..hello("new") };
    let nobody = SendRequest { target: client("nobody"), ..hello("nobody") };
    let sends =
        [hello("before"), hello("new"), hello("new"), other, nobody.clone(), nobody, written("w"), written("w")];
    let tagged = |(tag, request)| TaggedSend { tag, request: Some(request) };
    let sends = (0..).zip(sends).map(tagged).collect();
    requests.send(SendStreamRequest { sends }).await.expect("open");
    let mut outcomes = std::collections::BTreeMap::new();
    let mut driven = Vec::new();
    while outcomes.len() < 8 {
        eventually("frames", || depth(&alice) > 0 || outcomes.len() >= 6).await;
        driven.extend(write_out(&alice));
        let next = tokio::time::timeout(Duration::from_secs(30), stream.message()).await.expect("in time");
        outcomes.extend(next.expect("no error").expect("more").outcomes.into_iter().map(|one| (one.tag, one)));
        driven.extend(write_out(&alice));
    }
    let told: Vec<_> = outcomes
        .values()
        .map(|one| (one.reason.as_str(), one.response.as_ref().map(|response| response.replayed)))
        .collect();
    let expected = [
        ("", Some(true)),
        ("", Some(false)),
        ("", Some(true)),
        ("MESSAGE_ID_REUSED", None),
        ("CLIENT_NOT_CONNECTED", None),
        ("CLIENT_NOT_CONNECTED", None),
        ("", Some(false)),
        ("", Some(true)),
    ];
    assert_eq!(told, expected);
    assert_eq!(driven.len(), 3, "before, new and w, each once");
    // And a call beside it.
    assert!(rig.send(written("w")).await.expect("known").replayed);
}

#[tokio::test]
async fn the_id_goes_with_the_frame() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    for id in ["m", ""] {
        rig.send(hello(id)).await.expect("sent");
        let frame = alice.connection().outbox.pop(Instant::now()).0.expect("a frame");
        assert_eq!(frame.id.as_deref(), (!id.is_empty()).then_some(id));
    }
}
