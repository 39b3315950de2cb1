//! The partitioned log on disk.
//!
//! Records of a topic live in partitions, in segments of Kafka's RecordBatch v2 format. One *commit* makes any number of
//! appends to any number of partitions visible at once, together with the positions of the sources they came from and
//! their idempotency keys.

mod append;
mod fetch;
mod options;

use std::path::Path;
use std::sync::Arc;

use tarn_model::clock::Clock;
use tarn_model::{Boundary, Offset, OffsetRange, PartitionId, Result};
use tokio::sync::watch;
use uuid::Uuid;

pub use append::{Appended, Append, Idempotency, RecordRef};
pub use fetch::{Fetch, RecordView, Records};
pub use options::{LogOptions, TopicInfo, TopicOptions};

/// The log; clones share it.
#[derive(Clone, Debug)]
pub struct Log {}

#[expect(unused_variables, reason = "skeleton")]
impl Log {
    /// Opens (or creates) the log in `dir`, locks the folder against other processes and recovers: every partition is
    /// cut to its committed end. Blocking.
    pub fn open(dir: &Path, options: LogOptions, clock: Arc<dyn Clock>) -> Result<Log> {
        unimplemented!()
    }

    /// Creates a topic, or returns it when it exists; more partitions than it has are added, fewer are refused.
    pub fn create_topic(&self, name: &str, options: &TopicOptions) -> Result<Arc<TopicInfo>> {
        unimplemented!()
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        unimplemented!()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<TopicInfo>> {
        unimplemented!()
    }

    /// Remembers the column types that a source knows (`name TYPE` list as in the config), as a property of the topic.
    pub fn set_topic_columns(&self, topic: &str, columns: &tarn_model::columns::Columns) -> Result<()> {
        unimplemented!()
    }

    /// Commits one append, all or nothing, and returns once it is visible (under `group`: and durable).
    pub async fn append(&self, append: Append) -> Result<Appended> {
        unimplemented!()
    }

    /// The position that `source` stored under `key`.
    pub fn position(&self, source: &str, key: &str) -> Result<Option<serde_json::Value>> {
        unimplemented!()
    }

    /// All positions of `source`, by key.
    pub fn positions(&self, source: &str) -> Result<Vec<(String, serde_json::Value)>> {
        unimplemented!()
    }

    /// Records of one partition from `from` on: whole batches, at least one if there is any, about `max_bytes` of them;
    /// never beyond the committed end. `from` below the start is an [`tarn_model::Kind::Invalid`] error that names the
    /// start. Blocking (reads files).
    pub fn fetch(&self, topic: &str, partition: PartitionId, from: Offset, max_bytes: usize) -> Result<Fetch> {
        unimplemented!()
    }

    /// Committed ends of a topic's partitions (every partition has an entry).
    pub fn ends(&self, topic: &str) -> Result<Boundary> {
        unimplemented!()
    }

    /// First offsets that are still there (every partition has an entry).
    pub fn starts(&self, topic: &str) -> Result<Boundary> {
        unimplemented!()
    }

    /// Ticks at every commit; wait on it instead of polling.
    pub fn commits(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }

    /// Makes the log durable at least up to `upto`, whatever the sync mode.
    pub async fn sync_to(&self, topic: &str, upto: &Boundary) -> Result<()> {
        unimplemented!()
    }

    /// `owner` (a table, an export) still needs everything at or above `boundary`: retention stops there. Kept in memory:
    /// owners say it again when they open.
    pub fn hold(&self, topic: &str, owner: &str, boundary: Boundary) {
        unimplemented!()
    }

    /// Drops segments that retention lets go; returns what went, per topic and partition. Called on a timer by the binary.
    pub async fn apply_retention(&self) -> Result<Vec<(String, PartitionId, OffsetRange)>> {
        unimplemented!()
    }

    /// Deletes records below `upto` by hand. Refused above an owner's hold unless `force`: then the lost range is kept
    /// for [`Log::lost_ranges`].
    pub async fn trim(&self, topic: &str, upto: &Boundary, force: bool) -> Result<()> {
        unimplemented!()
    }

    /// Ranges that a forced trim took before `owner` had them.
    pub fn lost_ranges(&self, topic: &str) -> Result<Vec<(PartitionId, OffsetRange)>> {
        unimplemented!()
    }

    /// Per topic and partition: records, bytes, start, end, segments, last append time.
    pub fn stats(&self) -> Result<Vec<PartitionStats>> {
        unimplemented!()
    }

    /// Waits for appends under way, syncs, and closes; later calls fail with [`tarn_model::Kind::Unavailable`].
    pub async fn close(&self) -> Result<()> {
        unimplemented!()
    }
}

/// What one partition holds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PartitionStats {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// First offset that is still there.
    pub start: Offset,
    /// Committed end.
    pub end: Offset,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Number of segments.
    pub segments: usize,
    /// When the newest batch was appended, ms since 1970 UTC.
    pub last_append_ms: Option<i64>,
}

/// The topic's identity, as it stands in the lake too.
pub type TopicId = Uuid;
