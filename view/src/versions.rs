//! The builds of a view in the lake: `name@v1`, `name@v2`, …, each a Delta table of states.
//!
//! *Why versions*: states of another plan, engine or table cannot be mended, only made anew. A new build is made beside the
//! old one, and the old one is left as it is.
//!
//! *Layout*: `txn` actions and `tarn.topic_uuid` as in a table made from a topic, so a build's boundary is read from its own
//! commits; the stamp and the query stand in its properties. A build that was rolled back says so in a property of its own:
//! `tarn.view.rolled_back_to` names the build that serves instead. So a rollback outlives a restart, and it ends by itself once
//! the config has a query that no such build was made for.

use std::collections::BTreeMap;
use std::sync::Arc;

use tarn_lake::{Commit, Lake, LakeFile, LakeSnapshot, LakeTable, NewTable};
use tarn_model::{Boundary, Error, Kind, Result};
use tarn_table::catalog::boundary_of;
use tarn_table::open::{KIND, TOPIC_UUID, VIEW};

use crate::hub::BatchStates;
use crate::live::State;
use crate::scan::Inputs;
use crate::split::Split;
use crate::stamp::Stamp;
use crate::{Definition, Planner};

const QUERY: &str = "tarn.view.query";
const ROLLED_BACK: &str = "tarn.view.rolled_back_to";

/// All builds of one view.
#[derive(Debug)]
pub struct Versions {
    lake: Lake,
    view: String,
    /// Numbers of the builds that are there, ascending.
    numbers: Vec<u32>,
}

/// One build that can be read.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its number.
    pub number: u32,
    /// Its states.
    pub table: LakeTable,
}

impl Versions {
    /// Looks for the builds of `view` in `lake`.
    pub async fn find(lake: &Lake, view: &str) -> Result<Versions> {
        let prefix = format!("{view}@v");
        let names = lake.table_names().await?;
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(Versions { lake: lake.clone(), view: view.to_owned(), numbers })
    }

    /// Numbers of the builds that are there, ascending.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// Reads one build, whatever it was made with; `None` when it is not there.
    pub async fn open(&self, number: u32) -> Result<Option<Version>> {
        let table = self.lake.load(&self.name(number), false).await?;
        Ok(table.map(|table| Version { number, table }))
    }

