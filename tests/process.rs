//! The built binary from its start to its end, by hand and by its own subcommands.

use std::process::Stdio;
use std::time::Duration;

use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};
use tonic::Code;

use crate::harness::process::{command, run};
use crate::harness::{Process, SOON, reason};

#[tokio::test]
async fn a_client_comes_speaks_is_spoken_to_falls_silent_and_is_dropped() {
    let mut process = Process::start(&["heartbeat.interval=200ms", "heartbeat.timeout=500ms"]).await;
    assert_eq!(process.admin_get("/readyz").await.0, 200);
    let mut events = process.events().await;

    let mut alice = process.connect_unnamed().await;
    alice.text("heartbeat:alice").await;
    let (connected, details) = events.connected().await;
    assert_eq!((&*connected.client_id, details.state()), ("alice", pb::ConnectionState::Alive));
    for _ in 0..8 {
        alice.text("heartbeat").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(process.get("alice").await[0].state(), pb::ConnectionState::Alive);

    alice.text("hello").await;
    assert_eq!(events.text().await.1, "hello");
    process.send("alice", "hi", pb::Stage::Written).await.expect("sends");
    while alice.next_text().await != "hi" {}

    // Silent: from here on nothing is read, so Pings go unanswered too.
    let suspected = events.next().await;
    assert!(matches!(suspected.kind, Some(Kind::Suspected(_))), "{suspected:?}");
    let (gone, end) = events.disconnected().await;
    assert_eq!((end.cause(), end.close_code), (Cause::HeartbeatTimeout, 4408));
    assert_eq!((gone.connection_id, gone.generation), (connected.connection_id, connected.generation));
    assert!(process.list().await.0.is_empty());
    assert_eq!(alice.closed().await.0, 4408);

    process.signal("TERM");
    let (rest, end) = events.until_its_end().await;
    let end = end.expect_err("a status");
    assert_eq!((rest.len(), end.code(), &*reason(&end)), (0, Code::Unavailable, "SHUTTING_DOWN"));
    assert_eq!(process.exit_code(Duration::from_secs(3)).await, Some(0));
}

/// `heartwire events --json`, a line at a time.
struct Printed {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Printed {
    fn start(server: &str, flags: &[&str]) -> Self {
        let mut events = command();
        events.args(["events", "--json", "--server", server]).args(flags);
        let mut child = events.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(SOON, self.lines.next_line()).await.expect("a line soon");
        serde_json::from_str(&line.expect("UTF-8").expect("a line")).expect("JSON")
    }
}

#[tokio::test]
async fn the_subcommands_of_the_binary_see_and_steer_it() {
    let mut process = Process::start(&[]).await;
    let server = process.grpc.to_string();
    let ask = async |args: &[&str]| run(&[args, &["--server", &server]].concat()).await;
    let mut printed = Printed::start(&server, &["--from", "beginning", "--no-resume"]);

    assert_eq!(ask(&["healthcheck"]).await, (Some(0), "SERVING\n".to_owned(), String::new()));
    let mut alice = process.connect("alice").await;
    let connected = printed.next().await;
    assert_eq!(connected["clientId"], "alice");
    assert!(connected["connected"].is_object() && connected["cursor"].is_string(), "{connected}");

    let (code, out, _) = ask(&["connections", "--json"]).await;
    let listed: Value = serde_json::from_str(&out).expect("one line of JSON");
    assert_eq!((code, &listed["connectionId"]), (Some(0), &connected["connectionId"]));
    assert_eq!(ask(&["connections", "--count"]).await.1, "1\n");

    let (code, out, err) = ask(&["send", "alice", "hi there", "--receipt", "written"]).await;
    assert!(code == Some(0) && out.contains("WRITTEN"), "{out}{err}");
    assert_eq!(alice.next_text().await, "hi there");
    let (code, _, err) = ask(&["send", "nobody", "hi"]).await;
    assert!(code == Some(1) && err.contains("CLIENT_NOT_CONNECTED"), "{err}");
    assert_eq!(ask(&["broadcast", "--everyone", "all"]).await.1, "matched 1, accepted 1, refused 0\n");
    assert_eq!(alice.next_text().await, "all");

    let id = connected["connectionId"].as_str().expect("text");
    let (code, out, _) = ask(&["disconnect", "alice", "--code", "4000", "--reason", "bye"]).await;
    assert_eq!((code, out), (Some(0), format!("disconnected {id}\n")));
    assert_eq!(alice.closed().await, (4000, "bye".to_owned()));
    let gone = printed.next().await;
    assert_eq!(gone["disconnected"]["cause"], "DISCONNECT_CAUSE_KICKED");
    assert_eq!(gone["generation"], connected["generation"]);
    assert_eq!(ask(&["disconnect", "alice"]).await.1, "not connected\n");

    process.signal("TERM");
    let ended = tokio::time::timeout(SOON, printed.child.wait_with_output()).await.expect("soon").expect("waited for");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.code() == Some(1) && said.contains("SHUTTING_DOWN"), "{said}");
    assert_eq!(process.exit_code(Duration::from_secs(3)).await, Some(0));
    assert_eq!(ask(&["healthcheck"]).await.0, Some(1));
}

#[tokio::test]
async fn the_subcommands_resume_where_a_cursor_says() {
    let process = Process::start(&[]).await;
    let server = process.grpc.to_string();
    let mut events = process.events().await;
    for id in ["a", "b", "c"] {
        let (mut client, _) = process.connect_seen(id, &mut events).await;
        client.text("").await;
        client.closed().await;
        events.disconnected().await;
    }
    let mut whole = Printed::start(&server, &["--from", "beginning", "--limit", "6"]);
    let mut all = Vec::new();
    for _ in 0..6 {
        all.push(whole.next().await);
    }
    assert!(whole.child.wait().await.expect("waited for").success());
    let cursor = all[2]["cursor"].as_str().expect("text");
    let mut rest = Printed::start(&server, &["--from", cursor, "--kind", "disconnected", "--limit", "2"]);
    assert_eq!([rest.next().await, rest.next().await], [all[3].clone(), all[5].clone()]);
}
