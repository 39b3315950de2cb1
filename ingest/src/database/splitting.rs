//! `split_by`: a table's rows read by several readers side by side, all on one snapshot.
//!
//! ```text
//! coordinator   snapshot ── exported ──┬──────────────┬──────────────┬── kept until all have read
//! splits        (…, a) [a, b) [b, …) and NULL         │              │
//! readers                              └▶ next split  └▶ next split  └▶ next split     each split into a file of its own
//! ```
//!
//! *Splits* are ranges between values that a sample of the column has at even distances, so they have like numbers of rows
//! however the values lie; the first has no lower bound and the last no upper one, and rows without a value are a split of their
//! own. No value is computed with, so every type that has an order can be split by, exactly. There are several splits for each
//! reader: who is done takes the next, and a split that is longer than the others holds up one reader alone.
//!
//! *Failure*: an error of one reader ends all; nothing has reached the log by then.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tarn_model::{Error, Result};
use tracing::info;

use super::staging::{Volume, write_rows};
use super::{Part, Rows, Selection};
use crate::source::Source;

/// Splits for each reader.
pub(super) const SPLITS_PER_READER: usize = 4;

/// A table in parts, and the snapshot that they are parts of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splits {
    pub(super) snapshot: String,
    /// Conditions, of which every row fulfils one.
    pub(super) conditions: Vec<String>,
}

/// Opens the database at a snapshot.
pub(super) type OpenAt<'a> = dyn Fn(&str) -> Result<Box<dyn Rows>> + Sync + 'a;

/// Conditions that part a column at `bounds`, which are in order and in SQL.
pub(super) fn conditions(column: &str, bounds: &[String]) -> Vec<String> {
    let mut conditions = Vec::with_capacity(bounds.len() + 2);
    match (bounds.first(), bounds.last()) {
        (Some(first), Some(last)) => {
            conditions.push(format!("{column} < {first}"));
            conditions.extend(
                bounds.windows(2).map(|pair| format!("{column} >= {} AND {column} < {}", pair[0], pair[1])),
            );
            conditions.push(format!("{column} >= {last}"));
        }
        _ => conditions.push(format!("{column} IS NOT NULL")),
    }
    conditions.push(format!("{column} IS NULL"));
    conditions
}

/// Writes each split to its file; the numbers of their rows, or `None` when the source is to stop.
pub(super) fn stage(
    source: &Source,
    what: &Selection,
    splits: &Splits,
    readers: usize,
    open: &OpenAt<'_>,
    path_of: impl Fn(usize) -> PathBuf + Sync,
) -> Result<Option<Vec<Volume>>> {
    let count = splits.conditions.len();
    let (next, gone_wrong, bytes) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
    let written: Mutex<Vec<Option<Volume>>> = Mutex::new(vec![None; count]);
    let read = || -> Result<()> {
        let mut database = open(&splits.snapshot)?;
        loop {
            let split = next.fetch_add(1, Ordering::Relaxed);
            let Some(condition) = splits.conditions.get(split) else {
                return database.release();
            };
            let since = Instant::now();
            let part = Part::Split(condition);
            let going_on = || !source.stopping() && !gone_wrong.load(Ordering::Relaxed);
            let Some(found) = write_rows(source, &mut *database, what, &part, &path_of(split), &going_on)?
            else {
                return Ok(());
            };
            source.monitor.total(bytes.fetch_add(found.bytes, Ordering::Relaxed) + found.bytes);
            info!(
                source = source.name,
                table = what.name(),
                split = split + 1,
                splits = count,
                rows = found.rows,
                bytes = found.bytes,
                elapsed_ms = since.elapsed().as_millis(),
                "a split is staged"
            );
            written.lock()[split] = Some(found);
        }
    };
    let ended: Vec<Result<()>> = std::thread::scope(|scope| {
        let reading: Vec<_> = (0..readers.min(count))
            .map(|_| {
                scope.spawn(|| {
                    let ended = read();
                    if ended.is_err() {
                        gone_wrong.store(true, Ordering::Relaxed);
                    }
                    ended
                })
            })
            .collect();
        let panicked = || Err(Error::internal("a reader of a split panicked"));
        reading.into_iter().map(|reader| reader.join().unwrap_or_else(|_| panicked())).collect()
    });
    ended.into_iter().collect::<Result<Vec<()>>>()?;
    // Some splits are left only where the source is to stop.
    Ok(written.into_inner().into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_fulfils_one_condition() {
        let bounds = |bounds: &[&str]| bounds.iter().map(|bound| (*bound).to_owned()).collect::<Vec<_>>();
        assert_eq!(conditions("c", &[]), ["c IS NOT NULL", "c IS NULL"]);
        assert_eq!(conditions("c", &bounds(&["1"])), ["c < 1", "c >= 1", "c IS NULL"]);
        assert_eq!(
            conditions("c", &bounds(&["1", "5"])),
            ["c < 1", "c >= 1 AND c < 5", "c >= 5", "c IS NULL"]
        );
    }
}
