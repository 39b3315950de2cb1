//! Who is in the groups, stored in the log's ledger: a member is told what it has once that is there.
//!
//! *Why*: after a restart a member sends its next heartbeat, with the generation or epoch that it knows. If nobody knew it, it
//! would give up its partitions, and its user would see an error.
//!
//! *Invariant*: what is stored of a group follows the order in which it changed.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use tarn_log::{Append, Submitted};
use tarn_model::{Error, clock};

use crate::broker::{Broker, blocking};

/// Longest text of one group; members of a larger one join again after a restart.
const LONGEST_ROW: usize = 8 << 20;
/// What could not be stored is stored again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl Broker {
    /// Takes over the groups that were stored before the process began.
    pub(crate) async fn wake_groups(&self) {
        let log = self.log.clone();
        match blocking(move || log.group_members()).await {
            Ok(rows) => self.coordinator.wake(rows),
            Err(error) => tracing::warn!(error = ?error, "groups are not known; their members join again"),
        }
    }

    /// Stores a group as it is; an error is for a client that may try again.
    pub(crate) async fn store_group(&self, name: &str) -> Result<(), Code> {
        let told = |error: Error| not_stored(name, &error);
        let submitted = {
            let _in_order = self.storing.lock().await;
            // What is undecided will be stored when it is decided.
            let Ok(row) = self.coordinator.kept(name) else { return Ok(()) };
            self.submit_members(name, row).await.map_err(told)?
        };
        submitted.committed().await.map(|_| ()).map_err(told)
    }

    /// Stores `row` of a group, as long as what it was made of is in this very state.
    pub(crate) async fn store_row(
        &self,
        name: &str,
        row: impl FnOnce() -> Option<String>,
    ) -> Result<(), Code> {
        let told = |error: Error| not_stored(name, &error);
        let submitted = {
            let _in_order = self.storing.lock().await;
            let Some(row) = row() else { return Ok(()) };
            self.submit_members(name, Some(row)).await.map_err(told)?
        };
        submitted.committed().await.map(|_| ()).map_err(told)
    }

    async fn submit_members(&self, name: &str, row: Option<String>) -> Result<Submitted, Error> {
        let row = row.filter(|row| {
            let fits = row.len() <= LONGEST_ROW;
            if !fits {
                tracing::warn!(group = name, bytes = row.len(), "a group is too large to be stored");
            }
            fits
        });
        let mut append = Append::new();
        append.group_members(name, row);
        Ok(self.log.submit(self.log.pack(append).await?))
    }
}

/// What a client is told when a group could not be stored: to try again.
fn not_stored(group: &str, error: &Error) -> Code {
    tracing::warn!(group, error = ?error, "a group was not stored");
    Code::CoordinatorNotAvailable
}

/// Stores groups that change by themselves, as members go; never completes.
pub(crate) async fn store_changes(broker: Arc<Broker>) {
    loop {
        for name in broker.coordinator.unsaved().await {
            if broker.store_group(&name).await.is_err() {
                broker.coordinator.store_soon(&name);
                clock::pause(AGAIN_AFTER).await;
            }
        }
    }
}