    /// The newest build that was made with `stamp` from the topic `topic_uuid`, rather one that has been committed to than one
    /// that was only begun; says in the log why newer ones are passed over.
    pub async fn usable(&self, stamp: &Stamp, topic_uuid: &str, writer: bool) -> Result<Option<Version>> {
        let mut begun = None;
        for number in self.numbers.iter().rev() {
            let name = self.name(*number);
            let table = match self.lake.load(&name, writer).await {
                Ok(Some(table)) => table,
                Ok(None) => continue,
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => {
                    tracing::warn!(view = %self.view, table = name, error = %error.chain(), "states cannot be read and are not used");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let snapshot = table.snapshot();
            if snapshot.properties.contains_key(ROLLED_BACK) {
                tracing::info!(view = %self.view, table = name, "states were rolled back and are not used");
                continue;
            }
            match why_not(&snapshot, stamp, topic_uuid) {
                None if boundary_of(&snapshot).is_empty() => {
                    begun.get_or_insert(Version { number: *number, table });
                }
                None => return Ok(Some(Version { number: *number, table })),
                Some(why) => {
                    tracing::info!(view = %self.view, table = name, why, "states are not used");
                }
            }
        }
        Ok(begun)
    }

    /// Makes the next build, without states yet.
    pub async fn create(
        &mut self,
        definition: &Definition,
        split: &Split,
        stamp: &Stamp,
        topic_uuid: &str,
    ) -> Result<Version> {
        // The last one may only have been begun. A build whose log was damaged may not be listed any more, but its folder is
        // there.
        let mut number = self.numbers.last().copied().unwrap_or(1);
        loop {
            let mut properties = stamp.write();
            properties.insert(KIND.to_owned(), VIEW.to_owned());
            properties.insert(TOPIC_UUID.to_owned(), topic_uuid.to_owned());
            properties.insert(QUERY.to_owned(), definition.query.clone());
            let schema = Arc::clone(split.stored().schema());
            let new = NewTable { schema, partition_by: Vec::new(), properties };
            match self.lake.create(&self.name(number), &new).await {
                Ok(table) => {
                    let fresh = why_not(&table.snapshot(), stamp, topic_uuid).is_none()
                        && boundary_of(&table.snapshot()).is_empty()
                        && table.snapshot().files.is_empty()
                        && !table.snapshot().properties.contains_key(ROLLED_BACK);
                    if fresh {
                        if self.numbers.last() != Some(&number) {
                            self.numbers.push(number);
                        }
                        return Ok(Version { number, table });
                    }
                }
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid | Kind::Conflict) => {
                    tracing::debug!(view = %self.view, number, error = %error.chain(), "the next build gets another number");
                }
                Err(error) => return Err(error),
            }
            number += 1;
            if number > self.numbers.last().copied().unwrap_or(0) + 1000 {
                return Err(Error::internal(format!("no build of view `{}` can be made", self.view)));
            }
        }
    }

    /// The query that the view is to answer: `declared`, or the one of the build to which the newest build of `declared` was
    /// rolled back.
    pub async fn answering(&self, declared: &str) -> Result<Option<String>> {
        for number in self.numbers.iter().rev() {
            let Some(version) = self.readable(*number).await? else { continue };
            if version.query().as_deref() != Some(declared) {
                continue;
            }
            let Some(to) = version.rolled_back_to() else { return Ok(None) };
            let query = match self.readable(to).await? {
                Some(target) => target.query(),
                None => None,
            };
            if query.is_none() {
                tracing::warn!(view = %self.view, from = number, to, "the build that it was rolled back to is gone");
            }
            return Ok(query.filter(|query| query != declared));
        }
        Ok(None)
    }

    /// The builds that must be left for the view to answer as it does: those that say what was rolled back, and to what.
    pub async fn rollbacks(&self, declared: &str) -> Result<Vec<(u32, u32)>> {
        let mut found = Vec::new();
        for number in &self.numbers {
            let Some(version) = self.readable(*number).await? else { continue };
            let is_declared = version.query().as_deref() == Some(declared);
            found.extend(version.rolled_back_to().filter(|_| is_declared).map(|to| (*number, to)));
        }
        Ok(found)
    }

    /// From the next look on build `to` serves: newer builds of its query, and those of `declared` when that is another one,
    /// are marked as rolled back. Each mark is a commit of its own, and with any of them the view is right.
    pub async fn roll_back(&self, declared: &str, to: u32) -> Result<()> {
        let gone = || Error::invalid(format!("there is no build {to} of view `{}`", self.view));
        let target = self.readable(to).await?.ok_or_else(gone)?;
        let query = target.query().ok_or_else(gone)?;
        let mut marks = Vec::new();
        for number in self.numbers.iter().rev().filter(|number| **number != to) {
            let Some(version) = self.readable(*number).await? else { continue };
            let Some(found) = version.query() else { continue };
            if (found == query && *number > to) || (found == declared && declared != query) {
                marks.push(version);
            }
        }
        let is_held = marks.iter().any(|version| version.query().as_deref() == Some(declared));
        if declared != query && !is_held {
            return Err(Error::invalid(format!(
                "build {to} of view `{}` was made for another query, and there is no build of the query in the config",
                self.view
            ))
            .with_hint("put the older query back into the config: its build is still there"));
        }
        for version in marks {
            version.mark(Some(to)).await?;
        }
        if target.rolled_back_to().is_some() {
            target.mark(None).await?;
        }
        Ok(())
    }

    /// Deletes a build.
    pub async fn remove(&mut self, number: u32) -> Result<()> {
        self.lake.remove(&self.name(number)).await?;
        self.numbers.retain(|known| *known != number);
        Ok(())
    }

    /// The builds that can be read, as they are now.
    pub async fn snapshots(&self) -> Vec<Arc<LakeSnapshot>> {
        let mut found = Vec::new();
        for number in &self.numbers {
            found.extend(self.readable(*number).await.ok().flatten().map(|version| version.table.snapshot()));
        }
        found
    }

    /// A build, or `None` when it is not there or cannot be read.
    async fn readable(&self, number: u32) -> Result<Option<Version>> {
        match self.open(number).await {
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => Ok(None),
            opened => opened,
        }
    }

    /// Reads a build's states whole, one row a group; an error when they cannot be read.
    pub async fn read(
        version: &Version,
        split: &Arc<Split>,
        stamp: &Stamp,
        planner: &Planner,
    ) -> Result<Vec<arrow::array::RecordBatch>> {
        Versions::merged(version, |_| true, Vec::new(), split, stamp, planner).await
    }

    /// A build's states in the files that `part` says and the states `more`, merged to one row a group; an error when they cannot be
    /// read.
    pub async fn merged(
        version: &Version,
        part: impl Fn(&LakeFile) -> bool,
        more: Vec<Arc<State>>,
        split: &Arc<Split>,
        stamp: &Stamp,
        planner: &Planner,
    ) -> Result<Vec<arrow::array::RecordBatch>> {
        let batch = version.states(stamp, None);
        let snapshot = Arc::new(batch.snapshot.part(part)?);
        let batch = Arc::new(BatchStates { snapshot, ..batch });
        Inputs::states_only(split, Some(batch), more).reduced(planner).await
    }

    fn name(&self, number: u32) -> String {
        format!("{}@v{number}", self.view)
    }
}

impl Version {
    /// The build's states as statements see them.
    pub fn states(&self, stamp: &Stamp, cached: Option<Vec<Arc<State>>>) -> BatchStates {
        let snapshot = self.table.snapshot();
        BatchStates {
            table: self.table.name().to_owned(),
            version: self.number,
            boundary: boundary_of(&snapshot),
            snapshot,
            stamp: stamp.clone(),
            cached,
            is_damaged: false.into(),
        }
    }

