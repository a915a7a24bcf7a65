//! The commands: every server in turn, round after round, and what came of it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::args::Options;
use crate::host::Host;
use crate::peers::{JOURNALLED, Peer, repository};
use crate::results::{Outcome, Report, ServerResults};
use crate::scenarios::{self, Scenario};
use crate::stage::Stage;
use crate::tls::Tls;
use crate::{plot, record, table};

/// Descriptors besides the connections' own.
const OTHER_DESCRIPTORS: u64 = 512;

/// Time between one server's end and the next one's start, for the kernel to clear away what the first left.
const PAUSE: Duration = Duration::from_millis(500);

pub fn list() -> Result<(), String> {
    println!("Scenarios:");
    for scenario in scenarios::ALL {
        println!("  {:<12} {}", scenario.name, scenario.about);
    }
    println!("Servers, besides {JOURNALLED}, which is heartwire with its log on disk:");
    for peer in Peer::all()? {
        let version = peer.version().unwrap_or_else(|| "not installed".to_owned());
        let scenarios: Vec<_> = peer.about.scenarios.iter().map(String::as_str).collect();
        println!(
            "  {:<17} {} {version}\n  {:<17} takes part in: {}",
            peer.name,
            peer.about.title,
            "",
            scenarios.join(", ")
        );
    }
    Ok(())
}

