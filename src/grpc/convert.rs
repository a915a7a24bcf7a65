//! Domain types as generated ones: the one place where answers are put into words of the contract.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use prost_types::Timestamp;

use crate::clock::UnixNanos;
use crate::close::Cause;
use crate::dispatch::{Delivery, Failure, Stage};
use crate::event::{ConnectionInfo, Disconnected, EventKind, Liveness, Payload, Stats};
use crate::heartbeat::Cadence;
use crate::ids::ConnectionId;
use crate::labels::Labels;
use crate::mailbox::{self, Progress};
use crate::pb;
use crate::pb::event::Kind;
use crate::registry::ConnectionView;

pub(super) fn timestamp(nanos: UnixNanos) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    Timestamp { seconds: nanos.div_euclid(SECOND), nanos: nanos.rem_euclid(SECOND) as i32 }
}

pub(super) fn timestamp_of(time: SystemTime) -> Timestamp {
    timestamp(crate::clock::unix_nanos(time))
}

pub(super) fn duration(span: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: span.subsec_nanos() as i32 }
}

/// A count as the contract's integer.
pub(super) fn count(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

fn labels(labels: &Labels) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn address(info: &ConnectionInfo) -> String {
    info.remote_address.map(|address| address.to_string()).unwrap_or_default()
}

fn state(state: Liveness) -> i32 {
    match state {
        Liveness::Alive => pb::ConnectionState::Alive,
        Liveness::Suspect => pb::ConnectionState::Suspect,
    }
    .into()
}

fn heartbeat(cadence: Cadence) -> pb::HeartbeatSettings {
    pb::HeartbeatSettings { interval: Some(duration(cadence.interval())), timeout: Some(duration(cadence.timeout())) }
}

fn stats(stats: &Stats) -> pb::ConnectionStats {
    pb::ConnectionStats {
        last_seen_time: Some(timestamp(stats.last_seen)),
        round_trip_time: stats.round_trip.map(duration),
        missed_heartbeats: i32::try_from(stats.missed_heartbeats).unwrap_or(i32::MAX),
        messages_in: count(stats.messages_in),
        messages_out: count(stats.messages_out),
        bytes_in: count(stats.bytes_in),
        bytes_out: count(stats.bytes_out),
    }
}

pub(super) fn connection(view: &ConnectionView) -> pb::Connection {
    let info = &view.info;
    pb::Connection {
        client_id: info.client_id.as_str().to_owned(),
        connection_id: info.connection_id.to_string(),
        generation: info.generation(),
        node_id: info.node_id.as_ref().to_owned(),
        state: state(view.state),
        labels: labels(&view.labels),
        connect_time: Some(timestamp(info.connect_time)),
        remote_address: address(info),
        subprotocol: info.subprotocol.to_owned(),
        heartbeat: Some(heartbeat(view.cadence)),
        stats: view.stats.as_ref().map(stats),
    }
}

/// What the event of a snapshot says of a connection that exists.
pub(super) fn existing(view: &ConnectionView) -> Kind {
    Kind::Connected(pb::Connected {
        remote_address: address(&view.info),
        subprotocol: view.info.subprotocol.to_owned(),
        state: state(view.state),
        heartbeat: Some(heartbeat(view.cadence)),
        replaces_generation: 0,
    })
}

/// What an event says.
pub(super) fn kind(info: &ConnectionInfo, kind: &EventKind) -> Kind {
    match kind {
        EventKind::Connected(connected) => Kind::Connected(pb::Connected {
            remote_address: address(info),
            subprotocol: info.subprotocol.to_owned(),
            state: state(connected.state),
            heartbeat: Some(heartbeat(connected.cadence)),
            replaces_generation: connected.replaces.generation(),
        }),
        EventKind::Suspected { last_seen, socket_lost } => {
            Kind::Suspected(pb::Suspected { last_seen_time: Some(timestamp(*last_seen)), socket_lost: *socket_lost })
        }
        EventKind::Recovered { suspected_for, resumed } => {
            Kind::Recovered(pb::Recovered { suspected_for: Some(duration(*suspected_for)), resumed: *resumed })
        }
        EventKind::Disconnected(end) => Kind::Disconnected(disconnected(end)),
        EventKind::MessageReceived(payload) => {
            Kind::MessageReceived(pb::MessageReceived { payload: Some(received(payload)) })
        }
        EventKind::LabelsChanged { previous } => {
            Kind::LabelsChanged(pb::LabelsChanged { previous_labels: labels(previous) })
        }
        EventKind::HeartbeatChanged(cadence) => {
            Kind::HeartbeatChanged(pb::HeartbeatChanged { heartbeat: Some(heartbeat(*cadence)) })
        }
        EventKind::MessageExpired { message_id, send_time } => Kind::MessageExpired(pb::MessageExpired {
            message_id: message_id.to_string(),
            send_time: Some(timestamp(*send_time)),
        }),
    }
}

fn received(payload: &Payload) -> pb::message_received::Payload {
    match payload {
        Payload::Binary(bytes) => pb::message_received::Payload::Binary(bytes.clone()),
        // It was checked where it came in; what is not UTF-8 after all is better altered than lost. The plain check is the quicker by far.
        Payload::Text(bytes) => pb::message_received::Payload::Text(match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        }),
    }
}

