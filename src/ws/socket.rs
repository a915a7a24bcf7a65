//! Frames and messages: tungstenite's protocol machine over one stream, with a write path that keeps no memory between bursts.
//!
//! The machine reads, checks and assembles what the client sends, and answers Pings and Closes by itself. Data frames to the client go
//! around it: it would keep a buffer as large as the largest frame ever sent. The two share the stream at frame boundaries only.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::connection::{FrameSocket, Inbound, SocketError};
use crate::event::Payload;

/// tungstenite allocates its read buffer eagerly and keeps it; heartbeats need little.
const READ_BUFFER: usize = 512;

/// The header of an unmasked frame takes at most 2 bytes and 8 of length (RFC 6455, 5.2).
const MAX_HEADER: usize = 10;

/// A masked control frame of `n` bytes takes `n` and these on the wire (RFC 6455, 5.2).
const CONTROL_OVERHEAD: usize = 6;

/// A message over this has grown the read buffer to its size.
const LARGE_MESSAGE: usize = 4 * 1024;

/// The bytes that may wait in the machine: a Close or a Pong with the largest payload, and some. With a Pong waiting the next one
/// replaces it, so a client that pings and does not read costs no more.
const MACHINE_BUFFER: usize = 512;

/// What is read and dropped while a client that is done for is waited for to end; one that sends more is cut off.
const MAX_DISCARDED: usize = 256 * 1024;

/// A stream under a WebSocket.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether bytes (or the end) wait to be read, asked of the kernel and not of the runtime, which may not know yet.
    fn unread(&self) -> bool;
}

impl Wire for TcpStream {
    fn unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        // The socket is non-blocking: with nothing there this is an error.
        socket2::SockRef::from(self).peek(&mut byte).is_ok()
    }
}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {
    fn unread(&self) -> bool {
        false
    }
}

/// A WebSocket after its handshake.
pub struct WsSocket<S> {
    stream: S,
    machine: WebSocketContext,
    /// Encoded frames, of which `written` bytes have been taken by the kernel. Holds one burst at most, and no memory when empty.
    out: Vec<u8>,
    written: usize,
    partial: usize,
    /// Bytes that have arrived, less the least that the messages handed out took on the wire. When 0, the read buffer is empty for certain.
    surplus: usize,
    active: bool,
    /// A large message has grown the read buffer.
    grown: bool,
    /// Bytes read and dropped after the end.
    discarded: usize,
}

/// What a masked data frame of so many bytes takes on the wire at the least (RFC 6455, 5.2).
const fn wire_size(payload: usize) -> usize {
    let length = match payload {
        0..=125 => 0,
        126..=65_535 => 2,
        _ => 8,
    };
    CONTROL_OVERHEAD + length + payload
}

fn machine(read_ahead: Vec<u8>, max_message: usize) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MACHINE_BUFFER)
        .max_message_size(Some(max_message))
        .max_frame_size(Some(max_message));
    WebSocketContext::from_partially_read(read_ahead, Role::Server, Some(config))
}

impl<S: Wire> WsSocket<S> {
    /// Over a stream whose handshake is done; `read_ahead` is what came after it and was read already.
    pub fn new(stream: S, read_ahead: Bytes, max_message: usize) -> Self {
        let ahead = read_ahead.len();
        Self {
            stream,
            machine: machine(read_ahead.to_vec(), max_message),
            out: Vec::new(),
            written: 0,
            partial: ahead,
            surplus: ahead,
            active: false,
            grown: false,
            discarded: 0,
        }
    }

    /// Notes a whole data message.
    fn whole(&mut self, payload: usize) {
        self.partial = 0;
        self.surplus = self.surplus.saturating_sub(wire_size(payload));
        self.grown |= payload > LARGE_MESSAGE;
    }

    /// Notes a control frame; it may stand between the fragments of a message.
    fn control(&mut self, payload: usize) {
        self.partial = self.partial.saturating_sub(CONTROL_OVERHEAD + payload);
        self.surplus = self.surplus.saturating_sub(CONTROL_OVERHEAD + payload);
    }

    /// Gives back a read buffer that a large message has grown: the machine would keep it for the life of the connection. A new machine takes over
    /// where the old one has nothing in it, neither read nor to be written.
    fn shrink(&mut self, context: &mut Context<'_>) {
        let idle = self.surplus == 0 && matches!(self.poll_flush_machine(context), Poll::Ready(Ok(())));
        if idle && let Some(max_message) = self.machine.get_config().max_message_size {
            self.machine = machine(Vec::new(), max_message);
            self.grown = false;
        }
    }

