//! Handshakes made by hand, good ones and such as no client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{SOON, client::raw_exchange};

/// A handshake to be sent as it is; a good one unless it was changed.
#[derive(Clone)]
pub struct Request {
    method: &'static str,
    target: String,
    version: &'static str,
    headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Request {
    pub fn good() -> Self {
        let headers = [
            ("Host", "localhost"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Self { method: "GET", target: "/".to_owned(), version: "HTTP/1.1", headers }
    }

    pub fn plain() -> Self {
        let mut plain = Self::good();
        plain.headers.truncate(1);
        plain
    }

    pub fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = target.into();
        self
    }

    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| have != name);
        self
    }

    /// With a header, in place of one of the same name.
    pub fn with(self, name: &str, value: impl Into<String>) -> Self {
        let mut other = self.without(name);
        other.headers.push((name.to_owned(), value.into()));
        other
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Sends it and reads until the server closes, which it does unless the answer is 101.
    pub async fn refused_by(&self, address: SocketAddr) -> Answer {
        Answer::parse(&raw_exchange(address, &self.bytes()).await)
    }

    /// Sends it with `more` behind it in one write, reads the 101, and hands over the socket.
    pub async fn granted_by(&self, address: SocketAddr, more: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(&[&self.bytes()[..], more].concat()).await.expect("writes");
        let answer = head_of(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        stream
    }
}

impl Answer {
    pub fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        values.into_iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// The head of the next answer on a socket.
pub async fn head_of(stream: &mut TcpStream) -> String {
    let read = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("an answer"));
        }
        String::from_utf8(head).expect("text")
    };
    tokio::time::timeout(SOON, read).await.expect("an answer soon")
}
