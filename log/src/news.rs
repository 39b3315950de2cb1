//! Who waits for a partition to change, and nobody else, is told that it has.
//!
//! *Why*: one signal for the whole log wakes everybody at every commit; of a thousand readers that wait, one has news.
//!
//! *Invariants*: a change is shown before it is told, and who waits is known before it looks: so nothing is missed between the
//! look and the wait. What a commit costs here grows with those who wait for what it changes, not with the others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tarn_model::PartitionId;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::Log;
use crate::shared::Shared;

/// Who waits, by topic, partition, and the number that each was given.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    topics: HashMap<Uuid, HashMap<PartitionId, HashMap<u64, Arc<Notify>>>>,
}

impl Waiters {
    /// These partitions have more, or less that is undecided.
    pub(crate) fn tell(&self, changed: impl IntoIterator<Item = (Uuid, PartitionId)>) {
        let waiting = self.0.lock();
        if waiting.topics.is_empty() {
            return;
        }
        for (topic, partition) in changed {
            let waiters = waiting.topics.get(&topic).and_then(|partitions| partitions.get(&partition));
            waiters.into_iter().flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
        }
    }

    /// The topic is gone.
    pub(crate) fn tell_topic(&self, topic: Uuid) {
        let waiting = self.0.lock();
        let partitions = waiting.topics.get(&topic).into_iter().flat_map(HashMap::values);
        partitions.flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
    }

    /// The log has stopped.
    pub(crate) fn tell_all(&self) {
        let waiting = self.0.lock();
        let partitions = waiting.topics.values().flat_map(HashMap::values);
        partitions.flat_map(HashMap::values).for_each(|waiter| waiter.notify_one());
    }
}

/// News of some partitions: from its making on, until it is dropped.
#[derive(Debug)]
pub struct News {
    shared: Arc<Shared>,
    number: u64,
    partitions: Vec<(Uuid, PartitionId)>,
    told: Arc<Notify>,
}

impl News {
    /// Waits until one of the partitions has changed since this was called last (or since [`Log::news`]): its ends have moved,
    /// its topic is gone, or the log has stopped.
    pub async fn changed(&self) {
        self.told.notified().await;
    }
}

impl Drop for News {
    fn drop(&mut self) {
        let mut waiting = self.shared.waiters.0.lock();
        for (topic, partition) in &self.partitions {
            let Some(partitions) = waiting.topics.get_mut(topic) else { continue };
            if let Some(waiters) = partitions.get_mut(partition) {
                waiters.remove(&self.number);
                if waiters.is_empty() {
                    partitions.remove(partition);
                }
            }
            if partitions.is_empty() {
                waiting.topics.remove(topic);
            }
        }
    }
}

impl Log {
    /// Tells of changes of these partitions, by their topics' identities. Look at them after this call, then wait.
    pub fn news(&self, partitions: impl IntoIterator<Item = (Uuid, PartitionId)>) -> News {
        let (shared, told) = (self.handle.shared.clone(), Arc::new(Notify::new()));
        let partitions: Vec<_> = partitions.into_iter().collect();
        let mut waiting = shared.waiters.0.lock();
        let number = waiting.next;
        waiting.next += 1;
        for (topic, partition) in &partitions {
            let waiters = waiting.topics.entry(*topic).or_default().entry(*partition).or_default();
            waiters.insert(number, told.clone());
        }
        drop(waiting);
        News { shared, number, partitions, told }
    }
}
