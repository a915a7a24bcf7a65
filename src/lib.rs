//! Heartwire.
pub mod admin;
pub mod cli;
pub mod clock;
pub mod close;
pub mod config;
pub mod dispatch;
pub mod drain;
pub mod event;
pub mod heartbeat;
pub mod ids;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod outbox;
pub mod position;
pub mod registry;
pub mod shutdown;
pub mod telemetry;

/// The generated contract.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::unwrap_used)]
pub mod pb {
    tonic::include_proto!("heartwire.v1");
    /// The encoded descriptors of the contract, with comments.
    pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("heartwire.v1");
}