fn disconnected(end: &Disconnected) -> pb::Disconnected {
    pb::Disconnected {
        cause: cause(end.cause).into(),
        close_code: end.code.into(),
        close_reason: end.reason.to_string(),
        connected_for: Some(duration(end.connected_for)),
        stats: end.stats.as_ref().map(stats),
        unacked_message_ids: end.unacked.ids.iter().map(ToString::to_string).collect(),
        unacked_count: count(end.unacked.count),
    }
}

fn cause(cause: Cause) -> pb::DisconnectCause {
    use pb::DisconnectCause as Named;
    match cause {
        Cause::ClientClosed => Named::ClientClosed,
        Cause::ConnectionLost => Named::ConnectionLost,
        Cause::HeartbeatTimeout => Named::HeartbeatTimeout,
        Cause::Kicked => Named::Kicked,
        Cause::Replaced => Named::Replaced,
        Cause::SlowClient => Named::SlowClient,
        Cause::RateLimited => Named::RateLimited,
        Cause::ProtocolError => Named::ProtocolError,
        Cause::TokenExpired => Named::TokenExpired,
        Cause::Drained => Named::Drained,
        Cause::NodeRestarted => Named::NodeRestarted,
        Cause::NodeLost => Named::NodeLost,
        Cause::InternalError => Named::InternalError,
        Cause::Overloaded => Named::Overloaded,
    }
}

pub(super) fn delivery(delivery: &Delivery) -> pb::Delivery {
    let stage = match delivery.stage {
        None => pb::Stage::Unspecified,
        Some(Stage::Accepted) => pb::Stage::Accepted,
        Some(Stage::Written) => pb::Stage::Written,
        Some(Stage::Acked) => pb::Stage::Acked,
    };
    let failure = match delivery.failure {
        None => pb::DeliveryFailure::Unspecified,
        Some(Failure::NotConnected) => pb::DeliveryFailure::NotConnected,
        Some(Failure::OutboxFull) => pb::DeliveryFailure::OutboxFull,
        Some(Failure::OutcomeUnknown) => pb::DeliveryFailure::OutcomeUnknown,
        Some(Failure::Expired) => pb::DeliveryFailure::Expired,
    };
    pb::Delivery {
        connection_id: delivery.connection_id.to_string(),
        stage: stage.into(),
        time: delivery.stage.map(|_| timestamp(delivery.time)),
        failure: failure.into(),
    }
}

/// How far a stored message has come.
pub(super) fn progress(progress: &Progress) -> pb::Delivery {
    let stage = match progress.stage {
        mailbox::Stage::Stored => pb::Stage::Stored,
        mailbox::Stage::Accepted => pb::Stage::Accepted,
        mailbox::Stage::Written => pb::Stage::Written,
        mailbox::Stage::Acked => pb::Stage::Acked,
    };
    pb::Delivery {
        connection_id: connection_id(progress.connection_id),
        stage: stage.into(),
        time: progress.time.map(timestamp),
        failure: pb::DeliveryFailure::Unspecified.into(),
    }
}

/// The id of a connection; empty for none.
fn connection_id(id: ConnectionId) -> String {
    if id == ConnectionId::NONE { String::new() } else { id.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_epoch_has_its_nanoseconds_count_forward() {
        assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanos: 999_999_999 });
        assert_eq!(timestamp(1_500_000_000), Timestamp { seconds: 1, nanos: 500_000_000 });
    }

    #[test]
    fn every_cause_has_the_name_it_has_in_metrics() {
        for one in Cause::ALL {
            let expected = format!("DISCONNECT_CAUSE_{}", one.as_str().to_uppercase());
            assert_eq!(cause(one).as_str_name(), expected);
        }
    }
}
