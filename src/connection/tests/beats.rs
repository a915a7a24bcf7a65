//! The server's own heartbeats, round trips and probes.

use tokio_tungstenite::tungstenite::Message;

use super::client::{Frame, PING, PONG, Raw, TEXT};
use super::*;
use crate::metrics::Beat;

fn beating(beat: ServerBeat) -> impl FnOnce(&mut Options) {
    move |options| options.connection.server_beat = beat
}

/// Pings and `heartbeat` texts that a client gets in five minutes, in which ten of each are due.
async fn beats(client: &mut Client) -> (usize, usize) {
    let heard = client.listens(300 * SECOND).await;
    let pings = heard.iter().filter(|message| message.is_ping()).count();
    let texts = heard.iter().filter(|message| **message == Message::text("heartbeat")).count();
    assert_eq!(pings + texts, heard.len(), "nothing else");
    (pings, texts)
}

#[tokio::test(start_paused = true)]
async fn each_setting_beats_once_an_interval_in_its_own_way() {
    for (beat, silent, speaking) in [
        (ServerBeat::Auto, (10, 0), (10, 10)),
        (ServerBeat::Ping, (10, 0), (10, 0)),
        (ServerBeat::Text, (0, 10), (0, 10)),
        (ServerBeat::Both, (10, 10), (10, 10)),
        (ServerBeat::Off, (0, 0), (0, 0)),
    ] {
        let world = World::new(|options| {
            options.connection.server_beat = beat;
            // The silent client says nothing in five minutes.
            options.registry.cadence.timeout = 3_600_000;
        });
        let (mut one, mut other) = (world.client("silent").await, world.client("speaking").await);
        other.text("heartbeat").await;
        settle().await;
        assert_eq!(tokio::join!(beats(&mut one), beats(&mut other)), (silent, speaking), "{beat:?}");
        drop((one, other));
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_names_itself_in_a_heartbeat_is_beaten_to_in_text() {
    let world = World::new(|_| {});
    let mut clients = [world.stranger().await, world.stranger().await, world.stranger().await];
    for (client, first) in clients.iter_mut().zip(["heartbeat:a", "heartbeat", "business"]) {
        client.text(first).await;
    }
    settle().await;
    let [a, b, c] = &mut clients;
    assert_eq!(tokio::join!(beats(a), beats(b), beats(c)), ((10, 10), (10, 10), (10, 0)));
    drop(clients);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn first_beats_are_spread_over_the_interval() {
    let world = World::new(|_| {});
    let mut clients = Vec::new();
    for i in 0..90 {
        clients.push(world.raw(&format!("c{i}")).await);
    }
    pass(10 * SECOND).await;
    let a_third = world.host.metrics.heartbeats.of(Beat::PingOut).get();
    pass(21 * SECOND).await;
    let all = world.host.metrics.heartbeats.of(Beat::PingOut).get();
    assert!((10..60).contains(&a_third), "{a_third} in the first third of the interval");
    assert!(all >= 90, "everyone's in the interval: {all}");
    drop(clients);
    world.rests().await;
}

/// Reads the next Ping and answers it after a while.
async fn answer_after(raw: &mut Raw, wait: Duration) -> Frame {
    let ping = raw.next().await.expect("a Ping");
    assert_eq!(ping.head, PING);
    pass(wait).await;
    raw.frame(PONG, &ping.payload).await;
    settle().await;
    ping
}

#[tokio::test(start_paused = true)]
async fn the_round_trip_of_a_ping_is_observed() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    assert_eq!(world.stats("a").round_trip, None);
    answer_after(&mut raw, Duration::from_millis(250)).await;
    assert_eq!(world.stats("a").round_trip, Some(Duration::from_millis(250)));
    let ping = answer_after(&mut raw, Duration::from_millis(40)).await;
    assert_eq!(world.stats("a").round_trip, Some(Duration::from_millis(40)));
    // Neither a Pong that nobody asked for nor the same one again is a measurement.
    pass(SECOND).await;
    raw.frame(PONG, b"unasked").await;
    raw.frame(PONG, &ping.payload).await;
    settle().await;
    assert_eq!(world.stats("a").round_trip, Some(Duration::from_millis(40)));
    drop(raw);
    settle().await;
    let last = world.records().pop().expect("an end");
    let EventKind::Disconnected(end) = &last.event.kind else { panic!("{last:?}") };
    assert_eq!(end.stats.expect("observed here").round_trip, Some(Duration::from_millis(40)));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_answered_with_the_round_trip() {
    let world = World::new(beating(ServerBeat::Off));
    let mut raw = world.raw("a").await;
    let mut probes = [world.registry.probe(&target("a")), world.registry.probe(&target("a"))].into_iter().flatten();
    answer_after(&mut raw, Duration::from_millis(30)).await;
    for (_, answer) in &mut probes {
        assert_eq!(answer.await, Ok(Duration::from_millis(30)));
    }
    assert!(world.registry.probe(&target("nobody")).is_empty());
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_not_answered_ends_with_the_connection() {
    let world = World::new(|_| {});
    let mut raw = world.raw("a").await;
    pass(40 * SECOND).await;
    let mut probes = world.registry.probe(&target("a"));
    let (_, answer) = probes.pop().expect("one connection");
    assert!(answer.await.is_err());
    // The 60 s since it was last heard.
    assert_eq!(world.start.elapsed().as_secs(), 60);
    assert_eq!(raw.is_closed().await.0, 4408);
    let (_, late) = match world.registry.probe(&target("a")).pop() {
        Some(probe) => probe,
        None => return world.rests().await,
    };
    assert!(late.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_pong_comes_late_or_wrong_is_still_waited_for() {
    let world = World::new(beating(ServerBeat::Off));
    let mut raw = world.raw("a").await;
    let (_, mut answer) = world.registry.probe(&target("a")).pop().expect("one connection");
    let ping = raw.next().await.expect("a Ping");
    raw.frame(PONG, b"wrong").await;
    raw.frame(TEXT, b"heartbeat").await;
    settle().await;
    assert!(answer.try_recv().is_err());
    pass(50 * SECOND).await;
    raw.frame(PONG, &ping.payload).await;
    assert_eq!(answer.await.expect("answered").as_secs(), 50);
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_the_client_is_answered_at_once_with_its_payload() {
    let world = World::new(beating(ServerBeat::Off));
    let mut raw = world.raw("a").await;
    for payload in [&b""[..], b"1", &[9; 125]] {
        raw.frame(PING, payload).await;
        let began = Instant::now();
        assert_eq!(raw.next().await, Some(Frame { head: PONG, payload: payload.to_vec() }));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
    drop(raw);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_retuned_heartbeat_beats_at_its_new_pace() {
    let world = World::new(beating(ServerBeat::Ping));
    let mut client = world.client("a").await;
    let retuned = world.registry.update_heartbeat(&target("a"), Some(1_000), Some(5_000), None).await;
    retuned.expect("retuned");
    let pings = client.listens(60 * SECOND).await.len();
    assert!((59..=61).contains(&pings), "{pings}");
    drop(client);
    world.rests().await;
}
