//! Whose resume goes on, and whose is refused.

use super::*;

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
