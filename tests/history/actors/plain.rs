//! A client of the plain protocol: beats, talks, listens, and goes in every way that clients go.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Actor;
use super::convert::{id_of, payload};
use super::socket::{Opening, PATIENCE, Socket};
use crate::orders::{BURST, Counted, Order};
use crate::record::What;

/// How a client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Temper {
    /// Comes and stays.
    Steady,
    /// Goes and comes back, again and again, in every way.
    Restless,
    /// Goes silent with its socket open, now and then.
    Silent,
    /// The way to the server becomes a black hole, now and then.
    Lost,
    /// Does not read while others are told to stall.
    Stalling,
}

/// How it gets its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    Query,
    FirstFrame,
    Unnamed,
}

/// What a client is to be.
#[derive(Clone, Debug)]
pub struct Nature {
    pub id: String,
    pub temper: Temper,
    pub naming: Naming,
    /// Milliseconds between two beats, and between two messages.
    pub beat: u64,
    pub talk: u64,
    pub bytes: usize,
    /// How long the server bears silence, in milliseconds.
    pub timeout: u64,
}

struct Plain {
    actor: Actor,
    nature: Nature,
    session: u32,
    said: u32,
}

/// Why a session is over for its client.
enum Next {
    Reconnect,
    /// Replaced or refused: somebody else has the name. It comes back with the next load.
    Rest,
}

pub async fn run(actor: Actor, nature: Nature) {
    let mut client = Plain { actor, nature, session: 0, said: 0 };
    while let Some(address) = client.actor.process().await {
        if !client.actor.until(|order| order != Order::Leave).await {
            return;
        }
        client.session += 1;
        let opening = Opening {
            session: client.session,
            client: if client.nature.naming == Naming::Unnamed { "" } else { &client.nature.id },
            in_query: client.nature.naming == Naming::Query,
            subprotocol: "",
            proxied: client.nature.temper == Temper::Lost,
            receive_buffer: (client.nature.temper == Temper::Stalling).then_some(8 * 1024),
        };
        let pause = match client.actor.open(address, opening).await {
            Some(socket) => match client.live(socket).await {
                Next::Reconnect => client.actor.between(5, 150),
                Next::Rest => {
                    client.actor.until(|order| !order.busy()).await;
                    client.actor.until(|order| order.busy() || order == Order::Leave).await;
                    Duration::ZERO
                }
            },
            None => client.actor.between(20, 200),
        };
        sleep(pause).await;
    }
}

impl Plain {
    fn note(&self, what: What) {
        self.actor.journal.note(what);
    }

    /// When it will do what is in its nature.
    fn next_whim(&mut self) -> Option<Instant> {
        let in_millis = match self.nature.temper {
            Temper::Steady | Temper::Stalling => return None,
            Temper::Restless => self.actor.rng.u64(100..2_500),
            Temper::Silent | Temper::Lost => self.actor.rng.u64(500..4_000),
        };
        Some(Instant::now() + Duration::from_millis(in_millis))
    }

    async fn live(&mut self, mut socket: Socket) -> Next {
        let session = socket.session;
        let first = match self.nature.naming {
            Naming::Query => None,
            Naming::FirstFrame => Some(format!("heartbeat:{}", self.nature.id)),
            // A Ping would not be a data frame, and it would not be connected.
            Naming::Unnamed => Some("heartbeat".to_owned()),
        };
        if let Some(first) = first
            && !self.beat(&mut socket, Message::text(first)).await
        {
            return self.over(session, "the first frame failed");
        }
        let whim = self.next_whim();
        let mut beats = interval(Duration::from_millis(self.nature.beat));
        let mut talks = interval(Duration::from_millis(self.nature.talk));
        let mut stalled: Option<Counted<_>> = None;
        loop {
            let order = self.actor.order();
            if order == Order::Leave {
                return self.close(socket, "close").await;
            }
            let stalls = self.nature.temper == Temper::Stalling && order == Order::Stall;
            if stalls != stalled.is_some() {
                self.note(What::Stalled { session, on: stalls });
                stalled = stalls.then(|| Counted::one(&self.actor.pulse.unsettled));
            }
            tokio::select! {
                frame = socket.stream.next(), if stalled.is_none() => {
                    if let Some(next) = self.take(session, frame) {
                        return next;
                    }
                }
                _ = beats.tick() => {
                    let message = if self.actor.rng.bool() { Message::text("heartbeat") } else { Message::Ping("p".into()) };
                    if !self.beat(&mut socket, message).await {
                        return self.rest_of(socket).await;
                    }
                }
                _ = talks.tick(), if order.busy() => {
                    if !self.talk(&mut socket).await {
                        return self.rest_of(socket).await;
                    }
                }
                () = sleep_until(whim.unwrap_or_else(Instant::now)), if whim.is_some() && order.busy() => {
                    return self.follow_whim(socket).await;
                }
                _ = self.actor.orders.changed() => {
                    if self.actor.order() == Order::Burst {
                        for _ in 0..BURST {
                            if !self.talk(&mut socket).await {
                                return self.rest_of(socket).await;
                            }
                        }
                    }
                }
            }
        }
    }

