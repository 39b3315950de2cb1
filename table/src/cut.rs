//! Cuts: lake snapshot + its boundary + the tail above it, immutable, one per topic.
//!
//! *Why*: a statement needs one moment of lake and tail with neither gap nor overlap between them. So everything that
//! changes a topic's tables (fragments decoded, a commit landed) swaps one pointer to an immutable [`Cut`]; readers take
//! the pointer and never wait, and what they hold stays as it was.
//!
//! *Layout*: a table and its dead-letter table are fed by the same fragments; together they are a *line*. A line keeps
//! its fragments once and each of both sees those above its own boundary:
//!
//! ```text
//!            table's boundary    dead letters' boundary           decoded
//! lake  ───────────┤                      │                          │
//! tail             ├───────┬──────────┬───┼──────┬──┬──┬─┬─┬─┬───────┤
//! ```
//!
//! Thousands of small fragments would make every publish and every statement slow, so eight small neighbours become one,
//! tier by tier, as in a log-structured merge: each row is copied about once per tier. A commit may take a cut and come
//! back after fragments were merged across its boundary; the drop then cuts the merged fragment at the offset.
//!
//! *Invariants*
//! - `boundary ≤ decoded` for every table, and its tail is exactly `[boundary, decoded)`, partition by partition.
//! - A fragment is taken only if it starts at `decoded`; otherwise nothing changes ([`tarn_model::Boundary::advance`]).
//! - A table's boundary never passes dead letters that are not committed: dead letters first. So a dead-letter table's
//!   boundary is never below its table's, whatever its own `txn` says.
//! - A boundary never goes back, nor does a lake snapshot's version.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tarn_lake::LakeSnapshot;
use tarn_model::{Boundary, Error, PartitionId, Result};
use tokio::sync::watch;

use crate::fragment::SharedFragment;

mod line;

use line::Lines;

/// What the name of a dead-letter table ends with; before it stands its table's name.
pub const DEAD_LETTERS_SUFFIX: &str = "_dead_letters";

/// One moment of all tables on a topic.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The topic.
    pub topic: Arc<str>,
    /// Every table on the topic has decoded everything below this.
    pub decoded: Boundary,
    /// The tables by name (a table and its dead-letter table are two entries).
    pub tables: HashMap<String, Arc<CutTable>>,
}

/// One table at one moment.
#[derive(Debug, Clone)]
pub struct CutTable {
    /// Name in SQL.
    pub name: Arc<str>,
    /// All columns, system columns first.
    pub schema: SchemaRef,
    /// Whether this is a dead-letter table: its tail is the fragments' `dead`, not their `rows`.
    pub dead_letters: bool,
    /// The lake part; `None` before the lake table exists.
    pub lake: Option<Arc<LakeSnapshot>>,
    /// What the lake part covers. For a dead-letter table at least what its table's covers; what a commit expects of a
    /// `txn` stands in the snapshot, not here.
    pub boundary: Boundary,
    /// Fragments at or above the boundary, in offset order within each partition, gapless.
    pub tail: Vec<SharedFragment>,
    /// Memory of the tail, bytes.
    pub tail_bytes: usize,
}

impl CutTable {
    /// The end of the tail: everything below it is in the lake part or in the tail.
    pub fn decoded(&self) -> Boundary {
        let mut decoded = self.boundary.clone();
        for fragment in &self.tail {
            decoded.set(fragment.partition, fragment.range.to);
        }
        decoded
    }

    /// What the tail shows as rows: rows, or dead letters for a dead-letter table.
    pub fn tail_batches(&self) -> impl Iterator<Item = (PartitionId, &RecordBatch)> {
        self.tail.iter().filter_map(|fragment| {
            let batch = if self.dead_letters { fragment.dead.as_ref() } else { Some(&fragment.rows) };
            batch.filter(|batch| batch.num_rows() > 0).map(|batch| (fragment.partition, batch))
        })
    }

    /// Number of rows in the tail.
    pub fn tail_rows(&self) -> u64 {
        self.tail_batches().map(|(_, batch)| u64::try_from(batch.num_rows()).unwrap_or(0)).sum()
    }

    /// Number of rows in the lake, where every file says how many it has.
    pub fn lake_rows(&self) -> Option<u64> {
        let Some(lake) = &self.lake else { return Some(0) };
        lake.statistics.rows.iter().map(|rows| rows.and_then(|rows| u64::try_from(rows).ok())).sum()
    }
}

/// Keeps the newest cut of one topic; its owner swaps it, readers take it without waiting.
#[derive(Debug)]
pub struct TopicHub {
    topic: Arc<str>,
    cut: ArcSwap<Cut>,
    tail_bytes: AtomicUsize,
    changes: watch::Sender<u64>,
    /// Held while a new cut is made, so that cuts follow one another.
    lines: Mutex<Lines>,
    /// Where commits that are under way lead, by table.
    committing: Mutex<HashMap<String, Boundary>>,
}

