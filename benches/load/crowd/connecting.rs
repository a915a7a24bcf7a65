//! Connecting many clients: so many at once, again when it failed, all within a time.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::{Crowd, Seen};

/// Loopback addresses that clients come from in turn: each has its own ports, so they do not run out.
const SOURCES: u8 = 64;

/// How long a client that was refused waits before it tries again.
const RETRY: Duration = Duration::from_millis(20);

/// Failed attempts after which the server is taken for dead.
const MOST_FAILURES: u64 = 1_000_000;

/// What has become of a client here.
#[derive(Clone, Copy)]
enum State {
    Other,
    UnderWay,
    Open,
}

impl Crowd {
    /// Connects these clients, `in_flight` at once; how many attempts failed and were made again. It is an error if not
    /// all are open within the limit.
    pub fn connect(&mut self, range: Range<usize>, in_flight: usize, limit: Duration) -> Result<u64, String> {
        let start = Instant::now();
        let (wanted, mut open, mut failures) = (range.len(), 0, 0);
        // Of all clients, since one may end that was connected before; it is not ours then.
        let mut state = vec![State::Other; self.clients.len()];
        let mut waiting: VecDeque<usize> = range.collect();
        let mut again: VecDeque<(Instant, usize)> = VecDeque::new();
        let mut under_way = 0usize;
        let mut refusal = String::new();
        while open < wanted {
            let now = Instant::now();
            if now.duration_since(start) > limit || failures > MOST_FAILURES {
                return Err(format!(
                    "{open} of {wanted} connected after {:?}, {failures} attempts failed{refusal}",
                    start.elapsed()
                ));
            }
            while again.front().is_some_and(|(at, _)| *at <= now) {
                waiting.extend(again.pop_front().map(|(_, index)| index));
            }
            // Some at a time, so that those under way are served in between.
            for _ in 0..in_flight.saturating_sub(under_way).min(128) {
                let Some(index) = waiting.pop_front() else { break };
                match self.start(index) {
                    Ok(()) => {
                        under_way += 1;
                        state[index] = State::UnderWay;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        failures += 1;
                        again.push_back((now + RETRY, index));
                    }
                    Err(error) => return Err(format!("cannot connect: {error}")),
                }
            }
            let mut failed = Vec::new();
            let wait = if waiting.is_empty() || under_way >= in_flight { 1 } else { 0 };
            self.turn(Duration::from_millis(wait), |index, seen| match (seen, state[index]) {
                (Seen::Open, State::UnderWay) => {
                    state[index] = State::Open;
                    open += 1;
                    under_way -= 1;
                }
                (Seen::Refused(status), State::UnderWay) => refusal = format!(", the last refused with {status:?}"),
                (Seen::Gone, State::UnderWay) => {
                    under_way -= 1;
                    failed.push(index);
                }
                (Seen::Gone, State::Open) => {
                    open -= 1;
                    failed.push(index);
                }
                _ => {}
            })?;
            for index in failed {
                failures += 1;
                state[index] = State::Other;
                again.push_back((Instant::now() + RETRY, index));
            }
        }
        Ok(failures)
    }
}

/// A socket that is being connected.
pub(super) fn socket(server: SocketAddr, index: usize) -> io::Result<TcpStream> {
    let source = u8::try_from(index % usize::from(SOURCES)).unwrap_or(0) + 1;
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.set_tcp_nodelay(true)?;
    // The kernel looks for a free port once the server is known, which is quicker than for one that no other socket has.
    setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, source), 0)).into())?;
    match socket.connect(&server.into()) {
        Ok(()) => {}
        // Under way.
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}
