//! Reads a view: states from the lake, states from memory, and the rows that no state covers, merged to the answer.
//!
//! *Why opaque*: an optimizer that sees an aggregate below a `LIMIT` may throw groups away, which is right for one pass over
//! all rows and wrong below a merge. [`ViewExec`] shows the optimizer no children.
//!
//! *Invariants*: states and rows of one answer are disjoint and cover `[0, H)`, or `[from, to)`. Filters on group keys prune
//! files and rows below the aggregate; every row of the answer is filtered once more above.
//!
//! *Failure*: states in the lake that cannot be read are told to whoever keeps them, and the statement aggregates the rows
//! instead: no row of an answer is given before all states are read.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::cast::as_boolean_array;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result as DfResult, internal_err};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType,
};
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::{EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::ReplaceChildrenOptions;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use tarn_model::{Boundary, Result};
use tarn_table::CutTable;
use tarn_table::scan::{Part, TableScan};

use crate::definition::Definition;
use crate::error::{from_datafusion, is_read_damage};
use crate::groups::Sieve;
use crate::hub::{BatchStates, ViewMoment};
use crate::live::State;
use crate::pace::{Pace, Paced};
use crate::planner::Planner;
use crate::split::Split;
use crate::stamp::Stamp;
use crate::stored::StoredStates;

mod chain;
mod kept;

use self::chain::ChainExec;
use self::kept::Asked;
pub use self::kept::KeptPlan;

/// Above this number of rows of states, an answer is merged in as many streams as a statement may have.
const MANY_STATES: usize = 64 * 1024;

/// What an answer, or a new state, is merged from.
#[derive(Debug, Clone)]
pub struct Inputs {
    split: Arc<Split>,
    batch: Option<Arc<BatchStates>>,
    live: Vec<Arc<State>>,
    rows: Option<TableScan>,
    /// What joins the states, over the tables of a statement.
    joined: Option<LogicalPlan>,
    pace: Option<Arc<Pace>>,
    /// All rows of an answer, for one whose states cannot be read.
    whole: Option<TableScan>,
}

/// States in memory that a plan reads, and how many there are.
#[derive(Debug, Default)]
struct Read {
    rows: AtomicUsize,
    of: AtomicUsize,
    /// All that it reads is in memory, and little.
    is_little: AtomicBool,
}

impl Inputs {
    /// Everything below `upto`: states of `moment` as far as their stamp is `stamp` and they lie below, rows of `table` for
    /// the rest.
    pub fn at(
        split: &Arc<Split>,
        moment: &ViewMoment,
        stamp: &Stamp,
        table: &Arc<CutTable>,
        upto: &Boundary,
    ) -> Inputs {
        let batch = moment.batch.as_ref();
        let batch = batch.filter(|batch| batch.stamp == *stamp && upto.is_at_least(&batch.boundary)).cloned();
        let from = batch.as_ref().map(|batch| batch.boundary.clone()).unwrap_or_default();
        let whole = batch.is_some().then(|| TableScan::new(Arc::clone(table), Part::Both, upto.clone()));
        Inputs { batch, whole, ..Inputs::between(split, moment, stamp, table, &from, upto) }
    }

    /// Everything in `[from, to)`: live states where they fit, rows for the rest.
    pub fn between(
        split: &Arc<Split>,
        moment: &ViewMoment,
        stamp: &Stamp,
        table: &Arc<CutTable>,
        from: &Boundary,
        to: &Boundary,
    ) -> Inputs {
        let live = moment.live.as_ref().filter(|live| live.stamp() == stamp);
        let (live, reached) = live.map_or_else(|| (Vec::new(), from.clone()), |live| live.within(from, to));
        let rows = TableScan::new(Arc::clone(table), Part::Both, to.clone()).above(reached.clone());
        let rows = (reached.is_empty() || !rows.is_empty()).then_some(rows);
        Inputs { split: Arc::clone(split), batch: None, live, rows, pace: None, whole: None, joined: None }
    }

    /// States only, to be merged.
    pub fn states_only(split: &Arc<Split>, batch: Option<Arc<BatchStates>>, live: Vec<Arc<State>>) -> Inputs {
        Inputs { split: Arc::clone(split), batch, live, rows: None, pace: None, whole: None, joined: None }
    }

    /// Records of which rows are aggregated for it: none of those that states cover.
    pub fn records(&self) -> u64 {
        self.rows.as_ref().map_or(0, TableScan::records)
    }

    /// The same, its rows counted by `pace` and held back by it.
    #[must_use]
    pub fn paced(mut self, pace: Arc<Pace>) -> Inputs {
        self.pace = Some(pace);
        self
    }

    /// The same, with the tables that its split joins to the states.
    pub fn joined_with(self, tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>) -> Result<Inputs> {
        let joined = self.split.joined_over(tables).map_err(from_datafusion)?;
        Ok(Inputs { joined, ..self })
    }

    /// All of it as states; groups that `only` (over the states' keys) leaves out may be missing.
    async fn plan(
        &self,
        session: &dyn Session,
        only: Option<&Expr>,
        read: &Read,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        // The keys of joined states are others than the answer's, whose types a filter was written for.
        let physical =
            only.filter(|_| self.joined.is_none()).and_then(|only| self.over_states(only, session));
        let cached = || self.batch.iter().flat_map(|batch| batch.cached.iter().flatten()).chain(&self.live);
        let sieve = physical.as_ref().filter(|_| cached().any(|state| state.bounds.is_some()));
        let sieve = Sieve::new(sieve, self.split.state_schema());
        let mut kept = Vec::new();
        for state in cached() {
            kept.extend(sieve.keep(state));
            read.of.fetch_add(state.rows(), Ordering::Relaxed);
        }
        let in_memory: usize = kept.iter().map(RecordBatch::num_rows).sum();
        read.rows.fetch_add(in_memory, Ordering::Relaxed);
        let mut is_small = in_memory < MANY_STATES;
        if !kept.is_empty() {
            inputs.push(match &physical {
                // Cheaper than a node of its own.
                Some(only) if is_small => self.memory(filtered(kept, only)?, None)?,
                _ => self.memory(kept, physical)?,
            });
        }
        if let Some(batch) = self.batch.as_ref().filter(|batch| batch.cached.is_none()) {
            inputs.push(self.batch_plan(batch, session, only).await?);
            is_small = false;
        }
        match &self.rows {
            None => {}
            Some(rows) => match self.rows_in_memory(rows, only, session)? {
                Some((states, are_many)) => {
                    is_small &= !are_many;
                    inputs.push(states);
                }
                None => {
                    inputs.push(self.rows_plan(rows, only, session).await?);
                    is_small = false;
                }
            },
        }
        read.is_little.store(is_small, Ordering::Relaxed);
        match inputs.len() {
            0 => self.memory(Vec::new(), None),
            1 => Ok(inputs.remove(0)),
            _ if is_small => Ok(Arc::new(ChainExec::new(inputs))),
            _ => UnionExec::try_new(inputs),
        }
    }

    /// States of rows that all lie in memory.
    fn rows_in_memory(
        &self,
        rows: &TableScan,
        only: Option<&Expr>,
        session: &dyn Session,
    ) -> DfResult<Option<(Arc<dyn ExecutionPlan>, bool)>> {
        if self.pace.is_some() { Ok(None) } else { self.split.partial_in_memory(rows, only, session) }
    }

    /// States of rows wherever they lie.
    async fn rows_plan(
        &self,
        rows: &TableScan,
        only: Option<&Expr>,
        session: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let rows: Arc<dyn TableProvider> = match &self.pace {
            Some(pace) => Arc::new(Paced { rows: rows.clone(), pace: Arc::clone(pace) }),
            None => Arc::new(rows.clone()),
        };
        self.split.partial(rows, only, session).await
    }

    /// A filter over the answer's keys as one over states; `None` when a key has another type there.
    fn over_states(&self, only: &Expr, session: &dyn Session) -> Option<Arc<dyn PhysicalExpr>> {
        let (states, answer) = (self.split.state_schema(), self.split.answer_schema());
        let is_alike = only.column_refs().iter().all(|column| {
            let of = |schema: &SchemaRef| {
                schema.field_with_name(&column.name).ok().map(|field| field.data_type().clone())
            };
            of(states).is_some() && of(states) == of(answer)
        });
        if !is_alike {
            return None;
        }
        let schema = DFSchema::try_from(states.as_ref().clone()).ok()?;
        session.create_physical_expr(only.clone(), &schema).ok()
    }

    fn memory(
        &self,
        batches: Vec<RecordBatch>,
        only: Option<Arc<dyn PhysicalExpr>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = Arc::clone(self.split.state_schema());
        let states: Arc<dyn ExecutionPlan> = MemorySourceConfig::try_new_exec(&[batches], schema, None)?;
        Ok(match only {
            Some(only) => Arc::new(FilterExec::try_new(only, states)?),
            None => states,
        })
    }

    async fn batch_plan(
        &self,
        batch: &BatchStates,
        session: &dyn Session,
        only: Option<&Expr>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let scan = TableScan::new(Arc::new(as_table(batch)), Part::Lake, batch.boundary.clone());
        let source = provider_as_source(Arc::new(scan));
        let mut plan = LogicalPlanBuilder::scan("states", source, None)?;
        if let Some(only) = only.filter(|only| self.is_stored_alike(only)) {
            plan = plan.filter(only.clone())?;
        }
        let plan = session.create_physical_plan(&plan.build()?).await?;
        Ok(Arc::new(RestoreExec::new(plan, self.split.stored().clone())))
    }

    /// Whether all keys in `only` are stored with the values that they have.
    fn is_stored_alike(&self, only: &Expr) -> bool {
        let stored = self.split.stored();
        only.column_refs().iter().all(|column| {
            let Ok(at) = stored.schema().index_of(&column.name) else { return false };
            let kept = stored.schema().field(at).data_type();
            let is_text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::Utf8View);
            let plain = stored.states().field(at).data_type();
            kept == plain || (is_text(kept) && is_text(plain))
        })
    }

    /// Merges all of it to one state, one row a group.
    pub async fn reduced(&self, planner: &Planner) -> Result<Vec<RecordBatch>> {
        let read = Read::default();
        let plan = self.plan(planner.state(), None, &read).await.map_err(from_datafusion)?;
        let plan = self.split.reduce(plan).map_err(from_datafusion)?;
        planner.run(plan).await
    }

    /// The view's whole answer over these inputs; other tables of its query come from `tables`.
    pub async fn answer(
        &self,
        planner: &Planner,
        definition: &Definition,
        tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>,
    ) -> Result<Vec<RecordBatch>> {
        let inputs = self.clone().joined_with(tables)?;
        let plan = definition.over_states(&self.split, Arc::new(StatesScan::new(inputs)), tables)?;
        let plan = planner.state().create_physical_plan(&plan).await.map_err(from_datafusion)?;
        planner.run(plan).await
    }

    /// States that lie in the lake only.
    fn rows_in_the_lake(&self) -> usize {
        let batch = self.batch.iter().filter(|batch| batch.cached.is_none());
        let rows: i64 = batch.flat_map(|batch| batch.snapshot.statistics.rows.iter().flatten()).sum();
        usize::try_from(rows).unwrap_or(usize::MAX)
    }
}

