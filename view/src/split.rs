//! The cut of a plan at its aggregate: what runs over rows, how states merge, and what runs over the aggregate's answer.
//!
//! *Why from the logical aggregate*: rules that rewrite aggregates in two levels, or that throw groups away because only the
//! top ones are asked for, are right for one pass over all rows and wrong for a part of them. So the aggregate is taken out of
//! the analyzed plan before any such rule has run, and its physical halves are built by hand.
//!
//! ```text
//! above:   ORDER BY, HAVING, expressions ── over ── g0, g1, …, a0, a1, …        one row a group
//! Final:                                            ▲
//! states:  g0, g1, …, then each aggregate's state   │   state_schema
//! Partial:                                          ▲
//! input:   the columns that the aggregate uses ── over ── rows of one table
//! ```
//!
//! Where the aggregate stands over a join, other tables are joined to the states, between their merge and `Final`; see
//! [`crate::dimension`].

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult, TableReference, internal_err};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Projection, TableType, col,
};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{Partitioning, PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use tarn_model::columns::OFFSET;
use tarn_table::scan::TableScan;

use crate::definition::bind;
use crate::dimension::{Joined, Lowered, named_states, over_states};
use crate::planner::Columns;
use crate::simplifier::{Simplifier, runs};
use crate::stored::StoredStates;
use crate::tail_plan::TailPlan;
use crate::windows::{by_ticks, window_us};

/// Above this number of rows in memory they are aggregated in as many streams as a statement may have.
const MANY_ROWS: usize = 64 * 1024;

/// The name under which the aggregate's answer stands in the plan above it: no table can have it.
pub(crate) const ANSWER: &str = "@states";

/// Aggregates whose states merge to what one pass gives: exactly, up to the rounding of floats, or within a sketch's bounds.
const MERGEABLE: [&str; 24] = [
    "count",
    "sum",
    "avg",
    "min",
    "max",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "var",
    "var_pop",
    "var_samp",
    "var_sample",
    "var_population",
    "bool_and",
    "bool_or",
    "bit_and",
    "bit_or",
    "bit_xor",
    "first_value",
    "last_value",
    "approx_distinct",
    "approx_percentile_cont",
    "approx_median",
    "mean",
];

/// A plan, cut at its aggregate.
#[derive(Debug)]
pub struct Split {
    table: String,
    /// What the aggregate reads, over a placeholder for its table.
    input: LogicalPlan,
    /// The same, optimized once.
    optimized: LogicalPlan,
    /// The same over rows in memory, planned once; `None` before that, and where it cannot be.
    tail: Option<TailPlan>,
    /// Group keys over the input's columns.
    keys: Vec<Expr>,
    /// The same as what can run.
    simple_keys: Vec<Expr>,
    group: PhysicalGroupBy,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    input_schema: SchemaRef,
    state_schema: SchemaRef,
    stored: StoredStates,
    answer: SchemaRef,
    /// The whole plan, with a placeholder for the aggregate's answer.
    above: LogicalPlan,
    /// What joins states before they become the answer.
    joined: Option<Joined>,
}

impl Split {
    /// Cuts an analyzed plan, or says why it cannot be.
    pub(crate) fn of(plan: &LogicalPlan, session: &SessionState) -> Result<Split, String> {
        let Found { whole, table, lowered } = find(plan)?;
        check_aggregates(&whole)?;
        // Its accumulator for all rows does not read what the one for groups leaves of a group without values.
        let is_sketch = |expr: &Expr| matches!(expr, Expr::AggregateFunction(call) if call.func.name() == "approx_distinct");
        if lowered.is_some()
            && whole.group_expr.is_empty()
            && whole
                .aggr_expr
                .iter()
                .any(|expr| expr.exists(|expr| Ok(is_sketch(expr))).is_ok_and(|found| found))
        {
            return Err("states of `approx_distinct` by the keys of a join do not merge to one without keys"
                .to_owned());
        }
        let aggregate = lowered.as_ref().map_or(&whole, |lowered| &lowered.aggregate);
        let internal = |error: datafusion::error::DataFusionError| format!("it cannot be split: {error}");
        let input = used_columns(aggregate).map_err(internal)?;
        let logical: &DFSchema = input.schema();
        let input_schema = Arc::clone(logical.inner());
        let props = session.execution_props();
        let context = PhysicalPlanningContext::default();
        let keys = aggregate.group_expr.clone();
        let simplifier = Simplifier::new(logical, session);
        let key = |(at, expr): (usize, &Expr)| {
            let expr = simplifier.simplified(by_ticks(expr, logical))?;
            Ok((create_physical_expr(&expr, logical, props, &context)?, format!("g{at}")))
        };
        let group: DfResult<Vec<_>> = keys.iter().enumerate().map(key).collect();
        let simple = |key: &Expr| simplifier.simplified(key.clone().unalias_nested().data);
        let simple_keys = keys.iter().map(simple).collect::<DfResult<_>>().map_err(internal)?;
        let group = match group.map_err(internal)? {
            none if none.is_empty() => PhysicalGroupBy::new(vec![], vec![], vec![], false),
            some => PhysicalGroupBy::new_single(some),
        };
        let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
        for (at, expr) in aggregate.aggr_expr.iter().enumerate() {
            let expr = simplifier.aggregate(expr.clone()).map_err(internal)?;
            let lowered = LoweredAggregateBuilder::new(&expr, logical, &input_schema, props, &context)
                .with_name(format!("a{at}"))
                .build()
                .map_err(internal)?;
            aggregates.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
        runs(&group, &aggregates, &filters, &input_schema).map_err(internal)?;
        let nothing = Arc::new(datafusion::physical_plan::empty::EmptyExec::new(Arc::clone(&input_schema)));
        let partial = AggregateExec::try_new(
            AggregateMode::Partial,
            group.clone(),
            aggregates,
            filters.clone(),
            nothing,
            Arc::clone(&input_schema),
        )
        .map_err(internal)?;
        let aggregates = partial.aggr_expr().to_vec();
        let state_schema = partial.schema();
        let stored = StoredStates::of(&state_schema, keys.len())?;
        let answer = answer_schema(&whole.schema, whole.group_expr.len());
        let above = replace(plan, &whole, &answer).map_err(internal)?;
        let joined = lowered.map(|lowered| lowered.joined(&state_schema)).transpose().map_err(internal)?;
        let optimized = session.optimize(&input).map_err(internal)?;
        Ok(Split {
            table,
            input,
            optimized,
            tail: None,
            keys,
            simple_keys,
            group,
            aggregates,
            filters,
            input_schema,
            state_schema,
            stored,
            answer,
            above,
            joined,
        })
    }

    /// The same, with what it reads of rows in memory planned.
    pub(crate) async fn with_tail_plan(mut self, session: &SessionState) -> Split {
        let tail = TailPlan::of(&self.optimized, session).await;
        self.tail = tail.filter(|tail| types(&tail.schema()).eq(types(&self.input_schema)));
        self
    }

    /// The table whose rows are aggregated, by the name in the query.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Columns of a state: group keys `g0, g1, …`, then each aggregate's state in turn.
    pub fn state_schema(&self) -> &SchemaRef {
        &self.state_schema
    }

    /// How states are kept in the lake.
    pub fn stored(&self) -> &StoredStates {
        &self.stored
    }

    /// Columns of the aggregate's answer: `g0, g1, …, a0, a1, …`.
    pub fn answer_schema(&self) -> &SchemaRef {
        &self.answer
    }

    /// Number of group keys of the states.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Number of group keys of the answer.
    pub fn answer_keys(&self) -> usize {
        self.joined.as_ref().map_or(self.keys.len(), |joined| joined.state_keys.len())
    }

    /// How long the window of time by which the times in `column` are grouped stays open, µs; `None` when they are not. What is
    /// only filtered or computed by a window is in none.
    pub fn window_us(&self, column: &str) -> Option<i64> {
        let is_key = |at: usize| {
            let joined = self.joined.as_ref();
            joined.is_none_or(|joined| joined.state_keys.iter().flatten().any(|key| *key == at))
        };
        let keys = self.keys.iter().enumerate().filter(|(at, _)| is_key(*at));
        let mut found = None;
        for (_, key) in keys {
            let looked = over_rows(key, &self.input).ok()?.apply(|expr| {
                found = found.or_else(|| window_us(expr, column));
                Ok(TreeNodeRecursion::Continue)
            });
            looked.ok()?;
        }
        found
    }

    /// The tables that are joined to the states.
    pub fn joins(&self) -> impl Iterator<Item = &str> {
        self.joined.iter().flat_map(|joined| joined.tables.iter().map(String::as_str))
    }

    /// What joins states, over `tables`; `None` when nothing does.
    pub(crate) fn joined_over(
        &self,
        tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>,
    ) -> DfResult<Option<LogicalPlan>> {
        self.joined.as_ref().map(|joined| joined.over(tables)).transpose()
    }

    /// States, joined as `plan` says: columns `g0, g1, …` of the answer, then the states'.
    pub(crate) async fn join(
        &self,
        plan: Option<&LogicalPlan>,
        states: Arc<dyn ExecutionPlan>,
        session: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        if self.joined.is_none() {
            return Ok(states);
        }
        let Some(plan) = plan else { return internal_err!("states are read without the tables they join") };
        let schema = named_states(&self.state_schema, self.keys.len());
        let plan = over_states(plan, Arc::new(ReadyStates { schema, states }))?;
        let plan = session.create_physical_plan(&plan).await?;
        // Two batches can make rows for hours: a statement must be able to end meanwhile.
        let yielding = plan.transform_up(|node| {
            Ok(if node.name().ends_with("JoinExec") {
                Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(node)
            })
        })?;
        Ok(yielding.data)
    }

    /// A filter over the answer's keys as one over the states' keys, where each is one.
    pub(crate) fn on_state_keys(&self, only: &Expr) -> Option<Expr> {
        let Some(joined) = &self.joined else { return Some(only.clone()) };
        let all_are = only.column_refs().iter().all(|column| {
            self.answer
                .index_of(&column.name)
                .is_ok_and(|at| joined.state_keys.get(at).is_some_and(Option::is_some))
        });
        let renamed = only.clone().transform_up(|expr| match &expr {
            Expr::Column(column) => {
                let at = joined.state_keys.get(self.answer.index_of(&column.name)?).copied().flatten();
                Ok(Transformed::yes(col(Column::from_name(format!("g{}", at.unwrap_or_default())))))
            }
            _ => Ok(Transformed::no(expr)),
        });
        all_are.then(|| renamed.ok().map(|renamed| renamed.data)).flatten()
    }

    /// Rows in memory to states, in one stream unless they are many, and without planning; only groups that `only` (over the states' key columns)
    /// leaves, and whether they are many. `None` where some of the rows may lie in the lake, or where it takes planning.
    pub(crate) fn partial_in_memory(
        &self,
        rows: &TableScan,
        only: Option<&Expr>,
        session: &dyn Session,
    ) -> DfResult<Option<(Arc<dyn ExecutionPlan>, bool)>> {
        let Some((tail, rows)) = self.tail.as_ref().zip(rows.in_memory()) else { return Ok(None) };
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        let are_many = count >= MANY_ROWS;
        let streams = if are_many { session.config().target_partitions() } else { 1 };
        let mut input = tail.over(rows, streams)?;
        if let Some(only) = only {
            let only = session.create_physical_expr(self.over_input(only)?, self.input.schema())?;
            input = Arc::new(FilterExec::try_new(only, input)?);
        }
        Ok(Some((self.aggregate(input)?, are_many)))
    }

    /// Rows to states, one stream for each of the rows' streams; only groups that `only` (over the states' key columns)
    /// leaves.
    pub async fn partial(
        &self,
        rows: Arc<dyn TableProvider>,
        only: Option<&Expr>,
        session: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let input = match only {
            Some(only) => {
                let input = LogicalPlanBuilder::from(self.input.clone());
                let input = input.filter(self.over_input(only)?)?.build()?;
                session.create_physical_plan(&bind(&input, &|_| Some(Arc::clone(&rows)))?).await?
            }
            None => {
                let input = bind(&self.optimized, &|_| Some(Arc::clone(&rows)))?;
                session.query_planner().create_physical_plan(&input, session).await?
            }
        };
        self.aggregate(input)
    }

    fn aggregate(&self, input: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(AggregateExec::try_new(
            AggregateMode::Partial,
            self.group.clone(),
            self.aggregates.clone(),
            self.filters.clone(),
            input,
            Arc::clone(&self.input_schema),
        )?))
    }

    /// States to fewer states: one row a group.
    pub fn reduce(&self, states: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.merge(AggregateMode::PartialReduce, self.group.as_final(), one_stream(states))
    }

    /// States, joined, to the answer, in `streams` streams.
    pub fn finish(&self, states: Arc<dyn ExecutionPlan>, streams: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
        let schema = states.schema();
        let key = |at: usize| {
            let name = schema.field(at).name();
            (Arc::new(PhysicalColumn::new(name, at)) as Arc<dyn PhysicalExpr>, name.clone())
        };
        let keys: Vec<_> = (0..self.answer_keys()).map(key).collect();
        let group = match (&self.joined, keys.is_empty()) {
            (None, _) => self.group.as_final(),
            (Some(_), true) => PhysicalGroupBy::new(vec![], vec![], vec![], false),
            (Some(_), false) => PhysicalGroupBy::new_single(keys.clone()),
        };
        if streams <= 1 || keys.is_empty() || states.output_partitioning().partition_count() <= 1 {
            return self.merge(AggregateMode::Final, group, one_stream(states));
        }
        let by_key = Partitioning::Hash(keys.into_iter().map(|(key, _)| key).collect(), streams);
        let states = Arc::new(RepartitionExec::try_new(states, by_key)?);
        self.merge(AggregateMode::FinalPartitioned, group, states)
    }

    fn merge(
        &self,
        mode: AggregateMode,
        group: PhysicalGroupBy,
        states: Arc<dyn ExecutionPlan>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            group,
            self.aggregates.clone(),
            // Rows that a filter leaves out have never reached a state.
            vec![None; self.aggregates.len()],
            states,
            Arc::clone(&self.input_schema),
        )?))
    }

    /// The whole plan over the aggregate's answer.
    pub(crate) fn above(&self, states: Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
        bind(&self.above, &|name| (name == ANSWER).then(|| Arc::clone(&states)))
    }

    /// Which columns of the whole plan's answer are group keys, taken over as they are.
    pub fn key_columns(&self) -> Vec<usize> {
        (0..self.above.schema().fields().len()).filter(|at| self.is_key(&self.above, *at)).collect()
    }

    fn is_key(&self, plan: &LogicalPlan, at: usize) -> bool {
        match plan {
            LogicalPlan::TableScan(scan) => scan.table_name.table() == ANSWER && at < self.answer_keys(),
            LogicalPlan::Projection(node) => match node.expr[at].clone().unalias_nested().data {
                Expr::Column(column) => node
                    .input
                    .schema()
                    .maybe_index_of_column(&column)
                    .is_some_and(|at| self.is_key(&node.input, at)),
                _ => false,
            },
            LogicalPlan::SubqueryAlias(node) => self.is_key(&node.input, at),
            LogicalPlan::Filter(node) => self.is_key(&node.input, at),
            LogicalPlan::Sort(node) => self.is_key(&node.input, at),
            LogicalPlan::Limit(node) => self.is_key(&node.input, at),
            _ => false,
        }
    }

    /// An expression over the states' keys as one over the input.
    fn over_input(&self, expr: &Expr) -> DfResult<Expr> {
        let swapped = expr.clone().transform_up(|expr| match &expr {
            Expr::Column(column) => {
                let at = self.stored.schema().index_of(&column.name)?;
                Ok(Transformed::yes(self.simple_keys[at].clone()))
            }
            _ => Ok(Transformed::no(expr)),
        });
        swapped.map(|swapped| swapped.data)
    }
}

