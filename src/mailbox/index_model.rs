//! The index against a list that is simply searched.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { max_messages: 5, max_bytes: 1_000, max_total_bytes: 1_600 };
const SECOND: UnixNanos = 1_000_000_000;

#[derive(Clone, Debug)]
enum Op {
    Admit {
        client: u8,
        ttl: i64,
        weight: u32,
    },
    Commit(usize),
    Revoke(usize),
    /// Puts what comes next for a client in an outbox.
    Carry(u8),
    Receipt(usize, bool),
    /// A connection ends and nothing is known of what it carried.
    ReturnAll(u8),
    Expire {
        seconds: i64,
        most: usize,
    },
    Remove(usize),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..3, 1i64..20, 1u32..400).prop_map(|(client, ttl, weight)| Op::Admit { client, ttl, weight }),
        5 => (0usize..8).prop_map(Op::Commit),
        1 => (0usize..8).prop_map(Op::Revoke),
        5 => (0u8..3).prop_map(Op::Carry),
        4 => ((0usize..8), any::<bool>()).prop_map(|(at, delivered)| Op::Receipt(at, delivered)),
        1 => (0u8..3).prop_map(Op::ReturnAll),
        3 => (0i64..5, 1usize..4).prop_map(|(seconds, most)| Op::Expire { seconds, most }),
        3 => (0usize..8).prop_map(Op::Remove),
        1 => Just(Op::Restart),
    ]
}

#[derive(Clone, Debug)]
struct Line {
    client: ClientId,
    head: Head,
    state: State,
}

struct World {
    index: Index,
    lines: Vec<Line>,
    now: UnixNanos,
}

fn client(number: u8) -> ClientId {
    ClientId::named(&format!("c{number}")).expect("an id")
}

/// The connection of a client, always the same.
fn connection(of: &ClientId) -> ConnectionId {
    ConnectionId::parse(&format!("00000000-0000-7000-8000-0000000000{:02x}", of.as_str().as_bytes()[1]))
        .expect("a UUID")
}

impl World {
    fn of<'a>(&'a self, client: &'a ClientId) -> impl Iterator<Item = &'a Line> {
        self.lines.iter().filter(move |line| line.client == *client)
    }

    fn pick(&self, at: usize, like: impl Fn(State) -> bool) -> Option<usize> {
        let all: Vec<_> = (0..self.lines.len()).filter(|at| like(self.lines[*at].state)).collect();
        (!all.is_empty()).then(|| all[at % all.len()])
    }

    fn ready(&self, client: &ClientId) -> Vec<Sequence> {
        let known = self.of(client).take_while(|line| line.state != State::Storing);
        known
            .filter(|line| line.state == State::Waiting && line.head.expires > self.now)
            .map(|line| line.head.sequence)
            .collect()
    }

    fn admit(&mut self, client: &ClientId, ttl: i64, weight: u32) {
        let bytes = |lines: &mut dyn Iterator<Item = &Line>| lines.map(|line| u64::from(line.head.weight)).sum::<u64>();
        let weighs = u64::from(weight);
        let (count, own) = (self.of(client).count(), bytes(&mut self.of(client)));
        let expected = if count >= LIMITS.max_messages || own + weighs > LIMITS.max_bytes {
            Err(Over::Client)
        } else if bytes(&mut self.lines.iter()) + weighs > LIMITS.max_total_bytes {
            Err(Over::Total)
        } else {
            Ok(())
        };
        let newest = self.lines.iter().map(|line| line.head.sequence).max();
        let admitted = self.index.admit(client, self.now + ttl * SECOND, weight);
        assert_eq!(admitted.map(|_| ()), expected);
        if let Ok(head) = admitted {
            assert!(newest.is_none_or(|newest| newest < head.sequence), "the places rise");
            self.lines.push(Line { client: client.clone(), head, state: State::Storing });
        }
    }

    fn carry(&mut self, client: &ClientId) {
        let ready = self.ready(client);
        assert_eq!(self.index.next(client, self.now, usize::MAX, u64::MAX), ready);
        assert_eq!(self.index.next(client, self.now, usize::MAX, 0), ready[..ready.len().min(1)]);
        let Some(sequence) = ready.first().copied() else { return };
        let unsent = self.of(client).filter(|line| line.state == State::Waiting).count();
        assert_eq!(self.index.may_carry(client, sequence, self.now), Some(unsent == 1));
        self.index.carried(client, sequence, connection(client), self.now);
        self.set(sequence, State::Carried(connection(client), Stage::Accepted));
    }

