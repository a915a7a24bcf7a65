//! Floods are noticed by their kind and closed with 4429; lively clients are not.

use super::client::{BINARY, ENDS, GOES_ON, PING, PONG, Raw, TEXT, TEXT_BEGINS, frame};
use super::*;

/// Writes the same bytes again and again until so many times or the server does not take them; answers how the server closed.
async fn flood(raw: Raw, bytes: Vec<u8>, times: usize) -> (u16, String) {
    let (mut reader, mut writer) = tokio::io::split(raw.0);
    let writing = tokio::spawn(async move {
        for _ in 0..times {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await.is_err() {
                break;
            }
        }
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    });
    let mut received = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received).await.expect("readable");
    writing.await.expect("wrote");
    let mut close = None;
    let mut rest = &received[..];
    while let [head, len, ..] = *rest {
        assert_eq!(close, None, "nothing after a Close");
        let (payload, after) = rest[2..].split_at(len.into());
        close = (head == client::CLOSE).then(|| client::code_and_reason(payload));
        rest = after;
    }
    close.expect("a Close at the end")
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_is_closed_and_what_was_within_the_burst_delivered() {
    for payload in [frame(TEXT, b"hi"), frame(BINARY, b"")] {
        let world = World::new(|_| {});
        let raw = world.raw("a").await;
        assert_eq!(flood(raw, payload, 1_000).await, (4429, "Rate limited: messages".into()));
        assert_eq!(
            world.told().await.last().map(String::as_str),
            Some("a gone: rate_limited 4429 Rate limited: messages")
        );
        assert_eq!(world.count(KindTag::MessageReceived), 200, "two seconds' worth");
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_bytes_is_closed_and_what_was_within_the_burst_delivered() {
    let world = World::new(|_| {});
    let raw = world.raw("a").await;
    assert_eq!(flood(raw, frame(BINARY, &[0; 64 * 1024]), 50).await, (4429, "Rate limited: bytes".into()));
    settle().await;
    assert_eq!(world.messages().len(), 8, "two seconds' worth");
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_pings_pongs_or_heartbeats_is_closed() {
    for beat in [frame(PING, b"x"), frame(PONG, b""), frame(TEXT, b"heartbeat"), frame(TEXT, b"heartbeat:me")] {
        let world = World::new(|_| {});
        let raw = world.raw("a").await;
        assert_eq!(flood(raw, beat, 1_000).await, (4429, "Rate limited: heartbeats and control frames".into()));
        assert_eq!(world.count(KindTag::MessageReceived), 0);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_before_the_client_is_known_is_closed_too() {
    for (beat, reason) in [
        (frame(PING, b""), "Rate limited: heartbeats and control frames"),
        (frame(PONG, b"x"), "Rate limited: heartbeats and control frames"),
    ] {
        let world = World::new(|_| {});
        let raw = Raw::new(world.open(None, PIPE));
        assert_eq!(flood(raw, beat, 1_000).await, (4429, reason.into()));
        assert_eq!(world.told().await, [""; 0]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_client_was_known_counts_afterwards() {
    let world = World::new(|_| {});
    let mut raw = Raw::new(world.open(None, PIPE));
    raw.send(&frame(PING, b"").repeat(150)).await;
    raw.frame(TEXT, b"heartbeat:a").await;
    settle().await;
    assert_eq!(flood(raw, frame(PING, b""), 60).await.0, 4429);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_fragments_is_closed() {
    let world = World::new(|options| options.connection.max_message = 1_024);
    let mut raw = world.raw("a").await;
    raw.frame(TEXT_BEGINS, b"").await;
    assert_eq!(flood(raw, frame(GOES_ON, b"").repeat(100), 1_000).await, (4429, "Rate limited: fragments".into()));
    assert_eq!(world.count(KindTag::MessageReceived), 0);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn control_frames_between_do_not_hide_a_flood_of_empty_fragments() {
    let world = World::new(|options| options.connection.max_message = 1_024);
    let mut raw = world.raw("a").await;
    raw.frame(TEXT_BEGINS, b"").await;
    let bytes = [frame(GOES_ON, b"").repeat(1_000), frame(PONG, &[0; 125])].concat();
    assert_eq!(flood(raw, bytes, 100).await, (4429, "Rate limited: fragments".into()));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_takes_more_than_a_minute_is_closed_however_it_is_trickled() {
    let in_fragments = |at: usize| frame(if at == 0 { TEXT_BEGINS } else { GOES_ON }, b"a");
    let in_one_frame = |at: usize| frame(TEXT, &[b'a'; 1_000])[at..=at].to_vec();
    let with_pings = |at: usize| [frame(if at == 0 { TEXT_BEGINS } else { GOES_ON }, b""), frame(PING, b"")].concat();
    let stops_and_pings = |at: usize| frame(if at == 0 { TEXT_BEGINS } else { PING }, b"");
    let ways: [&dyn Fn(usize) -> Vec<u8>; 4] = [&in_fragments, &in_one_frame, &with_pings, &stops_and_pings];
    for (number, next) in ways.into_iter().enumerate() {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        for at in 0..12 {
            raw.send(&next(at)).await;
            pass(5 * SECOND).await;
        }
        settle().await;
        assert_eq!(world.count(KindTag::Disconnected), 0, "{number}: not before the minute is over");
        raw.send(&next(12)).await;
        pass(SECOND).await;
        raw.send(&next(13)).await;
        let mut close = None;
        while let Some(frame) = raw.next().await {
            close = (frame.head == client::CLOSE).then(|| client::code_and_reason(&frame.payload));
        }
        assert_eq!(close, Some((4429, "Rate limited: fragments".into())), "{number}");
        drop(raw);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn slow_messages_that_end_within_the_minute_may_follow_each_other_for_ever() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    for _ in 0..20 {
        raw.frame(TEXT_BEGINS, b"a").await;
        pass(25 * SECOND).await;
        raw.frame(PING, b"").await;
        pass(25 * SECOND).await;
        // The next message begins in the same packet.
        raw.send(&[frame(ENDS, b"b"), frame(TEXT, b"x")].concat()).await;
    }
    settle().await;
    assert_eq!((world.messages().len(), world.count(KindTag::Disconnected)), (40, 0));
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_message_right_after_many_small_ones_is_no_flood() {
    let world = World::new(|options| {
        options.connection.max_message = 4_096;
        options.connection.rates = Rates { messages: 0, bytes: 0 };
    });
    let mut raw = world.raw("a").await;
    for _ in 0..20 {
        raw.send(&frame(TEXT, b"small").repeat(1_000)).await;
        raw.frame(BINARY, &[1; 4_096]).await;
        raw.send(&[frame(TEXT, b"s"), frame(BINARY, &[1; 4_096])].concat()).await;
    }
    settle().await;
    assert_eq!((world.messages().len(), world.count(KindTag::Disconnected)), (20 * 1_003, 0));
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_at_exactly_its_rates_is_never_closed() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    for _ in 0..300 {
        raw.send(&[frame(TEXT, b"x"), frame(TEXT, b"heartbeat")].concat().repeat(10)).await;
        pass(Duration::from_millis(100)).await;
    }
    assert_eq!((world.messages().len(), world.count(KindTag::Disconnected)), (3_000, 0));
    drop(raw);
    world.rests().await;
}
