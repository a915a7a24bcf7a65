//! A message that is sent again under its id.

use super::*;

#[tokio::test]
async fn a_repeat_by_its_id_is_stored_once_even_when_it_was_delivered_meanwhile() {
    let world = World::new();
    let first = world.post(named("alice", "a", "m")).await.expect("stored");
    let again = world.post(named("alice", "a", "m")).await.expect("stored");
    assert!(!first.replayed && again.replayed);
    assert_eq!((again.progress.stage, world.totals().0), (Stage::Stored, 1));
    assert_eq!(world.post(named("alice", "b", "m")).await, Err(PostError::IdReused));
    let binary = Mail { payload: Payload::Binary(Bytes::from_static(b"a")), ..named("alice", "a", "m") };
    assert_eq!(world.post(binary).await, Err(PostError::IdReused), "text is not binary");
    assert!(!world.post(named("bob", "b", "m")).await.expect("another client").replayed);
    for _ in 0..2 {
        assert!(!world.post(mail("alice", "a")).await.expect("no id").replayed);
    }
    assert_eq!(world.totals().0, 4);
    // Both of a pair at once.
    let (one, other) = (world.begin(named("carol", "c", "m")), world.begin(named("carol", "c", "m")));
    let (one, other) = tokio::join!(one.settle(SOON), other.settle(SOON));
    assert_eq!((one.expect("stored").replayed, other.expect("stored").replayed), (false, true));
    let alice = world.join("alice").await;
    let posting = world.begin(Mail { until: Stage::Written, ..named("alice", "a", "m") });
    let (posted, texts) = tokio::join!(posting.settle(SOON), write(alice.connection(), 3));
    let posted = posted.expect("stored");
    assert_eq!((posted.progress.stage, posted.replayed, texts.len()), (Stage::Written, true, 3));
    eventually("it is removed", || world.totals().0 == 2).await;
    // Its sender may not have heard of it.
    let past = world.post(named("alice", "a", "m")).await.expect("known");
    let by = alice.connection().info().connection_id;
    assert_eq!((past.progress.stage, past.progress.connection_id, past.replayed), (Stage::Written, by, true));
    assert_eq!(world.post(named("alice", "b", "m")).await, Err(PostError::IdReused));
    assert!(!world.post(named("alice", "b", "n")).await.expect("another id").replayed);
}

#[tokio::test]
async fn a_repeat_of_a_message_that_expired_is_stored_anew_whether_or_not_that_is_removed() {
    let world = World::new();
    let short = |text| Mail { ttl: Duration::from_secs(5), ..named("alice", text, "m") };
    world.post(short("a")).await.expect("stored");
    world.wall.fetch_add(5, Ordering::SeqCst);
    world.empty().await;
    assert!(!world.post(short("a")).await.expect("stored").replayed);
    // Given up, and neither logged nor removed yet.
    let expired = world.mailboxes.inner.index().expire(world.mailboxes.inner.now() + 5_000_000_000, 1);
    assert_eq!(expired.len(), 1);
    assert!(!world.post(named("alice", "another", "m")).await.expect("stored").replayed);
    world.mailboxes.inner.remove_later(id("alice"), expired[0].1);
    eventually("the first is removed", || world.totals().0 == 1).await;
    assert!(world.post(named("alice", "another", "m")).await.expect("stored").replayed, "its id stands for it");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["another"]);
    world.empty().await;
}

#[tokio::test]
async fn a_repeat_of_a_message_whose_time_is_over_is_stored_anew_before_that_is_given_up() {
    let world = World::new();
    let short = |text| Mail { ttl: Duration::from_secs(5), ..named("alice", text, "m") };
    world.post(short("a")).await.expect("stored");
    world.wall.fetch_add(4, Ordering::SeqCst);
    assert!(world.post(short("a")).await.expect("stored").replayed, "its time is not over");
    // Queued in one step with the end of its time, so that no sweep comes between.
    let go_on = stall(&world.store).await;
    world.wall.fetch_add(1, Ordering::SeqCst);
    let (same, other) = (world.begin(short("a")), world.begin(short("b")));
    go_on.send(()).expect("it waits");
    // The sweep has no turn meanwhile: it shares this thread.
    let began = Instant::now();
    while world.totals().0 < 2 {
        assert!(began.elapsed() < SOON, "never stored anew");
        std::thread::yield_now();
    }
    let same = same.settle(SOON).await.expect("stored");
    assert_eq!((same.replayed, same.progress.stage), (false, Stage::Stored));
    assert_eq!(other.settle(SOON).await, Err(PostError::IdReused), "the id stands for the new one");
    let alice = world.join("alice").await;
    assert_eq!(write(alice.connection(), 1).await, ["a"]);
    world.empty().await;
    assert_eq!(world.expired().await, [("alice".to_owned(), "m".to_owned())], "the first, and only that");
}
