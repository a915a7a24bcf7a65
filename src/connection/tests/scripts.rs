//! Many clients that do whatever comes into their heads, a backend and a log that do too: every story is whole at the end.

use std::collections::BTreeMap;

use fastrand::Rng;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::client::{BINARY, CLOSE, ENDS, PING, PONG, TEXT, TEXT_BEGINS, close_payload, frame};
use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn millis(random: &mut Rng, most: u64) -> Duration {
    Duration::from_millis(random.u64(0..=most))
}

/// What a client writes next: bytes, or nothing more at all.
fn next_bytes(random: &mut Rng, who: usize, said: &mut u32) -> Option<Vec<u8>> {
    let mut business = || {
        let text = format!("{who} {said}");
        *said += 1;
        text.into_bytes()
    };
    Some(match random.u8(0..100) {
        0..35 => frame(TEXT, &business()),
        35..45 => frame(BINARY, &business()),
        45..55 => {
            let text = business();
            let (one, two) = text.split_at(random.usize(0..=text.len()));
            [frame(TEXT_BEGINS, one), frame(PING, b""), frame(ENDS, two)].concat()
        }
        55..65 => frame(TEXT, b"heartbeat"),
        65..75 => frame(PING, b"ping"),
        75..83 => frame(PONG, b""),
        83..86 => frame(PING, b"flood").repeat(300),
        86..89 => frame(CLOSE, &close_payload(4000, "bye")),
        89..91 => frame(TEXT, b" "),
        91..93 => frame(TEXT, &[0xff]),
        _ => return None,
    })
}

/// One client's life; answers what the server wrote to it.
async fn live(stream: DuplexStream, who: usize, named: bool, mut random: Rng) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    // Some read at once, some slowly, some never.
    let pace = *random.choice(&[Some(0), Some(0), Some(400), None]).expect("one of them");
    let mut reading_random = random.fork();
    let reading = tokio::spawn(async move {
        let mut received = Vec::new();
        let Some(pace) = pace else { return (reader, received) };
        let mut chunk = [0; 100];
        while let Ok(1..) = reader.read(&mut chunk).await.inspect(|count| received.extend(&chunk[..*count])) {
            pass(millis(&mut reading_random, pace)).await;
        }
        (reader, received)
    });
    let mut said = 0;
    if !named {
        let name = random.choice(NAMES).expect("a name");
        let first = if random.bool() { format!("heartbeat:{name}") } else { "heartbeat".into() };
        let _ = writer.write_all(&frame(TEXT, first.as_bytes())).await;
    }
    for _ in 0..random.usize(0..25) {
        let Some(bytes) = next_bytes(&mut random, who, &mut said) else { break };
        // A frame that the server does not take in time is given up half-way, and with it everything.
        if !matches!(timeout(30 * SECOND, writer.write_all(&bytes)).await, Ok(Ok(()))) {
            break;
        }
        let most = *random.choice(&[0, 0, 100, 3_000]).expect("one of them");
        pass(millis(&mut random, most)).await;
    }
    match random.u8(0..5) {
        // It goes.
        0 => reading.abort(),
        // It half closes and hears the server out.
        1 => drop(writer.shutdown().await),
        // It raves, and no more sense is to be expected of it.
        2 => {
            let garbage: Vec<_> = (0..random.usize(1..50)).map(|_| random.u8(..)).collect();
            let _ = timeout(30 * SECOND, writer.write_all(&garbage)).await;
        }
        // It is silent until the server ends it.
        _ => {}
    }
    let received = timeout(200 * SECOND, reading).await.expect("the server ends it in time");
    received.map(|(_, received)| received).unwrap_or_default()
}

/// The texts of a backend in what a client received, which must parse up to a last frame cut short, with nothing after a Close.
fn texts(received: &[u8]) -> Vec<u32> {
    let (mut texts, mut rest, mut closed) = (Vec::new(), received, false);
    while let [head, len, after @ ..] = rest {
        assert!(!closed, "nothing after a Close");
        assert!([TEXT, PING, PONG, CLOSE].contains(head) && *len < 126, "a frame of the server: {head} {len}");
        let Some((payload, after)) = after.split_at_checked((*len).into()) else { break };
        closed = *head == CLOSE;
        if *head == TEXT && payload != b"heartbeat" {
            texts.push(std::str::from_utf8(payload).expect("UTF-8").parse().expect("a number"));
        }
        rest = after;
    }
    texts
}

