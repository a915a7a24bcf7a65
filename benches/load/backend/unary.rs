//! Unary gRPC calls over one HTTP/2 connection, made by hand as the clients are: a whole gRPC client takes about as much of the processor for a
//! call as the server that is to be measured.
//!
//! HTTP/2 is RFC 9113, its header compression RFC 7541, and what gRPC makes of them is in `doc/PROTOCOL-HTTP2.md` of github.com/grpc/grpc. What a
//! server of small answers does not need to say ends the connection with an error that names it.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use httlib_hpack::Decoder;
use prost::Message;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tonic::Code;

use super::CALL_LIMIT;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER_BYTES: usize = 9;
/// What a table of headers has unless SETTINGS say otherwise.
const TABLE_BYTES: u32 = 4096;
/// Answers that the server may have on their way to us.
const WINDOW: u32 = 1 << 24;
/// The window of a connection before anybody has said anything.
const FIRST_WINDOW: u32 = 65_535;

/// Types of frames, RFC 9113, section 6.
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
mod flag {
    /// Of SETTINGS and PING.
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

/// Settings, RFC 9113, section 6.5.2.
mod setting {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
}

/// Calls of one method over one connection, from any task.
#[derive(Clone)]
pub struct Calls {
    session: Arc<Mutex<Session>>,
    /// There is something to write.
    wake: Arc<Notify>,
}

impl Calls {
    /// Connects, and waits for the server's settings, which limit what comes after them.
    pub async fn open(server: SocketAddr, path: &str) -> Result<Self, String> {
        let opened = async {
            let stream = TcpStream::connect(server).await.map_err(|error| error.to_string())?;
            stream.set_nodelay(true).map_err(|error| error.to_string())?;
            let calls = Self {
                session: Arc::new(Mutex::new(Session::new(path, &server.to_string()))),
                wake: Arc::new(Notify::new()),
            };
            let (told, greeted) = oneshot::channel();
            lock(&calls.session).greeted = Some(told);
            tokio::spawn(serve(stream, calls.clone()));
            greeted.await.map_err(|_| "it closes before its settings".to_owned())?;
            Ok::<_, String>(calls)
        };
        tokio::time::timeout(CALL_LIMIT, opened)
            .await
            .unwrap_or_else(|_| Err("no settings in time".to_owned()))
            .map_err(|error| format!("cannot reach the control plane: {error}"))
    }

