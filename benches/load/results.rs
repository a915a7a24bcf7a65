//! What was measured: values by server and metric, over the rounds.

use serde::{Deserialize, Serialize};

use crate::host::Host;

/// One value of one round.
#[derive(Clone, Debug)]
pub struct Measured {
    pub metric: String,
    pub unit: &'static str,
    pub less_is_better: bool,
    pub value: f64,
    /// Connections it was measured at, where it is a point of a curve.
    pub at: Option<u32>,
}

impl Measured {
    pub fn less_is_better(metric: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { metric: metric.into(), unit, less_is_better: true, value, at: None }
    }

    pub fn more_is_better(metric: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { less_is_better: false, ..Self::less_is_better(metric, unit, value) }
    }

    pub fn at(self, connections: usize) -> Self {
        Self { at: u32::try_from(connections).ok(), ..self }
    }
}

/// What a scenario hands back for one server in one round.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub measured: Vec<Measured>,
    /// What was out of the ordinary, such as connections that were refused first.
    pub remarks: Vec<String>,
}

/// All values of one metric of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    pub metric: String,
    pub unit: String,
    pub less_is_better: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub connections: Option<u32>,
    /// One a round.
    pub values: Vec<f64>,
}

/// All of one server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerResults {
    pub name: String,
    pub title: String,
    pub version: String,
    pub differs: Vec<String>,
    /// What it agreed on in TLS handshakes, in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<String>,
    pub series: Vec<Series>,
    pub remarks: Vec<String>,
    /// Why it has no values, or not of all rounds.
    pub failures: Vec<String>,
}

/// One scenario, over all servers and rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub scenario: String,
    pub about: String,
    /// What was asked for, in words.
    pub parameters: String,
    /// Settings of Heartwire that are not its defaults.
    pub settings: Vec<String>,
    /// Whether the clients spoke TLS; runs that were recorded before did not.
    #[serde(default)]
    pub tls: bool,
    /// Whether they held sessions.
    #[serde(default)]
    pub sessions: bool,
    pub rounds: u16,
    pub reference: Option<String>,
    pub host: Host,
    pub servers: Vec<ServerResults>,
    /// Servers asked for that were left out, and why.
    pub skipped: Vec<String>,
}

impl Series {
    /// The middle one; of an even number the mean of the two in the middle.
    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.get(middle), sorted.len() % 2) {
            (Some(high), 0) => f64::midpoint(sorted[middle - 1], *high),
            (Some(only), _) => *only,
            (None, _) => f64::NAN,
        }
    }

    /// Least and greatest.
    pub fn range(&self) -> (f64, f64) {
        self.values
            .iter()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
    }

    fn is_of(&self, metric: &str, connections: Option<u32>) -> bool {
        self.metric == metric && self.connections == connections
    }
}

impl ServerResults {
    pub fn series(&self, metric: &str, connections: Option<u32>) -> Option<&Series> {
        self.series.iter().find(|series| series.is_of(metric, connections))
    }

    /// Adds one round.
    pub fn add(&mut self, outcome: Outcome) {
        for Measured { metric, unit, less_is_better, value, at } in outcome.measured {
            match self.series.iter_mut().find(|series| series.is_of(&metric, at)) {
                Some(series) => series.values.push(value),
                None => self.series.push(Series {
                    metric,
                    unit: unit.to_owned(),
                    less_is_better,
                    connections: at,
                    values: vec![value],
                }),
            }
        }
        for remark in outcome.remarks {
            if !self.remarks.contains(&remark) {
                self.remarks.push(remark);
            }
        }
    }
}
