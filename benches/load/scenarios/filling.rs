//! Filling a log before anything is measured, so that its growth is nobody's memory but its own.

use std::cell::Cell;
use std::time::Duration;

use crate::crowd::{Crowd, Seen};
use crate::frames::{self, Opcode};
use crate::process::Server;
use crate::stage::Stage;

/// Bytes of payload in all: over the 64 MiB that a log keeps by default, before what it adds to each event.
const PAYLOADS: usize = 72 << 20;

/// Payload of one message: middling for a chat or a game.
const PAYLOAD: usize = 500;

/// Clients at once while filling, and what one says before it waits to be heard: little, because the memory that a server used for
/// them and keeps would later be taken for none at all.
const CLIENTS: usize = 20;
const CHUNK: usize = 10;

/// Chunks of one client: with `CHUNK` what Heartwire's default limits let through at once.
const CHUNKS: usize = 19;

/// Time for one lot of clients to be heard.
const SAID_BY: Duration = Duration::from_secs(60);

/// Says enough for the log to be full. Nothing happens to a server that keeps none.
pub fn fill(stage: &Stage<'_>, server: &Server) -> Result<(), String> {
    if !stage.keeps_log() {
        return Ok(());
    }
    let words = words(CHUNK, PAYLOAD);
    for _ in 0..PAYLOADS.div_ceil(PAYLOAD * CLIENTS * CHUNK * CHUNKS) {
        let mut crowd = stage.plain_clients(server, 'f', CLIENTS)?;
        stage.connect(&mut crowd, 0..CLIENTS, CLIENTS)?;
        for _ in 0..CHUNKS {
            let heard = Heard::default();
            for index in 0..CLIENTS {
                crowd.send(index, &words);
                crowd.turn_until(SAID_BY, |_, seen| heard.note(&seen), |_| heard.count() > index)?;
            }
            heard.all(CLIENTS)?;
        }
        say_goodbye(&mut crowd)?;
    }
    Ok(())
}

/// So many clients come, say so much, are heard to the end, and go.
pub fn say(stage: &Stage<'_>, server: &Server, clients: usize, each: usize, payload: usize) -> Result<(), String> {
    let mut crowd = stage.plain_clients(server, 'f', clients)?;
    stage.connect(&mut crowd, 0..clients, clients.min(crate::stage::HANDSHAKES))?;
    let words = words(each, payload);
    let heard = Heard::default();
    for index in 0..clients {
        crowd.send(index, &words);
        crowd.turn(Duration::ZERO, |_, seen| heard.note(&seen))?;
    }
    crowd.turn_until(SAID_BY, |_, seen| heard.note(&seen), |_| heard.count() >= clients)?;
    heard.all(clients)?;
    say_goodbye(&mut crowd)
}

/// So many messages, and a Ping that is answered once everything before it was read.
fn words(count: usize, payload: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    let text = "x".repeat(payload);
    for _ in 0..count {
        frames::push_masked(&mut frames, Opcode::Text, text.as_bytes());
    }
    frames::push_masked(&mut frames, Opcode::Ping, b"end");
    frames
}

/// Who was heard, and who was lost.
#[derive(Default)]
struct Heard {
    pongs: Cell<usize>,
    gone: Cell<usize>,
}

impl Heard {
    fn note(&self, seen: &Seen<'_>) {
        match seen {
            Seen::Frame(Opcode::Pong, _) => self.pongs.set(self.pongs.get() + 1),
            Seen::Gone => self.gone.set(self.gone.get() + 1),
            _ => {}
        }
    }

    fn count(&self) -> usize {
        self.pongs.get() + self.gone.get()
    }

    fn all(&self, clients: usize) -> Result<(), String> {
        let heard = self.pongs.get();
        if heard < clients {
            return Err(format!("only {heard} of {clients} clients were heard to the end while the log was filled"));
        }
        Ok(())
    }
}

fn say_goodbye(crowd: &mut Crowd) -> Result<(), String> {
    for index in 0..crowd.len() {
        crowd.close(index);
    }
    crowd.turn_until(Duration::from_secs(20), |_, _| {}, |crowd| crowd.open() == 0).map(drop)
}
