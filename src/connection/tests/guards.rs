//! Whatever happens to a connection's task, its end is logged.

use std::task::{Context, Poll};

use super::super::{Inbound, PingPayload, SocketError};
use super::*;
use crate::metrics::SendOutcome;

/// A socket whose driver panics on the text `panic`.
struct Fragile(WsSocket<DuplexStream>);

impl FrameSocket for Fragile {
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>> {
        let read = self.0.poll_read(context);
        if let Poll::Ready(Ok(Inbound::Text(text))) = &read {
            assert!(&text[..] != b"panic", "as a test wants it");
        }
        read
    }

    fn partial_bytes(&self) -> usize {
        self.0.partial_bytes()
    }

    fn take_activity(&mut self) -> bool {
        self.0.take_activity()
    }

    fn ask_kernel(&mut self) {
        self.0.ask_kernel();
    }

    fn asks_kernel(&self) -> bool {
        self.0.asks_kernel()
    }

    fn queue(&mut self, payload: &Payload) {
        self.0.queue(payload);
    }

    fn queue_rest(&mut self, payload: &Payload, written: usize) {
        self.0.queue_rest(payload, written);
    }

    fn is_idle(&self) -> bool {
        self.0.is_idle()
    }

    fn queue_ping(&mut self, payload: PingPayload) {
        self.0.queue_ping(payload);
    }

    fn buffered(&self) -> usize {
        self.0.buffered()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.0.poll_flush(context)
    }

    fn start_close(&mut self, code: u16, reason: &str) {
        self.0.start_close(code, reason);
    }

    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.0.poll_discard(context)
    }
}

const GONE: &str = "a gone: internal_error 1011 Internal error";

#[tokio::test(start_paused = true)]
async fn a_driver_that_panics_ends_its_own_connection_and_no_other() {
    let world = World::new(|_| {});
    let mut other = world.client("b").await;
    let (ours, theirs) = duplex(PIPE);
    world.serve(Fragile(WsSocket::new(ours, &[], 1_000)), Some("a"));
    let mut client = Client::new(theirs).await;
    client.text("before").await;
    client.text("panic").await;
    client.text("after").await;
    assert_eq!(client.hears_out().await, (vec![], None), "the end of the stream");
    other.text("well").await;
    assert_eq!(world.told().await, ["b connected", "a connected", "a said before", GONE, "b said well"]);
    // The id is free.
    let again = world.client("a").await;
    assert_eq!(world.registry.count(), 2);
    drop((other, again));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_that_panics_while_it_is_identified_leaves_nothing() {
    let world = World::new(|_| {});
    let (ours, theirs) = duplex(PIPE);
    world.serve(Fragile(WsSocket::new(ours, &[], 1_000)), None);
    let mut client = Client::new(theirs).await;
    client.text("panic").await;
    assert_eq!(client.hears_out().await, (vec![], None));
    assert_eq!(world.told().await, [""; 0]);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whose_task_is_stopped_while_it_waits_for_its_commit_is_ended() {
    let mut world = World::new(|_| {});
    world.stall_commits().await;
    let (ours, theirs) = duplex(PIPE);
    let task = world.serve(WsSocket::new(ours, &[], 1_000), Some("a"));
    settle().await;
    task.abort();
    settle().await;
    world.resume_commits();
    assert_eq!(world.told().await, ["a connected", GONE]);
    drop(theirs);
    world.rests().await;
}

#[test]
fn a_runtime_that_goes_down_under_its_connections_leaves_every_end_in_the_log() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime");
    let (world, clients) = runtime.block_on(async {
        let mut world = World::new(|_| {});
        let mut clients = Vec::new();
        for i in 0..10 {
            clients.push(world.client(&format!("c{i}")).await);
        }
        // One has gone by itself, and one is only half-way in.
        clients.pop();
        settle().await;
        world.stall_commits().await;
        clients.push(world.client("joining").await);
        (world, clients)
    });
    drop(runtime);
    while world.log.commit(&*world.registry) {}
    assert_eq!((world.count(KindTag::Connected), world.count(KindTag::Disconnected)), (11, 11));
    let internal =
        world.records().iter().filter(|record| line(record).ends_with("internal_error 1011 Internal error")).count();
    assert_eq!(internal, 10);
    assert_eq!(world.registry.count(), 0);
    assert!(world.log.budget().is_whole());
    drop(clients);
}

#[tokio::test(start_paused = true)]
async fn frames_that_a_stopped_connection_still_had_are_dropped_and_their_senders_told() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let (ours, theirs) = duplex(10);
    world.serve(Fragile(WsSocket::new(ours, &[], 1_000)), Some("a"));
    let mut raw = client::Raw::new(theirs);
    settle().await;
    let begun = world.send("a", &"x".repeat(20_000)).expect("room");
    settle().await;
    let waiting = world.send("a", "never").expect("room");
    raw.frame(client::TEXT, b"panic").await;
    settle().await;
    for accepted in [begun, waiting] {
        assert_eq!(world.outcome(accepted).await.1, Some(Failure::OutcomeUnknown));
    }
    assert_eq!(world.host.metrics.sends.of(SendOutcome::Written).get(), 0);
    drop(raw);
    world.rests().await;
}
