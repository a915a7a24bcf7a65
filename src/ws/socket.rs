//! Frames and messages: tungstenite's protocol machine over one stream, there only while it has something to do.
//!
//! The machine reads, checks and assembles what the client sends, and answers Pings and Closes by itself. Between messages it knows nothing that a
//! new one would not, so a connection that waits is its stream and nothing else; the machine and its buffers are made when bytes come and dropped
//! when all of them are dealt with. A [short frame](short) that comes whole and by itself needs none. Data frames to the client go around it: it would
//! keep a buffer as large as the largest frame ever sent. The two share the stream at frame boundaries only.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{self, Message};

use super::boundaries::Boundaries;
use super::short::{self, Short};
use super::wire::{Synchronous, Wire};
use crate::connection::{FrameSocket, Inbound, PingPayload, SocketError};
use crate::event::Payload;
use crate::line::{FrameHeader, Line, Opcode};

/// tungstenite allocates its read buffer eagerly, and clears as much before each read; heartbeats need little.
const READ_BUFFER: usize = 512;

/// A masked control frame of `n` bytes takes `n` and these on the wire (RFC 6455, 5.2).
const CONTROL_OVERHEAD: usize = 6;

/// The bytes that may wait in the machine: a Close or a Pong with the largest payload, and some. With a Pong waiting the next one
/// replaces it, so a client that pings and does not read costs no more.
const MACHINE_BUFFER: usize = 512;

/// What is read and dropped while a client that is done for is waited for to end; one that sends more is cut off.
const MAX_DISCARDED: usize = 256 * 1024;

/// A WebSocket after its handshake.
pub struct WsSocket<S> {
    stream: S,
    /// None while the socket is parked: nothing is half read, and nothing waits to be written that the machine has.
    machine: Option<Box<Machine>>,
    /// None while there is nothing.
    out: Option<Box<Out>>,
    /// In bytes.
    max_message: u32,
}

/// Encoded frames that wait to be written: one burst at most, and never nothing.
struct Out {
    bytes: Vec<u8>,
    /// How many of them the kernel has taken.
    written: usize,
}

/// The protocol machine, and what is known of the bytes it has.
struct Machine {
    context: WebSocketContext,
    boundaries: Boundaries,
    partial: usize,
    /// Bytes have arrived since that was last asked.
    active: bool,
    /// What there is to read is asked of the kernel itself.
    asks_kernel: bool,
    /// A Ping came, whose Pong may wait.
    answers: bool,
    /// A Close was sent or received, which a new machine would not know.
    closing: bool,
    /// Bytes read and dropped after the end.
    discarded: usize,
}

impl Machine {
    fn new(read_ahead: &[u8], max_message: u32) -> Box<Self> {
        let max_message = max_message as usize;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_write_buffer_size(MACHINE_BUFFER)
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let context = WebSocketContext::from_partially_read(read_ahead.to_vec(), Role::Server, Some(config));
        let mut boundaries = Boundaries::default();
        boundaries.advance(read_ahead);
        Box::new(Self {
            context,
            boundaries,
            partial: read_ahead.len(),
            active: !read_ahead.is_empty(),
            asks_kernel: false,
            answers: false,
            closing: false,
            discarded: 0,
        })
    }

    /// Notes a control frame; it may stand between the fragments of a message.
    fn control(&mut self, payload: usize) {
        self.partial = self.partial.saturating_sub(CONTROL_OVERHEAD + payload);
    }
}

impl<S: Wire> WsSocket<S> {
    /// Over a stream whose handshake is done; `read_ahead` is what came after it and was read already.
    pub fn new(stream: S, read_ahead: &[u8], max_message: usize) -> Self {
        let max_message = u32::try_from(max_message).unwrap_or(u32::MAX);
        let machine = (!read_ahead.is_empty()).then(|| Machine::new(read_ahead, max_message));
        Self { stream, machine, out: None, max_message }
    }

    fn machine(&mut self) -> &mut Machine {
        let max_message = self.max_message;
        self.machine.get_or_insert_with(|| Machine::new(&[], max_message))
    }

