//! A store that is slow or fails.

use super::*;

#[tokio::test]
async fn a_store_that_answers_too_late_is_told_as_such_and_what_it_stored_is_sent_all_the_same() {
    let world = World::new();
    let alice = world.join("alice").await;
    let go_on = stall(&world.store).await;
    let posting = world.begin(mail("alice", "late"));
    let behind = world.begin(mail("alice", "behind"));
    // Paused here, so that five seconds are nothing; what the store's thread does afterwards is real.
    tokio::time::pause();
    let (late, behind) = tokio::join!(posting.settle(SOON), behind.settle(SOON));
    assert_eq!((late, behind), (Err(PostError::Late), Err(PostError::Late)));
    tokio::time::resume();
    go_on.send(()).expect("it waits");
    assert_eq!(write(alice.connection(), 2).await, ["late", "behind"]);
    world.empty().await;
}

#[tokio::test]
async fn a_caller_that_goes_away_withdraws_nothing() {
    let world = World::new();
    let go_on = stall(&world.store).await;
    drop(world.begin(mail("alice", "a")));
    go_on.send(()).expect("it waits");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
}

#[tokio::test]
async fn a_write_that_failed_is_not_sent_and_holds_nobody_up() {
    let world = World::new();
    let alice = world.join("alice").await;
    let go_on = stall(&world.store).await;
    // It shares the transaction of one that fails.
    let posting = world.begin(mail("alice", "a"));
    let failing = world.store.clone();
    let failing = tokio::spawn(async move {
        let failing = failing.write(|_: &WriteTransaction| Err::<(), _>(crate::store::made_up_failure()));
        failing.await
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    go_on.send(()).expect("it waits");
    assert!(matches!(posting.settle(SOON).await, Err(PostError::Store(StoreError::Failed(_)))));
    assert!(failing.await.expect("done").is_err());
    eventually("nothing of it is left", || world.totals() == (0, 0)).await;
    world.post(mail("alice", "b")).await.expect("stored");
    assert_eq!(write(alice.connection(), 1).await, ["b"]);
    world.empty().await;
}

#[tokio::test]
async fn what_failed_but_is_in_the_store_is_removed_unless_a_repeat_was_told_that_it_is_stored() {
    let world = World::new();
    let failed = world.mailboxes.post_failing(named("alice", "a", "m")).await;
    assert!(world.post(named("alice", "a", "m")).await.expect("stored").replayed);
    failed.await;
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
    // A repeat that fails too keeps nothing, and one that fails takes nothing from the one that stored it.
    let failed = world.mailboxes.post_failing(named("bob", "b", "m")).await;
    world.mailboxes.post_failing(named("bob", "b", "m")).await.await;
    assert_eq!(world.totals().0, 1);
    failed.await;
    world.empty().await;
    world.post(named("bob", "b", "m")).await.expect("stored");
    world.mailboxes.post_failing(named("bob", "b", "m")).await.await;
    assert_eq!(world.totals().0, 1);
    let bob = world.join("bob").await;
    assert_eq!(write(bob.connection(), 1).await, ["b"]);
    world.empty().await;
}
