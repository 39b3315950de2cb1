//! The views of a process: what each is, and its newest states.
//!
//! *Invariants*: as for tables, whatever changes a view's states swaps one pointer to an immutable [`ViewMoment`]. A statement
//! takes views before cuts, so that no view is ahead of the tables it sees.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use tarn_lake::LakeSnapshot;
use tarn_model::{Boundary, Error, Result};
use tarn_table::scan::sql_schema;
use tarn_table::{Catalog, CutTable};
use tokio::sync::watch;

use crate::definition::{Definition, Way};
use crate::late::{Late, LateRows, LateRule};
use crate::live::{LiveStates, State};
use crate::pace::{Pace, Statements};
use crate::planner::Planner;
use crate::split::Split;
use crate::stamp::Stamp;

/// All views of a process; clones share them.
#[derive(Debug, Clone)]
pub struct Views {
    planner: Planner,
    memory_bytes: usize,
    views: Arc<BTreeMap<String, Arc<View>>>,
    statements: Statements,
}

impl Views {
    /// The views `(name, query)`; all their states in memory together are to stay below what the planner may take.
    pub fn new(planner: Planner, views: impl IntoIterator<Item = (String, String)>) -> Views {
        let views = views.into_iter().map(|(name, query)| (name.clone(), Arc::new(View::new(name, query))));
        let memory_bytes = planner.memory_bytes();
        let views = Arc::new(views.collect());
        Views { planner, memory_bytes, views, statements: Statements::default() }
    }

    /// The planner.
    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The statements that builds give way to.
    pub fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Whether `more` bytes of states may be kept in memory beside those that are.
    pub fn has_room(&self, more: usize) -> bool {
        let used: usize = self.iter().map(|view| view.moment().bytes()).sum();
        used.saturating_add(more) <= self.memory_bytes
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<View>> {
        self.views.values()
    }

    /// The view of this name: exactly, or else the only one that differs in case.
    pub fn get(&self, name: &str) -> Option<&Arc<View>> {
        if let Some(view) = self.views.get(name) {
            return Some(view);
        }
        let mut similar = self.views.values().filter(|view| view.name.eq_ignore_ascii_case(name));
        let found = similar.next()?;
        similar.next().is_none().then_some(found)
    }
}

/// One view.
#[derive(Debug)]
pub struct View {
    name: String,
    /// As the config has it.
    declared: String,
    /// What it answers: another query while it is rolled back to a build of that one.
    query: ArcSwap<String>,
    definition: Mutex<Option<Arc<Definition>>>,
    moment: ArcSwap<ViewMoment>,
    building: Mutex<Option<Arc<Building>>>,
    /// Held while a new moment is made.
    making: Mutex<()>,
    changes: watch::Sender<u64>,
    /// Records of which states were made.
    aggregated: AtomicU64,
    commits: Mutex<Commits>,
    /// Time that a window stays open after its end.
    grace: Mutex<Duration>,
    /// Rows of the tail that came for a window that had closed; `None` where nobody looks for them.
    late: Mutex<Option<LateRows>>,
}

/// Commits of a view's states.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commits {
    /// How many there were.
    pub count: u64,
    /// How long they took together, from the first state that was made for them to the last.
    pub took: Duration,
}

/// A build that is being made.
#[derive(Debug)]
pub struct Building {
    version: AtomicU32,
    pace: Arc<Pace>,
}

impl Building {
    /// A build without a number yet.
    pub fn new(pace: Arc<Pace>) -> Building {
        Building { version: AtomicU32::new(0), pace }
    }

    /// Tells its number.
    pub fn is_version(&self, number: u32) {
        self.version.store(number, Ordering::Relaxed);
    }

    /// Its number, once it is known.
    pub fn version(&self) -> Option<u32> {
        Some(self.version.load(Ordering::Relaxed)).filter(|number| *number > 0)
    }

    /// The share of its rows that are read, 0 to 1.
    pub fn done(&self) -> f64 {
        self.pace.done()
    }

    /// What its rows come at.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }
}

