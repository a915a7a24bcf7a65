//! A server as a process: starting it, what it costs, and its end.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::peers::Peer;
use crate::tls::Files;

/// How long a server may take until it serves.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long after it listens a server has all its processes.
const FORKED_BY: Duration = Duration::from_millis(100);

/// A running server; it is killed with all its children when this is dropped.
pub struct Server {
    child: Child,
    /// The process and its descendants, looked for when they are first asked after: some fork once they listen.
    pids: OnceLock<Vec<Pid>>,
    pub ws: SocketAddr,
    pub grpc: SocketAddr,
    /// From its start until it took a connection.
    pub started_in: Duration,
}

/// What to tell a server.
#[derive(Clone, Debug)]
pub struct Settings {
    pub interval: Duration,
    pub timeout: Duration,
    /// `section.key=value` of Heartwire's configuration.
    pub set: Vec<String>,
    /// What it shows to clients that speak TLS; without it they do not.
    pub tls: Option<Files>,
}

/// Where a server listens; given again, a new one comes up in the place of an old one.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    ws: u16,
    grpc: u16,
    admin: u16,
}

impl Ports {
    pub fn free() -> Result<Self, String> {
        Ok(Self { ws: free_port()?, grpc: free_port()?, admin: free_port()? })
    }
}

impl Server {
    /// Starts it and waits until it takes connections.
    pub fn start(peer: &Peer, settings: &Settings, ports: Ports, directory: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot start {}: {error}", peer.name);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let output = File::options().create(true).append(true).open(directory.join("output.log")).map_err(failed)?;
        // So that each server can be given a directory of its own, such as `log.data_dir={scratch}/data`.
        let own = |setting: &String| setting.replace("{scratch}", &directory.to_string_lossy());
        let arguments: Vec<_> = settings.set.iter().map(|setting| format!("--set {}", own(setting))).collect();
        let mut script = peer.script("run.sh");
        // What whoever runs this has set for a Heartwire of their own.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HEARTWIRE_")) {
            script.env_remove(name);
        }
        for (name, path) in [
            ("TLS_CERT", settings.tls.as_ref().map(|files| &files.certificate)),
            ("TLS_KEY", settings.tls.as_ref().map(|files| &files.key)),
        ] {
            match path {
                Some(path) => script.env(name, path),
                None => script.env_remove(name),
            };
        }
        let begin = Instant::now();
        let child = script
            .env("PORT", ports.ws.to_string())
            .env("GRPC_PORT", ports.grpc.to_string())
            .env("ADMIN_PORT", ports.admin.to_string())
            .env("INTERVAL_MS", settings.interval.as_millis().to_string())
            .env("TIMEOUT_MS", settings.timeout.as_millis().to_string())
            .env("SERVER_ARGUMENTS", arguments.join(" "))
            .env("SCRATCH", directory)
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(Stdio::from(output))
            .spawn()
            .map_err(failed)?;
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server =
            Self { child, pids: OnceLock::new(), ws: at(ports.ws), grpc: at(ports.grpc), started_in: Duration::ZERO };
        server.wait_until_ready(begin, peer.about.control.is_some(), directory)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, begin: Instant, control: bool, directory: &Path) -> Result<(), String> {
        let mut wanted = vec![self.ws];
        wanted.extend(control.then_some(self.grpc));
        while let Some(address) = wanted.first() {
            if TcpStream::connect(address).is_ok() {
                wanted.remove(0);
                continue;
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let log = directory.join("output.log");
                return Err(format!("the server ended at its start ({status}); see {}", log.display()));
            }
            if begin.elapsed() > START_LIMIT {
                return Err(format!("the server did not listen on {address} within {START_LIMIT:?}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.started_in = begin.elapsed();
        Ok(())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }

    /// Processor time of the process and its children so far, exact where the kernel's clocks are.
    pub fn cpu(&self) -> Duration {
        let of =
            |pid: &Pid| clock_getcpuclockid(*pid).and_then(|clock| clock.now()).map(Duration::from).unwrap_or_default();
        self.pids().iter().map(of).sum()
    }

    fn pids(&self) -> &[Pid] {
        self.pids.get_or_init(|| {
            std::thread::sleep(FORKED_BY);
            with_descendants(self.pid())
        })
    }

    /// Proportional set size in bytes: what the process and its children would give back.
    pub fn pss(&self) -> Result<u64, String> {
        let of = |pid: &Pid| {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).ok_or(format!("{path} has no Pss"))?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().map_err(|_| format!("{path}: {line}"))?;
            Ok(kib * 1024)
        };
        self.pids().iter().map(of).sum()
    }

    /// PSS once it stands still: the same within 1 % for half a second, at most 15 s later.
    pub fn settled_pss(&self, mut meanwhile: impl FnMut(Duration) -> Result<(), String>) -> Result<u64, String> {
        let mut last = self.pss()?;
        let mut still = 0;
        for _ in 0..60 {
            meanwhile(Duration::from_millis(250))?;
            let now = self.pss()?;
            still = if now.abs_diff(last) * 100 <= last { still + 1 } else { 0 };
            last = now;
            if still >= 4 {
                break;
            }
        }
        Ok(last)
    }

    /// Ends it at once, as a crash would.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // While the child is not reaped, its pid and those of its children belong to nobody else.
        if let Ok(None) = self.child.try_wait() {
            for pid in with_descendants(self.pid()) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

fn with_descendants(root: Pid) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return vec![root] };
    let parents: Vec<(i32, i32)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may hold anything; the state and the parent follow it.
            let parent = stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut all = vec![root];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        all.extend(parents.iter().filter(|(_, of)| *of == parent.as_raw()).map(|(pid, _)| Pid::from_raw(*pid)));
        at += 1;
    }
    all
}

/// A port below those that the kernel gives to clients, so that no client takes it meanwhile.
fn free_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = u16::try_from(std::process::id() % 64).unwrap_or(0) * 128;
    for _ in 0..1000 {
        let port = 20_000 + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err("no free port from 20000 to 31999".to_owned())
}
