//! One event as one aligned line for people.

use std::io::{self, Write};
use std::time::SystemTime;

use super::text::{between, clock, duration, enum_name, escaped, labels, quoted, span};
use crate::pb;
use crate::pb::event::Kind;
use crate::pb::message_received::Payload;

/// As much of a message as a line shows, in characters.
const MESSAGE_CHARS: usize = 200;

/// Client ids are aligned up to this width; longer ones push their own line only.
const MOST_ID_WIDTH: usize = 40;

/// Writes events, with columns as wide as what came so far needs.
pub(super) struct Lines {
    id_width: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { id_width: 12 }
    }
}

impl Lines {
    /// `* ` marks what is state and not news.
    pub(super) fn write(&mut self, event: &pb::Event, snapshot: bool, out: &mut dyn Write) -> io::Result<()> {
        let mark = if snapshot { '*' } else { ' ' };
        let client_id = escaped(&event.client_id);
        self.id_width = client_id.chars().count().clamp(self.id_width, MOST_ID_WIDTH);
        let (kind, details) = match &event.kind {
            Some(kind) => describe(kind, event),
            None => ("unknown", String::new()),
        };
        let line = format!(
            "{mark} {}  {kind:<12}  {client_id:<width$}  {details}",
            clock(event.time.as_ref()),
            width = self.id_width
        );
        writeln!(out, "{}", line.trim_end())
    }
}

fn describe(kind: &Kind, event: &pb::Event) -> (&'static str, String) {
    match kind {
        Kind::Connected(it) => ("connected", connected(it, event)),
        Kind::Suspected(it) if it.socket_lost => ("suspected", "socket lost".to_owned()),
        Kind::Suspected(it) => ("suspected", suspected(it, event).unwrap_or_default()),
        Kind::Recovered(it) => {
            let after = duration(it.suspected_for.as_ref()).map(|time| format!("after {}", span(time)));
            let resumed = it.resumed.then(|| "on a new socket".to_owned());
            ("recovered", joined([after, resumed]))
        }
        Kind::Disconnected(it) => ("disconnected", disconnected(it)),
        Kind::MessageReceived(it) => ("message", message(it)),
        Kind::LabelsChanged(it) => {
            let (now, before) = (labels(&event.labels), labels(&it.previous_labels));
            let or_none = |labels: String| if labels.is_empty() { "none".to_owned() } else { labels };
            ("labels", format!("{} (was {})", or_none(now), or_none(before)))
        }
        Kind::HeartbeatChanged(it) => {
            let settings = it.heartbeat.unwrap_or_default();
            let part = |name, time| duration(time).map(|time| format!("{name} {}", span(time)));
            let parts = [part("interval", settings.interval.as_ref()), part("timeout", settings.timeout.as_ref())];
            ("heartbeat", joined(parts))
        }
        Kind::MessageExpired(it) => ("expired", escaped(&it.message_id)),
    }
}

