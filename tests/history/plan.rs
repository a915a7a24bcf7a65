//! A seed as a plan: which clients, which phases, which faults and when. The same seed is the same plan.

use std::fmt;
use std::time::Duration;

use crate::actors::plain::{Naming, Nature, Temper};
use crate::faults::tools::Tools;

/// What the binary under test can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    pub journal: bool,
    pub mailbox: bool,
}

/// Something done to the process or its machine.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Fault {
    /// kill -9 and a new process.
    Kill,
    /// The same, just after everybody said a lot at once.
    KillInCommit,
    /// SIGTERM and a new process.
    Restart,
    /// SIGSTOP for so many milliseconds.
    Freeze(u64),
    /// No room on the disk for so many milliseconds.
    DiskFull(u64),
    /// The wall clock jumps by so many seconds.
    ClockJump(i64),
}

impl Fault {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillInCommit => "kill_in_commit",
            Self::Restart => "restart",
            Self::Freeze(_) => "freeze",
            Self::DiskFull(_) => "disk_full",
            Self::ClockJump(_) => "clock_jump",
        }
    }
}

/// A stretch of load with its faults; a quiet point ends it.
#[derive(Clone, Debug)]
pub struct Phase {
    pub name: &'static str,
    pub lasts: Duration,
    pub calm: bool,
    pub stalls: bool,
    /// When, from the beginning of the phase.
    pub faults: Vec<(Duration, Fault)>,
}

/// All of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub journal: bool,
    /// Bytes of the file system for the journal, if it is to be a small one.
    pub small_disk: bool,
    /// Which calls of fdatasync fail, as strace counts them.
    pub sync_fails: Option<(u32, u32)>,
    /// Every fdatasync takes so many milliseconds longer, so that much is under way when the process is killed.
    pub slow_sync: Option<u32>,
    pub fakes_clock: bool,
    /// The log keeps little, so that old cursors expire.
    pub short_log: bool,
    pub plain: Vec<Nature>,
    pub reliable: Vec<Nature>,
    /// What becomes of a client id that connects while it is connected: `identity.duplicates`.
    pub duplicates: &'static str,
    /// How many connect with one id at once.
    pub racers: usize,
    pub phases: Vec<Phase>,
    pub features: Features,
}

/// Milliseconds.
pub const INTERVAL: u64 = 1_000;
pub const TIMEOUT: u64 = 3_000;
pub const RESUME_WINDOW: u64 = 2_000;

/// What the clients of a race call themselves.
pub const RACE: &str = "race";

