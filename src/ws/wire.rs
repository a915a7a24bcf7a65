//! The stream under a WebSocket, and what makes it look to tungstenite's machine like blocking I/O that would block.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::boundaries::Boundaries;
use crate::line::Line;

/// What is read past the runtime at one go. It is the runtime that sees to it that others get their turn, and empty fragments are no message, however
/// many come.
const KERNEL_BURST: usize = 64 * 1024;

/// A stream under a WebSocket.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Reads what waits in the kernel past the runtime, which may not have learned of it yet. A stream without a kernel would block.
    ///
    /// # Errors
    /// Those of a read of a socket that does not block.
    fn read_from_kernel(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Another handle of it, for whoever sends while nothing else is written; none if it cannot be shared.
    fn line(&self) -> Option<Line> {
        None
    }
}

impl Wire for Line {
    fn read_from_kernel(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::read_from_kernel(self, buffer)
    }

    fn line(&self) -> Option<Line> {
        Some(self.clone())
    }
}

#[cfg(test)]
impl Wire for tokio::io::DuplexStream {}

/// A stream as tungstenite wants it: `Read` and `Write` that would block, with the task woken when it may go on.
pub(super) struct Synchronous<'a, 'b, S> {
    pub(super) stream: &'a mut S,
    pub(super) context: &'a mut Context<'b>,
    /// Told of every byte that is read.
    pub(super) boundaries: &'a mut Boundaries,
    /// One of our frames is half out, so the machine may write nothing now.
    pub(super) mid_frame: bool,
    /// A Pong that cannot be written must not hide what can still be read; the next flush meets the error again.
    pub(super) reading: bool,
    /// Where the runtime knows of nothing to read, the kernel is asked.
    pub(super) asks_kernel: bool,
    /// How many bytes were read.
    pub(super) read: usize,
}

impl<S: Wire> Read for Synchronous<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = ReadBuf::new(buffer);
        let count = match Pin::new(&mut *self.stream).poll_read(self.context, &mut filled) {
            Poll::Ready(read) => read.map(|()| filled.filled().len()),
            Poll::Pending if self.asks_kernel && self.read < KERNEL_BURST => self.stream.read_from_kernel(buffer),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }?;
        self.boundaries.advance(&buffer[..count]);
        self.read += count;
        Ok(count)
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
