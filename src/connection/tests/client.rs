//! The clients of the tests: one that speaks WebSocket well, and one that writes whatever bytes it likes.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

/// How long a client waits for anything before the test has failed; sweeps would let paused time run for ever.
const PATIENCE: Duration = Duration::from_secs(600);

pub(super) const TEXT: u8 = 0x81;
pub(super) const BINARY: u8 = 0x82;
pub(super) const CLOSE: u8 = 0x88;
pub(super) const PING: u8 = 0x89;
pub(super) const PONG: u8 = 0x8a;
/// The first fragment of a text.
pub(super) const TEXT_BEGINS: u8 = 0x01;
/// A fragment in the middle.
pub(super) const GOES_ON: u8 = 0x00;
/// The last fragment.
pub(super) const ENDS: u8 = 0x80;

/// tungstenite's client. It answers Pings and Closes only while it is read from.
pub(super) struct Client(WebSocketStream<DuplexStream>);

impl Client {
    pub(super) async fn new(stream: DuplexStream) -> Self {
        Self(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    pub(super) async fn send(&mut self, message: Message) {
        timeout(PATIENCE, self.0.send(message)).await.expect("in time").expect("sent");
    }

    pub(super) async fn text(&mut self, text: &str) {
        self.send(Message::text(text)).await;
    }

    pub(super) async fn close(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.send(Message::Close(Some(frame))).await;
    }

    /// The next frame; none at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Message> {
        timeout(PATIENCE, self.0.next()).await.expect("a frame in time").and_then(Result::ok)
    }

    /// The next text.
    pub(super) async fn hears(&mut self) -> String {
        loop {
            match self.next().await.expect("a text before the end") {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("a text, not {other:?}"),
            }
        }
    }

    /// Reads to the end: the texts that still came, and the server's Close.
    pub(super) async fn hears_out(&mut self) -> (Vec<String>, Option<(u16, String)>) {
        let (mut texts, mut close) = (Vec::new(), None);
        let until = Instant::now() + PATIENCE;
        while let Some(message) = self.next().await {
            assert!(Instant::now() < until, "Pings and no end");
            match message {
                Message::Text(text) => texts.push(text.to_string()),
                Message::Close(frame) => {
                    assert_eq!(close, None, "one Close");
                    close = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                _ => {}
            }
        }
        (texts, close)
    }

    /// Reads to the end, which must be a Close of the server; its code and reason.
    pub(super) async fn is_closed(&mut self) -> (u16, String) {
        self.hears_out().await.1.expect("a Close before the end")
    }

    /// Reads, answering Pings, for so long; everything that came.
    pub(super) async fn listens(&mut self, span: Duration) -> Vec<Message> {
        let until = Instant::now() + span;
        let mut heard = Vec::new();
        while let Ok(next) = tokio::time::timeout_at(until, self.0.next()).await {
            heard.push(next.expect("not the end").expect("no error"));
        }
        heard
    }
}

/// A frame that the server sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Frame {
    /// The first byte: FIN and opcode.
    pub(super) head: u8,
    pub(super) payload: Vec<u8>,
}

/// A client that writes bytes and reads the server's frames.
pub(super) struct Raw<S = DuplexStream>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(super) fn new(stream: S) -> Self {
        Self(stream)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.0.write_all(bytes)).await.expect("in time").expect("written");
    }

    /// One masked frame.
    pub(super) async fn frame(&mut self, head: u8, payload: &[u8]) {
        self.send(&frame(head, payload)).await;
    }

    /// No more will be written; reading goes on.
    pub(super) async fn half_closes(&mut self) {
        self.0.shutdown().await.expect("shut down");
    }

    /// The next frame; none at the end of the stream. A frame cut short fails the test.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 2];
        let read = timeout(PATIENCE, self.0.read(&mut head[..1])).await.expect("a frame in time").expect("readable");
        if read == 0 {
            return None;
        }
        self.exact(&mut head[1..]).await;
        let len = match head[1] {
            126 => u64::from(u16::from_be_bytes(self.array().await)),
            127 => u64::from_be_bytes(self.array().await),
            len => len.into(),
        };
        let mut payload = vec![0; len as usize];
        self.exact(&mut payload).await;
        Some(Frame { head: head[0], payload })
    }

    /// The next frame that is no Ping.
    pub(super) async fn next_but_pings(&mut self) -> Option<Frame> {
        let until = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < until, "Pings and nothing else");
            match self.next().await {
                Some(Frame { head: PING, .. }) => {}
                next => return next,
            }
        }
    }

    async fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.exact(&mut bytes).await;
        bytes
    }

    async fn exact(&mut self, bytes: &mut [u8]) {
        timeout(PATIENCE, self.0.read_exact(bytes)).await.expect("in time").expect("a whole frame");
    }

    /// Reads to the end; the last frame must be a Close, and is answered as far as the server still reads.
    pub(super) async fn is_closed(&mut self) -> (u16, String) {
        let mut last = None;
        let until = Instant::now() + PATIENCE;
        while let Some(next) = self.next().await {
            assert!(Instant::now() < until, "Pings and no end");
            assert_ne!(last.as_ref().map(|frame: &Frame| frame.head), Some(CLOSE), "nothing after a Close");
            if next.head == CLOSE {
                let _ = self.0.write_all(&frame(CLOSE, &next.payload)).await;
            }
            last = Some(next);
        }
        let last = last.expect("a Close before the end");
        assert_eq!(last.head, CLOSE, "the last frame is a Close");
        code_and_reason(&last.payload)
    }
}

pub(super) fn code_and_reason(close: &[u8]) -> (u16, String) {
    let code = u16::from_be_bytes([close[0], close[1]]);
    (code, String::from_utf8(close[2..].to_vec()).expect("UTF-8"))
}

/// The bytes of a masked frame.
pub(super) fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(head, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

const MASK: [u8; 4] = [0x5a, 0xa5, 0x0f, 0xf1];

/// The bytes of a masked frame's header, which may lie about the length.
pub(super) fn header(head: u8, len: u64) -> Vec<u8> {
    const MASKED: u8 = 0x80;
    let mut bytes = vec![head];
    match len {
        0..126 => bytes.push(MASKED | len as u8),
        126..65_536 => {
            bytes.push(MASKED | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// The payload of a Close.
pub(super) fn close_payload(code: u16, reason: &str) -> Bytes {
    [&code.to_be_bytes()[..], reason.as_bytes()].concat().into()
}
