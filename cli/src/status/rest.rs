//! The status of a pipeline at rest: what its log and its lake say on disk.
//!
//! The log is opened as a run would open it, so a process that was killed has its torn tail cut here; and it is held
//! meanwhile, so that the answer is of one moment.

use tarn_ingest::is_paused;
use tarn_lake::{Lake, LakeSnapshot};
use tarn_log::Log;
use tarn_model::clock::{Clock as _, SystemClock};
use tarn_model::config::{Config, TableConfig};
use tarn_model::status::{LastError, PositionStatus, SourceStatus, Status, TableStatus};
use tarn_model::{Boundary, Offset, PartitionId};
use tarn_table::catalog::boundary_of;

use crate::imports;
use crate::pipeline::{group_status, topic_status};
use crate::rest::{self, event_time_at_rest};
use crate::views;

/// Enough for the batch that holds a record.
const FETCH_BYTES: usize = 1;

/// What the log and the lake of `config` say.
pub(super) async fn status(config: &Config) -> anyhow::Result<Status> {
    let log = rest::log(config).await?;
    // A lake that cannot be reached is told table by table: the log's part of the answer is worth having.
    let lake = rest::lake(config).await;
    let topics = log.topics();
    let mut tables = Vec::new();
    for table in config.tables_of(topics.iter().map(|topic| topic.name.as_str())) {
        tables.push(match &lake {
            Ok(lake) => table_status(&log, lake, &table).await,
            Err(error) => refused(&table, &format!("{error:#}")),
        });
    }
    if let Ok(lake) = &lake {
        let found = imports::find(lake, &config.imports, |_| false).await?;
        tables.extend(found.iter().map(|(name, table)| imports::status_of(name, &table.snapshot())));
    }
    let views = match &lake {
        Ok(lake) => views::at_rest(config, lake).await,
        Err(_) => Vec::new(),
    };
    let status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        at_rest: true,
        sources: config.sources.iter().map(|source| source_status(&log, source)).collect::<Result<_, _>>()?,
        topics: topic_status(&log),
        tables,
        views,
        groups: group_status(&log),
        ..Status::default()
    };
    log.close().await?;
    Ok(status)
}

fn source_status(log: &Log, source: &tarn_model::config::SourceConfig) -> tarn_model::Result<SourceStatus> {
    let positions = log.positions(&source.name)?;
    let dropped = log.dropped()?.into_iter().find(|(name, _)| *name == source.name);
    Ok(SourceStatus {
        dropped: dropped.map_or(0, |(_, records)| records),
        name: source.name.clone(),
        kind: source.kind.name().to_owned(),
        topic: source.topic.clone(),
        state: if is_paused(log, &source.name)? { "at rest, paused" } else { "at rest" }.to_owned(),
        positions: positions.into_iter().map(|(key, value)| PositionStatus { key, value }).collect(),
        ..SourceStatus::default()
    })
}

async fn table_status(log: &Log, lake: &Lake, table: &TableConfig) -> TableStatus {
    match in_the_lake(log, lake, table).await {
        Ok(status) => status,
        Err(error) => refused(table, &error.chain()),
    }
}

async fn in_the_lake(log: &Log, lake: &Lake, table: &TableConfig) -> tarn_model::Result<TableStatus> {
    let ends = log.topic(table.topic_name()).map_or(Ok(Boundary::new()), |topic| log.ends(&topic.name))?;
    let mut status = TableStatus {
        name: table.name.clone(),
        topic: table.topic_name().to_owned(),
        state: "not made yet".to_owned(),
        lag_records: ends.records_above(&Boundary::new()),
        uncommitted_records: ends.records_above(&Boundary::new()),
        ..TableStatus::default()
    };
    let partitions = log.topic(table.topic_name()).map_or(0, |topic| topic.partitions);
    let mut boundary = Boundary::new();
    if let Some(stored) = lake.load(&table.name, false).await? {
        let snapshot = stored.snapshot();
        boundary = boundary_of(&snapshot);
        status.state = "at rest".to_owned();
        status.lake_rows = rows(&snapshot);
        status.files = snapshot.files.len() as u64;
        status.lake_bytes = snapshot.files.iter().map(|file| file.size).sum();
        status.version = Some(snapshot.version);
        status.uncommitted_records = ends.records_above(&boundary);
        status.lag_records = status.uncommitted_records;
        status.boundary = Some(boundary.clone());
        if let Some(time) = event_time_at_rest(table, &snapshot, partitions) {
            let newest = time.in_lake(&snapshot).unwrap_or_default();
            status.watermark_ms = time.watermark(&newest).map(|at| at.div_euclid(1000));
            status.late_records = Some(time.late_in_lake(&snapshot));
        }
    }
    if let Some(dead) = lake.load(&table.dead_letters_name(), false).await? {
        status.dead_letters = rows(&dead.snapshot());
    }
    if status.uncommitted_records > 0 {
        let behind = ends.iter().filter(|(partition, end)| *end > boundary.next(*partition));
        let oldest = behind.filter_map(|(partition, _)| {
            timestamp_ms(log, table.topic_name(), partition, boundary.next(partition))
        });
        let age_ms = oldest.min().map_or(0, |oldest| SystemClock.now_ms().saturating_sub(oldest).max(0));
        status.uncommitted_s = age_ms as f64 / 1000.0;
    }
    Ok(status)
}

/// When the record at `offset`, or the first one that is still there above it, was made.
fn timestamp_ms(log: &Log, topic: &str, partition: PartitionId, offset: Offset) -> Option<i64> {
    let from = offset.max(log.starts(topic).ok()?.next(partition));
    let records = log.fetch(topic, partition, from, FETCH_BYTES).ok()?.records().ok()?;
    records.iter().next().map(|record| record.timestamp_ms)
}

fn refused(table: &TableConfig, error: &str) -> TableStatus {
    TableStatus {
        name: table.name.clone(),
        topic: table.topic_name().to_owned(),
        state: "unreadable".to_owned(),
        last_error: Some(LastError { message: error.to_owned(), at_ms: SystemClock.now_ms() }),
        ..TableStatus::default()
    }
}

fn rows(snapshot: &LakeSnapshot) -> u64 {
    snapshot.statistics.rows.iter().flatten().map(|rows| u64::try_from(rows).unwrap_or(0)).sum()
}
