//! The proof: log = table + dead letters, partition by partition.
//!
//! *What is compared.* Of the lake: every offset below the table's boundary is one row or one dead letter, or lies in a
//! range that a forced trim took, or holds no record: a transaction's marker, or what was aborted. None occurs twice. Where the
//! log no longer has such offsets, it still knows how many there were. Of what the log still has below the boundary: each record is decoded
//! again, and an order-independent hash of the rows, offsets and timestamps included, must be the lake's; dead letters
//! are compared by what came.
//!
//! *Compacted topics*: what compaction has been over is compared no more, for the log no longer has it all; rows and dead
//! letters there are still counted, and found when they are there twice.
//!
//! *While the pipeline runs*: the snapshots are fixed first, rows before dead letters, since dead letters are committed
//! first. What is committed later is not looked at. If retention takes records while they are read, the comparison begins
//! above them.
//!
//! *Memory*: at most one bit an offset and 16 bytes a block of them, and one batch of rows; see [`offsets`].
//!
//! *Failure*: what cannot be reached is an error; what can be reached and is wrong is in the report.

mod ledger;
mod offsets;
mod reader;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int32Type;
use serde::{Deserialize, Serialize};
use tarn_lake::{Lake, LakeSnapshot};
use tarn_log::{Log, TopicInfo};
use tarn_model::columns::{OFFSET, PARTITION};
use tarn_model::{Boundary, Error, Offset, OffsetRange, PartitionId, Result};

use crate::catalog::boundary_of;
use crate::decode::{Decoder, TableFormat, as_dead_letters, dead_letter_schema};
use crate::import::ImportReport;
use crate::open;
use ledger::{Hasher, Kind, Ledger};

/// What `tarn verify` found for one table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableReport {
    /// The table.
    pub table: String,
    /// Its topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
    /// What is wrong with the table as a whole, in words.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Of a table without offsets: its rows are counted, not compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<ImportReport>,
    /// Whether everything agrees.
    pub ok: bool,
}

/// One partition of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartitionReport {
    /// The partition.
    pub partition: PartitionId,
    /// The lake's boundary.
    pub boundary: Offset,
    /// Rows below it.
    pub rows: u64,
    /// Dead letters below it.
    pub dead_letters: u64,
    /// Offsets below it that are neither.
    pub missing: u64,
    /// Rows and dead letters below it whose offset another one has too.
    pub repeated: u64,
    /// Offsets that a forced trim took.
    pub lost: u64,
    /// Offsets below it that hold no record: markers of transactions, and what was aborted.
    #[serde(default)]
    pub passed: u64,
    /// Records that the log still has below the boundary, whose content was compared.
    pub compared: u64,
    /// Whether their order-independent content hash is the same on both sides; `None` when the log has none of them.
    pub content_agrees: Option<bool>,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

/// Compares a table and its dead letters with the log. A table that is not in the lake yet has no partitions and agrees.
pub async fn verify(
    log: &Log,
    lake: &Lake,
    topic: &str,
    table: &str,
    format: &TableFormat,
) -> Result<TableReport> {
    let info = log.topic(topic).ok_or_else(|| Error::invalid(format!("there is no topic `{topic}`")))?;
    let rows = lake.load(table, false).await?.map(|table| table.snapshot());
    let dead = lake.load(&format!("{table}_dead_letters"), false).await?.map(|table| table.snapshot());
    let verifier = Verifier { log: log.clone(), lake: lake.clone(), info, format: format.clone() };
    let table = table.to_owned();
    let runtime = tokio::runtime::Handle::current();
    // Hashing and decoding take long: the whole work stands on a thread of its own.
    let work = tokio::task::spawn_blocking(move || runtime.block_on(verifier.run(table, rows, dead)));
    work.await.map_err(|e| Error::internal("the verification ended before its work").with_source(e))?
}

struct Verifier {
    log: Log,
    lake: Lake,
    info: Arc<TopicInfo>,
    format: TableFormat,
}

const FETCH_BYTES: usize = 4 << 20;

type Ledgers = BTreeMap<PartitionId, Ledger>;

