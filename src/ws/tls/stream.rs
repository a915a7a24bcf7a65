//! A stream under TLS, as small as it can be while it waits: the keys, and no buffer at all.
//!
//! rustls does the protocol by its unbuffered interface, which leaves the bytes to us: what came and is no whole record yet, what was decrypted and not
//! yet taken, and what was encrypted and the kernel has not taken. Each is memory only while there is something in it. The buffered interface
//! keeps 4 KiB for the next record of every connection, which is more than all else that a waiting client costs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::HandshakeError;
use crate::ws::wire::Wire;

#[cfg(test)]
mod tests;

/// The most plaintext in one record (RFC 8446, 5.1), which is as much as is encrypted before the kernel has taken what was.
const MOST_PLAINTEXT: usize = 16 * 1024;

/// The most that a record adds to its plaintext: a header of 5 bytes and, in TLS 1.2, at most 2,048 (RFC 5246, 6.2.3); rustls's ciphers add 17 to 24.
const OVERHEAD: usize = 64;

/// The header of a record: its type, a version, and two bytes of length (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;

/// What is read at one go while nothing is known of the record to come; a heartbeat is some 40 bytes.
const FIRST_READ: usize = 1024;

/// The most that a record may take, header and all (RFC 5246, 6.2.3; in TLS 1.3 less).
const MOST_RECORD: usize = RECORD_HEADER + MOST_PLAINTEXT + 2048;

/// The most that is kept of a handshake's messages while they are not whole: rustls takes up to 64 KiB of each.
const MOST_HANDSHAKE: usize = 80 * 1024;

/// How far a handshake has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// More of the client's bytes are needed.
    More,
    /// It is done.
    Done,
}

/// How far records are dealt with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The first that has something in it for whoever reads.
    Plain,
    /// All that are whole.
    Blocked,
}

/// A stream under TLS.
pub(in crate::ws) struct TlsStream<S: Wire> {
    stream: S,
    session: UnbufferedServerConnection,
    /// Records that have come and are not whole yet.
    incoming: Vec<u8>,
    /// What was decrypted, of which `taken` bytes have been read.
    plain: Vec<u8>,
    taken: usize,
    /// What was encrypted, of which the kernel has taken `sent` bytes. One record at most, and what TLS says by itself.
    outgoing: Vec<u8>,
    sent: usize,
    /// The client will say no more.
    ended: bool,
    /// Our own end was told.
    closing: bool,
    /// The client broke the protocol, or a record of it was changed on the way: nothing more is read or said.
    failed: bool,
}

impl<S: Wire> TlsStream<S> {
    /// Over a stream on which nothing was said yet.
    ///
    /// # Errors
    /// None for a configuration that can be used.
    pub(super) fn new(stream: S, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let session = UnbufferedServerConnection::new(config)?;
        let (incoming, plain, outgoing) = (Vec::new(), Vec::new(), Vec::new());
        let (ended, closing, failed) = (false, false, false);
        Ok(Self { stream, session, incoming, plain, taken: 0, outgoing, sent: 0, ended, closing, failed })
    }

    /// The bytes that came and could not be understood.
    pub(super) fn rejected(&self) -> &[u8] {
        &self.incoming
    }

