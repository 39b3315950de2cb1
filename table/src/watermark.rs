//! Watermarks: how far a table has come in the time of which its rows tell.
//!
//! ```text
//! M(p) = newest event time of partition p below the vector       (none: before all time)
//! watermark = max( min over p of M(p),  max over p of M(p) - idle_after ) - allowed_lateness
//! ```
//!
//! *Why this form*: the usual rule (the least of all partitions, without those that have been silent for a while) depends on
//! when one looks, and goes back when a silent partition speaks again. This one depends on nothing but the rows below a vector:
//! it is the same at the same vector for ever, and since no `M(p)` ever falls, it never goes back while the vector moves on,
//! across a restart either. A partition that lags by more than `idle_after` holds it back by no more than that.
//!
//! *Layout*: `M(p)` of a table's lake part is a mark of its commits ([`tarn_lake::Commit::marks`]),
//! `<topic id>/<partition>/event_time/<column>` = µs since 1970, written with the rows; beside it `…/upto` = the next offset, as far as
//! it has seen rows. A partition that has none yet has the least number there is, so that the lake knows how many partitions there
//! are. `M(p)` of the tail is read from its rows.
//!
//! A row is *late* when its partition's watermark, by the rows before it, had passed what it tells of. Late rows of the lake part are
//! a mark, too, `<topic id>/<partition>/late/<column>/<allowed lateness, µs>` = how many so far; those of the tail are counted in its
//! rows.
//!
//! *Failure*: a lake part that was written before the table had an event time, or whose marks do not go as far as its rows (another
//! engine wrote a checkpoint over them), has its rows read, once. They are not counted as late: the count begins where the table's
//! event time, or its allowed lateness, does.
//!
//! *Not here*: a guard against rows from the future. One row of the year 2999 takes the watermark there.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::max;
use arrow::datatypes::{DataType, Int32Type, TimeUnit, TimestampMicrosecondType};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionStateBuilder, TaskContext};
use datafusion::functions_aggregate::expr_fn;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, ident};
use datafusion::physical_plan::collect;
use object_store::ObjectStore;
use tarn_lake::LakeSnapshot;
use tarn_model::columns::PARTITION;
use tarn_model::config::TableConfig;
use tarn_model::{Boundary, Error, PartitionId, Result};

use crate::catalog::boundary_of;
use crate::cut::CutTable;
use crate::fragment::slice_rows;
use crate::open::TOPIC_UUID;
use crate::scan::{OnlyTheLake, Part, TableScan};

/// Partition → newest event time, µs since 1970 UTC.
pub type Newest = BTreeMap<PartitionId, i64>;

/// Stands for "no event yet".
const BEFORE_ALL: i64 = i64::MIN;

/// Where a table's rows say when what they tell of happened, and how late that may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTime {
    /// The column.
    pub column: String,
    /// How far the watermark stays behind, µs.
    pub allowed_lateness_us: i64,
    /// Where a partition that lags is left behind, µs.
    pub idle_after_us: i64,
    /// Partitions of the topic, as far as this process knows.
    pub partitions: i32,
}

