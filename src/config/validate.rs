//! Ranges and contradictions of a whole configuration.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::address::ListenAddress;
use super::byte_size::ByteSize;
use super::error::{Problem, quoted};
use super::{Config, checks, duration};

/// Long enough for anyone, short enough that a slip of the unit (minutes for milliseconds) is noticed.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(600);

/// The portable greatest length of a Unix socket's path: 104 bytes on macOS and the BSDs, 108 on Linux, with its end.
const MAX_SOCKET_PATH: usize = 103;

impl Config {
    /// Everything out of its range or at odds with something else; empty when the configuration is sound. [`load`]
    /// has done it; it is here for configurations built by code.
    ///
    /// [`load`]: Config::load
    pub fn validate(&self) -> Vec<Problem> {
        let mut found = Findings::default();
        self.ranges(&mut found);
        self.words(&mut found);
        self.heartbeat_times(&mut found);
        self.listeners(&mut found);
        self.tls_is_whole(&mut found);
        self.log_holds_a_message(&mut found);
        self.mailboxes_hold_one(&mut found);
        found.problems
    }

    fn ranges(&self, found: &mut Findings) {
        let Self { ws, identity, limits, log, mailbox, grpc, shutdown, heartbeat, .. } = self;
        found.range("ws.max_connections", &ws.max_connections, 1..=10_000_000);
        // gRPC clients refuse messages over 4 MiB by default, and an event is more than the message in it.
        found.range("ws.max_message", &ws.max_message, ByteSize(1)..=ByteSize::mib(3));
        found.time("ws.handshake_timeout", ws.handshake_timeout, TIMEOUTS);
        found.time("ws.identify_timeout", ws.identify_timeout, TIMEOUTS);
        found.time("ws.write_timeout", ws.write_timeout, TIMEOUTS);
        found.time("ws.resume_window", ws.resume_window, Duration::ZERO..=Duration::from_secs(600));
        found.range("ws.max_handshakes", &ws.max_handshakes, 1..=1_000_000);
        found.range("identity.max_connections_per_client", &identity.max_connections_per_client, 2..=1024);
        found.time("heartbeat.interval", heartbeat.interval, Duration::from_millis(100)..=Duration::from_secs(3600));
        found.range("limits.outbox_frames", &limits.outbox_frames, 1..=1_000_000);
        found.range("limits.outbox_bytes", &limits.outbox_bytes, ByteSize::kib(1)..=ByteSize::mib(1024));
        found.range("limits.uncommitted_bytes", &limits.uncommitted_bytes, ByteSize(1)..=ByteSize::mib(1024));
        found.range("mailbox.max_messages", &mailbox.max_messages, 1..=100_000);
        found.range("mailbox.max_bytes", &mailbox.max_bytes, ByteSize::kib(1)..=ByteSize::mib(1024));
        found.range("mailbox.max_total_bytes", &mailbox.max_total_bytes, ByteSize::kib(1)..=ByteSize::mib(1 << 20));
        found.at_least("log.max_bytes", &log.max_bytes, &ByteSize::kib(256));
        if let Some(age) = log.max_age.filter(|age| *age < Duration::from_secs(1)) {
            found.add("log.max_age", format!("{} is too short, expected at least 1s, or \"\"", duration::show(age)));
        }
        found.range("grpc.max_subscribers", &grpc.max_subscribers, 1..=1_000_000);
        found.range("grpc.max_snapshots", &grpc.max_snapshots, 1..=1_000);
        found.time("shutdown.deadline", shutdown.deadline, Duration::from_secs(1)..=Duration::from_secs(600));
        found.time("shutdown.reconnect_jitter", shutdown.reconnect_jitter, Duration::ZERO..=Duration::from_secs(600));
    }

    fn words(&self, found: &mut Findings) {
        for (index, origin) in self.ws.allowed_origins.iter().enumerate() {
            found.word(&format!("ws.allowed_origins[{index}]"), origin, checks::origin);
        }
        found.word("identity.query_parameter", &self.identity.query_parameter, checks::query_parameter);
        found.word("identity.header", &self.identity.header, checks::header_name);
        found.word("telemetry.log", &self.telemetry.log, checks::log_filter);
        found.word("node.id", &self.node.id, checks::node_id);
    }

