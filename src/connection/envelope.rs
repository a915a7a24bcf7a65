//! The envelopes of the reliable subprotocol: JSON text to what it means, and back. Pure.
//!
//! Reading keeps nothing of what it does not know, so that a frame costs its own size and no multiple of it.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

use crate::close::{CloseReason, Violation};
use crate::event::Payload;
use crate::heartbeat::Cadence;

/// The greatest sequence number: the greatest integer that JavaScript counts to without a slip.
pub(super) const MAX_SEQUENCE: u64 = (1 << 53) - 1;

/// The longest reason of a Close (RFC 6455, 5.5).
const MAX_REASON: usize = 123;

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FromClient<'a> {
    /// Begins a session.
    Hello { client_id: Option<Cow<'a, str>> },
    /// Goes on with one.
    Resume { session: Cow<'a, str>, received: u64, attempt: Option<u64> },
    /// Is alive.
    Heartbeat { received: Option<u64> },
    /// Something for the backends.
    Message { sequence: u64, payload: Payload },
    /// Has everything up to this.
    Ack { received: u64 },
    /// Wants to be closed.
    Bye { code: u16, reason: Box<str> },
}

/// What is wrong with a text that is no envelope of a client.
fn wrong<T>(violation: Violation, what: impl Into<Cow<'static, str>>) -> Result<T, CloseReason> {
    Err(CloseReason::Violation(violation, what.into()))
}

/// Reads an envelope.
pub(super) fn parse(text: &str) -> Result<FromClient<'_>, CloseReason> {
    let Ok(members) = serde_json::from_str::<Members<'_>>(text) else {
        return wrong(Violation::BadJson, "BAD_JSON: the text is not one JSON object");
    };
    let Members { kind, client_id, session, received, attempt, seq, text, data, code, reason } = members;
    let Some(kind) = kind.optional_text("type")? else { return missing("type") };
    match &*kind {
        "hello" => Ok(FromClient::Hello { client_id: client_id.optional_text("client_id")? }),
        "resume" => {
            let Some(session) = session.optional_text("session")? else { return missing("session") };
            let received = received.sequence("received", 0)?;
            let attempt = if attempt == Member::Absent { None } else { Some(attempt.sequence("attempt", 1)?) };
            Ok(FromClient::Resume { session, received, attempt })
        }
        "heartbeat" => {
            let received = if received == Member::Absent { None } else { Some(received.sequence("received", 0)?) };
            Ok(FromClient::Heartbeat { received })
        }
        "ack" => Ok(FromClient::Ack { received: received.sequence("received", 0)? }),
        "message" => {
            let sequence = seq.sequence("seq", 1)?;
            let payload = match (text.optional_text("text")?, data.optional_text("data")?) {
                (Some(text), None) => Payload::Text(Bytes::from(text.into_owned())),
                (None, Some(data)) => match STANDARD.decode(data.as_bytes()) {
                    Ok(bytes) => Payload::Binary(bytes.into()),
                    Err(_) => return wrong(Violation::BadEnvelope, "BAD_ENVELOPE: data is not base64"),
                },
                _ => return wrong(Violation::BadEnvelope, "BAD_ENVELOPE: either text or data must be given"),
            };
            Ok(FromClient::Message { sequence, payload })
        }
        "bye" => {
            let code = if code == Member::Absent { 1000 } else { code.integer("code", 1000, 4999)? };
            let reason = reason.optional_text("reason")?.unwrap_or_default();
            // What a script may close a WebSocket with (WHATWG WebSockets, 3.1).
            if !matches!(code, 1000 | 3000..=4999) {
                return out_of_range("code");
            }
            if reason.len() > MAX_REASON {
                return out_of_range("reason");
            }
            Ok(FromClient::Bye { code: code as u16, reason: reason.into() })
        }
        _ => wrong(Violation::UnknownType, "UNKNOWN_TYPE: there is no such type"),
    }
}

fn missing<T>(name: &str) -> Result<T, CloseReason> {
    wrong(Violation::BadEnvelope, format!("BAD_ENVELOPE: {name} is missing"))
}

fn wrong_type<T>(name: &str) -> Result<T, CloseReason> {
    wrong(Violation::BadEnvelope, format!("BAD_ENVELOPE: {name} is of the wrong type"))
}

fn out_of_range<T>(name: &str) -> Result<T, CloseReason> {
    wrong(Violation::BadEnvelope, format!("BAD_ENVELOPE: {name} is out of its range"))
}

