//! The consumers over a real store, with a wall clock that the test moves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::*;
use crate::position::Epoch;

const DAY: u64 = 24 * 60 * 60;

/// A clock of seconds since the Unix epoch.
fn clock() -> (Clock, Arc<AtomicU64>) {
    let seconds = Arc::new(AtomicU64::new(1_000 * DAY));
    let read = Arc::clone(&seconds);
    (Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed))), seconds)
}

fn in_memory() -> Consumers {
    Consumers::new(Store::in_memory().expect("a store"), Clock::default())
}

fn name(name: &str) -> ConsumerName {
    ConsumerName::new(name).expect("a good name")
}

fn at(offset: i64) -> Position {
    static EPOCH: std::sync::LazyLock<Epoch> = std::sync::LazyLock::new(Epoch::random);
    Position { epoch: *EPOCH, offset }
}

async fn names(consumers: &Consumers) -> Vec<String> {
    consumers.list(String::new(), 2_000).await.expect("listed").into_iter().map(|one| one.name).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_kept_when_the_file_is_opened_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let consumers = Consumers::new(Store::open(&path).expect("opened"), Clock::default());
    for new in ["began", "acknowledged", "snapshot", "deleted"] {
        let fresh = if new == "snapshot" { Fresh::Snapshot } else { Fresh::At(at(5)) };
        assert_eq!(consumers.open(&consumers.enter(&name(new)), fresh, false).await, Ok(Opened::Fresh));
    }
    assert_eq!(consumers.acknowledge(&name("acknowledged"), at(9)).await, Ok(Acknowledged::Kept(at(9))));
    assert_eq!(consumers.delete(&name("deleted")).await, Ok(true));
    drop(consumers);
    // The thread lets go of the file when it notices.
    let store = loop {
        match Store::open(&path) {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let consumers = Consumers::new(store, Clock::default());
    assert_eq!(names(&consumers).await, ["acknowledged", "began", "snapshot"]);
    let opened = async |of| consumers.open(&consumers.enter(&name(of)), Fresh::Nowhere, false).await.expect("opened");
    assert_eq!(opened("began").await, Opened::Kept(at(5)));
    assert_eq!(opened("acknowledged").await, Opened::Kept(at(9)));
    assert_eq!(opened("snapshot").await, Opened::Fresh);
    assert_eq!(consumers.acknowledge(&name("acknowledged"), at(7)).await, Ok(Acknowledged::Kept(at(9))), "never back");
    assert_eq!(consumers.acknowledge(&name("deleted"), at(7)).await, Ok(Acknowledged::Missing));
}

#[tokio::test]
async fn many_acknowledgements_at_once_leave_the_greatest() {
    let consumers = in_memory();
    consumers.open(&consumers.enter(&name("a")), Fresh::At(at(0)), false).await.expect("opened");
    let a = name("a");
    let all = (1..=1_000).rev().map(|offset| consumers.acknowledge(&a, at(offset)));
    for kept in futures_util::future::join_all(all).await {
        assert_eq!(kept, Ok(Acknowledged::Kept(at(1_000))), "the greatest came first");
    }
}

#[tokio::test]
async fn a_thousand_are_kept_and_one_more_is_refused_until_one_is_deleted() {
    let consumers = in_memory();
    let open = |i: usize| {
        let consumers = consumers.clone();
        async move {
            consumers.open(&consumers.enter(&name(&format!("c{i:04}"))), Fresh::Snapshot, false).await.expect("opened")
        }
    };
    let opened = futures_util::future::join_all((0..MAX_CONSUMERS).map(open)).await;
    assert!(opened.iter().all(|opened| *opened == Opened::Fresh));
    assert_eq!(open(MAX_CONSUMERS).await, Opened::TooMany);
    assert_eq!(open(7).await, Opened::Fresh, "one that is there goes on");
    assert_eq!(names(&consumers).await.len(), MAX_CONSUMERS);
    assert_eq!(consumers.delete(&name("c0007")).await, Ok(true));
    assert_eq!(consumers.delete(&name("c0007")).await, Ok(false));
    assert_eq!(open(MAX_CONSUMERS).await, Opened::Fresh);
}

#[tokio::test]
async fn pages_go_on_after_a_name_that_may_be_gone() {
    let consumers = in_memory();
    for one in ["a", "b", "c", "d"] {
        consumers.open(&consumers.enter(&name(one)), Fresh::Snapshot, false).await.expect("opened");
    }
    let after = async |name: &str| {
        let page = consumers.list(name.to_owned(), 2).await.expect("listed");
        page.into_iter().map(|one| one.name).collect::<Vec<_>>().concat()
    };
    assert_eq!((after("").await, after("b").await, after("d").await), ("ab".into(), "cd".into(), String::new()));
    consumers.delete(&name("b")).await.expect("deleted");
    assert_eq!(after("b").await, "cd");
}

#[tokio::test]
async fn only_the_unused_are_forgotten_and_a_stream_is_a_use() {
    let (clock, seconds) = clock();
    let consumers = Consumers::new(Store::in_memory().expect("a store"), clock);
    for new in ["unused", "acknowledged", "streaming", "entering"] {
        consumers.open(&consumers.enter(&name(new)), Fresh::At(at(5)), false).await.expect("opened");
    }
    let (streaming, entering) = (consumers.enter(&name("streaming")), consumers.enter(&name("entering")));
    streaming.take_over();
    seconds.fetch_add(29 * DAY, Ordering::Relaxed);
    consumers.acknowledge(&name("acknowledged"), at(1)).await.expect("even one that changes nothing");
    assert_eq!(consumers.sweep().await, Ok(0));
    seconds.fetch_add(DAY, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(0), "thirty days to the second");
    seconds.fetch_add(1, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(1));
    assert_eq!(names(&consumers).await, ["acknowledged", "entering", "streaming"]);
    seconds.fetch_add(400 * DAY, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(1));
    drop((streaming, entering));
    seconds.fetch_add(30 * DAY, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(0), "used until it was last looked at");
    assert_eq!(
        consumers.open(&consumers.enter(&name("streaming")), Fresh::Nowhere, false).await,
        Ok(Opened::Kept(at(5)))
    );
    seconds.fetch_add(1, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(1));
    assert_eq!(names(&consumers).await, ["streaming"]);
    seconds.store(0, Ordering::Relaxed);
    assert_eq!(consumers.sweep().await, Ok(0), "a clock that was set back forgets nobody");
}

/// In real time: paused time would run ahead of the store's thread.
#[tokio::test]
async fn sweeps_are_run_at_the_start_and_from_time_to_time() {
    let (clock, seconds) = clock();
    let consumers = Consumers::new(Store::in_memory().expect("a store"), clock);
    let add = async |of| {
        assert_eq!(consumers.open(&consumers.enter(&name(of)), Fresh::Snapshot, false).await, Ok(Opened::Fresh))
    };
    let left = async |count| {
        let counted = async {
            while names(&consumers).await.len() != count {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), counted).await.expect("in time");
    };
    add("a").await;
    seconds.fetch_add(31 * DAY, Ordering::Relaxed);
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (consumers, stop) = (consumers.clone(), stop.clone());
        async move { consumers.run_sweeps(Duration::from_millis(10), stop).await }
    });
    left(0).await;
    add("b").await;
    seconds.fetch_add(31 * DAY, Ordering::Relaxed);
    left(0).await;
    stop.cancel();
    running.await.expect("no panic");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_of_another_epoch() {
    let store = Store::in_memory().expect("a store");
    let put = store.write(|transaction| {
        let table: crate::store::TableDefinition<'_, &str, (&str, i64)> =
            crate::store::TableDefinition::new("consumers");
        transaction.open_table(table)?.insert("a", ("damaged", 1))?;
        Ok(())
    });
    put.await.expect("written");
    let consumers = Consumers::new(store, Clock::default());
    let opened = consumers.open(&consumers.enter(&name("a")), Fresh::At(at(5)), false).await.expect("opened");
    assert!(matches!(opened, Opened::Kept(position) if position.epoch != at(5).epoch), "{opened:?}");
    assert_eq!(consumers.acknowledge(&name("a"), at(5)).await, Ok(Acknowledged::Kept(at(5))));
}

#[tokio::test]
async fn one_that_a_newer_stream_has_taken_over_changes_no_position_any_more() {
    // The newer one may have begun already, and may have gone again.
    for stage in ["looked up", "begun", "gone"] {
        let consumers = in_memory();
        let open =
            async |stream: &Attachment, fresh, reset| consumers.open(stream, fresh, reset).await.expect("opened");
        let enter = || consumers.enter(&name("a"));
        assert_eq!(open(&enter(), Fresh::At(at(5)), false).await, Opened::Fresh);
        let (older, newer) = (enter(), enter());
        assert_eq!(open(&newer, Fresh::Nowhere, false).await, Opened::Kept(at(5)));
        if stage != "looked up" {
            newer.take_over();
        }
        let newer = (stage != "gone").then_some(newer);
        for fresh in [Fresh::At(at(9)), Fresh::Snapshot] {
            assert_eq!(open(&older, fresh, true).await, Opened::TakenOver, "{stage}");
        }
        assert_eq!(open(&older, Fresh::Nowhere, false).await, Opened::Kept(at(5)), "{stage}");
        // What the newer one was sent may be acknowledged: nothing was reset.
        assert_eq!(consumers.acknowledge(&name("a"), at(8)).await, Ok(Acknowledged::Kept(at(8))));
        drop(newer);
    }
}

#[tokio::test]
async fn a_newer_stream_that_cannot_begin_does_not_keep_an_older_one_from_a_reset() {
    let consumers = in_memory();
    let [older, newer] = std::array::from_fn(|_| consumers.enter(&name("a")));
    assert_eq!(consumers.open(&newer, Fresh::At(at(5)), false).await, Ok(Opened::Fresh));
    drop(newer);
    assert_eq!(consumers.open(&older, Fresh::At(at(9)), true).await, Ok(Opened::Fresh));
    older.take_over();
    assert_eq!(consumers.acknowledge(&name("a"), at(10)).await, Ok(Acknowledged::NotSent), "it was reset");
}

#[tokio::test]
async fn the_snapshot_of_a_newer_stream_is_not_made_a_place_by_an_older_one() {
    let consumers = in_memory();
    let [older, newer] = std::array::from_fn(|_| consumers.enter(&name("a")));
    assert_eq!(consumers.open(&newer, Fresh::Snapshot, false).await, Ok(Opened::Fresh));
    newer.take_over();
    assert_eq!(consumers.open(&older, Fresh::At(at(9)), false).await, Ok(Opened::TakenOver));
    drop((older, newer));
    assert_eq!(consumers.open(&consumers.enter(&name("a")), Fresh::Nowhere, false).await, Ok(Opened::Fresh));
}

#[tokio::test]
async fn a_reset_of_a_caller_that_has_left_holds_up_nobody_who_comes_later() {
    let consumers = in_memory();
    consumers.open(&consumers.enter(&name("a")), Fresh::At(at(5)), false).await.expect("opened");
    // What comes after waits for this.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let mut holding = Box::pin(consumers.store.write(move |_| {
        assert!(wait.recv().is_err(), "only ever let go of");
        Ok(())
    }));
    assert!(futures_util::poll!(&mut holding).is_pending());
    let mut leaving = Box::pin(async {
        let stream = consumers.enter(&name("a"));
        consumers.open(&stream, Fresh::At(at(7)), true).await
    });
    assert!(futures_util::poll!(&mut leaving).is_pending());
    // Its write is on its way.
    let leave = move || drop(leaving);
    leave();
    let next = consumers.enter(&name("a"));
    drop(go);
    assert_eq!(holding.await, Ok(()));
    assert_eq!(consumers.open(&next, Fresh::Nowhere, false).await, Ok(Opened::Kept(at(7))));
    next.take_over();
    assert_eq!(
        consumers.acknowledge(&name("a"), at(9)).await,
        Ok(Acknowledged::Kept(at(9))),
        "it was not reset itself"
    );
}
