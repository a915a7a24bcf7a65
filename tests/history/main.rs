//! The history checker and the fault runs. What is promised, what is run and how to read it: docs/testing.md.

#![allow(unreachable_pub, reason = "one binary")]

mod actors;
mod check;
mod faults;
mod files;
mod mutants;
mod options;
mod orders;
mod own;
mod plan;
mod record;
mod report;
mod run;
mod synthetic;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use faults::tools::Tools;
use files::History;
use options::{Options, What};
use plan::Plan;
use report::Coverage;
use tokio::time::Instant;

/// The seed of the run that is part of every `cargo test`.
const SHORT_SEED: u64 = 1;

/// How often each mutant is made in runs that go on until a time is up: what is learned from more is not worth the time.
const MUTANTS_OF_A_KIND: usize = 3;

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    if let Some(binary) = &options.binary {
        // Nobody has asked for it yet.
        let _ = world::OTHER_BINARY.set(binary.clone());
    }
    let good = match &options.what {
        What::Own { filter } => {
            let own = own::test(filter);
            let run = filter.is_empty() || "a short run".contains(filter.as_str());
            own && (!run || serve(short(&options)))
        }
        What::Judge { directory } => judge(directory),
        What::Plans { seeds } => serve(plans(&options, seeds)),
        What::Runs { .. } => serve(runs(&options)),
        What::Nothing => true,
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn serve(work: impl Future<Output = bool>) -> bool {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut term = signal(SignalKind::terminate()).expect("a signal");
        tokio::select! {
            good = work => good,
            // What was started and mounted goes with what is dropped.
            _ = tokio::signal::ctrl_c() => false,
            _ = term.recv() => false,
        }
    })
}

/// Judges histories that were kept.
fn judge(directory: &std::path::Path) -> bool {
    let history = match History::load(directory) {
        Ok(history) => history,
        Err(error) => {
            println!("{}: {error}", directory.display());
            return false;
        }
    };
    let verdict = check::judge(&history);
    report::tell(&verdict, 5);
    let mut coverage = Coverage::default();
    coverage.add(&history, &verdict);
    let good = verdict.violations.is_empty() && coverage.mutations.make(&history, usize::MAX);
    coverage.print();
    good
}

/// Where runs keep what they need.
struct Places {
    keep: Option<PathBuf>,
    scratch: PathBuf,
    data: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Places {
    fn of(options: &Options) -> Self {
        let temporary = tempfile::Builder::new().prefix("heartwire-history").tempdir().expect("a temporary directory");
        let scratch = options.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
        let data = options.data_dir_base.clone().unwrap_or_else(|| temporary.path().to_owned());
        Self { keep: options.keep.clone(), scratch, data, _temporary: temporary }
    }
}

/// One run: true if every promise was kept, the run came to its end, and the mutants of its history were rejected; each of them is made
/// `mutants` times at the most.
async fn one(plan: &Plan, places: &Places, tools: &Tools, coverage: &mut Coverage, mutants: usize) -> bool {
    println!("\n{plan}");
    let directory = places.scratch.join(format!("seed-{}", plan.seed));
    let began = Instant::now();
    let outcome = run::run(plan, &directory, &places.data, tools).await;
    let took = began.elapsed();
    let history = match History::load(&directory.join("history")) {
        Ok(history) => history,
        Err(error) => {
            println!("the histories cannot be read: {error}");
            return false;
        }
    };
    let verdict = check::judge(&history);
    coverage.add(&history, &verdict);
    report::tell(&verdict, 3);
    let mut good = verdict.violations.is_empty();
    if let Err(trouble) = &outcome {
        println!("the run did not come to its end: {trouble}");
        good = false;
    }
    // What is not good is not damaged any further.
    good = good && coverage.mutations.make(&history, mutants);
    println!("seed {} {} in {:.1} s", plan.seed, if good { "ok" } else { "FAILED" }, took.as_secs_f64());
    if good && places.keep.is_none() {
        let _ = std::fs::remove_dir_all(&directory);
    } else {
        if !good && places.keep.is_none() {
            keep(&directory, plan.seed);
        }
        println!("again: cargo test --test history -- --seed {}", plan.seed);
    }
    good
}

/// Moves the histories of a failure to where they stay.
fn keep(directory: &std::path::Path, seed: u64) {
    let place = std::env::temp_dir().join(format!("heartwire-history-failed-{seed}-{}", std::process::id()));
    match std::fs::rename(directory, &place) {
        Ok(()) => println!("histories kept: {}", place.join("history").display()),
        Err(error) => println!("histories could not be kept: {error}"),
    }
}

/// The run that is part of every `cargo test`.
async fn short(options: &Options) -> bool {
    let places = Places::of(options);
    let tools = Tools::default();
    let features = world::features(&places.data).await;
    let plan = Plan::of(SHORT_SEED, features, &tools, true);
    let mut coverage = Coverage::default();
    let good = one(&plan, &places, &tools, &mut coverage, usize::MAX).await;
    coverage.print();
    good
}

/// Shows what seeds stand for.
async fn plans(options: &Options, seeds: &[u64]) -> bool {
    let places = Places::of(options);
    let tools = Tools::find(&places.data);
    let features = world::features(&places.data).await;
    for seed in seeds {
        println!("{}", Plan::of(*seed, features, &tools, false));
    }
    true
}

async fn runs(options: &Options) -> bool {
    let What::Runs { seeds, lasts } = &options.what else { return true };
    let places = Places::of(options);
    let tools = Tools::find(&places.data);
    let features = world::features(&places.data).await;
    let mut coverage = Coverage::default();
    coverage.missing.extend(tools.missing.iter().cloned());
    if !features.journal {
        coverage.missing.insert("journal: this binary keeps its log in memory only".to_owned());
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
    let mut random = fastrand::Rng::with_seed(now);
    let began = Instant::now();
    let mut given = seeds.iter().copied();
    let mut failed = Vec::new();
    let mutants = if lasts.is_some() { MUTANTS_OF_A_KIND } else { usize::MAX };
    loop {
        // The seeds that were given, then random ones until the time is up.
        let time_is_up = lasts.is_none_or(|lasts: Duration| began.elapsed() >= lasts);
        let seed = match given.next() {
            Some(seed) => seed,
            None if time_is_up => break,
            None if !seeds.is_empty() && !options.random => seeds[0].wrapping_add(coverage.runs as u64 * 1_000_003),
            None => random.u64(0..1 << 40),
        };
        let plan = Plan::of(seed, features, &tools, false);
        if !one(&plan, &places, &tools, &mut coverage, mutants).await {
            failed.push(seed);
        }
    }
    coverage.print();
    if !failed.is_empty() {
        println!("FAILED seeds: {failed:?}");
    }
    failed.is_empty()
}
