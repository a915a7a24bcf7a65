//! The command line: every subcommand, flag and argument, and how their values are read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};

use super::connect::ServerAddress;
use super::error::CliError;
use crate::config::ConfigArgs;
use crate::pb;

/// Longest time that a flag takes: beyond it gRPC's own notation for deadlines ends.
const MOST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that a message is stored.
const MOST_TTL: Duration = Duration::from_secs(7 * 24 * 3600);

/// Holds WebSocket connections for a backend and tells it over gRPC who came, who went and what they said
#[derive(Parser, Debug)]
#[command(name = "heartwire", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) config: ConfigArgs,

    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Run the sidecar [what happens without a subcommand]
    Serve(ConfigArgs),
    /// Show events as they happen
    ///
    /// One event a line, with the time in UTC; what belongs to a snapshot is marked with *. A lost stream is resumed
    /// where it stopped, for as long as that takes; what happens to the stream itself is told on stderr.
    Events(EventsArgs),
    /// List the connections
    Connections(ConnectionsArgs),
    /// List the named positions that are kept for subscribers, or delete one
    Consumers(ConsumersArgs),
    /// Send a message to a client
    Send(SendArgs),
    /// Send a message to many clients
    Broadcast(BroadcastArgs),
    /// End a client's connections
    Disconnect(DisconnectArgs),
    /// Ask whether the server is healthy: exit code 0 if so, else 1
    Healthcheck(HealthcheckArgs),
    /// Print a completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print a manual page
    Man {
        /// Of this subcommand [default: of heartwire itself]
        subcommand: Option<String>,
    },
}

#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    /// gRPC address of Heartwire: host:port, http://host:port or unix:/path
    #[arg(long, value_name = "ADDRESS", env = "HEARTWIRE_SERVER", default_value = "http://127.0.0.1:50051")]
    pub(super) server: ServerAddress,
}

#[derive(Args, Debug)]
pub(super) struct ClientArgs {
    #[command(flatten)]
    pub(super) at: ServerArgs,

    /// How long connecting and each call may take; of a stream, until it is answered
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(super) timeout: Duration,
}

#[derive(Args, Debug)]
pub(super) struct SelectArgs {
    /// Only client ids that begin with this
    #[arg(long, value_name = "PREFIX", default_value = "", hide_default_value = true)]
    pub(super) prefix: String,

    /// Only with this label; may be repeated, then all must hold
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) label: Vec<(String, String)>,
}

/// Where a stream of events begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum From {
    Now,
    Beginning,
    Snapshot,
    Cursor(String),
}

/// Names for `--kind`: those of the output, and those of the contract where they differ.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Connected,
    Suspected,
    Recovered,
    Disconnected,
    #[value(alias = "message-received")]
    Message,
    #[value(alias = "labels-changed")]
    Labels,
    #[value(alias = "heartbeat-changed")]
    Heartbeat,
    #[value(alias = "message-expired")]
    Expired,
}

impl Kind {
    pub(super) fn to_pb(self) -> pb::EventKind {
        match self {
            Self::Connected => pb::EventKind::Connected,
            Self::Suspected => pb::EventKind::Suspected,
            Self::Recovered => pb::EventKind::Recovered,
            Self::Disconnected => pb::EventKind::Disconnected,
            Self::Message => pb::EventKind::MessageReceived,
            Self::Labels => pb::EventKind::LabelsChanged,
            Self::Heartbeat => pb::EventKind::HeartbeatChanged,
            Self::Expired => pb::EventKind::MessageExpired,
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    /// Where to begin: now, beginning (the oldest kept), snapshot (the present state first) or a cursor
    #[arg(long, value_name = "PLACE", default_value = "now", value_parser = from)]
    pub(super) from: From,

    /// Only events of this kind; may be repeated
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) kind: Vec<Kind>,

    /// Only events of this client id; may be repeated
    #[arg(long = "client", value_name = "CLIENT_ID")]
    pub(super) client_id: Vec<String>,

    #[command(flatten)]
    pub(super) select: SelectArgs,

    /// Print each event as a line of JSON, as the contract has it; a snapshot's have no cursor
    #[arg(long)]
    pub(super) json: bool,

    /// End after so many events
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,

    /// End with an error when the stream is lost
    #[arg(long)]
    pub(super) no_resume: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Alive,
    Suspect,
}

#[derive(Args, Debug)]
pub(super) struct ConnectionsArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    #[command(flatten)]
    pub(super) select: SelectArgs,

    /// Only connections in this state
    #[arg(long, value_enum)]
    pub(super) state: Option<State>,

    /// Print only how many there are
    #[arg(long)]
    pub(super) count: bool,

    /// Print each connection as a line of JSON, as the contract has it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ConsumersArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    /// Forget this one and its position; a stream that uses it ends
    #[arg(long, value_name = "NAME")]
    pub(super) delete: Option<String>,

