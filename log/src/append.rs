//! One append: records for any number of topics and partitions, with the source positions they reach.

use std::sync::Arc;

use tarn_model::{OffsetRange, PartitionId, Result};

use crate::options::TopicInfo;

/// A record as a collector has it; nothing is copied before [`Append::push`] encodes it.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// The key, by whose murmur2 hash the partition is chosen.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Records of one append, encoded as they are pushed.
#[derive(Debug, Default)]
pub struct Append {}

#[expect(unused_variables, reason = "skeleton")]
impl Append {
    /// An append without records.
    pub fn new() -> Append {
        unimplemented!()
    }

    /// Encodes a record for the partition of its key, or without one for this append's partition (which changes from
    /// append to append). A record above the topic's limit is replaced by its head, with the headers `tarn.oversize`
    /// (its size) and `tarn.xxh3` (its hash), and becomes a dead letter.
    pub fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        unimplemented!()
    }

    /// Encodes a record for a given partition.
    pub fn push_to(&mut self, topic: &Arc<TopicInfo>, partition: PartitionId, record: &RecordRef<'_>) -> Result<()> {
        unimplemented!()
    }

    /// Sets what `source` has reached under `key`; `None` forgets it. Committed with the records.
    pub fn position(&mut self, source: &str, key: &str, value: Option<serde_json::Value>) {
        unimplemented!()
    }

    /// Makes the append idempotent: see [`Idempotency`].
    pub fn idempotency(&mut self, key: Idempotency) {
        unimplemented!()
    }

    /// Counts records that a filter dropped, for `source`.
    pub fn dropped(&mut self, source: &str, records: u64) {
        unimplemented!()
    }

    /// Number of records so far.
    pub fn records(&self) -> u64 {
        unimplemented!()
    }

    /// Encoded bytes so far, before compression: collectors append at about 1 MiB.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }

    /// Whether there is nothing to commit: no record, no position.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }
}

/// Makes a repeated append answer like the first.
///
/// The key belongs to a topic. A repeat with the same body hash commits nothing and returns the first answer with
/// [`Appended::repeated`]; one with another hash is a [`tarn_model::Kind::Conflict`] error; a concurrent repeat waits.
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Topic that the key belongs to.
    pub topic: String,
    /// The key as the client sent it.
    pub key: String,
    /// Hash of the body.
    pub body_hash: u128,
}

/// What an append became.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Appended {
    /// Topic, partition and offsets of the records.
    pub ranges: Vec<(String, PartitionId, OffsetRange)>,
    /// Number of records.
    pub records: u64,
    /// Whether this answers a repeat: nothing was written now.
    pub repeated: bool,
}
