//! What is kept of mailboxes in the store: the messages, a short head of each to start from, and the ids they are known by.

use bytes::Bytes;

use crate::clock::UnixNanos;
use crate::event::Payload;
use crate::ids::ClientId;
use crate::store::{Outcome, ReadTransaction, ReadableTable as _, TableDefinition, TableError, WriteTransaction};

/// Which of all stored messages this is; rises in the order in which they were stored.
pub(super) type Sequence = u64;

type Key = (&'static str, Sequence);

/// Sent when, text or binary, its id, its payload.
const MESSAGES: TableDefinition<'_, Key, (UnixNanos, bool, &'static str, &'static [u8])> =
    TableDefinition::new("mailbox_messages");

/// Expires when, weighs how much: what the index is made of, so that starting reads no payloads.
const HEADS: TableDefinition<'_, Key, (UnixNanos, u32)> = TableDefinition::new("mailbox_heads");

/// The message that a client's message id stands for; there as long as the message is, or until one that expired is stored anew.
const IDS: TableDefinition<'_, (&'static str, &'static str), Sequence> = TableDefinition::new("mailbox_ids");

/// A stored message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Letter {
    pub(super) payload: Payload,
    /// What the backend called it; empty for nothing.
    pub(super) message_id: Box<str>,
    pub(super) send_time: UnixNanos,
}

/// What the index keeps of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub(super) sequence: Sequence,
    pub(super) expires: UnixNanos,
    pub(super) weight: u32,
}

pub(super) fn insert(transaction: &WriteTransaction, client_id: &ClientId, head: Head, letter: &Letter) -> Outcome<()> {
    let (client_id, id) = (client_id.as_str(), &*letter.message_id);
    let key = (client_id, head.sequence);
    let is_text = matches!(letter.payload, Payload::Text(_));
    let bytes = letter.payload.bytes();
    transaction.open_table(MESSAGES)?.insert(key, (letter.send_time, is_text, id, &bytes[..]))?;
    transaction.open_table(HEADS)?.insert(key, (head.expires, head.weight))?;
    if !id.is_empty() {
        transaction.open_table(IDS)?.insert((client_id, id), head.sequence)?;
    }
    Ok(())
}

/// The message that an id stands for, if there is one.
pub(super) fn find(
    transaction: &WriteTransaction,
    client_id: &ClientId,
    message_id: &str,
) -> Outcome<Option<(Sequence, Payload)>> {
    let ids = transaction.open_table(IDS)?;
    let Some(sequence) = ids.get((client_id.as_str(), message_id))?.map(|found| found.value()) else {
        return Ok(None);
    };
    let messages = transaction.open_table(MESSAGES)?;
    let found = messages.get((client_id.as_str(), sequence))?;
    Ok(found.map(|found| {
        let (_, is_text, _, bytes) = found.value();
        (sequence, payload(is_text, bytes))
    }))
}

pub(super) fn contains(transaction: &WriteTransaction, client_id: &ClientId, sequence: Sequence) -> Outcome<bool> {
    Ok(transaction.open_table(HEADS)?.get((client_id.as_str(), sequence))?.is_some())
}

/// Removes messages and the ids that stand for them, and shows those that have an id; those that are not there are no matter.
pub(super) fn remove(
    transaction: &WriteTransaction,
    removed: &[(ClientId, Sequence)],
    mut named: impl FnMut(&ClientId, Sequence, &str, (bool, &[u8])),
) -> Outcome<()> {
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut heads = transaction.open_table(HEADS)?;
    let mut ids = transaction.open_table(IDS)?;
    for (client_id, sequence) in removed {
        let key = (client_id.as_str(), *sequence);
        if let Some(message) = messages.remove(key)? {
            let (_, is_text, id, bytes) = message.value();
            if !id.is_empty() {
                named(client_id, *sequence, id, (is_text, bytes));
                // It may stand for a later message since this one expired.
                let stands_for = ids.get((client_id.as_str(), id))?.map(|found| found.value());
                if stands_for == Some(*sequence) {
                    ids.remove((client_id.as_str(), id))?;
                }
            }
        }
        heads.remove(key)?;
    }
    Ok(())
}

/// Messages by their places; none for one that is not there.
pub(super) fn read(
    transaction: &ReadTransaction,
    client_id: &ClientId,
    sequences: &[Sequence],
) -> Outcome<Vec<(Sequence, Option<Letter>)>> {
    let messages = match transaction.open_table(MESSAGES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(sequences.iter().map(|at| (*at, None)).collect()),
        table => table?,
    };
    let mut letters = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        let found = messages.get((client_id.as_str(), *sequence))?;
        letters.push((*sequence, found.map(|found| letter(found.value()))));
    }
    Ok(letters)
}

/// Goes through the heads of all messages, those of a client id in their order.
pub(super) fn scan(transaction: &ReadTransaction, mut each: impl FnMut(&str, Head)) -> Outcome<()> {
    let heads = match transaction.open_table(HEADS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(()),
        table => table?,
    };
    for entry in heads.iter()? {
        let (key, value) = entry?;
        let ((client_id, sequence), (expires, weight)) = (key.value(), value.value());
        each(client_id, Head { sequence, expires, weight });
    }
    Ok(())
}

fn letter((send_time, is_text, message_id, bytes): (UnixNanos, bool, &str, &[u8])) -> Letter {
    Letter { payload: payload(is_text, bytes), message_id: message_id.into(), send_time }
}

fn payload(is_text: bool, bytes: &[u8]) -> Payload {
    let bytes = Bytes::copy_from_slice(bytes);
    if is_text { Payload::Text(bytes) } else { Payload::Binary(bytes) }
}