    /// Runs the machine with the stream made to look like blocking I/O that would block.
    fn with_machine<T>(
        &mut self,
        context: &mut Context<'_>,
        reading: bool,
        run: impl FnOnce(&mut WebSocketContext, &mut Synchronous<'_, '_, S>) -> T,
    ) -> T {
        let max_message = self.max_message;
        let machine = self.machine.get_or_insert_with(|| Machine::new(&[], max_message));
        let mid_frame = self.out.as_ref().is_some_and(|out| out.written > 0);
        let (asks_kernel, boundaries) = (machine.asks_kernel, &mut machine.boundaries);
        let stream = &mut self.stream;
        let mut stream = Synchronous { stream, context, boundaries, mid_frame, reading, asks_kernel, read: 0 };
        let result = run(&mut machine.context, &mut stream);
        let read = stream.read;
        machine.partial += read;
        machine.active |= read > 0;
        result
    }

    /// Reads without a machine: a short frame that comes whole and by itself, as heartbeats do. None if what came is something else; then there is
    /// a machine that has it.
    fn poll_short(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Inbound>, SocketError>> {
        // Not cleared: most reads find nothing, or a few bytes.
        let mut bytes = [const { MaybeUninit::uninit() }; READ_BUFFER];
        let mut bytes = ReadBuf::uninit(&mut bytes);
        if let Err(error) = ready!(Pin::new(&mut self.stream).poll_read(context, &mut bytes)) {
            return Poll::Ready(Err(SocketError::Lost(error.to_string())));
        }
        let bytes = bytes.filled();
        if bytes.is_empty() {
            return Poll::Ready(Err(end_of_stream()));
        }
        let taken = match short::frame(bytes, self.max_message as usize) {
            Some(Short::Message(message)) => Some(message),
            Some(Short::Ping(pong)) if self.answers(pong.as_bytes(), context) => Some(Inbound::Ping),
            _ => None,
        };
        if taken.is_none() {
            self.machine = Some(Machine::new(bytes, self.max_message));
        }
        Poll::Ready(Ok(taken))
    }

    /// Writes a Pong, if nothing waits to be written; what the kernel does not take of it follows before anything else. False if it took nothing: a Pong that waits
    /// is the machine's, where the next one replaces it.
    fn answers(&mut self, pong: &[u8], context: &mut Context<'_>) -> bool {
        if self.out.is_some() {
            return false;
        }
        let Poll::Ready(Ok(written @ 1..)) = Pin::new(&mut self.stream).poll_write(context, pong) else { return false };
        if written < pong.len() {
            self.out = Some(Box::new(Out { bytes: pong.to_vec(), written }));
            // Has the task woken when the rest can be written. An error is met again by the next flush.
            let _ = self.poll_flush(context);
        }
        true
    }

    /// Drops the machine if it has nothing in it, neither read nor to be written.
    fn park(&mut self, context: &mut Context<'_>) {
        let Some(machine) = &self.machine else { return };
        let (idle, answers) = (machine.boundaries.between_messages() && !machine.closing, machine.answers);
        // Twice: the first may have made room for a Pong that had none, and leaves it.
        let mut flushed = || matches!(self.poll_flush_machine(context), Poll::Ready(Ok(())));
        if idle && (!answers || flushed() && flushed()) {
            self.machine = None;
        }
    }

    fn poll_flush_machine(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        if self.machine.is_none() {
            return Poll::Ready(Ok(()));
        }
        match self.with_machine(context, false, |machine, stream| machine.flush(stream)) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => error_of(error).map(Err),
        }
    }

    fn put(&mut self, header: FrameHeader, payload: &[u8]) {
        let header = header.as_bytes();
        match &mut self.out {
            // In one step: most of what is written is one small frame.
            None => self.out = Some(Box::new(Out { bytes: [header, payload].concat(), written: 0 })),
            Some(out) => {
                out.bytes.reserve(header.len() + payload.len());
                out.bytes.extend_from_slice(header);
                out.bytes.extend_from_slice(payload);
            }
        }
    }
}

impl<S: Wire> FrameSocket for WsSocket<S> {
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>> {
        if self.machine.is_none()
            && let Some(message) = ready!(self.poll_short(context))?
        {
            return Poll::Ready(Ok(message));
        }
        let message = match self.with_machine(context, true, |machine, stream| machine.read(stream)) {
            Ok(message) => message,
            Err(error) => {
                let error = error_of(error);
                if error.is_pending() {
                    self.machine().asks_kernel = false;
                    self.park(context);
                }
                return error.map(Err);
            }
        };
        let machine = self.machine();
        Poll::Ready(Ok(match message {
            Message::Text(text) => {
                machine.partial = 0;
                Inbound::Text(text.into())
            }
            Message::Binary(bytes) => {
                machine.partial = 0;
                Inbound::Binary(bytes)
            }
            Message::Ping(payload) => {
                machine.control(payload.len());
                machine.answers = true;
                Inbound::Ping
            }
            Message::Pong(payload) => {
                machine.control(payload.len());
                Inbound::Pong((*payload).try_into().ok())
            }
            Message::Close(close) => {
                machine.closing = true;
                Inbound::Close(close.map(|close| (close.code.into(), close.reason.to_string())))
            }
            // Only handed out to who asks for raw frames.
            Message::Frame(_) => return Poll::Ready(Err(SocketError::Protocol("raw frame".into()))),
        }))
    }

