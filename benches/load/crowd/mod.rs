//! Many clients on one thread: an epoll loop over raw sockets with frames made by hand, so that the clients' side costs less than any
//! server's.

mod client;
mod connecting;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use crate::dialect::Dialect;
use crate::frames::{self, Opcode};
use crate::tls::Trust;
use client::Client;

/// What one read takes at most.
const READ_BYTES: usize = 128 * 1024;

/// Events that one turn takes at most.
const EVENTS: usize = 4096;

/// What a client notices.
pub enum Seen<'a> {
    /// The handshake and the introduction are done.
    Open,
    /// A frame from the server. A Ping has been answered already, unless the client is silent.
    Frame(Opcode, &'a [u8]),
    /// The handshake was answered by this status line, or TLS failed for this reason; `Gone` is next.
    Refused(&'a str),
    /// The socket ended, or never came to be.
    Gone,
}

/// How the clients of a scenario come about.
#[derive(Clone)]
pub struct Plan {
    pub server: SocketAddr,
    pub dialect: Dialect,
    /// First letter of the ids, so that two crowds of one server never meet.
    pub prefix: char,
    /// Silence that the server is told to endure, where the clients tell it.
    pub timeout: Duration,
    /// Part of the ids, for those who come after others.
    pub generation: u32,
    /// With it the clients speak TLS.
    pub tls: Option<Trust>,
}

impl Plan {
    /// A client id of 16 bytes.
    pub fn id(&self, index: usize) -> String {
        format!("{}-{:07}{index:07}", self.prefix, self.generation)
    }
}

/// The clients, by index.
pub struct Crowd {
    plan: Plan,
    poll: Poll,
    events: Events,
    clients: Vec<Client>,
    buffer: Box<[u8]>,
}

impl Crowd {
    /// So many clients, none of them connected yet.
    pub fn new(plan: Plan, count: usize) -> io::Result<Self> {
        Ok(Self {
            plan,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            clients: std::iter::repeat_with(Client::default).take(count).collect(),
            buffer: vec![0; READ_BYTES].into(),
        })
    }

    /// Whoever connects from now on has an id that nobody had before.
    pub fn next_generation(&mut self) {
        self.plan.generation += 1;
    }

    /// The ids of all clients, those of the generation that would connect now.
    pub fn ids(&self) -> Vec<String> {
        (0..self.clients.len()).map(|index| self.plan.id(index)).collect()
    }

    /// Which client has this id, if it is one of this plan in any generation.
    pub fn index_of(id: &str, prefix: char) -> Option<usize> {
        let digits = id.strip_prefix(prefix)?.strip_prefix('-')?;
        digits.get(7..)?.parse().ok()
    }

    /// Makes room for more clients, not connected yet.
    pub fn grow(&mut self, count: usize) {
        self.clients.resize_with(count, Client::default);
    }

    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        self.clients.iter().filter(|client| client.is_open()).count()
    }

    /// What was agreed on in the TLS handshake of one that is open; `None` without TLS.
    pub fn agreed(&self) -> Option<String> {
        self.clients.iter().find(|client| client.is_open()).and_then(Client::agreed)
    }

    pub fn is_open(&self, index: usize) -> bool {
        self.clients.get(index).is_some_and(Client::is_open)
    }

    /// Writes a whole frame, now or when the socket takes it. Nothing happens to a client that is not open.
    pub fn send(&mut self, index: usize, frame: &[u8]) {
        if let Some(client) = self.clients.get_mut(index) {
            client.send(frame);
        }
    }

    /// The client reads on, and never says anything by itself again.
    pub fn silence(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.silent = true;
        }
    }

    /// Sends a Close; the server ends the connection.
    pub fn close(&mut self, index: usize) {
        self.send(index, &frames::masked(Opcode::Close, &1000u16.to_be_bytes()));
    }

    /// Waits for something to happen at most so long, and tells what did.
    pub fn turn(&mut self, wait: Duration, mut seen: impl FnMut(usize, Seen<'_>)) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other.map_err(|error| format!("cannot wait for sockets: {error}"))?,
        }
        for event in &self.events {
            let index = event.token().0;
            let Some(client) = self.clients.get_mut(index) else { continue };
            if event.is_writable() || event.is_error() {
                client.on_writable(index, &self.plan, event.is_error(), &mut seen);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                let to_the_end = event.is_read_closed() || event.is_error();
                client.on_readable(index, &self.plan, to_the_end, &mut self.buffer, &mut seen);
            }
        }
        Ok(())
    }

    /// Turns until `done` or the time is up; true if it was done.
    pub fn turn_until(
        &mut self,
        limit: Duration,
        mut seen: impl FnMut(usize, Seen<'_>),
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<bool, String> {
        let end = Instant::now() + limit;
        while !done(self) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.turn(left.min(Duration::from_millis(2)), &mut seen)?;
        }
        Ok(true)
    }

    /// Turns for so long.
    pub fn turn_for(&mut self, time: Duration, seen: impl FnMut(usize, Seen<'_>)) -> Result<(), String> {
        self.turn_until(time, seen, |_| false).map(drop)
    }

    /// Begins to connect one client, for whoever serves it by turns; it is not tried again.
    pub fn start(&mut self, index: usize) -> io::Result<()> {
        let mut stream = connecting::socket(self.plan.server, index)?;
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let tls = self.plan.tls.as_ref().map(Trust::client).transpose().map_err(io::Error::other)?;
        self.clients[index] = Client::connecting(stream, tls);
        Ok(())
    }
}
