//! What walks share: planning, which costs more than a walk does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::physical_plan::ExecutionPlan;
use tarn_lake::Lake;
use tarn_model::columns::Columns;
use tarn_table::scan::sql_schema;

use super::data::{COLUMNS, Dice, dimension};
use super::sketch::Sketches;
use super::{grammar, memory_lake, sortable};
use crate::definition::{Definition, Way, bind};
use crate::planner::Planner;
use crate::split::{ANSWER, Split};

/// What the walks of one thread share: making it anew costs more than a walk.
pub(super) struct Ground {
    pub(super) lake: Lake,
    /// Makes states, and answers from them.
    pub(super) planner: Planner,
    /// The same where states are joined.
    pub(super) joining: Planner,
    /// Makes the answers that these must be.
    pub(super) truth: Planner,
    /// Whether everything is planned as in a process, with all rules of the optimizer and in several streams. Else the truth is
    /// planned by next to none, over rows in one piece, and the rest by the few that have to do with states: planning costs far more than
    /// running here.
    pub(super) is_whole: bool,
}

impl Ground {
    pub(super) async fn new() -> Ground {
        let lake = memory_lake().await;
        let planner = Planner::new(lake.store(), 1 << 30).expect("a planner");
        Ground { lake, joining: planner.clone(), truth: planner.clone(), planner, is_whole: true }
    }

    /// The same with plain plans.
    pub(super) fn plain(&self) -> Ground {
        // Without it some functions do not run.
        let least = "simplify_expressions";
        let logical = [least, "push_down_filter", "optimize_projections"];
        // Without the first, at both ends, an order that nothing asks for is let go.
        let joining = ["OutputRequirements", "join_selection", "EnsureRequirements"];
        Ground {
            lake: self.lake.clone(),
            planner: self.planner.plain(&logical, &[]),
            joining: self.planner.plain(&logical, &joining),
            truth: self.planner.plain(&[least], &[]),
            is_whole: false,
        }
    }
}

/// What walks of neighbouring seeds share: their definitions, and how these are planned. It follows from the seeds alone, so that one
/// walk by itself is what it was among others.
pub(super) struct Block<'a> {
    pub(super) ground: &'a Ground,
    pub(super) number: u64,
    pub(super) schema: SchemaRef,
    /// By their number within the block.
    pub(super) definitions: BTreeMap<usize, Known>,
    /// Queries that were planned before.
    pub(super) plans: HashMap<String, Arc<Definition>>,
    /// Optimized plans over states, by query and predicate.
    pub(super) over_states: HashMap<(String, String), LogicalPlan>,
}

/// A definition that is kept as states.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) sql: String,
    pub(super) sketches: Arc<Sketches>,
    pub(super) definition: Arc<Definition>,
}

impl<'a> Block<'a> {
    pub(super) fn new(ground: &'a Ground, number: u64) -> Block<'a> {
        Block {
            ground,
            number,
            schema: Columns::parse(COLUMNS).expect("columns").table_schema(false),
            definitions: BTreeMap::new(),
            plans: HashMap::new(),
            over_states: HashMap::new(),
        }
    }

    /// One of the block's definitions.
    pub(super) async fn definition(&mut self, at: usize) -> Known {
        if let Some(known) = self.definitions.get(&at) {
            return known.clone();
        }
        let mut dice =
            Dice(self.number.wrapping_mul(0x9e37_79b9).wrapping_add(u64::try_from(at).expect("small")));
        let (sql, sketches, definition) = keepable(self.ground, &mut dice, &self.schema).await;
        self.plans.insert(sql.clone(), Arc::clone(&definition));
        let known = Known { sql, sketches: Arc::new(sketches), definition };
        self.definitions.insert(at, known.clone());
        known
    }

    pub(super) async fn planned(&mut self, query: &str) -> Arc<Definition> {
        if let Some(known) = self.plans.get(query) {
            return Arc::clone(known);
        }
        let planned = plan(self.ground, &self.schema, query).await;
        self.plans.insert(query.to_owned(), Arc::clone(&planned));
        planned
    }

    /// The optimized plan of `question` over states.
    pub(super) fn over_states(
        &mut self,
        question: &Question<'_>,
        split: &Split,
        states: Arc<dyn TableProvider>,
        tables: Tables<'_>,
        planner: &Planner,
    ) -> LogicalPlan {
        let key = question.key();
        if let Some(known) = self.over_states.get(&key) {
            let table = |name: &str| if name == ANSWER { Some(Arc::clone(&states)) } else { tables(name) };
            return bind(known, &table).expect("the same plan");
        }
        let plan = question.definition.over_states(split, states, tables).expect("a plan over states");
        let plan = question.optimized(plan, planner);
        self.over_states.insert(key, plan.clone());
        plan
    }
}

pub(super) type Tables<'a> = &'a dyn Fn(&str) -> Option<Arc<dyn TableProvider>>;

/// What a statement asks.
pub(super) struct Question<'a> {
    pub(super) definition: &'a Definition,
    pub(super) predicate: Option<&'a Expr>,
    pub(super) context: &'a str,
}