    fn partial_bytes(&self) -> usize {
        self.machine.as_ref().map_or(0, |machine| machine.partial)
    }

    fn take_activity(&mut self) -> bool {
        // With no machine, all that came was whole.
        self.machine.as_mut().is_some_and(|machine| std::mem::take(&mut machine.active))
    }

    fn ask_kernel(&mut self) {
        self.machine().asks_kernel = true;
    }

    fn asks_kernel(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.asks_kernel)
    }

    fn queue(&mut self, payload: &Payload) {
        self.put(FrameHeader::of(payload), payload.bytes());
    }

    fn queue_rest(&mut self, payload: &Payload, written: usize) {
        self.queue(payload);
        // As if this socket had begun it: nothing else may come before the rest.
        if let Some(out) = &mut self.out {
            out.written = written;
        }
    }

    fn queue_ping(&mut self, payload: PingPayload) {
        self.put(FrameHeader::new(Opcode::Ping, payload.len()), &payload);
    }

    fn is_idle(&self) -> bool {
        self.machine.is_none() && self.out.is_none()
    }

    fn line(&self) -> Option<Line> {
        self.stream.line()
    }

    fn buffered(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.bytes.len() - out.written)
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        // A Pong that the kernel took in part must be finished before a frame of ours may begin.
        if self.out.as_ref().is_none_or(|out| out.written == 0) {
            ready!(self.poll_flush_machine(context))?;
        }
        let Some(out) = &mut self.out else { return Poll::Ready(Ok(())) };
        while out.written < out.bytes.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &out.bytes[out.written..])) {
                Ok(0) => return Poll::Ready(Err(SocketError::Lost("the kernel took nothing".into()))),
                Ok(count) => out.written += count,
                Err(error) => return Poll::Ready(Err(SocketError::Lost(error.to_string()))),
            }
        }
        self.out = None;
        // A Pong may have been held back while our frame was half out.
        self.poll_flush_machine(context)
    }

    fn start_close(&mut self, code: u16, reason: &str) {
        let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.machine().closing = true;
        // Everything was flushed before, so this only fills the machine's own buffer; what the stream says to it, the next flush says again.
        let waker = std::task::Waker::noop();
        let _ = self
            .with_machine(&mut Context::from_waker(waker), false, |machine, stream| machine.close(stream, Some(close)));
    }

    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        // The client learns from the end of our stream that its own is not listened to any more.
        if ready!(Pin::new(&mut self.stream).poll_shutdown(context)).is_err() {
            return Poll::Ready(());
        }
        let mut waste = [0u8; 2048];
        while self.machine().discarded < MAX_DISCARDED {
            let mut waste = ReadBuf::new(&mut waste);
            let read = ready!(Pin::new(&mut self.stream).poll_read(context, &mut waste));
            let count = waste.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            self.machine().discarded += count;
        }
        Poll::Ready(())
    }
}

fn end_of_stream() -> SocketError {
    SocketError::Lost("end of stream".into())
}

