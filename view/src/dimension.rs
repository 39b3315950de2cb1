//! A join with other tables, taken from below an aggregate to above its states.
//!
//! *Why it is right*: rows of one table that agree in all columns that the join, the filters above it and the keys use meet the
//! same rows of the other tables. So they may be merged before the join, as states, and the states once more after it. A
//! dimension that has a key twice repeats a state as it would have repeated each row: it need not be unique. And it is
//! read when the view is: a row that changes there needs no rebuild.
//!
//! ```text
//! Aggregate: name                      Final: name
//!   Filter: month = 6 and name <> 'x'    Filter: name <> 'x'
//!     Join: f.carrier = a.carrier          Join: f.carrier = a.carrier
//!       flights AS f                 ─►      states by f.carrier  ◄── Partial ── Filter: month = 6 ── flights AS f
//!       airlines AS a                        airlines AS a
//! ```
//!
//! *Not here*, and so run over the rows: aggregates of more than one table's columns; an outer join that keeps rows of another
//! table which have no match (a state of no rows is not a row of NULLs); a join by floating-point numbers, of which a group
//! holds `0.0` and `-0.0` but an equation does not; a subquery or a lateral join.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, DFSchema, JoinType, Result as DfResult, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, Expr, ExprSchemable, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, col,
};

use crate::definition::bind;
use crate::planner::Columns;
use crate::split::{contains_subquery, rows_of};
use crate::windows::WINDOWS;

/// The name under which the states stand in the plan that joins them: no table can have it.
const PARTIAL: &str = "@partial";

/// An aggregate over a join as one over the rows of one table, and what joins its states.
#[derive(Debug)]
pub(crate) struct Lowered {
    /// The table whose columns are aggregated.
    pub(crate) table: String,
    /// The aggregate over its rows: by every column that anything above the states needs.
    pub(crate) aggregate: Aggregate,
    /// The keys of the query, over what joins the states.
    finals: Vec<Final>,
    /// From below to above.
    path: Vec<Step>,
    /// Names of the other tables.
    others: BTreeSet<String>,
}

/// A key of the query.
#[derive(Debug)]
enum Final {
    /// The same as this key of the states.
    State(usize),
    /// An expression over the joined states.
    Above(Expr),
}

#[derive(Debug)]
enum Step {
    /// A join, with the states on its left side or not.
    Join(Join, bool),
    Filter(Vec<Expr>),
}

/// What joins states, and how their columns stand to the query's keys.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Columns `g0, g1, …` (the query's keys), then the states', over placeholders.
    plan: LogicalPlan,
    /// For each key of the query the key of the states that it is.
    pub(crate) state_keys: Vec<Option<usize>>,
    /// Names of the joined tables.
    pub(crate) tables: BTreeSet<String>,
}

impl Lowered {
    /// Takes the joins from below `aggregate`, or says what stands in the way.
    pub(crate) fn of(aggregate: &Aggregate) -> Result<Lowered, String> {
        let aggregated: BTreeSet<Column> =
            aggregate.aggr_expr.iter().flat_map(|expr| expr.column_refs().into_iter().cloned()).collect();
        let mut walk = Walk { aggregated, steps: Vec::new(), hop: None, others: BTreeSet::new() };
        let (rows, table) = walk.down(&aggregate.input)?;
        let Walk { mut steps, hop, others, .. } = walk;
        steps.reverse();
        let own = |expr: &Expr, rows: &LogicalPlan| {
            let refs = expr.column_refs();
            !refs.is_empty() && refs.iter().all(|column| rows.schema().has_column(column))
        };
        // What filters only the table's rows does so below the states.
        let mut below = Vec::new();
        for step in &mut steps {
            if let Step::Filter(conditions) = step {
                let (moved, stay) = std::mem::take(conditions).into_iter().partition(|expr| own(expr, &rows));
                below.extend::<Vec<Expr>>(moved);
                *conditions = stay;
            }
        }
        let mut rows = LogicalPlanBuilder::from(rows);
        if let Some(below) = conjunction(below) {
            rows = rows.filter(below).map_err(internal)?;
        }
        let mut rows = rows.build().map_err(internal)?;
        if let Some(hop) = hop {
            if !own(&hop, &rows) {
                return Err("its `hop` is over a column of a joined table".to_owned());
            }
            let columns = rows.schema().columns().into_iter().map(Expr::Column).chain([hop]);
            rows = LogicalPlanBuilder::from(rows)
                .project(columns.collect::<Vec<_>>())
                .and_then(|plan| plan.unnest_column(Column::from_name(WINDOWS)))
                .and_then(LogicalPlanBuilder::build)
                .map_err(internal)?;
        }
        let mut keys = Vec::new();
        let mut need = |expr: &Expr| needed_columns(expr, &rows, &mut keys);
        for step in &steps {
            match step {
                Step::Join(join, _) => {
                    join.on.iter().try_for_each(|(a, b)| need(a).and_then(|()| need(b)))?;
                    join.filter.iter().try_for_each(&mut need)?;
                }
                Step::Filter(conditions) => conditions.iter().try_for_each(&mut need)?,
            }
        }
        let mut finals = Vec::with_capacity(aggregate.group_expr.len());
        for key in &aggregate.group_expr {
            let key = key.clone().unalias_nested().data;
            if own(&key, &rows) {
                let at = keys.iter().position(|known| *known == key).unwrap_or_else(|| {
                    keys.push(key);
                    keys.len() - 1
                });
                finals.push(Final::State(at));
            } else {
                needed_columns(&key, &rows, &mut keys)?;
                finals.push(Final::Above(key));
            }
        }
        if keys.is_empty() {
            return Err(format!("no column of `{table}` joins it with the other tables"));
        }
        let aggregate =
            Aggregate::try_new(Arc::new(rows), keys, aggregate.aggr_expr.clone()).map_err(internal)?;
        Ok(Lowered { table, aggregate, finals, path: steps, others })
    }

