//! Offsets of groups that nobody is in go when they are old, and so do groups that have none.
//!
//! *Invariants*: a group with members keeps its offsets, however old; one without keeps them as long after its last member has left, and
//! after they were committed. An offset that was committed again while it was looked at stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tarn_log::Append;
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
        let mut empty: HashMap<String, Option<i64>> = self.coordinator.empty().into_iter().collect();
        let log = self.log.clone();
        let with_offsets = blocking(move || log.groups()).await?;
        let mut expired = 0;
        for group in with_offsets {
            let emptied_ms = match empty.remove(&group) {
                Some(emptied_ms) => emptied_ms,
                None if self.coordinator.describe(&group).is_some() => continue,
                // Somebody who is in no group has committed for it.
                None => None,
            };
            if emptied_ms.is_some_and(|at_ms| at_ms >= before_ms) {
                continue;
            }
            let (log, name) = (self.log.clone(), group.clone());
            let committed = blocking(move || log.group_offsets(&name)).await?;
            let mut append = Append::new();
            for (topic, partition, seen) in committed.into_iter().filter(|(_, _, at)| at.at_ms < before_ms) {
                append.expire_group_offset(&group, &topic, partition, seen);
                expired += 1;
            }
            self.log.append(append).await?;
        }
        // What is left has nobody and nothing.
        for (group, emptied_ms) in empty {
            if emptied_ms.is_some_and(|at_ms| at_ms < before_ms) && self.coordinator.forget(&group) {
                // As it is then: somebody may have joined since.
                self.coordinator.store_soon(&group);
            }
        }
        Ok(expired)
    }
}
