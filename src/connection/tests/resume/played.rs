//! Whatever breaks, in whatever order.

use std::collections::VecDeque;

use fastrand::Rng;

use super::*;

/// A client and a backend that talk while sockets break; each side gets everything once and in order.
async fn play(seed: u64) {
    fastrand::seed(seed);
    let mut random = Rng::with_seed(seed);
    let mut world = World::new(|options| {
        options.connection.rates = Rates { messages: 0, bytes: 0 };
        options.connection.uncommitted = random.u32(500..5_000);
        options.registry.outbox = OutboxLimits { frames: 2_000, bytes: 1 << 20 };
    });
    let mut speaker = world.speaker("a").await;
    // What the client has said and the server has not acknowledged.
    let mut unacked: VecDeque<(u64, String)> = VecDeque::new();
    let (mut said, mut sent, mut got, mut resumes) = (0u64, 0u64, Vec::new(), 0);
    let note = |unacked: &mut VecDeque<(u64, String)>, received: u64| {
        while unacked.front().is_some_and(|(number, _)| *number <= received) {
            unacked.pop_front();
        }
    };
    for _ in 0..300 {
        match random.u8(0..20) {
            0..6 => {
                said += 1;
                speaker.sent = said - 1;
                let text = format!("{said} {}", "x".repeat(random.usize(0..300)));
                unacked.push_back((said, text.clone()));
                speaker.message(&text).await;
            }
            6..12 => {
                sent += 1;
                let _ = world.send("a", &sent.to_string()).expect("room");
            }
            12..14 => {
                let received = speaker.received;
                speaker.say(json!({"type": "heartbeat", "received": received})).await;
            }
            14 if world.commits.is_some() => world.stall_commits().await,
            15 if world.commits.is_none() => world.resume_commits(),
            16 => settle().await,
            17.. => {
                // It may not have read everything that came before its socket broke.
                for _ in 0..random.usize(0..20) {
                    let Ok(envelope) = tokio::time::timeout(Duration::from_millis(2), speaker.hears()).await else {
                        break;
                    };
                    if envelope["type"] == "message" && envelope["seq"] == speaker.received + 1 {
                        speaker.received += 1;
                        got.push(envelope["text"].as_str().expect("a text").to_owned());
                    }
                    if let Some(received) = envelope["received"].as_u64() {
                        note(&mut unacked, received);
                    }
                }
                if random.bool() {
                    loses_its_socket(&mut speaker).await;
                    pass(random.u32(0..10) * SECOND).await;
                }
                speaker = world.resumed(&speaker).await;
                resumes += 1;
                note(&mut unacked, speaker.sent);
                for (number, text) in &unacked {
                    speaker.sent = number - 1;
                    speaker.message(text).await;
                }
            }
            _ => {}
        }
    }
    if world.commits.is_none() {
        world.resume_commits();
    }
    let mut last = world.resumed(&speaker).await;
    note(&mut unacked, last.sent);
    for (number, text) in &unacked {
        last.sent = number - 1;
        last.message(text).await;
    }
    while (got.len() as u64) < sent {
        got.push(last.hears_message().await);
    }
    last.client.close(1000, "").await;
    settle().await;
    assert_eq!(got, (1..=sent).map(|i| i.to_string()).collect::<Vec<_>>(), "seed {seed}");
    let heard: Vec<_> = world
        .messages()
        .iter()
        .map(|payload| String::from_utf8_lossy(payload.bytes()).split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(heard, (1..=said).map(|i| i.to_string()).collect::<Vec<_>>(), "seed {seed}");
    assert!(resumes > 5);
    drop(speaker);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn whatever_breaks_both_sides_get_everything_once_and_in_order() {
    for seed in 0..40 {
        play(seed).await;
    }
}
