//! Commits: the one way by which anything gets into a table.
//!
//! *Why* not `deltalake`'s `CommitBuilder`: its retries commit on a version that nobody compared progress with, its hooks
//! fail commits that have landed, and two of its rewrites of one file both succeed. A commit is one conditional put.
//!
//! ```text
//! compare `expected` with the snapshot ──► put N+1 if absent ──► landed: apply to the snapshot
//!        ▲                                      │ any error
//!        └── others committed: compare again ◄──┤ read on from N: is N+1 signed with this commit's id?
//!                                               ├── yes: landed
//!                                               └── no N+1: not committed, the error stands
//! ```
//!
//! *Invariants*: commits of one handle are one after another; what decides is always compared with the very version that is
//! committed on. A caller that goes away does not stop a commit half-way.
//!
//! *Failure*: an error that cannot be decided because the lake cannot be read either is `Unavailable`. Trying again is safe:
//! either the lost commit has taken its version, which the comparison sees, or its version is taken now and it can never land.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use object_store::{ObjectStore, PutMode, PutOptions};
use tarn_model::{Error, Kind, Result, clock, fault};
use tokio::sync::MutexGuard;

use crate::action::{Add, CommitInfo, ENGINE, Line, Metadata, Remove, Signature, Txn, encode_path};
use crate::error;
use crate::log_reader::Seen;
use crate::snapshot::{Actions, TableState, check_properties};
use crate::{Commit, LakeFile, LakeSnapshot, LakeTable, NewFile, schema};

/// How often a version that others take is tried anew, each time after comparing again.
const ATTEMPTS: u32 = 8;
/// Wait before a put that failed with "exists" although there is nothing (S3's 409).
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// What a commit says of itself, for people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Operation {
    pub(crate) name: String,
    pub(crate) parameters: BTreeMap<String, String>,
}

impl LakeTable {
    /// Commits on a task of its own, see the module's invariants; with `at` only as the version after that one.
    pub(crate) async fn commit_rows(&self, commit: Commit, at: Option<u64>) -> Result<Arc<LakeSnapshot>> {
        let this = self.clone();
        let landed = tokio::spawn(async move {
            let name =
                if commit.operation.is_empty() { "WRITE".to_owned() } else { commit.operation.clone() };
            let operation =
                Operation { name, parameters: BTreeMap::from([("mode".to_owned(), "Append".to_owned())]) };
            let landed = this
                .commit_on_newest(operation, |state, seen| {
                    this.compare_version(at, state)?;
                    this.actions_of(&commit, state, seen)
                })
                .await?;
            for file in &commit.files {
                this.forget_uncommitted(&file.path);
            }
            match landed {
                Some(snapshot) => Ok(snapshot),
                None => Ok(this.snapshot()),
            }
        });
        landed.await.map_err(error::task)?
    }

    fn compare_version(&self, at: Option<u64>, state: &TableState) -> Result<()> {
        let found = state.snapshot.version;
        match at {
            Some(at) if at != found => Err(Error::conflict(format!(
                "the table has come to version {found} meanwhile, from {at}: table=`{}`",
                self.name()
            ))
            .with_hint("reload the table and try again")),
            _ => Ok(()),
        }
    }

    /// Turns a commit into actions on `state`, or refuses it. Nothing to say is no commit.
    fn actions_of(&self, commit: &Commit, state: &TableState, seen: &[Seen]) -> Result<Option<Actions>> {
        self.compare_progress(commit, state, seen)?;
        let mut actions = Actions::default();
        let partition_by: BTreeSet<&String> = state.metadata.partition_columns.iter().collect();
        for file in &commit.files {
            if file.partition_values.keys().collect::<BTreeSet<_>>() != partition_by {
                return Err(Error::conflict(format!(
                    "the table's partition columns have changed since the file was written: table=`{}` path=`{}`",
                    self.name(),
                    file.path
                ))
                .with_hint("reload the table and write the rows again"));
            }
            actions.adds.push(add_of(file, self.now_ms(), true)?);
        }
        for file in &commit.removes {
            actions.removes.push(self.replaced(file, state)?);
        }
        let advances = commit.advances.iter().filter(|advance| advance.expected != Some(advance.to));
        actions.txns =
            advances.map(|advance| Txn { app_id: advance.app_id.clone(), version: advance.to }).collect();
        actions.metadata = changed_metadata(commit, state)?;
        let marks = &state.snapshot.marks;
        let higher = |(name, value): &(&String, &i64)| marks.get(*name).is_none_or(|known| known < value);
        actions.marks =
            commit.marks.iter().filter(higher).map(|(name, value)| (name.clone(), *value)).collect();
        let is_empty = actions.adds.is_empty()
            && actions.txns.is_empty()
            && actions.marks.is_empty()
            && actions.metadata.is_none();
        Ok((!is_empty).then_some(actions))
    }

