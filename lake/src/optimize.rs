//! Merges small files into big ones, without changing a row.
//!
//! *Why* in tiers: merging whatever is small would write a file that is nearly big again and again, each time with a few
//! more rows. By itself only files of about one size are merged, `after_files` at a time, so a row is rewritten once a tier:
//! about log(target / size of a commit) to the base `after_files`, however long the table lives. By hand everything small is
//! merged at once.
//!
//! *Invariants*: a rewrite is written aside and committed only if each of its inputs is live in the very version that is
//! committed on; it has as many rows as its inputs, in their order; `dataChange` is false, so consumers pass it over.
//!
//! *Failure*: killed before its commit, it leaves files that no version refers to; vacuum deletes them.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use object_store::path::Path;
use tarn_model::columns::{OFFSET, PARTITION};
use tarn_model::{Error, Kind, Result, fault};

use crate::commit::{Operation, add_of, remove_of};
use crate::data_reader::DataRows;
use crate::snapshot::Actions;
use crate::writer::conform;
use crate::{LakeFile, LakeSnapshot, LakeTable, NewFile, OptimizeReport};

/// Rewritten files are committed when they come to this many times the target size, so that a long run keeps what it did.
const COMMIT_AFTER_TARGETS: u64 = 8;

/// What is worth a merge.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reach {
    /// Whatever is small, as asked for by hand.
    All,
    /// So many files of one tier.
    Tier(usize),
}

impl Reach {
    /// The tier of a small file: 0 holds those above `limit / after_files`, each next one files smaller by that factor.
    fn tier_of(self, size: u64, limit: u64) -> u32 {
        match self {
            Reach::All => 0,
            Reach::Tier(after_files) => (limit / size.max(1)).max(1).ilog(after_files.max(2) as u64),
        }
    }

    fn least(self) -> usize {
        match self {
            Reach::All => 2,
            Reach::Tier(after_files) => after_files.max(2),
        }
    }
}

/// Files that become one.
#[derive(Debug, Clone)]
struct Merge {
    values: BTreeMap<String, Option<String>>,
    inputs: Vec<LakeFile>,
    /// Rows of the inputs, when they are known.
    rows: Option<i64>,
}

/// A merge that is written but not committed.
struct Merged {
    merge: Merge,
    outputs: Vec<NewFile>,
}

impl LakeTable {
    /// Merges the small files of each lake partition.
    pub(crate) async fn merge_small_files(&self, reach: Reach) -> Result<OptimizeReport> {
        let snapshot = self.snapshot();
        let target = self.lake().options.target_file_bytes;
        let mut report = OptimizeReport::default();
        let mut written: Vec<Merged> = Vec::new();
        for merge in plan(&snapshot, target, reach) {
            match self.rewrite(&snapshot, &merge).await {
                Ok(outputs) => written.push(Merged { merge, outputs }),
                // A file that another engine wrote in a way that this one cannot rewrite is left as it is.
                Err(error) if matches!(error.kind(), Kind::Invalid) => {
                    tracing::warn!(table = self.name(), %error, "files are not merged");
                }
                Err(error) => return Err(error),
            }
            let bytes: u64 = written.iter().flat_map(|merged| &merged.outputs).map(|file| file.size).sum();
            if bytes >= target.saturating_mul(COMMIT_AFTER_TARGETS) {
                self.commit_merged(std::mem::take(&mut written), &mut report).await?;
            }
        }
        if !written.is_empty() {
            self.commit_merged(written, &mut report).await?;
        }
        Ok(report)
    }

    /// Whether upkeep should merge.
    pub(crate) fn has_files_to_merge(&self) -> bool {
        let options = &self.lake().options;
        let reach = Reach::Tier(options.optimize_after_files);
        !plan(&self.snapshot(), options.target_file_bytes, reach).is_empty()
    }

    async fn rewrite(&self, snapshot: &LakeSnapshot, merge: &Merge) -> Result<Vec<NewFile>> {
        let writer = self.file_writer(snapshot);
        let schema = writer.file_schema.clone();
        let rows = DataRows::new(self.store().clone(), merge.inputs.clone());
        let outputs = writer
            .write_stream(merge.values.clone(), move || rows.map(move |rows| conform(&rows?, &schema)))
            .await?;
        let written: u64 = outputs.iter().map(|file| file.rows).sum();
        if merge.rows.is_some_and(|rows| u64::try_from(rows) != Ok(written)) {
            return Err(Error::corrupt(format!(
                "files hold {written} rows, but the table's log says {}: table=`{}` path=`{}`",
                merge.rows.unwrap_or_default(),
                self.name(),
                merge.inputs.first().map_or("", |file| file.path.as_ref())
            ))
            .with_hint("nothing was changed; compare the file with a backup"));
        }
        Ok(outputs)
    }

