//! Who is in the groups, stored in the log's ledger: a member is told what it has once that is there.
//!
//! *Why*: after a restart a member sends its next heartbeat, with the generation or epoch that it knows. If nobody knew it, it
//! would give up its partitions, and its user would see an error.
//!
//! *Invariants*: an answer that tells a member a generation, an epoch or partitions leaves when the group is stored as it was then, or as it
//! has become since; what is stored of a group follows the order in which it changed.
//!
//! *Failure*: while groups cannot be stored, members are told to try again. A group that was changed in that time has changed, and is
//! stored as soon as one can be. Of a group that is too large nothing new is stored, and whoever asked for it is told of an error.

use std::sync::Arc;
use std::time::Duration;

use tarn_log::Append;
use tarn_model::{Result, clock, fault};

use crate::broker::{Broker, blocking};
use crate::coordinator::Row;

/// Longest text of one group.
const LONGEST_ROW: usize = 8 << 20;
/// Groups are stored together up to this many bytes.
const ROUND_BYTES: usize = LONGEST_ROW;
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

    async fn store(&self, rows: &[Row]) -> Result<()> {
        let mut append = Append::new();
        for Row { name, text, .. } in rows {
            append.group_members(name, text.clone());
        }
        fault::point("kafka.groups.before")?;
        self.log.append(append).await?;
        fault::point("kafka.groups.after")
    }
}

/// Stores groups as they change, all that have changed together; never completes.
pub(crate) async fn store_changes(broker: Arc<Broker>) {
    let coordinator = &broker.coordinator;
    loop {
        let mut unsaved = coordinator.unsaved().await.into_iter();
        let (mut rows, mut bytes) = (Vec::new(), 0);
        for name in unsaved.by_ref() {
            let row = coordinator.row(name);
            let length = row.text.as_ref().map_or(0, String::len);
            if length > LONGEST_ROW {
                tracing::warn!(group = row.name, bytes = length, "a group is too large to be stored");
                coordinator.too_large(&row);
                continue;
            }
            bytes += length;
            rows.push(row);
            if bytes >= ROUND_BYTES {
                break;
            }
        }
        unsaved.for_each(|name| coordinator.store_soon(&name));
        if rows.is_empty() {
            continue;
        }
        let stored = broker.store(&rows).await;
        coordinator.done(&rows, stored.is_ok());
        if let Err(error) = stored {
            tracing::warn!(groups = rows.len(), error = ?error, "groups were not stored; it is tried again");
            rows.iter().for_each(|row| coordinator.store_soon(&row.name));
            clock::pause(AGAIN_AFTER).await;
        }
    }
}