    /// The action that removes `file`, whose rows the commit writes anew.
    fn replaced(&self, file: &LakeFile, state: &TableState) -> Result<Remove> {
        if !state.snapshot.files.iter().any(|live| live.path == file.path) {
            return Err(Error::conflict(format!(
                "a file that is to be replaced is gone already: table=`{}` path=`{}`",
                self.name(),
                file.path
            ))
            .with_hint("reload the table and go on from where it stands"));
        }
        let names = state.snapshot.partition_by.iter().cloned();
        let values = names.zip(file.partition_values.iter().cloned()).collect();
        let remove = remove_of(&self.relative(&file.path), file.size, values, self.now_ms());
        Ok(Remove { data_change: true, ..remove })
    }

    /// The fence: each app id must stand where the caller thinks it stands.
    fn compare_progress(&self, commit: &Commit, state: &TableState, seen: &[Seen]) -> Result<()> {
        let mut app_ids = BTreeSet::new();
        for advance in &commit.advances {
            if !app_ids.insert(&advance.app_id) {
                return Err(Error::invalid(format!(
                    "an app id advances twice in one commit: app=`{}`",
                    advance.app_id
                )));
            }
            if advance.expected.is_some_and(|expected| advance.to < expected) {
                return Err(Error::invalid(format!(
                    "progress cannot go back from {} to {}: app=`{}`",
                    advance.expected.unwrap_or_default(),
                    advance.to,
                    advance.app_id
                )));
            }
            let found = state.snapshot.txns.get(&advance.app_id).copied();
            if found == advance.expected {
                continue;
            }
            let stands = |at: Option<i64>| at.map_or("nothing".to_owned(), |at| at.to_string());
            let message = format!(
                "the table stands at {}, not at {}: table=`{}` app=`{}`",
                stands(found),
                stands(advance.expected),
                self.name(),
                advance.app_id
            );
            let by_another = seen.iter().any(|seen| {
                let ours =
                    seen.signature.as_ref().is_some_and(|signature| signature.writer == self.writer_id());
                !ours && seen.moved.contains(&advance.app_id)
            });
            return Err(if by_another || self.is_fenced(&advance.app_id) {
                Error::fenced(message)
                    .with_hint("another process writes to this table for the same topic: stop one of the two, then start again")
            } else {
                Error::conflict(message).with_hint("reload the table and go on from where it stands")
            });
        }
        Ok(())
    }

    /// Commits what `prepare` makes of the newest state; `None` when it has nothing to commit.
    pub(crate) async fn commit_on_newest(
        &self,
        operation: Operation,
        mut prepare: impl FnMut(&TableState, &[Seen]) -> Result<Option<Actions>>,
    ) -> Result<Option<Arc<LakeSnapshot>>> {
        let mut state = self.lock_state().await;
        let mut seen: Vec<Seen> = Vec::new();
        for attempt in 0..ATTEMPTS {
            let Some(actions) = prepare(&state, &seen)? else { return Ok(None) };
            let version = state.snapshot.version + 1;
            let (id, body, actions) = self.render(&operation, actions)?;
            let failure = match self.put_commit(version, body).await {
                Ok(()) => {
                    state.apply(self.folder(), version, actions)?;
                    return Ok(Some(self.landed(&state, &operation)));
                }
                Err(failure) => failure,
            };
            // An error says nothing about whether the commit landed: the log does.
            let new = match self.follow(&mut state).await {
                Ok(new) => new,
                Err(unreadable) if unreadable.kind() == Kind::Unavailable => {
                    return Err(Error::unavailable(format!(
                        "it is not known yet whether a commit landed: table=`{}` version=`{version}`: {unreadable}",
                        self.name()
                    ))
                    .with_source(failure.into_error(self, version))
                    .with_hint("try again: the commit is recognised if it did"));
                }
                Err(error) => return Err(error),
            };
            let is_ours =
                |seen: &Seen| seen.signature.as_ref().is_some_and(|signature| signature.commit == id);
            if new.iter().any(is_ours) {
                self.make_visible_durable(version).await?;
                tracing::warn!(table = self.name(), version, ?failure, "a commit that failed has landed");
                return Ok(Some(self.landed(&state, &operation)));
            }
            match failure {
                // Somebody took the version: compare with what they made of the table.
                Failure::Taken(_) if !new.is_empty() => {}
                // Nobody did. S3 says so for a while when two puts meet.
                Failure::Taken(_) if attempt + 1 < ATTEMPTS => {
                    clock::pause(BUSY_PAUSE * 2_u32.pow(attempt)).await
                }
                failure => return Err(failure.into_error(self, version)),
            }
            seen.extend(new);
        }
        Err(Error::conflict(format!("other writers keep committing to the table: table=`{}`", self.name()))
            .with_hint("let one process at a time write to a table"))
    }