/// A member as far as it can matter.
#[derive(Default, Debug, PartialEq)]
enum Member<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Integer(u64),
    /// A number that is no integer from 0 on.
    OtherNumber,
    /// Nothing that any member may be.
    Other,
}

impl<'a> Member<'a> {
    fn optional_text(self, name: &str) -> Result<Option<Cow<'a, str>>, CloseReason> {
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) => Ok(Some(text)),
            _ => wrong_type(name),
        }
    }

    fn integer(self, name: &str, least: u64, most: u64) -> Result<u64, CloseReason> {
        match self {
            Self::Absent => missing(name),
            Self::Integer(number) if (least..=most).contains(&number) => Ok(number),
            Self::Integer(_) | Self::OtherNumber => out_of_range(name),
            Self::Text(_) | Self::Other => wrong_type(name),
        }
    }

    fn sequence(self, name: &str, least: u64) -> Result<u64, CloseReason> {
        self.integer(name, least, MAX_SEQUENCE)
    }
}

/// The members that any envelope of a client has.
#[derive(Default)]
struct Members<'a> {
    kind: Member<'a>,
    client_id: Member<'a>,
    session: Member<'a>,
    received: Member<'a>,
    attempt: Member<'a>,
    seq: Member<'a>,
    text: Member<'a>,
    data: Member<'a>,
    code: Member<'a>,
    reason: Member<'a>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Envelope;
        impl<'de> Visitor<'de> for Envelope {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an envelope")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Members::default();
                while let Some(Name(name)) = map.next_key()? {
                    let place = match &*name {
                        "type" => &mut members.kind,
                        "client_id" => &mut members.client_id,
                        "session" => &mut members.session,
                        "received" => &mut members.received,
                        "attempt" => &mut members.attempt,
                        "seq" => &mut members.seq,
                        "text" => &mut members.text,
                        "data" => &mut members.data,
                        "code" => &mut members.code,
                        "reason" => &mut members.reason,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    // Given twice, the last counts, as everywhere in JavaScript.
                    *place = map.next_value()?;
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Envelope)
    }
}

/// A string that borrows what it can; serde's own `Cow` never does.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Member::deserialize(deserializer)? {
            Member::Text(text) => Ok(Self(text)),
            // A name of a member is a string.
            _ => Ok(Self(Cow::Borrowed(""))),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Member<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value;
        impl<'de> Visitor<'de> for Value {
            type Value = Member<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Member<'de>, E> {
                Ok(Member::Text(Cow::Owned(text.to_owned())))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Member<'de>, E> {
                Ok(Member::Integer(number))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Member<'de>, E> {
                Ok(Member::OtherNumber)
            }

            fn visit_f64<E>(self, number: f64) -> Result<Member<'de>, E> {
                // In JSON 1.0 is as good an integer as 1 (JSON Schema 2020-12, 6.1.1).
                let whole = number.fract() == 0.0 && (0.0..=MAX_SEQUENCE as f64).contains(&number);
                Ok(if whole { Member::Integer(number as u64) } else { Member::OtherNumber })
            }

            fn visit_bool<E>(self, _: bool) -> Result<Member<'de>, E> {
                Ok(Member::Other)
            }

            fn visit_unit<E>(self) -> Result<Member<'de>, E> {
                Ok(Member::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Member<'de>, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Member::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Member::Other)
            }
        }
        deserializer.deserialize_any(Value)
    }
}

/// What a client is told when its session begins or goes on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hello<'a> {
    pub(super) session: &'a str,
    pub(super) client_id: &'a str,
    pub(super) connection_id: &'a str,
    pub(super) resumed: bool,
    pub(super) received: u64,
    pub(super) heartbeat_interval_ms: u32,
    pub(super) heartbeat_timeout_ms: u32,
    pub(super) resume_window: Duration,
    pub(super) max_message_bytes: usize,
    pub(super) max_unacked_messages: usize,
    pub(super) max_unacked_bytes: usize,
    pub(super) messages_per_second: u64,
    pub(super) bytes_per_second: u64,
}

