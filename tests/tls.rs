//! TLS on the WebSocket port: all is as without it, and what is not TLS, or not in time, gets nowhere.

use std::time::Duration;

use heartwire::config::{ByteSize, Config};
use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use heartwire::pb::send_request::Payload;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::version;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::client::{frame, raw_exchange, read_frame};
use crate::harness::tls::{Files, Identity, over};
use crate::harness::{Node, Process, SOON, client_target, eventually, process, reason};

/// A node that speaks TLS, what it shows, and its files.
async fn secure(change: impl FnOnce(&mut Config)) -> (Node, Identity, Files) {
    let identity = Identity::new();
    let files = Files::of(&identity);
    let node = Node::with(|config| {
        config.ws.tls_certificate = files.certificate();
        config.ws.tls_key = files.key();
        change(config);
    })
    .await;
    (node, identity, files)
}

fn text(id: &str, text: impl Into<String>) -> pb::SendRequest {
    pb::SendRequest {
        target: Some(client_target(id)),
        payload: Some(Payload::Text(text.into())),
        receipt: pb::Stage::Written.into(),
        ..Default::default()
    }
}

async fn counted(node: &Node, outcome: &str, count: u64) {
    let wanted = format!("heartwire_handshakes_total{{outcome=\"{outcome}\"}} {count}");
    eventually(&wanted, || async {
        let (_, metrics) = crate::harness::client::http_get(node.admin, "/metrics").await;
        metrics.contains(&wanted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_over_tls_is_a_client_like_any_other() {
    let (node, identity, _files) = secure(|_| {}).await;
    let mut events = node.events().await;
    for versions in [[&version::TLS13], [&version::TLS12]] {
        let tcp = TcpStream::connect(node.ws).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = identity.connector(&versions).connect(name, tcp).await.expect("trusted");
        let mut alice = over(stream, "?client_id=alice").await;
        let (event, _) = events.connected().await;
        assert_eq!(event.client_id, "alice");
        // Several records long, and as many as the rate allows at once.
        let long = "x".repeat(60_000);
        for said in ["hello", &long, "bye"] {
            alice.text(said).await;
            let Some(Kind::MessageReceived(message)) = events.next().await.kind else { panic!("no message") };
            assert!(matches!(message.payload, Some(pb::message_received::Payload::Text(text)) if text == said));
        }
        for told in ["hello", &"y".repeat(300_000), "bye"] {
            let answer = node.messages().send(text("alice", told)).await.expect("sends").into_inner();
            assert_eq!(answer.deliveries[0].stage(), pb::Stage::Written);
            assert_eq!(alice.next_text().await, told);
        }
        alice.send(Message::Ping("are you there".into())).await;
        alice.text("heartbeat").await;
        node.disconnect("alice", 0, "enough").await.expect("disconnects");
        assert_eq!(alice.closed().await, (1000, "enough".to_owned()));
        let Some(Kind::Disconnected(gone)) = events.next().await.kind else { panic!("not gone") };
        assert_eq!(gone.cause(), Cause::Kicked);
    }
}

#[tokio::test]
async fn what_comes_in_one_segment_is_read_while_an_answer_to_it_is_written() {
    let (node, identity, _files) = secure(|_| {}).await;
    let mut events = node.events().await;
    let mut stream = identity.client(node.ws, "?client_id=alice").await.socket.into_inner();
    events.connected().await;
    // Each frame a record of its own, all of them sent by one write of the kernel as far as it likes: Pongs are written between them.
    for round in 0..20 {
        for turn in 0..10 {
            stream.write_all(&frame(0x89, &[turn])).await.expect("writes");
            stream.write_all(&frame(0x81, format!("{round} {turn}").as_bytes())).await.expect("writes");
        }
        stream.flush().await.expect("flushes");
        for turn in 0..10 {
            let Some(Kind::MessageReceived(message)) = events.next().await.kind else { panic!("no message") };
            let said = format!("{round} {turn}");
            assert!(matches!(message.payload, Some(pb::message_received::Payload::Text(text)) if text == said));
        }
    }
    // Pongs may be left out where a newer Ping came (RFC 6455, 5.5.3), but the last is answered.
    let last = async { while read_frame(&mut stream).await != Some((0x8a, vec![9])) {} };
    tokio::time::timeout(SOON, last).await.expect("a Pong");
}

#[tokio::test]
async fn a_client_that_goes_without_a_close_or_falls_silent_is_gone_all_the_same() {
    let (node, identity, _files) = secure(|config| {
        config.heartbeat.interval = Duration::from_millis(200);
        config.heartbeat.timeout = Duration::from_millis(500);
    })
    .await;
    let mut events = node.events().await;
    let lost = identity.client(node.ws, "?client_id=lost").await;
    events.connected().await;
    lost.vanish();
    let gone = async |events: &mut crate::harness::Events| loop {
        if let Some(Kind::Disconnected(gone)) = events.next().await.kind {
            return gone.cause();
        }
    };
    assert_eq!(gone(&mut events).await, Cause::ConnectionLost);
    let mut silent = identity.client(node.ws, "?client_id=silent").await.socket.into_inner();
    assert_eq!(gone(&mut events).await, Cause::HeartbeatTimeout);
    assert_eq!(crate::harness::client::raw_close_code(&mut silent).await, Some(4408));
}

#[tokio::test]
async fn tls_ends_in_order_too_whoever_closes_first() {
    let (node, identity, _files) = secure(|_| {}).await;
    let mut events = node.events().await;
    for kicked in [false, true] {
        let mut stream = identity.client(node.ws, "?client_id=alice").await.socket.into_inner();
        events.connected().await;
        if kicked {
            node.disconnect("alice", 0, "enough").await.expect("disconnects");
            assert!(matches!(read_frame(&mut stream).await, Some((0x88, _))));
        }
        stream.write_all(&frame(0x88, &1000u16.to_be_bytes())).await.expect("writes");
        if !kicked {
            assert_eq!(read_frame(&mut stream).await, Some((0x88, 1000u16.to_be_bytes().to_vec())));
        }
        // An end without a farewell is an error here.
        assert_eq!(stream.read_to_end(&mut Vec::new()).await.expect("ends with a farewell"), 0);
        assert!(matches!(events.next().await.kind, Some(Kind::Disconnected(_))));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_refused_more_and_in_the_end_closed() {
    let (node, identity, _files) = secure(|config| {
        config.ws.write_timeout = Duration::from_millis(800);
        config.limits.outbox_bytes = ByteSize::kib(256);
    })
    .await;
    let mut events = node.events().await;
    let slow = identity.client(node.ws, "?client_id=slow").await;
    events.connected().await;
    let accepted = |payload: String| pb::SendRequest { receipt: pb::Stage::Accepted.into(), ..text("slow", payload) };
    let full = async {
        loop {
            if let Err(refused) = node.messages().send(accepted("z".repeat(100_000))).await {
                return reason(&refused);
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, full).await.expect("full soon"), "OUTBOX_FULL");
    let Some(Kind::Disconnected(gone)) = events.next().await.kind else { panic!("not gone") };
    assert_eq!(gone.cause(), Cause::SlowClient);
    drop(slow);
}

#[tokio::test]
async fn a_session_goes_on_over_another_tls_socket() {
    let (node, identity, _files) = secure(|_| {}).await;
    let mut events = node.events().await;
    let connect = async || {
        let stream = identity.stream(node.ws).await.expect("trusted");
        let request = tokio_tungstenite::tungstenite::client::ClientRequestBuilder::new(
            "wss://localhost/?client_id=alice".parse().expect("a URL"),
        )
        .with_sub_protocol("heartwire.v1.json");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("connects");
        crate::harness::client::Client { socket }
    };
    let mut alice = connect().await;
    alice.text(r#"{"type":"hello"}"#).await;
    let hello: serde_json::Value = serde_json::from_str(&alice.next_text().await).expect("JSON");
    events.connected().await;
    alice.vanish();
    assert!(matches!(events.next().await.kind, Some(Kind::Suspected(_))));
    let mut again = connect().await;
    let session = hello["session"].as_str().expect("a session");
    again.text(&format!(r#"{{"type":"resume","session":"{session}","received":0}}"#)).await;
    assert!(matches!(events.next().await.kind, Some(Kind::Recovered(recovered)) if recovered.resumed));
}

#[tokio::test]
async fn what_is_not_tls_is_told_so_and_counted() {
    let (node, identity, _files) = secure(|_| {}).await;
    let answer = raw_exchange(node.ws, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("wss://"), "{answer}");
    let length = answer.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()).expect("a length");
    assert_eq!(answer.split("\r\n\r\n").nth(1).map(str::len), length.parse().ok());
    counted(&node, "tls_failed", 1).await;
    // However long its request is, the connection is not reset, which may take the answer with it.
    let mut stream = TcpStream::connect(node.ws).await.expect("connects");
    let cookies = "x".repeat(30_000);
    stream.write_all(format!("GET / HTTP/1.1\r\nCookie: {cookies}\r\n\r\n").as_bytes()).await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("ends well");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    stream.write_all(b"x").await.expect("still read");
    drop(stream);
    counted(&node, "tls_failed", 2).await;
    let garbage = raw_exchange(node.ws, &[0xff; 100]).await;
    assert!(!garbage.contains("HTTP"), "{garbage}");
    counted(&node, "tls_failed", 3).await;
    // A client that trusts another, and says so.
    assert!(Identity::new().stream(node.ws).await.is_err());
    counted(&node, "tls_failed", 4).await;
    // One that comes for something else than a WebSocket is answered as ever.
    let mut stream = identity.stream(node.ws).await.expect("trusted");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("ends with a farewell");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    counted(&node, "bad_request", 1).await;
}

#[tokio::test]
async fn a_handshake_that_stops_half_way_is_given_up() {
    let (node, identity, _files) = secure(|config| config.ws.handshake_timeout = Duration::from_millis(300)).await;
    // The beginning of a record that never ends.
    raw_exchange(node.ws, &[0x16, 3, 1, 2, 0, 1]).await;
    counted(&node, "timed_out", 1).await;
    // TLS, and then nothing.
    let mut stream = identity.stream(node.ws).await.expect("trusted");
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut Vec::new())).await.expect("closed soon");
    assert!(read.is_err() || read.is_ok_and(|count| count == 0));
    counted(&node, "timed_out", 2).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_newcomers_and_nobody_is_disconnected() {
    let (old, new) = (Identity::new(), Identity::new());
    let files = Files::of(&old);
    let [certificate, key] = files.settings();
    let process = Process::start(&[&certificate, &key]).await;
    assert!(process.banner.contains("clients    wss://"), "{}", process.banner);
    let mut alice = old.client(process.ws, "?client_id=alice").await;
    // Half of the change is no change.
    files.put(&new.certificate, &old.key);
    process.signal("HUP");
    old.client(process.ws, "?client_id=bob").await;
    files.put(&new.certificate, &new.key);
    process.signal("HUP");
    eventually("the new certificate", || async { new.stream(process.ws).await.ok() }).await;
    assert!(old.stream(process.ws).await.is_err(), "the old one is shown to nobody");
    process.messages().send(text("alice", "still here?")).await.expect("sends");
    assert_eq!(alice.next_text().await, "still here?");
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_by_their_keys() {
    let identity = Identity::new();
    let files = Files::of(&identity);
    let [certificate, key] = files.settings();
    let check = async |settings: &[&str]| {
        let mut args = vec!["--check-config"];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        process::run(&args).await
    };
    assert_eq!(check(&[&certificate, &key]).await.0, Some(0));
    let told = async |settings: &[&str], words: &[&str]| {
        let (code, _, told) = check(settings).await;
        assert_eq!(code, Some(2), "{told}");
        assert!(words.iter().all(|word| told.contains(word)), "{words:?} in {told}");
    };
    told(&[&certificate], &["ws.tls_key", "missing", "ws.tls_certificate"]).await;
    told(&[&key], &["ws.tls_certificate", "missing", "ws.tls_key"]).await;
    told(&["ws.tls_certificate=/none/such.pem", &key], &["ws.tls_certificate", "/none/such.pem"]).await;
    files.put(&identity.certificate, &Identity::new().key);
    told(&[&certificate, &key], &["ws.tls_key", "is not the key of the certificate"]).await;
    files.put("no PEM at all", &identity.key);
    told(&[&certificate, &key], &["ws.tls_certificate", "has no certificate"]).await;
    files.put(&identity.certificate, "");
    told(&[&certificate, &key], &["ws.tls_key", "has no private key"]).await;
}
