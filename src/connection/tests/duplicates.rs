//! A client id that connects again: the newest wins, or is refused.

use super::*;

fn reject(options: &mut Options) {
    options.registry.duplicates = Duplicates::Reject;
}

#[tokio::test(start_paused = true)]
async fn the_newest_wins_and_the_log_tells_it_with_nothing_between() {
    let world = World::new(|_| {});
    let mut old = world.client("a").await;
    old.text("mine").await;
    let mut new = world.client("a").await;
    assert_eq!(old.is_closed().await, (4409, "Replaced by a newer connection".into()));
    new.text("mine now").await;
    let gone = "a gone: replaced 4409 Replaced by a newer connection";
    assert_eq!(world.told().await, ["a connected", "a said mine", gone, "a connected, replacing", "a said mine now"]);
    let records = world.records();
    let (first, second) = (&records[0], &records[3]);
    let EventKind::Connected(connected) = &second.event.kind else { panic!("{second:?}") };
    assert_eq!(connected.replaces.generation(), first.offset);
    assert_eq!(second.event.connection.generation(), second.offset);
    assert!(second.event.connection.generation() > first.event.connection.generation());
    assert_ne!(second.event.connection.connection_id, first.event.connection.connection_id);
    drop(new);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_replaced_client_had_sent_and_was_not_read_is_not_delivered_after_its_end() {
    let world = World::new(|_| {});
    let mut old = world.client("a").await;
    // Nothing runs between these two.
    old.text("too late").await;
    let new = world.client("a").await;
    old.hears_out().await;
    let told = world.told().await;
    let end = told.iter().position(|line| line.starts_with("a gone")).expect("an end");
    assert!(told.iter().position(|line| line == "a said too late").is_none_or(|at| at < end), "{told:?}");
    drop(new);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_replaced_client_does_not_touch_the_newer() {
    let world = World::new(|_| {});
    let old = world.client("a").await;
    let mut new = world.client("a").await;
    drop(old);
    pass(5 * SECOND).await;
    new.text("still here").await;
    assert_eq!(world.told().await.last().map(String::as_str), Some("a said still here"));
    assert_eq!(world.registry.count(), 1);
    drop(new);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn where_duplicates_are_rejected_the_newer_is_refused_and_the_incumbent_unharmed() {
    let world = World::new(reject);
    let mut old = world.client("a").await;
    let mut new = world.client("a").await;
    assert_eq!(new.is_closed().await, (4410, "Client id is in use".into()));
    old.text("still here").await;
    assert_eq!(world.told().await, ["a connected", "a said still here"]);
    drop(old);
    settle().await;
    let again = world.client("a").await;
    assert_eq!(world.told().await[3..], ["a connected"], "free again, and nobody is replaced");
    drop(again);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn the_sixth_takeover_in_a_minute_is_refused_and_the_incumbent_stays() {
    let world = World::new(|_| {});
    let mut clients = vec![world.client("a").await];
    for _ in 0..5 {
        clients.push(world.client("a").await);
    }
    let mut sixth = world.client("a").await;
    assert_eq!(sixth.is_closed().await, (4429, "Rate limited: takeovers of this client id".into()));
    let incumbent = clients.last_mut().expect("a client");
    incumbent.text("still here").await;
    assert_eq!(world.told().await.last().map(String::as_str), Some("a said still here"));
    // Another id is not concerned.
    clients.push(world.client("b").await);
    pass(50 * SECOND).await;
    clients.push(world.client("b").await);
    assert_eq!(world.count(KindTag::Connected), 8);
    drop(clients);
    settle().await;
    // Nobody is taken over by one that comes when the id is free.
    let mut free = world.client("a").await;
    free.text("welcome").await;
    assert_eq!(world.told().await.last().map(String::as_str), Some("a said welcome"));
    drop(free);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_minute_later_an_id_may_be_taken_over_again() {
    let world = World::new(|options| options.connection.server_beat = ServerBeat::Off);
    let mut incumbent = world.client("a").await;
    for _ in 0..5 {
        incumbent = world.client("a").await;
    }
    pass(58 * SECOND).await;
    incumbent.text("heartbeat").await;
    assert_eq!(world.client("a").await.is_closed().await.0, 4429);
    pass(3 * SECOND).await;
    let next = world.client("a").await;
    assert_eq!(incumbent.is_closed().await.0, 4409);
    drop(next);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_that_race_for_one_id_own_it_one_after_another() {
    let world = World::new(|options| options.registry.takeovers_per_minute = 0);
    let racers: Vec<_> = (0..100).map(|_| world.open(Some("a"), PIPE)).collect();
    let told = world.told().await;
    for (at, line) in told.iter().enumerate() {
        let expected = match at {
            0 => "a connected",
            _ if at % 2 == 1 => "a gone: replaced 4409 Replaced by a newer connection",
            _ => "a connected, replacing",
        };
        assert_eq!(line, expected);
    }
    assert_eq!((told.len(), world.registry.count()), (199, 1));
    drop(racers);
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_that_race_for_one_id_under_reject_one_wins() {
    let world = World::new(reject);
    let racers: Vec<_> = (0..100).map(|_| world.open(Some("a"), PIPE)).collect();
    assert_eq!(world.told().await, ["a connected"]);
    drop(racers);
    world.rests().await;
}
