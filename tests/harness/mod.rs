//! A node in this process and the clients that talk to it.

#![allow(dead_code, reason = "not every behaviour needs every part")]

pub mod client;
pub mod events;
pub mod process;

use std::net::SocketAddr;
use std::time::Duration;

use heartwire::app::{App, Listeners};
use heartwire::clock::Clock;
use heartwire::config::{Config, ListenAddress};
use heartwire::pb;
use heartwire::pb::connection_service_client::ConnectionServiceClient;
use heartwire::pb::event_service_client::EventServiceClient;
use heartwire::pb::message_service_client::MessageServiceClient;
use heartwire::pb::node_service_client::NodeServiceClient;
use tonic::transport::Channel;

pub use client::Client;
pub use events::Events;

/// What a test waits for something that should come soon; only ever reached by a test that fails.
pub const SOON: Duration = Duration::from_secs(10);

/// A node on free loopback ports, with the gRPC channel of a backend.
pub struct Node {
    pub app: Option<App>,
    pub ws: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
    pub channel: Channel,
}

impl Node {
    /// A node with the defaults.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A node with the defaults and what `change` makes of them.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_clock(change, Clock::default()).await
    }

    /// The same with another clock.
    pub async fn with_clock(change: impl FnOnce(&mut Config), clock: Clock) -> Self {
        let mut config = Config::default();
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        config.ws.listen = free;
        config.grpc.listen = ListenAddress::Tcp(free);
        config.admin.listen = free;
        config.shutdown.deadline = Duration::from_secs(5);
        change(&mut config);
        let listeners = Listeners::bind(&config).await.expect("free ports");
        let app = App::start(config, listeners, clock).expect("starts");
        let addresses = app.addresses().clone();
        let ListenAddress::Tcp(grpc) = addresses.grpc else { panic!("not on TCP") };
        let channel = Channel::from_shared(format!("http://{grpc}")).expect("a good address").connect_lazy();
        Self { app: Some(app), ws: addresses.ws, grpc, admin: addresses.admin, channel }
    }

    /// A channel of its own, as another backend would have.
    pub fn another_channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).expect("a good address").connect_lazy()
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

    /// A client that names itself in the handshake and so is connected as soon as it is answered.
    pub async fn connect(&self, id: &str) -> Client {
        Client::connect(&format!("ws://{}/?client_id={id}", self.ws)).await
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

    /// Takes the node down and waits for it.
    pub async fn shutdown(&mut self) -> heartwire::app::Outcome {
        self.app.take().expect("runs").shutdown().await
    }
}

/// What [`Node::head`] answers.
pub struct GetHead {
    pub head_cursor: String,
}

pub fn client_target(id: &str) -> pb::Target {
    pb::Target { target: Some(pb::target::Target::ClientId(id.to_owned())) }
}

pub fn connection_target(id: &str) -> pb::Target {
    pb::Target { target: Some(pb::target::Target::ConnectionId(id.to_owned())) }
}

/// The reason of the `ErrorInfo` in a status.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Waits until `check` answers something, at most [`SOON`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let looked = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, looked).await.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}
