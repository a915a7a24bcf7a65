//! Opening again: after an end in order, after a kill, after a torn write, and after damage.

use super::*;

/// A log of several segments, and a batch of several events at its end; what can be read from it.
async fn several_segments() -> (Journal, Vec<String>) {
    let journal = Journal::new(SMALL, Clock::default());
    for client in ["a", "b", "c", "d"] {
        let connection = journal.connect(client);
        journal.log_one(&connection, text(50_000));
        journal.log_one(&connection, left());
    }
    let connection = info("e");
    journal.submit(&connection, connected_kind());
    for _ in 0..3 {
        journal.submit(&connection, text(40));
    }
    journal.submit(&connection, left());
    assert_eq!(journal.commit(), 1);
    assert!(segments(&journal.journal()).len() >= 3);
    let all = journal.all().await;
    assert_eq!(all.len(), 17);
    (journal, all)
}

fn copy(from: &Path) -> Arc<TempDir> {
    let to = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(to.path().join("journal")).expect("made");
    std::fs::copy(from.join("FORMAT"), to.path().join("FORMAT")).expect("copied");
    for file in files(&from.join("journal"), "") {
        let name = file.file_name().expect("a name");
        if !name.to_string_lossy().starts_with("spare") {
            std::fs::copy(&file, to.path().join("journal").join(name)).expect("copied");
        }
    }
    Arc::new(to)
}

fn reopen(scratch: &Arc<TempDir>) -> Result<Journal, OpenError> {
    Journal::at(Arc::clone(scratch), SMALL, Clock::default())
}

#[tokio::test]
async fn a_log_goes_on_in_the_same_epoch_with_the_next_offset() {
    let (journal, all) = several_segments().await;
    let (epoch, head) = (journal.log.epoch(), journal.log.bounds().head);
    let journal = journal.crash().expect("opened");
    assert_eq!(journal.log.epoch(), epoch);
    assert_eq!(journal.all().await, all);
    journal.connect("new");
    assert_eq!(journal.log.bounds().head, head + 1);
    let generation = journal.all().await.pop().expect("one").split(' ').nth(2).map(str::to_owned);
    assert_eq!(generation, Some((head + 1).to_string()));
    // An end in order and a start make no difference.
    journal.end();
    let left = journal.crash().expect("opened");
    assert_eq!(left.all().await.len(), all.len() + 2);
    assert_eq!(left.log.epoch(), epoch);
}

#[tokio::test]
async fn whoever_was_connected_gets_one_end_at_the_next_start_and_none_at_the_one_after() {
    let journal = Journal::new(SMALL, Clock::default());
    let (a, _gone, c) = (journal.connect("a"), journal.connect("b"), journal.connect("c"));
    journal.log_one(&_gone, left());
    let labels = Labels::new([("k", "v")]).expect("labels");
    let changed = EventKind::LabelsChanged { previous: Labels::NONE };
    let event = Event { time: 0, connection: Arc::clone(&c), labels, kind: changed };
    journal.log.submit(Entry::ending(event));
    journal.commit();
    let before = journal.all().await;

    let journal = journal.crash().expect("opened");
    let all = journal.all().await;
    assert_eq!(all[..before.len()], before);
    let head = journal.log.bounds().head;
    let expected = [
        format!("{} \"a\" {} {:?} NodeRestarted 1006 false", head - 1, a.generation(), Labels::NONE),
        format!(
            "{head} \"c\" {} {:?} NodeRestarted 1006 false",
            c.generation(),
            Labels::new([("k", "v")]).expect("labels")
        ),
    ];
    assert_eq!(all[before.len()..], expected);
    let again = journal.crash().expect("opened");
    assert_eq!(again.all().await, all);
}

#[tokio::test]
async fn a_crash_while_the_ends_are_logged_leaves_only_the_others_for_the_next_start() {
    let journal = Journal::new(SMALL, Clock::default());
    for i in 0..20 {
        journal.connect(&format!("c{i}"));
    }
    let ended = |all: &[String]| all.iter().filter(|told| told.contains("NodeRestarted")).count();
    let scratch = copy(journal.scratch.path());
    let whole = reopen(&scratch).expect("opened");
    assert_eq!(ended(&whole.all().await), 20);
    drop(whole);
    // As if only some of them had got to the disk, as batches of their own.
    let journal = Journal { faults: Arc::default(), ..journal };
    for told in journal.all().await.iter().take(7) {
        let generation: i64 = told.split(' ').nth(2).and_then(|word| word.parse().ok()).expect("a number");
        let record = journal.log.read(generation - 1).await.expect("kept").swap_remove(0);
        journal.log_one(&record.event.connection, left());
    }
    let next = journal.crash().expect("opened");
    assert_eq!(ended(&next.all().await), 13);
}

