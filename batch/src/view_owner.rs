//! One view's owner: the only one that commits its states to the lake.
//!
//! A view follows its table: once the table's rows are in the lake up to a boundary, the view's states follow up to the same
//! boundary. Its steps: states of `[view's boundary, table's boundary)` merged (from live states where they fit, from rows
//! elsewhere) → files written → committed with the boundary → shown. A new view, a changed query, another engine and damaged
//! states take the same steps from 0 on, in a build of their own, while statements read the rows.
//!
//! *Invariants*: a view is never ahead of its table's lake part, so the lake at rest has both. The boundary moves in the commit
//! that adds the states, and nowhere else. Several small files of states become one in a commit that also moves the boundary.
//!
//! *Failure*: a kill leaves files without a commit, which vacuum takes, or a build without states, from which it goes on.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use tarn_lake::{Advance, Commit, Lake};
use tarn_model::{Boundary, Error, Kind, Result, clock, fault};
use tarn_table::open::{Backoff, TOPIC_UUID};
use tarn_table::{Catalog, CutTable};
use tarn_view::{Definition, Inputs, Split, Stamp, Version, Versions, View, Views, Way};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Files of states that become one.
const MERGE_FILES: usize = 8;
/// What is under way gets this long when the process stops.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// A table that is not there yet is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The handle of a view owner's task.
#[derive(Debug)]
pub struct ViewOwner {
    stop: watch::Sender<bool>,
    rebuilds: mpsc::Sender<oneshot::Sender<Result<u32>>>,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
    view: Arc<View>,
    views: Views,
    catalog: Catalog,
}

impl ViewOwner {
    /// Starts the owner of `view`, one of `views`.
    pub fn start(views: Views, view: Arc<View>, catalog: Catalog) -> ViewOwner {
        let (stop, stopped) = watch::channel(false);
        let (rebuilds, orders) = mpsc::channel(1);
        let owner = Owner {
            lake: catalog.lake().clone(),
            catalog: catalog.clone(),
            views: views.clone(),
            view: Arc::clone(&view),
            build: None,
        };
        let task = tokio::spawn(owner.run(stopped, orders));
        ViewOwner { stop, rebuilds, task: tokio::sync::Mutex::new(Some(task)), view, views, catalog }
    }

    /// Waits until the view's states in the lake have reached its table's boundary; not for a view that is kept as rows, or
    /// that is in trouble: it is right without them.
    pub async fn caught_up(&self) {
        let mut changes = self.view.changes();
        loop {
            changes.borrow_and_update();
            let Ok(definition) = self.view.define(self.views.planner(), &self.catalog).await else { return };
            let Way::States(split) = &definition.way else { return };
            let Some((_, table)) = self.catalog.table(split.table()) else { return };
            let stamp = stamp_of(&definition, &table);
            let moment = self.view.moment();
            if moment.boundary(&stamp).is_some_and(|boundary| boundary.is_at_least(&table.boundary))
                || moment.trouble.is_some()
                || self.task.lock().await.as_ref().is_none_or(JoinHandle::is_finished)
                || changes.changed().await.is_err()
            {
                return;
            }
        }
    }

    /// The view's name.
    pub fn name(&self) -> &str {
        self.view.name()
    }

    /// Makes all states anew from the lake, in a build of their own, while the old ones serve; its number.
    pub async fn rebuild(&self) -> Result<u32> {
        let gone = || {
            Error::invalid(format!(
                "view `{}` is kept as rows: there is nothing to rebuild",
                self.view.name()
            ))
        };
        let (done, wait) = oneshot::channel();
        self.rebuilds.send(done).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// Ends after the commit under way.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        if let Some(mut task) = self.task.lock().await.take()
            && tokio::time::timeout(LAST_COMMIT, &mut task).await.is_err()
        {
            // A build that takes long is begun again at the next start; a commit goes on by itself.
            task.abort();
            let _ = task.await;
        }
    }
}

struct Owner {
    lake: Lake,
    catalog: Catalog,
    views: Views,
    view: Arc<View>,
    build: Option<Build>,
}

/// The build that is committed to.
struct Build {
    version: Version,
    stamp: Stamp,
    /// All its states, one row a group, while they have room in memory.
    cached: Option<Vec<RecordBatch>>,
}

