//! What a run covered, and what it found, as people read it.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::facts::Facts;
use crate::check::{PROMISES, Verdict, words};
use crate::files::History;
use crate::own::Mutations;
use crate::record::What;

/// Sums over runs.
#[derive(Default)]
pub struct Coverage {
    pub runs: usize,
    histories: usize,
    lines: usize,
    events: usize,
    connections: usize,
    sessions: usize,
    processes: usize,
    kills: usize,
    faults: BTreeMap<String, usize>,
    judged: BTreeMap<u8, usize>,
    /// Connections by how they ended.
    ends: BTreeMap<String, usize>,
    /// Left out, and why.
    pub missing: BTreeSet<String>,
    pub mutations: Mutations,
}

impl Coverage {
    pub fn add(&mut self, history: &History, verdict: &Verdict) {
        let facts = Facts::gather(history);
        self.runs += 1;
        self.histories += history.records.iter().map(|record| record.actor.as_str()).collect::<BTreeSet<_>>().len();
        self.lines += history.records.len();
        self.events += facts.logs.values().map(|log| log.events.len()).sum::<usize>();
        self.connections += facts.lives.len();
        self.sessions += facts.sessions.len();
        self.processes += facts.runs.len();
        for record in &history.records {
            let name = match &record.what {
                What::Ending { how, .. } if how == "kill -9" => {
                    self.kills += 1;
                    continue;
                }
                What::Fault { name, on: true, .. } => name.clone(),
                What::Closing { how, .. } if how != "close" && how != "empty" && how != "bye" => {
                    format!("client: {how}")
                }
                What::Silent { .. } => "client: silent or in a black hole".to_owned(),
                What::Stalled { on: true, .. } => "client: stalls".to_owned(),
                What::Unsubscribed { cut: true, .. } => "stream: cut".to_owned(),
                What::Unsubscribed { outcome, .. } if !outcome.reason.is_empty() => {
                    format!("stream: {}", outcome.reason)
                }
                What::Closed { code: 4413, .. } => "client: closed as too slow".to_owned(),
                What::Closed { code: 4409, .. } => "client: replaced".to_owned(),
                _ => continue,
            };
            *self.faults.entry(name).or_default() += 1;
        }
        for (promise, n) in &verdict.judged {
            *self.judged.entry(*promise).or_default() += n;
        }
        for life in &facts.lives {
            *self.ends.entry(life.cause().unwrap_or("open at the end").to_owned()).or_default() += 1;
        }
    }

    pub fn print(&self) {
        println!("\ncovered");
        println!(
            "  {} runs: {} histories, {} lines, {} events, {} connections, {} sockets, {} processes, {} of them killed",
            self.runs,
            self.histories,
            self.lines,
            self.events,
            self.connections,
            self.sessions,
            self.processes,
            self.kills
        );
        let faults: Vec<_> = self.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
        println!("  faults: {}", faults.join(", "));
        let ends: Vec<_> = self.ends.iter().map(|(cause, n)| format!("{cause} {n}")).collect();
        println!("  connections ended: {}", ends.join(", "));
        for promise in 1..=PROMISES {
            match self.judged.get(&promise) {
                Some(n) => println!("  {promise:>2} {:<72} {n:>8} judged", words(promise)),
                None => println!("  {promise:>2} {:<72} NOT JUDGED: nothing in these runs touched it", words(promise)),
            }
        }
        self.mutations.print();
        for missing in &self.missing {
            println!("SKIPPED {missing}");
        }
    }
}

/// Tells what was not kept, with its evidence; at most so many of each promise.
pub fn tell(verdict: &Verdict, most: usize) {
    let mut told: BTreeMap<u8, usize> = BTreeMap::new();
    for violation in &verdict.violations {
        let count = told.entry(violation.promise).or_default();
        *count += 1;
        if *count > most {
            continue;
        }
        println!("VIOLATION of promise {} ({})", violation.promise, words(violation.promise));
        println!("  {}", violation.what);
        for line in &violation.evidence {
            println!("    {line}");
        }
    }
    for (promise, count) in told.into_iter().filter(|(_, count)| *count > most) {
        println!("  … and {} more of promise {promise}", count - most);
    }
}
