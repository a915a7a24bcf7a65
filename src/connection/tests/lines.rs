//! Frames that whoever sends writes by the line that the driver has lent: over real sockets, for only those can be lent. Their time is real, and nothing
//! here waits for it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::client::{BINARY, CLOSE, Frame, PING, PONG, Raw, TEXT, close_payload};
use super::*;
use crate::labels::Labels;
use crate::line::Line;
use crate::metrics::SendOutcome;
use crate::registry::{Connection, signal};

/// Small enough for the kernel to cut frames in two. It doubles it.
const BUFFER: u32 = 4096;

const WRITTEN: (Option<Stage>, Option<Failure>) = (Some(Stage::Written), None);

/// Both ends of a connection: the server's and the client's.
async fn tcp(buffer: Option<u32>) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(bytes) = buffer {
        socket.set_recv_buffer_size(bytes).expect("set");
    }
    let client = socket.connect(listener.local_addr().expect("an address"));
    let (client, server) = tokio::join!(client, listener.accept());
    let server = server.expect("accepted").0;
    if let Some(bytes) = buffer {
        socket2::SockRef::from(&server).set_send_buffer_size(bytes as usize).expect("set");
    }
    (server, client.expect("connected"))
}

impl World {
    /// A client over TCP, named in the handshake, whose line is lent.
    async fn wired(&self, name: &str, buffer: Option<u32>) -> Raw<TcpStream> {
        let (ours, theirs) = tcp(buffer).await;
        self.serve(WsSocket::new(Line::new(ours), &[], self.host.settings.max_message), Some(name));
        // It is listed, its driver has read once and found nothing, and the runtime knows that the socket can be written to.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
            if self.connection(name).is_some_and(|connection| connection.outbox.is_lent()) {
                return Raw::new(theirs);
            }
        }
        panic!("the line is not lent");
    }

    fn connection(&self, name: &str) -> Option<Arc<Connection>> {
        self.registry.open_of(&target(name), None).expect("no generation is asked for").pop()
    }
}

fn text(payload: &str) -> Frame {
    Frame { head: TEXT, payload: payload.into() }
}

/// What became of a message that was not settled when it was accepted.
async fn told(world: &World, accepted: Accepted) -> (Option<Stage>, Option<Failure>) {
    let settled = world.dispatch.settle(accepted, 60 * SECOND).await.expect("nothing is taken out");
    (settled.deliveries[0].stage, settled.deliveries[0].failure)
}

fn at_once(accepted: Accepted) -> (Option<Stage>, Option<Failure>) {
    let settled = accepted.settled().expect("nothing is to be waited for");
    (settled.deliveries[0].stage, settled.deliveries[0].failure)
}

#[tokio::test]
async fn to_a_client_that_waits_a_frame_is_written_when_the_call_returns() {
    let world = World::new(|_| {});
    let mut raw = world.wired("a", None).await;
    for len in [0, 1, 125, 126, 65_535, 65_536] {
        let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
        let payload = Payload::Binary(bytes.clone().into());
        // Nothing is awaited, so no driver has run.
        let accepted = world.dispatch.accept(&Outgoing { payload, ..World::outgoing("a", "") }).expect("room");
        assert_eq!(at_once(accepted), WRITTEN);
        assert_eq!(raw.next_but_pings().await, Some(Frame { head: BINARY, payload: bytes }));
    }
    let stats = world.stats("a");
    assert_eq!((stats.messages_out, stats.bytes_out), (6, 1 + 125 + 126 + 65_535 + 65_536));
    assert_eq!(world.host.metrics.sends.of(SendOutcome::Written).get(), 6);
    drop(raw);
    world.rests().await;
}

#[tokio::test]
async fn a_sender_that_leaves_it_to_the_driver_is_not_overtaken_by_one_that_does_not() {
    let world = World::new(|_| {});
    let mut raw = world.wired("a", None).await;
    let gathered = Outgoing { at_once: false, ..World::outgoing("a", "first") };
    let first = world.dispatch.accept(&gathered).expect("room");
    let second = world.send("a", "second").expect("room");
    assert_eq!([raw.next().await, raw.next().await], [Some(text("first")), Some(text("second"))]);
    assert_eq!([told(&world, first).await, told(&world, second).await], [WRITTEN, WRITTEN]);
    drop(raw);
    world.rests().await;
}

#[tokio::test]
async fn a_frame_that_the_kernel_takes_in_part_is_ended_by_the_driver_before_its_ping_and_its_close() {
    let world = World::new(|_| {});
    let mut raw = world.wired("a", Some(BUFFER)).await;
    let mut texts = Vec::new();
    // Of odd sizes, until one does not go out whole.
    let cut = loop {
        let payload = "x".repeat(701 + texts.len() % 7);
        let accepted = world.send("a", &payload).expect("room");
        texts.push(payload);
        match accepted.settled() {
            Ok(_) => assert!(texts.len() < 10_000, "the client does not read"),
            Err(accepted) => break accepted,
        }
    };
    world.connection("a").expect("connected").signal(signal::BEAT);
    world.kick("a", 4_000, "enough").await;
    for payload in &texts {
        assert_eq!(raw.next_but_pings().await, Some(text(payload)));
    }
    assert_eq!(
        raw.next_but_pings().await,
        Some(Frame { head: CLOSE, payload: close_payload(4_000, "enough").to_vec() })
    );
    assert_eq!(told(&world, cut).await, WRITTEN);
    drop(raw);
    world.rests().await;
}

