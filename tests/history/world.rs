//! The world: starts, stops, kills and measures the process under test, and says to all where it is.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::node_service_client::NodeServiceClient;
use heartwire::position::Position;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::files::Journal;
use crate::record::{Gauge, Pos, What};

/// The binary under test, where it is not the one that was built with this.
pub static OTHER_BINARY: OnceLock<PathBuf> = OnceLock::new();

fn binary() -> &'static Path {
    OTHER_BINARY.get().map_or(Path::new(env!("CARGO_BIN_EXE_heartwire")), PathBuf::as_path)
}

/// What should come soon; only ever reached by a run that fails.
pub const SOON: Duration = Duration::from_secs(20);

/// Where the process of the moment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Address {
    pub run: u32,
    pub ws: SocketAddr,
    pub grpc: SocketAddr,
    pub admin: SocketAddr,
}

/// How the process is to be run.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// With a journal in this directory, or with the log in memory.
    pub data_dir: Option<PathBuf>,
    pub settings: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// A program and its arguments that run the binary as the same process, such as `strace -D`.
    pub wrapper: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub resume_window: u64,
    pub duplicates: String,
}

/// Channels to the process that actors have open; each is one socket of its.
#[derive(Clone, Default)]
pub struct Channels(Arc<AtomicI64>);

/// One of them.
pub struct OpenChannel {
    pub channel: Channel,
    count: Arc<AtomicI64>,
}

impl Channels {
    /// Connects, so that the socket is there when it is counted.
    pub async fn open(&self, address: SocketAddr) -> Result<OpenChannel, tonic::transport::Error> {
        self.open_with(address, None).await
    }