impl Plan {
    pub fn of(seed: u64, features: Features, tools: &Tools, short: bool) -> Self {
        // Each aspect has dice of its own, so that a new one does not change what the others make of a seed.
        let dice = |aspect: u64| fastrand::Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ aspect);
        let mut rng = dice(1);
        let journal = features.journal && rng.u32(0..4) > 0;
        // One special way to run a process at a time.
        let special = if short { 9 } else { rng.u32(0..6) };
        let small_disk = journal && special == 0 && tools.tmpfs;
        let sync_fails = (journal && special == 1 && tools.strace).then(|| {
            let first = rng.u32(60..400);
            (first, first + rng.u32(1..30))
        });
        let slow_sync = (journal && special == 3 && tools.strace).then(|| rng.u32(5..60));
        let fakes_clock = special == 2 && tools.faketime.is_some();
        let mut rng = dice(2);
        let size = if short { 12 } else { rng.usize(20..60) };
        let nature = |rng: &mut fastrand::Rng, id: String, temper| Nature {
            id,
            temper,
            naming: [Naming::Query, Naming::Query, Naming::FirstFrame, Naming::Unnamed][rng.usize(0..4)],
            beat: rng.u64(350..600),
            talk: rng.u64(60..400),
            bytes: [20, 20, 200, 2_000][rng.usize(0..4)],
            timeout: TIMEOUT,
        };
        let tempers =
            [Temper::Steady, Temper::Steady, Temper::Restless, Temper::Restless, Temper::Silent, Temper::Lost];
        let mut plain: Vec<_> = (0..size)
            .map(|n| {
                let temper = tempers[n % tempers.len()];
                nature(&mut rng, format!("{}{n}", if n % 2 == 0 { "a" } else { "b" }), temper)
            })
            .collect();
        for n in 0..3 {
            let stalling = Nature { naming: Naming::Query, ..nature(&mut rng, format!("stall{n}"), Temper::Stalling) };
            plain.push(stalling);
        }
        let tempers = [Temper::Steady, Temper::Restless, Temper::Restless, Temper::Silent];
        let reliable = (0..size / 3)
            .map(|n| Nature { naming: Naming::Query, ..nature(&mut rng, format!("r{n}"), tempers[n % tempers.len()]) })
            .collect();
        let mut plan = Self {
            seed,
            journal,
            small_disk,
            sync_fails,
            slow_sync,
            fakes_clock,
            short_log: !short && dice(4).u32(0..4) == 0,
            plain,
            reliable,
            duplicates: if short {
                "replace"
            } else {
                ["replace", "replace", "replace", "reject", "allow"][dice(3).usize(0..5)]
            },
            racers: if short { 6 } else { rng.usize(4..30) },
            phases: Vec::new(),
            features,
        };
        plan.phases = if short { plan.short_phases() } else { plan.phases(&mut dice(5)) };
        plan
    }

    fn short_phases(&self) -> Vec<Phase> {
        let faults = vec![(Duration::from_millis(1_000), Fault::KillInCommit)];
        vec![Phase { name: "faults", lasts: Duration::from_millis(2_200), calm: false, stalls: true, faults }]
    }

    fn phases(&self, rng: &mut fastrand::Rng) -> Vec<Phase> {
        let lasts = |rng: &mut fastrand::Rng| Duration::from_millis(rng.u64(2_500..5_000));
        let calm = Phase { name: "calm", lasts: lasts(rng), calm: true, stalls: false, faults: Vec::new() };
        let stalls = Phase { name: "stalls", lasts: lasts(rng), calm: false, stalls: true, faults: Vec::new() };
        let mut faults = Vec::new();
        let mut at = Duration::from_millis(rng.u64(400..1_500));
        for _ in 0..rng.u32(1..4) {
            let fault = match rng.u32(0..8) {
                0 | 1 => Fault::Kill,
                2 | 3 => Fault::KillInCommit,
                4 => Fault::Restart,
                _ => Fault::Freeze(rng.u64(300..4_500)),
            };
            let fault = match fault {
                Fault::Freeze(_) if self.small_disk => Fault::DiskFull(rng.u64(500..4_000)),
                Fault::Freeze(millis) if self.fakes_clock => {
                    Fault::ClockJump(if millis % 2 == 0 { 3_600 } else { -3_600 })
                }
                // A memory log begins by the wall clock: set back between two runs is the stated exception.
                Fault::Kill | Fault::Restart if self.fakes_clock && !self.journal => Fault::ClockJump(3_600),
                other => other,
            };
            faults.push((at, fault));
            at += Duration::from_millis(rng.u64(700..2_500));
        }
        if self.slow_sync.is_some() {
            for _ in 0..2 {
                faults.push((at, Fault::KillInCommit));
                at += Duration::from_millis(rng.u64(700..1_500));
            }
        }
        if self.small_disk {
            faults.push((at, Fault::DiskFull(rng.u64(500..3_000))));
            at += Duration::from_millis(800);
        }
        if self.fakes_clock {
            faults.retain(|(_, fault)| *fault != Fault::KillInCommit || self.journal);
            faults.push((at, Fault::ClockJump(-3_600)));
            at += Duration::from_millis(800);
        }
        let lasts = at + Duration::from_millis(500);
        let bad = Phase { name: "faults", lasts, calm: false, stalls: false, faults };
        let mut phases = vec![calm, stalls, bad];
        if rng.bool() {
            phases.rotate_right(1);
        }
        phases
    }

    /// Settings of the process, as `--set` takes them.
    pub fn settings(&self) -> Vec<String> {
        let mut settings: Vec<String> = [
            "heartbeat.interval=1s",
            "heartbeat.timeout=3s",
            "ws.resume_window=2s",
            "ws.write_timeout=2s",
            "limits.messages_per_second=0",
            "limits.bytes_per_second=0",
            "limits.outbox_bytes=64KiB",
            "limits.outbox_frames=256",
            "identity.takeovers_per_minute=0",
            "shutdown.deadline=8s",
            "shutdown.reconnect_jitter=0s",
        ]
        .map(str::to_owned)
        .to_vec();
        if self.short_log || self.small_disk {
            // A journal's segments are a sixteenth of it, so that a disk that is full is soon felt.
            settings.push("log.max_bytes=1MiB".to_owned());
        }
        if self.features.mailbox {
            settings.push("identity.trust_self_named=true".to_owned());
        }
        settings.push(format!("identity.duplicates={}", self.duplicates));
        settings
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = if self.journal { "journal" } else { "memory" };
        write!(f, "seed {}: {log}", self.seed)?;
        for (on, word) in
            [(self.small_disk, "small disk"), (self.fakes_clock, "faked clock"), (self.short_log, "short log")]
        {
            if on {
                write!(f, ", {word}")?;
            }
        }
        if let Some((first, last)) = self.sync_fails {
            write!(f, ", fdatasync fails from the {first}th to the {last}th time")?;
        }
        if let Some(millis) = self.slow_sync {
            write!(f, ", fdatasync takes {millis} ms longer")?;
        }
        write!(f, ", duplicates {}", self.duplicates)?;
        write!(
            f,
            "; {} plain clients, {} reliable, {} race for one id",
            self.plain.len(),
            self.reliable.len(),
            self.racers
        )?;
        for phase in &self.phases {
            write!(f, "\n  {:.1} s {}", phase.lasts.as_secs_f64(), phase.name)?;
            if phase.stalls {
                write!(f, ", some stall")?;
            }
            for (at, fault) in &phase.faults {
                write!(f, "; at {:.1} s {fault:?}", at.as_secs_f64())?;
            }
        }
        Ok(())
    }
}
