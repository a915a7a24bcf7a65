//! A disk that is full, or that fails to sync: nothing is shown that is not durable, newcomers are refused, and it recovers by itself.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;

use super::*;

fn healthy(journal: &Journal) -> bool {
    journal.log.watch_health().borrow().is_committing()
}

fn room(journal: &Journal) -> bool {
    journal.log.budget().try_reserve(0).is_some()
}

/// What a crash now would leave to be read.
async fn after_a_crash(journal: Journal) -> Vec<String> {
    let Journal { log, scratch, .. } = journal;
    drop(log);
    Journal::at(scratch, SMALL, Clock::default()).expect("opened").all().await
}

#[tokio::test]
async fn a_write_or_sync_that_fails_is_neither_told_nor_shown_until_a_later_one_works() {
    for fault in ["write", "sync"] {
        let journal = Journal::new(SMALL, Clock::default());
        let connection = journal.connect("a");
        let head = journal.log.bounds().head;
        let faults = Arc::clone(&journal.faults);
        let fault = if fault == "write" { &faults.write } else { &faults.sync };
        Faults::set(fault, true);
        let mut entry =
            Entry::ending(Event { time: 0, connection: Arc::clone(&connection), labels: Labels::NONE, kind: text(10) });
        let mut told = entry.notify();
        journal.log.submit(entry);
        for _ in 0..5 {
            assert_eq!(journal.commit(), 0);
            assert!(!healthy(&journal) && !room(&journal));
            assert_eq!(journal.log.bounds().head, head);
            assert_eq!(journal.log.bounds().committed, head);
            assert!(journal.log.read(head).await.expect("kept").is_empty());
            assert!(told.try_recv().is_err());
        }
        // Ends are submitted all the same.
        journal.submit(&connection, left());
        Faults::set(fault, false);
        assert_eq!(journal.commit(), 2);
        assert!(healthy(&journal) && room(&journal));
        assert_eq!(told.try_recv(), Ok(head + 1));
        assert_eq!(journal.log.bounds().head, head + 2);
        let all = journal.all().await;
        assert_eq!(all.len(), 3);
        assert!(journal.log.metrics.journal_failures.get() >= 5);
        assert_eq!(after_a_crash(journal).await, all);
    }
}

#[tokio::test]
async fn a_batch_whose_sync_failed_is_not_written_to_the_same_file_again() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    let before = segments(&journal.journal());
    Faults::set(&journal.faults.sync, true);
    journal.submit(&connection, text(10));
    assert_eq!(journal.commit(), 0);
    Faults::set(&journal.faults.sync, false);
    assert_eq!(journal.commit(), 1);
    let after = segments(&journal.journal());
    assert_eq!((after.len(), &after[..1]), (2, &before[..]));
}

#[tokio::test]
async fn a_crash_at_any_stage_of_a_failure_loses_nothing_that_was_told() {
    for stage in 0..4 {
        let journal = Journal::new(SMALL, Clock::default());
        let connection = journal.connect("a");
        journal.log_one(&connection, text(10));
        let told = journal.all().await;
        let fault = if stage % 2 == 0 { &journal.faults.sync } else { &journal.faults.write };
        Faults::set(fault, true);
        journal.submit(&connection, text(20));
        for _ in 0..=stage {
            journal.commit();
        }
        let after = after_a_crash(journal).await;
        assert_eq!(after[..told.len()], told, "{stage}");
        // What was not told may be there or not, and then comes the end.
        assert!(after.len() <= told.len() + 2 && after.last().is_some_and(|last| last.contains("NodeRestarted")));
    }
}

#[tokio::test]
async fn an_old_segment_that_cannot_be_left_is_not_tried_again_at_once() {
    let (now, clock) = clock();
    let journal = Journal::new(Retention { max_bytes: 1 << 20, max_age: Some(Duration::from_secs(60)) }, clock);
    journal.log_one(&info("a"), text(10));
    let old = segments(&journal.journal());
    now.store(2_000, Ordering::Relaxed);
    let woken = || journal.log.rotate.notified().now_or_never().is_some();
    journal.log.retain();
    assert!(woken());
    Faults::set(&journal.faults.sync, true);
    journal.log.leave_old();
    assert!(!woken());
    // The next look for what is too old tries again.
    Faults::set(&journal.faults.sync, false);
    journal.log.retain();
    assert!(woken());
    journal.log.leave_old();
    assert!(!woken());
    journal.commit();
    assert_ne!(segments(&journal.journal()), old);
}

