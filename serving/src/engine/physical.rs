//! From optimized plans to running ones.
//!
//! *Why two ways*: DataFusion's rules for physical plans are made for many rows in many streams. A panel's question to a view reads a
//! few states in memory, and these rules then cost more than all the rest. Such a question is planned briefly: in one stream, by no
//! rules but those without which a plan may not run.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use tarn_view::reads_little;

use super::plans::Plan;

/// Rules without which a plan may not run, or not as it was asked for. The first comes twice: it adds and removes something.
const NEEDED_RULES: [&str; 7] = [
    "OutputRequirements",
    "join_selection",
    "EnsureRequirements",
    "CombinePartialFinalAggregate",
    "LimitPushdown",
    "EnsureCooperative",
    "SanityCheckPlan",
];

/// `state` for what reads little.
pub(super) fn brief(state: &SessionState) -> SessionState {
    let rules = state.physical_optimizers().iter().filter(|rule| NEEDED_RULES.contains(&rule.name()));
    SessionStateBuilder::new_from_existing(state.clone())
        .with_config(state.config().clone().with_target_partitions(1))
        .with_physical_optimizer_rules(rules.cloned().collect())
        .build()
}

/// Of an optimized plan.
pub(super) async fn plan(plan: &LogicalPlan, state: &SessionState) -> DfResult<Arc<dyn ExecutionPlan>> {
    state.query_planner().create_physical_plan(plan, state).await
}

/// Of `known`, a plan that was there before and is `optimized` now: briefly, if that was enough the last time and still is.
pub(super) async fn plan_again(
    known: &Plan,
    optimized: &LogicalPlan,
    state: &SessionState,
    brief: &SessionState,
) -> DfResult<Arc<dyn ExecutionPlan>> {
    if known.reads_little.load(Ordering::Relaxed)
        && let Ok(brief) = plan(optimized, brief).await
        && reads_little(&brief)
    {
        known.keep(&brief);
        return Ok(brief);
    }
    let plan = plan(optimized, state).await?;
    known.reads_little.store(reads_little(&plan), Ordering::Relaxed);
    Ok(plan)
}

/// Begins to run `plan`.
pub(super) fn begin(plan: Arc<dyn ExecutionPlan>, task: TaskContext) -> DfResult<SendableRecordBatchStream> {
    execute_stream(let_joins_yield(plan)?, Arc::new(task))
}

/// A join can make rows from two batches for hours without asking for a third, so that it never gives way to a deadline: it
/// is made to after every million rows or so.
fn let_joins_yield(plan: Arc<dyn ExecutionPlan>) -> DfResult<Arc<dyn ExecutionPlan>> {
    let yielding = plan.transform_up(|node| {
        Ok(if node.name().ends_with("JoinExec") {
            Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>)
        } else {
            Transformed::no(node)
        })
    });
    yielding.map(|transformed| transformed.data)
}

#[cfg(test)]
mod tests {
    use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

    use super::*;

    #[test]
    fn the_rules_that_a_plan_needs_are_there() {
        let all = PhysicalOptimizer::new().rules;
        for needed in NEEDED_RULES {
            assert!(all.iter().any(|rule| rule.name() == needed), "{needed}");
        }
    }
}
