//! Compaction: of the records of a key only the last one stays, in topics with `cleanup.policy=compact`.
//!
//! *Invariants* (Kafka's, <https://kafka.apache.org/documentation/#compaction>)
//! - No offset changes, nor the order of records; the last record of every key stays; the segment that is written to is not
//!   touched.
//! - A record without a value, a tombstone, stays for `delete.retention.ms` after it was first seen here; the batch says
//!   until when (attribute bit 6, and then its base timestamp is that time).
//! - Nothing at or above an owner's hold, and nothing undecided, is touched: a table has every record before a later one
//!   replaces it. What was aborted goes, and its batch's header stays to say so.
//! - A transaction's marker stays as long as one of its records is there, and then for `delete.retention.ms` like a tombstone. With
//!   the marker of one that was aborted goes what the log remembers of it: a reader who is told of it looks for the marker.
//! - A chain of batches has no gap: where batches are gone one header without records covers their offsets.
//!
//! *Layout*: closed segments are rewritten one by one, into files of a new generation (`%020d-N.log`), on a thread that
//! may block. The committer then lets the ledger name the new files, and readers see them, in one step.
//!
//! *Failure*: before the ledger names them the new files are strangers, which the next open removes; after it, the old ones
//! are. Reading or writing that fails changes nothing; compaction is tried again.
//!
//! *Not here*: merging segments that have become small.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tarn_model::config::Compression;
use tarn_model::{Error, Offset, PartitionId, Result, clock, fault};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::Log;
use crate::batch::{self, HEADER_BYTES, Header, MAX_UNPACKED_BYTES, RawRecord};
use crate::codec;
use crate::committer::Committer;
use crate::draft::sync_dir;
use crate::error::LogError;
use crate::segment::{Extent, Segment};
use crate::visible::{Aborted, Partition, Placed};

/// Keys whose last offset is remembered at once; about 50 bytes each. What is behind them waits for the next time.
const MOST_KEYS: usize = 1 << 20;
const READ_BYTES: usize = 1 << 20;
const WRITE_BYTES: usize = 256 << 10;

/// What compaction made of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compacted {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// No key has two records below this.
    pub upto: Offset,
    /// Bytes of the segments before.
    pub bytes_before: u64,
    /// The same segments after.
    pub bytes_after: u64,
}

/// What is to be compacted of one partition.
struct Plan {
    topic: String,
    id: i64,
    partition: PartitionId,
    dir: PathBuf,
    /// Closed, decided, and needed by nobody as they are.
    segments: Vec<Placed>,
    aborted: Arc<Vec<Aborted>>,
    /// As far as the last compaction came.
    from: Offset,
    delete_retention_ms: i64,
    now_ms: i64,
    seed: u64,
}

/// Transactions on the way through a partition.
#[derive(Default)]
struct Transactions {
    /// Producers of records whose marker has not come yet.
    open: HashSet<i64>,
    /// Offsets of markers that go.
    gone: Vec<Offset>,
}

/// Segments that were written anew.
pub(crate) struct Rewritten {
    topic: String,
    id: i64,
    partition: PartitionId,
    /// The segment as it was, and as it is now.
    replaced: Vec<(Placed, Placed)>,
    /// Offsets of markers that are gone.
    markers: Vec<Offset>,
    upto: Offset,
    bytes_before: u64,
    bytes_after: u64,
}

impl Log {
    /// Compacts every partition that has enough to gain; called on a timer by the binary, after every owner has said what it
    /// holds.
    pub async fn compact(&self) -> Result<Vec<Compacted>> {
        let mut done = Vec::new();
        for plan in self.plans() {
            let what = format!("topic=`{}` partition=`{}`", plan.topic, plan.partition);
            let work = tokio::task::spawn_blocking(move || plan.rewrite());
            let rewritten =
                work.await.map_err(|error| Error::internal("compacting broke off").with_source(error))?;
            let rewritten = match rewritten {
                Ok(rewritten) => rewritten,
                // Retention or a deletion may have taken segments under it.
                Err(error) if self.failure().is_none() => {
                    tracing::warn!(error = ?error, "a partition was not compacted {what}");
                    continue;
                }
                Err(error) => return Err(error),
            };
            done.extend(self.ask(move |committer| committer.replace(rewritten)).await?);
        }
        Ok(done)
    }