/// A clock at 1000 s, and what sets it.
fn clock() -> (Arc<AtomicU64>, Clock) {
    let now = Arc::new(AtomicU64::new(1_000));
    let read = Arc::clone(&now);
    (now, Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed))))
}

/// A journal with an event, all of which is forgotten for its age, files too: what it goes on in is empty.
fn forgotten() -> (Journal, Offset) {
    let (now, clock) = clock();
    let journal = Journal::new(Retention { max_bytes: 1 << 20, max_age: Some(Duration::from_secs(60)) }, clock);
    journal.log_one(&info("a"), text(10));
    let old = segments(&journal.journal());
    now.store(2_000, Ordering::Relaxed);
    journal.log.retain();
    journal.log.leave_old();
    journal.commit();
    let left = segments(&journal.journal());
    assert!(left.len() == 1 && left != old, "{left:?}");
    let head = journal.log.bounds().head;
    (journal, head)
}

#[tokio::test]
async fn a_first_write_that_fails_in_the_only_segment_leaves_a_directory_that_opens() {
    for stage in ["write", "sync", "sync, then the directory"] {
        let (journal, head) = forgotten();
        let faults = Arc::clone(&journal.faults);
        let fault = if stage == "write" { &faults.write } else { &faults.sync };
        Faults::set(fault, true);
        journal.submit(&info("b"), text(20));
        assert_eq!(journal.commit(), 0);
        Faults::set(fault, !stage.contains("directory"));
        Faults::set(&faults.sync_directory, stage.contains("directory"));
        assert_eq!(journal.commit(), 0);
        assert!(!healthy(&journal));
        assert_eq!(segments(&journal.journal()).len(), 1, "{stage}");
        let opened = journal.crash().unwrap_or_else(|error| panic!("{stage}: {error}"));
        // What was not told may be there or not.
        let now = opened.log.bounds().head;
        assert!(now == head || now == head + 1, "{stage}");
        let connection = opened.connect("c");
        assert_eq!(connection.generation(), now + 1);
        opened.crash().unwrap_or_else(|error| panic!("{stage}: {error}"));
    }
}

#[tokio::test]
async fn a_first_write_that_fails_in_the_only_segment_is_made_up_for_in_its_place() {
    let (journal, head) = forgotten();
    let empty = segments(&journal.journal());
    Faults::set(&journal.faults.sync, true);
    journal.submit(&info("b"), text(20));
    for _ in 0..3 {
        assert_eq!(journal.commit(), 0);
    }
    Faults::set(&journal.faults.sync, false);
    assert_eq!(journal.commit(), 1);
    assert_eq!(segments(&journal.journal()), empty);
    let all = journal.all().await;
    assert_eq!((all.len(), journal.log.bounds().head), (1, head + 1));
    assert_eq!(after_a_crash(journal).await, all);
}

#[tokio::test]
async fn on_a_full_disk_the_spare_takes_what_is_queued_and_newcomers_wait() {
    let journal = Journal::new(SMALL, Clock::default());
    let connections: Vec<_> = (0..20).map(|i| journal.connect(&format!("c{i}"))).collect();
    Faults::set(&journal.faults.allocate, true);
    // The segment that is written to fills up; the spare becomes the next, and there is no other.
    while healthy(&journal) {
        journal.submit(&connections[0], text(30_000));
        journal.commit();
    }
    assert!(!room(&journal));
    let LogHealth::Failing(why) = journal.log.watch_health().borrow().clone() else { panic!("healthy") };
    assert!(why.contains("set space aside"), "{why}");
    for connection in &connections {
        journal.submit(connection, left());
    }
    // Owed ends are written, and durable.
    assert_eq!(journal.commit(), 1);
    assert!(!healthy(&journal));
    let all = journal.all().await;
    assert_eq!(all.iter().filter(|told| told.contains("ClientClosed")).count(), 20);
    // When there is space again it recovers, and there is a spare again.
    Faults::set(&journal.faults.allocate, false);
    journal.commit();
    assert!(healthy(&journal) && room(&journal) && journal.log.spare.is_there());
    assert_eq!(after_a_crash(journal).await, all);
}

