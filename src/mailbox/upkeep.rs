//! What is done with messages that are through: the expired are logged, and both they and the delivered are removed from the store.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::table::{self, Letter, Sequence};
use super::{Inner, STORE_RETRY, lock};
use crate::ids::ClientId;
use crate::metrics::MailOutcome;
use crate::store::StoreError;

/// Messages given up, or removed, at one go.
const BATCH: usize = 512;

/// The longest and the shortest pause between two looks for what has expired. The wall clock may be set, so it is looked at every second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// How long the log may take to have room for an expiry before it is asked anew.
const ROOM_DEADLINE: Duration = Duration::from_secs(5);

impl Inner {
    /// Gives up what has expired, for as long as it is polled. It waits for neither the store nor the log, so whatever is wrong with them
    /// nothing is sent too late, and nobody is held for mail that will not be sent. What is given up is owed to the log from then on.
    pub(super) async fn expire(&self) {
        loop {
            let (now, earliest) = (self.now(), self.index().look_at());
            if earliest.is_some_and(|earliest| earliest <= now) {
                let expired = self.index().expire(now, BATCH);
                self.tell_all(&expired);
                lock(&self.owed).extend(expired);
                self.owing.notify_one();
                // The others of this task have their turn, however much expires at once.
                yield_now().await;
                continue;
            }
            let Some(earliest) = earliest else {
                self.sooner.notified().await;
                continue;
            };
            let until = Duration::from_nanos(u64::try_from(earliest - now).unwrap_or(0)).clamp(PAUSES.0, PAUSES.1);
            tokio::select! {
                () = sleep(until) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    fn tell_all(&self, changed: &[(ClientId, Sequence)]) {
        let index = self.index();
        for (client_id, _) in changed.chunk_by(|a, b| a.0 == b.0).filter_map(<[_]>::first) {
            self.tell(&index, client_id);
        }
    }

    /// Logs what has expired, for as long as it is polled. Until that is committed it is owed, and stays in the store: whoever starts from that
    /// finds it expired again.
    pub(super) async fn log_expiries(&self) {
        loop {
            let batch = self.take_owed();
            if batch.is_empty() {
                self.owing.notified().await;
                continue;
            }
            let left = self.log_expired(batch).await;
            if !left.is_empty() {
                self.owe_first(left);
                sleep(STORE_RETRY).await;
            }
        }
    }

    fn take_owed(&self) -> Vec<(ClientId, Sequence)> {
        let mut owed = lock(&self.owed);
        let most = owed.len().min(BATCH);
        let batch = owed.drain(..most).collect();
        if owed.is_empty() {
            *owed = VecDeque::new();
        }
        batch
    }

    /// Before those that have expired since.
    fn owe_first(&self, left: Vec<(ClientId, Sequence)>) {
        let mut owed = lock(&self.owed);
        left.into_iter().rev().for_each(|one| owed.push_front(one));
    }

    /// Logs that messages have expired and has them removed once that is committed. Answers those to be tried again.
    async fn log_expired(&self, expired: Vec<(ClientId, Sequence)>) -> Vec<(ClientId, Sequence)> {
        let asked = expired.clone();
        let read = self.store.read(move |transaction| {
            let mut letters = Vec::with_capacity(asked.len());
            for (client_id, sequence) in &asked {
                let letter: Option<Letter> = table::read(transaction, client_id, &[*sequence])?.remove(0).1;
                letters.push(letter.map(|letter| (letter.message_id, letter.send_time)));
            }
            Ok(letters)
        });
        let letters = match read.await {
            Ok(letters) => letters,
            Err(error) => {
                tracing::warn!(%error, "expired messages cannot be read");
                return expired;
            }
        };
        let there = letters.iter().flatten().count();
        let Ok(rooms) = timeout(ROOM_DEADLINE, self.registry.log().budget().reserve_events(there)).await else {
            // Once in a while; what is wrong with the log is told by the log.
            tracing::debug!(expired = there, "the log has no room for what has expired");
            return expired;
        };
        let mut rooms = rooms.into_iter();
        let mut submitted = Vec::with_capacity(there);
        for ((client_id, sequence), letter) in expired.into_iter().zip(letters) {
            let Some((message_id, send_time)) = letter else {
                tracing::error!(sequence, "an expired message is gone from the store");
                self.index().forget(&client_id, sequence);
                continue;
            };
            // One for each that is there.
            let Some(room) = rooms.next() else { break };
            let committed = self.registry.mail_expired(&client_id, message_id, send_time, room);
            submitted.push((client_id, sequence, committed));
        }
        let mut owed = Vec::new();
        for (client_id, sequence, committed) in submitted {
            // Without a deadline: a log that is slow commits it in the end, and to log it anew would tell it twice. What comes behind
            // it in that log would be no sooner.
            if committed.await.is_ok() {
                self.metrics.mail.of(MailOutcome::Expired).inc();
                self.remove_later(client_id, sequence);
            } else {
                owed.push((client_id, sequence));
            }
        }
        owed
    }

    /// Has a message removed from the store.
    pub(super) fn remove_later(&self, client_id: ClientId, sequence: Sequence) {
        lock(&self.removals).push((client_id, sequence));
        self.removing.notify_one();
    }

    /// Removes what is through, for as long as it is polled.
    pub(super) async fn remove(&self) {
        loop {
            match self.remove_some().await {
                Ok(true) => {}
                Ok(false) => self.removing.notified().await,
                Err(error) => {
                    tracing::warn!(%error, "messages that are through cannot be removed from the store");
                    sleep(STORE_RETRY).await;
                }
            }
        }
    }

    /// Removes a batch; false if there is nothing to remove.
    pub(super) async fn remove_some(&self) -> Result<bool, StoreError> {
        let batch: Vec<_> = {
            let removals = lock(&self.removals);
            removals.iter().take(BATCH).cloned().collect()
        };
        if batch.is_empty() {
            return Ok(false);
        }
        let count = batch.len();
        let (index, recent, now) = (Arc::clone(&self.index), Arc::clone(&self.recent), self.registry.clock().uptime());
        let removed = self
            .store
            .write(move |transaction| {
                // In the transaction, so that no repeat comes between. If that fails, the message is found before this is looked at.
                table::remove(transaction, &batch, |client_id, sequence, id, says| {
                    let mut index = lock(&index);
                    if index.has_expired(client_id, sequence) {
                        // A repeat of it is stored anew.
                        return;
                    }
                    let progress = index.progress(client_id, sequence);
                    drop(index);
                    lock(&recent).remember(client_id, id, says, progress, now);
                })?;
                Ok(batch)
            })
            .await?;
        let mut removals = lock(&self.removals);
        removals.drain(..count);
        if removals.is_empty() {
            *removals = Vec::new();
        }
        drop(removals);
        let mut index = self.index();
        for (client_id, sequence) in removed {
            index.forget(&client_id, sequence);
        }
        Ok(true)
    }
}