/// What the server says.
#[derive(Clone, Copy, Debug)]
pub(super) enum FromServer<'a> {
    /// The session begins or goes on.
    Hello(Hello<'a>),
    /// Is alive, and has everything up to this; with the heartbeat settings if they have changed.
    Heartbeat(u64, Option<Cadence>),
    /// Something from a backend.
    Message { sequence: u64, id: Option<&'a str>, payload: &'a Payload },
    /// Has everything up to this.
    Ack(u64),
    /// What was wrong.
    Error { code: &'a str, message: &'a str },
    /// The session ends.
    Bye { code: u16, reason: &'a str, reconnect_after_ms: Option<u64> },
}

impl Serialize for FromServer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Hello(hello) => {
                map.serialize_entry("type", "hello")?;
                map.serialize_entry("session", hello.session)?;
                map.serialize_entry("client_id", hello.client_id)?;
                map.serialize_entry("connection_id", hello.connection_id)?;
                map.serialize_entry("resumed", &hello.resumed)?;
                map.serialize_entry("received", &hello.received)?;
                map.serialize_entry("heartbeat_interval_ms", &hello.heartbeat_interval_ms)?;
                map.serialize_entry("heartbeat_timeout_ms", &hello.heartbeat_timeout_ms)?;
                let window = u64::try_from(hello.resume_window.as_millis()).unwrap_or(MAX_SEQUENCE);
                map.serialize_entry("resume_window_ms", &window)?;
                map.serialize_entry("max_message_bytes", &hello.max_message_bytes)?;
                map.serialize_entry("max_unacked_messages", &hello.max_unacked_messages)?;
                map.serialize_entry("max_unacked_bytes", &hello.max_unacked_bytes)?;
                map.serialize_entry("messages_per_second", &hello.messages_per_second)?;
                map.serialize_entry("bytes_per_second", &hello.bytes_per_second)?;
            }
            Self::Heartbeat(received, retuned) => {
                map.serialize_entry("type", "heartbeat")?;
                map.serialize_entry("received", received)?;
                if let Some(cadence) = retuned {
                    map.serialize_entry("heartbeat_interval_ms", &cadence.interval)?;
                    map.serialize_entry("heartbeat_timeout_ms", &cadence.timeout)?;
                }
            }
            Self::Message { sequence, id, payload } => {
                map.serialize_entry("type", "message")?;
                map.serialize_entry("seq", sequence)?;
                if let Some(id) = id {
                    map.serialize_entry("id", id)?;
                }
                match payload {
                    // It was checked where it came in.
                    Payload::Text(text) => map.serialize_entry("text", &String::from_utf8_lossy(text))?,
                    Payload::Binary(data) => map.serialize_entry("data", &STANDARD.encode(data))?,
                }
            }
            Self::Ack(received) => {
                map.serialize_entry("type", "ack")?;
                map.serialize_entry("received", received)?;
            }
            Self::Error { code, message } => {
                map.serialize_entry("type", "error")?;
                map.serialize_entry("code", code)?;
                map.serialize_entry("message", message)?;
            }
            Self::Bye { code, reason, reconnect_after_ms } => {
                map.serialize_entry("type", "bye")?;
                map.serialize_entry("code", code)?;
                map.serialize_entry("reason", reason)?;
                if let Some(after) = reconnect_after_ms {
                    map.serialize_entry("reconnect_after_ms", after)?;
                }
            }
        }
        map.end()
    }
}

impl FromServer<'_> {
    /// The text frame.
    pub(super) fn to_frame(self) -> Payload {
        // Strings and numbers always have a JSON form.
        Payload::Text(serde_json::to_vec(&self).unwrap_or_default().into())
    }
}

