//! Acting on connections: disconnect, labels, probe.

use super::*;
use pb::event::Kind;

#[tokio::test]
async fn disconnect_answers_once_the_client_is_gone_with_its_position() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(NOW, None).await;
    let alice = rig.join("alice").await;
    let request = pb::DisconnectRequest {
        target: client("alice"),
        code: 4001,
        reason: "enough".into(),
        if_generation: alice.connection().info().generation(),
    };
    let gone = rig.connections().disconnect(request.clone()).await.expect("done").into_inner();
    assert_eq!(gone.connection_ids, [alice.connection().info().connection_id.to_string()]);
    assert_eq!(rig.registry.count(), 0);
    let events = stream.until(&gone.cursor).await;
    let Some(Kind::Disconnected(end)) = &events[1].kind else { panic!("{events:?}") };
    assert_eq!(end.cause, i32::from(pb::DisconnectCause::Kicked));
    assert_eq!((end.close_code, end.close_reason.as_str()), (4001, "enough"));
    assert!(end.stats.is_some() && end.connected_for.is_some());
    // Once more is no error.
    let again = rig.connections().disconnect(request).await.expect("done").into_inner();
    assert!(again.connection_ids.is_empty() && !again.cursor.is_empty());
}

#[tokio::test]
async fn how_a_client_left_is_told_in_the_codes_of_websocket_apis() {
    use crate::close::CloseReason;
    let rig = Rig::start().await;
    let mut stream = rig.stream(NOW, None).await;
    for (reason, code) in [
        (CloseReason::ByClient(None, "".into()), 1005),
        (CloseReason::Lost, 1006),
        (CloseReason::ByClient(Some(3333), "bye".into()), 3333),
    ] {
        rig.join("alice").await.end(reason);
        let events = stream.events(2).await;
        assert!(matches!(&events[1].kind, Some(Kind::Disconnected(end)) if end.close_code == code), "{events:?}");
    }
}

#[tokio::test]
async fn disconnect_by_connection_and_with_defaults() {
    let rig = Rig::start().await;
    let mut stream = rig.stream(NOW, None).await;
    let alice = rig.join("alice").await;
    let request = pb::DisconnectRequest { target: connection(&alice), ..Default::default() };
    let gone = rig.connections().disconnect(request).await.expect("done").into_inner();
    assert_eq!(gone.connection_ids.len(), 1);
    let events = stream.events(2).await;
    let Some(Kind::Disconnected(end)) = &events[1].kind else { panic!("{events:?}") };
    assert_eq!(end.close_code, 1000);
    assert!(!end.close_reason.is_empty());
}

#[tokio::test]
async fn another_generation_is_spared() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let other = alice.connection().info().generation() - 1;
    let mut connections = rig.connections();
    let target = || client("alice");
    let disconnect = pb::DisconnectRequest { target: target(), if_generation: other, ..Default::default() };
    let update = pb::UpdateLabelsRequest { target: target(), if_generation: other, ..Default::default() };
    let heartbeat = pb::UpdateHeartbeatRequest {
        target: target(),
        heartbeat: Some(pb::HeartbeatSettings::default()),
        if_generation: other,
    };
    let refused = [
        connections.disconnect(disconnect.clone()).await.expect_err("refused"),
        connections.update_labels(update).await.expect_err("refused"),
        connections.update_heartbeat(heartbeat).await.expect_err("refused"),
    ];
    for refused in refused {
        assert_error(&refused, Code::FailedPrecondition, "GENERATION_MISMATCH");
    }
    let negative = pb::DisconnectRequest { if_generation: -1, ..disconnect };
    assert_field(&connections.disconnect(negative).await.expect_err("refused"), "if_generation");
    assert_eq!(rig.registry.count(), 1);
}