    /// Print each consumer, or the answer, as a line of JSON, as the contract has it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receipt {
    /// Stored for the client; with --ttl
    Stored,
    /// In the outbox
    Accepted,
    /// Taken by the kernel
    Written,
}

#[derive(Args, Debug)]
#[command(override_usage = "heartwire send [OPTIONS] <CLIENT_ID> <TEXT>\n       \
                            heartwire send [OPTIONS] <CLIENT_ID> --binary <FILE>\n       \
                            heartwire send [OPTIONS] --connection <ID> <TEXT>")]
pub(super) struct SendArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    /// The client to send to
    #[arg(required_unless_present = "connection")]
    pub(super) client_id: Option<String>,

    /// The text; - reads it from stdin, without its last line end; one that begins with a dash comes after --, as in
    /// send alice -- -x
    pub(super) text: Option<String>,

    /// Send to this connection only, instead of a client id
    #[arg(long, value_name = "ID")]
    pub(super) connection: Option<String>,

    /// Send a file as a binary message; - reads stdin
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(super) binary: Option<PathBuf>,

    /// Only to the connection of this generation
    #[arg(
        long,
        value_name = "GENERATION",
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(super) if_generation: i64,

    /// Store the message and send it for as long as this, until the client has it
    #[arg(long, value_name = "TIME", value_parser = ttl, conflicts_with_all = ["connection", "if_generation"])]
    pub(super) ttl: Option<Duration>,

    /// Names the message, so that a repeat is not stored twice
    #[arg(long, value_name = "ID", requires = "ttl", default_value = "", hide_default_value = true)]
    pub(super) message_id: String,

    /// The stage to wait for [default: accepted, or stored with --ttl]
    #[arg(long, value_enum)]
    pub(super) receipt: Option<Receipt>,

    /// How long to wait for --receipt written, or with --ttl for accepted
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    pub(super) receipt_timeout: Duration,

    /// Print the answer as JSON, as the contract has it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whom").args(["everyone", "label"]).required(true))]
pub(super) struct BroadcastArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    /// The text; - reads it from stdin, without its last line end; one that begins with a dash comes after --, as in
    /// broadcast --everyone -- -x
    #[arg(required_unless_present = "binary")]
    pub(super) text: Option<String>,

    /// To every connection
    #[arg(long)]
    pub(super) everyone: bool,

    /// To connections with this label; may be repeated, then all must hold
    #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
    pub(super) label: Vec<(String, String)>,

    /// Send a file as a binary message; - reads stdin
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub(super) binary: Option<PathBuf>,

    /// Print the answer as JSON, as the contract has it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("whom").args(["client_id", "connection"]).required(true))]
pub(super) struct DisconnectArgs {
    #[command(flatten)]
    pub(super) client: ClientArgs,

    /// The client whose connections to end
    pub(super) client_id: Option<String>,

    /// End this connection only
    #[arg(long, value_name = "ID")]
    pub(super) connection: Option<String>,

    /// The WebSocket close code that the client gets [default: 1000, do not reconnect]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub(super) code: u16,

    /// The close reason that the client gets, at most 123 bytes
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(super) reason: String,

    /// Only the connection of this generation
    #[arg(
        long,
        value_name = "GENERATION",
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true
    )]
    pub(super) if_generation: i64,

    /// Print the answer as JSON, as the contract has it
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct HealthcheckArgs {
    #[command(flatten)]
    pub(super) at: ServerArgs,

    /// The service to ask about, such as heartwire.v1.EventService [default: the server as a whole]
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub(super) service: String,

    /// How long it may take in all
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    pub(super) timeout: Duration,

    /// Print the answer as JSON, as the contract of grpc.health.v1 has it
    #[arg(long)]
    pub(super) json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_millis(1)..=MOST_TIME).contains(&time) => Ok(time),
        _ => Err("expected a time from 1ms to 24h, such as 500ms or 10s".to_owned()),
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_millis(1)..=MOST_TTL).contains(&time) => Ok(time),
        _ => Err("expected a time from 1ms to 7d, such as 10m or 2h".to_owned()),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

fn from(text: &str) -> Result<From, String> {
    Ok(match text {
        "" => return Err("expected now, beginning, snapshot or a cursor".to_owned()),
        "now" => From::Now,
        "beginning" => From::Beginning,
        "snapshot" => From::Snapshot,
        cursor => From::Cursor(cursor.to_owned()),
    })
}

/// A selector from repeated flags. Two values for one key can hold for nobody, so they are a mistake.
pub(super) fn labels(flags: &[(String, String)]) -> Result<HashMap<String, String>, CliError> {
    let mut labels = HashMap::new();
    for (key, value) in flags {
        if labels.insert(key.clone(), value.clone()).is_some_and(|other| other != *value) {
            return Err(CliError::Usage(format!("--label {key}= is given twice with different values")));
        }
    }
    Ok(labels)
}
