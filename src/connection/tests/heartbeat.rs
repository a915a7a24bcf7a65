//! Silence is noticed on time, and whoever is heard is never taken for gone.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_tungstenite::tungstenite::Message;

use super::client::{GOES_ON, PING, PONG, TEXT, TEXT_BEGINS};
use super::*;
use crate::ws::Wire;

const HOUR: u64 = 3_600;

fn heartbeats_only(options: &mut Options) {
    options.connection.any_frame_counts = false;
}

/// No heartbeat of the server, so that its Pings play no part.
fn quiet(options: &mut Options) {
    options.connection.server_beat = ServerBeat::Off;
}

/// At a moment or within 150 ms after it.
fn assert_at(millis: u64, expected: u64) {
    assert!((expected..=expected + 150).contains(&millis), "at {millis} ms, not at {expected} ms");
}

const GONE: &str = "a gone: heartbeat_timeout 4408 Heartbeat timeout";

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_suspect_after_one_and_a_half_intervals_and_gone_after_the_timeout() {
    for configure in [|_: &mut Options| {}, quiet, heartbeats_only] {
        let world = World::new(configure);
        let mut client = world.raw("a").await;
        pass(70 * SECOND).await;
        assert_eq!(world.told().await, ["a connected", "a suspected", GONE]);
        assert_at(world.times(KindTag::Suspected)[0], 45_000);
        assert_at(world.times(KindTag::Disconnected)[0], 60_000);
        assert_eq!(client.is_closed().await, (4408, "Heartbeat timeout".into()));
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_counted_from_what_was_last_heard() {
    let world = World::new(quiet);
    let mut client = world.client("a").await;
    pass(Duration::from_millis(31_234)).await;
    client.text("heartbeat").await;
    pass(70 * SECOND).await;
    assert_at(world.times(KindTag::Suspected)[0], 31_235 + 45_000);
    assert_at(world.times(KindTag::Disconnected)[0], 31_235 + 60_000);
    client.hears_out().await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_of_any_kind_keep_a_client_for_an_hour() {
    for (configure, span) in [(heartbeats_only as fn(&mut Options), HOUR), (quiet, HOUR / 6)] {
        let world = World::new(configure);
        let mut clients = Vec::new();
        for beat in [
            Message::text("heartbeat"),
            Message::text("heartbeat:x"),
            Message::Ping("".into()),
            Message::Pong("".into()),
        ] {
            clients.push((world.client(&format!("c{}", clients.len())).await, beat));
        }
        for _ in 0..span / 40 {
            for (client, beat) in &mut clients {
                client.send(beat.clone()).await;
            }
            pass(40 * SECOND).await;
        }
        assert_eq!((world.count(KindTag::Suspected), world.registry.count()), (0, 4));
        drop(clients);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn answering_the_servers_pings_keeps_a_client_for_an_hour() {
    let world = World::new(heartbeats_only);
    let mut client = world.client("a").await;
    client.listens(Duration::from_secs(HOUR)).await;
    assert_eq!(world.told().await, ["a connected"]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn business_messages_keep_a_client_only_where_any_frame_counts() {
    for (configure, gone) in [(quiet as fn(&mut Options), false), (heartbeats_only, true)] {
        let world = World::new(configure);
        let mut client = world.client("a").await;
        for _ in 0..7 {
            client.text("business").await;
            pass(10 * SECOND).await;
        }
        let ends = world.times(KindTag::Disconnected);
        if gone {
            assert_at(ends[0], 60_000);
            assert_at(world.times(KindTag::Suspected)[0], 45_000);
        } else {
            assert!(ends.is_empty(), "{ends:?}");
        }
        drop(client);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_of_an_unfinished_message_count_as_any_frame_does() {
    for (configure, gone) in [(quiet as fn(&mut Options), false), (heartbeats_only, true)] {
        let world = World::new(configure);
        let mut raw = world.raw("a").await;
        pass(40 * SECOND).await;
        raw.frame(TEXT_BEGINS, b"a").await;
        pass(25 * SECOND).await;
        // Where it does not count this is too late.
        let _ = raw.0.write_all(&client::frame(GOES_ON, b"b")[..3]).await;
        pass(10 * SECOND).await;
        assert_eq!(world.count(KindTag::Disconnected), usize::from(gone));
        drop(raw);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_is_heard_recovers_before_what_proved_it() {
    let world = World::new(quiet);
    let mut client = world.client("a").await;
    pass(50 * SECOND).await;
    client.text("here").await;
    client.text("heartbeat").await;
    assert_eq!(world.told().await, ["a connected", "a suspected", "a recovered", "a said here"]);
    let recovered = &world.records()[2];
    let EventKind::Recovered { suspected_for, resumed: false } = recovered.event.kind else { panic!("{recovered:?}") };
    assert_at(50_001 - suspected_for.as_millis() as u64, 45_000);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn business_does_not_recover_a_suspect_where_only_heartbeats_count() {
    let world = World::new(heartbeats_only);
    let mut client = world.client("a").await;
    pass(50 * SECOND).await;
    client.text("here").await;
    assert_eq!(world.told().await, ["a connected", "a suspected", "a said here"]);
    client.send(Message::Ping("".into())).await;
    assert_eq!(world.told().await, ["a connected", "a suspected", "a said here", "a recovered"]);
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_recovered_is_not_suspect_again_for_five_minutes() {
    let world = World::new(quiet);
    let mut client = world.client("a").await;
    for _ in 0..8 {
        // Every 49 s: each silence is long enough to be suspicious.
        pass(49 * SECOND).await;
        client.text("heartbeat").await;
    }
    pass(SECOND).await;
    let suspected = world.times(KindTag::Suspected);
    assert_at(suspected[0], 45_000);
    assert_at(suspected[1], 7 * 49_000 + 45_000);
    assert_eq!((suspected.len(), world.count(KindTag::Recovered)), (2, 2));
    drop(client);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn one_that_recovered_may_go_straight_to_gone() {
    let world = World::new(quiet);
    let client = world.client("a").await;
    let mut client = client;
    pass(50 * SECOND).await;
    client.text("heartbeat").await;
    pass(65 * SECOND).await;
    assert_eq!(world.told().await, ["a connected", "a suspected", "a recovered", GONE]);
    assert_at(world.times(KindTag::Disconnected)[0], 110_000);
    client.hears_out().await;
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_retuned_faster_or_slower_holds_from_then_on() {
    for (interval, timeout, suspect, gone) in [(1_000, 2_000, 11_500, 12_000), (60_000, 120_000, 100_000, 130_000)] {
        let world = World::new(quiet);
        let mut client = world.client("a").await;
        pass(10 * SECOND).await;
        let retuned = world.registry.update_heartbeat(&target("a"), Some(interval), Some(timeout), None).await;
        retuned.expect("retuned");
        pass(Duration::from_millis(u64::from(timeout)) + SECOND).await;
        assert_eq!(world.told().await, ["a connected", "a heartbeat_changed", "a suspected", GONE]);
        assert_at(world.times(KindTag::Suspected)[0], suspect);
        assert_at(world.times(KindTag::Disconnected)[0], gone);
        client.hears_out().await;
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_silent_clients_are_all_noticed_on_time() {
    let world = World::new(|_| {});
    let mut silent = Vec::new();
    for i in 0..100 {
        silent.push(world.raw(&format!("c{i}")).await);
    }
    pass(61 * SECOND).await;
    let connected = world.times(KindTag::Connected);
    let gone = world.times(KindTag::Disconnected);
    assert_eq!((connected.len(), gone.len()), (100, 100));
    // They joined, and so they go, in order or in the same sweep.
    for (from, to) in connected.iter().zip(gone) {
        assert_at(to, from + 60_000);
    }
    drop(silent);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_close_of_an_expired_client_is_tried_for_two_seconds() {
    let world = World::new(quiet);
    let mut raw = world.raw("a").await;
    pass(Duration::from_millis(61_900)).await;
    assert!(!world.host.tasks.is_empty());
    pass(Duration::from_millis(400)).await;
    assert!(world.host.tasks.is_empty(), "no task is left");
    assert_eq!(raw.is_closed().await.0, 4408);
    world.rests().await;
}

/// A pipe whose kernel has bytes that the runtime has not learned of.
struct Delayed {
    pipe: DuplexStream,
    kernel: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Delayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buf)
    }
}

impl AsyncWrite for Delayed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

impl Wire for Delayed {
    fn read_from_kernel(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut kernel = self.kernel.lock().expect("not poisoned");
        if kernel.is_empty() {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        let count = kernel.len().min(buffer.len());
        buffer[..count].copy_from_slice(&kernel[..count]);
        kernel.drain(..count);
        Ok(count)
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_in_the_kernel_at_the_deadline_is_read_though_the_runtime_has_not_learned_of_it() {
    for beats in [0, 1, 100] {
        let world = World::new(quiet);
        let kernel = Arc::new(Mutex::new(Vec::new()));
        let (ours, theirs) = tokio::io::duplex(PIPE);
        world.serve(WsSocket::new(Delayed { pipe: ours, kernel: Arc::clone(&kernel) }, &[], 1_000), Some("a"));
        pass(Duration::from_millis(59_950)).await;
        kernel.lock().expect("not poisoned").extend([0x8a, 0x80, 0, 0, 0, 0].repeat(beats));
        pass(30 * SECOND).await;
        assert_eq!(world.count(KindTag::Disconnected), usize::from(beats == 0));
        assert!(kernel.lock().expect("not poisoned").is_empty());
        pass(31 * SECOND).await;
        assert_eq!(world.count(KindTag::Disconnected), 1, "that was no silence, and this is");
        drop(theirs);
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_read_at_the_deadline_waits_for_the_log_no_longer_than_any() {
    let world = World::new(quiet);
    let kernel = Arc::new(Mutex::new(Vec::new()));
    let (ours, theirs) = tokio::io::duplex(PIPE);
    world.serve(WsSocket::new(Delayed { pipe: ours, kernel: Arc::clone(&kernel) }, &[], 1_000), Some("a"));
    pass(Duration::from_millis(59_950)).await;
    let room = world.log.budget().try_reserve(usize::MAX).expect("an empty log");
    kernel.lock().expect("not poisoned").extend(b"\x81\x85\0\0\0\0hello");
    pass(Duration::from_millis(9_900)).await;
    assert_eq!(world.count(KindTag::Disconnected), 0);
    pass(Duration::from_millis(300)).await;
    assert_eq!(world.count(KindTag::Disconnected), 1, "the log took nothing for ten seconds");
    drop((room, theirs));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_just_before_the_deadline_is_in_time() {
    for head in [TEXT, PING, PONG] {
        let world = World::new(quiet);
        let mut raw = world.raw("a").await;
        pass(Duration::from_millis(59_990)).await;
        raw.frame(head, b"heartbeat").await;
        pass(30 * SECOND).await;
        assert_eq!(world.count(KindTag::Disconnected), 0);
        drop(raw);
        world.rests().await;
    }
}
