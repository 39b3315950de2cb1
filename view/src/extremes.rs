//! `min` and `max` of floating-point numbers in the total order: NaN is above all numbers, `-0.0` below `0.0`.
//!
//! *Why*: with `GROUP BY`, DataFusion 55.2 takes whatever comes after a NaN for the new extreme, so that the answer depends on
//! the order of the rows, and of `1, NaN, 5` the least is 5. Without `GROUP BY` it uses the total order already. Everything but
//! that accumulator is DataFusion's own.

use std::hash::Hash;
use std::sync::Arc;

use arrow::datatypes::{DataType, Float32Type, Float64Type};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion_functions_aggregate_common::aggregate::groups_accumulator::prim_op::PrimitiveGroupsAccumulator;

/// `min` and `max`, in place of DataFusion's.
pub(crate) fn extremes() -> [Arc<AggregateUDF>; 2] {
    [(min_udaf(), true), (max_udaf(), false)]
        .map(|(inner, least)| Arc::new(AggregateUDF::new_from_impl(Extreme { inner, least })))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
    least: bool,
}

macro_rules! in_total_order {
    ($type:ident, $data_type:expr, $least:expr, $highest:expr, $lowest:expr) => {
        if $least {
            let keep = |known: &mut _, new| {
                if $type::total_cmp(&new, known).is_lt() {
                    *known = new;
                }
            };
            Ok(Box::new(
                PrimitiveGroupsAccumulator::<$type, _>::new($data_type, keep).with_starting_value($highest),
            ))
        } else {
            let keep = |known: &mut _, new| {
                if $type::total_cmp(&new, known).is_gt() {
                    *known = new;
                }
            };
            Ok(Box::new(
                PrimitiveGroupsAccumulator::<$type, _>::new($data_type, keep).with_starting_value($lowest),
            ))
        }
    };
}

trait TotalOrder {
    type Number;
    fn total_cmp(a: &Self::Number, b: &Self::Number) -> std::cmp::Ordering;
}

impl TotalOrder for Float32Type {
    type Number = f32;
    fn total_cmp(a: &f32, b: &f32) -> std::cmp::Ordering {
        a.total_cmp(b)
    }
}

impl TotalOrder for Float64Type {
    type Number = f64;
    fn total_cmp(a: &f64, b: &f64) -> std::cmp::Ordering {
        a.total_cmp(b)
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<arrow::datatypes::FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        // The ends of the total order are NaNs with all bits set.
        match args.return_field.data_type() {
            of @ DataType::Float64 => {
                let ends = (f64::from_bits(u64::MAX >> 1), f64::from_bits(u64::MAX));
                in_total_order!(Float64Type, of, self.least, ends.0, ends.1)
            }
            of @ DataType::Float32 => {
                let ends = (f32::from_bits(u32::MAX >> 1), f32::from_bits(u32::MAX));
                in_total_order!(Float32Type, of, self.least, ends.0, ends.1)
            }
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        self.inner.inner().create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.inner().order_sensitivity()
    }

    fn coerce_types(&self, args: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(args)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, of: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(of)
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateBuilder;
    use datafusion::prelude::SessionContext;

    use crate::functions::with_functions;

    #[tokio::test]
    async fn extremes_do_not_depend_on_where_nan_stands() {
        let state = with_functions(SessionStateBuilder::new().with_default_features()).build();
        let context = SessionContext::new_with_state(state);
        for rows in ["(1.0), ('NaN'), (5.0)", "('NaN'), (5.0), (1.0)", "(5.0), (1.0), ('NaN')"] {
            for number in ["DOUBLE", "REAL"] {
                for key in ["GROUP BY 1 + column1 - column1 IS NULL", ""] {
                    let sql = format!(
                        "SELECT min(x) = 1 AND isnan(max(x)) AS ok FROM (SELECT 1 AS column1, CAST(c AS {number}) AS x \
                         FROM (VALUES {rows}) AS v (c)) AS q {key}"
                    );
                    let answer = context.sql(&sql).await.expect(&sql).collect().await.expect(&sql);
                    let shown =
                        arrow::util::pretty::pretty_format_batches(&answer).expect("shown").to_string();
                    assert!(shown.contains("true") && !shown.contains("false"), "{sql}\n{shown}");
                }
            }
        }
    }
}
