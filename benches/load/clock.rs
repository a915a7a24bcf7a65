//! One monotonic clock for stamps that travel inside messages: nanoseconds since the process began to ask.

use std::sync::OnceLock;
use std::time::Instant;

/// Length of what [`stamp`] makes.
pub const STAMP_BYTES: usize = 48;

fn base() -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    *BASE.get_or_init(Instant::now)
}

/// Nanoseconds since the first call in this process.
pub fn nanos() -> u64 {
    u64::try_from(base().elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// A text message that says when it was sent; as long as a short chat message.
pub fn stamp() -> String {
    format!("at {:020} {}", nanos(), "x".repeat(STAMP_BYTES - 24))
}

/// How long ago a stamp was made, in nanoseconds; `None` if it is no stamp, and no JSON with one inside.
pub fn age(text: &[u8]) -> Option<u64> {
    let start = match text.first()? {
        b'{' => text.windows(4).position(|four| four == b"\"at ")? + 1,
        _ => 0,
    };
    let digits = text.get(start..)?.strip_prefix(b"at ")?.get(..20)?;
    let sent: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(nanos().saturating_sub(sent))
}
