//! What a view's aggregate reads of rows in memory, planned once.
//!
//! *Why*: each view makes a state about ten times a second, and each read aggregates the rows that came since. Planning that costs
//! more than the rows do, and it is always the same plan: only the record batches at its leaf are others.
//!
//! *Invariants*: each node of the plan gives as many streams as it reads, row by row, so that what it gives does not depend on how
//! the rows at its leaf are divided.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use tarn_table::scan::TailExec;

use crate::definition::bind;

/// A plan over rows in memory, whatever they are.
#[derive(Debug)]
pub(crate) struct TailPlan {
    /// Over no rows.
    plan: Arc<dyn ExecutionPlan>,
    /// The columns that it reads.
    reads: SchemaRef,
}

impl TailPlan {
    /// Of `input`, an optimized plan over a placeholder for the rows; `None` where it cannot be made beforehand.
    pub(crate) async fn of(input: &LogicalPlan, session: &SessionState) -> Option<TailPlan> {
        let mut session = session.clone();
        // What divides rows among threads would be in the way of so few.
        session.config_mut().options_mut().execution.target_partitions = 1;
        let bound = bind(input, &|_| Some(Arc::new(NoRows(rows_of(input)?)) as _)).ok()?;
        let planned = session.query_planner().create_physical_plan(&bound, &session).await;
        let plan = planned.map_err(|error| tracing::debug!(%error, "not planned beforehand")).ok()?;
        let reads = leaf(&plan)?.schema();
        Some(TailPlan { plan, reads })
    }

    /// The columns that it gives.
    pub(crate) fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    /// The same over `rows`, in up to `streams` streams.
    pub(crate) fn over(&self, rows: Vec<RecordBatch>, streams: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
        let rows: Arc<dyn ExecutionPlan> = Arc::new(TailExec::new(rows, Arc::clone(&self.reads), streams));
        let plan = Arc::clone(&self.plan).transform_up(|node| {
            Ok(if node.is::<TailExec>() {
                Transformed::yes(Arc::clone(&rows))
            } else {
                Transformed::no(node)
            })
        })?;
        Ok(plan.data)
    }
}

/// The columns of the one table below `input`.
fn rows_of(input: &LogicalPlan) -> Option<SchemaRef> {
    match input {
        LogicalPlan::TableScan(scan) => Some(scan.source.schema()),
        other => <[_; 1]>::try_from(other.inputs()).ok().and_then(|[input]| rows_of(input)),
    }
}

/// The leaf of a plan that is a chain of nodes which each give one stream.
fn leaf(plan: &Arc<dyn ExecutionPlan>) -> Option<&Arc<dyn ExecutionPlan>> {
    if plan.output_partitioning().partition_count() != 1 {
        return None;
    }
    match plan.children()[..] {
        [] => plan.is::<TailExec>().then_some(plan),
        [child] => leaf(child),
        _ => None,
    }
}

/// A table in memory that has no rows yet.
#[derive(Debug)]
struct NoRows(SchemaRef);

#[async_trait]
impl TableProvider for NoRows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.0)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// As the placeholder's, over which filters were pushed down: each row is filtered above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        if limit.is_some() {
            return internal_err!("rows of an aggregate have no limit");
        }
        let schema = match projection {
            Some(projection) => Arc::new(self.0.project(projection)?),
            None => Arc::clone(&self.0),
        };
        Ok(Arc::new(TailExec::new(Vec::new(), schema, 1)))
    }
}
