//! Heartwire: a sidecar that holds a backend's WebSocket connections and gives it a truthful, resumable account of them over gRPC.
//!
//! **The log is the truth, and everything else is a fold of it.** The binary is thin; the parts are here. Who may import whom (left may use
//! right; a test reads the arrows):
//!
//! ```text
//! app -> { ws, grpc, admin } -> { connection, consumers, dispatch, drain, mailbox } -> registry -> { outbox, log, store } -> { event, close, ... }
//! ```
//!
//! The ways data takes:
//!
//! 1. *In.* [`ws`] makes messages of frames; [`connection`]'s driver decides what they mean and submits events through its place in the
//!    [`registry`]; the [`log`] commits them, has the registry apply them, and lets readers see them; [`grpc`] hands them to subscribers.
//! 2. *Out.* [`grpc`] gives a message to [`dispatch`], which looks its target up in the registry and puts it in [`outbox`]es; the driver
//!    writes it and tells the receipt.
//! 3. *Silence.* The registry's sweep judges by [`heartbeat`] who is due a beat, SUSPECT or expired, and wakes the driver.
//!
//! `ARCHITECTURE.md` draws how the log and the fold work together.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod close;
pub mod config;
pub mod connection;
pub mod consumers;
pub mod dispatch;
pub mod drain;
pub mod event;
pub mod grpc;
pub mod heartbeat;
pub mod ids;
pub mod labels;
pub mod line;
pub mod log;
pub mod mailbox;
pub mod metrics;
pub mod outbox;
pub mod position;
pub mod registry;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod ws;

/// The generated contract.
#[allow(missing_docs, unreachable_pub, rustdoc::all, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod pb {
    tonic::include_proto!("heartwire.v1");
    /// The encoded descriptors of the contract, with comments.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("heartwire.v1");
}