/// What comes before the Close for this reason: an `error` if the client did something wrong, else a `bye`; none where there is no Close, or
/// it was the client's own wish.
pub(super) fn farewell(reason: &CloseReason) -> Option<Payload> {
    let text = reason.text();
    let code = match reason {
        CloseReason::Violation(violation, _) => Some(violation.as_str()),
        CloseReason::BadIdentity(_) => Some("BAD_IDENTITY"),
        CloseReason::Bye(..) => return None,
        reason if !reason.sends_close() => return None,
        _ => None,
    };
    let reconnect_after_ms = match reason {
        CloseReason::Restart { reconnect_after } => Some(*reconnect_after),
        _ => None,
    };
    Some(match code {
        Some(code) => FromServer::Error { code, message: &text }.to_frame(),
        None => FromServer::Bye { code: reason.code(), reason: &text, reconnect_after_ms }.to_frame(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn code(text: &str) -> &'static str {
        match parse(text) {
            Err(CloseReason::Violation(violation, _)) => violation.as_str(),
            other => panic!("{text}: {other:?}"),
        }
    }

    fn value(envelope: FromServer<'_>) -> Value {
        serde_json::from_slice(envelope.to_frame().bytes()).expect("JSON")
    }

    #[test]
    fn envelopes_mean_what_the_protocol_says() {
        let text = |text: &'static str| Payload::Text(text.into());
        for (envelope, expected) in [
            (r#"{"type":"hello"}"#, FromClient::Hello { client_id: None }),
            (r#" {"client_id":"a\u0062","type":"hello"} "#, FromClient::Hello { client_id: Some("ab".into()) }),
            (
                r#"{"type":"resume","session":"s","received":7}"#,
                FromClient::Resume { session: "s".into(), received: 7, attempt: None },
            ),
            (
                r#"{"type":"resume","session":"s","received":7,"attempt":2}"#,
                FromClient::Resume { session: "s".into(), received: 7, attempt: Some(2) },
            ),
            (r#"{"type":"heartbeat"}"#, FromClient::Heartbeat { received: None }),
            (r#"{"type":"heartbeat","received":0}"#, FromClient::Heartbeat { received: Some(0) }),
            (r#"{"type":"ack","received":3.0}"#, FromClient::Ack { received: 3 }),
            (r#"{"type":"message","seq":1,"text":""}"#, FromClient::Message { sequence: 1, payload: text("") }),
            (
                r#"{"type":"message","seq":9007199254740991,"data":"AAE=","x":[{"y":[1,null]},1e400,"z"]}"#,
                FromClient::Message { sequence: MAX_SEQUENCE, payload: Payload::Binary(vec![0, 1].into()) },
            ),
            (r#"{"type":"ack","received":1,"received":2}"#, FromClient::Ack { received: 2 }),
            (r#"{"type":"bye"}"#, FromClient::Bye { code: 1000, reason: "".into() }),
            (r#"{"type":"bye","code":4000,"reason":"é"}"#, FromClient::Bye { code: 4000, reason: "é".into() }),
        ] {
            assert_eq!(parse(envelope), Ok(expected), "{envelope}");
        }
    }

    #[test]
    fn what_is_no_envelope_says_why_and_names_the_member() {
        let deep = "[".repeat(100_000);
        for text in
            ["", " ", "x", "[]", "1", "null", "\"hello\"", r#"{"type":"hello"}{}"#, "{", r#"{"type":"\ud800"}"#, &deep]
        {
            assert_eq!(code(text), "BAD_JSON", "{text:.40}");
        }
        assert_eq!(code(r#"{"type":"Hello"}"#), "UNKNOWN_TYPE");
        for (text, member) in [
            (r#"{}"#, "type is missing"),
            (r#"{"type":1}"#, "type is of the wrong type"),
            (r#"{"type":null}"#, "type is of the wrong type"),
            (r#"{"type":"hello","client_id":{}}"#, "client_id is of the wrong type"),
            (r#"{"type":"resume","received":1}"#, "session is missing"),
            (r#"{"type":"resume","session":"x"}"#, "received is missing"),
            (r#"{"type":"resume","session":"x","received":0,"attempt":0}"#, "attempt is out of its range"),
            (r#"{"type":"ack"}"#, "received is missing"),
            (r#"{"type":"ack","received":-1}"#, "received is out of its range"),
            (r#"{"type":"ack","received":1.5}"#, "received is out of its range"),
            (r#"{"type":"ack","received":9007199254740992}"#, "received is out of its range"),
            (r#"{"type":"ack","received":"1"}"#, "received is of the wrong type"),
            (r#"{"type":"heartbeat","received":null}"#, "received is of the wrong type"),
            (r#"{"type":"message","text":"x"}"#, "seq is missing"),
            (r#"{"type":"message","seq":0,"text":"x"}"#, "seq is out of its range"),
            (r#"{"type":"message","seq":1}"#, "either text or data"),
            (r#"{"type":"message","seq":1,"text":"","data":""}"#, "either text or data"),
            (r#"{"type":"message","seq":1,"text":[1]}"#, "text is of the wrong type"),
            (r#"{"type":"message","seq":1,"data":"AAE"}"#, "data is not base64"),
            (r#"{"type":"bye","code":1001}"#, "code is out of its range"),
            (r#"{"type":"bye","code":"1000"}"#, "code is of the wrong type"),
        ] {
            assert_eq!(code(text), "BAD_ENVELOPE", "{text}");
            let said = parse(text).expect_err("wrong").text().into_owned();
            assert!(said.contains(member) && said.len() <= MAX_REASON, "{text}: {said}");
        }
        let long = format!(r#"{{"type":"bye","reason":"{}"}}"#, "é".repeat(62));
        assert_eq!(code(&long), "BAD_ENVELOPE");
    }

    #[test]
    fn what_the_server_says_has_the_members_of_the_protocol() {
        let payload = Payload::Binary(vec![0, 1].into());
        let message = FromServer::Message { sequence: 4, id: Some("m\"1"), payload: &payload };
        assert_eq!(value(message), json!({"type": "message", "seq": 4, "id": "m\"1", "data": "AAE="}));
        let payload = Payload::Text("\u{2028}\n\"".into());
        let message = FromServer::Message { sequence: 5, id: None, payload: &payload };
        assert_eq!(value(message), json!({"type": "message", "seq": 5, "text": "\u{2028}\n\""}));
        assert_eq!(value(FromServer::Ack(1)), json!({"type": "ack", "received": 1}));
        assert_eq!(value(FromServer::Heartbeat(0, None)), json!({"type": "heartbeat", "received": 0}));
    }

    #[test]
    fn a_violation_is_told_by_an_error_any_other_close_by_a_bye_and_the_clients_own_by_neither() {
        let said = |reason: CloseReason| {
            farewell(&reason).map(|frame| serde_json::from_slice::<Value>(frame.bytes()).expect("JSON"))
        };
        let gap = CloseReason::Violation(Violation::SequenceGap, "gap".into());
        assert_eq!(said(gap), Some(json!({"type": "error", "code": "SEQUENCE_GAP", "message": "gap"})));
        let bad = CloseReason::BadIdentity("no".into());
        assert_eq!(said(bad), Some(json!({"type": "error", "code": "BAD_IDENTITY", "message": "no"})));
        let restart = said(CloseReason::Restart { reconnect_after: 7 }).expect("a bye");
        assert_eq!(
            (&restart["type"], &restart["code"], &restart["reconnect_after_ms"]),
            (&json!("bye"), &json!(1012), &json!(7))
        );
        let kicked = CloseReason::Kicked(4000, "out".into());
        assert_eq!(said(kicked), Some(json!({"type": "bye", "code": 4000, "reason": "out"})));
        for silent in [CloseReason::Lost, CloseReason::ByClient(None, "".into()), CloseReason::Bye(1000, "".into())] {
            assert_eq!(said(silent), None);
        }
    }

    fn json_like() -> impl Strategy<Value = String> {
        let member = prop_oneof![
            Just("type"),
            Just("seq"),
            Just("text"),
            Just("data"),
            Just("received"),
            Just("session"),
            Just("code"),
            Just("x"),
        ];
        let value = prop_oneof![
            any::<i64>().prop_map(|n| json!(n)),
            any::<f64>().prop_map(|n| json!(n)),
            any::<Option<bool>>().prop_map(|b| json!(b)),
            ".*".prop_map(|s| json!(s)),
            prop_oneof![Just("hello"), Just("resume"), Just("message"), Just("ack"), Just("heartbeat"), Just("bye")]
                .prop_map(|s| json!(s)),
            proptest::collection::vec(any::<u8>(), 0..5).prop_map(|v| json!(v)),
            any::<u8>().prop_map(|n| json!({ "n": n })),
        ];
        proptest::collection::vec((member, value), 0..6).prop_map(|members| {
            let members = members.iter().map(|(name, value)| format!("{}:{value}", json!(name)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        })
    }

    proptest! {
        #[test]
        fn any_text_is_an_envelope_or_says_what_is_wrong_in_a_close_frames_room(text in prop_oneof![".*", json_like()]) {
            if let Err(reason) = parse(&text) {
                prop_assert!(reason.text().len() <= MAX_REASON);
                prop_assert!(matches!(reason, CloseReason::Violation(..)));
            }
        }

        #[test]
        fn what_a_client_writes_is_what_is_read(text in ".*", data: Vec<u8>, sequence in 1..=MAX_SEQUENCE) {
            let envelope = json!({"type": "message", "seq": sequence, "text": text}).to_string();
            let payload = Payload::Text(text.into());
            prop_assert_eq!(parse(&envelope), Ok(FromClient::Message { sequence, payload }));
            let payload = Payload::Binary(data.into());
            let sent = FromServer::Message { sequence, id: None, payload: &payload }.to_frame();
            let sent = std::str::from_utf8(sent.bytes()).expect("UTF-8").to_owned();
            prop_assert_eq!(parse(&sent), Ok(FromClient::Message { sequence, payload: payload.clone() }));
        }
    }
}
