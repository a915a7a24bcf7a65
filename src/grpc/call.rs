//! What every call has: a deadline that its caller set, a node that may be going down, and perhaps a position to wait for.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::Shared;
use super::error::{Ends, Error};
use crate::position::{Offset, Position};

/// How long a call without a deadline waits for a position.
const POSITION_DEADLINE: Duration = Duration::from_secs(5);

/// The caller's deadline, from the `grpc-timeout` header: at most eight digits and a unit. A malformed one is no deadline, as in other servers.
pub(super) fn deadline(metadata: &MetadataMap) -> Option<Instant> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    Instant::now().checked_add(parse_timeout(text)?)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Shared {
    /// Refuses what comes after the streams were told to end.
    pub(super) fn check_open(&self) -> Result<(), Error> {
        let closing = self.closing.now().is_cancelled() || self.closing.last().borrow().is_some();
        if closing { Err(Error::ShuttingDown) } else { Ok(()) }
    }

    /// Does `work` until the caller's deadline or the node's, unless the node is past answering.
    pub(super) async fn bounded<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.check_open()?;
        self.timed(deadline, work).await
    }

    /// Does `work` until the caller's deadline or the node's.
    pub(super) async fn timed<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = at(deadline) => Err(Error::DeadlineExceeded),
            () = self.closing.now().cancelled() => Err(Error::ShuttingDown),
        }
    }

    /// Where the state has to be for a `min_cursor`; none if it is there, or if there is none.
    pub(super) fn still_to_reach(&self, min_cursor: &str) -> Result<Option<Offset>, Error> {
        if min_cursor.is_empty() {
            return Ok(None);
        }
        let position = Position::from_cursor(min_cursor).map_err(|_| Error::CursorDamaged)?;
        let log = self.registry.log();
        if position.epoch != log.epoch() {
            return Err(Error::EpochChanged(Ends::of(&self.registry)));
        }
        // One older than the log keeps is fine: the state includes it.
        let bounds = log.bounds();
        if position.offset > bounds.committed {
            return Err(Error::CursorAhead);
        }
        Ok((position.offset > bounds.head).then_some(position.offset))
    }

    /// Waits until the state includes an offset. Without a deadline of the caller's, who is then in charge, at most 5 s.
    pub(super) async fn reach(&self, offset: Offset, deadline: Option<Instant>) -> Result<(), Error> {
        let mut head = self.registry.log().watch_head();
        let reached = head.wait_for(|head| *head >= offset);
        let outcome = match deadline {
            Some(_) => reached.await.is_ok(),
            None => tokio::time::timeout(POSITION_DEADLINE, reached).await.is_ok_and(|reached| reached.is_ok()),
        };
        if outcome { Ok(()) } else { Err(Error::LogUnavailable) }
    }

    /// Waits for a `min_cursor`.
    pub(super) async fn reach_cursor(&self, min_cursor: &str, deadline: Option<Instant>) -> Result<(), Error> {
        match self.still_to_reach(min_cursor)? {
            Some(offset) => self.reach(offset, deadline).await,
            None => Ok(()),
        }
    }

    /// The cursor of an offset.
    pub(super) fn cursor(&self, offset: Offset) -> String {
        self.registry.position(offset).to_cursor()
    }

    /// The newest position that is visible.
    pub(super) fn head(&self) -> Offset {
        self.registry.log().head()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_a_timeout_is_understood() {
        for (text, expected) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse_timeout(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn a_malformed_timeout_is_none() {
        for text in ["", "S", "1", "-1S", "1 S", "+1S", "1s", "100000000S", "1.5S", "é", "1é"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }

    #[test]
    fn the_longest_timeout_does_not_overflow_the_clock() {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", "99999999H".parse().expect("ascii"));
        assert!(deadline(&metadata).is_none_or(|at| at > Instant::now()));
    }
}
