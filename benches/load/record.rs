//! A report as JSON, for machines and for drawing it again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::host;
use crate::results::Report;

/// Writes it beside earlier ones; returns where.
pub fn write(report: &Report, directory: &Path) -> Result<PathBuf, String> {
    let path = directory.join(format!("{}-{}.json", report.scenario, host::unix_seconds()));
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(&error))?;
    fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    fs::write(&path, text).map_err(|error| failed(&error))?;
    Ok(path)
}

/// Reads it back.
pub fn read(path: &Path) -> Result<Report, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
