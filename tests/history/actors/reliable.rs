//! A client of `heartwire.v1.json`: numbers and acknowledges, loses its socket and resumes.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::time::{Instant, interval, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::Actor;
use super::convert::{id_of, payload};
use super::plain::{Nature, Temper};
use super::socket::{Opening, PATIENCE, Socket};
use crate::orders::{BURST, Counted, Order};
use crate::record::What;

/// The name of the subprotocol.
const PROTOCOL: &str = "heartwire.v1.json";

/// What outlives a socket.
#[derive(Default)]
struct Session {
    secret: String,
    /// The last number used, and what was sent and not acknowledged.
    sent: u64,
    unacked: VecDeque<(u64, String, String)>,
    /// The last number that came from the server.
    received: u64,
}

struct Reliable {
    actor: Actor,
    nature: Nature,
    socket: u32,
    said: u32,
    session: Option<Session>,
}

/// How a socket ended.
enum Next {
    /// Lost: it may be resumed.
    Resume,
    /// The session is over too.
    Anew,
    /// Replaced or refused: somebody else has the name.
    Rest,
}

pub async fn run(actor: Actor, nature: Nature) {
    let mut client = Reliable { actor, nature, socket: 0, said: 0, session: None };
    while let Some(address) = client.actor.process().await {
        if client.session.is_none() && !client.actor.until(|order| order != Order::Leave).await {
            return;
        }
        client.socket += 1;
        let opening = Opening {
            session: client.socket,
            client: &client.nature.id,
            in_query: true,
            subprotocol: PROTOCOL,
            proxied: false,
            receive_buffer: None,
        };
        let Some(socket) = client.actor.open(address, opening).await else {
            // A process that is not there any more has no session either; one that refuses may have.
            let pause = client.actor.between(20, 200);
            sleep(pause).await;
            continue;
        };
        match client.live(socket).await {
            Next::Resume => {
                let _unsettled = Counted::one(&client.actor.pulse.unsettled);
                let pause = client.actor.between(5, 900);
                sleep(pause).await;
            }
            Next::Anew => {
                client.session = None;
                let pause = client.actor.between(5, 150);
                sleep(pause).await;
            }
            Next::Rest => {
                client.session = None;
                client.actor.until(|order| !order.busy()).await;
                client.actor.until(|order| order.busy() || order == Order::Leave).await;
            }
        }
    }
}

impl Reliable {
    fn note(&self, what: What) {
        self.actor.journal.note(what);
    }

    async fn say(&self, socket: &mut Socket, envelope: Value) -> bool {
        let begun = tokio::time::Instant::now();
        let sent = socket.stream.send(Message::text(envelope.to_string()));
        let sent = matches!(timeout(PATIENCE, sent).await, Ok(Ok(())));
        if sent {
            self.note(What::Beat { session: socket.session, took: begun.elapsed().as_micros() as u64 });
        }
        sent
    }

    fn over(&self, session: u32, why: &str, next: Next) -> Next {
        self.note(What::Over { session, why: why.to_owned() });
        next
    }

