//! `heartwire send` and `heartwire broadcast`: a message out, and how far it came.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;

use super::args::{self, BroadcastArgs, Receipt, SendArgs};
use super::connect::unary;
use super::error::CliError;
use super::json;
use super::text::{clock, enum_name, escaped};
use crate::pb;
use crate::pb::message_service_client::MessageServiceClient;
use crate::pb::send_request::Payload;
use crate::pb::target::Target;

/// What is read into memory at most. Whether a message is too big is for the server to say, by its configuration.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// What the flags ask to be sent; the message may be read from stdin here.
pub(super) fn send_request(args: &SendArgs, stdin: &mut dyn Read) -> Result<pb::SendRequest, CliError> {
    let (target, text) = target_and_text(args)?;
    let ttl = args.ttl.map(prost_types::Duration::try_from).transpose();
    let ttl = ttl.map_err(|_| CliError::Usage("--ttl is too long".to_owned()))?;
    let receipt = match args.receipt {
        Some(Receipt::Stored) => pb::Stage::Stored,
        Some(Receipt::Accepted) => pb::Stage::Accepted,
        Some(Receipt::Written) => pb::Stage::Written,
        None if ttl.is_some() => pb::Stage::Stored,
        None => pb::Stage::Accepted,
    };
    let waits = receipt == pb::Stage::Written || (receipt == pb::Stage::Accepted && ttl.is_some());
    let receipt_timeout = waits.then(|| prost_types::Duration::try_from(args.receipt_timeout).ok()).flatten();
    Ok(pb::SendRequest {
        target: Some(pb::Target { target: Some(target) }),
        payload: Some(payload(text, args.binary.as_deref(), stdin)?),
        receipt: receipt.into(),
        receipt_timeout,
        ttl,
        message_id: args.message_id.clone(),
        if_generation: args.if_generation,
        ..Default::default()
    })
}

/// Sends, prints each delivery, and fails unless every one reached the stage asked for.
pub(super) async fn send(
    channel: Channel,
    args: &SendArgs,
    request: pb::SendRequest,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let asked = request.receipt();
    // What is unsent at the call's deadline is dropped, so the wait for a receipt comes on top of the call's own time.
    let timeout = args.client.timeout + request.receipt_timeout.map_or(Duration::ZERO, |_| args.receipt_timeout);
    let mut client = MessageServiceClient::new(channel);
    let answer = unary(timeout, request, async |request| client.send(request).await).await?;
    match args.json {
        true => json::write_line(out, "SendResponse", &answer)?,
        false => print(&answer.deliveries, out)?,
    }
    // The stages are numbered in the order in which they are reached.
    let reached = |delivery: &&pb::Delivery| delivery.failure == 0 && delivery.stage >= asked as i32;
    match (answer.deliveries.iter().filter(reached).count(), answer.deliveries.len()) {
        (_, 0) => Err(CliError::NotDone("there was no connection to send to".to_owned())),
        (reached, all) if reached < all => {
            let stage = asked.as_str_name().trim_start_matches("STAGE_");
            Err(CliError::NotDone(format!("{} of {all} deliveries did not reach {stage}", all - reached)))
        }
        _ => Ok(()),
    }
}

/// With `--connection` the first argument is the text: there is no client id.
fn target_and_text(args: &SendArgs) -> Result<(Target, Option<&str>), CliError> {
    let (first, second) = (args.client_id.as_deref(), args.text.as_deref());
    match (&args.connection, first, second) {
        (Some(_), Some(_), Some(_)) => Err(CliError::Usage("give a client id or --connection, not both".to_owned())),
        (Some(id), text, _) => Ok((Target::ConnectionId(id.clone()), text)),
        (None, Some(id), text) => Ok((Target::ClientId(id.to_owned()), text)),
        (None, None, _) => Err(CliError::Usage("give a client id or --connection".to_owned())),
    }
}

fn print(deliveries: &[pb::Delivery], out: &mut dyn Write) -> io::Result<()> {
    for delivery in deliveries {
        let stage = pb::Stage::try_from(delivery.stage).ok().map(|stage| stage.as_str_name());
        let stage = match delivery.stage {
            0 => "-".to_owned(),
            number => enum_name(stage, "STAGE_", number),
        };
        let failure = pb::DeliveryFailure::try_from(delivery.failure).ok().map(|failure| failure.as_str_name());
        let failure = match delivery.failure {
            0 => String::new(),
            number => enum_name(failure, "DELIVERY_FAILURE_", number),
        };
        let connection_id = match delivery.connection_id.as_str() {
            "" => "-".to_owned(),
            id => escaped(id),
        };
        let line = format!("{connection_id}  {}  {stage:<8}  {failure}", clock(delivery.time.as_ref()));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What the flags ask to be broadcast; the message may be read from stdin here.
pub(super) fn broadcast_request(args: &BroadcastArgs, stdin: &mut dyn Read) -> Result<pb::BroadcastRequest, CliError> {
    use crate::pb::broadcast_request::Payload as Broadcast;

    Ok(pb::BroadcastRequest {
        labels: args::labels(&args.label)?,
        everyone: args.everyone,
        payload: Some(match payload(args.text.as_deref(), args.binary.as_deref(), stdin)? {
            Payload::Text(text) => Broadcast::Text(text),
            Payload::Binary(bytes) => Broadcast::Binary(bytes),
        }),
    })
}

/// Broadcasts, prints how many were meant and reached, and fails if any refused.
pub(super) async fn broadcast(
    channel: Channel,
    args: &BroadcastArgs,
    request: pb::BroadcastRequest,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut client = MessageServiceClient::new(channel);
    let call = async |request| client.broadcast(request).await;
    let answer = unary(args.client.timeout, request, call).await?;
    match args.json {
        true => json::write_line(out, "BroadcastResponse", &answer)?,
        false => {
            writeln!(out, "matched {}, accepted {}, refused {}", answer.matched, answer.accepted, answer.refused)?;
        }
    }
    match answer.refused {
        0 => Ok(()),
        refused => Err(CliError::NotDone(format!("{refused} of {} refused the message", answer.matched))),
    }
}

fn payload(text: Option<&str>, binary: Option<&Path>, stdin: &mut dyn Read) -> Result<Payload, CliError> {
    match (text, binary) {
        (None, None) => Err(CliError::Usage("there is no message: give a text, - or --binary".to_owned())),
        (Some(_), Some(_)) => Err(CliError::Usage("give a text or --binary, not both".to_owned())),
        (Some("-"), None) => {
            let not_text = |error| input("stdin", io::Error::new(io::ErrorKind::InvalidData, error));
            let text = String::from_utf8(read(stdin, "stdin")?).map_err(not_text)?;
            // What `echo` adds is not part of the message.
            let text = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
            Ok(Payload::Text(text.to_owned()))
        }
        (Some(text), None) => Ok(Payload::Text(text.to_owned())),
        (None, Some(path)) if path == Path::new("-") => Ok(Payload::Binary(Bytes::from(read(stdin, "stdin")?))),
        (None, Some(path)) => {
            let name = escaped(&path.to_string_lossy());
            let mut file = File::open(path).map_err(|error| input(&name, error))?;
            Ok(Payload::Binary(Bytes::from(read(&mut file, &name)?)))
        }
    }
}

fn read(from: &mut dyn Read, what: &str) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| input(what, error))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(input(what, io::Error::other("it is over 64 MiB, the most that this command reads")));
    }
    Ok(bytes)
}

fn input(what: &str, source: io::Error) -> CliError {
    CliError::Input { what: what.to_owned(), source }
}

#[cfg(test)]
mod tests;
