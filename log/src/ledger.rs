//! What is committed: the SQLite database beside the segments.
//!
//! *Why*: one mechanism for everything that must change at once and be found by key. Segment bytes count only up to the
//! extents that stand here.
//!
//! *Layout* (`ledger.sqlite`, WAL):
//!
//! ```text
//! meta        name, value           commit (number of the last), leader_epoch, boot_id, next_producer
//! topics      id, uuid, name, columns, retention_time_ms, retention_bytes, configs
//! partitions  topic, partition, start, compacted
//! segments    topic, partition, base, end, bytes, created_ms, last_append_ms, max_timestamp_ms, markers, generation
//! positions   source, key, value
//! keys        topic, key, body_hash, answer, at_ms
//! dropped     source, records
//! producers   topic, partition, producer, epoch, batches, at_ms
//! offsets     group, topic, partition, offset, leader_epoch, metadata, at_ms
//! groups      name, members
//! epochs      topic, partition, epoch, start
//! lost        topic, partition, from, to, at_ms
//! gone        uuid
//! passed      topic, partition, from, to, offsets
//! transactions  id, row
//! aborted     topic, partition, last, first, producer, stable
//! undo_*      seq, what a commit replaced
//! ```
//!
//! *Failure*: under `group` every transaction is synced before it counts. Otherwise SQLite's WAL may outlive segment bytes
//! when the power fails, so each commit keeps what it replaced in `undo_*` until its segment bytes are synced. [`Ledger::open`]
//! finds another boot id than that of the last run, and then takes back all commits that still have undo rows.
//!
//! A commit that fails may have been made or not. [`Ledger::settle`] closes all connections, so that SQLite recovers as
//! after a crash, and looks; [`Ledger::settle_full`] does without when the disk was full.

mod checkpoints;
mod kafka;
mod rows;
mod transactions;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tarn_model::{Offset, OffsetRange, PartitionId};
use uuid::Uuid;

use self::checkpoints::{Checkpoints, LONGEST_WAL_PAGES};
pub(crate) use self::kafka::{OffsetRow, ProducerRow};
use self::rows::{
    SCHEMA, configs_column, integer, load_topics, meta, put_extent, roll_back, set_meta, unsigned,
    write_dropped, write_keys, write_new_partitions, write_partitions, write_positions,
};
pub(crate) use self::transactions::{AbortedRow, TransactionRow};
use crate::error::LogError;
use crate::options::TopicConfigs;
use crate::producers::{ProducerKey, ProducerState};
use crate::sealed::Position;
use crate::segment::Extent;
use crate::visible::Aborted;

type Sql<T> = std::result::Result<T, rusqlite::Error>;

/// What commits replaced whose bytes are not synced.
const UNDO_TABLES: [&str; 8] = [
    "undo_segments",
    "undo_positions",
    "undo_keys",
    "undo_dropped",
    "undo_producers",
    "undo_offsets",
    "undo_groups",
    "undo_transactions",
];

/// A topic as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct TopicRow {
    pub(crate) id: i64,
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) columns: Option<String>,
    pub(crate) retention_time_ms: Option<i64>,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) configs: TopicConfigs,
    pub(crate) partitions: Vec<PartitionRow>,
}

/// A partition as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct PartitionRow {
    pub(crate) start: Offset,
    /// How far compaction has come.
    pub(crate) compacted: Offset,
    /// By base; the last is written to.
    pub(crate) segments: Vec<Extent>,
    /// By the markers' offsets.
    pub(crate) aborted: Vec<Aborted>,
}

/// What one commit changes.
#[derive(Debug, Default)]
pub(crate) struct Change<'a> {
    pub(crate) partitions: Vec<PartitionChange>,
    pub(crate) positions: Vec<&'a Position>,
    pub(crate) keys: Vec<KeyRow<'a>>,
    pub(crate) dropped: Vec<&'a (String, u64)>,
    pub(crate) producers: Vec<ProducerRow<'a>>,
    pub(crate) offsets: Vec<OffsetRow<'a>>,
    /// Offsets that go if they still are what stands here.
    pub(crate) expired: Vec<OffsetRow<'a>>,
    pub(crate) group_members: Vec<&'a (String, Option<String>)>,
    pub(crate) transactions: Vec<TransactionRow<'a>>,
    pub(crate) aborted: Vec<AbortedRow>,
    pub(crate) now_ms: i64,
    /// Keys older than this are forgotten.
    pub(crate) expire_before_ms: i64,
}

