//! Messages come through whole and unchanged, however the client cuts them.

use tokio_tungstenite::tungstenite::Message;

use super::client::{BINARY, CLOSE, ENDS, GOES_ON, PING, PONG, TEXT, TEXT_BEGINS, frame};
use super::*;

const LIMIT: usize = 64 * 1024;

/// Without rates, so that a test may send as much as it likes.
fn unlimited(options: &mut Options) {
    options.connection.rates = Rates { messages: 0, bytes: 0 };
}

fn text_of(len: usize) -> String {
    ('a'..='z').cycle().take(len).collect()
}

/// A message as frames of so many bytes, with `between` put between them.
fn fragments(begins: u8, payload: &[u8], size: usize, between: &[u8]) -> Vec<u8> {
    let last = payload.len().div_ceil(size) - 1;
    let mut bytes = Vec::new();
    for (at, chunk) in payload.chunks(size).enumerate() {
        let opcode = if at == 0 { begins & 0x0f } else { GOES_ON };
        let fin = if at == last { ENDS } else { 0 };
        bytes.extend(frame(opcode | fin, chunk));
        if at != last {
            bytes.extend(between);
        }
    }
    bytes
}

#[tokio::test(start_paused = true)]
async fn text_and_binary_of_every_size_up_to_the_limit_come_through_unchanged() {
    let world = World::new(unlimited);
    let mut client = world.client("a").await;
    let mut expected = Vec::new();
    for len in [1, 2, 124, 125, 126, 127, 500, 511, 512, 513, 65_535, LIMIT] {
        let text = text_of(len);
        client.text(&text).await;
        expected.push(Payload::Text(text.into()));
        let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        client.send(Message::binary(bytes.clone())).await;
        expected.push(Payload::Binary(bytes.into()));
    }
    settle().await;
    assert!(world.messages() == expected);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_over_the_limit_is_closed_with_1009_and_not_delivered() {
    let over = vec![b'a'; LIMIT + 1];
    let in_two = [frame(TEXT_BEGINS, &over[..LIMIT]), frame(ENDS, b"a")].concat();
    for bytes in [frame(TEXT, &over), frame(BINARY, &over), in_two, fragments(TEXT, &over, 100, b"")] {
        let world = World::new(unlimited);
        let mut raw = world.raw("a").await;
        raw.frame(TEXT, b"before").await;
        // What the server does not read any more would block a client that only writes.
        let (mut reader, mut writer) = tokio::io::split(raw.0);
        let writing = tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut writer, &bytes).await;
        });
        let mut received = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received).await.expect("readable");
        let close = received.iter().position(|byte| *byte == CLOSE).expect("a Close");
        assert_eq!(client::code_and_reason(&received[close + 2..]), (1009, "Message too big".into()));
        writing.await.expect("written or refused");
        drop(reader);
        let told = world.told().await;
        assert_eq!(told, ["a connected", "a said before", "a gone: protocol_error 1009 Message too big"]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_header_that_declares_too_much_is_refused_before_any_of_it_comes() {
    for declared in [LIMIT as u64 + 1, 1 << 62, u64::MAX] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        raw.send(&client::header(BINARY, declared)).await;
        let began = Instant::now();
        assert_eq!(raw.is_closed().await, (1009, "Message too big".into()), "{declared}");
        assert!(began.elapsed() < SECOND);
        drop(raw);
        assert_eq!(world.told().await, ["a connected", "a gone: protocol_error 1009 Message too big"]);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_in_one_byte_fragments_is_one_message_even_at_the_limit() {
    for len in [1, 2, 1_000, LIMIT] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        let text = text_of(len);
        raw.send(&fragments(TEXT, text.as_bytes(), 1, b"")).await;
        settle().await;
        assert!(world.messages() == [Payload::Text(text.into())], "{len}");
        drop(raw);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn empty_fragments_within_reason_do_not_matter() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    for (head, payload) in [(TEXT_BEGINS, ""), (GOES_ON, "a"), (GOES_ON, ""), (GOES_ON, "b"), (ENDS, "")] {
        raw.frame(head, payload.as_bytes()).await;
    }
    assert_eq!(world.told().await, ["a connected", "a said ab"]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_fragmented_empty_text_asks_to_be_closed_too() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.send(&[frame(TEXT_BEGINS, b""), frame(ENDS, b"")].concat()).await;
    assert_eq!(raw.is_closed().await, (1000, "Closed by client".into()));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn control_frames_between_fragments_are_answered_and_do_not_disturb_the_message() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    let between = [frame(PING, b"now"), frame(PONG, b"unasked")].concat();
    let bytes: Vec<u8> = (0..90).collect();
    raw.send(&fragments(BINARY, &bytes, 1, &between)).await;
    settle().await;
    assert!(world.messages() == [Payload::Binary(bytes.into())]);
    let pong = raw.next_but_pings().await.expect("a Pong");
    assert_eq!((pong.head, &pong.payload[..]), (PONG, &b"now"[..]));
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_between_fragments_ends_the_connection_without_the_message() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(TEXT_BEGINS, b"half a mes").await;
    raw.frame(CLOSE, &client::close_payload(1000, "bye")).await;
    assert_eq!(raw.is_closed().await, (1000, "bye".into()));
    assert_eq!(world.told().await, ["a connected", "a gone: client_closed 1000 bye"]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_may_come_in_fragments() {
    let world = World::new(|_| {});
    let mut raw = client::Raw::new(world.open(None, PIPE));
    raw.send(&fragments(TEXT, b"heartbeat:alice", 4, b"")).await;
    raw.send(&fragments(TEXT, b"heartbeat", 3, b"")).await;
    assert_eq!(world.told().await, ["alice connected"]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn utf8_may_be_split_anywhere() {
    let text = "aé€😀\u{10ffff}";
    for size in 1..=4 {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        raw.send(&fragments(TEXT, text.as_bytes(), size, &frame(PING, b""))).await;
        assert_eq!(world.told().await, ["a connected".to_owned(), format!("a said {text}")]);
        drop(raw);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_may_arrive_in_any_pieces() {
    let mut random = fastrand::Rng::with_seed(1);
    for pipe in [1, 7, 600, PIPE] {
        let world = World::new(unlimited);
        let mut raw = client::Raw::new(world.open(Some("a"), pipe));
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for i in 0..60 {
            let payload: Vec<u8> = (0..random.usize(0..2_000)).map(|_| random.u8(..)).collect();
            match i % 3 {
                0 => bytes.extend(frame(BINARY, &payload)),
                1 if !payload.is_empty() => bytes.extend(fragments(BINARY, &payload, random.usize(1..200), b"")),
                _ => {
                    bytes.extend(frame(PONG, &payload[..payload.len().min(125)]));
                    continue;
                }
            }
            expected.push(Payload::Binary(payload.into()));
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(random.usize(1..=rest.len().min(1_000)));
            raw.send(piece).await;
            rest = left;
            if random.u8(..) < 20 {
                settle().await;
            }
        }
        settle().await;
        assert!(world.messages() == expected, "pipe of {pipe} bytes");
        drop(raw);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivered_message_keeps_no_more_memory_than_itself() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.send(&[frame(BINARY, b"x"), frame(BINARY, &[0; 400])].concat()).await;
    settle().await;
    let records = world.records();
    let kept = records.iter().filter_map(|record| match &record.event.kind {
        EventKind::MessageReceived(payload) => Some(payload.bytes()),
        _ => None,
    });
    assert!(kept.map(Bytes::is_unique).eq([true, true]), "copies, not windows into the read buffer");
    drop(raw);
    world.rests().await;
}
