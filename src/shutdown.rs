//! What the streams of the control plane are told of a shutdown.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::position::Offset;

/// The way down, as open streams see it: first they carry everything up to the last event, then they end; at the deadline they end as they are.
#[derive(Clone)]
pub struct Closing {
    last: watch::Sender<Option<Offset>>,
    now: CancellationToken,
}

impl Default for Closing {
    fn default() -> Self {
        Self { last: watch::Sender::new(None), now: CancellationToken::new() }
    }
}

impl Closing {
    /// Says that no event after `last` matters: streams end once they have carried it.
    pub fn end_after(&self, last: Offset) {
        self.last.send_replace(Some(last));
    }

    /// Says that the deadline has come: streams end now.
    pub fn end_now(&self) {
        self.now.cancel();
    }

    /// The last offset to carry, once it is known.
    #[must_use]
    pub fn last(&self) -> watch::Receiver<Option<Offset>> {
        self.last.subscribe()
    }

    /// Waits until streams that carry no events are to end.
    pub async fn begun(&self) {
        let mut last = self.last.subscribe();
        tokio::select! {
            // An error would mean that the sender is gone, and this holds one.
            _ = last.wait_for(Option::is_some) => {}
            () = self.now.cancelled() => {}
        }
    }

    /// Cancelled at the deadline.
    #[must_use]
    pub fn now(&self) -> &CancellationToken {
        &self.now
    }
}
