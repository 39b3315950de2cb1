//! A view as it was declared: parsed, planned, checked, and sorted by the way it can be kept.
//!
//! | the query | the way |
//! |---|---|
//! | one aggregate over the rows of one table, by functions whose states merge exactly (sketches: within their bounds) | states |
//! | anything else that reads tables | rows: run over lake and tail each time |
//! | a function whose value depends on when or how often it is called | refused |
//!
//! `first_value` and `last_value` get `_partition, _offset` as their last order, so that ties are broken in the same way
//! wherever the rows lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{SchemaProvider, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result as DfResult, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, TableScan, Volatility};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use futures::future::BoxFuture;
use tarn_model::columns::{OFFSET, PARTITION, TOPIC};
use tarn_model::{Error, Result};

use crate::error::from_datafusion;
use crate::planner::{Columns, Planner};
use crate::split::Split;
use crate::stamp::plan_hash;

/// A view that was planned against the tables it reads.
#[derive(Debug)]
pub struct Definition {
    /// Its name in SQL.
    pub name: String,
    /// Its query, as it was written.
    pub query: String,
    /// The tables that it reads, by the name in its query, with their columns.
    pub tables: BTreeMap<String, SchemaRef>,
    /// How it is kept.
    pub way: Way,
    /// Hash of the query, the table and the states' columns.
    pub plan_hash: String,
    /// The whole query, its tables being placeholders.
    plan: LogicalPlan,
}

/// How a view is kept.
#[derive(Debug)]
pub enum Way {
    /// As states of its aggregate over the rows of one table.
    States(Arc<Split>),
    /// Not at all: each statement runs it over lake and tail.
    Rows {
        /// Why.
        reason: String,
    },
}

impl Definition {
    /// Plans `query` over the tables that `columns` knows by name.
    ///
    /// A boxed future: whoever polls an `async fn` compiles what it calls again.
    pub fn plan<'a>(
        planner: &'a Planner,
        name: &'a str,
        query: &'a str,
        columns: &'a (dyn Fn(&str) -> Option<SchemaRef> + Sync),
    ) -> BoxFuture<'a, Result<Definition>> {
        Box::pin(Self::planned(planner, name, query, columns))
    }

    async fn planned(
        planner: &Planner,
        name: &str,
        query: &str,
        columns: &(dyn Fn(&str) -> Option<SchemaRef> + Sync),
    ) -> Result<Definition> {
        let (statement, names) = parse(query)?;
        let mut tables = BTreeMap::new();
        for table in names {
            let schema = columns(&table).ok_or_else(|| {
                Error::invalid(format!("view `{name}` reads a table that is not here: `{table}`"))
            })?;
            tables.insert(table, schema);
        }
        let canonical = statement.to_string();
        let session = planner.session(Arc::new(Placeholders(tables.clone())));
        let plan = tarn_sql::plan(&session, statement).await.map_err(from_datafusion)?;
        refuse_changing_functions(name, &plan)?;
        let plan = plan.transform_up_with_subqueries(break_ties).map_err(from_datafusion)?.data;
        let plan = session
            .analyzer()
            .execute_and_check(plan, session.config_options(), |_, _| {})
            .map_err(from_datafusion)?;
        let of_many =
            tables.iter().find(|(_, schema)| schema.fields().first().is_some_and(|f| f.name() == TOPIC));
        let way = match Split::of(&plan, &session) {
            // States cover offsets of one topic.
            Ok(_) if of_many.is_some() => {
                let name = of_many.map(|(name, _)| name.as_str()).unwrap_or_default();
                Way::Rows { reason: format!("`{name}` is a table of many topics") }
            }
            Ok(split)
                if tables
                    .get(split.table())
                    .is_some_and(|schema| schema.field_with_name(OFFSET).is_err()) =>
            {
                Way::Rows {
                    reason: format!("`{}` is an import table: its rows have no offsets", split.table()),
                }
            }
            Ok(split) => Way::States(Arc::new(split.with_tail_plan(&session).await)),
            Err(reason) => Way::Rows { reason },
        };
        let (table, states) = match &way {
            Way::States(split) => (split.table(), Some(split.state_schema())),
            Way::Rows { .. } => ("", None),
        };
        let plan_hash = plan_hash(&canonical, table, states.map(AsRef::as_ref));
        Ok(Definition { name: name.to_owned(), query: query.to_owned(), tables, way, plan_hash, plan })
    }

    /// The tables that `query` names, before anything is known of them; refuses what is no single query.
    pub fn tables_of(query: &str) -> Result<Vec<String>> {
        parse(query).map(|(_, names)| names)
    }

    /// The view's columns.
    pub fn schema(&self) -> &SchemaRef {
        self.plan.schema().inner()
    }

    /// The whole query over `tables`.
    pub fn over_rows(&self, tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>) -> Result<LogicalPlan> {
        bind(&self.plan, tables).map_err(from_datafusion)
    }

    /// The query with its aggregate's answer taken from `states`, and whatever else it reads from `tables`.
    pub fn over_states(
        &self,
        split: &Split,
        states: Arc<dyn TableProvider>,
        tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>,
    ) -> Result<LogicalPlan> {
        let plan = split.above(states).map_err(from_datafusion)?;
        bind(&plan, tables).map_err(from_datafusion)
    }
}

