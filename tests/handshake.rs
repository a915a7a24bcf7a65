//! Which requests become WebSockets, and what the others are told.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::harness::client::{frame, raw_exchange, raw_websocket};
use crate::harness::http::{Answer, Request};
use crate::harness::{Client, Node, SOON, eventually};

/// What a browser sends first on a port that it takes for TLS: the head of a ClientHello record.
const CLIENT_HELLO: [u8; 16] = [0x16, 3, 1, 0, 0xff, 1, 0, 0, 0xfb, 3, 3, 1, 2, 3, 4, 5];

#[tokio::test]
async fn a_plain_get_is_told_in_one_line_what_is_spoken_here() {
    let node = Node::start().await;
    let answer = Request::plain().refused_by(node.ws).await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
    assert!(answer.body.contains("WebSocket") && answer.body.ends_with('\n'), "{answer:?}");
    assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()));
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(node.handshakes("bad_request").await, 1.0);
}

#[tokio::test]
async fn a_malformed_handshake_is_refused_with_the_status_that_fits_it() {
    let node = Node::start().await;
    let good = Request::good;
    let cases = [
        (400, good().without("Upgrade")),
        (400, good().with("Upgrade", "h2c")),
        (400, good().without("Connection")),
        (400, good().with("Connection", "keep-alive")),
        (400, good().without("Sec-WebSocket-Key")),
        (400, good().with("Sec-WebSocket-Key", "")),
        (400, good().with("Sec-WebSocket-Key", "c2hvcnQ=")),
        (400, good().with("Sec-WebSocket-Key", "not base64 at all")),
        (426, good().without("Sec-WebSocket-Version")),
        (426, good().with("Sec-WebSocket-Version", "8")),
        (405, good().method("POST")),
        (405, Request::plain().method("PUT")),
        (400, good().version("HTTP/1.0")),
    ];
    for (status, request) in &cases {
        let answer = request.refused_by(node.ws).await;
        assert_eq!(answer.status, *status, "{answer:?} to {}", String::from_utf8_lossy(&request.bytes()));
        assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
        assert_eq!(answer.header("sec-websocket-version"), (*status == 426).then_some("13"));
        assert_eq!(answer.header("allow"), (*status == 405).then_some("GET"));
    }
    assert_eq!(node.handshakes("bad_request").await, cases.len() as f64);
    assert_eq!(node.handshakes("upgraded").await, 0.0);
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_counted() {
    let node = Node::start().await;
    let garbage = [b'x'; 40_000];
    let cases: [&[u8]; 6] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &CLIENT_HELLO,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &[0; 64],
        b"GET / HTTP/1.1\r\nno colon here\r\n\r\n",
        &garbage,
    ];
    for bytes in cases {
        let answer = raw_exchange(node.ws, bytes).await;
        let status = Answer::parse(&answer).status;
        assert!(answer.is_empty() || matches!(status, 400 | 414 | 431), "{answer} to {bytes:?}");
    }
    assert_eq!(node.handshakes("malformed").await, cases.len() as f64);
    // And it goes on serving.
    let _client = node.connect("alice").await;
}