    /// Every key below this has one record in the partition; 0 when it was never compacted.
    pub fn compacted_to(&self, topic: &str, partition: PartitionId) -> Result<Offset> {
        Ok(self.shared().visible.read().topic(topic)?.partition(partition)?.compacted)
    }

    fn plans(&self) -> Vec<Plan> {
        let shared = self.shared();
        let now_ms = shared.clock.now_ms();
        let seed = u64::from_le_bytes(clock::new_id().as_bytes()[..8].try_into().unwrap_or_default());
        let visible = shared.visible.read();
        let mut plans = Vec::new();
        for (name, topic) in &visible.topics {
            let configs = &topic.info.configs;
            if !configs.cleanup.compacts() {
                continue;
            }
            for (partition, state) in (0..).zip(&topic.partitions) {
                let free = topic.held_from(partition).unwrap_or(Offset::MAX).min(state.stable());
                let lag_ms = configs.min_compaction_lag_ms();
                let segments = cleanable(state, free, now_ms.saturating_sub(lag_ms));
                let is_late = configs.max_compaction_lag_ms.is_some_and(|lag_ms| {
                    let before_ms = now_ms.saturating_sub(i64::try_from(lag_ms).unwrap_or(i64::MAX));
                    let is_old = |placed: &Placed| placed.extent.created_ms <= before_ms;
                    segments.iter().any(|placed| placed.extent.end > state.compacted && is_old(placed))
                });
                if !is_late && !is_worth_it(segments, state.compacted, configs.min_dirty_ratio()) {
                    continue;
                }
                plans.push(Plan {
                    topic: name.clone(),
                    id: topic.id,
                    partition,
                    dir: state.dir.clone(),
                    segments: segments.to_vec(),
                    aborted: state.aborted.clone(),
                    from: state.compacted,
                    delete_retention_ms: configs.delete_retention_ms(),
                    now_ms,
                    seed,
                });
            }
        }
        plans
    }
}

/// The closed segments that nobody needs as they are, and that hold nothing newer than `before_ms`.
fn cleanable(state: &Partition, free: Offset, before_ms: i64) -> &[Placed] {
    let closed = &state.segments[..state.segments.len() - 1];
    let may = |placed: &&Placed| {
        placed.extent.end <= free && placed.extent.last_append_ms.is_none_or(|at| at <= before_ms)
    };
    &closed[..closed.iter().take_while(may).count()]
}

/// Whether the part that was never compacted is large enough, beside what was.
fn is_worth_it(segments: &[Placed], compacted: Offset, ratio: f64) -> bool {
    let bytes = |of: &dyn Fn(&&Placed) -> bool| -> u64 {
        segments.iter().filter(of).map(|placed| placed.extent.bytes).sum()
    };
    let dirty = bytes(&|placed| placed.extent.end > compacted);
    let all = bytes(&|_| true);
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let share = dirty as f64 / all.max(1) as f64;
    dirty > 0 && share >= ratio
}

impl Plan {
    fn rewrite(self) -> Result<Rewritten> {
        let (latest, upto) = self.latest()?;
        let mut rewritten = Rewritten {
            topic: self.topic.clone(),
            id: self.id,
            partition: self.partition,
            replaced: Vec::new(),
            markers: Vec::new(),
            upto,
            bytes_before: 0,
            bytes_after: 0,
        };
        let mut transactions = Transactions::default();
        for old in self.segments.iter().take_while(|placed| placed.extent.base < upto) {
            rewritten.bytes_before += old.extent.bytes;
            match self.rewrite_one(old, &latest, &mut transactions) {
                Ok(None) => rewritten.bytes_after += old.extent.bytes,
                Ok(Some(new)) => {
                    rewritten.bytes_after += new.extent.bytes;
                    rewritten.replaced.push((old.clone(), new));
                }
                Err(error) => {
                    rewritten.discard();
                    return Err(error);
                }
            }
        }
        rewritten.markers = transactions.gone;
        if !rewritten.replaced.is_empty()
            && let Err(cause) = sync_dir(&self.dir)
        {
            rewritten.discard();
            return Err(cause.into());
        }
        Ok(rewritten)
    }

