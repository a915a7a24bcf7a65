//! What a user would notice: the real server on ports of its own, real WebSocket clients, real gRPC clients.

#![allow(unreachable_pub, reason = "one binary")]

mod architecture;
mod frames;
mod handshake;
mod harness;
