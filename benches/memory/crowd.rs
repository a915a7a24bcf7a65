//! Clients that cost this process no memory but a descriptor each.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use heartwire::event::RELIABLE;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::kind::Kind;

/// Longer than anything takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most clients.
const MOST: usize = 10_000;

/// Where clients go, and what they speak there.
#[derive(Clone)]
pub struct Server {
    pub kind: Kind,
    pub address: SocketAddr,
    /// Whom they trust, where they speak TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A client's end.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    /// A client that says no more needs its socket and nothing else: its keys would be taken for the server's.
    fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// A masked text frame with the mask 0.
fn frame(payload: &[u8]) -> io::Result<Vec<u8>> {
    let head = match payload.len() {
        short @ 0..=125 => vec![0x81, 0x80 | short as u8],
        long => [&[0x81, 0xfe][..], &u16::try_from(long).map_err(io::Error::other)?.to_be_bytes()].concat(),
    };
    Ok([&head[..], &[0; 4], payload].concat())
}

impl Server {
    /// Connects one and shakes hands, by hand.
    fn connect(&self, number: usize) -> io::Result<Stream> {
        let address = self.address;
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut stream = match &self.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
                let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Stream::Tls(Box::new(StreamOwned::new(session, socket)))
            }
        };
        let subprotocol = match self.kind {
            Kind::Session => format!("Sec-WebSocket-Protocol: {RELIABLE}\r\n"),
            Kind::Plain | Kind::Tls => String::new(),
        };
        let request = format!(
            "GET /?client_id=client-{number:09} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{subprotocol}\r\n"
        );
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        if !head.starts_with(b"HTTP/1.1 101") {
            return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()));
        }
        if self.kind == Kind::Session {
            stream.write_all(&frame(br#"{"type":"hello"}"#)?)?;
            // The server's hello: shorter than what has a longer header.
            let mut header = [0; 4];
            stream.read_exact(&mut header)?;
            let length = match header {
                [0x81, 126, high, low] => usize::from(u16::from_be_bytes([high, low])),
                _ => return Err(io::Error::other(format!("not a hello: {header:?}"))),
            };
            stream.read_exact(&mut vec![0; length])?;
        }
        Ok(stream)
    }

    /// So many clients, each with an id of 16 bytes.
    pub fn crowd(&self, count: usize) -> Result<Vec<TcpStream>, String> {
        // The same whatever the count, so that it is not taken for the server's.
        let mut clients = Vec::with_capacity(MOST);
        for number in 0..count {
            let client = self.connect(number).map_err(|error| format!("client {number} cannot connect: {error}"))?;
            clients.push(client.into_socket());
        }
        Ok(clients)
    }

    /// Has one client say enough to fill a log of so many bytes.
    pub fn fill_log(&self, bytes: usize) -> Result<(), String> {
        let plain = Self { kind: if self.tls.is_some() { Kind::Tls } else { Kind::Plain }, ..self.clone() };
        let fill = || -> io::Result<()> {
            let mut client = plain.connect(999_999_999)?;
            let frame = frame(&[b'x'; 60_000])?;
            for _ in 0..bytes / frame.len() + 1 {
                client.write_all(&frame)?;
            }
            client.flush()
        };
        fill().map_err(|error| format!("the log cannot be filled: {error}"))
    }
}

/// How many connections the node lists.
pub fn listed(admin: SocketAddr) -> Result<usize, String> {
    let get = || -> Result<String, io::Error> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    let page = get().map_err(|error| format!("/metrics: {error}"))?;
    let counts = page.lines().filter(|line| line.starts_with("heartwire_connections{"));
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum())
}