impl Verifier {
    async fn run(
        self,
        table: String,
        rows: Option<Arc<LakeSnapshot>>,
        dead: Option<Arc<LakeSnapshot>>,
    ) -> Result<TableReport> {
        let mut report = TableReport {
            import: None,
            table,
            topic: self.info.name.clone(),
            partitions: Vec::new(),
            problems: Vec::new(),
            ok: true,
        };
        if let Some(rows) = &rows {
            let mut ledgers = self.open_ledgers(rows, &mut report)?;
            if let Some(dead) = &dead {
                self.read_lake(Kind::DeadLetters, dead, &mut ledgers, &mut report.problems).await?;
            }
            self.read_lake(Kind::Rows, rows, &mut ledgers, &mut report.problems).await?;
            let mut hashers = Hashers::new(rows)?;
            for ledger in ledgers.values_mut() {
                self.read_log(ledger, &mut hashers)?;
            }
            report.partitions = ledgers.into_values().map(Ledger::report).collect();
        } else if dead.is_some_and(|dead| !dead.files.is_empty()) {
            report.problems.push("its dead letters are in the lake, but the table is not".to_owned());
        }
        report.ok = report.problems.is_empty() && report.partitions.iter().all(|p| p.problems.is_empty());
        Ok(report)
    }

    /// Fixes what is compared: nothing that comes later is looked at.
    fn open_ledgers(&self, rows: &LakeSnapshot, report: &mut TableReport) -> Result<Ledgers> {
        let id = self.info.id.to_string();
        let fed_by = rows.properties.get(open::TOPIC_UUID);
        if fed_by != Some(&id) {
            let other = fed_by.map_or("no topic", String::as_str);
            report.problems.push(format!(
                "the table is fed by topic id {other}, topic `{}` of this log is {id}",
                self.info.name
            ));
        }
        let boundary = boundary_of(rows);
        let (starts, ends) = (self.log.starts(&self.info.name)?, self.log.ends(&self.info.name)?);
        let lost = self.log.lost_ranges(&self.info.name)?;
        let begun = property_boundary(rows, open::START)?;
        let format_since = property_boundary(rows, open::FORMAT_SINCE)?;
        let ledger = |partition| {
            let to = boundary.next(partition);
            let end = ends.next(partition);
            let covered = OffsetRange::new(begun.next(partition).clamp(0, to), to);
            let compacted = self.log.compacted_to(&self.info.name, partition).unwrap_or(0);
            let from =
                starts.next(partition).max(format_since.next(partition)).max(covered.from).max(compacted);
            let compared = OffsetRange::new(from.min(to.min(end).max(0)), to.min(end));
            let lost = lost.iter().filter(|(p, _)| *p == partition).map(|(_, range)| *range).collect();
            let mut ledger = Ledger::new(partition, covered, compared, lost);
            ledger.compacted_to(compacted);
            if end < to {
                ledger.problem(format!("the lake's boundary {to} lies above the log's end {end}"));
            }
            (partition, ledger)
        };
        Ok((0..self.info.partitions).map(ledger).collect())
    }

    async fn read_lake(
        &self,
        kind: Kind,
        snapshot: &LakeSnapshot,
        ledgers: &mut Ledgers,
        problems: &mut Vec<String>,
    ) -> Result<()> {
        let schema = match kind {
            Kind::Rows => Arc::clone(&snapshot.schema),
            Kind::DeadLetters => dead_letter_schema(),
        };
        let mut hasher = Hasher::new(kind, &schema)?;
        let lowest = ledgers
            .values()
            .map(Ledger::compared)
            .filter(|range| !range.is_empty())
            .map(|range| range.from)
            .min();
        let store = self.lake.store();
        let mut strangers = 0;
        for at in 0..snapshot.files.len() {
            // Of files whose offsets the log no longer has, only the offsets are read.
            let content = lowest
                .is_some_and(|lowest| highest_offset(snapshot, at).is_none_or(|highest| highest >= lowest));
            let wanted = if content {
                Arc::clone(&schema)
            } else {
                let system = [PARTITION, OFFSET]
                    .iter()
                    .filter_map(|name| schema.index_of(name).ok())
                    .collect::<Vec<_>>();
                Arc::new(
                    schema
                        .project(&system)
                        .map_err(|e| Error::internal("no system columns").with_source(e))?,
                )
            };
            let read = reader::each_batch(&store, snapshot, at, &wanted, |batch| {
                let mut hasher = content.then_some(&mut hasher);
                for (partition, part) in by_partition(&batch)? {
                    match ledgers.get_mut(&partition) {
                        Some(ledger) => ledger.lake(kind, &part, hasher.as_deref_mut())?,
                        None => strangers += part.num_rows(),
                    }
                }
                Ok(())
            });
            if let Some(damage) = read.await? {
                problems.push(damage);
            }
        }
        if strangers > 0 {
            problems
                .push(format!("{strangers} rows are of partitions that topic `{}` lacks", self.info.name));
        }
        Ok(())
    }

