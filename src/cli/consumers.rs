//! `heartwire consumers`: the named positions and how far behind each is, or the end of one.

use std::io::Write;

use tonic::transport::Channel;

use super::args::ConsumersArgs;
use super::connect::unary;
use super::error::CliError;
use super::json;
use super::text::{duration, escaped, span};
use crate::pb;
use crate::pb::event_service_client::EventServiceClient;

const HEADER: [&str; COLUMNS] = ["CONSUMER", "STATE", "BEHIND", "FOR"];
const COLUMNS: usize = 4;

/// Wider cells push their own line only.
const MOST_WIDTH: usize = 48;

type Row = [String; COLUMNS];

/// Lists the consumers, or deletes the one that is named.
pub(super) async fn run(channel: Channel, args: &ConsumersArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let client = EventServiceClient::new(channel);
    match &args.delete {
        Some(name) => delete(client, args, name, out).await,
        None => list(client, args, out).await,
    }
}

async fn delete(
    mut client: EventServiceClient<Channel>,
    args: &ConsumersArgs,
    name: &str,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let request = pb::DeleteConsumerRequest { consumer: name.to_owned() };
    let answer = unary(args.client.timeout, request, async |request| client.delete_consumer(request).await).await?;
    match args.json {
        true => json::write_line(out, "DeleteConsumerResponse", &answer)?,
        false => writeln!(out, "deleted {}", escaped(name))?,
    }
    Ok(())
}

async fn list(
    mut client: EventServiceClient<Channel>,
    args: &ConsumersArgs,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut rows = vec![HEADER.map(str::to_owned)];
    let mut page_token = String::new();
    loop {
        let request = pb::ListConsumersRequest { page_token, ..Default::default() };
        let page = unary(args.client.timeout, request, async |request| client.list_consumers(request).await).await?;
        for consumer in &page.consumers {
            match args.json {
                true => json::write_line(out, "Consumer", consumer)?,
                false => rows.push(row(consumer)),
            }
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if !args.json {
        print(&rows, out)?;
    }
    Ok(())
}

fn row(consumer: &pb::Consumer) -> Row {
    let state = match (consumer.expired, consumer.attached) {
        (true, _) => "EXPIRED",
        (false, true) => "ATTACHED",
        (false, false) => "DETACHED",
    };
    // One without a position waits for its snapshot to be acknowledged.
    let behind = if consumer.cursor.is_empty() { "-".to_owned() } else { consumer.lag_events.to_string() };
    let age = duration(consumer.lag_time.as_ref()).map_or("-".to_owned(), span);
    [escaped(&consumer.name), state.to_owned(), behind, age]
}

/// All at once: there are at most 1,000.
fn print(rows: &[Row], out: &mut dyn Write) -> Result<(), CliError> {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().clamp(*width, MOST_WIDTH);
        }
    }
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tonic::Code;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::fake::{Fake, refusal};

    async fn ran(fake: &Fake, flags: &str) -> (Result<(), CliError>, String) {
        let line = ["heartwire", "consumers"].into_iter().chain(flags.split_whitespace());
        let Some(Command::Consumers(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let mut out = Vec::new();
        let outcome = run(fake.channel().await, &args, &mut out).await;
        (outcome, String::from_utf8(out).unwrap())
    }

    fn pages() -> [Result<pb::ListConsumersResponse, tonic::Status>; 2] {
        let consumer = |name: &str, lag_events, seconds| pb::Consumer {
            name: name.to_owned(),
            cursor: "c".to_owned(),
            lag_events,
            lag_time: Some(prost_types::Duration { seconds, nanos: 0 }),
            ..Default::default()
        };
        let new = pb::Consumer { name: "new\x1b[2J".to_owned(), ..Default::default() };
        let page =
            |consumers, token: &str| Ok(pb::ListConsumersResponse { consumers, next_page_token: token.to_owned() });
        [
            page(vec![pb::Consumer { attached: true, ..consumer("billing", 0, 0) }], "two"),
            page(vec![consumer("db", 17, 245), pb::Consumer { expired: true, ..consumer("lost", 1_000, 0) }, new], ""),
        ]
    }

    #[tokio::test]
    async fn all_pages_make_one_table() {
        let fake = Fake::default();
        fake.consumer_lists.extend(pages());
        let (outcome, text) = ran(&fake, "").await;
        outcome.unwrap();
        let lines: Vec<_> = text.lines().collect();
        let expected = [
            "CONSUMER      STATE     BEHIND  FOR",
            "billing       ATTACHED  0       0ms",
            "db            DETACHED  17      4m05s",
            "lost          EXPIRED   1000    0ms",
            "new\\u{1b}[2J  DETACHED  -       -",
        ];
        assert_eq!(lines, expected);
        let tokens: Vec<_> =
            fake.consumer_list_requests.taken().into_iter().map(|request| request.page_token).collect();
        assert_eq!(tokens, ["", "two"]);
    }

    #[tokio::test]
    async fn json_is_one_consumer_a_line() {
        let fake = Fake::default();
        fake.consumer_lists.extend(pages());
        let (outcome, text) = ran(&fake, "--json").await;
        outcome.unwrap();
        let names: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["name"].clone()).collect();
        assert_eq!(names, ["billing", "db", "lost", "new\x1b[2J"]);
    }

    #[tokio::test]
    async fn one_that_is_deleted_is_named_and_one_that_is_not_there_is_a_failure() {
        let fake = Fake::default();
        fake.consumer_deletes.extend([
            Ok(pb::DeleteConsumerResponse {}),
            Ok(pb::DeleteConsumerResponse {}),
            Err(refusal(Code::NotFound, "CONSUMER_NOT_FOUND")),
        ]);
        let (outcome, text) = ran(&fake, "--delete db").await;
        outcome.unwrap();
        assert_eq!(text, "deleted db\n");
        assert_eq!(ran(&fake, "--delete db --json").await.1, "{}\n");
        let error = ran(&fake, "--delete db").await.0.unwrap_err();
        assert_eq!(error.to_string(), "refused (NOT_FOUND, CONSUMER_NOT_FOUND)");
        assert!(fake.consumer_delete_requests.taken().iter().all(|request| request.consumer == "db"));
    }
}