    async fn live(&mut self, mut socket: Socket) -> Next {
        let number = socket.session;
        if let Some(session) = self.session.as_ref().filter(|session| session.received > 0) {
            self.note(What::TxAck { session: number, received: session.received });
        }
        let first = match &self.session {
            Some(session) => json!({"type": "resume", "session": session.secret, "received": session.received}),
            None => json!({"type": "hello"}),
        };
        if !self.say(&mut socket, first).await {
            return self.over(number, "the first frame failed", Next::Resume);
        }
        let whim = (self.nature.temper != Temper::Steady)
            .then(|| Instant::now() + Duration::from_millis(self.actor.rng.u64(300..3_000)));
        let mut beats = interval(Duration::from_millis(self.nature.beat));
        let mut talks = interval(Duration::from_millis(self.nature.talk));
        let mut greeted = false;
        loop {
            let order = self.actor.order();
            if order == Order::Leave && greeted {
                return self.bye(socket).await;
            }
            tokio::select! {
                frame = socket.stream.next() => match frame {
                    Some(Ok(Message::Text(text))) => {
                        let Ok(envelope) = serde_json::from_str::<Value>(&text) else { continue };
                        match self.take(&mut socket, &envelope, &mut greeted).await {
                            None => {}
                            Some(next) => return next,
                        }
                    }
                    Some(Ok(Message::Close(frame))) => {
                        let (code, reason) = frame.map_or((1005, String::new()), |CloseFrame { code, reason }| (code.into(), reason.to_string()));
                        self.note(What::Closed { session: number, code, reason });
                        // Sends the answer and waits for the end.
                        let _ = timeout(PATIENCE, async { while let Some(Ok(_)) = socket.stream.next().await {} }).await;
                        let next = if matches!(code, 4409 | 4410) { Next::Rest } else { Next::Anew };
                        return self.over(number, "closed by the server", next);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return self.over(number, &error.to_string(), Next::Resume),
                    None => return self.over(number, "end of stream", Next::Resume),
                },
                _ = beats.tick(), if greeted => {
                    let received = self.session.as_ref().map_or(0, |session| session.received);
                    if received > 0 {
                        self.note(What::TxAck { session: number, received });
                    }
                    if !self.say(&mut socket, json!({"type": "heartbeat", "received": received})).await {
                        return self.over(number, "a write failed", Next::Resume);
                    }
                }
                _ = talks.tick(), if greeted && order.busy() => {
                    if !self.talk(&mut socket).await {
                        return self.over(number, "a write failed", Next::Resume);
                    }
                }
                () = sleep_until(whim.unwrap_or_else(Instant::now)), if greeted && whim.is_some() && order.busy() => {
                    return self.follow_whim(socket).await;
                }
                _ = self.actor.orders.changed() => {
                    for _ in 0..BURST {
                        let burst = greeted && self.actor.order() == Order::Burst;
                        if burst && !self.talk(&mut socket).await {
                            return self.over(number, "a write failed", Next::Resume);
                        }
                    }
                }
            }
        }
    }

    /// One envelope from the server; Some when the socket is done with.
    async fn take(&mut self, socket: &mut Socket, envelope: &Value, greeted: &mut bool) -> Option<Next> {
        let number = socket.session;
        let count = |name: &str| envelope[name].as_u64().unwrap_or(0);
        let text = |name: &str| envelope[name].as_str().unwrap_or("").to_owned();
        match envelope["type"].as_str() {
            Some("hello") => {
                let resumed = envelope["resumed"].as_bool() == Some(true);
                let received = count("received");
                self.note(What::Hello {
                    session: number,
                    client: text("client_id"),
                    connection: text("connection_id"),
                    resumed,
                    received,
                });
                if !resumed || self.session.is_none() {
                    self.session = Some(Session::default());
                }
                let session = self.session.as_mut().expect("was set");
                session.secret = text("session");
                *greeted = true;
                self.acked(number, received);
                return self.repeat(socket).await;
            }
            Some("heartbeat" | "ack") => {
                if let Some(received) = envelope["received"].as_u64() {
                    self.acked(number, received);
                }
            }
            Some("message") => {
                let seq = count("seq");
                self.note(What::Rx { session: number, id: id_of(&text("text")), seq });
                let acknowledges = self.actor.rng.u32(0..3) > 0;
                let Some(session) = &mut self.session else { return None };
                // A number that was there already is a repeat; it is acknowledged again.
                session.received = session.received.max(seq);
                let received = session.received;
                if acknowledges {
                    self.note(What::TxAck { session: number, received });
                    if !self.say(socket, json!({"type": "ack", "received": received})).await {
                        return Some(self.over(number, "a write failed", Next::Resume));
                    }
                }
            }
            Some("error") => {
                let code = text("code");
                // The Close comes next; what it was for decides how to go on.
                self.note(What::Closed { session: number, code: 0, reason: code.clone() });
                return Some(self.over(number, &code, Next::Anew));
            }
            _ => {}
        }
        None
    }

    fn acked(&mut self, number: u32, received: u64) {
        if received > 0 {
            self.note(What::RxAck { session: number, received });
        }
        if let Some(session) = &mut self.session {
            session.unacked.retain(|(seq, ..)| *seq > received);
        }
    }

    /// Sends again what was not acknowledged.
    async fn repeat(&mut self, socket: &mut Socket) -> Option<Next> {
        let unacked: Vec<_> = self.session.iter().flat_map(|session| session.unacked.iter().cloned()).collect();
        for (seq, id, text) in unacked {
            self.note(What::Tx { session: socket.session, id, seq });
            if !self.say(socket, json!({"type": "message", "seq": seq, "text": text})).await {
                return Some(self.over(socket.session, "a write failed", Next::Resume));
            }
        }
        None
    }

    async fn talk(&mut self, socket: &mut Socket) -> bool {
        self.said += 1;
        let id = format!("{}.{}:{}", self.actor.journal.actor(), socket.session, self.said);
        let text = payload('c', &id, self.nature.bytes);
        let Some(session) = &mut self.session else { return true };
        session.sent += 1;
        let seq = session.sent;
        session.unacked.push_back((seq, id.clone(), text.clone()));
        self.note(What::Tx { session: socket.session, id, seq });
        self.say(socket, json!({"type": "message", "seq": seq, "text": text})).await
    }

    async fn follow_whim(&mut self, mut socket: Socket) -> Next {
        let number = socket.session;
        match (self.nature.temper, self.actor.rng.u32(0..6)) {
            (Temper::Silent, _) => {
                self.note(What::Silent { session: number });
                let _unsettled = Counted::one(&self.actor.pulse.unsettled);
                let mut address = self.actor.address.clone();
                tokio::select! {
                    () = sleep(Duration::from_millis(self.nature.timeout + 2_500)) => {}
                    _ = address.changed() => {}
                }
                drop(socket);
                self.over(number, "was silent", Next::Anew)
            }
            (_, 0) => self.bye(socket).await,
            (_, 1) => {
                self.note(What::Closing { session: number, how: "close".to_owned() });
                let _ = timeout(PATIENCE, socket.stream.close(None)).await;
                let _ = timeout(PATIENCE, async { while let Some(Ok(_)) = socket.stream.next().await {} }).await;
                self.over(number, "closed", Next::Anew)
            }
            (_, 2) => {
                self.note(What::Closing { session: number, how: "vanish".to_owned() });
                drop(socket);
                self.over(number, "vanished", Next::Resume)
            }
            // On a new socket before the old one is known to be lost.
            (_, 3) => {
                self.note(What::Closing { session: number, how: "half_close".to_owned() });
                socket.half_close();
                self.over(number, "half-closed", Next::Resume)
            }
            _ => {
                self.note(What::Closing { session: number, how: "reset".to_owned() });
                socket.reset();
                self.over(number, "reset", Next::Resume)
            }
        }
    }

    async fn bye(&mut self, mut socket: Socket) -> Next {
        let number = socket.session;
        self.note(What::Closing { session: number, how: "bye".to_owned() });
        self.say(&mut socket, json!({"type": "bye"})).await;
        loop {
            match timeout(PATIENCE, socket.stream.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => {
                    let Ok(envelope) = serde_json::from_str::<Value>(&text) else { continue };
                    if envelope["type"] == "message" {
                        let seq = envelope["seq"].as_u64().unwrap_or(0);
                        self.note(What::Rx {
                            session: number,
                            id: id_of(envelope["text"].as_str().unwrap_or("")),
                            seq,
                        });
                    } else if let Some(received) = envelope["received"].as_u64() {
                        self.acked(number, received);
                    }
                }
                Ok(Some(Ok(Message::Close(Some(CloseFrame { code, reason }))))) => {
                    self.note(What::Closed { session: number, code: code.into(), reason: reason.to_string() });
                }
                Ok(Some(Ok(_))) => {}
                _ => return self.over(number, "said bye", Next::Anew),
            }
        }
    }
}
