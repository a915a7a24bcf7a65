//! What a backend does to a node: calls over gRPC, and clients that come to it.

use std::net::SocketAddr;

use heartwire::pb;
use heartwire::pb::connection_service_client::ConnectionServiceClient;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::message_service_client::MessageServiceClient;
use heartwire::pb::node_service_client::NodeServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::{Client, Events, client, client_target};

/// A node as seen from outside, wherever it runs.
#[derive(Clone)]
pub struct Backend {
    pub ws: SocketAddr,
    /// Not meaningful where gRPC is on a Unix socket.
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    pub channel: Channel,
}

/// What [`Backend::head`] answers.
pub struct GetHead {
    pub head_cursor: String,
}

impl Backend {
    /// A channel of its own, as another backend would have.
    pub fn another_channel(&self) -> Channel {
        channel(&self.grpc.to_string())
    }

    /// The same node over a channel of its own.
    pub fn another(&self) -> Self {
        Self { channel: self.another_channel(), ..self.clone() }
    }

    /// The same over a channel whose streams take no more than 64 KiB that nobody reads; hyper's clients take 2 MiB.
    pub fn another_with_small_windows(&self) -> Self {
        let endpoint = endpoint(&self.grpc.to_string()).initial_stream_window_size(65_535);
        Self { channel: endpoint.connect_lazy(), ..self.clone() }
    }

    pub fn connections(&self) -> ConnectionServiceClient<Channel> {
        ConnectionServiceClient::new(self.channel.clone())
    }

    pub fn messages(&self) -> MessageServiceClient<Channel> {
        MessageServiceClient::new(self.channel.clone())
    }

    pub fn node(&self) -> NodeServiceClient<Channel> {
        NodeServiceClient::new(self.channel.clone())
    }

    pub fn event_service(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel.clone())
    }

    /// A client that names itself in the handshake and so is connected soon after it is answered.
    pub async fn connect(&self, id: &str) -> Client {
        Client::connect(&format!("ws://{}/?client_id={id}", self.ws)).await
    }

    /// The same, and its `Connected` is in the log: what `events` gives next.
    pub async fn connect_seen(&self, id: &str, events: &mut Events) -> (Client, pb::Event) {
        let client = self.connect(id).await;
        let (event, _) = events.connected().await;
        assert_eq!(event.client_id, id);
        (client, event)
    }

    /// A client that has said nothing yet.
    pub async fn connect_unnamed(&self) -> Client {
        Client::connect(&format!("ws://{}/", self.ws)).await
    }

    /// The events from here on. Returns once the server has begun to answer, so that nothing after is missed.
    pub async fn events(&self) -> Events {
        let GetHead { head_cursor } = self.head().await;
        self.events_from(pb::subscribe_request::Start::Cursor(head_cursor)).await
    }

    pub async fn events_from(&self, start: pb::subscribe_request::Start) -> Events {
        self.subscribe(pb::SubscribeRequest { start: Some(start), ..Default::default() }).await
    }

    pub async fn subscribe(&self, request: pb::SubscribeRequest) -> Events {
        let stream = self.event_service().subscribe(request).await.expect("subscribes").into_inner();
        Events::new(stream)
    }

    /// The newest cursor.
    pub async fn head(&self) -> GetHead {
        let node = self.node().get_node(pb::GetNodeRequest {}).await.expect("answers").into_inner();
        GetHead { head_cursor: node.head_cursor }
    }

    /// Sends a text and answers what the server said.
    pub async fn send(&self, id: &str, text: &str, receipt: pb::Stage) -> Result<pb::SendResponse, tonic::Status> {
        let request = pb::SendRequest {
            target: Some(client_target(id)),
            payload: Some(pb::send_request::Payload::Text(text.to_owned())),
            receipt: receipt.into(),
            ..Default::default()
        };
        self.messages().send(request).await.map(tonic::Response::into_inner)
    }

    /// The connections of a client id.
    pub async fn get(&self, id: &str) -> Vec<pb::Connection> {
        let request = pb::GetClientRequest { client_id: id.to_owned(), ..Default::default() };
        self.connections().get_client(request).await.expect("answers").into_inner().connections
    }

    /// All connections, of every page, and the cursor of the first.
    pub async fn list(&self) -> (Vec<pb::Connection>, String) {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = pb::ListConnectionsRequest { page_token, ..Default::default() };
            let page = self.connections().list_connections(request).await.expect("answers").into_inner();
            all.extend(page.connections);
            if page.next_page_token.is_empty() {
                return (all, page.cursor);
            }
            page_token = page.next_page_token;
        }
    }

    pub async fn disconnect(&self, id: &str, code: i32, reason: &str) -> Result<pb::DisconnectResponse, tonic::Status> {
        let request = pb::DisconnectRequest {
            target: Some(client_target(id)),
            code,
            reason: reason.to_owned(),
            ..Default::default()
        };
        self.connections().disconnect(request).await.map(tonic::Response::into_inner)
    }

    /// One GET of the admin endpoint: status and body.
    pub async fn admin_get(&self, path: &str) -> (u16, String) {
        client::http_get(self.admin, path).await
    }

    /// The value of one series, such as `heartwire_frozen_total`, with its labels as they are written out.
    pub async fn metric(&self, series: &str) -> f64 {
        let (status, body) = self.admin_get("/metrics").await;
        assert_eq!(status, 200);
        let value = body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {series} in\n{body}")).parse().expect("a number")
    }

    /// How many handshakes came to this outcome.
    pub async fn handshakes(&self, outcome: &str) -> f64 {
        self.metric(&format!("heartwire_handshakes_total{{outcome=\"{outcome}\"}}")).await
    }
}

/// A channel to `host:port` or `unix:/path`, connected when it is first used.
pub fn channel(address: &str) -> Channel {
    endpoint(address).connect_lazy()
}

fn endpoint(address: &str) -> Endpoint {
    let uri = if address.starts_with("unix:") { address.to_owned() } else { format!("http://{address}") };
    let origin = "http://localhost".parse().expect("a good uri");
    Endpoint::from_shared(uri).expect("a good address").origin(origin)
}
