//! How connections end: by either side's Close, by the empty text, by the end of the stream.

use tokio_tungstenite::tungstenite::Message;

use super::client::{CLOSE, PING, PONG, TEXT, close_payload, frame};
use super::*;

#[tokio::test(start_paused = true)]
async fn an_empty_text_asks_to_be_closed() {
    for empty in ["", " ", "\t\r\n "] {
        let world = World::new(|_| {});
        let mut client = world.client("a").await;
        client.text(empty).await;
        assert_eq!(client.is_closed().await, (1000, "Closed by client".into()));
        assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1000 Closed by client"]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_binary_message_is_business() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    client.send(Message::binary(vec![])).await;
    assert_eq!(world.told().await, ["a connected", "a sent b\"\""]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_clients_close_is_answered_and_logged_with_its_code_and_reason() {
    for (code, reason) in [(1000, "bye"), (1001, ""), (4000, "own code"), (3999, "é")] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        raw.frame(CLOSE, &close_payload(code, reason)).await;
        let answer = raw.next_but_pings().await.expect("a Close");
        assert_eq!((answer.head, answer.payload), (CLOSE, close_payload(code, reason).to_vec()));
        assert_eq!(raw.next().await, None, "the server ends the stream first");
        assert_eq!(world.told().await, ["a connected".into(), format!("a gone: client_closed {code} {reason}")]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_without_a_code_is_answered_alike_and_logged_as_1005() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(CLOSE, b"").await;
    let answer = raw.next_but_pings().await.expect("a Close");
    assert_eq!((answer.head, answer.payload), (CLOSE, vec![]));
    assert_eq!(raw.next().await, None);
    assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1005 "]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_of_stream_without_a_close_is_a_lost_connection() {
    let world = World::new(|_| {});
    let client = world.client("a").await;
    drop(client);
    assert_eq!(world.told().await, ["a connected", "a gone: connection_lost 1006 Connection lost"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_half_close_is_a_lost_connection_and_ends_the_other_half() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(TEXT, b"last words").await;
    raw.half_closes().await;
    assert_eq!(raw.next_but_pings().await, None, "no Close to one that said none, and no wait for it either");
    let told = ["a connected", "a said last words", "a gone: connection_lost 1006 Connection lost"];
    assert_eq!(world.told().await, told);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_cut_short_by_the_end_of_the_stream_is_not_delivered() {
    let whole = frame(TEXT, b"hello world");
    for len in 1..whole.len() {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        raw.send(&whole[..len]).await;
        settle().await;
        drop(raw);
        assert_eq!(world.told().await, ["a connected", "a gone: connection_lost 1006 Connection lost"], "{len}");
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_before_the_end_of_the_stream_is_delivered() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    client.text("1").await;
    client.text("2").await;
    client.close(1000, "bye").await;
    drop(client);
    assert_eq!(world.told().await, ["a connected", "a said 1", "a said 2", "a gone: client_closed 1000 bye"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_after_the_clients_close_is_delivered() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    let burst = [frame(TEXT, b"before"), frame(CLOSE, &close_payload(1000, "")), frame(TEXT, b"after")].concat();
    raw.send(&burst).await;
    assert_eq!(world.told().await, ["a connected", "a said before", "a gone: client_closed 1000 "]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_after_the_servers_close_is_delivered_and_no_ping_is_answered() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.send(&[frame(TEXT, b""), frame(TEXT, b"after"), frame(PING, b"1")].concat()).await;
    let close = raw.next_but_pings().await.expect("a Close");
    assert_eq!((close.head, close.payload), (CLOSE, close_payload(1000, "Closed by client").to_vec()));
    raw.send(&[frame(TEXT, b"more"), frame(PING, b"2"), frame(PONG, b"")].concat()).await;
    raw.frame(CLOSE, &close_payload(1000, "")).await;
    assert_eq!(raw.next().await, None, "nothing after a Close");
    assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1000 Closed by client"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_answers_our_close_is_dropped_after_two_seconds() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    let began = Instant::now();
    raw.frame(TEXT, b"").await;
    assert_eq!(raw.next_but_pings().await.expect("a Close").head, CLOSE);
    assert_eq!(world.count(KindTag::Disconnected), 1, "the end is not delayed by it");
    assert!(began.elapsed() < SECOND);
    assert_eq!(raw.next().await, None);
    assert_eq!(began.elapsed().as_secs(), 2);
    settle().await;
    assert!(world.host.tasks.is_empty(), "no task is left");
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_talking_after_our_close_is_dropped_after_two_seconds() {
    let world = World::new(|_| {});
    let raw = world.raw("a").await;
    let (mut reader, mut writer) = tokio::io::split(raw.0);
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        let mut next = frame(TEXT, b"");
        while writer.write_all(&next).await.is_ok() {
            next = frame(TEXT, b"and another thing");
            pass(Duration::from_millis(1)).await;
        }
    });
    let began = Instant::now();
    let mut received = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received).await.expect("readable");
    // Its socket may be shut down for writing at once; the place and the task are free within two seconds.
    pass(2 * SECOND + Duration::from_millis(10) - began.elapsed()).await;
    assert!(world.host.tasks.is_empty(), "no task is left");
    assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1000 Closed by client"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_dropped_two_seconds_after_its_end() {
    let world = World::new(|_| {});
    // Not even a Close fits.
    let raw = client::Raw::new(world.open(Some("a"), 3));
    settle().await;
    let began = Instant::now();
    world.kick("a", 4000, "enough").await;
    assert!(began.elapsed() < SECOND, "a backend does not wait for it");
    pass(Duration::from_millis(1_900)).await;
    assert!(!world.host.tasks.is_empty());
    pass(Duration::from_millis(200)).await;
    assert!(world.host.tasks.is_empty(), "no task is left");
    assert_eq!(world.told().await, ["a connected", "a gone: kicked 4000 enough"]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_kick_closes_with_the_backends_code_and_reason() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    world.kick("a", 4321, "because").await;
    assert_eq!(client.is_closed().await, (4321, "because".into()));
    assert_eq!(world.told().await, ["a connected", "a gone: kicked 4321 because"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn when_both_sides_close_at_once_the_first_cause_stands_and_there_is_one_end() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    client.close(4000, "mine").await;
    // Nothing was run since: the kick is first.
    world.kick("a", 4001, "yours").await;
    client.hears_out().await;
    assert_eq!(world.told().await, ["a connected", "a gone: kicked 4001 yours"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_tells_how_long_it_lasted_and_what_passed() {
    let world = World::new(|_| {});
    let mut client = world.client("a").await;
    client.text("12345").await;
    client.send(Message::binary(vec![1, 2])).await;
    client.text("heartbeat").await;
    world.dispatch.accept(&World::outgoing("a", "123")).expect("accepted");
    pass(7 * SECOND).await;
    drop(client);
    settle().await;
    let last = world.records().pop().expect("an end");
    let EventKind::Disconnected(end) = &last.event.kind else { panic!("{last:?}") };
    assert_eq!(end.connected_for.as_secs(), 7);
    let stats = end.stats.expect("observed here");
    assert_eq!((stats.messages_in, stats.bytes_in, stats.messages_out, stats.bytes_out), (2, 7, 1, 3));
    assert_eq!((last.event.time - stats.last_seen) / 1_000_000_000, 7);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_client_said_before_it_went_is_read_although_nothing_can_be_written_to_it_any_more() {
    for (beat, send) in [(false, false), (false, true), (true, false), (true, true)] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        if send {
            world.send("a", "are you there?").expect("room");
        }
        if beat {
            raw.frame(PING, b"").await;
        }
        raw.frame(TEXT, b"last words").await;
        raw.frame(CLOSE, &close_payload(1000, "bye")).await;
        drop(raw);
        let told = ["a connected", "a said last words", "a gone: client_closed 1000 bye"];
        assert_eq!(world.told().await, told, "beat: {beat}, send: {send}");
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_is_found_behind_much_else_but_is_no_good_end_of_what_the_log_had_no_room_for() {
    for full in [false, true] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        let room = full.then(|| world.log.budget().try_reserve(usize::MAX).expect("an empty log"));
        if full {
            raw.frame(TEXT, b"no room").await;
            settle().await;
        }
        world.send("a", "are you there?").expect("room");
        for _ in 0..100 {
            raw.frame(TEXT, b"last words").await;
        }
        raw.frame(CLOSE, &close_payload(1000, "bye")).await;
        drop(raw);
        settle().await;
        drop(room);
        let told = world.told().await;
        let end = if full { "a gone: connection_lost 1006 Connection lost" } else { "a gone: client_closed 1000 bye" };
        assert_eq!(told.last().map(String::as_str), Some(end));
        assert_eq!(told.len(), if full { 2 } else { 102 });
        world.rests().await;
    }
}
