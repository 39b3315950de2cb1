//! Checkpoints, and the cleaning of the log below them.
//!
//! A checkpoint is made from the log, not from the state in memory; then it is read back and compared with that state,
//! because from then on it *is* the table's past: a `txn` or a file that is missing in it would be lost. Only then does
//! `_last_checkpoint` name it.
//!
//! *Failure*: a checkpoint that is half-written has no name in the store; without it, or with one that cannot be read, the
//! log is replayed from an older one. Commits are deleted oldest first, and only below a checkpoint that was just read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde_json::json;
use tarn_model::{Error, Result, background, fault};

use crate::action::decode_path;
use crate::checkpoint_writer::{self, Written};
use crate::commit::Operation;
use crate::log_reader::Listing;
use crate::snapshot::{Actions, FOREIGN_VERSION, MARKS};
use crate::{LakeSnapshot, LakeTable, checkpoint_reader, error};

impl LakeTable {
    /// Whether upkeep should write a checkpoint.
    pub(crate) async fn is_checkpoint_due(&self) -> bool {
        let state = self.lock_state().await;
        let commits = state.snapshot.version - state.checkpoint.unwrap_or(0).min(state.snapshot.version);
        u64::try_from(self.lake().options.checkpoint_after_commits).is_ok_and(|due| commits >= due.max(1))
    }

    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        self.remember().await?;
        let snapshot = {
            let state = self.lock_state().await;
            if state.checkpoint == Some(state.snapshot.version) {
                return Ok(());
            }
            state.snapshot.clone()
        };
        let version = snapshot.version;
        let replay = self.log().replay_to(version).await?;
        let removed_since_ms = self.now_ms().saturating_sub(
            i64::try_from(self.lake().options.vacuum_retention.as_millis()).unwrap_or(i64::MAX),
        );
        let written = background::run(move || checkpoint_writer::write(replay, removed_since_ms));
        let Written { parquet, actions } = written.await??;
        fault::point("lake.checkpoint.before")?;
        let (path, size) = (self.checkpoint_path(version), parquet.len());
        let put = self.store().put(&path, PutPayload::from(parquet)).await;
        put.map_err(|e| error::store("writing a checkpoint", &path, e))?;
        self.verify_checkpoint(&snapshot).await?;
        let (hint_path, files) = (self.log().last_checkpoint_path(), snapshot.files.len());
        let hint = json!({
            "version": version, "size": actions, "sizeInBytes": size, "numOfAddFiles": files
        });
        let put = self.store().put(&hint_path, PutPayload::from(hint.to_string())).await;
        put.map_err(|e| error::store("naming a checkpoint", &hint_path, e))?;
        fault::point("lake.checkpoint.after")?;
        let mut state = self.lock_state().await;
        state.checkpoint = state.checkpoint.max(Some(version));
        tracing::info!(table = self.name(), version, files, bytes = size, "wrote a checkpoint");
        Ok(())
    }

    /// Compares what the checkpoint says with what it stands for; one that differs is deleted.
    async fn verify_checkpoint(&self, snapshot: &LakeSnapshot) -> Result<()> {
        let path = self.checkpoint_path(snapshot.version);
        let found = self.read_checkpoint(std::slice::from_ref(&path)).await?;
        let txns: HashMap<String, i64> =
            found.txns.into_iter().map(|txn| (txn.app_id, txn.version)).collect();
        let files = found
            .adds
            .iter()
            .map(|add| Ok(self.folder().clone().to_string() + "/" + &decode_path(&add.path)?));
        let files: HashSet<String> = files.collect::<Result<_>>()?;
        let same_files = files.len() == snapshot.files.len()
            && snapshot.files.iter().all(|file| files.contains(file.path.as_ref()));
        let properties = found.metadata.map(|metadata| metadata.configuration);
        if txns == snapshot.txns && same_files && properties.as_ref() == Some(&snapshot.properties) {
            return Ok(());
        }
        self.store()
            .delete(&path)
            .await
            .map_err(|e| error::store("deleting a wrong checkpoint", &path, e))?;
        Err(Error::internal(format!(
            "a checkpoint differs from its version: table=`{}` path=`{path}`",
            self.name()
        ))
        .with_hint("it was deleted and the table is whole; please report this"))
    }

    async fn read_checkpoint(&self, parts: &[Path]) -> Result<Actions> {
        let mut read = Vec::new();
        for path in parts {
            let bytes = async { self.store().get(path).await?.bytes().await };
            read.push(bytes.await.map_err(|e| error::store("reading a checkpoint", path, e))?);
        }
        let parsed = tokio::task::spawn_blocking(move || {
            let mut actions = Actions::default();
            for bytes in read {
                checkpoint_reader::read(bytes, &mut actions)?;
            }
            Ok(actions)
        });
        parsed.await.map_err(error::task)?
    }

    /// Commits below a checkpoint are not read again: what their `commitInfo` says (that another engine changed rows, the marks) is
    /// kept as properties.
    async fn remember(&self) -> Result<()> {
        let operation = Operation { name: "SET TBLPROPERTIES".into(), ..Operation::default() };
        let remembered = self.commit_on_newest(operation, |state, _| {
            let snapshot = &state.snapshot;
            let mut metadata = state.metadata.clone();
            if let Some(version) = snapshot.foreign_version {
                metadata.configuration.insert(FOREIGN_VERSION.into(), version.to_string());
            }
            if !snapshot.marks.is_empty() {
                let marks = serde_json::to_string(&snapshot.marks);
                let marks = marks.map_err(|e| error::internal("writing a table's marks", e))?;
                metadata.configuration.insert(MARKS.into(), marks);
            }
            let is_new = metadata != state.metadata;
            Ok(is_new.then(|| Actions { metadata: Some(metadata), ..Actions::default() }))
        });
        remembered.await.map(|_| ())
    }

    /// Deletes commits and checkpoints that are older than the log retention and below a checkpoint that can be read.
    pub(crate) async fn delete_old_commits(&self) -> Result<usize> {
        let listing = self.log().list(None).await?;
        let Some((base, parts)) = listing.checkpoints.last_key_value() else { return Ok(0) };
        let old = self.old_log_files(&listing, *base, self.lake().options.log_retention);
        if old.is_empty() {
            return Ok(0);
        }
        let checked = self.read_checkpoint(parts).await?;
        if checked.metadata.is_none() || checked.protocol.is_none() {
            return Err(Error::corrupt(format!(
                "a checkpoint is not whole: table=`{}` version=`{base}`",
                self.name()
            ))
            .with_hint("commits below it are kept; write a new checkpoint"));
        }
        let count = old.len();
        for chunk in old.chunks(1000) {
            // Oldest first, so that a kill leaves no hole above what is left.
            let locations: Vec<_> = chunk.iter().cloned().map(Ok).collect();
            let mut deleted = self.store().delete_stream(futures::stream::iter(locations).boxed());
            loop {
                match deleted.try_next().await {
                    Ok(None) => break,
                    Ok(Some(_)) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(error::store("cleaning the table's log", self.folder(), e)),
                }
            }
        }
        tracing::info!(table = self.name(), files = count, below = base, "cleaned the log");
        Ok(count)
    }

    /// The oldest files below version `base`, up to the first that is younger than `retention`.
    fn old_log_files(&self, listing: &Listing, base: u64, retention: Duration) -> Vec<Path> {
        let cutoff_ms =
            self.now_ms().saturating_sub(i64::try_from(retention.as_millis()).unwrap_or(i64::MAX));
        let commits = listing.commits.range(..base);
        let old: Vec<u64> = commits
            .take_while(|(_, written_ms)| **written_ms < cutoff_ms)
            .map(|(version, _)| *version)
            .collect();
        let Some(newest) = old.last().copied() else { return Vec::new() };
        let commits = old.into_iter().map(|version| (version, self.log().commit_path(version)));
        let checkpoints = listing.checkpoints.range(..=newest).filter(|(version, _)| **version < base);
        let checkpoints =
            checkpoints.flat_map(|(version, parts)| parts.iter().map(|part| (*version, part.clone())));
        let mut files: Vec<(u64, Path)> = commits.chain(checkpoints).collect();
        files.sort();
        files.into_iter().map(|(_, path)| path).collect()
    }

    fn checkpoint_path(&self, version: u64) -> Path {
        self.folder().clone().join("_delta_log").join(format!("{version:020}.checkpoint.parquet"))
    }
}
