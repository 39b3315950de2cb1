//! Offsets of groups that nobody is in go when they are old.
//!
//! *Invariant*: a group with members keeps its offsets, however old. After a start nothing goes before members had the time
//! to come back, since who was in a group is not kept.

use std::sync::Arc;
use std::time::Duration;

use tarn_log::{Append, GroupOffset};
use tarn_model::{Result, clock};

use crate::broker::{Broker, blocking};

/// Longest time between two looks, as in Kafka; the first comes after it as well.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// Never completes.
pub(crate) async fn expire_offsets(broker: Arc<Broker>) {
    let every = broker.options.offsets_retention.clamp(Duration::from_millis(100), LOOK_EVERY);
    loop {
        clock::pause(every).await;
        match broker.expire().await {
            Ok(0) => {}
            Ok(offsets) => tracing::info!(offsets, "old offsets of groups without members are forgotten"),
            Err(error) => tracing::warn!(error = ?error, "old offsets stay; it is tried again"),
        }
    }
}

impl Broker {
    /// Forgets what is too old; how many offsets that was.
    async fn expire(&self) -> Result<usize> {
        let retention_ms = i64::try_from(self.options.offsets_retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.clock.now_ms().saturating_sub(retention_ms);
        let log = self.log.clone();
        let groups = blocking(move || log.groups()).await?;
        let mut expired = 0;
        for group in groups {
            // What a member that comes now commits between the look below and the append goes with the old offsets: it commits again,
            // or begins where its `auto.offset.reset` says.
            if self.coordinator.describe(&group).is_some_and(|known| !known.members.is_empty()) {
                continue;
            }
            let (log, name) = (self.log.clone(), group.clone());
            let committed = blocking(move || log.group_offsets(&name)).await?;
            let mut append = Append::new();
            for (topic, partition, _) in committed.into_iter().filter(|(_, _, at)| at.at_ms < before_ms) {
                append.group_offset(GroupOffset { group: group.clone(), topic, partition, committed: None });
                expired += 1;
            }
            self.log.append(append).await?;
        }
        Ok(expired)
    }
}
