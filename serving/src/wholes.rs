//! A table of many topics in a statement: its parts, one below the other, each with its topic's name in `_topic`.
//!
//! *Invariant*: each part is read below the statement's vector as any table is, so the whole has neither gap nor overlap. A
//! condition on `_topic` leaves out the parts of other topics when the statement is planned.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::{MemTable, TableProvider, view::ViewTable};
use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Union, ident, lit};
use tarn_model::columns::TOPIC;
use tarn_table::scan::TableScan;

/// The table with the columns `schema`, of `(topic, part)`.
pub(crate) fn table(
    schema: &SchemaRef,
    parts: impl Iterator<Item = (String, TableScan)>,
) -> Result<Arc<dyn TableProvider>> {
    let mut plans: Vec<Arc<LogicalPlan>> =
        parts.map(|(topic, scan)| part(schema, topic, scan).map(Arc::new)).collect::<Result<_>>()?;
    let plan = match plans.len() {
        0 => return Ok(Arc::new(MemTable::try_new(Arc::clone(schema), vec![Vec::new()])?)),
        1 => Arc::unwrap_or_clone(plans.remove(0)),
        _ => LogicalPlan::Union(Union::try_new_with_loose_types(plans)?),
    };
    Ok(Arc::new(ViewTable::new(plan, None)))
}

fn part(schema: &SchemaRef, topic: String, scan: TableScan) -> Result<LogicalPlan> {
    let columns = scan.schema();
    let mut shown: Vec<Expr> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        shown.push(if field.name() == TOPIC {
            lit(ScalarValue::Utf8View(Some(topic.clone()))).alias(TOPIC)
        } else if columns.field_with_name(field.name()).is_ok() {
            ident(field.name())
        } else {
            lit(ScalarValue::try_from(field.data_type())?).alias(field.name())
        });
    }
    LogicalPlanBuilder::scan("part", provider_as_source(Arc::new(scan)), None)?.project(shown)?.build()
}
