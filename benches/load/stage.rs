//! What a scenario is given: one server's description, what was asked for, and ways to set the scene.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::args::Options;
use crate::backend::{Backend, Targets};
use crate::crowd::{Crowd, Plan};
use crate::dialect::{Beat, Dialect};
use crate::peers::Peer;
use crate::process::{Ports, Server, Settings};
use crate::tls::Tls;

/// Time for any crowd to be connected.
const CONNECT_LIMIT: Duration = Duration::from_secs(120);

/// Handshakes that the clients keep in flight.
pub const HANDSHAKES: usize = 256;

pub struct Stage<'a> {
    pub peer: &'a Peer,
    /// Its name.
    pub scenario: &'static str,
    pub options: &'a Options,
    /// For the server's files.
    pub directory: PathBuf,
    /// Between a client's heartbeats; the timeout is twice that.
    pub interval: Duration,
    /// With it the clients speak TLS.
    pub tls: Option<&'a Tls>,
    /// What the server agreed on in its TLS handshakes, once it has.
    pub agreed: OnceLock<String>,
}

impl Stage<'_> {
    pub fn connections(&self, default: usize) -> usize {
        self.options.connections.map_or(default, |count| usize::try_from(count).unwrap_or(default))
    }

    pub fn window(&self) -> Duration {
        self.options.window.unwrap_or(Duration::from_secs(10))
    }

    pub fn timeout(&self) -> Duration {
        self.interval * 2
    }

    pub fn keeps_log(&self) -> bool {
        self.peer.about.control.is_some_and(|control| control.log)
    }

    pub fn start(&self) -> Result<Server, String> {
        self.start_at(Ports::free()?)
    }

    pub fn start_at(&self, ports: Ports) -> Result<Server, String> {
        // Its own come last, so that they hold.
        let set = self.options.set.iter().chain(&self.peer.set).cloned().collect();
        let tls = self.tls.map(|tls| tls.write(&self.directory)).transpose()?;
        let settings = Settings { interval: self.interval, timeout: self.timeout(), set, tls };
        Server::start(self.peer, &settings, ports, &self.directory)
    }

    /// What the clients that are measured speak.
    fn dialect(&self) -> &Dialect {
        match &self.peer.about.sessions {
            Some(sessions) if self.options.sessions => &sessions.client,
            _ => &self.peer.about.client,
        }
    }

    /// The ways in which they heartbeat.
    pub fn beats(&self) -> &[Beat] {
        &self.dialect().heartbeats
    }

    /// The first of them, where a scenario has only one.
    pub fn beat(&self) -> Result<Beat, String> {
        self.beats().first().copied().ok_or_else(|| "no heartbeat is known".to_owned())
    }

    /// Clients that are not connected yet.
    pub fn clients(&self, server: &Server, prefix: char, count: usize) -> Result<Crowd, String> {
        self.clients_who_speak(self.dialect(), server, prefix, count)
    }

    /// The same, but they never hold sessions: for those who are there only so that there is something in the log.
    pub fn plain_clients(&self, server: &Server, prefix: char, count: usize) -> Result<Crowd, String> {
        self.clients_who_speak(&self.peer.about.client, server, prefix, count)
    }

    fn clients_who_speak(
        &self,
        dialect: &Dialect,
        server: &Server,
        prefix: char,
        count: usize,
    ) -> Result<Crowd, String> {
        let plan = Plan {
            server: server.ws,
            dialect: dialect.in_scenario(self.scenario),
            prefix,
            timeout: self.timeout(),
            generation: 0,
            tls: self.tls.map(|tls| tls.trust.clone()),
        };
        Crowd::new(plan, count).map_err(|error| format!("cannot make clients: {error}"))
    }

    /// Clients that are connected, and known to the server's backend where it has one that counts.
    pub fn crowd(&self, server: &Server, count: usize) -> Result<Crowd, String> {
        let mut crowd = self.clients(server, 'c', count)?;
        self.connect(&mut crowd, 0..count, HANDSHAKES)?;
        if let Some(backend) = self.backend(server)? {
            backend.wait_for_count(count, Duration::from_secs(10))?;
        }
        Ok(crowd)
    }

    /// How many attempts failed and were made again.
    pub fn connect(&self, crowd: &mut Crowd, range: std::ops::Range<usize>, in_flight: usize) -> Result<u64, String> {
        let failures = crowd.connect(range, in_flight, CONNECT_LIMIT)?;
        if self.agreed.get().is_none()
            && let Some(agreed) = crowd.agreed()
        {
            // Somebody else's answer is as good.
            let _ = self.agreed.set(agreed);
        }
        Ok(failures)
    }

    /// `None` for a server that has no backend's side.
    pub fn backend(&self, server: &Server) -> Result<Option<Backend>, String> {
        self.peer.about.control.map(|control| Backend::new(server, control)).transpose()
    }

    /// The same where the scenario cannot do without.
    pub fn need_backend(&self, server: &Server) -> Result<Backend, String> {
        self.backend(server)?.ok_or_else(|| format!("{} has no backend's side", self.peer.name))
    }
}

/// All clients as targets.
pub fn targets(crowd: &Crowd) -> Targets {
    Targets(std::sync::Arc::new(crowd.ids()))
}

/// Calls `act` for 0, 1, 2... at `rate` a second, and serves the clients in between.
pub fn at_rate(
    crowd: &mut Crowd,
    rate: f64,
    window: Duration,
    mut act: impl FnMut(&mut Crowd, u64),
    mut seen: impl FnMut(usize, crate::crowd::Seen<'_>),
) -> Result<(), String> {
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < window {
        let due = (start.elapsed().as_secs_f64() * rate) as u64;
        while done < due {
            act(crowd, done);
            done += 1;
        }
        let until_next = Duration::from_secs_f64((done + 1) as f64 / rate).saturating_sub(start.elapsed());
        crowd.turn(until_next.min(window.saturating_sub(start.elapsed())).min(Duration::from_millis(10)), &mut seen)?;
    }
    Ok(())
}
