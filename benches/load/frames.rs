//! WebSocket frames and handshakes as a client makes and reads them (RFC 6455), with no more care than a load generator needs.

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
    /// A continuation or a reserved one; no server measured here sends them.
    Other,
}

impl Opcode {
    fn byte(self) -> u8 {
        match self {
            Self::Other => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn of(byte: u8) -> Self {
        match byte & 0x0f {
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => Self::Other,
        }
    }
}

/// Any key will do: masking keeps caches between client and server from being fooled, and here there are none.
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A whole frame from a client.
pub fn masked(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 14);
    push_masked(&mut frame, opcode, payload);
    frame
}

/// Appends a whole frame from a client.
pub fn push_masked(frame: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_head(frame, opcode, payload.len(), 0x80);
    frame.extend_from_slice(&KEY);
    frame.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Appends a whole frame from a server.
pub fn push_plain(frame: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    push_head(frame, opcode, payload.len(), 0);
    frame.extend_from_slice(payload);
}

fn push_head(frame: &mut Vec<u8>, opcode: Opcode, length: usize, mask: u8) {
    frame.push(0x80 | opcode.byte());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => frame.push(mask | short),
        (_, Ok(middle)) => {
            frame.push(mask | 126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
}

/// The first whole frame in `bytes`: what it is, where its payload is, and the key it is masked with.
pub struct Head {
    pub opcode: Opcode,
    pub payload: std::ops::Range<usize>,
    pub key: Option<[u8; 4]>,
}

/// `None` while it is not whole.
pub fn first(bytes: &[u8]) -> Option<Head> {
    let (&start, &length) = (bytes.first()?, bytes.get(1)?);
    let (length, mut at) = match (length & 0x7f, length & 0x80 != 0) {
        (126, _) => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        (127, _) => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        (short, _) => (u64::from(short), 2),
    };
    let key = if bytes[1] & 0x80 == 0 {
        None
    } else {
        let key = bytes.get(at..at + 4)?.try_into().ok()?;
        at += 4;
        Some(key)
    };
    let end = at.checked_add(usize::try_from(length).ok()?)?;
    (bytes.len() >= end).then_some(Head { opcode: Opcode::of(start), payload: at..end, key })
}

/// An upgrade request; the nonce is the one of RFC 6455, since nobody here checks the answer to it.
pub fn request(path: &str, subprotocol: Option<&str>) -> String {
    let protocol = subprotocol.map_or_else(String::new, |name| format!("Sec-WebSocket-Protocol: {name}\r\n"));
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )
}

/// What a server answered to an upgrade request.
pub enum Answer<'a> {
    /// Not whole yet.
    Partial,
    /// Switched; frames begin at this byte.
    Switched(usize),
    /// Anything else than switched: its status line.
    Refused(&'a str),
}

pub fn answer(bytes: &[u8]) -> Answer<'_> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Answer::Partial };
    if bytes.get(9..12) == Some(b"101") {
        return Answer::Switched(end + 4);
    }
    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    Answer::Refused(std::str::from_utf8(line).unwrap_or("no status line"))
}
