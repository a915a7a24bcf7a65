//! Where the server is, and getting a channel to it; calls under a deadline.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::error::CliError;

/// A server that says nothing, not even to a ping, is taken for lost after these two.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A gRPC address of Heartwire, as `--server` takes it.
#[derive(Clone, Debug)]
pub(super) struct ServerAddress {
    text: String,
    endpoint: Endpoint,
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let endpoint = if let Some(path) = text.strip_prefix("unix:") {
            unix(path)?
        } else {
            match text.split_once("://") {
                None => tcp(&format!("http://{text}"), true)?,
                Some(("http", _)) => tcp(text, false)?,
                Some(("https", _)) => return Err("TLS is not in this release; use http://".to_owned()),
                Some(_) => return Err(expected()),
            }
        };
        Ok(Self { text: text.to_owned(), endpoint })
    }
}

fn expected() -> String {
    "expected host:port, http://host:port or unix:/path".to_owned()
}

fn tcp(text: &str, needs_port: bool) -> Result<Endpoint, String> {
    let uri: Uri = text.parse().map_err(|_| expected())?;
    let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let host = uri.host().is_some_and(|host| !host.is_empty());
    // A bare name is more likely a slip than a server on port 80.
    if !plain || !host || text.contains('@') || (needs_port && uri.port_u16().is_none()) {
        return Err(expected());
    }
    Ok(Endpoint::from(uri))
}

fn unix(path: &str) -> Result<Endpoint, String> {
    // gRPC's own notation has two slashes more.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err(expected());
    }
    let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(|_| expected())?;
    // A socket has no name of its own to put into `:authority`, and servers refuse a path there.
    Ok(endpoint.origin(Uri::from_static("http://localhost")))
}

/// Connects, so that a server that is not there is told from one that refuses a call.
pub(super) async fn connect(server: &ServerAddress, timeout: Duration) -> Result<Channel, CliError> {
    let endpoint = server
        .endpoint
        .clone()
        .connect_timeout(timeout)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    match tokio::time::timeout(timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(source)) => Err(CliError::Connect { server: server.to_string(), source }),
        Err(_) => Err(CliError::TimedOut(timeout)),
    }
}

/// One unary call under a deadline, which the server is told too.
pub(super) async fn unary<M, T>(
    timeout: Duration,
    message: M,
    call: impl AsyncFnOnce(Request<M>) -> Result<Response<T>, Status>,
) -> Result<T, CliError> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    let started = Instant::now();
    match tokio::time::timeout(timeout, call(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        // tonic keeps the deadline on both sides, and calls it cancelled.
        Ok(Err(status)) if status.code() == Code::Cancelled && started.elapsed() >= timeout => {
            Err(CliError::TimedOut(timeout))
        }
        Ok(Err(status)) => Err(status.into()),
        Err(_) => Err(CliError::TimedOut(timeout)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_and_port_a_url_or_a_unix_socket() {
        for text in [
            "127.0.0.1:50051",
            "heartwire:50051",
            "[::1]:50051",
            "http://127.0.0.1:50051",
            "http://heartwire/",
            "unix:/run/heartwire.sock",
            "unix:///run/heartwire.sock",
            " localhost:1 ",
        ] {
            assert!(text.parse::<ServerAddress>().is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_expected() {
        for text in [
            "",
            "localhost",
            ":50051",
            "http://",
            "http://a:1/path",
            "http://a:1?q",
            "ftp://a:1",
            "a b:1",
            "unix:",
            "unix://",
            "http://user@a:1",
            "a:99999",
        ] {
            assert_eq!(text.parse::<ServerAddress>().map(|address| address.to_string()), Err(expected()), "{text:?}");
        }
        assert!("https://a:1".parse::<ServerAddress>().unwrap_err().contains("TLS"));
    }
}