    /// The same with less room for what is not read.
    pub async fn open_with(
        &self,
        address: SocketAddr,
        window: Option<u32>,
    ) -> Result<OpenChannel, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a good uri");
        let endpoint = endpoint.connect_timeout(SOON).initial_stream_window_size(window);
        let channel = endpoint.connect().await?;
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(OpenChannel { channel, count: Arc::clone(&self.0) })
    }

    pub fn count(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A cursor as a position; actors only write it down.
pub fn pos(cursor: &str) -> Option<Pos> {
    let position = Position::from_cursor(cursor).ok()?;
    Some(Pos { epoch: position.epoch.to_string(), offset: position.offset })
}

/// The process under test, and what is known of it.
pub struct World {
    pub journal: Journal,
    pub setup: Setup,
    pub channels: Channels,
    address: watch::Sender<Option<Address>>,
    child: Option<Child>,
    run: u32,
    directory: PathBuf,
}

impl World {
    pub fn new(journal: Journal, setup: Setup, directory: &Path) -> Self {
        let address = watch::Sender::new(None);
        let directory = directory.to_owned();
        Self { journal, setup, channels: Channels::default(), address, child: None, run: 0, directory }
    }

    /// Where the process is, for all who want to know.
    pub fn watch(&self) -> watch::Receiver<Option<Address>> {
        self.address.subscribe()
    }

    pub fn address(&self) -> Option<Address> {
        *self.address.borrow()
    }

    pub fn run(&self) -> u32 {
        self.run
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    fn command(&self) -> Command {
        let binary = binary();
        let mut command = match self.setup.wrapper.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HEARTWIRE_") {
                command.env_remove(name);
            }
        }
        command.args(["--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]);
        command.args(["--set", "telemetry.log=warn"]);
        for setting in &self.setup.settings {
            command.args(["--set", setting]);
        }
        if let Some(directory) = &self.setup.data_dir {
            command.arg("--data-dir").arg(directory);
        }
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Starts the process and tells everybody where it is. Err: what it said instead.
    pub async fn start(&mut self) -> Result<(), String> {
        self.run += 1;
        let log = self.directory.join(format!("stderr.{}.txt", self.run));
        let log = std::fs::File::create(log).map_err(|error| error.to_string())?;
        let mut child = self.command().stderr(log).spawn().map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut banner = String::new();
        let read = async {
            while !["ws://", "gRPC on ", "http://"].iter().all(|mark| banner.contains(mark)) {
                match lines.next_line().await {
                    Ok(Some(line)) => banner.push_str(&format!("{line}\n")),
                    _ => return Err(format!("it ended before it told its addresses:\n{banner}")),
                }
            }
            Ok(())
        };
        tokio::time::timeout(SOON, read).await.map_err(|_| "no banner".to_owned())??;
        // What else it says is of no interest, but it must be able to say it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let after = |mark: &str| {
            let rest = banner.split_once(mark).map_or("", |(_, rest)| rest);
            rest.split([',', '/', '\n', ' ']).next().unwrap_or("").parse::<SocketAddr>()
        };
        let (Ok(ws), Ok(admin), Ok(grpc)) = (after("ws://"), after("http://"), after("gRPC on ")) else {
            return Err(format!("no addresses in\n{banner}"));
        };
        self.child = Some(child);
        let address = Address { run: self.run, ws, grpc, admin };
        let head = self.head_of(address).await?;
        let setup = &self.setup;
        self.journal.note(What::Started {
            run: self.run,
            pid: self.pid().unwrap_or(0),
            head,
            journal: setup.data_dir.is_some(),
            interval: setup.interval,
            timeout: setup.timeout,
            resume_window: setup.resume_window,
            duplicates: setup.duplicates.clone(),
        });
        self.address.send_replace(Some(address));
        Ok(())
    }

    async fn head_of(&self, address: Address) -> Result<Pos, String> {
        let channel = self.channels.open(address.grpc).await.map_err(|error| format!("no gRPC: {error}"))?;
        let node = NodeServiceClient::new(channel.channel.clone()).get_node(pb::GetNodeRequest {}).await;
        let node = node.map_err(|status| format!("GetNode: {status}"))?.into_inner();
        pos(&node.head_cursor).ok_or_else(|| "GetNode gave no cursor".to_owned())
    }

    /// The newest position of the log.
    pub async fn head(&self) -> Result<Pos, String> {
        let address = self.address().ok_or("no process")?;
        self.head_of(address).await
    }

    /// Sends a signal by its name, such as `STOP`.
    pub fn signal(&self, name: &str) {
        if let Some(pid) = self.pid() {
            let _ = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
        }
    }

    /// Ends the process at once, whatever it is doing.
    pub async fn kill(&mut self) {
        self.journal.note(What::Ending { run: self.run, how: "kill -9".to_owned() });
        self.address.send_replace(None);
        if let Some(mut child) = self.child.take() {
            let _ = child.start_kill();
            let _ = child.wait().await;
        }
        self.journal.note(What::Ended { run: self.run, code: None });
    }

    /// Stops the process as a supervisor does; answers its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.journal.note(What::Ending { run: self.run, how: "term".to_owned() });
        self.signal("TERM");
        let mut child = self.child.take()?;
        let status = tokio::time::timeout(SOON * 2, child.wait()).await;
        self.address.send_replace(None);
        let code = status.ok().and_then(Result::ok).and_then(|status| status.code());
        self.journal.note(What::Ended { run: self.run, code });
        code
    }

    /// Whether the process says that it does all its work: its log takes events.
    pub async fn is_ready(&self) -> bool {
        let Some(address) = self.address() else { return false };
        http_answer(address.admin, "/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Whether the process is still there though nobody ended it.
    pub fn is_alive(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// What the process holds now, less what is known to be ours. `streams`: the `Subscribe` calls that are open.
    pub async fn gauge(&self, streams: i64) -> Option<Gauge> {
        let (address, pid) = (self.address()?, self.pid()?);
        let metrics = http_get(address.admin, "/metrics").await?;
        let value = |series: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0) as i64
        };
        let (mut held, mut files) = descriptors(pid)?;
        // The socket that was just asked over takes a moment to go; one that stays is one that is left.
        for _ in 0..20 {
            if !held.iter().any(|socket| socket == CLOSED) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            (held, files) = descriptors(pid)?;
        }
        let admin = format!("{}-", address.admin.port());
        held.retain(|socket| !socket.starts_with(&admin) || socket.ends_with("0A"));
        let pages = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: i64 = pages.split(' ').nth(1)?.parse().ok()?;
        Some(Gauge {
            sockets: held.len() as i64 - self.channels.count(),
            files,
            resident_bytes: pages * 4096,
            log_bytes: value("heartwire_log_bytes"),
            connections: value("heartwire_connections{state=\"alive\"}")
                + value("heartwire_connections{state=\"suspect\"}"),
            outbox_frames: value("heartwire_outbox_frames"),
            outbox_bytes: value("heartwire_outbox_bytes"),
            subscribers: value("heartwire_subscribers") - streams,
            held,
        })
    }

    /// Writes down what the process holds.
    pub async fn holds(&self, moment: &str, streams: i64) {
        if let Some(gauge) = self.gauge(streams).await {
            self.journal.note(What::Holds { run: self.run, moment: moment.to_owned(), gauge });
        }
    }
}

/// A socket that the kernel has done with.
const CLOSED: &str = "closed";

/// The descriptors of a process: what its sockets are, and how many others there are.
fn descriptors(pid: u32) -> Option<(Vec<String>, i64)> {
    let (mut sockets, mut files) = (Vec::new(), 0);
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        match target.to_string_lossy().strip_prefix("socket:[") {
            Some(inode) => sockets.push(inode.trim_end_matches(']').to_owned()),
            None => files += 1,
        }
    }
    Some((held(pid, &sockets), files))
}

/// What these sockets of a process are.
fn held(pid: u32, inodes: &[String]) -> Vec<String> {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let (tcp, unix) = (table("tcp"), table("unix"));
    let port = |address: &str| address.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    let of = |inode: &String| {
        let row = tcp.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
        let row = row.into_iter().find(|columns| columns.get(9) == Some(&inode.as_str()));
        match row.as_deref() {
            Some([_, local, remote, state, ..]) => {
                format!("{}-{} {state}", port(local).unwrap_or(0), port(remote).unwrap_or(0))
            }
            _ if unix.lines().any(|row| row.split_whitespace().nth(6) == Some(inode)) => "unix".to_owned(),
            _ => CLOSED.to_owned(),
        }
    };
    inodes.iter().map(of).collect()
}

/// One HTTP/1.1 GET: the whole answer, or nothing.
async fn http_answer(address: SocketAddr, path: &str) -> Option<String> {
    let get = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(Duration::from_secs(5), get).await.ok().flatten()
}

/// The body of it.
async fn http_get(address: SocketAddr, path: &str) -> Option<String> {
    http_answer(address, path).await?.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Writes down, four times a second, how late this machine runs things: an observer that only sleeps, and the process under test,
/// whose threads the kernel says stood ready without a processor for so long.
pub async fn watch_lateness(journal: Journal, pid: impl Fn() -> Option<u32>) {
    const SLEEP: Duration = Duration::from_millis(25);
    let mut before = std::collections::HashMap::<String, u64>::new();
    loop {
        let (mut observer, window) = (0, Instant::now());
        while window.elapsed() < Duration::from_millis(250) {
            let began = Instant::now();
            tokio::time::sleep(SLEEP).await;
            // The timer itself is a millisecond coarse.
            observer += began.elapsed().saturating_sub(SLEEP + Duration::from_millis(2)).as_micros() as u64;
        }
        let mut starved = 0;
        if let Some(pid) = pid() {
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let mut now = std::collections::HashMap::new();
            for thread in threads {
                let waited = std::fs::read_to_string(thread.path().join("schedstat")).ok();
                let waited = waited.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
                now.insert(format!("{:?}", thread.file_name()), waited.unwrap_or(0) / 1_000);
            }
            // Of a thread that is new nothing is known of before.
            starved =
                now.iter().filter_map(|(t, waited)| Some(waited.saturating_sub(*before.get(t)?))).max().unwrap_or(0);
            before = now;
        }
        journal.note(What::Late { observer, starved: starved.min(window.elapsed().as_micros() as u64) });
    }
}

/// What the binary can do: asked of itself, so that an older one is run without what it does not have.
pub async fn features(scratch: &Path) -> crate::plan::Features {
    let accepts = |arguments: &[&str]| {
        let mut command = std::process::Command::new(binary());
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mailbox = accepts(&["--check-config", "--set", "identity.trust_self_named=true"]);
    let place = scratch.join("features");
    let mut command = Command::new(binary());
    command.args(["--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(&place).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut banner = String::new();
    if let Ok(mut child) = command.spawn() {
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let read = async {
            while !banner.contains("\n  log ") && !banner.contains("identity") {
                let Ok(Some(line)) = lines.next_line().await else { return };
                banner.push_str(&format!("{line}\n"));
            }
        };
        let _ = tokio::time::timeout(SOON, read).await;
        let _ = child.kill().await;
    }
    let _ = std::fs::remove_dir_all(&place);
    crate::plan::Features { journal: !banner.is_empty() && !banner.contains("in memory"), mailbox }
}
