//! From configuration to what each part wants to know.

use std::sync::Arc;

use hyper::header::HeaderName;

use crate::config::{AnonymousPolicy, Config, DuplicatePolicy, ProofOfLife, ServerHeartbeat};
use crate::connection::{ConnectionSettings, Rates, ServerBeat};
use crate::heartbeat::Cadence;
use crate::mailbox;
use crate::outbox::OutboxLimits;
use crate::registry::{Duplicates, Settings};
use crate::ws::HandshakeSettings;

/// Used when neither the configuration nor the system names the node.
const NAMELESS: &str = "heartwire";

pub(super) fn registry(config: &Config) -> Settings {
    Settings {
        node_id: node_id(config),
        cadence: Cadence::new(config.heartbeat.interval, config.heartbeat.timeout),
        quiet: config.heartbeat.server == ServerHeartbeat::Off,
        duplicates: match config.identity.duplicates {
            DuplicatePolicy::Replace => Duplicates::Replace,
            DuplicatePolicy::Reject => Duplicates::Reject,
            DuplicatePolicy::Allow => Duplicates::Allow { most: config.identity.max_connections_per_client },
        },
        takeovers_per_minute: u32::try_from(config.identity.takeovers_per_minute).unwrap_or(u32::MAX),
        outbox: OutboxLimits { frames: config.limits.outbox_frames, bytes: config.limits.outbox_bytes.as_usize() },
    }
}

pub(super) fn connection(config: &Config) -> ConnectionSettings {
    ConnectionSettings {
        identify_timeout: config.ws.identify_timeout,
        write_timeout: config.ws.write_timeout,
        resume_window: config.ws.resume_window,
        assign_ids: config.identity.anonymous == AnonymousPolicy::Assign,
        server_beat: match config.heartbeat.server {
            ServerHeartbeat::Auto => ServerBeat::Auto,
            ServerHeartbeat::Ping => ServerBeat::Ping,
            ServerHeartbeat::Text => ServerBeat::Text,
            ServerHeartbeat::Both => ServerBeat::Both,
            ServerHeartbeat::Off => ServerBeat::Off,
        },
        any_frame_counts: config.heartbeat.counts == ProofOfLife::AnyFrame,
        rates: Rates { messages: config.limits.messages_per_second, bytes: config.limits.bytes_per_second.bytes() },
        max_message: config.ws.max_message.as_usize(),
        uncommitted: u32::try_from(config.limits.uncommitted_bytes.bytes()).unwrap_or(u32::MAX),
        reconnect_jitter: config.shutdown.reconnect_jitter,
    }
}

pub(super) fn mailbox(config: &Config) -> mailbox::Settings {
    mailbox::Settings {
        limits: mailbox::Limits {
            max_messages: config.mailbox.max_messages,
            max_bytes: config.mailbox.max_bytes.bytes(),
            max_total_bytes: config.mailbox.max_total_bytes.bytes(),
        },
        trust_self_named: config.identity.trust_self_named,
    }
}

pub(super) fn handshake(config: &Config) -> HandshakeSettings {
    HandshakeSettings {
        allowed_origins: config.ws.allowed_origins.clone(),
        query_parameter: config.identity.query_parameter.clone(),
        // Validated as a header name; empty is none.
        header: HeaderName::try_from(config.identity.header.as_str()).ok(),
    }
}

fn node_id(config: &Config) -> Arc<str> {
    if !config.node.id.is_empty() {
        return config.node.id.as_str().into();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => NAMELESS.into(),
        host => host.into(),
    }
}