    /// What joins states with columns `states`, of which the first are this aggregate's keys.
    pub(crate) fn joined(&self, states: &Schema) -> DfResult<Joined> {
        let keys = self.aggregate.group_expr.len();
        let columns = named_states(states, keys);
        let source = provider_as_source(Arc::new(Columns(Arc::clone(&columns))));
        let name =
            |at: usize| col(Column::new(Some(TableReference::bare(PARTIAL)), columns.field(at).name()));
        let key = |(at, key): (usize, &Expr)| match key {
            Expr::Column(column) => name(at).alias_qualified(column.relation.clone(), column.name.clone()),
            _ => name(at).alias(key_name(at)),
        };
        let kept = self.aggregate.group_expr.iter().enumerate().map(key);
        let kept = kept.chain((keys..columns.fields().len()).map(|at| name(at).alias(state_name(at))));
        let mut plan = LogicalPlanBuilder::scan(TableReference::bare(PARTIAL), source, None)?
            .project(kept.collect::<Vec<_>>())?
            .build()?;
        for step in &self.path {
            plan = match step {
                Step::Filter(conditions) => match conjunction(conditions.iter().cloned()) {
                    Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan))?),
                    None => plan,
                },
                Step::Join(join, on_left) => {
                    let plan = Arc::new(plan);
                    let (left, right) = if *on_left {
                        (plan, Arc::clone(&join.right))
                    } else {
                        (Arc::clone(&join.left), plan)
                    };
                    LogicalPlan::Join(Join::try_new(
                        left,
                        right,
                        join.on.clone(),
                        join.filter.clone(),
                        join.join_type,
                        join.join_constraint,
                        join.null_equality,
                        join.null_aware,
                    )?)
                }
            };
        }
        let of = |at: usize| match &self.aggregate.group_expr[at] {
            Expr::Column(column) => Expr::Column(column.clone()),
            _ => col(Column::from_name(key_name(at))),
        };
        let finals = self.finals.iter().enumerate().map(|(at, key)| {
            let key = match key {
                Final::State(at) => of(*at),
                Final::Above(expr) => expr.clone(),
            };
            key.alias(format!("g{at}"))
        });
        let states = (keys..columns.fields().len())
            .map(|at| col(Column::from_name(state_name(at))).alias(columns.field(at).name()));
        let exprs = finals.chain(states).collect();
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
        let state_keys = self.finals.iter().map(|key| match key {
            Final::State(at) => Some(*at),
            Final::Above(_) => None,
        });
        Ok(Joined { plan, state_keys: state_keys.collect(), tables: self.others.clone() })
    }
}

impl Joined {
    /// The plan over the joined tables; the states are still a placeholder.
    pub(crate) fn over(
        &self,
        tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>,
    ) -> DfResult<LogicalPlan> {
        bind(&self.plan, &|name| (name != PARTIAL).then(|| tables(name)).flatten())
    }
}

/// What [`Joined::over`] made, over `states`.
pub(crate) fn over_states(plan: &LogicalPlan, states: Arc<dyn TableProvider>) -> DfResult<LogicalPlan> {
    bind(plan, &|name| (name == PARTIAL).then(|| Arc::clone(&states)))
}

