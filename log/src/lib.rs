//! The partitioned log on disk.
//!
//! Records of a topic live in partitions, in segments of Kafka's RecordBatch v2 format. One *commit* makes any number of
//! appends to any number of partitions visible at once, together with the positions of the sources they came from and
//! their idempotency keys.
//!
//! *Invariants*: a record counts once its commit is in the ledger, and never without it; readers see whole commits; under
//! `sync = "group"` what is visible is durable; what an append was answered with stays.
//!
//! *Layout, failure*: `docs/log-format.md`, and the modules `batch`, `segment`, `ledger`, `recovery`.
//!
//! *Not here*: what is in a record; the lake; Kafka's wire protocol, for which [`Append::push_batch`] and [`Fetch`] are made.

mod admission;
mod append;
mod batch;
mod buffers;
mod codec;
mod committer;
mod compaction;
mod draft;
mod epochs;
mod error;
mod fetch;
mod files;
mod index;
mod ledger;
mod news;
mod offsets;
mod options;
mod partitioner;
mod producers;
mod queue;
mod reading;
mod received;
mod recovery;
mod refused;
mod retention;
mod sealed;
mod segment;
mod shared;
mod topics;
mod transacting;
mod transactions;
mod varint;
mod visible;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use tarn_model::clock::Clock;
use tarn_model::config::SyncMode;
use tarn_model::{Boundary, Error, Offset, OffsetRange, PartitionId, Result};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use uuid::Uuid;

pub use append::{Append, Appended, Idempotency, OVERSIZE_HEADER, RecordRef, XXH3_HEADER, record_batch};
pub use buffers::Buffer;
pub use compaction::Compacted;
pub use fetch::{Answer, Fetch, RecordView, Records};
pub use files::{file_limit, raise_file_limit};
pub use news::News;
pub use offsets::{CommittedOffset, GroupOffset, OffsetsByGroup};
pub use options::{Cleanup, LogOptions, TopicConfigs, TopicInfo, TopicOptions};
pub use partitioner::of_key as partition_of_key;
pub use received::{is_packed, keyless};
pub use refused::Refused;
pub use transacting::{ActiveProducer, TransactionInfo};
pub use transactions::{ProducerEpoch, TransactionState};
pub use visible::Aborted;

use crate::committer::Committer;
use crate::error::LogError;
use crate::ledger::{Ledger, Opened};
use crate::queue::Pending;
use crate::sealed::Sealed;
use crate::shared::{Shared, WAITING_APPENDS, WAITING_KIB};
use crate::transactions::Transactions;
use crate::visible::OwnersOfNew;

/// An append above this size is compressed off the async threads.
const SEAL_INLINE_BYTES: usize = 64 << 10;
/// Longest idempotency key.
const LONGEST_KEY: usize = 1 << 10;

/// The log; clones share it. When the last one is dropped without [`Log::close`], it ends as if the process had died, but
/// for the lock.
#[derive(Clone, Debug)]
pub struct Log {
    handle: Arc<Handle>,
}

/// An append that is compressed and only lacks its place in the log.
#[derive(Debug)]
pub struct Packed {
    sealed: Sealed,
    bytes: usize,
    room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// An append in the queue.
#[derive(Debug)]
pub struct Submitted {
    answered: oneshot::Receiver<Result<Appended>>,
    shared: Arc<Shared>,
}

impl Submitted {
    /// Waits until the append is visible (under `group`: and durable), or has failed.
    pub async fn committed(self) -> Result<Appended> {
        self.answered.await.unwrap_or_else(|_| Err(self.shared.stopped().unwrap_or(LogError::Closed).into()))
    }
}

/// What ends with the last clone.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    lock: Mutex<Option<File>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.queue.abandon();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// Whatever ends the committer, nobody waits for it in vain.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let cause = if std::thread::panicking() {
            self.0.stop(&LogError::Stopped { cause: "its thread panicked".to_owned() })
        } else {
            LogError::Closed
        };
        self.0.queue.abandon();
        self.0.queue.refuse_all(|| cause.clone().into());
    }
}

impl Log {
    /// Opens (or creates) the log in `dir`, locks the folder against other processes and recovers: every partition is
    /// cut to its committed end. Blocking.
    pub fn open(dir: &Path, options: LogOptions, clock: Arc<dyn Clock>) -> Result<Log> {
        Log::open_on_boot(dir, options, clock, &recovery::boot_id())
    }