async fn play(seed: u64) {
    // Ids and phases of the product come from here.
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let mut world = World::new(|options| {
        options.registry.cadence = Cadence { interval: 3_000, timeout: 7_000 };
        options.registry.duplicates = if seed.is_multiple_of(3) { Duplicates::Reject } else { Duplicates::Replace };
        options.registry.takeovers_per_minute = if seed.is_multiple_of(2) { 5 } else { 0 };
        options.registry.outbox = OutboxLimits { frames: 20, bytes: 1_000 };
        options.connection.uncommitted = 1_000;
        options.connection.any_frame_counts = seed.is_multiple_of(5);
        options.connection.write_timeout = 3 * SECOND;
    });
    let (mut clients, mut sent, mut refused, mut accepted) = (Vec::new(), 0, Vec::new(), Vec::new());
    let mut room = None;
    for _ in 0..150 {
        let name = random.choice(NAMES).expect("a name");
        match random.u8(0..100) {
            0..25 if clients.len() < 40 => {
                let named = random.bool().then_some(name);
                let stream = world.open(named, *random.choice(&[1, 30, 500, PIPE]).expect("a size"));
                clients.push(tokio::spawn(live(stream, clients.len(), named.is_some(), random.fork())));
            }
            25..75 => {
                match world.send(name, &sent.to_string()) {
                    Ok(accept) => accepted.push((sent, accept)),
                    Err(_) => refused.push(sent),
                }
                sent += 1;
            }
            75..80 => {
                let registry = Arc::clone(&world.registry);
                tokio::spawn(async move { registry.disconnect(&target(name), 4001, "kicked", None).await });
            }
            80..84 => {
                let (registry, interval) = (Arc::clone(&world.registry), random.u32(500..5_000));
                let timeout = Some(interval * 2);
                tokio::spawn(async move {
                    let _ = registry.update_heartbeat(&target(name), Some(interval), timeout, None).await;
                });
            }
            84..88 => drop(world.registry.probe(&target(name))),
            88..92 if world.commits.is_some() => world.stall_commits().await,
            92..94 => room = world.log.budget().try_reserve(usize::MAX),
            94.. => {
                room = None;
                if world.commits.is_none() {
                    world.resume_commits();
                }
            }
            _ => {}
        }
        pass(millis(&mut random, 300)).await;
    }
    drop(room);
    if world.commits.is_none() {
        world.resume_commits();
    }
    let mut heard = BTreeMap::new();
    for client in clients {
        let texts = texts(&client.await.expect("a client that ends well"));
        assert!(texts.is_sorted(), "in order: {texts:?}");
        for text in texts {
            *heard.entry(text).or_insert(0) += 1;
        }
    }
    assert!(heard.values().all(|times| *times == 1), "no more than once");
    assert!(refused.iter().all(|text| !heard.contains_key(text)), "what was refused is never received");
    for (text, accepted) in accepted {
        let (stage, failure) = world.outcome(accepted).await;
        // Of a connection that has ended, everything is decided.
        assert!(stage == Some(Stage::Written) || failure == Some(Failure::OutcomeUnknown), "{text}");
    }
    check_said(&world);
    world.rests().await;
}

/// What is delivered of a connection is what its client said, from the first on, in order, with nothing left out.
fn check_said(world: &World) {
    let mut said: BTreeMap<ConnectionId, (usize, u32)> = BTreeMap::new();
    for record in world.records() {
        let EventKind::MessageReceived(payload) = &record.event.kind else { continue };
        // What a client raves may happen to be a message.
        let numbers = std::str::from_utf8(payload.bytes()).ok().and_then(|text| text.split_once(' '));
        let Some((who, number)) = numbers.and_then(|(who, number)| Some((who.parse().ok()?, number.parse().ok()?)))
        else {
            continue;
        };
        let expected = said.entry(record.event.connection.connection_id).or_insert((who, 0));
        assert_eq!((who, number), *expected);
        expected.1 += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_many_clients_do_every_connected_has_one_end_and_nothing_is_left() {
    for seed in 0..30 {
        play(seed).await;
    }
}