/// The segments that a commit wrote to.
#[derive(Debug)]
pub(crate) struct PartitionChange {
    pub(crate) topic: i64,
    pub(crate) partition: PartitionId,
    /// The last segment as it was.
    pub(crate) before: Extent,
    /// The same segment as it is now, and the ones begun since.
    pub(crate) after: Vec<Extent>,
}

/// An idempotency key with the answer it got.
#[derive(Debug)]
pub(crate) struct KeyRow<'a> {
    pub(crate) topic: i64,
    pub(crate) key: &'a str,
    pub(crate) body_hash: u128,
    pub(crate) answer: String,
}

/// The writing side; only the committer has it.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    connection: Option<Connection>,
    reader: Arc<Reader>,
    checkpoints: Checkpoints,
    /// The WAL, open as long as the connection: whoever opened it later would not be told of pages that the kernel could not write
    /// before.
    wal: (PathBuf, Arc<File>),
    /// Whether every commit is synced, so that there is never anything to take back.
    synced: bool,
    seq: i64,
}

/// The reading side, shared.
#[derive(Debug)]
pub(crate) struct Reader {
    connection: Mutex<Option<Connection>>,
}

/// What [`Ledger::open`] found.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) ledger: Ledger,
    pub(crate) topics: Vec<TopicRow>,
    pub(crate) producers: HashMap<ProducerKey, ProducerState>,
    pub(crate) transactions: HashMap<String, crate::transactions::Transaction>,
    pub(crate) leader_epoch: i32,
}

impl Ledger {
    /// Opens or creates the ledger; takes back what a power failure may have taken from the segments.
    pub(crate) fn open(path: &Path, boot_id: &str, synced: bool) -> Result<Opened, LogError> {
        let mut connection = connect(path, synced).map_err(LogError::ledger("open"))?;
        connection
            .execute_batch(SCHEMA)
            .and_then(|()| connection.execute_batch(kafka::SCHEMA))
            .and_then(|()| transactions::create(&connection))
            .and_then(|()| rows::add_compaction(&connection))
            .map_err(LogError::ledger("create"))?;
        durably(&mut connection, synced, |tx| roll_back(tx, boot_id)).map_err(LogError::ledger("recover"))?;
        let read = || -> Sql<_> {
            let seq = meta(&connection, "commit")?;
            let leader_epoch = meta(&connection, "leader_epoch")?;
            let leader_epoch = i32::try_from(leader_epoch).unwrap_or(i32::MAX);
            let mut topics = load_topics(&connection)?;
            transactions::load_aborted(&connection, &mut topics)?;
            let transactions = transactions::load(&connection)?;
            Ok((seq, leader_epoch, topics, kafka::load_producers(&connection)?, transactions))
        };
        let (seq, leader_epoch, topics, producers, transactions) =
            read().map_err(LogError::ledger("read"))?;
        let reader = connect(path, synced).map_err(LogError::ledger("open"))?;
        let reader = Arc::new(Reader { connection: Mutex::new(Some(reader)) });
        let (wal, path, checkpoints) = (open_wal(path)?, path.to_owned(), Checkpoints::default());
        let ledger = Ledger { path, connection: Some(connection), reader, checkpoints, wal, synced, seq };
        Ok(Opened { ledger, topics, producers, transactions, leader_epoch })
    }

    pub(crate) fn reader(&self) -> Arc<Reader> {
        self.reader.clone()
    }

    /// Number of the last commit.
    pub(crate) fn seq(&self) -> i64 {
        self.seq
    }

    /// The answer that a key got, unless it is too old.
    pub(crate) fn key(
        &self,
        topic: i64,
        key: &str,
        not_before_ms: i64,
    ) -> Result<Option<(u128, String)>, LogError> {
        let find = || -> Sql<_> {
            self.connection()?
                .prepare_cached(
                    "SELECT body_hash, answer FROM keys WHERE topic = ?1 AND key = ?2 AND at_ms >= ?3",
                )?
                .query_row(params![topic, key, not_before_ms], |row| {
                    Ok((u128::from_be_bytes(row.get(0)?), row.get(1)?))
                })
                .optional()
        };
        find().map_err(LogError::ledger("read"))
    }

