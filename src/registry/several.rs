//! Several connections of one client id: how many there may be, and commands that are for all of them.

use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::model::World;
use super::*;
use crate::event::Record;
use crate::log::Log as _;

const ALICE: &str = "alice";

fn alice() -> Target {
    Target::Client(alice_id())
}

fn alice_id() -> ClientId {
    ClientId::named(ALICE).expect("a good id")
}

/// So many open connections of alice.
fn world_of(count: usize) -> (World, Vec<Registration>) {
    let world = World::new(Duplicates::Allow { most: 16 });
    let all = (0..count).map(|_| world.join(ALICE).expect("joins")).collect();
    world.commit_all();
    (world, all)
}

/// The first looks at a command, then a commit, then its answer.
async fn commanded<T>(world: &World, command: impl Future<Output = T>) -> T {
    let mut command = Box::pin(command);
    if let Some(answer) = (&mut command).now_or_never() {
        return answer;
    }
    world.commit_all();
    command.await
}

fn kinds(records: &[Arc<Record>]) -> Vec<&'static str> {
    records.iter().map(|record| record.event.kind.tag().as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_that_race_for_one_id_as_many_as_may_join_and_of_the_rest_nothing_is_logged() {
    const MOST: usize = 7;
    let world = World::new(Duplicates::Allow { most: MOST });
    let stop = CancellationToken::new();
    let (log, registry, token) = (Arc::clone(&world.log), Arc::clone(&world.registry), stop.clone());
    let committer = tokio::spawn(async move { log.run(&*registry, token).await });
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let registry = Arc::clone(&world.registry);
        racers.spawn(async move {
            let newcomer = Newcomer { client_id: Some(alice_id()), remote_address: None, subprotocol: "" };
            registry.join(newcomer).await.map_err(|error| assert_eq!(error, JoinError::IdInUse))
        });
    }
    let joined: Vec<_> = racers.join_all().await.into_iter().flatten().collect();
    assert_eq!(joined.len(), MOST);
    assert_eq!(kinds(&world.records()), ["connected"; MOST]);
    assert_eq!(world.registry.count(), MOST);
    // The place of one that has ended is free at once, though its end is not committed yet.
    stop.cancel();
    committer.await.expect("commits");
    joined[3].end(CloseReason::Lost);
    let _next = world.join(ALICE).expect("a free place");
    assert_eq!(world.join(ALICE).err(), Some(JoinError::IdInUse));
}

#[tokio::test(start_paused = true)]
async fn a_command_for_a_client_is_for_all_of_its_connections_and_answered_when_all_show_it() {
    let alice = alice();
    let (world, all) = world_of(3);
    let set = [("room", "7")];
    let mut command = Box::pin(world.registry.update_labels(&alice, set.into_iter(), [].into_iter(), None));
    assert!((&mut command).now_or_never().is_none(), "answered before it is visible");
    world.commit_all();
    let done = command.await.expect("done");
    let records = world.records();
    assert_eq!(kinds(&records[3..]), ["labels_changed"; 3]);
    assert_eq!(done.offset, records[5].offset);
    let expected: Vec<_> = all.iter().map(|one| one.connection().info().connection_id).collect();
    let answered: Vec<_> = done.connections.iter().map(|view| view.info.connection_id).collect();
    assert_eq!(answered, expected, "the oldest first");
    assert!(done.connections.iter().all(|view| view.labels == Labels::new(set).expect("good")));

    // One that is so already is answered and not logged.
    let one = Target::Connection(expected[1]);
    commanded(&world, world.registry.update_heartbeat(&one, Some(20_000), None, None)).await.expect("done");
    let done = commanded(&world, world.registry.update_heartbeat(&alice, Some(20_000), None, None)).await;
    let done = done.expect("done");
    let records = world.records();
    let changed: Vec<_> = records[6..].iter().map(|record| record.event.connection.connection_id).collect();
    assert_eq!(changed, [expected[1], expected[0], expected[2]]);
    assert!(done.connections.len() == 3 && done.connections.iter().all(|view| view.cadence.interval == 20_000));
    assert!(world.log.budget().is_whole());
}

