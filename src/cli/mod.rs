//! The command line: what it says, and the subcommands that are clients of a running Heartwire.
//!
//! `serve` is not run here: it is handed back, so that the client side knows nothing of the server's parts.

mod args;
mod connect;
mod connections;
mod consumers;
mod disconnect;
mod error;
mod event_line;
mod events;
mod healthcheck;
mod json;
mod send;
mod text;

#[cfg(test)]
mod fake;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use tonic::transport::Channel;

use self::args::{Cli, ClientArgs, Command};
use self::connect::connect;
use self::error::CliError;
use crate::config::ConfigArgs;

/// What is left to do after the command line was dealt with.
#[derive(Debug)]
pub enum Outcome {
    /// Run the sidecar, or show or check its configuration.
    Serve(Box<ConfigArgs>),
    /// Everything is done: exit.
    Exit(ExitCode),
}

/// The whole command line, for what is generated from it.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Reads the command line, program name first, and runs the subcommand unless it is `serve`.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage. Failures are one line on stderr.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Outcome {
    let command = match parse(args) {
        Ok(Cli { config, command: None }) => return Outcome::Serve(Box::new(config)),
        Ok(Cli { command: Some(Command::Serve(config)), .. }) => return Outcome::Serve(Box::new(config)),
        Ok(Cli { command: Some(command), .. }) => command,
        Err(error) => {
            // A terminal that is gone does not change what the code should be.
            let _ = error.print();
            return Outcome::Exit(exit_code(error.kind()));
        }
    };
    Outcome::Exit(match execute(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_broken_pipe() {
                let _ = writeln!(io::stderr(), "error: {error}");
            }
            error.exit_code()
        }
    })
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let mut command = without_empty_variables(Cli::command(), &is_empty);
    let mut matches = command.try_get_matches_from_mut(args)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Empty environment variables are as good as unset: whoever writes them into a Compose file or a Helm chart has
/// nothing to say, and clap would refuse them.
fn without_empty_variables(command: clap::Command, is_empty: &dyn Fn(&OsStr) -> bool) -> clap::Command {
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(Resettable::Reset),
        _ => arg,
    });
    command.mut_subcommands(|subcommand| without_empty_variables(subcommand, is_empty))
}

fn exit_code(kind: ErrorKind) -> ExitCode {
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

fn execute(command: Command) -> Result<(), CliError> {
    // Written out at the end of each batch or page rather than of each line.
    let mut out = io::BufWriter::new(io::stdout());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(run(command, &mut out));
    // What was printed before a failure is worth having.
    let flushed = out.flush().map_err(CliError::from);
    outcome.and(flushed)
}

async fn run(command: Command, out: &mut dyn Write) -> Result<(), CliError> {
    match command {
        // Handed back by `main` before it comes to this.
        Command::Serve(_) => Ok(()),
        // Mistakes in the flags come before the connection: they can be told without one.
        Command::Events(args) => {
            let filter = events::filter(&args)?;
            events::run(open(&args.client).await?, &args, filter, out, &mut io::stderr()).await
        }
        Command::Connections(args) => {
            let filter = connections::filter(&args)?;
            connections::run(open(&args.client).await?, &args, filter, SystemTime::now, out).await
        }
        Command::Consumers(args) => consumers::run(open(&args.client).await?, &args, out).await,
        Command::Send(args) => {
            let request = send::send_request(&args, &mut io::stdin())?;
            send::send(open(&args.client).await?, &args, request, out).await
        }
        Command::Broadcast(args) => {
            let request = send::broadcast_request(&args, &mut io::stdin())?;
            send::broadcast(open(&args.client).await?, &args, request, out).await
        }
        Command::Disconnect(args) => disconnect::run(open(&args.client).await?, &args, out).await,
        Command::Healthcheck(args) => {
            let check = async {
                let channel = connect(&args.at.server, args.timeout).await?;
                healthcheck::run(channel, &args, out).await
            };
            // One limit for both steps: a probe has its own, and kills what is over it without a word.
            let checked = tokio::time::timeout(args.timeout, check).await;
            checked.unwrap_or(Err(CliError::TimedOut(args.timeout)))
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "heartwire", &mut script);
            Ok(out.write_all(&script)?)
        }
        Command::Man { subcommand } => man(subcommand.as_deref(), out),
    }
}

async fn open(client: &ClientArgs) -> Result<Channel, CliError> {
    connect(&client.at.server, client.timeout).await
}

fn man(subcommand: Option<&str>, out: &mut dyn Write) -> Result<(), CliError> {
    let mut command = Cli::command();
    // So that the page of a subcommand is called heartwire-events and not events.
    command.build();
    let page = match subcommand {
        None => command,
        Some(name) => match command.find_subcommand(name) {
            Some(found) => found.clone(),
            None => return Err(CliError::Usage(format!("there is no subcommand {}", text::escaped(name)))),
        },
    };
    Ok(clap_mangen::Man::new(page).render(out)?)
}

#[cfg(test)]
mod tests;
