//! What is kept, for how long, and how it is read.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;

use super::*;
use crate::log::READ_RECORDS;

#[tokio::test]
async fn one_event_costs_exactly_one_sync_and_a_batch_no_more() {
    let journal = Journal::new(ROOMY, Clock::default());
    journal.connect("first, which begins the segment");
    let syncs = || journal.faults.syncs.load(Ordering::SeqCst);
    let writes = || journal.faults.writes.load(Ordering::SeqCst);
    let before = (syncs(), writes());
    for i in 0..20 {
        journal.connect(&format!("c{i}"));
    }
    assert_eq!((syncs() - before.0, writes() - before.1), (20, 20));
    assert_eq!(journal.log.metrics.journal_syncs.get(), syncs() - journal_overhead(&journal));
    let connection = info("busy");
    for _ in 0..3_000 {
        journal.submit(&connection, text(20));
    }
    let before = (syncs(), writes());
    assert_eq!(journal.commit(), 1);
    assert_eq!((syncs() - before.0, writes() - before.1), (1, 1));
    // Nothing to commit costs nothing.
    assert_eq!(journal.commit(), 0);
    assert_eq!(syncs() - before.0, 1);
}

/// Syncs of what is no segment that is written to: spares and checkpoints.
fn journal_overhead(journal: &Journal) -> u64 {
    journal.faults.syncs.load(Ordering::SeqCst) - journal.log.metrics.journal_syncs.get()
}

#[tokio::test]
async fn what_memory_no_longer_has_is_read_from_files_in_bounded_pieces() {
    let journal = Journal::new(Retention { max_bytes: 64 << 20, max_age: None }, Clock::default());
    let connection = journal.connect("a");
    let start = journal.log.bounds().head - 1;
    // More than the ring holds.
    for _ in 0..600 {
        for _ in 0..10 {
            journal.submit(&connection, text(10));
        }
        journal.submit(&connection, text(40_000));
        journal.commit();
    }
    assert!(journal.log.ring().before_oldest() > start + 1_000);
    let head = journal.log.bounds().head;
    let (mut after, mut reads) = (start, 0);
    while after < head {
        let records = journal.log.read(after).await.expect("kept");
        assert!(!records.is_empty() && records.len() <= READ_RECORDS);
        let bytes: usize = records.iter().map(|record| record.event.kind.payload_len()).sum();
        // What memory has is shared, and costs a reader nothing.
        let from_a_file = after < journal.log.ring().before_oldest();
        assert!(!from_a_file || bytes <= (1 << 20) + 40_000, "{bytes}");
        assert!(records.iter().enumerate().all(|(i, record)| record.offset == after + 1 + i as Offset));
        assert!(records.iter().all(|record| record.event.connection.generation() == start + 1));
        after += records.len() as Offset;
        reads += 1;
    }
    assert_eq!(after, head);
    assert!(reads > 12);
    assert!(journal.log.read(head).await.expect("kept").is_empty());
    // From anywhere.
    for after in (start..head).step_by(997) {
        assert_eq!(journal.log.read(after).await.expect("kept")[0].offset, after + 1);
    }
    assert!(journal.log.read(head).await.expect("kept").is_empty());
}

#[tokio::test]
async fn an_event_that_rotted_is_told_with_its_place_when_it_is_read() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    let rotten = journal.log.bounds().head;
    journal.log_one(&connection, text(1_000));
    let scratch = Arc::clone(&journal.scratch);
    journal.log_one(&connection, left());
    // A new process has nothing in memory.
    drop(journal);
    let journal = Journal::at(scratch, SMALL, Clock::default()).expect("opened");
    let file = segments(&journal.journal()).remove(0);
    let mut bytes = std::fs::read(&file).expect("read");
    let place = bytes.windows(100).position(|window| window == [b'x'; 100]).expect("the text");
    bytes[place + 10] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let Err(ReadError::Damaged(why)) = journal.log.read(rotten).await else { panic!("it was read") };
    assert!(why.contains(&file.display().to_string()) && why.contains("byte "), "{why}");
    // What is before it is no less readable.
    assert_eq!(journal.log.read(rotten - 1).await.map(|records| records.len()).unwrap_or(0), 0);
}

/// A journal with an event in a file only, and the offset before that.
fn read_from_a_file() -> (Journal, Offset) {
    let journal = Journal::new(SMALL, Clock::default());
    journal.connect("a");
    let after = journal.log.bounds().before_oldest;
    let scratch = Arc::clone(&journal.scratch);
    drop(journal);
    (Journal::at(scratch, SMALL, Clock::default()).expect("opened"), after)
}

#[tokio::test]
async fn a_file_that_cannot_be_read_for_now_is_not_called_damaged_and_one_that_is_short_is() {
    let (journal, after) = read_from_a_file();
    let file = segments(&journal.journal()).remove(0);
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).expect("renamed");
    // It cannot be opened, whoever tries.
    std::os::unix::fs::symlink(&file, &file).expect("linked");
    let Err(ReadError::Unavailable(why)) = journal.log.read(after).await else { panic!("it was read") };
    assert!(why.contains(&file.display().to_string()), "{why}");
    std::fs::remove_file(&file).expect("removed");
    // It can be opened, and reading fails.
    std::fs::create_dir(&file).expect("made");
    assert!(matches!(journal.log.read(after).await, Err(ReadError::Unavailable(_))));
    std::fs::remove_dir(&file).expect("removed");
    std::fs::rename(&aside, &file).expect("renamed");
    assert!(!journal.log.read(after).await.expect("kept").is_empty());
    let short = std::fs::OpenOptions::new().write(true).open(&file).expect("opened");
    short.set_len(100).expect("cut");
    assert!(matches!(journal.log.read(after).await, Err(ReadError::Damaged(_))));
}

