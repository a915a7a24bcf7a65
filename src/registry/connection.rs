//! The half of a live connection that others can reach: its outbox, what was observed of it, and how to wake its driver.

use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Context;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::oneshot;

use super::window::Reliable;
use crate::clock::{Clock, Millis, Moment};
use crate::close::CloseReason;
use crate::event::{ConnectionInfo, RELIABLE, Stats, Unacked};
use crate::heartbeat::Cadence;
use crate::labels::Labels;
use crate::metrics::{Metrics, SendOutcome};
use crate::outbox::Outbox;
use crate::position::Offset;

/// What a driver is woken for, and what is true of its connection; bits of one word.
pub mod signal {
    /// The server's heartbeat is due.
    pub const BEAT: u32 = 1;
    /// The timeout is over: look into the socket once more, then end it.
    pub const EXPIRE: u32 = 1 << 1;
    /// A backend wants a Ping sent now.
    pub const PROBE: u32 = 1 << 2;
    /// `Connected` is committed (stays set).
    pub const COMMITTED: u32 = 1 << 3;
    /// The connection is ending; nothing it submits counts any more (stays set).
    pub const SEALED: u32 = 1 << 4;
    /// The driver is not reading, because the log is behind; silence does not count (set and cleared by the driver).
    pub const PAUSED: u32 = 1 << 5;
    /// A SUSPECT connection: `Suspected` was submitted and no `Recovered` since.
    pub const SUSPECT: u32 = 1 << 6;

    /// The socket is lost and a resume is waited for; silence does not count (set and cleared by the driver).
    pub const DETACHED: u32 = 1 << 7;
    /// A resume has come on another socket.
    pub const RESUME: u32 = 1 << 8;

    /// It took no mail for too long while others of its client id were there, which are sent it first (set and cleared under the shard's lock).
    pub const PASSED_OVER: u32 = 1 << 9;

    /// Those that say something happened, and are cleared when it has been seen.
    pub const ONCE: u32 = BEAT | EXPIRE | PROBE | RESUME;
}

/// The shared half of one live connection.
pub struct Connection {
    info: Arc<ConnectionInfo>,
    /// Frames to write; closed when the connection is sealed.
    pub outbox: Outbox,
    /// Counters of what passed.
    pub traffic: Traffic,
    waker: AtomicWaker,
    signals: AtomicU32,
    uncommitted: AtomicU32,
    last_seen: AtomicU64,
    /// Silence before this is not the client's: it was not listened to, or its settings changed.
    excused: AtomicU64,
    cadence: AtomicU64,
    ended_at: AtomicI64,
    opened: Millis,
    ledger: Mutex<Ledger>,
    /// Only with the reliable subprotocol, so that a plain connection pays no more than the pointer.
    reliable: Option<Box<Reliable>>,
}

/// What passed through a connection; read when it ends, by whoever ends it.
#[derive(Default)]
pub struct Traffic {
    /// Business messages from the client.
    pub messages_in: AtomicU64,
    /// Their bytes.
    pub bytes_in: AtomicU64,
    /// Frames written for backends.
    pub messages_out: AtomicU64,
    /// Their bytes.
    pub bytes_out: AtomicU64,
    /// The newest round trip in microseconds; 0 for none yet.
    pub round_trip_micros: AtomicU32,
}

/// The submitting side's state, changed only under the shard's lock; its own lock is there because the borrow checker cannot
/// see that, and is never contended.
pub(super) struct Ledger {
    /// The labels as of the newest submitted event.
    pub(super) labels: Labels,
    /// The heartbeat settings as of the newest submitted event; those in force are the newest committed.
    pub(super) cadence: Cadence,
    /// Whether it is ending; none while it is not and nobody waits for a Pong.
    pub(super) fate: Option<Box<Fate>>,
    /// When it became SUSPECT.
    pub(super) suspect_since: Millis,
    /// How often its client id was taken over lately.
    pub(super) takeovers: Takeovers,
}

/// Whether a connection is ending.
pub(super) enum Fate {
    /// It is not.
    Open(Probes),
    /// It is sealed, for this reason; no Pong will come.
    Ending(CloseReason),
}

/// Who waits for the next Pong; bounded by the calls that a backend has open.
#[derive(Default)]
pub(super) struct Probes(Vec<oneshot::Sender<Duration>>);

impl Ledger {
    /// Has the next Pong told; whether one may still come.
    pub(super) fn add_probe(&mut self, probe: oneshot::Sender<Duration>) -> bool {
        let fate = self.fate.get_or_insert_with(|| Box::new(Fate::Open(Probes::default())));
        let Fate::Open(Probes(probes)) = &mut **fate else { return false };
        // Those who gave up waiting make room.
        probes.retain(|probe| !probe.is_closed());
        probes.push(probe);
        true
    }
}

/// Takeovers of one client id within a minute, handed from each connection to the one that replaces it.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Takeovers {
    /// In seconds of uptime.
    since: u32,
    count: u32,
}

