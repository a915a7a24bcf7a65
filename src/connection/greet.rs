//! From a finished handshake of the reliable subprotocol to its driver: `hello` begins a session, `resume` goes on with one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::driver::Driver;
use super::envelope::{self, FromClient};
use super::identify::{close_reason, closed_by_client};
use super::rate::Limiter;
use super::session::{Handshaken, Host, no_place};
use super::sessions::{Resuming, Secret, Session};
use super::socket::NoSocket;
use super::{Admission, AnySocket, Entry, FrameSocket as _, Inbound, wire_limit};
use crate::close::{CloseReason, Excess, Violation};
use crate::event::RELIABLE;
use crate::ids::ClientId;
use crate::log::Slot;
use crate::metrics::{Beat, Resume};
use crate::registry::{JoinError, Newcomer};

/// How long a resume waits for room in the log; as long as a newcomer.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);

/// What the first frame wants.
enum First {
    Hello(Option<ClientId>),
    Resume { secret: Secret, received: u64, attempt: Option<u64> },
}

/// Takes a socket to a driver: a new one, or the one that holds its session.
pub(super) async fn run(host: Arc<Host>, mut socket: AnySocket, handshaken: Handshaken, entry: Entry) {
    let mut limiter = Limiter::default();
    let named = handshaken.client_id.as_ref();
    let first = tokio::select! {
        first = first(&host, &mut socket, named, &mut limiter) => first,
        () = host.draining.cancelled() => Err(host.restart()),
    };
    match first {
        Ok(First::Hello(client_id)) => {
            let client_id = handshaken.client_id.or(client_id);
            let newcomer =
                Newcomer { client_id, remote_address: Some(handshaken.remote_address), subprotocol: RELIABLE };
            match entry.settle() {
                Ok(admission) => begin(host, socket, newcomer, limiter, admission).await,
                Err(full) => host.refuse_reliable(socket, no_place(full)).await,
            }
        }
        Ok(First::Resume { secret, received, attempt }) => {
            let session = host.sessions.find(secret).filter(|session| may_resume(session, named));
            resume(&host, session, socket, (received, attempt), entry).await;
        }
        Err(reason) => {
            if matches!(reason, CloseReason::Violation(Violation::SessionUnknown, _)) {
                host.metrics.resumes.of(Resume::Unknown).inc();
            }
            match reason {
                CloseReason::Violation(..) | CloseReason::BadIdentity(_) | CloseReason::Restart { .. } => {
                    host.refuse_reliable(socket, reason).await;
                }
                // It has not said whether it has a session, and a bye would say that this is over.
                reason => host.refuse(socket, reason).await,
            }
        }
    }
}

/// A handshake that names another client must not get at this one's session.
fn may_resume(session: &Session<AnySocket>, named: Option<&ClientId>) -> bool {
    named.is_none_or(|named| *named == session.connection.info().client_id)
}

/// What a resume of a session that is not there gets.
pub(super) fn unknown() -> CloseReason {
    let what = "SESSION_UNKNOWN: there is no such session any more; begin a new one with hello";
    CloseReason::Violation(Violation::SessionUnknown, what.into())
}

async fn begin(host: Arc<Host>, socket: AnySocket, newcomer: Newcomer, limiter: Limiter, admission: Admission) {
    let Ok(secret) = Secret::random() else {
        tracing::error!("the system has no random bits for a session");
        return host.refuse_reliable(socket, CloseReason::Internal).await;
    };
    match host.registry.join(newcomer).await {
        Ok(registration) => {
            let driver = Driver::new(Arc::clone(&host), registration, socket, limiter, None, true, admission);
            // A task of its own, so that what the handshake needed is freed.
            host.tasks.spawn(driver.with_session(&host.sessions, secret, Box::new(NoSocket)));
        }
        Err(JoinError::Draining) => {
            let reason = host.restart();
            host.refuse_reliable(socket, reason).await;
        }
        Err(error) => host.refuse_reliable(socket, error.close_reason(0)).await,
    }
}

