//! The machine a run was made on.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What must be told with any number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// UTC, RFC 3339.
    pub date: String,
    pub kernel: String,
    pub processor: String,
    pub cores: usize,
    pub memory_bytes: u64,
    /// Open files that one process may have.
    pub descriptors: u64,
    /// Load over the last minute when the run began: others on the machine show here.
    pub load_before: String,
    /// `release` or `debug`: numbers of a debug build say nothing.
    pub profile: String,
}

impl Host {
    pub fn here(descriptors: u64) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let of = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_once(':')).map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let memory = of(&read("/proc/meminfo"), "MemTotal");
        let date = humantime::format_rfc3339_seconds(SystemTime::now());
        Self {
            date: date.to_string(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: of(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024,
            descriptors,
            load_before: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

/// Seconds since 1970, for names of files.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
