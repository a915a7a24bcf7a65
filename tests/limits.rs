//! What the built binary does when the machine or its configuration does not give it what it wants.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use heartwire::pb;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::process::{command, run, run_by};
use crate::harness::{Process, eventually};

/// The binary with no more than so many descriptors.
fn with_descriptors(limit: u32) -> Command {
    let mut sh = Command::new("sh");
    sh.args(["-c", &format!("ulimit -n {limit}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_heartwire")]);
    sh.kill_on_drop(true);
    sh
}

#[tokio::test]
async fn out_of_descriptors_it_serves_whom_it_has_rests_and_recovers() {
    let settings = ["ws.handshake_timeout=60s", "telemetry.log=off"];
    let process = Process::start_by(with_descriptors(64), &settings).await;
    let mut events = process.events().await;
    let (mut alice, _) = process.connect_seen("alice", &mut events).await;
    let mut crowd = Vec::new();
    for _ in 0..120 {
        // The kernel shakes hands for those whom nobody accepts.
        crowd.push(TcpStream::connect(process.ws).await.expect("connects"));
    }
    eventually("it has run out", || async { (process.descriptors() >= 64).then_some(()) }).await;

    let used = process.processor_time();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = process.processor_time() - used;
    assert!(used < Duration::from_millis(150), "{used:?} of processor time in a second of rest");

    alice.text("are you there?").await;
    assert_eq!(events.text().await.1, "are you there?");
    let sent = process.send("alice", "yes", pb::Stage::Written).await.expect("sends");
    assert_eq!(sent.deliveries[0].stage(), pb::Stage::Written);
    assert_eq!(alice.next_text().await, "yes");

    drop(crowd);
    let (_bob, _) = process.connect_seen("bob", &mut events).await;
    assert!(process.metric("heartwire_accept_errors_total").await >= 1.0);
}

#[tokio::test]
async fn a_limit_of_descriptors_that_clamps_connections_is_told_at_the_start() {
    let process = Process::start_by(with_descriptors(64), &[]).await;
    assert!(process.banner.contains("32 connections, not 65536"), "{}", process.banner);
    let node = process.node().get_node(pb::GetNodeRequest {}).await.expect("answers").into_inner();
    assert_eq!(node.max_connections, 32);
}

#[tokio::test]
async fn ports_in_use_are_all_told_at_once_each_by_its_key() {
    let taken: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").expect("free")).collect();
    let address = |n: usize| taken[n].local_addr().expect("bound").to_string();
    let (ws, grpc, admin) = (address(0), address(1), address(2));
    let (code, _, stderr) = run(&["--ws-listen", &ws, "--grpc-listen", &grpc, "--admin-listen", &admin]).await;
    assert_eq!(code, Some(2), "{stderr}");
    for (key, address) in [("ws.listen", ws), ("grpc.listen", grpc), ("admin.listen", admin)] {
        let told = stderr.lines().any(|line| line.contains(key) && line.contains(&address));
        assert!(told, "{key} is missing in\n{stderr}");
    }
}

#[tokio::test]
async fn everything_wrong_with_a_configuration_is_told_at_once_and_nothing_is_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("heartwire.toml");
    let text = "[ws]\nlisten_to = \"127.0.0.1:0\"\nmax_connections = \"many\"\n\
                [heartbeat]\ninterval = \"60s\"\ntimeout = \"30s\"\n[teapot]\nshort = true\n";
    fs::write(&file, text).expect("written");
    for check in [&[][..], &["--check-config"]] {
        let mut wrong = command();
        wrong.args(["--config", file.to_str().expect("UTF-8"), "--set", "ws.max_handshakes=0"]).args(check);
        wrong.args(["--set", "no.such=1", "--set", "grpc.listen=0.0.0.0:0"]);
        wrong.env("HEARTWIRE_LIMITS__OUTBOX_FRAMES", "-1").env("HEARTWIRE_NO__SUCH", "1");
        let (code, stdout, stderr) = run_by(wrong).await;
        assert_eq!((code, &*stdout), (Some(2), ""), "{stderr}");
        for key in [
            "ws.listen_to",
            "ws.max_connections",
            "teapot",
            "ws.max_handshakes",
            "no.such",
            "limits.outbox_frames",
            "HEARTWIRE_NO__SUCH",
            "heartbeat.timeout",
            "grpc.listen",
        ] {
            assert!(stderr.contains(key), "{key} is missing in\n{stderr}");
        }
    }
}

