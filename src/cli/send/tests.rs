use clap::Parser as _;
use tonic::Code;

use super::*;
use crate::cli::args::{Cli, Command};
use crate::cli::fake::{Fake, refusal};

async fn ran(fake: &Fake, line: &[&str], stdin: &[u8]) -> (Result<(), CliError>, String) {
    let command = Cli::try_parse_from(["heartwire"].iter().chain(line)).unwrap().command;
    let (channel, mut stdin, mut out) = (fake.channel().await, stdin, Vec::new());
    let outcome = match command {
        Some(Command::Send(args)) => match send_request(&args, &mut stdin) {
            Ok(request) => send(channel, &args, request, &mut out).await,
            Err(error) => Err(error),
        },
        Some(Command::Broadcast(args)) => match broadcast_request(&args, &mut stdin) {
            Ok(request) => broadcast(channel, &args, request, &mut out).await,
            Err(error) => Err(error),
        },
        _ => panic!("{line:?}"),
    };
    (outcome, String::from_utf8(out).unwrap())
}

fn delivery(stage: pb::Stage, failure: pb::DeliveryFailure) -> pb::Delivery {
    pb::Delivery {
        connection_id: "c-1".to_owned(),
        stage: stage.into(),
        time: (stage != pb::Stage::Unspecified).then_some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        failure: failure.into(),
    }
}

fn fake(deliveries: Vec<pb::Delivery>) -> Fake {
    let fake = Fake::default();
    fake.sends.extend([Ok(pb::SendResponse { deliveries, replayed: false })]);
    fake
}

fn accepted() -> Fake {
    fake(vec![delivery(pb::Stage::Accepted, pb::DeliveryFailure::Unspecified)])
}

#[tokio::test]
async fn the_message_comes_from_the_argument_from_stdin_or_from_a_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"\x00file\n").unwrap();
    let path = file.path().to_str().unwrap();
    let text = |text: &str| Payload::Text(text.to_owned());
    let binary = |bytes: &'static [u8]| Payload::Binary(Bytes::from_static(bytes));
    let connection = || Target::ConnectionId("c-1".to_owned());
    let client = || Target::ClientId("alice".to_owned());
    for (line, stdin, target, payload) in [
        (vec!["send", "alice", "hi"], &b""[..], client(), text("hi")),
        (vec!["send", "alice", "-"], b"a\nb\n", client(), text("a\nb")),
        (vec!["send", "alice", "-"], b"a\r\n", client(), text("a")),
        (vec!["send", "alice", "--binary", "-"], b"\xff\n", client(), binary(b"\xff\n")),
        (vec!["send", "alice", "--binary", path], b"", client(), binary(b"\x00file\n")),
        (vec!["send", "--connection", "c-1", "hi"], b"", connection(), text("hi")),
        (vec!["send", "--connection", "c-1", "--binary", "-"], b"", connection(), binary(b"")),
    ] {
        let fake = accepted();
        ran(&fake, &line, stdin).await.0.unwrap();
        let (request, _) = fake.send_requests.taken().remove(0);
        assert_eq!(request.target.unwrap().target, Some(target), "{line:?}");
        assert_eq!(request.payload, Some(payload), "{line:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_message_is_refused_before_the_server_is_asked() {
    for (line, stdin, usage) in [
        (vec!["send", "alice"], &b""[..], true),
        (vec!["send", "alice", "hi", "--connection", "c-1"], b"", true),
        (vec!["send", "--connection", "c-1", "hi", "--binary", "-"], b"", true),
        (vec!["send", "alice", "-"], b"\xff", false),
        (vec!["send", "alice", "--binary", "/nonexistent/file"], b"", false),
        (vec!["send", "alice", "--binary", "-"], &vec![0; (64 << 20) + 1], false),
    ] {
        let fake = Fake::default();
        let error = ran(&fake, &line, stdin).await.0.unwrap_err();
        assert_eq!(matches!(error, CliError::Usage(_)), usage, "{line:?}: {error}");
        assert!(fake.send_requests.taken().is_empty());
    }
}

#[tokio::test]
async fn whether_a_big_message_is_too_big_is_for_the_server_to_say() {
    let error = ran(&accepted(), &["send", "alice", "--binary", "-"], &vec![0; 5 << 20]).await.0.unwrap_err();
    assert!(matches!(error, CliError::Call(_)), "{error}");
}

#[tokio::test]
async fn each_delivery_is_printed_and_all_must_have_reached_the_stage() {
    use pb::DeliveryFailure as Failure;
    let written = delivery(pb::Stage::Written, Failure::Unspecified);
    let late = delivery(pb::Stage::Accepted, Failure::Unspecified);
    let full = delivery(pb::Stage::Unspecified, Failure::OutboxFull);
    let unknown = delivery(pb::Stage::Accepted, Failure::OutcomeUnknown);

    let fake1 = fake(vec![written.clone()]);
    let (outcome, out) = ran(&fake1, &["send", "a", "hi", "--receipt", "written"], b"").await;
    outcome.unwrap();
    assert_eq!(out, "c-1  00:00:01.000  WRITTEN\n");

    let all = vec![written, late, full, unknown];
    let (outcome, out) = ran(&fake(all.clone()), &["send", "a", "hi", "--receipt", "written"], b"").await;
    assert_eq!(outcome.unwrap_err().to_string(), "3 of 4 deliveries did not reach WRITTEN");
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[2], "c-1  --:--:--.---  -         OUTBOX_FULL");
    assert_eq!(lines[3], "c-1  00:00:01.000  ACCEPTED  OUTCOME_UNKNOWN");

    let (outcome, out) = ran(&fake(all), &["send", "a", "hi", "--json"], b"").await;
    assert_eq!(outcome.unwrap_err().to_string(), "2 of 4 deliveries did not reach ACCEPTED");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["deliveries"][2]["failure"], "DELIVERY_FAILURE_OUTBOX_FULL");

    assert!(ran(&fake(vec![]), &["send", "a", "hi"], b"").await.0.is_err());
}

