use clap::Parser as _;

use super::*;

fn parse_line(line: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(["heartwire"].iter().chain(line))
}

fn served(line: &[&str]) -> ConfigArgs {
    match main(["heartwire"].iter().chain(line).map(OsString::from)) {
        Outcome::Serve(config) => *config,
        Outcome::Exit(code) => panic!("{line:?}: {code:?}"),
    }
}

#[test]
fn the_command_line_is_sound() {
    command().debug_assert();
}

#[test]
fn serving_is_what_happens_without_a_subcommand_and_takes_the_same_flags_with_it() {
    for line in [&["--check-config", "--ws-listen", "x"][..], &["serve", "--check-config", "--ws-listen", "x"]] {
        let config = served(line);
        assert!(config.check_config);
        assert_eq!(config.ws_listen.as_deref(), Some("x"));
    }
    assert!(!served(&[]).check_config);
    assert!(served(&["serve", "--print-config"]).print_config);
}

#[test]
fn configuration_flags_before_a_subcommand_are_refused_rather_than_ignored() {
    assert!(parse_line(&["--ws-listen", "x", "events"]).is_err());
    assert!(parse_line(&["--check-config", "serve"]).is_err());
}

#[test]
fn an_empty_environment_variable_is_as_good_as_unset() {
    fn variables(command: &clap::Command) -> Vec<String> {
        let own = command.get_arguments().filter_map(clap::Arg::get_env);
        let own = own.map(|name| name.to_string_lossy().into_owned());
        own.chain(command.get_subcommands().flat_map(variables)).collect()
    }
    let all = variables(&command());
    assert!(
        ["HEARTWIRE_CONFIG", "HEARTWIRE_SERVER"].iter().all(|name| all.iter().any(|found| found == name)),
        "{all:?}"
    );
    let left = variables(&without_empty_variables(command(), &|name| name == "HEARTWIRE_SERVER"));
    assert!(!left.is_empty() && left.iter().all(|name| name == "HEARTWIRE_CONFIG"), "{left:?}");
    without_empty_variables(command(), &|_| true).debug_assert();
}

#[test]
fn a_negative_generation_is_left_to_the_server_and_a_text_may_begin_with_a_dash() {
    for line in [&["disconnect", "bob", "--if-generation", "-1"][..], &["send", "bob", "hi", "--if-generation", "-1"]] {
        match parse_line(line).unwrap().command {
            Some(Command::Disconnect(args)) => assert_eq!(args.if_generation, -1),
            Some(Command::Send(args)) => assert_eq!(args.if_generation, -1),
            other => panic!("{other:?}"),
        }
    }
    let Some(Command::Send(args)) = parse_line(&["send", "alice", "--", "-x"]).unwrap().command else { panic!() };
    assert_eq!(args.text.as_deref(), Some("-x"));
    assert!(Cli::command().find_subcommand_mut("send").unwrap().render_help().to_string().contains("-- -x"));
}

#[test]
fn every_subcommand_refuses_what_it_does_not_know() {
    for line in [
        &["events", "--limit", "0"][..],
        &["events", "--kind", "sneezed"],
        &["events", "--label", "room"],
        &["events", "--from", ""],
        &["events", "--timeout", "0s"],
        &["events", "--timeout", "25h"],
        &["events", "--server", "nowhere"],
        &["connections", "--state", "gone"],
        &["send"],
        &["send", "alice", "hi", "--binary", "-"],
        &["broadcast", "hi"],
        &["broadcast", "--everyone", "--label", "a=b", "hi"],
        &["broadcast", "--everyone"],
        &["disconnect"],
        &["disconnect", "alice", "--connection", "c"],
        &["disconnect", "alice", "--code", "70000"],
        &["completions", "nosh"],
        &["nonsense"],
    ] {
        let error = parse_line(line).err().unwrap_or_else(|| panic!("{line:?} was taken"));
        assert_eq!(format!("{:?}", exit_code(error.kind())), format!("{:?}", ExitCode::from(2)), "{line:?}");
    }
    for line in [&["--help"][..], &["--version"], &["events", "--help"]] {
        let error = parse_line(line).unwrap_err();
        assert_eq!(format!("{:?}", exit_code(error.kind())), format!("{:?}", ExitCode::SUCCESS), "{line:?}");
    }
}

async fn printed(line: &[&str]) -> Result<String, CliError> {
    let mut out = Vec::new();
    run(parse_line(line).unwrap().command.unwrap(), &mut out).await?;
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn completions_and_manual_pages_are_made_from_the_command_line() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(printed(&["completions", shell]).await.unwrap().contains("healthcheck"), "{shell}");
    }
    assert!(printed(&["man"]).await.unwrap().contains(".TH heartwire 1"));
    assert!(printed(&["man", "events"]).await.unwrap().contains(".TH heartwire-events 1"));
    assert!(matches!(printed(&["man", "nonsense"]).await, Err(CliError::Usage(_))));
}

#[tokio::test]
async fn mistakes_in_the_flags_are_told_without_a_server() {
    for line in [
        &["events", "--label", "a=1", "--label", "a=2"][..],
        &["connections", "--label", "a=1", "--label", "a=2"],
        &["broadcast", "--label", "a=1", "--label", "a=2", "hi"],
        &["send", "alice"],
    ] {
        let line: Vec<_> = line.iter().copied().chain(["--server", "unix:/nonexistent/socket"]).collect();
        let error = printed(&line).await.unwrap_err();
        assert!(matches!(error, CliError::Usage(_)), "{line:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_with_the_reason() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let socket = tempfile::tempdir().unwrap().path().join("hw.sock");
    for (server, cause) in [(address, "refused"), (format!("unix:{}", socket.display()), "No such file")] {
        let error = printed(&["connections", "--server", &server]).await.unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&format!("cannot connect to {server}: ")) && text.contains(cause), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    for subcommand in [&["healthcheck"][..], &["connections"], &["send", "a", "b"]] {
        let line: Vec<_> = subcommand.iter().copied().chain(["--timeout", "50ms", "--server", &server]).collect();
        let error = printed(&line).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 50ms (DEADLINE_EXCEEDED)", "{subcommand:?}");
    }
}

#[tokio::test]
async fn a_unix_socket_is_reached_under_the_authority_localhost() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hw.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let server = tonic::transport::Server::builder()
        .layer(tower::util::MapRequestLayer::new(|request: hyper::Request<tonic::body::Body>| {
            assert_eq!(request.uri().authority().unwrap().as_str(), "localhost");
            request
        }))
        .add_service(service);
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)));
    for server in [format!("unix:{}", path.display()), format!("unix://{}", path.display())] {
        assert_eq!(printed(&["healthcheck", "--server", &server]).await.unwrap(), "SERVING\n");
    }
}
