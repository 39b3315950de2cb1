//! Statements that were planned before: their optimized plans, for another moment.
//!
//! *Why*: a page asks the same question again and again, and planning it costs more than answering it from a view.
//!
//! *Invariants*
//! - A plan is kept only if all that it takes of its moment are tables and the time of day: no function but immutable ones and
//!   those, no vector of its own, no watermark, no catalogs.
//! - The time stands open in it, and is put in when it is used: the filters that follow from it are folded and pushed down anew.
//! - It is used again only where each name means what it meant, the same part of a table with the same columns, or a view with the
//!   same definition. Everything else is planned anew.
//! - What is kept holds on to no rows, files or states.
//!
//! *Not here*: how they run. That depends on what there is to read; what reads little of views is kept as [`KeptPlan`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Result as DfResult, ScalarValue, TableReference, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    Expr, LogicalPlan, TableProviderFilterPushDown, TableScan as ScanNode, TableType, Volatility,
};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::sql::parser::Statement as DfStatement;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use parking_lot::Mutex;
use tarn_table::scan::{Part, TableScan};
use tarn_view::{Definition, KeptPlan, Split, StatesScan};

use super::Request;
use crate::session::Moment;
use crate::statement::Statement;

/// Plans that are kept; beyond it the one that was not used for longest goes.
const MAX_PLANS: usize = 256;
/// A longer statement, its parameters included, is no panel's.
const MAX_BYTES: usize = 8 << 10;
/// Functions whose value is the time at which their statement began.
pub(crate) const OF_THE_TIME: [&str; 3] = ["now", "current_date", "current_time"];

/// Plans by what was asked.
#[derive(Debug)]
pub(super) struct Plans {
    known: Mutex<HashMap<Key, Arc<Plan>>>,
    uses: AtomicU64,
    /// Puts the time into a plan: one pass of what folds it, and of what carries the filters that come of it to the tables.
    timing: Optimizer,
    options: Arc<ConfigOptions>,
}

/// What was asked, and by whom as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    sql: String,
    params: Vec<ScalarValue>,
    visitor: Option<String>,
}

/// An optimized plan over [`Slot`]s.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) names: Vec<TableReference>,
    /// What each of the names is planned as, where it is a view.
    meanings: Vec<Option<Arc<Definition>>>,
    plan: LogicalPlan,
    lasts: Lasting,
    used: AtomicU64,
    /// Whether what it read last was little, so that it is likely to be again.
    pub(super) reads_little: AtomicBool,
    /// How it runs while it reads little, once that is known; `None` in it where the time has a part, or no copy may run.
    runs: OnceLock<Option<KeptPlan>>,
}

/// What of a plan stays true at another moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lasting {
    /// Nothing that could be relied on.
    Nothing,
    /// All but the time of day.
    ButTheTime,
    /// All but the rows.
    All,
}

impl Key {
    /// Of a request whose plan may be kept.
    pub(super) fn of(request: &Request) -> Option<Key> {
        let bytes = request.sql.len() + request.params.iter().map(ScalarValue::size).sum::<usize>();
        if request.as_of.is_some() || bytes > MAX_BYTES {
            return None;
        }
        let visitor = request.visitor.as_ref().map(|visitor| {
            // By them names are resolved.
            format!("{}\0{}\0{:?}", visitor.user, visitor.database, visitor.settings)
        });
        Some(Key { sql: request.sql.clone(), params: request.params.clone(), visitor })
    }
}

