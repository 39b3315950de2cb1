//! Views in a statement: what each is, and its states, taken once.
//!
//! *Invariants*: a statement takes views before cuts, so a view's states are never ahead of the tables beside it. A view at a
//! vector of its own (`AS OF`), in `lake` or in `live` runs over rows, so that its answer can be repeated bit by bit.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use datafusion::catalog::{MemTable, TableProvider, view::ViewTable};
use datafusion::error::Result as DfResult;
use tarn_model::{Error, Result, clock};
use tarn_table::scan::Part;
use tarn_table::{Catalog, CutTable};
use tarn_view::{
    Building, Definition, Freshness, Inputs, LateRule, Split, Stamp, StatesScan, View, ViewMoment, Views, Way,
};

use crate::error::nearest;
use crate::session::Moment;

/// The views that a statement may see.
#[derive(Debug, Default)]
pub(crate) struct SeenViews {
    views: BTreeMap<String, SeenView>,
    /// Views that cannot be planned now, and why.
    broken: BTreeMap<String, String>,
}

#[derive(Debug)]
struct SeenView {
    view: Arc<View>,
    definition: Arc<Definition>,
    moment: Arc<ViewMoment>,
    /// Which rows are late.
    late: Option<LateRule>,
    building: Option<Arc<Building>>,
    /// It answers another query than the config has.
    is_rolled_back: bool,
}

impl SeenViews {
    pub(crate) async fn take(views: &Views, catalog: &Catalog) -> SeenViews {
        let mut seen = SeenViews::default();
        for view in views.iter() {
            match view.define(views.planner(), catalog).await {
                Ok(definition) => {
                    let (moment, building) = (view.moment(), view.building());
                    let is_rolled_back = definition.query != view.declared();
                    let late = view.late_rule(&definition, catalog);
                    let view = Arc::clone(view);
                    let view_seen = SeenView { view, definition, moment, late, building, is_rolled_back };
                    seen.views.insert(view_seen.view.name().to_owned(), view_seen);
                }
                Err(error) => {
                    seen.broken.insert(view.name().to_owned(), error.to_string());
                }
            }
        }
        seen
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.views.keys().map(String::as_str)
    }

    /// Why a view of this name cannot be read, if that is so.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        match self.broken.iter().find(|(broken, _)| broken.eq_ignore_ascii_case(name)) {
            Some((_, why)) => Err(Error::invalid(why.clone())),
            None => Ok(()),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// What the view of this name is planned as.
    pub(crate) fn definition(&self, name: &str) -> Option<&Arc<Definition>> {
        self.find(name).map(|view| &view.definition)
    }

    /// The tables that the view of this name reads.
    pub(crate) fn tables(&self, name: &str) -> impl Iterator<Item = &str> {
        self.find(name).into_iter().flat_map(|view| view.definition.tables.keys().map(String::as_str))
    }

    fn find(&self, name: &str) -> Option<&SeenView> {
        if let Some(view) = self.views.get(name) {
            return Some(view);
        }
        let mut similar = self.views.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let (_, found) = similar.next()?;
        similar.next().is_none().then_some(found)
    }

    /// The view of this name as a table of a statement at `moment`.
    pub(crate) fn table(
        &self,
        moment: &Moment,
        name: &str,
        part: Part,
        upto: Option<&tarn_model::OffsetVector>,
    ) -> Option<Result<Arc<dyn TableProvider>>> {
        let view = self.find(name)?;
        let rows = |table: &str| -> Option<Arc<dyn TableProvider>> {
            // What cannot be planned is missing, and said so by whoever wants it.
            moment.rows_of(table, part, upto).ok().flatten()
        };
        let plan = match self.inputs(view, moment).filter(|_| part == Part::Both && upto.is_none()) {
            Some((split, inputs)) if !moment.is_as_of() => inputs.joined_with(&rows).and_then(|inputs| {
                view.definition.over_states(&split, Arc::new(StatesScan::new(inputs)), &rows)
            }),
            _ => view.definition.over_rows(&rows),
        };
        Some(plan.map(|plan| Arc::new(ViewTable::new(plan, Some(view.definition.query.clone()))) as _))
    }