    /// Makes one call; its status, or `None` if the connection ended first.
    pub async fn call(&self, request: &impl Message) -> Option<Code> {
        let (told, answer) = oneshot::channel();
        lock(&self.session).call(request, told);
        self.wake.notify_one();
        answer.await.ok()
    }
}

fn lock(session: &Mutex<Session>) -> MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes what calls leave, reads what answers them, and ends with the connection or the last who could call.
async fn serve(mut stream: TcpStream, calls: Calls) {
    let Calls { session, wake } = calls;
    let (mut reader, mut writer) = stream.split();
    let (mut input, mut output) = (Vec::with_capacity(64 << 10), Vec::new());
    let ended = loop {
        std::mem::swap(&mut lock(&session).out, &mut output);
        if !output.is_empty() {
            match tokio::time::timeout(CALL_LIMIT, writer.write_all(&output)).await {
                Ok(Ok(())) => output.clear(),
                Ok(Err(error)) => break error.to_string(),
                Err(_) => break "it reads nothing".to_owned(),
            }
            continue;
        }
        tokio::select! {
            () = wake.notified() => {}
            read = reader.read_buf(&mut input) => match read {
                Ok(0) => break "it has closed".to_owned(),
                Ok(_) => {
                    let taken = lock(&session).take(&input);
                    match taken {
                        Ok(count) => drop(input.drain(..count)),
                        Err(error) => break error,
                    }
                }
                Err(error) => break error.to_string(),
            },
        }
        // Nobody calls any more.
        if Arc::strong_count(&session) == 1 {
            return;
        }
    };
    if lock(&session).end() > 0 {
        eprintln!("the control plane's connection: {ended}");
    }
}

/// One connection, without its socket.
struct Session {
    /// The headers of the first call, which both sides remember.
    first_headers: Vec<u8>,
    /// Those of every other, by their places in the table.
    headers: Vec<u8>,
    out: Vec<u8>,
    /// Messages that wait for a stream or for room.
    queued: VecDeque<(Vec<u8>, oneshot::Sender<Code>)>,
    open: HashMap<u32, Stream>,
    next_stream: u32,
    max_streams: u32,
    /// Bytes that the server has room for.
    room: u64,
    decoder: Decoder<'static>,
    /// Bytes of answers since we last said that there is room for more.
    taken: u32,
    greeted: Option<oneshot::Sender<()>>,
    ended: bool,
}

/// A call without its status.
struct Stream {
    told: oneshot::Sender<Code>,
    has_message: bool,
}

impl Session {
    fn new(path: &str, authority: &str) -> Self {
        // Static entries: POST, http.
        let mut first_headers = vec![0x80 | 3, 0x80 | 6];
        for (name, value) in [(":path", path), (":authority", authority), ("te", "trailers")] {
            remember(&mut first_headers, name, value);
        }
        remember(&mut first_headers, "content-type", "application/grpc");
        // The last remembered is the first after the 61 static ones.
        let headers = vec![0x80 | 3, 0x80 | 6, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];
        let mut out = PREFACE.to_vec();
        let settings = [(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, WINDOW)];
        let settings: Vec<u8> = settings.iter().flat_map(|(key, value)| setting_bytes(*key, *value)).collect();
        frame(&mut out, kind::SETTINGS, 0, 0, &settings);
        frame(&mut out, kind::WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes());
        Self {
            first_headers,
            headers,
            out,
            queued: VecDeque::new(),
            open: HashMap::new(),
            next_stream: 1,
            max_streams: u32::MAX,
            room: u64::from(FIRST_WINDOW),
            decoder: Decoder::with_dynamic_size(TABLE_BYTES),
            taken: 0,
            greeted: None,
            ended: false,
        }
    }

    fn call(&mut self, request: &impl Message, told: oneshot::Sender<Code>) {
        // Who has ended drops the sender, and by that says so.
        if self.ended {
            return;
        }
        let length = request.encoded_len();
        let mut message = Vec::with_capacity(5 + length);
        message.push(0);
        message.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        message.extend_from_slice(&request.encode_to_vec());
        self.queued.push_back((message, told));
        self.begin();
    }

    /// Begins as many calls as there are streams and room for.
    fn begin(&mut self) {
        while (self.open.len() as u64) < u64::from(self.max_streams)
            && self.queued.front().is_some_and(|(message, _)| message.len() as u64 <= self.room)
            && let Some((message, told)) = self.queued.pop_front()
        {
            let stream = self.next_stream;
            let headers = if stream == 1 { &self.first_headers } else { &self.headers };
            frame(&mut self.out, kind::HEADERS, flag::END_HEADERS, stream, headers);
            frame(&mut self.out, kind::DATA, flag::END_STREAM, stream, &message);
            self.room -= message.len() as u64;
            self.next_stream += 2;
            self.open.insert(stream, Stream { told, has_message: false });
        }
    }

    /// Takes every whole frame; how many bytes those were.
    fn take(&mut self, input: &[u8]) -> Result<usize, String> {
        let mut rest = input;
        while let Some((header, after)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
            let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header else { break };
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
            let Some((payload, after)) = after.split_at_checked(length) else { break };
            self.take_frame(kind, flags, stream, payload)?;
            rest = after;
        }
        self.begin();
        Ok(input.len() - rest.len())
    }