#[tokio::test]
async fn a_bad_target_code_or_reason_is_refused_with_its_field() {
    let rig = Rig::start().await;
    let refused =
        async |request: pb::DisconnectRequest| rig.connections().disconnect(request).await.expect_err("refused");
    let with = |target| pb::DisconnectRequest { target, ..Default::default() };
    let empty = Some(pb::Target { target: None });
    let uuid = Some(pb::Target { target: Some(pb::target::Target::ConnectionId("no".into())) });
    assert_field(&refused(with(None)).await, "target");
    assert_field(&refused(with(empty)).await, "target");
    assert_field(&refused(with(client(""))).await, "target.client_id");
    assert_field(&refused(with(uuid)).await, "target.connection_id");
    for code in [1, -1, 1002, 1005, 1006, 1015, 2999, 5000, 66_536] {
        assert_field(&refused(pb::DisconnectRequest { code, ..with(client("a")) }).await, "code");
    }
    let reason = "é".repeat(62);
    assert_field(&refused(pb::DisconnectRequest { reason, ..with(client("a")) }).await, "reason");
}

#[tokio::test]
async fn labels_are_set_and_removed_and_the_log_says_so() {
    let rig = Rig::start().await;
    let _alice = rig.join("alice").await;
    let mut stream = rig.stream(NOW, None).await;
    let update = async |set: &[(&str, &str)], remove: &[&str]| {
        let request = pb::UpdateLabelsRequest {
            target: client("alice"),
            set: labels(set),
            remove: remove.iter().map(|key| (*key).to_owned()).collect(),
            if_generation: 0,
        };
        rig.connections().update_labels(request).await.map(tonic::Response::into_inner)
    };
    let first = update(&[("a", "1"), ("b", "")], &["absent"]).await.expect("set");
    assert_eq!(first.connections[0].labels, labels(&[("a", "1"), ("b", "")]));
    let second = update(&[("c", "3")], &["a"]).await.expect("set");
    assert_eq!(second.connections[0].labels, labels(&[("b", ""), ("c", "3")]));
    let events = stream.until(&second.cursor).await;
    assert_eq!(events[1].labels, labels(&[("b", ""), ("c", "3")]));
    assert_eq!(events[1].cursor, second.cursor);
    let Some(Kind::LabelsChanged(changed)) = &events[1].kind else { panic!("{events:?}") };
    assert_eq!(changed.previous_labels, labels(&[("a", "1"), ("b", "")]));
    assert_field(&update(&[("x", "1")], &["y", "x"]).await.expect_err("refused"), "remove[1]");
    assert_field(&update(&[("", "1")], &[]).await.expect_err("refused"), "set");
    assert_field(&update(&[("k", &"v".repeat(1_023))], &[]).await.expect_err("over in all"), "set");
    let nobody = pb::UpdateLabelsRequest { target: client("nobody"), ..Default::default() };
    let nobody = rig.connections().update_labels(nobody).await.expect_err("nobody there");
    assert_error(&nobody, Code::NotFound, "CLIENT_NOT_CONNECTED");
}

#[tokio::test]
async fn a_probe_tells_who_answered_and_who_did_not() {
    let rig = Rig::start().await;
    let alice = rig.join("alice").await;
    let probe = |timeout: Option<(i64, i32)>| {
        let timeout = timeout.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
        let request = pb::ProbeRequest { target: client("alice"), timeout };
        let mut connections = rig.connections();
        async move { connections.probe(request).await.map(tonic::Response::into_inner) }
    };
    let silent = probe(Some((0, 20_000_000))).await.expect("no error");
    assert_eq!((silent.results[0].answered, silent.results[0].round_trip_time), (false, None));
    let answering = async {
        eventually("a probe waits", || {
            let probes = alice.connection().take_probes();
            let waits = probes.iter().any(|probe| !probe.is_closed());
            for probe in probes {
                let _ = probe.send(Duration::from_millis(3));
            }
            waits
        })
        .await;
    };
    let (answered, ()) = tokio::join!(probe(None), answering);
    let results = answered.expect("no error").results;
    assert_eq!(results[0].round_trip_time, Some(prost_types::Duration { seconds: 0, nanos: 3_000_000 }));
    assert!(results[0].answered);
    for bad in [(0, 0), (-1, 0), (30, 1)] {
        assert_field(&probe(Some(bad)).await.expect_err("refused"), "timeout");
    }
    drop(alice);
    eventually("it is gone", || rig.registry.count() == 0).await;
    assert_error(&probe(None).await.expect_err("nobody"), Code::NotFound, "CLIENT_NOT_CONNECTED");
}
