//! `count(DISTINCT x)` where `x` is a struct, a tuple or a list, in little memory.
//!
//! *Why*: DataFusion keeps each distinct value of such a type as a scalar with arrays of its own: 4.5 KB for a pair of numbers,
//! so that a third of a million offsets outgrow a statement. It has compact sets for bytes. So the value is counted by its key:
//! arrow's row format, in which two values have the same bytes if and only if they are equal.
//!
//! *Not here*: a statement whose only aggregate this is. DataFusion turns that into two levels of `GROUP BY`, which is compact
//! already; the rule below comes after it and takes what is left.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BinaryArray};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    Aggregate, ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility,
};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};

/// Counts distinct nested values by their keys.
#[derive(Debug)]
pub(crate) struct CountDistinctByKey {
    key: Arc<ScalarUDF>,
}

impl CountDistinctByKey {
    pub(crate) fn new() -> CountDistinctByKey {
        let signature = Signature::any(1, Volatility::Immutable);
        CountDistinctByKey { key: Arc::new(ScalarUDF::new_from_impl(RowKey { signature })) }
    }

    fn by_key(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        expr.transform_down(|expr| {
            let Expr::AggregateFunction(AggregateFunction { func, mut params }) = expr else {
                return Ok(Transformed::no(expr));
            };
            let counts = func.name() == "count" && params.distinct;
            let nested = match params.args.as_slice() {
                [value] if counts => value.get_type(schema)?.is_nested(),
                _ => false,
            };
            if nested {
                params.args = params.args.into_iter().map(|value| self.key.call(vec![value])).collect();
            }
            let expr = Expr::AggregateFunction(AggregateFunction { func, params });
            Ok(if nested { Transformed::yes(expr) } else { Transformed::no(expr) })
        })
    }
}

impl OptimizerRule for CountDistinctByKey {
    fn name(&self) -> &str {
        "count_distinct_by_key"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let names = NamePreserver::new(&plan);
        let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
        let mut changed = false;
        let counts = aggregate.aggr_expr.iter().map(|expr| {
            let name = names.save(expr);
            let by_key = self.by_key(expr.clone(), aggregate.input.schema())?;
            changed |= by_key.transformed;
            Ok(name.restore(by_key.data))
        });
        let counts = counts.collect::<Result<Vec<Expr>>>()?;
        if !changed {
            return Ok(Transformed::no(plan));
        }
        let by_key = Aggregate::try_new(aggregate.input.clone(), aggregate.group_expr.clone(), counts)?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(by_key)))
    }
}

/// Any value → its bytes in arrow's row format; NULL → NULL.
#[derive(Debug, PartialEq, Eq, Hash)]
struct RowKey {
    signature: Signature,
}

impl ScalarUDFImpl for RowKey {
    fn name(&self) -> &str {
        "row_key"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Binary)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(&args.args)?;
        let converter = RowConverter::new(vec![SortField::new(values[0].data_type().clone())])?;
        let keys = converter.convert_columns(&values)?.try_into_binary()?;
        let (offsets, bytes, _) = keys.into_parts();
        let keys = BinaryArray::try_new(offsets, bytes, values[0].logical_nulls())?;
        Ok(ColumnarValue::Array(Arc::new(keys) as ArrayRef))
    }
}
