//! The checker checked: a good history passes, and each mutant of it is rejected by just the promise that it breaks.

use std::collections::BTreeMap;

use crate::check::{self, PROMISES};
use crate::files::History;
use crate::mutants::MUTANTS;
use crate::report::tell;
use crate::synthetic;

/// Runs those tests whose name has `filter` in it; false if one failed.
pub fn test(filter: &str) -> bool {
    let good = synthetic::history();
    let mut passed = true;
    let mut test = |name: String, good: &dyn Fn() -> bool| {
        if name.contains(filter) {
            let ok = good();
            println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
            passed &= ok;
        }
    };
    test("a good history passes, with every promise judged".to_owned(), &|| {
        let verdict = check::judge(&good);
        tell(&verdict, 5);
        verdict.violations.is_empty() && (1..=PROMISES).all(|promise| verdict.judged.contains_key(&promise))
    });
    test("every promise has a mutant".to_owned(), &|| {
        (1..=PROMISES).all(|promise| MUTANTS.iter().any(|(breaks, ..)| *breaks == promise))
    });
    test("a history is the same after it was written and read".to_owned(), &|| {
        let Ok(directory) = tempfile::tempdir() else { return false };
        let read = good.save(directory.path()).and_then(|()| History::load(directory.path()));
        let sorted = |history: &History| {
            let mut records = history.records.clone();
            records.sort_by(|a, b| (a.t, &a.actor).cmp(&(b.t, &b.actor)));
            records
        };
        read.is_ok_and(|read| sorted(&read) == sorted(&good))
    });
    for (promise, name, damage) in MUTANTS {
        test(format!("mutant: {name} (promise {promise})"), &|| {
            let mut mutant = good.clone();
            damage(&mut mutant).is_some() && rejected(&mutant, *promise)
        });
    }
    passed
}

/// Whether a damaged history is rejected by just this promise.
fn rejected(mutant: &History, promise: u8) -> bool {
    let verdict = check::judge(mutant);
    let right = verdict.broken_promises().into_iter().eq([promise]);
    if !right {
        println!("  rejected by {:?}", verdict.broken_promises());
        tell(&verdict, 2);
    }
    right
}

/// What came of the mutants of real histories.
#[derive(Default)]
pub struct Mutations {
    /// How often each was made, and rejected by its promise.
    caught: BTreeMap<&'static str, usize>,
    /// Histories that were damaged.
    histories: usize,
}

impl Mutations {
    /// Damages the history of a good run in every way that it has a place for, apart from those that were made `most` times already. Every
    /// mutant must be rejected by its promise; those that were not are told, and the answer is false.
    pub fn make(&mut self, good: &History, most: usize) -> bool {
        self.histories += 1;
        let (mut made, mut all) = (0, true);
        for (promise, name, damage) in MUTANTS {
            if self.caught.get(name).is_some_and(|caught| *caught >= most) {
                continue;
            }
            let mut mutant = good.clone();
            if damage(&mut mutant).is_none() {
                continue;
            }
            made += 1;
            // A real history is large, and what is damaged in it may be judged from two sides; the right one must be among them.
            let verdict = check::judge(&mutant);
            if verdict.broken_promises().contains(promise) {
                *self.caught.entry(name).or_default() += 1;
            } else {
                all = false;
                println!(
                    "NOT CAUGHT: {name}: not rejected by promise {promise}, but by {:?}",
                    verdict.broken_promises()
                );
                tell(&verdict, 1);
            }
        }
        println!("  {made} mutants of its history{}", if all { ", each rejected by its promise" } else { "" });
        all
    }

    /// Tells how many there were, and which had no place anywhere.
    pub fn print(&self) {
        if self.histories == 0 {
            return;
        }
        let caught: usize = self.caught.values().sum();
        println!("  mutants: {caught} of {} histories were rejected by their promises", self.histories);
        for (promise, name, _) in MUTANTS.iter().filter(|(_, name, _)| !self.caught.contains_key(name)) {
            println!("  NO PLACE in any of these histories for the mutant: {name} (promise {promise})");
        }
    }
}
