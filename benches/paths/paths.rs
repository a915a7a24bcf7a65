//! The paths: each does a thing so many times, after whatever it needs to be set up.
//!
//! What a path does once must not depend on how often it is to do the rest, or it does not fall out of the difference.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use heartwire::dispatch::{Caller, Outgoing};
use heartwire::event::Payload;
use heartwire::heartbeat::Cadence;
use heartwire::ids::ClientId;
use heartwire::labels::Labels;
use heartwire::log::Log as _;
use heartwire::registry::{Newcomer, Target};
use tokio::task::{JoinSet, yield_now};

use crate::journal;
use crate::subscribe;
use crate::world::{World, frame, name};

/// A hot path of the server.
pub struct Path {
    /// What it is called in the budgets.
    pub name: &'static str,
    /// What is done once, for people.
    pub what: &'static str,
    /// How often it is done in the smaller of two runs; in the larger it is twice as often.
    pub times: usize,
    /// Does it so many times.
    pub run: fn(usize),
}

/// Every path.
pub const ALL: &[Path] = &[
    Path {
        name: "heartbeat_text",
        what: "a client says `heartbeat`: from the bytes on its wire until it is waited for again",
        times: 2_000,
        run: |times| block_on(say(times, frame(TEXT, b"heartbeat"), 0)),
    },
    Path {
        name: "heartbeat_ping",
        what: "a client sends a Ping: the same, with the Pong written",
        times: 2_000,
        run: |times| block_on(say(times, frame(PING, b""), 2)),
    },
    Path {
        name: "server_ping",
        what: "a heartbeat of the server: found due by the sweep, a Ping written, the client's Pong read",
        times: 2_048,
        run: |times| block_paused(server_ping(times)),
    },
    Path {
        name: "message",
        what: "a client sends 64 bytes: read, submitted, committed by itself, applied",
        times: 2_000,
        run: |times| block_on(message(times)),
    },
    Path {
        name: "connect",
        what: "a client joins after its handshake, is committed and listed, and goes without a Close",
        times: 500,
        run: |times| block_on(connect(times)),
    },
    Path {
        name: "send",
        what: "`Send` of 64 bytes to a client that waits, from dispatch until it is told that they are written",
        times: 2_000,
        run: |times| block_on(send(times)),
    },
    Path {
        name: "broadcast_100",
        what: "`Broadcast` of 64 bytes to 100 clients until all of it is written",
        times: 100,
        run: |times| block_on(broadcast(times)),
    },
    Path {
        name: "subscribe",
        what: "an event of 64 bytes told to a subscriber: read from the log in a batch, and encoded for HTTP/2",
        times: subscribe::BATCH * 8,
        run: |times| block_on(subscribe::read(times)),
    },
    Path {
        name: "sweep_10000",
        what: "a sweep over 10,000 connections of which none has anything due",
        times: 256,
        run: |times| block_paused(sweep(times)),
    },
    Path {
        name: "journal_event",
        what: "an event of 64 bytes committed to the log on disk in a batch of 64; the kernel's part is not counted",
        times: 64 * 32,
        run: journal::commit,
    },
];

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLIENTS: usize = 64;

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work);
}

/// With a clock that stands still unless it is moved.
fn block_paused(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(work);
}

/// Clients take turns to say the same; each is answered with so many bytes.
async fn say(times: usize, bytes: Vec<u8>, answer: usize) {
    let world = World::new();
    let clients = world.connect_many(CLIENTS).await;
    for client in clients.iter().cycle().take(times) {
        client.say_and_be_read(&bytes).await;
    }
    assert_eq!(clients.iter().map(|client| client.written()).sum::<usize>(), times * answer);
}