/// Types of columns, whatever they are called.
fn types(schema: &Schema) -> impl Iterator<Item = &DataType> {
    schema.fields().iter().map(|field| field.data_type())
}

fn one_stream(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        plan
    } else {
        Arc::new(CoalescePartitionsExec::new(plan))
    }
}

/// What `expr` over the columns of `plan` is over the columns of the table below it.
fn over_rows(expr: &Expr, plan: &LogicalPlan) -> DfResult<Expr> {
    let below = |instead: &dyn Fn(usize) -> Expr| {
        let swapped = expr.clone().transform_up(|expr| match &expr {
            Expr::Column(column) => Ok(match plan.schema().maybe_index_of_column(column) {
                Some(at) => Transformed::yes(instead(at)),
                None => Transformed::no(expr),
            }),
            _ => Ok(Transformed::no(expr)),
        });
        swapped.map(|swapped| swapped.data)
    };
    let column =
        |input: &LogicalPlan, at: usize| Expr::Column(Column::from(input.schema().qualified_field(at)));
    match plan {
        LogicalPlan::Projection(node) => {
            over_rows(&below(&|at| node.expr[at].clone().unalias_nested().data)?, &node.input)
        }
        LogicalPlan::SubqueryAlias(node) => over_rows(&below(&|at| column(&node.input, at))?, &node.input),
        LogicalPlan::Unnest(node) => {
            over_rows(&below(&|at| column(&node.input, node.dependency_indices[at]))?, &node.input)
        }
        LogicalPlan::Filter(node) => over_rows(expr, &node.input),
        _ => Ok(expr.clone()),
    }
}

