//! Import tables: rows that came straight from a database, without a log, so without offsets.
//!
//! *Layout*: `txn` of app id `tarn/import/<job>` is the number of the job's last run, in the commit that holds that run's rows.
//! Beside it two properties: [`ROWS`], how many rows the table has by what the runs read, and [`RUN`]`<job>`, what the last run was.
//!
//! An incremental run's bound stands in the latter, so it is committed with the rows below it.
//!
//! *Invariants*: a run is one commit. What a table has is what its commits say that was read: [`verify`] counts.

use serde::{Deserialize, Serialize};
use tarn_lake::{LakeSnapshot, LakeTable};
use tarn_model::Result;

use crate::open::{IMPORT, KIND};
use crate::verify::TableReport;

/// What app ids of jobs begin with.
const APP: &str = "tarn/import/";
/// Property: how many rows there are, by what the runs read.
pub const ROWS: &str = "tarn.import.rows";
/// Property, with the job's name behind it: its last run, as JSON.
pub const RUN: &str = "tarn.import.run.";

/// One run of a job, as its commit tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportRun {
    /// Its number; a later one is larger.
    pub run: i64,
    /// What was read: a table's name, or `query`.
    pub from: String,
    /// `append` or `overwrite`.
    pub mode: String,
    /// Rows that were read.
    pub rows: u64,
    /// Files that they were written to.
    pub files: usize,
    /// When it was committed, ms since 1970 UTC.
    pub at_ms: i64,
    /// Of an incremental run: up to where it read, which the next one goes on from. What is in it is the collector's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<serde_json::Value>,
}

/// App id of a job in Delta `txn` actions.
pub fn app_id(job: &str) -> String {
    format!("{APP}{job}")
}

/// Whether a table of the lake is an import table.
pub fn is_import(snapshot: &LakeSnapshot) -> bool {
    snapshot.properties.get(KIND).is_some_and(|kind| kind == IMPORT)
}

/// How many rows the commits say that there are.
pub fn rows_read(snapshot: &LakeSnapshot) -> Option<u64> {
    snapshot.properties.get(ROWS)?.parse().ok()
}

/// What the last run of `job` was.
pub fn last_run(snapshot: &LakeSnapshot, job: &str) -> Option<ImportRun> {
    serde_json::from_str(snapshot.properties.get(&format!("{RUN}{job}"))?).ok()
}

/// What `tarn verify` found of an import table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImportReport {
    /// Rows that the commits say were read.
    pub rows_read: Option<u64>,
    /// Rows that the table's files have.
    pub rows: u64,
    /// How many files there are.
    pub files: usize,
}

/// Compares the rows in the files of an import table with what its commits say was read.
pub async fn verify(table: &LakeTable) -> Result<TableReport> {
    let snapshot = table.snapshot();
    let counted = table.rows_in_files(&snapshot).await?;
    let rows = counted.iter().sum();
    let mut problems = Vec::new();
    for (i, (file, rows)) in snapshot.files.iter().zip(&counted).enumerate() {
        let told = snapshot.statistics.rows.iter().nth(i).flatten();
        if told.is_some_and(|told| u64::try_from(told) != Ok(*rows)) {
            problems.push(format!(
                "`{}` has {rows} rows, its commit says {}",
                file.path,
                told.unwrap_or_default()
            ));
        }
    }
    let read = rows_read(&snapshot);
    match read {
        Some(read) if read != rows => {
            problems.push(format!("the commits say that {read} rows were read, the files have {rows}"));
        }
        Some(_) => {}
        None => problems.push("the table does not say how many rows were read".to_owned()),
    }
    for (app, run) in &snapshot.txns {
        let Some(job) = app.strip_prefix(APP) else { continue };
        // What an incremental run goes on from must be of the run that is committed.
        if last_run(&snapshot, job).is_none_or(|told| told.run != *run) {
            problems.push(format!("the table does not say what run {run} of the import `{job}` was"));
        }
    }
    if let Some(version) = snapshot.foreign_version {
        problems.push(format!("another engine changed rows in version {version}"));
    }
    Ok(TableReport {
        table: table.name().to_owned(),
        topic: String::new(),
        partitions: Vec::new(),
        ok: problems.is_empty(),
        problems,
        import: Some(ImportReport { rows_read: read, rows, files: counted.len() }),
    })
}
