//! Makes builds of one definition of a view: opens one that is there, fills a new one from the lake, brings it forward.
//!
//! *Invariants*: the boundary moves in the commit that adds the states, and nowhere else, and never beyond the table's. Several
//! small files of states become one in a commit that also moves the boundary. A new build is filled at the table's boundary of
//! its start, in parallel and in one pass, and then follows by offsets until it has met the table.
//!
//! *Failure*: a kill leaves files without a commit, which vacuum takes, or a build without states, which is filled next time.

use std::sync::Arc;

use arrow::array::RecordBatch;
use tarn_lake::{Advance, Commit};
use tarn_model::{Boundary, Error, Kind, Result, fault};
use tarn_table::open::TOPIC_UUID;
use tarn_table::{Catalog, CutTable};
use tarn_view::{
    Building, Definition, Inputs, Pace, Split, Stamp, State, Version, Versions, View, ViewMoment, Views, Way,
    from_datafusion, is_damage, sorted,
};

/// Files of states that become one.
const MERGE_FILES: usize = 8;
/// A new build follows its table at most so often before it serves; the rest is for whoever keeps it then.
const MOST_ROUNDS: usize = 8;

/// Makes builds of one definition; clones share it.
#[derive(Clone)]
pub(crate) struct Maker {
    pub(crate) catalog: Catalog,
    pub(crate) views: Views,
    pub(crate) view: Arc<View>,
    pub(crate) definition: Arc<Definition>,
    pub(crate) split: Arc<Split>,
}

/// A build that is committed to.
pub(crate) struct Build {
    pub(crate) version: Version,
    pub(crate) stamp: Stamp,
    /// All its states, one row a group, while they have room in memory.
    cached: Option<Vec<RecordBatch>>,
    /// Its states could not be read.
    pub(crate) is_damaged: bool,
}

impl Build {
    fn new(version: Version, stamp: Stamp, cached: Option<Vec<RecordBatch>>) -> Build {
        Build { version, stamp, cached, is_damaged: false }
    }

    /// Lets statements on `view` see the build as it is.
    pub(crate) fn show(&self, view: &View) {
        let states = self.version.states(&self.stamp, self.cached.clone());
        view.update(|moment| {
            if let Some(live) = &mut moment.live {
                live.drop_below(&states.boundary);
            }
            moment.batch = Some(Arc::new(states));
        });
    }
}

impl Maker {
    /// For what `view` is planned as; `None` when it is kept as rows.
    pub(crate) fn new(
        views: &Views,
        view: &Arc<View>,
        catalog: &Catalog,
        definition: Arc<Definition>,
    ) -> Option<Maker> {
        let Way::States(split) = &definition.way else { return None };
        let split = Arc::clone(split);
        let (catalog, views, view) = (catalog.clone(), views.clone(), Arc::clone(view));
        Some(Maker { catalog, views, view, definition, split })
    }

    /// The view's table as it is now.
    pub(crate) fn table(&self) -> Option<Arc<CutTable>> {
        self.catalog.table(self.split.table()).map(|(_, table)| table)
    }

    /// What states over `table` must have been made with.
    pub(crate) fn stamp(&self, table: &CutTable) -> Stamp {
        Stamp::now(&self.definition.plan_hash, table.lake.as_ref().and_then(|lake| lake.foreign_version))
    }

    /// The topic that `table` was made from; it is known once the table is in the lake.
    pub(crate) fn topic_uuid(&self, table: &CutTable) -> Result<String> {
        let topic_uuid = table.lake.as_ref().and_then(|lake| lake.properties.get(TOPIC_UUID).cloned());
        topic_uuid.ok_or_else(|| {
            let view = self.view.name();
            Error::unavailable(format!("view `{view}` waits for table `{}` to be in the lake", table.name))
        })
    }

    /// The newest build that can go on as it is; `None` when one has to be filled.
    pub(crate) async fn open(&self, stamp: &Stamp, table: &CutTable) -> Result<Option<Build>> {
        let name = self.view.name();
        let topic_uuid = self.topic_uuid(table)?;
        let versions = Versions::find(self.catalog.lake(), name).await?;
        let Some(version) = versions.usable(stamp, &topic_uuid, true).await? else {
            return Ok(None);
        };
        if version.boundary().is_empty() && !table.boundary.is_empty() {
            // It was only begun.
            return Ok(None);
        }
        self.read(version, stamp, table).await
    }