/// The aggregate at which a plan is cut.
struct Found {
    /// As it stands in the plan.
    whole: Aggregate,
    /// The table whose rows it aggregates.
    table: String,
    /// The same over the rows of that table alone, where it stands over a join.
    lowered: Option<Lowered>,
}

/// The one aggregate over the rows of one table, joined or not.
fn find(plan: &LogicalPlan) -> Result<Found, String> {
    let (mut found, mut aggregates) = (Vec::new(), 0);
    let mut why = None;
    let walked = plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            aggregates += 1;
            let whole = aggregate.clone();
            match rows_of(&aggregate.input) {
                Ok(table) => found.push(Found { whole, table, lowered: None }),
                Err(_) => match Lowered::of(aggregate) {
                    Ok(lowered) => {
                        let table = lowered.table.clone();
                        found.push(Found { whole, table, lowered: Some(lowered) });
                    }
                    Err(reason) => why = Some(reason),
                },
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.map_err(|error| error.to_string())?;
    match (found.len(), aggregates) {
        (1, _) => Ok(found.remove(0)),
        (0, 0) => Err("it has no aggregate".to_owned()),
        (0, _) => Err(why.unwrap_or_else(|| "its aggregate does not read rows of a table".to_owned())),
        _ => Err("it has more than one aggregate over rows".to_owned()),
    }
}

/// The table of which `plan` makes its rows one by one, or what stands in the way.
pub(crate) fn rows_of(plan: &LogicalPlan) -> Result<String, String> {
    let mut has_subquery = false;
    let looked = plan.apply_expressions(|expr| {
        has_subquery |= contains_subquery(expr)?;
        Ok(TreeNodeRecursion::Continue)
    });
    looked.map_err(|error| error.to_string())?;
    if has_subquery {
        return Err("a subquery stands below its aggregate".to_owned());
    }
    let what = match plan {
        LogicalPlan::TableScan(scan) => return Ok(scan.table_name.table().to_owned()),
        LogicalPlan::Projection(node) => return rows_of(&node.input),
        LogicalPlan::Filter(node) => return rows_of(&node.input),
        LogicalPlan::SubqueryAlias(node) => return rows_of(&node.input),
        LogicalPlan::Unnest(node) => return rows_of(&node.input),
        LogicalPlan::Aggregate(_) => "another aggregate",
        LogicalPlan::Join(_) => "a join",
        LogicalPlan::Window(_) => "a window function",
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => "ORDER BY or LIMIT",
        LogicalPlan::Distinct(_) => "DISTINCT",
        LogicalPlan::Union(_) => "UNION",
        _ => "something other than the rows of one table",
    };
    Err(format!("its aggregate is taken over {what}"))
}

pub(crate) fn contains_subquery(expr: &Expr) -> DfResult<bool> {
    expr.exists(|expr| Ok(matches!(expr, Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_))))
}