fn joined<const N: usize>(parts: [Option<String>; N]) -> String {
    parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn connected(it: &pb::Connected, event: &pb::Event) -> String {
    joined([
        Some(escaped(&it.remote_address)),
        // Only a snapshot has them.
        (it.state() == pb::ConnectionState::Suspect).then(|| "SUSPECT".to_owned()),
        (!it.subprotocol.is_empty()).then(|| escaped(&it.subprotocol)),
        (it.replaces_generation != 0).then(|| "took over".to_owned()),
        Some(labels(&event.labels)),
    ])
}

fn suspected(it: &pb::Suspected, event: &pb::Event) -> Option<String> {
    let at = SystemTime::try_from(event.time?).ok()?;
    Some(format!("silent for {}", span(between(it.last_seen_time.as_ref(), at)?)))
}

fn disconnected(it: &pb::Disconnected) -> String {
    let known = pb::DisconnectCause::try_from(it.cause).ok();
    let cause = enum_name(known.map(|cause| cause.as_str_name()), "DISCONNECT_CAUSE_", it.cause);
    joined([
        Some(cause),
        (it.close_code != 0).then(|| it.close_code.to_string()),
        (!it.close_reason.is_empty()).then(|| quoted(&it.close_reason, MESSAGE_CHARS)),
        duration(it.connected_for.as_ref()).map(|time| format!("after {}", span(time))),
        it.stats.map(|stats| format!("{} in, {} out", stats.messages_in, stats.messages_out)),
        (it.unacked_count != 0).then(|| format!("{} not acknowledged", it.unacked_count)),
    ])
}

fn message(it: &pb::MessageReceived) -> String {
    match &it.payload {
        Some(Payload::Text(text)) => quoted(text, MESSAGE_CHARS),
        Some(Payload::Binary(bytes)) => format!("binary, {} bytes", bytes.len()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(client_id: &str, kind: Kind) -> pb::Event {
        let time = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 123_000_000 });
        pb::Event { time, client_id: client_id.to_owned(), kind: Some(kind), ..Default::default() }
    }

    fn line(event: &pb::Event, snapshot: bool) -> String {
        let mut out = Vec::new();
        Lines::default().write(event, snapshot, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn labels_of(pairs: &[(&str, &str)]) -> std::collections::HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_kind_says_what_there_is_to_know_in_one_line() {
        let connected =
            pb::Connected { remote_address: "[::1]:5".into(), replaces_generation: 3, ..Default::default() };
        let disconnected = pb::Disconnected {
            cause: pb::DisconnectCause::HeartbeatTimeout.into(),
            close_code: 4408,
            close_reason: "heartbeat timeout".into(),
            connected_for: seconds(245),
            stats: Some(pb::ConnectionStats { messages_in: 3, messages_out: 4, ..Default::default() }),
            ..Default::default()
        };
        let last_seen_time = Some(prost_types::Timestamp { seconds: 1_699_999_955, nanos: 123_000_000 });
        let text = Payload::Text("hi \"you\"\n".into());
        let binary = Payload::Binary(bytes::Bytes::from_static(b"\x00\x01"));
        let heartbeat = Some(pb::HeartbeatSettings { interval: seconds(5), timeout: seconds(90) });
        for (kind, shown) in [
            (Kind::Connected(connected), "connected     alice         [::1]:5 took over"),
            (
                Kind::Suspected(pb::Suspected { last_seen_time, socket_lost: false }),
                "suspected     alice         silent for 45.0s",
            ),
            (
                Kind::Suspected(pb::Suspected { last_seen_time, socket_lost: true }),
                "suspected     alice         socket lost",
            ),
            (
                Kind::Recovered(pb::Recovered { suspected_for: seconds(3), resumed: false }),
                "recovered     alice         after 3.0s",
            ),
            (
                Kind::Disconnected(disconnected),
                "disconnected  alice         HEARTBEAT_TIMEOUT 4408 \"heartbeat timeout\" after 4m05s 3 in, 4 out",
            ),
            (
                Kind::Disconnected(pb::Disconnected { cause: 99, ..Default::default() }),
                "disconnected  alice         99",
            ),
            (
                Kind::MessageReceived(pb::MessageReceived { payload: Some(text) }),
                "message       alice         \"hi \\\"you\\\"\\n\"",
            ),
            (
                Kind::MessageReceived(pb::MessageReceived { payload: Some(binary) }),
                "message       alice         binary, 2 bytes",
            ),
            (
                Kind::LabelsChanged(pb::LabelsChanged { previous_labels: labels_of(&[("b", "2"), ("a", "1")]) }),
                "labels        alice         none (was a=1 b=2)",
            ),
            (
                Kind::HeartbeatChanged(pb::HeartbeatChanged { heartbeat }),
                "heartbeat     alice         interval 5.0s timeout 1m30s",
            ),
        ] {
            assert_eq!(line(&event("alice", kind), false), format!("  22:13:20.123  {shown}\n"));
        }
    }

    #[test]
    fn rows_of_a_snapshot_are_marked_and_say_who_is_suspect() {
        let state = pb::ConnectionState::Suspect.into();
        let connected = pb::Connected { remote_address: "a:1".into(), state, ..Default::default() };
        let event = pb::Event { labels: labels_of(&[("room", "7")]), ..event("alice", Kind::Connected(connected)) };
        assert_eq!(line(&event, true), "* 22:13:20.123  connected     alice         a:1 SUSPECT room=7\n");
    }

    #[test]
    fn what_a_client_wrote_stays_on_its_line() {
        let close_reason = "\x1b]0;owned\x07\r\n".to_owned();
        let disconnected = pb::Disconnected { close_reason, ..Default::default() };
        let long = pb::MessageReceived { payload: Some(Payload::Text("\u{202e}x".repeat(50_000))) };
        for kind in [Kind::Disconnected(disconnected), Kind::MessageReceived(long)] {
            let line = line(&event("a\x1b[2J\nb", kind), false);
            assert_eq!(line.find(|c: char| c.is_control()), Some(line.len() - 1), "{line:?}");
            assert!(line.len() < 3000 && !line.contains('\u{202e}'));
        }
    }

    #[test]
    fn the_column_of_client_ids_grows_with_them_up_to_a_bound() {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for id in ["a", &"b".repeat(20), "c", &"d".repeat(128), "e"] {
            let recovered = pb::Recovered { suspected_for: None, resumed: true };
            lines.write(&event(id, Kind::Recovered(recovered)), false, &mut out).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let columns: Vec<_> = text.lines().map(|line| line.find("on a new").unwrap() - 30).collect();
        assert_eq!(columns, [14, 22, 22, 130, 42]);
    }
}