impl TopicHub {
    /// A hub without tables.
    pub fn new(topic: &str) -> TopicHub {
        let topic: Arc<str> = topic.into();
        let cut = Cut { topic: topic.clone(), decoded: Boundary::new(), tables: HashMap::new() };
        TopicHub {
            topic,
            cut: ArcSwap::from_pointee(cut),
            tail_bytes: AtomicUsize::new(0),
            changes: watch::channel(0).0,
            lines: Mutex::default(),
            committing: Mutex::default(),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The newest cut.
    pub fn cut(&self) -> Arc<Cut> {
        self.cut.load_full()
    }

    /// Adds a table (before its first fragment) with its lake part and boundary.
    ///
    /// [`tarn_model::Kind::Conflict`] when there is one of that name, or when its line has fragments already (a
    /// dead-letter table may come later than its table).
    pub fn add_table(&self, table: CutTable) -> Result<()> {
        let mut lines = self.lines.lock();
        let line = lines.add(table)?;
        self.swap(&lines, &[line]);
        Ok(())
    }

    /// Takes a table out, with its tail. `false` when there is none of that name.
    pub fn remove_table(&self, name: &str) -> bool {
        let mut lines = self.lines.lock();
        let Some(line) = lines.remove(name) else { return false };
        let mut cut = Cut::clone(&self.cut.load());
        cut.tables.remove(name);
        self.cut.store(Arc::new(cut));
        self.swap(&lines, &[line]);
        true
    }

    /// Gives a table a new schema (nullable columns added, types widened); fragments decoded with the old one stay.
    pub fn set_schema(&self, name: &str, schema: SchemaRef) -> Result<()> {
        let mut lines = self.lines.lock();
        let line = lines.set_schema(name, schema).ok_or_else(|| self.no_table(name))?;
        self.swap(&lines, &[line]);
        Ok(())
    }

    /// Publishes what was decoded of one partition, for every table on the topic at once; each fragment must start at
    /// the end of its table's tail (the boundary's truth table). A dead-letter table shares its table's fragment, so it
    /// may be named or not. On an error nothing has changed.
    pub fn publish(&self, partition: PartitionId, fragments: Vec<(String, SharedFragment)>) -> Result<()> {
        let mut lines = self.lines.lock();
        let mut parts: Vec<(String, SharedFragment)> = Vec::with_capacity(fragments.len());
        for (name, fragment) in fragments {
            let line = lines.line_of(&name).ok_or_else(|| self.no_table(&name))?;
            match parts.iter().find(|(known, _)| *known == line) {
                None => parts.push((line, fragment)),
                Some((_, known)) if Arc::ptr_eq(known, &fragment) => {}
                Some(_) => {
                    return Err(Error::internal(format!(
                        "table and dead letters of `{line}` must share one fragment topic=`{}`",
                        self.topic
                    )));
                }
            }
        }
        lines.check(partition, &parts)?;
        let mut changed = Vec::with_capacity(parts.len());
        for (line, fragment) in parts {
            lines.push(&line, fragment)?;
            changed.push(line);
        }
        self.swap(&lines, &changed);
        Ok(())
    }

    /// Takes over a new lake snapshot with its boundary, and drops the tail below it, in one swap. On an error nothing
    /// has changed.
    pub fn committed(&self, table: &str, lake: Arc<LakeSnapshot>, boundary: Boundary) -> Result<()> {
        let mut lines = self.lines.lock();
        let line = lines.line_of(table).ok_or_else(|| self.no_table(table))?;
        lines.committed(table, lake, boundary)?;
        self.swap(&lines, &[line]);
        Ok(())
    }

    /// Says that a commit of `table` up to `to` is under way: whoever aggregates rows had better end there, too.
    pub fn begins_commit(&self, table: &str, to: Boundary) {
        self.committing.lock().insert(table.to_owned(), to);
        self.changes.send_modify(|swaps| *swaps += 1);
    }

    /// Where the newest commit of `table` leads, whether it has landed or not.
    pub fn committing(&self, table: &str) -> Option<Boundary> {
        self.committing.lock().get(table).cloned()
    }

    /// Memory of all tails of this topic, shared fragments counted once.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes.load(Ordering::Relaxed)
    }

    /// Ticks at every swap.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes the new cut: the tables of `changed` lines are made anew, the others are kept.
    fn swap(&self, lines: &Lines, changed: &[String]) {
        let mut tables = self.cut.load().tables.clone();
        for line in changed {
            for table in lines.tables_of(line) {
                tables.insert(table.name.to_string(), Arc::new(table));
            }
        }
        self.tail_bytes.store(lines.bytes(), Ordering::Relaxed);
        self.cut.store(Arc::new(Cut { topic: self.topic.clone(), decoded: lines.decoded(), tables }));
        self.changes.send_modify(|swaps| *swaps += 1);
    }

    fn no_table(&self, name: &str) -> Error {
        Error::invalid(format!("there is no such table topic=`{}` table=`{name}`", self.topic))
    }
}

#[cfg(test)]
mod tests;
