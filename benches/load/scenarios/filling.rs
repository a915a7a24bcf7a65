//! Filling a log before anything is measured, so that its growth is nobody's memory but its own.

use std::cell::Cell;
use std::time::Duration;

use crate::crowd::Seen;
use crate::frames::{self, Opcode};
use crate::process::Server;
use crate::stage::Stage;

/// Bytes of payload in all: over the 64 MiB that a log keeps by default, before what it adds to each event.
const PAYLOADS: usize = 72 << 20;

/// Payload of one message: middling for a chat or a game.
const PAYLOAD: usize = 500;

/// Clients at once: few, so that the memory they leave behind is little.
const CLIENTS: usize = 100;

/// Messages of one client: what Heartwire's default limits let through at once.
const EACH: usize = 190;

/// Time for one lot of clients to be heard.
const SAID_BY: Duration = Duration::from_secs(60);

/// Says enough for the log to be full. Nothing happens to a server that keeps none.
pub fn fill(stage: &Stage<'_>, server: &Server) -> Result<(), String> {
    if !stage.keeps_log() {
        return Ok(());
    }
    for _ in 0..PAYLOADS.div_ceil(PAYLOAD * CLIENTS * EACH) {
        say(stage, server, CLIENTS, EACH, PAYLOAD)?;
    }
    Ok(())
}

/// So many clients come, say so much, are heard to the end, and go.
pub fn say(stage: &Stage<'_>, server: &Server, clients: usize, each: usize, payload: usize) -> Result<(), String> {
    let mut crowd = stage.clients(server, 'f', None, clients)?;
    stage.connect(&mut crowd, 0..clients, clients.min(crate::stage::HANDSHAKES))?;
    let mut frames = Vec::new();
    for _ in 0..each {
        frames::push_masked(&mut frames, Opcode::Text, "x".repeat(payload).as_bytes());
    }
    // Answered once everything before it was read.
    frames::push_masked(&mut frames, Opcode::Ping, b"end");
    let (heard, gone) = (Cell::new(0), Cell::new(0));
    let seen = |_, seen: Seen<'_>| match seen {
        Seen::Frame(Opcode::Pong, _) => heard.set(heard.get() + 1),
        Seen::Gone => gone.set(gone.get() + 1),
        _ => {}
    };
    for index in 0..clients {
        crowd.send(index, &frames);
        crowd.turn(Duration::ZERO, seen)?;
    }
    crowd.turn_until(SAID_BY, seen, |_| heard.get() + gone.get() >= clients)?;
    if heard.get() < clients {
        return Err(format!(
            "only {} of {clients} clients were heard to the end while the log was filled",
            heard.get()
        ));
    }
    for index in 0..clients {
        crowd.close(index);
    }
    crowd.turn_until(Duration::from_secs(20), |_, _| {}, |crowd| crowd.open() == 0)?;
    Ok(())
}