    /// [`Log::open`] in a run of the machine that is given: for tests of power failures.
    #[doc(hidden)]
    pub fn open_on_boot(
        dir: &Path,
        options: LogOptions,
        clock: Arc<dyn Clock>,
        boot_id: &str,
    ) -> Result<Log> {
        options.check()?;
        let log_dir = dir.join("log");
        std::fs::create_dir_all(&log_dir).map_err(LogError::io("create", &log_dir))?;
        let lock = recovery::lock(dir)?;
        recovery::check_version(dir)?;
        let synced = options.sync == SyncMode::Group;
        let Opened { mut ledger, topics, producers, transactions, leader_epoch } =
            Ledger::open(&log_dir.join("ledger.sqlite"), boot_id, synced)?;
        draft::sync_dir(&log_dir)?;
        recovery::remove_gone(&log_dir, &mut ledger)?;
        let visible = recovery::recover(&log_dir, &topics, Transactions::new(transactions), &options)?;
        if ledger.has_undo()? {
            recovery::sync_all(&visible, &mut ledger)?;
        }
        let shared = Arc::new(Shared {
            dir: log_dir,
            options,
            clock,
            visible: RwLock::new(visible),
            reader: ledger.reader(),
            leader_epoch,
            queue: queue::Queue::default(),
            room: Arc::new(Semaphore::new(WAITING_KIB as usize)),
            slots: Arc::new(Semaphore::new(WAITING_APPENDS)),
            waiters: news::Waiters::default(),
            commits: watch::channel(ledger.seq().unsigned_abs()).0,
            stopped: Mutex::new(None),
        });
        let producers = producers::Producers::new(producers);
        let committer = Committer::new(shared.clone(), ledger, producers);
        let thread = std::thread::Builder::new()
            .name("tarn-log".to_owned())
            .spawn(move || {
                let _ended = Ended(committer.shared.clone());
                committer.run()
            })
            .map_err(|error| Error::unavailable("cannot start the log's thread").with_source(error))?;
        let handle = Handle { shared, thread: Mutex::new(Some(thread)), lock: Mutex::new(Some(lock)) };
        Ok(Log { handle: Arc::new(handle) })
    }

    /// Creates a topic, or returns it when it exists; more partitions than it has are added, fewer are refused. Blocking.
    pub fn create_topic(&self, name: &str, options: &TopicOptions) -> Result<Arc<TopicInfo>> {
        self.create(name, options, None)
    }

    /// [`Log::create_topic`] with configs of its own; they replace those that it has. Blocking.
    pub fn configure_topic(
        &self,
        name: &str,
        options: &TopicOptions,
        configs: &TopicConfigs,
    ) -> Result<Arc<TopicInfo>> {
        self.create(name, options, Some(configs.clone()))
    }

    /// The files of a new topic are made here, so that commits go on meanwhile.
    fn create(
        &self,
        name: &str,
        options: &TopicOptions,
        configs: Option<TopicConfigs>,
    ) -> Result<Arc<TopicInfo>> {
        let (name, options) = (name.to_owned(), options.clone());
        let is_new = !self.shared().visible.read().topics.contains_key(&name);
        let prepared = if is_new { Some(topics::prepare(self.shared(), &name, &options)?) } else { None };
        self.ask_blocking(move |committer| {
            committer.create_topic(&name, &options, configs.as_ref(), prepared)
        })
    }

    /// Creates a topic with the identity and the first offsets that a lake knows it by, so that the log goes on where the
    /// lake ends. A topic of this name gives way when it holds no record that the lake lacks; else
    /// [`tarn_model::Kind::Conflict`].
    pub async fn adopt_topic(&self, name: &str, id: TopicId, starts: &Boundary) -> Result<()> {
        let (name, starts) = (name.to_owned(), starts.clone());
        self.ask(move |committer| committer.adopt_topic(&name, id, &starts)).await
    }

    /// Deletes a topic with its records and its groups' offsets. [`tarn_model::Kind::Conflict`] when a table or another owner holds it.
    pub async fn delete_topic(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.ask(move |committer| committer.delete_topic(&name)).await
    }

