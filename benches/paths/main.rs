//! Instructions of the hot paths, counted by valgrind's callgrind, against their budgets. No clock is read, so a busy machine changes nothing.
//!
//! `cargo bench --bench paths -- [--rounds N] [name...]`; see benches/README.md. Each path is run twice, the second time with twice as many
//! operations: what the difference holds is what the operations took, and nothing of what was set up for them.

#![allow(unreachable_pub, reason = "one binary")]

#[path = "../budget.rs"]
mod budget;
mod callgrind;
mod journal;
mod paths;
mod subscribe;
mod world;

use std::process::ExitCode;

use budget::Budgets;
use paths::{ALL, Path};

/// As in the binary that is shipped.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What the command line asks for.
struct Asked {
    rounds: usize,
    names: Vec<String>,
}

fn main() -> ExitCode {
    // cargo passes `--bench` first.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["once", name, times] => once(name, times).map(|()| ExitCode::SUCCESS),
        _ => asked(arguments).and_then(|asked| judge(&asked)),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

fn asked(arguments: Vec<String>) -> Result<Asked, String> {
    let mut asked = Asked { rounds: 1, names: Vec::new() };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--rounds" {
            let rounds = arguments.next().and_then(|rounds| rounds.parse().ok()).filter(|rounds| *rounds > 0);
            asked.rounds = rounds.ok_or("--rounds wants a number")?;
        } else {
            find(&argument)?;
            asked.names.push(argument);
        }
    }
    Ok(asked)
}

fn find(name: &str) -> Result<&'static Path, String> {
    let names = || ALL.iter().map(|path| path.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|path| path.name == name).ok_or_else(|| format!("no path {name}; there are {}", names()))
}

/// What valgrind is given to run.
fn once(name: &str, times: &str) -> Result<(), String> {
    (find(name)?.run)(times.parse().map_err(|_| "how often?".to_owned())?);
    Ok(())
}

fn judge(asked: &Asked) -> Result<ExitCode, String> {
    let version = callgrind::version()?;
    let budgets = Budgets::read("instructions")?;
    let chosen = ALL.iter().filter(|path| asked.names.is_empty() || asked.names.iter().any(|name| name == path.name));
    let mut measured = Vec::new();
    println!("Instructions an operation, by {version}:\n");
    for path in chosen {
        let mut counts = Vec::new();
        for _ in 0..asked.rounds {
            counts.push(callgrind::operation(path.name, path.times)?);
        }
        counts.sort_by(f64::total_cmp);
        let (least, most) = (counts[0], counts[counts.len() - 1]);
        let spread = if asked.rounds > 1 { format!(" ({least:.0} to {most:.0})") } else { String::new() };
        println!("- `{}`: {}{spread}", path.name, path.what);
        measured.push((path.name.to_owned(), counts[counts.len() / 2]));
    }
    println!();
    Ok(budgets.judge("instructions", &measured, asked.names.is_empty()))
}
