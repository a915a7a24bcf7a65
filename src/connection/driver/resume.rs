//! How a connection outlives its socket: lost, waited for, and gone on with on another.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::super::deadline::Deadline;
use super::super::dues::Dues;
use super::super::sessions::Resuming;
use super::super::{Entry, FrameSocket, closer, greet};
use super::reliable::ack_violation;
use super::{Driver, Phase};
use crate::close::CloseReason;
use crate::log::{BoxFuture, Slot};
use crate::metrics::{Inside, Resume, SendOutcome};
use crate::registry::signal;

/// A connection without a socket.
pub(super) struct Detached {
    /// How long a resume is waited for.
    deadline: Deadline,
    /// Room in the log to say that the socket is lost, where there was none at once.
    room: Option<BoxFuture<'static, Slot>>,
    _counted: Inside,
}

impl<S: FrameSocket> Driver<S> {
    /// Whether the connection may outlive the loss of its socket.
    pub(super) fn may_be_resumed(&self, reason: &CloseReason) -> bool {
        let attached = self.is_open() || self.is_paused();
        reason.leaves_session()
            && attached
            && self.reliable.is_some()
            && !self.host.settings.resume_window.is_zero()
            && !self.connection().has(signal::SEALED)
            && !self.registration.registry().is_draining()
    }

    /// The socket is lost, or was closed by a client that means to resume: what was sent on it will be sent again, and what was taken from it
    /// and not submitted will come again.
    pub(super) fn detach(&mut self, reason: CloseReason) {
        self.roll_back();
        let Some(spare) = self.reliable.as_mut().and_then(|reliable| reliable.spare.take()) else { return };
        let old = std::mem::replace(&mut self.socket, spare);
        if matches!(reason, CloseReason::ByClient(..)) {
            // Its Close is still to be answered.
            self.host.tasks.spawn(closer::close(old, reason));
        }
        self.forget_socket();
        self.connection().set_detached(true);
        self.connection().set_paused(false);
        if let Some(reliable) = self.connection().reliable() {
            reliable.window().detach();
        }
        let budget = self.registration.registry().log().budget().clone();
        let room: Option<BoxFuture<'static, Slot>> = match budget.try_reserve(0) {
            Some(room) => {
                self.registration.suspend(room);
                None
            }
            None => Some(Box::pin(async move { budget.reserve(0).await })),
        };
        let deadline = Deadline::after(self.host.settings.resume_window, self.clock());
        let counted = self.host.metrics.detached.enter();
        self.phase = Some(Box::new(Phase::Detached(Detached { deadline, room, _counted: counted })));
    }

    /// A message that waits for room in the log is not the server's yet.
    fn roll_back(&mut self) {
        if let (Some(Phase::Paused(pause)), Some(reliable)) = (self.phase.as_deref(), &mut self.reliable)
            && pause.message.is_some()
        {
            reliable.received -= 1;
        }
    }

    /// Nothing that was true of the old socket is of another.
    fn forget_socket(&mut self) {
        self.dues = Dues::default();
        self.pinged.lose();
    }

    /// Waits for a resume; ready when the time for it is over.
    pub(super) fn poll_detached(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        let Some(Phase::Detached(detached)) = self.phase.as_deref_mut() else { return Poll::Ready(Ok(())) };
        if let Some(room) = &mut detached.room
            && let Poll::Ready(room) = room.as_mut().poll(context)
        {
            detached.room = None;
            self.registration.suspend(room);
        }
        let late = self.registration.connection().outbox.drop_late(Instant::now());
        self.host.metrics.sends.of(SendOutcome::Dropped).inc_by(late);
        let registry = self.registration.registry();
        loop {
            ready!(detached.deadline.poll(registry.clock(), context));
            if registry.log().budget().is_open() {
                return Poll::Ready(Err(CloseReason::Lost));
            }
            // While the log fails no resume can be told, and so none is late.
            detached.deadline = Deadline::after(self.host.settings.resume_window, registry.clock());
        }
    }

    /// Goes on with the socket that a resume has brought, if there is one; whatever becomes of the old one.
    pub(super) fn go_on(&mut self) -> Result<(), CloseReason> {
        let Some(resuming) = self.reliable.as_ref().and_then(|reliable| reliable.held.take()) else { return Ok(()) };
        let Resuming { socket, received, rooms, entry } = resuming;
        let behind = self.connection().reliable().and_then(|reliable| reliable.window().may_attach(received).err());
        if let Some(behind) = behind {
            // Somebody who is not where this client is; the session is not harmed by it.
            self.host.metrics.resumes.of(Resume::Refused).inc();
            self.turn_away(socket, ack_violation(&behind));
            return Ok(());
        }
        if !self.registration.resume(rooms) {
            self.host.metrics.resumes.of(Resume::Unknown).inc();
            self.turn_away(socket, greet::unknown());
            return Ok(());
        }
        self.roll_back();
        let old = std::mem::replace(&mut self.socket, socket);
        let old_entry = match entry {
            Entry::Place(admission) => Entry::Place(std::mem::replace(&mut self.admission, admission)),
            // It keeps the place that it has.
            provisional => provisional,
        };
        let was = self.phase.take();
        if let Some(reliable) = &mut self.reliable {
            reliable.begin(true);
            if matches!(was.as_deref(), Some(Phase::Detached(_))) {
                reliable.spare = Some(old);
            } else {
                // Half open, most likely; if not, its client must learn that it is not the one any more.
                let host = Arc::clone(&self.host);
                self.host.tasks.spawn(async move {
                    host.dismiss(old, CloseReason::Replaced).await;
                    drop(old_entry);
                });
            }
        }
        self.forget_socket();
        self.connection().set_paused(false);
        self.host.metrics.resumes.of(Resume::Resumed).inc();
        let attached = self.connection().reliable().map(|reliable| reliable.window().attach(received));
        if let Some(attached) = attached {
            self.note_ack(attached)?;
        }
        // Each is told in the log.
        self.limiter.control(self.clock().uptime()).map_err(CloseReason::RateLimited)
    }

    /// From now on nobody resumes it.
    pub(super) fn end_session(&mut self) {
        let waiting = self.reliable.as_ref().and_then(|reliable| reliable.held.end());
        if let Some(Resuming { socket, .. }) = waiting {
            self.host.metrics.resumes.of(Resume::Unknown).inc();
            self.turn_away(socket, greet::unknown());
        }
        self.connection().set_detached(false);
    }

    /// Tells a socket in the background why it cannot go on; its place is given back at once, as its time is short.
    fn turn_away(&self, socket: S, reason: CloseReason) {
        let host = Arc::clone(&self.host);
        self.host.tasks.spawn(async move { host.refuse_reliable(socket, reason).await });
    }
}