fn has_floats(of: &DataType) -> bool {
    of.is_floating()
        || match of {
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
                has_floats(field.data_type())
            }
            DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
            DataType::Dictionary(_, values) => has_floats(values),
            _ => false,
        }
}

/// The rows of `batches` for which `only` is true.
fn filtered(batches: Vec<RecordBatch>, only: &Arc<dyn PhysicalExpr>) -> DfResult<Vec<RecordBatch>> {
    let filter = |batch: RecordBatch| {
        let is_true = only.evaluate(&batch)?.into_array(batch.num_rows())?;
        Ok(filter_record_batch(&batch, as_boolean_array(&is_true)?)?)
    };
    batches
        .into_iter()
        .map(filter)
        .filter(|batch| !matches!(batch, Ok(batch) if batch.num_rows() == 0))
        .collect()
}

/// States in the lake as a table of which all is committed.
pub(crate) fn as_table(batch: &BatchStates) -> CutTable {
    CutTable {
        name: batch.table.as_str().into(),
        schema: Arc::clone(&batch.snapshot.schema),
        dead_letters: false,
        lake: Some(Arc::clone(&batch.snapshot)),
        boundary: batch.boundary.clone(),
        tail: Vec::new(),
        tail_bytes: 0,
    }
}

impl fmt::Display for Inputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.batch {
            Some(batch) => write!(f, "lake=[0, {})", batch.boundary)?,
            None => write!(f, "lake=none")?,
        }
        write!(f, ", live={}", self.live.len())?;
        match &self.rows {
            Some(rows) => write!(f, ", rows={rows}"),
            None => write!(f, ", rows=none"),
        }
    }
}

