//! Sessions that the server ends, without a socket or in the moment of a resume.

use super::*;
use crate::close::CloseReason;
use crate::drain::{Drain, Pace};

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