    /// The states of the view that was planned as `split`, for a statement at `moment`'s own vector; `None` when no view is.
    pub(crate) fn states(&self, moment: &Moment, split: &Arc<Split>) -> Option<Result<StatesScan>> {
        let is_it =
            |view: &&SeenView| matches!(&view.definition.way, Way::States(own) if Arc::ptr_eq(own, split));
        let (_, inputs) = self.inputs(self.views.values().find(is_it)?, moment)?;
        let rows = |table: &str| moment.rows_of(table, Part::Both, None).ok().flatten();
        (!moment.is_as_of()).then(|| inputs.joined_with(&rows).map(StatesScan::new))
    }

    fn inputs(&self, view: &SeenView, moment: &Moment) -> Option<(Arc<Split>, Inputs)> {
        let Way::States(split) = &view.definition.way else { return None };
        let (table, upto) = moment.table_at(split.table())?;
        let stamp = stamp(&view.definition, &table);
        Some((Arc::clone(split), Inputs::at(split, &view.moment, &stamp, &table, &upto)))
    }

    /// How fresh the view of this name is; `None` when there is none, or when it cannot be planned.
    pub(crate) fn freshness(&self, name: &str, moment: &Moment) -> Option<Freshness> {
        let view = self.views.get(name)?;
        let table = match &view.definition.way {
            Way::States(split) => moment.table_at(split.table()),
            Way::Rows { .. } => None,
        };
        let table = table.as_ref().map(|(table, upto)| (table.as_ref(), upto));
        let now_us = clock::system().now_ms() * 1000;
        let fresh = Freshness::of(&view.definition, &view.moment, view.building.as_deref(), table, now_us);
        Some(Freshness { late_records: view.view.late_records(&view.moment, view.late.as_ref()), ..fresh })
    }

