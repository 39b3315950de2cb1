//! Upkeep by itself: what is due, done between commits.
//!
//! | job | due |
//! |---|---|
//! | checkpoint | `checkpoint_after_commits` versions after the last one |
//! | clean the log | after a checkpoint, at most once an hour |
//! | merge | a lake partition has `optimize_after_files` small files of about one size |
//! | vacuum | at the first call, then each quarter of the retention (at least a minute, at most a day) |
//!
//! *Invariants*: one job of a table runs at a time; a second caller goes away at once. A job that fails does not keep the
//! others from being done; the first error is returned and the job is tried again at the next call.

use std::time::Duration;

use tarn_model::Result;

use crate::LakeTable;
use crate::optimize::Reach;

const CLEAN_EVERY_MS: i64 = 3_600_000;
const VACUUM_EVERY_AT_LEAST: Duration = Duration::from_secs(60);
const VACUUM_EVERY_AT_MOST: Duration = Duration::from_secs(24 * 3600);

/// When jobs that cost a listing were last done, ms since 1970.
#[derive(Debug, Default)]
pub(crate) struct UpkeepState {
    cleaned_ms: Option<i64>,
    vacuumed_ms: Option<i64>,
}

impl LakeTable {
    pub(crate) async fn do_what_is_due(&self, merges: bool) -> Result<()> {
        let Some(mut done) = self.try_lock_upkeep() else { return Ok(()) };
        let options = &self.lake().options;
        let now_ms = self.now_ms();
        let due = |last: Option<i64>, every_ms: i64| {
            last.is_none_or(|last| now_ms.saturating_sub(last) >= every_ms)
        };
        let mut outcome = Ok(());
        let mut note = |job: &str, result: Result<()>| {
            if let Err(error) = result {
                tracing::warn!(table = self.name(), job, %error, "upkeep failed; it is tried again");
                if outcome.is_ok() {
                    outcome = Err(error);
                }
            }
        };

        if merges && self.has_files_to_merge() {
            let reach = Reach::Tier(options.optimize_after_files);
            note("optimize", self.merge_small_files(reach).await.map(|_| ()));
        }
        if self.is_checkpoint_due().await {
            let written = self.write_checkpoint().await;
            let is_written = written.is_ok();
            note("checkpoint", written);
            if is_written && due(done.cleaned_ms, CLEAN_EVERY_MS) {
                let cleaned = self.delete_old_commits().await;
                if cleaned.is_ok() {
                    done.cleaned_ms = Some(now_ms);
                }
                note("clean log", cleaned.map(|_| ()));
            }
        }
        let vacuum_every = (options.vacuum_retention / 4).clamp(VACUUM_EVERY_AT_LEAST, VACUUM_EVERY_AT_MOST);
        if due(done.vacuumed_ms, i64::try_from(vacuum_every.as_millis()).unwrap_or(i64::MAX)) {
            let vacuumed = self.delete_unneeded(options.vacuum_retention, false).await;
            if vacuumed.is_ok() {
                done.vacuumed_ms = Some(now_ms);
            }
            note("vacuum", vacuumed.map(|_| ()));
        }
        outcome
    }
}
