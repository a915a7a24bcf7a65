//! What a user would notice: the real server on ports of its own, real WebSocket clients, real gRPC clients.

mod harness;
