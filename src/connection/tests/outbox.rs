//! Frames to clients: in order, whole, before the Close or not at all; and what becomes of a client that does not take them.

use tokio::io::AsyncReadExt as _;

use super::client::{CLOSE, Frame, Raw, TEXT, close_payload, frame};
use super::*;
use crate::close::CloseReason;

/// More than is gathered for one write, so that the frame behind it stays in the outbox.
const LARGE: usize = 20_000;

const WRITTEN: (Option<Stage>, Option<Failure>) = (Some(Stage::Written), None);
const UNKNOWN: (Option<Stage>, Option<Failure>) = (Some(Stage::Accepted), Some(Failure::OutcomeUnknown));

fn quiet(options: &mut Options) {
    options.connection.server_beat = ServerBeat::Off;
}

/// A client with so narrow a pipe that little is taken before it reads.
async fn narrow(world: &World, name: &str) -> Raw {
    let raw = Raw::new(world.open(Some(name), 64));
    settle().await;
    raw
}

fn text(payload: &str) -> Frame {
    Frame { head: TEXT, payload: payload.into() }
}

#[tokio::test(start_paused = true)]
async fn frames_arrive_in_the_order_they_were_accepted_in() {
    for pipe in [1, 100, PIPE] {
        let world = World::new(|_| {});
        let mut client = Client::new(world.open(Some("a"), pipe)).await;
        settle().await;
        let texts: Vec<_> = (0..1_000).map(|i| format!("{i}{}", "x".repeat(i % 300))).collect();
        for text in &texts {
            world.send("a", text).expect("room");
        }
        for text in &texts {
            assert_eq!(&client.hears().await, text);
        }
        drop(client);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn binary_and_text_keep_their_kind_and_their_bytes() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    for len in [0, 1, 125, 126, 65_535, 65_536] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let payload = Payload::Binary(bytes.clone().into());
        world.dispatch.accept(&Outgoing { payload, ..World::outgoing("a", "") }).expect("room");
        assert_eq!(raw.next_but_pings().await, Some(Frame { head: client::BINARY, payload: bytes }));
    }
    world.send("a", "é").expect("room");
    assert_eq!(raw.next_but_pings().await, Some(text("é")));
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn written_means_that_the_pipe_has_taken_all_of_it_and_not_before() {
    let world = World::new(quiet);
    let mut raw = narrow(&world, "a").await;
    let small = world.send("a", "fits").expect("room");
    settle().await;
    assert_eq!(world.outcome(small).await, WRITTEN, "though nobody has read it");
    let long = "x".repeat(200);
    let large = world.send("a", &long).expect("room");
    settle().await;
    assert_eq!(world.dispatch.settle(large, SECOND).await.expect("kept").deliveries[0].stage, Some(Stage::Accepted));
    let large = world.send("a", &long).expect("room");
    assert_eq!([raw.next().await, raw.next().await], [Some(text("fits")), Some(text(&long))]);
    assert_eq!(raw.next().await, Some(text(&long)));
    assert_eq!(world.outcome(large).await, WRITTEN);
    assert_eq!(world.stats("a").messages_out, 3);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_before_another_ends_the_connection_is_delivered_before_the_close() {
    type End = fn(&World);
    let kick: End = |world| {
        let connection = world.registry.open(&target("a")).pop().expect("connected");
        world.registry.end(&connection, CloseReason::Kicked(4000, "bye".into()));
    };
    let drain: End = |world| {
        for connection in world.registry.begin_drain() {
            world.registry.end(&connection, CloseReason::Restart { reconnect_after: 7 });
        }
    };
    let replace: End = |world| drop(world.open(Some("a"), PIPE));
    for (end, code) in [(kick, 4000), (drain, 1012), (replace, 4409)] {
        for pipe in [10, PIPE] {
            let world = World::new(quiet);
            let mut client = Client::new(world.open(Some("a"), pipe)).await;
            settle().await;
            let long = "x".repeat(LARGE);
            let mut sent = Vec::new();
            for text in ["1", &long, "2", "3"] {
                sent.push(world.send("a", text).expect("room"));
            }
            end(&world);
            settle().await;
            assert!(world.send("a", "too late").is_err());
            let (texts, close) = client.hears_out().await;
            assert!(texts == ["1", &long, "2", "3"], "{code} {pipe}");
            assert_eq!(close.expect("a Close").0, code);
            for accepted in sent {
                assert_eq!(world.outcome(accepted).await, WRITTEN);
            }
            world.rests().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_fills_its_outbox_and_is_closed_as_slow() {
    let world = World::new(|options| {
        quiet(options);
        options.registry.outbox = OutboxLimits { frames: 4, bytes: 100_000 };
    });
    let mut raw = narrow(&world, "a").await;
    let mut other = world.client("b").await;
    let mut sent = vec![world.send("a", &"x".repeat(LARGE)).expect("room")];
    settle().await;
    for i in 0..4 {
        sent.push(world.send("a", &format!("{i}")).expect("room"));
    }
    assert_eq!(world.send("a", "one too many").err(), Some(SendError::OutboxFull));
    // It may talk as much as it likes.
    for _ in 0..9 {
        pass(SECOND).await;
        raw.frame(TEXT, b"heartbeat").await;
    }
    assert_eq!(world.count(KindTag::Disconnected), 0);
    pass(Duration::from_millis(1_100)).await;
    let gone = "a gone: slow_client 4413 Slow client: a write did not finish in time";
    assert_eq!(world.told().await.last().map(String::as_str), Some(gone));
    world.send("b", "unharmed").expect("room");
    assert_eq!(other.hears().await, "unharmed");
    pass(2 * SECOND).await;
    for accepted in sent {
        assert_eq!(world.outcome(accepted).await, UNKNOWN);
    }
    // What is in the pipe is the beginning of the one frame and nothing else.
    let mut received = Vec::new();
    raw.0.read_to_end(&mut received).await.expect("readable");
    let mut expected = vec![TEXT, 126];
    expected.extend((LARGE as u16).to_be_bytes());
    expected.resize(64, b'x');
    assert_eq!(received, expected);
    drop(other);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_reads_again_in_time_gets_the_begun_frame_whole_then_the_close() {
    let world = World::new(quiet);
    let mut raw = narrow(&world, "a").await;
    let long = "x".repeat(LARGE);
    let begun = world.send("a", &long).expect("room");
    settle().await;
    let waiting = world.send("a", "never").expect("room");
    pass(11 * SECOND).await;
    assert_eq!(world.count(KindTag::Disconnected), 1);
    assert_eq!(raw.next().await, Some(text(&long)));
    assert_eq!(raw.is_closed().await.0, 4413);
    assert_eq!(world.outcome(begun).await, WRITTEN);
    assert_eq!(world.outcome(waiting).await, UNKNOWN);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_but_surely_stays() {
    let world = World::new(quiet);
    let mut raw = narrow(&world, "a").await;
    let long = "x".repeat(LARGE);
    for _ in 0..20 {
        world.send("a", &long).expect("room");
    }
    for _ in 0..20 {
        pass(9 * SECOND).await;
        raw.frame(TEXT, b"heartbeat").await;
        assert_eq!(raw.next().await, Some(text(&long)));
    }
    assert_eq!(world.count(KindTag::Disconnected), 0);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_pong_that_is_not_taken_is_a_slow_client_too() {
    let world = World::new(|_| {});
    let mut raw = narrow(&world, "a").await;
    for _ in 0..80 {
        raw.frame(client::PING, b"1").await;
        pass(SECOND).await;
        if world.count(KindTag::Disconnected) == 1 {
            break;
        }
    }
    let told = world.told().await;
    assert!(told[told.len() - 1].starts_with("a gone: slow_client"), "{told:?}");
    // The Pong that was begun is finished and the Close follows it.
    assert_eq!(raw.is_closed().await.0, 4413);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_whose_deadline_passes_first_is_never_received_and_its_sender_told() {
    let world = World::new(quiet);
    let mut raw = narrow(&world, "a").await;
    let long = "x".repeat(LARGE);
    world.send("a", &long).expect("room");
    settle().await;
    let deadline = Some(Instant::now() + SECOND);
    let late = world.dispatch.accept(&Outgoing { deadline, ..World::outgoing("a", "late") }).expect("room");
    world.send("a", "after").expect("room");
    pass(2 * SECOND).await;
    assert_eq!([raw.next().await, raw.next().await], [Some(text(&long)), Some(text("after"))]);
    assert_eq!(world.dispatch.settle(late, SECOND).await, Err(SendError::Expired));
    let in_time = World::outgoing("a", "in time");
    let in_time = world.dispatch.accept(&Outgoing { deadline: Some(Instant::now() + SECOND), ..in_time });
    assert_eq!(raw.next().await, Some(text("in time")));
    assert_eq!(world.outcome(in_time.expect("room")).await, WRITTEN);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_frame_half_written_at_a_kick_is_finished_before_the_close_or_nothing_follows_it() {
    let long = "x".repeat(LARGE);
    for reads_after in [1_000, 3_000] {
        let world = World::new(quiet);
        let mut raw = narrow(&world, "a").await;
        world.send("a", &long).expect("room");
        settle().await;
        world.kick("a", 4000, "bye").await;
        pass(Duration::from_millis(reads_after)).await;
        if reads_after < 2_000 {
            assert_eq!(raw.next().await, Some(text(&long)));
            assert_eq!(raw.is_closed().await, (4000, "bye".into()));
        } else {
            let mut received = Vec::new();
            raw.0.read_to_end(&mut received).await.expect("readable");
            assert_eq!(received.len(), 64);
            assert!(received[4..].iter().all(|byte| *byte == b'x'));
        }
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_client_while_a_frame_is_half_written_is_answered_after_the_frame() {
    let world = World::new(quiet);
    let mut raw = narrow(&world, "a").await;
    let long = "x".repeat(LARGE);
    world.send("a", &long).expect("room");
    settle().await;
    let waiting = world.send("a", "never").expect("room");
    raw.send(&[frame(client::PING, b"1"), frame(CLOSE, &close_payload(1000, "bye"))].concat()).await;
    settle().await;
    assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1000 bye"]);
    assert_eq!(raw.next().await, Some(text(&long)));
    assert_eq!(raw.next().await, Some(Frame { head: client::PONG, payload: b"1".to_vec() }));
    assert_eq!(raw.next().await, Some(Frame { head: CLOSE, payload: close_payload(1000, "bye").to_vec() }));
    assert_eq!(raw.next().await, None);
    assert_eq!(world.outcome(waiting).await, UNKNOWN);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn pongs_and_beats_fall_between_frames_never_inside_them() {
    let world = World::new(|options| {
        options.connection.server_beat = ServerBeat::Both;
        options.registry.cadence = Cadence { interval: 1_000, timeout: 60_000 };
    });
    let mut raw = Raw::new(world.open(Some("a"), 7));
    settle().await;
    let (mut pings, mut pongs) = (0, 0);
    for i in 0..200 {
        let expected = format!("{i:0>50}");
        world.send("a", &expected).expect("room");
        settle().await;
        // Now it is half out.
        raw.frame(client::PING, &[i as u8; 9]).await;
        assert_eq!(world.registry.probe(&target("a")).len(), 1);
        pass(Duration::from_millis(37)).await;
        // A frame that is cut or mixed up does not parse, or is none of these.
        loop {
            let frame = raw.next().await.expect("a frame");
            match frame.head {
                client::PONG if frame.payload == [i as u8; 9] || frame.payload == [i as u8 - 1; 9] => pongs += 1,
                client::PING if frame.payload.len() == 4 => {
                    pings += 1;
                    raw.frame(client::PONG, &frame.payload).await;
                }
                TEXT if frame.payload == b"heartbeat" => {}
                TEXT if frame.payload == expected.as_bytes() => break,
                _ => panic!("{frame:?}"),
            }
        }
    }
    // A probe is content with the Pong that is awaited already.
    assert!(pings > 90 && pongs > 190, "{pings} {pongs}");
    drop(raw);
    world.rests().await;
}