impl Question<'_> {
    pub(super) fn key(&self) -> (String, String) {
        (self.definition.query.clone(), self.predicate.map(ToString::to_string).unwrap_or_default())
    }

    pub(super) fn filtered(&self, plan: LogicalPlan) -> LogicalPlan {
        let mut plan = LogicalPlanBuilder::from(plan);
        if let Some(predicate) = self.predicate {
            plan = plan.filter(predicate.clone()).unwrap_or_else(|error| panic!("{}: {error}", self.context));
        }
        plan.build().expect("a plan")
    }

    /// Analyzed it is already.
    pub(super) fn optimized(&self, plan: LogicalPlan, planner: &Planner) -> LogicalPlan {
        let state = planner.state();
        let optimized = state.optimizer().optimize(self.filtered(plan), state, |_, _| {});
        optimized.unwrap_or_else(|error| panic!("{}: {error}", self.context))
    }

    /// The answer by all rules of the optimizer.
    pub(super) async fn answered(&self, plan: LogicalPlan, planner: &Planner) -> Vec<Vec<ScalarValue>> {
        let physical = planner.state().create_physical_plan(&self.filtered(plan)).await;
        self.run(physical, planner).await
    }

    /// The answer of a plan that is optimized.
    pub(super) async fn answered_as_it_is(
        &self,
        plan: &LogicalPlan,
        planner: &Planner,
    ) -> Vec<Vec<ScalarValue>> {
        let state = planner.state();
        self.run(state.query_planner().create_physical_plan(plan, state).await, planner).await
    }

    /// Rows in the order of their text, without the digits in which floats may differ.
    pub(super) async fn run(
        &self,
        plan: DfResult<Arc<dyn ExecutionPlan>>,
        planner: &Planner,
    ) -> Vec<Vec<ScalarValue>> {
        let plan = plan.unwrap_or_else(|error| panic!("{}: {error}", self.context));
        let batches = planner.run(plan).await.unwrap_or_else(|error| panic!("{}: {error:?}", self.context));
        let mut rows = Vec::new();
        for batch in batches {
            for at in 0..batch.num_rows() {
                let values =
                    batch.columns().iter().map(|c| ScalarValue::try_from_array(c, at).expect("a value"));
                rows.push(values.collect::<Vec<_>>());
            }
        }
        rows.sort_by_key(|row| row.iter().map(sortable).collect::<Vec<_>>());
        rows
    }
}

pub(super) async fn plan(ground: &Ground, schema: &SchemaRef, sql: &str) -> Arc<Definition> {
    let joined = dimension(&mut Dice(0)).schema();
    let columns = |name: &str| match name {
        "t" => Some(sql_schema(schema)),
        _ => Some(Arc::clone(&joined)),
    };
    let planned = Definition::plan(&ground.planner, "v", sql, &columns).await;
    Arc::new(planned.unwrap_or_else(|error| panic!("{sql}: {error:?}")))
}

/// A definition that is kept as states; joins of some functions are not, and say so.
pub(super) async fn keepable(
    ground: &Ground,
    dice: &mut Dice,
    schema: &SchemaRef,
) -> (String, Sketches, Arc<Definition>) {
    loop {
        let (sql, sketch) = grammar::query(dice);
        let definition = plan(ground, schema, &sql).await;
        match &definition.way {
            Way::Rows { reason } if reason.contains("by the keys of a join") => {}
            Way::Rows { reason } => panic!("{sql}: {reason}"),
            Way::States(_) => return (sql, sketch, definition),
        }
    }
}
