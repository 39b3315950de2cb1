//! One append: records for any number of topics and partitions, with the source positions they reach.
//!
//! Records are encoded into their partition's batch as they are pushed; nothing is kept per record. [`Append::seal`]
//! compresses the batches, and then they only lack their place in the log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tarn_model::config::Compression;
use tarn_model::{Error, OffsetRange, PartitionId, Result};

use crate::batch::{self, HEADER_BYTES};
use crate::fetch::RecordView;
use crate::offsets::{CommittedOffset, GroupChanges, GroupOffset};
use crate::options::TopicInfo;
use crate::producers::Stamp;
use crate::received::{check_batch, recompressed};
use crate::refused::Refused;
use crate::sealed::{Position, Sealed, SealedBatch, SealedPart};
use crate::transactions::{ProducerEpoch, Request};
use crate::{codec, partitioner};

/// Unpacked size at which a batch is closed and the next begun.
const BATCH_BYTES: usize = 1 << 20;
/// Below this many bytes, packing gains nothing.
const SMALLEST_PACKED_BYTES: usize = 256;
/// What is kept of the key, and of the value, of a record beyond the limit.
const HEAD_BYTES: usize = 4 << 10;
/// What is kept of the headers of a record beyond the limit.
const HEAD_HEADER_BYTES: usize = 16 << 10;

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

impl RecordRef<'_> {
    /// What the topic's limit counts: key, value and headers together.
    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}

/// Records of one append, encoded as they are pushed.
#[derive(Debug)]
pub struct Append {
    /// Chooses the partition of keyless records.
    turn: u32,
    topics: Vec<TopicPart>,
    /// By source and key, for a source of ten thousand files sets as many: JSON, or `None` to forget.
    positions: BTreeMap<(String, String), Option<String>>,
    dropped: Vec<(String, u64)>,
    idempotency: Option<Idempotency>,
    groups: GroupChanges,
    /// Of an idempotent producer's batch, which then is alone.
    stamp: Option<Stamp>,
    /// Whether a batch of a transaction may go into a partition that the transaction did not name.
    enlists: bool,
    /// The transactional id for which a batch of a transaction came, where that is known.
    transactional_id: Option<String>,
    /// What a producer asks of its transaction; then there is nothing else.
    request: Option<Box<Request>>,
    records: u64,
    bytes: usize,
}

#[derive(Debug)]
struct TopicPart {
    topic: Arc<TopicInfo>,
    /// By partition; grows as partitions are used.
    partitions: Vec<Vec<Building>>,
}

/// A batch that takes records, or one that came whole.
#[derive(Debug)]
struct Building {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    records: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// A batch that came whole; then there is nothing else.
    whole: Option<Bytes>,
}

impl Default for Append {
    fn default() -> Append {
        Append::new()
    }
}

impl Append {
    /// An append without records.
    pub fn new() -> Append {
        Append {
            turn: partitioner::next_turn(),
            topics: Vec::new(),
            positions: BTreeMap::new(),
            dropped: Vec::new(),
            idempotency: None,
            groups: GroupChanges::default(),
            stamp: None,
            enlists: false,
            transactional_id: None,
            request: None,
            records: 0,
            bytes: 0,
        }
    }

    /// What a producer asks of its transaction.
    pub(crate) fn of_request(request: Request) -> Append {
        Append { request: Some(Box::new(request)), ..Append::new() }
    }

    /// A transaction's batch names the partition by coming: see [`crate::Log::enlist`].
    pub fn enlists(&mut self) {
        self.enlists = true;
    }

    /// A transaction's batch came for this transactional id: its producer must be that id's.
    pub fn transactional_id(&mut self, id: &str) {
        self.transactional_id = Some(id.to_owned());
    }

    /// Whether it holds a batch of a transaction.
    pub fn is_transactional(&self) -> bool {
        self.stamp.is_some_and(|stamp| stamp.transactional)
    }

    /// Encodes a record for the partition of its key, or without one for this append's partition (which changes from
    /// append to append). A record above the topic's limit is replaced by its head (the first 4 KiB of key and value),
    /// with the headers `tarn.oversize` (its size in bytes, as text) and `tarn.xxh3` (the 128-bit XXH3 hash of its value, in
    /// hex), and becomes a dead letter.
    pub fn push(&mut self, topic: &Arc<TopicInfo>, record: &RecordRef<'_>) -> Result<()> {
        self.push_to(topic, self.partition_for(topic, record.key), record)
    }