#[tokio::test]
async fn when_the_spare_is_used_up_too_events_wait_in_memory_and_none_is_lost() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    Faults::set(&journal.faults.allocate, true);
    let mut submitted = 0;
    while !journal.log.is_behind() {
        journal.submit(&connection, text(30_000));
        submitted += 1;
        journal.commit();
    }
    journal.submit(&connection, left());
    assert_eq!(journal.commit(), 0);
    let head = journal.log.bounds().head;
    assert_eq!(head - connection.generation(), submitted - 1);
    Faults::set(&journal.faults.allocate, false);
    assert_eq!(journal.commit(), 2);
    assert_eq!(journal.log.bounds().head, head + 2);
    assert!(healthy(&journal));
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_still_ends_what_is_owed_by_the_spare_of_the_last_run() {
    let journal = Journal::new(SMALL, Clock::default());
    for i in 0..5 {
        journal.connect(&format!("c{i}"));
    }
    // The segment has no room left, as when a crash tore it.
    let file = segments(&journal.journal()).pop().expect("one");
    let end = journal.log.kept().current().expect("one").end;
    let Journal { log, scratch, .. } = journal;
    drop(log);
    std::fs::OpenOptions::new().write(true).open(file).expect("opened").set_len(end).expect("cut");
    let faults = Arc::new(Faults::default());
    Faults::set(&faults.allocate, true);
    let open = |faults: &Arc<Faults>| {
        let held = DataDir::open(scratch.path()).expect("free");
        let disk = Arc::new(FaultyDisk(Arc::clone(faults)));
        JournalLog::open_on(disk, held, SMALL, PAYLOAD, Clock::default(), Arc::default())
    };
    let log = open(&faults).expect("opened");
    assert!(!log.watch_health().borrow().is_committing());
    assert_eq!(log.bounds().records, 10);
    drop(log);
    // With nothing set aside it says why it cannot start, once there is something owed.
    Faults::set(&faults.allocate, false);
    let log = open(&faults).expect("opened");
    drop(log);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_does_not_answer_is_failing_until_it_does() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&journal.log).run(Arc::new(()), stop.clone()));
    let (head, mut health) = (journal.log.watch_head(), journal.log.watch_health());
    let failures = journal.log.metrics.journal_failures.get();
    // Another thread, because a lock is not held across an await.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (faults, held) = (Arc::clone(&journal.faults), Arc::new(std::sync::Barrier::new(2)));
    let holding = Arc::clone(&held);
    let holder = std::thread::spawn(move || {
        let _answers = faults.answers.lock();
        holding.wait();
        let _ = wait.recv();
    });
    held.wait();
    let syncs = || journal.faults.syncs.load(Ordering::SeqCst);
    let before = syncs();
    journal.submit(&connection, text(10));
    while syncs() == before {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_millis(2_900)).await;
    tokio::task::yield_now().await;
    assert!(healthy(&journal) && room(&journal));
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    let LogHealth::Failing(why) = health.borrow_and_update().clone() else { panic!("healthy") };
    assert!(why.contains("has not answered for 3 s"), "{why}");
    assert!(!room(&journal));
    // Told once.
    assert_eq!(journal.log.metrics.journal_failures.get(), failures + 1);
    go.send(()).expect("heard");
    holder.join().expect("ends");
    health.wait_for(LogHealth::is_committing).await.expect("recovers");
    stop.cancel();
    running.await.expect("ends");
    assert_eq!(*head.borrow(), connection.generation() + 1);
    assert!(room(&journal));
}

