//! Appends of about 1 MiB, the next one built while the last commits.
//!
//! *Invariant*: at most one append is under way. With two, the first could fail and the second commit a position beyond
//! it: the first one's records would be lost. Whoever reads positions after an error must know how the last append
//! ended, so dropping an [`Appender`] waits for it.

use std::sync::Arc;

use tarn_log::{Append, Appended, RecordRef, TopicInfo};
use tarn_model::{Error, Result};
use tokio::task::JoinHandle;

use crate::source::Source;

/// Size at which an append is handed to an idle log.
const ENOUGH_BYTES: usize = 1 << 20;
/// Size at which building waits for the append under way.
const MOST_BYTES: usize = 4 << 20;

/// Builds and submits the appends of one source.
pub(crate) struct Appender<'a> {
    source: &'a Source,
    building: Append,
    under_way: Option<JoinHandle<Result<Appended>>>,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(source: &'a Source) -> Appender<'a> {
        Appender { source, building: Append::new(), under_way: None }
    }

    #[inline]
    pub(crate) fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        self.building.push(topic, record)
    }

    /// Whether it is time to set positions and [`Appender::submit`].
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        let bytes = self.building.bytes();
        bytes >= ENOUGH_BYTES
            && (bytes >= MOST_BYTES || self.under_way.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// Whether there is nothing to submit.
    pub(crate) fn is_empty(&self) -> bool {
        self.building.is_empty()
    }

    pub(crate) fn position(&mut self, key: &str, value: Option<serde_json::Value>) {
        self.building.position(&self.source.name, key, value);
    }

    /// Forgets what was not handed over.
    pub(crate) fn discard(&mut self) {
        self.building = Append::new();
    }

    /// Hands the append over, once the one before it is committed.
    pub(crate) fn submit(&mut self) -> Result<()> {
        self.settle()?;
        if !self.building.is_empty() {
            let append = std::mem::replace(&mut self.building, Append::new());
            let log = self.source.log.clone();
            self.under_way = Some(self.source.runtime.spawn(async move { log.append(append).await }));
        }
        Ok(())
    }

    /// Hands the append over and waits until it is committed.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.submit()?;
        self.settle()
    }

    fn settle(&mut self) -> Result<()> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        let appended = self
            .source
            .runtime
            .block_on(under_way)
            .map_err(|error| Error::unavailable("the append was cancelled").with_source(error))??;
        self.source.monitor.committed(appended.records);
        Ok(())
    }
}

impl Drop for Appender<'_> {
    fn drop(&mut self) {
        let _ = self.settle();
    }
}
