//! Which events a filter lets through.

use super::*;
use pb::EventKind;
use pb::event::Kind;

async fn set_labels(rig: &Rig, id: &str, set: &[(&str, &str)], remove: &[&str]) {
    let remove = remove.iter().map(|key| (*key).to_owned()).collect();
    let request = pb::UpdateLabelsRequest { target: client(id), set: labels(set), remove, ..Default::default() };
    rig.connections().update_labels(request).await.expect("updated");
}

#[tokio::test]
async fn kinds_ids_and_prefix_must_all_hold() {
    let rig = Rig::start().await;
    let filter = pb::EventFilter {
        kinds: vec![EventKind::Connected.into(), EventKind::MessageReceived.into()],
        client_ids: vec!["room/a".into(), "room/b".into(), "c".into()],
        client_id_prefix: "room/".into(),
        ..Default::default()
    };
    let mut stream = rig.stream(NOW, Some(filter)).await;
    for id in ["room/a", "room/x", "c", "room/b"] {
        let registration = rig.join(id).await;
        registration.message(text("hi")).expect("room");
    }
    let events = stream.events(4).await;
    let told: Vec<_> = events.iter().map(|event| (event.client_id.as_str(), event.kind.as_ref())).collect();
    assert!(matches!(
        told[..],
        [
            ("room/a", Some(Kind::Connected(_))),
            ("room/a", Some(Kind::MessageReceived(_))),
            ("room/b", Some(Kind::Connected(_))),
            ("room/b", Some(Kind::MessageReceived(_)))
        ]
    ));
}

#[tokio::test]
async fn entering_and_leaving_a_selector_are_both_seen_and_nothing_after() {
    let rig = Rig::start().await;
    let filter = pb::EventFilter { labels: labels(&[("room", "7")]), ..Default::default() };
    let mut stream = rig.stream(NOW, Some(filter)).await;
    let alice = rig.join("alice").await;
    alice.message(text("before")).expect("room");
    set_labels(&rig, "alice", &[("room", "7"), ("x", "1")], &[]).await;
    alice.message(text("inside")).expect("room");
    set_labels(&rig, "alice", &[("room", "8")], &[]).await;
    alice.message(text("after")).expect("room");
    set_labels(&rig, "alice", &[("room", "9")], &[]).await;
    let events = stream.events(3).await;
    let kinds: Vec<_> = events.iter().map(|event| event.kind.clone().expect("a kind")).collect();
    assert!(matches!(&kinds[0], Kind::LabelsChanged(changed) if changed.previous_labels.is_empty()));
    assert_eq!(events[0].labels, labels(&[("room", "7"), ("x", "1")]));
    let inside = pb::MessageReceived { payload: Some(pb::message_received::Payload::Text("inside".into())) };
    assert_eq!(kinds[1], Kind::MessageReceived(inside));
    assert!(matches!(&kinds[2], Kind::LabelsChanged(changed) if changed.previous_labels["room"] == "7"));
    assert_eq!(events[2].labels["room"], "8");
    // Nothing more up to here.
    drop(alice);
    let bob = rig.join("bob").await;
    set_labels(&rig, "bob", &[("room", "7")], &[]).await;
    drop(bob);
    let rest = stream.events(2).await;
    assert!(rest.iter().all(|event| event.client_id == "bob"), "{rest:?}");
}

#[tokio::test]
async fn a_filter_is_of_the_call_and_a_cursor_resumes_with_another() {
    let rig = Rig::start().await;
    let start = rig.cursor(rig.head());
    for id in ["a", "b", "a", "b"] {
        drop(rig.join(id).await);
    }
    let only = |id: &str| Some(pb::EventFilter { client_ids: vec![id.into()], ..Default::default() });
    let first = rig.stream(Start::Cursor(start), only("a")).await.events(4).await;
    let second = rig.stream(Start::Cursor(first[1].cursor.clone()), only("b")).await.events(4).await;
    assert!(second.iter().all(|event| event.client_id == "b"));
}

#[tokio::test]
async fn a_filter_that_breaks_its_contract_is_refused_with_its_field() {
    let rig = Rig::start().await;
    let cases = [
        ("filter.kinds[0]", pb::EventFilter { kinds: vec![0], ..Default::default() }),
        ("filter.client_ids[0]", pb::EventFilter { client_ids: vec!["a\n".into()], ..Default::default() }),
        ("filter.client_id_prefix", pb::EventFilter { client_id_prefix: "p".repeat(129), ..Default::default() }),
        ("filter.labels", pb::EventFilter { labels: labels(&[("", "x")]), ..Default::default() }),
    ];
    for (field, filter) in cases {
        let error = rig.subscribe(from(NOW, Some(filter))).await.err().expect("refused");
        assert_field(&error, field);
    }
}

#[tokio::test]
async fn a_snapshot_is_filtered_too() {
    let rig = Rig::start().await;
    let _all = [rig.join("a").await, rig.join("b").await, rig.join("bb").await];
    set_labels(&rig, "bb", &[("k", "v")], &[]).await;
    let of = async |filter| {
        let mut stream = rig.stream(SNAPSHOT, Some(filter)).await;
        let mut ids: Vec<_> = stream.until(&rig.cursor(rig.head())).await.into_iter().map(|e| e.client_id).collect();
        ids.sort();
        ids
    };
    assert_eq!(of(pb::EventFilter { client_id_prefix: "b".into(), ..Default::default() }).await, ["b", "bb"]);
    assert_eq!(of(pb::EventFilter { labels: labels(&[("k", "v")]), ..Default::default() }).await, ["bb"]);
    let kinds = vec![EventKind::Disconnected.into()];
    assert!(of(pb::EventFilter { kinds, ..Default::default() }).await.is_empty());
}
