//! One run of the process: start, signals, shutdown, exit code.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::banner::banner;
use super::{App, Listeners, Outcome};
use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, LogFormat};
use crate::telemetry::{self, LogFilter};
use crate::ws::Certificate;

/// Exit codes: clean, runtime failure, configuration.
const FAILURE: u8 = 1;
const CONFIGURATION: u8 = 2;

/// The same number on Linux and macOS.
const SIGXFSZ: i32 = 25;

/// How long the runtime may take to let go of what is left after a shutdown.
const RUNTIME_END: Duration = Duration::from_millis(100);

/// Serves until SIGTERM or SIGINT, then drains; a second signal ends the process at once. SIGHUP reads the configuration again, by
/// `reload`, and takes the log level over from it; the certificate is read again too. The answer is the exit code: 0 after a clean end, 1 if it could not run or the
/// deadline cut something off, 2 if what is configured cannot be.
#[must_use]
pub fn run(config: Config, reload: impl Fn() -> Result<Config, ConfigErrors>) -> ExitCode {
    let filter = match telemetry::init(&config.telemetry) {
        Ok(filter) => filter,
        Err(error) => return fail(CONFIGURATION, &error.to_string()),
    };
    let runtime = match Builder::new_multi_thread().worker_threads(client_threads()).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILURE, &format!("cannot start the runtime: {error}")),
    };
    let reload = || match reload() {
        Ok(config) => relevel(&filter, &config.telemetry.log),
        Err(errors) => tracing::error!(%errors, "SIGHUP: the configuration is not sound; nothing changes"),
    };
    let code = runtime.block_on(serve(config, reload));
    runtime.shutdown_timeout(RUNTIME_END);
    code
}

/// How many threads serve clients: one for every two processors. A heartbeat is a few microseconds, so one thread takes some hundred thousand a second; a
/// second one on the same two processors made each a half dearer, because the two of them and whoever sends take turns (docs/performance.md). The
/// control plane has threads of its own, which also write what is sent by [`Send`](crate::dispatch).
fn client_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |processors| processors.get().div_ceil(2))
}

fn relevel(filter: &LogFilter, level: &str) {
    match filter.set(level) {
        Ok(()) => tracing::info!(level, "SIGHUP: logging by the configuration as it is now"),
        Err(error) => tracing::error!(%error, "SIGHUP: the log filter stays as it was"),
    }
}

fn reread(certificate: &Certificate) {
    match certificate.reload() {
        Ok(true) => tracing::info!("SIGHUP: newcomers are shown the certificate as it is now"),
        Ok(false) => tracing::info!("SIGHUP: the certificate is the one that newcomers are shown"),
        Err(error) => tracing::error!(%error, "SIGHUP: newcomers are shown the certificate as it was"),
    }
}

/// The signals that are listened for.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// A file over the limit that the process was given. To be told of it as an error is enough: the log goes on when it can.
    _file_size: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            _file_size: signal(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Waits for one that ends the process; the others are acted on meanwhile.
    async fn end(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload(),
            }
        }
    }
}

async fn serve(config: Config, reload: impl Fn()) -> ExitCode {
    // Before anything is served, so that no signal finds the default action.
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(FAILURE, &format!("cannot listen for signals: {error}")),
    };
    let listeners = match Listeners::bind(&config).await {
        Ok(listeners) => listeners,
        Err(errors) => return fail(CONFIGURATION, &errors.to_string()),
    };
    // Reading a data directory takes as long as it takes, and signals are heard meanwhile.
    let starting = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || App::start(config, listeners, Clock::default()))
    };
    let started = tokio::select! {
        started = starting => started,
        () = signals.end(&reload) => {
            tracing::info!("told to end while starting; nobody was served");
            return ExitCode::SUCCESS;
        }
    };
    let started = match started {
        Ok(started) => started,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => return fail(FAILURE, &format!("cannot start: {error}")),
        },
    };
    let app = match started {
        Ok(app) => app,
        Err(error) if error.is_configuration() => return fail(CONFIGURATION, &error.to_string()),
        Err(error) => return fail(FAILURE, &error.to_string()),
    };
    announce(&config, &app);
    let certificate = app.certificate().cloned();

    let failed = app.failed();
    let reload = || {
        reload();
        if let Some(certificate) = &certificate {
            reread(certificate);
        }
    };
    tokio::select! {
        () = signals.end(&reload) => {}
        // Whoever watches over this process starts another; a shutdown in order needs the part that is gone.
        () = failed.cancelled() => return fail(FAILURE, "a part that everything depends on has ended; see the log"),
    }
    tokio::select! {
        outcome = app.shutdown() => match outcome {
            Outcome::Clean => ExitCode::SUCCESS,
            Outcome::Late => {
                tracing::warn!("the shutdown deadline came before every connection was closed");
                ExitCode::from(FAILURE)
            }
        },
        () = signals.end(&reload) => {
            tracing::warn!("a second signal: ending at once");
            ExitCode::from(FAILURE)
        }
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
            tls = config.ws.tls_files().is_some(),
            grpc = %addresses.grpc,
            admin = %addresses.admin,
            log = if config.log.data_dir.as_os_str().is_empty() { "memory" } else { "journal" },
            self_named = true,
            max_connections = app.max_connections(),
            "serving"
        ),
    }
}

fn fail(code: u8, what: &str) -> ExitCode {
    for line in what.lines() {
        // With nobody to tell, the exit code has to do.
        let _ = writeln!(std::io::stderr(), "error: {line}");
    }
    ExitCode::from(code)
}
