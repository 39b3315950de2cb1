//! Rows that come for a window of a view that had closed, and how many there were.
//!
//! A window is closed once the watermark has passed its end by the view's grace. Here that is the watermark of the row's own
//! partition, by the rows before it: so the count depends on the log and on nothing else. A row in several windows is late
//! when the first of them had closed. It is in the view's answer all the same.
//!
//! *Layout*: how many there were below a build's boundary is a mark of the build's commits ([`tarn_lake::Commit::marks`]),
//! `<topic id>/<partition>/late/<column>/<allowed lateness, µs>/<window, µs>/<grace, µs>`, beside the newest event times there
//! ([`EventTime::marks`]), from which the count goes on. Above the boundary late rows are looked for in the tail, and their offsets
//! are remembered, for the next boundary may lie at any of them.
//!
//! *Failure*: rows that reached the lake before they were looked at, as after a kill, are read there, once, for the commit that takes
//! the states across them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use datafusion::common::Result as DfResult;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ident};
use tarn_lake::LakeSnapshot;
use tarn_model::columns::{OFFSET, PARTITION};
use tarn_model::{Boundary, Offset, PartitionId, Result};
use tarn_table::fragment::slice_rows;
use tarn_table::open::TOPIC_UUID;
use tarn_table::scan::{Part, TableScan};
use tarn_table::watermark::Newest;
use tarn_table::{CutTable, EventTime};

use crate::error::from_datafusion;
use crate::planner::Planner;
use crate::split::Split;

/// Late rows, by partition.
pub type Late = BTreeMap<PartitionId, u64>;

/// Which rows of a view are late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRule {
    time: Arc<EventTime>,
    window_us: i64,
    grace_us: i64,
}

impl LateRule {
    /// Of a view that is kept as `split` over a table with event time `time`; `None` when it has no window of it.
    pub fn of(split: &Split, time: Option<Arc<EventTime>>, grace: Duration) -> Option<LateRule> {
        let time = time?;
        let window_us = split.window_us(&time.column)?;
        Some(LateRule { time, window_us, grace_us: i64::try_from(grace.as_micros()).unwrap_or(i64::MAX) })
    }

    /// The time that the watermark has reached when the window of `at` is closed.
    fn closes(&self, at: i64) -> i64 {
        let start = at.saturating_sub(at.rem_euclid(self.window_us));
        start.saturating_add(self.window_us).saturating_add(self.grace_us)
    }

    /// Newest event times in `lake`, a table's or a build's, as its commits say; `None` when they do not.
    pub fn newest(&self, lake: &LakeSnapshot) -> Option<Newest> {
        self.time.in_lake(lake)
    }

    /// Late rows below the boundary of a build, as its commits say; `None` when they do not.
    pub fn in_lake(&self, build: &LakeSnapshot) -> Option<Late> {
        let topic_id = build.properties.get(TOPIC_UUID)?;
        let (prefix, suffix) = (format!("{topic_id}/"), self.suffix());
        let told = build.marks.iter().filter_map(|(name, late)| {
            let partition = name.strip_prefix(&prefix)?.strip_suffix(&suffix)?.parse().ok()?;
            Some((partition, late.unsigned_abs()))
        });
        Some(told.collect::<Late>()).filter(|late| !late.is_empty())
    }

    /// The marks of a commit on `build` up to `to`, where the newest event times are `newest` and so many rows were `late`.
    pub fn marks(
        &self,
        build: &LakeSnapshot,
        to: &Boundary,
        newest: &Newest,
        late: &Late,
    ) -> BTreeMap<String, i64> {
        let Some(topic_id) = build.properties.get(TOPIC_UUID) else { return BTreeMap::new() };
        let count = |partition| late.get(&partition).copied().unwrap_or(0);
        let counts = to.iter().map(|(partition, _)| {
            let late = i64::try_from(count(partition)).unwrap_or(i64::MAX);
            (format!("{topic_id}/{partition}{}", self.suffix()), late)
        });
        counts.chain(self.time.marks(build, to, newest)).collect()
    }

    fn suffix(&self) -> String {
        let EventTime { column, allowed_lateness_us, .. } = self.time.as_ref();
        format!("/late/{column}/{allowed_lateness_us}/{}/{}", self.window_us, self.grace_us)
    }