    fn take_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<(), String> {
        let ends = flags & flag::END_STREAM != 0;
        match kind {
            kind::DATA => {
                self.taken += u32::try_from(payload.len()).unwrap_or(0);
                if self.taken >= WINDOW / 2 {
                    frame(&mut self.out, kind::WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes());
                    self.taken = 0;
                }
                if let Some(stream) = self.open.get_mut(&stream) {
                    stream.has_message |= !payload.is_empty();
                }
                if ends {
                    // Without trailers it has no status.
                    self.answer(stream, Code::Unknown);
                }
            }
            kind::HEADERS => self.take_headers(flags, stream, payload)?,
            kind::CONTINUATION => return Err("headers in several frames".to_owned()),
            kind::RST_STREAM => self.answer(stream, Code::Unavailable),
            kind::SETTINGS if flags & flag::ACK == 0 => self.take_settings(payload)?,
            kind::PING if flags & flag::ACK == 0 => frame(&mut self.out, kind::PING, flag::ACK, 0, payload),
            kind::GOAWAY => return Err("GOAWAY".to_owned()),
            kind::WINDOW_UPDATE if stream == 0 => self.room += u64::from(number(payload)),
            _ => {}
        }
        Ok(())
    }

    fn take_headers(&mut self, flags: u8, stream: u32, payload: &[u8]) -> Result<(), String> {
        if flags & flag::END_HEADERS == 0 || flags & (flag::PADDED | flag::PRIORITY) != 0 {
            return Err(format!("headers with flags {flags:#x}"));
        }
        let mut fields = Vec::new();
        // Also those of no interest: they may be remembered.
        self.decoder.decode(&mut payload.to_vec(), &mut fields).map_err(|error| format!("headers: {error:?}"))?;
        if flags & flag::END_STREAM != 0 {
            let status = fields.iter().find(|(name, ..)| name == b"grpc-status");
            let code = status.map_or(Code::Unknown, |(_, value, _)| Code::from_bytes(value));
            let has_message = self.open.get(&stream).is_some_and(|stream| stream.has_message);
            self.answer(stream, if code == Code::Ok && !has_message { Code::Unknown } else { code });
        }
        Ok(())
    }

    fn take_settings(&mut self, payload: &[u8]) -> Result<(), String> {
        for entry in payload.chunks_exact(6) {
            let [k0, k1, ref value @ ..] = *entry else { continue };
            match (u16::from_be_bytes([k0, k1]), number(value)) {
                (setting::HEADER_TABLE_SIZE, bytes) if bytes < TABLE_BYTES => {
                    return Err(format!("a table of {bytes} bytes of headers"));
                }
                (setting::MAX_CONCURRENT_STREAMS, most) => self.max_streams = most,
                (setting::INITIAL_WINDOW_SIZE, bytes) if bytes < FIRST_WINDOW => {
                    return Err(format!("streams with room for {bytes} bytes"));
                }
                _ => {}
            }
        }
        frame(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        if let Some(greeted) = self.greeted.take() {
            let _ = greeted.send(());
        }
        Ok(())
    }

    fn answer(&mut self, stream: u32, code: Code) {
        if let Some(stream) = self.open.remove(&stream) {
            // Who gave up waiting has counted it already.
            let _ = stream.told.send(code);
        }
    }

    /// The connection is over; how many calls end with it.
    fn end(&mut self) -> usize {
        self.ended = true;
        self.greeted = None;
        let calls = self.open.len() + self.queued.len();
        self.open.clear();
        self.queued.clear();
        calls
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn setting_bytes(key: u16, value: u32) -> [u8; 6] {
    let ([k0, k1], [v0, v1, v2, v3]) = (key.to_be_bytes(), value.to_be_bytes());
    [k0, k1, v0, v1, v2, v3]
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) & (u32::MAX >> 1))
}

/// A header whose name and value are put into the table of both sides (RFC 7541, section 6.2.1), both shorter than 127 bytes.
fn remember(headers: &mut Vec<u8>, name: &str, value: &str) {
    headers.push(0x40);
    for text in [name, value] {
        headers.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        headers.extend_from_slice(text.as_bytes());
    }
}