#[tokio::test]
async fn a_torn_last_batch_is_cut_off_at_whatever_length_and_the_rest_is_untouched() {
    let (journal, all) = several_segments().await;
    let end = {
        let mut kept = journal.log.kept();
        kept.current().expect("one").end
    };
    let whole = copy(journal.scratch.path());
    let last = segments(&whole.path().join("journal")).pop().expect("one");
    let bytes = std::fs::read(&last).expect("read");
    // Where the last batch begins: five frames, of which one is found by its offset.
    let first_of_batch = journal.log.bounds().head - 4;
    let begin = journal.log.kept().spot(first_of_batch - 1).expect("there").at as usize;
    let salt = journal.log.kept().current().expect("one").salt;
    let begin = frame::find(&bytes, salt, begin, |place| place.offset == first_of_batch).expect("there");
    for cut in (begin..end as usize).step_by(7).chain([begin + 1, end as usize - 1]) {
        for garbage in [false, true] {
            let scratch = copy(whole.path());
            let file = segments(&scratch.path().join("journal")).pop().expect("one");
            let mut torn = bytes.clone();
            torn[cut..].fill(0);
            if garbage {
                // Pages of one write reach the disk in any order.
                torn[cut..end as usize].fill(0xa5);
            }
            // What is cut may be nothing but padding.
            let kept = if torn == bytes { &all[..] } else { &all[..12] };
            std::fs::write(&file, torn).expect("written");
            let opened = reopen(&scratch).unwrap_or_else(|error| panic!("{cut}: {error}"));
            assert_eq!(opened.all().await, kept, "{cut}");
            opened.connect("after");
            let again = opened.crash().expect("opened");
            assert_eq!(again.all().await[..12], all[..12]);
        }
    }
}

#[tokio::test]
async fn a_file_that_is_cut_short_is_a_torn_end_too() {
    let (journal, all) = several_segments().await;
    let whole = copy(journal.scratch.path());
    drop(journal);
    let file = segments(&whole.path().join("journal")).pop().expect("one");
    let length = std::fs::read(&file).expect("read").iter().rposition(|byte| *byte != 0).expect("something");
    let shorter = std::fs::OpenOptions::new().write(true).open(&file).expect("opened");
    shorter.set_len(length as u64 - 3).expect("cut");
    assert_eq!(reopen(&whole).expect("opened").all().await, all[..12]);
}

/// Verifies a directory and reads all that is left, changing nothing.
fn verified(directory: &Path, format: Format) -> Result<Vec<String>, OpenError> {
    let segments = recover(directory, format)?.segments;
    let last = segments.last().map_or(0, |segment| segment.last);
    let kept = Kept::new(segments, last, u64::MAX, 0);
    let (mut after, mut all) = (kept.before_oldest(), Vec::new());
    while let Some(spot) = kept.spot(after) {
        let records = reader::read(&spot, after, last).expect("verified");
        after = records.last().expect("at least one").offset;
        all.extend(records.iter().map(|record| told(record)));
    }
    Ok(all)
}

/// The promise: any one byte, anywhere, changed in any way, is refused with the file and a place in it, or cuts off no more than the last batch, or
/// changes nothing of what is read.
#[tokio::test]
async fn any_byte_changed_is_refused_or_cuts_the_last_batch_or_makes_no_difference() {
    let (journal, all) = several_segments().await;
    let (directory, format) = (journal.journal(), journal.format());
    assert_eq!(verified(&directory, format).expect("sound"), all);
    let (mut refused, mut cut, mut same) = (0, 0, 0);
    for file in segments(&directory).into_iter().chain(files(&directory, ".ckpt")) {
        let mut bytes = std::fs::read(&file).expect("read");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // All near the beginning and the end of what is used, where the heads of the frames are, and some of the rest.
        let near = |at: usize| at < 400 || (at + 900 > used && at < used + 40) || at.is_multiple_of(4_801);
        for at in (0..bytes.len()).filter(|at| near(*at)) {
            bytes[at] ^= 1 << (at % 8);
            std::fs::write(&file, &bytes).expect("written");
            bytes[at] ^= 1 << (at % 8);
            match verified(&directory, format) {
                Ok(read) if read == all => same += 1,
                Ok(read) => {
                    assert_eq!(read, all[..12], "{}: byte {at}", file.display());
                    cut += 1;
                }
                Err(OpenError::Damaged { path, at: place, what }) => {
                    assert_eq!(path, file, "{what}");
                    assert!(place as usize <= at, "{}: byte {at}, told {place}", file.display());
                    refused += 1;
                }
                Err(other) => panic!("{}: byte {at}: {other}", file.display()),
            }
        }
        std::fs::write(&file, &bytes).expect("written");
    }
    assert!(refused > 500 && cut > 100 && same > 50, "{refused} {cut} {same}");
}

