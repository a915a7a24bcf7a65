//! A histogram of durations, to three significant digits.

use hdrhistogram::Histogram;

use crate::results::Measured;

/// Durations in nanoseconds, up to ten minutes.
pub struct Latencies(Histogram<u64>);

impl Latencies {
    pub fn new() -> Result<Self, String> {
        Histogram::new_with_bounds(1, 600_000_000_000, 3).map(Self).map_err(|error| error.to_string())
    }

    pub fn record(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Median, p99 and maximum in microseconds, named after `what`; nothing if nothing was recorded.
    pub fn measured(&self, what: &str) -> Vec<Measured> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let micros = |nanos: u64| nanos as f64 / 1_000.0;
        [("p50", self.0.value_at_quantile(0.5)), ("p99", self.0.value_at_quantile(0.99)), ("max", self.0.max())]
            .map(|(name, nanos)| Measured::less_is_better(format!("{what} {name}"), "µs", micros(nanos)))
            .into()
    }
}