/// A view's states at one moment.
#[derive(Debug, Clone, Default)]
pub struct ViewMoment {
    /// What lies in the lake.
    pub batch: Option<Arc<BatchStates>>,
    /// What lies in memory; `None` while nobody keeps them.
    pub live: Option<LiveStates>,
    /// What went wrong last; it stays until the next success.
    pub trouble: Option<String>,
}

impl ViewMoment {
    /// Memory of all states, bytes.
    pub fn bytes(&self) -> usize {
        let live = self.live.as_ref().map_or(0, LiveStates::bytes);
        live + self.batch.as_ref().map_or(0, |batch| batch.cached_bytes())
    }

    /// What the states with this stamp that lie in the lake cover; `None` when there are none.
    pub fn boundary(&self, stamp: &Stamp) -> Option<&Boundary> {
        self.batch.as_ref().filter(|batch| batch.stamp == *stamp).map(|batch| &batch.boundary)
    }
}

/// A view's states in the lake.
#[derive(Debug)]
pub struct BatchStates {
    /// Name of their Delta table.
    pub table: String,
    /// 1, 2, …: which build of the view this is.
    pub version: u32,
    /// The Delta table.
    pub snapshot: Arc<LakeSnapshot>,
    /// What the states cover.
    pub boundary: Boundary,
    /// What they were made with.
    pub stamp: Stamp,
    /// The same states in memory, where they fit: in a few runs, each in the order of its keys.
    pub cached: Option<Vec<Arc<State>>>,
    /// A statement could not read them.
    pub(crate) is_damaged: AtomicBool,
}

impl BatchStates {
    /// Whether a statement could not read them; it has read the rows instead.
    pub fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// Memory of the states that are kept there, bytes.
    pub fn cached_bytes(&self) -> usize {
        self.cached.iter().flatten().map(|run| run.bytes).sum()
    }

    /// Bytes in the lake.
    pub fn lake_bytes(&self) -> u64 {
        self.snapshot.files.iter().map(|file| file.size).sum()
    }
}