    /// The topic of this name.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.shared().visible.read().topics.get(name).map(|topic| topic.info.clone())
    }

    /// The topic of this identity.
    pub fn topic_of_id(&self, id: TopicId) -> Option<Arc<TopicInfo>> {
        let visible = self.shared().visible.read();
        visible.topics.values().map(|topic| &topic.info).find(|info| info.id == id).cloned()
    }

    /// Somebody who holds a topic, a table say: see [`Log::hold`].
    pub fn holder(&self, topic: &str) -> Option<String> {
        let visible = self.shared().visible.read();
        visible.topics.get(topic).and_then(|topic| topic.holds.keys().next().cloned())
    }

    /// The folder of the topics' folders.
    pub fn dir(&self) -> &Path {
        &self.shared().dir
    }

    /// How the log was opened.
    pub fn options(&self) -> &LogOptions {
        &self.shared().options
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<TopicInfo>> {
        self.shared().visible.read().topics.values().map(|topic| topic.info.clone()).collect()
    }

    /// Remembers the column types that a source knows (`name TYPE` list as in the config), as a property of the topic.
    /// Blocking.
    pub fn set_topic_columns(&self, topic: &str, columns: &tarn_model::columns::Columns) -> Result<()> {
        let (topic, columns) = (topic.to_owned(), columns.clone());
        self.ask_blocking(move |committer| committer.set_topic_columns(&topic, &columns))
    }

    /// Commits one append, all or nothing, and returns once it is visible (under `group`: and durable).
    ///
    /// Appends that are under way at the same time have no order among them: who needs one awaits each before the next,
    /// and builds the next meanwhile. An [`tarn_model::Kind::Unavailable`] error may be tried again, unless
    /// [`Log::failure`] says that the log has stopped. A future that is dropped may or may not append.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        self.commit(self.pack(append).await?).await
    }

    /// The first half of [`Log::append`]: compresses, so that the second half is short. A packed append takes its share of
    /// the room for waiting appends until it is committed or dropped: who packs several must commit in that order.
    pub async fn pack(&self, append: Append) -> Result<Packed> {
        let shared = self.shared();
        shared.check_running()?;
        self.check(&append)?;
        let bytes = append.bytes();
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, WAITING_KIB);
        let closed = |_| Error::from(shared.stopped().unwrap_or(LogError::Closed));
        let slot = shared.slots.clone().acquire_owned().await.map_err(closed)?;
        let room = shared.room.clone().acquire_many_owned(kib).await.map_err(closed)?;
        let compression = shared.options.compression;
        let sealed = if bytes <= SEAL_INLINE_BYTES {
            append.seal(compression)
        } else {
            let sealing = tokio::task::spawn_blocking(move || append.seal(compression));
            sealing.await.map_err(|error| Error::internal("sealing an append failed").with_source(error))?
        };
        let sealed =
            sealed.map_err(|error| Error::internal("a batch cannot be compressed").with_source(error))?;
        Ok(Packed { sealed, bytes, room: (slot, room) })
    }

    /// The second half of [`Log::append`].
    pub async fn commit(&self, packed: Packed) -> Result<Appended> {
        self.submit(packed).committed().await
    }

    /// The second half of [`Log::append`] without its wait: the append stands in the queue, and what is submitted later is
    /// committed later, or with it.
    pub fn submit(&self, packed: Packed) -> Submitted {
        let Packed { sealed, bytes, room } = packed;
        let (answer, answered) = oneshot::channel();
        if sealed.is_empty() {
            let _ = answer.send(Ok(Appended {
                ranges: Vec::new(),
                records: 0,
                repeated: false,
                producer: None,
                append_time_ms: None,
            }));
            return Submitted { answered, shared: self.handle.shared.clone() };
        }
        self.shared().queue.append(Pending { sealed, bytes, answer, room });
        Submitted { answered, shared: self.handle.shared.clone() }
    }

    fn check(&self, append: &Append) -> Result<()> {
        let visible = self.shared().visible.read();
        for info in append.topic_infos() {
            visible.topic(&info.name).map_err(|error| error.with_source(Refused::UnknownPartition))?;
        }
        append.groups().check()?;
        if append.is_stamped() && append.idempotency_key().is_some() {
            return Err(Error::invalid(
                "an append has an idempotency key or a producer's sequence, not both",
            ));
        }
        if let Some(Idempotency { topic, key, .. }) = append.idempotency_key() {
            visible.topic(topic)?;
            if key.is_empty() || key.len() > LONGEST_KEY {
                return Err(Error::invalid(format!(
                    "an idempotency key has 1 to {LONGEST_KEY} bytes, not {}",
                    key.len()
                )));
            }
        }
        Ok(())
    }

    /// The position that `source` stored under `key`.
    pub fn position(&self, source: &str, key: &str) -> Result<Option<serde_json::Value>> {
        self.shared().reader.position(source, key)?.map(|value| parse_position(&value)).transpose()
    }

    /// All positions of `source`, by key.
    pub fn positions(&self, source: &str) -> Result<Vec<(String, serde_json::Value)>> {
        let positions = self.shared().reader.positions(source)?;
        positions.into_iter().map(|(key, value)| Ok((key, parse_position(&value)?))).collect()
    }

    /// Records that filters dropped, by source.
    pub fn dropped(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.shared().reader.dropped()?)
    }

    /// Start and committed end of one partition.
    pub fn span(&self, topic: &str, partition: PartitionId) -> Result<OffsetRange> {
        let visible = self.shared().visible.read();
        let state = visible.topic(topic)?.partition(partition)?;
        Ok(OffsetRange::new(state.start, state.end()))
    }

    /// Where a partition of this very topic stands, for a reader at `from`; an error when another has its name now.
    pub fn standing(&self, topic: &TopicInfo, partition: PartitionId, from: Offset) -> Result<Standing> {
        let visible = self.shared().visible.read();
        let found = visible.topic(&topic.name)?;
        if found.info.id != topic.id {
            return Err(Error::conflict(format!("topic `{}` is another one now", topic.name)));
        }
        let state = found.partition(partition)?;
        Ok(Standing {
            start: state.start,
            end: state.end(),
            stable: state.stable(),
            bytes: state.segments_from(from).iter().map(|placed| placed.extent.bytes).sum(),
        })
    }

    /// Below it no record of a partition belongs to an open transaction.
    pub fn stable_end(&self, topic: &str, partition: PartitionId) -> Result<Offset> {
        Ok(self.shared().visible.read().topic(topic)?.partition(partition)?.stable())
    }

    /// The newest timestamp in a partition, if it has records.
    pub fn newest_timestamp(&self, topic: &str, partition: PartitionId) -> Result<Option<i64>> {
        let visible = self.shared().visible.read();
        let state = visible.topic(topic)?.partition(partition)?;
        Ok(state.segments.iter().filter_map(|placed| placed.extent.max_timestamp_ms).max())
    }

    /// Ends of a topic's partitions (every partition has an entry) for readers of committed records: below them nothing
    /// belongs to an open transaction. They never move back.
    pub fn ends(&self, topic: &str) -> Result<Boundary> {
        Ok(self.shared().visible.read().topic(topic)?.stable_ends())
    }

    /// First offsets that are still there (every partition has an entry).
    pub fn starts(&self, topic: &str) -> Result<Boundary> {
        Ok(self.shared().visible.read().topic(topic)?.starts())
    }

    /// Ticks at every commit, and when the log stops; wait on it instead of polling. Who reads few of many partitions waits for
    /// [`Log::news`].
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.shared().commits.subscribe()
    }

    /// Appends that wait for their answer; under 16,384 of them and 64 MiB of records, more wait outside.
    pub fn waiting(&self) -> usize {
        WAITING_APPENDS - self.shared().slots.available_permits().min(WAITING_APPENDS)
    }

    /// Why the log has stopped, if it has: after a failed sync, say. It must be opened anew, in a new process at best.
    pub fn failure(&self) -> Option<Error> {
        self.shared().stopped().filter(|cause| !matches!(cause, LogError::Closed)).map(Error::from)
    }

    /// Makes the log durable at least up to `upto`, whatever the sync mode.
    pub async fn sync_to(&self, topic: &str, upto: &Boundary) -> Result<()> {
        let ends = self.ends(topic)?;
        if !ends.is_at_least(upto) {
            return Err(Error::invalid(format!("topic `{topic}` ends at {ends}, below {upto}")));
        }
        if self.shared().options.sync == SyncMode::Group {
            // Only what is synced is visible.
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.shared().queue.job(Box::new(move |committer| committer.sync_for(answer)));
        answered.await.unwrap_or_else(|_| Err(LogError::Closed.into()))
    }

    /// `owner` (a table, an export) still needs everything at or above `boundary`: retention stops there. Kept in memory:
    /// owners say it again when they open.
    pub fn hold(&self, topic: &str, owner: &str, boundary: Boundary) {
        if let Some(topic) = self.shared().visible.write().topics.get_mut(topic) {
            topic.holds.insert(owner.to_owned(), boundary);
        }
    }

    /// A topic that is created from now on is held, from its first record on, for those whom `owners` names, before anybody sees
    /// it, until they say how far they have come ([`Log::hold`]) or let it go.
    pub fn hold_new(&self, owners: impl Fn(&str) -> Vec<String> + Send + Sync + 'static) {
        self.shared().visible.write().owners_of_new = OwnersOfNew(Box::new(owners));
    }

    /// `owner` needs nothing of the topic any more.
    pub fn release(&self, topic: &str, owner: &str) {
        if let Some(topic) = self.shared().visible.write().topics.get_mut(topic) {
            topic.holds.remove(owner);
        }
    }

    /// Drops segments that retention lets go; returns what went, per topic and partition. Called on a timer by the binary,
    /// once every owner has said what it holds. Transactions whose time is up are aborted first.
    pub async fn apply_retention(&self) -> Result<Vec<(String, PartitionId, OffsetRange)>> {
        self.end_overdue_transactions().await?;
        self.ask(Committer::apply_retention).await
    }

    /// Deletes records below `upto` by hand. Refused above an owner's hold unless `force`: then the lost range is kept
    /// for [`Log::lost_ranges`].
    pub async fn trim(&self, topic: &str, upto: &Boundary, force: bool) -> Result<()> {
        let (topic, upto) = (topic.to_owned(), upto.clone());
        self.ask(move |committer| committer.trim(&topic, &upto, force)).await
    }

    /// Ranges that a forced trim took before `owner` had them.
    pub fn lost_ranges(&self, topic: &str) -> Result<Vec<(PartitionId, OffsetRange)>> {
        let id = self.shared().visible.read().topic(topic)?.id;
        let lost = self.shared().reader.lost(id)?;
        Ok(lost.into_iter().map(|(partition, from, to)| (partition, OffsetRange::new(from, to))).collect())
    }

    /// Ranges that were let go, each with the number of its offsets that held no record that counted: markers, and what was
    /// aborted. Ranges without such offsets are left out.
    pub fn passed_ranges(&self, topic: &str) -> Result<Vec<(PartitionId, OffsetRange, u64)>> {
        let id = self.shared().visible.read().topic(topic)?.id;
        Ok(self.shared().reader.passed(id)?)
    }

    /// Per topic and partition: records, bytes, start, end, segments, last append time.
    pub fn stats(&self) -> Result<Vec<PartitionStats>> {
        let visible = self.shared().visible.read();
        let mut stats = Vec::new();
        for (name, topic) in &visible.topics {
            for (partition, state) in (0..).zip(&topic.partitions) {
                stats.push(PartitionStats {
                    topic: name.clone(),
                    partition,
                    start: state.start,
                    end: state.end(),
                    size_bytes: state.bytes(),
                    segments: state.segments.len(),
                    last_append_ms: state.last().extent.last_append_ms,
                });
            }
        }
        Ok(stats)
    }

    /// Waits for appends under way, syncs, and closes; later calls fail with [`tarn_model::Kind::Unavailable`].
    pub async fn close(&self) -> Result<()> {
        let handle = self.handle.clone();
        let close = tokio::task::spawn_blocking(move || {
            handle.shared.queue.close();
            let ended = match handle.thread.lock().take() {
                Some(thread) => {
                    thread.join().unwrap_or_else(|_| Err(Error::internal("the log's thread panicked")))
                }
                None => Ok(()),
            };
            handle.shared.stop(&LogError::Closed);
            handle.lock.lock().take();
            ended
        });
        close.await.unwrap_or_else(|error| Err(Error::internal("closing the log failed").with_source(error)))
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }

    async fn ask<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Committer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.shared().queue.job(Box::new(move |committer| {
            let _ = answer.send(job(committer));
        }));
        answered.await.unwrap_or_else(|_| Err(LogError::Closed.into()))
    }

    fn ask_blocking<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Committer) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (answer, answered) = std::sync::mpsc::channel();
        self.shared().queue.job(Box::new(move |committer| {
            let _ = answer.send(job(committer));
        }));
        answered.recv().unwrap_or_else(|_| Err(LogError::Closed.into()))
    }
}

fn parse_position(value: &str) -> Result<serde_json::Value> {
    serde_json::from_str(value)
        .map_err(|error| Error::corrupt("the ledger has a position that is not JSON").with_source(error))
}

/// Where a partition stands for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// First offset that is still there.
    pub start: Offset,
    /// Committed end.
    pub end: Offset,
    /// Below it nothing belongs to an open transaction.
    pub stable: Offset,
    /// Bytes of the segment that the reader is in, and of those behind it.
    pub bytes: u64,
}

/// What one partition holds.
#[derive(Debug, Clone, serde::Serialize)]
pub struct PartitionStats {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// First offset that is still there.
    pub start: Offset,
    /// Committed end.
    pub end: Offset,
    /// Bytes on disk.
    pub size_bytes: u64,
    /// Number of segments.
    pub segments: usize,
    /// When the newest batch was appended, ms since 1970 UTC.
    pub last_append_ms: Option<i64>,
}

/// The topic's identity, as it stands in the lake too.
pub type TopicId = Uuid;
