//! A session without a socket: how long it is kept, and what it is told of meanwhile.

use super::*;

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
