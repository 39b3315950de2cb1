//! The rows of a build on their way: counted for whoever asks how far it is, held back while statements run.
//!
//! *Why here*: whoever makes states pulls rows, so what holds the rows back holds all of it back. A build that takes half of the
//! time while somebody waits for an answer, and all of it otherwise, needs no setting.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use tarn_model::clock;
use tarn_table::scan::TableScan;

/// A build is never held back longer than this at a time.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How many statements run; clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Statements(Arc<AtomicUsize>);

/// One statement that runs, until it is dropped.
#[derive(Debug)]
pub struct RunningStatement(Arc<AtomicUsize>);

impl Statements {
    /// A statement begins.
    pub fn begin(&self) -> RunningStatement {
        self.0.fetch_add(1, Ordering::Relaxed);
        RunningStatement(Arc::clone(&self.0))
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for RunningStatement {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How far one build has come.
#[derive(Debug)]
pub struct Pace {
    rows: AtomicU64,
    total: u64,
    statements: Statements,
}

impl Pace {
    /// Of a build that reads about `total` rows and gives way to `statements`.
    pub fn new(total: u64, statements: Statements) -> Pace {
        Pace { rows: AtomicU64::new(0), total, statements }
    }

    /// The share of its rows that it has read, 0 to 1.
    pub fn done(&self) -> f64 {
        let (rows, total) = (self.rows.load(Ordering::Relaxed) as f64, self.total as f64);
        if total > 0.0 { (rows / total).min(1.0) } else { 0.0 }
    }

    async fn pass(&self, rows: usize, since: Instant) {
        self.rows.fetch_add(u64::try_from(rows).unwrap_or(0), Ordering::Relaxed);
        if self.statements.any() {
            clock::pause(since.elapsed().min(LONGEST_PAUSE)).await;
        }
    }
}

/// Rows that come at a pace.
#[derive(Debug)]
pub(crate) struct Paced {
    pub(crate) rows: TableScan,
    pub(crate) pace: Arc<Pace>,
}

#[async_trait]
impl TableProvider for Paced {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        self.rows.table_type()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        self.rows.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let inner = self.rows.scan(state, projection, filters, limit).await?;
        Ok(Arc::new(PaceExec { inner, pace: Arc::clone(&self.pace) }))
    }
}

/// Passes what it reads on, at its pace.
#[derive(Debug)]
struct PaceExec {
    inner: Arc<dyn ExecutionPlan>,
    pace: Arc<Pace>,
}

impl PaceExec {
    fn over(&self, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([inner]) => Ok(Arc::new(PaceExec { inner, pace: Arc::clone(&self.pace) })),
            Err(_) => internal_err!("a pace is kept over one input"),
        }
    }
}

impl DisplayAs for PaceExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PaceExec")
    }
}

impl ExecutionPlan for PaceExec {
    fn name(&self) -> &'static str {
        "PaceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.inner]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.over(children)
    }

    /// Filters go on to the files.
    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> DfResult<FilterDescription> {
        FilterDescription::from_children(filters, &self.children())
    }

    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        pushed: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> DfResult<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::if_all(pushed))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let rows = self.inner.execute(partition, context)?;
        let schema = rows.schema();
        let begun = (rows, Instant::now(), Arc::clone(&self.pace));
        let paced = futures::stream::unfold(begun, |(mut rows, since, pace)| async move {
            let batch = rows.next().await?;
            if let Ok(batch) = &batch {
                pace.pass(batch.num_rows(), since).await;
            }
            Some((batch, (rows, Instant::now(), pace)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, paced)))
    }
}
