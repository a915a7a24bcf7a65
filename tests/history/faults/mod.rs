//! Faults: what is done to processes, sockets, disks and clocks.

pub mod hole;
pub mod tools;
