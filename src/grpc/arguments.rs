//! What requests say, as domain types: parsed once, every refusal naming its field.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::error::Error;
use crate::event::{Generation, Liveness, Payload};
use crate::ids::{ClientId, ConnectionId, MAX_CLIENT_ID_BYTES};
use crate::labels::Labels;
use crate::pb;
use crate::registry::Target;

/// The longest message id, in bytes of UTF-8.
const MESSAGE_ID_BYTES: usize = 128;

/// The most items on a page.
pub(super) const PAGE_ITEMS: usize = 512;

pub(super) fn target(target: Option<pb::Target>) -> Result<Target, Error> {
    use pb::target::Target as Named;
    match target.and_then(|target| target.target) {
        None => Err(Error::field("target", "must name a client_id or a connection_id")),
        Some(Named::ClientId(id)) => client_id("target.client_id", &id).map(Target::Client),
        Some(Named::ConnectionId(id)) => connection_id("target.connection_id", &id).map(Target::Connection),
    }
}

pub(super) fn client_id(field: &'static str, id: &str) -> Result<ClientId, Error> {
    ClientId::named(id).map_err(|error| Error::field(field, error.to_string()))
}

pub(super) fn connection_id(field: &'static str, id: &str) -> Result<ConnectionId, Error> {
    ConnectionId::parse(id).ok_or_else(|| Error::field(field, "must be a UUID"))
}

/// The generation asked for; none for no check.
pub(super) fn if_generation(generation: i64) -> Result<Option<Generation>, Error> {
    match generation {
        0 => Ok(None),
        1.. => Ok(Some(generation)),
        _ => Err(Error::field("if_generation", "must not be negative")),
    }
}

pub(super) fn selector(field: &'static str, labels: &HashMap<String, String>) -> Result<Labels, Error> {
    Labels::new(labels).map_err(|error| Error::field(field, error.to_string()))
}

pub(super) fn prefix(field: &'static str, prefix: String) -> Result<Box<str>, Error> {
    if prefix.len() > MAX_CLIENT_ID_BYTES {
        return Err(Error::field(field, format!("has {} bytes, at most 128 are allowed", prefix.len())));
    }
    Ok(prefix.into())
}

/// A span within bounds; none if it is not given.
pub(super) fn span(
    field: &'static str,
    span: Option<prost_types::Duration>,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<Option<Duration>, Error> {
    let Some(span) = span else { return Ok(None) };
    let refused = || {
        let (least, most) = (humantime::format_duration(*allowed.start()), humantime::format_duration(*allowed.end()));
        Error::field(field, format!("must be from {least} to {most}"))
    };
    // By hand: prost's own conversion overflows on the least numbers.
    let (seconds, nanos) = (u64::try_from(span.seconds), u32::try_from(span.nanos));
    match (seconds, nanos) {
        (Ok(seconds), Ok(nanos @ 0..1_000_000_000)) => Some(Duration::new(seconds, nanos)),
        _ => None,
    }
    .filter(|span| allowed.contains(span))
    .map(Some)
    .ok_or_else(refused)
}

pub(super) fn page_size(size: i32) -> Result<usize, Error> {
    match usize::try_from(size) {
        Ok(0) => Ok(PAGE_ITEMS),
        Ok(size) => Ok(size.min(PAGE_ITEMS)),
        Err(_) => Err(Error::field("page_size", "must not be negative")),
    }
}

/// What `Send` and `Broadcast` carry, checked against what an outbox holds.
pub(super) fn payload(payload: Option<pb::send_request::Payload>, most: usize) -> Result<Payload, Error> {
    use pb::send_request::Payload as Given;
    let (field, payload) = match payload {
        None => return Err(Error::field("payload", "either text or binary must be set")),
        Some(Given::Text(text)) if text.is_empty() => {
            return Err(Error::field("text", "must not be empty: an empty text asks a client to close"));
        }
        Some(Given::Text(text)) => ("text", Payload::Text(text.into_bytes().into())),
        // Copied, because what was decoded keeps the buffer of the whole request alive.
        Some(Given::Binary(binary)) => ("binary", Payload::Binary(Bytes::copy_from_slice(&binary))),
    };
    if payload.len() > most {
        return Err(Error::field(field, format!("has {} bytes, an outbox takes at most {most}", payload.len())));
    }
    Ok(payload)
}

/// What a backend calls a message; none if it has no name.
pub(super) fn message_id(id: &str) -> Result<Option<Arc<str>>, Error> {
    if id.len() > MESSAGE_ID_BYTES {
        let problem = format!("has {} bytes, at most {MESSAGE_ID_BYTES} are allowed", id.len());
        return Err(Error::field("message_id", problem));
    }
    if id.chars().any(char::is_control) {
        return Err(Error::field("message_id", "has a control character"));
    }
    Ok((!id.is_empty()).then(|| id.into()))
}

/// Which connections a list or a count is about.
#[derive(Debug, Default, Hash)]
pub(super) struct ConnectionFilter {
    prefix: Box<str>,
    labels: Vec<(Box<str>, Box<str>)>,
    suspect: Option<bool>,
}

impl ConnectionFilter {
    pub(super) fn parse(filter: Option<pb::ConnectionFilter>) -> Result<Self, Error> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let state = pb::ConnectionState::try_from(filter.state)
            .map_err(|_| Error::field("filter.state", "is not a state of a connection"))?;
        let labels = selector("filter.labels", &filter.labels)?;
        Ok(Self {
            prefix: prefix("filter.client_id_prefix", filter.client_id_prefix)?,
            labels: labels.iter().map(|(key, value)| (key.into(), value.into())).collect(),
            suspect: match state {
                pb::ConnectionState::Unspecified => None,
                pb::ConnectionState::Alive => Some(false),
                pb::ConnectionState::Suspect => Some(true),
            },
        })
    }

    /// Whether it passes everything.
    pub(super) fn is_empty(&self) -> bool {
        self.prefix.is_empty() && self.labels.is_empty() && self.suspect.is_none()
    }

    pub(super) fn passes(&self, view: &crate::registry::ConnectionView) -> bool {
        view.info.client_id.as_str().as_bytes().starts_with(self.prefix.as_bytes())
            && self.suspect.is_none_or(|suspect| suspect == (view.state == Liveness::Suspect))
            && self.labels.iter().all(|(key, value)| view.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    #[test]
    fn a_span_outside_its_bounds_is_refused_and_its_bounds_are_allowed() {
        let allowed = || Duration::from_nanos(1)..=Duration::from_secs(60);
        assert_eq!(span("f", None, allowed()), Ok(None));
        assert_eq!(span("f", seconds(60, 0), allowed()), Ok(Some(Duration::from_secs(60))));
        assert_eq!(span("f", seconds(0, 1), allowed()), Ok(Some(Duration::from_nanos(1))));
        for bad in [seconds(0, 0), seconds(-1, 0), seconds(60, 1), seconds(i64::MAX, 0), seconds(i64::MIN, i32::MIN)] {
            assert!(span("f", bad, allowed()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_binary_payload_does_not_keep_its_request_alive() {
        let request = Bytes::from(vec![7; 1000]);
        let given = pb::send_request::Payload::Binary(request.slice(..10));
        let payload = payload(Some(given), 10).expect("fits");
        assert!(request.is_unique(), "the payload points into the request");
        assert_eq!(payload.len(), 10);
    }
}