    /// The stream under it.
    pub(super) fn under(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads some of what the handshake needs; an end of the stream is an error here.
    pub(super) fn poll_handshake_read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        if self.incoming.len() > MOST_HANDSHAKE {
            return Poll::Ready(Err(endless().into()));
        }
        self.incoming.reserve(FIRST_READ);
        match ready!(poll_read_buf(Pin::new(&mut self.stream), context, &mut self.incoming))? {
            0 => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Takes the handshake as far as the bytes go that are there. It may compute for a millisecond.
    ///
    /// # Errors
    /// What the client did wrong. There may be an alert to be sent then.
    pub(super) fn shake_hands(&mut self) -> Result<Step, rustls::Error> {
        self.advance(&mut ReadBuf::new(&mut []), Until::Blocked)?;
        Ok(if self.session.is_handshaking() { Step::More } else { Step::Done })
    }

    /// Writes what was encrypted as far as the kernel takes it. Ready when there is nothing left.
    pub(super) fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.outgoing.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        if self.sent > 0 {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Deals with the records that are whole. What is decrypted goes to `plain`; what has no room there is kept. An error is the end: the session may have
    /// dealt with half a record then, and must not see it again.
    fn advance(&mut self, plain: &mut ReadBuf<'_>, until: Until) -> Result<(), rustls::Error> {
        if self.failed {
            return Err(rustls::Error::General("TLS has failed before".into()));
        }
        let result = self.process(plain, until);
        if result.is_err() {
            self.failed = true;
            self.take_alert();
        }
        result
    }

    fn process(&mut self, plain: &mut ReadBuf<'_>, until: Until) -> Result<(), rustls::Error> {
        loop {
            let UnbufferedStatus { mut discard, state, .. } = self.session.process_tls_records(&mut self.incoming);
            let mut more = true;
            let result = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                    match traffic.next_record() {
                        None => break Ok(()),
                        Some(Err(error)) => break Err(error),
                        Some(Ok(record)) => {
                            discard += record.discard;
                            let fits = record.payload.len().min(plain.remaining());
                            plain.put_slice(&record.payload[..fits]);
                            self.plain.extend_from_slice(&record.payload[fits..]);
                            more = until == Until::Blocked;
                        }
                    }
                },
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    append(&mut self.outgoing, 0, |room| Ok(data.encode(room)?))
                }
                // It is in `outgoing`, before all that may come after it.
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    data.done();
                    Ok(())
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.ended = true;
                    Ok(())
                }
                Ok(ConnectionState::Closed) => {
                    self.ended = true;
                    more = false;
                    Ok(())
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => {
                    more = false;
                    Ok(())
                }
                // Early data is never offered to clients.
                Ok(_) => Err(rustls::Error::General("a state of TLS that nobody asked for".into())),
                Err(error) => return Err(error),
            };
            self.incoming.drain(..discard);
            if self.incoming.is_empty() {
                self.incoming = Vec::new();
            }
            result?;
            if !more {
                return Ok(());
            }
        }
    }

    /// After an error there may be an alert that tells the client of it, and something that goes before that.
    fn take_alert(&mut self) {
        // Asked for nothing else: where the session has begun on a message, it looks for it in the buffer, and panics if that is empty.
        while self.session.wants_write()
            && let Ok(ConnectionState::EncodeTlsData(mut data)) = self.session.process_tls_records(&mut []).state
        {
            // A client that is not told what it did wrong is closed all the same.
            let _ = append(&mut self.outgoing, 0, |room| Ok(data.encode(room)?));
        }
    }

    /// Encrypts a record; false if none can be sent any more.
    fn encrypt(&mut self, record: Record<'_>) -> Result<bool, rustls::Error> {
        // What is whole among what came stands before: it is dealt with, and kept to be read.
        self.advance(&mut ReadBuf::new(&mut []), Until::Blocked)?;
        let UnbufferedStatus { discard, state, .. } = self.session.process_tls_records(&mut self.incoming);
        let written = match state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => append(&mut self.outgoing, record.room(), |room| {
                Ok(match record {
                    Record::Plain(bytes) => traffic.encrypt(bytes, room),
                    Record::Farewell => traffic.queue_close_notify(room),
                }?)
            })
            .map(|()| true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        };
        self.incoming.drain(..discard);
        written
    }

    /// How much is to be read next: the rest of the record that has begun, or a little.
    fn wanted(&self) -> usize {
        match self.incoming.get(3..RECORD_HEADER) {
            Some(length) => {
                let whole = RECORD_HEADER + usize::from(u16::from_be_bytes([length[0], length[1]]));
                whole.saturating_sub(self.incoming.len()).clamp(FIRST_READ, MOST_RECORD)
            }
            None => FIRST_READ,
        }
    }

