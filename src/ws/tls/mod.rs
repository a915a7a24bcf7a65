//! TLS on the WebSocket listener: the certificate, the handshake, and the stream that comes of it.

mod certificate;
mod stream;

pub use certificate::{Certificate, CertificateError};
pub(super) use stream::TlsStream;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, sink};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use self::stream::Step;
use super::wire::Wire;

/// The first bytes of a client that speaks HTTP where TLS is spoken.
const METHODS: [&[u8]; 4] = [b"GET ", b"HEAD", b"POST", b"OPTI"];

/// What such a client is told, in the only way that it understands.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: 40\r\n\r\nTLS is spoken here: use wss:// or https\n";

/// The most that is read of its request behind that, and for how long, until it has the answer and closes.
const MOST_UNREAD: u64 = 64 * 1024;
const UNREAD_TIME: Duration = Duration::from_secs(1);

/// What TLS needs that all connections share.
pub struct Tls {
    certificate: Arc<Certificate>,
    /// Handshakes that compute at once, one for each processor: a signature takes up to a millisecond, and a storm of newcomers must neither hold up
    /// heartbeats nor start hundreds of threads.
    computing: Arc<Semaphore>,
}

/// Why there is no TLS with a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// It went, or the socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It did something wrong, or has nothing in common with us.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// It speaks HTTP without TLS, and was told so.
    #[error("plain HTTP where TLS is spoken")]
    PlainHttp,
    /// What computed is gone; only as the process ends.
    #[error("nothing computes any more")]
    Ended,
}

impl Tls {
    /// With what is shown to clients.
    #[must_use]
    pub fn new(certificate: Arc<Certificate>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { certificate, computing: Arc::new(Semaphore::new(processors)) }
    }

    /// Shakes hands. What is computed for it is computed off the threads that heartbeats need.
    pub(super) async fn accept<S: Wire>(&self, stream: S) -> Result<Box<TlsStream<S>>, HandshakeError> {
        let mut stream = Box::new(TlsStream::new(stream, self.certificate.current())?);
        loop {
            poll_fn(|context| stream.poll_handshake_read(context)).await?;
            let computing = Arc::clone(&self.computing).acquire_owned().await.map_err(|_| HandshakeError::Ended)?;
            let computed = tokio::task::spawn_blocking(move || {
                let step = stream.shake_hands();
                drop(computing);
                (stream, step)
            });
            let step;
            (stream, step) = computed.await.map_err(|_| HandshakeError::Ended)?;
            if step.is_err() && METHODS.iter().any(|method| stream.rejected().starts_with(method)) {
                let stream = stream.under();
                // Whoever does not wait for it has seen its own mistake.
                let _ = stream.write_all(PLAIN_HTTP).await;
                let _ = stream.shutdown().await;
                // A socket that is closed with something unread is reset, which may take the answer with it.
                let _ = timeout(UNREAD_TIME, copy(&mut stream.take(MOST_UNREAD), &mut sink())).await;
                return Err(HandshakeError::PlainHttp);
            }
            // After an error this is the alert that tells of it.
            let sent = poll_fn(|context| stream.poll_send(context)).await;
            if step? == Step::Done {
                sent?;
                return Ok(stream);
            }
            sent?;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::CertificateDer;
    use rustls::{ClientConfig, RootCertStore};
    use tempfile::TempDir;
    use tokio_rustls::TlsConnector;

    use super::*;

    /// What is shown, and what clients are to trust for that.
    pub(super) fn tls() -> (Tls, CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("makes a certificate");
        let directory = TempDir::new().expect("a directory");
        let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate, made.cert.pem()).expect("writes");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
        let loaded = Certificate::load(&certificate, &key).expect("a good certificate");
        (Tls::new(Arc::new(loaded)), made.cert.der().clone())
    }

    pub(super) fn connector(trusted: CertificateDer<'static>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(trusted).expect("a good certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = config.expect("known versions").with_root_certificates(roots).with_no_client_auth();
        // For clients that forge records.
        config.enable_secret_extraction = true;
        TlsConnector::from(Arc::new(config))
    }

    #[test]
    fn plain_http_is_answered_in_its_own_words() {
        let answer = std::str::from_utf8(PLAIN_HTTP).expect("ASCII");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
    }

    #[tokio::test]
    async fn another_record_within_a_handshake_message_is_an_error_like_any_other() {
        let (tls, _) = tls();
        let (mut client, server) = tokio::io::duplex(1 << 16);
        // The first byte of a handshake message, and an alert before its second.
        client.write_all(&[22, 3, 1, 0, 1, 1, 21, 3, 1, 0, 2, 2, 0]).await.expect("room");
        assert!(matches!(tls.accept(server).await.err(), Some(HandshakeError::Tls(_))));
    }

    #[tokio::test]
    async fn a_handshake_message_without_end_is_the_clients_fault() {
        let (tls, _) = tls();
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let endless = async move {
            client.write_all(&[22, 3, 1, 0, 4, 1, 0, 0xff, 0xff]).await?;
            for _ in 0..50_000 {
                client.write_all(&[22, 3, 1, 0, 1, 0]).await?;
            }
            Ok::<_, io::Error>(())
        };
        let (accepted, sent) = tokio::join!(tls.accept(server), endless);
        assert!(matches!(accepted.err(), Some(HandshakeError::Tls(_))));
        assert!(sent.is_err(), "not all of it was read");
    }

    #[tokio::test]
    async fn a_client_that_comes_again_resumes_by_its_ticket() {
        let (tls, trusted) = tls();
        let connector = connector(trusted);
        for turn in 0..3 {
            let (client, server) = tokio::io::duplex(1 << 16);
            let name = "localhost".try_into().expect("a name");
            let (server, client) = tokio::join!(tls.accept(server), connector.connect(name, client));
            let (mut server, mut client) = (server.expect("accepted"), client.expect("trusted"));
            // The ticket comes after the handshake.
            server.write_all(b"x").await.expect("writes");
            server.flush().await.expect("writes");
            tokio::io::AsyncReadExt::read_u8(&mut client).await.expect("reads");
            let kind = client.get_ref().1.handshake_kind().expect("shaken");
            assert_eq!(kind == rustls::HandshakeKind::Resumed, turn > 0, "{turn}");
        }
    }
}
