//! The built binary as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::SOON;

/// A running `heartwire serve` on free loopback ports; killed when dropped.
pub struct Process {
    pub child: Child,
    pub banner: String,
    pub ws: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
}

/// The binary under test, with no configuration from the environment of whoever runs the tests.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_heartwire"));
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
    pub async fn start_by(mut command: Command, settings: &[&str]) -> Self {
        for listen in ["--ws-listen", "--grpc-listen", "--admin-listen"] {
            command.args([listen, "127.0.0.1:0"]);
        }
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
        let after = |mark: &str| {
            let rest = &banner[banner.find(mark).expect("an address") + mark.len()..];
            rest.split([',', '/', '\n', ' ']).next().and_then(|address| address.parse().ok()).expect("an address")
        };
        let (ws, grpc, admin) = (after("ws://"), after("gRPC on "), after("http://"));
        Self { child, banner, ws, grpc, admin }
    }

    /// Sends a signal by its number.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().expect("runs").to_string();
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
