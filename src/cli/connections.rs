//! `heartwire connections`: who is connected, page by page.

use std::io::Write;
use std::time::{Duration, SystemTime};

use tonic::transport::Channel;

use super::args::{self, ConnectionsArgs, State};
use super::connect::unary;
use super::error::CliError;
use super::json;
use super::text::{between, enum_name, escaped, labels, span};
use crate::pb;
use crate::pb::connection_service_client::ConnectionServiceClient;

const HEADER: [&str; COLUMNS] = ["CLIENT ID", "STATE", "CONNECTED", "LAST SEEN", "ADDRESS", "LABELS"];
const COLUMNS: usize = 6;

/// Wider cells push their own line only.
const MOST_WIDTH: usize = 48;

type Row = [String; COLUMNS];

/// Which connections the flags ask for.
pub(super) fn filter(args: &ConnectionsArgs) -> Result<pb::ConnectionFilter, CliError> {
    Ok(pb::ConnectionFilter {
        client_id_prefix: args.select.prefix.clone(),
        labels: args::labels(&args.select.label)?,
        state: match args.state {
            None => pb::ConnectionState::Unspecified.into(),
            Some(State::Alive) => pb::ConnectionState::Alive.into(),
            Some(State::Suspect) => pb::ConnectionState::Suspect.into(),
        },
    })
}

/// Lists or counts the connections; `now` is what ages are told by.
pub(super) async fn run(
    channel: Channel,
    args: &ConnectionsArgs,
    filter: pb::ConnectionFilter,
    now: fn() -> SystemTime,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut client = ConnectionServiceClient::new(channel);
    if args.count {
        let request = pb::CountConnectionsRequest { filter: Some(filter) };
        let call = async |request| client.count_connections(request).await;
        let answer = unary(args.client.timeout, request, call).await?;
        match args.json {
            true => json::write_line(out, "CountConnectionsResponse", &answer)?,
            false => writeln!(out, "{}", answer.count)?,
        }
        return Ok(());
    }
    let mut widths = HEADER.map(str::len);
    let mut page_token = String::new();
    let mut first = true;
    loop {
        let request = pb::ListConnectionsRequest { filter: Some(filter.clone()), page_token, ..Default::default() };
        let call = async |request| client.list_connections(request).await;
        let page = unary(args.client.timeout, request, call).await?;
        if args.json {
            for connection in &page.connections {
                json::write_line(out, "Connection", connection)?;
            }
        } else {
            let now = now();
            let header = first.then(|| HEADER.map(str::to_owned));
            let rows: Vec<_> = header.into_iter().chain(page.connections.iter().map(|one| row(one, now))).collect();
            // A page at a time: the whole list may be greater than a terminal's memory of it.
            print(&rows, &mut widths, out)?;
        }
        out.flush()?;
        first = false;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(());
        }
    }
}

fn row(connection: &pb::Connection, now: SystemTime) -> Row {
    let known = pb::ConnectionState::try_from(connection.state).ok();
    let last_seen = connection.stats.as_ref().and_then(|stats| stats.last_seen_time.as_ref());
    let age = |time: Option<Duration>, suffix: &str| match time {
        Some(time) => format!("{}{suffix}", span(time)),
        None => "-".to_owned(),
    };
    [
        escaped(&connection.client_id),
        enum_name(known.map(|state| state.as_str_name()), "CONNECTION_STATE_", connection.state),
        age(between(connection.connect_time.as_ref(), now), ""),
        age(between(last_seen, now), " ago"),
        escaped(&connection.remote_address),
        labels(&connection.labels),
    ]
}