    fn set(&mut self, sequence: Sequence, state: State) {
        let line = self.lines.iter_mut().find(|line| line.head.sequence == sequence).expect("known");
        line.state = state;
    }

    fn expire(&mut self, most: usize) {
        let now = self.now;
        let may = |line: &Line| line.state == State::Waiting && line.head.expires <= now;
        let due = self.lines.iter().filter(|line| may(line)).count();
        let looked = self.index.look_at();
        assert!(due == 0 || looked.is_some(), "nothing that expires is forgotten");
        let expired = self.index.expire(self.now, most);
        assert!(expired.len() <= most);
        for (client, sequence) in expired {
            let line = self.lines.iter().find(|line| line.head.sequence == sequence).expect("known");
            assert!(may(line) && line.client == client, "{line:?}");
            self.set(sequence, State::Expired);
        }
    }

    /// What a node that starts now would find.
    fn restart(&mut self) {
        self.lines.retain(|line| line.state != State::Storing);
        self.index = Index::new(LIMITS);
        self.lines.sort_by_key(|line| (line.client.clone(), line.head.sequence));
        for line in &mut self.lines {
            line.state = State::Waiting;
            self.index.load(&line.client, line.head);
        }
        self.lines.sort_by_key(|line| line.head.sequence);
    }

    fn play(&mut self, op: Op) {
        match op {
            Op::Admit { client: number, ttl, weight } => self.admit(&client(number), ttl, weight),
            Op::Commit(at) => {
                let Some(at) = self.pick(at, |state| state == State::Storing) else { return };
                let Line { client, head, .. } = self.lines[at].clone();
                self.index.commit(&client, head.sequence);
                self.set(head.sequence, State::Waiting);
                self.index.commit(&client, head.sequence);
            }
            Op::Revoke(at) => {
                let Some(at) = self.pick(at, |state| state == State::Storing) else { return };
                let line = self.lines.remove(at);
                self.index.forget(&line.client, line.head.sequence);
            }
            Op::Carry(number) => self.carry(&client(number)),
            Op::Receipt(at, delivered) => {
                let Some(at) = self.pick(at, |state| matches!(state, State::Carried(..))) else { return };
                let Line { client, head, .. } = self.lines[at].clone();
                if delivered {
                    self.index.reached(&client, head.sequence, Stage::Written, false, self.now);
                    assert!(self.index.reached(&client, head.sequence, Stage::Acked, true, self.now));
                    assert!(!self.index.reached(&client, head.sequence, Stage::Acked, true, self.now), "counted once");
                    assert!(!self.index.reached(&client, head.sequence, Stage::Written, false, self.now), "never back");
                    self.set(head.sequence, State::Done(connection(&client), Stage::Acked));
                } else {
                    self.index.returned(&client, head.sequence);
                    self.set(head.sequence, State::Waiting);
                }
            }
            Op::ReturnAll(number) => {
                let client = client(number);
                self.index.return_all(&client, connection(&client));
                for line in self.lines.iter_mut().filter(|line| line.client == client) {
                    if matches!(line.state, State::Carried(..)) {
                        line.state = State::Waiting;
                    }
                }
            }
            Op::Expire { seconds, most } => {
                self.now += seconds * SECOND;
                self.expire(most);
            }
            Op::Remove(at) => {
                let Some(at) = self.pick(at, |state| matches!(state, State::Done(..) | State::Expired)) else { return };
                let line = self.lines.remove(at);
                self.index.forget(&line.client, line.head.sequence);
            }
            Op::Restart => self.restart(),
        }
    }

    fn check(&self) {
        let bytes = self.lines.iter().map(|line| u64::from(line.head.weight)).sum();
        assert_eq!(self.index.totals(), (self.lines.len(), bytes));
        for number in 0..3 {
            let client = client(number);
            let count = |like: fn(State) -> bool| self.of(&client).filter(|line| like(line.state)).count();
            let expected = match (count(|s| s == State::Waiting), count(|s| matches!(s, State::Carried(..)))) {
                (1.., _) => MailState::Unsent,
                (0, 1..) => MailState::Sent(connection(&client)),
                (0, 0) => MailState::None,
            };
            assert_eq!(self.index.mail_state(&client), expected);
            assert_eq!(self.index.has_ready(&client, self.now), !self.ready(&client).is_empty());
            for line in self.of(&client) {
                let over = match line.state {
                    State::Waiting => line.head.expires <= self.now,
                    state => state == State::Expired,
                };
                assert_eq!(self.index.is_over(&client, line.head.sequence, self.now), over, "{line:?}");
            }
            let there = self.index.clients().any(|id| *id == client);
            assert_eq!(there, self.of(&client).next().is_some(), "nothing is kept for a client without mail");
            let mut lines: Vec<_> = self.of(&client).collect();
            lines.sort_by_key(|line| line.head.sequence);
            let to_come = |line: &&Line| matches!(line.state, State::Storing | State::Waiting);
            let first = lines.iter().position(to_come).unwrap_or(lines.len());
            assert_eq!(self.index.mailboxes.get(&client).map_or(0, |of| of.first), first, "where to begin");
        }
        assert!(self.index.due.len() <= self.index.mailboxes.len());
    }

