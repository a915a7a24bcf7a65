//! Configuration: defaults, the layers over them, and every problem found in them at once.
//!
//! Flags go before the environment, the environment before the file, the file before the defaults. Nothing here reads
//! the process's environment or arguments by itself, except for clap, which fills [`ConfigArgs`]: callers pass a
//! [`Sources`], so tests need no global state.

mod address;
mod args;
mod byte_size;
mod checks;
mod choices;
mod duration;
mod environment;
mod error;
mod file;
mod known;
mod load;
mod sections;
mod source;
mod suggest;
mod validate;

use serde::{Deserialize, Serialize};

pub use self::address::{ListenAddress, ParseAddressError};
pub use self::args::ConfigArgs;
pub use self::byte_size::{ByteSize, ParseByteSizeError};
pub use self::choices::{AnonymousPolicy, DuplicatePolicy, LogFormat, ProofOfLife, ServerHeartbeat};
pub use self::error::{ConfigErrors, Problem};
pub use self::sections::{
    AdminConfig, GrpcConfig, HeartbeatConfig, IdentityConfig, LimitsConfig, LogConfig, MailboxConfig, NodeConfig,
    ShutdownConfig, TelemetryConfig, WsConfig,
};
pub use self::source::{Origin, Place, Sources};

/// Everything that can be configured, one struct a section. `heartwire.example.toml` shows each key in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The WebSocket listener and its limits.
    pub ws: WsConfig,
    /// How clients are named.
    pub identity: IdentityConfig,
    /// How clients prove themselves alive.
    pub heartbeat: HeartbeatConfig,
    /// What one connection may use.
    pub limits: LimitsConfig,
    /// What may be stored for clients.
    pub mailbox: MailboxConfig,
    /// How much of the log is kept.
    pub log: LogConfig,
    /// The gRPC listener, for backends.
    pub grpc: GrpcConfig,
    /// The admin listener: health and metrics.
    pub admin: AdminConfig,
    /// How the process stops.
    pub shutdown: ShutdownConfig,
    /// What the process writes about itself.
    pub telemetry: TelemetryConfig,
    /// Who this process is.
    pub node: NodeConfig,
}

impl Config {
    /// The effective values as TOML, every section and key, for `--print-config`. Loading it gives the same
    /// configuration again.
    pub fn to_toml(&self) -> String {
        // Nothing in a configuration is beyond TOML today; if something ever is, asking what the configuration is must
        // not end the process.
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be written as TOML: {error}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/heartwire.example.toml"));

    #[test]
    fn the_example_file_says_the_defaults() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_has_every_known_key_in_its_section() {
        let mut section = "";
        let mut found = std::collections::BTreeSet::new();
        for line in EXAMPLE.lines() {
            if let Some(header) = line.strip_prefix('[') {
                section = header.trim_end_matches(']');
            } else if let Some((key, _)) = line.trim_start_matches("# ").split_once(" = ") {
                found.insert(format!("{section}.{key}"));
            }
        }
        for key in known::Known::new().keys() {
            assert!(found.contains(key), "{key} is missing from heartwire.example.toml");
        }
    }

    #[test]
    fn the_example_file_has_its_optional_keys_loadable_when_uncommented() {
        let mut count = 0;
        for line in EXAMPLE.lines() {
            let Some(rest) = line.strip_prefix("# ") else { continue };
            if rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')) {
                count += 1;
                let written = format!("[log]\n{rest}\n");
                assert!(toml::from_str::<Config>(&written).is_ok(), "{written}");
            }
        }
        assert_eq!(count, 1, "log.max_age is the only optional key");
    }

    #[test]
    fn printed_configuration_loads_as_the_same_configuration() {
        let mut config = Config::default();
        config.ws.allowed_origins = vec!["https://example.com".into(), "null".into()];
        config.log.max_age = Some(std::time::Duration::from_secs(3 * 86_400));
        config.grpc.listen = "unix:/run/heartwire/grpc.sock".parse().unwrap();
        config.heartbeat.server = ServerHeartbeat::Both;
        for config in [Config::default(), config] {
            assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
        }
    }

    #[test]
    fn printed_configuration_shows_every_known_key() {
        let printed = Config::default().to_toml();
        for key in known::Known::new().keys() {
            let (section, key) = key.split_once('.').unwrap();
            let body = printed.split_once(&format!("[{section}]\n")).unwrap().1;
            let body = body.split("\n[").next().unwrap();
            assert!(body.lines().any(|line| line.starts_with(&format!("{key} = "))), "{section}.{key}");
        }
    }

    #[test]
    fn a_number_beyond_toml_does_not_stop_printing() {
        let mut config = Config::default();
        config.limits.messages_per_second = u64::MAX;
        assert!(config.to_toml().contains("messages_per_second = 18446744073709551615"));
    }
}