#[tokio::test]
async fn a_line_that_is_lent_keeps_no_socket_open() {
    let world = World::new(|_| {});
    let (kicked, left) = (world.wired("a", None).await, world.wired("b", None).await);
    let held = [world.connection("a"), world.connection("b")].map(|connection| connection.expect("connected"));
    let mut kicked = kicked;
    world.kick("a", 4_000, "").await;
    assert_eq!(kicked.next().await, Some(Frame { head: CLOSE, payload: close_payload(4_000, "").to_vec() }));
    kicked.frame(CLOSE, &close_payload(4_000, "")).await;
    assert_eq!(kicked.next().await, None, "the end of the stream, though the connection is still known");
    drop(left);
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert!(world.send("b", "nobody").is_err());
    assert!(!held[1].outbox.is_lent());
    drop(kicked);
    world.rests().await;
}

#[tokio::test]
async fn a_broadcast_reaches_each_once_and_before_what_is_sent_later_whoever_writes_it() {
    let world = World::new(|_| {});
    let names: Vec<_> = (0..60).map(|number| format!("client-{number}")).collect();
    let mut clients = Vec::new();
    for name in &names {
        clients.push(world.wired(name, None).await);
    }
    let outcome = world.dispatch.broadcast(&Labels::NONE, &Payload::Text("all".into())).await;
    assert_eq!((outcome.matched, outcome.accepted), (60, 60));
    for name in &names {
        world.send(name, "one").expect("room");
    }
    for client in &mut clients {
        assert_eq!([client.next().await, client.next().await], [Some(text("all")), Some(text("one"))]);
    }
    assert_eq!(world.host.metrics.sends.of(SendOutcome::Written).get(), 120);
    drop(clients);
    world.rests().await;
}

/// Senders on threads of their own, each with its own numbers, while the client pings, beats and reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_many_senders_arrive_whole_once_and_in_the_order_of_each() {
    const SENDERS: usize = 4;
    const EACH: usize = 500;
    for buffer in [None, Some(BUFFER)] {
        let world = Arc::new(World::new(|options| {
            options.connection.rates = Rates { messages: 1_000_000, bytes: 1 << 40 };
        }));
        let mut raw = world.wired("a", buffer).await;
        let (by_the_way, written) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (world, by_the_way, written) = (Arc::clone(&world), Arc::clone(&by_the_way), Arc::clone(&written));
                tokio::spawn(async move {
                    for number in 0..EACH {
                        let payload = format!("{sender} {number} {}", "x".repeat(number * 37 % 3_000));
                        let outgoing = Outgoing { at_once: number % 5 != 0, ..World::outgoing("a", &payload) };
                        let accepted = world.dispatch.accept(&outgoing).expect("room");
                        match accepted.settled() {
                            Ok(_) => {
                                by_the_way.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(accepted) => assert_eq!(told(&world, accepted).await, WRITTEN),
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let mut next = [0; SENDERS];
        // Pings that come together are answered by one Pong (RFC 6455, 5.5.3).
        let (mut pings, mut answered) = (0u32, 0);
        while next.iter().sum::<usize>() < SENDERS * EACH || answered < pings {
            if next.iter().sum::<usize>() % 50 == 0 && pings < 40 {
                pings += 1;
                raw.frame(PING, &pings.to_be_bytes()).await;
                raw.frame(TEXT, b"heartbeat").await;
            }
            let frame = raw.next().await.expect("not the end");
            match frame.head {
                TEXT => {
                    let text = String::from_utf8(frame.payload).expect("text");
                    let mut words = text.split(' ');
                    let [sender, number] =
                        [(); 2].map(|()| words.next().expect("a number").parse::<usize>().expect("one"));
                    assert_eq!(number, next[sender], "of sender {sender}");
                    assert_eq!(words.next().map(str::len), Some(number * 37 % 3_000));
                    next[sender] += 1;
                }
                PONG => {
                    let number = u32::from_be_bytes(frame.payload.try_into().expect("4 bytes"));
                    assert!(number > answered && number <= pings);
                    answered = number;
                }
                PING => {}
                head => panic!("{head:x}"),
            }
        }
        for sender in senders {
            sender.await.expect("all was written");
        }
        assert_eq!(written.load(Ordering::Relaxed), SENDERS * EACH);
        assert!(by_the_way.load(Ordering::Relaxed) > 0, "some went by the line");
        assert_eq!(world.stats("a").messages_out, (SENDERS * EACH) as u64);
        drop(raw);
        Arc::into_inner(world).expect("nobody else has it").rests().await;
    }
}
