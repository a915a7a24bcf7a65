//! The reliable subprotocol on one socket: the first frame, numbers, acknowledgements, and what is wrong.

use tokio_tungstenite::tungstenite::Message;

use super::client::{CLOSE, TEXT};
use super::*;
use crate::close::CloseReason;
use crate::registry::Window;

fn quiet(options: &mut Options) {
    options.connection.server_beat = ServerBeat::Off;
}

const ACKED: (Option<Stage>, Option<Failure>) = (Some(Stage::Acked), None);

#[tokio::test(start_paused = true)]
async fn a_hello_is_answered_with_what_a_client_has_to_know_once_the_connection_is_logged() {
    let mut world = World::new(|_| {});
    world.stall_commits().await;
    let mut speaker = world.mute(None).await;
    speaker.say(json!({"type": "hello", "client_id": "a", "later": [1]})).await;
    speaker.message("at once").await;
    settle().await;
    assert!(world.host.sessions.is_empty(), "nothing is there yet");
    world.resume_commits();
    let hello = speaker.hears().await;
    let connection = world.records()[0].event.connection.clone();
    assert_eq!((connection.subprotocol, connection.client_id.as_str()), ("heartwire.v1.json", "a"));
    let expected = json!({
        "type": "hello", "session": hello["session"], "client_id": "a", "resumed": false, "received": 0,
        "connection_id": connection.connection_id.to_string(), "heartbeat_interval_ms": 30_000, "heartbeat_timeout_ms": 60_000,
        "resume_window_ms": 30_000, "max_message_bytes": 65_536, "max_unacked_messages": 1_000, "max_unacked_bytes": 1_048_576,
        "messages_per_second": 100, "bytes_per_second": 262_144,
    });
    assert_eq!(hello, expected);
    assert_eq!(hello["session"].as_str().map(str::len), Some(22));
    speaker.is_acked(1).await;
    assert_eq!(world.told().await, ["a connected", "a said at once"]);
    let mut nameless = world.mute(None).await;
    nameless.say(json!({"type": "hello"})).await;
    let hello = nameless.hears().await;
    assert_eq!(hello["client_id"], format!("~{}", hello["connection_id"].as_str().expect("an id")));
    nameless.client.close(1000, "").await;
    speaker.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_is_not_committed_in_time_is_not_greeted() {
    let mut world = World::new(quiet);
    world.stall_commits().await;
    let mut speaker = world.mute(Some("a")).await;
    speaker.say(json!({"type": "hello"})).await;
    let (said, close) = speaker.hears_out().await;
    assert_eq!(said, [json!({"type": "bye", "code": 1013, "reason": "Overloaded, try later"})]);
    assert_eq!(close.expect("a Close").0, 1013);
    world.resume_commits();
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_at_once_when_its_heartbeat_settings_change() {
    let world = World::new(quiet);
    let mut speaker = world.speaker("a").await;
    world.registry.update_heartbeat(&target("a"), Some(1_000), Some(5_000), None).await.expect("retuned");
    let told =
        json!({"type": "heartbeat", "received": 0, "heartbeat_interval_ms": 1_000, "heartbeat_timeout_ms": 5_000});
    assert_eq!(speaker.hears().await, told);
    speaker.say(json!({"type": "heartbeat"})).await;
    assert_eq!(speaker.hears().await, json!({"type": "heartbeat", "received": 0}), "once");
    speaker.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn padded_heartbeats_and_acknowledgements_count_as_bytes() {
    for kind in ["heartbeat", "ack"] {
        let world = World::new(quiet);
        let mut speaker = world.speaker("a").await;
        let padded = json!({"type": kind, "received": 0, "x": "x".repeat(60_000)});
        // Half a megabyte may come at once.
        for _ in 0..10 {
            speaker.say(padded.clone()).await;
        }
        let (_, close) = speaker.hears_out().await;
        assert_eq!(close, Some((4429, "Rate limited: bytes".into())), "{kind}");
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_follows_the_last_word_and_the_close() {
    let mut world = World::new(quiet);
    let (ours, theirs) = duplex(PIPE);
    world.serve_as(WsSocket::new(ours, &[], world.host.settings.max_message), Some("a"), true);
    let mut raw = Raw::new(theirs);
    raw.frame(TEXT, br#"{"type":"hello"}"#).await;
    raw.next().await.expect("a hello");
    world.stall_commits().await;
    raw.frame(TEXT, br#"{"type":"message","seq":1,"text":"x"}"#).await;
    settle().await;
    let connection = world.registry.open(&target("a")).pop().expect("connected");
    world.registry.end(&connection, CloseReason::Kicked(4000, "out".into()));
    settle().await;
    // What is committed now could have been acknowledged before.
    world.resume_commits();
    settle().await;
    let bye = raw.next().await.expect("a bye");
    assert!(bye.payload.starts_with(br#"{"type":"bye""#), "{bye:?}");
    assert_eq!(raw.next().await.expect("a Close").head, CLOSE);
    assert_eq!(raw.next().await, None);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_frame_that_begins_nothing_is_told_what_is_wrong_and_logs_nothing() {
    let world = World::new(|_| {});
    for (named, frame, code, close) in [
        (None, "heartbeat", "BAD_JSON", 1007),
        (None, "", "BAD_JSON", 1007),
        (None, "[]", "BAD_JSON", 1007),
        (None, "{}", "BAD_ENVELOPE", 1002),
        (None, r#"{"type":"hello","client_id":7}"#, "BAD_ENVELOPE", 1002),
        (None, r#"{"type":"HELLO"}"#, "UNKNOWN_TYPE", 1002),
        (None, r#"{"type":"heartbeat"}"#, "UNEXPECTED", 1002),
        (None, r#"{"type":"message","seq":1,"text":"x"}"#, "UNEXPECTED", 1002),
        (None, r#"{"type":"bye"}"#, "UNEXPECTED", 1002),
        (None, r#"{"type":"hello","client_id":""}"#, "BAD_IDENTITY", 4400),
        (None, r#"{"type":"hello","client_id":"~x"}"#, "BAD_IDENTITY", 4400),
        (Some("a"), r#"{"type":"hello","client_id":"b"}"#, "BAD_IDENTITY", 4400),
        (None, r#"{"type":"resume","session":"x","received":0}"#, "SESSION_UNKNOWN", 4404),
        (None, r#"{"type":"resume","session":"AAAAAAAAAAAAAAAAAAAAAA","received":0}"#, "SESSION_UNKNOWN", 4404),
    ] {
        let mut speaker = world.mute(named).await;
        speaker.client.text(frame).await;
        assert_eq!(speaker.is_told(code).await, close, "{frame}");
    }
    let mut binary = world.mute(None).await;
    binary.client.send(Message::binary(vec![1])).await;
    assert_eq!(binary.is_told("NOT_TEXT").await, 1003);
    let mut silent = world.mute(Some("a")).await;
    let (said, close) = silent.hears_out().await;
    assert_eq!(said, [Value::Null; 0], "a session that it may have is not over");
    assert_eq!(close.expect("a Close").0, 4411);
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_protocol_is_told_and_its_session_is_over() {
    let cases = [
        ("x", "BAD_JSON", 1007, "protocol_error"),
        (r#"{"type":"ack"}"#, "BAD_ENVELOPE", 1002, "protocol_error"),
        (r#"{"type":"shout"}"#, "UNKNOWN_TYPE", 1002, "protocol_error"),
        (r#"{"type":"hello"}"#, "UNEXPECTED", 1002, "protocol_error"),
        (r#"{"type":"resume","session":"x","received":0}"#, "UNEXPECTED", 1002, "protocol_error"),
        (r#"{"type":"message","seq":3,"text":"x"}"#, "SEQUENCE_GAP", 1002, "protocol_error"),
        (r#"{"type":"ack","received":2}"#, "ACK_AHEAD", 1002, "protocol_error"),
        (r#"{"type":"heartbeat","received":2}"#, "ACK_AHEAD", 1002, "protocol_error"),
    ];
    for (frame, code, close, cause) in cases {
        let world = World::new(|_| {});
        let mut speaker = world.speaker("a").await;
        speaker.message("1").await;
        world.send("a", "one").expect("room");
        speaker.hears_message().await;
        speaker.client.text(frame).await;
        assert_eq!(speaker.is_told(code).await, close, "{frame}");
        let told = world.told().await;
        assert!(told.last().expect("an end").starts_with(&format!("a gone: {cause} {close} {code}: ")), "{told:?}");
        let mut again = world.mute(None).await;
        again.say(speaker.resume()).await;
        assert_eq!(again.is_told("SESSION_UNKNOWN").await, 4404);
        world.rests().await;
    }
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    speaker.client.send(Message::binary(vec![1])).await;
    assert_eq!(speaker.is_told("NOT_TEXT").await, 1003);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_once_it_is_committed_and_not_before_and_many_by_one_number() {
    let mut world = World::new(quiet);
    let mut speaker = world.speaker("a").await;
    speaker.message("1").await;
    assert_eq!(speaker.hears().await, json!({"type": "ack", "received": 1}));
    world.stall_commits().await;
    for text in ["2", "3", "4"] {
        speaker.message(text).await;
    }
    speaker.say(json!({"type": "heartbeat"})).await;
    assert_eq!(speaker.hears().await, json!({"type": "heartbeat", "received": 1}), "nothing new is committed");
    assert!(speaker.client.listens(2 * SECOND).await.iter().all(|message| message.is_ping()));
    world.resume_commits();
    assert_eq!(speaker.hears().await, json!({"type": "ack", "received": 4}));
    drop(speaker);
    pass(31 * SECOND).await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_repeat_is_acknowledged_again_and_is_no_second_message() {
    let mut world = World::new(quiet);
    let mut speaker = world.speaker("a").await;
    speaker.message("1").await;
    speaker.is_acked(1).await;
    speaker.say(json!({"type": "message", "seq": 1, "text": "1"})).await;
    assert_eq!(speaker.hears().await, json!({"type": "ack", "received": 1}));
    world.stall_commits().await;
    for _ in 0..3 {
        speaker.say(json!({"type": "message", "seq": 2, "data": "AAE="})).await;
    }
    assert!(speaker.client.listens(SECOND).await.is_empty(), "not committed yet");
    world.resume_commits();
    assert_eq!(speaker.hears().await, json!({"type": "ack", "received": 2}));
    assert_eq!(world.told().await, ["a connected", "a said 1", "a sent b\"\\0\\x01\""]);
    assert_eq!(world.stats("a").messages_in, 2);
    speaker.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn messages_to_a_client_are_numbered_and_a_receipt_says_when_they_were_acknowledged() {
    let world = World::new(quiet);
    let mut speaker = world.speaker("a").await;
    let sent: Vec<_> = ["x", "y", "z"].iter().map(|id| world.send_acked("a", id, "text").expect("room")).collect();
    let binary = Outgoing { payload: Payload::Binary(vec![0, 255].into()), ..World::outgoing("a", "") };
    let written = world.dispatch.accept(&binary).expect("room");
    for (number, id) in [(1, "x"), (2, "y"), (3, "z")] {
        assert_eq!(speaker.hears().await, json!({"type": "message", "seq": number, "id": id, "text": "text"}));
    }
    assert_eq!(speaker.hears().await, json!({"type": "message", "seq": 4, "data": "AP8="}));
    speaker.ack(2).await;
    settle().await;
    let [x, y, z] = sent.try_into().expect("three");
    assert_eq!((world.outcome(x).await, world.outcome(y).await), (ACKED, ACKED));
    assert_eq!(world.outcome(written).await, (Some(Stage::Written), None));
    // The time that the receipt may take is over: the stage that was reached stands.
    assert_eq!(world.outcome(z).await, (Some(Stage::Written), None));
    let late = world.send_acked("a", "late", "text").expect("room");
    let waiting = {
        let dispatch = world.dispatch.clone();
        tokio::spawn(async move { dispatch.settle(late, 5 * SECOND).await })
    };
    assert_eq!(speaker.hears().await["seq"], 5);
    pass(SECOND).await;
    speaker.say(json!({"type": "heartbeat", "received": 5})).await;
    assert_eq!(waiting.await.expect("no panic").expect("kept").deliveries[0].stage, Some(Stage::Acked));
    assert_eq!(world.host.metrics.sends.of(crate::metrics::SendOutcome::Acked).get(), 5);
    // An older number says nothing new and does no harm.
    speaker.ack(1).await;
    speaker.client.close(1000, "").await;
    settle().await;
    assert_eq!(world.unacked(), (vec![], 0));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_is_not_to_be_had_of_a_client_of_the_plain_protocol() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    assert_eq!(world.send_acked("a", "x", "1").err(), Some(SendError::AckUnsupported));
    assert_eq!(world.send_acked("b", "x", "1").err(), Some(SendError::NotConnected));
    world.send("a", "2").expect("room");
    assert_eq!(client.hears().await, "2", "and the other was not sent");
    client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_acknowledges_nothing_has_its_outbox_fill_and_gets_the_rest_when_it_does() {
    let world = World::new(|options| {
        quiet(options);
        options.registry.outbox.frames = 10;
    });
    let mut speaker = world.speaker("a").await;
    let most = Window::MAX_MESSAGES as u64;
    for i in 0..most {
        world.send("a", &i.to_string()).expect("room");
        assert_eq!(speaker.hears_message().await, i.to_string());
    }
    for i in 0..10 {
        world.send("a", &(most + i).to_string()).expect("room in the outbox");
    }
    assert_eq!(world.send("a", "one too many").err(), Some(SendError::OutboxFull));
    speaker.ack(3).await;
    for i in 0..3 {
        assert_eq!(speaker.hears_message().await, (most + i).to_string());
    }
    settle().await;
    assert!(world.start.elapsed() < SECOND, "as soon as there was room");
    assert!(speaker.client.listens(SECOND).await.is_empty(), "no more than it acknowledged");
    world.send("a", "room again").expect("room");
    world.kick("a", 4000, "bye").await;
    assert_eq!(world.unacked().1, most + 8);
    let (rest, close) = speaker.hears_out().await;
    assert_eq!((rest.len(), close.expect("a Close").0), (9, 4000));
    assert_eq!(rest[7]["text"], "room again");
    assert_eq!(rest[8], json!({"type": "bye", "code": 4000, "reason": "bye"}));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn every_heartbeat_of_the_client_is_answered_and_the_server_has_its_own() {
    for (beat, pings, texts) in [
        (ServerBeat::Auto, true, true),
        (ServerBeat::Ping, true, false),
        (ServerBeat::Text, false, true),
        (ServerBeat::Both, true, true),
        (ServerBeat::Off, false, false),
    ] {
        let world = World::new(|options| options.connection.server_beat = beat);
        let mut speaker = world.speaker("a").await;
        for _ in 0..3 {
            speaker.say(json!({"type": "heartbeat", "received": 0})).await;
        }
        for _ in 0..3 {
            assert_eq!(speaker.hears().await, json!({"type": "heartbeat", "received": 0}));
        }
        let heard = speaker.client.listens(44 * SECOND).await;
        assert_eq!(heard.iter().any(|message| message.is_ping()), pings, "{beat:?}");
        assert_eq!(heard.iter().any(|message| message.is_text()), texts, "{beat:?}");
        speaker.client.close(1000, "").await;
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_with_a_socket_is_expired_and_cannot_resume() {
    for any_frame_counts in [true, false] {
        let world = World::new(|options| {
            options.connection.any_frame_counts = any_frame_counts;
            options.connection.server_beat = ServerBeat::Off;
        });
        let mut speaker = world.speaker("a").await;
        pass(40 * SECOND).await;
        speaker.say(json!({"type": "heartbeat"})).await;
        pass(40 * SECOND).await;
        assert_eq!(world.registry.count(), 1);
        let (said, close) = speaker.hears_out().await;
        assert_eq!(said, [json!({"type": "bye", "code": 4408, "reason": "Heartbeat timeout"})]);
        assert_eq!(close.expect("a Close").0, 4408);
        let told = world.told().await;
        assert_eq!(told, ["a connected", "a suspected", "a gone: heartbeat_timeout 4408 Heartbeat timeout"]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_closed_as_one_of_the_plain_protocol_is() {
    let heartbeat = json!({"type": "heartbeat"}).to_string();
    let stale = json!({"type": "ack", "received": 0}).to_string();
    let repeat = json!({"type": "message", "seq": 1, "text": ""}).to_string();
    for (frame, reason) in [
        (heartbeat, "Rate limited: heartbeats and control frames"),
        (stale, "Rate limited: heartbeats and control frames"),
        (repeat, "Rate limited: messages"),
    ] {
        let world = World::new(|_| {});
        let mut speaker = world.speaker("a").await;
        for _ in 0..250 {
            speaker.client.text(&frame).await;
        }
        let (said, close) = speaker.hears_out().await;
        assert_eq!(close, Some((4429, reason.to_owned())));
        assert_eq!(said.last(), Some(&json!({"type": "bye", "code": 4429, "reason": reason})));
        world.rests().await;
    }
    // What a large frame is of beside its message counts too.
    let world = World::new(|options| options.connection.rates.bytes = 1_000);
    let mut speaker = world.speaker("a").await;
    for seq in 1..=2 {
        speaker.say(json!({"type": "message", "seq": seq, "text": "", "x": "x".repeat(60_000)})).await;
    }
    assert_eq!(speaker.hears_out().await.1, Some((4429, "Rate limited: bytes".to_owned())));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_over_the_limit_and_framing_that_is_broken_are_closed_as_ever() {
    let world = World::new(|options| options.connection.max_message = 1_000);
    let mut speaker = world.speaker("a").await;
    speaker.message(&"x".repeat(1_000)).await;
    let (said, close) = speaker.hears_out().await;
    assert_eq!((said[0]["code"].as_u64(), close.expect("a Close").0), (Some(1009), 1009));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_bye_or_a_close_of_the_client_ends_its_session() {
    let world = World::new(|_| {});
    for (bye, code, reason) in
        [(json!({"type": "bye"}), 1000, ""), (json!({"type": "bye", "code": 4242, "reason": "enough"}), 4242, "enough")]
    {
        let mut speaker = world.speaker("a").await;
        speaker.message("last").await;
        speaker.say(bye).await;
        assert_eq!(speaker.hears_out().await.1, Some((code, reason.to_owned())));
        let told = world.told().await;
        assert_eq!(
            told[told.len() - 2..],
            ["a said last".to_owned(), format!("a gone: client_closed {code} {reason}")]
        );
    }
    let mut speaker = world.speaker("b").await;
    speaker.client.close(1000, "done").await;
    let (said, _) = speaker.hears_out().await;
    assert!(said.is_empty(), "no bye to one that has closed: {said:?}");
    assert_eq!(world.told().await.last().map(String::as_str), Some("b gone: client_closed 1000 done"));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_gone_and_cannot_resume() {
    let world = World::new(quiet);
    let mut speaker = world.speaker("a").await;
    let large = "x".repeat(2 * PIPE);
    let sent = world.send_acked("a", "large", &large).expect("room");
    pass(13 * SECOND).await;
    let told = world.told().await;
    assert_eq!(
        told.last().map(String::as_str),
        Some("a gone: slow_client 4413 Slow client: a write did not finish in time")
    );
    assert_eq!(world.unacked(), (vec!["large".to_owned()], 1));
    assert_eq!(world.outcome(sent).await.1, Some(Failure::OutcomeUnknown));
    let mut again = world.mute(None).await;
    again.say(speaker.resume()).await;
    assert_eq!(again.is_told("SESSION_UNKNOWN").await, 4404);
    speaker.hears_out().await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_says_bye_with_a_hint_after_what_was_accepted_and_acknowledges_what_is_committed() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    world.send("a", "before").expect("room");
    speaker.message("committed").await;
    settle().await;
    for connection in world.registry.begin_drain() {
        world.registry.end(&connection, CloseReason::Restart { reconnect_after: 7 });
    }
    let (said, close) = speaker.hears_out().await;
    assert_eq!(said.last().expect("a bye")["reconnect_after_ms"], 7);
    assert_eq!(said.last().expect("a bye")["code"], 1012);
    assert!(said.contains(&json!({"type": "ack", "received": 1})), "{said:?}");
    assert!(said.iter().any(|envelope| envelope["text"] == "before"), "{said:?}");
    assert_eq!(close.expect("a Close").0, 1012);
    world.rests().await;
}
