//! What a running pipeline says of itself: shown by `tarn status`, `/v1/status` and `/metrics` alike.

use serde::{Deserialize, Serialize};

use crate::boundary::{Boundary, Offset, PartitionId};

/// The whole pipeline at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Tarn's version.
    pub version: String,
    /// Whether nothing runs: the log and the lake say all this themselves.
    #[serde(default)]
    pub at_rest: bool,
    /// Whether SQL answers: every tail has reached the committed end found at open.
    pub ready: bool,
    /// Seconds since start.
    pub uptime_s: f64,
    /// Collectors.
    pub sources: Vec<SourceStatus>,
    /// Partitions of the log.
    pub topics: Vec<TopicStatus>,
    /// Tables.
    pub tables: Vec<TableStatus>,
    /// Views.
    #[serde(default)]
    pub views: Vec<ViewStatus>,
    /// Consumer groups that have committed an offset.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupStatus>,
}

/// One consumer group.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub name: String,
    /// What it has committed.
    pub partitions: Vec<GroupPartitionStatus>,
}

/// How far a group is in one partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GroupPartitionStatus {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset that it wants to read.
    pub committed: Offset,
    /// Offsets between that and the partition's end.
    pub lag: u64,
}

/// One collector.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceStatus {
    /// Its name.
    pub name: String,
    /// Its type, as in the config.
    pub kind: String,
    /// Topic that it fills.
    pub topic: String,
    /// Where it listens, e.g. `tcp 127.0.0.1:5514`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// `running`, `idle`, `waiting` (something is wrong, it tries again), `paused`, `done`, `stopped`, `at rest` or `at rest, paused`.
    pub state: String,
    /// Records committed since start.
    pub records: u64,
    /// Bytes read since start.
    pub bytes: u64,
    /// Records that a filter dropped since start; at rest, all that it ever dropped.
    pub dropped: u64,
    /// What is left to read, in bytes, where that is known.
    pub lag_bytes: Option<u64>,
    /// Bytes of the bounded work that is known, for a progress bar.
    pub total_bytes: Option<u64>,
    /// The last error, with its time in ms since 1970 UTC.
    pub last_error: Option<LastError>,
    /// How far it has come, at rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub positions: Vec<PositionStatus>,
}

/// One run of a `database` source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStatus {
    /// Counted from the source's first.
    pub number: u64,
    /// `running`, `waiting` (it failed, and is tried again), `done`, `failed`, or `interrupted` (it goes on with the source).
    pub state: String,
    /// When it began, ms since 1970 UTC.
    pub started_ms: i64,
    /// When it was done, or failed for good.
    #[serde(default)]
    pub ended_ms: Option<i64>,
    /// How often it was begun: once, and again after each failure and each restart.
    pub attempts: u32,
    /// Rows that it took from the database.
    pub rows: u64,
    /// Their bytes as JSON.
    pub bytes: u64,
    /// By table, up to where it read: a cursor's value, or the first transaction whose rows it left to the next.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub reached: std::collections::BTreeMap<String, String>,
    /// Why its newest failed attempt failed.
    #[serde(default)]
    pub error: Option<String>,
}

/// How far a source has come in one of the things it reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PositionStatus {
    /// What is read: a file, a table.
    pub key: String,
    /// Up to where; each type of source has its own form.
    pub value: serde_json::Value,
}

/// The newest error of a part; it stays until the next success.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LastError {
    /// What went wrong, and the hint.
    pub message: String,
    /// When, ms since 1970 UTC.
    pub at_ms: i64,
}

/// One topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TopicStatus {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// One partition of a topic.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: PartitionId,
    /// First offset that is still there.
    pub start: Offset,
    /// Committed end.
    pub end: Offset,
    /// Bytes on disk.
    pub size_bytes: u64,
}

/// One table.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// Its topic.
    pub topic: String,
    /// `running`, `inferring`, `waiting` (the lake refuses, it tries again), `refused` (see the error) or `stopped`; at rest
    /// `at rest`, `not made yet` or `unreadable`.
    pub state: String,
    /// Rows in the lake.
    pub lake_rows: u64,
    /// Rows in the tail.
    pub tail_rows: u64,
    /// Dead letters, lake and tail.
    pub dead_letters: u64,
    /// Live files in the lake.
    pub files: u64,
    /// Bytes in the lake.
    pub lake_bytes: u64,
    /// Memory of the tail.
    pub tail_bytes: u64,
    /// Delta version.
    pub version: Option<u64>,
    /// Next offset of each partition in the lake, at rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// Records of the log that SQL does not see yet.
    pub lag_records: u64,
    /// Records that are not in the lake yet.
    pub uncommitted_records: u64,
    /// Age of the oldest record that is not in the lake yet, seconds.
    pub uncommitted_s: f64,
    /// How far the table has come in event time, ms since 1970 UTC; `None` without `event_time`, or before the first event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watermark_ms: Option<i64>,
    /// Rows that came when the watermark had passed what they tell of; `None` without `event_time`, or where it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_records: Option<u64>,
    /// The last error.
    pub last_error: Option<LastError>,
}

/// One view.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ViewStatus {
    /// Its name.
    pub name: String,
    /// `states`, `rows`, or `nothing` when it cannot be planned (see the trouble).
    pub kept_as: String,
    /// Which build serves; none while statements run over the rows.
    pub version: Option<u32>,
    /// What its states in the lake cover.
    pub boundary: Option<Boundary>,
    /// Records above that.
    pub lag_records: Option<u64>,
    /// Age of the oldest of them, seconds.
    pub lag_s: Option<f64>,
    /// How many of them the states in memory cover.
    pub live_records: Option<u64>,
    /// Memory of all its states.
    pub live_bytes: Option<u64>,
    /// States in the lake.
    pub lake_bytes: Option<u64>,
    /// Records of which states were made since the start.
    #[serde(default)]
    pub aggregated_records: u64,
    /// Commits of its states since the start.
    #[serde(default)]
    pub commits: u64,
    /// Time that they took together, seconds.
    #[serde(default)]
    pub commit_s: f64,
    /// Rows that came for a window that had closed; `None` without a window of the table's event time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_records: Option<u64>,
    /// Hash of the query and its columns.
    pub plan: Option<String>,
    /// The build that is being made.
    pub building: Option<u32>,
    /// The share of the rows that it has read, 0 to 1.
    pub built: Option<f64>,
    /// What went wrong last.
    pub trouble: Option<String>,
}