#[tokio::test]
async fn a_handshake_over_a_hundred_headers_or_sixteen_kilobytes_is_answered_431() {
    let node = Node::start().await;
    let with_headers = |count: usize| (0..count - 5).fold(Request::good(), |r, n| r.with(&format!("X-{n}"), "y"));
    assert_eq!(with_headers(101).refused_by(node.ws).await.status, 431);
    let long = Request::good().with("X-Long", "y".repeat(17 * 1024));
    assert_eq!(long.refused_by(node.ws).await.status, 431);
    assert_eq!(node.handshakes("malformed").await, 2.0);
    // What is just within both is a handshake.
    with_headers(100).granted_by(node.ws, b"").await;
    Request::good().with("X-Long", "y".repeat(15 * 1024)).granted_by(node.ws, b"").await;
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_in_time_is_closed_and_its_slot_is_free_again() {
    let node = Node::with(|config| {
        config.ws.max_handshakes = 1;
        config.ws.handshake_timeout = Duration::from_millis(150);
    })
    .await;
    for begun in [&b""[..], b"GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut half = TcpStream::connect(node.ws).await.expect("connects");
        half.write_all(begun).await.expect("writes");
        // Waits for the only slot.
        let _client = node.connect("alice").await;
        let mut answer = String::new();
        let _ = tokio::time::timeout(SOON, half.read_to_string(&mut answer)).await.expect("it is closed");
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert_eq!(node.handshakes("timed_out").await, 2.0);
    assert_eq!(node.handshakes("upgraded").await, 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_several_threads_there_are_as_many_slots_and_whoever_dawdles_takes_only_one() {
    let node = Node::with(|config| config.ws.max_handshakes = 4).await;
    let mut dawdlers = Vec::new();
    for _ in 0..3 {
        dawdlers.push(TcpStream::connect(node.ws).await.expect("connects"));
    }
    for i in 0..20 {
        let _client = node.connect(&format!("alice-{i}")).await;
    }
    dawdlers.push(TcpStream::connect(node.ws).await.expect("connects"));
    let mut waiting = pin!(node.connect("bob"));
    let early = tokio::time::timeout(Duration::from_millis(100), waiting.as_mut()).await;
    assert!(early.is_err(), "no slot is left");
    dawdlers.pop();
    let _client = waiting.await;
    assert_eq!(node.handshakes("timed_out").await, 0.0);
}

/// How many the kernel has for a listener that nobody has accepted.
#[cfg(target_os = "linux")]
fn waiting_in_the_kernel(listener: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("readable");
    let address = format!(":{:04X}", listener.port());
    let listening = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[1].ends_with(&address) && fields[3] == "0A"
    };
    let line = table.lines().skip(1).find(listening).expect("it listens");
    let queue = line.split_whitespace().nth(4).and_then(|queues| queues.split_once(':')).expect("two queues").1;
    usize::from_str_radix(queue, 16).expect("a number")
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn those_for_whom_there_are_places_wait_accepted_and_only_the_others_in_the_kernel() {
    let node = Node::with(|config| {
        config.ws.max_handshakes = 1;
        config.ws.max_connections = 3;
    })
    .await;
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(TcpStream::connect(node.ws).await.expect("connects"));
    }
    // One is under way, and as many wait as there are places.
    let left = || async { (waiting_in_the_kernel(node.ws) == 6).then_some(()) };
    eventually("six are left to the kernel", left).await;
    others.clear();
    let _client = node.connect("alice").await;
    assert_eq!(waiting_in_the_kernel(node.ws), 0);
}

#[tokio::test]
async fn a_crowd_that_says_nothing_does_not_keep_those_behind_it_waiting_one_by_one() {
    let node = Node::with(|config| {
        config.ws.max_handshakes = 1;
        config.ws.handshake_timeout = Duration::from_millis(500);
    })
    .await;
    let mut crowd = Vec::new();
    for _ in 0..40 {
        crowd.push(TcpStream::connect(node.ws).await.expect("connects"));
    }
    // One after the other they would take twenty seconds, which is longer than is waited here.
    let _client = tokio::time::timeout(SOON, node.connect("alice")).await.expect("soon");
    assert_eq!(node.handshakes("timed_out").await, 40.0);
}

#[tokio::test]
async fn one_that_dribbles_its_handshake_is_cut_off_at_the_same_time() {
    let node = Node::with(|config| config.ws.handshake_timeout = Duration::from_millis(200)).await;
    let mut dribbler = TcpStream::connect(node.ws).await.expect("connects");
    let began = tokio::time::Instant::now();
    for byte in Request::good().bytes().iter().cycle() {
        if dribbler.write_all(&[*byte]).await.is_err() {
            break;
        }
        assert!(began.elapsed() < SOON, "still listened to");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.handshakes("timed_out").await, 1.0);
}

#[tokio::test]
async fn a_probe_that_opens_and_closes_is_not_counted() {
    let node = Node::start().await;
    for _ in 0..3 {
        drop(TcpStream::connect(node.ws).await.expect("connects"));
    }
    let _client = node.connect("alice").await;
    for outcome in ["malformed", "bad_request", "timed_out"] {
        assert_eq!(node.handshakes(outcome).await, 0.0, "{outcome}");
    }
}

#[tokio::test]
async fn only_listed_origins_and_those_without_one_are_let_in() {
    let node = Node::with(|config| config.ws.allowed_origins = vec!["https://app.example".to_owned()]).await;
    let from = |origin: &str| Request::good().with("Origin", origin);
    for foreign in ["https://evil.example", "http://app.example", "https://app.example.evil.example", "null"] {
        assert_eq!(from(foreign).refused_by(node.ws).await.status, 403, "{foreign}");
    }
    from("https://app.example").granted_by(node.ws, b"").await;
    Request::good().granted_by(node.ws, b"").await;
    assert_eq!(node.handshakes("forbidden_origin").await, 4.0);
    assert_eq!(node.handshakes("upgraded").await, 2.0);
}

#[tokio::test]
async fn over_the_total_cap_a_handshake_is_told_to_come_later_until_somebody_leaves() {
    let node = Node::with(|config| config.ws.max_connections = 2).await;
    let (first, _second) = (node.connect("a").await, node.connect("b").await);
    let answer = Request::good().refused_by(node.ws).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(node.handshakes("too_many").await, 1.0);
    first.vanish();
    place_comes_free(node.ws).await;
}

#[tokio::test]
async fn over_the_cap_of_one_address_a_handshake_is_told_to_come_later_until_somebody_leaves() {
    let node = Node::with(|config| config.ws.max_connections_per_address = 2).await;
    let (first, _second) = (node.connect("a").await, node.connect("b").await);
    let answer = Request::good().refused_by(node.ws).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("5")));
    assert_eq!(node.handshakes("too_many_from_address").await, 1.0);
    // Another address has places of its own.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).expect("loopback has many addresses");
    let mut other = socket.connect(node.ws).await.expect("connects");
    other.write_all(&Request::good().bytes()).await.expect("writes");
    assert!(crate::harness::http::head_of(&mut other).await.starts_with("HTTP/1.1 101"));
    first.vanish();
    place_comes_free(node.ws).await;
}

async fn place_comes_free(ws: SocketAddr) {
    eventually("the place is free", || async move {
        let mut stream = TcpStream::connect(ws).await.expect("connects");
        stream.write_all(&Request::good().bytes()).await.expect("writes");
        crate::harness::http::head_of(&mut stream).await.starts_with("HTTP/1.1 101").then_some(())
    })
    .await;
}

#[tokio::test]
async fn frames_sent_together_with_the_handshake_are_not_lost() {
    let node = Node::with(|config| config.limits.bytes_per_second = heartwire::config::ByteSize::mib(1)).await;
    let mut events = node.events().await;
    let mut more = frame(0x81, b"heartbeat:alice");
    let texts: Vec<_> = (0..24).map(|n| format!("{n:04}{}", "x".repeat(1000))).collect();
    for text in &texts {
        more.extend(frame(0x81, text.as_bytes()));
    }
    let _socket = Request::good().granted_by(node.ws, &more).await;
    assert_eq!(events.connected().await.0.client_id, "alice");
    for text in &texts {
        assert_eq!(&events.text().await.1, text);
    }
}

#[tokio::test]
async fn a_client_names_itself_by_query_or_header_and_the_header_wins() {
    let node = Node::with(|config| config.identity.header = "x-client-id".to_owned()).await;
    let mut events = node.events().await;
    let mut request = format!("ws://{}/chat?room=1&client_id=al%20ice", node.ws).into_client_request().expect("good");
    let _query = Client::connect(request.clone()).await;
    assert_eq!(events.connected().await.0.client_id, "al ice");
    request.headers_mut().insert("x-client-id", "bob".parse().expect("a value"));
    let _header = Client::connect(request).await;
    assert_eq!(events.connected().await.0.client_id, "bob");
}

#[tokio::test]
async fn neither_query_nor_header_is_believed_unless_the_configuration_says_so() {
    let node = Node::with(|config| config.identity.query_parameter.clear()).await;
    let mut events = node.events().await;
    let mut request = format!("ws://{}/?client_id=mallory", node.ws).into_client_request().expect("good");
    request.headers_mut().insert("x-client-id", "mallory".parse().expect("a value"));
    let mut client = Client::connect(request).await;
    client.text("heartbeat:alice").await;
    assert_eq!(events.connected().await.0.client_id, "alice");
}

#[tokio::test]
async fn an_id_that_is_not_allowed_is_refused_in_the_handshake() {
    let node = Node::with(|config| config.identity.header = "x-client-id".to_owned()).await;
    let long = "x".repeat(129);
    let ids = ["", "%7Eadmin", "~admin", "a%00b", "a%0Ab", "a%7f", "%ff", "%c3%28", &long];
    for id in ids {
        let answer = Request::good().target(format!("/?client_id={id}")).refused_by(node.ws).await;
        assert_eq!((answer.status, answer.body.lines().count()), (400, 1), "{id}: {answer:?}");
    }
    for id in ["~admin", "\u{e9}".repeat(65).as_str()] {
        assert_eq!(Request::good().with("X-Client-Id", id).refused_by(node.ws).await.status, 400, "{id}");
    }
    assert_eq!(node.handshakes("bad_identity").await, ids.len() as f64 + 2.0);
    // The longest that is allowed.
    raw_websocket(node.ws, &format!("?client_id={}", "x".repeat(128))).await;
}
