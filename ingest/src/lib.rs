//! Collectors: files, HTTP pushes and databases into the log.

use std::sync::Arc;

use tarn_log::Log;
use tarn_model::Result;
use tarn_model::clock::Clock;
use tarn_model::config::{Config, SourceConfig};
use tarn_model::status::SourceStatus;

/// How long collectors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// Until they are stopped.
    Continuous,
    /// Until every bounded source is read to the end it had at start.
    Drain,
}

/// The running collectors of a config.
#[derive(Debug)]
pub struct Collectors {}

#[expect(unused_variables, reason = "skeleton")]
impl Collectors {
    /// Creates the topics that the sources fill (as the config declares them), and starts one task per source.
    pub fn start(config: &Config, log: Log, clock: Arc<dyn Clock>, mode: RunMode) -> Result<Collectors> {
        let sources: &[SourceConfig] = &config.sources;
        unimplemented!()
    }

    /// `POST /v1/ingest/{topic}`.
    pub fn router(&self) -> axum::Router {
        unimplemented!()
    }

    /// What each source does.
    pub fn status(&self) -> Vec<SourceStatus> {
        unimplemented!()
    }

    /// Completes once every source has ended by itself (in [`RunMode::Drain`]), or when one failed for good.
    pub async fn drained(&self) -> Result<()> {
        unimplemented!()
    }

    /// Stops after what is under way; nothing half-read is committed.
    pub async fn stop(&self) {
        unimplemented!()
    }
}
