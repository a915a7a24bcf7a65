use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::close::Cause;
use crate::event::KindTag;
use crate::metrics::{Beat, Handshake, SendOutcome};

struct Server {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
    health: watch::Sender<LogHealth>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        Self::reading(|| Reading {
            alive: 3,
            suspect: 1,
            log_healthy: 1,
            log_ailing: 1,
            oldest_event_seconds: 12.5,
            outbox_frames: 7,
            outbox_bytes: 70,
            mailbox_messages: 4,
            mailbox_bytes: 40,
            log_events: 9,
            log_bytes: 900,
            subscribers: 2,
            subscriber_lag: 5,
        })
        .await
    }

    async fn reading(reading: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let (readiness, ready) = watch::channel(Readiness::Starting);
        let metrics = Arc::new(Metrics::default());
        let (health, log) = watch::channel(LogHealth::Committing);
        let state = AdminState { metrics: Arc::clone(&metrics), reading: Arc::new(reading), readiness: ready, log };
        let task = tokio::spawn(serve(listener, state, stop.clone()));
        Self { address, metrics, readiness, health, stop, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        let mut stream = self.connect().await;
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Answer::until_closed(stream).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    async fn until_closed(mut stream: TcpStream) -> Self {
        let mut bytes = String::new();
        stream.read_to_string(&mut bytes).await.unwrap();
        let (head, body) = bytes.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}

#[tokio::test]
async fn liveness_is_ok_whatever_the_readiness_is() {
    let server = Server::start().await;
    for readiness in [Readiness::Starting, Readiness::Ready, Readiness::Draining] {
        server.readiness.send_replace(readiness);
        let answer = server.get("/livez").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    }
}

#[tokio::test]
async fn readiness_follows_the_state_and_says_why_not() {
    let server = Server::start().await;
    for (readiness, status, body) in [
        (Readiness::Starting, 503, "starting\n"),
        (Readiness::Ready, 200, "ready\n"),
        (Readiness::Draining, 503, "draining\n"),
    ] {
        server.readiness.send_replace(readiness);
        let answer = server.get("/readyz").await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body));
        assert!(answer.has("cache-control: no-store"), "{}", answer.head);
    }
}

#[tokio::test]
async fn while_the_log_fails_the_node_is_alive_and_not_ready() {
    let server = Server::start().await;
    server.readiness.send_replace(Readiness::Ready);
    server.health.send_replace(LogHealth::Failing("no space".into()));
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "the log is failing: no space\n"));
    assert_eq!(server.get("/livez").await.status, 200);
    server.health.send_replace(LogHealth::Committing);
    assert_eq!(server.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn while_the_log_ails_the_node_is_ready_and_says_what_is_wrong() {
    let server = Server::start().await;
    server.readiness.send_replace(Readiness::Ready);
    server.health.send_replace(LogHealth::Ailing("no checkpoint".into()));
    let answer = server.get("/readyz").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ready\nthe log is ailing: no checkpoint\n"));
}

#[tokio::test]
async fn the_index_names_the_pages_and_other_paths_and_methods_are_refused() {
    let server = Server::start().await;
    let index = server.get("/").await;
    assert_eq!(index.status, 200);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert!(index.body.contains(path));
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = server.ask(method, path).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.has("allow: get,head"), "{}", answer.head);
        }
        assert_eq!(server.ask("HEAD", path).await.body, "");
    }
    for path in ["/metricsz", "/livez/", "/%2e%2e/etc/passwd"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn metrics_have_every_family_from_the_start_in_the_openmetrics_format() {
    let server = Server::start().await;
    server.metrics.handshakes.of(Handshake::Upgraded).inc();
    server.metrics.heartbeats.of(Beat::PongIn).inc();
    server.metrics.disconnects.of(Cause::HeartbeatTimeout).inc();
    server.metrics.sends.of(SendOutcome::Written).inc();
    server.metrics.events.of(KindTag::Connected).inc();
    server.metrics.commit_seconds.observe(0.001);
    let answer = server.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.has("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"), "{}", answer.head);
    for line in [
        "heartwire_connections{state=\"alive\"} 3",
        "heartwire_connections{state=\"suspect\"} 1",
        "heartwire_handshakes_total{outcome=\"upgraded\"} 1",
        "heartwire_handshakes_total{outcome=\"too_many\"} 0",
        "heartwire_heartbeats_total{kind=\"pong_in\"} 1",
        "heartwire_disconnects_total{cause=\"heartbeat_timeout\"} 1",
        "heartwire_disconnects_total{cause=\"slow_client\"} 0",
        "heartwire_events_total{kind=\"connected\"} 1",
        "heartwire_log_oldest_event_age_seconds 12.5",
        "heartwire_subscribers 2",
        "heartwire_subscriber_lag_events 5",
        "heartwire_outbox_frames 7",
        "heartwire_outbox_bytes 70",
        "heartwire_mailbox_messages 4",
        "heartwire_mailbox_bytes 40",
        "heartwire_sends_total{outcome=\"written\"} 1",
        "heartwire_event_commit_seconds_count 1",
        "heartwire_identity_self_named 1",
        concat!("heartwire_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "# UNIT heartwire_event_commit_seconds seconds",
    ] {
        assert!(answer.body.lines().any(|found| found == line), "{line} is not in\n{}", answer.body);
    }
    assert!(answer.body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn no_label_can_hold_a_client_id() {
    let server = Server::start().await;
    let body = server.get("/metrics").await.body;
    let allowed = ["state", "outcome", "kind", "cause", "reason", "le", "version"];
    for line in body.lines().filter(|line| !line.starts_with('#')) {
        let Some((_, labels)) = line.split_once('{') else { continue };
        let name = labels.split_once('=').unwrap().0;
        assert!(allowed.contains(&name) && labels.matches('=').count() == 1, "{line}");
    }
    assert!(!body.contains("client_id"));
}

#[tokio::test]
async fn metrics_that_cannot_be_read_in_time_are_a_503_and_liveness_still_answers() {
    let release = Arc::new(AtomicBool::new(false));
    let held = Arc::clone(&release);
    let server = Server::reading(move || {
        while !held.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Reading::default()
    })
    .await;
    let mut scrape = server.connect().await;
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let waiting = tokio::spawn(Answer::until_closed(scrape));
    assert_eq!(server.get("/livez").await.status, 200);
    tokio::time::pause();
    tokio::time::advance(REQUEST_TIMEOUT).await;
    tokio::time::resume();
    assert_eq!(waiting.await.unwrap().status, 503);
    release.store(true, Ordering::Release);
}

#[tokio::test]
async fn garbage_and_endless_heads_are_refused_and_the_next_client_is_served() {
    let server = Server::start().await;
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[b'a'; 40_000]] {
        let mut stream = server.connect().await;
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{answer:?}");
    }
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn silent_connections_do_not_keep_their_slots() {
    let server = Server::start().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(server.connect().await);
    }
    // One exchange over the last slot shows that all of them were accepted.
    let last = silent.last_mut().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut byte = [0];
    last.read_exact(&mut byte).await.unwrap();

    let beyond = server.get("/livez");
    let mut beyond = std::pin::pin!(beyond);
    assert!(tokio::time::timeout(Duration::from_millis(100), beyond.as_mut()).await.is_err(), "one more was served");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(beyond.await.status, 200);
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_the_stop_ends_it() {
    let server = Server::start().await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nok\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
    }
    server.stop.cancel();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
