//! The command-line flags that say what the configuration is.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::known::ENV_PREFIX;
use super::source::Sources;

/// The flags of configuration, to be flattened into a command. Values are text here: they are parsed with all the
/// others, so that every mistake is told at once.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigArgs {
    /// TOML file to read; without it the defaults hold
    #[arg(long, value_name = "PATH", env = "HEARTWIRE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Address for WebSocket clients, e.g. 0.0.0.0:8181 [same as --set ws.listen]
    #[arg(long, value_name = "ADDRESS")]
    pub ws_listen: Option<String>,

    /// Address for gRPC backends, e.g. 127.0.0.1:50051 or unix:/run/heartwire.sock [same as --set grpc.listen]
    #[arg(long, value_name = "ADDRESS")]
    pub grpc_listen: Option<String>,

    /// Address for health and metrics, e.g. 127.0.0.1:8182 [same as --set admin.listen]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,

    /// Directory that the log and what else must outlive the process is kept in [same as --set log.data_dir]
    #[arg(long, value_name = "PATH")]
    pub data_dir: Option<String>,

    /// Log filter, e.g. info,heartwire::ws=debug [same as --set telemetry.log]
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,

    /// Any key of the configuration, e.g. --set heartbeat.interval=10s; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,

    /// Check the configuration, say what is wrong with it, and exit
    #[arg(long)]
    pub check_config: bool,

    /// Print the effective configuration as TOML and exit
    #[arg(long)]
    pub print_config: bool,
}

impl ConfigArgs {
    /// The sources these flags name, with an environment such as `std::env::vars_os()`. Bytes that are not UTF-8 become
    /// U+FFFD, which no key takes for anything else.
    pub fn sources(&self, env: impl IntoIterator<Item = (OsString, OsString)>) -> Sources {
        let named = [
            ("ws.listen", &self.ws_listen),
            ("grpc.listen", &self.grpc_listen),
            ("admin.listen", &self.admin_listen),
            ("log.data_dir", &self.data_dir),
            ("telemetry.log", &self.log),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        Sources {
            file: self.config.clone(),
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
                .filter(|(name, _)| name.starts_with(ENV_PREFIX))
                .collect(),
            overrides: named.chain(self.set.iter().cloned()).collect(),
        }
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected SECTION.KEY=VALUE, such as heartbeat.interval=10s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: ConfigArgs,
    }

    fn parse(args: &[&str]) -> ConfigArgs {
        Cli::try_parse_from(["heartwire"].iter().chain(args)).unwrap().config
    }

    #[test]
    fn the_flags_are_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_overrides_and_set_comes_last() {
        let args = parse(&["--set", "node.id=a=b", "--ws-listen", "x", "--log=debug", "--check-config"]);
        let pairs = [("ws.listen", "x"), ("telemetry.log", "debug"), ("node.id", "a=b")];
        let sources = args.sources([]);
        assert_eq!(sources.overrides, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert!(args.check_config && !args.print_config);
    }

    #[test]
    fn of_the_environment_only_heartwires_variables_are_taken() {
        let env = [("PATH", "/bin"), ("HEARTWIRE_NODE__ID", "a")].map(|(name, value)| (name.into(), value.into()));
        let sources = parse(&[]).sources(env);
        assert_eq!(sources.env, [("HEARTWIRE_NODE__ID".to_owned(), "a".to_owned())]);
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf8_is_refused_and_does_not_panic() {
        use std::os::unix::ffi::OsStringExt;

        let env = [(OsString::from("HEARTWIRE_NODE__ID"), OsString::from_vec(vec![b'a', 0xff]))];
        let errors = crate::config::Config::load(&parse(&[]).sources(env)).unwrap_err();
        assert_eq!(errors.problems[0].key.as_deref(), Some("node.id"));
    }

    #[test]
    fn set_without_a_key_or_a_value_is_refused() {
        for wrong in ["ws.listen", "listen=1", "=1", ""] {
            assert!(Cli::try_parse_from(["heartwire", "--set", wrong]).is_err(), "{wrong}");
        }
    }
}