/// `plan` with its placeholders replaced.
pub(crate) fn bind(
    plan: &LogicalPlan,
    tables: &dyn Fn(&str) -> Option<Arc<dyn TableProvider>>,
) -> DfResult<LogicalPlan> {
    let bound = plan.clone().transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => match tables(scan.table_name.table()) {
            Some(table) => {
                let source = provider_as_source(table);
                Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })))
            }
            None => Ok(Transformed::no(LogicalPlan::TableScan(scan))),
        },
        other => Ok(Transformed::no(other)),
    });
    bound.map(|bound| bound.data)
}

fn parse(query: &str) -> Result<(Statement, Vec<String>)> {
    let mut statements = DFParser::parse_sql(query).map_err(from_datafusion)?;
    let (Some(statement), true) = (statements.pop_front(), statements.is_empty()) else {
        return Err(Error::invalid("a view is one `SELECT`"));
    };
    let Statement::Statement(ast) = &statement else {
        return Err(Error::invalid("a view is a `SELECT`"));
    };
    if !matches!(ast.as_ref(), SqlStatement::Query(_)) {
        return Err(Error::invalid("a view is a `SELECT`"));
    }
    let unknown = |reference: &TableReference| {
        Error::invalid(format!("a view reads tables by their plain names, not `{reference}`"))
            .with_hint("leave out `lake.` and `live.`: a view is kept over both")
    };
    let mut names = Vec::new();
    let (references, _) = resolve_table_references(&statement, true).map_err(from_datafusion)?;
    for reference in references {
        match &reference {
            TableReference::Bare { table } => names.push(table.to_string()),
            TableReference::Partial { schema, table } if schema.as_ref() == "public" => {
                names.push(table.to_string());
            }
            _ => return Err(unknown(&reference)),
        }
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err(Error::invalid("a view reads at least one table"));
    }
    Ok((statement, names))
}

/// What is called for each row or each statement anew has no place in a state.
fn refuse_changing_functions(view: &str, plan: &LogicalPlan) -> Result<()> {
    let mut found: Option<(String, Volatility)> = None;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                let (name, volatility) = match expr {
                    Expr::ScalarFunction(call) => (call.func.name(), call.func.signature().volatility),
                    Expr::AggregateFunction(call) => (call.func.name(), call.func.signature().volatility),
                    _ => return Ok(TreeNodeRecursion::Continue),
                };
                if volatility == Volatility::Immutable {
                    return Ok(TreeNodeRecursion::Continue);
                }
                found.get_or_insert((name.to_owned(), volatility));
                Ok(TreeNodeRecursion::Stop)
            })
        })
    });
    walked.map_err(from_datafusion)?;
    match found {
        None => Ok(()),
        Some((name, volatility)) => {
            let why = if volatility == Volatility::Volatile {
                "gives another value at each call"
            } else {
                "gives another value in each statement"
            };
            Err(Error::invalid(format!("view `{view}` calls `{name}()`, which {why}")).with_hint(
                "a view is kept over time, so it may only use what depends on its rows; compare with the time in the \
                 statement that reads the view",
            ))
        }
    }
}

/// Gives `first_value` and `last_value` the identity of a row as their last order.
fn break_ties(plan: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let LogicalPlan::Aggregate(aggregate) = &plan else { return Ok(Transformed::no(plan)) };
    let schema = aggregate.input.schema();
    let identity: Option<Vec<Column>> = [PARTITION, OFFSET]
        .iter()
        .map(|name| {
            schema
                .qualified_field_with_unqualified_name(name)
                .ok()
                .map(|(q, f)| Column::new(q.cloned(), f.name()))
        })
        .collect();
    let Some(identity) = identity else { return Ok(Transformed::no(plan)) };
    let is_ordered = |call: &AggregateFunction| matches!(call.func.name(), "first_value" | "last_value");
    let mut changed = false;
    let mut exprs = Vec::with_capacity(aggregate.aggr_expr.len());
    for expr in &aggregate.aggr_expr {
        let (inner, relation, name) = match expr {
            Expr::Alias(alias) => (alias.expr.as_ref(), alias.relation.clone(), alias.name.clone()),
            other => (other, None, other.schema_name().to_string()),
        };
        match inner {
            Expr::AggregateFunction(call) if is_ordered(call) => {
                let mut call = call.clone();
                let tie = identity.iter().map(|column| Expr::Column(column.clone()).sort(true, false));
                call.params.order_by.extend(tie);
                exprs.push(Expr::AggregateFunction(call).alias_qualified(relation, name));
                changed = true;
            }
            _ => exprs.push(expr.clone()),
        }
    }
    if !changed {
        return Ok(Transformed::no(plan));
    }
    let aggregate = Aggregate::try_new(Arc::clone(&aggregate.input), aggregate.group_expr.clone(), exprs)?;
    Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
}

#[derive(Debug)]
struct Placeholders(BTreeMap<String, SchemaRef>);

#[async_trait]
impl SchemaProvider for Placeholders {
    fn table_names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        Ok(self.0.get(name).map(|schema| Arc::new(Columns(Arc::clone(schema))) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}
