//! Checks of single words: origins, header names, node ids. Each says what is wrong, or nothing.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;

/// An `Origin` header as browsers write it, since it is compared exactly: one that no browser writes would never match.
pub(super) fn origin(origin: &str) -> Result<(), &'static str> {
    if origin == "null" {
        return Ok(());
    }
    if origin.contains('*') {
        return Err("wildcards are not known; leave the list empty to let in any origin");
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Err("expected scheme://host, scheme://host:port or null");
    };
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        || !scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    {
        return Err("the part before :// is not a scheme such as https");
    }
    if authority.contains(['/', '?', '#', '@']) {
        return Err("an origin ends after the host or port: no path, not even a slash, and no user");
    }
    if origin.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("browsers write origins in lower case");
    }
    let (host, port) = split_port(authority);
    if let Some(port) = port {
        if !port.bytes().all(|b| b.is_ascii_digit()) || port.parse::<u16>().is_err() {
            return Err("the part after the last colon is not a port");
        }
        if matches!((scheme, port), ("http" | "ws", "80") | ("https" | "wss", "443")) {
            return Err("browsers leave out the default port of the scheme");
        }
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let valid = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if valid { Ok(()) } else { Err("not a host name in ASCII (punycode) or an address") }
}

/// The colons inside an IPv6 address are not before a port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// A header's name: a token of HTTP.
pub(super) fn header_name(name: &str) -> Result<(), &'static str> {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        Ok(())
    } else {
        Err("not a header name: expected letters, digits and -, such as x-client-id, or \"\" for off")
    }
}

/// A query parameter's name, of the characters that are never percent-encoded, so that there is one way to write it.
pub(super) fn query_parameter(name: &str) -> Result<(), &'static str> {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)) {
        Ok(())
    } else {
        Err("not a plain parameter name: expected letters, digits, -, ., _ and ~, or \"\" for off")
    }
}

/// A node's id.
pub(super) fn node_id(id: &str) -> Result<(), &'static str> {
    if id.len() <= 64 && id.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("expected 1 to 64 visible ASCII characters, or \"\" for the host name")
    }
}

/// A log filter: what the subscriber itself takes, with plainer words for the common mistakes.
pub(super) fn log_filter(filter: &str) -> Result<(), &'static str> {
    if filter.trim().is_empty() {
        return Err("expected a level or directives such as info,heartwire::ws=debug; \"off\" for none");
    }
    if filter.chars().any(|c| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return Err("has characters that cannot be part of a filter");
    }
    // A span's fields may hold commas and equals signs of their own.
    let plain = if filter.contains('[') { "" } else { filter };
    for directive in plain.split(',') {
        if let Some((_, level)) = directive.split_once('=')
            && (level.trim().is_empty() || level.trim().parse::<LevelFilter>().is_err())
        {
            return Err("has an unknown level, expected off, error, warn, info, debug or trace");
        }
    }
    match EnvFilter::builder().parse(filter) {
        Ok(_) => Ok(()),
        Err(_) => Err("is not a log filter, expected a level or directives such as info,heartwire::ws=debug"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_as_browsers_write_them_pass() {
        for good in [
            "null",
            "https://example.com",
            "http://localhost:3000",
            "https://xn--bcher-kva.example",
            "http://[::1]:8080",
            "http://[::1]",
            "chrome-extension://abcdef",
            "http://192.168.0.1:81",
        ] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn origins_that_could_never_match_are_refused() {
        for bad in [
            "",
            "*",
            "https://*.example.com",
            "example.com",
            "https://example.com/",
            "https://example.com/path",
            "https://user@example.com",
            "https://Example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://example.com:",
            "https://example.com:99999",
            "https://example.com:+1",
            "https://",
            "://example.com",
            "https://bücher.example",
            "http://[::1",
            "http://::1",
            "https://a b",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_headers_parameters_and_nodes_are_plain_words_or_empty() {
        assert_eq!(header_name("X-Client-Id"), Ok(()));
        assert_eq!(header_name(""), Ok(()));
        assert!(header_name("x client").is_err() && header_name("x:").is_err() && header_name("é").is_err());
        assert_eq!(query_parameter("client_id"), Ok(()));
        assert!(query_parameter("a&b").is_err() && query_parameter("a b").is_err());
        assert_eq!(node_id(&"n".repeat(64)), Ok(()));
        assert!(node_id(&"n".repeat(65)).is_err() && node_id("a b").is_err() && node_id("\u{7f}").is_err());
    }

    #[test]
    fn log_filters_have_known_levels() {
        for good in ["info", "off", "info,heartwire::ws=debug", "heartwire", "a[span{x=1}]=trace", "h2=WARN,x=1"] {
            assert_eq!(log_filter(good), Ok(()), "{good}");
        }
        for bad in ["", " ", "info,heartwire=loud", "a=", "a\u{7}", "a[b", "info,a[b=debug", "a=warn, b=info", "a=b=c"]
        {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }
}
