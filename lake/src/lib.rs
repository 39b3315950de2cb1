//! Delta tables on a durable object store: snapshots, the commit protocol, upkeep.
//!
//! The only room that knows Delta's format. It keeps to reader 1 / writer 2, which every engine reads; what it needs of the
//! format is small, and what exactly once rests on (which commit landed, what a checkpoint holds) is in plain sight here.

mod action;
mod bulk;
mod checkpoint;
mod checkpoint_reader;
mod checkpoint_writer;
mod commit;
mod data_reader;
mod durable;
mod error;
mod lake;
mod log_reader;
mod optimize;
mod partition;
mod remove;
mod schema;
mod snapshot;
mod statistics;
mod store;
mod table;
mod uncommitted;
mod upkeep;
mod vacuum;
mod value;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array};
use arrow::datatypes::SchemaRef;
use object_store::path::Path;

pub use bulk::BulkWriter;
pub use lake::Lake;
pub use table::LakeTable;

/// Sizes and ages of upkeep.
#[derive(Debug, Clone)]
pub struct LakeOptions {
    /// Size that files are merged towards, bytes.
    pub target_file_bytes: u64,
    /// Number of small files of one lake partition at which they are merged.
    pub optimize_after_files: usize,
    /// Number of commits between two checkpoints.
    pub checkpoint_after_commits: usize,
    /// How long removed files are kept.
    pub vacuum_retention: Duration,
    /// How long commits below a checkpoint are kept.
    pub log_retention: Duration,
}

/// What a new table is.
#[derive(Debug, Clone)]
pub struct NewTable {
    /// All its columns, the system columns included.
    pub schema: SchemaRef,
    /// Columns by whose values files are kept apart.
    pub partition_by: Vec<String>,
    /// Table properties, e.g. `tarn.topic_uuid`.
    pub properties: BTreeMap<String, String>,
}

/// A table at one version, immutable.
#[derive(Debug)]
pub struct LakeSnapshot {
    /// Delta version.
    pub version: u64,
    /// All columns, the system columns and partition columns included, in the table's order.
    pub schema: SchemaRef,
    /// Names of the columns by which files are kept apart.
    pub partition_by: Vec<String>,
    /// Table properties.
    pub properties: BTreeMap<String, String>,
    /// App id → `txn` version.
    pub txns: HashMap<String, i64>,
    /// What the table's commits noted beside their rows: name → highest value. See [`Commit::marks`].
    pub marks: BTreeMap<String, i64>,
    /// Live files.
    pub files: Vec<LakeFile>,
    /// Statistics of the live files, row i for file i.
    pub statistics: FileStatistics,
    /// Newest version that is known in which another engine changed rows (`None`: none since the checkpoint that was read).
    pub foreign_version: Option<u64>,
}

/// A live data file.
#[derive(Debug, Clone)]
pub struct LakeFile {
    /// Its place, relative to the lake's root.
    pub path: Path,
    /// Bytes.
    pub size: u64,
    /// When it was written, ms since 1970 UTC.
    pub modified_ms: i64,
    /// Values of the partition columns, in the order of `partition_by`, as Delta writes them (`None` is NULL).
    pub partition_values: Vec<Option<String>>,
}

/// Statistics of a snapshot's files, one row a file; a NULL is "not known".
#[derive(Debug, Clone)]
pub struct FileStatistics {
    /// Number of rows.
    pub rows: Int64Array,
    /// Column → lowest value, in the column's type.
    pub min: HashMap<String, ArrayRef>,
    /// Column → highest value, in the column's type.
    pub max: HashMap<String, ArrayRef>,
    /// Column → number of NULLs.
    pub nulls: HashMap<String, Int64Array>,
}

/// A data file that is written but not committed.
#[derive(Debug, Clone)]
pub struct NewFile {
    /// Its place, relative to the table's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Values of the partition columns, by name.
    pub partition_values: BTreeMap<String, Option<String>>,
    /// Statistics in Delta's JSON form.
    pub stats: String,
    /// Number of rows.
    pub rows: u64,
}

/// What goes into the table in one atomic commit.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Files to add.
    pub files: Vec<NewFile>,
    /// Live files that the new ones take the place of; one that is not live any more is a conflict.
    pub removes: Vec<LakeFile>,
    /// Progress.
    pub advances: Vec<Advance>,
    /// Numbers that go with the rows and never fall, such as the newest event time: name → value. No engine has to know them: they
    /// stand in `commitInfo`, and before a checkpoint they become a table property. Those of commits that another engine's checkpoint
    /// hides are lost, so whoever relies on one notes beside it how far it goes.
    pub marks: BTreeMap<String, i64>,
    /// A changed schema (nullable columns added, types widened).
    pub schema: Option<SchemaRef>,
    /// Properties to set (`Some`) or remove (`None`).
    pub properties: BTreeMap<String, Option<String>>,
    /// What this commit is, for people: goes into `commitInfo`.
    pub operation: String,
}

/// Moves one app id's `txn` from `expected` (`None`: not there yet) to `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// `tarn/<topic uuid>/<partition>`
    pub app_id: String,
    /// Version that the snapshot must have.
    pub expected: Option<i64>,
    /// Version that it gets.
    pub to: i64,
}

/// What optimize did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct OptimizeReport {
    /// Files that went.
    pub removed_files: usize,
    /// Files that came.
    pub added_files: usize,
    /// Bytes that went.
    pub removed_bytes: u64,
    /// Bytes that came.
    pub added_bytes: u64,
}

/// What vacuum did.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct VacuumReport {
    /// Files that went (or would go).
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}
