//! A stream under TLS at its edges: records cut anywhere, peers that break the rules or do not read, and the end.

use std::future::poll_fn;

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::{ConnectionTrafficSecrets, ContentType, ProtocolVersion, SupportedCipherSuite};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::*;
use crate::ws::tls::tests::{connector, tls};

/// A stream that gives and takes a byte at a time.
struct Dripping(DuplexStream);

impl AsyncRead for Dripping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut one = [0];
        let mut one = ReadBuf::new(&mut one);
        ready!(Pin::new(&mut self.0).poll_read(context, &mut one))?;
        buffer.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Dripping {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let one = bytes.len().min(1);
        Pin::new(&mut self.0).poll_write(context, &bytes[..one])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Wire for Dripping {}

async fn shaken<S: Wire>(
    wrap: impl FnOnce(DuplexStream) -> S,
    room: usize,
) -> (Box<TlsStream<S>>, ClientStream<DuplexStream>) {
    let (tls, trusted) = tls();
    let connector: TlsConnector = connector(trusted);
    let (client, server) = duplex(room);
    let name = "localhost".try_into().expect("a name");
    let (server, client) = tokio::join!(tls.accept(wrap(server)), connector.connect(name, client));
    (server.expect("accepted"), client.expect("trusted"))
}

fn is_at_rest<S: Wire>(stream: &TlsStream<S>) -> bool {
    [&stream.incoming, &stream.plain, &stream.outgoing].iter().all(|buffer| buffer.capacity() == 0)
}

async fn reads_nothing<S: Wire>(stream: &mut TlsStream<S>) {
    let mut room = [0; 10];
    let read = poll_fn(|context| {
        Poll::Ready(Pin::new(&mut *stream).poll_read(context, &mut ReadBuf::new(&mut room)).is_pending())
    });
    assert!(read.await);
}

#[tokio::test]
async fn records_may_be_cut_anywhere_and_nothing_is_kept_of_them() {
    let (mut server, mut client) = shaken(Dripping, 1 << 16).await;
    reads_nothing(&mut server).await;
    assert!(is_at_rest(&server), "after the handshake");
    for said in [&b"heartbeat"[..], &[7; 50_000]] {
        client.write_all(said).await.expect("room");
        client.flush().await.expect("room");
        let mut heard = vec![0; said.len()];
        server.read_exact(&mut heard).await.expect("readable");
        assert_eq!(heard, said);
        reads_nothing(&mut server).await;
        assert!(is_at_rest(&server));
        let (written, read) = tokio::join!(
            async {
                server.write_all(said).await?;
                server.flush().await
            },
            client.read_exact(&mut heard)
        );
        written.expect("writes");
        read.expect("readable");
        assert_eq!(heard, said);
        assert!(is_at_rest(&server));
    }
}

#[tokio::test]
async fn what_has_come_is_kept_while_something_is_written() {
    let (mut server, mut client) = shaken(|server| server, 1 << 16).await;
    for turn in 0..10u8 {
        // A record each.
        client.write_all(&[turn; 100]).await.expect("room");
        client.flush().await.expect("room");
    }
    let mut first = [0; 50];
    server.read_exact(&mut first).await.expect("readable");
    server.write_all(b"between").await.expect("writes");
    server.flush().await.expect("writes");
    let mut rest = [0; 950];
    server.read_exact(&mut rest).await.expect("readable");
    let all = [&first[..], &rest[..]].concat();
    assert!(all.chunks(100).enumerate().all(|(turn, record)| record == [turn as u8; 100]));
    let mut heard = [0; 7];
    client.read_exact(&mut heard).await.expect("readable");
    assert_eq!(&heard, b"between");
}

#[tokio::test]
async fn what_the_client_does_not_take_is_one_record_and_a_flush_waits_for_it() {
    let (mut server, mut client) = shaken(|server| server, 1 << 12).await;
    let flood = [1; MOST_PLAINTEXT];
    assert_eq!(server.write(&flood).await.expect("taken over"), MOST_PLAINTEXT);
    let pending = |poll: bool| assert!(poll, "the client has not read");
    pending(poll_fn(|context| Poll::Ready(Pin::new(&mut server).poll_flush(context).is_pending())).await);
    pending(poll_fn(|context| Poll::Ready(Pin::new(&mut server).poll_write(context, b"more").is_pending())).await);
    assert!(server.outgoing.len() < MOST_PLAINTEXT + OVERHEAD);
    let mut heard = vec![0; MOST_PLAINTEXT];
    let (flushed, read) = tokio::join!(server.flush(), client.read_exact(&mut heard));
    flushed.expect("flushed");
    read.expect("readable");
    assert!(is_at_rest(&server));
}

#[tokio::test]
async fn a_frame_is_written_when_the_kernel_has_the_last_of_its_records() {
    use crate::connection::FrameSocket as _;
    let (server, mut client) = shaken(|server| server, 1 << 12).await;
    let mut socket = crate::ws::WsSocket::new(*server, &[], 1 << 16);
    socket.queue(&crate::event::Payload::Binary(vec![7; 10_000].into()));
    for _ in 0..3 {
        assert!(poll_fn(|context| Poll::Ready(socket.poll_flush(context).is_pending())).await, "nobody has read");
        assert!(!socket.is_idle());
    }
    let mut heard = vec![0; 10_004];
    let (flushed, read) = tokio::join!(poll_fn(|context| socket.poll_flush(context)), client.read_exact(&mut heard));
    flushed.expect("flushed");
    read.expect("readable");
    assert!(socket.is_idle());
}

#[tokio::test]
async fn either_side_says_farewell_and_a_stream_that_is_cut_ends_too() {
    let (mut server, mut client) = shaken(|server| server, 1 << 12).await;
    client.shutdown().await.expect("room");
    assert_eq!(server.read(&mut [0; 10]).await.expect("ends"), 0);
    server.write_all(b"last words").await.expect("a half is closed, not the whole");
    server.shutdown().await.expect("room");
    let mut heard = Vec::new();
    // rustls tells an end without a farewell as an error.
    client.read_to_end(&mut heard).await.expect("ends well");
    assert_eq!(heard, b"last words");
    assert!(server.write(b"more").await.is_err());
    let (mut server, client) = shaken(|server| server, 1 << 12).await;
    drop(client.into_inner().0);
    assert_eq!(server.read(&mut [0; 10]).await.expect("ends"), 0);
}

#[tokio::test]
async fn a_record_that_was_changed_on_the_way_ends_it_with_an_alert() {
    let (mut server, client) = shaken(|server| server, 1 << 12).await;
    let (mut wire, mut session) = client.into_inner();
    let mut record = Vec::new();
    std::io::Write::write_all(&mut session.writer(), b"heartbeat").expect("room");
    session.write_tls(&mut record).expect("writes");
    *record.last_mut().expect("bytes") ^= 1;
    wire.write_all(&record).await.expect("room");
    let error = server.read(&mut [0; 10]).await.expect_err("changed");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(server);
    let mut alert = Vec::new();
    wire.read_to_end(&mut alert).await.expect("ends");
    session.read_tls(&mut &alert[..]).expect("reads");
    assert!(session.process_new_packets().expect_err("an alert").to_string().contains("BadRecordMac"));
}

/// A client that says whatever it likes, record by record.
struct Forger {
    wire: DuplexStream,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
}

impl Forger {
    fn new(client: ClientStream<DuplexStream>) -> Self {
        let (wire, session) = client.into_inner();
        let Some(SupportedCipherSuite::Tls13(suite)) = session.negotiated_cipher_suite() else { panic!("not TLS 1.3") };
        let (sequence, secrets) = session.dangerous_extract_secrets().expect("extractable").tx;
        let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("another suite") };
        Self { wire, encrypter: suite.aead_alg.encrypter(key, iv), sequence }
    }

    fn record(&mut self, typ: ContentType, payload: &[u8]) -> Vec<u8> {
        let message =
            OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload: OutboundChunks::Single(payload) };
        self.sequence += 1;
        self.encrypter.encrypt(message, self.sequence - 1).expect("encrypts").encode()
    }

    async fn say(&mut self, typ: ContentType, payload: &[u8]) {
        let record = self.record(typ, payload);
        self.wire.write_all(&record).await.expect("room");
    }
}

