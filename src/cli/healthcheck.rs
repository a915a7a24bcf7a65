//! `heartwire healthcheck`: for probes that run a command.

use std::io::Write;
use std::time::Duration;

use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::connect::unary;
use super::error::CliError;

/// Succeeds only if the service is SERVING.
pub(super) async fn run(
    channel: Channel,
    service: &str,
    timeout: Duration,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let mut client = HealthClient::new(channel);
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = unary(timeout, request, async |request| client.check(request).await).await?;
    match answer.status() {
        ServingStatus::Serving => Ok(writeln!(out, "SERVING")?),
        other => Err(CliError::NotDone(other.as_str_name().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use tonic::transport::Server;
    use tonic_health::ServingStatus as Status;

    use super::*;
    use crate::cli::fake::{Fake, serve};

    #[tokio::test]
    async fn only_serving_succeeds() {
        let (reporter, service) = tonic_health::server::health_reporter();
        let channel = serve(Server::builder().add_service(service)).await;
        let mut said = Vec::new();
        for (status, expected) in [(Status::Serving, "SERVING"), (Status::NotServing, "NOT_SERVING")] {
            reporter.set_service_status("", status).await;
            let mut out = Vec::new();
            said.push(match run(channel.clone(), "", Duration::from_secs(2), &mut out).await {
                Ok(()) => String::from_utf8(out).unwrap(),
                Err(error) => error.to_string(),
            });
            assert_eq!(said.pop().unwrap().trim_end(), expected);
        }
    }

    #[tokio::test]
    async fn an_unknown_service_and_a_server_without_health_fail() {
        let (_, service) = tonic_health::server::health_reporter();
        let health = serve(Server::builder().add_service(service)).await;
        let other = Fake::default().channel().await;
        for (channel, code) in [(health, "NOT_FOUND"), (other, "UNIMPLEMENTED")] {
            let error = run(channel, "nothing", Duration::from_secs(2), &mut Vec::new()).await.unwrap_err();
            assert!(error.to_string().contains(code), "{error}");
        }
    }
}