#[test]
fn a_read_that_nobody_waits_for_any_more_keeps_its_place_until_it_is_done() {
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("a runtime");
    runtime.block_on(async {
        let (journal, after) = read_from_a_file();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        for left in (0..FILE_READS).rev() {
            assert!(journal.log.read(after).now_or_never().is_none());
            assert_eq!(journal.log.reads.available_permits(), left);
        }
        assert!(journal.log.read(after).now_or_never().is_none());
        go.send(()).expect("heard");
        let _ = busy.await;
        assert!(!journal.log.read(after).await.expect("kept").is_empty());
        assert_eq!(journal.log.reads.available_permits(), FILE_READS);
    });
}

#[tokio::test]
async fn the_largest_event_fits_and_goes_on_fitting() {
    let journal = Journal::new(SMALL, Clock::default());
    let labels: Vec<_> = (0..8).map(|i| (format!("k{i}"), "v".repeat(120))).collect();
    let labels = Labels::new(labels).expect("labels");
    let connection = journal.connect(&"c".repeat(128));
    for _ in 0..40 {
        let kind = text(PAYLOAD);
        let event = Event { time: 0, connection: Arc::clone(&connection), labels: labels.clone(), kind };
        journal.log.submit(Entry::ending(event));
        assert_eq!(journal.commit(), 1);
    }
    let on_disk: u64 = files(&journal.journal(), "").iter().map(|file| file.metadata().expect("there").len()).sum();
    assert!(on_disk <= 1 << 20, "{on_disk}");
}

#[tokio::test]
async fn the_files_of_what_is_forgotten_go_and_who_is_connected_is_not_forgotten() {
    let journal = Journal::new(Retention { max_bytes: 512 << 10, max_age: None }, Clock::default());
    let stays = journal.connect("stays");
    let busy = journal.connect("busy");
    for _ in 0..100 {
        journal.log_one(&busy, text(50_000));
    }
    let bounds = journal.log.bounds();
    assert!(bounds.before_oldest > busy.generation() + 50);
    let on_disk: u64 = files(&journal.journal(), "").iter().map(|file| file.metadata().expect("there").len()).sum();
    assert!(on_disk <= 512 << 10, "{on_disk}");
    let scratch = Arc::clone(&journal.scratch);
    drop(journal);
    let journal = Journal::at(scratch, SMALL, Clock::default()).expect("opened");
    let ended: Vec<_> = journal.all().await.into_iter().filter(|told| told.contains("NodeRestarted")).collect();
    assert_eq!(ended.len(), 2);
    assert!(ended[0].contains(&stays.generation().to_string()));
}

#[tokio::test]
async fn what_is_too_old_goes_from_the_disk_as_well() {
    let now = Arc::new(AtomicU64::new(1_000));
    let read = Arc::clone(&now);
    let clock = Clock::new(move || SystemTime::UNIX_EPOCH + Duration::from_secs(read.load(Ordering::Relaxed)));
    let retention = Retention { max_bytes: 1 << 20, max_age: Some(Duration::from_secs(60)) };
    let journal = Journal::new(retention, clock);
    let connection = info("a");
    let time = journal.log.clock.wall_nanos();
    let event = Event { time, connection, labels: Labels::NONE, kind: text(10) };
    journal.log.submit(Entry::ending(event));
    journal.commit();
    let old = segments(&journal.journal());
    now.store(1_061, Ordering::Relaxed);
    journal.log.retain();
    assert_eq!(journal.log.bounds().records, 0);
    // What the running log does when it is woken.
    journal.log.leave_old();
    journal.commit();
    let left = segments(&journal.journal());
    assert!(left.len() == 1 && left != old, "{left:?}");
    journal.connect("b");
    assert_eq!(journal.log.bounds().records, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_commits_on_threads_of_its_own_and_ends_in_order() {
    struct Registry(Mutex<(Opens, Offset)>);
    impl Apply for Registry {
        fn apply(&self, batch: &[Arc<Record>]) {
            Folding { beside: None, state: &self.0 }.apply(batch);
        }
    }
    impl Checkpoint for Registry {
        fn parts(&self) -> usize {
            1
        }
        fn copy_part(&self, part: usize) -> FoldPart {
            Folding { beside: None, state: &self.0 }.copy_part(part)
        }
    }
    let journal = Journal::new(SMALL, Clock::default());
    let fold = Arc::new(Registry(Mutex::new((Opens::default(), *journal.log.head.borrow()))));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&journal.log).run(fold, stop.clone()));
    let mut head = journal.log.watch_head();
    let first = *head.borrow_and_update();
    let connection = info("a");
    for _ in 0..50 {
        for _ in 0..20 {
            journal.submit(&connection, text(3_000));
        }
        tokio::task::yield_now().await;
    }
    head.wait_for(|head| *head == first + 1_000).await.expect("committed");
    assert!(DataDir::open(journal.scratch.path()).is_err());
    stop.cancel();
    running.await.expect("ends");
    // Ended, it has let go of the directory, and its last checkpoint says that nothing follows.
    let scratch = Arc::clone(&journal.scratch);
    let newest = checkpoint::list(&journal.journal()).expect("a directory").remove(0);
    let (written, _) = checkpoint::read(&newest).expect("read").expect("whole");
    assert!(written.header.clean && written.header.durable == first + 1_000);
    let again = Journal::at(scratch, SMALL, Clock::default()).expect("opened");
    assert_eq!(again.log.bounds().head, first + 1_000);
}
