//! Sending with an id, where no service is in between.

use super::*;
use crate::clock::Clock;
use crate::heartbeat::Cadence;
use crate::ids::ClientId;
use crate::log::{MemoryLog, Retention};
use crate::outbox::OutboxLimits;
use crate::registry::{Duplicates, Newcomer, Registration, Settings};

async fn joined() -> (Dispatch, Registration, Arc<MemoryLog>) {
    let (clock, metrics) = (Clock::default(), Arc::new(Metrics::default()));
    let retention = Retention { max_bytes: 1 << 20, max_age: None };
    let log = Arc::new(MemoryLog::new(retention, clock.clone(), Arc::clone(&metrics)));
    let settings = Settings {
        node_id: "test-node".into(),
        cadence: Cadence { interval: 30_000, timeout: 60_000 },
        quiet: true,
        duplicates: Duplicates::Replace,
        takeovers_per_minute: 0,
        outbox: OutboxLimits { frames: 16, bytes: 64 << 10 },
    };
    let registry = Arc::new(Registry::new(Arc::clone(&log) as _, clock, settings, Arc::clone(&metrics)));
    let client_id = Some(ClientId::named("a").expect("an id"));
    let newcomer = Newcomer { client_id, remote_address: None, subprotocol: "" };
    let committing = async {
        while !log.commit(&*registry) {
            tokio::task::yield_now().await;
        }
    };
    let (registration, ()) = tokio::join!(registry.join(newcomer), committing);
    (Dispatch::new(registry, metrics), registration.expect("joined"), log)
}

fn outgoing(deadline: Option<Instant>) -> Outgoing {
    Outgoing {
        target: Target::Client(ClientId::named("a").expect("an id")),
        payload: Payload::Binary("hi".into()),
        written: false,
        acked: false,
        id: Some("m".into()),
        caller: Caller::ANYONE,
        deadline,
        if_generation: None,
        at_once: true,
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_out_with_nobody_waiting_for_a_receipt_is_not_remembered_as_accepted() {
    let (dispatch, registration, _log) = joined().await;
    let outbox = &registration.connection().outbox;
    let outgoing = outgoing(Some(Instant::now() + Duration::from_secs(1)));
    let accept = || dispatch.accept(&outgoing).expect("room").settled();
    assert!(accept().is_ok_and(|settled| !settled.replayed));
    assert!(accept().is_err(), "in flight: it may yet be taken out");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(outbox.pop(Instant::now()).0.is_none());
    // Who follows it hears of it.
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert!(accept().is_ok_and(|settled| !settled.replayed), "sent again");
    assert_eq!(outbox.depth().0, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_accepted_without_a_deadline_is_remembered_at_once() {
    let (dispatch, registration, _log) = joined().await;
    let accept = || dispatch.accept(&outgoing(None)).expect("room").settled().expect("nothing to wait for");
    let (first, second) = (accept(), accept());
    assert_eq!((first.replayed, second.replayed), (false, true));
    assert_eq!(first.deliveries, second.deliveries);
    assert_eq!(registration.connection().outbox.depth().0, 1);
}

#[tokio::test(start_paused = true)]
async fn ids_are_forgotten_also_when_no_message_comes() {
    let (dispatch, _registration, _log) = joined().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let (dispatch, stop) = (dispatch.clone(), stop.clone());
        async move { dispatch.run_forgetting(stop).await }
    });
    dispatch.accept(&outgoing(None)).expect("room");
    assert_eq!(dispatch.once().remembered(), 1);
    tokio::time::sleep(Duration::from_millis(REMEMBERED_FOR) - Duration::from_secs(1)).await;
    assert_eq!(dispatch.once().remembered(), 1);
    tokio::time::sleep(2 * FORGET_EVERY).await;
    assert_eq!(dispatch.once().remembered(), 0);
    stop.cancel();
    running.await.expect("no panic");
}
