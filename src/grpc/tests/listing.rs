//! Pages of the list, and looking at one client or connection.

use std::collections::BTreeMap;

use super::*;
use crate::position::{Epoch, Position};
use pb::event::Kind;

async fn page(rig: &Rig, request: pb::ListConnectionsRequest) -> Result<pb::ListConnectionsResponse, Status> {
    Ok(rig.connections().list_connections(request).await?.into_inner())
}

fn with_token(page_token: String) -> pb::ListConnectionsRequest {
    pb::ListConnectionsRequest { page_token, ..Default::default() }
}

#[tokio::test]
async fn pages_hold_every_connection_once_and_page_ones_cursor() {
    let rig = Rig::start().await;
    let mut all = Vec::new();
    for i in 0..1_000 {
        all.push(rig.join(&format!("c{i}")).await);
    }
    let head = rig.cursor(rig.head());
    let (mut ids, mut request, mut sizes) = (Vec::new(), pb::ListConnectionsRequest::default(), Vec::new());
    loop {
        let page = page(&rig, request).await.expect("a page");
        assert_eq!(page.cursor, head, "the cursor of page one");
        sizes.push(page.connections.len());
        ids.extend(page.connections.into_iter().map(|connection| connection.client_id));
        if page.next_page_token.is_empty() {
            break;
        }
        // What happens between the pages does not move the cursor.
        drop(rig.join("between").await);
        eventually("it is gone", || rig.registry.count() == 1_000).await;
        request = with_token(page.next_page_token);
    }
    assert_eq!(sizes[0], 512);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1_000);
}