    /// One segment without what is replaced in it; none when nothing is. What a failure leaves of the new file goes.
    fn rewrite_one(
        &self,
        old: &Placed,
        latest: &HashMap<u128, Offset>,
        transactions: &mut Transactions,
    ) -> Result<Option<Placed>> {
        let mut new = NewSegment::create(&self.dir, &old.extent)?;
        let path = new.segment.path().to_owned();
        let kept = each_batch(old, old.extent.base, |batch, header| {
            self.keep(latest, transactions, batch, header, &mut new).map(|()| true)
        });
        kept.and_then(|()| new.finish()).inspect_err(|_| {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(%error, "a compacted segment that is not needed stays until the next start");
            }
        })
    }

    /// The last offset of every key of the part that was never compacted, and how far that goes.
    fn latest(&self) -> Result<(HashMap<u128, Offset>, Offset)> {
        let mut latest = HashMap::new();
        let mut upto = self.from;
        for placed in self.segments.iter().filter(|placed| placed.extent.end > self.from) {
            let from = self.from.max(placed.extent.base);
            each_batch(placed, from, |batch, header| {
                if latest.len() >= MOST_KEYS {
                    return Ok(false);
                }
                upto = upto.max(header.next_offset());
                if !header.counts(&self.aborted) {
                    return Ok(true);
                }
                for record in unpacked(batch, header)?.iter() {
                    if let Some(key) = record.key {
                        let offset = header.base_offset + record.offset_delta;
                        latest.insert(xxh3_128_with_seed(key, self.seed), offset);
                    }
                }
                Ok(true)
            })?;
            if latest.len() >= MOST_KEYS {
                break;
            }
        }
        Ok((latest, upto))
    }

    /// Takes over of a batch what stays.
    fn keep(
        &self,
        latest: &HashMap<u128, Offset>,
        transactions: &mut Transactions,
        batch: &Bytes,
        header: &Header,
        into: &mut NewSegment,
    ) -> Result<()> {
        if header.is_control() {
            return self.keep_marker(transactions, batch, header, into);
        }
        if header.is_transactional() && header.records > 0 {
            transactions.open.insert(header.producer_id);
        }
        if !header.counts(&self.aborted) {
            // Its header stays: readers of undecided records need it as little as others, but it tells what these offsets were.
            if header.records == 0 {
                return into.copy(batch, header);
            }
            into.changed = true;
            return into.append(&batch::without_records(batch), None);
        }
        if header.records == 0 {
            return into.pass(header);
        }
        let records = unpacked(batch, header)?;
        let horizon = header.delete_horizon_ms();
        let mut kept = Vec::with_capacity(records.len());
        let mut has_new_tombstone = false;
        for record in records.iter() {
            let offset = header.base_offset + record.offset_delta;
            let is_latest = record.key.is_none_or(|key| {
                latest.get(&xxh3_128_with_seed(key, self.seed)).is_none_or(|last| offset >= *last)
            });
            let is_tombstone = record.key.is_some() && record.value.is_none();
            let is_over = is_tombstone && horizon.is_some_and(|horizon| self.now_ms >= horizon);
            if is_latest && !is_over {
                has_new_tombstone |= is_tombstone && horizon.is_none();
                kept.push(record);
            }
        }
        if kept.is_empty() {
            into.changed = true;
            into.pass(header)
        } else if kept.len() == records.len() && !has_new_tombstone {
            into.copy(batch, header)
        } else {
            let horizon = has_new_tombstone.then(|| self.now_ms.saturating_add(self.delete_retention_ms));
            let (bytes, newest) = rewritten(batch, header, &kept, horizon)?;
            into.changed = true;
            into.append(&bytes, Some(newest))
        }
    }
}

impl Plan {
    /// Takes over a marker, as long as it is needed. Records that go now were there: it is needed until the next time.
    fn keep_marker(
        &self,
        transactions: &mut Transactions,
        batch: &Bytes,
        header: &Header,
        into: &mut NewSegment,
    ) -> Result<()> {
        let ends_records = transactions.open.remove(&header.producer_id);
        match header.delete_horizon_ms() {
            Some(horizon) if !ends_records && self.now_ms >= horizon => {
                transactions.gone.push(header.base_offset);
                into.changed = true;
                into.pass(header)
            }
            None if !ends_records => {
                let horizon = self.now_ms.saturating_add(self.delete_retention_ms);
                let records = unpacked(batch, header)?;
                let all: Vec<RawRecord<'_>> = records.iter().collect();
                let (bytes, _) = rewritten(batch, header, &all, Some(horizon))?;
                into.changed = true;
                into.extent.markers += 1;
                into.append(&bytes, None)
            }
            _ => into.copy(batch, header),
        }
    }
}