    /// Encodes a record of another log exactly as it is there, but for its offset: for a given partition, or for that of its key.
    /// Its headers must be whole. One above the topic's limit is treated as [`Append::push`] does.
    pub fn push_copy(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: Option<PartitionId>,
        record: &RecordView<'_>,
    ) -> Result<()> {
        let partition = partition.unwrap_or_else(|| self.partition_for(topic, record.key));
        let headers = || record.headers().map(|(name, value)| (name, value.unwrap_or_default()));
        let header_bytes: usize = headers().map(|(name, value)| name.len() + value.len()).sum();
        let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + header_bytes;
        if size > topic.max_record_bytes {
            let headers: Vec<(&str, &[u8])> = headers().collect();
            let (timestamp_ms, key, value) = (record.timestamp_ms, record.key, record.value);
            return self.push_head(
                topic,
                partition,
                &RecordRef { timestamp_ms, key, value, headers: &headers },
            );
        }
        self.encode_with(topic, partition, size, record.timestamp_ms, |batch| batch.put_copy(record))
    }

    /// The partition of a key, or this append's.
    fn partition_for(&self, topic: &TopicInfo, key: Option<&[u8]>) -> PartitionId {
        match key {
            Some(key) => partitioner::of_key(key, topic.partitions),
            None => {
                let turn = self.turn % topic.partitions.max(1).unsigned_abs();
                PartitionId::try_from(turn).expect("less than the number of partitions")
            }
        }
    }

    /// Encodes a record for a given partition.
    pub fn push_to(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: PartitionId,
        record: &RecordRef<'_>,
    ) -> Result<()> {
        if record.size() > topic.max_record_bytes {
            return self.push_head(topic, partition, record);
        }
        self.encode(topic, partition, record)
    }

    /// Takes one record batch as a client sent it (Kafka's RecordBatch v2, any compression): it is checked whole, and
    /// stored as it is but for its base offset and leader epoch, and for a max timestamp that is not that of its records. A batch with a producer's sequence must be alone in its
    /// append, which is taken once however often it comes. [`Refused`] in the error's sources says what was wrong.
    pub fn push_batch(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: PartitionId,
        batch: &Bytes,
    ) -> Result<()> {
        let (header, max_timestamp) = check_batch(topic, partition, batch)?;
        let stamp = (header.producer_id >= 0).then(|| {
            let (epoch, first) = (header.producer_epoch, header.base_sequence);
            let stamp = Stamp::new(header.producer_id, epoch, first, header.last_offset_delta);
            Stamp { transactional: header.is_transactional(), ..stamp }
        });
        if stamp.is_some() && self.records > 0 {
            return Err(Refused::Malformed.because("a batch with a sequence must be alone in its append"));
        }
        let whole = match topic.configs.compression {
            Some(codec) if codec::code(codec) != header.compression_code() => {
                recompressed(batch, &header, codec)?.into()
            }
            _ => batch.clone(),
        };
        let building = Building {
            bytes: Vec::new(),
            records: header.records,
            base_timestamp: header.base_timestamp,
            max_timestamp,
            whole: Some(whole),
        };
        // What waits, not what came: in another compression it may be a thousand times as large.
        let bytes = building.whole.as_ref().map_or(0, Bytes::len);
        self.partition(topic, partition)?.push(building);
        self.stamp = stamp;
        self.records += u64::from(header.records.unsigned_abs());
        self.bytes += bytes;
        Ok(())
    }

    /// Stores (or with `None` forgets) what a consumer group has reached, with the records.
    pub fn group_offset(&mut self, offset: GroupOffset) {
        self.bytes += offset.bytes();
        self.groups.offsets.push(offset);
    }

    /// Forgets what a consumer group has reached in a partition, unless it has committed there again since `seen` was read.
    pub fn expire_group_offset(
        &mut self,
        group: &str,
        topic: &str,
        partition: PartitionId,
        seen: CommittedOffset,
    ) {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        let seen = GroupOffset { group, topic, topic_id: None, partition, committed: Some(seen) };
        self.bytes += seen.bytes();
        self.groups.expired.push(seen);
    }

    /// Stores (or with `None` forgets) who is in a consumer group, in the words of its coordinator.
    pub fn group_members(&mut self, group: &str, members: Option<String>) {
        self.bytes += group.len() + members.as_ref().map_or(0, String::len);
        self.groups.members.push((group.to_owned(), members));
    }

    /// Sets what `source` has reached under `key`; `None` forgets it. Committed with the records.
    pub fn position(&mut self, source: &str, key: &str, value: Option<serde_json::Value>) {
        let value = value.map(|value| value.to_string());
        self.positions.insert((source.to_owned(), key.to_owned()), value);
    }

