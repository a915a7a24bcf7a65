//! The floor: a WebSocket server with nothing but a task a socket. What it costs, tokio and the kernel cost, and rustls where it is asked for TLS.

mod tls;

use std::net::Ipv4Addr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::frames::{self, Opcode};

/// Greatest handshake, and greatest frame with what comes with it in one read.
const READ_BYTES: usize = 4096;

/// Time for a client to shake hands.
const HANDSHAKE_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// Serves until it is killed.
pub fn serve(port: u16) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    let tls = tls::acceptor()?;
    runtime.block_on(accept(port, tls)).map_err(|error| error.to_string())
}

async fn accept(port: u16, tls: Option<tokio_rustls::TlsAcceptor>) -> std::io::Result<()> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    let listener: TcpListener = socket.listen(4096)?;
    loop {
        match (listener.accept().await, &tls) {
            (Ok((stream, _)), None) => drop(tokio::spawn(shake_hands(stream))),
            (Ok((stream, _)), Some(acceptor)) => drop(tokio::spawn(tls::shake_hands(acceptor.clone(), stream))),
            // Out of descriptors, for example: others will end.
            (Err(_), _) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
        }
    }
}

/// Ends with a fresh task, since its own is as large as the handshake made it.
async fn shake_hands(mut stream: TcpStream) {
    if stream.set_nodelay(true).is_ok()
        && let Ok(Ok(())) = tokio::time::timeout(HANDSHAKE_LIMIT, upgrade(&mut stream)).await
    {
        tokio::spawn(hold(stream));
    }
}

async fn upgrade(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> std::io::Result<()> {
    let key = read_key(stream).await?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    stream.write_all(answer.as_bytes()).await
}

async fn read_key(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<String> {
    let mut buffer = Vec::with_capacity(512);
    while !buffer.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut buffer).await? == 0 || buffer.len() > READ_BYTES {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text = String::from_utf8_lossy(&buffer);
    let key = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    key.map(|(_, value)| value.trim().to_owned()).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Waits without a buffer; one is there only while something is read.
async fn hold(stream: TcpStream) {
    let mut partial = Vec::new();
    while stream.readable().await.is_ok() {
        if !serve_frames(&stream, &mut partial) {
            return;
        }
    }
}

/// False at the end of the connection.
fn serve_frames(stream: &TcpStream, partial: &mut Vec<u8>) -> bool {
    let mut buffer = [0; READ_BYTES];
    let count = match stream.try_read(&mut buffer) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
    };
    // A socket that does not take so little at once belongs to a client that never reads.
    take(partial, &mut buffer[..count], |frame| stream.try_write(frame).is_ok_and(|taken| taken == frame.len()))
}

/// Answers what is whole of what was read before and now, and keeps the rest; false at the end of the connection.
fn take(partial: &mut Vec<u8>, bytes: &mut [u8], answer: impl FnMut(&[u8]) -> bool) -> bool {
    if partial.is_empty() {
        let Some(used) = answer_frames(bytes, answer) else { return false };
        partial.extend_from_slice(&bytes[used..]);
        return true;
    }
    let mut all = std::mem::take(partial);
    all.extend_from_slice(bytes);
    let Some(used) = answer_frames(&mut all, answer) else { return false };
    if used < all.len() {
        all.drain(..used);
        *partial = all;
    }
    true
}

/// How many bytes were whole frames; `None` ends the connection, as when an answer is not taken.
fn answer_frames(bytes: &mut [u8], mut answer: impl FnMut(&[u8]) -> bool) -> Option<usize> {
    let mut used = 0;
    while let Some(head) = frames::first(&bytes[used..]) {
        let payload = &mut bytes[used..][head.payload.clone()];
        used += head.payload.end;
        let key = head.key?;
        for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
            *byte ^= key;
        }
        let opcode = match head.opcode {
            Opcode::Ping => Opcode::Pong,
            Opcode::Close => Opcode::Close,
            // A heartbeat text: it was read, and that is all.
            _ => continue,
        };
        let mut frame = Vec::with_capacity(payload.len() + 10);
        frames::push_plain(&mut frame, opcode, payload);
        if !answer(&frame) || opcode == Opcode::Close {
            return None;
        }
    }
    (bytes.len() < used + 64 * 1024).then_some(used)
}
