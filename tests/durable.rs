//! A data directory: what is left after a kill, who may have it, and what is refused.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use heartwire::pb;
use heartwire::pb::DisconnectCause as Cause;
use heartwire::pb::event::Kind;
use heartwire::pb::subscribe_request::Start;
use tempfile::TempDir;
use tokio::process::Command;

use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::http::Request;
use crate::harness::process::{BINARY, command_of, run, run_by};
use crate::harness::{Events, Process, SOON, eventually};

async fn start(directory: &TempDir) -> Process {
    Process::start(&[&data_dir(directory), "log.max_bytes=1MiB"]).await
}

fn data_dir(directory: &TempDir) -> String {
    format!("log.data_dir={}", directory.path().join("data").display())
}

/// The events up to the head as it is now.
async fn until_head(process: &Process, mut events: Events) -> Vec<pb::Event> {
    let head = process.head().await.head_cursor;
    let mut all = Vec::new();
    while all.last().is_none_or(|last: &pb::Event| last.cursor != head) {
        all.push(events.next().await);
    }
    all
}

async fn kill(mut process: Process) {
    process.child.start_kill().expect("runs");
    tokio::time::timeout(SOON, process.child.wait()).await.expect("soon").expect("waited for");
}

#[tokio::test]
async fn after_a_kill_each_open_connection_gets_its_one_end_and_cursors_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = start(&directory).await;
    let mut events = process.events_from(Start::Beginning(Default::default())).await;
    let mut clients = Vec::new();
    let mut generations = Vec::new();
    for i in 0..10 {
        let (client, connected) = process.connect_seen(&format!("c{i}"), &mut events).await;
        clients.push(client);
        generations.push((connected.client_id, connected.connection_id, connected.generation));
    }
    clients[3].text("").await;
    let (gone, _) = events.disconnected().await;
    assert_eq!(gone.client_id, "c3");
    clients[4].text("hello").await;
    let (said, text) = events.text().await;
    assert_eq!(text, "hello");
    let cursor = gone.cursor.clone();
    kill(process).await;

    let process = start(&directory).await;
    let after = until_head(&process, process.events_from(Start::Cursor(cursor)).await).await;
    // The message that was seen is still there, where it was.
    assert_eq!((after[0].client_id.as_str(), &after[0].cursor), ("c4", &said.cursor));
    let ends: Vec<_> = after[1..]
        .iter()
        .map(|event| {
            let Some(Kind::Disconnected(end)) = &event.kind else { panic!("{event:?}") };
            assert_eq!((end.cause(), end.close_code, end.stats.is_some()), (Cause::NodeRestarted, 1006, false));
            assert!(end.connected_for.as_ref().is_some_and(|span| span.seconds >= 0 && span.nanos >= 0));
            (event.client_id.clone(), event.connection_id.clone(), event.generation)
        })
        .collect();
    let mut expected = generations.clone();
    expected.remove(3);
    assert_eq!(ends, expected);
    assert!(process.list().await.0.is_empty());

    // The same clients come back at once, each with a greater generation.
    let mut events = process.events().await;
    for (id, connection, generation) in &generations {
        let (client, connected) = process.connect_seen(id, &mut events).await;
        assert!(connected.generation > *generation && connected.connection_id != *connection);
        clients.push(client);
    }
    kill(process).await;

    // Again, and nobody's end is told twice.
    let process = start(&directory).await;
    let all = until_head(&process, process.events_from(Start::Beginning(Default::default())).await).await;
    let mut open = std::collections::HashMap::new();
    for event in &all {
        match &event.kind {
            Some(Kind::Connected(_)) => assert!(open.insert(&event.connection_id, true).is_none()),
            Some(Kind::Disconnected(_)) => assert_eq!(open.insert(&event.connection_id, false), Some(true)),
            _ => {}
        }
    }
    assert_eq!(open.len(), 20);
    assert!(open.values().all(|open| !open));
}

#[tokio::test]
async fn an_end_in_order_leaves_nothing_to_tell_and_the_epoch_goes_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = start(&directory).await;
    assert!(process.banner.contains("it outlives the process"), "{}", process.banner);
    let mut events = process.events().await;
    let (_client, connected) = process.connect_seen("a", &mut events).await;
    process.signal("TERM");
    let (rest, _) = events.until_its_end().await;
    let Some(Kind::Disconnected(end)) = &rest[0].kind else { panic!("{rest:?}") };
    assert_eq!(end.cause(), Cause::Drained);
    assert_eq!(process.exit_code(SOON).await, Some(0));

    let process = start(&directory).await;
    let all = until_head(&process, process.events_from(Start::Beginning(Default::default())).await).await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[0].cursor, connected.cursor);
    let mut resumed = process.events_from(Start::Cursor(connected.cursor)).await;
    assert_eq!(resumed.next().await, rest[0]);
}