    /// Makes the append idempotent: see [`Idempotency`].
    pub fn idempotency(&mut self, key: Idempotency) {
        self.idempotency = Some(key);
    }

    /// Counts records that a filter dropped, for `source`.
    pub fn dropped(&mut self, source: &str, records: u64) {
        if records == 0 {
            return;
        }
        match self.dropped.iter_mut().find(|(name, _)| name == source) {
            Some((_, count)) => *count += records,
            None => self.dropped.push((source.to_owned(), records)),
        }
    }

    /// Number of records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Encoded bytes so far, before compression: collectors append at about 1 MiB.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing to commit: no record, no position, no dropped count, nothing of a group.
    pub fn is_empty(&self) -> bool {
        let nothing = self.records == 0 && self.positions.is_empty() && self.dropped.is_empty();
        nothing && self.groups.is_empty() && self.request.is_none()
    }

    fn encode(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: PartitionId,
        record: &RecordRef<'_>,
    ) -> Result<()> {
        self.encode_with(topic, partition, record.size(), record.timestamp_ms, |batch| batch.put(record))
    }

    fn encode_with(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: PartitionId,
        size: usize,
        timestamp_ms: i64,
        put: impl FnOnce(&mut Building),
    ) -> Result<()> {
        let batches = self.partition(topic, partition)?;
        let full = |b: &Building| b.whole.is_some() || b.bytes.len() + size > BATCH_BYTES;
        if batches.last().is_none_or(full) {
            batches.push(Building {
                bytes: vec![0; HEADER_BYTES],
                records: 0,
                base_timestamp: timestamp_ms,
                max_timestamp: timestamp_ms,
                whole: None,
            });
        }
        let batch = batches.last_mut().expect("one was pushed if there was none");
        let before = batch.bytes.len();
        put(batch);
        let grown = batch.bytes.len() - before;
        self.records += 1;
        self.bytes += grown;
        Ok(())
    }

    /// Encodes what is kept of a record beyond the limit.
    #[cold]
    fn push_head(
        &mut self,
        topic: &Arc<TopicInfo>,
        partition: PartitionId,
        record: &RecordRef<'_>,
    ) -> Result<()> {
        let keep = HEAD_BYTES.min(topic.max_record_bytes);
        let head = |bytes: &[u8]| bytes.len().min(keep);
        let size = record.size().to_string();
        let mut hash = String::with_capacity(32);
        let digest = xxhash_rust::xxh3::xxh3_128(record.value.unwrap_or_default());
        write!(hash, "{digest:032x}").expect("writing to a string cannot fail");
        let mut headers: Vec<(&str, &[u8])> = Vec::new();
        let header_bytes: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if header_bytes <= HEAD_HEADER_BYTES {
            headers.extend_from_slice(record.headers);
        }
        headers.push((OVERSIZE_HEADER, size.as_bytes()));
        headers.push((XXH3_HEADER, hash.as_bytes()));
        let kept = RecordRef {
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(|key| &key[..head(key)]),
            value: record.value.map(|value| &value[..head(value)]),
            headers: &headers,
        };
        self.encode(topic, partition, &kept)
    }

    fn partition(&mut self, topic: &Arc<TopicInfo>, partition: PartitionId) -> Result<&mut Vec<Building>> {
        let index =
            usize::try_from(partition).ok().filter(|_| partition < topic.partitions).ok_or_else(|| {
                Refused::UnknownPartition.because(format!(
                    "topic `{}` has {} partitions, not partition {partition}",
                    topic.name, topic.partitions
                ))
            })?;
        if self.stamp.is_some() {
            return Err(Refused::Malformed.because("a batch with a sequence must be alone in its append"));
        }
        let same = |part: &TopicPart| Arc::ptr_eq(&part.topic, topic) || part.topic.id == topic.id;
        let at = self.topics.iter().position(same).unwrap_or_else(|| {
            self.topics.push(TopicPart { topic: topic.clone(), partitions: Vec::new() });
            self.topics.len() - 1
        });
        let partitions = &mut self.topics[at].partitions;
        if partitions.len() <= index {
            partitions.resize_with(index + 1, Vec::new);
        }
        Ok(&mut partitions[index])
    }