    fn landed(&self, state: &MutexGuard<'_, TableState>, operation: &Operation) -> Arc<LakeSnapshot> {
        self.publish(state);
        let snapshot = state.snapshot.clone();
        tracing::debug!(
            table = self.name(),
            version = snapshot.version,
            operation = operation.name,
            files = snapshot.files.len(),
            "committed"
        );
        snapshot
    }

    async fn put_commit(&self, version: u64, body: String) -> std::result::Result<(), Failure> {
        fault::point("lake.commit.before").map_err(Failure::Injected)?;
        let path = self.log().commit_path(version);
        let put = self.store().put_opts(&path, body.into(), PutOptions::from(PutMode::Create)).await;
        put.map_err(|e| match e {
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                Failure::Taken(e)
            }
            e => Failure::Store(e),
        })?;
        fault::point("lake.commit.after").map_err(Failure::Injected)
    }

    /// The commit's bytes, signed, and its actions as a reader of those bytes would have them.
    fn render(&self, operation: &Operation, mut actions: Actions) -> Result<(String, String, Actions)> {
        let id = clock::new_id().to_string();
        let mut lines: Vec<Line> = Vec::new();
        lines.extend(
            actions
                .protocol
                .iter()
                .cloned()
                .map(|protocol| Line { protocol: Some(protocol), ..Line::default() }),
        );
        lines
            .extend(actions.metadata.iter().cloned().map(|m| Line { meta_data: Some(m), ..Line::default() }));
        lines.extend(actions.txns.iter().cloned().map(|txn| Line { txn: Some(txn), ..Line::default() }));
        lines.extend(
            actions.removes.iter().cloned().map(|remove| Line { remove: Some(remove), ..Line::default() }),
        );
        lines.extend(actions.adds.iter().cloned().map(|add| Line { add: Some(add), ..Line::default() }));
        let info = CommitInfo {
            timestamp: Some(self.now_ms()),
            operation: Some(operation.name.clone()),
            operation_parameters: Some(operation.parameters.clone()),
            engine_info: Some(format!("{ENGINE}{}", env!("CARGO_PKG_VERSION"))),
            is_blind_append: Some(actions.removes.is_empty() && actions.metadata.is_none()),
            tarn: Some(Signature {
                commit: id.clone(),
                writer: self.writer_id().to_owned(),
                lines: lines.len() + 1,
                marks: std::mem::take(&mut actions.marks),
            }),
        };
        lines.insert(0, Line::of_commit_info(&info)?);
        actions.info = Some(info);
        let mut body = String::new();
        for line in &lines {
            body.push_str(&serde_json::to_string(line).map_err(|e| error::internal("writing a commit", e))?);
            body.push('\n');
        }
        Ok((id, body, actions))
    }
}

/// Why a put did not return well.
#[derive(Debug)]
enum Failure {
    /// Something is there, or the store says so.
    Taken(object_store::Error),
    Store(object_store::Error),
    Injected(Error),
}

impl Failure {
    fn into_error(self, table: &LakeTable, version: u64) -> Error {
        match self {
            Failure::Taken(e) | Failure::Store(e) => {
                error::store("committing", &table.log().commit_path(version), e)
            }
            Failure::Injected(error) => error,
        }
    }
}

/// The metadata that a commit asks for, if it differs from the table's.
fn changed_metadata(commit: &Commit, state: &TableState) -> Result<Option<Metadata>> {
    let mut metadata = state.metadata.clone();
    if let Some(next) = &commit.schema {
        schema::check_change(&state.snapshot.schema, next)?;
        if next.fields() != state.snapshot.schema.fields() {
            metadata.schema_string = schema::write(next)?;
        }
    }
    for (key, value) in &commit.properties {
        match value {
            Some(value) => metadata.configuration.insert(key.clone(), value.clone()),
            None => metadata.configuration.remove(key),
        };
    }
    check_properties(&metadata)?;
    Ok((metadata != state.metadata).then_some(metadata))
}

/// The action that adds a file.
pub(crate) fn add_of(file: &NewFile, now_ms: i64, data_change: bool) -> Result<Add> {
    let size = i64::try_from(file.size).map_err(|e| error::internal("counting a file's bytes", e))?;
    Ok(Add {
        path: encode_path(&file.path),
        partition_values: file.partition_values.clone(),
        size,
        modification_time: now_ms,
        data_change,
        stats: Some(file.stats.clone()),
        deletion_vector: None,
    })
}

/// The action that removes a file; `path` is relative to the table's folder.
pub(crate) fn remove_of(
    path: &str,
    size: u64,
    partition_values: BTreeMap<String, Option<String>>,
    now_ms: i64,
) -> Remove {
    Remove {
        path: encode_path(path),
        deletion_timestamp: Some(now_ms),
        data_change: false,
        extended_file_metadata: Some(true),
        partition_values: Some(partition_values),
        size: i64::try_from(size).ok(),
    }
}