    async fn commit_merged(&self, written: Vec<Merged>, report: &mut OptimizeReport) -> Result<()> {
        fault::point("lake.optimize.before")?;
        let operation = Operation { name: "OPTIMIZE".into(), parameters: BTreeMap::new() };
        let now_ms = self.now_ms();
        let mut landed_report = OptimizeReport::default();
        let landed = self
            .commit_on_newest(operation, |state, _| {
                landed_report = OptimizeReport::default();
                let live: HashSet<&Path> = state.snapshot.files.iter().map(|file| &file.path).collect();
                let mut actions = Actions::default();
                // What was written for another set of partition columns or columns has no place any more.
                let same_table = |merged: &&Merged| {
                    merged.merge.values.keys().eq(state
                        .snapshot
                        .partition_by
                        .iter()
                        .collect::<std::collections::BTreeSet<_>>())
                };
                let still_live =
                    |merged: &&Merged| merged.merge.inputs.iter().all(|file| live.contains(&file.path));
                for merged in written.iter().filter(same_table).filter(still_live) {
                    for file in &merged.merge.inputs {
                        let path = self.relative(&file.path);
                        actions.removes.push(remove_of(
                            &path,
                            file.size,
                            merged.merge.values.clone(),
                            now_ms,
                        ));
                        landed_report.removed_files += 1;
                        landed_report.removed_bytes += file.size;
                    }
                    for file in &merged.outputs {
                        actions.adds.push(add_of(file, now_ms, false)?);
                        landed_report.added_files += 1;
                        landed_report.added_bytes += file.size;
                    }
                }
                Ok((!actions.adds.is_empty()).then_some(actions))
            })
            .await?;
        fault::point("lake.optimize.after")?;
        if landed.is_some() {
            report.removed_files += landed_report.removed_files;
            report.removed_bytes += landed_report.removed_bytes;
            report.added_files += landed_report.added_files;
            report.added_bytes += landed_report.added_bytes;
            for file in written.iter().flat_map(|merged| &merged.outputs) {
                self.forget_uncommitted(&file.path);
            }
        }
        Ok(())
    }
}

/// Which files to merge: of each lake partition and tier with enough small ones, neighbours in the order of
/// (`_partition`, `_offset`), as many as come to the target size.
fn plan(snapshot: &LakeSnapshot, target: u64, reach: Reach) -> Vec<Merge> {
    let limit = target / 2;
    let mut small: HashMap<(&[Option<String>], u32), Vec<usize>> = HashMap::new();
    for (i, file) in snapshot.files.iter().enumerate().filter(|(_, file)| file.size < limit) {
        small.entry((&file.partition_values, reach.tier_of(file.size, limit))).or_default().push(i);
    }
    let partition =
        snapshot.statistics.min.get(PARTITION).and_then(|min| min.as_primitive_opt::<Int32Type>());
    let offset = snapshot.statistics.min.get(OFFSET).and_then(|min| min.as_primitive_opt::<Int64Type>());
    let first_row = |i: usize| {
        let partition = partition.filter(|min| min.is_valid(i)).map(|min| min.value(i));
        let offset = offset.filter(|min| min.is_valid(i)).map(|min| min.value(i));
        (partition, offset, i)
    };
    let mut merges = Vec::new();
    let mut groups: Vec<Vec<usize>> =
        small.into_values().filter(|files| files.len() >= reach.least()).collect();
    groups.sort_unstable();
    for mut files in groups {
        files.sort_by_key(|i| first_row(*i));
        let mut inputs: Vec<usize> = Vec::new();
        let mut bytes = 0;
        for i in files {
            if bytes + snapshot.files[i].size > target {
                merges.extend(merge_of(snapshot, std::mem::take(&mut inputs)));
                bytes = 0;
            }
            bytes += snapshot.files[i].size;
            inputs.push(i);
        }
        merges.extend(merge_of(snapshot, inputs));
    }
    merges
}

fn merge_of(snapshot: &LakeSnapshot, inputs: Vec<usize>) -> Option<Merge> {
    let values = &snapshot.files[*inputs.first().filter(|_| inputs.len() > 1)?].partition_values;
    let rows = &snapshot.statistics.rows;
    Some(Merge {
        values: snapshot.partition_by.iter().cloned().zip(values.iter().cloned()).collect(),
        rows: inputs.iter().map(|i| rows.is_valid(*i).then(|| rows.value(*i))).sum(),
        inputs: inputs.into_iter().map(|i| snapshot.files[i].clone()).collect(),
    })
}
