//! The port itself: other protocols, sockets, limits of HTTP/2.

use super::*;
use crate::config::ListenAddress;
use futures_util::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Serves a rig on a listener of its own; answers the token that stops it.
fn also_on(rig: &Rig, listener: Listener) -> JoinHandle<()> {
    let serving = Serving {
        routes: rig.services.routes().expect("descriptors"),
        closing: rig.closing.clone(),
        stop: rig.stop.clone(),
        metrics: Arc::clone(&rig.metrics),
    };
    tokio::spawn(serve(listener, serving))
}

async fn tcp(rig: &Rig) -> std::net::SocketAddr {
    let listener = Listener::bind(&"127.0.0.1:0".parse().expect("an address")).await.expect("bound");
    let address = listener.local_address().expect("TCP");
    also_on(rig, listener);
    address
}

#[tokio::test]
async fn http_1_fails_at_once_and_says_what_is_spoken_here() {
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(tcp(&rig).await).await.expect("connected");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("written");
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), read).await.expect("at once").expect("text");
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("gRPC"), "{answer}");
}

#[tokio::test]
async fn a_unix_socket_serves_and_its_file_goes_with_the_server() {
    let rig = Rig::start().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("hw.sock");
    let listener = Listener::bind(&ListenAddress::Unix(path.clone())).await.expect("bound");
    let serving = also_on(&rig, listener);
    let at = path.clone();
    let connector = tower::service_fn(move |_| {
        let at = at.clone();
        async move { UnixStream::connect(at).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
    let node = NodeServiceClient::new(channel).get_node(pb::GetNodeRequest {}).await.expect("answered");
    assert_eq!(node.into_inner().node_id, "test-node");
    rig.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("in time").expect("no panic");
    assert!(!path.exists());
}

#[tokio::test]
async fn metadata_over_the_limit_is_refused_and_the_channel_lives() {
    let rig = Rig::start().await;
    let mut request = tonic::Request::new(pb::GetNodeRequest {});
    request.metadata_mut().insert("big", "x".repeat(20 << 10).parse().expect("ascii"));
    rig.nodes().get_node(request).await.expect_err("refused");
    rig.nodes().get_node(pb::GetNodeRequest {}).await.expect("answered");
}

/// An HTTP/2 frame (RFC 9113, 4.1).
fn h2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn a_flood_of_streams_reset_at_once_is_sent_away_and_nobody_else_notices() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u32 = 0xb;
    let rig = Rig::start().await;
    let mut stream = TcpStream::connect(tcp(&rig).await).await.expect("connected");
    // :method POST and :scheme http by the static table, :path as a literal (RFC 7541, 6.2.2).
    let path = b"/heartwire.v1.NodeService/GetNode";
    let head = [&[0x83, 0x86, 0x04, path.len() as u8], &path[..]].concat();
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(h2_frame(SETTINGS, 0, 0, b""));
    for stream in (1..4_000).step_by(2) {
        flood.extend(h2_frame(HEADERS, 4, stream, &head));
        flood.extend(h2_frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = stream.split();
    let read = async {
        loop {
            let mut frame = [0; 9];
            reader.read_exact(&mut frame).await.expect("frames until it is sent away");
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
            let mut payload = vec![0; length];
            reader.read_exact(&mut payload).await.expect("a whole frame");
            if frame[3] == GOAWAY {
                return u32::from_be_bytes(payload[4..8].try_into().expect("a code"));
            }
        }
    };
    // The server may close before it has read all of it.
    let (_, code) = tokio::join!(writer.write_all(&flood), tokio::time::timeout(Duration::from_secs(10), read));
    assert_eq!(code.expect("sent away"), ENHANCE_YOUR_CALM);
    rig.nodes().get_node(pb::GetNodeRequest {}).await.expect("others are answered");
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_with_a_reason_of_ours() {
    let rig = Rig::start().await;
    let request = pb::SendRequest {
        target: client("alice"),
        payload: Some(pb::send_request::Payload::Binary(vec![0; 6 << 20].into())),
        ..Default::default()
    };
    let refused = rig.messages().send(request.clone()).await.expect_err("too large");
    assert_error(&refused, Code::ResourceExhausted, "REQUEST_TOO_LARGE");
    let sends = pb::SendStreamRequest { sends: vec![pb::TaggedSend { tag: 1, request: Some(request) }] };
    let mut outcomes =
        rig.messages().send_stream(futures_util::stream::iter([sends])).await.expect("begun").into_inner();
    let refused = outcomes.message().await.expect_err("too large");
    assert_error(&refused, Code::ResourceExhausted, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn bytes_that_are_no_request_are_the_callers_fault_and_named_so() {
    let rig = Rig::start().await;
    let mut raw = tonic::client::Grpc::new(rig.channel.clone());
    raw.ready().await.expect("ready");
    // Field 1 of GetClient is a string, and these bytes are no UTF-8.
    let codec = tonic_prost::ProstCodec::<Vec<u8>, pb::GetClientResponse>::default();
    let path = hyper::http::uri::PathAndQuery::from_static("/heartwire.v1.ConnectionService/GetClient");
    let refused = raw.unary(tonic::Request::new(vec![0xff, 0xfe]), path, codec).await.expect_err("malformed");
    assert_error(&refused, Code::InvalidArgument, "REQUEST_MALFORMED");

    // Field 1 of SendStreamRequest is a message, and this is none; what was in order before it is answered.
    raw.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<Vec<u8>, pb::SendStreamResponse>::default();
    let path = hyper::http::uri::PathAndQuery::from_static("/heartwire.v1.MessageService/SendStream");
    let requests = futures_util::stream::iter([vec![0x08, 0x01], vec![0xff, 0xff, 0xff]]);
    let mut outcomes = raw.streaming(tonic::Request::new(requests), path, codec).await.expect("begun").into_inner();
    let answered = outcomes.message().await.expect("no error").expect("outcomes");
    assert_eq!((answered.outcomes.len(), answered.outcomes[0].tag), (1, 1));
    assert_error(&outcomes.message().await.expect_err("malformed"), Code::InvalidArgument, "REQUEST_MALFORMED");
}

#[tokio::test]
async fn a_method_that_does_not_exist_is_unimplemented() {
    let rig = Rig::start().await;
    let mut client = tonic::client::Grpc::new(rig.channel.clone());
    client.ready().await.expect("ready");
    let codec = tonic_prost::ProstCodec::<pb::GetNodeRequest, pb::GetNodeResponse>::default();
    let path = "/heartwire.v1.NodeService/Missing".parse().expect("a path");
    let error = client.unary(tonic::Request::new(pb::GetNodeRequest {}), path, codec).await.expect_err("missing");
    assert_eq!(error.code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_thousand_subscribers_share_one_channel() {
    let limits = Limits { max_subscribers: 1_000, max_snapshots: 16 };
    let rig = Rig::with(Options { limits, ..Options::default() }).await;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(rig.stream(NOW, None).await);
    }
    let _alice = rig.join("alice").await;
    for stream in &mut streams {
        assert_eq!(stream.events(1).await.len(), 1);
    }
}

#[tokio::test]
async fn cancelled_streams_free_what_they_hold() {
    let rig = Rig::start().await;
    let streams = [rig.stream(NOW, None).await, rig.stream(SNAPSHOT, None).await];
    let count = || {
        let mut reading = crate::metrics::Reading::default();
        rig.services.subscribers().read_gauges(rig.head(), &mut reading);
        reading.subscribers
    };
    assert_eq!(count(), 2);
    let began = Instant::now();
    drop(streams);
    eventually("both are gone", || count() == 0).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_cancelled_send_withdraws_nothing_that_was_accepted() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let request = pb::SendRequest {
        target: client("alice"),
        payload: Some(pb::send_request::Payload::Text("hi".into())),
        receipt: pb::Stage::Written.into(),
        ..Default::default()
    };
    let mut messages = rig.messages();
    let sending = tokio::spawn(async move { messages.send(request).await });
    eventually("it is accepted", || alice.connection().outbox.depth().0 == 1).await;
    sending.abort();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(write_out(&alice), ["hi"]);
}

/// Whether a connection answers this call while nothing but the connection itself is polled, and whether it does once other tasks run.
async fn answered_by_itself_and_at_last(path: &str, message: &impl prost::Message) -> (bool, bool) {
    let (rig, routes) = Rig::parts(Options::default());
    let front = Front { routes, closing: rig.closing.clone(), intake: Intake::default() };
    let ended = Ended { stop: rig.stop.clone(), now: rig.closing.now().clone() };
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let content_type = b"application/grpc";
    // :method POST and :scheme http by the static table, :path and content-type as literals (RFC 7541, 6.2.2).
    let head =
        [&[0x83, 0x86, 0x04, path.len() as u8], path.as_bytes(), &[0x0f, 0x10, content_type.len() as u8], content_type];
    let message = message.encode_to_vec();
    let body = [&[0], &(message.len() as u32).to_be_bytes()[..], &message].concat();
    let said = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        h2_frame(4, 0, 0, b""),
        h2_frame(1, 4, 1, &head.concat()),
        h2_frame(0, 1, 1, &body),
    ];
    ours.write_all(&said.concat()).await.expect("room");
    let mut connection = Box::pin(serve_connection(theirs, front, ended));
    let mut heard = Vec::new();
    let mut answered = |ours: &mut tokio::io::DuplexStream| {
        while let Some(read) = ours.read_buf(&mut heard).now_or_never() {
            assert!(read.expect("a pipe") > 0, "the connection lives");
        }
        let mut frames = &heard[..];
        while let Some((head, rest)) = frames.split_at_checked(9) {
            // HEADERS of the stream.
            if head[3] == 1 && head[5..] == [0, 0, 0, 1] {
                return true;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            frames = rest.get(length..).unwrap_or_default();
        }
        false
    };
    // Nothing is awaited here, so the runtime runs no other task.
    for _ in 0..10 {
        assert!((&mut connection).now_or_never().is_none(), "it lives");
    }
    let by_itself = answered(&mut ours);
    let serving = tokio::spawn(connection);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    serving.abort();
    (by_itself, answered(&mut ours))
}

#[tokio::test(start_paused = true)]
async fn a_send_is_answered_by_its_connection_and_what_may_take_longer_by_a_task_of_its_own() {
    let send = pb::SendRequest {
        target: client("alice"),
        payload: Some(pb::send_request::Payload::Text("hello".into())),
        ..Default::default()
    };
    let sent = answered_by_itself_and_at_last("/heartwire.v1.MessageService/Send", &send).await;
    assert_eq!(sent, (true, true));
    let others = [
        "/heartwire.v1.ConnectionService/ListConnections",
        "/heartwire.v1.NodeService/GetNode",
        "/heartwire.v1.MessageService/Broadcast",
        "/grpc.health.v1.Health/Check",
    ];
    for path in others {
        assert_eq!(answered_by_itself_and_at_last(path, &()).await, (false, true), "{path}");
    }
}
