//! One Delta table: its newest snapshot, and the lock under which it moves to the next version.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::{Mutex, RwLock};
use tarn_model::{Result, background};
use tokio::sync::MutexGuard;

use crate::lake::LakeInner;
use crate::log_reader::{LogReader, Seen};
use crate::optimize::Reach;
use crate::snapshot::{TableState, file_path};
use crate::upkeep::UpkeepState;
use crate::writer::{FileWriter, conform};
use crate::{Commit, LakeSnapshot, NewFile, OptimizeReport, VacuumReport, error, partition};

/// One Delta table, owned by one task; clones share it.
#[derive(Clone, Debug)]
pub struct LakeTable {
    inner: Arc<TableInner>,
}

#[derive(Debug)]
struct TableInner {
    lake: Arc<LakeInner>,
    name: String,
    log: LogReader,
    /// Held by whoever commits or reads on; published through `current`.
    state: tokio::sync::Mutex<TableState>,
    current: RwLock<Arc<LakeSnapshot>>,
    /// App ids that another writer moved since the table was loaded.
    fenced: Mutex<HashSet<String>>,
    /// Held by the one upkeep job that runs.
    upkeep: tokio::sync::Mutex<UpkeepState>,
}

impl LakeTable {
    pub(crate) fn new(lake: Arc<LakeInner>, name: &str, log: LogReader, state: TableState) -> LakeTable {
        let current = RwLock::new(state.snapshot.clone());
        let inner = TableInner {
            lake,
            name: name.to_owned(),
            log,
            state: tokio::sync::Mutex::new(state),
            current,
            fenced: Mutex::default(),
            upkeep: tokio::sync::Mutex::default(),
        };
        LakeTable { inner: Arc::new(inner) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The newest snapshot that this process knows.
    pub fn snapshot(&self) -> Arc<LakeSnapshot> {
        self.inner.current.read().clone()
    }

    /// Reads the log's end and takes over what others committed.
    pub async fn reload(&self) -> Result<Arc<LakeSnapshot>> {
        let mut state = self.lock_state().await;
        self.follow(&mut state).await?;
        Ok(state.snapshot.clone())
    }

    /// Writes rows as Parquet files (one or more per lake partition, durable when this returns), not yet part of the
    /// table. CPU work is off the async threads.
    pub async fn write(&self, rows: Vec<RecordBatch>) -> Result<Vec<NewFile>> {
        let snapshot = self.snapshot();
        let writer = self.file_writer(&snapshot);
        let sorted = background::run(move || {
            let rows: Vec<RecordBatch> = rows
                .iter()
                .filter(|rows| rows.num_rows() > 0)
                .map(|rows| conform(rows, &snapshot.schema))
                .collect::<Result<_>>()?;
            if rows.is_empty() {
                Ok(Vec::new())
            } else {
                partition::split(rows, &snapshot.schema, &snapshot.partition_by)
            }
        });
        writer.write(sorted.await??).await
    }

    /// Commits files and progress in one Delta commit, following the protocol: `expected` of every app id is compared
    /// with the snapshot that is committed on; no blind retries; after an error the table is reloaded and the versions
    /// of the app ids decide whether it is committed. Files of a commit that did not land are left for vacuum.
    pub async fn commit(&self, commit: Commit) -> Result<Arc<LakeSnapshot>> {
        self.commit_rows(commit, None).await
    }

    /// The same, if nobody has committed since `version`; [`tarn_model::Kind::Conflict`] otherwise.
    pub async fn commit_at(&self, commit: Commit, version: u64) -> Result<Arc<LakeSnapshot>> {
        self.commit_rows(commit, Some(version)).await
    }

    /// Merges small files of each lake partition towards the target size (`dataChange=false`); rows keep their order by
    /// (`_partition`, `_offset`). Prepared aside, committed on the newest snapshot if every input is still live.
    pub async fn optimize(&self) -> Result<OptimizeReport> {
        let _only = self.lock_upkeep().await;
        self.merge_small_files(Reach::All).await
    }

    /// Deletes files that no version newer than `retention` needs, and files that were never committed and are older
    /// than that.
    pub async fn vacuum(&self, retention: Duration, dry_run: bool) -> Result<VacuumReport> {
        let _only = self.lock_upkeep().await;
        self.delete_unneeded(retention, dry_run).await
    }

    /// Writes a checkpoint of the newest snapshot, if there is none yet.
    pub async fn checkpoint(&self) -> Result<()> {
        let _only = self.lock_upkeep().await;
        self.write_checkpoint().await
    }

    /// Deletes commits below the newest checkpoint that are older than the log retention.
    pub async fn clean_log(&self) -> Result<usize> {
        let _only = self.lock_upkeep().await;
        self.delete_old_commits().await
    }

    /// Does what is due of the four above, by the lake's options; called by the owner between commits.
    pub async fn upkeep(&self) -> Result<()> {
        self.do_what_is_due(true).await
    }

    /// The same without merging files: for an owner that merges what is in them.
    pub async fn upkeep_but_merging(&self) -> Result<()> {
        self.do_what_is_due(false).await
    }

    pub(crate) fn lake(&self) -> &LakeInner {
        &self.inner.lake
    }

    /// The store that its files lie in, rooted at the lake's URL: for reading data files.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.lake.store
    }

    pub(crate) fn log(&self) -> &LogReader {
        &self.inner.log
    }

    /// The table's folder in the lake.
    pub(crate) fn folder(&self) -> &Path {
        &self.inner.log.folder
    }

    /// A path of the lake as it stands relative to the table's folder.
    pub(crate) fn relative(&self, path: &Path) -> String {
        let relative = path.as_ref().strip_prefix(self.folder().as_ref()).unwrap_or(path.as_ref());
        relative.trim_start_matches('/').to_owned()
    }

    pub(crate) fn writer_id(&self) -> &str {
        &self.inner.lake.writer
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.inner.lake.clock.now_ms()
    }

    pub(crate) async fn lock_state(&self) -> MutexGuard<'_, TableState> {
        self.inner.state.lock().await
    }

