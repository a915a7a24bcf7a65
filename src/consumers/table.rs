//! The table of consumers in the store: one row a name.

use super::kept::Kept;
use super::name::ConsumerName;
use crate::clock::UnixNanos;
use crate::position::{Epoch, Position};
use crate::store::{
    Outcome, ReadTransaction, ReadableTable, ReadableTableMetadata as _, TableDefinition, TableError, WriteTransaction,
};

/// By name: the cursor of the kept position, empty for none, and when the consumer was used last.
const CONSUMERS: TableDefinition<'_, &str, (&str, UnixNanos)> = TableDefinition::new("consumers");

/// What a write makes of a row.
pub(super) enum Change {
    Put(Kept),
    Remove,
    Nothing,
}

fn decode((cursor, used): (&str, UnixNanos)) -> Kept {
    // What cannot be read is as good as of another epoch: whoever subscribes is told to take a snapshot, and nothing is skipped in silence.
    let unreadable = |_| Position { epoch: Epoch::random(), offset: 0 };
    let position = (!cursor.is_empty()).then(|| Position::from_cursor(cursor).unwrap_or_else(unreadable));
    Kept { position, used }
}

/// Changes one row as `decide` says, which is given what is there and how many rows there are; answers what it answers.
pub(super) fn change<T>(
    transaction: &WriteTransaction,
    name: &ConsumerName,
    decide: impl FnOnce(Option<Kept>, u64) -> (Change, T),
) -> Outcome<T> {
    let mut table = transaction.open_table(CONSUMERS)?;
    let kept = table.get(name.as_str())?.map(|row| decode(row.value()));
    let (change, answer) = decide(kept, table.len()?);
    match change {
        Change::Put(Kept { position, used }) => {
            let cursor = position.map(Position::to_cursor).unwrap_or_default();
            table.insert(name.as_str(), (cursor.as_str(), used))?;
        }
        Change::Remove => drop(table.remove(name.as_str())?),
        Change::Nothing => {}
    }
    Ok(answer)
}

/// Notes that those of whom `in_use` says so are in use, removes those of whom `unused` says so, and answers the names of the removed.
pub(super) fn sweep(
    transaction: &WriteTransaction,
    now: UnixNanos,
    in_use: impl Fn(&str) -> bool,
    unused: impl Fn(Kept) -> bool,
) -> Outcome<Vec<String>> {
    let mut table = transaction.open_table(CONSUMERS)?;
    let (mut used, mut removed) = (Vec::new(), Vec::new());
    for row in table.iter()? {
        let (name, row) = row?;
        let (name, kept) = (name.value(), decode(row.value()));
        if in_use(name) {
            used.push((name.to_owned(), row.value().0.to_owned()));
        } else if unused(kept) {
            removed.push(name.to_owned());
        }
    }
    for (name, cursor) in &used {
        table.insert(name.as_str(), (cursor.as_str(), now))?;
    }
    for name in &removed {
        table.remove(name.as_str())?;
    }
    Ok(removed)
}

/// At most so many rows in the order of their names, after one of them.
pub(super) fn list(transaction: &ReadTransaction, after: &str, most: usize) -> Outcome<Vec<(String, Kept)>> {
    use std::ops::Bound::{Excluded, Unbounded};
    let table = match transaction.open_table(CONSUMERS) {
        Ok(table) => table,
        // Made by the first write.
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let rows = table.range::<&str>((Excluded(after), Unbounded))?.take(most);
    rows.map(|row| row.map(|(name, row)| (name.value().to_owned(), decode(row.value()))).map_err(Into::into)).collect()
}
