//! The scenarios, a file each.

mod broadcast;
mod burst;
mod churn;
mod connect;
mod echo;
mod fanout;
mod filling;
mod growth;
mod heartbeats;
mod idle;
mod replay;
mod seen;
mod send;
mod silence;
mod storm;
mod stream;
mod surge;

use std::time::Duration;

use crate::args::Options;
use crate::results::Outcome;
use crate::stage::Stage;

/// One thing to measure.
pub struct Scenario {
    pub name: &'static str,
    pub about: &'static str,
    /// What is asked for, in words.
    pub parameters: fn(&Options) -> String,
    /// Heartbeat interval where the command names none.
    pub interval: Duration,
    /// Measures one server once.
    pub run: fn(&Stage<'_>) -> Result<Outcome, String>,
}

/// The interval that Heartwire ships with.
const USUAL: Duration = Duration::from_secs(30);

pub const ALL: &[Scenario] = &[
    idle::SCENARIO,
    heartbeats::SCENARIO,
    connect::SCENARIO,
    seen::SCENARIO,
    storm::SCENARIO,
    surge::SCENARIO,
    send::SCENARIO,
    stream::SCENARIO,
    broadcast::SCENARIO,
    replay::SCENARIO,
    fanout::SCENARIO,
    silence::SCENARIO,
    echo::SCENARIO,
    churn::SCENARIO,
    growth::SCENARIO,
];

pub fn named(name: &str) -> Result<&'static Scenario, String> {
    let known = || ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    ALL.iter()
        .find(|scenario| scenario.name == name)
        .ok_or_else(|| format!("no scenario is called {name}; there are {}", known()))
}

/// How many, or the default.
fn count(asked: Option<u32>, default: u32) -> u32 {
    asked.unwrap_or(default)
}

/// A length of time in words.
fn time(asked: Option<Duration>, default: u64) -> humantime::FormattedDuration {
    humantime::format_duration(asked.unwrap_or(Duration::from_secs(default)))
}
