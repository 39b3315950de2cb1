//! Makes builds of one definition of a view: opens one that is there, fills a new one from the lake, brings it forward.
//!
//! *Invariants*: the boundary moves in the commit that adds the states, and nowhere else, and never beyond the table's. Several
//! small files of states become one in a commit that also moves the boundary. A new build is filled at the table's boundary of
//! its start, in parallel and in one pass, and then follows by offsets until it has met the table.
//!
//! *Cost*: states of about one size become one, in memory and in the lake (`view_tiers.rs`), so a commit costs about what it adds, also
//! where a view has a million groups.
//!
//! *Failure*: a kill leaves files without a commit, which vacuum takes, or a build without states, which is filled next time.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use tarn_lake::{Advance, Commit, LakeFile};
use tarn_model::{Boundary, Error, Kind, Result, fault};
use tarn_table::catalog::boundary_of;
use tarn_table::open::TOPIC_UUID;
use tarn_table::{Catalog, CutTable};
use tarn_view::{
    Building, Definition, Inputs, Late, LateRule, Pace, Split, Stamp, State, Version, Versions, View,
    ViewMoment, Views, Way, add_late, from_datafusion, is_damage, is_too_large,
};

use crate::view_tiers::{files_to_merge, to_merge};

/// A new build follows its table at most so often before it serves; the rest is for whoever keeps it then.
const MOST_ROUNDS: usize = 8;
/// States of so few records that fewer would be no help.
const FEW_RECORDS: u64 = 1000;

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
    /// All its states, while they have room in memory.
    cached: Option<Vec<Arc<State>>>,
    /// Its states could not be read.
    pub(crate) is_damaged: bool,
}

