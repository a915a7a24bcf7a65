//! A client id with several connections: each lives and dies by itself, and what is sent to the id goes to each.

use super::*;

fn two_at_most(options: &mut Options) {
    options.registry.duplicates = Duplicates::Allow { most: 2 };
    options.connection.server_beat = ServerBeat::Off;
}

#[tokio::test(start_paused = true)]
async fn each_lives_and_dies_by_itself_and_beyond_the_limit_the_newer_is_refused() {
    let world = World::new(two_at_most);
    let mut silent = world.client("a").await;
    let mut lively = world.client("a").await;
    let mut third = world.client("a").await;
    assert_eq!(third.is_closed().await, (4410, "Client id is in use".into()));
    for _ in 0..3 {
        pass(25 * SECOND).await;
        lively.text("here").await;
    }
    assert_eq!(silent.is_closed().await.0, 4408);
    let gone = "a gone: heartbeat_timeout 4408 Heartbeat timeout";
    let expected = ["a connected", "a connected", "a said here", "a suspected", "a said here", gone, "a said here"];
    assert_eq!(world.told().await, expected);
    let records = world.records();
    let generation = |at: usize| records[at].event.connection.generation();
    assert!(generation(0) == records[0].offset && generation(1) == records[1].offset);
    for (at, of) in [(2, 1), (3, 0), (4, 1), (5, 0), (6, 1)] {
        assert_eq!(generation(at), generation(of), "event {at}");
    }
    // Its place is free.
    let mut next = world.client("a").await;
    world.send("a", "hi").expect("room");
    assert_eq!([lively.hears().await, next.hears().await], ["hi", "hi"]);
    drop((lively, next));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn each_delivery_has_its_own_stage_and_time_and_what_expired_on_one_says_so() {
    let world = World::new(two_at_most);
    // The first takes little before it reads.
    let mut slow = Client::new(world.open(Some("a"), 64)).await;
    settle().await;
    let mut fast = world.client("a").await;
    let [first, second] = &world.registry.open(&target("a"))[..] else { panic!("two") };
    let ids = [first.info().connection_id, second.info().connection_id];
    let large = Outgoing { target: Target::Connection(ids[0]), ..World::outgoing("a", &"x".repeat(40_000)) };
    world.dispatch.accept(&large).expect("room");
    settle().await;

    let began = world.registry.clock().wall_nanos();
    let outgoing = Outgoing { deadline: Some(Instant::now() + SECOND), ..World::outgoing("a", "both") };
    let accepted = world.dispatch.accept(&outgoing).expect("room");
    let reading = async {
        pass(2 * SECOND).await;
        assert_eq!(slow.hears().await.len(), 40_000);
    };
    let (deliveries, ()) = tokio::join!(world.dispatch.settle(accepted, 5 * SECOND), reading);
    let deliveries = deliveries.expect("one got it").deliveries;
    assert_eq!(deliveries.iter().map(|delivery| delivery.connection_id).collect::<Vec<_>>(), ids);
    let outcome = |at: usize| (deliveries[at].stage, deliveries[at].failure);
    assert_eq!(outcome(0), (Some(Stage::Accepted), Some(Failure::Expired)));
    assert_eq!(outcome(1), (Some(Stage::Written), None));
    assert!(deliveries[1].time - began < 500_000_000, "when it was written, not when the last was known");
    assert_eq!(fast.hears().await, "both");

    // Where nobody got it, the answer is that it expired.
    let to_slow = Target::Connection(ids[0]);
    world.dispatch.accept(&large).expect("room");
    settle().await;
    let accepted = world.dispatch.accept(&Outgoing { target: to_slow, ..outgoing }).expect("room");
    let reading = async {
        pass(2 * SECOND).await;
        assert_eq!(slow.hears().await.len(), 40_000);
    };
    let (settled, ()) = tokio::join!(world.dispatch.settle(accepted, 5 * SECOND), reading);
    assert_eq!(settled, Err(SendError::Expired));
    drop((slow, fast));
    world.rests().await;
}

#[tokio::test(start_paused = true)]
async fn of_a_hundred_that_race_for_one_id_as_many_as_the_limit_win() {
    let world = World::new(two_at_most);
    let racers: Vec<_> = (0..100).map(|_| world.open(Some("a"), PIPE)).collect();
    assert_eq!(world.told().await, ["a connected", "a connected"]);
    drop(racers);
    world.rests().await;
}