#[tokio::test]
async fn what_is_wrong_stays_wrong_and_is_never_looked_at_again() {
    let (mut server, client) = shaken(|server| server, 1 << 12).await;
    let mut client = Forger::new(client);
    client.say(ContentType::Handshake, &[24]).await;
    client.say(ContentType::ApplicationData, b"between the parts of a message").await;
    client.say(ContentType::ApplicationData, b"more").await;
    for _ in 0..3 {
        let error = server.read(&mut [0; 10]).await.expect_err("out of order");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        server.write(b"x").await.expect_err("nothing more is said either");
    }
    server.shutdown().await.expect("ends");
}

#[tokio::test]
async fn an_alert_is_sent_behind_what_was_to_be_sent_before_it() {
    let (mut server, client) = shaken(|server| server, 1 << 12).await;
    let mut client = Forger::new(client);
    // A KeyUpdate that asks for one, and then a record under the old keys.
    client.say(ContentType::Handshake, &[24, 0, 0, 1, 1]).await;
    client.say(ContentType::ApplicationData, b"x").await;
    server.read(&mut [0; 10]).await.expect_err("under the old keys");
    drop(server);
    let mut heard = Vec::new();
    client.wire.read_to_end(&mut heard).await.expect("ends");
    let (mut rest, mut lengths) = (&heard[..], Vec::new());
    while let [_, _, _, high, low, after @ ..] = rest {
        lengths.push(usize::from(u16::from_be_bytes([*high, *low])));
        rest = &after[lengths[lengths.len() - 1]..];
    }
    // Each with its real type and a tag of 16 bytes.
    assert!(lengths.ends_with(&[5 + 17, 2 + 17]), "a KeyUpdate and an alert: {lengths:?}");
}

