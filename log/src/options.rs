//! How a log and a topic are set up.

use std::time::Duration;

use tarn_model::columns::Columns;
use tarn_model::config::{Compression, LogConfig, SyncMode};
use tarn_model::{Error, Result};

/// A batch with one such record still unpacks within the limit of every reader.
const LARGEST_RECORD_BYTES: usize = 32 << 20;
const SMALLEST_SEGMENT_BYTES: u64 = 4 << 10;
/// Index entries hold positions of 32 bits.
const LARGEST_SEGMENT_BYTES: u64 = 1 << 30;

/// Limits and modes of a log.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// When a record counts as committed.
    pub sync: SyncMode,
    /// Time between two syncs under [`SyncMode::Interval`].
    pub sync_interval: Duration,
    /// Size at which a segment is closed.
    pub segment_bytes: u64,
    /// How long records are kept.
    pub retention_time: Duration,
    /// Bytes per partition above which old segments go.
    pub retention_bytes: Option<u64>,
    /// Compression of the batches that collectors append.
    pub compression: Compression,
    /// Largest record (key, value and headers together).
    pub max_record_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
}

impl From<&LogConfig> for LogOptions {
    fn from(config: &LogConfig) -> LogOptions {
        LogOptions {
            sync: config.sync,
            sync_interval: config.sync_interval.0,
            segment_bytes: config.segment_size.0,
            retention_time: config.retention_time.0,
            retention_bytes: config.retention_size.map(|size| size.0),
            compression: config.compression,
            max_record_bytes: config.max_record_size.as_usize(),
            idempotency_window: config.idempotency_window.0,
        }
    }
}

impl LogOptions {
    /// Refuses what the format cannot hold.
    pub(crate) fn check(&self) -> Result<()> {
        if self.max_record_bytes > LARGEST_RECORD_BYTES {
            return Err(Error::invalid(format!(
                "`log.max_record_size` is above {} MiB",
                LARGEST_RECORD_BYTES >> 20
            ))
            .with_hint("keep larger values in files, and put their names into records"));
        }
        if !(SMALLEST_SEGMENT_BYTES..=LARGEST_SEGMENT_BYTES).contains(&self.segment_bytes) {
            return Err(Error::invalid("`log.segment_size` is not between 4 KiB and 1 GiB"));
        }
        Ok(())
    }
}

/// How a topic is set up.
#[derive(Debug, Clone)]
pub struct TopicOptions {
    /// Number of partitions, at least 1.
    pub partitions: i32,
    /// Overrides the log's retention time.
    pub retention_time: Option<Duration>,
    /// Overrides the log's retention size.
    pub retention_bytes: Option<u64>,
}

/// What a topic does otherwise than the log does.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TopicConfigs {
    /// Largest record batch that a client may send; never more than the log takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_batch_bytes: Option<usize>,
    /// Whether records have the time of their append instead of their own.
    #[serde(default)]
    pub append_time: bool,
    /// How old records go.
    #[serde(default, skip_serializing_if = "Cleanup::is_delete")]
    pub cleanup: Cleanup,
    /// Share of a partition that must be new before it is compacted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_dirty_ratio: Option<f64>,
    /// How long compaction keeps a tombstone, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delete_retention_ms: Option<u64>,
    /// How long a record is not compacted, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_compaction_lag_ms: Option<u64>,
    /// Age of a segment at which it is compacted however little is new, ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_compaction_lag_ms: Option<u64>,
    /// Size at which a segment is closed, instead of the log's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segment_bytes: Option<u64>,
    /// How batches are compressed, whatever a client sent; none: as they came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// Records after which a client wants a sync; met by a log that syncs before it answers, and stored in no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_messages: Option<u64>,
    /// Time after which a client wants a sync, ms; the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_ms: Option<u64>,
}

/// How old records of a topic go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cleanup {
    /// Retention takes them.
    #[default]
    Delete,
    /// Of each key the last record stays.
    Compact,
    /// Both.
    CompactDelete,
}

impl Cleanup {
    /// Whether of each key only the last record stays.
    pub fn compacts(self) -> bool {
        self != Cleanup::Delete
    }

    /// Whether retention takes old records.
    pub fn deletes(self) -> bool {
        self != Cleanup::Compact
    }

    fn is_delete(&self) -> bool {
        *self == Cleanup::Delete
    }
}

impl TopicConfigs {
    /// Share of a partition that must be new before it is compacted; as in Kafka, a half.
    pub fn min_dirty_ratio(&self) -> f64 {
        self.min_dirty_ratio.unwrap_or(0.5)
    }

    /// How long compaction keeps a tombstone, ms; as in Kafka, a day.
    pub fn delete_retention_ms(&self) -> i64 {
        self.delete_retention_ms.map_or(24 * 60 * 60 * 1000, |ms| i64::try_from(ms).unwrap_or(i64::MAX))
    }

    /// How long a record is not compacted, ms; as in Kafka, no time.
    pub fn min_compaction_lag_ms(&self) -> i64 {
        self.min_compaction_lag_ms.map_or(0, |ms| i64::try_from(ms).unwrap_or(i64::MAX))
    }
}

/// A topic as it is.
#[derive(Debug, Clone)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its identity: a topic that is deleted and created again has another.
    pub id: uuid::Uuid,
    /// Number of partitions.
    pub partitions: i32,
    /// Column types that a source knows, if one told.
    pub columns: Option<Columns>,
    /// Largest record; [`crate::Append::push`] keeps the head of a larger one.
    pub max_record_bytes: usize,
    /// Its own retention time, if it has one.
    pub retention_time: Option<Duration>,
    /// Its own retention size, if it has one.
    pub retention_bytes: Option<u64>,
    /// What else is its own.
    pub configs: TopicConfigs,
}

/// What a batch may have beyond the largest record: the same as in Kafka, whose default thus is ours.
const BATCH_OVERHEAD_BYTES: usize = 12;

impl TopicInfo {
    /// Largest record batch that a client may send.
    pub fn max_batch_bytes(&self) -> usize {
        let limit = self.max_record_bytes + BATCH_OVERHEAD_BYTES;
        self.configs.max_batch_bytes.map_or(limit, |own| own.min(limit))
    }
}