impl Plans {
    /// None yet; `options` are those of all sessions.
    pub(super) fn new(options: &ConfigOptions) -> Plans {
        let mut options = options.clone();
        options.optimizer.max_passes = 1;
        let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> =
            vec![Arc::new(SimplifyExpressions::new()), Arc::new(PushDownFilter::new())];
        Plans {
            known: Mutex::default(),
            uses: AtomicU64::default(),
            timing: Optimizer::with_rules(rules),
            options: Arc::new(options),
        }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Plan>> {
        let plan = self.known.lock().get(key).cloned()?;
        plan.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(plan)
    }

    /// Keeps `plan`, the optimized form of a statement over the tables `names` of `moment`, if it may be. The time stands open in
    /// it, where it asks for it.
    pub(super) fn keep(
        &self,
        key: Key,
        names: &[TableReference],
        plan: &LogicalPlan,
        lasts: Lasting,
        moment: &Moment,
    ) {
        let Some(meanings) = meanings(names, moment) else { return };
        let mut is_bindable = true;
        let slots = each_scan(plan, &mut |scan| {
            let slot = source_as_provider(&scan.source).ok().and_then(|provider| Slot::of(&provider));
            is_bindable &= slot.is_some();
            Ok(slot.map(|slot| Arc::new(slot) as Arc<dyn TableProvider>))
        });
        let Some(slots) = slots.ok().filter(|_| is_bindable) else { return };
        let used = self.uses.fetch_add(1, Ordering::Relaxed).into();
        let plan = Plan {
            names: names.to_vec(),
            meanings,
            plan: slots,
            lasts,
            used,
            reads_little: AtomicBool::default(),
            runs: OnceLock::new(),
        };
        if !matches!(self.bind(&plan, moment), Ok(Some(_))) {
            return;
        }
        let mut known = self.known.lock();
        if known.len() >= MAX_PLANS
            && let Some(oldest) = known.iter().min_by_key(|(_, plan)| plan.used.load(Ordering::Relaxed))
        {
            let oldest = oldest.0.clone();
            known.remove(&oldest);
        }
        known.insert(key, Arc::new(plan));
    }

    /// `plan` over the tables of `moment`, which is now; `None` where one of them means something else.
    pub(super) fn bind(&self, plan: &Plan, moment: &Moment) -> DfResult<Option<LogicalPlan>> {
        match (plan.filled(moment)?, plan.lasts) {
            (Some(open), Lasting::ButTheTime) => {
                let now = OptimizerContext::new_with_config_options(Arc::clone(&self.options));
                self.timing.optimize(open, &now, |_, _| {}).map(Some)
            }
            (filled, _) => Ok(filled),
        }
    }

    /// Forgets what means something else now.
    pub(super) fn forget(&self, key: &Key) {
        self.known.lock().remove(key);
    }
}

impl Plan {
    /// As it ran before, over what its views have at `moment`; `None` where that may not be, or may cost more than to plan it.
    pub(super) async fn as_before(
        &self,
        moment: &Moment,
        session: &SessionState,
    ) -> Option<Arc<dyn ExecutionPlan>> {
        // While there is much to read nothing is tried that would be thrown away.
        let is_tried = self.reads_little.load(Ordering::Relaxed) && self.means_the_same(moment);
        let runs = self.runs.get()?.as_ref().filter(|_| is_tried)?;
        let states = |split: &Arc<Split>| moment.views().states(moment, split)?.ok();
        runs.at(&states, session).await.ok().flatten()
    }

    /// Keeps how it runs, where it can run so again.
    pub(super) fn keep(&self, runs: &Arc<dyn ExecutionPlan>) {
        let is_whole = self.lasts == Lasting::All;
        self.runs.get_or_init(|| is_whole.then(|| KeptPlan::of(runs)).flatten());
    }

    /// Whether all its names mean at `moment` what they meant.
    fn means_the_same(&self, moment: &Moment) -> bool {
        let is_one = |(a, b): (&Option<Arc<Definition>>, &Option<Arc<Definition>>)| match (a, b) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        meanings(&self.names, moment).is_some_and(|now| self.meanings.iter().zip(&now).all(is_one))
    }

