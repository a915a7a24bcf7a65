//! The `heartwire` command: command line, configuration, server, exit code.

use std::io::{self, Write};
use std::process::ExitCode;

use heartwire::cli::{self, Outcome};
use heartwire::config::{Config, ConfigArgs};

/// A connection is a handful of small blocks, two of them aligned to 128 bytes: an allocator with a page for each size keeps them with nothing
/// between, and gives whole pages back after a burst. docs/performance.md has what it was measured against.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration or the command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match cli::main(std::env::args_os()) {
        Outcome::Serve(args) => args,
        Outcome::Exit(code) => return code,
    };
    let load = || Config::load(&args.sources(std::env::vars_os()));
    let config = match load() {
        Ok(config) => config,
        Err(errors) => return fail(USAGE, &errors.to_string()),
    };
    if args.check_config
        && let Err(error) = heartwire::app::certificate(&config)
    {
        return fail(USAGE, &error.to_string());
    }
    if args.check_config || args.print_config {
        return show(&args, &config);
    }
    heartwire::app::run(config, load)
}

fn show(args: &ConfigArgs, config: &Config) -> ExitCode {
    let text = if args.print_config { config.to_toml() } else { "the configuration is sound\n".to_owned() };
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("cannot write: {error}")),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {message}");
    ExitCode::from(code)
}
