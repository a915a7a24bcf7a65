//! What is printed at the start: where the node is reached, what it keeps, whom it believes, and what to try.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Addresses;
use crate::config::{AnonymousPolicy, Config, ListenAddress};

pub(super) fn banner(config: &Config, addresses: &Addresses, max_connections: usize) -> String {
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{words}");
    };
    line(format_args!("heartwire {}", env!("CARGO_PKG_VERSION")));
    let scheme = if config.ws.tls_files().is_some() { "wss" } else { "ws" };
    line(format_args!("  clients    {scheme}://{}", addresses.ws));
    line(format_args!("  backends   gRPC on {}, no TLS and no tokens", addresses.grpc));
    line(format_args!("  admin      http://{}/  (livez, readyz, metrics)", addresses.admin));
    let newest = format!(
        "the newest {}{}",
        config.log.max_bytes,
        config.log.max_age.map_or_else(String::new, |age| format!(" or {}", humantime::format_duration(age)))
    );
    if config.log.data_dir.as_os_str().is_empty() {
        line(format_args!(
            "  log        in memory, {newest}; it ends with the process, and the next run is a new epoch"
        ));
    } else {
        line(format_args!("  log        in {}, {newest}; it outlives the process", config.log.data_dir.display()));
    }
    let unnamed = match config.identity.anonymous {
        AnonymousPolicy::Assign => "one that does not gets an id that begins with ~",
        AnonymousPolicy::Reject => "one that does not is refused",
    };
    line(format_args!("  identity   clients name themselves, unchecked: any client may claim any id; {unnamed}"));
    if config.identity.trust_self_named {
        line(format_args!("  mailboxes  for any id, unchecked: whoever takes an id gets its mail; {}", kept(config)));
    }
    if max_connections < config.ws.max_connections {
        line(format_args!(
            "  limit      {max_connections} connections, not {}: the limit of open files allows no more",
            config.ws.max_connections
        ));
    }
    line(format_args!("try"));
    line(format_args!("  npx wscat -c '{scheme}://{}/{}'", reachable(addresses.ws), query(config)));
    let (options, server) = match &addresses.grpc {
        ListenAddress::Tcp(address) => ("-plaintext", reachable(*address).to_string()),
        ListenAddress::Unix(path) => ("-plaintext -authority localhost", format!("unix://{}", path.display())),
    };
    line(format_args!("  grpcurl {options} -d '{{\"snapshot\":{{}}}}' {server} heartwire.v1.EventService/Subscribe"));
    line(format_args!(
        "  grpcurl {options} -d '{{\"target\":{{\"client_id\":\"alice\"}},\"text\":\"hi\",\"receipt\":\"STAGE_WRITTEN\"}}' {server} heartwire.v1.MessageService/Send"
    ));
    text
}

fn kept(config: &Config) -> &'static str {
    match config.log.data_dir.as_os_str().is_empty() {
        true => "in memory, they end with the process",
        false => "in the data directory",
    }
}

fn query(config: &Config) -> String {
    match config.identity.query_parameter.as_str() {
        "" => String::new(),
        name => format!("?{name}=alice"),
    }
}

/// An address that can be connected to from here: a wildcard stands for loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(config: &Config) -> String {
        let addresses =
            Addresses { ws: config.ws.listen, grpc: config.grpc.listen.clone(), admin: config.admin.listen };
        banner(config, &addresses, config.ws.max_connections)
    }

    #[test]
    fn it_says_where_what_log_whom_it_believes_and_three_lines_to_try() {
        let text = shown(&Config::default());
        for words in
            ["ws://0.0.0.0:8181", "127.0.0.1:50051", "http://127.0.0.1:8182", "in memory", "clients name themselves"]
        {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        let tries: Vec<_> = text.lines().skip_while(|line| *line != "try").skip(1).collect();
        assert_eq!(tries.len(), 3);
        assert!(tries[0].contains("'ws://127.0.0.1:8181/?client_id=alice'"), "{}", tries[0]);
        assert!(tries[1..].iter().all(|line| line.contains("grpcurl -plaintext -d '")));
    }

    #[test]
    fn it_says_that_mail_goes_to_whoever_takes_an_id_where_that_is_so() {
        let mut config = Config::default();
        assert!(!shown(&config).contains("mailboxes"));
        config.identity.trust_self_named = true;
        assert!(shown(&config).contains("whoever takes an id gets its mail; in memory"));
        config.log.data_dir = "/var/lib/heartwire".into();
        assert!(shown(&config).contains("gets its mail; in the data directory"));
    }

    #[test]
    fn a_data_directory_is_named() {
        let mut config = Config::default();
        config.log.data_dir = "/var/lib/heartwire".into();
        let text = shown(&config);
        assert!(text.contains("in /var/lib/heartwire, the newest 64MiB; it outlives the process"), "{text}");
    }

    #[test]
    fn a_clamped_limit_is_told() {
        let config = Config::default();
        let addresses =
            Addresses { ws: config.ws.listen, grpc: config.grpc.listen.clone(), admin: config.admin.listen };
        assert!(banner(&config, &addresses, 19_488).contains("19488 connections, not 65536"));
        assert!(!shown(&config).contains("limit of open files"));
    }
}