/// Installs those named, or all. One that cannot be had is told of; it is an error only where it was asked for by name.
pub fn install(names: &[String]) -> Result<(), String> {
    let mut missing = Vec::new();
    if let Some(unknown) = names.iter().find(|name| !Peer::is_known(name)) {
        return Err(format!("no server is called {unknown}; `list` shows them"));
    }
    for peer in Peer::all()? {
        if !names.is_empty() && !names.contains(&peer.name) {
            continue;
        }
        println!("{}: installing", peer.name);
        let status = peer.script("install.sh").status().map_err(|error| format!("cannot run sh: {error}"))?;
        match peer.version() {
            Some(version) if status.success() => println!("{}: {version}", peer.name),
            _ => {
                println!("{}: cannot be installed here ({status}; see above); it will be left out", peer.name);
                missing.push(peer.name);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let told = format!("not installed: {}", missing.join(", "));
    if names.is_empty() {
        println!("{told}; all others are, and runs leave out what is missing");
        return Ok(());
    }
    Err(told)
}

pub fn run(options: &Options) -> Result<(), String> {
    let chosen: Vec<_> = options.scenarios.iter().map(|name| scenarios::named(name)).collect::<Result<_, _>>()?;
    let peers = Peer::chosen(options)?;
    // Servers are children and get the same limit.
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).map_err(|error| format!("open files: {error}"))?;
    if let Some(wanted) = options.connections
        && u64::from(wanted) + OTHER_DESCRIPTORS > descriptors
    {
        return Err(format!(
            "{wanted} connections need more than the {descriptors} open files a process may have here"
        ));
    }
    let out = options.out.clone().unwrap_or_else(|| repository().join("target/bench"));
    let tls = options.tls.then(Tls::new).transpose()?;
    let mut nothing = Vec::new();
    for scenario in chosen {
        let report = measure(scenario, &peers, options, tls.as_ref(), &out, Host::here(descriptors));
        println!("{}", table::text(&report));
        println!("Recorded in {}", record::write(&report, &out)?.display());
        if report.servers.iter().any(|server| server.series.iter().any(|series| series.connections.is_some())) {
            for path in plot::write(&report, &out)? {
                println!("Drawn in {}", path.display());
            }
        }
        if report.servers.iter().all(|server| server.series.is_empty()) {
            nothing.push(scenario.name);
        }
    }
    if nothing.is_empty() { Ok(()) } else { Err(format!("nothing could be measured in: {}", nothing.join(", "))) }
}

fn measure(
    scenario: &Scenario,
    peers: &[Peer],
    options: &Options,
    tls: Option<&Tls>,
    out: &std::path::Path,
    host: Host,
) -> Report {
    let mut skipped = Vec::new();
    let mut taking_part = Vec::new();
    for peer in peers {
        match takes_part(peer, scenario, options) {
            Err(why) => skipped.push(format!("{}, which {why}", peer.name)),
            Ok(version) => taking_part.push((
                peer,
                ServerResults {
                    name: peer.name.clone(),
                    title: peer.about.title.clone(),
                    version,
                    differs: peer.about.differs.clone(),
                    tls: None,
                    series: Vec::new(),
                    remarks: Vec::new(),
                    failures: Vec::new(),
                },
            )),
        }
    }
    let interval = options.interval.unwrap_or(scenario.interval);
    for round in 1..=options.rounds {
        for (peer, results) in &mut taking_part {
            let begin = Instant::now();
            let directory = scratch(out, scenario, peer, round);
            let stage =
                Stage { peer, scenario: scenario.name, options, directory, interval, tls, agreed: OnceLock::new() };
            eprint!("{} round {round}/{} {} ...", scenario.name, options.rounds, peer.name);
            match (scenario.run)(&stage) {
                Ok(outcome) => {
                    eprintln!(" {:.1} s: {}", begin.elapsed().as_secs_f64(), summary(&outcome));
                    results.add(outcome);
                }
                Err(reason) => {
                    eprintln!(" failed: {reason}");
                    results.failures.push(format!("round {round}: {reason}"));
                }
            }
            results.tls = results.tls.take().or(stage.agreed.into_inner());
            std::thread::sleep(PAUSE);
        }
    }
    let servers: Vec<_> = taking_part.into_iter().map(|(_, results)| results).collect();
    let has_part = |name: &String| servers.iter().any(|server| &server.name == name);
    // The one with a journal is a variant, which nobody else is compared with unless asked for.
    let last = || servers.iter().rfind(|server| server.name != JOURNALLED).or(servers.last());
    let reference = options.reference.clone().filter(has_part).or_else(|| last().map(|server| server.name.clone()));
    Report {
        scenario: scenario.name.to_owned(),
        about: scenario.about.to_owned(),
        parameters: format!(
            "{}; heartbeat interval {}",
            (scenario.parameters)(options),
            humantime::format_duration(interval)
        ),
        settings: options.set.clone(),
        tls: options.tls,
        sessions: options.sessions,
        rounds: options.rounds,
        reference,
        host,
        servers,
        skipped,
    }
}

/// The version of a server that can do what is asked for, or why it is left out.
fn takes_part(peer: &Peer, scenario: &Scenario, options: &Options) -> Result<String, String> {
    let about = &peer.about;
    if !about.scenarios.contains(scenario.name) {
        return Err("has nothing to compare in this scenario".to_owned());
    }
    if options.tls && (!about.tls || about.plain_only.contains(scenario.name)) {
        return Err("cannot do this over TLS here".to_owned());
    }
    if options.sessions {
        let sessions = about.sessions.as_ref().ok_or("has no sessions")?;
        if !sessions.scenarios.contains(scenario.name) {
            return Err("cannot do this with sessions here".to_owned());
        }
    }
    peer.version().ok_or_else(|| format!("is not installed (`cargo bench --bench load -- install {}`)", peer.name))
}

/// The server's own directory in this round.
fn scratch(out: &std::path::Path, scenario: &Scenario, peer: &Peer, round: u16) -> PathBuf {
    let directory = out.join("servers").join(format!("{}-{}-{round}", scenario.name, peer.name));
    // What an earlier run left would be read as this one's.
    let _ = std::fs::remove_dir_all(&directory);
    directory
}

fn summary(outcome: &Outcome) -> String {
    let shown = outcome.measured.iter().take(4);
    let words =
        shown.map(|measured| format!("{} {} {}", measured.metric, table::number(measured.value), measured.unit));
    words.collect::<Vec<_>>().join(", ")
}
