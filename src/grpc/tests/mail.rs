//! Sends with a time-to-live.

use super::*;
use pb::send_request::Payload;
use pb::{SendRequest, Stage};

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

fn kept(id: &str, text: &str) -> SendRequest {
    SendRequest {
        target: client(id),
        payload: Some(Payload::Text(text.into())),
        ttl: seconds(60),
        ..Default::default()
    }
}

async fn send(rig: &Rig, request: SendRequest) -> Result<pb::SendResponse, Status> {
    Ok(rig.messages().send(request).await?.into_inner())
}

fn only(answer: &pb::SendResponse) -> (Stage, &str) {
    let [delivery] = &answer.deliveries[..] else { panic!("{answer:?}") };
    assert_eq!(delivery.failure, 0, "{answer:?}");
    (delivery.stage(), &delivery.connection_id)
}

#[tokio::test]
async fn it_is_stored_for_one_who_is_away_and_sent_before_anything_else() {
    let rig = Rig::start().await;
    for receipt in [Stage::Unspecified, Stage::Stored] {
        let answer = send(&rig, SendRequest { receipt: receipt.into(), ..kept("alice", "a") }).await.expect("stored");
        assert_eq!(only(&answer), (Stage::Stored, ""));
        assert!(answer.deliveries[0].time.is_some() && !answer.replayed);
    }
    let nanos = Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 });
    let waiting = SendRequest { receipt: Stage::Written.into(), receipt_timeout: nanos, ..kept("alice", "b") };
    assert_eq!(only(&send(&rig, waiting).await.expect("no error")), (Stage::Stored, ""));
    let alice = rig.join("alice").await;
    let plain = SendRequest { ttl: None, ..kept("alice", "c") };
    let mut texts = Vec::new();
    // Held until the last is in the outbox, wherever that is looked at.
    loop {
        match send(&rig, plain.clone()).await {
            Ok(_) => break,
            Err(error) => {
                let details = assert_error(&error, Code::ResourceExhausted, "OUTBOX_FULL");
                assert!(details.retry_info().is_some());
            }
        }
    }
    texts.extend(write_out(&alice));
    assert_eq!(texts, ["a", "a", "b", "c"]);
    eventually("it is removed", || rig.mailbox_messages() == 0).await;
}

#[tokio::test]
async fn a_plain_send_is_refused_while_mail_is_unsent_and_a_broadcast_too() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let plain = SendRequest { ttl: None, ..kept("alice", "plain") };
    for _ in 0..16 {
        send(&rig, plain.clone()).await.expect("room");
    }
    send(&rig, kept("alice", "mail")).await.expect("stored");
    let outbox = &alice.connection().outbox;
    let popped = outbox.pop(Instant::now()).0.expect("a frame");
    assert_eq!(popped.payload, text("plain"));
    // There is room for one, which is the mail's.
    let by_connection = SendRequest { target: connection(&alice), ..plain.clone() };
    let broadcast = pb::BroadcastRequest {
        everyone: true,
        payload: Some(pb::broadcast_request::Payload::Text("x".into())),
        ..Default::default()
    };
    for refused in [plain, by_connection] {
        let error = send(&rig, refused).await.expect_err("refused");
        assert!(assert_error(&error, Code::ResourceExhausted, "OUTBOX_FULL").retry_info().is_some());
    }
    assert_eq!(rig.messages().broadcast(broadcast).await.expect("done").into_inner().refused, 1);
    eventually("the mail is in", || outbox.depth().0 == 16).await;
    assert_eq!(write_out(&alice).last().expect("frames"), "mail");
}

#[tokio::test]
async fn one_who_is_connected_gets_it_at_once_and_each_stage_can_be_waited_for() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let id = alice.connection().info().connection_id.to_string();
    let accepted = SendRequest { receipt: Stage::Accepted.into(), ..kept("alice", "a") };
    assert_eq!(only(&send(&rig, accepted).await.expect("accepted")), (Stage::Accepted, &*id));
    let written = SendRequest { receipt: Stage::Written.into(), ..kept("alice", "b") };
    let writing = eventually("a frame waits", || write_out(&alice).contains(&"b".into()));
    let (answer, ()) = tokio::join!(send(&rig, written), writing);
    assert_eq!(only(&answer.expect("written")), (Stage::Written, &*id));
    eventually("it is removed", || rig.mailbox_messages() == 0).await;
}

#[tokio::test]
async fn a_repeat_by_message_id_is_replayed_and_another_payload_is_refused() {
    let rig = Rig::start().await;
    let named = || SendRequest { message_id: "m".into(), ..kept("alice", "a") };
    assert!(!send(&rig, named()).await.expect("stored").replayed);
    let again = send(&rig, named()).await.expect("stored");
    assert!(again.replayed);
    assert_eq!((only(&again), rig.mailbox_messages()), ((Stage::Stored, ""), 1));
    let other = SendRequest { payload: Some(Payload::Text("b".into())), ..named() };
    let error = send(&rig, other).await.expect_err("refused");
    assert_error(&error, Code::AlreadyExists, "MESSAGE_ID_REUSED");
}

