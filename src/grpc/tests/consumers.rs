//! Consumers: where their streams begin, what acknowledging keeps, and how they are listed and deleted.

use super::*;
use crate::position::{Epoch, Position};

fn named(consumer: &str, start: Start) -> pb::SubscribeRequest {
    pb::SubscribeRequest { consumer: consumer.into(), ..from(start, None) }
}

fn reset(consumer: &str, start: Start) -> pb::SubscribeRequest {
    pb::SubscribeRequest { reset_consumer: true, ..named(consumer, start) }
}

fn ids(events: &[pb::Event]) -> Vec<&str> {
    events.iter().map(|event| event.client_id.as_str()).collect()
}

impl Rig {
    async fn opened(&self, request: pb::SubscribeRequest) -> Stream {
        self.subscribe(request).await.expect("subscribed")
    }

    async fn refused(&self, request: pb::SubscribeRequest) -> Status {
        self.subscribe(request).await.err().expect("refused")
    }

    async fn acknowledge(&self, consumer: &str, cursor: &str) -> Result<String, Status> {
        let request = pb::AcknowledgeRequest { consumer: consumer.into(), cursor: cursor.into() };
        Ok(self.events().acknowledge(request).await?.into_inner().cursor)
    }

    async fn list_consumers(&self) -> Vec<pb::Consumer> {
        let request = pb::ListConsumersRequest::default();
        self.events().list_consumers(request).await.expect("listed").into_inner().consumers
    }

    async fn delete(&self, consumer: &str) -> Result<(), Status> {
        let request = pb::DeleteConsumerRequest { consumer: consumer.into() };
        self.events().delete_consumer(request).await.map(drop)
    }

    fn subscribers(&self) -> i64 {
        let mut reading = crate::metrics::Reading::default();
        self.services.subscribers().read_gauges(self.head(), &mut reading);
        reading.subscribers
    }

    /// Ends everything of the node but its log.
    async fn stopped(mut self) {
        self.stop.cancel();
        self.closing.end_now();
        self.rest.cancel();
        if let Some(serving) = self.serving.take() {
            let _ = tokio::time::timeout(Duration::from_secs(10), serving).await;
        }
    }

    /// Clients that came and are held, so that each is one event.
    async fn joined(&self, ids: &[&str]) -> Vec<Registration> {
        let mut all = Vec::new();
        for id in ids {
            all.push(self.join(id).await);
        }
        all
    }
}

/// The error that a stream ends with before its next bookmark.
async fn ended_at_once(stream: &mut Stream) -> Status {
    tokio::time::timeout(Duration::from_secs(5), stream.error()).await.expect("it waits for a bookmark, or for ever")
}

