//! Checkpoints: replaying from one is no different from replaying everything, and a bad one is not the end.

use proptest::prelude::*;

use super::super::checkpoint;
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Connect(u8),
    Leave(u8),
    Label(u8, u8),
    Say(u8, u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..6u8).prop_map(Step::Connect),
        (0..6u8).prop_map(Step::Leave),
        (0..6u8, 0..4u8).prop_map(|(who, label)| Step::Label(who, label)),
        (0..6u8, 1..2_000u16).prop_map(|(who, size)| Step::Say(who, size)),
    ]
}

/// A fold of two parts, one of which lags, as parts are copied one after the other.
struct Lagging<'a> {
    early: &'a [Record],
    at: Offset,
    late: &'a Folding<'a>,
}

impl Apply for Lagging<'_> {
    fn apply(&self, _: &[Arc<Record>]) {}
}

impl Checkpoint for Lagging<'_> {
    fn parts(&self) -> usize {
        2
    }

    fn copy_part(&self, part: usize) -> FoldPart {
        let even = |record: &Record| record.event.connection.client_id.as_str().as_bytes()[0].is_multiple_of(2);
        if part == 0 {
            let connections = self.early.iter().filter(|record| even(record)).cloned().collect();
            return FoldPart { exact_at: self.at, connections };
        }
        let mut copy = self.late.copy_part(0);
        copy.connections.retain(|record| !even(record));
        copy
    }
}

fn opens(directory: &Path, format: Format) -> Vec<String> {
    let opens = recover(directory, format).expect("sound").opens.into_sorted();
    opens
        .iter()
        .map(|open| format!("{:?} {:?} {:?}", open.info.client_id, open.info.generation(), open.labels))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn replay_from_a_checkpoint_is_no_different_from_replay_of_everything(
        before in prop::collection::vec(step(), 0..30),
        between in prop::collection::vec(step(), 0..20),
        after in prop::collection::vec(step(), 0..30),
    ) {
        let journal = Journal::new(ROOMY, Clock::default());
        let mut present = std::collections::BTreeMap::new();
        let mut labels = Labels::NONE;
        let mut play = |steps: Vec<Step>| {
            for step in steps {
                let (who, kind) = match step {
                    Step::Connect(who) => (who, connected_kind()),
                    Step::Leave(who) => (who, left()),
                    Step::Label(who, value) => {
                        labels = Labels::new([("k", value.to_string())]).expect("labels");
                        (who, EventKind::LabelsChanged { previous: Labels::NONE })
                    }
                    Step::Say(who, size) => (who, text(size.into())),
                };
                let connects = matches!(kind, EventKind::Connected(_));
                if connects == present.contains_key(&who) {
                    continue;
                }
                let connection = Arc::clone(present.entry(who).or_insert_with(|| info(&char::from(b'a' + who).to_string())));
                if matches!(kind, EventKind::Disconnected(_)) {
                    present.remove(&who);
                }
                let event = Event { time: 0, connection, labels: labels.clone(), kind };
                journal.log.submit(Entry::ending(event));
                journal.commit();
            }
        };
        play(before);
        let fold = journal.fold(None);
        let early = fold.copy_part(0);
        play(between);
        let lagging = Lagging { early: &early.connections, at: early.exact_at, late: &fold };
        prop_assert!(journal.log.checkpoint(&mut journal.log.keeper(), &lagging, false));
        play(after);
        let (directory, format) = (journal.journal(), journal.format());
        let from_it = opens(&directory, format);
        let files = checkpoint::list(&directory).expect("a directory");
        prop_assert!(!files.is_empty());
        files.iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
        prop_assert_eq!(from_it, opens(&directory, format));
    }
}

#[tokio::test]
async fn a_start_reads_back_who_was_connected_from_the_newest_checkpoint_that_is_whole() {
    let journal = Journal::new(SMALL, Clock::default());
    let stays = journal.connect("stays");
    let busy = journal.connect("busy");
    for _ in 0..4 {
        journal.log_one(&busy, text(50_000));
    }
    journal.log_one(&busy, left());
    let (directory, format) = (journal.journal(), journal.format());
    let expected = opens(&directory, format);
    assert_eq!(expected.len(), 1);
    assert!(expected[0].contains(&stays.generation().to_string()));
    let found = checkpoint::list(&directory).expect("a directory");
    assert_eq!(found.len(), checkpoint::KEPT);
    // The newest damaged, then all, then gone.
    for file in &found {
        let mut bytes = std::fs::read(file).expect("read");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(file, bytes).expect("written");
        assert_eq!(opens(&directory, format), expected);
    }
    found.iter().for_each(|file| std::fs::remove_file(file).expect("removed"));
    assert_eq!(opens(&directory, format), expected);
}

