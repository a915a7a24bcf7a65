//! What a client's bytes go through: the socket as it is, or TLS on it.

use std::io::{self, Read, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;
use rustls::ClientConnection;

/// A client's socket, borrowed for as long as something is read or written. A client has no such thing itself, only the two in it: without
/// TLS the second is an empty pointer, and nothing is done here but to call the socket.
pub(super) struct Wire<'a> {
    stream: &'a mut TcpStream,
    tls: Option<&'a mut ClientConnection>,
}

impl<'a> Wire<'a> {
    /// `None` if there is no socket.
    pub(super) fn of(stream: &'a mut Option<TcpStream>, tls: &'a mut Option<Box<ClientConnection>>) -> Option<Self> {
        Some(Self { stream: stream.as_mut()?, tls: tls.as_deref_mut() })
    }

    /// How much was taken. TLS takes everything, before its handshake is done as well, and keeps what the socket does not take.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.write(bytes) };
        tls.writer().write_all(bytes)?;
        self.flush()?;
        Ok(bytes.len())
    }

    /// Writes what TLS has kept, as much as the socket takes.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As a socket is read: 0 is the end, and less than asked for is all there was. `InvalidData` is an error of TLS.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.stream.read(buffer);
        }
        match self.decrypt(buffer) {
            // What was read first must be told first; the socket says so again.
            Ok((count, _)) if count > 0 => Ok(count),
            Ok((_, End::Empty)) => Err(io::ErrorKind::WouldBlock.into()),
            Ok((_, End::Over)) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// How much was decrypted, and why there is no more.
    fn decrypt(&mut self, buffer: &mut [u8]) -> io::Result<(usize, End)> {
        let mut filled = 0;
        let mut socket_empty = false;
        loop {
            let Some(tls) = &mut self.tls else { return Ok((filled, End::Over)) };
            match tls.reader().read(&mut buffer[filled..]) {
                Ok(0) => {
                    // It said goodbye. The socket's own end, which follows, is what whoever reads here goes by.
                    tls.send_close_notify();
                    self.flush()?;
                    let _ = self.stream.shutdown(Shutdown::Both);
                    return Ok((filled, End::Over));
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // It ended without a goodbye.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok((filled, End::Over)),
                Err(error) => return Err(error),
            }
            if filled == buffer.len() || socket_empty {
                return Ok((filled, End::Empty));
            }
            let mut socket = Noting { stream: self.stream, empty: false };
            match tls.read_tls(&mut socket) {
                Ok(0) => return Ok((filled, End::Over)),
                Ok(_) => socket_empty = socket.empty,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok((filled, End::Empty)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // The end comes again once what was read is told.
                Err(_) if filled > 0 => return Ok((filled, End::Empty)),
                Err(error) => return Err(error),
            }
            let processed = tls.process_new_packets();
            // Its own part of the handshake, or an alert.
            let flushed = self.flush();
            processed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            flushed?;
        }
    }
}

/// Why there is nothing more to decrypt.
enum End {
    /// For now.
    Empty,
    /// The other end is gone.
    Over,
}

/// A socket that notes whether a read took all there was, which spares another one to find that out.
struct Noting<'a> {
    stream: &'a mut TcpStream,
    empty: bool,
}

impl Read for Noting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(buffer)?;
        self.empty = count < buffer.len();
        Ok(count)
    }
}