#[tokio::test]
async fn a_handshake_message_in_crumbs_is_not_gathered_for_ever() {
    let (mut server, client) = shaken(|server| server, 1 << 12).await;
    let mut client = Forger::new(client);
    let crumbs = async {
        client.say(ContentType::Handshake, &[24, 0, 0xff, 0xff]).await;
        for _ in 0..5_000 {
            client.say(ContentType::Handshake, &[0]).await;
        }
    };
    let mut room = [0; 10];
    tokio::select! {
        read = server.read(&mut room) => assert_eq!(read.expect_err("too much").kind(), io::ErrorKind::InvalidData),
        () = crumbs => panic!("{} bytes are kept", server.incoming.len()),
    }
    assert_eq!(server.incoming.capacity(), 0);
}

#[tokio::test]
async fn the_answer_to_a_close_waits_for_room_in_the_kernel() {
    use crate::connection::{FrameSocket as _, Inbound, SocketError};
    let (mut server, mut client) = shaken(|server| server, 1 << 12).await;
    // Behind the ticket, of which the client takes no notice before.
    server.write_all(b"x").await.expect("room");
    client.read_u8().await.expect("readable");
    let mut socket = crate::ws::WsSocket::new(*server, &[], 1 << 16);
    // With the headers of the frame and the record, and a tag, to the last byte of room.
    socket.queue(&crate::event::Payload::Binary(vec![7; (1 << 12) - 4 - 22].into()));
    poll_fn(|context| socket.poll_flush(context)).await.expect("just fits");
    client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]).await.expect("room");
    let close = poll_fn(|context| socket.poll_read(context)).await.expect("a Close");
    assert_eq!(close, Inbound::Close(Some((1000, String::new()))));
    for _ in 0..3 {
        assert!(poll_fn(|context| Poll::Ready(socket.poll_flush(context).is_pending())).await, "nobody has read");
    }
    let mut heard = vec![0; (1 << 12) - 22 + 4];
    let (flushed, read) = tokio::join!(poll_fn(|context| socket.poll_flush(context)), client.read_exact(&mut heard));
    assert_eq!(flushed, Err(SocketError::Closed));
    read.expect("readable");
    assert!(heard.ends_with(&[0x88, 2, 3, 0xe8]));
}

#[tokio::test]
async fn a_stream_that_is_dropped_says_farewell() {
    let (server, mut client) = shaken(|server| server, 1 << 12).await;
    drop(server);
    client.read_to_end(&mut Vec::new()).await.expect("ends well");
}

/// A stream of which the runtime learns nothing.
struct Unnoticed {
    kernel: DuplexStream,
    noticed: bool,
}

impl AsyncRead for Unnoticed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.noticed { Pin::new(&mut self.kernel).poll_read(context, buffer) } else { Poll::Pending }
    }
}

impl AsyncWrite for Unnoticed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.kernel).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.kernel).poll_shutdown(context)
    }
}

impl Wire for Unnoticed {
    fn read_from_kernel(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut self.kernel).poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

#[tokio::test]
async fn what_waits_in_the_kernel_is_read_whether_the_runtime_knows_of_it_or_not() {
    let (mut server, client) = shaken(|kernel| Unnoticed { kernel, noticed: true }, 1 << 16).await;
    let mut client = Forger::new(client);
    let long = vec![7; 5_000];
    let record = client.record(ContentType::ApplicationData, &long);
    // The runtime noticed the first part of it.
    client.wire.write_all(&record[..3_000]).await.expect("room");
    reads_nothing(&mut server).await;
    server.stream.noticed = false;
    client.wire.write_all(&record[3_000..]).await.expect("room");
    client.say(ContentType::ApplicationData, b"heartbeat").await;
    reads_nothing(&mut server).await;
    let (mut heard, mut room) = (Vec::new(), [0; 512]);
    let end = loop {
        match server.read_from_kernel(&mut room) {
            Ok(count) => heard.extend_from_slice(&room[..count]),
            Err(error) => break error,
        }
    };
    assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(heard, [&long[..], b"heartbeat"].concat());
    assert!(is_at_rest(&server));
    // What is wrong there is told too, if only at the end.
    client.sequence += 1;
    client.say(ContentType::ApplicationData, b"x").await;
    assert_eq!(server.read_from_kernel(&mut room).expect_err("wrong").kind(), io::ErrorKind::InvalidData);
    drop(server);
    let mut told = Vec::new();
    client.wire.read_to_end(&mut told).await.expect("ends");
    assert!(told.len() >= 24 && told[told.len() - 24..].starts_with(&[23, 3, 3, 0, 19]), "an alert: {told:?}");
}