    /// Compresses the batches and writes their headers.
    pub(crate) fn seal(self, compression: Compression) -> io::Result<Sealed> {
        let mut parts = Vec::new();
        for TopicPart { topic, partitions } in self.topics {
            for (partition, batches) in (0..).zip(partitions) {
                if !batches.is_empty() {
                    let batches: io::Result<Vec<_>> =
                        batches.into_iter().map(|batch| batch.seal(compression)).collect();
                    parts.push(SealedPart { topic: topic.clone(), partition, batches: batches? });
                }
            }
        }
        let positions = self.positions.into_iter();
        Ok(Sealed {
            parts,
            positions: positions.map(|((source, key), value)| Position { source, key, value }).collect(),
            dropped: self.dropped,
            idempotency: self.idempotency,
            groups: self.groups,
            stamp: self.stamp,
            enlists: self.enlists,
            transactional_id: self.transactional_id,
            request: self.request,
            records: self.records,
        })
    }

    pub(crate) fn is_stamped(&self) -> bool {
        self.stamp.is_some()
    }

    pub(crate) fn groups(&self) -> &GroupChanges {
        &self.groups
    }

    pub(crate) fn idempotency_key(&self) -> Option<&Idempotency> {
        self.idempotency.as_ref()
    }

    pub(crate) fn topic_infos(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.topics.iter().map(|part| &part.topic)
    }
}

/// One record batch of `records`, as a client sends it.
pub fn record_batch(records: &[RecordRef<'_>], compression: Compression) -> Result<Bytes> {
    let base_timestamp = records.first().map_or(0, |record| record.timestamp_ms);
    let mut building = Building {
        bytes: vec![0; HEADER_BYTES],
        records: 0,
        base_timestamp,
        max_timestamp: base_timestamp,
        whole: None,
    };
    for record in records {
        building.put(record);
    }
    let sealed = building.seal(compression);
    let sealed =
        sealed.map_err(|error| Error::internal("a batch cannot be compressed").with_source(error))?;
    Ok(sealed.into_bytes())
}

/// Header of a record beyond the limit: its size in bytes, as text.
pub const OVERSIZE_HEADER: &str = "tarn.oversize";
/// Header of a record beyond the limit: the 128-bit XXH3 hash of its value, in hex.
pub const XXH3_HEADER: &str = "tarn.xxh3";

impl Building {
    fn put(&mut self, record: &RecordRef<'_>) {
        let delta = record.timestamp_ms.wrapping_sub(self.base_timestamp);
        let (key, value) = (record.key, record.value);
        batch::put_record(&mut self.bytes, i64::from(self.records), delta, key, value, record.headers);
        self.records += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
    }

    fn put_copy(&mut self, record: &RecordView<'_>) {
        let raw = batch::RawRecord {
            timestamp_delta: record.timestamp_ms.wrapping_sub(self.base_timestamp),
            offset_delta: i64::from(self.records),
            key: record.key,
            value: record.value,
            headers: record.raw_headers(),
        };
        batch::put_raw(&mut self.bytes, &raw);
        self.records += 1;
        self.max_timestamp = self.max_timestamp.max(record.timestamp_ms);
    }

    fn seal(mut self, compression: Compression) -> io::Result<SealedBatch> {
        if let Some(whole) = self.whole {
            return Ok(SealedBatch::of_client(whole, self.records, self.max_timestamp));
        }
        let mut attributes = 0;
        let records = &self.bytes[HEADER_BYTES..];
        if compression != Compression::None && records.len() >= SMALLEST_PACKED_BYTES {
            let mut packed = Vec::with_capacity(HEADER_BYTES + records.len() / 2);
            packed.resize(HEADER_BYTES, 0);
            codec::compress(compression, records, &mut packed)?;
            if packed.len() < self.bytes.len() {
                attributes = codec::code(compression);
                self.bytes = packed;
            }
        }
        batch::seal(&mut self.bytes, attributes, self.records, self.base_timestamp, self.max_timestamp);
        Ok(SealedBatch::new(self.bytes.into(), self.records, Some(self.max_timestamp)))
    }
}

/// Makes a repeated append answer like the first.
///
/// The key belongs to a topic. A repeat with the same body hash commits nothing and returns the first answer with
/// [`Appended::repeated`]; one with another hash is a [`tarn_model::Kind::Conflict`] error; a concurrent repeat waits. A
/// key is remembered for [`crate::LogOptions::idempotency_window`].
#[derive(Debug, Clone)]
pub struct Idempotency {
    /// Topic that the key belongs to.
    pub topic: String,
    /// The key as the client sent it, at most 1 KiB.
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
    /// Who the producer is after what it asked of its transaction.
    #[serde(skip)]
    pub producer: Option<ProducerEpoch>,
    /// The time of the append, where the topic gives its records that.
    #[serde(skip)]
    pub append_time_ms: Option<i64>,
}
