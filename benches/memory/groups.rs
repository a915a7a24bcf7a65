//! Which part of the server a block on the heap belongs to, told from where it was allocated.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// What blocks are for.
pub struct Group {
    /// For people.
    pub name: &'static str,
    /// A block is of the first group of which a frame names one of these.
    marks: &'static [&'static str],
}

/// What belongs to none of them.
const OTHER: &str = "other";

/// In the order in which they are asked.
pub const GROUPS: &[Group] = &[
    Group { name: "the runtime's registration of its socket", marks: &["ScheduledIo"] },
    Group { name: "timer wheel", marks: &["registry::wheel"] },
    Group { name: "outbox", marks: &["heartwire::outbox"] },
    Group { name: "codec", marks: &["tungstenite", "ws::socket::Machine"] },
    Group { name: "shared half (`Connection`)", marks: &["heartwire::registry::connection::Connection>"] },
    Group {
        name: "identity (`ConnectionInfo`, `ClientId`)",
        marks: &["heartwire::event::ConnectionInfo>", "heartwire::ids::"],
    },
    // The driver with the socket, and the codec's place, are inside it.
    Group { name: "task with driver and socket", marks: &["runtime::task::core::Cell<"] },
    Group {
        name: "session: window, secret, what only it needs",
        marks: &["driver::reliable", "connection::sessions", "registry::window", "socket::WsSocket<heartwire::line"],
    },
    Group {
        name: "registry entry: the fold's slab and hash tables",
        marks: &["registry::fold", "heartwire::registry::join"],
    },
    Group { name: "log", marks: &["heartwire::log"] },
    // Its type is in the names of others.
    Group { name: "the line, which driver and senders share", marks: &["line::Line::new"] },
    Group { name: "TLS: its keys and its state, and the socket that has them", marks: &["rustls::", "ws::tls"] },
    Group { name: OTHER, marks: &[] },
];

/// What dhat writes, as far as it is of use here.
#[derive(Deserialize)]
struct Profile {
    pps: Vec<Point>,
    ftbl: Vec<String>,
}

/// One place in the program that allocates.
#[derive(Deserialize)]
struct Point {
    /// Bytes at the end.
    eb: i64,
    /// Blocks at the end.
    ebk: i64,
    /// The frames, innermost first.
    fs: Vec<usize>,
}

/// Bytes and blocks.
type Size = (i64, i64);

/// What the heap held, by group and by site.
pub struct Held {
    groups: BTreeMap<&'static str, Size>,
    sites: BTreeMap<String, Size>,
}

impl Held {
    /// Of one group.
    pub fn of(&self, group: &str) -> Size {
        self.groups.get(group).copied().unwrap_or_default()
    }

    /// Every site.
    pub fn sites(&self) -> impl Iterator<Item = (&String, &Size)> {
        self.sites.iter()
    }

    /// One site.
    pub fn site(&self, site: &str) -> Size {
        self.sites.get(site).copied().unwrap_or_default()
    }
}

fn group(frames: &[&str]) -> &'static str {
    let marked = |group: &&Group| frames.iter().any(|frame| group.marks.iter().any(|mark| frame.contains(mark)));
    GROUPS.iter().find(marked).map_or(OTHER, |group| group.name)
}

/// A frame without its address, which is another in every process.
fn bare(frame: &str) -> &str {
    frame.split_once(": ").map_or(frame, |(_, name)| name)
}

/// What a run has written.
///
/// # Errors
/// If it cannot be read.
pub fn read(file: &Path) -> Result<Held, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let profile: Profile = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    let (mut groups, mut sites) = (BTreeMap::<_, Size>::new(), BTreeMap::<_, Size>::new());
    for point in profile.pps {
        let frames: Vec<&str> =
            point.fs.iter().filter_map(|at| profile.ftbl.get(*at)).map(|frame| bare(frame)).collect();
        let group = group(&frames);
        let ours: Vec<_> = frames.iter().filter(|frame| frame.contains("heartwire::")).take(3).copied().collect();
        let inner: Vec<_> = frames.iter().skip(1).take(4).copied().collect();
        let site = format!("[{group}] {} << {}", inner.join(" < "), ours.join(" < "));
        for sum in [groups.entry(group).or_default(), sites.entry(site).or_default()] {
            *sum = (sum.0 + point.eb, sum.1 + point.ebk);
        }
    }
    Ok(Held { groups, sites })
}