impl Build {
    fn new(version: Version, stamp: Stamp, cached: Option<Vec<Arc<State>>>) -> Build {
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
                let states = Arc::new(State::sorted(states, self.split.keys()).await?);
                let cached = self.room_for(vec![states], 0);
                Ok(Some(Build::new(version, stamp.clone(), cached)))
            }
            Err(error) if is_damage(&error) => {
                tracing::warn!(view, table = states, error = %error.chain(), "states are damaged; they are made anew");
                Ok(None)
            }
            Err(error) if is_too_large(&error) => {
                tracing::warn!(
                    view,
                    table = states,
                    "states outgrow `serving.view_memory`: statements read them from the lake"
                );
                Ok(Some(Build::new(version, stamp.clone(), None)))
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

    /// Commits states up to the boundary of `table`; at `pace`, they are made of nothing but rows. In one commit, but for states that
    /// are made of more rows at once than fit into memory.
    pub(crate) async fn advance(
        &self,
        build: &mut Build,
        table: &Arc<CutTable>,
        pace: Option<&Arc<Pace>>,
    ) -> Result<()> {
        let mut most = u64::MAX;
        loop {
            let from = build.version.boundary();
            if from.is_at_least(&table.boundary) {
                return Ok(());
            }
            let to = at_most(&from, &table.boundary, most);
            match self.advance_to(build, table, to.clone(), pace).await {
                Ok(()) => {}
                // A count of late rows goes from boundary to boundary of the table.
                Err(error)
                    if is_too_large(&error)
                        && to.records_above(&from) > FEW_RECORDS
                        && self.view.late_rule(&self.definition, &self.catalog).is_none() =>
                {
                    let longest = to.iter().map(|(at, next)| next.saturating_sub(from.next(at))).max();
                    most = longest.unwrap_or(0).unsigned_abs().div_ceil(2).max(1);
                    tracing::info!(
                        view = self.view.name(),
                        records = most,
                        "states are made of fewer rows at once"
                    );
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn advance_to(
        &self,
        build: &mut Build,
        table: &Arc<CutTable>,
        to: Boundary,
        pace: Option<&Arc<Pace>>,
    ) -> Result<()> {
        let from = build.version.boundary();
        let begin = Instant::now();
        // Before the states: what it goes on from may be let go while they are made.
        let marks = self.late_marks(build, table).await;
        let inputs = match pace {
            Some(pace) => {
                let nothing = ViewMoment::default();
                Inputs::between(&self.split, &nothing, &build.stamp, table, &from, &to)
                    .paced(Arc::clone(pace))
            }
            None => Inputs::between(&self.split, &self.view.moment(), &build.stamp, table, &from, &to),
        };
        let made = inputs.reduced(self.views.planner()).await?;
        self.view.has_aggregated(inputs.records());
        let made = Arc::new(State::sorted(made, self.split.keys()).await?);
        let snapshot = build.version.table.snapshot();
        let mut runs = match &build.cached {
            Some(runs) => unless_too_large(self.with_run(runs, &made).await)?,
            None => None,
        };
        let mut removes = files_to_merge(&snapshot, made.rows());
        let written = match &mut runs {
            _ if removes.is_empty() => None,
            // What is in memory need not be read.
            Some(parts) if removes.len() == snapshot.files.len() => {
                let all = unless_too_large(self.merged(std::mem::take(parts)).await)?;
                runs = all.clone().map(|all| vec![all]);
                all
            }
            _ => {
                let mut merged = None;
                while merged.is_none() && !removes.is_empty() {
                    merged = unless_too_large(self.with_files(build, &removes, Arc::clone(&made)).await)?;
                    if merged.is_none() {
                        // The smallest come first: without the largest they may do.
                        removes.pop();
                    }
                }
                merged
            }
        };
        let written = written.unwrap_or_else(|| {
            // They stay beside each other, then.
            removes.clear();
            made
        });
        let stored =
            written.batches.iter().map(|states| self.split.stored().store(states).map_err(from_datafusion));
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
        let commit = Commit { advances, files, removes, marks, operation, ..Commit::default() };
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
        let before = build.cached.iter().flatten().map(|run| run.bytes).sum();
        build.cached = runs.and_then(|runs| self.room_for(runs, before));
        let took = begin.elapsed();
        self.view.has_committed(took);
        tracing::debug!(view = self.view.name(), version = build.version.number, boundary = %to, ?took, "states committed");
        Ok(())
    }

    /// What a commit up to the boundary of `table` says of late rows. Where that cannot be told nothing is said: no commit waits for it.
    async fn late_marks(&self, build: &Build, table: &Arc<CutTable>) -> BTreeMap<String, i64> {
        let Some(rule) = self.view.late_rule(&self.definition, &self.catalog) else { return BTreeMap::new() };
        let Some(newest) = table.lake.as_ref().and_then(|lake| rule.newest(lake)) else {
            return BTreeMap::new();
        };
        let (snapshot, to) = (build.version.table.snapshot(), &table.boundary);
        match self.late_upto(&rule, build, table).await {
            Ok(late) => rule.marks(&snapshot, to, &newest, &late),
            Err(error) => {
                tracing::warn!(view = self.view.name(), error = %error.chain(), "late rows are not counted");
                rule.marks(&snapshot, to, &newest, &rule.in_lake(&snapshot).unwrap_or_default())
            }
        }
    }

    /// Late rows below the boundary of `table`: those that the build knows of, or else another one that has come furthest, and those
    /// since. Where no build knows of any the count begins with what was looked at.
    async fn late_upto(&self, rule: &LateRule, build: &Build, table: &Arc<CutTable>) -> Result<Late> {
        let to = &table.boundary;
        let own = build.version.table.snapshot();
        let told = match rule.in_lake(&own) {
            Some(late) => Some((own, late)),
            None => {
                let versions = Versions::find(self.catalog.lake(), self.view.name()).await?;
                let told = versions.snapshots().await.into_iter().filter_map(|snapshot| {
                    let late = rule.in_lake(&snapshot)?;
                    to.is_at_least(&boundary_of(&snapshot)).then_some((snapshot, late))
                });
                told.max_by_key(|(snapshot, _)| boundary_of(snapshot).records_above(&Boundary::new()))
            }
        };
        let Some((snapshot, mut late)) = told else {
            return Ok(self.view.late_between(rule, &build.version.boundary(), to).unwrap_or_default());
        };
        let from = boundary_of(&snapshot);
        let more = match self.view.late_between(rule, &from, to) {
            Some(more) => more,
            None => {
                let newest = rule.newest(&snapshot).unwrap_or_default();
                rule.read(self.views.planner(), table, newest, &from, to).await?
            }
        };
        add_late(&mut late, more);
        Ok(late)
    }

    /// The runs in memory with one more, merged where that is worth it.
    async fn with_run(&self, runs: &[Arc<State>], new: &Arc<State>) -> Result<Vec<Arc<State>>> {
        if new.rows() == 0 {
            return Ok(runs.to_vec());
        }
        let rows: Vec<usize> = runs.iter().map(|run| run.rows()).collect();
        let mut merging = to_merge(&rows, new.rows(), 2);
        merging.sort_unstable();
        let is_merged = |at: &usize| merging.binary_search(at).is_ok();
        let mut left: Vec<Arc<State>> =
            (0..runs.len()).filter(|at| !is_merged(at)).map(|at| Arc::clone(&runs[at])).collect();
        let parts = merging.iter().map(|at| Arc::clone(&runs[*at])).chain([Arc::clone(new)]);
        left.push(self.merged(parts.collect()).await?);
        Ok(left)
    }

    /// One run of all these.
    async fn merged(&self, runs: Vec<Arc<State>>) -> Result<Arc<State>> {
        if let [run] = runs.as_slice() {
            return Ok(Arc::clone(run));
        }
        let merged = Inputs::states_only(&self.split, None, runs).reduced(self.views.planner()).await?;
        Ok(Arc::new(State::sorted(merged, self.split.keys()).await?))
    }

    /// What is to stand in the place of `files` when `made` comes.
    async fn with_files(
        &self,
        build: &mut Build,
        files: &[LakeFile],
        made: Arc<State>,
    ) -> Result<Arc<State>> {
        let paths: HashSet<&str> = files.iter().map(|file| file.path.as_ref()).collect();
        let part = |file: &LakeFile| paths.contains(file.path.as_ref());
        let planner = self.views.planner();
        let read =
            Versions::merged(&build.version, part, vec![made], &self.split, &build.stamp, planner).await;
        build.is_damaged = read.as_ref().is_err_and(is_damage);
        Ok(Arc::new(State::sorted(read?, self.split.keys()).await?))
    }

    /// `runs`, if they may stay in memory where `before` bytes of them are already.
    fn room_for(&self, runs: Vec<Arc<State>>, before: usize) -> Option<Vec<Arc<State>>> {
        let bytes: usize = runs.iter().map(|run| run.bytes).sum();
        self.views.has_room(bytes.saturating_sub(before)).then_some(runs)
    }
}

/// What there was memory for.
fn unless_too_large<T>(made: Result<T>) -> Result<Option<T>> {
    match made {
        Err(error) if is_too_large(&error) => Ok(None),
        made => made.map(Some),
    }
}

/// Where `[from, to)` ends when no partition goes on by more than `most` records.
fn at_most(from: &Boundary, to: &Boundary, most: u64) -> Boundary {
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    to.iter()
        .map(|(partition, next)| (partition, next.min(from.next(partition).saturating_add(most))))
        .collect()
}
