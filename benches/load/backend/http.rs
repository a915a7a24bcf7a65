//! Publishing by HTTP/1.1 POSTs over kept connections, made by hand as the clients are.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Became, CALL_LIMIT};

/// Whose way of publishing it is.
#[derive(Clone, Copy)]
pub enum Api {
    /// The channel in the query, the message as the body.
    Nchan,
    /// AnyCable's HTTP broadcasting: JSON with the stream's name and the message, which is JSON itself.
    Anycable,
}

/// Connections that wait for the next request; there are never more of them than requests were once in flight.
#[derive(Clone)]
pub struct Pool {
    server: SocketAddr,
    api: Api,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Pool {
    pub fn new(server: SocketAddr, api: Api) -> Self {
        Self { server, api, idle: Arc::default() }
    }

    /// Publishes to one channel.
    pub async fn send(&self, channel: &str, text: &str) -> Became {
        match tokio::time::timeout(CALL_LIMIT, self.post(channel, text)).await {
            Ok(Ok(201 | 202)) => Became::Accepted,
            Ok(Ok(_)) => Became::Refused,
            Ok(Err(_)) | Err(_) => Became::Failed,
        }
    }

    async fn post(&self, channel: &str, text: &str) -> std::io::Result<u16> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.server).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let (path, body) = match self.api {
            Api::Nchan => (format!("/publish?id={channel}"), text.to_owned()),
            Api::Anycable => {
                let data = serde_json::Value::from(text).to_string();
                ("/_broadcast".to_owned(), serde_json::json!({ "stream": channel, "data": data }).to_string())
            }
        };
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n{body}");
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
