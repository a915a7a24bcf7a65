//! `heartwire disconnect`: ends connections and says which.

use std::io::Write;

use tonic::transport::Channel;

use super::args::DisconnectArgs;
use super::connect::unary;
use super::error::CliError;
use super::json;
use super::text::escaped;
use crate::pb;
use crate::pb::connection_service_client::ConnectionServiceClient;
use crate::pb::target::Target;

/// Nobody connected is no failure, as in the contract: what was asked for is the case.
pub(super) async fn run(channel: Channel, args: &DisconnectArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let connection = args.connection.clone().map(Target::ConnectionId);
    let request = pb::DisconnectRequest {
        target: Some(pb::Target { target: connection.or(args.client_id.clone().map(Target::ClientId)) }),
        code: args.code.into(),
        reason: args.reason.clone(),
        if_generation: args.if_generation,
    };
    let mut client = ConnectionServiceClient::new(channel);
    let answer = unary(args.client.timeout, request, async |request| client.disconnect(request).await).await?;
    if args.json {
        json::write_line(out, "DisconnectResponse", &answer)?;
    } else if answer.connection_ids.is_empty() {
        writeln!(out, "not connected")?;
    }
    for id in answer.connection_ids.iter().filter(|_| !args.json) {
        writeln!(out, "disconnected {}", escaped(id))?;
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
        let line = ["heartwire", "disconnect"].into_iter().chain(flags.split_whitespace());
        let Some(Command::Disconnect(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let mut out = Vec::new();
        let outcome = run(fake.channel().await, &args, &mut out).await;
        (outcome, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn the_connections_that_are_gone_are_named_and_nobody_there_is_no_failure() {
        let fake = Fake::default();
        let connection_ids = vec!["c-1".to_owned(), "c-2".to_owned()];
        fake.disconnects.extend([
            Ok(pb::DisconnectResponse { connection_ids, cursor: "x".to_owned() }),
            Ok(pb::DisconnectResponse::default()),
            Ok(pb::DisconnectResponse::default()),
        ]);
        let (outcome, out) = ran(&fake, "alice --code 4000 --reason bye --if-generation 7").await;
        outcome.unwrap();
        assert_eq!(out, "disconnected c-1\ndisconnected c-2\n");
        let (outcome, out) = ran(&fake, "--connection c-9").await;
        outcome.unwrap();
        assert_eq!(out, "not connected\n");
        assert_eq!(ran(&fake, "alice --json").await.1, "{}\n");

        let requests = fake.disconnect_requests.taken();
        let first = &requests[0];
        assert_eq!((first.code, first.reason.as_str(), first.if_generation), (4000, "bye", 7));
        assert_eq!(first.target.clone().unwrap().target, Some(Target::ClientId("alice".to_owned())));
        assert_eq!(requests[1].target.clone().unwrap().target, Some(Target::ConnectionId("c-9".to_owned())));
    }

    #[tokio::test]
    async fn a_refusal_names_its_reason() {
        let fake = Fake::default();
        fake.disconnects.extend([Err(refusal(Code::FailedPrecondition, "GENERATION_MISMATCH"))]);
        let error = ran(&fake, "alice --if-generation 1").await.0.unwrap_err();
        assert_eq!(error.to_string(), "refused (FAILED_PRECONDITION, GENERATION_MISMATCH)");
    }
}
