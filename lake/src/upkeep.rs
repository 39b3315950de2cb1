//! Upkeep by itself.

use std::time::Duration;

use tarn_model::{Error, Result};

use crate::{LakeTable, OptimizeReport, VacuumReport};

/// When each job was last done.
#[derive(Debug, Default)]
pub(crate) struct UpkeepState {}

impl LakeTable {
    pub(crate) async fn do_what_is_due(&self) -> Result<()> {
        Ok(())
    }
    pub(crate) async fn merge_small_files(&self) -> Result<OptimizeReport> {
        Err(Error::internal("not yet"))
    }
    pub(crate) async fn delete_unneeded(&self, _retention: Duration, _dry_run: bool) -> Result<VacuumReport> {
        Err(Error::internal("not yet"))
    }
    pub(crate) async fn write_checkpoint(&self) -> Result<()> {
        Err(Error::internal("not yet"))
    }
    pub(crate) async fn delete_old_commits(&self) -> Result<usize> {
        Err(Error::internal("not yet"))
    }
}
