//! One run: a plan carried out with real processes, real clients and real backends, each phase to a quiet point.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::actors::plain::{Naming, Nature, Temper};
use crate::actors::sender::Habits;
use crate::actors::subscriber::Manner;
use crate::actors::{Actor, commander, consumer, lister, plain, reliable, sender, subscriber};
use crate::faults::tools::{Mount, Tools};
use crate::files::{Histories, Journal};
use crate::orders::{Order, Pulse};
use crate::plan::{Fault, INTERVAL, Phase, Plan, RACE, RESUME_WINDOW, TIMEOUT};
use crate::record::{Filter, What};
use crate::world::{Setup, World, watch_lateness};

/// How long everything may take to come to rest; what takes longer is a fault of its own.
const REST: Duration = Duration::from_secs(60);

/// `Subscribe` calls that are there before there is traffic.
const STREAMS: i64 = 8;

/// A run under way.
struct Run {
    plan: Plan,
    world: World,
    histories: Histories,
    journals: Vec<Journal>,
    orders: watch::Sender<Order>,
    pulse: Pulse,
    tasks: JoinSet<()>,
    rng: fastrand::Rng,
    pid: Arc<AtomicU32>,
    mount: Option<Mount>,
    /// The file that says by how much the wall clock is wrong.
    clock: Option<std::path::PathBuf>,
    quiets: u32,
    /// The run whose baseline is known, and the sockets that it had then.
    baseline: (u32, i64),
    looks: Option<Actor>,
}