/// A view's aggregate at one vector, as DataFusion reads it: columns `g0, g1, …, a0, a1, …`.
#[derive(Debug)]
pub struct StatesScan(Inputs);

impl StatesScan {
    /// Reads `inputs`.
    pub fn new(inputs: Inputs) -> StatesScan {
        StatesScan(inputs)
    }

    /// What the view was planned as.
    pub fn split(&self) -> &Arc<Split> {
        &self.0.split
    }

    /// The wanted columns of an answer, in the types in which they were planned.
    fn project(
        &self,
        answer: Arc<dyn ExecutionPlan>,
        projection: Option<&Vec<usize>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = self.0.split.answer_schema();
        let all: Vec<usize> = (0..schema.fields().len()).collect();
        let columns = projection.unwrap_or(&all).iter().map(|at| {
            let (from, to) = (answer.schema().field(*at).clone(), schema.field(*at));
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(from.name(), *at));
            let column = if from.data_type() == to.data_type() {
                column
            } else {
                Arc::new(CastExpr::new(column, to.data_type().clone(), None))
            };
            (column, to.name().clone())
        });
        let columns: Vec<_> = columns.collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, answer)?))
    }

    /// Whether `filter` tells groups apart, and nothing within them: one of a float holds 0.0 and -0.0, which a filter may tell apart.
    fn is_on_keys(&self, filter: &Expr) -> bool {
        let keys = self.0.split.answer_keys();
        let columns = filter.column_refs();
        let schema = self.0.split.answer_schema();
        let is_key = |at: usize| at < keys && !has_floats(schema.field(at).data_type());
        !columns.is_empty() && columns.iter().all(|column| schema.index_of(&column.name).is_ok_and(is_key))
    }
}