/// States under the names `g0, g1, …, s0, s1, …`.
pub(crate) fn named_states(states: &Schema, keys: usize) -> SchemaRef {
    let name = |at: usize| if at < keys { format!("g{at}") } else { format!("s{}", at - keys) };
    let fields = states.fields().iter().enumerate();
    let fields = fields.map(|(at, field)| Field::new(name(at), field.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn key_name(at: usize) -> String {
    format!("__key{at}")
}

fn state_name(at: usize) -> String {
    format!("__state{at}")
}

fn internal(error: datafusion::error::DataFusionError) -> String {
    format!("it cannot be split: {error}")
}

/// Adds the columns of `rows` that `expr` uses to `keys`.
fn needed_columns(expr: &Expr, rows: &LogicalPlan, keys: &mut Vec<Expr>) -> Result<(), String> {
    let schema: &DFSchema = rows.schema();
    let refs: BTreeSet<&Column> =
        expr.column_refs().into_iter().filter(|column| schema.has_column(column)).collect();
    for column in refs {
        let key = Expr::Column(column.clone());
        let data_type = key.get_type(schema).map_err(internal)?;
        if matches!(data_type, DataType::Float16 | DataType::Float32 | DataType::Float64) {
            return Err(format!(
                "its join, or what is above it, uses the floating-point column `{}`",
                column.name
            ));
        }
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(())
}

/// From an aggregate down to the rows that it aggregates.
struct Walk {
    aggregated: BTreeSet<Column>,
    /// From above to below.
    steps: Vec<Step>,
    hop: Option<Expr>,
    others: BTreeSet<String>,
}

impl Walk {
    fn down(&mut self, plan: &LogicalPlan) -> Result<(LogicalPlan, String), String> {
        let over = match rows_of(plan) {
            Ok(table) => return Ok((plan.clone(), table)),
            Err(over) => over,
        };
        let mut has_subquery = false;
        let looked = plan.apply_expressions(|expr| {
            has_subquery |= contains_subquery(expr)?;
            Ok(TreeNodeRecursion::Continue)
        });
        looked.map_err(internal)?;
        if has_subquery {
            return Err("a subquery stands below its aggregate".to_owned());
        }
        match plan {
            LogicalPlan::Filter(node) => {
                self.steps.push(Step::Filter(split_conjunction_owned(node.predicate.clone())));
                self.down(&node.input)
            }
            // As windows are put below an aggregate.
            LogicalPlan::Unnest(node) if self.hop.is_none() => match node.input.as_ref() {
                LogicalPlan::Projection(below) => match below.expr.split_last() {
                    Some((Expr::Alias(hop), rest))
                        if hop.name == WINDOWS && rest.iter().all(|expr| matches!(expr, Expr::Column(_))) =>
                    {
                        self.hop = Some(Expr::Alias(hop.clone()));
                        self.down(&below.input)
                    }
                    _ => Err(over),
                },
                _ => Err(over),
            },
            LogicalPlan::Join(join) => self.through(join),
            _ => Err(over),
        }
    }

    fn through(&mut self, join: &Join) -> Result<(LogicalPlan, String), String> {
        let holds = |plan: &LogicalPlan| {
            self.aggregated.iter().all(|column| column.name == WINDOWS || plan.schema().has_column(column))
        };
        let preserves_right =
            matches!(join.join_type, JoinType::Right | JoinType::RightSemi | JoinType::RightAnti);
        let on_left = match (holds(&join.left), holds(&join.right)) {
            (true, true) => !preserves_right,
            (true, false) => true,
            (false, true) => false,
            (false, false) => return Err("it aggregates columns of more than one table".to_owned()),
        };
        let (ours, other) = if on_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
        let keeps_ours = match join.join_type {
            JoinType::Inner => true,
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti => on_left && !join.null_aware,
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti => !on_left && !join.null_aware,
            _ => false,
        };
        if !keeps_ours {
            return Err("its join keeps rows of another table that have no match".to_owned());
        }
        let mut is_lateral = false;
        other
            .apply_with_subqueries(|node| {
                match node {
                    LogicalPlan::TableScan(scan) => {
                        self.others.insert(scan.table_name.table().to_owned());
                    }
                    LogicalPlan::Subquery(_) => is_lateral = true,
                    _ => {}
                }
                Ok(TreeNodeRecursion::Continue)
            })
            .map_err(internal)?;
        if is_lateral {
            return Err("its join is lateral".to_owned());
        }
        self.steps.push(Step::Join(join.clone(), on_left));
        self.down(ours)
    }
}