#[tokio::test]
async fn with_no_checkpoint_and_the_beginning_gone_it_is_not_guessed_who_was_connected() {
    let journal = Journal::new(Retention { max_bytes: 512 << 10, max_age: None }, Clock::default());
    journal.connect("stays");
    let busy = journal.connect("busy");
    for _ in 0..40 {
        journal.log_one(&busy, text(50_000));
    }
    let (directory, format) = (journal.journal(), journal.format());
    for file in checkpoint::list(&directory).expect("a directory") {
        std::fs::remove_file(file).expect("removed");
    }
    let error = recover(&directory, format).err().expect("refused").to_string();
    assert!(error.contains("checkpoint") && error.contains("who was connected cannot be known"), "{error}");
}

#[tokio::test]
async fn what_no_checkpoint_shows_yet_is_not_removed_however_much_is_forgotten() {
    let retention = Retention { max_bytes: 512 << 10, max_age: None };
    let journal = Journal::new(retention, Clock::default());
    Faults::set(&journal.faults.checkpoint, true);
    let stays = journal.connect("stays");
    for _ in 0..40 {
        journal.log_one(&stays, text(50_000));
    }
    assert!(journal.log.bounds().before_oldest > stays.generation());
    assert!(segments(&journal.journal()).len() > 20);
    let scratch = Arc::clone(&journal.scratch);
    drop(journal);
    let journal = Journal::at(scratch, retention, Clock::default()).expect("opened");
    assert!(journal.all().await.last().is_some_and(|last| last.contains("NodeRestarted")));
    // There a checkpoint could be written.
    let on_disk: u64 = files(&journal.journal(), "").iter().map(|file| file.metadata().expect("there").len()).sum();
    assert!(on_disk <= 512 << 10, "{on_disk}");
}

#[tokio::test]
async fn any_byte_of_a_checkpoint_changed_or_cut_is_noticed() {
    let journal = Journal::new(ROOMY, Clock::default());
    for i in 0..5 {
        journal.connect(&format!("c{i}"));
    }
    assert!(journal.log.checkpoint(&mut journal.log.keeper(), &journal.fold(None), false));
    let file = checkpoint::list(&journal.journal()).expect("a directory").remove(0);
    let bytes = std::fs::read(&file).expect("read");
    assert_eq!(checkpoint::read(&file).expect("read").expect("whole").1.len(), 5);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        std::fs::write(&file, changed).expect("written");
        assert!(checkpoint::read(&file).expect("read").is_none(), "{at}");
        std::fs::write(&file, &bytes[..at]).expect("written");
        assert!(checkpoint::read(&file).expect("read").is_none(), "{at}");
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_leaves_no_file_behind() {
    let journal = Journal::new(SMALL, Clock::default());
    journal.connect("a");
    let before = files(&journal.journal(), "");
    Faults::set(&journal.faults.write, true);
    assert!(!journal.log.checkpoint(&mut journal.log.keeper(), &journal.fold(None), false));
    assert_eq!(files(&journal.journal(), ""), before);
}

#[tokio::test]
async fn on_a_full_disk_the_spare_makes_way_for_the_checkpoint_that_lets_old_segments_go() {
    let journal = Journal::new(Retention { max_bytes: 512 << 10, max_age: None }, Clock::default());
    let connection = journal.connect("a");
    journal.commit();
    // Segments are forgotten, and the keeper comes late to it.
    while journal.log.kept().newest_dropped().is_none() {
        journal.submit(&connection, text(50_000));
        assert!(journal.log.commit_batch(&journal.fold(None)));
        if !journal.log.spare.is_there() {
            let spare = journal.log.spare.make(&*journal.log.disk, journal.log.segment_bytes as u64).expect("space");
            journal.log.spare.put(spare);
        }
    }
    let before = segments(&journal.journal());
    Faults::set(&journal.faults.full, true);
    assert!(journal.log.keep_up(&journal.fold(None)));
    assert!(journal.log.kept().newest_dropped().is_none());
    assert!(segments(&journal.journal()).len() < before.len());
    // The spare is set aside again.
    assert!(journal.log.spare.is_there() && journal.log.watch_health().borrow().is_committing());
    let all = journal.all().await;
    let again = journal.crash().expect("opened").all().await;
    assert_eq!((again.len(), again[..all.len()] == all[..]), (all.len() + 1, true));
}
