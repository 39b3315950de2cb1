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

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::datasource::provider_as_source;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Projection, col};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{Partitioning, PhysicalExpr, create_physical_expr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode, PhysicalGroupBy};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use crate::definition::bind;
use crate::planner::Columns;
use crate::stored::StoredStates;

/// The name under which the aggregate's answer stands in the plan above it.
const ANSWER: &str = "states";

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
    /// Group keys over the input's columns.
    keys: Vec<Expr>,
    group: PhysicalGroupBy,
    aggregates: Vec<Arc<AggregateFunctionExpr>>,
    filters: Vec<Option<Arc<dyn PhysicalExpr>>>,
    input_schema: SchemaRef,
    state_schema: SchemaRef,
    stored: StoredStates,
    answer: SchemaRef,
    /// The whole plan, with a placeholder for the aggregate's answer.
    above: LogicalPlan,
}

impl Split {
    /// Cuts an analyzed plan, or says why it cannot be.
    pub(crate) fn of(plan: &LogicalPlan, session: &SessionState) -> Result<Split, String> {
        let (aggregate, table) = find(plan)?;
        check_aggregates(&aggregate)?;
        let internal = |error: datafusion::error::DataFusionError| format!("it cannot be split: {error}");
        let input = used_columns(&aggregate).map_err(internal)?;
        let logical: &DFSchema = input.schema();
        let input_schema = Arc::clone(logical.inner());
        let props = session.execution_props();
        let context = PhysicalPlanningContext::default();
        let keys = aggregate.group_expr.clone();
        let key = |(at, expr): (usize, &Expr)| {
            Ok((create_physical_expr(expr, logical, props, &context)?, format!("g{at}")))
        };
        let group: DfResult<Vec<_>> = keys.iter().enumerate().map(key).collect();
        let group = match group.map_err(internal)? {
            none if none.is_empty() => PhysicalGroupBy::new(vec![], vec![], vec![], false),
            some => PhysicalGroupBy::new_single(some),
        };
        let (mut aggregates, mut filters) = (Vec::new(), Vec::new());
        for (at, expr) in aggregate.aggr_expr.iter().enumerate() {
            let lowered = LoweredAggregateBuilder::new(expr, logical, &input_schema, props, &context)
                .with_name(format!("a{at}"))
                .build()
                .map_err(internal)?;
            aggregates.push(lowered.aggregate);
            filters.push(lowered.filter);
        }
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
        let answer = answer_schema(&aggregate.schema, keys.len());
        let above = replace(plan, &aggregate, &answer).map_err(internal)?;
        Ok(Split {
            table,
            input,
            keys,
            group,
            aggregates,
            filters,
            input_schema,
            state_schema,
            stored,
            answer,
            above,
        })
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

    /// Number of group keys.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Rows to states, one stream for each of the rows' streams; only groups that `only` (over the answer's key columns)
    /// leaves.
    pub async fn partial(
        &self,
        rows: Arc<dyn TableProvider>,
        only: Option<&Expr>,
        session: &dyn Session,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let mut input = self.input.clone();
        if let Some(only) = only {
            input = LogicalPlanBuilder::from(input).filter(self.over_input(only)?)?.build()?;
        }
        let input = bind(&input, &|_| Some(Arc::clone(&rows)))?;
        let input = session.create_physical_plan(&input).await?;
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
        self.merge(AggregateMode::PartialReduce, one_stream(states))
    }

    /// States to the answer, in `streams` streams.
    pub fn finish(&self, states: Arc<dyn ExecutionPlan>, streams: usize) -> DfResult<Arc<dyn ExecutionPlan>> {
        if streams <= 1 || self.keys.is_empty() || states.output_partitioning().partition_count() <= 1 {
            return self.merge(AggregateMode::Final, one_stream(states));
        }
        let key = |at: usize| {
            Arc::new(PhysicalColumn::new(self.state_schema.field(at).name(), at)) as Arc<dyn PhysicalExpr>
        };
        let by_key = Partitioning::Hash((0..self.keys.len()).map(key).collect(), streams);
        self.merge(AggregateMode::FinalPartitioned, Arc::new(RepartitionExec::try_new(states, by_key)?))
    }

    fn merge(&self, mode: AggregateMode, states: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(AggregateExec::try_new(
            mode,
            self.group.as_final(),
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
            LogicalPlan::TableScan(scan) => scan.table_name.table() == ANSWER && at < self.keys.len(),
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

    /// An expression over the answer's keys as one over the input.
    fn over_input(&self, expr: &Expr) -> DfResult<Expr> {
        let swapped = expr.clone().transform_up(|expr| match &expr {
            Expr::Column(column) => {
                let at = self.answer.index_of(&column.name)?;
                Ok(Transformed::yes(self.keys[at].clone().unalias_nested().data))
            }
            _ => Ok(Transformed::no(expr)),
        });
        swapped.map(|swapped| swapped.data)
    }
}

fn one_stream(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if plan.output_partitioning().partition_count() == 1 {
        plan
    } else {
        Arc::new(CoalescePartitionsExec::new(plan))
    }
}

/// The one aggregate over the rows of one table, with that table's name.
fn find(plan: &LogicalPlan) -> Result<(Aggregate, String), String> {
    let (mut found, mut aggregates) = (Vec::new(), 0);
    let mut why = None;
    let walked = plan.apply(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            aggregates += 1;
            match rows_of(&aggregate.input) {
                Ok(table) => found.push((aggregate.clone(), table)),
                Err(reason) => why = Some(reason),
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
fn rows_of(plan: &LogicalPlan) -> Result<String, String> {
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

fn contains_subquery(expr: &Expr) -> DfResult<bool> {
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
        if is_ordered && call.params.order_by.is_empty() {
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
                col(Column::new(Some(ANSWER), column.name()))
                    .alias_qualified(qualifier.cloned(), field.name())
            });
            let scan = LogicalPlanBuilder::scan(ANSWER, source, None)?.project(names.collect::<Vec<_>>())?;
            Ok(Transformed::new(scan.build()?, true, TreeNodeRecursion::Jump))
        }
        _ => Ok(Transformed::no(node)),
    });
    replaced.map(|replaced| replaced.data)
}
