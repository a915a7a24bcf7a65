//! The HTTP side: which requests become WebSockets, who they say they are, and what the others are told.

use std::borrow::Cow;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode, Version};
use percent_encoding::percent_decode_str;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::connection::{Admissions, Entry, Full};
use crate::event::RELIABLE;
use crate::ids::{ClientId, ClientIdError};
use crate::metrics::Handshake;

/// What a handshake may say and who may make one.
#[derive(Clone, Debug)]
pub struct HandshakeSettings {
    /// Exact origins; empty for any.
    pub allowed_origins: Vec<String>,
    /// The query parameter that names the client id; empty to trust none.
    pub query_parameter: String,
    /// The header that names the client id, set by a proxy; none to trust none.
    pub header: Option<HeaderName>,
}

/// A request that becomes a WebSocket.
pub(super) struct Granted {
    pub(super) client_id: Option<ClientId>,
    /// Whether the reliable subprotocol was agreed on.
    pub(super) reliable: bool,
    pub(super) entry: Entry,
}

/// A request that does not, and the answer to it.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) outcome: Handshake,
    status: StatusCode,
    body: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Denied {
    fn new(outcome: Handshake, status: StatusCode, body: impl Into<String>) -> Self {
        Self { outcome, status, body: body.into(), headers: Vec::new() }
    }

    fn bad(body: &str) -> Self {
        Self::new(Handshake::BadRequest, StatusCode::BAD_REQUEST, body)
    }

    fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    pub(super) fn draining() -> Self {
        Self::new(Handshake::Draining, StatusCode::SERVICE_UNAVAILABLE, "draining, try another node")
            .with(RETRY_AFTER, "1")
    }

    pub(super) fn log_failing() -> Self {
        Self::new(Handshake::LogFailing, StatusCode::SERVICE_UNAVAILABLE, "no newcomers for now, try later")
            .with(RETRY_AFTER, "5")
    }

    /// The answer; one line of text, after which the connection is closed.
    pub(super) fn response(self) -> Response<String> {
        let mut response = Response::new(self.body + "\n");
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

const SPOKEN: &str = "this is a Heartwire WebSocket endpoint (RFC 6455): GET with Upgrade: websocket";

/// Judges a request: its form, its origin, its identity, and whether there is a place for it.
pub(super) fn judge<B>(
    request: &Request<B>,
    settings: &HandshakeSettings,
    admissions: &Admissions,
    address: IpAddr,
) -> Result<Granted, Denied> {
    let headers = request.headers();
    check_form(request.method(), request.version(), headers)?;
    check_origin(headers, &settings.allowed_origins)?;
    let client_id = named_in(request.uri().query().unwrap_or(""), headers, settings)
        .map_err(|error| Denied::new(Handshake::BadIdentity, StatusCode::BAD_REQUEST, error.to_string()))?;
    let reliable = offers_reliable(headers);
    let entry = admissions.admit(address, reliable).map_err(|full| match full {
        Full::Node => {
            Denied::new(Handshake::TooMany, StatusCode::SERVICE_UNAVAILABLE, "too many connections, try later")
                .with(RETRY_AFTER, "5")
        }
        Full::Address => Denied::new(
            Handshake::TooManyFromAddress,
            StatusCode::TOO_MANY_REQUESTS,
            "too many connections from this address, try later",
        )
        .with(RETRY_AFTER, "5"),
    })?;
    Ok(Granted { client_id, reliable, entry })
}

/// RFC 6455, 4.2.1.
fn check_form(method: &Method, version: Version, headers: &HeaderMap) -> Result<(), Denied> {
    if method != Method::GET {
        return Err(Denied::new(Handshake::BadRequest, StatusCode::METHOD_NOT_ALLOWED, SPOKEN).with(ALLOW, "GET"));
    }
    if version != Version::HTTP_11 {
        return Err(Denied::bad("a WebSocket handshake needs HTTP/1.1"));
    }
    if !has_token(headers, &UPGRADE, "websocket") || !has_token(headers, &CONNECTION, "upgrade") {
        return Err(Denied::bad(SPOKEN));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Denied::new(
            Handshake::BadRequest,
            StatusCode::UPGRADE_REQUIRED,
            "Sec-WebSocket-Version 13 is spoken here",
        )
        .with(SEC_WEBSOCKET_VERSION, "13")
        // A 426 must say what to upgrade to (RFC 9110, 15.5.22).
        .with(UPGRADE, "websocket")
        .with(CONNECTION, "close, Upgrade"));
    }
    if headers.get_all(SEC_WEBSOCKET_VERSION).iter().count() > 1
        || headers.get_all(SEC_WEBSOCKET_KEY).iter().count() > 1
    {
        return Err(Denied::bad("Sec-WebSocket-Key and Sec-WebSocket-Version may be given once"));
    }
    // The most that text of the right length can stand for; what has no room is refused too.
    let mut key = [0; 18];
    let length = headers.get(SEC_WEBSOCKET_KEY).and_then(|text| STANDARD.decode_slice(text.as_bytes(), &mut key).ok());
    if length != Some(16) {
        return Err(Denied::bad("Sec-WebSocket-Key is missing or is not 16 bytes in base64"));
    }
    if !headers.contains_key(HOST) {
        return Err(Denied::bad("Host is missing"));
    }
    // Somebody on the way might take the body for frames, or the frames for a body.
    let body =
        headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0") || headers.contains_key(TRANSFER_ENCODING);
    if body {
        return Err(Denied::bad("a WebSocket handshake has no body"));
    }
    Ok(())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Whether the client offers the reliable subprotocol; names of subprotocols are compared exactly (RFC 6455, 4.1).
fn offers_reliable(headers: &HeaderMap) -> bool {
    let offers = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offers.flat_map(|value| value.split(',')).any(|offer| offer.trim() == RELIABLE)
}

/// A browser always sends its Origin; what sends none is no browser, and no other site can drive it.
fn check_origin(headers: &HeaderMap, allowed: &[String]) -> Result<(), Denied> {
    match headers.get(ORIGIN) {
        Some(origin) if !allowed.is_empty() && !allowed.iter().any(|allowed| origin == allowed.as_str()) => {
            Err(Denied::new(Handshake::ForbiddenOrigin, StatusCode::FORBIDDEN, "this Origin is not allowed"))
        }
        _ => Ok(()),
    }
}

/// The client id that the handshake names, by the trusted header or else by the query.
fn named_in(query: &str, headers: &HeaderMap, settings: &HandshakeSettings) -> Result<Option<ClientId>, ClientIdError> {
    if let Some(value) = settings.header.as_ref().and_then(|name| headers.get(name)) {
        let id = std::str::from_utf8(value.as_bytes()).map_err(|_| ClientIdError::NotUtf8)?;
        return ClientId::chosen(id).map(Some);
    }
    if settings.query_parameter.is_empty() {
        return Ok(None);
    }
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if decode(name, |name| Ok(name == settings.query_parameter)) == Ok(true) {
            return decode(value, ClientId::chosen).map(Some);
        }
    }
    Ok(None)
}

/// One name or value of application/x-www-form-urlencoded (WHATWG URL, 5.1), but strict about UTF-8.
fn decode<T>(part: &str, take: impl FnOnce(&str) -> Result<T, ClientIdError>) -> Result<T, ClientIdError> {
    let spaced = if part.contains('+') { Cow::Owned(part.replace('+', " ")) } else { Cow::Borrowed(part) };
    take(&percent_decode_str(&spaced).decode_utf8().map_err(|_| ClientIdError::NotUtf8)?)
}

/// The answer that makes it a WebSocket.
pub(super) fn switching(headers: &HeaderMap) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let answer = response.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(accept) = accept.and_then(|accept| HeaderValue::try_from(accept).ok()) {
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if offers_reliable(headers) {
        answer.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(RELIABLE));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> HandshakeSettings {
        HandshakeSettings {
            allowed_origins: vec!["https://app.example".into()],
            query_parameter: "client_id".into(),
            header: Some(HeaderName::from_static("x-client-id")),
        }
    }

    fn request(change: impl FnOnce(&mut Request<()>)) -> Request<()> {
        let mut request = Request::get("/any/path")
            .header(HOST, "example")
            .header(UPGRADE, "WebSocket")
            .header(CONNECTION, "keep-alive, Upgrade")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .body(())
            .expect("a good request");
        change(&mut request);
        request
    }

    fn outcome(request: &Request<()>) -> Result<Option<String>, u16> {
        judge(request, &settings(), &Admissions::new(1, 0), IpAddr::from([127, 0, 0, 1]))
            .map(|granted| granted.client_id.map(|id| id.as_str().to_owned()))
            .map_err(|denied| denied.status.as_u16())
    }

    #[test]
    fn a_good_handshake_is_granted_and_answered_with_the_accept_key_of_the_rfc() {
        let request = request(|_| {});
        assert_eq!(outcome(&request), Ok(None));
        let answer = switching(request.headers());
        assert_eq!(answer.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_reliable_subprotocol_is_picked_wherever_it_is_offered_and_no_other_is() {
        let offering = |offers: &[&'static str]| {
            request(|r| {
                for offer in offers {
                    r.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
                }
            })
        };
        for (offers, picked) in [
            (&[][..], false),
            (&["chat"], false),
            (&["HEARTWIRE.V1.JSON"], false),
            (&["heartwire.v1.jsonx, heartwire.v1"], false),
            (&["heartwire.v1.json"], true),
            (&["chat ,heartwire.v1.json, x"], true),
            (&["chat", "heartwire.v1.json"], true),
        ] {
            let request = offering(offers);
            let granted = judge(&request, &settings(), &Admissions::new(1, 0), IpAddr::from([127, 0, 0, 1]));
            assert_eq!(granted.expect("granted").reliable, picked, "{offers:?}");
            let answer = switching(request.headers());
            let named = answer.headers().get(SEC_WEBSOCKET_PROTOCOL).map(|value| value.as_bytes());
            assert_eq!(named, picked.then_some(&b"heartwire.v1.json"[..]), "{offers:?}");
        }
    }

    #[test]
    fn bad_forms_are_told_apart() {
        let without = |name: HeaderName| request(|r| drop(r.headers_mut().remove(name)));
        let with =
            |name: HeaderName, value| request(|r| drop(r.headers_mut().insert(name, HeaderValue::from_static(value))));
        assert_eq!(outcome(&request(|r| *r.method_mut() = Method::POST)), Err(405));
        assert_eq!(outcome(&request(|r| *r.version_mut() = Version::HTTP_10)), Err(400));
        assert_eq!(outcome(&without(UPGRADE)), Err(400));
        assert_eq!(outcome(&without(CONNECTION)), Err(400));
        assert_eq!(outcome(&with(UPGRADE, "h2c")), Err(400));
        assert_eq!(outcome(&without(SEC_WEBSOCKET_VERSION)), Err(426));
        assert_eq!(outcome(&with(SEC_WEBSOCKET_VERSION, "8")), Err(426));
        assert_eq!(outcome(&without(SEC_WEBSOCKET_KEY)), Err(400));
        assert_eq!(outcome(&without(HOST)), Err(400));
        assert_eq!(outcome(&with(CONTENT_LENGTH, "5")), Err(400));
        assert_eq!(outcome(&with(CONTENT_LENGTH, "0")), Ok(None));
        assert_eq!(outcome(&with(TRANSFER_ENCODING, "chunked")), Err(400));
        let twice = |name, value| request(|r| assert!(r.headers_mut().append(name, HeaderValue::from_static(value))));
        assert_eq!(outcome(&twice(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")), Err(400));
        assert_eq!(outcome(&twice(SEC_WEBSOCKET_VERSION, "8")), Err(400));
        assert_eq!(outcome(&with(SEC_WEBSOCKET_KEY, "c2hvcnQ=")), Err(400));
        assert_eq!(outcome(&with(ORIGIN, "https://evil.example")), Err(403));
        assert_eq!(outcome(&with(ORIGIN, "https://app.example")), Ok(None));
    }

    #[test]
    fn the_header_comes_before_the_query_and_bad_ids_are_refused() {
        let to = |uri: &str| request(|r| *r.uri_mut() = uri.parse().expect("a good uri"));
        assert_eq!(outcome(&to("/?x=1&client_id=al%20ice%2Bb")), Ok(Some("al ice+b".into())));
        assert_eq!(outcome(&to("/?client_id=al+ice")), Ok(Some("al ice".into())));
        assert_eq!(outcome(&to("/?client_id=")), Err(400));
        assert_eq!(outcome(&to("/?client_id=~x")), Err(400));
        assert_eq!(outcome(&to("/?client_id=%ff")), Err(400));
        assert_eq!(outcome(&to("/?client_id=a%0Ab")), Err(400));
        assert_eq!(outcome(&to(&format!("/?client_id={}", "x".repeat(129)))), Err(400));
        let mut both = to("/?client_id=query");
        both.headers_mut().insert("x-client-id", HeaderValue::from_static("header"));
        assert_eq!(outcome(&both), Ok(Some("header".into())));
    }
}
