//! The descriptor limit: raised as far as the system lets us, and what that leaves for connections.

use crate::{admin, connection, grpc};

/// Descriptors kept for listeners, the runtime and files.
const OWN: usize = 128;

/// Raises the soft limit of open files to the hard one, and answers how many of `wanted` connections fit under it beside handshakes under way,
/// sockets that may go on with a session, backends and admin: otherwise clients could take the last descriptor, and with it the control plane.
pub(super) fn usable_connections(wanted: usize, handshakes: usize) -> usize {
    let kept = OWN + handshakes + connection::MOST_PROVISIONAL + grpc::MAX_CONNECTIONS + admin::MAX_CONNECTIONS;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => clamp(wanted, kept, limit),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            wanted
        }
    }
}

fn clamp(wanted: usize, kept: usize, limit: u64) -> usize {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // A tiny limit still leaves half of it to clients.
    wanted.min(limit - kept.min(limit / 2)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_clamped_to_what_the_descriptors_allow() {
        assert_eq!(clamp(65_536, 1_700, 1_048_576), 65_536);
        assert_eq!(clamp(65_536, 1_700, 20_000), 18_300);
        assert_eq!(clamp(65_536, 1_700, 64), 32);
        assert_eq!(clamp(10, 1_700, 1_048_576), 10);
    }
}
