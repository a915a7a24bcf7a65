//! One run of the process: start, signals, shutdown, exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::banner::banner;
use super::{App, Listeners, Outcome};
use crate::clock::Clock;
use crate::config::{Config, LogFormat};
use crate::telemetry;

/// Exit codes: clean, runtime failure, configuration.
const FAILURE: u8 = 1;
const CONFIGURATION: u8 = 2;

/// How long the runtime may take to let go of what is left after a shutdown.
const RUNTIME_END: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once. The answer is the exit code:
/// 0 after a clean end, 1 if it could not run or the deadline cut something off, 2 if what is configured cannot be.
#[must_use]
pub fn run(config: Config) -> ExitCode {
    let _filter = match telemetry::init(&config.telemetry) {
        Ok(filter) => filter,
        Err(error) => return fail(CONFIGURATION, &error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, &format!("cannot start the runtime: {error}")),
    };
    let code = runtime.block_on(serve(config));
    runtime.shutdown_timeout(RUNTIME_END);
    code
}

async fn serve(config: Config) -> ExitCode {
    // Before anything is served, so that no signal finds the default action.
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => return fail(FAILURE, &format!("cannot listen for signals: {error}")),
    };
    let listeners = match Listeners::bind(&config).await {
        Ok(listeners) => listeners,
        Err(errors) => return fail(CONFIGURATION, &errors.to_string()),
    };
    let app = match App::start(config.clone(), listeners, Clock::default()) {
        Ok(app) => app,
        Err(error) => return fail(FAILURE, &error.to_string()),
    };
    announce(&config, &app);

    either(&mut terminate, &mut interrupt).await;
    tokio::select! {
        outcome = app.shutdown() => match outcome {
            Outcome::Clean => ExitCode::SUCCESS,
            Outcome::Late => {
                tracing::warn!("the shutdown deadline came before every connection was closed");
                ExitCode::from(FAILURE)
            }
        },
        () = either(&mut terminate, &mut interrupt) => {
            tracing::warn!("a second signal: ending at once");
            ExitCode::from(FAILURE)
        }
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// People get a banner; machines that read JSON get one event.
fn announce(config: &Config, app: &App) {
    let addresses = app.addresses();
    match config.telemetry.format {
        LogFormat::Text => {
            let text = banner(config, addresses, app.max_connections());
            // Whoever closed our standard output does not want it.
            let _ = std::io::stdout().write_all(text.as_bytes());
        }
        LogFormat::Json => tracing::info!(
            ws = %addresses.ws,
            grpc = %addresses.grpc,
            admin = %addresses.admin,
            log = "memory",
            self_named = true,
            max_connections = app.max_connections(),
            "serving"
        ),
    }
}

fn fail(code: u8, what: &str) -> ExitCode {
    for line in what.lines() {
        eprintln!("error: {line}");
    }
    ExitCode::from(code)
}