    /// Hands out what was decrypted before; false if there is nothing.
    fn take_plain(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        let rest = &self.plain[self.taken..];
        let count = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..count]);
        self.taken += count;
        if self.taken == self.plain.len() {
            (self.plain, self.taken) = (Vec::new(), 0);
        }
        count > 0
    }

    /// Reads plaintext; `read` appends to what came, and says how much.
    fn read_by(
        &mut self,
        buffer: &mut ReadBuf<'_>,
        mut read: impl FnMut(&mut S, &mut Vec<u8>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<()>> {
        if self.take_plain(buffer) || buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        loop {
            if (self.failed || !self.incoming.is_empty())
                && let Err(error) = self.advance(buffer, Until::Plain)
            {
                self.incoming = Vec::new();
                return Poll::Ready(Err(wrong(error)));
            }
            if buffer.filled().len() > before || self.ended {
                return Poll::Ready(Ok(()));
            }
            if self.incoming.len() > MOST_RECORD {
                // No record is that long: these are parts of a handshake message, of which each may be a byte. All that a client has to say of that kind
                // is a few.
                (self.failed, self.incoming) = (true, Vec::new());
                return Poll::Ready(Err(wrong(endless())));
            }
            self.incoming.reserve(self.wanted());
            let came = read(&mut self.stream, &mut self.incoming);
            if self.incoming.is_empty() {
                // A stream that waits keeps no room for what may come.
                self.incoming = Vec::new();
            }
            if ready!(came)? == 0 {
                // With no word of farewell; what a Close is, the protocol above has its own word for.
                self.ended = true;
            }
        }
    }
}

/// What may be encrypted.
#[derive(Clone, Copy)]
enum Record<'a> {
    /// So much plaintext, at most [`MOST_PLAINTEXT`].
    Plain(&'a [u8]),
    /// That no more will follow.
    Farewell,
}

impl Record<'_> {
    /// How much room it takes, as a rule.
    const fn room(self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.len() + OVERHEAD,
            Self::Farewell => OVERHEAD,
        }
    }
}

/// Why something could not be appended to what goes out.
enum Refused {
    /// It needs so much room.
    Room(InsufficientSizeError),
    /// It never will.
    Ever(&'static str),
}

impl From<EncodeError> for Refused {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(size) => Self::Room(size),
            EncodeError::AlreadyEncoded => Self::Ever("encoded twice"),
        }
    }
}

impl From<EncryptError> for Refused {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::Room(size),
            EncryptError::EncryptExhausted => Self::Ever("the keys are used up"),
        }
    }
}

/// Has `write` fill `room` bytes behind what is in `outgoing`, or as many as it says that it needs.
fn append(
    outgoing: &mut Vec<u8>,
    room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Refused>,
) -> Result<(), rustls::Error> {
    let before = outgoing.len();
    let mut room = room;
    for _ in 0..2 {
        outgoing.resize(before + room, 0);
        match write(&mut outgoing[before..]) {
            Ok(count) => {
                outgoing.truncate(before + count);
                return Ok(());
            }
            Err(Refused::Room(size)) => room = size.required_size,
            Err(Refused::Ever(what)) => {
                outgoing.truncate(before);
                return Err(rustls::Error::General(what.into()));
            }
        }
    }
    outgoing.truncate(before);
    Err(rustls::Error::General("a record that fits no room".into()))
}

fn endless() -> rustls::Error {
    rustls::Error::General("an endless handshake message".into())
}

fn wrong(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl<S: Wire> AsyncRead for TlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.read_by(buffer, |stream, incoming| poll_read_buf(Pin::new(stream), context, incoming));
        // What TLS has to say by itself, an alert or new keys, waits for nobody's flush. An error shows where something is read or written next.
        let _ = self.poll_send(context);
        read
    }
}

impl<S: Wire> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(context))?;
        let bytes = &bytes[..bytes.len().min(MOST_PLAINTEXT)];
        if !self.encrypt(Record::Plain(bytes)).map_err(wrong)? {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Taken over, if not by the kernel; that is what a flush is for.
        match self.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            // A client that cannot be told sees the end of the stream.
            let _ = self.encrypt(Record::Farewell);
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Wire> Drop for TlsStream<S> {
    fn drop(&mut self) {
        // Whoever closes says so (RFC 8446, 6.1), as far as the kernel takes it at once. A client that does not take what it was sent is not told that
        // this was all; one that broke the protocol is sent the alert that waits.
        let whole = self.outgoing.is_empty() || self.failed;
        if whole && !self.closing && !self.session.is_handshaking() && !std::thread::panicking() {
            let _ = Pin::new(self).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl<S: Wire> Wire for TlsStream<S> {
    fn read_from_kernel(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        let read = self.read_by(&mut buffer, |stream, incoming| {
            let before = incoming.len();
            incoming.resize(before + FIRST_READ, 0);
            let read = stream.read_from_kernel(&mut incoming[before..]);
            incoming.truncate(before + read.as_ref().map_or(0, |count| *count));
            Poll::Ready(read)
        });
        match read {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
