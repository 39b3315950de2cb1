//! States in memory: in the order of their keys, with the bounds of each thousand of them, so that a point of a million groups is
//! found among a thousand.
//!
//! *Why bounds are made with the order*: they cost a look at each key, which no reader should wait for.
//!
//! *Invariants*: order and bounds only spare work. A key without bounds (floats, because of NaN) leaves nothing out, and what
//! is kept is filtered row by row all the same.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::utils::memory::RecordBatchMemoryCounter;
use datafusion::common::{Column, Result as DfResult, ScalarValue, not_impl_err};
use datafusion::functions_aggregate::min_max::{MaxAccumulator, MinAccumulator};
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use tarn_model::{Result, background};

use crate::error::from_datafusion;
use crate::live::State;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// Rows that have bounds of their own: what one point costs.
const STEP_ROWS: usize = 1024;

/// Memory of record batches, bytes; what several of them share counts once.
pub fn memory_bytes<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> usize {
    let mut counter = RecordBatchMemoryCounter::new();
    batches.into_iter().map(|batch| counter.count_batch(batch)).sum()
}

/// The same states in the order of their first `keys` columns, in batches that share no memory; with bounds, where they are so many
/// that leaving some out is worth a look.
pub(crate) async fn sorted(
    batches: Vec<RecordBatch>,
    keys: usize,
) -> Result<(Vec<RecordBatch>, Option<Bounds>)> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if keys == 0 || rows <= 1 {
        return Ok((batches, None));
    }
    let sort = move || -> DfResult<_> {
        let sorted = sort(&batches, keys)?;
        let bounds = (rows > BATCH_ROWS).then(|| Bounds::of(&sorted, keys));
        Ok((sorted, bounds))
    };
    background::run(sort).await?.map_err(from_datafusion)
}

fn sort(batches: &[RecordBatch], keys: usize) -> DfResult<Vec<RecordBatch>> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let all = concat_batches(&first.schema(), batches)?;
    let columns = all.columns().iter().take(keys);
    let columns: Vec<SortColumn> =
        columns.map(|column| SortColumn { values: Arc::clone(column), options: None }).collect();
    let order = lexsort_to_indices(&columns, None)?;
    let mut sorted = Vec::with_capacity(all.num_rows().div_ceil(BATCH_ROWS));
    for from in (0..order.len()).step_by(BATCH_ROWS) {
        let chunk: UInt32Array = order.slice(from, BATCH_ROWS.min(order.len() - from));
        let columns = all.columns().iter().map(|column| Ok(compact(take(column, &chunk, None)?)));
        sorted.push(RecordBatch::try_new(all.schema(), columns.collect::<DfResult<Vec<_>>>()?)?);
    }
    Ok(sorted)
}

/// Views into the texts of all batches hold on to all of them.
fn compact(array: ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Utf8View => Arc::new(array.as_string_view().gc()),
        DataType::BinaryView => Arc::new(array.as_binary_view().gc()),
        _ => array,
    }
}

/// Lowest and highest values of the keys, step by step.
#[derive(Debug)]
pub(crate) struct Bounds {
    names: Vec<String>,
    lowest: Vec<Option<ArrayRef>>,
    highest: Vec<Option<ArrayRef>>,
    nulls: Vec<ArrayRef>,
    rows: ArrayRef,
}

impl Bounds {
    /// Of the first `keys` columns.
    pub(crate) fn of(batches: &[RecordBatch], keys: usize) -> Bounds {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let batches = &batches.iter().flat_map(steps).collect::<Vec<_>>()[..];
        let rows = batches.iter().map(|batch| count(batch.num_rows()));
        let mut bounds = Bounds {
            names: Vec::new(),
            lowest: Vec::new(),
            highest: Vec::new(),
            nulls: Vec::new(),
            rows: Arc::new(UInt64Array::from_iter_values(rows)),
        };
        let Some(first) = batches.first() else { return bounds };
        for (at, field) in first.schema().fields().iter().take(keys).enumerate() {
            let (lowest, highest) = match extremes(batches, at, field.data_type()) {
                Ok((lowest, highest)) => (Some(lowest), Some(highest)),
                Err(_) => (None, None),
            };
            bounds.names.push(field.name().clone());
            bounds.lowest.push(lowest);
            bounds.highest.push(highest);
            let nulls = batches.iter().map(|batch| count(batch.column(at).logical_null_count()));
            bounds.nulls.push(Arc::new(UInt64Array::from_iter_values(nulls)));
        }
        bounds
    }

    /// The parts of `batches`, of which these are the bounds, that may hold a group for which `only` is true.
    fn keep(&self, batches: &[RecordBatch], only: &PruningPredicate) -> Vec<RecordBatch> {
        let kept = match only.prune(self) {
            Ok(kept) => kept,
            Err(error) => {
                tracing::debug!(%error, "no states are left out");
                return batches.to_vec();
            }
        };
        let mut kept = kept.into_iter();
        let mut parts = Vec::new();
        for batch in batches {
            let mut from = None;
            for at in (0..batch.num_rows()).step_by(STEP_ROWS) {
                match (kept.next().unwrap_or(true), from) {
                    (true, None) => from = Some(at),
                    (false, Some(begin)) => {
                        parts.push(batch.slice(begin, at - begin));
                        from = None;
                    }
                    _ => {}
                }
            }
            if let Some(begin) = from {
                parts.push(batch.slice(begin, batch.num_rows() - begin));
            }
        }
        parts
    }