/// Carries out a plan; its histories are in `directory/history`. Err: what kept it from coming to its end.
pub async fn run(plan: &Plan, directory: &Path, data_base: &Path, tools: &Tools) -> Result<(), String> {
    let histories = Histories::create(&directory.join("history")).map_err(|error| error.to_string())?;
    let mut setup = Setup {
        settings: plan.settings(),
        interval: INTERVAL,
        timeout: TIMEOUT,
        resume_window: RESUME_WINDOW,
        duplicates: plan.duplicates.to_owned(),
        ..Setup::default()
    };
    let mut mount = None;
    if plan.journal {
        let place = data_base.join(format!("data-{}", plan.seed));
        std::fs::create_dir_all(&place).map_err(|error| error.to_string())?;
        if plan.small_disk {
            mount = Mount::new(&place, SMALL_DISK);
        }
        setup.data_dir = Some(place);
    }
    let inject = plan.sync_fails.map(|(first, last)| format!("error=EIO:when={first}..{last}"));
    if let Some(inject) = inject.or(plan.slow_sync.map(|millis| format!("delay_enter={}", millis * 1_000))) {
        let inject = format!("inject=fdatasync,fsync:{inject}");
        let log = directory.join("strace.txt").display().to_string();
        let arguments = ["-D", "-f", "--seccomp-bpf", "-q", "-o", &log, "-e", "trace=fdatasync,fsync", "-e", &inject];
        setup.wrapper = std::iter::once("strace").chain(arguments).map(str::to_owned).collect();
    }
    let mut clock = None;
    if let (true, Some(library)) = (plan.fakes_clock, &tools.faketime) {
        let file = directory.join("clock.txt");
        std::fs::write(&file, "+0").map_err(|error| error.to_string())?;
        setup.environment = [
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        clock = Some(file);
    }
    let data_dir = setup.data_dir.clone();
    let world_journal = histories.of("world");
    let mut run = Run {
        world: World::new(world_journal.clone(), setup, directory),
        plan: plan.clone(),
        histories,
        journals: vec![world_journal],
        orders: watch::Sender::new(Order::Leave),
        pulse: Pulse::default(),
        tasks: JoinSet::new(),
        rng: fastrand::Rng::with_seed(plan.seed ^ 0x5eed),
        pid: Arc::default(),
        mount,
        clock,
        quiets: 0,
        baseline: (0, 0),
        looks: None,
    };
    let outcome = run.whole().await;
    run.orders.send_replace(Order::Quit);
    if run.world.pid().is_some() {
        run.world.kill().await;
    }
    let joined = timeout(REST, async { while run.tasks.join_next().await.is_some() {} }).await;
    run.tasks.abort_all();
    run.journals.iter().for_each(Journal::flush);
    drop(run.mount.take());
    if let Some(data_dir) = data_dir.filter(|_| outcome.is_ok()) {
        let _ = std::fs::remove_dir_all(data_dir);
    }
    outcome?;
    joined.map_err(|_| "an actor did not end".to_owned())
}

/// The small file system; what a journal and its store need at the least, and a little more.
const SMALL_DISK: u64 = 24 << 20;

impl Run {
    fn actor(&mut self, name: &str) -> Actor {
        let journal = self.histories.of(name);
        self.journals.push(journal.clone());
        Actor {
            journal,
            rng: fastrand::Rng::with_seed(self.rng.u64(..)),
            address: self.world.watch(),
            orders: self.orders.subscribe(),
            pulse: self.pulse.clone(),
            channels: self.world.channels.clone(),
        }
    }

    async fn start(&mut self) -> Result<(), String> {
        self.world.start().await?;
        self.pid.store(self.world.pid().unwrap_or(0), Ordering::SeqCst);
        Ok(())
    }

    async fn whole(&mut self) -> Result<(), String> {
        self.start().await?;
        let pid = Arc::clone(&self.pid);
        let pid = move || Some(pid.load(Ordering::SeqCst)).filter(|pid| *pid > 0);
        let lateness = self.histories.of("lateness");
        self.journals.push(lateness.clone());
        let lateness = tokio::spawn(watch_lateness(lateness, pid));
        let outcome = self.phases().await;
        lateness.abort();
        outcome
    }

    async fn phases(&mut self) -> Result<(), String> {
        self.backends();
        self.clients();
        self.calm_down("the subscribers came", |pulse| pulse.streams.load(Ordering::SeqCst) >= STREAMS).await?;
        self.baseline().await;
        for (number, phase) in self.plan.phases.clone().into_iter().enumerate() {
            self.phase(number as u32 + 1, &phase).await?;
        }
        self.orders.send_replace(Order::Quit);
        self.stop().await
    }

    /// Asks the process to end, and looks how it does. Where the disk takes nothing until the deadline it may say that it is late (1): who was left
    /// then is told of by the next run.
    async fn stop(&mut self) -> Result<(), String> {
        let code = self.world.stop().await;
        match code {
            Some(0) => Ok(()),
            Some(1) if self.plan.sync_fails.is_some() => Ok(()),
            _ => Err(format!("after SIGTERM it ended with {code:?}")),
        }
    }

    fn backends(&mut self) {
        let prefix = Filter { prefix: "a".to_owned(), ..Filter::default() };
        let kinds = ["connected", "disconnected", "labels_changed"].map(str::to_owned).to_vec();
        let comings = Filter { kinds, ..Filter::default() };
        let labels = Filter { labels: [("room".to_owned(), "1".to_owned())].into(), ..Filter::default() };
        let subscribers = [
            ("auditor", Manner::Auditor, Filter::default()),
            ("cutter1", Manner::Cutter, Filter::default()),
            ("cutter2", Manner::Cutter, Filter::default()),
            ("slow", Manner::Slow, Filter::default()),
            ("snapshots", Manner::Snapshots, Filter::default()),
            ("filter-prefix", Manner::Cutter, prefix),
            ("filter-kinds", Manner::Auditor, comings),
            ("filter-labels", Manner::Auditor, labels),
        ];
        for (name, manner, filter) in subscribers {
            let actor = self.actor(name);
            self.tasks.spawn(subscriber::run(actor, manner, filter));
        }
        let named = |natures: &[Nature]| -> Vec<String> {
            natures.iter().filter(|n| n.naming != Naming::Unnamed).map(|nature| nature.id.clone()).collect()
        };
        let (plain, reliable) = (named(&self.plan.plain), named(&self.plan.reliable));
        let stalling: Vec<_> =
            self.plan.plain.iter().filter(|n| n.temper == Temper::Stalling).map(|nature| nature.id.clone()).collect();
        let mut everyone = [plain, reliable.clone()].concat();
        everyone.extend([RACE.to_owned(), "nobody".to_owned()]);
        for (name, streams) in [("sender", false), ("stream-sender", true)] {
            let habits = Habits {
                to: everyone.clone(),
                stalling: stalling.clone(),
                reliable: reliable.clone(),
                streams,
                pause: 12,
                ttl: self.plan.features.mailbox,
                message_ids: self.plan.features.mailbox,
            };
            let actor = self.actor(name);
            self.tasks.spawn(sender::run(actor, habits));
        }
        let actor = self.actor("lister");
        self.tasks.spawn(lister::run(actor, everyone.clone()));
        let actor = self.actor("commander");
        self.tasks.spawn(commander::run(actor, everyone, 120));
        let actor = self.actor("consumer");
        self.tasks.spawn(consumer::run(actor, "billing".to_owned()));
        self.looks = Some(self.actor("world-lister"));
    }

    fn clients(&mut self) {
        for nature in self.plan.plain.clone() {
            let actor = self.actor(&format!("client-{}", nature.id));
            self.tasks.spawn(plain::run(actor, nature));
        }
        for nature in self.plan.reliable.clone() {
            let actor = self.actor(&format!("client-{}", nature.id));
            self.tasks.spawn(reliable::run(actor, nature));
        }
        for n in 0..self.plan.racers {
            let nature = Nature {
                id: RACE.to_owned(),
                temper: Temper::Steady,
                naming: Naming::Query,
                beat: 500,
                talk: 700,
                bytes: 20,
                timeout: TIMEOUT,
            };
            let actor = self.actor(&format!("racer-{n}"));
            self.tasks.spawn(plain::run(actor, nature));
        }
    }

    async fn phase(&mut self, number: u32, phase: &Phase) -> Result<(), String> {
        let name = phase.name.to_owned();
        self.world.journal.note(What::Phase { number, name, calm: phase.calm, stalled: phase.stalls });
        if self.plan.sync_fails.is_some() {
            self.fault("sync_fails", true, "by strace");
        }
        let began = Instant::now();
        let load = if phase.stalls { Order::Stall } else { Order::Load };
        self.orders.send_replace(load);
        for (at, fault) in &phase.faults {
            sleep((began + *at).saturating_duration_since(Instant::now())).await;
            self.inflict(*fault, load).await?;
        }
        sleep((began + phase.lasts).saturating_duration_since(Instant::now())).await;
        if phase.stalls {
            self.world.holds("stalled", self.streams()).await;
        }
        self.settle().await?;
        if self.plan.sync_fails.is_some() {
            self.fault("sync_fails", false, "by strace");
        }
        self.leave().await
    }

    fn streams(&self) -> i64 {
        self.pulse.streams.load(Ordering::SeqCst)
    }

    fn fault(&self, name: &str, on: bool, detail: &str) {
        self.world.journal.note(What::Fault { name: name.to_owned(), on, detail: detail.to_owned() });
    }

    async fn inflict(&mut self, fault: Fault, load: Order) -> Result<(), String> {
        let detail = format!("{fault:?}");
        self.fault(fault.name(), true, &detail);
        match fault {
            Fault::Kill | Fault::KillInCommit => {
                if fault == Fault::KillInCommit {
                    self.orders.send_replace(Order::Burst);
                    sleep(Duration::from_millis(self.rng.u64(3..60))).await;
                }
                self.pid.store(0, Ordering::SeqCst);
                self.world.kill().await;
                self.orders.send_replace(load);
                sleep(Duration::from_millis(self.rng.u64(0..300))).await;
                self.start().await?;
            }
            Fault::Restart => {
                self.pid.store(0, Ordering::SeqCst);
                self.stop().await?;
                self.start().await?;
            }
            Fault::Freeze(millis) => {
                self.world.signal("STOP");
                sleep(Duration::from_millis(millis)).await;
                self.world.signal("CONT");
            }
            Fault::DiskFull(millis) => {
                if let Some(mount) = &self.mount {
                    mount.fill();
                    sleep(Duration::from_millis(millis)).await;
                    mount.empty();
                }
            }
            Fault::ClockJump(seconds) => {
                if let Some(file) = &self.clock {
                    let _ = std::fs::write(file, format!("{seconds:+}"));
                }
            }
        }
        self.fault(fault.name(), false, &detail);
        if !self.world.is_alive() {
            return Err(format!("the process is gone after {detail}"));
        }
        Ok(())
    }

    /// Nobody begins anything new; all that was begun comes to its end, and everybody has seen it.
    async fn settle(&mut self) -> Result<(), String> {
        self.orders.send_replace(Order::Settle);
        self.calm_down("clients and calls settled", |pulse| {
            pulse.unsettled.load(Ordering::SeqCst) == 0 && pulse.calls.load(Ordering::SeqCst) == 0
        })
        .await?;
        // A log that could not be written is tried again until it can.
        let until = Instant::now() + REST;
        while !self.world.is_ready().await {
            if Instant::now() > until {
                return Err("the process does not become ready again".to_owned());
            }
            sleep(Duration::from_millis(100)).await;
        }
        // Those who came last are to be connected for a while.
        sleep(Duration::from_millis(2_300)).await;
        if let (Some(looks), Some(address)) = (self.looks.clone(), self.world.address())
            && let Ok(channel) = self.world.channels.open(address.grpc).await
        {
            let mut client =
                heartwire::pb::connection_service_client::ConnectionServiceClient::new(channel.channel.clone());
            lister::list(&looks, &mut client).await;
        }
        self.quiet(false).await
    }

    async fn leave(&mut self) -> Result<(), String> {
        self.orders.send_replace(Order::Leave);
        self.calm_down("all clients left", |pulse| pulse.sockets.load(Ordering::SeqCst) == 0).await?;
        // A closing handshake may take two seconds on the other side, a resume window as long as it is.
        let until = Instant::now() + REST;
        while Instant::now() < until {
            let gauge = self.world.gauge(self.streams()).await.unwrap_or_default();
            if gauge.connections == 0 && gauge.outbox_frames == 0 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.quiet(true).await?;
        if self.baseline.0 == self.world.run() {
            self.drained().await;
        } else {
            self.baseline().await;
        }
        Ok(())
    }

    async fn baseline(&mut self) {
        sleep(Duration::from_millis(300)).await;
        let gauge = self.world.gauge(self.streams()).await.unwrap_or_default();
        self.baseline = (self.world.run(), gauge.sockets);
        self.world.holds("baseline", self.streams()).await;
    }

    /// What is left once the last sockets had time to close.
    async fn drained(&mut self) {
        let until = Instant::now() + Duration::from_secs(6);
        while Instant::now() < until {
            sleep(Duration::from_millis(200)).await;
            let gauge = self.world.gauge(self.streams()).await.unwrap_or_default();
            if gauge.sockets <= self.baseline.1 && gauge.subscribers <= 0 && gauge.outbox_bytes == 0 {
                break;
            }
        }
        self.world.holds("drained", self.streams()).await;
    }

    /// Waits until all subscribers are at the head and the head stays; then writes down that all is quiet.
    async fn quiet(&mut self, gone: bool) -> Result<(), String> {
        let head = self.still("the subscribers caught up").await?;
        // What they got in these moments is to be in the histories before the line that says so.
        sleep(Duration::from_millis(200)).await;
        self.quiets += 1;
        self.world.journal.note(What::Quiet { number: self.quiets, head, gone });
        sleep(Duration::from_millis(if gone { 100 } else { 1_200 })).await;
        Ok(())
    }

    async fn still(&mut self, what: &str) -> Result<crate::record::Pos, String> {
        let until = Instant::now() + REST;
        while Instant::now() < until {
            let head = self.world.head().await?;
            sleep(Duration::from_millis(150)).await;
            if self.pulse.caught_up(&head) && self.world.head().await? == head {
                return Ok(head);
            }
            if !self.world.is_alive() {
                return Err("the process is gone".to_owned());
            }
        }
        Err(format!("waited in vain until {what}"))
    }

    async fn calm_down(&mut self, what: &str, done: impl Fn(&Pulse) -> bool) -> Result<(), String> {
        let until = Instant::now() + REST;
        while Instant::now() < until {
            if done(&self.pulse) {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(format!("waited in vain until {what}"))
    }
}
