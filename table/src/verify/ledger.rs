//! What is counted and summed of one partition, on both sides.
//!
//! *Content.* Each record has a hash (xxh3-128 of a canonical encoding of its row, offset and timestamp included), and each
//! block of offsets the wrapping sum of its records' hashes: the order in which they are read does not matter, and a
//! difference is found to within a block. A dead letter's hash is of what came (timestamp, key, value, headers), not of
//! the reason: its words may change with the version.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use arrow::array::{Array, RecordBatch};
use arrow::row::{RowConverter, SortField};
use tarn_model::{Error, Offset, OffsetRange, PartitionId, Result};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::PartitionReport;
use super::offsets::Offsets;
use crate::open;

/// Offsets that share a sum.
const BLOCK: i64 = 4096;
/// Places that a report names of each kind.
const NAMED_PLACES: usize = 3;

/// Which of the two tables rows belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Rows,
    DeadLetters,
}

/// Hashes the rows of one schema.
#[derive(Debug)]
pub(super) struct Hasher {
    kind: Kind,
    converter: RowConverter,
    columns: Vec<usize>,
}

impl Hasher {
    /// For batches of `schema`.
    pub(super) fn new(kind: Kind, schema: &arrow::datatypes::Schema) -> Result<Hasher> {
        let of_the_record = |name: &str| kind == Kind::Rows || !matches!(name, "reason" | "field");
        let fields = schema.fields().iter().enumerate().filter(|(_, field)| of_the_record(field.name()));
        let (columns, types): (Vec<_>, Vec<_>) =
            fields.map(|(at, field)| (at, SortField::new(field.data_type().clone()))).unzip();
        let converter = RowConverter::new(types)
            .map_err(|e| Error::internal("a table's columns have no row encoding").with_source(e))?;
        Ok(Hasher { kind, converter, columns })
    }

    fn hashes(&mut self, batch: &RecordBatch) -> Result<Vec<u128>> {
        let columns: Vec<_> = self.columns.iter().map(|at| batch.column(*at).clone()).collect();
        let rows = self.converter.convert_columns(&columns);
        let rows = rows.map_err(|e| Error::internal("rows have no row encoding").with_source(e))?;
        let seed = if self.kind == Kind::Rows { 0 } else { 1 };
        Ok(rows.iter().map(|row| xxh3_128_with_seed(row.as_ref(), seed)).collect())
    }
}

/// One partition.
#[derive(Debug)]
pub(super) struct Ledger {
    partition: PartitionId,
    /// Offsets that the table should cover.
    covered: OffsetRange,
    /// Offsets whose content is compared: those that the log still has.
    compared: OffsetRange,
    lost: Vec<OffsetRange>,
    /// Below it the log has no more than the last record of each key: an offset that is not there may never have been in reach of
    /// the table.
    compacted: Offset,
    /// Offsets that the log has and that hold no record.
    passed: Offsets,
    /// From where on `passed` is known.
    passed_from: Offset,
    /// How many offsets below it held no record, as the log remembers.
    passed_below: u64,
    seen: Offsets,
    dead: Offsets,
    rows: u64,
    dead_letters: u64,
    repeated: u64,
    repeated_at: Places,
    beyond: u64,
    before: u64,
    records: u64,
    undecided: Places,
    lake_sums: BTreeMap<i64, u128>,
    log_sums: BTreeMap<i64, u128>,
    problems: Vec<String>,
}

