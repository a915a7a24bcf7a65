//! TLS for a run: the certificate that servers show, and clients that trust it and no other.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

/// Whom the certificate is for; clients ask for the name, which is what makes them send it.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Made anew for each run, so that no key lies about in the repository.
pub struct Tls {
    /// PEM.
    certificate: String,
    /// PEM, PKCS #8.
    key: String,
    pub trust: Trust,
}

/// Where a server finds its certificate and its key.
#[derive(Clone, Debug)]
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What makes the clients' side of connections; all clients share one configuration.
#[derive(Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    server: ServerName<'static>,
}

impl Tls {
    /// A certificate that vouches for itself, with an ECDSA key on P-256, which is what most public servers have.
    pub fn new() -> Result<Self, String> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(cannot)?;
        let certificate = rcgen::CertificateParams::new(NAMES.map(str::to_owned))
            .map_err(cannot)?
            .self_signed(&key)
            .map_err(cannot)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).map_err(cannot)?;
        let mut config = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(cannot)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake is a full one: a resumed one would be another, cheaper thing, and which servers offer it when differs.
        config.resumption = Resumption::disabled();
        Ok(Self {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            trust: Trust { config: config.into(), server: ServerName::try_from(NAMES[0]).map_err(cannot)? },
        })
    }

    /// Writes both into a server's directory.
    pub fn write(&self, directory: &Path) -> Result<Files, String> {
        let files = Files { certificate: directory.join("certificate.pem"), key: directory.join("key.pem") };
        let write = |path: &Path, text: &str| {
            let mut options = File::options();
            // For nobody else to read: some servers ask that of a key.
            let file = options.create(true).truncate(true).write(true).mode(0o600).open(path);
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        write(&files.certificate, &self.certificate)?;
        write(&files.key, &self.key)?;
        Ok(files)
    }
}

impl Trust {
    /// The client's side of a new connection, which has its first message ready.
    pub fn client(&self) -> Result<Box<ClientConnection>, rustls::Error> {
        let mut client = ClientConnection::new(Arc::clone(&self.config), self.server.clone())?;
        // Without a limit it takes whatever is said and keeps what the socket does not take. Scenarios bound what they send.
        client.set_buffer_limit(None);
        Ok(client.into())
    }
}

/// What was agreed on with a server, in words: it is the server's choice, and differs.
pub fn agreed(client: &ClientConnection) -> Option<String> {
    let version = client.protocol_version()?;
    let suite = client.negotiated_cipher_suite()?.suite();
    let group = client.negotiated_key_exchange_group()?.name();
    Some(format!("{}, {}, {group:?}", version.as_str()?.replace('_', "."), suite.as_str()?))
}

fn cannot(error: impl std::fmt::Display) -> String {
    format!("cannot set up TLS: {error}")
}
