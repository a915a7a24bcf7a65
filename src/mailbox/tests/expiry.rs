//! What is given up when its time is over, and how the log is told of it.

use super::*;

#[tokio::test]
async fn what_expires_is_logged_and_sent_to_nobody_and_what_is_in_an_outbox_is_left_to_its_receipt() {
    let world = World::new();
    let short = Duration::from_secs(10);
    world.post(Mail { ttl: short, ..named("alice", "a", "m-a") }).await.expect("stored");
    world.post(Mail { ttl: short, ..named("bob", "b", "m-b") }).await.expect("stored");
    world.post(named("bob", "c", "m-c")).await.expect("stored");
    let alice = world.join("alice").await;
    eventually("it is in the outbox", || alice.connection().outbox.depth().0 == 1).await;
    world.wall.fetch_add(10, Ordering::SeqCst);
    eventually("one is left of bob's", || world.totals().0 == 2).await;
    assert_eq!(world.expired().await, [("bob".to_owned(), "m-b".to_owned())]);
    let bob = world.join("bob").await;
    assert_eq!(write(bob.connection(), 1).await, ["c"]);
    eventually("bob's is removed", || world.totals().0 == 1).await;
    // Alice's is still there, although its time is over; then it comes back and is given up.
    drop(alice);
    world.empty().await;
    assert_eq!(world.expired().await.len(), 2);
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "first"), Ok(()));
}

#[tokio::test]
async fn an_expiry_of_all_that_waits_opens_the_outbox_again() {
    let world = World::new();
    let alice = world.join("alice").await;
    for _ in 0..OUTBOX.frames {
        plain(alice.connection(), "plain").expect("room");
    }
    world.post(Mail { ttl: Duration::from_secs(5), ..mail("alice", "mail") }).await.expect("stored");
    assert!(pop(alice.connection()).is_some());
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("others may go again", || plain(alice.connection(), "plain").is_ok()).await;
    world.empty().await;
    assert_eq!(world.expired().await.len(), 1);
}

#[tokio::test]
async fn a_log_that_takes_nothing_keeps_nothing_from_being_given_up_and_is_told_of_each_once_it_takes_it() {
    let world = World::new();
    let short = |client: &str, id: &str| Mail { ttl: Duration::from_secs(5), ..named(client, "mail", id) };
    let clients = ["alice", "bob"];
    let joined = [world.join(clients[0]).await, world.join(clients[1]).await];
    world.log.budget().set_open(false);
    // One after the other: the first is owed already when the second expires.
    for (client, one) in clients.into_iter().zip(&joined) {
        for _ in 0..OUTBOX.frames {
            plain(one.connection(), "plain").expect("room");
        }
        world.post(short(client, client)).await.expect("stored");
        assert!(pop(one.connection()).is_some());
        world.wall.fetch_add(5, Ordering::SeqCst);
        eventually("others may go again", || plain(one.connection(), "plain").is_ok()).await;
    }
    // More than a batch.
    for n in 0..3 * LIMITS.max_messages * 2 {
        let client = format!("client{}", n / LIMITS.max_messages);
        world.post(short(&client, &n.to_string())).await.expect("stored");
    }
    world.wall.fetch_add(5, Ordering::SeqCst);
    eventually("all are given up", || world.mailboxes.inner.index().look_at().is_none()).await;
    // Neither lost nor out of the bounds while the log is asked in vain, and again; paused here, so that it takes no time.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(20)).await;
    tokio::time::resume();
    assert_eq!(world.totals().0, 602);
    assert!(world.expired().await.is_empty());
    assert_eq!(world.post(short("client0", "more")).await, Err(PostError::ClientFull));
    world.log.budget().set_open(true);
    world.empty().await;
    let mut told: Vec<_> = world.expired().await.into_iter().map(|(_, id)| id).collect();
    let mut expected: Vec<_> = clients.map(str::to_owned).into_iter().chain((0..600).map(|n| n.to_string())).collect();
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected, "each is told, and once");
    assert!(world.log.budget().is_whole());
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Expired).get(), 602);
}