impl EventTime {
    /// What `config` says, of a topic with `partitions`.
    pub fn of(config: &TableConfig, partitions: i32) -> Option<EventTime> {
        let us = |span: tarn_model::config::Span| i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX);
        Some(EventTime {
            column: config.event_time.clone()?,
            allowed_lateness_us: us(config.allowed_lateness),
            idle_after_us: us(config.idle_after),
            partitions,
        })
    }

    /// The watermark, µs since 1970 UTC; `None` before the first event.
    pub fn watermark(&self, newest: &Newest) -> Option<i64> {
        let seen = newest.values().copied().filter(|at| *at != BEFORE_ALL);
        let highest = seen.clone().max()?;
        let partitions = usize::try_from(self.partitions).unwrap_or(0).max(newest.len());
        let lowest = if seen.clone().count() < partitions { BEFORE_ALL } else { seen.min()? };
        let watermark = lowest.max(highest.saturating_sub(self.idle_after_us));
        Some(watermark.saturating_sub(self.allowed_lateness_us))
    }

    /// Newest event times of `table` below `upto`; `None` where only its rows can tell.
    pub fn newest(&self, table: &CutTable, upto: &Boundary) -> Option<Newest> {
        let mut newest = match &table.lake {
            Some(lake) if upto.is_at_least(&table.boundary) => self.in_lake(lake)?,
            Some(_) if !table.boundary.is_empty() => return None,
            _ => Newest::new(),
        };
        for (partition, rows) in table.tail_batches() {
            let rows = slice_rows(rows, table.boundary.next(partition), upto.next(partition));
            if let Some(at) = self.newest_of(&rows) {
                advance(&mut newest, partition, at);
            }
        }
        Some(newest)
    }

    /// The partitions of which the commits of `lake` tell.
    pub fn partitions_in(&self, lake: &LakeSnapshot) -> Vec<PartitionId> {
        self.told_by(lake).into_keys().collect()
    }

    /// Newest event times of the lake part, as its commits say; `None` when one of its partitions lacks them.
    pub fn in_lake(&self, lake: &LakeSnapshot) -> Option<Newest> {
        let newest = self.told_by(lake);
        let upto = |partition| lake.marks.get(&format!("{}/upto", self.mark(lake, partition)?)).copied();
        let knows = |(partition, next): (PartitionId, i64)| {
            next == 0 || (newest.contains_key(&partition) && upto(partition) >= Some(next))
        };
        boundary_of(lake).iter().all(knows).then_some(newest)
    }

    /// What the lake calls the newest event time of `partition`.
    fn mark(&self, lake: &LakeSnapshot, partition: PartitionId) -> Option<String> {
        let topic_id = lake.properties.get(TOPIC_UUID)?;
        Some(format!("{topic_id}/{partition}/event_time/{}", self.column))
    }

    fn told_by(&self, lake: &LakeSnapshot) -> Newest {
        let Some(topic_id) = lake.properties.get(TOPIC_UUID) else { return Newest::new() };
        let (prefix, suffix) = (format!("{topic_id}/"), format!("/event_time/{}", self.column));
        let entry = |(name, at): (&String, &i64)| {
            let partition = name.strip_prefix(&prefix)?.strip_suffix(&suffix)?.parse().ok()?;
            Some((partition, *at))
        };
        lake.marks.iter().filter_map(entry).collect()
    }

    /// Newest event time of `rows`.
    pub fn newest_of(&self, rows: &RecordBatch) -> Option<i64> {
        max(self.times(rows)?)
    }

    /// The column's values; `None` when there is no such column of timestamps.
    pub fn times<'r>(&self, rows: &'r RecordBatch) -> Option<&'r arrow::array::TimestampMicrosecondArray> {
        rows.column_by_name(&self.column)?.as_primitive_opt::<TimestampMicrosecondType>()
    }

    /// The marks of a commit on `lake` up to `to`, which adds rows whose newest event times are `newest`.
    pub fn marks(&self, lake: &LakeSnapshot, to: &Boundary, newest: &Newest) -> BTreeMap<String, i64> {
        let all = (0..self.partitions).map(|partition| (partition, BEFORE_ALL)).chain(newest.clone());
        let newest = all.collect::<Newest>().into_iter();
        let newest = newest.filter_map(|(partition, at)| Some((self.mark(lake, partition)?, at)));
        let upto = to.iter();
        let upto = upto
            .filter_map(|(partition, next)| Some((format!("{}/upto", self.mark(lake, partition)?), next)));
        newest.chain(upto).collect()
    }

    /// How many of `rows` of `partition`, in their order, came when the partition's watermark by the rows before them had reached
    /// `closes` of their event time; `newest` takes them in.
    pub fn count_late(
        &self,
        newest: &mut Newest,
        partition: PartitionId,
        rows: &RecordBatch,
        closes: impl Fn(i64) -> i64,
    ) -> u64 {
        let mut late = 0;
        self.each_late(newest, partition, rows, closes, |_| late += 1);
        late
    }

    /// Tells `found` the position of each of those rows.
    pub fn each_late(
        &self,
        newest: &mut Newest,
        partition: PartitionId,
        rows: &RecordBatch,
        closes: impl Fn(i64) -> i64,
        mut found: impl FnMut(usize),
    ) {
        let Some(times) = self.times(rows) else { return };
        let mut before = newest.get(&partition).copied().unwrap_or(BEFORE_ALL);
        for (row, at) in times.iter().enumerate() {
            let Some(at) = at else { continue };
            if before != BEFORE_ALL && closes(at) <= before.saturating_sub(self.allowed_lateness_us) {
                found(row);
            }
            before = before.max(at);
        }
        if before != BEFORE_ALL {
            advance(newest, partition, before);
        }
    }

    /// Late rows among `batches` above the lake part `lake`, by partition; `None` where it cannot tell how far it has come.
    pub fn late_above<'r>(
        &self,
        lake: Option<&LakeSnapshot>,
        batches: impl IntoIterator<Item = (PartitionId, &'r RecordBatch)>,
    ) -> Option<BTreeMap<PartitionId, u64>> {
        let mut newest = lake.map_or(Some(Newest::new()), |lake| self.in_lake(lake))?;
        let mut late = BTreeMap::new();
        for (partition, rows) in batches {
            // The watermark had passed it: it lies above what the row tells of.
            *late.entry(partition).or_default() +=
                self.count_late(&mut newest, partition, rows, |at| at.saturating_add(1));
        }
        Some(late)
    }

    /// Late rows of the tail of `table` below `upto`; `None` where only rows in the lake can tell.
    pub fn late_in_tail(&self, table: &CutTable, upto: &Boundary) -> Option<u64> {
        let cut = |(partition, rows)| {
            (partition, slice_rows(rows, table.boundary.next(partition), upto.next(partition)))
        };
        let tail: Vec<(PartitionId, RecordBatch)> = table.tail_batches().map(cut).collect();
        let late = self.late_above(table.lake.as_deref(), tail.iter().map(|(p, rows)| (*p, rows)))?;
        Some(late.values().sum())
    }

    /// Late rows of the lake part, as its commits say.
    pub fn late_in_lake(&self, lake: &LakeSnapshot) -> u64 {
        let Some(topic_id) = lake.properties.get(TOPIC_UUID) else { return 0 };
        let (prefix, suffix) = (format!("{topic_id}/"), self.late_suffix());
        let ours = lake.marks.iter().filter(|(name, _)| {
            let partition = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&suffix));
            partition.is_some_and(|partition| partition.parse::<PartitionId>().is_ok())
        });
        ours.map(|(_, late)| late.unsigned_abs()).sum()
    }

    fn late_suffix(&self) -> String {
        format!("/late/{}/{}", self.column, self.allowed_lateness_us)
    }

    /// The marks of a commit on `lake` that adds so many late rows.
    pub fn late_marks(
        &self,
        lake: &LakeSnapshot,
        late: &BTreeMap<PartitionId, u64>,
    ) -> BTreeMap<String, i64> {
        let Some(topic_id) = lake.properties.get(TOPIC_UUID) else { return BTreeMap::new() };
        let moved = late.iter().filter(|(_, more)| **more > 0).map(|(partition, more)| {
            let name = format!("{topic_id}/{partition}{}", self.late_suffix());
            let known = lake.marks.get(&name).copied().unwrap_or(0);
            (name, known.saturating_add_unsigned(*more))
        });
        moved.collect()
    }

    /// Whether `table` has the column, as timestamps.
    pub fn check(&self, table: &CutTable) -> Result<()> {
        let wrong = |what: String| {
            Err(Error::invalid(what).with_hint("`event_time` of the table names a column of type TIMESTAMP"))
        };
        match table.schema.field_with_name(&self.column).map(|field| field.data_type()) {
            Ok(DataType::Timestamp(TimeUnit::Microsecond, _)) => Ok(()),
            Ok(_) => wrong(format!("column `{}` of table `{}` has no timestamps", self.column, table.name)),
            Err(_) => wrong(format!("table `{}` has no column `{}`", table.name, self.column)),
        }
    }

    /// The plan that reads newest event times from rows: `_partition`, and the time or NULL.
    pub fn plan(&self, rows: LogicalPlanBuilder) -> datafusion::common::Result<LogicalPlan> {
        rows.aggregate([ident(PARTITION)], [expr_fn::max(ident(&self.column))])?.build()
    }

    /// What that plan has given.
    pub fn read(&self, answer: &[RecordBatch]) -> Newest {
        let mut newest = Newest::new();
        for rows in answer {
            let partitions = rows.column(0).as_primitive::<Int32Type>();
            let times = rows.column(1).as_primitive_opt::<TimestampMicrosecondType>();
            for row in 0..rows.num_rows() {
                let at =
                    times.filter(|times| times.is_valid(row)).map_or(BEFORE_ALL, |times| times.value(row));
                advance(&mut newest, partitions.value(row), at);
            }
        }
        newest
    }
}