    /// Lets everything expire, which it must.
    fn end(&mut self) {
        let commit: Vec<_> = self.lines.iter().filter(|line| line.state == State::Storing).cloned().collect();
        for line in commit {
            self.index.commit(&line.client, line.head.sequence);
            self.set(line.head.sequence, State::Waiting);
        }
        for number in 0..3 {
            self.play(Op::ReturnAll(number));
        }
        self.now += 1_000 * SECOND;
        for _ in 0..100 {
            self.now += SECOND;
            self.expire(2);
        }
        let through = |line: &Line| matches!(line.state, State::Done(..) | State::Expired);
        assert!(self.lines.iter().all(through), "{:?}", self.lines);
        for line in std::mem::take(&mut self.lines) {
            self.index.forget(&line.client, line.head.sequence);
        }
        self.check();
        assert!(self.index.due.is_empty() && self.index.watched.is_empty());
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_index_says_what_the_list_says(ops in proptest::collection::vec(op(), 0..120)) {
        let mut world = World { index: Index::new(LIMITS), lines: Vec::new(), now: 1_000 * SECOND };
        for op in ops {
            world.play(op);
            world.check();
        }
        world.end();
    }
}

#[test]
fn a_follower_hears_each_stage_and_the_end_and_nothing_is_kept_for_one_who_has_gone() {
    let mut index = Index::new(LIMITS);
    let alice = client(0);
    let head = index.admit(&alice, 10, 1).expect("room");
    index.commit(&alice, head.sequence);
    let mut progress = index.watch(&alice, head.sequence);
    assert_eq!(progress.borrow_and_update().stage, Stage::Stored);
    index.carried(&alice, head.sequence, connection(&alice), 5);
    let accepted = Progress { stage: Stage::Accepted, connection_id: connection(&alice), time: Some(5) };
    assert_eq!(*progress.borrow_and_update(), accepted);
    index.returned(&alice, head.sequence);
    assert_eq!(*progress.borrow_and_update(), Progress::STORED);
    index.carried(&alice, head.sequence, connection(&alice), 6);
    assert!(index.reached(&alice, head.sequence, Stage::Written, true, 7));
    let written = Progress { stage: Stage::Written, ..accepted };
    assert_eq!(*progress.borrow_and_update(), Progress { time: Some(7), ..written });
    index.unwatch(head.sequence);
    assert_eq!(index.watched.len(), 1, "somebody follows it");
    drop(progress);
    index.unwatch(head.sequence);
    assert!(index.watched.is_empty());
    let progress = index.watch(&alice, head.sequence);
    index.forget(&alice, head.sequence);
    assert!(progress.has_changed().is_err() && progress.borrow().stage == Stage::Written);
    assert_eq!(index.watch(&alice, head.sequence).borrow().stage, Stage::Stored, "it was stored once");
}

#[test]
fn a_large_mailbox_takes_time_by_its_messages_and_not_by_their_square() {
    const MANY: usize = 3_000;
    let limits = Limits { max_messages: MANY, max_bytes: u64::MAX, max_total_bytes: u64::MAX };
    let (mut index, alice) = (Index::new(limits), client(0));
    for _ in 0..MANY {
        let head = index.admit(&alice, 10, 1).expect("room");
        index.commit(&alice, head.sequence);
    }
    // All are put in an outbox, and only then does the first receipt come. Looked at by items rather than by a clock.
    let mut looked = 0;
    while let Some(sequence) = index.next(&alice, 5, 1, u64::MAX).first().copied() {
        let mailbox = &index.mailboxes[&alice];
        looked += mailbox.to_come().take_while(|(_, item)| item.sequence != sequence).count() + 1;
        index.carried(&alice, sequence, connection(&alice), 5);
        assert!(index.has_ready(&alice, 5) == (sequence < MANY as Sequence));
    }
    assert_eq!(looked, MANY);
}
