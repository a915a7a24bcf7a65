//! The end of a socket: our Close really sent, the client's awaited, and all of it within two seconds.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::{FrameSocket, SocketError};
use crate::close::CloseReason;

/// How long a Close is tried, from the moment that the connection is ending.
pub(super) const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// How many frames that come after the end are read at one go.
const READ_BURST: usize = 32;

/// Takes a socket through its closing handshake.
pub(super) struct Closer {
    step: Step,
    until: Instant,
    /// Made when it is first asked for: who is lost is not waited for.
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// What was begun must be written whole before a Close may follow.
    Flush,
    /// Our Close, or the answer to the client's, is being written.
    SendClose,
    /// Waiting for the client's Close.
    AwaitClose,
    /// The framing is lost: waiting for the end of the stream.
    Discard,
}

impl Closer {
    pub(super) fn new() -> Self {
        Self { step: Step::Flush, until: Instant::now() + CLOSE_DEADLINE, deadline: None }
    }

    /// Whether the time is up.
    pub(super) fn is_late(&mut self, context: &mut Context<'_>) -> bool {
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep_until(self.until)));
        deadline.as_mut().poll(context).is_ready()
    }

    /// Ready when the socket may be dropped.
    pub(super) fn poll(
        &mut self,
        socket: &mut impl FrameSocket,
        reason: &CloseReason,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if matches!(reason, CloseReason::Lost) || self.is_late(context) {
            return Poll::Ready(());
        }
        loop {
            self.step = match self.step {
                Step::Flush => {
                    if ready!(socket.poll_flush(context)).is_err() {
                        return Poll::Ready(());
                    }
                    if reason.sends_close() {
                        socket.start_close(reason.code(), &reason.text());
                    }
                    Step::SendClose
                }
                Step::SendClose => match ready!(socket.poll_flush(context)) {
                    Ok(()) if reason.framing_lost() => Step::Discard,
                    Ok(()) => Step::AwaitClose,
                    // Done: an answered Close needs nothing further from the client.
                    Err(_) => return Poll::Ready(()),
                },
                Step::AwaitClose => {
                    for _ in 0..READ_BURST {
                        match ready!(socket.poll_read(context)) {
                            Ok(_) => {}
                            // Its half of the handshake cannot be found among broken frames; its end of stream can.
                            Err(SocketError::Protocol(_) | SocketError::BadUtf8 | SocketError::TooBig) => break,
                            Err(SocketError::Closed | SocketError::Lost(_)) => return Poll::Ready(()),
                        }
                    }
                    // Either it broke the framing or it goes on talking; neither is listened to any more.
                    Step::Discard
                }
                Step::Discard => return socket.poll_discard(context),
            };
        }
    }
}

/// Closes a socket that never became a connection.
pub(super) async fn close(mut socket: impl FrameSocket, reason: CloseReason) {
    let mut closer = Closer::new();
    std::future::poll_fn(|context| closer.poll(&mut socket, &reason, context)).await;
}
