//! Who may have mail stored, and how much of it.

use super::*;

#[tokio::test]
async fn over_a_bound_a_message_is_refused_and_there_is_room_again_once_one_is_gone() {
    let limits = Limits { max_messages: 2, max_bytes: 1_000, max_total_bytes: 1_200 };
    let world = World::over(Store::in_memory().expect("a store"), limits);
    let of = |client: &str, bytes: usize| mail(client, &"x".repeat(bytes));
    let too_large = world.post(of("alice", 745)).await;
    assert_eq!(too_large, Err(PostError::TooLarge { most: 744 }));
    world.post(of("alice", 0)).await.expect("room");
    world.post(of("alice", 0)).await.expect("room");
    assert_eq!(world.post(of("alice", 0)).await, Err(PostError::ClientFull), "by messages");
    world.post(of("bob", 200)).await.expect("room");
    assert_eq!(world.post(of("bob", 300)).await, Err(PostError::ClientFull), "by bytes");
    assert_eq!(world.post(of("carol", 0)).await, Err(PostError::AllFull));
    let alice = world.join("alice").await;
    write(alice.connection(), 2).await;
    eventually("there is room", || world.totals().0 == 1).await;
    world.post(of("carol", 0)).await.expect("room again");
    assert_eq!(world.metrics.mail.of(crate::metrics::MailOutcome::Refused).get(), 4);
}

#[tokio::test]
async fn without_trust_nobody_has_a_mailbox() {
    let world = World::new();
    let settings = Settings { limits: LIMITS, trust_self_named: false };
    let strict =
        Mailboxes::open(world.store.clone(), Arc::clone(&world.registry), settings, Arc::new(Metrics::default()));
    let refused = strict.expect("readable").post(mail("alice", "a"));
    assert!(matches!(refused, Err(PostError::Unverified)));
}
