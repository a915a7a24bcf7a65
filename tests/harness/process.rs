//! The built binary as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::backend::{Backend, channel};
use super::{SOON, eventually};

/// A running `heartwire serve` on free loopback ports; killed when dropped.
pub struct Process {
    pub child: Child,
    pub banner: String,
    pub backend: Backend,
}

impl std::ops::Deref for Process {
    type Target = Backend;

    fn deref(&self) -> &Backend {
        &self.backend
    }
}

/// The binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_heartwire");

/// The binary under test, with no configuration from the environment of whoever runs the tests.
pub fn command() -> Command {
    command_of(BINARY)
}

/// The same of a program that runs the binary ([`BINARY`]).
pub fn command_of(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEARTWIRE_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Process {
    /// Starts it with these settings besides its ports.
    pub async fn start(settings: &[&str]) -> Self {
        Self::start_by(command(), settings).await
    }

    /// The same by a command of the caller's that runs the binary.
    pub async fn start_by(command: Command, settings: &[&str]) -> Self {
        Self::start_on(command, "127.0.0.1:0", settings).await
    }

    /// The same with gRPC on another address.
    pub async fn start_on(mut command: Command, grpc: &str, settings: &[&str]) -> Self {
        command.args(["--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--grpc-listen", grpc]);
        command.args(["--set", "telemetry.log=error"]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut banner = String::new();
        let read = async {
            // The last line to try is the one that sends.
            while !banner.contains("MessageService/Send") {
                let line = lines.next_line().await.expect("UTF-8").expect("the banner");
                banner.push_str(&line);
                banner.push('\n');
            }
        };
        tokio::time::timeout(SOON, read).await.expect("a banner soon");
        let after = |mark: &str, ends: &[char]| {
            let rest = &banner[banner.find(mark).expect("an address") + mark.len()..];
            rest.split(ends).next().expect("an address").to_owned()
        };
        let address = |mark| after(mark, &[',', '/', '\n', ' ']).parse().expect("an address");
        // ws or wss.
        let ws = after("clients    ", &['\n']);
        let ws = ws.split_once("://").expect("a URL").1.parse().expect("an address");
        let (admin, grpc) = (address("http://"), after("gRPC on ", &[',']));
        let none = SocketAddr::from(([0, 0, 0, 0], 0));
        let backend = Backend { ws, grpc: grpc.parse().unwrap_or(none), admin, channel: channel(&grpc) };
        Self { child, banner, backend }
    }

    /// The process id; for as long as it runs.
    pub fn id(&self) -> u32 {
        self.child.id().expect("runs")
    }

    /// Bytes of memory that are resident.
    pub fn resident(&self) -> usize {
        let pages = std::fs::read_to_string(format!("/proc/{}/statm", self.id())).expect("runs");
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
    }

    /// Processor time used so far; the kernel counts in hundredths of a second (proc(5), USER_HZ).
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("runs");
        // What is before the last parenthesis may have spaces in it; after it come the state and ten more, then utime and stime.
        let after = stat.rsplit(") ").next().expect("fields");
        let ticks: u64 = after.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("runs").count()
    }

    /// Stops it with SIGSTOP and waits until it stands still.
    pub async fn freeze(&self) {
        self.signal("STOP");
        let path = format!("/proc/{}/stat", self.id());
        eventually("it stands still", || async {
            let stat = std::fs::read_to_string(&path).expect("runs");
            stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')).then_some(())
        })
        .await;
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status().expect("kill is there");
        assert!(sent.success());
    }

    /// Waits for its end, at most `limit`: the exit code.
    pub async fn exit_code(&mut self, limit: Duration) -> Option<i32> {
        let status =
            tokio::time::timeout(limit, self.child.wait()).await.expect("it ends in time").expect("waited for");
        status.code()
    }
}

/// Runs the binary to its end, at most for ten seconds: exit code, standard output, standard error.
pub async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = command();
    command.args(args);
    run_by(command).await
}

/// The same by a command of the caller's.
pub async fn run_by(mut command: Command) -> (Option<i32>, String, String) {
    let output = tokio::time::timeout(SOON, command.output()).await.expect("it ends soon").expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}