impl Ledger {
    /// A partition whose table covers `covered`, of which the log still has `compared`.
    pub(super) fn new(
        partition: PartitionId,
        covered: OffsetRange,
        compared: OffsetRange,
        lost: Vec<OffsetRange>,
    ) -> Ledger {
        Ledger {
            partition,
            covered,
            compared,
            lost,
            compacted: 0,
            passed: Offsets::default(),
            passed_from: covered.from,
            passed_below: 0,
            seen: Offsets::default(),
            dead: Offsets::default(),
            rows: 0,
            dead_letters: 0,
            repeated: 0,
            repeated_at: Places::default(),
            beyond: 0,
            before: 0,
            records: 0,
            undecided: Places::default(),
            lake_sums: BTreeMap::new(),
            log_sums: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Compaction has been over the log up to `offset`.
    pub(super) fn compacted_to(&mut self, offset: Offset) {
        self.compacted = offset;
    }

    /// The partition.
    pub(super) fn partition(&self) -> PartitionId {
        self.partition
    }

    /// Offsets whose content is compared.
    pub(super) fn compared(&self) -> OffsetRange {
        self.compared
    }

    /// Offsets that the table should cover.
    pub(super) fn covered(&self) -> OffsetRange {
        self.covered
    }

    /// The log has these offsets, and no record that counts in them.
    pub(super) fn pass(&mut self, range: OffsetRange) {
        for offset in range.from.max(self.covered.from)..range.to.min(self.covered.to) {
            self.passed.insert(offset);
        }
    }

    /// Below `from` the log no longer has anything; `offsets` of what the table covers there held no record.
    pub(super) fn passed_below(&mut self, from: Offset, offsets: u64) {
        (self.passed_from, self.passed_below) = (from, offsets);
    }

    /// Whether the lake holds `offset` as a dead letter.
    pub(super) fn is_dead(&self, offset: Offset) -> bool {
        self.dead.contains(offset)
    }

    /// Says what else is wrong.
    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The log lost records below `start` while they were read: they are not compared.
    pub(super) fn trimmed_to(&mut self, start: Offset) {
        let whole_blocks = start.saturating_add(BLOCK - 1).div_euclid(BLOCK) * BLOCK;
        let from = whole_blocks.clamp(self.compared.from, self.compared.to);
        self.compared = OffsetRange::new(from, self.compared.to);
        self.records = 0;
        self.log_sums.clear();
        self.undecided = Places::default();
        self.lake_sums.retain(|block, _| *block * BLOCK >= from);
    }

    /// Takes rows of the lake, all of this partition; their content only with a hasher.
    pub(super) fn lake(
        &mut self,
        kind: Kind,
        batch: &RecordBatch,
        hasher: Option<&mut Hasher>,
    ) -> Result<()> {
        let hashes = hasher.map(|hasher| hasher.hashes(batch)).transpose()?;
        for (row, offset) in open::offsets(batch).values().iter().enumerate() {
            self.count(kind, *offset);
            if let (Some(hashes), true) = (&hashes, self.compared.contains(*offset)) {
                add(&mut self.lake_sums, *offset, hashes[row]);
            }
        }
        Ok(())
    }

    fn count(&mut self, kind: Kind, offset: Offset) {
        if !self.covered.contains(offset) {
            // A dead letter's commit comes before its rows': it may be ahead.
            if offset < self.covered.from {
                self.before += 1;
            } else if kind == Kind::Rows {
                self.beyond += 1;
            }
            return;
        }
        match kind {
            Kind::Rows => self.rows += 1,
            Kind::DeadLetters => {
                self.dead_letters += 1;
                self.dead.insert(offset);
            }
        }
        if !self.seen.insert(offset) {
            self.repeated += 1;
            let dead = if self.dead.contains(offset) { " (a dead letter)" } else { "" };
            self.repeated_at.add(|| format!("{offset}{dead}"));
        }
    }

    /// Takes rows as the log gives them.
    pub(super) fn log(&mut self, batch: &RecordBatch, hasher: &mut Hasher) -> Result<()> {
        let hashes = hasher.hashes(batch)?;
        for (offset, hash) in open::offsets(batch).values().iter().zip(hashes) {
            if self.compared.contains(*offset) {
                self.records += 1;
                add(&mut self.log_sums, *offset, hash);
            }
        }
        Ok(())
    }

    /// Takes dead letters as the log gives them for offsets that the lake does not hold as dead.
    pub(super) fn undecided(&mut self, dead: &RecordBatch) {
        let reasons = dead
            .column_by_name("reason")
            .and_then(|c| c.as_any().downcast_ref::<arrow::array::StringArray>());
        for (row, offset) in open::offsets(dead).values().iter().enumerate() {
            if self.compared.contains(*offset) {
                self.records += 1;
                let reason = reasons.map_or("", |reasons| reasons.value(row));
                self.undecided.add(|| format!("{offset} ({reason})"));
            }
        }
    }

    /// What both sides say.
    pub(super) fn report(mut self) -> PartitionReport {
        let (mut missing, mut lost, mut missing_at) = (0, 0, Places::default());
        let (mut passed, mut below) = (0, 0);
        self.seen.gaps(self.covered, |gap| {
            let taken = self.lost.iter().map(|lost| overlap(&gap, lost)).sum::<u64>().min(gap.len());
            lost += taken;
            let above = gap.from.max(self.compacted).min(gap.to);
            passed += gap.from.abs_diff(above) - taken.min(gap.from.abs_diff(above));
            let (gap, taken) =
                (OffsetRange::new(above, gap.to), taken.saturating_sub(gap.from.abs_diff(above)));
            if gap.is_empty() {
                return;
            }
            let seen = OffsetRange::new(gap.from.max(self.passed_from).min(gap.to), gap.to);
            let mut records = 0;
            self.passed.gaps(seen, |range| records += range.len());
            let empty = (seen.len() - records).min(gap.len() - taken);
            passed += empty;
            let mut left = gap.len() - taken - empty;
            if gap.from < self.passed_from {
                // Where in what the log no longer has an offset held no record is not known, only how many did.
                let unseen = left.min(gap.from.abs_diff(gap.to.min(self.passed_from)));
                below += unseen;
                left -= unseen;
            }
            missing += left;
            if left > 0 {
                missing_at.add(|| gap.to_string());
            }
        });
        let known = below.min(self.passed_below);
        passed += known;
        if known < below {
            missing += below - known;
            let range = OffsetRange::new(self.covered.from, self.passed_from);
            missing_at.add(|| format!("{} of {range}", below - known));
        }
        let mut problems = std::mem::take(&mut self.problems);
        if self.passed_below > known && self.compacted == 0 {
            problems.push(format!(
                "{} offsets below {} held no record in the log, and are in the table",
                self.passed_below - known,
                self.passed_from
            ));
        }
        if missing > 0 {
            problems.push(format!("{missing} offsets are neither row nor dead letter: {missing_at}"));
        }
        if self.repeated > 0 {
            problems.push(format!("{} offsets occur more than once: {}", self.repeated, self.repeated_at));
        }
        if self.beyond > 0 {
            problems.push(format!("{} rows lie at or above the boundary {}", self.beyond, self.covered.to));
        }
        if self.before > 0 {
            problems
                .push(format!("{} offsets lie below the table's start {}", self.before, self.covered.from));
        }
        let content_agrees = self.compare(&mut problems);
        PartitionReport {
            partition: self.partition,
            boundary: self.covered.to,
            rows: self.rows,
            dead_letters: self.dead_letters,
            missing,
            repeated: self.repeated,
            lost,
            passed,
            compared: self.records,
            content_agrees,
            problems,
        }
    }

    fn compare(&self, problems: &mut Vec<String>) -> Option<bool> {
        if self.compared.is_empty() {
            return None;
        }
        if self.undecided.count > 0 {
            problems.push(format!(
                "offsets are no dead letters in the lake, but the log decodes them as such: {}",
                self.undecided
            ));
        }
        let blocks: BTreeSet<i64> = self.lake_sums.keys().chain(self.log_sums.keys()).copied().collect();
        let mut differing = Places::default();
        for block in blocks.into_iter().filter(|block| self.lake_sums.get(block) != self.log_sums.get(block))
        {
            differing.add(|| self.block(block).to_string());
        }
        if differing.count > 0 {
            problems.push(format!("the content differs from the log's within offsets {differing}"));
        }
        let agrees = differing.count == 0 && self.undecided.count == 0;
        let mut expected = 0;
        self.passed.gaps(self.compared, |records| expected += records.len());
        if self.records != expected {
            problems.push(format!(
                "the log has {} records in offsets {}, {expected} were expected",
                self.records, self.compared
            ));
            return Some(false);
        }
        Some(agrees)
    }

    fn block(&self, block: i64) -> OffsetRange {
        let from = (block * BLOCK).max(self.compared.from);
        OffsetRange::new(from, ((block + 1) * BLOCK).min(self.compared.to).max(from))
    }
}

fn add(sums: &mut BTreeMap<i64, u128>, offset: Offset, hash: u128) {
    let sum = sums.entry(offset.div_euclid(BLOCK)).or_default();
    *sum = sum.wrapping_add(hash);
}

fn overlap(a: &OffsetRange, b: &OffsetRange) -> u64 {
    let (from, to) = (a.from.max(b.from), a.to.min(b.to));
    if from < to { from.abs_diff(to) } else { 0 }
}

/// The first places of a kind, and how many there are.
#[derive(Debug, Default)]
struct Places {
    first: Vec<String>,
    count: usize,
}

impl Places {
    fn add(&mut self, place: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED_PLACES {
            self.first.push(place());
        }
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
