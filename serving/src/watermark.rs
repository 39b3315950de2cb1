//! The watermarks that a statement asks for, at its vector.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::common::TableReference;
use datafusion::datasource::provider_as_source;
use datafusion::execution::{SessionState, TaskContext};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::collect;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, ObjectNamePart, Value, Visit, Visitor,
};
use tarn_model::{Error, Result};
use tarn_table::scan::{Part, TableScan};
use tarn_table::{Catalog, EventTime};
use tarn_view::{WATERMARK, Watermarks};

use crate::error::from_datafusion;
use crate::session::Moment;

/// The tables whose watermarks `statement` asks for, as it writes them.
pub(crate) fn asked(statement: &DfStatement) -> Vec<String> {
    struct Calls(Vec<String>);
    impl Visitor for Calls {
        type Break = ();

        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            if let Expr::Function(call) = expr
                && let [ObjectNamePart::Identifier(name)] = call.name.0.as_slice()
                && name.value.eq_ignore_ascii_case(WATERMARK)
                && let FunctionArguments::List(list) = &call.args
                && let [FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(value)))] =
                    list.args.as_slice()
                && let Value::SingleQuotedString(table) = &value.value
                && !self.0.contains(table)
            {
                self.0.push(table.clone());
            }
            ControlFlow::Continue(())
        }
    }
    match statement {
        DfStatement::Statement(statement) => {
            let mut calls = Calls(Vec::new());
            let _ = statement.visit(&mut calls);
            calls.0
        }
        DfStatement::Explain(explain) => asked(&explain.statement),
        _ => Vec::new(),
    }
}

/// The tables that decide on the statement's vector because of them.
pub(crate) fn references(asked: &[String]) -> impl Iterator<Item = TableReference> {
    asked.iter().map(|table| TableReference::bare(table.as_str()))
}

/// Their values at the vector of `moment`. Where commits do not tell them (a vector below the lake part's, or a lake part that
/// is older than the table's event time), rows are read, as a part of the statement.
pub(crate) async fn values(
    asked: Vec<String>,
    catalog: &Catalog,
    moment: &Moment,
    state: &SessionState,
    task: &Arc<TaskContext>,
) -> Result<Watermarks> {
    let mut values = Watermarks::new();
    for name in asked {
        let Some((table, upto)) = moment.table_at(&name) else {
            return Err(match moment.views().named(&name) {
                Ok(view) => Error::invalid(format!("`{view}` is a view: watermarks are of tables"))
                    .with_hint("ask for the watermark of the table that it reads; `EXPLAIN VIEW` names it"),
                Err(_) => moment.no_table(&name),
            });
        };
        let Some(time) = catalog.event_time(&table.name) else {
            return Err(Error::invalid(format!("table `{}` has no event time", table.name))
                .with_hint("its `[[table]]` says which column it is: `event_time = \"ts\"`"));
        };
        time.check(&table)?;
        let newest = match time.newest(&table, &upto) {
            Some(newest) => newest,
            None => read(&time, TableScan::new(table, Part::Both, upto), state, task).await?,
        };
        values.insert(name, time.watermark(&newest));
    }
    Ok(values)
}

async fn read(
    time: &EventTime,
    rows: TableScan,
    state: &SessionState,
    task: &Arc<TaskContext>,
) -> Result<tarn_table::watermark::Newest> {
    let rows = LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(rows)), None);
    let plan = rows.and_then(|rows| time.plan(rows)).map_err(from_datafusion)?;
    let plan = state.create_physical_plan(&plan).await.map_err(from_datafusion)?;
    let answer = collect(plan, Arc::clone(task)).await.map_err(from_datafusion)?;
    Ok(time.read(&answer))
}