    fn heartbeat_times(&self, found: &mut Findings) {
        let (interval, timeout) = (self.heartbeat.interval, self.heartbeat.timeout);
        if timeout <= interval {
            let [timeout, interval] = [timeout, interval].map(duration::show);
            let message = format!("{timeout} must be longer than heartbeat.interval, which is {interval}");
            found.problems.push(Problem::of("heartbeat.timeout", message).against("heartbeat.interval"));
        }
        // What is finer is cut off where times are kept in milliseconds.
        for (key, time) in [("heartbeat.interval", interval), ("heartbeat.timeout", timeout)] {
            if time.subsec_nanos() % 1_000_000 != 0 {
                found.add(key, format!("{} is not in whole milliseconds", duration::show(time)));
            }
        }
        let longest = Duration::from_secs(24 * 3600);
        if timeout > longest {
            let [timeout, longest] = [timeout, longest].map(duration::show);
            found.add("heartbeat.timeout", format!("{timeout} is out of range, expected at most {longest}"));
        }
    }

    fn listeners(&self, found: &mut Findings) {
        let mut listeners = vec![("ws.listen", self.ws.listen), ("admin.listen", self.admin.listen)];
        match &self.grpc.listen {
            ListenAddress::Tcp(address) => listeners.push(("grpc.listen", *address)),
            ListenAddress::Unix(path) if path.as_os_str().len() > MAX_SOCKET_PATH => {
                found.add("grpc.listen", format!("a socket's path has at most {MAX_SOCKET_PATH} bytes"));
            }
            ListenAddress::Unix(path) if path.as_os_str().as_encoded_bytes().contains(&0) => {
                found.add("grpc.listen", "a socket's path has no NUL in it");
            }
            ListenAddress::Unix(_) => {}
        }
        for (index, (key, address)) in listeners.iter().enumerate() {
            for (other, earlier) in &listeners[..index] {
                if collide(*address, *earlier) {
                    let message = format!("{address} takes the same port as {other}, which is {earlier}");
                    found.problems.push(Problem::of(*key, message).against(other));
                }
            }
        }
        if !self.grpc.insecure && !self.grpc.listen.is_local() {
            let message = format!(
                "{} can be reached from other machines, and this release has neither TLS nor tokens for gRPC: listen \
                 on loopback or unix:/path, or set grpc.insecure = true",
                self.grpc.listen
            );
            found.problems.push(Problem::of("grpc.listen", message).against("grpc.insecure"));
        }
    }

    fn tls_is_whole(&self, found: &mut Findings) {
        let (certificate, key) = (("ws.tls_certificate", &self.ws.tls_certificate), ("ws.tls_key", &self.ws.tls_key));
        for ((missing, path), (given, other)) in [(certificate, key), (key, certificate)] {
            if path.as_os_str().is_empty() && !other.as_os_str().is_empty() {
                let message =
                    format!("missing: {given} is {}, and one is of no use without the other", other.display());
                found.problems.push(Problem::of(missing, message).against(given));
            }
        }
    }

    fn log_holds_a_message(&self, found: &mut Findings) {
        let (room, message) = (self.log.max_bytes, self.ws.max_message);
        if room < message {
            let text = format!("{room} has no room for one message of ws.max_message, which is {message}");
            found.problems.push(Problem::of("log.max_bytes", text).against("ws.max_message"));
        }
    }

    fn mailboxes_hold_one(&self, found: &mut Findings) {
        let (all, one) = (self.mailbox.max_total_bytes, self.mailbox.max_bytes);
        if all < one {
            let text = format!("{all} has no room for one mailbox of mailbox.max_bytes, which is {one}");
            found.problems.push(Problem::of("mailbox.max_total_bytes", text).against("mailbox.max_bytes"));
        }
    }
}

/// Whether the system would refuse the second for the first. A wildcard takes the port on every address of its family;
/// whether `[::]` takes IPv4's too is up to the system, so that is left to it.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let overlap = a.ip() == b.ip() || (same_family && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    a.port() != 0 && a.port() == b.port() && overlap
}

#[derive(Default)]
struct Findings {
    problems: Vec<Problem>,
}

