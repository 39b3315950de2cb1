//! A parsed statement to a logical plan; a query over one record.
//!
//! *Why* a room for one function: DataFusion's planner is generic and its entry is an `async fn`, so every crate that polls it,
//! directly or through an `async fn` of another crate, compiles the whole planner again: two minutes of a release build for
//! each of four crates. Behind a boxed future it is compiled once, here, where nothing is optimised because no row passes
//! but those of [`RowQuery`], one at a time; the functions that it calls are in crates that are.

mod row_query;

pub use row_query::RowQuery;

use datafusion::common::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use futures::future::BoxFuture;

/// Resolves the names in `statement` against the tables of `session` and makes an unoptimised plan.
pub fn plan(session: &SessionState, statement: Statement) -> BoxFuture<'_, Result<LogicalPlan>> {
    Box::pin(session.statement_to_plan(statement))
}