fn check_aggregates(aggregate: &Aggregate) -> Result<(), String> {
    if aggregate.group_expr.iter().any(|expr| matches!(expr, Expr::GroupingSet(_))) {
        return Err("it groups by several sets of keys".to_owned());
    }
    for expr in aggregate.group_expr.iter().chain(&aggregate.aggr_expr) {
        if contains_subquery(expr).map_err(|error| error.to_string())? {
            return Err("a subquery stands in its aggregate".to_owned());
        }
    }
    for expr in &aggregate.aggr_expr {
        let Expr::AggregateFunction(call) = expr.clone().unalias_nested().data else {
            return Err(format!("`{}` is no plain aggregate", expr.schema_name()));
        };
        let name = call.func.name();
        if !MERGEABLE.contains(&name) {
            return Err(format!("states of `{name}` do not merge exactly"));
        }
        if call.params.distinct && !matches!(name, "count" | "min" | "max" | "bool_and" | "bool_or") {
            return Err(format!("states of `{name}(DISTINCT …)` do not merge"));
        }
        let is_ordered = matches!(name, "first_value" | "last_value");
        let by_identity = call
            .params
            .order_by
            .last()
            .is_some_and(|last| matches!(&last.expr, Expr::Column(column) if column.name == OFFSET));
        if is_ordered && !by_identity {
            return Err(format!(
                "`{name}` stands where a row's identity is out of reach, so ties cannot be broken"
            ));
        }
    }
    Ok(())
}