fn print(rows: &[Row], widths: &mut [usize; COLUMNS], out: &mut dyn Write) -> Result<(), CliError> {
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().clamp(*width, MOST_WIDTH);
        }
    }
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&*widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tonic::{Code, Status};

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::fake::{Fake, refusal};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_100)
    }

    async fn ran(fake: &Fake, flags: &str) -> (Result<(), CliError>, String) {
        let line = ["heartwire", "connections"].into_iter().chain(flags.split_whitespace());
        let Some(Command::Connections(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let mut out = Vec::new();
        let outcome = match filter(&args) {
            Ok(filter) => run(fake.channel().await, &args, filter, now, &mut out).await,
            Err(error) => Err(error),
        };
        (outcome, String::from_utf8(out).unwrap())
    }

    fn connection(client_id: &str, state: pb::ConnectionState) -> pb::Connection {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        pb::Connection {
            client_id: client_id.to_owned(),
            state: state.into(),
            connect_time: at(1_000_000),
            remote_address: "10.0.0.1:4000".to_owned(),
            labels: [("room".to_owned(), "7".to_owned())].into(),
            stats: Some(pb::ConnectionStats { last_seen_time: at(1_000_098), ..Default::default() }),
            ..Default::default()
        }
    }

    fn pages() -> Vec<Result<pb::ListConnectionsResponse, Status>> {
        let page = |connections, token: &str| {
            Ok(pb::ListConnectionsResponse { connections, next_page_token: token.to_owned(), ..Default::default() })
        };
        let bare = pb::Connection { client_id: "m\x1b[2J".to_owned(), state: 9, ..Default::default() };
        vec![
            page(vec![connection("alice", pb::ConnectionState::Alive)], "two"),
            page(vec![], "three"),
            page(vec![connection("bob-with-a-longer-name", pb::ConnectionState::Suspect), bare], ""),
        ]
    }

    #[tokio::test]
    async fn all_pages_make_one_table() {
        let fake = Fake::default();
        fake.lists.extend(pages());
        let (outcome, text) = ran(&fake, "").await;
        outcome.unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "CLIENT ID  STATE  CONNECTED  LAST SEEN  ADDRESS        LABELS");
        assert_eq!(lines[1], "alice      ALIVE  1m40s      2.0s ago   10.0.0.1:4000  room=7");
        assert_eq!(lines[2], "bob-with-a-longer-name  SUSPECT  1m40s      2.0s ago   10.0.0.1:4000  room=7");
        assert_eq!(lines[3], "m\\u{1b}[2J              9        -          -");
        let tokens: Vec<_> = fake.list_requests.taken().into_iter().map(|request| request.page_token).collect();
        assert_eq!(tokens, ["", "two", "three"]);
    }

    #[tokio::test]
    async fn the_filter_is_the_same_for_every_page_and_json_is_one_connection_a_line() {
        let fake = Fake::default();
        fake.lists.extend(pages());
        let (outcome, text) = ran(&fake, "--json --prefix a --label room=7 --label x= --state suspect").await;
        outcome.unwrap();
        let ids: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["clientId"].clone())
            .collect();
        assert_eq!(ids, ["alice", "bob-with-a-longer-name", "m\x1b[2J"]);
        for request in fake.list_requests.taken() {
            let filter = request.filter.unwrap();
            assert_eq!((filter.client_id_prefix.as_str(), filter.labels.len(), filter.state), ("a", 2, 2));
        }
    }

    #[tokio::test]
    async fn a_count_is_a_bare_number() {
        let fake = Fake::default();
        fake.counts.extend([Ok(pb::CountConnectionsResponse { count: 42, ..Default::default() })]);
        assert_eq!(ran(&fake, "--count").await.1, "42\n");
    }

    #[tokio::test]
    async fn a_refused_page_is_an_error_that_names_its_reason() {
        let fake = Fake::default();
        fake.lists.extend([Err(refusal(Code::InvalidArgument, "PAGE_TOKEN_INVALID"))]);
        let error = ran(&fake, "").await.0.unwrap_err();
        assert_eq!(error.to_string(), "refused (INVALID_ARGUMENT, PAGE_TOKEN_INVALID)");
    }

    #[tokio::test]
    async fn two_values_for_one_label_are_a_usage_error() {
        let error = ran(&Fake::default(), "--label a=1 --label a=2").await.0.unwrap_err();
        assert!(matches!(error, CliError::Usage(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_answer_is_given_up_at_the_timeout() {
        let fake = Fake::default();
        let error = ran(&fake, "--count --timeout 3s").await.0.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 3s (DEADLINE_EXCEEDED)");
    }
}
