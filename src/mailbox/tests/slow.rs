//! A connection that takes nothing: it gives way to the next of the same client, if there is one.

use super::*;

/// Lets time go by that nobody waits for: paused here only, because the store's thread is real.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_connection_that_takes_nothing_for_ten_seconds_gives_way_to_the_next_and_order_holds() {
    let world = World::allowing(3);
    let [first, second, third] = [world.join("alice").await, world.join("alice").await, world.join("alice").await];
    let first = Arc::clone(first.connection());
    let posted = async |from: usize, to: usize| {
        for n in from..to {
            world.post(mail("alice", &n.to_string())).await.expect("stored");
        }
    };
    posted(0, 12).await;
    eventually("it is full", || first.outbox.depth().0 == OUTBOX.frames).await;
    // Some of it has left the outbox, and stays with the driver.
    let on_its_way = [pop(&first).expect("0"), pop(&first).expect("1")];
    eventually("it is full", || first.outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_millis(9_500)).await;
    assert_eq!(second.connection().outbox.depth().0, 0, "not yet");
    later(Duration::from_secs(1)).await;
    eventually("the next has it", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    assert_eq!(first.outbox.depth(), (0, 0), "what nobody began to write comes once");
    for held in [&first, second.connection(), third.connection()] {
        assert_eq!(plain(held, "too early"), Err(Refused::Full));
    }
    let numbers = |from: usize, to: usize| (from..to).map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(write(second.connection(), 12).await, numbers(0, 12));
    world.empty().await;
    // Written after all: nobody counts it twice.
    for frame in on_its_way {
        let _ = frame.receipt.expect("wanted").send(Written::Yes);
    }
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Delivered).get(), 12);

    // The one that was passed over does not hold up what comes later, and neither does the next if it is slow too.
    posted(12, 24).await;
    eventually("the second has it", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    // A receipt in time, and its ten seconds begin anew.
    later(Duration::from_secs(9)).await;
    assert_eq!(write(second.connection(), 1).await, ["12"]);
    eventually("it is full again", || second.connection().outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_secs(9)).await;
    assert_eq!(third.connection().outbox.depth().0, 0, "not yet");
    later(Duration::from_secs(2)).await;
    assert_eq!(write(third.connection(), 1).await, numbers(13, 14));
    // All have been passed over, so it begins with the oldest again.
    later(Duration::from_secs(11)).await;
    assert_eq!(write(&first, 10).await, numbers(14, 24));
    world.empty().await;
}

#[tokio::test]
async fn a_connection_that_takes_nothing_keeps_its_mail_if_there_is_no_other() {
    let world = World::allowing(2);
    let alice = world.join("alice").await;
    for n in 0..12 {
        world.post(mail("alice", &n.to_string())).await.expect("stored");
    }
    eventually("it is full", || alice.connection().outbox.depth().0 == OUTBOX.frames).await;
    later(Duration::from_secs(60)).await;
    assert_eq!(alice.connection().outbox.depth().0, OUTBOX.frames);
    let expected: Vec<_> = (0..12).map(|n| n.to_string()).collect();
    assert_eq!(write(alice.connection(), 12).await, expected);
    world.empty().await;
}
