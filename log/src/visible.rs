//! What readers see: topics, their partitions, and how much of each is committed.
//!
//! *Invariants*: only the committer changes it, after its commit is in the ledger, and all of a commit under one write lock:
//! whoever holds the read lock sees whole commits. Nobody reads a file under the lock.
//!
//! *The stable end* of a partition lies before the first record of an open transaction: below it everything is decided, and
//! it never moves back. What was aborted below it stands in [`Partition::aborted`].

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tarn_model::{Boundary, Error, Offset, PartitionId, Result};

use crate::options::TopicInfo;
use crate::segment::{Extent, Segment};
use crate::transactions::Transactions;

/// All topics, by name.
#[derive(Debug, Default)]
pub(crate) struct Visible {
    pub(crate) topics: BTreeMap<String, Topic>,
    pub(crate) transactions: Transactions,
    pub(crate) owners_of_new: OwnersOfNew,
}

/// Names of owners by the name of a topic.
type OwnersOf = dyn Fn(&str) -> Vec<String> + Send + Sync;

/// Who needs a topic that is not there yet, by its name.
pub(crate) struct OwnersOfNew(pub(crate) Box<OwnersOf>);

impl Default for OwnersOfNew {
    fn default() -> OwnersOfNew {
        OwnersOfNew(Box::new(|_| Vec::new()))
    }
}

impl std::fmt::Debug for OwnersOfNew {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnersOfNew")
    }
}

/// A topic and its partitions.
#[derive(Debug)]
pub(crate) struct Topic {
    /// Its number in the ledger.
    pub(crate) id: i64,
    pub(crate) info: Arc<TopicInfo>,
    pub(crate) retention_time: Option<Duration>,
    pub(crate) retention_bytes: Option<u64>,
    /// Owner → what it still needs everything at or above of.
    pub(crate) holds: BTreeMap<String, Boundary>,
    pub(crate) partitions: Vec<Partition>,
}

/// A partition; its last segment is written to.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) dir: PathBuf,
    pub(crate) start: Offset,
    /// How far compaction has come.
    pub(crate) compacted: Offset,
    pub(crate) segments: Vec<Placed>,
    /// Producers with an open transaction here, and its first record.
    pub(crate) open: HashMap<i64, Offset>,
    /// Aborted transactions, by their markers' offsets.
    pub(crate) aborted: Arc<Vec<Aborted>>,
}

/// A transaction whose records in a partition do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted {
    /// Whose records.
    pub producer: i64,
    /// The first of them.
    pub first: Offset,
    /// The marker behind the last of them.
    pub last: Offset,
    /// Every transaction that ends later begins here or above.
    pub(crate) stable: Offset,
}

/// A segment and how much of it is committed.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) segment: Arc<Segment>,
    pub(crate) extent: Extent,
}

impl Visible {
    /// What its owners hold of a new topic: all.
    pub(crate) fn holds_of_new(&self, name: &str) -> BTreeMap<String, Boundary> {
        (self.owners_of_new.0)(name).into_iter().map(|owner| (owner, Boundary::new())).collect()
    }

    pub(crate) fn topic(&self, name: &str) -> Result<&Topic> {
        self.topics.get(name).ok_or_else(|| unknown(name))
    }

    pub(crate) fn topic_mut(&mut self, name: &str) -> Result<&mut Topic> {
        self.topics.get_mut(name).ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!("there is no topic `{name}`")).with_hint("declare it as `[[topic]]` in the config")
}

impl Topic {
    pub(crate) fn partition(&self, partition: PartitionId) -> Result<&Partition> {
        usize::try_from(partition).ok().and_then(|at| self.partitions.get(at)).ok_or_else(|| {
            let (name, count) = (&self.info.name, self.partitions.len());
            Error::invalid(format!("topic `{name}` has {count} partitions, not partition {partition}"))
        })
    }

    pub(crate) fn stable_ends(&self) -> Boundary {
        (0..).zip(&self.partitions).map(|(partition, p)| (partition, p.stable())).collect()
    }

    pub(crate) fn starts(&self) -> Boundary {
        (0..).zip(&self.partitions).map(|(partition, p)| (partition, p.start)).collect()
    }

    /// The offset that some owner still needs of `partition`; `None` when nobody holds it.
    pub(crate) fn held_from(&self, partition: PartitionId) -> Option<Offset> {
        self.holds.values().map(|boundary| boundary.next(partition)).min()
    }
}

impl Partition {
    /// A partition without transactions.
    pub(crate) fn new(dir: PathBuf, start: Offset, segments: Vec<Placed>) -> Partition {
        Partition { dir, start, compacted: 0, segments, open: HashMap::new(), aborted: Arc::default() }
    }

    /// Below it everything is decided.
    pub(crate) fn stable(&self) -> Offset {
        let end = self.end();
        self.open.values().min().map_or(end, |first| (*first).clamp(self.start, end))
    }

    pub(crate) fn last(&self) -> &Placed {
        self.segments.last().expect("a partition always has a segment")
    }

    pub(crate) fn end(&self) -> Offset {
        self.last().extent.end
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|placed| placed.extent.bytes).sum()
    }

    /// The segments that hold records at or above `from`.
    pub(crate) fn segments_from(&self, from: Offset) -> &[Placed] {
        let first = self.segments.partition_point(|placed| placed.extent.end <= from);
        &self.segments[first..]
    }
}

/// Those of a partition's aborted transactions that have records in `[from, to)`.
pub(crate) fn aborted_within(all: &[Aborted], from: Offset, to: Offset) -> Vec<Aborted> {
    let first = all.partition_point(|aborted| aborted.last < from);
    let mut found = Vec::new();
    for aborted in &all[first..] {
        if aborted.first < to {
            found.push(*aborted);
        }
        if aborted.stable >= to {
            break;
        }
    }
    found
}
