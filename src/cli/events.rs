//! `heartwire events`: the stream, and how it goes on after it was lost.

use std::io::Write;
use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Status};

use super::args::{self, EventsArgs};
use super::error::{CliError, describe, reason};
use super::event_line::Lines;
use super::{json, text};
use crate::pb;
use crate::pb::event_service_client::EventServiceClient;
use crate::pb::subscribe_request::Start;

const LEAST_WAIT: Duration = Duration::from_millis(500);
const MOST_WAIT: Duration = Duration::from_secs(30);
/// So long the server lets a snapshot wait for its turn before it answers.
const SNAPSHOT_TURN: Duration = Duration::from_secs(10);

/// How one stream ended.
enum End {
    /// As many events as were asked for.
    Limit,
    /// By the server, or on the way.
    Lost(Status),
}

/// Which events the flags ask for.
pub(super) fn filter(args: &EventsArgs) -> Result<pb::EventFilter, CliError> {
    Ok(pb::EventFilter {
        kinds: args.kind.iter().map(|kind| kind.to_pb().into()).collect(),
        client_ids: args.client_id.clone(),
        client_id_prefix: args.select.prefix.clone(),
        labels: args::labels(&args.select.label)?,
    })
}

/// Follows the events until there were enough of them or something happens that trying again does not mend. What is
/// said about the stream itself goes to `notes`.
pub(super) async fn run(
    channel: Channel,
    args: &EventsArgs,
    filter: pb::EventFilter,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> Result<(), CliError> {
    let mut stream = Stream {
        client: EventServiceClient::new(channel),
        filter,
        start: match &args.from {
            args::From::Now => Start::Now(pb::NowStart {}),
            args::From::Beginning => Start::Beginning(pb::BeginningStart {}),
            args::From::Snapshot => Start::Snapshot(pb::SnapshotStart {}),
            args::From::Cursor(cursor) => Start::Cursor(cursor.clone()),
        },
        wait: LEAST_WAIT,
        subscribed: false,
        timeout: args.client.timeout,
        told: false,
        left: args.limit,
        lines: (!args.json).then(Lines::default),
    };
    loop {
        let status = match stream.follow(out).await? {
            End::Limit => return Ok(()),
            End::Lost(status) => status,
        };
        if args.no_resume || !can_resume(&status, stream.subscribed) {
            if let Start::Cursor(cursor) = &stream.start
                && stream.told
            {
                note(notes, &format!("the last cursor is {}", text::escaped(cursor)));
            }
            return Err(status.into());
        }
        // Many subscribers of one node that restarts must not come back in step.
        let wait = stream.wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        let how = stream.how_it_goes_on();
        note(notes, &format!("the stream was lost: {}; {how} in {}", describe(&status), text::span(wait)));
        tokio::time::sleep(wait).await;
        stream.wait = (stream.wait * 2).min(MOST_WAIT);
    }
}

/// A terminal that is gone shows on stdout; a note is not worth failing for.
fn note(notes: &mut dyn Write, text: &str) {
    let _ = writeln!(notes, "note: {text}");
}

/// Whether the same subscription, from where it stopped, may succeed later. A first one that is refused is told at
/// once, since somebody waits for it.
fn can_resume(status: &Status, subscribed: bool) -> bool {
    match (status.code(), reason(status).as_deref()) {
        (Code::ResourceExhausted, Some("SNAPSHOTS_LIMIT")) => true,
        // The lost stream may still be counted.
        (Code::ResourceExhausted, Some("SUBSCRIBERS_LIMIT")) => subscribed,
        (Code::Unavailable, _) => subscribed,
        // Heartwire always gives a reason: without one it was the way there that broke.
        (Code::Unknown | Code::Internal | Code::Cancelled, None) => subscribed,
        _ => false,
    }
}

struct Stream {
    client: EventServiceClient<Channel>,
    filter: pb::EventFilter,
    /// Where to begin the next time: what was asked for until there is a cursor.
    start: Start,
    wait: Duration,
    /// Whether any attempt was let in.
    subscribed: bool,
    /// How long each attempt may take to be answered.
    timeout: Duration,
    /// Whether the server gave the cursor in `start`, rather than the flags.
    told: bool,
    /// Events still to print.
    left: Option<u64>,
    /// None: JSON.
    lines: Option<Lines>,
}

impl Stream {
    async fn follow(&mut self, out: &mut dyn Write) -> Result<End, CliError> {
        let request = pb::SubscribeRequest {
            start: Some(self.start.clone()),
            filter: Some(self.filter.clone()),
            ..Default::default()
        };
        let turn = if matches!(self.start, Start::Snapshot(_)) { SNAPSHOT_TURN } else { Duration::ZERO };
        let timeout = self.timeout + turn;
        let mut responses = match tokio::time::timeout(timeout, self.client.subscribe(request)).await {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => return Ok(End::Lost(status)),
            Err(_) if !self.subscribed => return Err(CliError::TimedOut(timeout)),
            Err(_) => return Ok(End::Lost(Status::unavailable(CliError::TimedOut(timeout).to_string()))),
        };
        self.subscribed = true;
        loop {
            match responses.message().await {
                Ok(Some(response)) => {
                    let enough = self.print(&response, out)?;
                    out.flush()?;
                    if enough {
                        return Ok(End::Limit);
                    }
                }
                Ok(None) => return Ok(End::Lost(Status::unavailable("the server ended it"))),
                Err(status) => return Ok(End::Lost(status)),
            }
            self.wait = LEAST_WAIT;
        }
    }

    /// Prints a batch, and answers whether it was the last that was asked for.
    fn print(&mut self, response: &pb::SubscribeResponse, out: &mut dyn Write) -> Result<bool, CliError> {
        let completes = matches!(self.start, Start::Snapshot(_)) && !response.cursor.is_empty();
        if completes && !response.snapshot {
            self.print_mark(out)?;
        }
        for event in &response.events {
            match &mut self.lines {
                Some(lines) => lines.write(event, response.snapshot, out)?,
                None => json::write_line(out, "Event", event)?,
            }
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    return Ok(true);
                }
            }
        }
        if completes && response.snapshot {
            self.print_mark(out)?;
        }
        if !response.cursor.is_empty() {
            self.start = Start::Cursor(response.cursor.clone());
            self.told = true;
        }
        Ok(false)
    }

    fn print_mark(&self, out: &mut dyn Write) -> Result<(), CliError> {
        if self.lines.is_some() {
            writeln!(out, "-- that was the snapshot; from here on it is live --")?;
        }
        Ok(())
    }

    fn how_it_goes_on(&self) -> &'static str {
        match self.start {
            Start::Cursor(_) => "resuming where it stopped",
            Start::Snapshot(_) => "taking the snapshot again",
            Start::Beginning(_) => "beginning again",
            Start::Now(_) => "subscribing again, with what happens meanwhile missing,",
        }
    }
}

#[cfg(test)]
mod tests;