#[tokio::test(start_paused = true)]
async fn a_command_that_one_connection_cannot_follow_changes_none() {
    let alice = alice();
    let (world, all) = world_of(3);
    let last = Target::Connection(all[2].connection().info().connection_id);
    let keys: Vec<_> = (0..16).map(|n| format!("k{n}")).collect();
    let sixteen = keys.iter().map(|key| (key.as_str(), "v"));
    commanded(&world, world.registry.update_labels(&last, sixteen, [].into_iter(), None)).await.expect("sixteen");
    commanded(&world, world.registry.update_heartbeat(&last, Some(50_000), None, None)).await.expect("retuned");
    let before = world.records().len();
    let one_more = [("one", "more")];
    let labels = commanded(&world, world.registry.update_labels(&alice, one_more.into_iter(), [].into_iter(), None));
    assert!(matches!(labels.await.err(), Some(CommandError::Labels(_))));
    let cadence = commanded(&world, world.registry.update_heartbeat(&alice, None, Some(40_000), None)).await;
    assert!(matches!(cadence.err(), Some(CommandError::Cadence { interval: 50_000, timeout: 40_000 })));
    world.commit_all();
    assert_eq!(world.records().len(), before);
    // Not even what is not logged yet: the same goes well for those who can.
    let first = Target::Connection(all[0].connection().info().connection_id);
    let again = world.registry.update_labels(&first, one_more.into_iter(), [].into_iter(), None);
    assert_eq!(commanded(&world, again).await.expect("done").connections[0].labels.iter().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_comes_while_a_command_waits_for_room_is_commanded_too() {
    let alice = alice();
    let (world, _all) = world_of(1);
    let budget = world.log.budget();
    let newcomers_room = budget.try_reserve(0).expect("room");
    let mut hoard: Vec<_> = std::iter::from_fn(|| budget.try_reserve(0)).collect();
    let set = [("room", "7")];
    let mut command = Box::pin(world.registry.update_labels(&alice, set.into_iter(), [].into_iter(), None));
    assert!((&mut command).now_or_never().is_none());
    let newcomer = Newcomer { client_id: Some(alice_id()), remote_address: None, subprotocol: "" };
    let _second = world.registry.submit_join(newcomer, newcomers_room).expect("joins");
    world.commit_all();
    // There is room for one event, and two are needed.
    assert!((&mut command).now_or_never().is_none());
    world.commit_all();
    assert_eq!(kinds(&world.records()), ["connected", "connected"]);
    hoard.pop();
    assert!((&mut command).now_or_never().is_none());
    world.commit_all();
    assert_eq!(command.await.expect("done").connections.len(), 2);
    assert_eq!(kinds(&world.records()[2..]), ["labels_changed", "labels_changed"]);
}

#[tokio::test(start_paused = true)]
async fn a_generation_picks_one_connection_and_another_is_told_the_newest() {
    let alice = alice();
    let (world, all) = world_of(3);
    let generation = |at: usize| all[at].connection().info().generation();
    let id = |at: usize| all[at].connection().info().connection_id;
    let set = [("room", "7")];
    let one = world.registry.update_labels(&alice, set.into_iter(), [].into_iter(), Some(generation(1)));
    let done = commanded(&world, one).await.expect("done");
    assert_eq!(done.connections.iter().map(|view| view.info.connection_id).collect::<Vec<_>>(), [id(1)]);
    let (ended, offset) =
        commanded(&world, world.registry.disconnect(&alice, 1000, "", Some(generation(1)))).await.expect("gone");
    assert_eq!(ended, [id(1)]);
    let records = world.records();
    assert_eq!(kinds(&records[3..]), ["labels_changed", "disconnected"]);
    assert_eq!(offset, records[4].offset);

    let other = OtherGeneration { expected: generation(1), actual: generation(2) };
    let none = [].into_iter();
    let refused = world.registry.update_labels(&alice, none.clone(), [].into_iter(), Some(generation(1))).await;
    assert_eq!(refused.err(), Some(CommandError::Generation(other)));
    let refused = world.registry.disconnect(&alice, 1000, "", Some(generation(1))).await;
    assert_eq!(refused.err(), Some(CommandError::Generation(other)));
    assert_eq!(world.registry.open_of(&alice, Some(generation(1))).err(), Some(other));
    assert_eq!(world.registry.open_of(&alice, Some(generation(0))).map(|open| open.len()), Ok(1));

    let (ended, _) = commanded(&world, world.registry.disconnect(&alice, 1000, "", None)).await.expect("gone");
    assert_eq!(ended, [id(0), id(2)], "the oldest first");
    // Nobody is there any more, of whatever generation.
    let nobody = world.registry.disconnect(&alice, 1000, "", Some(generation(1))).await.expect("no error");
    assert!(nobody.0.is_empty());
    let nobody = world.registry.update_labels(&alice, none, [].into_iter(), Some(generation(1))).await;
    assert_eq!(nobody.err(), Some(CommandError::NotConnected));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_open_connection_stays_the_oldest_until_it_ends() {
    let (world, mut all) = world_of(2);
    let oldest = || world.registry.oldest_open(&alice_id()).map(|connection| connection.info().connection_id);
    let id = |one: &Registration| one.connection().info().connection_id;
    assert_eq!(oldest(), Some(id(&all[0])));
    all.push(world.join(ALICE).expect("joins"));
    assert_eq!(oldest(), Some(id(&all[0])));
    world.commit_all();
    assert_eq!(oldest(), Some(id(&all[0])));
    // As soon as it is ending it is not open, though its end is not committed.
    all[0].end(CloseReason::Lost);
    assert_eq!(oldest(), Some(id(&all[1])));
    all[1].end(CloseReason::Lost);
    world.commit_all();
    assert_eq!(oldest(), Some(id(&all[2])));
    // Without a socket it is only the last resort.
    all.push(world.join(ALICE).expect("joins"));
    world.commit_all();
    all[2].connection().set_detached(true);
    assert_eq!(oldest(), Some(id(&all[3])));
    all[3].connection().set_detached(true);
    assert_eq!(oldest(), Some(id(&all[2])));
    all[3].end(CloseReason::Lost);
    all[2].end(CloseReason::Lost);
    assert_eq!(oldest(), None);
    // One that is joining is nobody yet.
    let _newcomer = world.join(ALICE).expect("joins");
    assert_eq!(oldest(), None);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_passed_over_comes_after_the_others_until_all_have_had_their_turn() {
    let (world, all) = world_of(3);
    let at = |number: usize| all[number].connection();
    let pass_over = |number: usize| world.registry.pass_over(at(number));
    let oldest = || {
        let oldest = world.registry.oldest_open(&alice_id()).map(|connection| connection.info().connection_id);
        (0..3).find(|number| Some(at(*number).info().connection_id) == oldest)
    };
    for (number, next) in [(0, 1), (1, 2), (2, 0), (0, 1)] {
        assert_eq!(oldest(), Some(number));
        assert!(pass_over(number));
        assert_eq!(oldest(), Some(next), "after {number}");
    }
    // Without a socket it is not sent to instead.
    at(0).set_detached(true);
    at(2).set_detached(true);
    assert!(!pass_over(1));
    assert_eq!(oldest(), Some(1));
    at(0).set_detached(false);
    assert!(pass_over(1));
    assert_eq!(oldest(), Some(0));
    at(2).set_detached(false);
    all[0].end(CloseReason::Lost);
    all[1].end(CloseReason::Lost);
    assert!(!pass_over(2), "what has ended is no other");
}

#[tokio::test(start_paused = true)]
async fn one_that_has_resumed_is_taken_over_by_nobody_from_that_moment_on() {
    let world = World::new(Duplicates::Reject);
    let one = world.join(ALICE).expect("joins");
    world.commit_all();
    one.connection().set_detached(true);
    let rooms = [0, 1].map(|_| world.log.budget().try_reserve(0).expect("room"));
    assert!(one.resume(rooms));
    assert_eq!(world.join(ALICE).err(), Some(JoinError::IdInUse));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_changes_nothing_is_answered_though_others_change_it_meanwhile() {
    let alice = alice();
    let (world, _all) = world_of(2);
    let set = async |room: &'static str| {
        world.registry.update_labels(&alice, [("room", room)].into_iter(), [].into_iter(), None).await
    };
    // The second finds it done, and waits for the first; the third undoes it before either is committed.
    let (mut first, mut second, mut third) = (Box::pin(set("7")), Box::pin(set("7")), Box::pin(set("8")));
    for command in [&mut first, &mut second, &mut third] {
        assert!(command.now_or_never().is_none());
    }
    let before = tokio::time::Instant::now();
    world.commit_all();
    let second = second.await.expect("done");
    assert_eq!(second.connections[0].labels, Labels::new([("room", "7")]).expect("good"));
    assert_eq!(before.elapsed(), std::time::Duration::ZERO);
}
