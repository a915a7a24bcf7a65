//! The subprotocol heartwire.v1.json, over real sockets and gRPC: sessions that outlive their sockets.

use std::time::Duration;

use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tonic::Code;

use crate::harness::client::raw_websocket;
use crate::harness::{Client, Node, eventually, reason};

/// A client that has agreed on the subprotocol.
struct Speaker(Client);

impl Speaker {
    async fn connect(node: &Node, query: &str) -> Self {
        let mut request = format!("ws://{}/{query}", node.ws).into_client_request().expect("a good address");
        request.headers_mut().insert("Sec-WebSocket-Protocol", "chat, heartwire.v1.json".parse().expect("a header"));
        Self(Client::connect(request).await)
    }

    /// With a new session.
    async fn begin(node: &Node, id: &str) -> (Self, Value) {
        let mut speaker = Self::connect(node, &format!("?client_id={id}")).await;
        speaker.say(json!({"type": "hello"})).await;
        let hello = speaker.hear("hello").await;
        assert_eq!(hello["resumed"], false);
        (speaker, hello)
    }

    async fn say(&mut self, envelope: Value) {
        self.0.text(&envelope.to_string()).await;
    }

    /// The next envelope of a type.
    async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let envelope: Value = serde_json::from_str(&self.0.next_text().await).expect("JSON");
            if envelope["type"] == kind {
                return envelope;
            }
        }
    }

    async fn resume(node: &Node, hello: &Value, received: u64) -> (Self, Value) {
        let mut speaker = Self::connect(node, "").await;
        speaker.say(json!({"type": "resume", "session": hello["session"], "received": received})).await;
        let hello = speaker.hear("hello").await;
        (speaker, hello)
    }
}

#[tokio::test]
async fn a_client_whose_socket_breaks_resumes_and_its_backend_sees_one_connection() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut alice, hello) = Speaker::begin(&node, "alice").await;
    let (came, details) = events.connected().await;
    assert_eq!(details.subprotocol, "heartwire.v1.json");
    assert_eq!(hello["connection_id"], came.connection_id);
    alice.say(json!({"type": "message", "seq": 1, "text": "one"})).await;
    assert_eq!(alice.hear("ack").await["received"], 1);
    assert_eq!(events.text().await.1, "one", "what is acknowledged is logged");
    node.send("alice", "first", pb::Stage::Written).await.expect("sends");
    assert_eq!(alice.hear("message").await["seq"], 1);
    alice.0.vanish();
    let lost = events.next().await;
    assert!(matches!(lost.kind, Some(Kind::Suspected(pb::Suspected { socket_lost: true, .. }))), "{lost:?}");
    let listed = node.get("alice").await;
    assert_eq!(listed[0].state(), pb::ConnectionState::Suspect);
    let answer = node.send("alice", "second", pb::Stage::Accepted).await.expect("its outbox is open");
    assert_eq!(answer.deliveries[0].stage(), pb::Stage::Accepted);
    let (mut alice, again) = Speaker::resume(&node, &hello, 0).await;
    assert_eq!((&again["resumed"], &again["received"]), (&json!(true), &json!(1)));
    let heard = [alice.hear("message").await, alice.hear("message").await];
    assert_eq!(
        heard.map(|message| (message["seq"].clone(), message["text"].clone())),
        [(json!(1), json!("first")), (json!(2), json!("second"))]
    );
    let recovered = events.next().await;
    assert!(matches!(recovered.kind, Some(Kind::Recovered(pb::Recovered { resumed: true, .. }))), "{recovered:?}");
    assert_eq!((&recovered.connection_id, recovered.generation), (&came.connection_id, came.generation));
    alice.say(json!({"type": "ack", "received": 1})).await;
    alice.say(json!({"type": "bye"})).await;
    assert_eq!(alice.0.closed().await.0, 1000);
    let (_, end) = events.disconnected().await;
    assert_eq!((end.cause(), end.unacked_count), (Cause::ClientClosed, 1));
    assert_eq!(node.metric("heartwire_resumes_total{outcome=\"resumed\"}").await, 1.0);
    assert_eq!(node.metric("heartwire_detached_sessions").await, 0.0);
}

