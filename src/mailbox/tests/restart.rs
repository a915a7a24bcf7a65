//! What the next run finds.

use super::*;

#[tokio::test]
async fn what_is_owed_to_a_log_that_takes_nothing_is_told_by_the_next_run() {
    let store = Store::in_memory().expect("a store");
    let world = World::over(store.clone(), LIMITS);
    world.log.budget().set_open(false);
    world.post(Mail { ttl: Duration::from_secs(5), ..named("alice", "a", "m") }).await.expect("stored");
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("it is given up", || world.mailboxes.inner.index().look_at().is_none()).await;
    world.stopped().await;
    let world = World::over(store, LIMITS);
    world.wall.fetch_add(5, Ordering::SeqCst);
    world.empty().await;
    assert_eq!(world.expired().await, [("alice".to_owned(), "m".to_owned())]);
}

#[tokio::test]
async fn the_file_keeps_mail_ids_and_order_over_a_restart_and_gives_up_what_expired_meanwhile() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store.redb");
    let reopened = async || loop {
        // The thread of the one before lets go of the file when it notices.
        match Store::open(&path) {
            Ok(store) => return store,
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let world = World::over(reopened().await, LIMITS);
    for n in 0..12 {
        world.post(named("alice", &n.to_string(), &format!("m{n}"))).await.expect("stored");
    }
    world.post(Mail { ttl: Duration::from_secs(1), ..named("bob", "b", "m") }).await.expect("stored");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["0"]);
    eventually("it is removed", || world.totals().0 == 12).await;
    drop(alice);
    world.stopped().await;

    let world = World::over(reopened().await, LIMITS);
    assert_eq!(world.totals().0, 12);
    assert!(world.post(named("alice", "5", "m5")).await.expect("stored").replayed);
    assert_eq!(world.post(named("alice", "6", "m5")).await, Err(PostError::IdReused));
    assert!(!world.post(named("alice", "0", "m0")).await.expect("removed before").replayed);
    world.wall.fetch_add(1, Ordering::SeqCst);
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full));
    let expected: Vec<_> = (1..12).chain([0]).map(|n| n.to_string()).collect();
    assert_eq!(write(alice.connection(), 12).await, expected);
    world.empty().await;
    assert_eq!(world.expired().await, [("bob".to_owned(), "m".to_owned())]);
    world.stopped().await;
}

#[tokio::test]
async fn what_is_written_in_the_moment_of_a_stop_is_not_sent_again_by_the_next_run() {
    let world = World::new();
    let alice = world.join("alice").await;
    for n in 0..5 {
        world.post(mail("alice", &n.to_string())).await.expect("stored");
    }
    let connection = Arc::clone(alice.connection());
    eventually("all are in the outbox", || connection.outbox.depth().0 == 5).await;
    let (store, running) = (world.store.clone(), world.running.clone());
    // In one step, so that no carrier hears of a receipt before the stop.
    world.stop.cancel();
    while let Some(frame) = pop(&connection) {
        frame.receipt.expect("wanted").send(Written::Yes).expect("awaited");
    }
    running.wait().await;
    let left = store.read(|transaction| {
        let mut left = 0;
        table::scan(transaction, |_, _| left += 1)?;
        Ok(left)
    });
    assert_eq!(left.await, Ok(0));
}
