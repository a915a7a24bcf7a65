//! What holds of the reliable protocol's envelopes whatever a client sends: they mean what another reading of the JSON says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::close::{CloseReason, Violation};
use crate::connection::envelope::{FromClient, FromServer, MAX_SEQUENCE, farewell, parse};
use crate::event::Payload;

/// Bytes as an envelope of a client, and as a message for one.
///
/// # Panics
/// If something does not hold.
pub fn envelope(bytes: &[u8]) {
    sent(&Payload::Binary(Bytes::copy_from_slice(bytes)));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    sent(&Payload::Text(Bytes::copy_from_slice(bytes)));
    let parsed = parse(text);
    // What serde_json's own values cannot hold, such as a number beyond any or deeper nesting, may stand where it is skipped.
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert_eq!(parsed, expected(&value).map_err(|violation| told(&parsed, violation)), "{value}");
    }
    match parsed {
        Ok(meant) => assert_eq!(parse(&written(&meant)), Ok(meant)),
        Err(reason) => {
            // What is told has to fit in a Close.
            assert!(reason.text().len() <= 123);
            let farewell = farewell(&reason).expect("an error is told");
            let farewell: Value = serde_json::from_slice(farewell.bytes()).expect("JSON");
            assert_eq!((&farewell["type"], &farewell["message"]), (&json!("error"), &json!(reason.text())));
        }
    }
}

/// A message for a client is read as it was sent.
fn sent(payload: &Payload) {
    let frame = FromServer::Message { sequence: MAX_SEQUENCE, id: Some("id"), payload }.to_frame();
    let frame = std::str::from_utf8(frame.bytes()).expect("text");
    assert_eq!(parse(frame), Ok(FromClient::Message { sequence: MAX_SEQUENCE, payload: payload.clone() }));
}

/// The words of an error are its own; what kind it is is not.
fn told(parsed: &Result<FromClient<'_>, CloseReason>, violation: Violation) -> CloseReason {
    match parsed {
        Err(CloseReason::Violation(_, words)) => CloseReason::Violation(violation, words.clone()),
        _ => CloseReason::Violation(violation, "".into()),
    }
}

/// An envelope of a client, written anew.
fn written(meant: &FromClient<'_>) -> String {
    let server = |envelope: FromServer<'_>| String::from_utf8_lossy(envelope.to_frame().bytes()).into_owned();
    match meant {
        FromClient::Hello { client_id: None } => json!({"type": "hello"}).to_string(),
        FromClient::Hello { client_id } => json!({"type": "hello", "client_id": client_id}).to_string(),
        FromClient::Resume { session, received, attempt: None } => {
            json!({"type": "resume", "session": session, "received": received}).to_string()
        }
        FromClient::Resume { session, received, attempt } => {
            json!({"type": "resume", "session": session, "received": received, "attempt": attempt}).to_string()
        }
        FromClient::Heartbeat { received: None } => json!({"type": "heartbeat"}).to_string(),
        // The rest looks the same from either side.
        FromClient::Heartbeat { received: Some(received) } => server(FromServer::Heartbeat(*received, None)),
        FromClient::Message { sequence, payload } => {
            server(FromServer::Message { sequence: *sequence, id: None, payload })
        }
        FromClient::Ack { received } => server(FromServer::Ack(*received)),
        FromClient::Bye { code, reason } => server(FromServer::Bye { code: *code, reason, reconnect_after_ms: None }),
    }
}

/// What `docs/reliable-protocol.md` says of a JSON value.
fn expected(value: &Value) -> Result<FromClient<'static>, Violation> {
    let envelope = value.as_object().ok_or(Violation::BadJson)?;
    let kind = text(envelope, "type")?.ok_or(Violation::BadEnvelope)?;
    match kind.as_str() {
        "hello" => Ok(FromClient::Hello { client_id: text(envelope, "client_id")?.map(Into::into) }),
        "resume" => {
            let session = text(envelope, "session")?.ok_or(Violation::BadEnvelope)?;
            let received = sequence(envelope, "received", 0)?.ok_or(Violation::BadEnvelope)?;
            let attempt = sequence(envelope, "attempt", 1)?;
            Ok(FromClient::Resume { session: session.into(), received, attempt })
        }
        "heartbeat" => Ok(FromClient::Heartbeat { received: sequence(envelope, "received", 0)? }),
        "ack" => {
            let received = sequence(envelope, "received", 0)?.ok_or(Violation::BadEnvelope)?;
            Ok(FromClient::Ack { received })
        }
        "message" => {
            let sequence = sequence(envelope, "seq", 1)?.ok_or(Violation::BadEnvelope)?;
            let payload = match (text(envelope, "text")?, text(envelope, "data")?) {
                (Some(text), None) => Payload::Text(text.into()),
                (None, Some(data)) => {
                    Payload::Binary(STANDARD.decode(data).map_err(|_| Violation::BadEnvelope)?.into())
                }
                _ => return Err(Violation::BadEnvelope),
            };
            Ok(FromClient::Message { sequence, payload })
        }
        "bye" => {
            let code = sequence(envelope, "code", 0)?.unwrap_or(1000);
            let reason = text(envelope, "reason")?.unwrap_or_default();
            if !(code == 1000 || (3000..=4999).contains(&code)) || reason.len() > 123 {
                return Err(Violation::BadEnvelope);
            }
            Ok(FromClient::Bye { code: code as u16, reason: reason.into() })
        }
        _ => Err(Violation::UnknownType),
    }
}

fn text(envelope: &Map<String, Value>, name: &str) -> Result<Option<String>, Violation> {
    match envelope.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(Violation::BadEnvelope),
    }
}

fn sequence(envelope: &Map<String, Value>, name: &str, least: u64) -> Result<Option<u64>, Violation> {
    let Some(value) = envelope.get(name) else { return Ok(None) };
    let whole = |number: f64| {
        (number >= 0.0 && number <= MAX_SEQUENCE as f64 && number.fract() == 0.0).then_some(number as u64)
    };
    let number = value.as_u64().or_else(|| value.as_f64().and_then(whole));
    number.filter(|number| (least..=MAX_SEQUENCE).contains(number)).map(Some).ok_or(Violation::BadEnvelope)
}