    /// A build with its states in memory, if they are there.
    pub(crate) async fn read(
        &self,
        version: Version,
        stamp: &Stamp,
        table: &CutTable,
    ) -> Result<Option<Build>> {
        let (view, states) = (self.view.name(), version.table.name());
        // A table that was put back from an older copy ends below what its view has seen.
        if !table.boundary.is_at_least(&version.boundary()) {
            tracing::warn!(view, table = states, "states are ahead of their table; they are made anew");
            return Ok(None);
        }
        match Versions::read(&version, &self.split, stamp, self.views.planner()).await {
            Ok(states) => {
                let states = sorted(states, self.split.keys()).await?;
                let cached = self.room_for(states, 0);
                Ok(Some(Build::new(version, stamp.clone(), cached)))
            }
            Err(error) if is_damage(&error) => {
                tracing::warn!(view, table = states, error = %error.chain(), "states are damaged; they are made anew");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes all states anew from the lake, in a build of their own.
    pub(crate) async fn make(&self, building: Arc<Building>) -> Result<Build> {
        let name = self.view.name();
        let gone = || Error::unavailable(format!("view `{name}` has no table yet"));
        let mut table = self.table().ok_or_else(gone)?;
        let (stamp, topic_uuid) = (self.stamp(&table), self.topic_uuid(&table)?);
        let mut versions = Versions::find(self.catalog.lake(), name).await?;
        fault::point("view.create.before")?;
        let version = versions.create(&self.definition, &self.split, &stamp, &topic_uuid).await?;
        fault::point("view.create.after")?;
        building.is_version(version.number);
        tracing::info!(view = name, table = version.table.name(), "states are made from the lake");
        let mut build = Build::new(version, stamp, Some(Vec::new()));
        for _ in 0..MOST_ROUNDS {
            self.advance(&mut build, &table, Some(building.pace())).await?;
            table = self.table().ok_or_else(gone)?;
            if self.stamp(&table) != build.stamp {
                return Err(Error::unavailable("another engine has changed the table's rows meanwhile"));
            }
            if build.version.boundary().is_at_least(&table.boundary) {
                break;
            }
        }
        Ok(build)
    }

    /// Commits states up to the boundary of `table`; at `pace`, they are made of nothing but rows.
    pub(crate) async fn advance(
        &self,
        build: &mut Build,
        table: &Arc<CutTable>,
        pace: Option<&Arc<Pace>>,
    ) -> Result<()> {
        let (from, to) = (build.version.boundary(), table.boundary.clone());
        if from.is_at_least(&to) {
            return Ok(());
        }
        let made = match pace {
            Some(pace) => {
                let nothing = ViewMoment::default();
                let inputs = Inputs::between(&self.split, &nothing, &build.stamp, table, &from, &to);
                inputs.paced(Arc::clone(pace)).reduced(self.views.planner()).await?
            }
            None => {
                let moment = self.view.moment();
                let inputs = Inputs::between(&self.split, &moment, &build.stamp, table, &from, &to);
                inputs.reduced(self.views.planner()).await?
            }
        };
        let made = sorted(made, self.split.keys()).await?;
        let snapshot = build.version.table.snapshot();
        let merge = snapshot.files.len() + 1 >= MERGE_FILES;
        let total = self.total(build, &made, merge).await?;
        let (written, removes) = match &total {
            Some(total) if merge => (total, snapshot.files.clone()),
            _ => (&made, Vec::new()),
        };
        let stored = written.iter().map(|states| self.split.stored().store(states).map_err(from_datafusion));
        fault::point("view.upload.before")?;
        let files = build.version.table.write(stored.collect::<Result<_>>()?).await?;
        fault::point("view.upload.after")?;
        let topic_uuid = snapshot.properties.get(TOPIC_UUID).cloned().unwrap_or_default();
        let advances = to.iter().filter_map(|(partition, next)| {
            let app_id = format!("tarn/{topic_uuid}/{partition}");
            let expected = snapshot.txns.get(&app_id).copied();
            (expected != Some(next)).then_some(Advance { app_id, expected, to: next })
        });
        let (operation, before, after) = if removes.is_empty() {
            ("VIEW STATES", "view.commit.before", "view.commit.after")
        } else {
            ("MERGE VIEW STATES", "view.merge.before", "view.merge.after")
        };
        let advances = advances.collect();
        let operation = operation.to_owned();
        let commit = Commit { advances, files, removes, operation, ..Commit::default() };
        fault::point(before)?;
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
        fault::point(after)?;
        let before = build.cached.as_ref().map_or(0, tarn_view::memory_bytes);
        build.cached = total.and_then(|total| self.room_for(total, before));
        tracing::debug!(view = self.view.name(), version = build.version.number, boundary = %to, "states committed");
        Ok(())
    }

    /// All states in one, for statements; and for the lake, when it has many files. `None` when neither needs them.
    async fn total(
        &self,
        build: &mut Build,
        made: &[RecordBatch],
        merge: bool,
    ) -> Result<Option<Vec<RecordBatch>>> {
        let stored;
        let known = match &build.cached {
            Some(cached) if cached.is_empty() => return Ok(Some(made.to_vec())),
            Some(cached) => cached,
            None if merge => {
                let read =
                    Versions::read(&build.version, &self.split, &build.stamp, self.views.planner()).await;
                build.is_damaged = read.as_ref().is_err_and(is_damage);
                stored = read?;
                &stored
            }
            None => return Ok(None),
        };
        let batches = known.iter().chain(made).cloned().collect();
        let all = Arc::new(State::new(Boundary::new(), Boundary::new(), batches));
        let merged = Inputs::states_only(&self.split, None, vec![all]).reduced(self.views.planner()).await?;
        Ok(Some(sorted(merged, self.split.keys()).await?))
    }

    /// `states`, if they may stay in memory where `before` bytes of them are already.
    fn room_for(&self, states: Vec<RecordBatch>, before: usize) -> Option<Vec<RecordBatch>> {
        let bytes = tarn_view::memory_bytes(&states);
        self.views.has_room(bytes.saturating_sub(before)).then_some(states)
    }
}
