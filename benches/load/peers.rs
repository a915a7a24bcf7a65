//! The servers that can be measured: what `benches/peers/*/peer.toml` says of each.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::args::Options;
use crate::dialect::Dialect;

/// Heartwire with its log on disk: no folder of its own, but a server beside `heartwire` in the same table.
pub const JOURNALLED: &str = "heartwire-journal";

/// A server as described by its folder.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name of its folder, or of the other build of Heartwire.
    pub name: String,
    /// Holds `run.sh` and `install.sh`.
    pub folder: PathBuf,
    /// The binary, where it is Heartwire.
    pub binary: PathBuf,
    /// Settings of its own, besides those of the command.
    pub set: Vec<String>,
    pub about: About,
}

/// A peer.toml.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    pub title: String,
    /// The scenarios it takes part in.
    pub scenarios: BTreeSet<String>,
    /// What it does not do that Heartwire does, or does otherwise: a footnote of each table.
    pub differs: Vec<String>,
    /// Whether it serves TLS where the environment names `TLS_CERT` and `TLS_KEY`.
    #[serde(default)]
    pub tls: bool,
    /// The scenarios that it takes no part in over TLS.
    #[serde(default)]
    pub plain_only: BTreeSet<String>,
    pub client: Dialect,
    /// What its clients do with `--sessions`.
    pub sessions: Option<Sessions>,
    pub control: Option<Control>,
}

/// Clients that hold sessions, which outlive their sockets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sessions {
    /// The scenarios whose clients can.
    pub scenarios: BTreeSet<String>,
    pub client: Dialect,
}

/// The backend's side of a server.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    pub kind: ControlKind,
    /// Keeps events, so that they can be read again.
    pub log: bool,
}

/// How a backend speaks to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// gRPC, `heartwire.v1` or the part of it that the scenarios use.
    Heartwire,
    /// HTTP POST to nchan, on the port that is for gRPC elsewhere.
    Nchan,
    /// Centrifugo's gRPC API.
    Centrifugo,
    /// AnyCable's HTTP broadcasting, on the same.
    Anycable,
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    repository().join("benches/peers")
}

impl Peer {
    /// Every peer with a folder, by name.
    pub fn all() -> Result<Vec<Self>, String> {
        let entries = std::fs::read_dir(folder()).map_err(|error| format!("{}: {error}", folder().display()))?;
        let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
            .iter()
            .filter(|name| folder().join(name).join("peer.toml").is_file())
            .map(|name| Self::named(name))
            .collect()
    }

    fn named(name: &str) -> Result<Self, String> {
        let folder = folder().join(name);
        let file = folder.join("peer.toml");
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let about = toml::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
        let binary = env!("CARGO_BIN_EXE_heartwire").into();
        Ok(Self { name: name.to_owned(), folder, binary, set: Vec::new(), about })
    }

    /// Whether it has a folder.
    pub fn is_known(name: &str) -> bool {
        folder().join(name).join("peer.toml").is_file()
    }

    fn journalled() -> Result<Self, String> {
        let mut peer = Self::named("heartwire")?;
        peer.name = JOURNALLED.to_owned();
        peer.about.title = "Heartwire with a journal on disk".to_owned();
        peer.about
            .differs
            .push("set log.data_dir: every event is written and synced before a subscriber is told".to_owned());
        peer.set.push("log.data_dir={scratch}/data".to_owned());
        Ok(peer)
    }

    /// Those that the command names, in its order.
    pub fn chosen(options: &Options) -> Result<Vec<Self>, String> {
        let choose = |name: &String| {
            if let Some((_, path)) = options.binary.iter().find(|(other, _)| other == name) {
                let mut peer = Self::named("heartwire")?;
                peer.about.title = format!("Heartwire ({name})");
                peer.binary.clone_from(path);
                peer.name.clone_from(name);
                return Ok(peer);
            }
            match name.as_str() {
                JOURNALLED => Self::journalled(),
                _ if Self::is_known(name) => Self::named(name),
                _ => Err(format!("no server is called {name}; `list` shows them")),
            }
        };
        let mut names = options.against.clone();
        if options.with_journal && !names.iter().any(|name| name == JOURNALLED) {
            // Beside the one in memory, where that takes part.
            let at = names.iter().position(|name| name == "heartwire").map_or(names.len(), |at| at + 1);
            names.insert(at, JOURNALLED.to_owned());
        }
        let unnamed: Vec<_> =
            options.binary.iter().map(|(name, _)| name).filter(|name| !names.contains(name)).cloned().collect();
        names.iter().chain(&unnamed).map(choose).collect()
    }

    /// Where its install.sh puts it.
    pub fn installed(&self) -> PathBuf {
        repository().join("target/bench-peers").join(&self.name)
    }

    /// A command in its folder, with what all of its scripts may want to know.
    pub fn script(&self, name: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .arg(self.folder.join(name))
            .env("INSTALLED", self.installed())
            .env("REPOSITORY", repository())
            .env("SERVER_BINARY", &self.binary)
            .env("LOAD", std::env::current_exe().unwrap_or_default())
            .stdin(Stdio::null());
        command
    }

    /// Its version, as the installed thing itself says; `None` if it is not installed.
    pub fn version(&self) -> Option<String> {
        let output = self.script("run.sh").arg("--version").stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    }
}
