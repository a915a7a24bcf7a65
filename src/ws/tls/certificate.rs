//! The certificate that clients are shown, and its key: read from files, and read again when those change.

use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at: whoever renews certificates does so days before the old one expires.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The keys of the configuration that errors name.
const CERTIFICATE: &str = "ws.tls_certificate";
const KEY: &str = "ws.tls_key";

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    Unreadable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file has not in it what it is to have.
    #[error("{key}: {} {what}", path.display())]
    Unusable {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The system has no random bits.
    #[error("the system has no random bits for TLS")]
    NoRandom,
}

/// The certificate and key of the two files, as they were when they were last read and found good.
pub struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
    /// What resumed sessions are sealed with, for as long as the process lives: another certificate is no reason to have everyone start anew.
    ticketer: Arc<dyn ProducesTickets>,
    current: RwLock<Loaded>,
}

/// What the files held.
struct Loaded {
    config: Arc<ServerConfig>,
    /// Of their contents. The key itself is not kept for this.
    hash: u64,
}

impl CertificateError {
    /// Whether another configuration would help.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        !matches!(self, Self::NoRandom)
    }
}

impl Certificate {
    /// Reads the two files, which hold PEM: the certificate with those that lead to its root behind it, and its key.
    ///
    /// # Errors
    /// [`CertificateError`], which names the key of the configuration.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, CertificateError> {
        let ticketer = Ticketer::new().map_err(|_| CertificateError::NoRandom)?;
        let files = Files::read(certificate, key)?;
        let current = RwLock::new(Loaded { config: files.config(&ticketer)?, hash: files.hash() });
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), ticketer, current })
    }

    /// Reads the files again. True if they hold something else now, which newcomers are then shown; where they cannot be used everything stays as it was.
    ///
    /// # Errors
    /// As [`Certificate::load`].
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let files = Files::read(&self.certificate, &self.key)?;
        let hash = files.hash();
        if hash == self.current.read().unwrap_or_else(PoisonError::into_inner).hash {
            return Ok(false);
        }
        let loaded = Loaded { config: files.config(&self.ticketer)?, hash };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// Looks for other files every minute, so that renewed certificates need no signal. What is wrong with them is told once.
    pub async fn run_looking(self: Arc<Self>, stop: CancellationToken) {
        let mut told = String::new();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let looking = Arc::clone(&self);
            // Files may be on a disk that does not answer.
            let Ok(looked) = tokio::task::spawn_blocking(move || looking.reload()).await else { continue };
            match looked {
                Ok(changed) => {
                    told.clear();
                    if changed {
                        tracing::info!("the certificate was renewed; newcomers are shown the new one");
                    }
                }
                Err(error) => {
                    let error = error.to_string();
                    if error != told {
                        tracing::warn!(%error, "the certificate cannot be read again; newcomers are shown the old one");
                        told = error;
                    }
                }
            }
        }
    }

    /// What newcomers are shown.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).config)
    }
}

/// The two files and what is in them.
struct Files<'a> {
    certificate: (&'a Path, Vec<u8>),
    key: (&'a Path, Vec<u8>),
}

impl<'a> Files<'a> {
    fn read(certificate: &'a Path, key: &'a Path) -> Result<Self, CertificateError> {
        let read = |key, path: &'a Path| match std::fs::read(path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(source) => Err(CertificateError::Unreadable { key, path: path.to_owned(), source }),
        };
        Ok(Self { certificate: read(CERTIFICATE, certificate)?, key: read(KEY, key)? })
    }

    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for bytes in [&self.certificate.1, &self.key.1] {
            hasher.write_usize(bytes.len());
            hasher.write(bytes);
        }
        hasher.finish()
    }

    fn config(&self, ticketer: &Arc<dyn ProducesTickets>) -> Result<Arc<ServerConfig>, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate.1).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| self.bad_certificate(format!("is not PEM: {error}")))?;
        if chain.is_empty() {
            return Err(self.bad_certificate("has no certificate in PEM".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key.1)
            .map_err(|error| self.bad_key(format!("has no private key in PEM: {error}")))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.bad_key(error.to_string()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    self.bad_key(format!("is not the key of the certificate in {}", self.certificate.0.display()))
                }
                rustls::Error::InvalidCertificate(error) => self.bad_certificate(format!("cannot be used: {error:?}")),
                error => self.bad_key(format!("cannot be used: {error}")),
            })?;
        // What browsers offer for a WebSocket (RFC 7301, 6); who offers nothing is let in as well.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions are resumed by what their clients keep, so that they cost nothing here. One ticket: a client has one WebSocket.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(ticketer);
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    fn bad_certificate(&self, what: String) -> CertificateError {
        CertificateError::Unusable { key: CERTIFICATE, path: self.certificate.0.to_owned(), what }
    }

    fn bad_key(&self, what: String) -> CertificateError {
        CertificateError::Unusable { key: KEY, path: self.key.0.to_owned(), what }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn put(directory: &TempDir) -> [PathBuf; 2] {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("makes a certificate");
        let [certificate, key] = ["certificate", "key"].map(|name| directory.path().join(name));
        std::fs::write(&certificate, made.cert.pem()).expect("writes");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("writes");
        [certificate, key]
    }

    #[tokio::test(start_paused = true)]
    async fn other_files_are_noticed_within_a_minute_and_bad_ones_change_nothing() {
        let directory = TempDir::new().expect("a directory");
        let [certificate, key] = put(&directory);
        let shown = Arc::new(Certificate::load(&certificate, &key).expect("good"));
        let stop = CancellationToken::new();
        let looking = tokio::spawn(Arc::clone(&shown).run_looking(stop.clone()));
        let first = shown.current();
        let minute = async || {
            tokio::time::sleep(LOOK_EVERY).await;
            // Time stands while files are read, and the reading has to be waited for.
            tokio::task::spawn_blocking(|| ()).await.expect("runs");
            tokio::time::sleep(LOOK_EVERY / 2).await;
        };
        minute().await;
        assert!(Arc::ptr_eq(&first, &shown.current()), "the same files are no news");
        put(&directory);
        minute().await;
        let second = shown.current();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(&key, "no key").expect("writes");
        minute().await;
        assert!(Arc::ptr_eq(&second, &shown.current()));
        put(&directory);
        minute().await;
        assert!(!Arc::ptr_eq(&second, &shown.current()));
        stop.cancel();
        looking.await.expect("ends");
    }
}