#[async_trait]
impl TableProvider for StatesScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.0.split.answer_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let kind = |filter: &&Expr| {
            if self.is_on_keys(filter) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(kind).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let split = Arc::clone(&self.0.split);
        let asked = Asked { split, projection: projection.cloned(), filters: filters.to_vec() };
        Ok(Arc::new(self.view(state, asked).await?))
    }
}

impl StatesScan {
    async fn view(&self, state: &dyn Session, asked: Asked) -> DfResult<ViewExec> {
        let (filters, projection) = (&asked.filters, asked.projection.as_ref());
        let only = conjunction(filters.iter().filter(|filter| self.is_on_keys(filter)).cloned());
        let only = only.and_then(|only| self.0.split.on_state_keys(&only));
        let read = Read::default();
        let states = self.0.plan(state, only.as_ref(), &read).await?;
        let states = self.0.split.join(self.0.joined.as_ref(), states, state).await?;
        let is_little = read.is_little.into_inner();
        let (in_memory, of) = (read.rows.into_inner(), read.of.into_inner());
        let many = in_memory.saturating_add(self.0.rows_in_the_lake()) >= MANY_STATES;
        let streams = if many { state.config().target_partitions() } else { 1 };
        let inner = self.project(self.0.split.finish(states, streams)?, projection)?;
        let says = format!("{}, states in memory={in_memory} of {of}", self.0);
        let stored = self.0.batch.as_ref().filter(|batch| batch.cached.is_none());
        let instead = match (stored, &self.0.whole, state.as_any().downcast_ref::<SessionState>()) {
            (Some(_), Some(_), Some(session)) => Some(Arc::new(Instead {
                states: StatesScan(self.0.clone()),
                only,
                projection: projection.cloned(),
                session: session.clone(),
            })),
            _ => None,
        };
        let properties = if is_little { of_little(&inner) } else { Arc::clone(inner.properties()) };
        Ok(ViewExec { says, inner, properties, asked, instead, is_little })
    }
}

/// What is said of an answer that little is read for: nothing that the next one might not have.
fn of_little(answer: &Arc<dyn ExecutionPlan>) -> Arc<PlanProperties> {
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(answer.schema()),
        Partitioning::UnknownPartitioning(answer.output_partitioning().partition_count()),
        answer.pipeline_behavior(),
        answer.boundedness(),
    ))
}

