//! The ledger's statements for Kafka's clients: idempotent producers, what consumer groups have reached and who is in them,
//! leader epochs.

use std::collections::HashMap;
use std::ops::Range;

use rusqlite::{Connection, Transaction, params};
use tarn_model::{Offset, PartitionId};

use super::rows::{meta, set_meta};
use super::{Change, Ledger, Reader, Sql, open};
use crate::error::LogError;
use crate::offsets::{CommittedOffset, GroupOffset};
use crate::producers::{ProducerKey, ProducerState};

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS producers (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, producer INTEGER NOT NULL,
    epoch INTEGER NOT NULL, batches BLOB NOT NULL, at_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, producer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offsets (
    \"group\" TEXT NOT NULL, topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL,
    offset INTEGER NOT NULL, leader_epoch INTEGER NOT NULL, metadata TEXT, at_ms INTEGER NOT NULL,
    PRIMARY KEY (\"group\", topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_producers (
    seq INTEGER NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, producer INTEGER NOT NULL,
    epoch INTEGER, batches BLOB, at_ms INTEGER, PRIMARY KEY (seq, topic, partition, producer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_offsets (
    seq INTEGER NOT NULL, \"group\" TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
    offset INTEGER, leader_epoch INTEGER, metadata TEXT, at_ms INTEGER,
    PRIMARY KEY (seq, \"group\", topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS groups (name TEXT PRIMARY KEY, members TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_groups (
    seq INTEGER NOT NULL, name TEXT NOT NULL, members TEXT, PRIMARY KEY (seq, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, epoch INTEGER NOT NULL,
    start INTEGER NOT NULL, PRIMARY KEY (topic, partition, epoch)) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('next_producer', 1);
";

/// What a partition knows of a producer now.
#[derive(Debug)]
pub(crate) struct ProducerRow<'a> {
    pub(crate) key: &'a ProducerKey,
    pub(crate) state: &'a ProducerState,
}

/// What a group has reached now.
#[derive(Debug)]
pub(crate) struct OffsetRow<'a> {
    pub(crate) topic: i64,
    pub(crate) offset: &'a GroupOffset,
}

pub(super) fn write_producers(
    tx: &Transaction<'_>,
    seq: i64,
    with_undo: bool,
    change: &Change<'_>,
) -> Sql<()> {
    for ProducerRow { key: (topic, partition, producer), state } in &change.producers {
        if with_undo {
            // The left join gives a row of NULLs when there was nothing.
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_producers SELECT ?1, ?2, ?3, ?4, p.epoch, p.batches, p.at_ms
                     FROM (SELECT 1) LEFT JOIN producers p ON p.topic = ?2 AND p.partition = ?3 AND p.producer = ?4",
            )?
            .execute(params![seq, topic, partition, producer])?;
        }
        tx.prepare_cached("INSERT OR REPLACE INTO producers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![topic, partition, producer, state.epoch, state.batches_row(), state.at_ms])?;
    }
    Ok(())
}

pub(super) fn write_offsets(tx: &Transaction<'_>, seq: i64, with_undo: bool, change: &Change<'_>) -> Sql<()> {
    if with_undo {
        for OffsetRow { topic, offset } in change.offsets.iter().chain(&change.expired) {
            // Several appends of one commit may set the same offset: the first sees what was committed.
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_offsets SELECT ?1, ?2, ?3, ?4, o.offset, o.leader_epoch, o.metadata, o.at_ms
                     FROM (SELECT 1) LEFT JOIN offsets o ON o.\"group\" = ?2 AND o.topic = ?3 AND o.partition = ?4",
            )?
            .execute(params![seq, offset.group, topic, offset.partition])?;
        }
    }
    for OffsetRow { topic, offset } in &change.offsets {
        let GroupOffset { group, partition, committed, .. } = offset;
        match committed {
            Some(CommittedOffset { offset, leader_epoch, metadata, at_ms }) => tx
                .prepare_cached("INSERT OR REPLACE INTO offsets VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                .execute(params![group, topic, partition, offset, leader_epoch, metadata, at_ms])?,
            None => tx
                .prepare_cached("DELETE FROM offsets WHERE \"group\" = ?1 AND topic = ?2 AND partition = ?3")?
                .execute(params![group, topic, partition])?,
        };
    }
    for OffsetRow { topic, offset } in &change.expired {
        let Some(seen) = &offset.committed else { continue };
        tx.prepare_cached(
            "DELETE FROM offsets WHERE \"group\" = ?1 AND topic = ?2 AND partition = ?3 AND offset = ?4
                 AND leader_epoch = ?5 AND metadata IS ?6 AND at_ms = ?7",
        )?
        .execute(params![
            offset.group,
            topic,
            offset.partition,
            seen.offset,
            seen.leader_epoch,
            seen.metadata,
            seen.at_ms
        ])?;
    }
    Ok(())
}

pub(super) fn write_group_members(
    tx: &Transaction<'_>,
    seq: i64,
    with_undo: bool,
    change: &Change<'_>,
) -> Sql<()> {
    for (name, members) in change.group_members.iter().copied() {
        if with_undo {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_groups VALUES (?1, ?2, (SELECT members FROM groups WHERE name = ?2))",
            )?
            .execute(params![seq, name])?;
        }
        match members {
            Some(members) => tx
                .prepare_cached("INSERT OR REPLACE INTO groups VALUES (?1, ?2)")?
                .execute(params![name, members])?,
            None => tx.prepare_cached("DELETE FROM groups WHERE name = ?1")?.execute([name])?,
        };
    }
    Ok(())
}

/// The epoch has begun: notes where, in every partition. Where more was taken back than before, an epoch that began above has
/// left nothing.
pub(super) fn begin_epoch(tx: &Transaction<'_>) -> Sql<()> {
    tx.execute_batch(
        "DELETE FROM epochs WHERE start >= (SELECT max(\"end\") FROM segments s
             WHERE s.topic = epochs.topic AND s.partition = epochs.partition);
         INSERT OR REPLACE INTO epochs SELECT topic, partition,
             (SELECT value FROM meta WHERE name = 'leader_epoch'), max(\"end\") FROM segments GROUP BY topic, partition;",
    )
}

/// A partition that is new begins in the epoch that is; there is nothing to note of the first.
pub(super) fn put_epoch(tx: &Transaction<'_>, topic: i64, partition: PartitionId, start: i64) -> Sql<()> {
    tx.prepare_cached(
        "INSERT OR REPLACE INTO epochs SELECT ?1, ?2, value, ?3 FROM meta WHERE name = 'leader_epoch' AND value > 0",
    )?
    .execute(params![topic, partition, start])
    .map(|_| ())
}

/// Takes back what stands in the undo tables: per object, the oldest row has what was synced last.
pub(super) fn roll_back(tx: &Transaction<'_>) -> Sql<()> {
    tx.execute_batch(
        "DELETE FROM producers WHERE (topic, partition, producer) IN
             (SELECT topic, partition, producer FROM undo_producers);
         INSERT INTO producers SELECT topic, partition, producer, epoch, batches, at_ms FROM undo_producers u
             WHERE batches IS NOT NULL AND seq = (SELECT min(seq) FROM undo_producers o WHERE o.topic = u.topic
                 AND o.partition = u.partition AND o.producer = u.producer);
         DELETE FROM offsets WHERE (\"group\", topic, partition) IN
             (SELECT \"group\", topic, partition FROM undo_offsets);
         INSERT INTO offsets SELECT \"group\", topic, partition, offset, leader_epoch, metadata, at_ms
             FROM undo_offsets u WHERE offset IS NOT NULL AND seq = (SELECT min(seq) FROM undo_offsets o
                 WHERE o.\"group\" = u.\"group\" AND o.topic = u.topic AND o.partition = u.partition);
         DELETE FROM groups WHERE name IN (SELECT name FROM undo_groups);
         INSERT INTO groups SELECT name, members FROM undo_groups u WHERE members IS NOT NULL
             AND seq = (SELECT min(seq) FROM undo_groups o WHERE o.name = u.name);",
    )
}

pub(super) fn load_producers(connection: &Connection) -> Sql<HashMap<ProducerKey, ProducerState>> {
    let mut select =
        connection.prepare("SELECT topic, partition, producer, epoch, batches, at_ms FROM producers")?;
    let mut states = HashMap::new();
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key = (row.get(0)?, row.get(1)?, row.get(2)?);
        let batches: Vec<u8> = row.get(4)?;
        let state = ProducerState::from_row(row.get(3)?, &batches, row.get(5)?);
        let torn =
            || rusqlite::Error::IntegralValueOutOfRange(4, batches.len().try_into().unwrap_or(i64::MAX));
        states.insert(key, state.ok_or_else(torn)?);
    }
    Ok(states)
}

impl Ledger {
    /// Notes `count` producer ids as given.
    pub(crate) fn take_producer_ids(&mut self, count: i64) -> Result<Range<i64>, LogError> {
        self.durable(|tx| {
            let next = meta(tx, "next_producer")?;
            set_meta(tx, "next_producer", next + count)?;
            Ok(next..next + count)
        })
    }

    /// Forgets producers that have not written since `before_ms`.
    pub(crate) fn expire_producers(&mut self, before_ms: i64) -> Result<(), LogError> {
        self.durable(|tx| tx.execute("DELETE FROM producers WHERE at_ms < ?1", [before_ms]).map(|_| ()))
    }
}

impl Reader {
    pub(crate) fn group_offsets(
        &self,
        group: &str,
    ) -> Result<Vec<(i64, PartitionId, CommittedOffset)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached(
                    "SELECT topic, partition, offset, leader_epoch, metadata, at_ms FROM offsets
                         WHERE \"group\" = ?1 ORDER BY topic, partition",
                )?
                .query_map([group], |row| {
                    let committed = CommittedOffset {
                        offset: row.get(2)?,
                        leader_epoch: row.get(3)?,
                        metadata: row.get(4)?,
                        at_ms: row.get(5)?,
                    };
                    Ok((row.get(0)?, row.get(1)?, committed))
                })?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    /// Group, topic, partition and offset of all that was committed, group by group.
    pub(crate) fn all_group_offsets(&self) -> Result<Vec<(String, i64, PartitionId, Offset)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached(
                    "SELECT \"group\", topic, partition, offset FROM offsets ORDER BY \"group\", topic, partition",
                )?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    pub(crate) fn groups(&self) -> Result<Vec<String>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached("SELECT DISTINCT \"group\" FROM offsets ORDER BY 1")?
                .query_map([], |row| row.get(0))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    pub(crate) fn group_members(&self) -> Result<Vec<(String, String)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached("SELECT name, members FROM groups ORDER BY name")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    /// Epochs that began in a partition, with their first offsets, oldest first.
    pub(crate) fn epochs(&self, topic: i64, partition: PartitionId) -> Result<Vec<(i32, i64)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached(
                    "SELECT epoch, start FROM epochs WHERE topic = ?1 AND partition = ?2 ORDER BY epoch",
                )?
                .query_map(params![topic, partition], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }
}
