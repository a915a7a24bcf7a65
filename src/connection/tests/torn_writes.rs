//! However the kernel takes what is written, the client reads whole frames in order, and nothing after a Close.

use std::pin::Pin;
use std::task::{Context, Poll};

use fastrand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::{CLOSE, Frame, PING, PONG, Raw, TEXT};
use super::*;
use crate::ws::Wire;

/// A pipe that takes few bytes at a time and often none, whether it has room or not.
struct Choppy {
    pipe: DuplexStream,
    random: Rng,
}

impl AsyncRead for Choppy {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(context, buf)
    }
}

impl AsyncWrite for Choppy {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let Self { pipe, random } = &mut *self;
        if random.bool() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let count = random.usize(1..=12).min(buf.len());
        Pin::new(pipe).poll_write(context, &buf[..count])
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(context)
    }
}

impl Wire for Choppy {}

#[tokio::test(start_paused = true)]
async fn frames_pongs_beats_and_the_close_never_fall_into_each_other() {
    for seed in 0..40 {
        let mut random = Rng::with_seed(seed);
        let world = World::new(|options| {
            options.connection.server_beat = ServerBeat::Both;
            options.registry.cadence = Cadence { interval: 100, timeout: 60_000 };
        });
        let (ours, theirs) = duplex(PIPE);
        world.serve(WsSocket::new(Choppy { pipe: ours, random: random.fork() }, &[], 1_000), Some("a"));
        let mut raw = Raw::new(theirs);
        settle().await;
        let mut accepted = Vec::new();
        for i in 0..60 {
            accepted.push(world.send("a", &format!("{i:0>40}")).expect("room"));
            raw.frame(PING, &[i; 20]).await;
            if random.bool() {
                tokio::task::yield_now().await;
            }
            if random.u8(..) < 30 {
                pass(Duration::from_millis(random.u64(..150))).await;
            }
        }
        let by_client = random.bool();
        if by_client {
            raw.frame(CLOSE, &client::close_payload(4000, "bye")).await;
        } else {
            world.kick("a", 4000, "bye").await;
        }
        let (mut texts, mut pongs, mut closed) = (0, Vec::new(), false);
        while let Some(Frame { head, payload }) = raw.next().await {
            assert!(!closed, "nothing after a Close");
            match head {
                TEXT if payload == b"heartbeat" => {}
                TEXT => {
                    assert_eq!(payload, format!("{texts:0>40}").into_bytes(), "in order");
                    texts += 1;
                }
                PONG => {
                    assert_eq!(payload, [payload[0]; 20]);
                    pongs.push(payload[0]);
                }
                PING => assert_eq!(payload.len(), 4),
                CLOSE => {
                    assert_eq!(client::code_and_reason(&payload), (4000, "bye".into()));
                    closed = true;
                    if !by_client {
                        raw.frame(CLOSE, &payload).await;
                    }
                }
                _ => panic!("{head}"),
            }
        }
        assert!(closed && pongs.is_sorted(), "{seed}");
        assert!(by_client || texts == 60, "what was accepted before a kick comes before its Close: {texts}");
        for (number, accepted) in accepted.into_iter().enumerate() {
            let written = world.outcome(accepted).await.0 == Some(Stage::Written);
            assert!(!written || number < texts, "written, and never received: {number}");
        }
        world.rests().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_beat_that_waits_behind_a_half_written_pong_goes_out_before_the_close() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut raw = Raw::new(world.open(Some("a"), 64));
    settle().await;
    raw.frame(PING, &[1; 100]).await;
    settle().await;
    let _probes = world.registry.probe(&target("a"));
    settle().await;
    raw.frame(TEXT, b"").await;
    settle().await;
    assert_eq!(raw.next().await, Some(Frame { head: PONG, payload: vec![1; 100] }));
    assert_eq!(raw.next().await.map(|frame| frame.head), Some(PING));
    assert_eq!(raw.is_closed().await, (1000, "Closed by client".into()));
    world.rests().await;
}
