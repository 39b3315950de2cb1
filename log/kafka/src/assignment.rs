//! Sets of partitions: what members of a group have, should have, or must give up.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tarn_model::PartitionId;
use uuid::Uuid;

/// A partition of a topic, by the topic's identity.
pub(crate) type Place = (Uuid, PartitionId);

/// A set of partitions. No topic in it is without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment(BTreeMap<Uuid, BTreeSet<PartitionId>>);

impl Assignment {
    /// Nothing.
    pub(crate) fn new() -> Assignment {
        Assignment::default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn contains(&self, (topic, partition): Place) -> bool {
        self.0.get(&topic).is_some_and(|partitions| partitions.contains(&partition))
    }

    pub(crate) fn insert(&mut self, (topic, partition): Place) {
        self.0.entry(topic).or_default().insert(partition);
    }

    pub(crate) fn remove(&mut self, (topic, partition): Place) {
        if let Some(partitions) = self.0.get_mut(&topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.0.remove(&topic);
            }
        }
    }

    /// All of it, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Place> {
        self.0.iter().flat_map(|(topic, partitions)| partitions.iter().map(|partition| (*topic, *partition)))
    }

    /// Topic by topic.
    pub(crate) fn topics(&self) -> impl Iterator<Item = (Uuid, Vec<PartitionId>)> {
        self.0.iter().map(|(topic, partitions)| (*topic, partitions.iter().copied().collect()))
    }

    /// The last partition of each topic.
    pub(crate) fn last_of_topics(&self) -> impl Iterator<Item = Place> {
        self.0.iter().filter_map(|(topic, partitions)| Some((*topic, *partitions.last()?)))
    }

    /// What is in both.
    pub(crate) fn and(&self, other: &Assignment) -> Assignment {
        self.iter().filter(|place| other.contains(*place)).collect()
    }

    /// What is not in the other.
    pub(crate) fn without(&self, other: &Assignment) -> Assignment {
        self.iter().filter(|place| !other.contains(*place)).collect()
    }

    /// Whether all of it is in the other.
    pub(crate) fn is_within(&self, other: &Assignment) -> bool {
        self.iter().all(|place| other.contains(place))
    }
}

impl FromIterator<Place> for Assignment {
    fn from_iter<T: IntoIterator<Item = Place>>(places: T) -> Assignment {
        let mut assignment = Assignment::new();
        assignment.extend(places);
        assignment
    }
}

impl Extend<Place> for Assignment {
    fn extend<T: IntoIterator<Item = Place>>(&mut self, places: T) {
        places.into_iter().for_each(|place| self.insert(place));
    }
}
