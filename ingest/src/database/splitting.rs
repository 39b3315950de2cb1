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
//! *One snapshot*: PostgreSQL exports the coordinator's. Others do not: there all readers are opened, and their transactions begun,
//! while a lock keeps everybody from changing the table, for that moment only. Where the lock is not given, one reader reads.
//!
//! *Without a column* an import is split by where the rows lie, where the database can read them so: ranges of a table's pages.
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

/// Values of a sample, for a table of any size: enough for even splits.
pub(super) const SAMPLED_VALUES: usize = 20_000;

/// A table in parts, and who reads them.
#[derive(Debug)]
pub(super) struct Splits {
    pub(super) readers: Readers,
    /// Conditions, of which every row fulfils one.
    pub(super) conditions: Vec<String>,
}

/// What became of a table that should be split.
#[derive(Debug)]
pub(super) enum Parted {
    Splits(Splits),
    /// One reader reads it; why, where it is not just small.
    Whole(Option<String>),
}

/// Those who see the coordinator's snapshot.
pub(super) enum Readers {
    /// Whoever names it.
    Exported(String),
    /// They were opened at one moment, and wait here.
    Opened(Mutex<Vec<Box<dyn Rows>>>),
}

impl Readers {
    /// One of them, for one thread.
    pub(super) fn take(&self, open: &OpenAt<'_>) -> Result<Box<dyn Rows>> {
        match self {
            Readers::Exported(snapshot) => open(snapshot),
            Readers::Opened(waiting) => {
                let waiting = waiting.lock().pop();
                waiting.ok_or_else(|| Error::internal("there are more readers than were opened"))
            }
        }
    }

    /// It has read what it took.
    pub(super) fn give_back(&self, mut rows: Box<dyn Rows>) -> Result<()> {
        match self {
            Readers::Exported(_) => rows.release(),
            Readers::Opened(waiting) => {
                waiting.lock().push(rows);
                Ok(())
            }
        }
    }
}

impl std::fmt::Debug for Readers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Readers::Exported(snapshot) => f.debug_tuple("Exported").field(snapshot).finish(),
            Readers::Opened(waiting) => f.debug_tuple("Opened").field(&waiting.lock().len()).finish(),
        }
    }
}

/// Takes values in their order, and keeps some at even distances, however many come.
#[derive(Debug)]
pub(super) struct Sample<T> {
    kept: Vec<T>,
    /// Every so manyeth is kept.
    step: usize,
    seen: usize,
}

impl<T> Sample<T> {
    pub(super) fn new() -> Sample<T> {
        Sample { kept: Vec::new(), step: 1, seen: 0 }
    }

    pub(super) fn push(&mut self, value: T) {
        if self.seen.is_multiple_of(self.step) {
            self.kept.push(value);
        }
        self.seen += 1;
        if self.kept.len() >= 2 * SAMPLED_VALUES {
            let mut place = 0;
            self.kept.retain(|_| {
                place += 1;
                place % 2 == 1
            });
            self.step *= 2;
        }
    }

    /// The bounds of up to `count` parts with like numbers of values.
    pub(super) fn bounds(self, count: usize) -> Vec<T>
    where
        T: PartialEq + Clone,
    {
        let mut bounds: Vec<T> =
            (1..count).filter_map(|i| self.kept.get(self.kept.len() * i / count).cloned()).collect();
        bounds.dedup();
        bounds
    }
}

/// Opens the database at a snapshot.
pub(super) type OpenAt<'a> = dyn Fn(&str) -> Result<Box<dyn Rows>> + Sync + 'a;

/// Conditions that part a column at `bounds`, which are in order and in SQL.
pub(super) fn conditions(column: &str, bounds: &[String]) -> Vec<String> {
    let mut conditions = ranges(column, bounds);
    conditions.push(format!("{column} IS NULL"));
    conditions
}

/// The same of one that every row has.
pub(super) fn ranges(column: &str, bounds: &[String]) -> Vec<String> {
    let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else {
        return vec![format!("{column} IS NOT NULL")];
    };
    let between = bounds.windows(2);
    let between = between.map(|pair| format!("{column} >= {} AND {column} < {}", pair[0], pair[1]));
    let mut ranges = vec![format!("{column} < {first}")];
    ranges.extend(between);
    ranges.push(format!("{column} >= {last}"));
    ranges
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
        let mut database = splits.readers.take(open)?;
        loop {
            let split = next.fetch_add(1, Ordering::Relaxed);
            let Some(condition) = splits.conditions.get(split) else {
                return splits.readers.give_back(database);
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
    fn a_sample_of_any_length_has_bounds_at_even_distances() {
        let bounds = |values: usize, count: usize| {
            let mut sample = Sample::new();
            (0..values).for_each(|value| sample.push(value));
            assert!(sample.kept.len() < 2 * SAMPLED_VALUES);
            sample.bounds(count)
        };
        assert!(bounds(0, 4).is_empty());
        assert_eq!(bounds(1, 4), [0]);
        assert_eq!(bounds(8, 4), [2, 4, 6]);
        let found = bounds(1_000_000, 4);
        let near = |(found, want): (&usize, usize)| found.abs_diff(want) < 1_000;
        assert!(found.iter().zip([250_000, 500_000, 750_000]).all(near), "{found:?}");
        let mut skewed = Sample::new();
        (0..100).for_each(|i| skewed.push(if i < 90 { 7 } else { i }));
        assert_eq!(skewed.bounds(16), [7, 93]);
    }

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