async fn resume(
    host: &Host,
    session: Option<Arc<Session<AnySocket>>>,
    socket: AnySocket,
    (received, attempt): (u64, Option<u64>),
    entry: Entry,
) {
    let Some(session) = session else {
        host.metrics.resumes.of(Resume::Unknown).inc();
        return host.refuse_reliable(socket, unknown()).await;
    };
    // Room for what the driver will tell the log, so that it need not wait.
    let rooms = timeout(ROOM_DEADLINE, host.registry.log().budget().reserve_events(2)).await;
    let Some(rooms) = rooms.ok().and_then(|rooms| <[Slot; 2]>::try_from(rooms).ok()) else {
        host.metrics.resumes.of(Resume::Overloaded).inc();
        // With no bye: the session is there to be resumed later.
        return host.refuse(socket, CloseReason::Overloaded).await;
    };
    // What is given back is given back before anything is waited for.
    let (socket, reason) = match session.offer(Resuming { socket, received, rooms, entry }, attempt) {
        Ok(None) => return,
        Ok(Some(Resuming { socket, .. })) => (socket, CloseReason::Replaced),
        Err(Resuming { socket, .. }) => (socket, unknown()),
    };
    if reason == CloseReason::Replaced {
        host.dismiss(socket, reason).await;
    } else {
        host.metrics.resumes.of(Resume::Unknown).inc();
        host.refuse_reliable(socket, reason).await;
    }
}

/// Reads until the first data frame, at most for the identify timeout, and makes sense of it.
async fn first(
    host: &Host,
    socket: &mut AnySocket,
    named: Option<&ClientId>,
    limiter: &mut Limiter,
) -> Result<First, CloseReason> {
    let deadline = Instant::now() + host.settings.identify_timeout;
    let limit = wire_limit(host.settings.max_message);
    loop {
        let read = poll_fn(|context| match socket.poll_read(context) {
            Poll::Pending if socket.partial_bytes() > limit => {
                Poll::Ready(Err(CloseReason::RateLimited(Excess::Fragments)))
            }
            read => read.map_err(close_reason),
        });
        let inbound = timeout_at(deadline, read).await.map_err(|_| CloseReason::IdentifyTimeout)??;
        match inbound {
            Inbound::Ping | Inbound::Pong(_) => {
                let kind = if inbound == Inbound::Ping { Beat::PingIn } else { Beat::PongIn };
                host.metrics.heartbeats.of(kind).inc();
                limiter.control(host.registry.clock().uptime()).map_err(CloseReason::RateLimited)?;
            }
            Inbound::Close(close) => return Err(closed_by_client(close)),
            Inbound::Binary(_) => return Err(not_text()),
            Inbound::Text(text) => {
                let text = std::str::from_utf8(&text).map_err(|_| CloseReason::BadUtf8)?;
                return meaning(text, named, host.settings.assign_ids);
            }
        }
    }
}

/// What a binary frame gets.
pub(super) fn not_text() -> CloseReason {
    CloseReason::Violation(Violation::NotText, "NOT_TEXT: a binary frame; binary data goes in a message's data".into())
}

fn meaning(text: &str, named: Option<&ClientId>, assign_ids: bool) -> Result<First, CloseReason> {
    match envelope::parse(text)? {
        FromClient::Hello { client_id } => {
            let chosen = client_id.map(|id| ClientId::chosen(&id)).transpose();
            let chosen = chosen.map_err(|error| CloseReason::BadIdentity(error.to_string().into()))?;
            match (named, &chosen) {
                (Some(named), Some(chosen)) if named != chosen => {
                    Err(CloseReason::BadIdentity("hello names another client id than the handshake".into()))
                }
                (None, None) if !assign_ids => {
                    Err(CloseReason::BadIdentity("hello, or the handshake, must name a client id".into()))
                }
                _ => Ok(First::Hello(chosen)),
            }
        }
        FromClient::Resume { session, received, attempt } => {
            let secret = Secret::parse(&session).ok_or_else(unknown)?;
            Ok(First::Resume { secret, received, attempt })
        }
        _ => {
            let what = "UNEXPECTED: the first frame must be hello or resume";
            Err(CloseReason::Violation(Violation::Unexpected, what.into()))
        }
    }
}