/// What a statement reads when the states of its batch cannot be read: the rows, in one stream. Nearly no statement needs it, so
/// that it is planned when one does.
#[derive(Debug)]
struct Instead {
    states: StatesScan,
    only: Option<Expr>,
    projection: Option<Vec<usize>>,
    session: SessionState,
}

impl Instead {
    fn batch(&self) -> Option<&Arc<BatchStates>> {
        self.states.0.batch.as_ref()
    }

    async fn plan(&self) -> DfResult<Arc<dyn ExecutionPlan>> {
        let Inputs { split, whole, joined, .. } = &self.states.0;
        let Some(whole) = whole else { return internal_err!("the rows of a view are not known") };
        let rows: Arc<dyn TableProvider> = Arc::new(whole.clone());
        let states = split.partial(rows, self.only.as_ref(), &self.session).await?;
        let states = split.join(joined.as_ref(), states, &self.session).await?;
        self.states.project(split.finish(states, 1)?, self.projection.as_ref())
    }
}

/// Whether `plan` reads views only, and of these little that is all in memory: then one stream is the fastest.
pub fn reads_little(plan: &Arc<dyn ExecutionPlan>) -> bool {
    match plan.downcast_ref::<ViewExec>() {
        Some(view) => view.is_little,
        None => !plan.children().is_empty() && plan.children().into_iter().all(reads_little),
    }
}

/// The merge of a view, closed to the optimizer.
#[derive(Debug)]
struct ViewExec {
    says: String,
    inner: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    asked: Asked,
    instead: Option<Arc<Instead>>,
    is_little: bool,
}

impl DisplayAs for ViewExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => write!(f, "ViewExec: {}", self.says),
            DisplayFormatType::TreeRender => write!(f, "{}", self.says),
        }
    }
}

impl ExecutionPlan for ViewExec {
    fn name(&self) -> &'static str {
        "ViewExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let mut rows = self.inner.execute(partition, Arc::clone(&context))?;
        let Some(instead) = self.instead.clone() else { return Ok(rows) };
        let schema = rows.schema();
        let begun = async move {
            let first = match rows.next().await {
                None => return futures::stream::empty().boxed(),
                Some(Err(error)) if is_read_damage(&error) => {
                    if let Some(batch) = instead.batch() {
                        tracing::warn!(table = batch.table, %error, "states cannot be read; a statement reads the rows");
                        batch.is_damaged.store(true, Ordering::Relaxed);
                    }
                    // Every stream has failed, for each merges all states; the first one answers for all.
                    if partition > 0 {
                        return futures::stream::empty().boxed();
                    }
                    let rows = instead.plan().await.and_then(|plan| plan.execute(0, context));
                    return rows
                        .map_or_else(|error| futures::stream::iter([Err(error)]).boxed(), StreamExt::boxed);
                }
                Some(first) => first,
            };
            futures::stream::iter([first]).chain(rows).boxed()
        };
        let rows = futures::stream::once(begun).flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}

/// Turns stored states back into what they were.
#[derive(Debug)]
struct RestoreExec {
    stored: StoredStates,
    inner: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl RestoreExec {
    fn new(inner: Arc<dyn ExecutionPlan>, stored: StoredStates) -> RestoreExec {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(stored.states())),
            Partitioning::UnknownPartitioning(inner.output_partitioning().partition_count()),
            inner.pipeline_behavior(),
            inner.boundedness(),
        );
        RestoreExec { stored, inner, properties: Arc::new(properties) }
    }
}

impl DisplayAs for RestoreExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RestoreExec")
    }
}

impl ExecutionPlan for RestoreExec {
    fn name(&self) -> &'static str {
        "RestoreExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
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
        match <[_; 1]>::try_from(children) {
            Ok([inner]) => Ok(Arc::new(RestoreExec::new(inner, self.stored.clone()))),
            Err(_) => internal_err!("states are restored from one input"),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([inner]) => Ok(Arc::new(RestoreExec::new(inner, self.stored.clone()))),
            Err(_) => internal_err!("states are restored from one input"),
        }
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let stored = self.stored.clone();
        let rows = self.inner.execute(partition, context)?.map(move |rows| stored.restore(&rows?));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(self.stored.states()), rows)))
    }
}

#[cfg(test)]
mod tests;