impl View {
    fn new(name: String, query: String) -> View {
        View {
            name,
            query: ArcSwap::from_pointee(query.clone()),
            declared: query,
            definition: Mutex::default(),
            moment: ArcSwap::from_pointee(ViewMoment::default()),
            building: Mutex::default(),
            making: Mutex::new(()),
            changes: watch::channel(0).0,
            aggregated: AtomicU64::new(0),
            commits: Mutex::default(),
            grace: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// Its name in SQL.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its query, as the config has it.
    pub fn declared(&self) -> &str {
        &self.declared
    }

    /// The query that it answers.
    pub fn query(&self) -> Arc<String> {
        self.query.load_full()
    }

    /// Lets it answer the query of an older build, or its own again; whoever keeps it is told.
    pub fn answer(&self, query: Option<&str>) {
        let query = query.unwrap_or(&self.declared);
        if *self.query() != query {
            self.query.store(Arc::new(query.to_owned()));
            *self.definition.lock() = None;
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// The build that is being made, if one is.
    pub fn building(&self) -> Option<Arc<Building>> {
        self.building.lock().clone()
    }

    /// Says which build is being made.
    pub fn builds(&self, building: Option<Arc<Building>>) {
        *self.building.lock() = building;
    }

    /// What it was planned as last, if it was.
    pub fn known(&self) -> Option<Arc<Definition>> {
        self.definition.lock().clone()
    }

    /// Its newest states.
    pub fn moment(&self) -> Arc<ViewMoment> {
        self.moment.load_full()
    }

    /// Records of which states were made since the start of the process, by both layers.
    pub fn aggregated_records(&self) -> u64 {
        self.aggregated.load(Ordering::Relaxed)
    }

    /// Says that states were made of so many records.
    pub fn has_aggregated(&self, records: u64) {
        self.aggregated.fetch_add(records, Ordering::Relaxed);
    }

    /// Commits of its states since the start of the process.
    pub fn commits(&self) -> Commits {
        *self.commits.lock()
    }

    /// Says that a commit of its states took so long.
    pub fn has_committed(&self, took: Duration) {
        let mut commits = self.commits.lock();
        commits.count += 1;
        commits.took += took;
    }

    /// Says how long windows stay open after their end.
    pub fn set_grace(&self, grace: Duration) {
        *self.grace.lock() = grace;
    }

    /// Which of its rows are late; `None` when it has no window of its table's event time.
    pub fn late_rule(&self, definition: &Definition, catalog: &Catalog) -> Option<LateRule> {
        let Way::States(split) = &definition.way else { return None };
        LateRule::of(split, catalog.event_time(split.table()), *self.grace.lock())
    }

    /// Looks for late rows among what is new in `table`.
    pub fn look_for_late(&self, rule: Option<&LateRule>, table: &CutTable) {
        let moment = self.moment();
        let mut late = self.late.lock();
        let Some(rule) = rule else {
            *late = None;
            return;
        };
        if late.as_ref().is_none_or(|late| late.rule() != rule) {
            *late = Some(LateRows::new(rule.clone()));
        }
        if let Some(late) = late.as_mut() {
            late.look(table, moment.batch.as_ref().map(|batch| &batch.boundary));
        }
    }

    /// Late rows in `[from, to)`; `None` when not all of it was looked at.
    pub fn late_between(&self, rule: &LateRule, from: &Boundary, to: &Boundary) -> Option<Late> {
        self.late.lock().as_ref().filter(|late| late.rule() == rule)?.between(from, to)
    }

    /// Late rows so far: what the states of `moment` tell of the lake, and what was found above.
    pub fn late_records(&self, moment: &ViewMoment, rule: Option<&LateRule>) -> Option<u64> {
        let (rule, batch) = (rule?, moment.batch.as_ref());
        let boundary = batch.map(|batch| batch.boundary.clone()).unwrap_or_default();
        let in_lake = batch.and_then(|batch| rule.in_lake(&batch.snapshot)).unwrap_or_default();
        let late = self.late.lock();
        let above = late.as_ref().filter(|late| late.rule() == rule).map_or(0, |late| late.above(&boundary));
        Some(in_lake.values().sum::<u64>() + above)
    }

    /// Ticks at every change of its states.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Swaps in what `change` makes of the newest moment.
    pub fn update(&self, change: impl FnOnce(&mut ViewMoment)) {
        let _making = self.making.lock();
        let mut moment = ViewMoment::clone(&self.moment.load());
        change(&mut moment);
        self.moment.store(Arc::new(moment));
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// The view planned over the tables of `catalog` as they are now.
    pub async fn define(&self, planner: &Planner, catalog: &Catalog) -> Result<Arc<Definition>> {
        let cuts = catalog.cuts();
        let columns = |name: &str| -> Option<SchemaRef> {
            let one = cuts.iter().find_map(|cut| Some(sql_schema(&cut.tables.get(name)?.schema)));
            one.or_else(|| catalog.columns(name))
        };
        let query = self.query();
        if let Some(known) = self.definition.lock().clone()
            && known.query == *query
            && known.tables.iter().all(|(name, schema)| columns(name).as_ref() == Some(schema))
        {
            return Ok(known);
        }
        let planned = Arc::new(Definition::plan(planner, &self.name, &query, &columns).await?);
        *self.definition.lock() = Some(Arc::clone(&planned));
        Ok(planned)
    }

    /// Another query planned over the tables of `catalog` as they are now, under this view's name.
    pub async fn plan(&self, planner: &Planner, catalog: &Catalog, query: &str) -> Result<Definition> {
        let columns = |name: &str| catalog.columns(name);
        Definition::plan(planner, &self.name, query, &columns).await
    }

    /// How it is kept as states; an error when it is not.
    pub fn split(definition: &Definition) -> Result<&Arc<Split>> {
        match &definition.way {
            Way::States(split) => Ok(split),
            Way::Rows { reason } => {
                Err(Error::invalid(format!("view `{}` is kept as rows: {reason}", definition.name)))
            }
        }
    }
}
