//! A node in this process and the clients that talk to it.

#![allow(dead_code, reason = "not every behaviour needs every part")]

pub mod backend;
pub mod client;
pub mod events;
pub mod http;
pub mod process;
pub mod tls;

use std::net::SocketAddr;
use std::ops::Deref;
use std::time::Duration;

use heartwire::app::{App, Listeners};
use heartwire::clock::Clock;
use heartwire::config::{Config, ListenAddress};
use heartwire::pb;

pub use backend::Backend;
pub use client::Client;
pub use events::Events;
pub use process::Process;

/// What a test waits for something that should come soon; only ever reached by a test that fails.
pub const SOON: Duration = Duration::from_secs(10);

/// A node in this process on free loopback ports.
pub struct Node {
    pub app: Option<App>,
    pub backend: Backend,
}

impl Deref for Node {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
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
        let channel = backend::channel(&grpc.to_string());
        Self { app: Some(app), backend: Backend { ws: addresses.ws, grpc, admin: addresses.admin, channel } }
    }

    /// Takes the node down and waits for it.
    pub async fn shutdown(&mut self) -> heartwire::app::Outcome {
        self.app.take().expect("runs").shutdown().await
    }
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

/// A span as the contract has it.
pub fn span(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000).expect("small") * 1_000_000;
    Some(prost_types::Duration { seconds: millis / 1000, nanos })
}
