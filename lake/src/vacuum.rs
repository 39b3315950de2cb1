//! Deletes data files that nothing needs any more.
//!
//! | a `.parquet` file in the table's folder | is deleted |
//! |---|---|
//! | live in the newest version | never |
//! | removed within `retention` | no: an older version, or a statement that runs, may need it |
//! | removed before that | yes |
//! | in no version, written by this process and not committed yet | no |
//! | in no version, younger than `retention` or than one hour | no: another process may be about to commit it |
//! | in no version, older | yes |
//!
//! *Failure*: deleting is not atomic and need not be: what is left is deleted next time.

use std::collections::HashSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use tarn_model::{Result, fault};

use crate::snapshot::file_path;
use crate::{LakeTable, VacuumReport, error};

/// Age below which a file in no version is kept, whatever the retention.
const YOUNGEST_ORPHAN: Duration = Duration::from_secs(3600);

impl LakeTable {
    pub(crate) async fn delete_unneeded(&self, retention: Duration, dry_run: bool) -> Result<VacuumReport> {
        let now_ms = self.now_ms();
        let before =
            |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let removed_before_ms = before(retention);
        let orphan_before_ms = before(retention.max(YOUNGEST_ORPHAN));

        // What others committed counts too.
        let (live, kept, expired) = {
            let mut state = self.lock_state().await;
            self.follow(&mut state).await?;
            let live: HashSet<Path> = state.snapshot.files.iter().map(|file| file.path.clone()).collect();
            let place = |path: &String| file_path(self.folder(), path);
            let is_expired = |removed_ms: i64| removed_ms < removed_before_ms;
            let (expired, kept): (Vec<_>, Vec<_>) =
                state.tombstones.iter().partition(|(_, ms)| is_expired(**ms));
            let paths = |tombstones: Vec<(&String, &i64)>| -> Result<HashSet<Path>> {
                tombstones.into_iter().map(|(path, _)| place(path)).collect()
            };
            (live, paths(kept)?, paths(expired)?)
        };

        let mut report = VacuumReport::default();
        let mut unneeded = Vec::new();
        let folder = self.folder().clone();
        let mut files = self.store().list(Some(&folder));
        while let Some(file) = files.next().await {
            let file = file.map_err(|e| error::store("listing the table's files", &folder, e))?;
            if !self.is_data_file(&file.location)
                || live.contains(&file.location)
                || kept.contains(&file.location)
            {
                continue;
            }
            let is_orphan = file.last_modified.timestamp_millis() < orphan_before_ms
                && !self.lake().uncommitted.contains(&file.location);
            if expired.contains(&file.location) || is_orphan {
                report.files.push(self.relative(&file.location));
                report.bytes += file.size;
                unneeded.push(Ok(file.location));
            }
        }
        if dry_run {
            return Ok(report);
        }
        if !unneeded.is_empty() {
            fault::point("lake.vacuum.before")?;
            let deleted = self.store().delete_stream(futures::stream::iter(unneeded).boxed());
            let mut deleted = deleted.filter(|deleted| {
                // Deleted already by somebody else.
                let gone = matches!(deleted, Err(object_store::Error::NotFound { .. }));
                futures::future::ready(!gone)
            });
            while deleted
                .try_next()
                .await
                .map_err(|e| error::store("deleting a data file", &folder, e))?
                .is_some()
            {}
            fault::point("lake.vacuum.after")?;
            tracing::info!(table = self.name(), files = report.files.len(), bytes = report.bytes, "vacuumed");
        }
        let mut state = self.lock_state().await;
        state.tombstones.retain(|_, removed_ms| *removed_ms >= removed_before_ms);
        Ok(report)
    }

    /// Whether vacuum may touch it at all: Parquet, and not below a folder that Delta hides (`_…`, but for partition
    /// folders, `.…`).
    fn is_data_file(&self, path: &Path) -> bool {
        let relative = self.relative(path);
        let mut parts: Vec<&str> = relative.split('/').collect();
        let name = parts.pop().unwrap_or_default();
        let is_hidden = |part: &&str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
        name.ends_with(".parquet") && !name.starts_with(['.', '_']) && !parts.iter().any(is_hidden)
    }
}
