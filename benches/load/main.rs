//! The benchmark tool: runs a scenario against Heartwire and others in turn, and says what it measured. It asserts nothing.
//!
//! Who does what: [`args`] reads the command, [`peers`] knows the servers, [`process`] runs one of them, [`crowd`] is the clients' side,
//! [`backend`] the backend's, `scenarios` bring them together, [`results`] collects, [`table`], [`record`] and [`plot`] tell it.

#![allow(unreachable_pub, reason = "one binary")]
#![allow(clippy::disallowed_methods, reason = "a load generator measures the real clock")]

mod args;
mod backend;
mod clock;
mod crowd;
mod dialect;
mod frames;
mod host;
mod kernel;
mod latency;
mod peers;
mod plot;
mod process;
mod raw_tokio;
mod record;
mod results;
mod run;
mod scenarios;
mod stage;
mod table;
mod tls;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    // `cargo bench` gives this to whatever it runs.
    let args = Args::parse_from(std::env::args_os().filter(|arg| arg != "--bench"));
    let done = match args.command {
        None => {
            println!("nothing was measured: name a scenario, `cargo bench --bench load -- list` shows them");
            Ok(())
        }
        Some(Command::List) => run::list(),
        Some(Command::Install { peers }) => run::install(&peers),
        Some(Command::Plot { file }) => plot::draw_file(&file),
        Some(Command::Run(options)) => run::run(&options),
        Some(Command::RawTokio { port }) => raw_tokio::serve(port),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}
