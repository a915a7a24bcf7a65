//! Sessions that outlive their sockets: what is sent again, what is told, and how a session ends without a socket.

use std::collections::VecDeque;

use fastrand::Rng;

use super::*;
use crate::close::CloseReason;
use crate::drain::{Drain, Pace};

const GONE: &str = "a gone: connection_lost 1006 Connection lost";

async fn is_unknown(world: &World, old: &Speaker) {
    let mut again = world.mute(None).await;
    again.say(old.resume()).await;
    assert_eq!(again.is_told("SESSION_UNKNOWN").await, 4404);
}

/// The client's socket ends with no Close; what it knows is kept.
async fn loses_its_socket(speaker: &mut Speaker) {
    let (none, _) = duplex(1);
    speaker.client = Client::new(none).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resumes_in_time_is_the_same_connection_and_gets_what_it_missed_in_order() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    for text in ["1", "2", "3"] {
        world.send("a", text).expect("room");
        assert_eq!(speaker.hears_message().await, text);
    }
    speaker.ack(1).await;
    settle().await;
    // It got three, says that it has two, and the third comes again.
    speaker.received = 2;
    loses_its_socket(&mut speaker).await;
    assert_eq!(world.host.metrics.detached.get(), 1);
    assert_eq!(world.told().await, ["a connected", "a lost its socket"]);
    let waiting = world.send("a", "4").expect("the outbox is open");
    pass(29 * SECOND).await;
    assert_eq!(world.outcome(waiting).await, (Some(Stage::Accepted), None));
    let mut again = world.resumed(&speaker).await;
    assert_eq!([again.hears_message().await, again.hears_message().await], ["3", "4"]);
    assert_eq!(world.told().await, ["a connected", "a lost its socket", "a resumed"]);
    assert_eq!(world.stats("a").messages_out, 4, "each counts once");
    assert_eq!(again.hello["session"], speaker.hello["session"]);
    // It lives on as any other.
    again.message("hello again").await;
    again.is_acked(1).await;
    pass(40 * SECOND).await;
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_has_and_has_not_committed_comes_again_and_is_one_message() {
    let mut world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut speaker = world.speaker("a").await;
    speaker.message("1").await;
    speaker.is_acked(1).await;
    world.stall_commits().await;
    speaker.message("2").await;
    settle().await;
    loses_its_socket(&mut speaker).await;
    let mut again = world.resumed(&speaker).await;
    assert_eq!(again.hello["received"], 1, "no more than is committed");
    again.message("2").await;
    again.message("3").await;
    assert!(again.client.listens(SECOND).await.iter().all(|message| !message.is_text()), "nothing is acknowledged");
    world.resume_commits();
    again.is_acked(3).await;
    let said: Vec<_> = world.told().await.into_iter().filter(|line| line.contains("said")).collect();
    assert_eq!(said, ["a said 1", "a said 2", "a said 3"]);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_takes_over_from_a_socket_that_is_half_open() {
    let world = World::new(|_| {});
    let mut old = world.speaker("a").await;
    world.send("a", "1").expect("room");
    assert_eq!(old.hears_message().await, "1");
    let mut again = world.resumed(&old).await;
    assert_eq!(world.told().await, ["a connected", "a lost its socket", "a resumed"], "as a pair");
    assert_eq!(world.stats("a").messages_out, 1);
    world.send("a", "2").expect("room");
    assert_eq!(again.hears_message().await, "2");
    // If it is not half open after all, its client learns that it is not the one any more.
    let (said, close) = old.hears_out().await;
    assert_eq!(said, [json!({"type": "bye", "code": 4409, "reason": "Replaced by a newer connection"})]);
    assert_eq!(close.expect("a Close").0, 4409);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_works_although_the_old_socket_takes_nothing_any_more() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut old = world.speaker("a").await;
    let large = "x".repeat(2 * PIPE);
    world.send("a", &large).expect("room");
    world.send("a", "2").expect("room");
    pass(9 * SECOND).await;
    let mut again = world.resumed(&old).await;
    assert!(again.hears_message().await == large);
    assert_eq!(again.hears_message().await, "2");
    pass(5 * SECOND).await;
    assert_eq!(world.count(KindTag::Disconnected), 0, "the write deadline was the old socket's");
    again.client.close(1000, "").await;
    // The old one ends in the middle of the message.
    old.hears_out().await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_resume_the_connection_is_lost_when_the_window_is_over() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    world.send_acked("a", "m1", "1").expect("room");
    speaker.hears_message().await;
    loses_its_socket(&mut speaker).await;
    let lost = world.times(KindTag::Suspected)[0];
    let waiting = world.send_acked("a", "m2", "2").expect("room");
    pass(31 * SECOND).await;
    assert_eq!(world.told().await, ["a connected", "a lost its socket", GONE]);
    let window = world.times(KindTag::Disconnected)[0] - lost;
    assert!((30_000..30_100).contains(&window), "{window}");
    assert_eq!(world.unacked(), (vec!["m1".to_owned(), "m2".to_owned()], 2));
    assert_eq!(world.outcome(waiting).await, (Some(Stage::Accepted), Some(Failure::OutcomeUnknown)));
    is_unknown(&world, &speaker).await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_neither_keep_nor_end_a_session_without_a_socket() {
    let world = World::new(|options| {
        options.registry.cadence = Cadence { interval: 1_000, timeout: 2_000 };
    });
    let mut speaker = world.speaker("a").await;
    loses_its_socket(&mut speaker).await;
    pass(20 * SECOND).await;
    let probe = world.registry.probe(&target("a")).pop().expect("a probe").1;
    let mut again = world.resumed(&speaker).await;
    // Whoever asked meanwhile is answered by the new socket.
    again.client.listens(SECOND / 2).await;
    assert!(probe.await.is_ok());
    assert_eq!(world.told().await, ["a connected", "a lost its socket", "a resumed"]);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_loses_its_socket_is_not_called_so_twice_and_one_that_resumed_may_be_at_once() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut speaker = world.speaker("a").await;
    pass(50 * SECOND).await;
    loses_its_socket(&mut speaker).await;
    let again = world.resumed(&speaker).await;
    pass(50 * SECOND).await;
    assert_eq!(world.told().await, ["a connected", "a suspected", "a resumed", "a suspected"]);
    drop(again);
    pass(61 * SECOND).await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn with_no_window_there_is_no_resuming() {
    let world = World::new(|options| options.connection.resume_window = Duration::ZERO);
    let mut speaker = world.speaker("a").await;
    assert_eq!(speaker.hello["resume_window_ms"], 0);
    is_unknown(&world, &speaker).await;
    loses_its_socket(&mut speaker).await;
    assert_eq!(world.told().await, ["a connected", GONE]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_is_nobody_elses() {
    let world = World::new(|_| {});
    let speaker = world.speaker("a").await;
    let mut other = world.mute(Some("b")).await;
    other.say(speaker.resume()).await;
    assert_eq!(other.is_told("SESSION_UNKNOWN").await, 4404);
    let mut same = world.mute(Some("a")).await;
    same.say(speaker.resume()).await;
    assert_eq!(same.hears().await["resumed"], true);
    same.client.close(1000, "").await;
    drop(speaker);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_has_what_was_not_sent_ends_the_session_and_one_that_lacks_what_was_acknowledged_does_not() {
    for (received, code) in [(9, "ACK_AHEAD"), (0, "BAD_ENVELOPE")] {
        let world = World::new(|_| {});
        let mut speaker = world.speaker("a").await;
        for text in ["1", "2"] {
            world.send("a", text).expect("room");
            speaker.hears_message().await;
        }
        speaker.ack(1).await;
        settle().await;
        loses_its_socket(&mut speaker).await;
        speaker.received = received;
        let mut again = world.mute(None).await;
        again.say(speaker.resume()).await;
        assert_eq!(again.is_told(code).await, 1002);
        if code == "ACK_AHEAD" {
            assert_eq!(world.count(KindTag::Disconnected), 1);
        } else {
            assert_eq!(world.told().await, ["a connected", "a lost its socket"]);
            speaker.received = 1;
            let mut again = world.resumed(&speaker).await;
            assert_eq!(again.hears_message().await, "2");
            again.client.close(1000, "").await;
        }
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_comes_after_a_newer_one_is_refused_and_harms_nobody() {
    let world = World::new(|_| {});
    let speaker = world.speaker("a").await;
    let attempt = async |number: u64| {
        let mut again = world.mute(None).await;
        let mut resume = speaker.resume();
        resume["attempt"] = number.into();
        again.say(resume).await;
        again
    };
    let mut second = attempt(2).await;
    assert_eq!(second.hears().await["resumed"], true);
    for number in [1, 2] {
        assert_eq!(attempt(number).await.hears_out().await.1.expect("a Close").0, 4409);
    }
    world.send("a", "still here").expect("room");
    assert_eq!(second.hears_message().await, "still here");
    let mut third = attempt(3).await;
    assert_eq!(third.hears().await["resumed"], true);
    assert_eq!(second.hears_out().await.1.expect("a Close").0, 4409);
    third.client.close(1000, "").await;
    drop(speaker);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_that_means_to_resume_is_answered_and_leaves_the_session() {
    for (window, gone) in [(30 * SECOND, GONE), (Duration::ZERO, "a gone: client_closed 4499 ")] {
        let world = World::new(|options| options.connection.resume_window = window);
        let mut speaker = world.speaker("a").await;
        speaker.client.close(4499, "").await;
        assert_eq!(speaker.client.is_closed().await.0, 4499);
        if !window.is_zero() {
            assert_eq!(world.told().await, ["a connected", "a lost its socket"]);
            speaker = world.resumed(&speaker).await;
            speaker.client.close(4499, "").await;
            pass(31 * SECOND).await;
        }
        assert_eq!(world.told().await.last().map(String::as_str), Some(gone));
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_without_a_socket_is_not_taken_over_however_often_it_begins_anew() {
    let world = World::new(|_| {});
    for _ in 0..20 {
        let mut speaker = world.speaker("a").await;
        loses_its_socket(&mut speaker).await;
    }
    pass(31 * SECOND).await;
    assert_eq!(world.count(KindTag::Connected), 20);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newer_connection_takes_over_from_one_without_a_socket_under_either_policy() {
    for duplicates in [Duplicates::Replace, Duplicates::Reject] {
        let world = World::new(|options| options.registry.duplicates = duplicates);
        let mut old = world.speaker("a").await;
        if duplicates == Duplicates::Reject {
            let mut early = world.mute(Some("a")).await;
            early.say(json!({"type": "hello"})).await;
            let (said, close) = early.hears_out().await;
            assert_eq!((said[0]["code"].as_u64(), close.expect("a Close").0), (Some(4410), 4410));
        }
        loses_its_socket(&mut old).await;
        let mut new = world.speaker("a").await;
        let replaced = "a gone: replaced 4409 Replaced by a newer connection";
        assert_eq!(world.told().await, ["a connected", "a lost its socket", replaced, "a connected, replacing"]);
        is_unknown(&world, &old).await;
        new.client.close(1000, "").await;
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_kick_ends_a_session_without_a_socket_and_tells_what_was_not_acknowledged() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    let written = world.send_acked("a", "written", "1").expect("room");
    speaker.hears_message().await;
    loses_its_socket(&mut speaker).await;
    let nameless = world.send("a", "2").expect("room");
    let never = world.send_acked("a", "never written", "3").expect("room");
    world.kick("a", 4000, "out").await;
    assert_eq!(world.told().await, ["a connected", "a lost its socket", "a gone: kicked 4000 out"]);
    assert_eq!(world.unacked(), (vec!["written".to_owned(), "never written".to_owned()], 3));
    assert_eq!(world.outcome(written).await, (Some(Stage::Written), Some(Failure::OutcomeUnknown)));
    // It was not written: with no socket there is nothing that could have taken it.
    for accepted in [nameless, never] {
        assert_eq!(world.outcome(accepted).await, (Some(Stage::Accepted), Some(Failure::OutcomeUnknown)));
    }
    assert_eq!(world.host.metrics.sends.of(crate::metrics::SendOutcome::Dropped).get(), 2);
    is_unknown(&world, &speaker).await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_resumes_at_the_moment_of_a_kick_gets_what_it_missed_and_then_the_close() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut speaker = world.speaker("a").await;
    for text in ["1", "2"] {
        world.send("a", text).expect("room");
        speaker.hears_message().await;
    }
    speaker.received = 0;
    loses_its_socket(&mut speaker).await;
    world.send("a", "3").expect("room");
    let mut again = world.mute(None).await;
    again.say(speaker.resume()).await;
    let connection = world.registry.open(&target("a")).pop().expect("connected");
    // Both before its driver has its turn: the resume has been offered, and the end is submitted.
    for _ in 0..100 {
        if connection.has(crate::registry::signal::RESUME) {
            break;
        }
        tokio::task::yield_now().await;
    }
    world.registry.end(&connection, CloseReason::Kicked(4000, "out".into()));
    let (said, close) = again.hears_out().await;
    if said.first().is_some_and(|first| first["type"] == "hello") {
        let texts: Vec<_> = said.iter().filter_map(|envelope| envelope["text"].as_str()).collect();
        assert_eq!((texts, close.expect("a Close").0), (vec!["1", "2", "3"], 4000));
    } else {
        // The end was first.
        assert_eq!(close.expect("a Close").0, 4404);
    }
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_kick_right_after_a_resume_is_told_after_what_was_missed() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut speaker = world.speaker("a").await;
    let large = "x".repeat(PIPE);
    for text in ["1", &large, "3"] {
        world.send("a", text).expect("room");
        assert!(speaker.hears_message().await == text);
    }
    speaker.received = 0;
    loses_its_socket(&mut speaker).await;
    let mut again = world.mute(None).await;
    again.say(speaker.resume()).await;
    // The large one fills the pipe: the third is still to be sent again.
    settle().await;
    let connection = world.registry.open(&target("a")).pop().expect("connected");
    world.registry.end(&connection, CloseReason::Kicked(4000, "out".into()));
    let (said, close) = again.hears_out().await;
    assert_eq!(close.expect("a Close").0, 4000);
    assert_eq!(said.iter().filter(|envelope| envelope["type"] == "message").count(), 3);
    assert_eq!(said.last().expect("a bye")["type"], "bye");
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_sessions_without_a_socket_at_once_and_lets_none_lose_theirs() {
    let world = World::new(|_| {});
    let mut lost = world.speaker("a").await;
    let mut others = Vec::new();
    for i in 0..20 {
        others.push(world.speaker(&format!("b{i}")).await);
    }
    loses_its_socket(&mut lost).await;
    let drain = Drain::new(Arc::clone(&world.registry));
    drain.begin(Pace { per_second: 10, reconnect_jitter: SECOND });
    settle().await;
    let ended = |world: &World, name: &str| {
        let records = world.records();
        records.iter().any(|record| {
            record.event.kind.tag() == KindTag::Disconnected && record.event.connection.client_id.as_str() == name
        })
    };
    assert!(ended(&world, "a"));
    loses_its_socket(&mut others[19]).await;
    assert!(ended(&world, "b19"), "no resume is waited for any more");
    assert!(!ended(&world, "b18"), "the others have time");
    pass(3 * SECOND).await;
    for other in &mut others {
        other.hears_out().await;
    }
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn where_the_log_has_no_room_the_loss_is_told_later_and_a_resume_waits_but_not_for_ever() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    let room = world.log.budget().try_reserve(usize::MAX).expect("an empty log");
    loses_its_socket(&mut speaker).await;
    assert_eq!(world.told().await, ["a connected"]);
    let mut refused = world.mute(None).await;
    refused.say(speaker.resume()).await;
    let (said, close) = refused.hears_out().await;
    assert_eq!((said, close.expect("a Close").0), (vec![], 1013), "the session is not over");
    let mut again = world.mute(None).await;
    again.say(speaker.resume()).await;
    settle().await;
    drop(room);
    assert_eq!(again.hears().await["resumed"], true);
    assert_eq!(world.told().await, ["a connected", "a lost its socket", "a resumed"]);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_node_lets_its_sessions_go_on_and_nobody_else_in() {
    let world = World::new(|options| options.places = 2);
    let (mut lost, mut half_open) = (world.speaker("a").await, world.speaker("b").await);
    loses_its_socket(&mut lost).await;
    let mut newcomer = world.mute(Some("c")).await;
    newcomer.say(json!({"type": "hello"})).await;
    assert_eq!(newcomer.hears_out().await.1.expect("a Close").0, 1013);
    let mut again = world.resumed(&lost).await;
    let mut other = world.resumed(&half_open).await;
    assert_eq!(half_open.hears_out().await.1.expect("a Close").0, 4409);
    // Their places are theirs, and those that they came in with are free again.
    let mut third = world.resumed(&again).await;
    again.hears_out().await;
    third.client.close(1000, "").await;
    third.hears_out().await;
    let mut newcomer = world.speaker("c").await;
    newcomer.client.close(1000, "").await;
    other.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn while_the_log_fails_no_window_runs_out() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    loses_its_socket(&mut speaker).await;
    world.log.budget().set_open(false);
    pass(100 * SECOND).await;
    assert_eq!(world.told().await, ["a connected", "a lost its socket"]);
    world.log.budget().set_open(true);
    speaker = world.resumed(&speaker).await;
    loses_its_socket(&mut speaker).await;
    pass(31 * SECOND).await;
    assert_eq!(world.told().await.last().map(String::as_str), Some(GONE));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn what_expires_without_a_socket_is_told_and_leaves_its_place_to_others() {
    let world = World::new(|options| options.registry.outbox.frames = 1);
    let mut speaker = world.speaker("a").await;
    loses_its_socket(&mut speaker).await;
    let late = Outgoing { deadline: Some(Instant::now() + SECOND), ..World::outgoing("a", "late") };
    let late = world.dispatch.accept(&late).expect("room");
    assert_eq!(world.send("a", "too early").err(), Some(SendError::OutboxFull));
    pass(2 * SECOND).await;
    world.send("a", "in its place").expect("room");
    assert_eq!(world.dispatch.settle(late, SECOND).await, Err(SendError::Expired));
    let mut again = world.resumed(&speaker).await;
    assert_eq!(again.hears_message().await, "in its place");
    assert_eq!(world.host.metrics.sends.of(crate::metrics::SendOutcome::Dropped).get(), 1);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_room_in_the_log_when_the_socket_is_lost_comes_again() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut speaker = world.speaker("a").await;
    let room = world.log.budget().try_reserve(usize::MAX).expect("an empty log");
    speaker.message("1").await;
    settle().await;
    // Nothing is read from it any more, so only a write finds its socket gone.
    loses_its_socket(&mut speaker).await;
    world.send("a", "are you there?").expect("room");
    settle().await;
    drop(room);
    settle().await;
    let mut again = world.resumed(&speaker).await;
    assert_eq!(again.hello["received"], 0);
    again.message("1").await;
    again.is_acked(1).await;
    assert_eq!(world.messages().len(), 1);
    again.client.close(1000, "").await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn of_two_that_resume_at_once_the_newer_goes_on() {
    let world = World::new(|_| {});
    let mut speaker = world.speaker("a").await;
    loses_its_socket(&mut speaker).await;
    let (mut one, mut two) = (world.mute(None).await, world.mute(None).await);
    one.say(speaker.resume()).await;
    two.say(speaker.resume()).await;
    assert_eq!(two.hears().await["resumed"], true);
    assert_eq!(one.hears_out().await.1.expect("a Close").0, 4409);
    two.client.close(1000, "").await;
    world.rests().await;
}

/// A client and a backend that talk while sockets break; each side gets everything once and in order.
async fn play(seed: u64) {
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let mut world = World::new(|options| {
        options.connection.rates = Rates { messages: 0, bytes: 0 };
        options.connection.uncommitted = random.u32(500..5_000);
        options.registry.outbox = OutboxLimits { frames: 2_000, bytes: 1 << 20 };
    });
    let mut speaker = world.speaker("a").await;
    // What the client has said and the server has not acknowledged.
    let mut unacked: VecDeque<(u64, String)> = VecDeque::new();
    let (mut said, mut sent, mut got, mut resumes) = (0u64, 0u64, Vec::new(), 0);
    let note = |unacked: &mut VecDeque<(u64, String)>, received: u64| {
        while unacked.front().is_some_and(|(number, _)| *number <= received) {
            unacked.pop_front();
        }
    };
    for _ in 0..300 {
        match random.u8(0..20) {
            0..6 => {
                said += 1;
                speaker.sent = said - 1;
                let text = format!("{said} {}", "x".repeat(random.usize(0..300)));
                unacked.push_back((said, text.clone()));
                speaker.message(&text).await;
            }
            6..12 => {
                sent += 1;
                let _ = world.send("a", &sent.to_string()).expect("room");
            }
            12..14 => {
                let received = speaker.received;
                speaker.say(json!({"type": "heartbeat", "received": received})).await;
            }
            14 if world.commits.is_some() => world.stall_commits().await,
            15 if world.commits.is_none() => world.resume_commits(),
            16 => settle().await,
            17.. => {
                // It may not have read everything that came before its socket broke.
                for _ in 0..random.usize(0..20) {
                    let Ok(envelope) = tokio::time::timeout(Duration::from_millis(2), speaker.hears()).await else {
                        break;
                    };
                    if envelope["type"] == "message" && envelope["seq"] == speaker.received + 1 {
                        speaker.received += 1;
                        got.push(envelope["text"].as_str().expect("a text").to_owned());
                    }
                    if let Some(received) = envelope["received"].as_u64() {
                        note(&mut unacked, received);
                    }
                }
                if random.bool() {
                    loses_its_socket(&mut speaker).await;
                    pass(random.u32(0..10) * SECOND).await;
                }
                speaker = world.resumed(&speaker).await;
                resumes += 1;
                note(&mut unacked, speaker.sent);
                for (number, text) in &unacked {
                    speaker.sent = number - 1;
                    speaker.message(text).await;
                }
            }
            _ => {}
        }
    }
    if world.commits.is_none() {
        world.resume_commits();
    }
    let mut last = world.resumed(&speaker).await;
    note(&mut unacked, last.sent);
    for (number, text) in &unacked {
        last.sent = number - 1;
        last.message(text).await;
    }
    while (got.len() as u64) < sent {
        got.push(last.hears_message().await);
    }
    last.client.close(1000, "").await;
    settle().await;
    assert_eq!(got, (1..=sent).map(|i| i.to_string()).collect::<Vec<_>>(), "seed {seed}");
    let heard: Vec<_> = world
        .messages()
        .iter()
        .map(|payload| String::from_utf8_lossy(payload.bytes()).split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(heard, (1..=said).map(|i| i.to_string()).collect::<Vec<_>>(), "seed {seed}");
    assert!(resumes > 5);
    drop(speaker);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_both_sides_get_everything_once_and_in_order() {
    for seed in 0..40 {
        play(seed).await;
    }
}