/// What rows that are to be committed say of event time.
#[derive(Debug, Clone)]
pub struct Times {
    /// Newest event times, by partition.
    newest: Newest,
    /// Late rows, by partition; `None` where the rows before them have not told theirs.
    late: Option<BTreeMap<PartitionId, u64>>,
}

impl Times {
    /// Of `rows`, each batch of one partition, the next above the lake part `lake`.
    pub fn of(time: &EventTime, lake: Option<&LakeSnapshot>, rows: &[RecordBatch]) -> Times {
        let partition_of = |rows: &RecordBatch| {
            let column = rows.column_by_name(PARTITION)?.as_primitive_opt::<Int32Type>()?;
            column.values().first().copied()
        };
        let batches = rows.iter().filter_map(|rows| Some((partition_of(rows)?, rows)));
        let mut newest = Newest::new();
        for (partition, rows) in batches.clone() {
            if let Some(at) = time.newest_of(rows) {
                advance(&mut newest, partition, at);
            }
        }
        Times { newest, late: time.late_above(lake, batches) }
    }

    /// The marks of their commit on `lake` up to `to`; none where earlier rows have not told theirs, for those of these rows alone
    /// would be too low.
    pub fn marks(&self, time: &EventTime, lake: &LakeSnapshot, to: &Boundary) -> BTreeMap<String, i64> {
        if time.in_lake(lake).is_none() {
            return BTreeMap::new();
        }
        let mut marks = time.marks(lake, to, &self.newest);
        marks.extend(self.late.iter().flat_map(|late| time.late_marks(lake, late)));
        marks
    }
}