    fn column<'a>(&self, of: &'a [Option<ArrayRef>], column: &Column) -> Option<&'a ArrayRef> {
        of.get(self.names.iter().position(|name| *name == column.name)?)?.as_ref()
    }
}

/// The parts of a batch that have bounds of their own.
fn steps(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> + '_ {
    let rows = batch.num_rows();
    (0..rows).step_by(STEP_ROWS).map(move |from| batch.slice(from, STEP_ROWS.min(rows - from)))
}

/// Leaves out, of the states of one read, what its predicate cannot be true of.
#[derive(Debug)]
pub(crate) struct Sieve {
    only: Option<PruningPredicate>,
}

impl Sieve {
    /// By `only`, over states of `schema`; without it all is kept.
    pub(crate) fn new(only: Option<&Arc<dyn PhysicalExpr>>, schema: &SchemaRef) -> Sieve {
        let predicate = |only: &Arc<dyn PhysicalExpr>| {
            PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).try_build(Arc::clone(only))
        };
        let only = only.map(predicate).transpose();
        Sieve {
            only: only.inspect_err(|error| tracing::debug!(%error, "no states are left out")).ok().flatten(),
        }
    }

    /// The parts of `state` that may hold a group of the read.
    pub(crate) fn keep(&self, state: &State) -> Vec<RecordBatch> {
        match (&self.only, &state.bounds) {
            (Some(only), Some(bounds)) => bounds.keep(&state.batches, only),
            _ => state.batches.clone(),
        }
    }
}

/// Lowest and highest value of a column in each batch; an error for a type without an order that holds.
fn extremes(batches: &[RecordBatch], at: usize, of: &DataType) -> DfResult<(ArrayRef, ArrayRef)> {
    if of.is_floating() {
        return not_impl_err!("bounds of floats");
    }
    let (mut lowest, mut highest) = (Vec::new(), Vec::new());
    for batch in batches {
        let values = std::slice::from_ref(batch.column(at));
        let (mut min, mut max) = (MinAccumulator::try_new(of)?, MaxAccumulator::try_new(of)?);
        min.update_batch(values)?;
        max.update_batch(values)?;
        lowest.push(min.evaluate()?);
        highest.push(max.evaluate()?);
    }
    Ok((ScalarValue::iter_to_array(lowest)?, ScalarValue::iter_to_array(highest)?))
}

impl PruningStatistics for Bounds {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(&self.lowest, column).cloned()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(&self.highest, column).cloned()
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.nulls.get(self.names.iter().position(|name| *name == column.name)?).cloned()
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::clone(&self.rows))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringViewArray};
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{self as physical, BinaryExpr, Literal};

    use super::*;

    #[tokio::test]
    async fn sorted_states_share_no_memory_and_lose_no_row() {
        let n: i64 = 50_000;
        let keys: Vec<i64> = (0..n).map(|at| at * 7919 % n).collect();
        let texts: StringViewArray =
            keys.iter().map(|key| Some(format!("a text that is no short one {key}"))).collect();
        let numbers: ArrayRef = Arc::new(Int64Array::from(keys));
        let whole =
            RecordBatch::try_from_iter([("g0", numbers), ("s0", Arc::new(texts) as ArrayRef)]).expect("rows");
        let parts: Vec<RecordBatch> = (0..5).map(|at| whole.slice(at * 10_000, 10_000)).collect();
        assert!(memory_bytes(&parts) < 2 * memory_bytes([&whole]), "slices count what they share once");
        let (sorted, bounds) = sorted(parts, 1).await.expect("sorted");
        let bounds = bounds.expect("they are many");
        assert_eq!(
            (sorted.len(), bounds.num_containers()),
            (7, 49),
            "six batches of 8 steps, and one of one step"
        );
        let schema = sorted[0].schema();
        let kept = |low: i64, high: i64| {
            let g0 = || Arc::new(physical::Column::new("g0", 0)) as Arc<dyn PhysicalExpr>;
            let to = |n: i64| Arc::new(Literal::new(ScalarValue::Int64(Some(n)))) as Arc<dyn PhysicalExpr>;
            let from = Arc::new(BinaryExpr::new(g0(), Operator::GtEq, to(low)));
            let upto = Arc::new(BinaryExpr::new(g0(), Operator::Lt, to(high)));
            let only: Arc<dyn PhysicalExpr> = Arc::new(BinaryExpr::new(from, Operator::And, upto));
            let only = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&schema)).try_build(only);
            let parts = bounds.keep(&sorted, &only.expect("a predicate"));
            let of = |part: &RecordBatch| {
                let keys = part.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
                (keys[0], keys[keys.len() - 1] + 1)
            };
            parts.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(kept(5000, 5001), [(4096, 5120)], "a point is among a thousand");
        assert_eq!(kept(1023, 1025), [(0, 2048)], "neighbours are one part");
        assert_eq!(
            kept(8000, 20_000),
            [(7168, 8192), (8192, 16_384), (16_384, 20_480)],
            "batches stay apart"
        );
        assert_eq!(kept(49_999, 60_000), [(49_152, 50_000)]);
        assert_eq!(kept(-5, 0), []);
        let alone = memory_bytes([&sorted[3]]);
        assert!(alone * 5 < memory_bytes(&sorted), "a batch holds on to the texts of others");
        let mut expected = 0;
        for batch in &sorted {
            for key in batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values() {
                assert_eq!(*key, expected);
                expected += 1;
            }
        }
        assert_eq!(expected, n);
    }
}