    pub(crate) async fn lock_upkeep(&self) -> MutexGuard<'_, UpkeepState> {
        self.inner.upkeep.lock().await
    }

    pub(crate) fn try_lock_upkeep(&self) -> Option<MutexGuard<'_, UpkeepState>> {
        self.inner.upkeep.try_lock().ok()
    }

    /// Reads on from `state`, publishes what it finds, and remembers app ids that another writer moved.
    pub(crate) async fn follow(&self, state: &mut TableState) -> Result<Vec<Seen>> {
        let followed = self.inner.log.follow(state).await;
        // Also after an error: the versions up to it are good.
        self.publish(state);
        let seen = followed?;
        let others =
            seen.iter().filter(|seen| seen.signature.as_ref().is_none_or(|s| s.writer != self.writer_id()));
        self.inner.fenced.lock().extend(others.flat_map(|seen| seen.moved.iter().cloned()));
        Ok(seen)
    }

    pub(crate) fn publish(&self, state: &TableState) {
        *self.inner.current.write() = state.snapshot.clone();
    }

    pub(crate) fn is_fenced(&self, app_id: &str) -> bool {
        self.inner.fenced.lock().contains(app_id)
    }

    pub(crate) fn forget_uncommitted(&self, path: &str) {
        if let Ok(path) = file_path(self.folder(), path) {
            self.inner.lake.uncommitted.remove(&path);
        }
    }

    /// After a commit was found to have landed in spite of an error: makes sure that it stays.
    pub(crate) async fn make_visible_durable(&self, version: u64) -> Result<()> {
        let Some(durable) = &self.inner.lake.durable else { return Ok(()) };
        let path = self.inner.log.commit_path(version);
        durable.sync_parent(&path).await.map_err(|e| error::store("syncing a commit", &path, e))
    }

    /// A writer of files that fit `snapshot`.
    pub(crate) fn file_writer(&self, snapshot: &LakeSnapshot) -> FileWriter {
        let fields =
            snapshot.schema.fields().iter().filter(|field| !snapshot.partition_by.contains(field.name()));
        FileWriter {
            store: self.store().clone(),
            folder: self.folder().clone(),
            partition_by: snapshot.partition_by.clone(),
            file_schema: Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>())),
            target_file_bytes: self.inner.lake.options.target_file_bytes,
            uncommitted: self.inner.lake.uncommitted.clone(),
        }
    }
}