    /// Runs the machine with the stream made to look like blocking I/O that would block.
    fn with_machine<T>(
        &mut self,
        context: &mut Context<'_>,
        run: impl FnOnce(&mut WebSocketContext, &mut Synchronous<'_, '_, S>) -> T,
    ) -> T {
        let mid_frame = self.written > 0;
        let mut stream = Synchronous { stream: &mut self.stream, context, mid_frame, reading: false, read: 0 };
        let result = run(&mut self.machine, &mut stream);
        let read = stream.read;
        self.partial += read;
        self.surplus += read;
        self.active |= read > 0;
        result
    }

    fn put(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader { opcode, ..FrameHeader::default() };
        self.out.reserve(MAX_HEADER + payload.len());
        // Writing to a Vec cannot fail.
        let _ = header.format(payload.len() as u64, &mut self.out);
        self.out.extend_from_slice(payload);
    }
}

impl<S: Wire> FrameSocket for WsSocket<S> {
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>> {
        let read = self.with_machine(context, |machine, stream| {
            stream.reading = true;
            machine.read(stream)
        });
        let message = match read {
            Ok(message) => message,
            Err(error) => {
                let error = error_of(error);
                if error.is_pending() && self.grown {
                    self.shrink(context);
                }
                return error.map(Err);
            }
        };
        Poll::Ready(Ok(match message {
            Message::Text(text) => {
                self.whole(text.len());
                Inbound::Text(text.into())
            }
            Message::Binary(bytes) => {
                self.whole(bytes.len());
                Inbound::Binary(bytes)
            }
            Message::Ping(payload) => {
                self.control(payload.len());
                Inbound::Ping
            }
            Message::Pong(payload) => {
                self.control(payload.len());
                Inbound::Pong(payload)
            }
            Message::Close(close) => Inbound::Close(close.map(|close| (close.code.into(), close.reason.to_string()))),
            // Only handed out to who asks for raw frames.
            Message::Frame(_) => return Poll::Ready(Err(SocketError::Protocol("raw frame".into()))),
        }))
    }

    fn partial_bytes(&self) -> usize {
        self.partial
    }

    fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.active)
    }

    fn unread(&self) -> bool {
        self.stream.unread()
    }

    fn queue(&mut self, payload: &Payload) {
        match payload {
            Payload::Text(text) => self.put(OpCode::Data(Data::Text), text),
            Payload::Binary(bytes) => self.put(OpCode::Data(Data::Binary), bytes),
        }
    }

    fn queue_ping(&mut self, payload: &[u8]) {
        self.put(OpCode::Control(Control::Ping), payload);
    }

    fn buffered(&self) -> usize {
        self.out.len() - self.written
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        // A Pong that the kernel took in part must be finished before a frame of ours may begin.
        if self.written == 0 {
            ready!(self.poll_flush_machine(context))?;
        }
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.out[self.written..])) {
                Ok(0) => return Poll::Ready(Err(SocketError::Lost("the kernel took nothing".into()))),
                Ok(count) => self.written += count,
                Err(error) => return Poll::Ready(Err(SocketError::Lost(error.to_string()))),
            }
        }
        if self.written > 0 {
            self.out = Vec::new();
            self.written = 0;
            // A Pong may have been held back while our frame was half out.
            ready!(self.poll_flush_machine(context))?;
        }
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, code: u16, reason: &str) {
        let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        // Everything was flushed before, so this only fills the machine's own buffer; what the stream says to it, the next flush says again.
        let waker = std::task::Waker::noop();
        let _ =
            self.with_machine(&mut Context::from_waker(waker), |machine, stream| machine.close(stream, Some(close)));
    }

    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The client learns from the end of our stream that its own is not listened to any more.
        if ready!(Pin::new(&mut self.stream).poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        let mut waste = [0u8; 2048];
        while self.discarded < MAX_DISCARDED {
            let mut waste = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut waste));
            if read.is_err() || waste.filled().is_empty() {
                break;
            }
            self.discarded += waste.filled().len();
        }
        Poll::Ready(())
    }
}

impl<S: Wire> WsSocket<S> {
    fn poll_flush_machine(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        match self.with_machine(context, |machine, stream| machine.flush(stream)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => error_of(error).map(Err),
        }
    }
}

/// What a tungstenite error means; pending when the stream would block.
fn error_of(error: tungstenite::Error) -> Poll<SocketError> {
    use tungstenite::Error;
    Poll::Ready(match error {
        Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
        Error::Io(error) => SocketError::Lost(error.to_string()),
        Error::ConnectionClosed | Error::AlreadyClosed => SocketError::Closed,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => SocketError::Lost("end of stream".into()),
        Error::Protocol(error) => SocketError::Protocol(error.to_string()),
        Error::Capacity(_) => SocketError::TooBig,
        Error::Utf8(_) => SocketError::BadUtf8,
        error => SocketError::Protocol(error.to_string()),
    })
}

