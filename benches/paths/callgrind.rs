//! Has callgrind count the instructions of a run of this program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Which valgrind there is.
///
/// # Errors
/// If there is none.
pub fn version() -> Result<String, String> {
    let output = Command::new("valgrind").arg("--version").output();
    let output = output.map_err(|error| format!("valgrind cannot be run ({error}); `apt install valgrind`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where the counts go, to be looked into with `callgrind_annotate`.
fn counts_of(name: &str, times: usize) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/callgrind.{name}.{times}"))
}

fn start(name: &str, times: usize) -> Result<Child, String> {
    let out = counts_of(name, times);
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let program = std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet"]).arg(format!("--callgrind-out-file={}", out.display()));
    valgrind.arg(program).args(["once", name, &times.to_string()]).stdin(Stdio::null());
    valgrind.spawn().map_err(|error| format!("valgrind cannot be run: {error}"))
}

fn finish(name: &str, times: usize, mut run: Child) -> Result<u64, String> {
    let status = run.wait().map_err(|error| format!("valgrind is lost: {error}"))?;
    if !status.success() {
        return Err(format!("{name} failed under valgrind: {status}"));
    }
    let out = counts_of(name, times);
    let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    total(&text).ok_or_else(|| format!("{} has no total", out.display()))
}

/// All instructions of a run, from what callgrind wrote.
fn total(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("totals: ")?.split(' ').next()?.parse().ok())
}

/// Instructions of one operation of a path.
///
/// # Errors
/// If a run fails.
pub fn operation(name: &str, times: usize) -> Result<f64, String> {
    // At the same time: what the one does is nothing to the other's count.
    let (fewer, more) = (start(name, times)?, start(name, 2 * times)?);
    let (fewer, more) = (finish(name, times, fewer)?, finish(name, 2 * times, more)?);
    Ok((more as f64 - fewer as f64) / times as f64)
}
