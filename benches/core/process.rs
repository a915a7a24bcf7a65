//! What the process uses: memory as the kernel tells it, and the processor time of the thread that measures.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The value of a field of a file in /proc that is told in kB, in bytes.
fn kilobytes(path: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// The bytes that this process holds of the machine's memory.
pub(crate) fn pss() -> f64 {
    kilobytes("/proc/self/smaps_rollup", "Pss:").unwrap_or(0) as f64
}

/// The most bytes that it ever held.
pub(crate) fn peak() -> f64 {
    kilobytes("/proc/self/status", "VmHWM:").unwrap_or(0) as f64
}

/// What could be had without swapping.
pub(crate) fn available_bytes() -> Option<u64> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// What it takes of the processor, in nanoseconds: what others run meanwhile is not in it, but that they push this out of the caches is.
pub(crate) fn cost<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = thread_time();
    let result = work();
    (result, thread_time().saturating_sub(before).as_nanos() as f64)
}

/// The middle of several values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// The value that this share of all does not exceed.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0.0)
}