#[tokio::test]
async fn a_second_process_may_not_have_the_directory_and_the_first_does_not_notice() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = start(&directory).await;
    let (code, _, err) = run(&anywhere(&data_dir(&directory))).await;
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("held by another process") && err.contains("log.data_dir"), "{err}");
    let mut events = process.events().await;
    process.connect_seen("a", &mut events).await;
}

#[tokio::test]
async fn a_start_that_reads_for_long_ends_at_a_signal() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut process = start(&directory).await;
    drop(process.connect("a").await);
    process.signal("TERM");
    assert_eq!(process.exit_code(SOON).await, Some(0));
    let journal = directory.path().join("data/journal");
    let entries = std::fs::read_dir(&journal).expect("a directory");
    let mut files = entries.map(|entry| entry.expect("an entry").path());
    let segment = files.find(|path| path.extension().is_some_and(|suffix| suffix == "seg")).expect("a segment");
    // Opening a pipe that nobody writes to takes for ever.
    std::fs::remove_file(&segment).expect("removed");
    let made = std::process::Command::new("mkfifo").arg(&segment).status().expect("runs");
    assert!(made.success());
    let mut command = crate::harness::process::command();
    command.args(anywhere(&data_dir(&directory))).stdout(std::process::Stdio::null());
    let mut child = command.spawn().expect("starts");
    let id = child.id().expect("runs");
    // It holds the directory once it reads it, with its ears open.
    eventually("it reads", async || {
        let open = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?;
        let mut links = open.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
        links.find(|path| path.ends_with("LOCK"))
    })
    .await;
    assert!(child.try_wait().expect("asked").is_none());
    let status = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status().expect("runs");
    assert!(status.success());
    let ended = tokio::time::timeout(SOON, child.wait()).await.expect("soon").expect("waited for");
    assert_eq!(ended.code(), Some(0));
}

fn anywhere(data_dir: &str) -> Vec<&str> {
    let ports = ["--ws-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"];
    [&ports[..], &["--set", "telemetry.log=error", "--set", data_dir]].concat()
}

#[tokio::test]
async fn a_directory_of_a_newer_format_or_a_damaged_one_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    kill(start(&directory).await).await;
    let format = std::fs::read_to_string(data.join("FORMAT")).expect("read");
    std::fs::write(data.join("FORMAT"), format.replace("version 1", "version 2")).expect("written");
    let (code, _, err) = run(&anywhere(&data_dir(&directory))).await;
    assert!(code == Some(1) && err.contains("version 2") && err.contains("version 1"), "{code:?} {err}");
    std::fs::write(data.join("FORMAT"), "what is this").expect("written");
    let (code, _, err) = run(&anywhere(&data_dir(&directory))).await;
    assert!(code == Some(1) && err.contains("FORMAT is damaged"), "{code:?} {err}");
}

#[tokio::test]
async fn what_cannot_be_a_data_directory_is_a_mistake_in_the_configuration() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("data"), "a file").expect("written");
    let (code, _, err) = run(&anywhere(&data_dir(&directory))).await;
    assert!(code == Some(2) && err.contains("log.data_dir") && err.contains("data: "), "{code:?} {err}");
    // Root may write anywhere, but not here.
    let (code, _, err) = run(&anywhere("log.data_dir=/proc/heartwire")).await;
    assert!(code == Some(2) && err.contains("log.data_dir") && err.contains("/proc/heartwire"), "{code:?} {err}");
}

/// Begins a command whose program and arguments are to follow, with a directory that is mounted read-only for it alone. None, and why, where this
/// machine cannot: permission bits would be no test, since root writes all the same.
async fn read_only(directory: &Path) -> Result<impl Fn() -> Command, String> {
    const MOUNT: &str = r#"mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@""#;
    let mut why = Vec::new();
    // As root, or as root of a user namespace.
    for namespaces in ["-m", "-rm"] {
        let mounted = directory.to_owned();
        let begin = move || {
            let mut command = command_of("unshare");
            command.args([namespaces, "sh", "-c", MOUNT, "sh"]).arg(&mounted);
            command
        };
        let mut probe = begin();
        match probe.args(["sh", "-c", r#"! touch "$0/probe""#]).arg(directory).output().await {
            Ok(output) if output.status.success() => return Ok(begin),
            Ok(output) => why.push(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => why.push(error.to_string()),
        }
    }
    Err(why.join("; "))
}

/// Every file and directory, with what it holds and when it was changed.
fn contents(directory: &Path) -> Vec<(PathBuf, SystemTime, Vec<u8>)> {
    let (mut all, mut left) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).expect("there");
        let mut bytes = Vec::new();
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path).expect("read").map(|entry| entry.expect("an entry").path()));
        } else {
            bytes = std::fs::read(&path).expect("read");
        }
        all.push((path, metadata.modified().expect("a time"), bytes));
    }
    all.sort();
    all
}

