//! The line: the TCP socket of a connection. Its driver reads from it and writes to it; while the driver has nothing to write it lends it to whoever sends
//! to the client, who then writes without waking anybody ([`crate::outbox`] says whose it is).

use std::io::{self, IoSlice, Read as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::event::Payload;

/// The header of an unmasked frame takes at most 2 bytes and 8 of length (RFC 6455, 5.2).
const MAX_HEADER: usize = 10;

/// The set first bit of a frame that is a whole message (RFC 6455, 5.2).
const FIN: u8 = 0x80;

/// The kinds of frames that are sent in one piece (RFC 6455, 11.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    /// A text message.
    Text = 0x1,
    /// A binary message.
    Binary = 0x2,
    /// A Ping.
    Ping = 0x9,
}

/// The header of a frame to a client.
#[derive(Clone, Copy)]
pub struct FrameHeader {
    bytes: [u8; MAX_HEADER],
    length: u8,
}

impl FrameHeader {
    /// Of a frame that is a whole message, with a payload of `length` bytes (RFC 6455, 5.2).
    #[must_use]
    pub fn new(opcode: Opcode, length: usize) -> Self {
        let mut bytes = [0; MAX_HEADER];
        bytes[0] = FIN | opcode as u8;
        let length = match length {
            0..=125 => {
                bytes[1] = length as u8;
                2
            }
            126..=0xffff => {
                bytes[1] = 126;
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                4
            }
            _ => {
                bytes[1] = 127;
                bytes[2..].copy_from_slice(&(length as u64).to_be_bytes());
                MAX_HEADER as u8
            }
        };
        Self { bytes, length }
    }

    /// Of a message from a backend.
    #[must_use]
    pub fn of(payload: &Payload) -> Self {
        let opcode = match payload {
            Payload::Text(_) => Opcode::Text,
            Payload::Binary(_) => Opcode::Binary,
        };
        Self::new(opcode, payload.len())
    }

    /// As it goes over the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A handle of the socket; it is closed with the last.
#[derive(Clone, Debug)]
pub struct Line(Arc<TcpStream>);

/// How far a frame came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    /// The kernel has all of it.
    Whole,
    /// It has so many bytes, of the header and the payload; the rest must come next.
    Part(usize),
    /// It has nothing.
    Nothing,
}

impl Line {
    /// Over a socket whose handshake is done.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self(Arc::new(stream))
    }

    /// Writes a frame as far as the kernel takes it now. An error is nothing that was written: who writes or reads next meets one too.
    pub(crate) fn put(&self, payload: &Payload) -> Put {
        let header = FrameHeader::of(payload);
        let whole = header.as_bytes().len() + payload.len();
        match self.0.try_write_vectored(&[IoSlice::new(header.as_bytes()), IoSlice::new(payload.bytes())]) {
            Ok(count) if count == whole => Put::Whole,
            Ok(0) | Err(_) => Put::Nothing,
            Ok(count) => Put::Part(count),
        }
    }

    /// Reads what waits in the kernel, whether the runtime has learned of it or not.
    pub(crate) fn read_from_kernel(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*socket2::SockRef::from(&*self.0)).read(buffer)
    }
}

impl AsyncRead for Line {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            // Only now: a driver asks once more than there is something, and room that nothing is read into need not be cleared.
            let room = buffer.initialize_unfilled();
            let mut read = None;
            let tried = self.0.try_io(Interest::READABLE, || {
                let count = self.read_from_kernel(room)?;
                read = Some(count);
                if count > 0 && count < room.len() {
                    // All that there was: the runtime need not have one more read tell it so. What comes from now on it is told of anew, which is
                    // also how tokio reads from its own streams (epoll is edge-triggered).
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match (read, tried) {
                (Some(count), _) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                (None, tried) => return Poll::Ready(tried),
            }
        }
    }
}

impl AsyncWrite for Line {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_as_short_as_its_length_allows() {
        let header = |length| FrameHeader::new(Opcode::Text, length).as_bytes().to_vec();
        assert_eq!(header(0), [0x81, 0]);
        assert_eq!(header(125), [0x81, 125]);
        assert_eq!(header(126), [0x81, 126, 0, 126]);
        assert_eq!(header(65_535), [0x81, 126, 0xff, 0xff]);
        assert_eq!(header(65_536), [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(FrameHeader::new(Opcode::Ping, 4).as_bytes(), [0x89, 4]);
    }
}
