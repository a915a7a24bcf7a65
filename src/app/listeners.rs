//! Binding the three listeners, with every failure told at once and by its key.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::Addresses;
use crate::config::{Config, ListenAddress};
use crate::grpc;

/// Connections that may wait to be accepted; the kernel clamps it to somaxconn.
const BACKLOG: u32 = 4096;

/// The listeners of a node, bound and not yet served.
pub struct Listeners {
    pub(super) ws: TcpListener,
    pub(super) grpc: grpc::Listener,
    pub(super) admin: TcpListener,
}

/// Listeners that could not be bound.
#[derive(Debug)]
pub struct BindErrors(Vec<String>);

impl fmt::Display for BindErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for BindErrors {}

impl Listeners {
    /// Binds what the configuration says.
    ///
    /// # Errors
    /// Every address that cannot be listened on, by its key.
    pub async fn bind(config: &Config) -> Result<Self, BindErrors> {
        let ws = tcp(config.ws.listen);
        let grpc = grpc::Listener::bind(&config.grpc.listen).await;
        let admin = tcp(config.admin.listen);
        match (ws, grpc, admin) {
            (Ok(ws), Ok(grpc), Ok(admin)) => Ok(Self { ws, grpc, admin }),
            (ws, grpc, admin) => {
                let failures = [
                    ("ws.listen", config.ws.listen.to_string(), ws.err()),
                    ("grpc.listen", config.grpc.listen.to_string(), grpc.err()),
                    ("admin.listen", config.admin.listen.to_string(), admin.err()),
                ];
                let told = |(key, address, error): (&str, String, Option<io::Error>)| {
                    error.map(|error| format!("{key}: cannot listen on {address}: {error}"))
                };
                Err(BindErrors(failures.into_iter().filter_map(told).collect()))
            }
        }
    }

    pub(super) fn addresses(&self, config: &Config) -> Addresses {
        Addresses {
            ws: self.ws.local_addr().unwrap_or(config.ws.listen),
            grpc: self.grpc.local_address().map_or_else(|| config.grpc.listen.clone(), ListenAddress::Tcp),
            admin: self.admin.local_addr().unwrap_or(config.admin.listen),
        }
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuseaddr(true)?;
    // Before anybody can connect: sockets have it from their listener where the system does that, and who came before would not. One that refuses works all the same.
    let _ = socket.set_nodelay(true);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn whoever_connects_before_the_node_has_started_has_a_prompt_socket_too() {
        let listener = tcp(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let _client = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("connected");
        let (early, _) = listener.accept().await.expect("accepted");
        assert!(early.nodelay().expect("an option"));
    }
}