#[tokio::test]
async fn a_data_directory_on_a_read_only_mount_is_refused_by_its_name_and_nothing_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let begin = match read_only(directory.path()).await {
        Ok(begin) => begin,
        Err(why) => {
            // Not by a macro, whose output a test that passes keeps to itself; a line that CI shows.
            let skipped =
                "::warning title=test skipped::a read-only data directory is NOT tested, nothing can be mounted";
            writeln!(std::io::stderr(), "{skipped}: {why}").expect("written");
            return;
        }
    };
    // One of a run before, one that is empty, and one that would have to be made.
    let process = start(&directory).await;
    let mut events = process.events().await;
    drop(process.connect_seen("a", &mut events).await);
    kill(process).await;
    std::fs::create_dir(directory.path().join("empty")).expect("made");
    let before = contents(directory.path());
    for name in ["data", "empty", "new"] {
        let path = directory.path().join(name).display().to_string();
        let setting = format!("log.data_dir={path}");
        let mut command = begin();
        command.arg(BINARY).args(anywhere(&setting));
        let (code, out, err) = run_by(command).await;
        assert_eq!(code, Some(2), "{name}: {err}");
        assert!(err.contains("log.data_dir") && err.contains(&path) && err.contains("Read-only file system"), "{err}");
        assert_eq!((out.as_str(), err.trim_end().lines().count()), ("", 1), "{name}: {err}");
    }
    assert!(contents(directory.path()) == before, "something was written");
    // It is as good as before.
    let process = start(&directory).await;
    let all = until_head(&process, process.events_from(Start::Beginning(Default::default())).await).await;
    assert!(matches!(all[0].kind, Some(Kind::Connected(_))));
}

/// The kernel refuses what goes beyond so many bytes of a file, as it would on a full disk.
fn limit_files(process: &Process, bytes: &str) {
    let (id, limit) = (process.id().to_string(), format!("--fsize={bytes}:unlimited"));
    let set = std::process::Command::new("prlimit").args(["--pid", &id, &limit]).status().expect("prlimit is there");
    assert!(set.success());
}

#[tokio::test]
async fn a_disk_that_takes_nothing_more_keeps_newcomers_out_loses_nobody_and_recovers_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = start(&directory).await;
    let mut events = process.events().await;
    let (mut alice, _) = process.connect_seen("alice", &mut events).await;
    let (mut bob, _) = process.connect_seen("bob", &mut events).await;

    limit_files(&process, "1");
    alice.text("waits").await;
    eventually("the log fails", || async {
        let (status, body) = process.admin_get("/readyz").await;
        (status == 503 && body.contains("the log is failing")).then_some(())
    })
    .await;
    assert_eq!(process.admin_get("/livez").await.0, 200);
    assert_eq!(process.metric("heartwire_log_healthy").await, 0.0);
    let serving = async |service: &str| {
        let mut health = HealthClient::new(process.another_channel());
        let request = HealthCheckRequest { service: service.to_owned() };
        health.check(request).await.expect("answers").into_inner().status() == ServingStatus::Serving
    };
    assert!(serving("").await && serving("heartwire.v1.MessageService").await);
    assert!(!serving("heartwire.v1.EventService").await);
    let refused = Request::good().refused_by(process.ws).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert_eq!(process.handshakes("log_failing").await, 1.0);
    // Who is there already is served.
    process.send("bob", "plain sends go on", pb::Stage::Written).await.expect("written");
    assert_eq!(bob.next_text().await, "plain sends go on");
    // An end that is owed waits.
    bob.text("").await;
    assert_eq!(bob.closed().await.0, 1000);

    limit_files(&process, "unlimited");
    assert_eq!(events.text().await.1, "waits");
    assert_eq!(events.disconnected().await.0.client_id, "bob");
    eventually("it is ready", || async { (process.admin_get("/readyz").await.0 == 200).then_some(()) }).await;
    assert!(serving("heartwire.v1.EventService").await);
    let _carol = process.connect_seen("carol", &mut events).await;
    let seen = until_head(&process, process.events_from(Start::Beginning(Default::default())).await).await;
    kill(process).await;

    // And all that was seen is there.
    let process = start(&directory).await;
    let again = until_head(&process, process.events_from(Start::Beginning(Default::default())).await).await;
    assert_eq!(again[..seen.len()], seen);
    assert_eq!(again.len() - seen.len(), 2);
}

#[tokio::test]
async fn an_idle_log_syncs_once_for_each_event_and_says_how_well_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let process = start(&directory).await;
    let mut events = process.events().await;
    let (mut client, _) = process.connect_seen("a", &mut events).await;
    let before = process.metric("heartwire_journal_syncs_total").await;
    for i in 0..10 {
        client.text(&format!("message {i}")).await;
        events.text().await;
    }
    assert_eq!(process.metric("heartwire_journal_syncs_total").await - before, 10.0);
    assert_eq!(process.metric("heartwire_log_healthy").await, 1.0);
    assert_eq!(process.metric("heartwire_journal_failures_total").await, 0.0);
}
