//! The ledger's statements for transactions: the rows of transactional ids, what was aborted, and what retention took of it.

use std::collections::HashMap;

use rusqlite::{Connection, Transaction as Write, params};
use tarn_model::{Offset, OffsetRange, PartitionId};

use super::rows::{add_column, integer, unsigned};
use super::{Change, Ledger, Reader, Sql, TopicRow, open};
use crate::error::LogError;
use crate::transactions::Transaction;
use crate::visible::Aborted;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS transactions (id TEXT PRIMARY KEY, row TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_transactions (
    seq INTEGER NOT NULL, id TEXT NOT NULL, row TEXT, PRIMARY KEY (seq, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS aborted (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, last INTEGER NOT NULL,
    first INTEGER NOT NULL, producer INTEGER NOT NULL, stable INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, last)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passed (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, \"from\" INTEGER NOT NULL,
    \"to\" INTEGER NOT NULL, offsets INTEGER NOT NULL);
";

/// A transactional id as it is now.
#[derive(Debug)]
pub(crate) struct TransactionRow<'a> {
    pub(crate) id: &'a str,
    pub(crate) transaction: &'a Transaction,
}

/// A transaction that was aborted, in one partition.
#[derive(Debug)]
pub(crate) struct AbortedRow {
    pub(crate) topic: i64,
    pub(crate) partition: PartitionId,
    pub(crate) aborted: Aborted,
}

/// Creates what a ledger of an older version lacks.
pub(super) fn create(connection: &Connection) -> Sql<()> {
    connection.execute_batch(SCHEMA)?;
    add_column(connection, "topics", "configs", "TEXT")?;
    add_column(connection, "segments", "markers", "INTEGER NOT NULL DEFAULT 0")?;
    add_column(connection, "undo_segments", "markers", "INTEGER NOT NULL DEFAULT 0")
}

pub(super) fn write(tx: &Write<'_>, seq: i64, with_undo: bool, change: &Change<'_>) -> Sql<()> {
    for TransactionRow { id, transaction } in &change.transactions {
        if with_undo {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_transactions VALUES (?1, ?2, (SELECT row FROM transactions WHERE id = ?2))",
            )?
            .execute(params![seq, id])?;
        }
        let row = serde_json::to_string(transaction).expect("a transaction is plain data");
        tx.prepare_cached("INSERT OR REPLACE INTO transactions VALUES (?1, ?2)")?
            .execute(params![id, row])?;
    }
    for AbortedRow { topic, partition, aborted } in &change.aborted {
        tx.prepare_cached("INSERT INTO aborted VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            topic,
            partition,
            aborted.last,
            aborted.first,
            aborted.producer,
            aborted.stable
        ])?;
    }
    Ok(())
}

/// Takes back what stands in the undo tables; called when the segments have gone back.
pub(super) fn roll_back(tx: &Write<'_>) -> Sql<()> {
    tx.execute_batch(
        "DELETE FROM transactions WHERE id IN (SELECT id FROM undo_transactions);
         INSERT INTO transactions SELECT id, row FROM undo_transactions u WHERE row IS NOT NULL
             AND seq = (SELECT min(seq) FROM undo_transactions o WHERE o.id = u.id);
         DELETE FROM aborted WHERE last >= (SELECT max(\"end\") FROM segments s
             WHERE s.topic = aborted.topic AND s.partition = aborted.partition);",
    )
}

pub(super) fn load(connection: &Connection) -> Sql<HashMap<String, Transaction>> {
    let mut select = connection.prepare("SELECT id, row FROM transactions")?;
    let mut rows = select.query([])?;
    let mut transactions = HashMap::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(1)?;
        let transaction = serde_json::from_str(&text).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
        })?;
        transactions.insert(row.get(0)?, transaction);
    }
    Ok(transactions)
}

pub(super) fn load_aborted(connection: &Connection, topics: &mut [TopicRow]) -> Sql<()> {
    let mut select = connection.prepare(
        "SELECT partition, producer, first, last, stable FROM aborted WHERE topic = ?1 ORDER BY last",
    )?;
    for topic in topics {
        let mut rows = select.query([topic.id])?;
        while let Some(row) = rows.next()? {
            let aborted =
                Aborted { producer: row.get(1)?, first: row.get(2)?, last: row.get(3)?, stable: row.get(4)? };
            let index = usize::try_from(row.get::<_, i64>(0)?).unwrap_or(usize::MAX);
            if let Some(partition) = topic.partitions.get_mut(index) {
                partition.aborted.push(aborted);
            }
        }
    }
    Ok(())
}

/// What ended below the start is needed no more.
pub(super) fn forget_aborted(tx: &Write<'_>, topic: i64, partition: PartitionId, start: Offset) -> Sql<()> {
    tx.prepare_cached("DELETE FROM aborted WHERE topic = ?1 AND partition = ?2 AND last < ?3")?
        .execute(params![topic, partition, start])
        .map(|_| ())
}

/// What ended with this marker is needed no more.
pub(super) fn forget_aborted_at(
    tx: &Write<'_>,
    topic: i64,
    partition: PartitionId,
    marker: Offset,
) -> Sql<()> {
    tx.prepare_cached("DELETE FROM aborted WHERE topic = ?1 AND partition = ?2 AND last = ?3")?
        .execute(params![topic, partition, marker])
        .map(|_| ())
}

pub(super) fn put_passed(
    tx: &Write<'_>,
    topic: i64,
    partition: PartitionId,
    range: OffsetRange,
    offsets: u64,
) -> Sql<()> {
    tx.prepare_cached("INSERT INTO passed VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![topic, partition, range.from, range.to, integer(offsets)])
        .map(|_| ())
}

impl Ledger {
    /// Forgets transactional ids.
    pub(crate) fn forget_transactions(&mut self, ids: &[String]) -> Result<(), LogError> {
        self.durable(|tx| {
            let mut delete = tx.prepare_cached("DELETE FROM transactions WHERE id = ?1")?;
            ids.iter().try_for_each(|id| delete.execute([id]).map(|_| ()))
        })
    }
}

impl Reader {
    /// Ranges that were let go, and how many of their offsets held no record that counted.
    pub(crate) fn passed(&self, topic: i64) -> Result<Vec<(PartitionId, OffsetRange, u64)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached("SELECT partition, \"from\", \"to\", offsets FROM passed WHERE topic = ?1")?
                .query_map([topic], |row| {
                    Ok((row.get(0)?, OffsetRange::new(row.get(1)?, row.get(2)?), unsigned(row.get(3)?)))
                })?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }
}