#[tokio::test]
async fn what_expires_is_an_event_without_a_connection() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(NOW, None).await;
    let ttl = Some(prost_types::Duration { seconds: 0, nanos: 1 });
    let named = SendRequest { message_id: "m".into(), ttl, ..kept("alice", "a") };
    send(&rig, named).await.expect("stored");
    let events = stream.events(1).await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&*event.client_id, &*event.connection_id, event.generation), ("alice", "", 0));
    assert!(!event.cursor.is_empty() && event.time.is_some());
    let Some(pb::event::Kind::MessageExpired(expired)) = &event.kind else { panic!("{event:?}") };
    assert!(expired.message_id == "m" && expired.send_time.is_some());
    eventually("it is removed", || rig.mailbox_messages() == 0).await;
}

#[tokio::test]
async fn over_a_bound_it_is_refused_with_a_time_to_try_again() {
    let rig = Rig::start().await;
    for _ in 0..10 {
        send(&rig, kept("alice", "a")).await.expect("room");
    }
    let error = send(&rig, kept("alice", "a")).await.expect_err("refused");
    assert!(assert_error(&error, Code::ResourceExhausted, "MAILBOX_FULL").retry_info().is_some());
    send(&rig, kept("bob", "a")).await.expect("room");
    let large = SendRequest { payload: Some(Payload::Binary(vec![0; 64 << 10].into())), ..kept("bob", "") };
    assert_field(&send(&rig, large).await.expect_err("refused"), "payload");
}

#[tokio::test]
async fn a_bad_one_is_refused_with_its_field_and_nothing_is_stored() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let base = || kept("alice", "a");
    let cases = [
        ("ttl", SendRequest { ttl: seconds(0), ..base() }),
        ("ttl", SendRequest { ttl: seconds(-1), ..base() }),
        ("ttl", SendRequest { ttl: seconds(7 * 86_400 + 1), ..base() }),
        ("ttl", SendRequest { target: connection(&alice), ..base() }),
        ("if_generation", SendRequest { if_generation: 1, ..base() }),
        ("message_id", SendRequest { message_id: "m".repeat(129), ..base() }),
        ("receipt", SendRequest { ttl: None, receipt: Stage::Stored.into(), ..base() }),
        ("text", SendRequest { payload: Some(Payload::Text(String::new())), ..base() }),
    ];
    for (field, request) in cases {
        assert_field(&send(&rig, request).await.expect_err("refused"), field);
    }
    assert_eq!(rig.mailbox_messages(), 0);
    assert!(write_out(&alice).is_empty());
    let most = SendRequest { ttl: seconds(7 * 86_400), message_id: "m".repeat(128), ..base() };
    assert!(send(&rig, most).await.is_ok());
}

#[tokio::test]
async fn clients_that_nobody_checked_have_no_mailboxes() {
    let rig = Rig::with(Options { trust_self_named: false, ..Options::default() }).await;
    let error = send(&rig, kept("alice", "a")).await.expect_err("refused");
    assert_error(&error, Code::FailedPrecondition, "IDENTITY_UNVERIFIED");
    let plain = SendRequest { ttl: None, ..kept("alice", "a") };
    assert_error(&send(&rig, plain).await.expect_err("away"), Code::NotFound, "CLIENT_NOT_CONNECTED");
}

#[tokio::test]
async fn the_order_of_a_stream_is_the_order_in_the_mailbox() {
    let rig = Rig::with(Options {
        mail: mailbox::Limits { max_messages: 10_000, max_bytes: 100 << 20, max_total_bytes: 100 << 20 },
        ..Options::default()
    })
    .await;
    let sends = (0..600).map(|n| pb::TaggedSend { tag: n, request: Some(kept("alice", &n.to_string())) });
    let requests = tokio_stream::iter([pb::SendStreamRequest { sends: sends.collect() }]);
    let mut outcomes = rig.messages().send_stream(requests).await.expect("begun").into_inner();
    let mut count = 0;
    while let Some(response) = outcomes.message().await.expect("no error") {
        assert!(response.outcomes.iter().all(|outcome| outcome.code == 0), "{response:?}");
        count += response.outcomes.len();
    }
    assert_eq!((count, rig.mailbox_messages()), (600, 600));
    let alice = rig.join("alice").await;
    let mut texts = Vec::new();
    eventually("all are written", || {
        texts.extend(write_out(&alice));
        texts.len() == 600
    })
    .await;
    assert!(texts.iter().enumerate().all(|(n, text)| *text == n.to_string()));
}
