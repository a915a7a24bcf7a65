//! Who a client is: the id from its handshake, or what its first data frame says.

use std::future::poll_fn;
use std::task::Poll;

use tokio::time::Instant;

use super::plain::{Meaning, meaning};
use super::rate::Limiter;
use super::{ConnectionSettings, FrameSocket, Inbound, SocketError, wire_limit};
use crate::clock::Clock;
use crate::close::{CloseReason, Excess};
use crate::ids::ClientId;
use crate::metrics::{Beat, Metrics};

/// What the first data frame told.
pub(super) struct Identified {
    /// The id it named; none to assign one.
    pub(super) client_id: Option<ClientId>,
    /// The frame, if it means something beside the name.
    pub(super) first: Option<Inbound>,
    /// Whether it was a text heartbeat.
    pub(super) speaks_text: bool,
}

/// Reads until the first data frame, at most for the identify timeout.
pub(super) async fn identify(
    socket: &mut impl FrameSocket,
    settings: &ConnectionSettings,
    limiter: &mut Limiter,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Identified, CloseReason> {
    let deadline = Instant::now() + settings.identify_timeout;
    loop {
        let read = poll_fn(|context| match socket.poll_read(context) {
            Poll::Pending if socket.partial_bytes() > wire_limit(settings.max_message) => {
                Poll::Ready(Err(CloseReason::RateLimited(Excess::Fragments)))
            }
            read => read.map_err(close_reason),
        });
        let inbound = tokio::time::timeout_at(deadline, read).await.map_err(|_| CloseReason::IdentifyTimeout)??;
        match inbound {
            Inbound::Ping | Inbound::Pong(_) => {
                let kind = if inbound == Inbound::Ping { Beat::PingIn } else { Beat::PongIn };
                metrics.heartbeats.of(kind).inc();
                limiter.control(clock.uptime()).map_err(CloseReason::RateLimited)?;
            }
            Inbound::Close(close) => return Err(closed_by_client(close)),
            Inbound::Text(text) => {
                let identified = first_text(text, settings.assign_ids)?;
                if identified.speaks_text {
                    metrics.heartbeats.of(Beat::TextIn).inc();
                }
                return Ok(identified);
            }
            binary @ Inbound::Binary(_) => return unnamed(Some(binary), false, settings.assign_ids),
        }
    }
}

/// What a text says as the first data frame; `assign_ids` where one that names nobody is given an id.
pub(super) fn first_text(text: bytes::Bytes, assign_ids: bool) -> Result<Identified, CloseReason> {
    let checked = std::str::from_utf8(&text).map_err(|_| CloseReason::BadUtf8)?;
    match meaning(checked) {
        // Nothing has begun, so nothing is logged.
        Meaning::Close => Err(CloseReason::EmptyText),
        Meaning::Heartbeat(Some(id)) => {
            let id = ClientId::chosen(id).map_err(|error| CloseReason::BadIdentity(error.to_string().into()))?;
            Ok(Identified { client_id: Some(id), first: None, speaks_text: true })
        }
        Meaning::Heartbeat(None) => unnamed(None, true, assign_ids),
        Meaning::Business => unnamed(Some(Inbound::Text(text)), false, assign_ids),
    }
}

fn unnamed(first: Option<Inbound>, speaks_text: bool, assign_ids: bool) -> Result<Identified, CloseReason> {
    if assign_ids {
        Ok(Identified { client_id: None, first, speaks_text })
    } else {
        Err(CloseReason::BadIdentity("the first data frame must name a client id: heartbeat:<id>".into()))
    }
}

/// Why a connection ends on a socket error.
pub(super) fn close_reason(error: SocketError) -> CloseReason {
    match error {
        SocketError::Closed | SocketError::Lost(_) => CloseReason::Lost,
        SocketError::Protocol(_) => CloseReason::Protocol,
        SocketError::BadUtf8 => CloseReason::BadUtf8,
        SocketError::TooBig => CloseReason::TooBig,
    }
}

/// Why a connection ends on the client's Close.
pub(super) fn closed_by_client(close: Option<(u16, String)>) -> CloseReason {
    let (code, reason) = close.map_or((None, String::new()), |(code, reason)| (Some(code), reason));
    CloseReason::ByClient(code, reason.into())
}
