//! Keeps one view's live states: rows become a state a moment after they were decoded.
//!
//! *Why micro-batches*: an aggregate that never ends can only be asked by emptying it. Rows of some tenths of a second make one
//! immutable state; states of one tier are merged, as fragments are.
//!
//! *Invariants*: the chain begins at the boundary of the view's states in the lake, or nothing is kept. It is never longer than
//! what the table has decoded. Beyond the memory that states may take the chain is let go, and statements read the rows.
//!
//! *Failure*: live states are only a cache of rows; whatever goes wrong is logged, shown, and tried again.

use std::sync::Arc;
use std::time::Duration;

use tarn_model::{Boundary, Result, clock};
use tarn_table::open::Backoff;
use tarn_table::{Catalog, CutTable};
use tarn_view::{Definition, Inputs, LiveStates, Split, Stamp, State, View, Views, Way};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::late::LateCounter;

/// Time between two states: what a dashboard does not notice.
const STATE_EVERY: Duration = Duration::from_millis(100);
/// A table that is not there yet is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// One task per view.
#[derive(Debug)]
pub struct ViewKeeper {
    stop: watch::Sender<bool>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

impl ViewKeeper {
    /// Starts keeping the live states of `view`, one of `views`.
    pub fn start(views: Views, view: Arc<View>, catalog: Catalog) -> ViewKeeper {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let keeping = Keeper { views, view, catalog, gave_up_at: None, late: None }.run();
            tokio::select! {
                () = keeping => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
        ViewKeeper { stop, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// Ends; a state that is being made is thrown away.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Some(task) = self.task.lock().await.take() {
            let _ = task.await;
        }
    }
}

struct Keeper {
    views: Views,
    view: Arc<View>,
    catalog: Catalog,
    /// The view's boundary at which the chain outgrew its memory: it is tried again above another one.
    gave_up_at: Option<Boundary>,
    /// Counts late rows, once the table's event time is known and the view has a window of it.
    late: Option<LateCounter>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let definition = loop {
                match self.view.define(self.views.planner(), &self.catalog).await {
                    Ok(definition) => break definition,
                    // Its table's columns may still have to be inferred; whoever asks the view is told.
                    Err(_) => clock::pause(LOOK_AGAIN).await,
                }
            };
            let Way::States(split) = &definition.way else { return };
            if !self.keep(&definition, split).await {
                return;
            }
        }
    }

    /// Keeps the chain of one definition until it changes; `false` when its table is gone.
    async fn keep(&mut self, definition: &Arc<Definition>, split: &Arc<Split>) -> bool {
        // Another query may have another window.
        self.late = None;
        let mut backoff = Backoff::default();
        let Some((hub, _)) = self.catalog.table(split.table()) else { return false };
        let (mut rows, mut states) = (hub.changes(), self.view.changes());
        loop {
            rows.borrow_and_update();
            states.borrow_and_update();
            let defined = self.view.define(self.views.planner(), &self.catalog).await;
            if !defined.is_ok_and(|defined| Arc::ptr_eq(&defined, definition)) {
                return true;
            }
            match self.step(definition, split).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(view = self.view.name(), error = ?error, "live states are made again");
                    self.view.update(|moment| moment.live = None);
                    backoff.wait().await;
                }
            }
            clock::pause(STATE_EVERY).await;
            tokio::select! {
                changed = rows.changed() => if changed.is_err() { return false },
                changed = states.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Brings the chain from the view's boundary to what is decoded now.
    async fn step(&mut self, definition: &Definition, split: &Arc<Split>) -> Result<()> {
        let Some((_, table)) = self.catalog.table(split.table()) else { return Ok(()) };
        self.count_late(split, &table);
        let foreign = table.lake.as_ref().and_then(|lake| lake.foreign_version);
        let stamp = Stamp::now(&definition.plan_hash, foreign);
        let moment = self.view.moment();
        let start = match moment.boundary(&stamp) {
            Some(boundary) => boundary.clone(),
            None if table.boundary.is_empty() => Boundary::new(),
            // What lies in the lake is being aggregated; a chain above it would not be joined to anything yet.
            None => return Ok(()),
        };
        if self.gave_up_at.as_ref().is_some_and(|at| *at == start) {
            return Ok(());
        }
        self.gave_up_at = None;
        let mut live = moment.live.clone().filter(|live| *live.stamp() == stamp);
        let chain = live.get_or_insert_with(|| LiveStates::new(stamp.clone()));
        chain.drop_below(&start);
        let decoded = table.decoded();
        let ends = chain.range().map(|(from, to)| (from.clone(), to.clone()));
        let (first, last) = ends.unwrap_or_else(|| (decoded.clone(), decoded.clone()));
        let mut made = Vec::new();
        if chain.is_empty() || !first.is_at_least(&start) || !start.is_at_least(&first) {
            made.push((start.clone(), first.clone()));
        }
        made.push((last, decoded));
        for (from, to) in made.into_iter().filter(|(from, to)| !from.is_at_least(to)) {
            let state = self.make(split, &stamp, &table, from, to).await?;
            chain.add(Arc::new(state))?;
        }
        while let Some(parts) = chain.mergeable() {
            let merged =
                Inputs::states_only(split, None, parts.clone()).reduced(self.views.planner()).await?;
            chain.replace(&parts, merged);
        }
        let before = moment.live.as_ref().map_or(0, LiveStates::bytes);
        if !self.views.has_room(chain.bytes().saturating_sub(before)) {
            tracing::warn!(
                view = self.view.name(),
                bytes = chain.bytes(),
                "live states outgrow their memory: statements read the rows"
            );
            let told =
                "its live states outgrow `serving.view_memory`: statements aggregate newer rows themselves";
            self.gave_up_at = Some(start);
            self.view.update(|moment| {
                moment.live = None;
                moment.trouble = Some(told.to_owned());
            });
            return Ok(());
        }
        let live = chain.clone();
        let unchanged = |known: &LiveStates| known.range() == live.range() && known.len() == live.len();
        if moment.live.as_ref().is_some_and(unchanged) {
            return Ok(());
        }
        self.view.update(|moment| {
            // The owner may have moved on meanwhile; then the next step begins at its boundary.
            let mut live = live;
            if let Some(boundary) = moment.boundary(&stamp) {
                live.drop_below(&boundary.clone());
            }
            moment.live = Some(live);
        });
        Ok(())
    }

    /// Looks at the new rows of `table` before they become a state.
    fn count_late(&mut self, split: &Split, table: &CutTable) {
        if self.late.is_none()
            && let Some(time) = self.catalog.event_time(&table.name)
            && let Some(window_us) = split.window_us(&time.column)
        {
            let grace_us = i64::try_from(self.view.grace().as_micros()).unwrap_or(i64::MAX);
            self.late = Some(LateCounter::new(time, window_us, grace_us));
        }
        if let Some(late) = &mut self.late {
            self.view.set_late_records(late.count(table));
        }
    }

    async fn make(
        &self,
        split: &Arc<Split>,
        stamp: &Stamp,
        table: &Arc<CutTable>,
        from: Boundary,
        to: Boundary,
    ) -> Result<State> {
        let nothing = tarn_view::ViewMoment::default();
        let inputs = Inputs::between(split, &nothing, stamp, table, &from, &to);
        let batches = inputs.reduced(self.views.planner()).await?;
        Ok(State::new(from, to, batches))
    }
}
