//! The index: which messages are stored for whom, how far each has come, and when the next one expires. Pure: it knows no store and no registry.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::table::{Head, Sequence};
use super::{Limits, Progress, Stage};
use crate::clock::UnixNanos;
use crate::ids::{ClientId, ConnectionId};
use crate::registry::MailState;

/// How soon an expired message that cannot be given up yet is looked at again.
const LOOK_AGAIN: UnixNanos = 100_000_000;

/// How far a message has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// In a transaction that is not known to be synced. What was stored after it waits for that, so that order holds.
    Storing,
    /// Stored, and in no outbox.
    Waiting,
    /// In the outbox of this connection, or written by it and not known to be delivered.
    Carried(ConnectionId, Stage),
    /// Delivered by this connection; to be removed from the store.
    Done(ConnectionId, Stage),
    /// Its time is over; to be logged, and then removed from the store. It is sent no more.
    Expired,
}

impl State {
    /// Not yet in an outbox, and not given up.
    fn is_to_come(self) -> bool {
        matches!(self, Self::Storing | Self::Waiting)
    }
}

struct Item {
    sequence: Sequence,
    expires: UnixNanos,
    weight: u32,
    state: State,
    /// The posts that have not failed as far as is known: the one that stored it, and its repeats.
    claims: u32,
}

/// What is stored for one client id; there as long as it holds something or is carried.
#[derive(Default)]
struct Mailbox {
    /// In the order of their sequence.
    items: VecDeque<Item>,
    /// The place of the first that is Storing or Waiting, or how many there are: what is to be sent or may expire is not before it, so that
    /// nobody searches through all that is in an outbox, or through.
    first: usize,
    bytes: u64,
    waiting: usize,
    carried: usize,
    /// Whose outbox the carried ones are in: one connection is carried to at a time.
    bearer: ConnectionId,
    /// Wakes the one task that carries it, while there is one.
    carrier: Option<Arc<Notify>>,
    /// Where it stands among those that are due.
    look_at: Option<UnixNanos>,
}

/// Over which bound a message would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    Client,
    Total,
}

/// All mailboxes. Bounded by [`Limits`]: every message weighs something, so their number is bounded by their bytes.
pub(super) struct Index {
    limits: Limits,
    mailboxes: HashMap<ClientId, Box<Mailbox>>,
    bytes: u64,
    messages: usize,
    next: Sequence,
    /// At most one entry a mailbox: when a message of it expires next, or earlier.
    due: BTreeSet<(UnixNanos, ClientId)>,
    /// Those whose sender waits to hear how far they come; bounded by the calls that backends have open.
    watched: HashMap<Sequence, watch::Sender<Progress>>,
}

impl Mailbox {
    fn at(&self, sequence: Sequence) -> Option<usize> {
        self.items.binary_search_by_key(&sequence, |item| item.sequence).ok()
    }

    fn count(&mut self, state: State, by: isize) {
        let counter = match state {
            State::Waiting => &mut self.waiting,
            State::Carried(..) => &mut self.carried,
            State::Storing | State::Done(..) | State::Expired => return,
        };
        *counter = counter.saturating_add_signed(by);
    }

    fn set(&mut self, at: usize, state: State) {
        let before = std::mem::replace(&mut self.items[at].state, state);
        self.count(before, -1);
        self.count(state, 1);
        if state.is_to_come() {
            self.first = self.first.min(at);
        } else if at == self.first {
            self.find_first();
        }
    }

    /// Moves `first` on to where it belongs, if it is not behind that.
    fn find_first(&mut self) {
        let through = self.items.iter().skip(self.first).take_while(|item| !item.state.is_to_come()).count();
        self.first += through;
    }

    fn insert(&mut self, item: Item) {
        self.count(item.state, 1);
        self.bytes += u64::from(item.weight);
        self.items.push_back(item);
        // It may be the first, or be through.
        self.find_first();
    }

    fn remove(&mut self, sequence: Sequence) -> Option<Item> {
        let at = self.at(sequence)?;
        let item = self.items.remove(at)?;
        self.count(item.state, -1);
        self.bytes -= u64::from(item.weight);
        if at < self.first {
            self.first -= 1;
        } else if at == self.first {
            self.find_first();
        }
        if self.items.is_empty() {
            self.items = VecDeque::new();
        }
        Some(item)
    }

    /// From the first that is to be sent or may expire on, with their places.
    fn to_come(&self) -> impl Iterator<Item = (usize, &Item)> {
        (self.first..).zip(self.items.iter().skip(self.first))
    }

