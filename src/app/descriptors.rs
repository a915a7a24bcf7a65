//! The descriptor limit: raised as far as the system lets us, and what that leaves for connections.

/// Descriptors kept for everything but clients: listeners, the runtime, backends' connections, files.
const KEPT: u64 = 512;

/// Raises the soft limit of open files to the hard one, and answers how many of `wanted` connections fit under it.
pub(super) fn usable_connections(wanted: usize) -> usize {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => clamp(wanted, limit),
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            wanted
        }
    }
}

fn clamp(wanted: usize, limit: u64) -> usize {
    // A tiny limit still leaves half of it to clients.
    let kept = KEPT.min(limit / 2);
    wanted.min(usize::try_from(limit - kept).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_clamped_to_what_the_descriptors_allow() {
        assert_eq!(clamp(65_536, 1_048_576), 65_536);
        assert_eq!(clamp(65_536, 20_000), 19_488);
        assert_eq!(clamp(65_536, 64), 32);
        assert_eq!(clamp(10, 1_048_576), 10);
    }
}