    /// Commits `change`. An error does not say whether it was made: ask [`Ledger::settle`].
    pub(crate) fn commit(&mut self, change: &Change<'_>) -> Result<(), LogError> {
        self.checkpoints.check()?;
        let (seq, with_undo) = (self.seq + 1, !self.synced);
        let mut commit = || -> Sql<()> {
            let tx = self.connection_mut()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
            set_meta(&tx, "commit", seq)?;
            write_partitions(&tx, seq, with_undo, change)?;
            write_positions(&tx, seq, with_undo, change)?;
            write_keys(&tx, seq, with_undo, change)?;
            write_dropped(&tx, seq, with_undo, change)?;
            kafka::write_producers(&tx, seq, with_undo, change)?;
            kafka::write_offsets(&tx, seq, with_undo, change)?;
            kafka::write_group_members(&tx, seq, with_undo, change)?;
            transactions::write(&tx, seq, with_undo, change)?;
            tx.commit()
        };
        commit().map_err(LogError::ledger("write"))?;
        self.seq = seq;
        self.checkpoints.committed(&self.path);
        Ok(())
    }

    /// After a failed commit: whether it, the one with the number `seq`, was made. Every connection is closed first, so that
    /// SQLite judges its WAL as it would after a crash, and never differently later.
    pub(crate) fn settle(&mut self, seq: i64) -> Result<bool, LogError> {
        let undecided = |source| LogError::Undecided { source: Arc::new(source) };
        let reader = self.reader.clone();
        self.checkpoints.wait();
        let mut shared = reader.connection.lock();
        *shared = None;
        self.connection = None;
        let connection = connect(&self.path, self.synced).map_err(undecided)?;
        let found: i64 = meta(&connection, "commit").map_err(undecided)?;
        // With its last connection SQLite removed the old one.
        self.wal = open_wal(&self.path)?;
        *shared = Some(connect(&self.path, self.synced).map_err(undecided)?);
        self.connection = Some(connection);
        self.seq = found;
        Ok(found == seq)
    }

    /// After a commit for which the disk had no room: whether it was made. SQLite says so only when a write fell short, which
    /// leaves no whole commit in its WAL; so the connection, which could not be opened anew without room, is asked.
    pub(crate) fn settle_full(&mut self, seq: i64) -> Result<bool, LogError> {
        let undecided = |source| LogError::Undecided { source: Arc::new(source) };
        self.seq = self.connection().and_then(|connection| meta(connection, "commit")).map_err(undecided)?;
        Ok(self.seq == seq)
    }

    /// The segment bytes of all commits up to `seq` are synced: nothing of them need be taken back. Durable itself, with
    /// all commits before it.
    pub(crate) fn synced_through(&mut self, seq: i64) -> Result<(), LogError> {
        self.durable(|tx| forget_undo(tx, seq))
    }

    /// [`Ledger::synced_through`], durable only once what is returned is synced: a commit that wrote to it is in it, or in the
    /// database and synced there.
    pub(crate) fn synced_through_with(&mut self, seq: i64) -> Result<(PathBuf, Arc<File>), LogError> {
        let mut forget = || -> Sql<()> {
            let tx = self.connection_mut()?.transaction_with_behavior(TransactionBehavior::Immediate)?;
            forget_undo(&tx, seq)?;
            tx.commit()
        };
        forget().map_err(LogError::ledger("write"))?;
        self.checkpoints.check()?;
        Ok(self.wal.clone())
    }

    /// Whether some commit could still be taken back.
    pub(crate) fn has_undo(&self) -> Result<bool, LogError> {
        let find = || -> Sql<bool> {
            let any = UNDO_TABLES.map(|table| format!("EXISTS (SELECT 1 FROM {table})")).join(" OR ");
            self.connection()?.query_row(&format!("SELECT {any}"), [], |row| row.get(0))
        };
        find().map_err(LogError::ledger("read"))
    }