    /// The plan over the tables of `moment`; `None` where one of them means something else now.
    fn filled(&self, moment: &Moment) -> DfResult<Option<LogicalPlan>> {
        let mut is_same = self.means_the_same(moment);
        if !is_same {
            return Ok(None);
        }
        let plan = each_scan(&self.plan, &mut |scan| {
            let slot = source_as_provider(&scan.source)?;
            let table = match slot.downcast_ref::<Slot>() {
                Some(slot) => slot.fill(moment),
                None => None,
            };
            is_same &= table.is_some();
            Ok(table)
        })?;
        Ok(is_same.then_some(plan))
    }
}

/// What the plan of `statement` depends on besides its tables. `plan` is as it was before anything was put in the place of a
/// function.
pub(super) fn lasting(statement: &Statement, plan: &LogicalPlan) -> Lasting {
    let is_query =
        matches!(&statement.ast, DfStatement::Statement(ast) if matches!(**ast, SqlStatement::Query(_)));
    if !is_query || !statement.versions.is_empty() || statement.explained.is_some() {
        return Lasting::Nothing;
    }
    let mut lasts = Lasting::All;
    let walked = plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                lasts = match expr {
                    Expr::ScalarFunction(call) if OF_THE_TIME.contains(&call.func.name()) => {
                        lasts.min(Lasting::ButTheTime)
                    }
                    Expr::ScalarFunction(call)
                        if call.func.signature().volatility != Volatility::Immutable =>
                    {
                        Lasting::Nothing
                    }
                    Expr::ScalarVariable(..) => Lasting::Nothing,
                    _ => lasts,
                };
                Ok(TreeNodeRecursion::Continue)
            })
        })
    });
    if walked.is_ok() { lasts } else { Lasting::Nothing }
}

/// What each of `names` is planned as, where it is a view; `None` when one is a table of many topics, whose parts may change.
fn meanings(names: &[TableReference], moment: &Moment) -> Option<Vec<Option<Arc<Definition>>>> {
    let views = moment.views();
    let one = |name: &TableReference| {
        let name = name.table();
        let is_of_many = moment.is_of_many(name) || views.tables(name).any(|table| moment.is_of_many(table));
        let is_table = moment.table_at(name).is_some();
        (!is_of_many).then(|| views.definition(name).filter(|_| !is_table).cloned())
    };
    names.iter().map(one).collect()
}

/// What stands in the place of a table, if not the table itself.
type Instead = Option<Arc<dyn TableProvider>>;

/// `plan` with what `table` gives in the place of the table of each scan.
fn each_scan(
    plan: &LogicalPlan,
    table: &mut dyn FnMut(&ScanNode) -> DfResult<Instead>,
) -> DfResult<LogicalPlan> {
    let filled = plan.clone().transform_up_with_subqueries(|node| match node {
        LogicalPlan::TableScan(scan) => Ok(match table(&scan)? {
            Some(table) => {
                let source = provider_as_source(table);
                Transformed::yes(LogicalPlan::TableScan(ScanNode { source, ..scan }))
            }
            None => Transformed::no(LogicalPlan::TableScan(scan)),
        }),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(filled.data)
}

/// Where a table stood in a plan.
#[derive(Debug)]
struct Slot {
    what: What,
    schema: SchemaRef,
}

#[derive(Debug)]
enum What {
    /// A part of a table.
    Rows(String, Part),
    /// A view, by what it was planned as.
    States(Arc<Split>),
}

impl Slot {
    /// For what a statement at its own vector reads; `None` for anything else.
    fn of(provider: &Arc<dyn TableProvider>) -> Option<Slot> {
        let what = if let Some(rows) = provider.downcast_ref::<TableScan>() {
            What::Rows(rows.name().to_owned(), rows.part())
        } else if let Some(states) = provider.downcast_ref::<StatesScan>() {
            What::States(Arc::clone(states.split()))
        } else {
            return None;
        };
        Some(Slot { what, schema: provider.schema() })
    }

    fn fill(&self, moment: &Moment) -> Option<Arc<dyn TableProvider>> {
        let table: Arc<dyn TableProvider> = match &self.what {
            What::Rows(name, part) => Arc::new(moment.scan_at(name, *part, None)?),
            What::States(split) => Arc::new(moment.views().states(moment, split)?.ok()?),
        };
        (table.schema() == self.schema).then_some(table)
    }
}

#[async_trait]
impl TableProvider for Slot {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        _: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        internal_err!("a plan was run whose tables were not filled in")
    }
}

#[cfg(test)]
mod tests;