impl Owner {
    async fn run(
        mut self,
        mut stopped: watch::Receiver<bool>,
        mut orders: mpsc::Receiver<oneshot::Sender<Result<u32>>>,
    ) {
        let mut backoff = Backoff::default();
        let definition = loop {
            match self.view.define(self.views.planner(), &self.catalog).await {
                Ok(definition) => break definition,
                Err(_) => {
                    tokio::select! {
                        () = clock::pause(LOOK_AGAIN) => {}
                        _ = stopped.wait_for(|stop| *stop) => return,
                    }
                }
            }
        };
        let Way::States(split) = &definition.way else {
            tracing::info!(view = self.view.name(), "kept as rows");
            return;
        };
        let Some((hub, _)) = self.catalog.table(split.table()) else { return };
        let mut changes = hub.changes();
        loop {
            changes.borrow_and_update();
            match self.step(&definition, split).await {
                Ok(()) => {
                    backoff.reset();
                    if self.view.moment().trouble.is_some() && self.views.has_room(0) {
                        self.view.update(|moment| moment.trouble = None);
                    }
                }
                Err(error) => {
                    self.troubled(&error);
                    tokio::select! {
                        () = backoff.wait() => continue,
                        _ = stopped.wait_for(|stop| *stop) => return,
                    }
                }
            }
            let order = tokio::select! {
                changed = changes.changed() => if changed.is_err() { return } else { None },
                Some(done) = orders.recv() => Some(done),
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            if let Some(done) = order {
                // Whoever asked may have gone.
                let _ = done.send(self.rebuild(&definition, split).await);
            }
        }
    }

    /// Makes the next build; it is shown once it has reached the table's boundary.
    async fn rebuild(&mut self, definition: &Definition, split: &Arc<Split>) -> Result<u32> {
        let name = self.view.name().to_owned();
        let Some((_, table)) = self.catalog.table(split.table()) else {
            return Err(Error::unavailable(format!("view `{name}` has no table yet")));
        };
        let stamp = stamp_of(definition, &table);
        let mut versions = Versions::find(&self.lake, &name).await?;
        let topic_uuid = topic_uuid_of(&name, &table)?;
        let version = versions.create(definition, split, &stamp, &topic_uuid).await?;
        tracing::info!(view = name, table = version.table.name(), "rebuilding from the lake");
        let number = version.number;
        let old = self.build.replace(Build { version, stamp, cached: Some(Vec::new()) });
        if let Err(error) = self.advance(split, &table, &Boundary::new()).await {
            self.build = old;
            return Err(error);
        }
        Ok(number)
    }

    /// Logs what went wrong, shows it, and lets go of the build: a commit may have landed whose states are not in memory, so
    /// the next step reads the lake first.
    fn troubled(&mut self, error: &Error) {
        let name = self.view.name();
        let table = self.build.take().map(|build| build.version.table.name().to_owned()).unwrap_or_default();
        // A file of the table that is gone says nothing about the states.
        if is_damage(error) && !table.is_empty() && error.chain().contains(&table) {
            tracing::warn!(view = name, table, error = %error.chain(), "states are damaged; they are made anew");
            self.view.update(|moment| {
                moment.batch = None;
                moment.live = None;
            });
        } else {
            tracing::warn!(view = name, error = %error.chain(), "states are not committed; trying again");
        }
        let told = error.chain();
        self.view.update(|moment| moment.trouble = Some(told));
    }

    /// Commits states up to the table's boundary, if there is anything to commit.
    async fn step(&mut self, definition: &Definition, split: &Arc<Split>) -> Result<()> {
        let Some((_, table)) = self.catalog.table(split.table()) else { return Ok(()) };
        let stamp = stamp_of(definition, &table);
        if self.build.as_ref().is_none_or(|build| build.stamp != stamp) {
            self.build = Some(self.open(definition, split, &stamp, &table).await?);
            self.show();
        }
        let Some(build) = &self.build else { return Ok(()) };
        let from = build.version.boundary();
        if from.is_at_least(&table.boundary) {
            return Ok(());
        }
        self.advance(split, &table, &from).await
    }

    /// The newest build with this stamp, or a new one.
    async fn open(
        &self,
        definition: &Definition,
        split: &Arc<Split>,
        stamp: &Stamp,
        table: &CutTable,
    ) -> Result<Build> {
        let name = self.view.name();
        let topic_uuid = topic_uuid_of(name, table)?;
        let mut versions = Versions::find(&self.lake, name).await?;
        if let Some(version) = versions.usable(stamp, &topic_uuid, true).await? {
            // A table that was put back from an older copy ends below what its view has seen.
            if table.boundary.is_at_least(&version.boundary()) {
                match Versions::read(&version, split, stamp, self.views.planner()).await {
                    Ok(states) => {
                        let bytes = states.iter().map(RecordBatch::get_array_memory_size).sum();
                        let cached = self.views.has_room(bytes).then_some(states);
                        return Ok(Build { version, stamp: stamp.clone(), cached });
                    }
                    Err(error) if is_damage(&error) => {
                        tracing::warn!(view = name, table = version.table.name(), error = %error.chain(), "states are damaged; they are made anew");
                    }
                    Err(error) => return Err(error),
                }
            } else {
                tracing::warn!(
                    view = name,
                    table = version.table.name(),
                    "states are ahead of their table; they are made anew"
                );
            }
        }
        let version = versions.create(definition, split, stamp, &topic_uuid).await?;
        tracing::info!(view = name, table = version.table.name(), "states are made from the lake");
        Ok(Build { version, stamp: stamp.clone(), cached: Some(Vec::new()) })
    }

    async fn advance(&mut self, split: &Arc<Split>, table: &Arc<CutTable>, from: &Boundary) -> Result<()> {
        let Some(build) = &mut self.build else { return Ok(()) };
        let planner = self.views.planner();
        let to = table.boundary.clone();
        let moment = self.view.moment();
        let inputs = Inputs::between(split, &moment, &build.stamp, table, from, &to);
        let made = inputs.reduced(planner).await?;
        let snapshot = build.version.table.snapshot();
        let merge = snapshot.files.len() + 1 >= MERGE_FILES;
        // All states in one, for statements; and for the lake, when it has many files.
        let total = if let Some(cached) = &build.cached {
            Some(merged(split, &self.views, cached, &made).await?)
        } else if merge {
            let stored = Versions::read(&build.version, split, &build.stamp, planner).await?;
            Some(merged(split, &self.views, &stored, &made).await?)
        } else {
            None
        };
        let (written, removes) = match &total {
            Some(total) if merge => (total, snapshot.files.clone()),
            _ => (&made, Vec::new()),
        };
        let stored: Vec<RecordBatch> = written
            .iter()
            .map(|states| split.stored().store(states).map_err(tarn_view::from_datafusion))
            .collect::<Result<_>>()?;
        let files = build.version.table.write(stored).await?;
        let topic_uuid = snapshot.properties.get(TOPIC_UUID).cloned().unwrap_or_default();
        let advances = to.iter().filter_map(|(partition, next)| {
            let app_id = format!("tarn/{topic_uuid}/{partition}");
            let expected = snapshot.txns.get(&app_id).copied();
            (expected != Some(next)).then_some(Advance { app_id, expected, to: next })
        });
        let operation = if removes.is_empty() { "VIEW STATES" } else { "MERGE VIEW STATES" };
        let commit = Commit {
            advances: advances.collect(),
            files,
            removes,
            operation: operation.to_owned(),
            ..Commit::default()
        };
        fault::point("view.commit.before")?;
        match build.version.table.commit(commit).await {
            Ok(_) => {}
            Err(error) if error.kind() == Kind::Conflict => {
                build.version.table.reload().await?;
                return Err(
                    Error::unavailable("the states were changed by another writer").with_source(error)
                );
            }
            Err(error) => return Err(error),
        }
        fault::point("view.commit.after")?;
        build.cached = total.filter(|total| {
            let bytes: usize = total.iter().map(RecordBatch::get_array_memory_size).sum();
            let before: usize = build.cached.iter().flatten().map(RecordBatch::get_array_memory_size).sum();
            self.views.has_room(bytes.saturating_sub(before))
        });
        tracing::debug!(view = self.view.name(), version = build.version.number, boundary = %to, "states committed");
        self.show();
        if let Some(build) = &self.build
            && let Err(error) = build.version.table.upkeep().await
        {
            tracing::warn!(view = self.view.name(), error = ?error, "upkeep did not finish; it is tried again");
        }
        Ok(())
    }

    /// Lets statements see the build as it is.
    fn show(&self) {
        let Some(build) = &self.build else { return };
        let states = build.version.states(&build.stamp, build.cached.clone());
        self.view.update(|moment| {
            if let Some(live) = &mut moment.live {
                live.drop_below(&states.boundary);
            }
            moment.batch = Some(Arc::new(states));
        });
    }
}

async fn merged(
    split: &Arc<Split>,
    views: &Views,
    a: &[RecordBatch],
    b: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    let batches = a.iter().chain(b).cloned().collect();
    let state = Arc::new(tarn_view::State::new(Boundary::new(), Boundary::new(), batches));
    Inputs::states_only(split, None, vec![state]).reduced(views.planner()).await
}

fn topic_uuid_of(view: &str, table: &CutTable) -> Result<String> {
    let topic_uuid = table.lake.as_ref().and_then(|lake| lake.properties.get(TOPIC_UUID).cloned());
    topic_uuid.ok_or_else(|| {
        Error::unavailable(format!("view `{view}` waits for table `{}` to be in the lake", table.name))
    })
}

fn stamp_of(definition: &Definition, table: &CutTable) -> Stamp {
    Stamp::now(&definition.plan_hash, table.lake.as_ref().and_then(|lake| lake.foreign_version))
}

/// Whether states that are there cannot be read: files gone, or bytes that are not what was written.
fn is_damage(error: &Error) -> bool {
    error.kind() == Kind::Corrupt || error.chain().to_lowercase().contains("not found")
}
