//! The checker: judges the thirteen promises of docs/testing.md from histories alone.

mod acknowledged;
mod bookmarks;
mod delivery;
pub mod facts;
mod fold;
mod isolation;
mod lives;
mod liveness;
mod order;
mod owners;
mod resume;
mod session_order;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};

use crate::files::History;
use crate::record::Record;
use facts::Facts;
pub use order::passes;

/// How many promises there are.
pub const PROMISES: u8 = 13;

/// A promise in a few words, for reports.
pub const fn words(promise: u8) -> &'static str {
    match promise {
        1 => "exactly one Disconnected for each Connected",
        2 => "one sequence: rising, unique, gap-free, the same for every reader",
        3 => "a filtered stream equals the filtered log",
        4 => "resumed where it was cut, or OUT_OF_RANGE, never silence",
        5 => "bookmarks tell the truth",
        6 => "snapshots, lists and answers at a cursor equal the fold there",
        7 => "ACCEPTED, WRITTEN, ACKED and STORED mean what they say",
        8 => "a failed send is never received, and failures are definite",
        9 => "first in, first out, without duplicates, within a connection's life",
        10 => "one owner of a client id, and the newest wins",
        11 => "a silent client is GONE in time, a beating one never",
        12 => "who stalls costs the others nothing, and a drain leaves nothing",
        13 => "what was acknowledged to a client is in the log",
        _ => "?",
    }
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub struct Violation {
    pub promise: u8,
    pub what: String,
    /// Lines of the histories.
    pub evidence: Vec<String>,
}

/// What the checker came to.
#[derive(Default)]
pub struct Verdict {
    pub violations: Vec<Violation>,
    /// How many instances of each promise were judged. None judged is not a promise kept.
    pub judged: BTreeMap<u8, usize>,
    /// What was seen and is neither good nor bad, by name.
    pub notes: BTreeMap<&'static str, usize>,
    /// Connections whose life is broken; what follows from that is not told again under other promises.
    broken: BTreeSet<String>,
}

impl Verdict {
    fn judged(&mut self, promise: u8) {
        *self.judged.entry(promise).or_default() += 1;
    }

    fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }

    fn violation(&mut self, promise: u8, what: impl Into<String>, evidence: impl IntoIterator<Item = String>) {
        self.violations.push(Violation { promise, what: what.into(), evidence: evidence.into_iter().collect() });
    }

    /// The promises that were not kept.
    pub fn broken_promises(&self) -> BTreeSet<u8> {
        self.violations.iter().map(|violation| violation.promise).collect()
    }
}

/// A line of a history, cut to what a person reads.
fn line(record: &Record) -> String {
    const LONGEST: usize = 700;
    let mut text = serde_json::to_string(record).expect("a line of JSON");
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Judges everything.
pub fn judge(history: &History) -> Verdict {
    let facts = Facts::gather(history);
    let mut verdict = Verdict::default();
    // First, because it says which connections the others must leave out.
    lives::judge(&facts, &mut verdict);
    order::judge(&facts, &mut verdict);
    resume::judge(&facts, &mut verdict);
    bookmarks::judge(&facts, &mut verdict);
    snapshots::judge(&facts, &mut verdict);
    delivery::judge(&facts, &mut verdict);
    session_order::judge(&facts, &mut verdict);
    owners::judge(&facts, &mut verdict);
    liveness::judge(&facts, &mut verdict);
    isolation::judge(&facts, &mut verdict);
    acknowledged::judge(&facts, &mut verdict);
    verdict
}