#[tokio::test]
async fn a_page_is_bounded_by_bytes_too() {
    use prost::Message as _;
    let rig = Rig::start().await;
    let mut all = Vec::new();
    for i in 0..400 {
        all.push(rig.join(&format!("c{i}")).await);
        let target = crate::registry::Target::Client(ClientId::named(&format!("c{i}")).expect("an id"));
        let value = "v".repeat(1_000);
        rig.registry.update_labels(&target, [("k", &*value)].into_iter(), [].into_iter(), None).await.expect("set");
    }
    let first = page(&rig, pb::ListConnectionsRequest::default()).await.expect("a page");
    assert!(first.encoded_len() <= 256 << 10 && first.connections.len() < 400);
    assert_eq!(rig.listed().await.len(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_churn_the_pages_and_the_events_after_their_cursor_lead_to_the_truth() {
    let rig = Arc::new(Rig::start().await);
    let mut held: Vec<_> = Vec::new();
    for i in 0..300 {
        held.push(rig.join(&format!("c{i}")).await);
    }
    let churning = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move {
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..1_500 {
                let one = random.usize(..held.len());
                let id = format!("c{}", random.u32(..400));
                held[one] = rig.join(&id).await;
            }
            held
        }
    });
    let mut request = pb::ListConnectionsRequest { page_size: 10, ..Default::default() };
    let mut known: BTreeMap<String, i64> = BTreeMap::new();
    let cursor = loop {
        let page = page(&rig, request).await.expect("a page");
        for one in page.connections {
            let newest = known.entry(one.client_id).or_default();
            *newest = one.generation.max(*newest);
        }
        if page.next_page_token.is_empty() {
            break page.cursor;
        }
        request = pb::ListConnectionsRequest { page_size: 10, ..with_token(page.next_page_token) };
    };
    let held = churning.await.expect("no panic");
    let last = rig.join("last").await.connection().info().generation();
    eventually("the last has left", || rig.head() > last).await;
    let mut stream = rig.stream(Start::Cursor(cursor), None).await;
    for event in stream.until(&rig.cursor(rig.head())).await {
        let generation = known.get(&event.client_id).copied().unwrap_or(0);
        match event.kind {
            Some(Kind::Connected(_)) if event.generation > generation => {
                known.insert(event.client_id, event.generation);
            }
            Some(Kind::Disconnected(_)) if event.generation >= generation => {
                known.remove(&event.client_id);
            }
            _ => {}
        }
    }
    let now = rig.listed().await.into_iter().map(|one| (one.client_id, one.generation)).collect();
    assert_eq!(known, now);
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_client_may_have_several_connections_the_pages_and_the_events_lead_to_the_truth_by_connection() {
    let duplicates = Duplicates::Allow { most: 5 };
    let rig = Arc::new(Rig::with(Options { duplicates, ..Options::default() }).await);
    let mut held: Vec<_> = Vec::new();
    for i in 0..300 {
        held.push(rig.join(&format!("c{}", i / 3)).await);
    }
    let churning = tokio::spawn({
        let rig = Arc::clone(&rig);
        async move {
            let mut random = fastrand::Rng::with_seed(7);
            for _ in 0..1_500 {
                let one = random.usize(..held.len());
                // Left before the next comes, so that at the limit there is a place.
                let left = held.swap_remove(one).connection().info().client_id.as_str().to_owned();
                held.push(rig.join(&left).await);
            }
            held
        }
    });
    let mut request = pb::ListConnectionsRequest { page_size: 10, ..Default::default() };
    // Two fields name a connection, and so does its id.
    let mut known: BTreeMap<(String, i64), String> = BTreeMap::new();
    let cursor = loop {
        let page = page(&rig, request).await.expect("a page");
        known.extend(page.connections.into_iter().map(|one| ((one.client_id, one.generation), one.connection_id)));
        if page.next_page_token.is_empty() {
            break page.cursor;
        }
        request = pb::ListConnectionsRequest { page_size: 10, ..with_token(page.next_page_token) };
    };
    let held = churning.await.expect("no panic");
    let last = rig.join("last").await.connection().info().generation();
    eventually("the last has left", || rig.head() > last).await;
    let mut stream = rig.stream(Start::Cursor(cursor), None).await;
    for event in stream.until(&rig.cursor(rig.head())).await {
        match event.kind {
            Some(Kind::Connected(connected)) => {
                assert_eq!(connected.replaces_generation, 0);
                known.insert((event.client_id, event.generation), event.connection_id);
            }
            Some(Kind::Disconnected(_)) => {
                known.remove(&(event.client_id, event.generation));
            }
            _ => {}
        }
    }
    let now = rig.listed().await.into_iter().map(|one| ((one.client_id, one.generation), one.connection_id)).collect();
    assert_eq!(known, now);
    assert_eq!(known.len(), 300);
    drop(held);
}

#[tokio::test]
async fn a_page_token_that_does_not_belong_is_refused() {
    let rig = Rig::start().await;
    let _all = [rig.join("a").await, rig.join("b").await];
    let first = pb::ListConnectionsRequest { page_size: 1, ..Default::default() };
    let token = page(&rig, first).await.expect("a page").next_page_token;
    assert!(!token.is_empty());
    let filter = pb::ConnectionFilter { client_id_prefix: "a".into(), ..Default::default() };
    let other = pb::ListConnectionsRequest { filter: Some(filter), ..with_token(token.clone()) };
    let elsewhere = Rig::start().await;
    let mut damaged = token.clone();
    damaged.replace_range(3..4, if &token[3..4] == "A" { "B" } else { "A" });
    let refused = [
        page(&rig, other).await,
        page(&rig, with_token(damaged)).await,
        page(&rig, with_token("x".into())).await,
        page(&elsewhere, with_token(token.clone())).await,
    ];
    for refused in refused {
        assert_error(&refused.expect_err("refused"), Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    // The empty filter and none are the same.
    let same = pb::ListConnectionsRequest { filter: Some(pb::ConnectionFilter::default()), ..with_token(token) };
    assert!(page(&rig, same).await.is_ok());
    let negative = pb::ListConnectionsRequest { page_size: -1, ..Default::default() };
    assert_field(&page(&rig, negative).await.expect_err("refused"), "page_size");
}

#[tokio::test]
async fn lists_and_counts_are_filtered() {
    let rig = Rig::start().await;
    let _all = [rig.join("a1").await, rig.join("a2").await, rig.join("b1").await];
    let set = pb::UpdateLabelsRequest { target: client("a2"), set: labels(&[("k", "v")]), ..Default::default() };
    rig.connections().update_labels(set).await.expect("set");
    let count = async |filter: Option<pb::ConnectionFilter>| {
        let list = pb::ListConnectionsRequest { filter: filter.clone(), ..Default::default() };
        let listed = page(&rig, list).await.expect("a page").connections.len();
        let request = pb::CountConnectionsRequest { filter };
        let counted = rig.connections().count_connections(request).await.expect("a count").into_inner();
        assert_eq!(counted.cursor, rig.cursor(rig.head()));
        assert_eq!(counted.count, listed as i64);
        listed
    };
    let prefix = |p: &str| pb::ConnectionFilter { client_id_prefix: p.into(), ..Default::default() };
    assert_eq!(count(None).await, 3);
    assert_eq!(count(Some(prefix("a"))).await, 2);
    assert_eq!(count(Some(pb::ConnectionFilter { labels: labels(&[("k", "v")]), ..prefix("a") })).await, 1);
    assert_eq!(count(Some(pb::ConnectionFilter { labels: labels(&[("k", "w")]), ..prefix("") })).await, 0);
    let state = |state: pb::ConnectionState| pb::ConnectionFilter { state: state.into(), ..prefix("") };
    assert_eq!(count(Some(state(pb::ConnectionState::Alive))).await, 3);
    assert_eq!(count(Some(state(pb::ConnectionState::Suspect))).await, 0);
    let bad = pb::CountConnectionsRequest { filter: Some(pb::ConnectionFilter { state: 9, ..prefix("") }) };
    assert_field(&rig.connections().count_connections(bad).await.expect_err("refused"), "filter.state");
}

#[tokio::test]
async fn a_connection_and_a_client_are_found_as_they_are() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let info = alice.connection().info();
    let request = pb::GetConnectionRequest { connection_id: info.connection_id.to_string(), ..Default::default() };
    let found = rig.connections().get_connection(request.clone()).await.expect("found").into_inner();
    let one = found.connection.expect("always set");
    assert_eq!((one.client_id.as_str(), one.generation), ("alice", info.generation()));
    assert_eq!((one.node_id.as_str(), one.remote_address.as_str()), ("test-node", "192.0.2.1:4000"));
    assert_eq!(one.state, i32::from(pb::ConnectionState::Alive));
    assert!(one.stats.is_some() && one.heartbeat.is_some_and(|beat| beat.interval.is_some() && beat.timeout.is_some()));
    assert_eq!(found.cursor, rig.cursor(rig.head()));
    let get = pb::GetClientRequest { client_id: "alice".into(), ..Default::default() };
    let client = rig.connections().get_client(get).await.expect("found").into_inner();
    assert_eq!(client.connections[0].connection_id, one.connection_id);
    let nobody = pb::GetClientRequest { client_id: "nobody".into(), ..Default::default() };
    let nobody = rig.connections().get_client(nobody).await.expect("no error").into_inner();
    assert!(nobody.connections.is_empty() && !nobody.cursor.is_empty());
    drop(alice);
    eventually("it is gone", || rig.registry.count() == 0).await;
    let gone = rig.connections().get_connection(request).await.expect_err("gone");
    assert_error(&gone, Code::NotFound, "CONNECTION_NOT_FOUND");
    let bad = pb::GetConnectionRequest { connection_id: "x".into(), ..Default::default() };
    assert_field(&rig.connections().get_connection(bad).await.expect_err("refused"), "connection_id");
    let bad = pb::GetClientRequest::default();
    assert_field(&rig.connections().get_client(bad).await.expect_err("refused"), "client_id");
}

fn after(min_cursor: String) -> pb::GetClientRequest {
    pb::GetClientRequest { client_id: "alice".into(), min_cursor }
}

#[tokio::test]
async fn a_min_cursor_that_cannot_be_is_refused() {
    let rig = Rig::start().await;
    let get = async |cursor| rig.connections().get_client(after(cursor)).await;
    assert!(get(rig.cursor(rig.head())).await.is_ok());
    // Older than what is kept is included all the more.
    assert!(get(rig.cursor(1)).await.is_ok());
    let other = Position { epoch: Epoch::random(), offset: 1 }.to_cursor();
    let details = assert_error(&get(other).await.expect_err("refused"), Code::OutOfRange, "EPOCH_CHANGED");
    assert!(details.error_info().expect("checked").metadata.contains_key("head_cursor"));
    let ahead = rig.cursor(rig.head() + 1);
    assert_error(&get(ahead).await.expect_err("refused"), Code::InvalidArgument, "CURSOR_INVALID");
    assert_error(&get("x".into()).await.expect_err("refused"), Code::InvalidArgument, "CURSOR_INVALID");
}
