//! From the mailbox to the client: in order, ahead of everything else, and kept until it is known to be delivered.

use super::*;
use crate::close::CloseReason;
use crate::event::RELIABLE;
use crate::registry::MailState;

#[tokio::test]
async fn what_was_stored_for_one_who_is_away_comes_first_and_in_order_and_is_then_removed() {
    let world = World::new();
    for n in 0..20 {
        let posted = world.post(mail("alice", &n.to_string())).await.expect("stored");
        assert_eq!((posted.progress.stage, posted.replayed), (Stage::Stored, false));
        assert!(posted.progress.connection_id == ConnectionId::NONE && posted.progress.time.is_some());
    }
    assert_eq!(world.totals(), (20, 20 * 256 + 30));
    let alice = world.join("alice").await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full), "held before it can be sent to");
    let first = write(alice.connection(), 4).await;
    assert_eq!(plain(alice.connection(), "too early"), Err(Refused::Full));
    let rest = write(alice.connection(), 16).await;
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!([first, rest].concat(), expected);
    eventually("others may go again", || plain(alice.connection(), "now").is_ok()).await;
    world.empty().await;
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Delivered).get(), 20);
}

#[tokio::test]
async fn one_who_is_connected_gets_it_at_once_and_the_sender_hears_how_far_it_came() {
    let world = World::new();
    let alice = world.join("alice").await;
    let accepted = world.post(Mail { until: Stage::Accepted, ..mail("alice", "a") }).await.expect("stored");
    let connection_id = alice.connection().info().connection_id;
    assert_eq!((accepted.progress.stage, accepted.progress.connection_id), (Stage::Accepted, connection_id));
    let posting = world.begin(Mail { until: Stage::Written, ..mail("alice", "b") });
    let (written, texts) = tokio::join!(posting.settle(SOON), write(alice.connection(), 2));
    let written = written.expect("stored").progress;
    assert_eq!((written.stage, written.connection_id), (Stage::Written, connection_id));
    assert!(written.time.is_some());
    assert_eq!(texts, ["a", "b"]);
    world.empty().await;
    assert!(world.mailboxes.inner.index().clients().next().is_none());
}

#[tokio::test]
async fn a_receipt_that_does_not_come_leaves_the_stage_reached_and_the_message() {
    let world = World::new();
    let wait = Duration::from_millis(20);
    let away = world.begin(Mail { until: Stage::Written, ..mail("alice", "a") }).settle(wait).await.expect("stored");
    assert_eq!((away.progress.stage, away.progress.connection_id), (Stage::Stored, ConnectionId::NONE));
    let alice = world.join("alice").await;
    eventually("it is in the outbox", || alice.connection().outbox.depth().0 == 1).await;
    let unread = world.begin(Mail { until: Stage::Written, ..mail("alice", "b") }).settle(wait).await.expect("stored");
    assert_eq!(unread.progress.stage, Stage::Accepted);
    assert_eq!(write(alice.connection(), 2).await, ["a", "b"]);
    world.empty().await;
}

#[tokio::test]
async fn what_a_connection_takes_to_its_grave_comes_again_on_the_next_and_nothing_overtakes_it() {
    let world = World::new();
    let first = world.join("alice").await;
    for text in ["a", "b", "c"] {
        world.post(mail("alice", text)).await.expect("stored");
    }
    let connection = Arc::clone(first.connection());
    eventually("all are in the outbox", || connection.outbox.depth().0 == 3).await;
    assert_eq!(plain(&connection, "after the mail"), Ok(()));
    assert_eq!(write(&connection, 1).await, ["a"]);
    // On its way in the driver when the next connection comes.
    let frame = pop(&connection).expect("b");
    let second = world.join("alice").await;
    assert!(connection.has(crate::registry::signal::SEALED));
    assert_eq!(plain(second.connection(), "too early"), Err(Refused::Full), "b may have to come first");
    assert_eq!(second.connection().outbox.depth().0, 0);
    // Told a moment late, when the connection has ended already, that all is sent.
    world.registry.set_mail(&id("alice"), MailState::Sent(connection.info().connection_id));
    assert_eq!(plain(second.connection(), "too early"), Err(Refused::Full));
    drop((frame, first));
    assert_eq!(write(second.connection(), 2).await, ["b", "c"]);
    eventually("others may go again", || plain(second.connection(), "now").is_ok()).await;
    world.empty().await;
}

