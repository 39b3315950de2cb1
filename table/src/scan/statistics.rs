//! What Delta's statistics say about files: which of them a filter can leave out, and what DataFusion may know of the rest.
//!
//! *Invariants*: a bound is used only if it is one. Delta's JSON keeps timestamps to the millisecond, so a highest value
//! is raised by the microseconds it may lack; decimals beyond 15 digits may have passed through a double, so their bounds
//! are not used; texts may be cut short, so they prune but are no exact values. Only integers and dates are exact.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, Schema, SchemaRef, TimestampMicrosecondType};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{Column, ColumnStatistics, ScalarValue, Statistics};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use tarn_lake::LakeSnapshot;

/// The digits that a double keeps of any decimal.
const EXACT_DIGITS: u8 = 15;

/// Statistics of a snapshot's files.
pub(super) struct Pruning<'a> {
    lake: &'a LakeSnapshot,
    partition_by: &'a [FieldRef],
    partition_values: &'a [ArrayRef],
}

impl<'a> Pruning<'a> {
    pub(super) fn new(
        lake: &'a LakeSnapshot,
        partition_by: &'a [FieldRef],
        partition_values: &'a [ArrayRef],
    ) -> Pruning<'a> {
        Pruning { lake, partition_by, partition_values }
    }

    /// The files that may hold a row for which `filter` is true.
    pub(super) fn prune(&self, filter: Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Vec<usize> {
        let all = 0..self.lake.files.len();
        let predicate = PruningPredicateBuilder::new().with_file_schema(schema.clone()).try_build(filter);
        let kept = predicate.and_then(|predicate| predicate.prune(self));
        match kept {
            Ok(kept) => all.filter(|at| kept[*at]).collect(),
            Err(error) => {
                tracing::debug!(%error, "no file is left out");
                all.collect()
            }
        }
    }

    /// What is known of the files `kept` together, for the columns `wanted` of `table`.
    pub(super) fn statistics(&self, table: &Schema, wanted: &[usize], kept: &[usize]) -> Statistics {
        let rows = sum(&self.lake.statistics.rows, kept);
        let size =
            kept.iter().map(|at| usize::try_from(self.lake.files[*at].size).unwrap_or(usize::MAX)).sum();
        let mut statistics = Statistics::new_unknown(table);
        statistics.num_rows = exact(rows);
        statistics.total_byte_size = Precision::Inexact(size);
        for at in wanted {
            statistics.column_statistics[*at] =
                self.column(table.field(*at).name(), table.field(*at).data_type(), kept);
        }
        statistics
    }

    fn column(&self, name: &str, data_type: &DataType, kept: &[usize]) -> ColumnStatistics {
        let mut known = ColumnStatistics::new_unknown();
        if let Some(values) = self.partition_column(name) {
            let nulls = kept.iter().map(|at| match (values.is_null(*at), self.rows_of(*at)) {
                (false, _) => Some(0),
                (true, rows) => rows,
            });
            known.null_count = exact(nulls.sum());
        } else if let Some(nulls) = self.lake.statistics.nulls.get(name) {
            known.null_count = exact(sum(nulls, kept));
        }
        let is_exact = matches!(
            data_type,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 | DataType::Date32
        );
        let is_bound = is_exact || matches!(data_type, DataType::Timestamp(..));
        if is_bound {
            let wrap = |value: ScalarValue| {
                if is_exact { Precision::Exact(value) } else { Precision::Inexact(value) }
            };
            known.min_value = self.extreme(name, data_type, kept, true).map_or(Precision::Absent, wrap);
            known.max_value = self.extreme(name, data_type, kept, false).map_or(Precision::Absent, wrap);
        }
        known
    }

    /// The lowest or highest value over the files, if every file that holds a value says its own.
    fn extreme(&self, name: &str, data_type: &DataType, kept: &[usize], lowest: bool) -> Option<ScalarValue> {
        let column = Column::from_name(name);
        let values = if lowest { self.min_values(&column)? } else { self.max_values(&column)? };
        let values = if values.data_type() == data_type { values } else { cast(&values, data_type).ok()? };
        let nulls = self.lake.statistics.nulls.get(name);
        let mut found: Option<ScalarValue> = None;
        for at in kept {
            if values.is_null(*at) {
                let nulls = nulls
                    .filter(|nulls| nulls.is_valid(*at))
                    .and_then(|nulls| usize::try_from(nulls.value(*at)).ok());
                let all_null =
                    self.partition_column(name).is_some() || (nulls.is_some() && nulls == self.rows_of(*at));
                if all_null {
                    continue;
                }
                return None;
            }
            let value = ScalarValue::try_from_array(&values, *at).ok()?;
            let better = match &found {
                None => true,
                Some(best) if lowest => value < *best,
                Some(best) => value > *best,
            };
            if better {
                found = Some(value);
            }
        }
        found
    }

    fn rows_of(&self, at: usize) -> Option<usize> {
        let rows = &self.lake.statistics.rows;
        rows.is_valid(at).then(|| usize::try_from(rows.value(at)).ok()).flatten()
    }

    fn partition_column(&self, name: &str) -> Option<&ArrayRef> {
        let at = self.partition_by.iter().position(|field| field.name() == name)?;
        self.partition_values.get(at)
    }
}

impl PruningStatistics for Pruning<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        if let Some(values) = self.partition_column(&column.name) {
            return Some(values.clone());
        }
        self.lake.statistics.min.get(&column.name).filter(|values| is_trusted(values)).cloned()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        if let Some(values) = self.partition_column(&column.name) {
            return Some(values.clone());
        }
        self.lake.statistics.max.get(&column.name).filter(|values| is_trusted(values)).map(raise_timestamps)
    }

    fn num_containers(&self) -> usize {
        self.lake.files.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        if let Some(values) = self.partition_column(&column.name) {
            let nulls = (0..values.len()).map(|at| {
                if values.is_null(at) {
                    self.rows_of(at).and_then(|rows| u64::try_from(rows).ok())
                } else {
                    Some(0)
                }
            });
            return Some(Arc::new(UInt64Array::from_iter(nulls)));
        }
        self.lake.statistics.nulls.get(&column.name).map(counts)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(counts(&self.lake.statistics.rows))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

fn counts(values: &Int64Array) -> ArrayRef {
    Arc::new(UInt64Array::from_iter(
        values.iter().map(|count| count.and_then(|count| u64::try_from(count).ok())),
    ))
}

fn exact(count: Option<usize>) -> Precision<usize> {
    count.map_or(Precision::Absent, Precision::Exact)
}

fn sum(values: &Int64Array, kept: &[usize]) -> Option<usize> {
    let value = |at: &usize| values.is_valid(*at).then(|| usize::try_from(values.value(*at)).ok()).flatten();
    kept.iter().map(value).sum()
}

fn is_trusted(values: &ArrayRef) -> bool {
    !matches!(values.data_type(), DataType::Decimal128(precision, _) if *precision > EXACT_DIGITS)
}

/// Highest timestamps may lack their microseconds below the millisecond.
fn raise_timestamps(values: &ArrayRef) -> ArrayRef {
    let DataType::Timestamp(_, zone) = values.data_type() else { return values.clone() };
    let Some(timestamps) = values.as_primitive_opt::<TimestampMicrosecondType>() else {
        return values.clone();
    };
    let raised: Int64Array = timestamps.unary::<_, Int64Type>(|us| us.saturating_add(999));
    let raised = raised.reinterpret_cast::<TimestampMicrosecondType>();
    Arc::new(raised.with_timezone_opt(zone.clone()))
}
