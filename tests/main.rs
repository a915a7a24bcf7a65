//! What a user would notice: the real server on ports of its own, real WebSocket clients, real gRPC clients.

#![allow(unreachable_pub, reason = "one binary")]

mod allow;
mod architecture;
mod commands;
mod consumers;
mod delivery;
mod docs;
mod durable;
mod events;
mod frames;
mod handshake;
mod harness;
mod limits;
mod liveness;
mod mailbox;
mod plain_protocol;
mod process;
mod reliable;
mod shutdown;
mod takeover;
mod tls;