/// A stream as tungstenite wants it: `Read` and `Write` that would block, with the task woken when it may go on.
struct Synchronous<'a, 'b, S> {
    stream: &'a mut S,
    context: &'a mut Context<'b>,
    /// One of our frames is half out, so the machine may write nothing now.
    mid_frame: bool,
    /// A Pong that cannot be written must not hide what can still be read; the next flush meets the error again.
    reading: bool,
    read: usize,
}

impl<S: Wire> Read for Synchronous<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.context, &mut buffer) {
            Poll::Ready(Ok(())) => {
                self.read += buffer.filled().len();
                Ok(buffer.filled().len())
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: Wire> Write for Synchronous<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.mid_frame {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match Pin::new(&mut *self.stream).poll_write(self.context, bytes) {
            Poll::Ready(Err(_)) if self.reading => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    const TEXT: u8 = 0x81;
    const TEXT_BEGINS: u8 = 0x01;
    const ENDS: u8 = 0x80;
    const PING: u8 = 0x89;

    /// A masked frame whose mask is 0.
    fn frame(head: u8, payload: &[u8]) -> Vec<u8> {
        let length = match payload.len() {
            short @ 0..=125 => vec![0x80 | short as u8],
            long => [&[0xfe][..], &(long as u16).to_be_bytes()].concat(),
        };
        [&[head][..], &length, &[0; 4], payload].concat()
    }

    async fn read(socket: &mut WsSocket<DuplexStream>) -> Inbound {
        poll_fn(|context| socket.poll_read(context)).await.expect("a frame")
    }

    async fn reads_nothing(socket: &mut WsSocket<DuplexStream>) {
        assert!(poll_fn(|context| Poll::Ready(socket.poll_read(context).is_pending())).await);
    }

    #[tokio::test]
    async fn a_read_buffer_that_a_large_message_has_grown_is_given_back_and_reading_goes_on() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = WsSocket::new(server, Bytes::new(), 1 << 16);
        let large = vec![b'x'; 60_000];
        for _ in 0..3 {
            client.write_all(&frame(TEXT, &large)).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Text(large.clone().into()));
            assert!(socket.grown);
            reads_nothing(&mut socket).await;
            assert!(!socket.grown, "a new machine took over");
            client.write_all(&frame(PING, b"p")).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Ping);
        }
    }

    #[tokio::test]
    async fn the_machine_is_never_changed_while_it_holds_part_of_a_message() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = WsSocket::new(server, Bytes::new(), 1 << 16);
        let large = vec![b'x'; 60_000];
        let next = frame(TEXT, b"next");
        // Cut at every place: in its header, its mask and its payload.
        for cut in 1..next.len() {
            client.write_all(&[&frame(TEXT, &large)[..], &next[..cut]].concat()).await.expect("room");
            read(&mut socket).await;
            reads_nothing(&mut socket).await;
            client.write_all(&next[cut..]).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Text("next".into()));
        }
        // Between two fragments nothing is half read, and yet the message is.
        client.write_all(&[frame(TEXT, &large), frame(TEXT_BEGINS, b"one ")].concat()).await.expect("room");
        read(&mut socket).await;
        reads_nothing(&mut socket).await;
        client.write_all(&frame(ENDS, b"two")).await.expect("room");
        assert_eq!(read(&mut socket).await, Inbound::Text("one two".into()));
    }

    #[tokio::test]
    async fn pings_of_a_client_that_does_not_read_cost_no_more_than_a_few_pongs() {
        let (mut client, server) = duplex(1 << 10);
        let mut socket = WsSocket::new(server, Bytes::new(), 1 << 16);
        for _ in 0..200 {
            client.write_all(&frame(PING, &[7; 100])).await.expect("the server reads");
            assert_eq!(read(&mut socket).await, Inbound::Ping);
        }
        let drained = async {
            let mut pongs = Vec::new();
            let mut chunk = [0; 1 << 10];
            while let Ok(Ok(count @ 1..)) =
                tokio::time::timeout(std::time::Duration::from_millis(50), client.read(&mut chunk)).await
            {
                pongs.extend_from_slice(&chunk[..count]);
                let _ = poll_fn(|context| Poll::Ready(socket.poll_flush(context))).await;
            }
            pongs
        };
        let pongs = drained.await;
        assert_eq!(pongs.len() % 102, 0, "whole Pongs");
        assert!((10..20).contains(&(pongs.len() / 102)), "{} Pongs", pongs.len() / 102);
    }
}
