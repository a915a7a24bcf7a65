//! What a driver needs of a WebSocket: whole messages in, frames out, and no more bytes buffered than one burst.

use std::task::{Context, Poll};

use bytes::Bytes;

use crate::event::Payload;
use crate::line::Line;

/// What is in a Ping of ours.
pub type PingPayload = [u8; 4];

/// One message or control frame from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A text message; UTF-8 was checked.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A Ping, which the socket answers by itself.
    Ping,
    /// A Pong, with its payload if that is as long as a Ping's.
    Pong(Option<PingPayload>),
    /// The client's Close; none where it had no code. The socket answers it by itself.
    Close(Option<(u16, String)>),
}

/// Why no more can be read or written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// The closing handshake is complete.
    #[error("closed")]
    Closed,
    /// End of stream or an I/O error.
    #[error("lost: {0}")]
    Lost(String),
    /// A violation of RFC 6455's framing.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    BadUtf8,
    /// A message or frame over the limit.
    #[error("message too big")]
    TooBig,
}

/// A WebSocket after its handshake. No method waits; all may be called from one task only.
pub trait FrameSocket: Unpin + Send + 'static {
    /// The next message or control frame.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>>;

    /// Bytes that have arrived and are no whole message yet, since the last whole one.
    fn partial_bytes(&self) -> usize;

    /// Whether any byte has arrived since this was last asked.
    fn take_activity(&mut self) -> bool;

    /// Has what is read from now on be asked of the kernel itself where the runtime knows of nothing, until there is nothing.
    fn ask_kernel(&mut self);

    /// Whether what there was then has not all been read yet.
    fn asks_kernel(&self) -> bool;

    /// Buffers a data frame; call only while [`FrameSocket::buffered`] is small.
    fn queue(&mut self, payload: &Payload);

    /// Buffers what is left of a data frame of which `written` bytes, header and all, went out by the line that was lent. Call before anything else is
    /// buffered.
    fn queue_rest(&mut self, payload: &Payload, written: usize);

    /// Buffers a Ping.
    fn queue_ping(&mut self, payload: PingPayload);

    /// Whether nothing is buffered, and nothing begun by either side.
    fn is_idle(&self) -> bool;

    /// The line under it, to be lent to senders while it is idle; none where it cannot be shared.
    fn line(&self) -> Option<Line> {
        None
    }

    /// Bytes buffered and not yet taken by the kernel.
    fn buffered(&self) -> usize;

    /// Writes what is buffered; ready once the kernel has taken all of it.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>>;

    /// Buffers our Close. Only after everything else was flushed.
    fn start_close(&mut self, code: u16, reason: &str);

    /// Shuts the writing side down, then reads and drops bytes until the client's end.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// The same, of a kind that may be changed for another.
    fn boxed(self) -> AnySocket
    where
        Self: Sized,
    {
        Box::new(self)
    }
}

/// A socket of any kind: a session may go from one listener to another.
pub type AnySocket = Box<dyn FrameSocket>;

impl FrameSocket for AnySocket {
    fn boxed(self) -> AnySocket {
        self
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>> {
        (**self).poll_read(context)
    }

    fn partial_bytes(&self) -> usize {
        (**self).partial_bytes()
    }

    fn take_activity(&mut self) -> bool {
        (**self).take_activity()
    }

    fn ask_kernel(&mut self) {
        (**self).ask_kernel();
    }

    fn asks_kernel(&self) -> bool {
        (**self).asks_kernel()
    }

    fn queue(&mut self, payload: &Payload) {
        (**self).queue(payload);
    }

    fn queue_rest(&mut self, payload: &Payload, written: usize) {
        (**self).queue_rest(payload, written);
    }

    fn queue_ping(&mut self, payload: PingPayload) {
        (**self).queue_ping(payload);
    }

    fn is_idle(&self) -> bool {
        (**self).is_idle()
    }

    fn line(&self) -> Option<Line> {
        (**self).line()
    }

    fn buffered(&self) -> usize {
        (**self).buffered()
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        (**self).poll_flush(context)
    }

    fn start_close(&mut self, code: u16, reason: &str) {
        (**self).start_close(code, reason);
    }

    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        (**self).poll_discard(context)
    }
}

/// What stands in for a socket while there is none: at its end, and with nothing to be written.
pub(super) struct NoSocket;

impl FrameSocket for NoSocket {
    fn poll_read(&mut self, _: &mut Context<'_>) -> Poll<Result<Inbound, SocketError>> {
        Poll::Ready(Err(SocketError::Closed))
    }

    fn partial_bytes(&self) -> usize {
        0
    }

    fn take_activity(&mut self) -> bool {
        false
    }

    fn ask_kernel(&mut self) {}

    fn asks_kernel(&self) -> bool {
        false
    }

    fn queue(&mut self, _: &Payload) {}

    fn queue_rest(&mut self, _: &Payload, _: usize) {}

    fn is_idle(&self) -> bool {
        true
    }

    fn queue_ping(&mut self, _: PingPayload) {}

    fn buffered(&self) -> usize {
        0
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        Poll::Ready(Ok(()))
    }

    fn start_close(&mut self, _: u16, _: &str) {}

    fn poll_discard(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