async fn server_ping(times: usize) {
    const INTERVAL: Duration = Duration::from_secs(1);
    let world = World::with(Cadence { interval: 1_000, timeout: 60_000 }, 1 << 20);
    let clients = world.connect_many(CLIENTS).await;
    world.registry.sweep();
    for _ in 0..times / CLIENTS {
        // Each connection's beat falls due once within an interval, at a moment of its own.
        tokio::time::advance(INTERVAL).await;
        let before = clients[0].written();
        world.registry.sweep();
        clients[0].until(|ends| ends.written > before).await;
        for client in &clients {
            client.say_and_be_read(&frame(PONG, b"")).await;
        }
    }
    assert!(clients.iter().all(|client| client.written() >= times / CLIENTS * 2));
}

async fn message(times: usize) {
    let world = World::new();
    let clients = world.connect_many(CLIENTS).await;
    let said = frame(TEXT, &[b'x'; 64]);
    let before = world.log.head();
    for client in clients.iter().cycle().take(times) {
        client.say_and_be_read(&said).await;
        world.commit();
    }
    assert_eq!(world.log.head() - before, times as i64);
}

async fn connect(times: usize) {
    let world = World::new();
    // Others are there already, so that the tables are neither empty nor growing.
    let others = world.connect_many(1_000).await;
    for number in 0..times {
        let client = world.connect(&name(1_000_000 + number % 500)).await;
        client.vanish();
        yield_now().await;
        world.commit();
    }
    assert_eq!(world.registry.count(), others.len());
}

fn outgoing(number: usize) -> Outgoing {
    Outgoing {
        target: Target::Client(ClientId::named(&name(number)).expect("a good id")),
        payload: Payload::Text(vec![b'x'; 64].into()),
        written: true,
        acked: false,
        id: None,
        caller: Caller::ANYONE,
        deadline: None,
        if_generation: None,
        at_once: true,
    }
}

async fn send(times: usize) {
    let world = World::new();
    let clients = world.connect_many(CLIENTS).await;
    let messages: Vec<_> = (0..CLIENTS).map(outgoing).collect();
    for outgoing in messages.iter().cycle().take(times) {
        let accepted = world.dispatch.accept(outgoing).expect("is there");
        let settled = world.dispatch.settle(accepted, Duration::from_secs(10)).await.expect("is written");
        assert!(settled.deliveries.iter().all(|delivery| delivery.failure.is_none()));
    }
    assert_eq!(clients.iter().map(|client| client.written()).sum::<usize>(), times * 66);
}

async fn broadcast(times: usize) {
    let world = World::new();
    let clients = world.connect_many(100).await;
    let payload = Payload::Text(vec![b'x'; 64].into());
    for round in 1..=times {
        let outcome = world.dispatch.broadcast(&Labels::NONE, &payload).await;
        assert_eq!(outcome.accepted, 100);
        for client in &clients {
            client.until(|ends| ends.written == round * 66).await;
        }
    }
}

async fn sweep(times: usize) {
    const TICK: Duration = Duration::from_millis(100);
    // The longest there are: within the run nothing falls due but a first beat here and there.
    let world = Arc::new(World::with(Cadence { interval: 3_600_000, timeout: 86_400_000 }, 1 << 20));
    let mut joining = JoinSet::new();
    for number in 0..10_000 {
        let world = Arc::clone(&world);
        joining.spawn(async move {
            let client_id = ClientId::named(&name(number)).ok();
            world.registry.join(Newcomer { client_id, remote_address: None, subprotocol: "" }).await
        });
    }
    let mut registrations = Vec::with_capacity(10_000);
    while !joining.is_empty() {
        yield_now().await;
        world.log.commit(&*world.registry);
        while let Some(joined) = joining.try_join_next() {
            registrations.push(joined.expect("no panic").expect("joins"));
        }
    }
    // The first look of each sets its timer.
    tokio::time::advance(TICK).await;
    world.registry.sweep();
    for _ in 0..times {
        tokio::time::advance(TICK).await;
        world.registry.sweep();
    }
    assert_eq!(world.registry.count(), registrations.len());
}