#[tokio::test]
async fn one_who_acknowledges_has_it_when_it_says_so_and_gets_it_again_if_it_never_did() {
    let world = World::new();
    for (text, name) in [("a", "m-a"), ("b", "m-b")] {
        world.post(named("alice", text, name)).await.expect("stored");
    }
    let first = world.join_with("alice", RELIABLE).await;
    let connection = Arc::clone(first.connection());
    let reliable = connection.reliable().expect("it acknowledges");
    eventually("both are in the outbox", || connection.outbox.depth().0 == 2).await;
    for name in ["m-a", "m-b"] {
        let message = reliable.window().next(&connection.outbox, Instant::now()).0.expect("a message");
        assert_eq!(message.id.as_deref(), Some(name));
    }
    let posting = world.begin(Mail { until: Stage::Written, ..named("alice", "a", "m-a") });
    reliable.window().flushed();
    assert_eq!(posting.settle(SOON).await.expect("stored").progress.stage, Stage::Written);
    assert_eq!(world.totals().0, 2, "written is not enough");
    let posting = world.begin(Mail { until: Stage::Acked, ..named("alice", "a", "m-a") });
    tokio::task::yield_now().await;
    reliable.window().ack(1).expect("sent");
    assert_eq!(posting.settle(SOON).await.expect("stored").progress.stage, Stage::Acked);
    eventually("it is removed", || world.totals().0 == 1).await;
    drop(first);
    let second = world.join("alice").await;
    // One that only takes frames never acknowledges; written is as far as it comes.
    let posting = world.begin(Mail { until: Stage::Acked, ..named("alice", "b", "m-b") });
    let (posted, texts) = tokio::join!(posting.settle(SOON), write(second.connection(), 1));
    assert_eq!((posted.expect("stored").progress.stage, texts), (Stage::Written, vec!["b".to_owned()]));
    world.empty().await;
}

#[tokio::test]
async fn of_several_connections_the_oldest_gets_the_mail_and_no_other_is_ahead_of_it() {
    let world = World::allowing(3);
    let (first, second) = (world.join("alice").await, world.join("alice").await);
    world.post(mail("alice", "a")).await.expect("stored");
    eventually("the oldest has it", || first.connection().outbox.depth().0 == 1).await;
    assert_eq!(plain(second.connection(), "plain"), Ok(()), "it is in an outbox");
    let third = world.join("alice").await;
    assert_eq!(plain(third.connection(), "plain"), Ok(()));
    let connection = Arc::clone(first.connection());
    let frame = pop(&connection).expect("a");
    first.end(CloseReason::Kicked(1000, "".into()));
    // Told a moment late, with the end not committed.
    world.registry.set_mail(&id("alice"), MailState::Sent(connection.info().connection_id));
    // Not known to be delivered, so it may have to come first on these.
    for other in [&second, &third] {
        assert_eq!(plain(other.connection(), "too early"), Err(Refused::Full));
    }
    drop((frame, first));
    assert_eq!(write(second.connection(), 2).await, ["plain", "a"]);
    assert_eq!(write(third.connection(), 1).await, ["plain"]);
    for other in [&second, &third] {
        eventually("others may go again", || plain(other.connection(), "now").is_ok()).await;
    }
    world.empty().await;
}

#[tokio::test]
async fn a_receipt_stands_even_if_the_connection_ends_before_the_message_is_removed() {
    let world = World::new();
    let alice = world.join("alice").await;
    world.post(mail("alice", "a")).await.expect("stored");
    let connection = Arc::clone(alice.connection());
    eventually("it is in the outbox", || connection.outbox.depth().0 == 1).await;
    let frame = pop(&connection).expect("a");
    alice.end(CloseReason::Kicked(1000, "".into()));
    // A driver that closes still writes what it was given.
    frame.receipt.expect("wanted").send(Written::Yes).expect("awaited");
    drop(alice);
    world.empty().await;
    let again = world.join("alice").await;
    assert_eq!(plain(again.connection(), "first"), Ok(()));
    assert_eq!(write(again.connection(), 1).await, ["first"]);
}

#[tokio::test]
async fn a_full_outbox_is_waited_for_whoever_filled_it() {
    let world = World::new();
    let alice = world.join("alice").await;
    for n in 0..OUTBOX.frames {
        plain(alice.connection(), &format!("plain {n}")).expect("room");
    }
    let posted = world.post(mail("alice", "mail")).await.expect("stored");
    assert_eq!(posted.progress.stage, Stage::Stored);
    assert_eq!(pop(alice.connection()).map(|frame| text(&frame)), Some("plain 0".to_owned()));
    let texts = write(alice.connection(), OUTBOX.frames).await;
    assert_eq!(texts.last().map(String::as_str), Some("mail"));
    world.empty().await;
}