fn ails(journal: &Journal) -> Option<String> {
    match journal.log.watch_health().borrow().clone() {
        LogHealth::Ailing(why) => Some(why.to_string()),
        _ => None,
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_told_and_refuses_nobody() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    let failures = journal.log.metrics.journal_failures.get();
    Faults::set(&journal.faults.checkpoint, true);
    let mut submitted = 0;
    while ails(&journal).is_none() {
        journal.log_one(&connection, text(30_000));
        submitted += 1;
        assert!(submitted < 100, "never told");
    }
    let why = ails(&journal).expect("just seen");
    assert!(why.contains("cannot write a checkpoint") && why.contains("journal"), "{why}");
    assert!(journal.log.metrics.journal_failures.get() > failures);
    assert!(healthy(&journal) && room(&journal));
    journal.log_one(&connection, text(10));
    // What is worse comes first, and what is left of it is told after.
    Faults::set(&journal.faults.sync, true);
    journal.submit(&connection, text(10));
    assert_eq!(journal.commit(), 0);
    assert!(!healthy(&journal) && !room(&journal));
    Faults::set(&journal.faults.sync, false);
    assert_eq!(journal.commit(), 1);
    assert_eq!(ails(&journal), Some(why));
    assert!(room(&journal));
    Faults::set(&journal.faults.checkpoint, false);
    journal.log_one(&connection, text(10));
    assert_eq!(*journal.log.watch_health().borrow(), LogHealth::Committing);
}

#[tokio::test(start_paused = true)]
async fn space_that_is_never_set_aside_is_told_and_what_can_be_committed_is() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    let stop = CancellationToken::new();
    // If this fails, the threads end all the same.
    let _stopped = stop.clone().drop_guard();
    let running = tokio::spawn(Arc::clone(&journal.log).run(Arc::new(()), stop.clone()));
    let (mut head, mut health) = (journal.log.watch_head(), journal.log.watch_health());
    let failures = journal.log.metrics.journal_failures.get();
    // Another thread, because a lock is not held across an await.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (faults, held) = (Arc::clone(&journal.faults), Arc::new(std::sync::Barrier::new(2)));
    let holding = Arc::clone(&held);
    let holder = std::thread::spawn(move || {
        let _creates = faults.creates.lock();
        holding.wait();
        let _ = wait.recv();
    });
    held.wait();
    // The spare becomes a segment, and the next one is waited for.
    let mut told = connection.generation();
    while journal.log.spare.is_there() {
        journal.submit(&connection, text(30_000));
        told += 1;
        head.wait_for(|head| *head == told).await.expect("committed");
    }
    while !journal.log.health.is_keeping() {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_millis(2_900)).await;
    tokio::task::yield_now().await;
    assert_eq!(*health.borrow(), LogHealth::Committing);
    for _ in 0..5 {
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    let why = ails(&journal).expect("it ails");
    assert!(why.contains("setting space aside has taken more than 3 s"), "{why}");
    // Told once.
    assert_eq!(journal.log.metrics.journal_failures.get(), failures + 1);
    assert!(room(&journal));
    journal.submit(&connection, text(10));
    head.wait_for(|head| *head == told + 1).await.expect("committed");
    go.send(()).expect("heard");
    holder.join().expect("ends");
    health.wait_for(|health| *health == LogHealth::Committing).await.expect("recovers");
    stop.cancel();
    running.await.expect("ends");
}

// In real time, a few tenths of a second: paused time stands still while a blocking thread is at work.
#[tokio::test(flavor = "multi_thread")]
async fn the_running_log_tries_again_by_itself() {
    let journal = Journal::new(SMALL, Clock::default());
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&journal.log).run(Arc::new(()), stop.clone()));
    let (mut head, mut health) = (journal.log.watch_head(), journal.log.watch_health());
    Faults::set(&journal.faults.sync, true);
    let connection = info("a");
    journal.submit(&connection, connected_kind());
    health.wait_for(|health| !health.is_committing()).await.expect("fails");
    Faults::set(&journal.faults.sync, false);
    head.wait_for(|head| *head == connection.generation() && *head > 0).await.expect("committed");
    health.wait_for(LogHealth::is_committing).await.expect("recovers");
    stop.cancel();
    running.await.expect("ends");
}
