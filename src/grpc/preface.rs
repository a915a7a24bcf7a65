//! The first bytes of a connection: the HTTP/2 preface with the head of the first frame, in time, or it is not ours.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// What every HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The head of a frame. The preface is followed by a SETTINGS frame at once (RFC 9113, 3.4); a peer that sends nothing after its preface
/// would keep its place otherwise until the keepalive gives it up.
const FRAME_HEAD: usize = 9;

const HEAD: usize = PREFACE.len() + FRAME_HEAD;

/// A peer that has not sent this much by then has its place taken away.
const PREFACE_DEADLINE: Duration = Duration::from_secs(10);

/// How long the answer to somebody else's protocol may take to write.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

const NOT_HTTP2: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 40\r\n\
connection: close\r\n\r\nthis port speaks gRPC (HTTP/2, no TLS).\n";

/// A connection whose first bytes were read, and are read again by whoever reads on.
pub(super) struct Greeted<S> {
    stream: S,
    head: [u8; HEAD],
    read: usize,
}

/// Reads the preface. None if the peer sent something else, nothing in time, or left; a peer that speaks HTTP/1 is told.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> Option<Greeted<S>> {
    let read = tokio::time::timeout(PREFACE_DEADLINE, read_head(&mut stream)).await.ok()?.ok()?;
    if let Some(head) = read {
        return Some(Greeted { stream, head, read: 0 });
    }
    let answer = async {
        stream.write_all(NOT_HTTP2).await?;
        stream.shutdown().await
    };
    // Whether the peer reads it is its own affair.
    let _ = tokio::time::timeout(ANSWER_DEADLINE, answer).await;
    None
}

/// What the peer sends first, if it begins with the preface; none as soon as a byte differs.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<[u8; HEAD]>> {
    let mut bytes = [0; HEAD];
    let mut length = 0;
    while length < bytes.len() {
        match stream.read(&mut bytes[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
        let compared = length.min(PREFACE.len());
        if bytes[..compared] != PREFACE[..compared] {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read < HEAD {
            let left = HEAD - self.read;
            let now = left.min(buffer.remaining());
            buffer.put_slice(&self.head[self.read..self.read + now]);
            self.read += now;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_preface_is_read_again_with_what_follows_it() {
        let (mut peer, ours) = tokio::io::duplex(64);
        peer.write_all(&PREFACE[..7]).await.expect("written");
        let reader = tokio::spawn(async move {
            let mut greeted = greet(ours).await.expect("the preface");
            let mut all = vec![0; HEAD + 4];
            greeted.read_exact(&mut all).await.map(|_| all)
        });
        peer.write_all(&PREFACE[7..]).await.expect("written");
        peer.write_all(b"a setting").await.expect("written");
        peer.write_all(b"more").await.expect("written");
        let all = reader.await.expect("no panic").expect("read");
        assert_eq!(all, [&PREFACE[..], b"a setting", b"more"].concat());
    }

    #[tokio::test]
    async fn http_1_is_answered_at_once_and_closed() {
        let (mut peer, ours) = tokio::io::duplex(1024);
        peer.write_all(b"GET / HTTP/1.1\r\n").await.expect("written");
        assert!(greet(ours).await.is_none());
        let mut answer = String::new();
        peer.read_to_string(&mut answer).await.expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("HTTP/1.1 400"));
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_and_one_that_stops_half_way_are_given_up() {
        for sent in [&b""[..], &PREFACE[..23], &PREFACE[..]] {
            let (mut peer, ours) = tokio::io::duplex(64);
            peer.write_all(sent).await.expect("written");
            let began = tokio::time::Instant::now();
            assert!(greet(ours).await.is_none());
            assert_eq!(began.elapsed(), PREFACE_DEADLINE);
        }
    }

    #[tokio::test]
    async fn a_peer_that_leaves_is_given_up_at_once() {
        let (peer, ours) = tokio::io::duplex(64);
        drop(peer);
        assert!(greet(ours).await.is_none());
    }
}