/// Calls `each` with the batches of a segment from the one that holds `from` on, while it says so.
fn each_batch(
    placed: &Placed,
    mut from: Offset,
    mut each: impl FnMut(&Bytes, &Header) -> Result<bool>,
) -> Result<()> {
    while from < placed.extent.end {
        let batches = placed.segment.read(&placed.extent, from, READ_BYTES)?;
        if batches.is_empty() {
            break;
        }
        for batch in &batches {
            let header = Header::parse(batch).map_err(Error::internal)?;
            from = header.next_offset();
            if !each(batch, &header)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The unpacked records of a batch, all of which were parsed once.
struct Unpacked {
    bytes: Bytes,
    count: usize,
}

impl Unpacked {
    fn len(&self) -> usize {
        self.count
    }

    fn iter(&self) -> impl Iterator<Item = RawRecord<'_>> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || if rest.is_empty() { None } else { batch::take_record(&mut rest) })
    }
}

fn unpacked(batch: &Bytes, header: &Header) -> Result<Unpacked> {
    let wrong = |what: &str| Error::corrupt(format!("{what} in the batch at offset {}", header.base_offset));
    let codec = codec::from_code(header.compression_code()).ok_or_else(|| wrong("an unknown compression"))?;
    let bytes: Bytes = match codec {
        Compression::None => batch.slice(HEADER_BYTES..),
        packed => codec::decompress(packed, &batch[HEADER_BYTES..], MAX_UNPACKED_BYTES)
            .map_err(|error| wrong("records that cannot be unpacked").with_source(error))?
            .into(),
    };
    let (mut rest, mut count) = (&bytes[..], 0);
    while !rest.is_empty() {
        batch::take_record(&mut rest).ok_or_else(|| wrong("a torn record"))?;
        count += 1;
    }
    Ok(Unpacked { bytes, count })
}

/// The batch with these of its records only, and the newest timestamp among them.
fn rewritten(
    batch: &Bytes,
    header: &Header,
    kept: &[RawRecord<'_>],
    horizon: Option<i64>,
) -> Result<(Vec<u8>, i64)> {
    let base = horizon.unwrap_or(header.base_timestamp);
    let (mut records, mut newest) = (Vec::new(), i64::MIN);
    for record in kept {
        let at = header.base_timestamp.wrapping_add(record.timestamp_delta);
        newest = newest.max(header.timestamp(record.timestamp_delta));
        batch::put_raw(&mut records, &RawRecord { timestamp_delta: at.wrapping_sub(base), ..*record });
    }
    let codec = codec::from_code(header.compression_code()).unwrap_or(Compression::None);
    let mut bytes = vec![0; HEADER_BYTES];
    if codec == Compression::None {
        bytes.extend(&records);
    } else {
        codec::compress(codec, &records, &mut bytes)
            .map_err(|error| Error::internal("a batch cannot be compressed").with_source(error))?;
    }
    let count = i32::try_from(kept.len()).unwrap_or(i32::MAX);
    batch::reseal(&mut bytes, batch, count, (base, newest), horizon.is_some());
    Ok((bytes, newest))
}

/// A segment that is being written anew.
struct NewSegment {
    segment: Segment,
    extent: Extent,
    file: BufWriter<File>,
    /// Offsets that no batch covers yet.
    gap: Option<(Offset, Offset)>,
    changed: bool,
}

impl NewSegment {
    fn create(dir: &Path, old: &Extent) -> std::result::Result<NewSegment, LogError> {
        let generation = old.generation + 1;
        let extent = Extent { bytes: 0, max_timestamp_ms: None, markers: 0, generation, ..*old };
        let segment = Segment::of(dir, &extent);
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(segment.path());
        let file =
            BufWriter::with_capacity(WRITE_BYTES, file.map_err(LogError::io("create", segment.path()))?);
        Ok(NewSegment { segment, extent, file, gap: None, changed: false })
    }

    /// A batch that stays as it is.
    fn copy(&mut self, batch: &Bytes, header: &Header) -> Result<()> {
        let newest = (header.records > 0 && !header.is_control()).then_some(header.max_timestamp);
        self.extent.markers += u64::from(header.is_control());
        self.append(batch, newest)
    }

    fn append(&mut self, batch: &[u8], newest: Option<i64>) -> Result<()> {
        self.fill()?;
        self.write(batch)?;
        self.extent.max_timestamp_ms = self.extent.max_timestamp_ms.max(newest);
        Ok(())
    }

    /// Offsets of a batch of which nothing stays.
    fn pass(&mut self, header: &Header) -> Result<()> {
        let mut from = self.gap.map_or(header.base_offset, |(from, _)| from);
        if header.next_offset() - from > i64::from(i32::MAX) {
            self.fill()?;
            from = header.base_offset;
        }
        // Two headers without records become one.
        self.changed |= self.gap.is_some();
        self.gap = Some((from, header.next_offset()));
        Ok(())
    }

    /// Covers the offsets of batches that are gone.
    fn fill(&mut self) -> Result<()> {
        match self.gap.take() {
            Some((from, to)) => self.write(&batch::empty(from, to)),
            None => Ok(()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(LogError::io("write", self.segment.path()))?;
        self.extent.bytes += bytes.len() as u64;
        Ok(())
    }

    /// The segment, on disk; none when it is what it was.
    fn finish(mut self) -> Result<Option<Placed>> {
        self.fill()?;
        if !self.changed {
            self.segment.remove()?;
            return Ok(None);
        }
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(LogError::io("write", self.segment.path()))?;
        Ok(Some(Placed { segment: Arc::new(self.segment), extent: self.extent }))
    }
}

impl Rewritten {
    /// Removes the new files: nothing names them.
    fn discard(&self) {
        for (_, new) in &self.replaced {
            if let Err(error) = new.segment.remove() {
                tracing::warn!(%error, "a compacted segment that is not needed stays until the next start");
            }
        }
    }
}

impl Committer {
    /// Lets the new segments take the place of the old; nothing when those have changed meanwhile.
    pub(crate) fn replace(&mut self, new: Rewritten) -> Result<Option<Compacted>> {
        let replaced = self.try_replace(&new);
        if !matches!(replaced, Ok(Some(_))) && !self.names(&new) {
            new.discard();
        }
        replaced
    }

    /// Whether the ledger's segments are the new ones.
    fn names(&self, new: &Rewritten) -> bool {
        let visible = self.shared.visible.read();
        let state = visible.topic(&new.topic).and_then(|topic| topic.partition(new.partition));
        let Ok(state) = state else { return false };
        new.replaced
            .iter()
            .any(|(_, now)| state.segments.iter().any(|p| Arc::ptr_eq(&p.segment, &now.segment)))
    }

    fn try_replace(&mut self, new: &Rewritten) -> Result<Option<Compacted>> {
        self.shared.check_running()?;
        // What a power failure could take back must not be in another file then.
        self.sync_now()?;
        {
            let visible = self.shared.visible.read();
            let Ok(topic) = visible.topic(&new.topic) else { return Ok(None) };
            let state = topic.partition(new.partition)?;
            let is_there =
                |old: &Placed| state.segments.iter().any(|p| Arc::ptr_eq(&p.segment, &old.segment));
            if topic.id != new.id || !new.replaced.iter().all(|(old, _)| is_there(old)) {
                return Ok(None);
            }
        }
        let extents: Vec<Extent> = new.replaced.iter().map(|(_, now)| now.extent).collect();
        fault::point("log.compact.before")?;
        self.ledger
            .compacted(new.id, new.partition, &extents, &new.markers, new.upto)
            .map_err(|cause| self.ledger_failed(&cause))?;
        {
            let mut visible = self.shared.visible.write();
            let topic = visible.topic_mut(&new.topic)?;
            let index = usize::try_from(new.partition).expect("it was found above");
            let state = &mut topic.partitions[index];
            for (old, now) in &new.replaced {
                if let Some(placed) =
                    state.segments.iter_mut().find(|p| Arc::ptr_eq(&p.segment, &old.segment))
                {
                    *placed = now.clone();
                }
            }
            if !new.markers.is_empty() {
                // They are in order.
                let is_gone = |aborted: &Aborted| new.markers.binary_search(&aborted.last).is_ok();
                Arc::make_mut(&mut state.aborted).retain(|aborted| !is_gone(aborted));
            }
            state.compacted = state.compacted.max(new.upto);
        }
        fault::point("log.compact.after")?;
        for (old, _) in &new.replaced {
            if let Err(error) = old.segment.remove() {
                tracing::warn!(%error, "a segment that was compacted stays behind until the next start");
            }
        }
        let (topic, partition, upto) = (new.topic.clone(), new.partition, new.upto);
        let (bytes_before, bytes_after) = (new.bytes_before, new.bytes_after);
        Ok(Some(Compacted { topic, partition, upto, bytes_before, bytes_after }))
    }
}