/// Newest event times of the lake part of `table` by its rows, whose files lie in `store`.
pub async fn read_newest(
    time: &EventTime,
    table: &Arc<CutTable>,
    store: Arc<dyn ObjectStore>,
) -> Result<Newest> {
    let wrong = |error: DataFusionError| Error::unavailable("event times cannot be read").with_source(error);
    let runtime = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(OnlyTheLake(store)));
    let runtime = runtime.build_arc().map_err(wrong)?;
    let state = SessionStateBuilder::new().with_default_features().with_runtime_env(runtime).build();
    let rows = TableScan::new(Arc::clone(table), Part::Lake, table.boundary.clone());
    let rows = LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(rows)), None);
    let plan = rows.and_then(|rows| time.plan(rows)).map_err(wrong)?;
    let plan = state.create_physical_plan(&plan).await.map_err(wrong)?;
    let answer = collect(plan, Arc::new(TaskContext::from(&state))).await.map_err(wrong)?;
    Ok(time.read(&answer))
}

/// Takes `at` over as the newest of `partition`, where it is.
pub fn advance(newest: &mut Newest, partition: PartitionId, at: i64) {
    let known = newest.entry(partition).or_insert(at);
    *known = at.max(*known);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time(partitions: i32) -> EventTime {
        EventTime { column: "ts".to_owned(), allowed_lateness_us: 5, idle_after_us: 100, partitions }
    }

    #[test]
    fn the_least_partition_leads_unless_it_is_idle() {
        let watermark = |newest: &[(i32, i64)]| time(2).watermark(&newest.iter().copied().collect());
        assert_eq!(watermark(&[]), None);
        assert_eq!(watermark(&[(0, BEFORE_ALL)]), None);
        assert_eq!(watermark(&[(0, 1_000), (1, 990)]), Some(985));
        assert_eq!(watermark(&[(0, 1_000), (1, 10)]), Some(895), "partition 1 is idle");
        assert_eq!(watermark(&[(0, 1_000)]), Some(895), "nothing has come to partition 1 yet");
        assert_eq!(watermark(&[(0, 1_000), (1, BEFORE_ALL)]), Some(895));
        assert_eq!(time(1).watermark(&Newest::from([(0, 1_000)])), Some(995));
        assert_eq!(time(1).watermark(&Newest::from([(0, i64::MIN + 3)])), Some(i64::MIN), "no overflow");
    }

    #[test]
    fn a_row_is_late_when_its_partition_had_passed_it_by_more_than_what_is_allowed() {
        let rows = |times: &[Option<i64>]| {
            let times = arrow::array::TimestampMicrosecondArray::from(times.to_vec());
            RecordBatch::try_from_iter_with_nullable([("ts", Arc::new(times) as _, true)]).expect("rows")
        };
        let (first, second) = (rows(&[Some(100), Some(95), Some(94), None]), rows(&[Some(101), Some(95)]));
        let other = rows(&[Some(1)]);
        let late = time(2).late_above(None, [(0, &first), (1, &other), (0, &second)]);
        assert_eq!(late, Some(BTreeMap::from([(0, 2), (1, 0)])), "94 after 100, 95 after 101");
    }

    proptest! {
        #[test]
        fn it_never_goes_back(
            partitions in 1_i32..5,
            events in proptest::collection::vec((0_i32..5, -1_000_i64..1_000), 0..60),
        ) {
            let (time, mut newest, mut last) = (time(partitions), Newest::new(), None);
            for (partition, at) in events {
                advance(&mut newest, partition % partitions, at);
                let now = time.watermark(&newest);
                prop_assert!(now >= last, "from {last:?} to {now:?} at {newest:?}");
                let highest = newest.values().max().expect("an event");
                prop_assert!(now.is_some_and(|now| now <= highest - 5 && now >= highest - 105));
                last = now;
            }
        }
    }
}
