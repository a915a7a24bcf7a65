//! How far a kept position is behind the log.

use std::time::Duration;

use crate::clock::UnixNanos;
use crate::log::{Bounds, CursorError, Log, ReadError, resume_from};
use crate::position::Position;

/// How far behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lag {
    /// Events after the position, also those that the log no longer keeps; all that it keeps, for a position of another epoch.
    pub events: i64,
    /// Age of the oldest event after the position that the log keeps; none if it cannot be told.
    pub time: Option<Duration>,
    /// Whether the log cannot be read on from the position.
    pub expired: bool,
}

/// How far `position` is behind what readers of `log` see.
pub async fn lag(log: &dyn Log, position: Position, now: UnixNanos) -> Lag {
    let bounds = log.bounds();
    let expired = |events| Lag { events, time: bounds.oldest_time.map(|oldest| age(oldest, now)), expired: true };
    match resume_from(log, position) {
        Err(CursorError::OtherEpoch | CursorError::Ahead) => expired(i64::try_from(bounds.records).unwrap_or(i64::MAX)),
        Err(CursorError::Expired) => expired(behind(bounds, position)),
        Ok(offset) if offset >= bounds.head => Lag { events: 0, time: Some(Duration::ZERO), expired: false },
        Ok(offset) => {
            let events = behind(bounds, position);
            match log.read(offset).await {
                Ok(records) => {
                    let oldest = records.first().map(|record| age(record.event.time, now));
                    Lag { events, time: oldest, expired: false }
                }
                Err(ReadError::Expired) => expired(events),
                Err(ReadError::Damaged(_) | ReadError::Unavailable(_)) => Lag { events, time: None, expired: false },
            }
        }
    }
}

fn behind(bounds: Bounds, position: Position) -> i64 {
    bounds.head.saturating_sub(position.offset).max(0)
}

fn age(time: UnixNanos, now: UnixNanos) -> Duration {
    Duration::from_nanos(u64::try_from(now.saturating_sub(time)).unwrap_or(0))
}
