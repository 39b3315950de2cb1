//! The ledger's statements: its schema, what a commit writes, what an open reads, and what is taken back.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use tarn_model::{Offset, PartitionId};
use uuid::Uuid;

use super::{Change, KeyRow, PartitionChange, PartitionRow, Sql, TopicRow, UNDO_TABLES};
use crate::options::TopicConfigs;
use crate::sealed::Position;
use crate::segment::Extent;

pub(super) const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS topics (
    id INTEGER PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL UNIQUE, columns TEXT,
    retention_time_ms INTEGER, retention_bytes INTEGER);
CREATE TABLE IF NOT EXISTS partitions (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, start INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segments (
    topic INTEGER NOT NULL, partition INTEGER NOT NULL, base INTEGER NOT NULL, \"end\" INTEGER NOT NULL,
    bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, last_append_ms INTEGER, max_timestamp_ms INTEGER,
    PRIMARY KEY (topic, partition, base), FOREIGN KEY (topic, partition) REFERENCES partitions) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS positions (
    source TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (source, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (
    topic INTEGER NOT NULL REFERENCES topics, key TEXT NOT NULL, body_hash BLOB NOT NULL, answer TEXT NOT NULL,
    at_ms INTEGER NOT NULL, UNIQUE (topic, key));
CREATE INDEX IF NOT EXISTS keys_by_age ON keys (at_ms);
CREATE TABLE IF NOT EXISTS dropped (source TEXT PRIMARY KEY, records INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (
    topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL, \"from\" INTEGER NOT NULL,
    \"to\" INTEGER NOT NULL, at_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS gone (uuid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_segments (
    seq INTEGER NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, base INTEGER NOT NULL,
    \"end\" INTEGER NOT NULL, bytes INTEGER NOT NULL, created_ms INTEGER NOT NULL, last_append_ms INTEGER,
    max_timestamp_ms INTEGER, PRIMARY KEY (seq, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_positions (
    seq INTEGER NOT NULL, source TEXT NOT NULL, key TEXT NOT NULL, value TEXT,
    PRIMARY KEY (seq, source, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_keys (
    seq INTEGER NOT NULL, topic INTEGER NOT NULL, key TEXT NOT NULL, PRIMARY KEY (seq, topic, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS undo_dropped (
    seq INTEGER NOT NULL, source TEXT NOT NULL, records INTEGER, PRIMARY KEY (seq, source)) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES ('commit', 0), ('leader_epoch', 0);
";

/// Most expired keys that one commit deletes along the way.
const EXPIRE_AT_ONCE: i64 = 1000;

/// Takes back all commits with undo rows, if the machine was started anew since, and begins a new leader epoch.
pub(super) fn roll_back(tx: &Transaction<'_>, boot_id: &str) -> Sql<()> {
    let last: Option<String> =
        tx.query_row("SELECT value FROM meta WHERE name = 'boot_id'", [], |row| row.get(0)).optional()?;
    if last.as_deref() == Some(boot_id) {
        return Ok(());
    }
    let commits = UNDO_TABLES.map(|table| format!("SELECT seq FROM {table}")).join(" UNION ");
    let undone: i64 = tx.query_row(&format!("SELECT count(*) FROM ({commits})"), [], |row| row.get(0))?;
    if undone > 0 {
        tracing::warn!(
            commits = undone,
            "the machine was started anew: commits that were not synced are taken back"
        );
        // Per object, the oldest undo row has what was synced last.
        tx.execute_batch(
            "DELETE FROM segments WHERE EXISTS (SELECT 1 FROM undo_segments u
                 WHERE u.topic = segments.topic AND u.partition = segments.partition AND segments.base >= u.base);
             INSERT INTO segments (topic, partition, base, \"end\", bytes, created_ms, last_append_ms,
                 max_timestamp_ms, markers) SELECT topic, partition, base, \"end\", bytes, created_ms, last_append_ms,
                 max_timestamp_ms, markers FROM undo_segments u WHERE seq = (SELECT min(seq) FROM undo_segments o
                     WHERE o.topic = u.topic AND o.partition = u.partition);
             DELETE FROM positions WHERE (source, key) IN (SELECT source, key FROM undo_positions);
             INSERT INTO positions SELECT source, key, value FROM undo_positions u WHERE value IS NOT NULL
                 AND seq = (SELECT min(seq) FROM undo_positions o WHERE o.source = u.source AND o.key = u.key);
             DELETE FROM keys WHERE (topic, key) IN (SELECT topic, key FROM undo_keys);
             DELETE FROM dropped WHERE source IN (SELECT source FROM undo_dropped);
             INSERT INTO dropped SELECT source, records FROM undo_dropped u WHERE records IS NOT NULL
                 AND seq = (SELECT min(seq) FROM undo_dropped o WHERE o.source = u.source);
             UPDATE meta SET value = value + 1 WHERE name = 'leader_epoch';",
        )?;
        super::kafka::roll_back(tx)?;
        super::transactions::roll_back(tx)?;
        super::kafka::begin_epoch(tx)?;
        for table in UNDO_TABLES {
            tx.execute(&format!("DELETE FROM {table}"), [])?;
        }
    }
    set_meta(tx, "boot_id", boot_id)
}

pub(super) fn write_partitions(
    tx: &Transaction<'_>,
    seq: i64,
    with_undo: bool,
    change: &Change<'_>,
) -> Sql<()> {
    for PartitionChange { topic, partition, before, after } in &change.partitions {
        if with_undo {
            tx.prepare_cached("INSERT INTO undo_segments VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)")?
                .execute(params![
                    seq,
                    topic,
                    partition,
                    before.base,
                    before.end,
                    integer(before.bytes),
                    before.created_ms,
                    before.last_append_ms,
                    before.max_timestamp_ms,
                    integer(before.markers)
                ])?;
        }
        for extent in after {
            put_extent(tx, *topic, *partition, extent)?;
        }
    }
    Ok(())
}

pub(super) fn write_positions(
    tx: &Transaction<'_>,
    seq: i64,
    with_undo: bool,
    change: &Change<'_>,
) -> Sql<()> {
    for Position { source, key, value } in &change.positions {
        if with_undo {
            // Several appends of one commit may set the same position: the first sees what was committed.
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_positions VALUES (?1, ?2, ?3,
                     (SELECT value FROM positions WHERE source = ?2 AND key = ?3))",
            )?
            .execute(params![seq, source, key])?;
        }
        match value {
            Some(value) => tx
                .prepare_cached("INSERT OR REPLACE INTO positions VALUES (?1, ?2, ?3)")?
                .execute(params![source, key, value])?,
            None => tx
                .prepare_cached("DELETE FROM positions WHERE source = ?1 AND key = ?2")?
                .execute(params![source, key])?,
        };
    }
    Ok(())
}

pub(super) fn write_keys(tx: &Transaction<'_>, seq: i64, with_undo: bool, change: &Change<'_>) -> Sql<()> {
    for KeyRow { topic, key, body_hash, answer } in &change.keys {
        if with_undo {
            tx.prepare_cached("INSERT OR IGNORE INTO undo_keys VALUES (?1, ?2, ?3)")?
                .execute(params![seq, topic, key])?;
        }
        tx.prepare_cached(
            "INSERT OR REPLACE INTO keys (topic, key, body_hash, answer, at_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![topic, key, body_hash.to_be_bytes(), answer, change.now_ms])?;
    }
    if !change.keys.is_empty() {
        tx.prepare_cached(
            "DELETE FROM keys WHERE rowid IN (SELECT rowid FROM keys WHERE at_ms < ?1 LIMIT ?2)",
        )?
        .execute(params![change.expire_before_ms, EXPIRE_AT_ONCE])?;
    }
    Ok(())
}

pub(super) fn write_dropped(tx: &Transaction<'_>, seq: i64, with_undo: bool, change: &Change<'_>) -> Sql<()> {
    for (source, records) in &change.dropped {
        if with_undo {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO undo_dropped VALUES (?1, ?2, (SELECT records FROM dropped WHERE source = ?2))",
            )?
            .execute(params![seq, source])?;
        }
        tx.prepare_cached(
            "INSERT INTO dropped VALUES (?1, ?2) ON CONFLICT (source) DO UPDATE SET records = records + excluded.records",
        )?
        .execute(params![source, integer(*records)])?;
    }
    Ok(())
}

pub(super) fn write_new_partitions(
    tx: &Transaction<'_>,
    topic: i64,
    first: usize,
    partitions: &[PartitionRow],
) -> Sql<()> {
    for (partition, row) in (first..).zip(partitions) {
        let partition = PartitionId::try_from(partition).unwrap_or(PartitionId::MAX);
        tx.execute(
            "INSERT INTO partitions (topic, partition, start) VALUES (?1, ?2, ?3)",
            params![topic, partition, row.start],
        )?;
        for extent in &row.segments {
            put_extent(tx, topic, partition, extent)?;
        }
        super::kafka::put_epoch(tx, topic, partition, row.start)?;
    }
    Ok(())
}

pub(super) fn put_extent(
    tx: &Transaction<'_>,
    topic: i64,
    partition: PartitionId,
    extent: &Extent,
) -> Sql<()> {
    tx.prepare_cached(
        "INSERT INTO segments (topic, partition, base, \"end\", bytes, created_ms, last_append_ms, max_timestamp_ms, markers)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO UPDATE SET
             \"end\" = excluded.\"end\", bytes = excluded.bytes, last_append_ms = excluded.last_append_ms,
             max_timestamp_ms = excluded.max_timestamp_ms, markers = excluded.markers",
    )?
    .execute(params![
        topic,
        partition,
        extent.base,
        extent.end,
        integer(extent.bytes),
        extent.created_ms,
        extent.last_append_ms,
        extent.max_timestamp_ms,
        integer(extent.markers)
    ])?;
    Ok(())
}

/// What compaction made of a segment.
pub(super) fn replace_extent(
    tx: &Transaction<'_>,
    topic: i64,
    partition: PartitionId,
    extent: &Extent,
) -> Sql<()> {
    tx.prepare_cached(
        "UPDATE segments SET bytes = ?4, max_timestamp_ms = ?5, markers = ?6, generation = ?7
             WHERE topic = ?1 AND partition = ?2 AND base = ?3",
    )?
    .execute(params![
        topic,
        partition,
        extent.base,
        integer(extent.bytes),
        extent.max_timestamp_ms,
        integer(extent.markers),
        extent.generation
    ])?;
    Ok(())
}

/// Adds the columns that compaction needs to a ledger that lacks them.
pub(super) fn add_compaction(connection: &Connection) -> Sql<()> {
    add_column(connection, "segments", "generation", "INTEGER NOT NULL DEFAULT 0")?;
    add_column(connection, "partitions", "compacted", "INTEGER NOT NULL DEFAULT 0")
}

pub(super) fn load_topics(connection: &Connection) -> Sql<Vec<TopicRow>> {
    let mut topics = connection
        .prepare(
            "SELECT id, uuid, name, columns, retention_time_ms, retention_bytes, configs FROM topics ORDER BY id",
        )?
        .query_map([], topic_row)?
        .collect::<Sql<Vec<TopicRow>>>()?;
    let mut partitions = connection
        .prepare("SELECT partition, start, compacted FROM partitions WHERE topic = ?1 ORDER BY partition")?;
    let mut segments = connection.prepare(
        "SELECT base, \"end\", bytes, created_ms, last_append_ms, max_timestamp_ms, markers, generation FROM segments
             WHERE topic = ?1 AND partition = ?2 ORDER BY base",
    )?;
    for topic in &mut topics {
        let rows = partitions.query_map([topic.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        for (partition, start, compacted) in rows.collect::<Sql<Vec<(PartitionId, Offset, Offset)>>>()? {
            let segments = segments
                .query_map(params![topic.id, partition], extent_row)?
                .collect::<Sql<Vec<Extent>>>()?;
            topic.partitions.push(PartitionRow { start, compacted, segments, aborted: Vec::new() });
        }
    }
    Ok(topics)
}

pub(super) fn topic_row(row: &Row<'_>) -> Sql<TopicRow> {
    let uuid: String = row.get(1)?;
    let uuid = Uuid::parse_str(&uuid).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(TopicRow {
        id: row.get(0)?,
        uuid,
        name: row.get(2)?,
        columns: row.get(3)?,
        retention_time_ms: row.get(4)?,
        retention_bytes: row.get::<_, Option<i64>>(5)?.map(unsigned),
        configs: row.get::<_, Option<String>>(6)?.map_or(Ok(TopicConfigs::default()), |configs| {
            serde_json::from_str(&configs).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(6, rusqlite::types::Type::Text, Box::new(error))
            })
        })?,
        partitions: Vec::new(),
    })
}

/// A topic's configs as JSON; nothing when they are the log's own.
pub(super) fn configs_column(configs: &TopicConfigs) -> Option<String> {
    let is_own = *configs != TopicConfigs::default();
    is_own.then(|| serde_json::to_string(configs).expect("configs are plain data"))
}

/// Adds a column that a ledger of an older version lacks.
pub(super) fn add_column(connection: &Connection, table: &str, column: &str, kind: &str) -> Sql<()> {
    let count = format!("SELECT count(*) FROM pragma_table_info('{table}') WHERE name = '{column}'");
    let known: i64 = connection.query_row(&count, [], |row| row.get(0))?;
    if known > 0 {
        return Ok(());
    }
    connection.execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))
}

pub(super) fn extent_row(row: &Row<'_>) -> Sql<Extent> {
    Ok(Extent {
        base: row.get(0)?,
        end: row.get(1)?,
        bytes: unsigned(row.get(2)?),
        created_ms: row.get(3)?,
        last_append_ms: row.get(4)?,
        max_timestamp_ms: row.get(5)?,
        markers: unsigned(row.get(6)?),
        generation: row.get(7)?,
    })
}

pub(super) fn meta(connection: &Connection, name: &str) -> Sql<i64> {
    connection.prepare_cached("SELECT value FROM meta WHERE name = ?1")?.query_row([name], |row| row.get(0))
}

pub(super) fn set_meta(tx: &Transaction<'_>, name: &str, value: impl rusqlite::ToSql) -> Sql<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?.execute(params![name, value])?;
    Ok(())
}

/// SQLite's integers are signed; no count here reaches 2^63.
pub(super) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
