//! What the process writes about itself: log lines to stderr, under a filter that can be changed while it runs.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{LogFormat, TelemetryConfig};

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter means nothing.
    #[error("telemetry.log: {filter:?} is not a log filter: {reason}")]
    BadFilter {
        /// What was asked for.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a global subscriber already.
    #[error("logging is set up already")]
    AlreadySetUp,
    /// The subscriber that the handle belongs to is gone.
    #[error("logging has ended")]
    Ended,
}

/// Changes the filter of the process's log lines while it runs.
#[derive(Clone, Debug)]
pub struct LogFilter {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogFilter {
    /// Puts another filter in place of the present one, which stays if the new one is bad.
    ///
    /// # Errors
    /// The filter cannot be read, or logging has ended.
    pub fn set(&self, filter: &str) -> Result<(), TelemetryError> {
        let filter = parse(filter)?;
        self.handle.reload(filter).map_err(|_| TelemetryError::Ended)
    }
}

/// Sets up logging for the whole process, to stderr; colours only where that is a terminal.
///
/// # Errors
/// `telemetry.log` cannot be read, or logging was set up before.
pub fn init(config: &TelemetryConfig) -> Result<LogFilter, TelemetryError> {
    let (filter, handle) = reload::Layer::new(parse(&config.log)?);
    let lines = lines(config.format, io::stderr().is_terminal(), io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter).with(lines);
    subscriber.try_init().map_err(|_| TelemetryError::AlreadySetUp)?;
    Ok(LogFilter { handle })
}

/// The environment's `RUST_LOG` plays no part: what holds is what `--print-config` shows.
fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    let bad = |reason: String| TelemetryError::BadFilter { filter: filter.to_owned(), reason };
    if filter.trim().is_empty() {
        // It would be read as "errors only", which nobody means by it.
        return Err(bad("it is empty; \"off\" is for none".to_owned()));
    }
    EnvFilter::builder().parse(filter).map_err(|error| bad(error.to_string()))
}

fn lines<S, W>(format: LogFormat, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    // A line that cannot be written is dropped: saying so on a stderr that is gone panics whoever logged.
    let lines = fmt::layer().with_writer(writer).with_ansi(ansi).log_internal_errors(false);
    match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.with_ansi(false).json().flatten_event(true).with_span_list(false).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn logged(format: LogFormat, act: impl FnOnce(&LogFilter)) -> String {
        let written = Written::default();
        let (filter, handle) = reload::Layer::new(parse("info").unwrap());
        let writer = written.clone();
        let subscriber = tracing_subscriber::registry().with(filter).with(lines(format, false, move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || act(&LogFilter { handle }));
        written.text()
    }

    #[test]
    fn a_bad_filter_is_refused_and_names_its_key() {
        for filter in ["heartwire=loud", "a=b=c", "", " "] {
            let error = parse(filter).unwrap_err().to_string();
            assert!(error.starts_with("telemetry.log: "), "{error}");
            assert!(error.contains(&format!("{filter:?}")), "{error}");
        }
        for filter in ["info", "info,heartwire::ws=debug", "off"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn the_filter_can_be_changed_while_running_and_a_bad_one_changes_nothing() {
        let text = logged(LogFormat::Text, |filter| {
            tracing::debug!("one");
            filter.set("debug").unwrap();
            tracing::debug!("two");
            filter.set("heartwire=loud").unwrap_err();
            tracing::debug!("three");
            filter.set("off").unwrap();
            tracing::error!("four");
        });
        let said: Vec<_> = ["one", "two", "three", "four"].into_iter().filter(|word| text.contains(word)).collect();
        assert_eq!(said, ["two", "three"], "{text}");
    }

    #[test]
    fn json_lines_are_one_object_each_with_the_fields_at_the_top() {
        let text = logged(LogFormat::Json, |_| tracing::info!(connections = 3, "draining"));
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(line["message"], "draining");
        assert_eq!(line["connections"], 3);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn text_lines_have_no_escape_sequences_of_their_own_or_of_others() {
        let text = logged(LogFormat::Text, |_| tracing::info!("a \x1b[31mred\x1b[0m word"));
        assert!(text.contains("red") && !text.contains('\x1b'), "{text:?}");
    }
}
