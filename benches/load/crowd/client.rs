//! One client: from the connect to the close.

use std::io;

use mio::net::TcpStream;
use rustls::ClientConnection;

use super::wire::Wire;
use super::{Plan, Seen};
use crate::dialect::Step;
use crate::frames::{self, Answer, Opcode};
use crate::tls;

/// Where a client is in its life.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Away,
    Connecting,
    Upgrading,
    Introducing,
    Open,
}

/// Small while nothing is half-read or half-written.
#[derive(Default)]
pub(super) struct Client {
    stream: Option<TcpStream>,
    /// What is spoken on the stream; `None` without TLS. Read and written is through a [`Wire`] only.
    tls: Option<Box<ClientConnection>>,
    phase: Phase,
    pub(super) silent: bool,
    /// What was read of a frame or an answer that is not whole.
    partial: Vec<u8>,
    /// What the socket did not take yet. Scenarios bound what they send before they wait.
    unsent: Vec<u8>,
}

impl Client {
    pub(super) fn connecting(stream: TcpStream, tls: Option<Box<ClientConnection>>) -> Self {
        Self { stream: Some(stream), tls, phase: Phase::Connecting, ..Self::default() }
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// What was agreed on in its TLS handshake; `None` without TLS, or before.
    pub(super) fn agreed(&self) -> Option<String> {
        self.tls.as_deref().and_then(tls::agreed)
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    pub(super) fn send(&mut self, frame: &[u8]) {
        if self.phase == Phase::Open {
            self.write(frame);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if self.unsent.is_empty()
            && let Some(mut wire) = Wire::of(&mut self.stream, &mut self.tls)
        {
            match wire.write(bytes) {
                Ok(taken) => rest = &bytes[taken..],
                // A socket that failed says so when it is read.
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
        self.unsent.extend_from_slice(rest);
    }

    /// The socket is writable, or has `failed`. One that is being connected is neither before it is decided.
    pub(super) fn on_writable(
        &mut self,
        index: usize,
        plan: &Plan,
        failed: bool,
        seen: &mut impl FnMut(usize, Seen<'_>),
    ) {
        let Some(mut wire) = Wire::of(&mut self.stream, &mut self.tls) else { return };
        if self.phase == Phase::Connecting {
            if failed {
                self.end();
                seen(index, Seen::Gone);
                return;
            }
            self.phase = Phase::Upgrading;
            let path = plan.dialect.path.replace("{id}", &plan.id(index));
            self.write(frames::request(&path, plan.dialect.subprotocol.as_deref()).as_bytes());
        } else {
            // A socket that failed says so when it is read.
            let _ = wire.flush();
            if self.unsent.is_empty() {
                return;
            }
            match wire.write(&self.unsent) {
                Ok(taken) if taken == self.unsent.len() => self.unsent = Vec::new(),
                Ok(taken) => drop(self.unsent.drain(..taken)),
                Err(_) => {}
            }
        }
    }

    pub(super) fn on_readable(
        &mut self,
        index: usize,
        plan: &Plan,
        to_the_end: bool,
        buffer: &mut [u8],
        seen: &mut impl FnMut(usize, Seen<'_>),
    ) {
        while let Some(mut wire) = Wire::of(&mut self.stream, &mut self.tls) {
            match wire.read(buffer) {
                Ok(0) => return self.gone(index, seen),
                Ok(count) => {
                    self.take(index, plan, &buffer[..count], seen);
                    // Less than asked for is all there was; what comes later is a new event.
                    if count < buffer.len() && !to_the_end {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Not connected yet is told by the event that says it is writable.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => {
                    // Otherwise nobody would know why no client of a server ever gets in.
                    if error.kind() == io::ErrorKind::InvalidData {
                        seen(index, Seen::Refused(&error.to_string()));
                    }
                    return self.gone(index, seen);
                }
            }
        }
    }

    fn gone(&mut self, index: usize, seen: &mut impl FnMut(usize, Seen<'_>)) {
        self.end();
        seen(index, Seen::Gone);
    }

    fn take(&mut self, index: usize, plan: &Plan, bytes: &[u8], seen: &mut impl FnMut(usize, Seen<'_>)) {
        if self.partial.is_empty() {
            let used = self.parse(index, plan, bytes, seen);
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut all = std::mem::take(&mut self.partial);
            all.extend_from_slice(bytes);
            let used = self.parse(index, plan, &all, seen);
            if used < all.len() {
                all.drain(..used);
                self.partial = all;
            }
        }
    }

    /// Handles what is whole; returns how many bytes that was.
    fn parse(&mut self, index: usize, plan: &Plan, bytes: &[u8], seen: &mut impl FnMut(usize, Seen<'_>)) -> usize {
        let mut used = 0;
        if self.phase == Phase::Upgrading {
            match frames::answer(bytes) {
                Answer::Partial => return 0,
                Answer::Refused(status) => {
                    seen(index, Seen::Refused(status));
                    self.gone(index, seen);
                    return bytes.len();
                }
                Answer::Switched(frames_at) => used = frames_at,
            }
            self.phase = Phase::Introducing;
            self.take_step(index, plan.dialect.greet(&plan.id(index), plan.timeout), seen);
        }
        while let Some(head) = frames::first(&bytes[used..]) {
            let payload = &bytes[used..][head.payload.clone()];
            used += head.payload.end;
            match head.opcode {
                Opcode::Ping if !self.silent => self.write(&frames::masked(Opcode::Pong, payload)),
                Opcode::Close => self.write(&frames::masked(Opcode::Close, payload.get(..2).unwrap_or(&[]))),
                _ => {}
            }
            if self.phase == Phase::Introducing {
                self.take_step(index, plan.dialect.introduce(&plan.id(index), payload), seen);
                continue;
            }
            if !self.silent
                && let Some(answer) = plan.dialect.answer(payload)
            {
                self.write(&answer);
            }
            seen(index, Seen::Frame(head.opcode, payload));
        }
        used
    }

    fn take_step(&mut self, index: usize, step: Step, seen: &mut impl FnMut(usize, Seen<'_>)) {
        match step {
            Step::Wait => {}
            Step::Say(frame) => self.write(&frame),
            Step::Open => {
                self.phase = Phase::Open;
                seen(index, Seen::Open);
            }
        }
    }
}
