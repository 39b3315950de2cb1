//! Running plans over views that were made before, for another moment.
//!
//! *Why*: a panel asks the same of a few groups again and again. To plan that costs more than all the rest, and only what the views
//! have to read is new.
//!
//! *Invariants*
//! - A kept plan holds on to no states, rows or files: where a view was read, it knows what was asked of it.
//! - It has only nodes that are known to begin anew in a copy, whatever was done with the one before ([`begins_anew`]).
//! - A view that stands in it later gives what the first one gave: the same columns in one stream, of whose order nothing is said.

use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::limit::{GlobalLimitExec, LocalLimitExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

use super::{StatesScan, ViewExec};
use crate::split::Split;

/// A plan that reads little of views, without what it reads.
#[derive(Debug)]
pub struct KeptPlan(Arc<dyn ExecutionPlan>);

/// What a statement asks of a view.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) split: Arc<Split>,
    pub(super) projection: Option<Vec<usize>>,
    pub(super) filters: Vec<Expr>,
}

impl KeptPlan {
    /// Of a plan that reads little of views; `None` where a copy of it might go on with what it began.
    pub fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<KeptPlan> {
        without_views(plan).map(KeptPlan)
    }

    /// The same over the views of another moment, each of which `states` gives by what it was planned as; `None` where one is not
    /// there, or has much to read.
    pub async fn at(
        &self,
        states: &(dyn Fn(&Arc<Split>) -> Option<StatesScan> + Sync),
        session: &SessionState,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let mut gaps = Vec::new();
        gaps_of(&self.0, &mut gaps);
        let mut views = Vec::with_capacity(gaps.len());
        for Gap { asked, properties } in gaps {
            let Some(states) = states(&asked.split) else { return Ok(None) };
            let view = states.view(session, asked.clone()).await?;
            if !view.is_little || view.properties.eq_properties.schema() != properties.eq_properties.schema()
            {
                return Ok(None);
            }
            views.push(Arc::new(ViewExec { properties: Arc::clone(properties), ..view }) as _);
        }
        over(&self.0, &mut views.into_iter()).map(Some)
    }
}

/// Nodes that keep nothing of a run but what a copy of them has of its own.
fn begins_anew(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.is::<ProjectionExec>()
        || node.is::<FilterExec>()
        || node.is::<AggregateExec>() && node.dynamic_expressions_produced().is_empty()
        || node.is::<SortExec>()
        || node.is::<GlobalLimitExec>()
        || node.is::<LocalLimitExec>()
        || node.is::<CooperativeExec>()
}

fn without_views(plan: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    if let Some(view) = plan.downcast_ref::<ViewExec>() {
        let gap = Gap { asked: view.asked.clone(), properties: Arc::clone(&view.properties) };
        return view.is_little.then(|| Arc::new(gap) as _);
    }
    if !begins_anew(plan) {
        return None;
    }
    let inputs = plan.children().into_iter().map(without_views).collect::<Option<Vec<_>>>()?;
    copy(plan, inputs).ok()
}

/// `plan` with `views` in its gaps, from left to right.
fn over(
    plan: &Arc<dyn ExecutionPlan>,
    views: &mut dyn Iterator<Item = Arc<dyn ExecutionPlan>>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    if plan.is::<Gap>() {
        return match views.next() {
            Some(view) => Ok(view),
            None => internal_err!("a kept plan has more views than it was given"),
        };
    }
    let inputs = plan.children().into_iter().map(|input| over(input, views)).collect::<DfResult<Vec<_>>>()?;
    copy(plan, inputs)
}

/// A node over inputs that have the properties of its own ones.
fn copy(
    node: &Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    let alike = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    Arc::clone(node).replace_children(inputs, alike)?.reset_state()
}

fn gaps_of<'a>(plan: &'a Arc<dyn ExecutionPlan>, gaps: &mut Vec<&'a Gap>) {
    match plan.downcast_ref::<Gap>() {
        Some(gap) => gaps.push(gap),
        None => plan.children().into_iter().for_each(|input| gaps_of(input, gaps)),
    }
}

/// Where a view was read.
#[derive(Debug)]
struct Gap {
    asked: Asked,
    properties: Arc<PlanProperties>,
}

impl DisplayAs for Gap {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gap")
    }
}

impl ExecutionPlan for Gap {
    fn name(&self) -> &'static str {
        "Gap"
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

    fn execute(&self, _: usize, _: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        internal_err!("a kept plan was run whose views were not filled in")
    }
}