#[tokio::test]
async fn values_that_contradict_each_other_name_both_keys() {
    let (code, _, stderr) = run(&[
        "--check-config",
        "--set",
        "heartbeat.interval=60s",
        "--set",
        "log.max_bytes=1MiB",
        "--set",
        "ws.max_message=2MiB",
        "--set",
        "admin.listen=127.0.0.1:8181",
    ])
    .await;
    assert_eq!(code, Some(2));
    for (key, other) in [
        ("heartbeat.timeout", "heartbeat.interval"),
        ("log.max_bytes", "ws.max_message"),
        ("admin.listen", "ws.listen"),
    ] {
        let told = stderr.lines().any(|line| line.contains(&format!("{key}:")) && line.contains(other));
        assert!(told, "{key} against {other} is missing in\n{stderr}");
    }
}

#[tokio::test]
async fn grpc_open_to_the_network_is_refused_unless_asked_for_by_name() {
    let open = ["--grpc-listen", "0.0.0.0:0", "--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, _, stderr) = run(&open).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("grpc.listen") && stderr.contains("grpc.insecure"), "{stderr}");
    let process = Process::start_on(command(), "0.0.0.0:0", &["grpc.insecure=true"]).await;
    let local = format!("127.0.0.1:{}", process.grpc.port());
    let channel = crate::harness::backend::channel(&local);
    let mut node = pb::node_service_client::NodeServiceClient::new(channel);
    node.get_node(pb::GetNodeRequest {}).await.expect("answers");
}

#[tokio::test]
async fn a_configuration_can_be_checked_and_printed_without_being_served() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/heartwire.example.toml");
    let (code, stdout, stderr) = run(&["--config", example, "--check-config"]).await;
    assert_eq!((code, &*stdout, &*stderr), (Some(0), "the configuration is sound\n", ""));

    let (code, printed, _) = run(&["--print-config", "--set", "heartbeat.interval=7s"]).await;
    assert_eq!(code, Some(0));
    assert!(printed.contains("interval = \"7s\""), "{printed}");
    // What was printed says the same when it is read.
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("printed.toml");
    fs::write(&file, &printed).expect("written");
    let (code, again, _) = run(&["--config", file.to_str().expect("UTF-8"), "--print-config"]).await;
    assert_eq!((code, again), (Some(0), printed));
}

#[tokio::test]
async fn a_unix_socket_is_its_owners_alone_and_a_stale_one_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("grpc.sock");
    let listen = format!("unix:{}", path.display());
    let mut killed = Process::start_on(command(), &listen, &[]).await;
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    killed.node().get_node(pb::GetNodeRequest {}).await.expect("answers");

    // One that is in use is left to its owner.
    let ports = ["--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let (code, _, stderr) = run(&[&ports[..], &["--grpc-listen", &listen]].concat()).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("grpc.listen"), "{stderr}");
    killed.node().get_node(pb::GetNodeRequest {}).await.expect("still answers");

    killed.child.kill().await.expect("killed");
    assert!(path.exists(), "nothing stale to replace");
    let mut next = Process::start_on(command(), &listen, &[]).await;
    let mut events = next.events().await;
    let (_alice, _) = next.connect_seen("alice", &mut events).await;
    drop(events);
    next.signal("TERM");
    assert_eq!(next.exit_code(Duration::from_secs(3)).await, Some(0));
    assert!(!path.exists(), "the file stays behind");
}
