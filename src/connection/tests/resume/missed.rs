//! What was under way when the socket was lost, in both directions.

use super::*;

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
