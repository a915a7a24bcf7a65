//! Addresses to listen on: an IP address and port, or the path of a Unix socket.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::quoted;

/// Where a listener listens: `127.0.0.1:50051`, `[::1]:50051` or `unix:/run/heartwire.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ListenAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Whether only this machine's own processes can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            // Canonical, because ::ffff:127.0.0.1 is loopback too.
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is no address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} is not {expected}")]
pub struct ParseAddressError {
    text: String,
    expected: &'static str,
}

impl FromStr for ListenAddress {
    type Err = ParseAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = |expected| ParseAddressError { text: quoted(text), expected };
        let Some(path) = text.trim().strip_prefix("unix:") else {
            return parse_socket_address(text).map(Self::Tcp).map_err(|_| {
                refused("an IP address and port such as 127.0.0.1:50051, nor unix: and an absolute path")
            });
        };
        // gRPC's own notation has two slashes more, and people copy it.
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(refused("unix: and an absolute path such as unix:/run/heartwire.sock"));
        }
        Ok(Self::Unix(PathBuf::from(path)))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = ParseAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ListenAddress> for String {
    fn from(address: ListenAddress) -> Self {
        address.to_string()
    }
}

fn parse_socket_address(text: &str) -> Result<SocketAddr, ParseAddressError> {
    text.trim().parse().map_err(|_| ParseAddressError {
        text: quoted(text),
        expected: "an IP address and port such as 0.0.0.0:8181 or [::]:8181 (names are not looked up)",
    })
}

/// A serde module for `SocketAddr` fields, whose own error says neither what was written nor what is allowed.
pub(super) mod socket_address {
    use serde::{Deserialize, Deserializer, Serializer, de};

    use super::SocketAddr;

    pub(in crate::config) fn serialize<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
        super::parse_socket_address(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unix(path: &str) -> Result<ListenAddress, ParseAddressError> {
        Ok(ListenAddress::Unix(path.into()))
    }

    #[test]
    fn an_address_is_an_ip_address_and_port_or_a_unix_socket() {
        assert_eq!("127.0.0.1:1".parse(), Ok(ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))));
        assert!(matches!("[::1]:1".parse(), Ok(ListenAddress::Tcp(_))));
        assert_eq!("unix:/run/hw.sock".parse(), unix("/run/hw.sock"));
        assert_eq!("unix:///run/hw.sock".parse(), unix("/run/hw.sock"));
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_is_allowed() {
        for text in ["", "localhost:1", ":1", "127.0.0.1", "127.0.0.1:65536", "unix:", "unix:hw.sock", "unix://a/b"] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains("such as") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn loopback_and_unix_sockets_are_local_and_nothing_else_is() {
        for text in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "unix:/a"] {
            assert!(text.parse::<ListenAddress>().unwrap().is_local(), "{text}");
        }
        for text in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1"] {
            assert!(!text.parse::<ListenAddress>().unwrap().is_local(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_address_is_read_back_as_it_was_shown(address: SocketAddr, path in "/[a-z/ :]{0,20}[a-z]") {
            // A flow label is not part of the written form.
            let address = SocketAddr::new(address.ip(), address.port());
            for address in [ListenAddress::Tcp(address), ListenAddress::Unix(format!("/a{path}").into())] {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }

        #[test]
        fn no_text_makes_reading_an_address_panic(text in "(unix:)?\\PC*") {
            let _ = text.parse::<ListenAddress>();
        }
    }
}