    /// What may be sent next, in order: nothing behind a message that is not known to be stored.
    fn ready(&self, now: UnixNanos) -> impl Iterator<Item = &Item> {
        let known = self.to_come().map(|(_, item)| item).take_while(|item| item.state != State::Storing);
        known.filter(move |item| item.state == State::Waiting && item.expires > now)
    }

    fn earliest(&self) -> Option<UnixNanos> {
        self.to_come().filter(|(_, item)| item.state.is_to_come()).map(|(_, item)| item.expires).min()
    }
}

impl Index {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            mailboxes: HashMap::new(),
            bytes: 0,
            messages: 0,
            next: 1,
            due: BTreeSet::new(),
            watched: HashMap::new(),
        }
    }

    /// Adds what the store had at the start, whatever the bounds are now.
    pub(super) fn load(&mut self, client_id: &ClientId, head: Head) {
        self.next = self.next.max(head.sequence + 1);
        self.insert(client_id, head, State::Waiting);
    }

    fn insert(&mut self, client_id: &ClientId, head: Head, state: State) {
        let Head { sequence, expires, weight } = head;
        let mailbox = self.mailboxes.entry(client_id.clone()).or_default();
        mailbox.insert(Item { sequence, expires, weight, state, claims: 1 });
        self.bytes += u64::from(weight);
        self.messages += 1;
        self.look_by(client_id, expires);
    }

    /// Has the sweep look at a mailbox at this time at the latest.
    fn look_by(&mut self, client_id: &ClientId, time: UnixNanos) {
        let Some(mailbox) = self.mailboxes.get_mut(client_id) else { return };
        if mailbox.look_at.is_some_and(|earlier| earlier <= time) {
            return;
        }
        if let Some(later) = mailbox.look_at.replace(time) {
            self.due.remove(&(later, client_id.clone()));
        }
        self.due.insert((time, client_id.clone()));
    }

    /// Gives a message a place, in the transaction that stores it; the order of these calls is the order of messages.
    pub(super) fn admit(&mut self, client_id: &ClientId, expires: UnixNanos, weight: u32) -> Result<Head, Over> {
        let (count, bytes) = self.mailboxes.get(client_id).map_or((0, 0), |of| (of.items.len(), of.bytes));
        if count >= self.limits.max_messages || bytes + u64::from(weight) > self.limits.max_bytes {
            return Err(Over::Client);
        }
        if self.bytes + u64::from(weight) > self.limits.max_total_bytes {
            return Err(Over::Total);
        }
        let head = Head { sequence: self.next, expires, weight };
        self.next += 1;
        self.insert(client_id, head, State::Storing);
        Ok(head)
    }

    fn change(&mut self, client_id: &ClientId, sequence: Sequence, to: impl FnOnce(State) -> Option<State>) -> bool {
        let Some(mailbox) = self.mailboxes.get_mut(client_id) else { return false };
        let Some(at) = mailbox.at(sequence) else { return false };
        let Some(state) = to(mailbox.items[at].state) else { return false };
        mailbox.set(at, state);
        true
    }

    /// A message is synced. Nothing if that was known.
    pub(super) fn commit(&mut self, client_id: &ClientId, sequence: Sequence) {
        self.change(client_id, sequence, |state| (state == State::Storing).then_some(State::Waiting));
    }

    /// A repeat has found a message, in its transaction: it is kept for this one even if it has failed for
    /// another.
    pub(super) fn claim(&mut self, client_id: &ClientId, sequence: Sequence) {
        if let Some(item) = self.item(client_id, sequence) {
            item.claims = item.claims.saturating_add(1);
        }
    }

    /// A post that stored or found a message has failed.
    pub(super) fn release(&mut self, client_id: &ClientId, sequence: Sequence) {
        if let Some(item) = self.item(client_id, sequence) {
            item.claims = item.claims.saturating_sub(1);
        }
    }

    /// Whether any post of a message has not failed.
    pub(super) fn is_claimed(&mut self, client_id: &ClientId, sequence: Sequence) -> bool {
        self.item(client_id, sequence).is_some_and(|item| item.claims > 0)
    }

    /// Whether a message is sent no more because its time is over, given up already or not. (If the clock is set back before it is, it may be
    /// sent after all, beside the one that was stored anew.)
    pub(super) fn is_over(&self, client_id: &ClientId, sequence: Sequence, now: UnixNanos) -> bool {
        let item = self.mailboxes.get(client_id).and_then(|of| of.at(sequence).map(|at| &of.items[at]));
        item.is_some_and(|item| match item.state {
            State::Waiting => item.expires <= now,
            state => state == State::Expired,
        })
    }

    /// Whether a message is given up.
    pub(super) fn has_expired(&mut self, client_id: &ClientId, sequence: Sequence) -> bool {
        self.item(client_id, sequence).is_some_and(|item| item.state == State::Expired)
    }

    fn item(&mut self, client_id: &ClientId, sequence: Sequence) -> Option<&mut Item> {
        let mailbox = self.mailboxes.get_mut(client_id)?;
        let at = mailbox.at(sequence)?;
        mailbox.items.get_mut(at)
    }

    /// A message is not in the store, or no more.
    pub(super) fn forget(&mut self, client_id: &ClientId, sequence: Sequence) {
        let Some(mailbox) = self.mailboxes.get_mut(client_id) else { return };
        let Some(item) = mailbox.remove(sequence) else { return };
        self.bytes -= u64::from(item.weight);
        self.messages -= 1;
        self.watched.remove(&sequence);
        self.drop_if_empty(client_id);
    }

    fn drop_if_empty(&mut self, client_id: &ClientId) {
        let Some(mailbox) = self.mailboxes.get(client_id) else { return };
        if !mailbox.items.is_empty() || mailbox.carrier.is_some() {
            return;
        }
        if let Some(time) = mailbox.look_at {
            self.due.remove(&(time, client_id.clone()));
        }
        self.mailboxes.remove(client_id);
        if self.mailboxes.is_empty() {
            self.mailboxes = HashMap::new();
        }
    }

    /// The next messages to send, up to so many and so heavy, and at least one if there is one.
    pub(super) fn next(&self, client_id: &ClientId, now: UnixNanos, most: usize, bytes: u64) -> Vec<Sequence> {
        let Some(mailbox) = self.mailboxes.get(client_id) else { return Vec::new() };
        let mut weight = 0;
        let mut next = Vec::new();
        for item in mailbox.ready(now).take(most) {
            weight += u64::from(item.weight);
            if weight > bytes && !next.is_empty() {
                break;
            }
            next.push(item.sequence);
        }
        next
    }

    /// Whether anything can be sent to a client.
    pub(super) fn has_ready(&self, client_id: &ClientId, now: UnixNanos) -> bool {
        self.mailboxes.get(client_id).is_some_and(|mailbox| mailbox.ready(now).next().is_some())
    }

    /// Whether a message may be sent now, and if so whether nothing unsent is left behind it.
    pub(super) fn may_carry(&self, client_id: &ClientId, sequence: Sequence, now: UnixNanos) -> Option<bool> {
        let mailbox = self.mailboxes.get(client_id)?;
        let item = &mailbox.items[mailbox.at(sequence)?];
        (item.state == State::Waiting && item.expires > now).then_some(mailbox.waiting == 1)
    }

    /// A message is in an outbox.
    pub(super) fn carried(&mut self, client_id: &ClientId, sequence: Sequence, by: ConnectionId, now: UnixNanos) {
        if let Some(mailbox) = self.mailboxes.get_mut(client_id) {
            mailbox.bearer = by;
        }
        self.change(client_id, sequence, |_| Some(State::Carried(by, Stage::Accepted)));
        self.tell(sequence, Progress { stage: Stage::Accepted, connection_id: by, time: Some(now) });
    }

    /// A message that was in an outbox has come as far as `stage` and is delivered, or is to come further. False if it was not there.
    pub(super) fn reached(
        &mut self,
        client_id: &ClientId,
        sequence: Sequence,
        stage: Stage,
        delivered: bool,
        now: UnixNanos,
    ) -> bool {
        let mut connection_id = ConnectionId::NONE;
        let reached = self.change(client_id, sequence, |state| match state {
            State::Carried(by, before) if delivered || before < stage => {
                connection_id = by;
                Some(if delivered { State::Done(by, stage) } else { State::Carried(by, stage) })
            }
            _ => None,
        });
        if reached {
            self.tell(sequence, Progress { stage, connection_id, time: Some(now) });
        }
        reached
    }

    /// A message that was in an outbox did not get out of it, as far as is known.
    pub(super) fn returned(&mut self, client_id: &ClientId, sequence: Sequence) {
        let returned =
            self.change(client_id, sequence, |state| matches!(state, State::Carried(..)).then_some(State::Waiting));
        if !returned {
            return;
        }
        let expires = self.mailboxes.get(client_id).and_then(|of| of.at(sequence).map(|at| of.items[at].expires));
        self.look_by(client_id, expires.unwrap_or_default());
        self.tell(sequence, Progress::STORED);
    }

    /// Everything in the outbox of a connection goes back.
    pub(super) fn return_all(&mut self, client_id: &ClientId, connection_id: ConnectionId) {
        let Some(mailbox) = self.mailboxes.get(client_id) else { return };
        let by_it = |item: &&Item| matches!(item.state, State::Carried(by, _) if by == connection_id);
        let carried = mailbox.items.iter().filter(by_it);
        let sequences: Vec<_> = carried.map(|item| item.sequence).collect();
        for sequence in sequences {
            self.returned(client_id, sequence);
        }
    }

    /// Messages whose time is over, up to so many; they are sent no more. One in an outbox is left to its receipt.
    pub(super) fn expire(&mut self, now: UnixNanos, most: usize) -> Vec<(ClientId, Sequence)> {
        let mut expired = Vec::new();
        while expired.len() < most
            && self.due.first().is_some_and(|(time, _)| *time <= now)
            && let Some((_, client_id)) = self.due.pop_first()
        {
            let Some(mailbox) = self.mailboxes.get_mut(&client_id) else { continue };
            mailbox.look_at = None;
            let due = mailbox.to_come().filter(|(_, item)| item.state == State::Waiting && item.expires <= now);
            let due: Vec<_> = due.take(most - expired.len()).map(|(at, item)| (at, item.sequence)).collect();
            for (at, sequence) in due {
                mailbox.set(at, State::Expired);
                expired.push((client_id.clone(), sequence));
            }
            if let Some(next) = mailbox.earliest() {
                // At once, if there was no room for all.
                let again = if expired.len() < most { now + LOOK_AGAIN } else { now };
                self.look_by(&client_id, next.max(again));
            }
        }
        expired
    }

    /// When to look for expired messages next.
    pub(super) fn look_at(&self) -> Option<UnixNanos> {
        self.due.first().map(|(time, _)| *time)
    }

    /// How far the mail of a client is as a whole.
    pub(super) fn mail_state(&self, client_id: &ClientId) -> MailState {
        match self.mailboxes.get(client_id) {
            Some(mailbox) if mailbox.waiting > 0 => MailState::Unsent,
            Some(mailbox) if mailbox.carried > 0 => MailState::Sent(mailbox.bearer),
            _ => MailState::None,
        }
    }

    /// How far a message has come; one that is not there any more was stored once.
    pub(super) fn progress(&self, client_id: &ClientId, sequence: Sequence) -> Progress {
        let item = self.mailboxes.get(client_id).and_then(|of| of.at(sequence).map(|at| &of.items[at]));
        match item.map(|item| item.state) {
            Some(State::Carried(by, stage) | State::Done(by, stage)) => {
                Progress { stage, connection_id: by, time: None }
            }
            _ => Progress::STORED,
        }
    }

    /// Follows how far a message comes; ends when it is removed.
    pub(super) fn watch(&mut self, client_id: &ClientId, sequence: Sequence) -> watch::Receiver<Progress> {
        let progress = self.progress(client_id, sequence);
        let there = self.mailboxes.get(client_id).is_some_and(|mailbox| mailbox.at(sequence).is_some());
        if !there {
            return watch::Sender::new(progress).subscribe();
        }
        self.watched.entry(sequence).or_insert_with(|| watch::Sender::new(progress)).subscribe()
    }

    /// Keeps no track of a message that nobody follows.
    pub(super) fn unwatch(&mut self, sequence: Sequence) {
        if self.watched.get(&sequence).is_some_and(|watched| watched.receiver_count() == 0) {
            self.watched.remove(&sequence);
        }
    }

    fn tell(&self, sequence: Sequence, progress: Progress) {
        if let Some(watched) = self.watched.get(&sequence) {
            watched.send_replace(progress);
        }
    }

    /// Wakes the carrier of a mailbox; if there is none and something can be sent, one is to be started, which gets what wakes it.
    pub(super) fn wake_carrier(&mut self, client_id: &ClientId, now: UnixNanos) -> Option<Arc<Notify>> {
        if let Some(carrier) = self.mailboxes.get(client_id).and_then(|mailbox| mailbox.carrier.as_ref()) {
            carrier.notify_one();
            return None;
        }
        if !self.has_ready(client_id, now) {
            return None;
        }
        let woken = Arc::new(Notify::new());
        self.mailboxes.get_mut(client_id)?.carrier = Some(Arc::clone(&woken));
        Some(woken)
    }

    /// The carrier of a mailbox ends.
    pub(super) fn rest(&mut self, client_id: &ClientId) {
        if let Some(mailbox) = self.mailboxes.get_mut(client_id) {
            mailbox.carrier = None;
        }
        self.drop_if_empty(client_id);
    }

    /// The client ids that have mail.
    pub(super) fn clients(&self) -> impl Iterator<Item = &ClientId> {
        self.mailboxes.keys()
    }

    /// Messages and bytes stored.
    pub(super) fn totals(&self) -> (usize, u64) {
        (self.messages, self.bytes)
    }
}

#[cfg(test)]
#[path = "index_model.rs"]
mod model;
