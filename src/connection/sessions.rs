//! Sessions of the reliable subprotocol: which connections may be resumed, by their secrets, and how a socket gets from a resume to the driver
//! that holds the connection.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{AnySocket, Entry};
use crate::log::Slot;
use crate::registry::{Connection, signal};

/// What a session is resumed with: 128 bits from the system's source of randomness.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Secret([u8; 16]);

impl Secret {
    pub(super) fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        // Longer ones are not even decoded.
        let bytes = (text.len() == 22).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten()?;
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// The sessions that may be resumed. Bounded by the number of connections, each of which has one at most.
pub struct Sessions<S = AnySocket>(Mutex<HashMap<Secret, Arc<Session<S>>>>);

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// One session, shared by its driver and who wants to resume it.
pub(super) struct Session<S> {
    pub(super) connection: Arc<Connection>,
    /// Holds one socket at most: a newer one takes the place of one that was not yet fetched.
    waiting: Mutex<Waiting<S>>,
    /// The newest attempt to resume that was counted by the client; 0 for none. Changed under the lock of `waiting`.
    newest: AtomicU64,
}

enum Waiting<S> {
    Nobody,
    Somebody(Resuming<S>),
    /// The connection is ending.
    Over,
}

/// A socket that goes on with a session.
pub(super) struct Resuming<S> {
    pub(super) socket: S,
    /// What its client has.
    pub(super) received: u64,
    /// Room in the log for what is to be told of it.
    pub(super) rooms: [Slot; 2],
    pub(super) entry: Entry,
}

impl<S> Sessions<S> {
    fn by_secret(&self) -> MutexGuard<'_, HashMap<Secret, Arc<Session<S>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, secret: Secret) -> Option<Arc<Session<S>>> {
        self.by_secret().get(&secret).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_secret().len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<S> Session<S> {
    fn waiting(&self) -> MutexGuard<'_, Waiting<S>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the driver go on with this socket; answers one that is not wanted any more: an earlier one that waited, or this one if a newer
    /// attempt has come before it.
    ///
    /// # Errors
    /// Hands it back if the connection is ending.
    pub(super) fn offer(
        &self,
        resuming: Resuming<S>,
        attempt: Option<u64>,
    ) -> Result<Option<Resuming<S>>, Resuming<S>> {
        let mut waiting = self.waiting();
        if matches!(*waiting, Waiting::Over) || self.connection.has(signal::SEALED) {
            return Err(resuming);
        }
        if let Some(attempt) = attempt
            && self.newest.fetch_max(attempt, Ordering::Relaxed) >= attempt
        {
            return Ok(Some(resuming));
        }
        let earlier = std::mem::replace(&mut *waiting, Waiting::Somebody(resuming));
        drop(waiting);
        self.connection.signal(signal::RESUME);
        match earlier {
            Waiting::Somebody(earlier) => Ok(Some(earlier)),
            _ => Ok(None),
        }
    }
}

/// A session as its driver holds it; dropping it ends it.
pub(super) struct Held<S> {
    secret: Secret,
    session: Arc<Session<S>>,
    sessions: Arc<Sessions<S>>,
}

impl<S> Held<S> {
    /// A session for a connection; one that is not `resumable` is found by nobody.
    pub(super) fn new(
        sessions: &Arc<Sessions<S>>,
        secret: Secret,
        connection: &Arc<Connection>,
        resumable: bool,
    ) -> Self {
        let session = Arc::new(Session {
            connection: Arc::clone(connection),
            waiting: Mutex::new(Waiting::Nobody),
            newest: AtomicU64::new(0),
        });
        if resumable {
            sessions.by_secret().insert(secret, Arc::clone(&session));
        }
        Self { secret, session, sessions: Arc::clone(sessions) }
    }

    pub(super) fn secret(&self) -> Secret {
        self.secret
    }

    /// The socket that waits.
    pub(super) fn take(&self) -> Option<Resuming<S>> {
        let mut waiting = self.session.waiting();
        match std::mem::replace(&mut *waiting, Waiting::Nobody) {
            Waiting::Somebody(resuming) => Some(resuming),
            Waiting::Nobody => None,
            Waiting::Over => {
                *waiting = Waiting::Over;
                None
            }
        }
    }

    /// From now on nobody resumes it; answers a socket that waited.
    pub(super) fn end(&self) -> Option<Resuming<S>> {
        self.sessions.by_secret().remove(&self.secret);
        match std::mem::replace(&mut *self.session.waiting(), Waiting::Over) {
            Waiting::Somebody(resuming) => Some(resuming),
            _ => None,
        }
    }
}

impl<S> Drop for Held<S> {
    fn drop(&mut self) {
        // A driver that ended well has done this already; one that panicked has not, and a socket that waited goes with it.
        drop(self.end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_its_text_and_no_two_are_alike() {
        let secrets: std::collections::HashSet<_> = (0..100).map(|_| Secret::random().expect("random bits")).collect();
        assert_eq!(secrets.len(), 100);
        for secret in secrets {
            let text = secret.to_string();
            assert!(Secret::parse(&text) == Some(secret), "{text}");
        }
        for text in
            ["", "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAA+", "AAAAAAAAAAAAAAAAAAAAAAA", "éAAAAAAAAAAAAAAAAAAAA"]
        {
            assert!(Secret::parse(text).is_none(), "{text}");
        }
    }
}