    /// Decodes again what the log has.
    fn read_log(&self, ledger: &mut Ledger, hashers: &mut Hashers) -> Result<()> {
        let partition = ledger.partition();
        let mut decoder = Decoder::new(&self.format)?;
        let begin = ledger.covered().from;
        let mut next =
            self.log.starts(&self.info.name)?.next(partition).clamp(begin, ledger.compared().to.max(begin));
        ledger.passed_below(next, self.passed(partition, begin, next)?);
        while next < ledger.compared().to {
            let fetched = self.log.fetch(&self.info.name, partition, next, FETCH_BYTES);
            let mut fetch = match fetched {
                Ok(fetch) if fetch.next > next => fetch,
                Ok(_) => break,
                Err(error) => {
                    let start = self.log.starts(&self.info.name)?.next(partition);
                    if start <= next {
                        return Err(error);
                    }
                    ledger.trimmed_to(start);
                    next = start;
                    ledger.passed_below(next, self.passed(partition, begin, next)?);
                    continue;
                }
            };
            let records = fetch.records()?;
            next = fetch.next;
            records.passed().iter().for_each(|range| ledger.pass(*range));
            let decoded = decoder.decode(partition, &records, &|offset| ledger.is_dead(offset))?;
            ledger.log(&open::align(&decoded.rows, &hashers.schema)?, &mut hashers.rows)?;
            if let Some(undecided) = &decoded.dead {
                ledger.undecided(undecided);
            }
            let settled = records.iter().filter(|record| ledger.is_dead(record.offset));
            if let Some(settled) = as_dead_letters(partition, settled)? {
                ledger.log(&settled, &mut hashers.dead)?;
            }
        }
        Ok(())
    }
}

impl Verifier {
    /// How many offsets in `[from, to)`, which the log no longer has, held no record.
    fn passed(&self, partition: PartitionId, from: Offset, to: Offset) -> Result<u64> {
        let passed = self.log.passed_ranges(&self.info.name)?;
        let within = |range: &OffsetRange| from <= range.from && range.to <= to;
        let here = passed.iter().filter(|(of, range, _)| *of == partition && within(range));
        Ok(here.map(|(_, _, offsets)| offsets).sum())
    }
}

/// Hashers for what the log gives.
struct Hashers {
    schema: arrow::datatypes::SchemaRef,
    rows: Hasher,
    dead: Hasher,
}

impl Hashers {
    fn new(rows: &LakeSnapshot) -> Result<Hashers> {
        Ok(Hashers {
            schema: Arc::clone(&rows.schema),
            rows: Hasher::new(Kind::Rows, &rows.schema)?,
            dead: Hasher::new(Kind::DeadLetters, &dead_letter_schema())?,
        })
    }
}

/// A boundary that stands in a property, as JSON; absent means 0 everywhere.
fn property_boundary(snapshot: &LakeSnapshot, name: &str) -> Result<Boundary> {
    let Some(json) = snapshot.properties.get(name) else { return Ok(Boundary::new()) };
    serde_json::from_str(json)
        .map_err(|e| Error::corrupt(format!("property `{name}` of the table cannot be read")).with_source(e))
}

fn highest_offset(snapshot: &LakeSnapshot, at: usize) -> Option<Offset> {
    let highest = snapshot.statistics.max.get(OFFSET)?.as_any().downcast_ref::<Int64Array>()?;
    highest.is_valid(at).then(|| highest.value(at))
}

/// The rows of each partition; most batches have one.
fn by_partition(batch: &RecordBatch) -> Result<Vec<(PartitionId, RecordBatch)>> {
    let column = batch.column_by_name(PARTITION).and_then(|column| column.as_primitive_opt::<Int32Type>());
    let column = column.ok_or_else(|| Error::corrupt("a data file has no column `_partition`"))?;
    let mut partitions: Vec<PartitionId> = column.values().to_vec();
    partitions.dedup();
    if let [only] = partitions.as_slice() {
        return Ok(vec![(*only, batch.clone())]);
    }
    partitions.sort_unstable();
    partitions.dedup();
    let part = |partition| {
        let mask = column.iter().map(|p| Some(p == Some(partition))).collect();
        let part = filter_record_batch(batch, &mask);
        part.map(|part| (partition, part)).map_err(|e| Error::internal("rows cannot be split").with_source(e))
    };
    partitions.into_iter().map(part).collect()
}