/// What a tungstenite error means; pending when the stream would block.
fn error_of(error: tungstenite::Error) -> Poll<SocketError> {
    use tungstenite::Error;
    Poll::Ready(match error {
        Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
        Error::Io(error) => SocketError::Lost(error.to_string()),
        Error::ConnectionClosed | Error::AlreadyClosed => SocketError::Closed,
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => end_of_stream(),
        Error::Protocol(error) => SocketError::Protocol(error.to_string()),
        Error::Capacity(_) => SocketError::TooBig,
        Error::Utf8(_) => SocketError::BadUtf8,
        error => SocketError::Protocol(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Wake, Waker};
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

    #[test]
    fn a_socket_that_waits_takes_the_room_that_a_task_has_for_it() {
        assert!(size_of::<WsSocket<Line>>() <= size_of::<[usize; 4]>(), "see the test of the driver's size");
    }

    #[tokio::test]
    async fn a_socket_that_waits_is_its_stream_alone_and_reading_goes_on() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = WsSocket::new(server, &[], 1 << 16);
        reads_nothing(&mut socket).await;
        assert!(socket.machine.is_none(), "before the first byte");
        let large = vec![b'x'; 60_000];
        for _ in 0..3 {
            client.write_all(&frame(TEXT, &large)).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Text(large.clone().into()));
            reads_nothing(&mut socket).await;
            assert!(socket.machine.is_none());
            client.write_all(&[frame(TEXT_BEGINS, &large), frame(ENDS, b"!")].concat()).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Text([&large[..], b"!"].concat().into()));
            reads_nothing(&mut socket).await;
            assert!(socket.machine.is_none(), "after fragments too");
            client.write_all(&frame(PING, b"p")).await.expect("room");
            assert_eq!(read(&mut socket).await, Inbound::Ping);
            reads_nothing(&mut socket).await;
            assert!(socket.machine.is_none(), "the Pong is out");
            let mut pong = [0; 3];
            client.read_exact(&mut pong).await.expect("a Pong");
            assert_eq!(pong, *b"\x8a\x01p");
        }
    }

    #[tokio::test]
    async fn a_socket_with_a_pong_to_write_or_a_close_to_remember_is_not_parked() {
        let (mut client, server) = duplex(1 << 10);
        let mut socket = WsSocket::new(server, &[], 1 << 16);
        // The client does not read, so at some point a Pong has to wait.
        for _ in 0..20 {
            client.write_all(&frame(PING, &[7; 100])).await.expect("the server reads");
            assert_eq!(read(&mut socket).await, Inbound::Ping);
            reads_nothing(&mut socket).await;
        }
        assert!(socket.machine.is_some());
        client.read_exact(&mut [0; 1 << 10]).await.expect("Pongs");
        // The rest of the one that was begun, and the newest.
        let flushed = poll_fn(|context| socket.poll_flush(context)).await;
        assert_eq!(flushed, Ok(()));
        reads_nothing(&mut socket).await;
        assert!(socket.machine.is_none());
        socket.start_close(1000, "");
        reads_nothing(&mut socket).await;
        assert!(socket.machine.is_some());
    }

    #[tokio::test]
    async fn a_pong_never_comes_into_the_middle_of_a_frame() {
        let (mut client, server) = duplex(16);
        let mut socket = WsSocket::new(server, &[], 1 << 16);
        socket.queue(&Payload::Text("x".repeat(20).into()));
        assert!(poll_fn(|context| Poll::Ready(socket.poll_flush(context).is_pending())).await);
        let mut taken = [0; 22 + 3];
        // There is room now, and the frame is half out.
        client.read_exact(&mut taken[..16]).await.expect("its beginning");
        client.write_all(&frame(PING, b"p")).await.expect("room");
        assert_eq!(read(&mut socket).await, Inbound::Ping);
        reads_nothing(&mut socket).await;
        assert_eq!(poll_fn(|context| socket.poll_flush(context)).await, Ok(()));
        client.read_exact(&mut taken[16..]).await.expect("the rest and the Pong");
        assert_eq!(taken, *b"\x81\x14xxxxxxxxxxxxxxxxxxxx\x8a\x01p");
    }

    /// Whether a task was woken.
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_task_is_woken_when_the_rest_of_a_pong_can_be_written() {
        let (mut client, server) = duplex(16);
        let mut socket = WsSocket::new(server, &[], 1 << 16);
        let woken = Arc::new(Woken(AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..2 {
            client.write_all(&frame(PING, &[7; 10])).await.expect("the server reads");
            let read = socket.poll_read(&mut Context::from_waker(&waker));
            assert_eq!(read, Poll::Ready(Ok(Inbound::Ping)));
        }
        assert_eq!(socket.buffered(), 8, "the client has not read the first");
        client.read_exact(&mut [0; 16]).await.expect("one and a third");
        assert!(woken.0.load(Ordering::SeqCst));
        assert_eq!(poll_fn(|context| socket.poll_flush(context)).await, Ok(()));
        let mut rest = [0; 8];
        client.read_exact(&mut rest).await.expect("the rest");
        assert_eq!(rest, [7; 8]);
    }

    #[tokio::test]
    async fn the_machine_is_never_dropped_while_it_holds_part_of_a_message() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = WsSocket::new(server, &[], 1 << 16);
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
        let mut socket = WsSocket::new(server, &[], 1 << 16);
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
