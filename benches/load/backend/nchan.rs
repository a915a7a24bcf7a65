//! Publishing to nchan: HTTP/1.1 POSTs over kept connections, made by hand as the clients are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Became, CALL_LIMIT};

/// Connections that wait for the next request; there are never more of them than requests were once in flight.
#[derive(Clone)]
pub struct Pool {
    server: SocketAddr,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Pool {
    pub fn new(server: SocketAddr) -> Self {
        Self { server, idle: Arc::default() }
    }

    /// Publishes to the channel of one client.
    pub async fn send(&mut self, id: &str, text: &str) -> Became {
        match tokio::time::timeout(CALL_LIMIT, self.post(id, text)).await {
            Ok(Ok(201 | 202)) => Became::Accepted,
            Ok(Ok(_)) => Became::Refused,
            Ok(Err(_)) | Err(_) => Became::Failed,
        }
    }

    async fn post(&self, id: &str, text: &str) -> std::io::Result<u16> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.server).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let length = text.len();
        let request =
            format!("POST /publish?id={id} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{text}");
        stream.write_all(request.as_bytes()).await?;
        let status = read_answer(&mut stream).await?;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        Ok(status)
    }
}

/// Reads a whole answer with a Content-Length of less than 4 KiB in all; its status.
async fn read_answer(stream: &mut TcpStream) -> std::io::Result<u16> {
    let mut buffer = [0; 4096];
    let mut filled = 0;
    loop {
        let count = stream.read(&mut buffer[filled..]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        let text = String::from_utf8_lossy(&buffer[..filled]);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, value)| value.trim().parse::<usize>().ok())
            .unwrap_or(0);
        if body.len() >= length {
            return Ok(head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0));
        }
    }
}
