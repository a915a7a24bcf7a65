use clap::Parser as _;
use tokio::time::Instant;

use super::*;
use crate::cli::args::{Cli, Command};
use crate::cli::fake::{Fake, Script, refusal};

struct Ran {
    outcome: Result<(), CliError>,
    out: String,
    notes: String,
}

async fn ran(fake: &Fake, flags: &str) -> Ran {
    let line = ["heartwire", "events"].into_iter().chain(flags.split_whitespace());
    let Some(Command::Events(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let channel = fake.channel().await;
    let outcome = run(channel, &args, filter(&args).unwrap(), &mut out, &mut notes).await;
    Ran { outcome, out: String::from_utf8(out).unwrap(), notes: String::from_utf8(notes).unwrap() }
}

fn event(client_id: &str) -> pb::Event {
    let kind = pb::event::Kind::Recovered(pb::Recovered::default());
    pb::Event { client_id: client_id.to_owned(), kind: Some(kind), ..Default::default() }
}

fn batch(ids: &[&str], cursor: &str, snapshot: bool) -> pb::SubscribeResponse {
    let events = ids.iter().map(|id| event(id)).collect();
    pb::SubscribeResponse { events, cursor: cursor.to_owned(), snapshot }
}

fn ended(batches: Vec<pb::SubscribeResponse>, status: Status) -> Result<Script, Status> {
    Ok((batches, Some(status)))
}

fn open(batches: Vec<pb::SubscribeResponse>) -> Result<Script, Status> {
    Ok((batches, None))
}

fn starts(fake: &Fake) -> Vec<Start> {
    fake.subscriptions.taken().into_iter().map(|request| request.start.unwrap()).collect()
}

/// The client ids in the output, marks of a snapshot included.
fn shown(out: &str) -> Vec<&str> {
    out.lines()
        .map(|line| if line.starts_with("--") { "--" } else { line.split_whitespace().last().unwrap() })
        .collect()
}

#[tokio::test]
async fn the_flags_become_the_request() {
    let fake = Fake::default();
    fake.streams.extend([open(vec![batch(&["a"], "c1", false)])]);
    let flags = "--from beginning --kind connected,message --kind labels-changed --client x --client y --prefix p \
                 --label room=7 --limit 1";
    ran(&fake, flags).await.outcome.unwrap();
    let request = fake.subscriptions.taken().remove(0);
    assert_eq!(request.start, Some(Start::Beginning(pb::BeginningStart {})));
    let filter = request.filter.unwrap();
    assert_eq!(filter.kinds, [1, 5, 6]);
    assert_eq!(filter.client_ids, ["x", "y"]);
    assert_eq!(filter.client_id_prefix, "p");
    assert_eq!(filter.labels["room"], "7");
}

#[tokio::test]
async fn the_limit_ends_it_within_a_batch() {
    let fake = Fake::default();
    fake.streams.extend([open(vec![batch(&["a", "b"], "c1", false), batch(&["c", "d"], "c2", false)])]);
    let ran = ran(&fake, "--limit 3").await;
    ran.outcome.unwrap();
    assert_eq!(shown(&ran.out), ["a", "b", "c"]);
}

#[tokio::test]
async fn json_is_one_event_a_line_and_nothing_else() {
    let fake = Fake::default();
    fake.streams.extend([open(vec![batch(&["a"], "", true), batch(&[], "c1", true), batch(&["b"], "c2", false)])]);
    let ran = ran(&fake, "--from snapshot --json --limit 2").await;
    let ids: Vec<_> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["clientId"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
}

#[tokio::test]
async fn the_end_of_a_snapshot_is_marked_wherever_its_cursor_comes() {
    for last_is_of_snapshot in [true, false] {
        let fake = Fake::default();
        let last = if last_is_of_snapshot { batch(&["b"], "c1", true) } else { batch(&["x"], "c1", false) };
        fake.streams.extend([open(vec![batch(&["a"], "", true), last, batch(&["y", "z"], "c2", false)])]);
        let ran = ran(&fake, "--from snapshot --limit 4").await;
        let expected = if last_is_of_snapshot { ["a", "b", "--", "y", "z"] } else { ["a", "--", "x", "y", "z"] };
        assert_eq!(shown(&ran.out), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_resumed_from_its_last_cursor_and_says_so() {
    let fake = Fake::default();
    fake.streams.extend([
        ended(vec![batch(&["a"], "c1", false), batch(&[], "c2", false)], Status::unavailable("gone")),
        Err(Status::unavailable("still gone")),
        ended(vec![batch(&["b"], "c3", false)], Status::new(Code::Ok, "")),
        ended(vec![], Status::internal("reset")),
        open(vec![batch(&["c"], "c4", false)]),
    ]);
    let ran = ran(&fake, "--limit 3").await;
    ran.outcome.unwrap();
    assert_eq!(shown(&ran.out), ["a", "b", "c"]);
    let cursor = |text: &str| Start::Cursor(text.to_owned());
    assert_eq!(starts(&fake), [Start::Now(pb::NowStart {}), cursor("c2"), cursor("c2"), cursor("c3"), cursor("c3")]);
    assert_eq!(ran.notes.lines().count(), 4, "{}", ran.notes);
    let first = ran.notes.lines().next().unwrap();
    assert!(
        first.starts_with("note: the stream was lost: gone (UNAVAILABLE); resuming where it stopped in "),
        "{first}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_was_cut_is_taken_again() {
    let fake = Fake::default();
    fake.streams.extend([
        ended(vec![batch(&["a"], "", true)], Status::unavailable("gone")),
        Err(refusal(Code::ResourceExhausted, "SNAPSHOTS_LIMIT")),
        open(vec![batch(&["a"], "c1", true)]),
    ]);
    let ran = ran(&fake, "--from snapshot --limit 2").await;
    ran.outcome.unwrap();
    assert!(starts(&fake).iter().all(|start| matches!(start, Start::Snapshot(_))));
    assert!(ran.notes.contains("taking the snapshot again"), "{}", ran.notes);
}

#[tokio::test(start_paused = true)]
async fn the_waits_grow_to_a_bound_and_begin_anew_with_the_first_answer() {
    let fake = Fake::default();
    let down = || Err(Status::unavailable("down"));
    fake.streams.extend([ended(vec![batch(&["a"], "c1", false)], Status::unavailable("gone"))]);
    fake.streams.extend((0..20).map(|_| down()));
    fake.streams.extend([open(vec![batch(&["b"], "c2", false)])]);
    let began = Instant::now();
    ran(&fake, "--limit 2").await.outcome.unwrap();
    // 0.5 + 1 + 2 + 4 + 8 + 16 + 15 times 30 s, each of them shortened by up to a half.
    let waited = began.elapsed().as_secs_f64();
    assert!((240.0..=482.0).contains(&waited), "{waited}");
}

#[tokio::test(start_paused = true)]
async fn what_trying_again_does_not_mend_ends_it_and_names_the_reason_and_the_cursor() {
    for (code, reason) in [
        (Code::OutOfRange, "EPOCH_CHANGED"),
        (Code::OutOfRange, "CURSOR_EXPIRED"),
        (Code::Aborted, "SNAPSHOT_STALLED"),
        (Code::Internal, "BROKEN"),
    ] {
        let fake = Fake::default();
        fake.streams.extend([ended(vec![batch(&["a"], "c1", false)], refusal(code, reason))]);
        let ran = ran(&fake, "").await;
        assert!(ran.outcome.unwrap_err().to_string().ends_with(&format!(", {reason})")));
        assert_eq!(ran.notes, "note: the last cursor is c1\n");
        assert_eq!(fake.subscriptions.taken().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_subscription_that_is_refused_is_told_at_once() {
    for status in [
        refusal(Code::Unavailable, "SHUTTING_DOWN"),
        refusal(Code::ResourceExhausted, "SUBSCRIBERS_LIMIT"),
        Status::unavailable("nobody there"),
        Status::unimplemented("no such service"),
    ] {
        let fake = Fake::default();
        fake.streams.extend([Err(status)]);
        let ran = ran(&fake, "--from mycursor").await;
        ran.outcome.unwrap_err();
        assert_eq!(ran.notes, "", "whoever gave the cursor has it");
        assert_eq!(starts(&fake), [Start::Cursor("mycursor".to_owned())]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up_at_first_and_asked_again_later() {
    let silent = ran(&Fake::default(), "--timeout 3s").await;
    assert_eq!(silent.outcome.unwrap_err().to_string(), "no answer within 3s (DEADLINE_EXCEEDED)");

    let fake = Fake::default();
    fake.streams.extend([ended(vec![batch(&["a"], "c1", false)], Status::unavailable("gone"))]);
    let later = async {
        while fake.subscriptions.count() < 3 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fake.streams.extend([open(vec![batch(&["b"], "c2", false)])]);
    };
    let (resumed, ()) = tokio::join!(ran(&fake, "--timeout 3s --limit 2"), later);
    resumed.outcome.unwrap();
    assert!(resumed.notes.contains("no answer within 3s"), "{}", resumed.notes);
}

#[tokio::test(start_paused = true)]
async fn without_resuming_a_lost_stream_is_an_error() {
    let fake = Fake::default();
    fake.streams.extend([ended(vec![batch(&["a"], "c1", false)], Status::unavailable("gone"))]);
    let ran = ran(&fake, "--no-resume").await;
    assert_eq!(ran.outcome.unwrap_err().to_string(), "gone (UNAVAILABLE)");
}

#[tokio::test]
async fn a_reader_that_left_ends_it_quietly() {
    struct Left;
    impl Write for Left {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let fake = Fake::default();
    fake.streams.extend([open(vec![batch(&["a"], "c1", false)])]);
    let Some(Command::Events(args)) = Cli::try_parse_from(["heartwire", "events"]).unwrap().command else { panic!() };
    let error = run(fake.channel().await, &args, filter(&args).unwrap(), &mut Left, &mut Vec::new()).await.unwrap_err();
    assert!(error.is_broken_pipe());
}

/// A server with a runtime of its own: dropping it cuts every connection, as the end of a process does.
fn server(fake: &Fake, listener: &std::net::TcpListener) -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = listener.try_clone().unwrap();
    listener.set_nonblocking(true).unwrap();
    let services = fake.services();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        services.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)).await
    });
    runtime
}

#[tokio::test]
async fn a_server_that_dies_and_comes_back_on_its_port_is_resumed_from() {
    struct Told(tokio::sync::mpsc::Sender<()>);
    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            let _ = self.0.try_send(());
            Ok(())
        }
    }
    let fake = Fake::default();
    fake.streams.extend([open(vec![batch(&["a"], "c1", false)]), open(vec![batch(&["b"], "c2", false)])]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let first = server(&fake, &listener);
    let line = ["heartwire", "events", "--limit", "2", "--server", &address];
    let Some(Command::Events(args)) = Cli::try_parse_from(line).unwrap().command else { panic!() };
    let channel = crate::cli::connect::connect(&args.client.at.server, args.client.timeout).await.unwrap();
    let (told, mut printed) = tokio::sync::mpsc::channel(4);
    let (mut out, mut notes) = (Told(told), Vec::new());
    let restart = async {
        printed.recv().await.unwrap();
        first.shutdown_background();
        server(&fake, &listener)
    };
    let (outcome, second) = tokio::join!(run(channel, &args, filter(&args).unwrap(), &mut out, &mut notes), restart);
    second.shutdown_background();
    let notes = String::from_utf8(notes).unwrap();
    assert!(outcome.is_ok(), "{outcome:?} {notes}");
    assert_eq!(starts(&fake), [Start::Now(pb::NowStart {}), Start::Cursor("c1".to_owned())], "{notes}");
}
