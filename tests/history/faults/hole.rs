//! A way to the server that can become a black hole: both ends stay open and nothing passes any more.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::files::Journal;
use crate::record::What;

/// What may wait on the way, as in a router.
const ROOM: usize = 64 * 1024;

/// The client's end.
pub struct Hole {
    swallow: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Hole {
    /// Goes to the server: the client's end of the way, and the address that the server sees. Writes down, for this session, when something
    /// came to the server's machine, and when nothing does any more.
    pub async fn dig(
        server: SocketAddr,
        journal: Journal,
        session: u32,
    ) -> std::io::Result<(DuplexStream, SocketAddr, Self)> {
        let upstream = TcpStream::connect(server).await?;
        let address = upstream.local_addr()?;
        let (near, far) = duplex(ROOM);
        let swallow = Arc::new(Notify::new());
        let task = tokio::spawn(carry(far, upstream, Arc::clone(&swallow), journal, session));
        Ok((near, address, Self { swallow, task }))
    }

    /// From now on nothing passes.
    pub fn swallow(&self) {
        self.swallow.notify_one();
    }
}

impl Drop for Hole {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(far: DuplexStream, upstream: TcpStream, swallow: Arc<Notify>, journal: Journal, session: u32) {
    let (mut from_client, mut to_client) = tokio::io::split(far);
    let (mut from_server, mut to_server) = upstream.into_split();
    let mut there = vec![0; ROOM];
    let mut back = vec![0; ROOM];
    loop {
        // What has been read is written whole before anything else: no frame is lost but by the hole.
        tokio::select! {
            biased;
            () = swallow.notified() => break,
            read = from_client.read(&mut there) => match read {
                Ok(n) if n > 0 => {
                    let begun = tokio::time::Instant::now();
                    if to_server.write_all(&there[..n]).await.is_err() {
                        return;
                    }
                    journal.note(What::Beat { session, took: begun.elapsed().as_micros() as u64 });
                }
                _ => return,
            },
            read = from_server.read(&mut back) => match read {
                Ok(n) if n > 0 => {
                    if to_client.write_all(&back[..n]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
    journal.note(What::Silent { session });
    // Both ends stay open until the client gives up.
    std::future::pending::<()>().await;
}
