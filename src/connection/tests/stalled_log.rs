//! A log that commits nothing, or has no room: who waits, how long, and what goes on meanwhile.

use super::client::TEXT;
use super::*;
use crate::log::Slot;

const OVERLOADED: (u16, &str) = (1013, "Overloaded, try later");
const GONE: &str = "a gone: overloaded 1013 Overloaded, try later";

/// Little may be uncommitted, and silence is noticed within a log's deadline.
fn tight(options: &mut Options) {
    options.connection.uncommitted = 1_000;
    options.connection.server_beat = ServerBeat::Off;
    options.registry.cadence = Cadence { interval: 2_000, timeout: 4_000 };
}

/// All the room that a log has.
fn fill(world: &World) -> Slot {
    world.log.budget().try_reserve(usize::MAX).expect("an empty log")
}

fn closed(close: (u16, String)) {
    assert_eq!((close.0, close.1.as_str()), OVERLOADED);
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_waits_for_its_commit_and_is_read_no_further_until_then() {
    let mut world = World::new(|_| {});
    world.stall_commits().await;
    let mut client = world.client("a").await;
    client.text("hello").await;
    client.text("heartbeat").await;
    pass(4 * SECOND).await;
    assert_eq!(world.told().await, [""; 0]);
    assert_eq!(world.registry.count(), 0, "nor listed");
    assert!(world.send("a", "hi").is_err(), "nor sent to");
    world.resume_commits();
    assert_eq!(world.told().await, ["a connected", "a said hello"]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whose_commit_does_not_come_in_five_seconds_is_turned_away_and_accounted_for() {
    let mut world = World::new(|_| {});
    world.stall_commits().await;
    let mut client = world.client("a").await;
    let began = Instant::now();
    closed(client.is_closed().await);
    assert!((4_900..5_100).contains(&began.elapsed().as_millis()));
    assert_eq!(world.told().await, [""; 0]);
    world.resume_commits();
    assert_eq!(world.told().await, ["a connected", GONE]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_for_whom_the_log_has_no_room_is_turned_away_and_nothing_is_logged() {
    let world = World::new(|_| {});
    let room = fill(&world);
    let mut client = world.client("a").await;
    let began = Instant::now();
    closed(client.is_closed().await);
    assert_eq!(began.elapsed().as_millis().div_ceil(100), 50);
    drop(room);
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_replaces_one_not_yet_committed_is_told_in_order_when_commits_resume() {
    let mut world = World::new(|_| {});
    world.stall_commits().await;
    let mut old = world.client("a").await;
    let new = world.client("a").await;
    // It is not read before its commit, but it is over, and so it may be told.
    world.resume_commits();
    assert_eq!(old.is_closed().await.0, 4409);
    let gone = "a gone: replaced 4409 Replaced by a newer connection";
    assert_eq!(world.told().await, ["a connected", gone, "a connected, replacing"]);
    drop(new);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn beyond_the_allowance_of_uncommitted_bytes_no_more_is_read_until_the_log_has_caught_up() {
    let mut world = World::new(tight);
    let mut client = world.client("a").await;
    world.stall_commits().await;
    let mut expected = vec!["a connected".to_owned()];
    for i in 0..20 {
        let text = format!("{i:0>100}");
        client.text(&text).await;
        expected.push(format!("a said {text}"));
    }
    pass(3 * SECOND).await;
    // Each counts 228: the fifth goes over a thousand.
    assert_eq!(world.stats("a").messages_in, 5);
    world.resume_commits();
    assert_eq!(world.told().await, expected);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_pipe_pushes_back_on_a_client_whose_messages_wait() {
    let mut world = World::new(tight);
    let mut raw = client::Raw::new(world.open(Some("a"), 1_000));
    settle().await;
    world.stall_commits().await;
    let writing = tokio::spawn(async move {
        for i in 0..20 {
            raw.frame(TEXT, &[b'a' + i; 500]).await;
        }
        raw
    });
    pass(5 * SECOND).await;
    assert!(!writing.is_finished());
    assert_eq!(world.stats("a").messages_in, 2);
    world.resume_commits();
    let raw = writing.await.expect("written");
    settle().await;
    assert_eq!(world.messages().len(), 20);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn silence_does_not_count_while_the_server_does_not_read_and_counts_anew_afterwards() {
    for (full, any_frame_counts) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut world = World::new(|options| {
            tight(options);
            options.connection.any_frame_counts = any_frame_counts;
        });
        let mut raw = world.raw("a").await;
        let room = if full {
            Some(fill(&world))
        } else {
            world.stall_commits().await;
            None
        };
        raw.frame(TEXT, &[b'x'; 1_000]).await;
        pass(8 * SECOND).await;
        assert!(!world.registry.open(&target("a")).is_empty(), "neither suspect nor expired");
        drop(room);
        if !full {
            world.resume_commits();
        }
        pass(2 * SECOND).await;
        assert_eq!(world.told().await.len(), 2, "nothing but a message came of it");
        pass(3 * SECOND).await;
        let suspected = world.times(KindTag::Suspected)[0];
        let gone = world.times(KindTag::Disconnected)[0];
        assert!((11_000..11_200).contains(&suspected) && (12_000..12_200).contains(&gone), "{suspected} {gone}");
        assert_eq!(raw.is_closed().await.0, 4408);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_messages_wait_ten_seconds_is_turned_away() {
    let mut world = World::new(tight);
    let mut client = world.client("a").await;
    world.stall_commits().await;
    let long = "x".repeat(1_000);
    client.text(&long).await;
    client.text("never read").await;
    let began = Instant::now();
    closed(client.is_closed().await);
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(world.told().await, ["a connected"]);
    world.resume_commits();
    // What was taken stands; what was not is not delivered after the end.
    assert_eq!(world.told().await, ["a connected", &format!("a said {long}"), GONE]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_for_which_the_log_has_no_room_waits_ten_seconds_and_no_longer() {
    for freed_after in [5, 15] {
        let world = World::new(tight);
        let mut client = world.client("a").await;
        let room = fill(&world);
        client.text("1").await;
        client.text("2").await;
        let began = Instant::now();
        if freed_after < 10 {
            pass(freed_after * SECOND).await;
            drop(room);
            assert_eq!(world.told().await, ["a connected", "a said 1", "a said 2"]);
            drop(client);
        } else {
            closed(client.is_closed().await);
            assert_eq!(began.elapsed().as_secs(), 10);
            drop(room);
            // Its Disconnected needs no room.
            assert_eq!(world.told().await, ["a connected", GONE]);
        }
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn frames_and_heartbeats_to_a_client_go_on_while_its_messages_wait() {
    let mut world = World::new(|options| {
        tight(options);
        options.connection.server_beat = ServerBeat::Both;
    });
    let mut client = world.client("a").await;
    world.stall_commits().await;
    client.text(&"x".repeat(1_000)).await;
    settle().await;
    let heard = client.listens(5 * SECOND).await;
    assert!(heard.iter().any(|message| message.is_ping()) && heard.iter().any(|message| message.is_text()));
    let sent = world.send("a", "hello").expect("room");
    settle().await;
    assert_eq!(world.outcome(sent).await.0, Some(Stage::Written));
    world.resume_commits();
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_kick_ends_a_client_whose_messages_wait() {
    for full in [false, true] {
        let mut world = World::new(tight);
        let mut client = world.client("a").await;
        let room = if full {
            Some(fill(&world))
        } else {
            world.stall_commits().await;
            None
        };
        client.text(&"x".repeat(1_000)).await;
        settle().await;
        let began = Instant::now();
        let registry = Arc::clone(&world.registry);
        let kick = tokio::spawn(async move { registry.disconnect(&target("a"), 4000, "bye", None).await });
        assert_eq!(client.is_closed().await, (4000, "bye".into()));
        assert!(began.elapsed() < SECOND, "told at once");
        drop(room);
        if !full {
            assert!(!kick.is_finished(), "the backend waits for the log");
            world.resume_commits();
        }
        kick.await.expect("no panic").expect("disconnected");
        assert_eq!(world.count(KindTag::MessageReceived), usize::from(!full), "what was not taken is not delivered");
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_sends_and_closes_while_its_messages_wait_is_delivered_in_order() {
    let mut world = World::new(tight);
    let mut client = world.client("a").await;
    world.stall_commits().await;
    let long = "x".repeat(1_000);
    client.text(&long).await;
    client.text("2").await;
    client.close(1000, "bye").await;
    drop(client);
    pass(9 * SECOND).await;
    world.resume_commits();
    let told = world.told().await;
    assert_eq!(told, ["a connected", &format!("a said {long}"), "a said 2", "a gone: client_closed 1000 bye"]);
    world.rests().await;
}