#[tokio::test]
async fn after_an_end_in_order_not_even_the_last_batch_is_cut_off() {
    let (journal, _) = several_segments().await;
    journal.end();
    let whole = copy(journal.scratch.path());
    let file = segments(&whole.path().join("journal")).pop().expect("one");
    let mut bytes = std::fs::read(&file).expect("read");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("something");
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).expect("written");
    let Err(error) = reopen(&whole) else { panic!("it opened") };
    let text = error.to_string();
    assert!(text.contains(&file.display().to_string()) && text.contains("byte ") && text.contains("restore"), "{text}");
}

#[tokio::test]
async fn a_segment_that_is_missing_is_refused_wherever_it_was() {
    let (journal, _) = several_segments().await;
    journal.end();
    let count = segments(&journal.journal()).len();
    for gone in 0..count {
        let scratch = copy(journal.scratch.path());
        let file = segments(&scratch.path().join("journal")).swap_remove(gone);
        std::fs::remove_file(&file).expect("removed");
        match reopen(&scratch) {
            // The oldest are what retention takes, and the last checkpoint needs none of them.
            Ok(_) => assert_eq!(gone, 0),
            Err(error) => assert!(error.to_string().contains("missing"), "{error}"),
        }
    }
}

#[tokio::test]
async fn another_files_segment_is_refused() {
    let (journal, _) = several_segments().await;
    let scratch = copy(journal.scratch.path());
    let other = Journal::new(SMALL, Clock::default());
    other.connect("x");
    let theirs = segments(&other.journal()).pop().expect("one");
    let ours = segments(&scratch.path().join("journal")).pop().expect("one");
    std::fs::copy(theirs, &ours).expect("copied");
    let Err(error) = reopen(&scratch) else { panic!("it opened") };
    assert!(error.to_string().contains("epoch"), "{error}");
}

#[tokio::test]
async fn a_journal_without_its_format_is_refused_and_an_empty_directory_begins_anew() {
    let (journal, _) = several_segments().await;
    let scratch = copy(journal.scratch.path());
    let epoch = journal.log.epoch();
    std::fs::remove_file(scratch.path().join("FORMAT")).expect("removed");
    assert!(matches!(reopen(&scratch), Err(OpenError::Missing { .. })));
    let scratch = copy(journal.scratch.path());
    for file in files(&scratch.path().join("journal"), "") {
        std::fs::remove_file(file).expect("removed");
    }
    let anew = reopen(&scratch).expect("opened");
    assert_ne!(anew.log.epoch(), epoch);
    assert!(anew.log.bounds().head > journal.log.bounds().head);
}

#[tokio::test]
async fn what_clients_send_never_passes_for_events_of_the_log() {
    let journal = Journal::new(SMALL, Clock::default());
    let connection = journal.connect("a");
    journal.log_one(&connection, text(10));
    let file = segments(&journal.journal()).pop().expect("one");
    // A client that knew all but the salt: a whole batch of a log, with later offsets, in a message.
    let other = Journal::new(SMALL, Clock::default());
    for client in ["x", "y", "z"] {
        other.connect(client);
    }
    let theirs = std::fs::read(segments(&other.journal()).pop().expect("one")).expect("read");
    let forged = theirs[HEADER..1_000].to_vec();
    let payload = Payload::Binary(forged.into());
    journal.log_one(&connection, EventKind::MessageReceived(payload));
    let end = journal.log.kept().current().expect("one").end as usize;
    let all = journal.all().await;
    let scratch = Arc::clone(&journal.scratch);
    drop(journal);
    let mut bytes = std::fs::read(&file).expect("read");
    bytes[end - 1..].fill(0xff);
    std::fs::write(&file, bytes).expect("written");
    let opened = reopen(&scratch).expect("a torn end, no damage");
    // The last message was torn; what it held was never an event.
    assert_eq!(opened.all().await[..2], all[..2]);
}
