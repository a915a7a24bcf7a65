//! Heartbeat settings, deadlines of calls, and a log that does not answer.

use super::*;
use crate::pb::connection_service_server::ConnectionService as _;
use pb::event::Kind;

fn settings(interval: Option<(i64, i32)>, timeout: Option<(i64, i32)>) -> Option<pb::HeartbeatSettings> {
    let span = |span: Option<(i64, i32)>| span.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
    Some(pb::HeartbeatSettings { interval: span(interval), timeout: span(timeout) })
}

#[tokio::test]
async fn a_heartbeat_is_retuned_live_and_judged_on_the_outcome() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let mut stream = rig.stream(NOW, None).await;
    let update = async |heartbeat| {
        let request = pb::UpdateHeartbeatRequest { target: client("alice"), heartbeat, if_generation: 0 };
        rig.connections().update_heartbeat(request).await.map(tonic::Response::into_inner)
    };
    let done = update(settings(Some((0, 100_000_000)), None)).await.expect("retuned");
    let expected = settings(Some((0, 100_000_000)), Some((60, 0)));
    assert_eq!(done.connections[0].heartbeat, expected);
    assert_eq!(alice.connection().cadence(), Cadence { interval: 100, timeout: 60_000 });
    let events = stream.until(&done.cursor).await;
    assert!(matches!(&events[0].kind, Some(Kind::HeartbeatChanged(changed)) if changed.heartbeat == expected));
    assert_field(&update(None).await.expect_err("refused"), "heartbeat");
    assert_field(&update(settings(Some((60, 0)), None)).await.expect_err("not below the timeout"), "heartbeat");
    for interval in [(0, 99_999_999), (3600, 1), (-1, 0)] {
        assert_field(&update(settings(Some(interval), None)).await.expect_err("refused"), "heartbeat.interval");
    }
    assert_field(&update(settings(None, Some((86_400, 1)))).await.expect_err("refused"), "heartbeat.timeout");
    assert!(update(settings(Some((3600, 0)), Some((86_400, 0)))).await.is_ok());
    drop(alice);
    eventually("it is gone", || rig.registry.count() == 0).await;
    let nobody = update(settings(None, None)).await.expect_err("nobody there");
    assert_error(&nobody, Code::NotFound, "CLIENT_NOT_CONNECTED");
}

/// A rig whose log commits only when told, with one client.
#[tokio::test]
async fn asking_for_what_is_so_already_logs_nothing() {
    let rig = Rig::start().await;
    let _alice = rig.join("alice").await;
    let set = labels(&[("room", "7")]);
    let update_labels = async || {
        let request = pb::UpdateLabelsRequest { target: client("alice"), set: set.clone(), ..Default::default() };
        rig.connections().update_labels(request).await.expect("done").into_inner()
    };
    let update_heartbeat = async || {
        let heartbeat = settings(Some((20, 0)), None);
        let request = pb::UpdateHeartbeatRequest { target: client("alice"), heartbeat, if_generation: 0 };
        rig.connections().update_heartbeat(request).await.expect("done").into_inner()
    };
    let (labelled, retuned) = (update_labels().await, update_heartbeat().await);
    let head = rig.head();
    let (again, retuned_again) = (update_labels().await, update_heartbeat().await);
    assert_eq!(rig.head(), head);
    assert_eq!(again.connections[0].labels, labelled.connections[0].labels);
    assert_eq!(retuned_again.connections[0].heartbeat, retuned.connections[0].heartbeat);
    assert_eq!(again.cursor, rig.cursor(head));
}

async fn stuck() -> (Rig, Registration) {
    let rig = Rig::paused(Options { commits: false, ..Options::default() });
    let (registry, log) = (Arc::clone(&rig.registry), Arc::clone(&rig.log));
    let joining = tokio::spawn(async move {
        let client_id = Some(ClientId::named("alice").expect("an id"));
        registry.join(Newcomer { client_id, remote_address: None, subprotocol: "" }).await
    });
    eventually("it is submitted", || log.commit(&*rig.registry)).await;
    (rig, joining.await.expect("no panic").expect("joined"))
}

