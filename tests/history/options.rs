//! What the command line asks for.

use std::path::PathBuf;
use std::time::Duration;

pub const USAGE: &str = "\
cargo test --test history                      the checker's own tests, and one short run
cargo test --test history -- FILTER            those of its own tests that have this in their name
cargo test --test history -- --seed S          one run of this seed
cargo test --test history -- --seeds A,B,C     one run of each
cargo test --test history -- --seconds N [--seed S]   runs until the time is up, from this seed on
cargo test --test history -- --hours H         runs of random seeds until the time is up
cargo test --test history -- --judge DIR       judges histories that were kept
with    --keep DIR            keep all histories there, not only those of failures
        --data-dir-base DIR   where the processes keep their data directories";

/// What is to be done.
#[derive(Debug, PartialEq)]
pub enum What {
    Own { filter: String },
    Runs { seeds: Vec<u64>, lasts: Option<Duration> },
    Judge { directory: PathBuf },
    /// A question of the test runner's that has no answer here.
    Nothing,
}

pub struct Options {
    pub what: What,
    pub keep: Option<PathBuf>,
    pub data_dir_base: Option<PathBuf>,
    /// Seeds after the given ones are random.
    pub random: bool,
}

impl Options {
    pub fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut seeds, mut lasts, mut filter, mut judge) = (Vec::new(), None, String::new(), None);
        let (mut keep, mut data_dir_base, mut random, mut nothing) = (None, None, false, false);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} wants a value"));
            match argument.as_str() {
                "--seed" | "--seeds" => {
                    for seed in value()?.split(',') {
                        seeds.push(seed.trim().parse().map_err(|_| format!("{seed} is no seed"))?);
                    }
                }
                "--seconds" => {
                    let seconds = value()?.parse().map_err(|_| "--seconds wants a number")?;
                    lasts = Some(Duration::from_secs(seconds));
                }
                "--hours" => {
                    let hours: f64 = value()?.parse().map_err(|_| "--hours wants a number")?;
                    lasts = Some(Duration::try_from_secs_f64(hours * 3_600.0).map_err(|_| "--hours wants a span")?);
                    random = true;
                }
                "--keep" => keep = Some(PathBuf::from(value()?)),
                "--data-dir-base" => data_dir_base = Some(PathBuf::from(value()?)),
                "--judge" => judge = Some(PathBuf::from(value()?)),
                // What runners of tests ask every test binary.
                "--list" => nothing = true,
                "--test-threads" | "--format" | "--color" | "--skip" => drop(value()?),
                option if option.starts_with('-') => {
                    if !["--nocapture", "--no-capture", "--quiet", "-q", "--exact", "--show-output", "--include-ignored"]
                        .contains(&option)
                    {
                        return Err(format!("{option} is not known"));
                    }
                }
                word => word.clone_into(&mut filter),
            }
        }
        random |= seeds.is_empty();
        let what = match judge {
            _ if nothing => What::Nothing,
            Some(directory) => What::Judge { directory },
            None if seeds.is_empty() && lasts.is_none() => What::Own { filter },
            None => What::Runs { seeds, lasts },
        };
        Ok(Self { what, keep, data_dir_base, random })
    }
}