/// The aggregate's input, cut down to the columns that it uses.
fn used_columns(aggregate: &Aggregate) -> DfResult<LogicalPlan> {
    let schema = aggregate.input.schema();
    let mut used = BTreeSet::new();
    for expr in aggregate.group_expr.iter().chain(&aggregate.aggr_expr) {
        for column in expr.column_refs() {
            used.insert(schema.index_of_column(column)?);
        }
    }
    if used.is_empty() {
        used.insert(0);
    }
    let exprs = used.into_iter().map(|at| Expr::Column(Column::from(schema.qualified_field(at)))).collect();
    Projection::try_new(exprs, Arc::clone(&aggregate.input)).map(LogicalPlan::Projection)
}

fn answer_schema(schema: &DFSchemaRef, keys: usize) -> SchemaRef {
    let name = |at: usize| if at < keys { format!("g{at}") } else { format!("a{}", at - keys) };
    let field = |(at, field): (usize, &Arc<Field>)| {
        Field::new(name(at), field.data_type().clone(), field.is_nullable())
    };
    Arc::new(Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>()))
}

/// `plan` with a scan of the answer, renamed, where `aggregate` stands.
fn replace(plan: &LogicalPlan, aggregate: &Aggregate, answer: &SchemaRef) -> DfResult<LogicalPlan> {
    let replaced = plan.clone().transform_down(|node| match &node {
        LogicalPlan::Aggregate(found) if found == aggregate => {
            let source = provider_as_source(Arc::new(Columns(Arc::clone(answer))));
            let names = aggregate.schema.iter().zip(answer.fields()).map(|((qualifier, field), column)| {
                col(Column::new(Some(TableReference::bare(ANSWER)), column.name()))
                    .alias_qualified(qualifier.cloned(), field.name())
            });
            let scan = LogicalPlanBuilder::scan(TableReference::bare(ANSWER), source, None)?
                .project(names.collect::<Vec<_>>())?;
            Ok(Transformed::new(scan.build()?, true, TreeNodeRecursion::Jump))
        }
        _ => Ok(Transformed::no(node)),
    });
    replaced.map(|replaced| replaced.data)
}

/// States that are being read, as a table of columns `g0, …, s0, …`.
#[derive(Debug)]
struct ReadyStates {
    schema: SchemaRef,
    states: Arc<dyn ExecutionPlan>,
}

#[async_trait]
impl TableProvider for ReadyStates {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let from = self.states.schema();
        let columns = projection.unwrap_or(&all).iter().map(|at| {
            let column: Arc<dyn PhysicalExpr> = Arc::new(PhysicalColumn::new(from.field(*at).name(), *at));
            (column, self.schema.field(*at).name().clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), Arc::clone(&self.states))?))
    }
}
