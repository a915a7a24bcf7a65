//! The core at a million: registry, timers and log in memory, driven by simulated connections that have no sockets.
//!
//! `cargo bench --bench core -- [--up-to N] [--json FILE]`. Each number of connections is measured in a process of its own, so that none inherits
//! what another left in the allocator. Nothing is asserted; benches/README.md says how to read it.

mod measures;
mod process;
mod silence;
mod world;

use std::process::{Command, ExitCode, Stdio};

use serde_json::{Value, json};

/// As in the binary, because memory is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The measure that comes first.
const MEMORY: &str = "memory of a connection";

const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];

/// What a run of a million is known to need, with the queue of a million ends: a size that has less is left out.
const BYTES_EACH: u64 = 2_000;
const BYTES_BESIDE: u64 = 400 << 20;

/// How a measure ought to go with the number of connections.
#[derive(Clone, Copy)]
enum Shape {
    /// The same for any number.
    Flat,
    /// With the number of connections.
    Linear,
}

impl Shape {
    const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Linear => "linear",
        }
    }
}

/// What one process measured, in order.
#[derive(Default)]
struct Measured(Vec<Value>);

impl Measured {
    fn add(&mut self, name: &str, unit: &str, shape: Shape, value: f64) {
        eprintln!("    {name}: {} {unit}", told(value));
        self.0.push(json!({ "name": name, "unit": unit, "shape": shape.name(), "value": value }));
    }
}

fn measure(connections: usize) -> Measured {
    let mut measured = Measured::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let crowd = measures::alive(connections, &mut measured);
        silence::falls(crowd, &mut measured).await;
    });
    measured
}

/// Has a process of its own measure one size.
fn apart(connections: usize) -> Result<Value, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let child = Command::new(own).args(["--one", &connections.to_string()]).stdout(Stdio::piped()).spawn();
    let output = child.and_then(std::process::Child::wait_with_output).map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("its process ended with {}", output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that count, and what is before the point whole.
fn told(value: f64) -> String {
    match value {
        value if value < 0.0 => format!("-{}", told(-value)),
        value if value >= 99.95 => grouped(value.round() as u64),
        value if value >= 9.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn table(results: &[(usize, Value)]) -> String {
    let mut text = String::from("| measure | should be |");
    for (connections, _) in results {
        text += &format!(" {} |", grouped(*connections as u64));
    }
    text += &format!("\n|---|---|{}\n", "---:|".repeat(results.len()));
    text += &beyond(results);
    let rows = results.first().and_then(|(_, first)| first.as_array()).map_or(0, Vec::len);
    for row in 0..rows {
        let cell = |result: &Value, key: &str| result[row][key].as_str().unwrap_or_default().to_owned();
        let (_, first) = &results[0];
        text += &format!("| {}, {} | {} |", cell(first, "name"), cell(first, "unit"), cell(first, "shape"));
        for (_, result) in results {
            text += &format!(" {} |", result[row]["value"].as_f64().map_or_else(|| "–".to_owned(), told));
        }
        text.push('\n');
    }
    text
}

/// The memory of each connection beyond those of the size before, which leaves out what any number of them needs.
fn beyond(results: &[(usize, Value)]) -> String {
    let mut text = format!("| {MEMORY}, of each beyond the size before, B PSS | flat |");
    let mut before = None;
    for (connections, result) in results {
        let each = |row: &&Value| row["name"] == MEMORY;
        let each = result.as_array().and_then(|rows| rows.iter().find(each)).and_then(|row| row["value"].as_f64());
        let (count, all) = (*connections as f64, each.unwrap_or_default() * *connections as f64);
        let more = before.replace((count, all)).map(|(fewer, less)| (all - less) / (count - fewer));
        text += &format!(" {} |", more.map_or_else(|| "–".to_owned(), told));
    }
    text + "\n"
}

struct Options {
    up_to: usize,
    json: Option<String>,
    /// The size that this process is to measure, for the one that started it.
    one: Option<usize>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { up_to: 1_000_000, json: None, one: None };
    let mut arguments = std::env::args().skip(1);
    let number = |value: Option<String>| value.and_then(|value| value.replace([',', '_'], "").parse::<usize>().ok());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            // cargo passes it.
            "--bench" => {}
            "--up-to" => options.up_to = number(arguments.next()).ok_or("--up-to needs a number")?,
            "--one" => options.one = Some(number(arguments.next()).ok_or("--one needs a number")?),
            "--json" => options.json = Some(arguments.next().ok_or("--json needs a file")?),
            other => return Err(format!("what is {other}? There are --up-to N and --json FILE")),
        }
    }
    Ok(options)
}

fn run() -> Result<(), String> {
    let options = options()?;
    if let Some(connections) = options.one {
        println!("{}", Value::Array(measure(connections).0));
        return Ok(());
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut results = Vec::new();
    for connections in SIZES.into_iter().filter(|size| *size <= options.up_to) {
        let needed = connections as u64 * BYTES_EACH + BYTES_BESIDE;
        if process::available_bytes().is_some_and(|available| available < needed) {
            eprintln!("{} connections need {} MB, and there are less", grouped(connections as u64), needed >> 20);
            break;
        }
        eprintln!("{} connections", grouped(connections as u64));
        results.push((connections, apart(connections)?));
    }
    if cfg!(debug_assertions) {
        println!("A debug build: no time of it means anything.\n");
    }
    println!("Load before it began: {}\n", load.trim());
    print!("{}", table(&results));
    if let Some(file) = options.json {
        let sizes = results
            .into_iter()
            .map(|(connections, measures)| json!({ "connections": connections, "measures": measures }));
        let report = json!({
            "load_before": load.trim(),
            "debug_build": cfg!(debug_assertions),
            "unix_time": std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
            "sizes": sizes.collect::<Vec<_>>(),
        });
        std::fs::write(&file, format!("{report:#}\n")).map_err(|error| format!("cannot write {file}: {error}"))?;
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}