    /// The build that serves in its place, if it was rolled back.
    pub fn rolled_back_to(&self) -> Option<u32> {
        self.table.snapshot().properties.get(ROLLED_BACK)?.parse().ok()
    }

    /// Why it cannot serve a view with this stamp on the topic `topic_uuid`, if that is so.
    pub fn why_not(&self, stamp: &Stamp, topic_uuid: &str) -> Option<&'static str> {
        why_not(&self.table.snapshot(), stamp, topic_uuid)
    }

    async fn mark(&self, to: Option<u32>) -> Result<()> {
        let properties = BTreeMap::from([(ROLLED_BACK.to_owned(), to.map(|to| to.to_string()))]);
        let operation = "SET TBLPROPERTIES".to_owned();
        let commit = Commit { properties, operation, ..Commit::default() };
        self.table.commit(commit).await.map(drop)
    }

    /// The query that the build was made for.
    pub fn query(&self) -> Option<String> {
        self.table.snapshot().properties.get(QUERY).cloned()
    }

    /// What the build covers.
    pub fn boundary(&self) -> Boundary {
        boundary_of(&self.table.snapshot())
    }
}

/// Why the states of `snapshot` are not used, if that is so.
fn why_not(snapshot: &LakeSnapshot, stamp: &Stamp, topic_uuid: &str) -> Option<&'static str> {
    let properties: &BTreeMap<String, String> = &snapshot.properties;
    let Some(found) = Stamp::read(properties) else { return Some("they have no stamp") };
    if properties.get(TOPIC_UUID).map(String::as_str) != Some(topic_uuid) {
        Some("they were made from another topic")
    } else if found.engine != stamp.engine {
        Some("they were made with another version of the engine")
    } else if found.plan != stamp.plan {
        Some("they were made with another query")
    } else if found.foreign_version != stamp.foreign_version {
        Some("another engine has changed the table's rows since")
    } else if snapshot.foreign_version.is_some() {
        Some("another engine has changed them")
    } else {
        None
    }
}
