//! Whatever the client does, everything comes in order and nothing is lost.

use super::*;
use crate::registry::Target;

/// Many senders, and a client that comes, goes, reads and dies as it likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_the_client_does_everything_stored_comes_in_order_and_nothing_overtakes_it() {
    let mut accepted = 0;
    for seed in 0..6 {
        let world = Arc::new(World::new());
        let mut random = fastrand::Rng::with_seed(seed);
        // Each sender: mail, then, once it is stored, something plain; the plain may be refused, but not come first.
        let senders = (0..3).map(|sender| {
            let world = Arc::clone(&world);
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                for n in 0..25 {
                    let stored = world.post(mail("alice", &format!("mail {sender} {n}"))).await;
                    stored.expect("stored");
                    tokio::time::sleep(Duration::from_millis(n % 4)).await;
                    for connection in world.registry.open(&Target::Client(id("alice"))) {
                        if plain(&connection, &format!("plain {sender} {n}")).is_ok() {
                            accepted.push(n);
                        }
                    }
                    // A moment in which the client may have read everything.
                    tokio::time::sleep(Duration::from_millis(n % 3)).await;
                }
                accepted.len()
            })
        });
        let senders: Vec<_> = senders.collect();
        let mut written: Vec<Vec<String>> = Vec::new();
        let began = Instant::now();
        while !senders.iter().all(tokio::task::JoinHandle::is_finished) || world.totals().0 > 0 {
            assert!(began.elapsed() < SOON, "seed {seed}: {:?} left", world.totals());
            let alice = world.join("alice").await;
            let mut texts = Vec::new();
            for _ in 0..random.usize(0..40) {
                match pop(alice.connection()) {
                    Some(frame) if random.u8(0..20) > 0 => {
                        texts.push(text(&frame));
                        if let Some(receipt) = frame.receipt {
                            let _ = receipt.send(Written::Yes);
                        }
                    }
                    Some(frame) => {
                        drop(frame);
                        break;
                    }
                    None => tokio::time::sleep(Duration::from_micros(200)).await,
                }
            }
            drop(alice);
            written.push(texts);
        }
        let done = futures_util::future::join_all(senders).await;
        accepted += done.into_iter().map(|done| done.expect("done")).sum::<usize>();
        world.empty().await;
        let all = written.concat();
        for sender in 0..3 {
            let mut newest = 0;
            for n in 0..25 {
                let place = |what: &str| all.iter().position(|text| *text == format!("{what} {sender} {n}"));
                let mail = place("mail").unwrap_or_else(|| panic!("seed {seed}: mail {sender} {n} is lost"));
                assert!(n == 0 || newest < mail, "seed {seed}: {sender} {n} is out of order");
                newest = mail;
                assert!(place("plain").is_none_or(|plain| mail < plain), "seed {seed}: {sender} {n} was overtaken");
            }
        }
    }
    assert!(accepted > 0, "the test proves nothing if nothing plain is ever accepted");
}
