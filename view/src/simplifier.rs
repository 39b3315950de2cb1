//! Expressions of an analyzed plan as ones that can run.
//!
//! *Why*: the analyzed plan is cut before any optimizer has seen it, and some functions are no more than a name until one has.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::aggregates::PhysicalGroupBy;

/// Puts what can run in the place of what only stands for it: some functions are no more than a name until they are simplified.
pub(crate) struct Simplifier(ExprSimplifier);

impl Simplifier {
    /// Of expressions over `schema`.
    pub(crate) fn new(schema: &DFSchema, session: &SessionState) -> Simplifier {
        let context = SimplifyContext::builder()
            .with_schema(Arc::new(schema.clone()))
            .with_config_options(Arc::clone(session.config_options()));
        Simplifier(ExprSimplifier::new(context.build()))
    }

    /// The same, so that it can run.
    pub(crate) fn simplified(&self, expr: Expr) -> DfResult<Expr> {
        self.0.simplify(expr)
    }

    /// All that an aggregate reads; it stays the aggregate that it is.
    pub(crate) fn aggregate(&self, expr: Expr) -> DfResult<Expr> {
        Ok(match expr {
            Expr::Alias(mut alias) => {
                *alias.expr = self.aggregate(*alias.expr)?;
                Expr::Alias(alias)
            }
            Expr::AggregateFunction(mut call) => {
                let params = &mut call.params;
                for expr in params.args.iter_mut().chain(params.filter.as_deref_mut()) {
                    *expr = self.simplified(std::mem::take(expr))?;
                }
                for order in &mut params.order_by {
                    order.expr = self.simplified(std::mem::take(&mut order.expr))?;
                }
                Expr::AggregateFunction(call)
            }
            other => other,
        })
    }
}

/// Tries on no rows what will be evaluated on all of them: an error that every row would end with is one of the view.
pub(crate) fn runs(
    group: &PhysicalGroupBy,
    aggregates: &[Arc<AggregateFunctionExpr>],
    filters: &[Option<Arc<dyn PhysicalExpr>>],
    schema: &SchemaRef,
) -> DfResult<()> {
    let nothing = RecordBatch::new_empty(Arc::clone(schema));
    let of_aggregates = aggregates.iter().flat_map(|aggregate| {
        let order = aggregate.order_bys().iter().map(|order| Arc::clone(&order.expr));
        aggregate.expressions().into_iter().chain(order.collect::<Vec<_>>())
    });
    let keys = group.expr().iter().map(|(key, _)| Arc::clone(key));
    for expr in keys.chain(of_aggregates).chain(filters.iter().flatten().cloned()) {
        expr.evaluate(&nothing)?;
    }
    Ok(())
}
