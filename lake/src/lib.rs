//! Delta tables on a durable object store: snapshots, the commit protocol, upkeep.
//!
//! The only room that names `deltalake`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use object_store::ObjectStore;
use object_store::path::Path;
use tarn_model::Result;
use tarn_model::clock::Clock;

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

/// A folder of Delta tables; clones share it.
#[derive(Clone, Debug)]
pub struct Lake {}

#[expect(unused_variables, reason = "skeleton")]
impl Lake {
    /// Opens the lake at `file:PATH` (created when absent) or `s3://bucket/prefix`, with the object store's `options`.
    /// On S3 it is probed whether a conditional put is honoured.
    pub async fn open(
        url: &str,
        store_options: &BTreeMap<String, String>,
        options: LakeOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Lake> {
        unimplemented!()
    }

    /// The durable store, rooted at the lake's URL: for reading data files.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        unimplemented!()
    }

    /// Names of the tables that are there.
    pub async fn table_names(&self) -> Result<Vec<String>> {
        unimplemented!()
    }

    /// Opens a table: refuses a torn or zero-byte commit at the log's end, and sweeps staging files of a killed writer
    /// when `writer`. `None` when there is no such table.
    pub async fn load(&self, name: &str, writer: bool) -> Result<Option<LakeTable>> {
        unimplemented!()
    }

    /// Creates a table as version 0. Idempotent over a crash: an existing table with the same schema is returned.
    pub async fn create(&self, name: &str, table: &NewTable) -> Result<LakeTable> {
        unimplemented!()
    }
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

/// One Delta table, owned by one task; clones share it.
#[derive(Clone, Debug)]
pub struct LakeTable {}

#[expect(unused_variables, reason = "skeleton")]
impl LakeTable {
    /// Its name.
    pub fn name(&self) -> &str {
        unimplemented!()
    }

    /// The newest snapshot that this process knows.
    pub fn snapshot(&self) -> Arc<LakeSnapshot> {
        unimplemented!()
    }

    /// Reads the log's end and takes over what others committed.
    pub async fn reload(&self) -> Result<Arc<LakeSnapshot>> {
        unimplemented!()
    }

    /// Writes rows as Parquet files (one or more per lake partition, durable when this returns), not yet part of the
    /// table. CPU work is off the async threads.
    pub async fn write(&self, rows: Vec<RecordBatch>) -> Result<Vec<NewFile>> {
        unimplemented!()
    }

    /// Commits files and progress in one Delta commit, following the protocol: `expected` of every app id is compared
    /// with the snapshot that is committed on; no blind retries; after an error the table is reloaded and the versions
    /// of the app ids decide whether it is committed. Files of a commit that did not land are left for vacuum.
    pub async fn commit(&self, commit: Commit) -> Result<Arc<LakeSnapshot>> {
        unimplemented!()
    }

    /// Merges small files of each lake partition towards the target size (`dataChange=false`); rows keep their order by
    /// (`_partition`, `_offset`). Prepared aside, committed on the newest snapshot if every input is still live.
    pub async fn optimize(&self) -> Result<OptimizeReport> {
        unimplemented!()
    }

    /// Deletes files that no version newer than `retention` needs, and files that were never committed and are older
    /// than that.
    pub async fn vacuum(&self, retention: Duration, dry_run: bool) -> Result<VacuumReport> {
        unimplemented!()
    }

    /// Writes a checkpoint of the newest snapshot, if there is none yet.
    pub async fn checkpoint(&self) -> Result<()> {
        unimplemented!()
    }

    /// Deletes commits below the newest checkpoint that are older than the log retention.
    pub async fn clean_log(&self) -> Result<usize> {
        unimplemented!()
    }

    /// Does what is due of the four above, by the lake's options; called by the owner between commits.
    pub async fn upkeep(&self) -> Result<()> {
        unimplemented!()
    }
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
    /// Live files.
    pub files: Vec<LakeFile>,
    /// Statistics of the live files, row i for file i.
    pub statistics: FileStatistics,
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
    /// Progress.
    pub advances: Vec<Advance>,
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