    /// Stores a new topic and returns its number.
    pub(crate) fn create_topic(&mut self, topic: &TopicRow) -> Result<i64, LogError> {
        self.durable(|tx| {
            tx.execute(
                "INSERT INTO topics (uuid, name, columns, retention_time_ms, retention_bytes, configs)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    topic.uuid.to_string(),
                    topic.name,
                    topic.columns,
                    topic.retention_time_ms,
                    topic.retention_bytes.map(integer),
                    configs_column(&topic.configs)
                ],
            )?;
            let id = tx.last_insert_rowid();
            write_new_partitions(tx, id, 0, &topic.partitions)?;
            Ok(id)
        })
    }

    /// Forgets a topic with everything that belongs to it; its folder is noted as to be removed.
    pub(crate) fn delete_topic(&mut self, topic: i64, uuid: Uuid) -> Result<(), LogError> {
        self.durable(|tx| {
            tx.execute("INSERT OR IGNORE INTO gone VALUES (?1)", [uuid.to_string()])?;
            let gone =
                ["undo_producers", "undo_offsets", "producers", "offsets", "aborted", "passed", "epochs"];
            for table in
                ["undo_segments", "undo_keys", "lost", "keys", "segments", "partitions"].iter().chain(&gone)
            {
                tx.execute(&format!("DELETE FROM {table} WHERE topic = ?1"), [topic])?;
            }
            tx.execute("DELETE FROM topics WHERE id = ?1", [topic])?;
            Ok(())
        })
    }

    /// Topics that were deleted, whose folders may still be there.
    pub(crate) fn gone(&self) -> Result<Vec<String>, LogError> {
        let find = || -> Sql<_> {
            self.connection()?.prepare("SELECT uuid FROM gone")?.query_map([], |row| row.get(0))?.collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    /// The folders of all deleted topics are removed.
    pub(crate) fn forget_gone(&mut self) -> Result<(), LogError> {
        self.durable(|tx| tx.execute("DELETE FROM gone", []).map(|_| ()))
    }

    /// Stores how a topic is kept now, and partitions that were added from `first` on.
    pub(crate) fn update_topic(&mut self, topic: &TopicRow, first: usize) -> Result<(), LogError> {
        self.durable(|tx| {
            tx.execute(
                "UPDATE topics SET columns = ?2, retention_time_ms = ?3, retention_bytes = ?4, configs = ?5 WHERE id = ?1",
                params![
                    topic.id,
                    topic.columns,
                    topic.retention_time_ms,
                    topic.retention_bytes.map(integer),
                    configs_column(&topic.configs)
                ],
            )?;
            write_new_partitions(tx, topic.id, first, &topic.partitions[first.min(topic.partitions.len())..])
        })
    }

    /// Adds an empty segment behind the last of a partition.
    pub(crate) fn add_segment(
        &mut self,
        topic: i64,
        partition: PartitionId,
        extent: &Extent,
    ) -> Result<(), LogError> {
        self.durable(|tx| put_extent(tx, topic, partition, extent))
    }

    /// Names the files that compaction wrote anew, and how far it came; the transactions whose markers are gone are forgotten.
    pub(crate) fn compacted(
        &mut self,
        topic: i64,
        partition: PartitionId,
        extents: &[Extent],
        markers: &[Offset],
        upto: Offset,
    ) -> Result<(), LogError> {
        self.durable(|tx| {
            for extent in extents {
                rows::replace_extent(tx, topic, partition, extent)?;
            }
            for marker in markers {
                transactions::forget_aborted_at(tx, topic, partition, *marker)?;
            }
            tx.prepare_cached(
                "UPDATE partitions SET compacted = max(compacted, ?3) WHERE topic = ?1 AND partition = ?2",
            )?
            .execute(params![topic, partition, upto])?;
            Ok(())
        })
    }

    /// Moves the starts of partitions of a topic and forgets the segments below; keeps the ranges that were lost.
    pub(crate) fn trim(
        &mut self,
        topic: i64,
        starts: &[(PartitionId, Offset, Vec<Offset>)],
        lost: &[(PartitionId, Offset, Offset)],
        passed: &[(PartitionId, OffsetRange, u64)],
        at_ms: i64,
    ) -> Result<(), LogError> {
        self.durable(|tx| {
            for (partition, start, bases) in starts {
                tx.prepare_cached("UPDATE partitions SET start = ?3 WHERE topic = ?1 AND partition = ?2")?
                    .execute(params![topic, partition, start])?;
                for base in bases {
                    tx.prepare_cached(
                        "DELETE FROM segments WHERE topic = ?1 AND partition = ?2 AND base = ?3",
                    )?
                    .execute(params![topic, partition, base])?;
                }
            }
            for (partition, from, to) in lost {
                tx.prepare_cached("INSERT INTO lost VALUES (?1, ?2, ?3, ?4, ?5)")?
                    .execute(params![topic, partition, from, to, at_ms])?;
            }
            for (partition, start, _) in starts {
                transactions::forget_aborted(tx, topic, *partition, *start)?;
            }
            for (partition, range, offsets) in passed {
                transactions::put_passed(tx, topic, *partition, *range, *offsets)?;
            }
            Ok(())
        })
    }

    fn durable<T>(&mut self, write: impl FnOnce(&Transaction<'_>) -> Sql<T>) -> Result<T, LogError> {
        self.checkpoints.check()?;
        let synced = self.synced;
        let run = || durably(self.connection_mut()?, synced, write);
        let value = run().map_err(LogError::ledger("write"))?;
        if !synced {
            // SQLite may have met a sync that failed, in a commit that copied, and said nothing: this file tells.
            let (path, wal) = &self.wal;
            wal.sync_data().map_err(LogError::io("sync", path))?;
        }
        Ok(value)
    }

    fn connection(&self) -> Sql<&Connection> {
        self.connection.as_ref().ok_or_else(lost_connection)
    }

    fn connection_mut(&mut self) -> Sql<&mut Connection> {
        self.connection.as_mut().ok_or_else(lost_connection)
    }
}

impl Reader {
    pub(crate) fn position(&self, source: &str, key: &str) -> Result<Option<String>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached("SELECT value FROM positions WHERE source = ?1 AND key = ?2")?
                .query_row([source, key], |row| row.get(0))
                .optional()
        };
        find().map_err(LogError::ledger("read"))
    }

    pub(crate) fn positions(&self, source: &str) -> Result<Vec<(String, String)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached("SELECT key, value FROM positions WHERE source = ?1 ORDER BY key")?
                .query_map([source], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    pub(crate) fn dropped(&self) -> Result<Vec<(String, u64)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<Vec<(String, u64)>> {
            open(&connection)?
                .prepare_cached("SELECT source, records FROM dropped ORDER BY source")?
                .query_map([], |row| Ok((row.get(0)?, unsigned(row.get(1)?))))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    pub(crate) fn lost(&self, topic: i64) -> Result<Vec<(PartitionId, Offset, Offset)>, LogError> {
        let connection = self.connection();
        let find = || -> Sql<_> {
            open(&connection)?
                .prepare_cached(
                    "SELECT partition, \"from\", \"to\" FROM lost WHERE topic = ?1 ORDER BY partition, \"from\"",
                )?
                .query_map([topic], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect()
        };
        find().map_err(LogError::ledger("read"))
    }

    fn connection(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock()
    }
}

fn open(connection: &Option<Connection>) -> Sql<&Connection> {
    connection.as_ref().ok_or_else(lost_connection)
}

fn lost_connection() -> rusqlite::Error {
    rusqlite::Error::InvalidPath(PathBuf::from("the connection was given up after a failed commit"))
}

/// The WAL of a ledger that has been read.
fn open_wal(ledger: &Path) -> Result<(PathBuf, Arc<File>), LogError> {
    let mut wal = OsString::from(ledger);
    wal.push("-wal");
    let wal = PathBuf::from(wal);
    let file = File::open(&wal).map_err(LogError::io("open", &wal))?;
    Ok((wal, Arc::new(file)))
}

fn connect(path: &Path, synced: bool) -> Sql<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
    connection.pragma_update(None, "wal_autocheckpoint", LONGEST_WAL_PAGES)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// The bytes of all commits up to `seq` are synced.
fn forget_undo(tx: &Transaction<'_>, seq: i64) -> Sql<()> {
    for table in UNDO_TABLES {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?.execute([seq])?;
    }
    Ok(())
}

/// Runs `write` in a transaction that is on disk when this returns, with every one before it.
fn durably<T>(
    connection: &mut Connection,
    synced: bool,
    write: impl FnOnce(&Transaction<'_>) -> Sql<T>,
) -> Sql<T> {
    if !synced {
        connection.pragma_update(None, "synchronous", "FULL")?;
    }
    let run = |connection: &mut Connection| {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = write(&tx)?;
        tx.commit()?;
        Ok(value)
    };
    let outcome = run(connection);
    if !synced {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
    }
    outcome
}