impl Findings {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        self.problems.push(Problem::of(key, message));
    }

    fn range<T: PartialOrd + Display>(&mut self, key: &str, value: &T, range: RangeInclusive<T>) {
        if !range.contains(value) {
            self.add(key, format!("{value} is out of range, expected {} to {}", range.start(), range.end()));
        }
    }

    fn at_least<T: PartialOrd + Display>(&mut self, key: &str, value: &T, least: &T) {
        if value < least {
            self.add(key, format!("{value} is out of range, expected at least {least}"));
        }
    }

    fn time(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let [value, start, end] = [value, *range.start(), *range.end()].map(duration::show);
            self.add(key, format!("{value} is out of range, expected {start} to {end}"));
        }
    }

    fn word(&mut self, key: &str, word: &str, check: impl Fn(&str) -> Result<(), &'static str>) {
        if let Err(message) = check(word) {
            self.add(key, format!("{}: {message}", quoted(word)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of the problems that a change makes.
    fn keys(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = Config::default();
        change(&mut config);
        config.validate().into_iter().filter_map(|problem| problem.key).collect()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn each_end_of_a_range_is_inside_and_the_next_value_is_not() {
        assert!(keys(|c| c.ws.max_connections = 1).is_empty());
        assert!(keys(|c| c.ws.max_connections = 10_000_000).is_empty());
        assert_eq!(keys(|c| c.ws.max_connections = 0), ["ws.max_connections"]);
        assert_eq!(keys(|c| c.ws.max_connections = 10_000_001), ["ws.max_connections"]);
        assert!(keys(|c| c.ws.max_message = ByteSize::mib(3)).is_empty());
        assert_eq!(keys(|c| c.ws.max_message = ByteSize(ByteSize::mib(3).0 + 1)), ["ws.max_message"]);
        assert_eq!(keys(|c| c.ws.max_message = ByteSize(0)), ["ws.max_message"]);
        assert_eq!(keys(|c| c.ws.handshake_timeout = Duration::ZERO), ["ws.handshake_timeout"]);
        assert_eq!(keys(|c| c.ws.identify_timeout = Duration::MAX), ["ws.identify_timeout"]);
        assert_eq!(keys(|c| c.ws.write_timeout = Duration::ZERO), ["ws.write_timeout"]);
        assert!(keys(|c| c.ws.resume_window = Duration::ZERO).is_empty());
        assert_eq!(keys(|c| c.ws.resume_window = Duration::from_secs(601)), ["ws.resume_window"]);
        assert_eq!(keys(|c| c.ws.max_handshakes = 0), ["ws.max_handshakes"]);
        let per_client = "identity.max_connections_per_client";
        assert!(keys(|c| c.identity.max_connections_per_client = 2).is_empty());
        assert!(keys(|c| c.identity.max_connections_per_client = 1024).is_empty());
        assert_eq!(keys(|c| c.identity.max_connections_per_client = 1), [per_client]);
        assert_eq!(keys(|c| c.identity.max_connections_per_client = 1025), [per_client]);
        assert!(keys(|c| c.heartbeat.interval = Duration::from_millis(100)).is_empty());
        assert_eq!(keys(|c| c.heartbeat.interval = Duration::from_millis(99)), ["heartbeat.interval"]);
        assert_eq!(keys(|c| c.limits.outbox_frames = 0), ["limits.outbox_frames"]);
        assert!(keys(|c| c.limits.outbox_bytes = ByteSize(1024)).is_empty());
        assert_eq!(keys(|c| c.limits.outbox_bytes = ByteSize(1023)), ["limits.outbox_bytes"]);
        assert_eq!(keys(|c| c.limits.uncommitted_bytes = ByteSize(0)), ["limits.uncommitted_bytes"]);
        assert_eq!(keys(|c| c.log.max_bytes = ByteSize(256 * 1024 - 1)), ["log.max_bytes"]);
        assert_eq!(keys(|c| c.log.max_age = Some(Duration::ZERO)), ["log.max_age"]);
        assert_eq!(keys(|c| c.grpc.max_subscribers = 0), ["grpc.max_subscribers"]);
        assert_eq!(keys(|c| c.grpc.max_snapshots = 0), ["grpc.max_snapshots"]);
        assert_eq!(keys(|c| c.shutdown.deadline = Duration::from_millis(999)), ["shutdown.deadline"]);
        assert_eq!(keys(|c| c.shutdown.deadline = Duration::from_secs(601)), ["shutdown.deadline"]);
        assert_eq!(keys(|c| c.shutdown.reconnect_jitter = Duration::from_secs(601)), ["shutdown.reconnect_jitter"]);
    }

    #[test]
    fn a_rate_of_zero_is_unlimited_and_a_rate_below_one_message_is_allowed() {
        let none = keys(|c| {
            c.limits.messages_per_second = 0;
            c.limits.bytes_per_second = ByteSize(0);
            c.identity.takeovers_per_minute = 0;
        });
        assert!(none.is_empty());
        assert!(keys(|c| c.limits.bytes_per_second = ByteSize(1)).is_empty());
    }

    #[test]
    fn a_timeout_not_longer_than_its_interval_is_a_contradiction() {
        let mut config = Config::default();
        config.heartbeat.interval = Duration::from_secs(60);
        let problems = config.validate();
        assert_eq!(
            problems[0].to_string(),
            "heartbeat.timeout: 1m must be longer than heartbeat.interval, which is 1m"
        );
        assert_eq!(problems.len(), 1);
        assert_eq!(keys(|c| c.heartbeat.timeout = Duration::from_secs(86_401)), ["heartbeat.timeout"]);
        assert!(keys(|c| c.heartbeat.timeout = Duration::from_secs(86_400)).is_empty());
    }

    #[test]
    fn heartbeat_times_are_in_whole_milliseconds() {
        let finer = Duration::from_micros(1_000_500);
        assert_eq!(keys(|c| c.heartbeat.interval = finer), ["heartbeat.interval"]);
        assert_eq!(keys(|c| c.heartbeat.timeout = finer * 60), Vec::<String>::new());
        assert_eq!(keys(|c| c.heartbeat.timeout = finer * 61), ["heartbeat.timeout"]);
        assert!(keys(|c| c.heartbeat.interval = Duration::from_millis(1501)).is_empty());
    }

    #[test]
    fn two_listeners_cannot_have_one_port() {
        let set = |ws: &str, admin: &str| {
            let (ws, admin) = (ws.parse().unwrap(), admin.parse().unwrap());
            keys(move |c| (c.ws.listen, c.admin.listen) = (ws, admin))
        };
        assert_eq!(set("127.0.0.1:1", "127.0.0.1:1"), ["admin.listen"]);
        assert_eq!(set("0.0.0.0:1", "127.0.0.1:1"), ["admin.listen"]);
        assert_eq!(set("[::1]:1", "[::]:1"), ["admin.listen"]);
        assert!(set("127.0.0.1:0", "127.0.0.1:0").is_empty());
        assert!(set("127.0.0.1:1", "127.0.0.2:1").is_empty());
        assert!(set("[::]:1", "127.0.0.1:1").is_empty());
        assert_eq!(keys(|c| c.admin.listen.set_port(50051)), ["grpc.listen"]);
    }

    #[test]
    fn grpc_open_to_the_network_must_be_asked_for_by_name() {
        let open = |c: &mut Config| c.grpc.listen = "0.0.0.0:50051".parse().unwrap();
        assert_eq!(keys(open), ["grpc.listen"]);
        let meant = keys(|c| {
            open(c);
            c.grpc.insecure = true;
        });
        assert!(meant.is_empty());
        assert!(keys(|c| c.grpc.listen = "unix:/run/hw.sock".parse().unwrap()).is_empty());
    }

    #[test]
    fn a_socket_path_that_no_system_takes_is_refused() {
        for path in [format!("unix:/{}", "a".repeat(MAX_SOCKET_PATH)), "unix:/a\0b".to_owned()] {
            assert_eq!(keys(|c| c.grpc.listen = path.parse().unwrap()), ["grpc.listen"]);
        }
    }

    #[test]
    fn a_log_with_no_room_for_one_message_is_a_contradiction() {
        let found = keys(|c| {
            c.log.max_bytes = ByteSize::mib(1);
            c.ws.max_message = ByteSize::mib(2);
        });
        assert_eq!(found, ["log.max_bytes"]);
    }

    #[test]
    fn mailboxes_with_no_room_for_a_full_one_are_a_contradiction() {
        assert_eq!(keys(|c| c.mailbox.max_total_bytes = ByteSize::kib(1023)), ["mailbox.max_total_bytes"]);
        assert!(keys(|c| c.mailbox.max_total_bytes = ByteSize::mib(1)).is_empty());
        assert_eq!(keys(|c| c.mailbox.max_messages = 0), ["mailbox.max_messages"]);
        assert_eq!(keys(|c| c.mailbox.max_messages = 100_001), ["mailbox.max_messages"]);
        assert_eq!(keys(|c| c.mailbox.max_bytes = ByteSize(1023)), ["mailbox.max_bytes"]);
    }

    #[test]
    fn words_are_checked_each_by_itself() {
        let found = keys(|c| {
            c.ws.allowed_origins = vec!["https://a".into(), "https://a/".into()];
            c.identity.header = "a b".into();
            c.identity.query_parameter = "a b".into();
            c.telemetry.log = "x=loud".into();
            c.node.id = "a b".into();
        });
        let expected =
            ["ws.allowed_origins[1]", "identity.query_parameter", "identity.header", "telemetry.log", "node.id"];
        assert_eq!(found, expected);
    }
}