#[tokio::test]
async fn a_receipt_waits_for_the_clients_acknowledgement_and_one_that_cannot_give_it_is_refused() {
    let node = Node::start().await;
    let mut events = node.events().await;
    let (mut alice, _) = Speaker::begin(&node, "alice").await;
    let asked = {
        let node = node.backend.clone();
        tokio::spawn(async move { node.send("alice", "hi", pb::Stage::Acked).await })
    };
    let message = alice.hear("message").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!asked.is_finished(), "written is not acknowledged");
    alice.say(json!({"type": "ack", "received": message["seq"]})).await;
    let answer = asked.await.expect("no panic").expect("sends");
    assert_eq!((answer.deliveries[0].stage(), answer.deliveries[0].failure), (pb::Stage::Acked, 0));
    let request = pb::SendRequest {
        target: Some(crate::harness::client_target("alice")),
        payload: Some(pb::send_request::Payload::Text("later".into())),
        receipt: pb::Stage::Acked.into(),
        receipt_timeout: crate::harness::span(100),
        ..Default::default()
    };
    let answer = node.messages().send(request).await.expect("no failure").into_inner();
    assert_eq!((answer.deliveries[0].stage(), answer.deliveries[0].failure), (pb::Stage::Written, 0));
    events.connected().await;
    let (_bob, _) = node.connect_seen("bob", &mut events).await;
    let refused = node.send("bob", "hi", pb::Stage::Acked).await.expect_err("refused");
    assert_eq!((refused.code(), reason(&refused)), (Code::FailedPrecondition, "ACK_UNSUPPORTED".into()));
    // The connection ends first: nobody can know.
    let asked = {
        let node = node.backend.clone();
        tokio::spawn(async move { node.send("alice", "?", pb::Stage::Acked).await })
    };
    while alice.hear("message").await["text"] != "?" {}
    node.disconnect("alice", 4000, "enough").await.expect("disconnects");
    let answer = asked.await.expect("no panic").expect("answers");
    assert_eq!(answer.deliveries[0].failure(), pb::DeliveryFailure::OutcomeUnknown);
    assert_eq!(alice.hear("bye").await["code"], 4000);
    assert_eq!(events.disconnected().await.1.unacked_count, 2);
}

#[tokio::test]
async fn a_session_without_a_client_ends_with_its_window_and_a_shutdown_does_not_wait_for_it() {
    let mut node = Node::with(|config| config.ws.resume_window = Duration::from_millis(200)).await;
    let mut events = node.events().await;
    let (alice, hello) = Speaker::begin(&node, "alice").await;
    assert_eq!(hello["resume_window_ms"], 200);
    alice.0.vanish();
    let (_, end) = events.next_disconnected().await;
    assert_eq!((end.cause(), end.close_code), (Cause::ConnectionLost, 1006));
    let mut late = Speaker::connect(&node, "").await;
    late.say(json!({"type": "resume", "session": hello["session"], "received": 0})).await;
    assert_eq!(late.hear("error").await["code"], "SESSION_UNKNOWN");
    assert_eq!(late.0.closed().await.0, 4404);
    node.shutdown().await;
    let mut node = Node::start().await;
    let mut events = node.events().await;
    let (mut bob, _) = Speaker::begin(&node, "bob").await;
    let (alice, _) = Speaker::begin(&node, "alice").await;
    alice.0.vanish();
    eventually("the socket is lost", async || (node.metric("heartwire_detached_sessions").await == 1.0).then_some(()))
        .await;
    let (outcome, bye, (ended, finished)) = tokio::join!(
        node.shutdown(),
        async {
            let bye = bob.hear("bye").await;
            bob.0.closed().await;
            bye
        },
        events.until_its_end()
    );
    assert_eq!(outcome, heartwire::app::Outcome::Clean);
    assert_eq!(finished.expect_err("the node stops").code(), Code::Unavailable);
    assert_eq!((&bye["code"], bye["reconnect_after_ms"].is_u64()), (&json!(1012), true));
    let causes: Vec<_> = ended
        .iter()
        .filter_map(|event| match &event.kind {
            Some(Kind::Disconnected(end)) => Some(end.cause()),
            _ => None,
        })
        .collect();
    assert_eq!(causes, [Cause::Drained, Cause::Drained]);
}

#[tokio::test]
async fn only_an_offer_of_the_subprotocol_is_taken_up() {
    let node = Node::start().await;
    let mut request = format!("ws://{}/?client_id=a", node.ws).into_client_request().expect("a good address");
    request.headers_mut().insert("Sec-WebSocket-Protocol", "heartwire.v1.json".parse().expect("a header"));
    let (_, answer) = tokio_tungstenite::connect_async(request).await.expect("connects");
    assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "heartwire.v1.json");
    // Nothing is offered, so the plain protocol is spoken, and JSON is a message.
    let mut events = node.events().await;
    drop(raw_websocket(node.ws, "").await);
    let (mut plain, _) = node.connect_seen("plain", &mut events).await;
    plain.send(Message::text(r#"{"type":"hello"}"#)).await;
    assert_eq!(events.text().await.1, r#"{"type":"hello"}"#);
}
