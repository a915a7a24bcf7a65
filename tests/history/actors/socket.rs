//! A WebSocket of a client: opened directly or through a black hole, and ended in every way there is.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpSocket;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::Actor;
use crate::faults::hole::Hole;
use crate::orders::Counted;
use crate::record::What;
use crate::world::Address;

/// How long a client waits for a handshake or a write.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// What carries the bytes.
pub trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// An open WebSocket.
pub struct Socket {
    pub session: u32,
    pub run: u32,
    pub stream: WebSocketStream<Box<dyn Bytes>>,
    /// The same TCP socket, for what no WebSocket library does.
    raw: Option<std::net::TcpStream>,
    pub hole: Option<Hole>,
    _open: Counted<std::sync::atomic::AtomicUsize>,
}

/// How to open one.
pub struct Opening<'a> {
    pub session: u32,
    /// Empty: named by the first frame, or not at all.
    pub client: &'a str,
    /// Whether the handshake says the name.
    pub in_query: bool,
    pub subprotocol: &'a str,
    pub proxied: bool,
    /// Bytes that the kernel keeps for a client that does not read; None: as usual.
    pub receive_buffer: Option<u32>,
}

impl Actor {
    /// Opens a WebSocket and writes down how that went.
    pub async fn open(&self, address: Address, opening: Opening<'_>) -> Option<Socket> {
        let Opening { session, client, subprotocol, proxied, .. } = opening;
        self.journal.note(What::Opening {
            session,
            run: address.run,
            client: client.to_owned(),
            subprotocol: subprotocol.to_owned(),
            proxied,
        });
        match tokio::time::timeout(PATIENCE, self.try_open(address, &opening)).await {
            Ok(Ok((socket, seen))) => {
                self.journal.note(What::Opened { session, address: seen.to_string() });
                Some(socket)
            }
            Ok(Err(why)) => {
                self.journal.note(What::Refused { session, why });
                None
            }
            Err(_) => {
                self.journal.note(What::Refused { session, why: "no answer in time".to_owned() });
                None
            }
        }
    }

    async fn try_open(&self, address: Address, opening: &Opening<'_>) -> Result<(Socket, SocketAddr), String> {
        let text = |error: std::io::Error| error.to_string();
        let (bytes, seen, raw, hole): (Box<dyn Bytes>, _, _, _) = if opening.proxied {
            let (near, seen, hole) =
                Hole::dig(address.ws, self.journal.clone(), opening.session).await.map_err(text)?;
            (Box::new(near), seen, None, Some(hole))
        } else {
            let socket = TcpSocket::new_v4().map_err(text)?;
            if let Some(size) = opening.receive_buffer {
                socket.set_recv_buffer_size(size).map_err(text)?;
            }
            let stream = socket.connect(address.ws).await.map_err(text)?;
            stream.set_nodelay(true).map_err(text)?;
            let seen = stream.local_addr().map_err(text)?;
            let stream = stream.into_std().map_err(text)?;
            let raw = stream.try_clone().map_err(text)?;
            (Box::new(tokio::net::TcpStream::from_std(stream).map_err(text)?), seen, Some(raw), None)
        };
        let query = if opening.in_query { format!("?client_id={}", opening.client) } else { String::new() };
        let mut request = format!("ws://{}/{query}", address.ws).into_client_request().map_err(|e| e.to_string())?;
        if !opening.subprotocol.is_empty() {
            let offer = HeaderValue::from_str(opening.subprotocol).expect("a header");
            request.headers_mut().insert("Sec-WebSocket-Protocol", offer);
        }
        let (stream, _) =
            tokio_tungstenite::client_async(request, bytes).await.map_err(|error| error.to_string())?;
        let open = Counted::one(&self.pulse.sockets);
        let socket = Socket { session: opening.session, run: address.run, stream, raw, hole, _open: open };
        Ok((socket, seen))
    }
}

impl Socket {
    /// Ends it with a reset.
    pub fn reset(self) {
        if let Some(raw) = &self.raw {
            let _ = socket2::SockRef::from(raw).set_linger(Some(Duration::ZERO));
        }
    }

    /// Says that nothing more comes, and goes on reading.
    pub fn half_close(&self) {
        if let Some(raw) = &self.raw {
            let _ = raw.shutdown(Shutdown::Write);
        }
    }
}
