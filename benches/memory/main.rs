//! Bytes of heap that a connection at rest takes, plain, over TLS and with a session, by what they are for, against their budget.
//!
//! `cargo bench --bench memory --profile dev`; see benches/README.md. A node with all its parts is run twice in a process of its own, with
//! clients over loopback, the second time with twice as many: what the difference holds is what connections take, and nothing that is there
//! without them. The bytes are those that were asked for; what an allocator or the kernel adds is not in them.

#![allow(unreachable_pub, reason = "one binary")]

#[path = "../budget.rs"]
mod budget;
mod crowd;
mod groups;
mod kind;
mod point;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use budget::Budgets;
use groups::{GROUPS, Held};
use kind::Kind;

/// Notes who allocated what.
#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// Half-way between two sizes of the shards' tables, both: at other numbers of connections the tables have more room to spare, or less.
const POINTS: [usize; 2] = [1_500, 3_000];

fn main() -> ExitCode {
    // cargo passes `--bench` first.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["point", kind, connections, file] => {
            point::hold(kind, connections, Path::new(file)).map(|()| ExitCode::SUCCESS)
        }
        [] => judge(false),
        ["--sites"] => judge(true),
        _ => Err("the only argument there is is --sites".to_owned()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

/// What is held with so many connections, as another process has found.
fn held(kind: Kind, connections: usize) -> Result<Held, String> {
    let file: PathBuf =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/heap.{}.{connections}.json", kind.name()));
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let program = std::env::current_exe().map_err(|error| format!("this program is not to be found: {error}"))?;
    let run = Command::new(program).args(["point", kind.name(), &connections.to_string()]).arg(&file).status();
    let status = run.map_err(|error| format!("cannot be run: {error}"))?;
    if !status.success() {
        return Err(format!("the run with {connections} connections failed: {status}"));
    }
    groups::read(&file)
}

fn judge(sites: bool) -> Result<ExitCode, String> {
    let budgets = Budgets::read("bytes")?;
    let mut measured = Vec::new();
    for kind in Kind::ALL {
        let (bytes, blocks) = measure(kind, sites)?;
        measured.push((format!("{}_bytes", kind.name()), bytes));
        measured.push((format!("{}_blocks", kind.name()), blocks));
    }
    Ok(budgets.judge("a connection", &measured, true))
}

/// Measures one kind and tells what it is made of; bytes and blocks.
fn measure(kind: Kind, sites: bool) -> Result<(f64, f64), String> {
    let [fewer, more] = POINTS;
    let (first, second) = (held(kind, fewer)?, held(kind, more)?);
    let each = |more: i64, less: i64| (more - less) as f64 / (POINTS[1] - POINTS[0]) as f64;
    println!("{} at rest, from {fewer} to {more} of them, ids of 16 bytes, the log full beforehand:\n", kind.title());
    println!("| for | bytes | blocks |");
    println!("|---|---:|---:|");
    let mut total = (0.0, 0.0);
    for group in GROUPS {
        let ((bytes, blocks), (bytes_before, blocks_before)) = (second.of(group.name), first.of(group.name));
        let (bytes, blocks) = (each(bytes, bytes_before), each(blocks, blocks_before));
        total = (total.0 + bytes, total.1 + blocks);
        println!("| {} | {bytes:.1} | {blocks:.2} |", group.name);
    }
    println!("| **in all** | **{:.1}** | **{:.2}** |\n", total.0, total.1);
    if sites {
        for (site, (bytes, blocks)) in second.sites() {
            let (bytes_before, blocks_before) = first.site(site);
            let (bytes, blocks) = (each(*bytes, bytes_before), each(*blocks, blocks_before));
            if bytes.abs() >= 1.0 {
                println!("{bytes:8.1} bytes, {blocks:5.2} blocks: {site}");
            }
        }
        println!();
    }
    Ok(total)
}
