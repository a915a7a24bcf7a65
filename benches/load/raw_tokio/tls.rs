//! The same over TLS, as a user of tokio-rustls gets it: its defaults, and no buffer of our own while a client is silent.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{HANDSHAKE_LIMIT, READ_BYTES, take, upgrade};

/// `None` where the environment names no certificate.
pub(super) fn acceptor() -> Result<Option<TlsAcceptor>, String> {
    let (Some(certificate), Some(key)) = (std::env::var_os("TLS_CERT"), std::env::var_os("TLS_KEY")) else {
        return Ok(None);
    };
    let failed = |error: &dyn std::fmt::Display| format!("cannot set up TLS: {error}");
    let certificate = CertificateDer::from_pem_file(certificate).map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| failed(&error))?;
    let config = ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key))
        .map_err(|error| failed(&error))?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// Ends with a fresh task, since its own is as large as the handshakes made it.
pub(super) async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) {
    let shake = async {
        stream.set_nodelay(true)?;
        let mut stream = acceptor.accept(stream).await?;
        upgrade(&mut stream).await?;
        stream.flush().await?;
        io::Result::Ok(stream)
    };
    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_LIMIT, shake).await {
        // Boxed, since a task that it is moved into would have room for it twice.
        tokio::spawn(hold(Box::new(stream)));
    }
}

async fn hold(mut stream: Box<TlsStream<TcpStream>>) {
    let mut partial = Vec::new();
    let mut answers = Vec::new();
    while let Ok(true) = poll_fn(|context| poll_frames(context, &mut stream, &mut partial, &mut answers)).await {
        if !answers.is_empty() {
            let answers = std::mem::take(&mut answers);
            if stream.write_all(&answers).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    }
    // What was answered to a Close, and the end of TLS.
    let _ = stream.write_all(&answers).await;
    let _ = stream.shutdown().await;
}

/// The buffer is on the stack, so that it is there only while something is read. False at the end of the connection.
fn poll_frames(
    context: &mut Context<'_>,
    stream: &mut TlsStream<TcpStream>,
    partial: &mut Vec<u8>,
    answers: &mut Vec<u8>,
) -> Poll<io::Result<bool>> {
    let mut buffer = [0; READ_BYTES];
    let mut read = ReadBuf::new(&mut buffer);
    ready!(Pin::new(stream).poll_read(context, &mut read))?;
    let answer = |frame: &[u8]| {
        answers.extend_from_slice(frame);
        true
    };
    Poll::Ready(Ok(!read.filled().is_empty() && take(partial, read.filled_mut(), answer)))
}
