//! TLS as clients see it: an authority of the test's own, and clients that trust nothing else.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use super::Client;

/// A certificate for `localhost` and its key, in PEM and as clients trust it.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    trusted: CertificateDer<'static>,
}

impl Identity {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("makes a certificate");
        Self { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), trusted: made.cert.der().clone() }
    }

    /// A client's view: it trusts this certificate alone, and speaks these versions.
    pub fn connector(&self, versions: &[&'static SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.trusted.clone()).expect("a good certificate");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .expect("known versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// The stream, or why there is none.
    pub async fn stream(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("localhost").expect("a name");
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        self.connector(&[&version::TLS13]).connect(name, tcp).await
    }

    /// A WebSocket client over TLS.
    pub async fn client(&self, address: SocketAddr, query: &str) -> Client<TlsStream<TcpStream>> {
        over(self.stream(address).await.expect("trusted"), query).await
    }
}

/// A WebSocket client over a stream.
pub async fn over(stream: TlsStream<TcpStream>, query: &str) -> Client<TlsStream<TcpStream>> {
    let url = format!("wss://localhost/{query}");
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("connects");
    Client { socket }
}

/// The two files of the configuration.
pub struct Files {
    directory: TempDir,
}

impl Files {
    pub fn of(identity: &Identity) -> Self {
        let files = Self { directory: TempDir::new().expect("a directory") };
        files.put(&identity.certificate, &identity.key);
        files
    }

    pub fn put(&self, certificate: &str, key: &str) {
        std::fs::write(self.certificate(), certificate).expect("writes");
        std::fs::write(self.key(), key).expect("writes");
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("certificate.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("key.pem")
    }

    /// As settings of the command line.
    pub fn settings(&self) -> [String; 2] {
        [format!("ws.tls_certificate={}", self.certificate().display()), format!("ws.tls_key={}", self.key().display())]
    }
}