impl Takeovers {
    /// In seconds.
    const WINDOW: u32 = 60;

    /// One more at `now`; none if that would be more than `limit` (0: no limit) within the window.
    pub(super) fn one_more(self, now: Millis, limit: u32) -> Option<Self> {
        let second = u32::try_from(now / 1_000).unwrap_or(u32::MAX);
        let fresh = second.saturating_sub(self.since) >= Self::WINDOW || self.count == 0;
        let next = if fresh { Self { since: second, count: 1 } } else { Self { count: self.count + 1, ..self } };
        (limit == 0 || next.count <= limit).then_some(next)
    }
}

impl Traffic {
    /// The kernel has taken so many frames of a backend's, of so many bytes.
    pub fn count_written(&self, frames: u64, bytes: u64, metrics: &Metrics) {
        self.messages_out.fetch_add(frames, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes, Ordering::Relaxed);
        metrics.sends.of(SendOutcome::Written).inc_by(frames);
        metrics.sent_bytes.inc_by(bytes);
    }
}

impl Connection {
    pub(super) fn new(info: Arc<ConnectionInfo>, cadence: Cadence, clock: &Clock, takeovers: Takeovers) -> Self {
        let uptime = clock.uptime();
        let reliable = (info.subprotocol == RELIABLE).then(Box::default);
        Self {
            info,
            reliable,
            outbox: Outbox::default(),
            traffic: Traffic::default(),
            waker: AtomicWaker::new(),
            signals: AtomicU32::new(0),
            uncommitted: AtomicU32::new(0),
            last_seen: AtomicU64::new(clock.liveness_at(uptime)),
            excused: AtomicU64::new(0),
            cadence: AtomicU64::new(cadence.to_bits()),
            ended_at: AtomicI64::new(0),
            opened: uptime,
            ledger: Mutex::new(Ledger { labels: Labels::NONE, cadence, fate: None, suspect_since: 0, takeovers }),
        }
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What never changes.
    #[must_use]
    pub fn info(&self) -> &Arc<ConnectionInfo> {
        &self.info
    }

    /// What only a connection of the reliable subprotocol has.
    #[must_use]
    pub fn reliable(&self) -> Option<&Reliable> {
        self.reliable.as_deref()
    }

    /// What its client was sent and has not acknowledged, when it ends; what is acknowledged later does not count.
    pub(super) fn close_unacked(&self) -> Unacked {
        self.reliable().map_or_else(Unacked::default, |reliable| reliable.window().close(&self.outbox))
    }

    /// Drops what waits to be written or acknowledged; with `all` also what is being written. Answers how many frames were never written.
    pub fn drop_unsent(&self, all: bool) -> u64 {
        let waiting = self.outbox.clear() as u64;
        waiting + self.reliable().map_or(0, |reliable| reliable.window().clear(all))
    }

    /// One of its messages is committed.
    pub(super) fn committed_message(&self) {
        if let Some(reliable) = self.reliable() {
            reliable.commit_one();
            // Its driver acknowledges it.
            self.waker.wake();
        }
    }

    /// Sets signals and wakes the driver.
    pub(crate) fn signal(&self, signals: u32) {
        self.signals.fetch_or(signals, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Wakes the driver to look at the outbox.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Has the driver's task woken by signals from now on.
    pub fn register(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
    }

    /// The signals since the last time; those that happened once are cleared.
    pub fn take_signals(&self) -> u32 {
        let signals = self.signals.load(Ordering::Acquire);
        if signals & signal::ONCE == 0 {
            // One load: a second one might see a signal, hand it out, and leave it set to be handed out again.
            return signals;
        }
        self.signals.fetch_and(!signal::ONCE, Ordering::AcqRel)
    }

    /// Under the shard's lock, before `Suspected` is submitted; needs no wake-up. False if the client was heard since `silent_since`, and so is not.
    ///
    /// Who hears it stamps first and then looks whether it is SUSPECT; this marks it first and then looks at the stamp. In the one order of
    /// all four (sequential consistency) one of the two sees the other.
    pub(super) fn mark_suspect(&self, silent_since: Millis) -> bool {
        self.signals.fetch_or(signal::SUSPECT, Ordering::SeqCst);
        let still = self.last_seen.load(Ordering::SeqCst) <= silent_since;
        if !still {
            self.clear(signal::SUSPECT);
        }
        still
    }

    /// Under the shard's lock, by the driver, which alone hears the client.
    pub(super) fn set_suspect(&self) {
        self.signals.fetch_or(signal::SUSPECT, Ordering::SeqCst);
    }

    /// Under the shard's lock; nothing that its driver looks at.
    pub(super) fn set_passed_over(&self) {
        self.signals.fetch_or(signal::PASSED_OVER, Ordering::AcqRel);
    }

    pub(super) fn clear(&self, signals: u32) {
        self.signals.fetch_and(!signals, Ordering::AcqRel);
    }

    /// Whether all of these are set.
    #[must_use]
    pub fn has(&self, signals: u32) -> bool {
        self.signals.load(Ordering::SeqCst) & signals == signals
    }

    /// Says whether the socket is lost and a resume is waited for.
    pub fn set_detached(&self, detached: bool) {
        if detached {
            self.signals.fetch_or(signal::DETACHED, Ordering::SeqCst);
        } else {
            self.clear(signal::DETACHED);
        }
    }

    /// Says whether the driver has stopped reading because the log is behind.
    pub fn set_paused(&self, paused: bool) {
        if paused {
            // Sequentially consistent with `uncommitted`, as `sub_uncommitted` is: one of the two sides sees the other.
            self.signals.fetch_or(signal::PAUSED, Ordering::SeqCst);
        } else {
            self.clear(signal::PAUSED);
        }
    }

    /// When the client was last heard.
    #[must_use]
    pub fn last_seen(&self) -> Millis {
        self.last_seen.load(Ordering::Acquire)
    }

    pub(super) fn seen_at(&self, now: Millis) {
        // The newest wins: a stamp never goes back.
        self.last_seen.fetch_max(now, Ordering::SeqCst);
    }

    /// Since when its silence counts: since it was heard, or since it is listened to again.
    #[must_use]
    pub fn silent_since(&self) -> Millis {
        self.last_seen().max(self.excused.load(Ordering::Acquire))
    }

    pub(super) fn excuse(&self, now: Millis) {
        self.excused.fetch_max(now, Ordering::AcqRel);
    }

    /// The heartbeat settings in force.
    #[must_use]
    pub fn cadence(&self) -> Cadence {
        Cadence::from_bits(self.cadence.load(Ordering::Acquire))
    }

    pub(super) fn set_cadence(&self, cadence: Cadence) {
        self.cadence.store(cadence.to_bits(), Ordering::Release);
    }

    /// Bytes of its messages that are submitted and not committed.
    #[must_use]
    pub fn uncommitted(&self) -> u32 {
        self.uncommitted.load(Ordering::SeqCst)
    }

    pub(super) fn add_uncommitted(&self, bytes: u32) {
        self.uncommitted.fetch_add(bytes, Ordering::AcqRel);
    }

    pub(super) fn sub_uncommitted(&self, bytes: u32) {
        self.uncommitted.fetch_sub(bytes, Ordering::SeqCst);
        // Only a driver that waits for this cares.
        if self.has(signal::PAUSED) {
            self.waker.wake();
        }
    }

    /// Why it is ending, once it is sealed.
    #[must_use]
    pub fn ending(&self) -> Option<CloseReason> {
        match self.ledger().fate.as_deref()? {
            Fate::Open(_) => None,
            Fate::Ending(reason) => Some(reason.clone()),
        }
    }

    /// Takes the calls that wait for a Pong.
    pub fn take_probes(&self) -> Vec<oneshot::Sender<Duration>> {
        let mut ledger = self.ledger();
        match ledger.fate.take().map(|fate| *fate) {
            None => Vec::new(),
            Some(Fate::Open(Probes(probes))) => probes,
            Some(ending) => {
                ledger.fate = Some(Box::new(ending));
                Vec::new()
            }
        }
    }

    /// The offset of its committed `Disconnected`, once there is one.
    #[must_use]
    pub fn ended_at(&self) -> Option<Offset> {
        match self.ended_at.load(Ordering::Acquire) {
            0 => None,
            offset => Some(offset),
        }
    }

    pub(super) fn set_ended_at(&self, offset: Offset) {
        self.ended_at.store(offset, Ordering::Release);
    }

    /// How long it has been open.
    #[must_use]
    pub fn open_for(&self, at: &Moment) -> Duration {
        Duration::from_millis(at.uptime.saturating_sub(self.opened))
    }

    /// What was observed of it, as of a moment that is not long ago.
    #[must_use]
    pub fn stats(&self, at: &Moment) -> Stats {
        let last_seen = self.last_seen();
        let traffic = &self.traffic;
        let round_trip = traffic.round_trip_micros.load(Ordering::Relaxed);
        Stats {
            // The stamp is in whole milliseconds, and so may fall just before the handshake.
            last_seen: at.wall_nanos_at(last_seen).max(self.info.connect_time),
            round_trip: (round_trip > 0).then(|| Duration::from_micros(round_trip.into())),
            missed_heartbeats: self.cadence().missed(at.now.saturating_sub(last_seen)),
            messages_in: traffic.messages_in.load(Ordering::Relaxed),
            messages_out: traffic.messages_out.load(Ordering::Relaxed),
            bytes_in: traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: traffic.bytes_out.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sixth_takeover_within_a_minute_is_one_too_many() {
        let mut takeovers = Takeovers::default();
        for second in 0..5 {
            takeovers = takeovers.one_more(second * 1_000, 5).expect("within the limit");
        }
        assert!(takeovers.one_more(5_000, 5).is_none());
        assert!(takeovers.one_more(5_000, 0).is_some());
        let later = takeovers.one_more(60_000, 5).expect("a new minute");
        assert_eq!(later.count, 1);
    }
}
