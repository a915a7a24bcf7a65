//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// Measures Heartwire beside other servers, in the same run on the same machine
#[derive(Parser, Debug)]
#[command(name = "load", version)]
pub struct Args {
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run one scenario, or several, against each server in turn, several rounds
    Run(Options),
    /// Show the scenarios and the servers, and which of them are installed
    List,
    /// Install the named peers, or all, under target/
    Install {
        /// Names of peers
        peers: Vec<String>,
    },
    /// Draw the growth plots of a recorded run again
    Plot {
        /// A JSON file that `run growth` wrote
        file: PathBuf,
    },
    /// Be the raw tokio server that others are compared with
    #[command(hide = true)]
    RawTokio {
        /// Where to listen on 127.0.0.1
        port: u16,
    },
}

/// What to run and how much of it. Everything has an end: counts and times are bounded here.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Scenarios, in this order
    #[arg(required = true, value_delimiter = ',')]
    pub scenarios: Vec<String>,

    /// Servers to run against, in this order in each round; one that is not installed or takes no part is skipped
    #[arg(long, value_delimiter = ',', default_value = "heartwire")]
    pub against: Vec<String>,

    /// Also run `heartwire-journal` beside `heartwire`: the same with its log in a directory on disk
    #[arg(long)]
    pub with_journal: bool,

    /// Server that ratios are taken to [default: the last of --against that took part]
    #[arg(long)]
    pub reference: Option<String>,

    /// Rounds; each runs every server once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,

    /// Connections [default: the scenario's own]
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u32).range(1..=18_000))]
    pub connections: Option<u32>,

    /// Length of each measured window [default: the scenario's own]
    #[arg(long, value_parser = seconds)]
    pub window: Option<Duration>,

    /// Messages, events or connects a second, where a scenario has a fixed rate [default: the scenario's own]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: Option<u32>,

    /// Sends in flight, where a scenario saturates
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: u32,

    /// Subscribers of `fanout`
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub subscribers: u32,

    /// Connections of `churn` in all, and events of `replay`
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    pub total: Option<u32>,

    /// Heartbeat interval of the servers [default: 30s, 4s in `silence`]; the timeout is twice that
    #[arg(long, value_parser = seconds)]
    pub interval: Option<Duration>,

    /// Another build of Heartwire as a server of its own; may be repeated
    #[arg(long, value_name = "NAME=PATH", value_parser = named_binary)]
    pub binary: Vec<(String, PathBuf)>,

    /// Any key of Heartwire's configuration; may be repeated, and is recorded with the results. {scratch} stands for a
    /// directory of the server's own, as in --set log.data_dir={scratch}/data
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,

    /// The clients speak TLS, with a certificate that is made for the run, and every handshake is a full one. Servers that cannot are
    /// left out; the backend's side stays as it is
    #[arg(long)]
    pub tls: bool,

    /// The clients hold sessions of `heartwire.v1.json`; only Heartwire takes part then, and only in some scenarios
    #[arg(long)]
    pub sessions: bool,

    /// Directory for the JSON, the plots and the servers' own output [default: target/bench]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let fits = (Duration::from_millis(100)..=Duration::from_secs(600)).contains(&duration);
    if fits { Ok(duration) } else { Err("from 100ms to 10m".to_owned()) }
}

fn named_binary(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("NAME=PATH")?;
    Ok((name.to_owned(), PathBuf::from(path)))
}
