//! Who a client is: its handshake, its first data frame, or an id that it is given.

use tokio_tungstenite::tungstenite::Message;

use super::client::{PING, PONG, Raw, TEXT};
use super::*;

/// What a stranger is told whose first frame is this.
async fn refused(configure: impl FnOnce(&mut Options), first: Message) -> (u16, String) {
    let world = World::new(configure);
    let mut client = world.stranger().await;
    client.send(first).await;
    let close = client.is_closed().await;
    assert_eq!(world.told().await, [""; 0], "nothing is logged of who never connected");
    world.rests().await;
    close
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_with_a_separator_names_the_connection() {
    for first in ["heartbeat:alice", "heartbeat alice", "heartbeat=alice", "  heartbeat: alice\r\n"] {
        let world = World::new(|_| {});
        let mut client = world.stranger().await;
        client.text(first).await;
        assert_eq!(world.told().await, ["alice connected"], "{first:?}");
        drop(client);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_without_a_separator_is_given_the_connections_id() {
    for first in ["heartbeat", "heartbeatalice", "heartbeat2026-11-23T10:00:00", " heartbeat\t", "heartbeat-alice"] {
        let world = World::new(|_| {});
        let mut client = world.stranger().await;
        client.text(first).await;
        assert_eq!(world.told().await, ["~ connected"], "{first:?}");
        drop(client);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_business_message_as_the_first_frame_is_delivered_after_connected() {
    for (first, told) in
        [(Message::text(" hello "), "~ said  hello "), (Message::binary(vec![0, 255]), "~ sent b\"\\0\\xff\"")]
    {
        let world = World::new(|_| {});
        let mut client = world.stranger().await;
        client.send(first).await;
        assert_eq!(world.told().await, ["~ connected", told]);
        drop(client);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_heartbeat_with_another_name_does_not_rename() {
    let world = World::new(|_| {});
    let mut client = world.stranger().await;
    client.text("heartbeat:alice").await;
    client.text("heartbeat:bob").await;
    client.text("heartbeat:~x").await;
    client.text("still here").await;
    assert_eq!(world.told().await, ["alice connected", "alice said still here"]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn one_named_in_its_handshake_is_connected_before_it_says_anything() {
    let world = World::new(|_| {});
    let mut client = world.client("alice").await;
    assert_eq!(world.told().await, ["alice connected"]);
    client.text("heartbeat:bob").await;
    assert_eq!(world.told().await, ["alice connected"]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_follow_the_first_at_once_are_delivered_in_order() {
    let world = World::new(|_| {});
    let mut raw = Raw::new(world.open(None, PIPE));
    let burst = [client::frame(TEXT, b"heartbeat:a"), client::frame(TEXT, b"1"), client::frame(TEXT, b"2")].concat();
    raw.send(&burst).await;
    assert_eq!(world.told().await, ["a connected", "a said 1", "a said 2"]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn pings_and_pongs_do_not_identify_but_are_answered() {
    let world = World::new(|_| {});
    let mut raw = Raw::new(world.open(None, PIPE));
    raw.frame(PING, b"there?").await;
    raw.frame(PONG, b"").await;
    let pong = raw.next().await.expect("a Pong");
    assert_eq!((pong.head, &pong.payload[..]), (PONG, &b"there?"[..]));
    assert_eq!(world.told().await, [""; 0]);
    raw.frame(TEXT, b"heartbeat:alice").await;
    assert_eq!(world.told().await, ["alice connected"]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_closed_when_the_identify_timeout_is_over() {
    let world = World::new(|_| {});
    let mut client = world.stranger().await;
    let began = Instant::now();
    assert_eq!(client.is_closed().await, (4411, "No data frame within the identify timeout".into()));
    assert_eq!(began.elapsed().as_secs(), 10);
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn pings_do_not_extend_the_identify_timeout_nor_does_a_message_that_never_ends() {
    for trickle in [client::frame(PING, b""), client::frame(client::TEXT_BEGINS, b"a")] {
        let world = World::new(|_| {});
        let mut raw = Raw::new(world.open(None, PIPE));
        let mut next = trickle;
        for _ in 0..9 {
            raw.send(&next).await;
            if next[0] == client::TEXT_BEGINS {
                next[0] = client::GOES_ON;
            }
            pass(SECOND).await;
        }
        let began = Instant::now();
        assert_eq!(raw.is_closed().await.0, 4411);
        assert_eq!(began.elapsed().as_secs(), 1);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ids_that_are_not_allowed_are_closed_with_the_rule_they_break() {
    let long = format!("heartbeat:{}", "x".repeat(129));
    for (first, reason) in [
        ("heartbeat:", "client id is empty"),
        ("heartbeat: \t", "client id is empty"),
        (long.as_str(), "client id has 129 bytes, at most 128 are allowed"),
        ("heartbeat:a\u{7}b", "client id has a control character"),
        ("heartbeat:~x", "client id begins with `~`, which is kept for assigned ids"),
    ] {
        assert_eq!(refused(|_| {}, Message::text(first)).await, (4400, reason.into()), "{first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_id_is_allowed() {
    let world = World::new(|_| {});
    let mut client = world.stranger().await;
    let id = "é".repeat(64);
    client.text(&format!("heartbeat:{id}")).await;
    assert_eq!(world.told().await, [format!("{id} connected")]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn where_ids_are_not_assigned_the_first_frame_must_name_one() {
    let reject = |options: &mut Options| options.connection.assign_ids = false;
    for first in [Message::text("heartbeat"), Message::text("hello"), Message::binary(vec![1])] {
        let (code, reason) = refused(reject, first).await;
        assert_eq!(code, 4400);
        assert!(reason.contains("heartbeat:<id>"), "{reason}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_text_as_the_first_frame_is_closed_as_asked() {
    assert_eq!(refused(|_| {}, Message::text("")).await, (1000, "Closed by client".into()));
}

#[tokio::test(start_paused = true)]
async fn a_close_as_the_first_frame_is_answered_and_nothing_is_logged() {
    let world = World::new(|_| {});
    let mut client = world.stranger().await;
    client.close(1000, "changed my mind").await;
    assert_eq!(client.is_closed().await, (1000, "changed my mind".into()));
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_first_frame_is_closed_with_its_code_and_nothing_is_logged() {
    for (bytes, code) in [
        (vec![0x81, 0x01, b'x'], 1002),
        (client::frame(TEXT, &[0xff]), 1007),
        (client::header(client::BINARY, 64 * 1024 + 1), 1009),
    ] {
        let world = World::new(|_| {});
        let mut raw = Raw::new(world.open(None, PIPE));
        raw.send(&bytes).await;
        assert_eq!(raw.is_closed().await.0, code);
        drop(raw);
        assert_eq!(world.told().await, [""; 0]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_while_identifying_closes_with_a_hint_when_to_come_back() {
    let world = World::new(|_| {});
    let mut client = world.stranger().await;
    settle().await;
    world.registry.begin_drain();
    world.host.draining.cancel();
    let (code, reason) = client.is_closed().await;
    let hint = reason.strip_prefix("Closed by server: restart; reconnect_after_ms=").expect("a hint");
    assert_eq!(code, 1012);
    assert!(hint.parse::<u64>().expect("a number") <= 5_000);
    let mut late = Client::new(world.open(Some("late"), PIPE)).await;
    assert_eq!(late.is_closed().await.0, 1012);
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}