fn timed<T>(message: T, timeout: Option<Duration>) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    if let Some(timeout) = timeout {
        let value = format!("{}m", timeout.as_millis()).parse().expect("ascii");
        request.metadata_mut().insert("grpc-timeout", value);
    }
    request
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_unavailable_after_five_seconds() {
    let (rig, _alice) = stuck().await;
    let mut connections = rig.connections();
    let began = Instant::now();
    let set = pb::UpdateLabelsRequest { target: client("alice"), set: labels(&[("a", "b")]), ..Default::default() };
    let update = connections.update_labels(set).await.expect_err("no answer");
    let details = assert_error(&update, Code::Unavailable, "LOG_UNAVAILABLE");
    assert!(details.retry_info().is_some());
    assert_eq!(began.elapsed().as_secs(), 5);
    let disconnect = pb::DisconnectRequest { target: client("alice"), ..Default::default() };
    let disconnect = connections.disconnect(disconnect).await.expect_err("no answer");
    assert_error(&disconnect, Code::Unavailable, "LOG_UNAVAILABLE");
    assert_eq!(began.elapsed().as_secs(), 10);
    // They were taken all the same.
    while rig.log.commit(&*rig.registry) {}
    assert_eq!(rig.registry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_the_deadline_of_its_caller() {
    let (rig, _alice) = stuck().await;
    let began = Instant::now();
    let probe = pb::ProbeRequest { target: client("alice"), timeout: None };
    // In process: a generated client gives up by itself, before the answer comes.
    let server = crate::grpc::connections::Connections(Arc::clone(&rig.services.shared));
    let error = server.probe(timed(probe, Some(Duration::from_secs(2)))).await.expect_err("too late");
    assert_error(&error, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(began.elapsed().as_secs(), 2);
}

/// A log whose events are committed and not yet visible, as they are for a moment while they are applied.
struct Between(Arc<Registry>, Box<dyn Fn() + Send + Sync>);

impl crate::log::Apply for Between {
    fn apply(&self, batch: &[Arc<crate::event::Record>]) {
        (self.1)();
        self.0.apply(batch);
    }
}

#[tokio::test(start_paused = true)]
async fn a_min_cursor_is_waited_for_until_it_is_visible() {
    let (rig, alice) = stuck().await;
    alice.message(text("next")).expect("room");
    let next = rig.head() + 1;
    let get = |timeout| {
        let request = pb::GetClientRequest { client_id: "alice".into(), min_cursor: rig.cursor(next) };
        let server = crate::grpc::connections::Connections(Arc::clone(&rig.services.shared));
        async move { server.get_client(timed(request, timeout)).await }
    };
    // Not committed: it is ahead of the log.
    assert_error(&get(None).await.expect_err("ahead"), Code::InvalidArgument, "CURSOR_INVALID");
    let shared = Arc::clone(&rig.services.shared);
    let cursor = rig.cursor(next);
    let look = {
        let (shared, cursor) = (Arc::clone(&shared), cursor.clone());
        move || assert_eq!(shared.still_to_reach(&cursor), Ok(Some(next)), "committed and not yet visible")
    };
    rig.log.commit(&Between(Arc::clone(&rig.registry), Box::new(look)));
    assert_eq!(shared.still_to_reach(&cursor), Ok(None));
    assert_eq!(get(None).await.expect("visible").into_inner().cursor, cursor);
    // What never becomes visible is waited for until somebody's deadline.
    let began = Instant::now();
    assert_eq!(shared.reach(next + 1, None).await, Err(crate::grpc::error::Error::LogUnavailable));
    assert_eq!(began.elapsed().as_secs(), 5);
    let (done, ()) = tokio::join!(shared.reach(next + 1, None), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        alice.message(text("more")).expect("room");
        rig.log.commit(&*rig.registry);
    });
    assert_eq!((done, began.elapsed().as_secs()), (Ok(()), 6));
}

/// Commits what waits and answers, with its offset, what makes it visible: until then a call that names it as its `min_cursor` waits.
async fn committed_and_not_visible(rig: &Rig) -> (Offset, impl FnOnce()) {
    let (log, registry) = (Arc::clone(&rig.log), Arc::clone(&rig.registry));
    let (show, shown) = std::sync::mpsc::channel::<()>();
    let shown = std::sync::Mutex::new(shown);
    let wait = move || assert!(shown.lock().expect("not poisoned").recv().is_err(), "only ever let go of");
    // A thread of its own: the time that the test pauses goes on while it waits.
    let applying = std::thread::spawn(move || log.commit(&Between(registry, Box::new(wait))));
    let bounds = || rig.log.bounds();
    eventually("it is committed", || bounds().committed > bounds().head).await;
    let showing = move || {
        drop(show);
        assert!(applying.join().expect("no panic"));
    };
    (bounds().committed, showing)
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_min_cursor_and_then_until_the_deadline_is_told_of_a_frame_that_is_dropped() {
    use pb::message_service_server::MessageService as _;
    for stream in [false, true] {
        let (rig, alice) = stuck().await;
        alice.message(text("next")).expect("room");
        let (next, show) = committed_and_not_visible(&rig).await;
        // The deadline is beyond the receipt's time when the call comes, and within it once the position is reached.
        let (deadline, seconds) = (Some(Duration::from_secs(8)), Duration::from_secs);
        let request = pb::SendRequest {
            target: client("alice"),
            payload: Some(pb::send_request::Payload::Text("hello".into())),
            receipt: pb::Stage::Written.into(),
            receipt_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
            min_cursor: rig.cursor(next),
            ..Default::default()
        };
        let calling = async {
            if stream {
                let sends = vec![pb::TaggedSend { tag: 1, request: Some(request) }];
                let requests = tokio_stream::once(pb::SendStreamRequest { sends });
                let outcomes = rig.messages().send_stream(timed(requests, deadline)).await.expect("open");
                // Held until the caller would give up.
                tokio::time::sleep(seconds(8)).await;
                drop(outcomes);
            } else {
                // In process: a generated client gives up by itself, before the answer comes.
                let server = crate::grpc::messages::Messages(Arc::clone(&rig.services.shared));
                let error = server.send(timed(request, deadline)).await.expect_err("too late");
                assert_error(&error, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
            }
        };
        let driving = async {
            tokio::time::sleep(seconds(4)).await;
            assert_eq!(alice.connection().outbox.depth().0, 0, "the position is not reached");
            show();
            eventually("a frame waits", || alice.connection().outbox.depth().0 == 1).await;
        };
        tokio::join!(calling, driving);
        tokio::time::sleep(seconds(1)).await;
        assert!(write_out(&alice).is_empty(), "written after its deadline, stream: {stream}");
    }
}