#[tokio::test]
async fn the_wait_for_a_receipt_comes_on_top_of_the_calls_own_time() {
    let millis = |deadline: Option<String>| {
        let deadline = deadline.unwrap();
        let (number, unit) = deadline.split_at(deadline.len() - 1);
        let unit = ["n", "u", "m", "S"].iter().position(|name| *name == unit).unwrap();
        number.parse::<u64>().unwrap() * 1000_u64.pow(unit as u32) / 1_000_000
    };
    let fake = accepted();
    let line = ["send", "a", "hi", "--receipt", "written", "--receipt-timeout", "7s", "--timeout", "3s"];
    ran(&fake, &line, b"").await.0.unwrap_err();
    let (request, deadline) = fake.send_requests.taken().remove(0);
    assert_eq!(request.receipt_timeout.unwrap().seconds, 7);
    assert_eq!(millis(deadline), 10_000);

    let fake = accepted();
    ran(&fake, &["send", "a", "hi", "--timeout", "3s", "--if-generation", "9"], b"").await.0.unwrap();
    let (request, deadline) = fake.send_requests.taken().remove(0);
    assert_eq!((request.receipt_timeout, request.if_generation), (None, 9));
    assert_eq!(millis(deadline), 3000);
}

#[tokio::test]
async fn a_message_may_be_stored_and_named_and_then_storing_it_is_enough() {
    let stored =
        || fake(vec![pb::Delivery { connection_id: String::new(), ..delivery(pb::Stage::Stored, Default::default()) }]);
    let fake = stored();
    let (outcome, out) = ran(&fake, &["send", "alice", "hi", "--ttl", "7d", "--message-id", "m-1"], b"").await;
    outcome.unwrap();
    assert_eq!(out, "-  00:00:01.000  STORED\n");
    let (request, _) = fake.send_requests.taken().remove(0);
    assert_eq!((request.ttl.unwrap().seconds, &*request.message_id), (7 * 86_400, "m-1"));
    assert_eq!((request.receipt(), request.receipt_timeout), (pb::Stage::Stored, None));

    let fake = stored();
    let (outcome, _) = ran(&fake, &["send", "alice", "hi", "--ttl", "1s", "--receipt", "accepted"], b"").await;
    assert_eq!(outcome.unwrap_err().to_string(), "1 of 1 deliveries did not reach ACCEPTED");
    assert_eq!(fake.send_requests.taken().remove(0).0.receipt_timeout.unwrap().seconds, 5);

    for line in [
        &["send", "alice", "hi", "--ttl", "0s"][..],
        &["send", "alice", "hi", "--ttl", "8d"],
        &["send", "alice", "hi", "--message-id", "m"],
        &["send", "--connection", "c-1", "hi", "--ttl", "1s"],
        &["send", "alice", "hi", "--ttl", "1s", "--if-generation", "1"],
    ] {
        assert!(Cli::try_parse_from(["heartwire"].iter().chain(line)).is_err(), "{line:?}");
    }
}

#[tokio::test]
async fn a_refused_send_names_its_reason() {
    let fake = Fake::default();
    fake.sends.extend([Err(refusal(Code::NotFound, "CLIENT_NOT_CONNECTED"))]);
    let error = ran(&fake, &["send", "a", "hi"], b"").await.0.unwrap_err();
    assert_eq!(error.to_string(), "refused (NOT_FOUND, CLIENT_NOT_CONNECTED)");
}

#[tokio::test]
async fn a_broadcast_tells_its_counts_and_fails_if_any_refused() {
    let fake = Fake::default();
    let answer = |accepted, refused| {
        Ok(pb::BroadcastResponse { matched: accepted + refused, accepted, refused, ..Default::default() })
    };
    fake.broadcasts.extend([answer(3, 0), answer(2, 1)]);
    let (outcome, out) = ran(&fake, &["broadcast", "--label", "room=7", "hi"], b"").await;
    outcome.unwrap();
    assert_eq!(out, "matched 3, accepted 3, refused 0\n");
    let (outcome, _) = ran(&fake, &["broadcast", "--everyone", "--binary", "-"], b"x").await;
    assert_eq!(outcome.unwrap_err().to_string(), "1 of 3 refused the message");

    let requests = fake.broadcast_requests.taken();
    assert_eq!((requests[0].labels["room"].as_str(), requests[0].everyone), ("7", false));
    assert!(requests[1].everyone && requests[1].labels.is_empty());
    assert!(matches!(&requests[1].payload, Some(pb::broadcast_request::Payload::Binary(bytes)) if bytes == "x"));
}
