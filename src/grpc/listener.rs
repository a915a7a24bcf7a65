//! The sockets that the control plane listens on: TCP, or a Unix socket that is cleaned up.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::ListenAddress;

/// Waiting to be accepted; more are refused by the kernel.
const BACKLOG: u32 = 1024;

/// A bound listener.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixSocket),
}

/// A Unix socket with its file, which only the owner may connect to, and which goes with it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only our own is removed.
    identity: (u64, u64),
}

/// What was accepted.
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listener {
    /// Binds the address. The file of a Unix socket that nobody listens on any more is replaced; of anything else it is left.
    ///
    /// # Errors
    /// Those of the system; `AddrInUse` if the path is taken.
    pub async fn bind(address: &ListenAddress) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket =
                    if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            ListenAddress::Unix(path) => UnixSocket::bind(path).await.map(Self::Unix),
        }
    }

    /// The address of a TCP listener, with the port that the system chose.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small frames must not wait for acknowledgements of earlier ones.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream))
            }
            Self::Unix(socket) => socket.listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

impl UnixSocket {
    async fn bind(path: &Path) -> io::Result<Self> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path).await?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

/// Removes a socket file that nobody answers on, left by a process that was killed.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let taken = |why: &str| io::Error::new(io::ErrorKind::AddrInUse, format!("{}: {why}", path.display()));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(taken("exists and is not a socket"));
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(taken("another process listens on this socket")),
        Err(error) => Err(taken(&format!("cannot tell whether a process listens on this socket ({error})"))),
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // Another process may have put its own there meanwhile.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(directory: &tempfile::TempDir) -> (PathBuf, ListenAddress) {
        let path = directory.path().join("grpc.sock");
        (path.clone(), ListenAddress::Unix(path))
    }

    #[tokio::test]
    async fn a_socket_file_is_the_owners_alone_and_goes_with_the_listener() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, address) = unix(&directory);
        let listener = Listener::bind(&address).await.expect("bound");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_somebody_answers_on_is_left_to_them() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, address) = unix(&directory);
        let _first = Listener::bind(&address).await.expect("bound");
        let second = Listener::bind(&address).await.expect_err("in use");
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).await.is_ok());
    }

    #[tokio::test]
    async fn a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, address) = unix(&directory);
        // Closing a listener leaves its file, as a kill does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let _listener = Listener::bind(&address).await.expect("replaced");
        assert!(UnixStream::connect(&path).await.is_ok());
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, address) = unix(&directory);
        fs::write(&path, "precious").expect("written");
        assert!(Listener::bind(&address).await.is_err());
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn the_file_of_a_successor_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, address) = unix(&directory);
        let listener = Listener::bind(&address).await.expect("bound");
        fs::rename(&path, directory.path().join("old")).expect("moved");
        fs::write(&path, "another's").expect("written");
        drop(listener);
        assert!(path.exists());
    }
}
