//! What the kernel keeps for sockets, from what it tells of the whole machine.

use std::fs::read_to_string;

/// What there is one of for each open socket that is watched by epoll: the socket, its inode, its file, and the watch.
const CACHES: [&str; 4] = ["TCP", "sock_inode_cache", "filp", "eventpoll_epi"];

/// The kernel's unit of buffers in /proc/net/sockstat.
const PAGE: u64 = 4096;

/// Bytes that the machine's TCP sockets take now, with their buffers; `None` where the kernel does not tell, or not this user:
/// /proc/slabinfo is for root alone. Files of others on the machine are counted too, so only the difference between two of these
/// that many sockets lie between says anything.
pub fn sockets_memory() -> Option<u64> {
    let slabs = read_to_string("/proc/slabinfo").ok()?;
    let bytes = |name: &str| {
        let mut words = slabs.lines().find(|line| line.split(' ').next() == Some(name))?.split_whitespace().skip(1);
        let active: u64 = words.next()?.parse().ok()?;
        let size: u64 = words.nth(1)?.parse().ok()?;
        Some((active, size))
    };
    let objects: u64 =
        CACHES.iter().map(|name| bytes(name).map(|(active, size)| active * size)).sum::<Option<u64>>()?;
    // Each inode of a socket has an entry in the cache of names; that cache itself breathes with every file that anybody opens.
    let names = bytes("sock_inode_cache")?.0 * bytes("dentry")?.1;
    let stat = read_to_string("/proc/net/sockstat").ok()?;
    let tcp = stat.lines().find(|line| line.starts_with("TCP:"))?;
    let pages: u64 = tcp.split(" mem ").nth(1)?.trim().parse().ok()?;
    Some(objects + names + pages * PAGE)
}