/// A log that holds little, and one client that says so much that its beginning is forgotten.
async fn overrun(rig: &Rig) -> Registration {
    let start = rig.head();
    let chatty = rig.join("chatty").await;
    for _ in 0..64 {
        chatty.message(text(&"x".repeat(64 << 10))).expect("room");
    }
    eventually("the log is full", || rig.log.bounds().before_oldest > start).await;
    eventually("all is committed", || rig.log.budget().is_whole()).await;
    chatty
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_and_what_was_does_not() {
    let rig = Rig::start().await;
    let _all = rig.joined(&["a", "b", "c"]).await;
    let mut stream = rig.opened(named("db", BEGINNING)).await;
    let events = stream.events(3).await;
    assert_eq!(rig.acknowledge("db", &events[0].cursor).await.expect("kept"), events[0].cursor);
    drop(stream);
    // Whatever start it names, also one that would be refused: it does not serve.
    for start in [BEGINNING, NOW, SNAPSHOT, Start::Cursor("damaged".into())] {
        let mut again = rig.opened(named("db", start)).await;
        let first = again.next().await.expect("where it begins");
        assert_eq!((first.cursor.as_str(), first.events.len()), (events[0].cursor.as_str(), 0));
        assert_eq!(ids(&again.events(2).await), ["b", "c"]);
    }
    rig.acknowledge("db", &events[2].cursor).await.expect("kept");
    let _d = rig.join("d").await;
    assert_eq!(ids(&rig.opened(named("db", BEGINNING)).await.events(1).await), ["d"]);
    let mut other = rig.opened(named("other", BEGINNING)).await;
    assert_eq!(ids(&other.events(4).await), ["a", "b", "c", "d"], "a name has its own position");
}

#[tokio::test]
async fn what_an_instance_of_before_a_reset_acknowledges_does_not_undo_it() {
    let rig = Rig::start().await;
    let chatty = rig.join("chatty").await;
    drop(rig.opened(named("db", BEGINNING)).await);
    // More than a stream is sent that nobody reads.
    for _ in 0..64 {
        chatty.message(text(&"x".repeat(64 << 10))).expect("room");
    }
    eventually("all is committed", || rig.log.budget().is_whole()).await;
    let stale = rig.cursor(rig.head());
    let mut stream = rig.opened(reset("db", BEGINNING)).await;
    let refused = rig.acknowledge("db", &stale).await.expect_err("not sent since");
    assert_error(&refused, Code::FailedPrecondition, "CURSOR_NOT_SENT");
    let all = stream.events(65).await;
    assert_eq!(rig.acknowledge("db", &all[64].cursor).await.expect("sent"), stale);
}

#[tokio::test]
async fn a_place_in_the_log_is_kept_from_the_first_moment_and_a_snapshot_is_taken_again() {
    let rig = Rig::start().await;
    let _before = rig.joined(&["a", "b"]).await;
    let cursor = Start::Cursor(rig.cursor(rig.head() - 1));
    for (name, start) in [("now", NOW), ("beginning", BEGINNING), ("cursor", cursor)] {
        drop(rig.opened(named(name, start)).await);
    }
    let snapshot = |events: &[pb::Event]| events.iter().map(|event| event.client_id.clone()).collect::<Vec<_>>();
    let mut first = rig.opened(named("snapshot", SNAPSHOT)).await.next().await.expect("state");
    first.events.sort_by(|a, b| a.client_id.cmp(&b.client_id));
    assert_eq!((first.snapshot, snapshot(&first.events)), (true, vec!["a".to_owned(), "b".to_owned()]));
    let _after = rig.join("c").await;
    // A start that is not theirs: none of them is new.
    for (name, expected) in [("now", &["c"][..]), ("beginning", &["a", "b", "c"]), ("cursor", &["b", "c"])] {
        let mut again = rig.opened(named(name, SNAPSHOT)).await;
        assert_eq!(ids(&again.events(expected.len()).await), expected, "{name}");
    }
    let mut again = rig.opened(named("snapshot", SNAPSHOT)).await;
    let state = again.next().await.expect("state");
    assert!(state.snapshot && state.events.len() == 3);
    let whole = again.next().await.expect("it is whole");
    assert!(!whole.snapshot);
    rig.acknowledge("snapshot", &whole.cursor).await.expect("kept");
    let mut resumed = rig.opened(named("snapshot", SNAPSHOT)).await;
    let first = resumed.next().await.expect("where it begins");
    assert!(!first.snapshot && first.events.is_empty() && first.cursor == whole.cursor);
}

#[tokio::test]
async fn acknowledging_moves_forward_only_and_refuses_what_is_no_place_in_this_log() {
    let rig = Rig::start().await;
    let _all = rig.joined(&["a", "b", "c"]).await;
    let events = rig.opened(named("db", BEGINNING)).await.events(3).await;
    for (cursor, kept) in [(1, 1), (0, 1), (1, 1), (2, 2), (0, 2)] {
        assert_eq!(rig.acknowledge("db", &events[cursor].cursor).await.expect("kept"), events[kept].cursor);
    }
    let refused = async |consumer: &str, cursor: &str| rig.acknowledge(consumer, cursor).await.expect_err("refused");
    let good = events[0].cursor.as_str();
    assert_error(&refused("nobody", good).await, Code::NotFound, "CONSUMER_NOT_FOUND");
    for cursor in ["", "damaged", &rig.cursor(rig.head() + 1)] {
        assert_error(&refused("db", cursor).await, Code::InvalidArgument, "CURSOR_INVALID");
    }
    let other = Position { epoch: Epoch::random(), offset: 1 }.to_cursor();
    let details = assert_error(&refused("db", &other).await, Code::OutOfRange, "EPOCH_CHANGED");
    assert_eq!(details.error_info().expect("checked").metadata["head_cursor"], rig.cursor(rig.head()));
    for name in ["", "a\nb", &"x".repeat(129)] {
        assert_field(&refused(name, good).await, "consumer");
    }
    // None of this moved it.
    assert_eq!(rig.list_consumers().await[0].cursor, events[2].cursor);
}

#[tokio::test]
async fn the_newer_stream_of_a_name_has_it_and_the_older_ends_at_once() {
    let rig = Rig::start().await;
    let mut older = rig.opened(named("db", NOW)).await;
    let mut other = rig.opened(named("other", NOW)).await;
    older.next().await.expect("where it begins");
    other.next().await.expect("where it begins");
    // One that cannot begin takes nothing.
    let bad = reset("db", Start::Cursor("damaged".into()));
    assert_error(&rig.refused(bad).await, Code::InvalidArgument, "CURSOR_INVALID");
    let _a = rig.join("a").await;
    assert_eq!(ids(&older.events(1).await), ["a"]);
    let mut newer = rig.opened(named("db", NOW)).await;
    assert_error(&ended_at_once(&mut older).await, Code::Aborted, "CONSUMER_TAKEN_OVER");
    assert_eq!(ids(&newer.events(1).await), ["a"], "it was not acknowledged");
    other.events(1).await;
    drop(older);
    assert!(rig.list_consumers().await.iter().all(|consumer| consumer.attached));
}

#[tokio::test]
async fn a_reset_that_a_newer_stream_has_overtaken_is_told_so_and_leaves_the_position_alone() {
    let rig = Rig::start().await;
    let _all = rig.joined(&["a", "b"]).await;
    let events = rig.opened(named("db", BEGINNING)).await.events(2).await;
    rig.acknowledge("db", &events[0].cursor).await.expect("kept");
    let shared = &rig.services.shared;
    // It came first, and something held it up.
    let name = crate::consumers::ConsumerName::new("db").expect("a good name");
    let older = shared.consumers.enter(&name);
    let mut newer = rig.opened(named("db", NOW)).await;
    assert_eq!(newer.next().await.expect("where it begins").cursor, events[0].cursor);
    let server = crate::grpc::events::Events(Arc::clone(shared));
    for start in [NOW, BEGINNING, SNAPSHOT] {
        let error = server.open(&older, &start, true).await.err().expect("refused");
        assert_error(&error.into(), Code::Aborted, "CONSUMER_TAKEN_OVER");
    }
    assert_eq!(rig.list_consumers().await[0].cursor, events[0].cursor);
    assert_eq!(ids(&newer.events(1).await), ["b"], "it goes on");
    rig.acknowledge("db", &events[1].cursor).await.expect("sent");
}

#[tokio::test]
async fn an_expired_position_is_told_and_a_reset_is_the_way_out() {
    let rig = Rig::with(Options { log_bytes: 1 << 20, ..Options::default() }).await;
    drop(rig.opened(named("db", NOW)).await);
    let _chatty = overrun(&rig).await;
    let refused = rig.refused(named("db", SNAPSHOT)).await;
    let details = assert_error(&refused, Code::OutOfRange, "CURSOR_EXPIRED");
    let bounds = rig.log.bounds();
    let metadata = &details.error_info().expect("checked").metadata;
    assert_eq!(metadata["oldest_cursor"], rig.cursor(bounds.before_oldest));
    assert_eq!(metadata["head_cursor"], rig.cursor(bounds.head));
    assert!(refused.message().contains("reset_consumer"), "{refused:?}");
    let [listed] = &rig.list_consumers().await[..] else { panic!("one") };
    assert!(listed.expired && !listed.attached && listed.lag_events > 60);
    let mut stream = rig.opened(reset("db", SNAPSHOT)).await;
    let state = stream.next().await.expect("state");
    assert!(state.snapshot && ids(&state.events) == ["chatty"]);
    let whole = stream.next().await.expect("it is whole").cursor;
    // Until it is acknowledged a snapshot is what it begins with, without another reset.
    assert!(rig.opened(named("db", SNAPSHOT)).await.next().await.expect("state").snapshot);
    rig.acknowledge("db", &whole).await.expect("kept");
    assert_eq!(rig.opened(named("db", SNAPSHOT)).await.next().await.expect("resumed").cursor, whole);
}

#[tokio::test]
async fn a_consumer_outlives_the_node_with_its_log_and_without_it_is_told_of_the_epoch() {
    let directory = tempfile::tempdir().expect("a directory");
    let open = async || {
        let path = directory.path().join("store.redb");
        let opened = async {
            loop {
                match Store::open(&path) {
                    Ok(store) => return store,
                    // The node before has not let go of the file yet.
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), opened).await.expect("in time")
    };
    let first = Rig::with(Options { store: Some(open().await), ..Options::default() }).await;
    let (log, clients) = (Arc::clone(&first.log), first.joined(&["a", "b", "c"]).await);
    let mut stream = first.opened(named("db", BEGINNING)).await;
    let events = stream.events(3).await;
    first.acknowledge("db", &events[1].cursor).await.expect("kept");
    first.opened(named("snapshot", SNAPSHOT)).await.next().await.expect("state");
    drop(stream);
    first.stopped().await;

    let second = Rig::with(Options { store: Some(open().await), log: Some(log), ..Options::default() }).await;
    let mut resumed = second.opened(named("db", NOW)).await;
    assert_eq!(ids(&resumed.events(1).await), ["c"]);
    assert!(second.acknowledge("snapshot", &events[2].cursor).await.is_ok(), "it is known without a stream");
    drop((resumed, clients));
    second.stopped().await;

    let third = Rig::with(Options { store: Some(open().await), ..Options::default() }).await;
    let refused = third.refused(named("db", SNAPSHOT)).await;
    let details = assert_error(&refused, Code::OutOfRange, "EPOCH_CHANGED");
    assert_eq!(details.error_info().expect("checked").metadata["head_cursor"], third.cursor(third.head()));
    assert_error(
        &third.acknowledge("db", &events[1].cursor).await.expect_err("refused"),
        Code::OutOfRange,
        "EPOCH_CHANGED",
    );
    assert!(third.list_consumers().await.iter().all(|consumer| consumer.expired));
    third.opened(reset("db", NOW)).await.next().await.expect("where it begins");
    third.opened(named("db", SNAPSHOT)).await.next().await.expect("where it begins");
}

#[tokio::test]
async fn the_list_tells_how_far_behind_each_is() {
    let rig = Rig::start().await;
    let _all = rig.joined(&["a", "b", "c"]).await;
    let events = rig.opened(named("behind", BEGINNING)).await.events(3).await;
    rig.acknowledge("behind", &events[0].cursor).await.expect("kept");
    let _attached = rig.opened(named("at-head", NOW)).await;
    drop(rig.opened(named("none", SNAPSHOT)).await);
    eventually("the streams are gone", || rig.subscribers() == 1).await;
    let all = rig.list_consumers().await;
    let told: Vec<_> = all.iter().map(|c| (c.name.as_str(), c.attached, c.lag_events, c.expired)).collect();
    assert_eq!(told, [("at-head", true, 0, false), ("behind", false, 2, false), ("none", false, 0, false)]);
    assert_eq!((all[0].cursor.as_str(), all[1].cursor.as_str()), (&*events[2].cursor, &*events[0].cursor));
    assert_eq!(all[0].lag_time, Some(prost_types::Duration::default()));
    let age = all[1].lag_time.expect("an age");
    assert!(age.seconds < 60 && (age.seconds, age.nanos) > (0, 0), "{age:?}");
    assert_eq!((all[2].cursor.as_str(), all[2].lag_time), ("", None));
}

#[tokio::test]
async fn pages_hold_every_consumer_once_in_the_order_of_their_names() {
    let rig = Rig::start().await;
    for i in 0..20 {
        drop(rig.opened(named(&format!("c{i:02}"), NOW)).await);
    }
    let mut request = pb::ListConsumersRequest { page_size: 7, ..Default::default() };
    let (mut names, mut sizes) = (Vec::new(), Vec::new());
    let token = loop {
        let page = rig.events().list_consumers(request.clone()).await.expect("a page").into_inner();
        sizes.push(page.consumers.len());
        names.extend(page.consumers.into_iter().map(|consumer| consumer.name));
        if page.next_page_token.is_empty() {
            break request.page_token;
        }
        request.page_token = page.next_page_token;
    };
    assert_eq!(sizes, [7, 7, 6]);
    assert_eq!(names, (0..20).map(|i| format!("c{i:02}")).collect::<Vec<_>>());
    let list = async |page_size, page_token: &str| {
        let request = pb::ListConsumersRequest { page_size, page_token: page_token.into() };
        rig.events().list_consumers(request).await
    };
    assert_eq!(list(6, &token).await.expect("a page").into_inner().next_page_token, "", "just the rest");
    assert_field(&list(-1, "").await.expect_err("refused"), "page_size");
    for bad in ["x", &token[1..]] {
        assert_error(&list(0, bad).await.expect_err("refused"), Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
}

#[tokio::test]
async fn a_deleted_consumer_ends_its_stream_and_is_new_the_next_time() {
    let rig = Rig::start().await;
    let mut stream = rig.opened(named("db", NOW)).await;
    stream.next().await.expect("where it begins");
    rig.delete("db").await.expect("deleted");
    assert_error(&ended_at_once(&mut stream).await, Code::Aborted, "CONSUMER_DELETED");
    assert_error(&rig.delete("db").await.expect_err("unknown"), Code::NotFound, "CONSUMER_NOT_FOUND");
    assert_field(&rig.delete("").await.expect_err("refused"), "consumer");
    assert!(rig.list_consumers().await.is_empty());
    let cursor = rig.cursor(rig.head());
    let gone = rig.acknowledge("db", &cursor).await.expect_err("unknown");
    assert_error(&gone, Code::NotFound, "CONSUMER_NOT_FOUND");
    let _a = rig.join("a").await;
    assert_eq!(ids(&rig.opened(named("db", BEGINNING)).await.events(1).await), ["a"]);
}

#[tokio::test]
async fn a_bad_name_a_reset_of_nobody_and_one_too_many_are_refused() {
    let rig = Rig::start().await;
    for name in ["a\nb", &"x".repeat(129)] {
        assert_field(&rig.refused(named(name, NOW)).await, "consumer");
    }
    assert_field(&rig.refused(reset("", NOW)).await, "reset_consumer");
    let open = async |i: usize| {
        let name = crate::consumers::ConsumerName::new(&format!("c{i}")).expect("a good name");
        let consumers = &rig.services.shared.consumers;
        let opened = consumers.open(&consumers.enter(&name), crate::consumers::Fresh::Snapshot, false).await;
        opened.expect("opened");
    };
    futures_util::future::join_all((0..1_000).map(open)).await;
    let details = assert_error(&rig.refused(named("new", NOW)).await, Code::ResourceExhausted, "CONSUMERS_LIMIT");
    assert_eq!(details.error_info().expect("checked").metadata["limit"], "1000");
    assert!(rig.subscribe(named("c7", NOW)).await.is_ok());
    rig.delete("c8").await.expect("deleted");
    assert!(rig.subscribe(named("new", NOW)).await.is_ok());
}

#[tokio::test]
async fn a_store_that_fails_is_unavailable_with_a_time_to_try_again_and_other_streams_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let store = Store::open(&path).expect("opened");
    let rig = Rig::with(Options { store: Some(store.clone()), ..Options::default() }).await;
    let mut stream = rig.opened(named("db", NOW)).await;
    let cursor = stream.next().await.expect("where it begins").cursor;
    // A write that fails closes the file; in its place now is something that is no store.
    std::fs::rename(&path, directory.path().join("aside")).expect("renamed");
    std::fs::write(&path, vec![0xA5; 8192]).expect("written");
    store.write(|_| -> crate::store::Outcome<()> { panic!("made up") }).await.expect_err("failed");
    for failed in [
        rig.acknowledge("db", &cursor).await.expect_err("failed"),
        rig.refused(named("db", NOW)).await,
        rig.delete("db").await.expect_err("failed"),
    ] {
        let details = assert_error(&failed, Code::Unavailable, "STORE_UNAVAILABLE");
        assert!(details.retry_info().expect("a RetryInfo").retry_delay.is_some());
    }
    let _a = rig.join("a").await;
    assert_eq!(ids(&stream.events(1).await), ["a"]);
    // It recovers by itself.
    std::fs::rename(directory.path().join("aside"), &path).expect("renamed");
    assert_eq!(rig.acknowledge("db", &cursor).await.expect("kept"), cursor);
}
