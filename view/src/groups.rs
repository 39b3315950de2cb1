//! States in memory: in the order of their keys, with the bounds of each record batch, so that a point of a million groups is
//! found in one batch.
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

/// Rows of a batch: what one point costs.
const BATCH_ROWS: usize = 8192;

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

/// Lowest and highest values of the keys, batch by batch.
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

    /// The batches that may hold a group for which `only` is true.
    fn keep(&self, batches: &[RecordBatch], only: &PruningPredicate) -> Vec<RecordBatch> {
        match only.prune(self) {
            Ok(kept) => {
                batches.iter().zip(kept).filter(|(_, kept)| *kept).map(|(batch, _)| batch.clone()).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "no states are left out");
                batches.to_vec()
            }
        }
    }

    fn column<'a>(&self, of: &'a [Option<ArrayRef>], column: &Column) -> Option<&'a ArrayRef> {
        of.get(self.names.iter().position(|name| *name == column.name)?)?.as_ref()
    }
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

    /// The batches of `state` that may hold a group of the read.
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
        assert_eq!(bounds.expect("they are many").num_containers(), 7);
        assert_eq!(sorted.len(), 7);
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