    /// One frame from the server; Some when the session is over.
    fn take(&mut self, session: u32, frame: Option<Result<Message, Error>>) -> Option<Next> {
        match frame {
            Some(Ok(Message::Text(text))) => {
                // The server's own heartbeat is no message.
                if text.as_str() != "heartbeat" {
                    self.note(What::Rx { session, id: id_of(&text), seq: 0 });
                }
                None
            }
            Some(Ok(Message::Binary(bytes))) => {
                self.note(What::Rx { session, id: id_of(&String::from_utf8_lossy(&bytes)), seq: 0 });
                None
            }
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) = frame
                    .map_or((1005, String::new()), |CloseFrame { code, reason }| (code.into(), reason.to_string()));
                self.note(What::Closed { session, code, reason });
                // What is left is the answer to it, which the next read sends.
                matches!(code, 4409 | 4410).then(|| self.over(session, "replaced")).map(|_| Next::Rest)
            }
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(self.over(session, &error.to_string())),
            None => Some(self.over(session, "end of stream")),
        }
    }

    fn over(&self, session: u32, why: &str) -> Next {
        self.note(What::Over { session, why: why.to_owned() });
        Next::Reconnect
    }

    /// A write failed: what the server said before may still be there to read.
    async fn rest_of(&mut self, mut socket: Socket) -> Next {
        let session = socket.session;
        let rest = async {
            loop {
                let frame = socket.stream.next().await;
                if let Some(next) = self.take(session, frame) {
                    return next;
                }
            }
        };
        match timeout(PATIENCE, rest).await {
            Ok(next) => next,
            Err(_) => self.over(session, "a write failed"),
        }
    }

    /// Writes what proves it alive; false if that failed.
    async fn beat(&mut self, socket: &mut Socket, message: Message) -> bool {
        let begun = tokio::time::Instant::now();
        let sent = matches!(timeout(PATIENCE, socket.stream.send(message)).await, Ok(Ok(())));
        if sent && socket.hole.is_none() {
            self.note(What::Beat { session: socket.session, took: begun.elapsed().as_micros() as u64 });
        }
        sent
    }

    async fn talk(&mut self, socket: &mut Socket) -> bool {
        self.said += 1;
        let id = format!("{}.{}:{}", self.actor.journal.actor(), socket.session, self.said);
        let text = payload('c', &id, self.nature.bytes);
        self.note(What::Tx { session: socket.session, id, seq: 0 });
        let message = if self.said.is_multiple_of(7) { Message::binary(text) } else { Message::text(text) };
        self.beat(socket, message).await
    }

    async fn follow_whim(&mut self, socket: Socket) -> Next {
        let session = socket.session;
        match self.nature.temper {
            Temper::Silent | Temper::Lost => self.vanish_from_sight(socket).await,
            _ => match self.actor.rng.u32(0..6) {
                0 => self.close(socket, "empty").await,
                1 => {
                    self.note(What::Closing { session, how: "reset".to_owned() });
                    socket.reset();
                    self.over(session, "reset")
                }
                2 => {
                    self.note(What::Closing { session, how: "vanish".to_owned() });
                    drop(socket);
                    self.over(session, "vanished")
                }
                3 => {
                    self.note(What::Closing { session, how: "half_close".to_owned() });
                    socket.half_close();
                    self.rest_of(socket).await
                }
                _ => self.close(socket, "close").await,
            },
        }
    }

    /// Silent with its socket open, for longer than the server bears it.
    async fn vanish_from_sight(&mut self, mut socket: Socket) -> Next {
        let session = socket.session;
        let _unsettled = Counted::one(&self.actor.pulse.unsettled);
        let long = Duration::from_millis(self.nature.timeout + 2_500);
        match &socket.hole {
            // It goes on beating, into the void; the hole writes down when nothing comes through any more.
            Some(hole) => {
                hole.swallow();
                let until = Instant::now() + long;
                while Instant::now() < until {
                    sleep(Duration::from_millis(self.nature.beat)).await;
                    let _ = timeout(Duration::from_millis(50), socket.stream.send(Message::Ping("p".into()))).await;
                }
            }
            None => {
                self.note(What::Silent { session });
                let mut address = self.actor.address.clone();
                // A process that ends has no timeout any more.
                tokio::select! {
                    () = sleep(long) => {}
                    _ = address.changed() => {}
                }
            }
        }
        drop(socket);
        self.over(session, "was silent")
    }

    async fn close(&mut self, mut socket: Socket, how: &str) -> Next {
        let session = socket.session;
        self.note(What::Closing { session, how: how.to_owned() });
        let message = if how == "empty" { Message::text("") } else { Message::Close(None) };
        let _ = timeout(PATIENCE, socket.stream.send(message)).await;
        match self.rest_of(socket).await {
            Next::Rest if self.actor.order().busy() => Next::Reconnect,
            next => next,
        }
    }
}
