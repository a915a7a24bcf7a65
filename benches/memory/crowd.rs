//! Clients that cost this process no memory but a descriptor each.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than anything takes on a machine that works.
const PATIENCE: Duration = Duration::from_secs(60);

/// The most clients.
const MOST: usize = 10_000;

/// Connects one and shakes hands, by hand.
fn connect(address: SocketAddr, number: usize) -> Result<TcpStream, std::io::Error> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "GET /?client_id=client-{number:09} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = [0; 512];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        match stream.read(&mut head[length..])? {
            0 => break,
            count => length += count,
        }
    }
    if head.starts_with(b"HTTP/1.1 101") {
        Ok(stream)
    } else {
        Err(std::io::Error::other(String::from_utf8_lossy(&head[..length]).into_owned()))
    }
}

/// So many clients, each with an id of 16 bytes.
pub fn crowd(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    // The same whatever the count, so that it is not taken for the server's.
    let mut clients = Vec::with_capacity(MOST);
    for number in 0..count {
        clients.push(connect(address, number).map_err(|error| format!("client {number} cannot connect: {error}"))?);
    }
    Ok(clients)
}

/// Has one client say enough to fill a log of so many bytes.
pub fn fill_log(address: SocketAddr, bytes: usize) -> Result<(), String> {
    let mut client = connect(address, 999_999_999).map_err(|error| error.to_string())?;
    let payload = vec![b'x'; 60_000];
    let length = u16::try_from(payload.len()).map_err(|error| error.to_string())?;
    // A masked text frame with the mask 0.
    let frame = [&[0x81, 0xfe][..], &length.to_be_bytes(), &[0; 4], &payload].concat();
    for _ in 0..bytes / payload.len() + 1 {
        client.write_all(&frame).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// How many connections the node lists.
pub fn listed(admin: SocketAddr) -> Result<usize, String> {
    let get = || -> Result<String, std::io::Error> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        Ok(page)
    };
    let page = get().map_err(|error| format!("/metrics: {error}"))?;
    let counts = page.lines().filter(|line| line.starts_with("heartwire_connections{"));
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<usize>().ok()).sum())
}
