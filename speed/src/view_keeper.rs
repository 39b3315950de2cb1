//! Keeps one view's live states: rows become a state a moment after they were decoded.
//!
//! *Why micro-batches*: an aggregate that never ends can only be asked by emptying it. Rows of some tenths of a second make one
//! immutable state; states of one tier are merged, as fragments are.
//!
//! *Why edges*: a commit takes rows from the tail and states from the chain. A state that lies across its end would be let go and made again,
//! from the lake for the commit and from the tail for the chain; so states end where commits do.
//!
//! *Invariants*: the chain begins at the boundary of the view's states in the lake, or nothing is kept. It is never longer than
//! what the table has decoded. Beyond the memory that states may take the chain is let go, and statements read the rows.
//!
//! *Failure*: live states are only a cache of rows; whatever goes wrong is logged, shown, and tried again.

use std::sync::Arc;
use std::time::Duration;

use tarn_model::{Boundary, Result, clock};
use tarn_table::open::Backoff;
use tarn_table::{Catalog, CutTable, TopicHub};
use tarn_view::{
    Definition, Inputs, LiveStates, Split, Stamp, State, View, Views, Way, cut_at, is_too_large,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

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
            let keeping = Keeper { views, view, catalog, began_at: Boundary::new(), gave_up_at: None }.run();
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

/// Where states of `table` had better end: at its commits, the last one and the one that is under way.
fn edges(hub: &TopicHub, table: &CutTable) -> Vec<Boundary> {
    hub.committing(&table.name).into_iter().chain([table.boundary.clone()]).collect()
}

struct Keeper {
    views: Views,
    view: Arc<View>,
    catalog: Catalog,
    /// The view's boundary at the last step.
    began_at: Boundary,
    /// The view's boundary at which the chain outgrew its memory: it is tried again above another one.
    gave_up_at: Option<Boundary>,
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
                Err(error) if is_too_large(&error) => self.give_up(&error.to_string()),
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
        let Some((hub, table)) = self.catalog.table(split.table()) else { return Ok(()) };
        let known = edges(&hub, &table);
        self.view.look_for_late(self.view.late_rule(definition, &self.catalog).as_ref(), &table);
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
        self.began_at.clone_from(&start);
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
            // What comes in front is one state: it was an edge's already.
            let is_front = chain.range().is_some_and(|(first, _)| *first == to);
            for (from, to) in cut_at(from, to, if is_front { &[] } else { &known }) {
                let state = self.make(split, &stamp, &table, from, to).await?;
                chain.add(Arc::new(state))?;
            }
        }
        let is_new = |edge: &Boundary| !known.contains(edge) && chain.is_cut_by(edge);
        if edges(&hub, &table).iter().any(is_new) {
            // A commit has begun meanwhile: what was just made would have to be made again once it has landed.
            return Ok(());
        }
        let before = moment.live.as_ref().map_or(0, LiveStates::bytes);
        if !self.views.has_room(chain.bytes().saturating_sub(before)) {
            self.give_up(&format!("there are {} bytes of them", chain.bytes()));
            return Ok(());
        }
        self.show(chain, &stamp);
        // Readers have the new states; few of them instead of many can wait.
        while let Some(parts) = chain.mergeable(&known) {
            let merged =
                Inputs::states_only(split, None, parts.clone()).reduced(self.views.planner()).await?;
            chain.replace(&parts, State::sorted(merged, split.keys()).await?);
            self.show(chain, &stamp);
        }
        Ok(())
    }

    /// Lets statements aggregate newer rows themselves, until the view's boundary has moved.
    fn give_up(&mut self, why: &str) {
        tracing::warn!(
            view = self.view.name(),
            why,
            "live states outgrow their memory: statements read the rows"
        );
        let told =
            "its live states outgrow `serving.view_memory`: statements aggregate newer rows themselves";
        self.gave_up_at = Some(self.began_at.clone());
        self.view.update(|moment| {
            moment.live = None;
            moment.trouble = Some(told.to_owned());
        });
    }

    /// Lets statements see `chain`, if it is another one than they do.
    fn show(&self, chain: &LiveStates, stamp: &Stamp) {
        let moment = self.view.moment();
        let unchanged = |known: &LiveStates| known.range() == chain.range() && known.len() == chain.len();
        if moment.live.as_ref().is_some_and(unchanged) {
            return;
        }
        self.view.update(|moment| {
            // The owner may have moved on meanwhile; then the next step begins at its boundary.
            let mut live = chain.clone();
            if let Some(boundary) = moment.boundary(stamp) {
                live.drop_below(&boundary.clone());
            }
            moment.live = Some(live);
        });
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
        self.view.has_aggregated(inputs.records());
        State::made(from, to, batches, split.keys()).await
    }
}
