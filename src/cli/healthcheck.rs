//! `heartwire healthcheck`: for probes that run a command.

use std::io::Write;

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::args::HealthcheckArgs;
use super::connect::unary;
use super::error::CliError;
use super::json;

/// Succeeds only if the service is SERVING.
pub(super) async fn run(channel: Channel, args: &HealthcheckArgs, out: &mut dyn Write) -> Result<(), CliError> {
    let mut client = HealthClient::new(channel);
    let request = HealthCheckRequest { service: args.service.clone() };
    let answer = unary(args.timeout, request, async |request| client.check(request).await).await?;
    if args.json {
        json::write_line(out, "grpc.health.v1.HealthCheckResponse", &answer)?;
    }
    match answer.status() {
        ServingStatus::Serving if args.json => Ok(()),
        ServingStatus::Serving => Ok(writeln!(out, "SERVING")?),
        other => Err(CliError::NotDone(other.as_str_name().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use tonic::transport::Server;
    use tonic_health::ServingStatus as Status;

    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::cli::fake::{Fake, serve};

    async fn ran(channel: Channel, flags: &[&str]) -> (Result<(), CliError>, String) {
        let line = ["heartwire", "healthcheck"].iter().chain(flags);
        let Some(Command::Healthcheck(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
        let mut out = Vec::new();
        let outcome = run(channel, &args, &mut out).await;
        (outcome, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn only_serving_succeeds() {
        let (reporter, service) = tonic_health::server::health_reporter();
        let channel = serve(Server::builder().add_service(service)).await;
        for (status, expected) in [(Status::Serving, "SERVING"), (Status::NotServing, "NOT_SERVING")] {
            reporter.set_service_status("", status).await;
            let said = match ran(channel.clone(), &[]).await {
                (Ok(()), out) => out,
                (Err(error), _) => error.to_string(),
            };
            assert_eq!(said.trim_end(), expected);
            let (outcome, out) = ran(channel.clone(), &["--json"]).await;
            assert_eq!(outcome.is_ok(), expected == "SERVING");
            assert_eq!(out, format!("{{\"status\":\"{expected}\"}}\n"));
        }
    }

    #[tokio::test]
    async fn an_unknown_service_and_a_server_without_health_fail() {
        let (_, service) = tonic_health::server::health_reporter();
        let health = serve(Server::builder().add_service(service)).await;
        let other = Fake::default().channel().await;
        for (channel, code) in [(health, "NOT_FOUND"), (other, "UNIMPLEMENTED")] {
            let error = ran(channel, &["--service", "nothing"]).await.0.unwrap_err();
            assert!(error.to_string().contains(code), "{error}");
        }
    }
}