    /// Late rows of `table` in `[from, to)`, read wherever they lie; `newest` are the newest event times at `from`.
    pub async fn read(
        &self,
        planner: &Planner,
        table: &Arc<CutTable>,
        mut newest: Newest,
        from: &Boundary,
        to: &Boundary,
    ) -> Result<Late> {
        let rows = TableScan::new(Arc::clone(table), Part::Both, to.clone()).above(from.clone());
        let mut late = Late::new();
        if rows.is_empty() {
            return Ok(late);
        }
        let plan = self.plan(rows).map_err(from_datafusion)?;
        let plan = planner.state().create_physical_plan(&plan).await.map_err(from_datafusion)?;
        for rows in planner.run(plan).await? {
            let partitions = rows.column(0).as_primitive::<Int32Type>().values();
            let mut at = 0;
            // In their order, so those of one partition stand together.
            while let Some(&partition) = partitions.get(at) {
                let length = partitions[at..].iter().take_while(|other| **other == partition).count();
                let part = rows.slice(at, length);
                *late.entry(partition).or_default() +=
                    self.time.count_late(&mut newest, partition, &part, |at| self.closes(at));
                at += length;
            }
        }
        Ok(late)
    }

    fn plan(&self, rows: TableScan) -> DfResult<LogicalPlan> {
        let order = [PARTITION, OFFSET].map(|column| ident(column).sort(true, false));
        LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(rows)), None)?
            .project([PARTITION, OFFSET, self.time.column.as_str()].map(ident))?
            .sort(order)?
            .build()
    }
}

/// Late rows of one view that were looked for in the tail.
#[derive(Debug)]
pub(crate) struct LateRows {
    rule: LateRule,
    seen: Option<Seen>,
}

/// What was looked at.
#[derive(Debug)]
struct Seen {
    from: Boundary,
    to: Boundary,
    /// At `to`.
    newest: Newest,
    /// Offsets of late rows, ascending.
    late: BTreeMap<PartitionId, Vec<Offset>>,
}

impl LateRows {
    pub(crate) fn new(rule: LateRule) -> LateRows {
        LateRows { rule, seen: None }
    }

    pub(crate) fn rule(&self) -> &LateRule {
        &self.rule
    }

    /// Looks at what is new in `table`; what lies below `boundary` may be forgotten.
    pub(crate) fn look(&mut self, table: &CutTable, boundary: Option<&Boundary>) {
        let is_behind = |seen: &Seen| !seen.to.is_at_least(&table.boundary);
        if self.seen.as_ref().is_none_or(is_behind) {
            // What lies between was not looked at; it is read when it is needed.
            let newest = table.lake.as_ref().map_or(Some(Newest::new()), |lake| self.rule.newest(lake));
            let (from, to, late) = (table.boundary.clone(), table.boundary.clone(), BTreeMap::new());
            self.seen = newest.map(|newest| Seen { from, to, newest, late });
        }
        let Some(seen) = &mut self.seen else { return };
        for (partition, rows) in table.tail_batches() {
            let from = seen.to.next(partition).max(table.boundary.next(partition));
            seen.look(&self.rule, partition, &slice_rows(rows, from, Offset::MAX));
        }
        seen.to = table.decoded();
        if let Some(boundary) = boundary.filter(|boundary| seen.to.is_at_least(boundary)) {
            seen.from = seen.from.join(boundary);
            for (partition, late) in &mut seen.late {
                late.drain(..late.partition_point(|at| *at < boundary.next(*partition)));
            }
        }
    }

    /// Late rows in `[from, to)`; `None` when not all of it was looked at.
    pub(crate) fn between(&self, from: &Boundary, to: &Boundary) -> Option<Late> {
        let seen = self.seen.as_ref()?;
        let is_seen = from.is_at_least(&seen.from) && seen.to.is_at_least(to);
        let within = |(partition, late): (&PartitionId, &Vec<Offset>)| {
            let below = |next: Offset| late.partition_point(|at| *at < next);
            let count = below(to.next(*partition)).saturating_sub(below(from.next(*partition)));
            (*partition, u64::try_from(count).unwrap_or(u64::MAX))
        };
        is_seen.then(|| seen.late.iter().map(within).collect())
    }

    /// Late rows at or above `boundary`, as far as they were looked at.
    pub(crate) fn above(&self, boundary: &Boundary) -> u64 {
        let late = self.seen.iter().flat_map(|seen| &seen.late);
        let counts = late.map(|(p, late)| late.len() - late.partition_point(|at| *at < boundary.next(*p)));
        u64::try_from(counts.sum::<usize>()).unwrap_or(u64::MAX)
    }
}

impl Seen {
    fn look(&mut self, rule: &LateRule, partition: PartitionId, rows: &RecordBatch) {
        let offsets = rows.column_by_name(OFFSET).and_then(|column| column.as_primitive_opt::<Int64Type>());
        let Some(offsets) = offsets else { return };
        let late = self.late.entry(partition).or_default();
        rule.time.each_late(
            &mut self.newest,
            partition,
            rows,
            |at| rule.closes(at),
            |row| late.push(offsets.value(row)),
        );
    }
}

/// Adds `more` to `late`.
pub fn add_late(late: &mut Late, more: Late) {
    for (partition, more) in more {
        *late.entry(partition).or_default() += more;
    }
}

#[cfg(test)]
mod tests;
