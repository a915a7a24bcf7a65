//! Whoever breaks RFC 6455 is closed with the code for it, and really receives the Close.

use super::client::{BINARY, CLOSE, ENDS, GOES_ON, PING, PONG, Raw, TEXT, TEXT_BEGINS, frame};
use super::*;

/// A frame with no mask.
fn unmasked(head: u8, payload: &[u8]) -> Vec<u8> {
    [&[head, payload.len() as u8][..], payload].concat()
}

/// Sends a good message and then the bad bytes; what the client is told and what the log says of its end.
async fn outcome(bad: &[u8]) -> (u16, String) {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(TEXT, b"before").await;
    raw.send(bad).await;
    // Never to be seen.
    raw.frame(TEXT, b"after").await;
    let (code, reason) = raw.is_closed().await;
    drop(raw);
    let end = format!("a gone: protocol_error {code} {reason}");
    assert_eq!(world.told().await, ["a connected", "a said before", &end]);
    world.rests().await;
    (code, reason)
}

#[tokio::test(start_paused = true)]
async fn broken_framing_is_closed_with_1002() {
    let cases = [
        ("unmasked text", unmasked(TEXT, b"hello")),
        ("unmasked Ping", unmasked(PING, b"")),
        ("unmasked Close", unmasked(CLOSE, b"")),
        ("RSV1", frame(TEXT | 0x40, b"hello")),
        ("RSV2", frame(TEXT | 0x20, b"hello")),
        ("RSV3 on a Ping", frame(PING | 0x10, b"")),
        ("reserved data opcode", frame(0x83, b"")),
        ("reserved data opcode with payload", frame(0x87, b"hello")),
        ("reserved control opcode", frame(0x8b, b"")),
        ("reserved control opcode with payload", frame(0x8f, b"hello")),
        ("fragmented Ping", frame(0x09, b"")),
        ("fragmented Close", frame(0x08, b"")),
        ("Ping of 126 bytes", frame(PING, &[0; 126])),
        ("Pong of 126 bytes", frame(PONG, &[0; 126])),
        ("Close of 126 bytes", frame(CLOSE, &[0; 126])),
        ("stray continuation", frame(ENDS, b"hello")),
        ("stray middle", frame(GOES_ON, b"hello")),
        ("text within a text", [frame(TEXT_BEGINS, b"a"), frame(TEXT, b"b")].concat()),
        ("binary within a text", [frame(TEXT_BEGINS, b"a"), frame(BINARY, b"b")].concat()),
        ("Close of one byte", frame(CLOSE, &[3])),
    ];
    for (name, bad) in cases {
        assert_eq!(outcome(&bad).await, (1002, "Protocol error".into()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn text_that_is_not_utf8_is_closed_with_1007() {
    let cases = [
        ("a stray byte", frame(TEXT, &[b'a', 0xff])),
        ("a sequence cut short", frame(TEXT, "€".as_bytes().split_at(2).0)),
        ("a surrogate", frame(TEXT, &[0xed, 0xa0, 0x80])),
        ("an overlong sequence", frame(TEXT, &[0xc0, 0xaf])),
        ("across fragments", [frame(TEXT_BEGINS, &[0xe2, 0x82]), frame(ENDS, &[0x41])].concat()),
        ("cut short across fragments", [frame(TEXT_BEGINS, &[0xe2]), frame(ENDS, &[0x82])].concat()),
        ("the reason of a Close", frame(CLOSE, &[0x03, 0xe8, 0xff])),
    ];
    for (name, bad) in cases {
        assert_eq!(outcome(&bad).await, (1007, "Text is not UTF-8".into()), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn binary_need_not_be_utf8() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(BINARY, &[0xff, 0xfe]).await;
    assert_eq!(world.told().await, ["a connected", "a sent b\"\\xff\\xfe\""]);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_close_with_a_code_that_may_not_be_sent_is_answered_with_1002() {
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
        let world = World::new(|_| {});
        let mut raw = world.raw("a").await;
        raw.frame(CLOSE, &client::close_payload(code, "")).await;
        assert_eq!(raw.is_closed().await.0, 1002, "{code}");
        assert_eq!(world.count(KindTag::Disconnected), 1);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_largest_control_frames_are_no_violation() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    raw.frame(PING, &[7; 125]).await;
    let pong = raw.next_but_pings().await.expect("a Pong");
    assert_eq!((pong.head, pong.payload), (PONG, vec![7; 125]));
    raw.frame(CLOSE, &client::close_payload(1000, &"x".repeat(123))).await;
    assert_eq!(raw.is_closed().await, (1000, "x".repeat(123)));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_close_reaches_a_client_that_goes_on_flooding() {
    let world = World::new(|_| {});
    let raw = world.raw("a").await;
    let (mut reader, mut writer) = tokio::io::split(raw.0);
    let flood = tokio::spawn(async move {
        for _ in 0..100 {
            if tokio::io::AsyncWriteExt::write_all(&mut writer, &[0xff; 10_000]).await.is_err() {
                return;
            }
        }
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
    });
    let began = Instant::now();
    let mut received = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut received).await.expect("readable");
    let close = received.iter().position(|byte| *byte == CLOSE).expect("a Close");
    assert_eq!(client::code_and_reason(&received[close + 2..]).0, 1002);
    flood.await.expect("all of it was taken");
    assert!(
        began.elapsed() < SECOND,
        "what is not listened to is read all the same, so that no reset overtakes the Close"
    );
    assert_eq!(world.told().await, ["a connected", "a gone: protocol_error 1002 Protocol error"]);
    drop(reader);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn garbage_of_any_kind_ends_in_one_end() {
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..300 {
        let world = World::new(|_| {});
        let mut raw: Raw = world.raw("a").await;
        let garbage: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        let _ = tokio::io::AsyncWriteExt::write_all(&mut raw.0, &garbage).await;
        settle().await;
        drop(raw);
        settle().await;
        assert_eq!(world.count(KindTag::Disconnected), 1, "{garbage:?}");
        world.rests().await;
    }
}