    /// `SHOW VIEWS`: one row a view.
    pub(crate) fn list(&self, moment: &Moment) -> DfResult<MemTable> {
        let fresh = |name: &String| Some((name.clone(), self.freshness(name, moment)?));
        let broken = self.broken.iter().map(|(name, why)| {
            let trouble = Some(why.clone());
            (name.clone(), Freshness { kept_as: "nothing", trouble, ..Freshness::default() })
        });
        let facts: Vec<(String, Freshness)> = self.views.keys().filter_map(fresh).chain(broken).collect();
        let text = |of: &dyn Fn(&Freshness) -> Option<String>| -> ArrayRef {
            Arc::new(facts.iter().map(|(_, fresh)| of(fresh)).collect::<StringArray>())
        };
        let count = |of: &dyn Fn(&Freshness) -> Option<u64>| -> ArrayRef {
            Arc::new(facts.iter().map(|(_, fresh)| of(fresh)).collect::<UInt64Array>())
        };
        let build = |of: &dyn Fn(&Freshness) -> Option<u32>| -> ArrayRef {
            Arc::new(facts.iter().map(|(_, fresh)| of(fresh).map(i64::from)).collect::<Int64Array>())
        };
        let double = |of: &dyn Fn(&Freshness) -> Option<f64>| -> ArrayRef {
            Arc::new(facts.iter().map(|(_, fresh)| of(fresh)).collect::<Float64Array>())
        };
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("view", Arc::new(StringArray::from_iter_values(facts.iter().map(|(name, _)| name)))),
            ("kept_as", text(&|f| Some(f.kept_as.to_owned()))),
            ("version", build(&|f| f.version)),
            ("boundary", text(&|f| f.boundary.as_ref().map(ToString::to_string))),
            ("lag_records", count(&|f| f.lag_records)),
            ("lag_s", double(&|f| f.lag_s)),
            ("live_records", count(&|f| f.live_records)),
            ("live_bytes", count(&|f| f.live_bytes)),
            ("lake_bytes", count(&|f| f.lake_bytes)),
            ("late_records", count(&|f| f.late_records)),
            ("plan", text(&|f| Some(f.plan.clone()).filter(|plan| !plan.is_empty()))),
            ("building", build(&|f| f.building)),
            ("built", double(&|f| f.built)),
            ("trouble", text(&|f| f.trouble.clone())),
        ];
        let columns = columns.into_iter().map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns)?;
        MemTable::try_new(batch.schema(), vec![vec![batch]])
    }

    /// `EXPLAIN VIEW`: what a view is and how it is read now, line by line.
    pub(crate) fn explain(&self, moment: &Moment) -> DfResult<MemTable> {
        let mut lines: Vec<(String, &str, String)> = Vec::new();
        for (name, view) in &self.views {
            let mut say = |property: &'static str, value: String| lines.push((name.clone(), property, value));
            let definition = &view.definition;
            say("query", definition.query.trim().to_owned());
            say("reads", definition.tables.keys().cloned().collect::<Vec<_>>().join(", "));
            match (&definition.way, self.inputs(view, moment)) {
                (Way::States(split), Some((_, inputs))) => {
                    say("kept as", "states, in the lake and in memory".to_owned());
                    let joins: Vec<&str> = split.joins().collect();
                    if !joins.is_empty() {
                        let (table, joins) = (split.table(), joins.join(", "));
                        say("joined above the states", joins);
                        say("because", format!("only columns of {table} are aggregated"));
                    }
                    let keys = split.answer_schema().fields().iter().take(split.answer_keys());
                    let keys = keys.map(|field| field.data_type().to_string()).collect::<Vec<_>>();
                    say("group keys", if keys.is_empty() { "none".to_owned() } else { keys.join(", ") });
                    say("state columns", split.state_schema().fields().len().to_string());
                    say("read now from", inputs.to_string());
                }
                (Way::States(_), None) => say("kept as", "states, once its table is there".to_owned()),
                (Way::Rows { reason }, _) => {
                    say("kept as", "rows: each statement runs it over lake and tail".to_owned());
                    say("because", reason.clone());
                }
            }
            if let Some(batch) = &view.moment.batch {
                say("states in the lake", format!("{}, version {}", batch.table, batch.version));
                say("boundary", batch.boundary.to_string());
                say("engine", batch.stamp.engine.clone());
            }
            if view.is_rolled_back {
                let told = "the view answers the query of an older build, not the one in the config";
                say("rolled back", told.to_owned());
            }
            if let Some(building) = &view.building {
                let number = building.version().map_or("not begun".to_owned(), |number| number.to_string());
                say("being made", format!("version {number}, {:.0} % of the rows", building.done() * 100.0));
            }
            say("plan", definition.plan_hash.clone());
            if let Some(trouble) = &view.moment.trouble {
                say("trouble", trouble.clone());
            }
        }
        for (name, why) in &self.broken {
            lines.push((name.clone(), "trouble", why.clone()));
        }
        let column = |of: &dyn Fn(&(String, &str, String)) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(lines.iter().map(of)))
        };
        let batch = RecordBatch::try_from_iter([
            ("view", column(&|line| line.0.clone())),
            ("property", column(&|line| line.1.to_owned())),
            ("value", column(&|line| line.2.clone())),
        ])?;
        MemTable::try_new(batch.schema(), vec![vec![batch]])
    }

    /// The name as the config has it; an error with the nearest one when there is no such view.
    pub(crate) fn named(&self, name: &str) -> Result<String> {
        let all = self.views.keys().chain(self.broken.keys()).map(String::as_str);
        if let Some(found) = all.clone().find(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(found.to_owned());
        }
        let error = Error::invalid(format!("there is no view `{name}`"));
        Err(match nearest(name, all) {
            Some(near) => error.with_hint(format!("did you mean `{near}`?")),
            None => error.with_hint("views are declared in the config: `[[view]]`; SHOW VIEWS lists them"),
        })
    }
}

/// What states of a view over `table` must have been made with.
fn stamp(definition: &Definition, table: &CutTable) -> Stamp {
    Stamp::now(&definition.plan_hash, table.lake.as_ref().and_then(|lake| lake.foreign_version))
}

#[cfg(test)]
mod tests;
