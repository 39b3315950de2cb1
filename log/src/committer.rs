//! The one thread that writes: it turns all appends that wait into one commit, again and again.
//!
//! *A commit*: segment bytes are written, under `group` synced, then the ledger's transaction makes them count, then
//! readers see them, then the appends are answered. While one commit is made the next gathers: one sync serves them all.
//!
//! *Failure*:
//!
//! | what fails | what is left | what happens |
//! |---|---|---|
//! | a write, disk full | bytes above the committed end | cut off; the appends may be tried again |
//! | a write, otherwise | the same | cut off; the log stops |
//! | a sync | pages that the kernel may have dropped | the log stops: no second try on them |
//! | the ledger's transaction | it was made or not | the ledger is opened anew and tells; disk full is as above, otherwise the log stops |
//! | the process | bytes above the committed end | the next open cuts them off |
//!
//! A stopped log refuses everything until it is opened again.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tarn_model::config::SyncMode;
use tarn_model::{Error, OffsetRange, PartitionId, Result, fault};
use tokio::sync::oneshot;

use crate::append::{Appended, Idempotency};
use crate::draft::{self, Draft, Unsynced, injected};
use crate::error::LogError;
use crate::ledger::{Change, KeyRow, Ledger, OffsetRow, ProducerRow};
use crate::producers::{Advanced, Producers, Verdict};
use crate::queue::{Pending, Work};
use crate::refused::Refused;
use crate::shared::Shared;

/// Producer ids that the ledger notes as given at once.
const PRODUCER_ID_BLOCK: i64 = 1000;
/// How long a producer that does not write is remembered: a day, as in Kafka.
const PRODUCER_EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;

/// The writing side of a log.
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Ledger,
    pub(crate) producers: Producers,
    /// Producer ids that may be given without asking the ledger.
    producer_ids: Range<i64>,
    leader_epoch: i32,
    /// Files with bytes of commits that no sync has covered; always empty under `group`.
    unsynced: Unsynced,
    /// The last commit whose bytes are synced.
    synced_seq: i64,
    next_sync: Option<Instant>,
    syncing: Option<Syncing>,
    /// Who waits for a sync, and up to which commit.
    sync_waiters: Vec<(i64, oneshot::Sender<Result<()>>)>,
}

/// A sync on a thread of its own, so that commits go on meanwhile.
struct Syncing {
    seq: i64,
    thread: JoinHandle<std::result::Result<(), LogError>>,
}

/// The drafts of one commit, by topic and partition.
type Drafts = BTreeMap<(String, PartitionId), Draft>;

/// An append on its way through a commit.
struct Accepted {
    pending: Pending,
    topic_of_key: Option<i64>,
    /// One for each group offset.
    topics_of_offsets: Vec<i64>,
    appended: Appended,
}

/// What is to be done with an append.
enum Admitted {
    Fresh {
        topic_of_key: Option<i64>,
        topics_of_offsets: Vec<i64>,
    },
    /// It repeats the append at this place of the same commit.
    Repeat(usize),
    Known(Result<Appended>),
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ledger: Ledger,
        producers: Producers,
        leader_epoch: i32,
    ) -> Committer {
        let synced_seq = ledger.seq();
        let mut committer = Committer {
            shared,
            ledger,
            producers,
            producer_ids: 0..0,
            leader_epoch,
            unsynced: Unsynced::new(),
            synced_seq,
            next_sync: None,
            syncing: None,
            sync_waiters: Vec::new(),
        };
        committer.plan_sync();
        committer
    }

    /// Works until the log is closed or abandoned.
    pub(crate) fn run(mut self) -> Result<()> {
        let shared = self.shared.clone();
        loop {
            match shared.queue.next(self.next_sync) {
                Work::Job(job) => job(&mut self),
                Work::Appends(appends) => self.commit(appends),
                Work::Tick => self.sync_on_time(),
                Work::End { clean } => return self.end(clean),
            }
        }
    }

    fn end(mut self, clean: bool) -> Result<()> {
        self.shared.queue.refuse_all(|| LogError::Closed.into());
        if !clean {
            if let Some(syncing) = self.syncing.take() {
                let _ = syncing.thread.join();
            }
            return Ok(());
        }
        self.sync_now()?;
        for topic in self.shared.visible.read().topics.values() {
            topic.partitions.iter().for_each(|partition| partition.last().segment.retire());
        }
        Ok(())
    }

    fn commit(&mut self, appends: Vec<Pending>) {
        if let Some(cause) = self.shared.stopped() {
            appends.into_iter().for_each(|pending| pending.answer(Err(cause.clone().into())));
            return;
        }
        let mut advanced = Advanced::default();
        let (mut accepted, repeats) = self.admit(appends, &mut advanced);
        let made = if accepted.is_empty() { Ok(()) } else { self.commit_accepted(&mut accepted, advanced) };
        match made {
            Ok(()) => {
                let answers: Vec<_> = accepted
                    .iter()
                    .map(|a| (a.pending.sealed.idempotency.clone(), a.appended.clone()))
                    .collect();
                accepted.into_iter().for_each(|accepted| accepted.pending.answer(Ok(accepted.appended)));
                for (pending, first) in repeats {
                    let (key, appended) = &answers[first];
                    let answer = same_body(&pending, key.as_ref())
                        .map(|()| Appended { repeated: true, ..appended.clone() });
                    pending.answer(answer);
                }
            }
            Err(cause) => {
                let waiting = accepted
                    .into_iter()
                    .map(|a| a.pending)
                    .chain(repeats.into_iter().map(|(pending, _)| pending));
                waiting.for_each(|pending| pending.answer(Err(cause.clone().into())));
            }
        }
    }

    /// Sorts out repeats and appends to what is not there.
    fn admit(
        &self,
        appends: Vec<Pending>,
        advanced: &mut Advanced,
    ) -> (Vec<Accepted>, Vec<(Pending, usize)>) {
        let (mut accepted, mut repeats) = (Vec::<Accepted>::new(), Vec::new());
        let mut keys = HashMap::new();
        for pending in appends {
            match self.admit_one(&pending, &keys, advanced, accepted.len()) {
                Admitted::Known(answer) => pending.answer(answer),
                Admitted::Repeat(first) => repeats.push((pending, first)),
                Admitted::Fresh { topic_of_key, topics_of_offsets } => {
                    if let (Some(topic), Some(key)) = (topic_of_key, &pending.sealed.idempotency) {
                        keys.insert((topic, key.key.clone()), accepted.len());
                    }
                    let appended =
                        Appended { ranges: Vec::new(), records: pending.sealed.records, repeated: false };
                    accepted.push(Accepted { pending, topic_of_key, topics_of_offsets, appended });
                }
            }
        }
        (accepted, repeats)
    }

    fn admit_one(
        &self,
        pending: &Pending,
        keys: &HashMap<(i64, String), usize>,
        advanced: &mut Advanced,
        place: usize,
    ) -> Admitted {
        let visible = self.shared.visible.read();
        for part in &pending.sealed.parts {
            match visible.topic(&part.topic.name) {
                Ok(topic) if topic.info.id == part.topic.id => {}
                Ok(_) => {
                    return Admitted::Known(Err(Error::conflict(format!(
                        "topic `{}` is another one now",
                        part.topic.name
                    ))));
                }
                Err(error) => return Admitted::Known(Err(error)),
            }
        }
        let sealed = &pending.sealed;
        let mut topics_of_offsets = Vec::with_capacity(sealed.offsets.len());
        for offset in &sealed.offsets {
            match visible
                .topic(&offset.topic)
                .and_then(|topic| topic.partition(offset.partition).map(|_| topic.id))
            {
                Ok(topic) => topics_of_offsets.push(topic),
                Err(error) => return Admitted::Known(Err(error.with_source(Refused::UnknownPartition))),
            }
        }
        if let (Some(stamp), Some(part)) = (sealed.stamp, sealed.parts.first()) {
            let topic = visible.topic(&part.topic.name).map_or(0, |topic| topic.id);
            let now_ms = self.shared.clock.now_ms();
            match self.producers.advance(advanced, (topic, part.partition), stamp, place, now_ms) {
                Verdict::Fresh => {}
                Verdict::RepeatOf(first) => return Admitted::Repeat(first),
                Verdict::Refused(error) => return Admitted::Known(Err(error)),
                Verdict::Repeat(from) => {
                    let to = from + i64::try_from(sealed.records).unwrap_or(0);
                    let range = OffsetRange::new(from, to);
                    return Admitted::Known(Ok(Appended {
                        ranges: vec![(part.topic.name.clone(), part.partition, range)],
                        records: sealed.records,
                        repeated: true,
                    }));
                }
            }
        }
        let Some(key) = &sealed.idempotency else {
            return Admitted::Fresh { topic_of_key: None, topics_of_offsets };
        };
        let topic = match visible.topic(&key.topic) {
            Ok(topic) => topic.id,
            Err(error) => return Admitted::Known(Err(error)),
        };
        if let Some(first) = keys.get(&(topic, key.key.clone())) {
            return Admitted::Repeat(*first);
        }
        match self.ledger.key(topic, &key.key, self.shared.expire_before_ms()) {
            Ok(None) => Admitted::Fresh { topic_of_key: Some(topic), topics_of_offsets },
            Ok(Some((body_hash, answer))) => Admitted::Known(repeated(key, body_hash, &answer)),
            Err(cause) => Admitted::Known(Err(cause.into())),
        }
    }

    fn commit_accepted(
        &mut self,
        accepted: &mut [Accepted],
        mut advanced: Advanced,
    ) -> std::result::Result<(), LogError> {
        let now_ms = self.shared.clock.now_ms();
        let mut drafts = Drafts::new();
        if let Err(cause) = self.write(accepted, &mut drafts, now_ms) {
            return Err(self.take_back(&drafts, cause));
        }
        let mut files = Unsynced::new();
        for draft in drafts.values() {
            if let Err(cause) = draft.unsynced(&mut files) {
                return Err(self.take_back(&drafts, cause));
            }
        }
        if self.is_group()
            && let Err(cause) = draft::sync(&files)
        {
            return Err(self.stop(&cause));
        }
        // An append with a sequence has one range: its batch.
        advanced
            .settle(|place| accepted[place].appended.ranges.first().map_or(0, |(_, _, range)| range.from));
        if let Err(cause) = self.record(accepted, &drafts, &advanced, now_ms) {
            return Err(self.take_back(&drafts, cause));
        }
        if self.is_group() {
            self.synced_seq = self.ledger.seq();
        } else {
            self.unsynced.extend(files);
        }
        self.producers.commit(advanced);
        self.publish(drafts);
        Ok(())
    }

    fn write(
        &self,
        accepted: &mut [Accepted],
        drafts: &mut Drafts,
        now_ms: i64,
    ) -> std::result::Result<(), LogError> {
        fault::point("log.append.before").map_err(injected)?;
        for Accepted { pending, appended, .. } in accepted {
            for part in &mut pending.sealed.parts {
                let key = (part.topic.name.clone(), part.partition);
                let draft = drafts.entry(key).or_insert_with_key(|(name, partition)| {
                    let visible = self.shared.visible.read();
                    let topic = visible.topic(name).expect("the append was admitted");
                    let committed = topic.partition(*partition).expect("partitions are never taken away");
                    Draft::new(topic.id, *partition, committed)
                });
                let range = draft.write(
                    &mut part.batches,
                    self.leader_epoch,
                    self.shared.options.segment_bytes,
                    now_ms,
                )?;
                part.batches = Vec::new();
                appended.ranges.push((part.topic.name.clone(), part.partition, range));
            }
        }
        drafts.values_mut().try_for_each(Draft::flush)?;
        fault::point("log.append.after").map_err(injected)
    }

    /// Writes the commit into the ledger; `Ok` means that it is there.
    fn record(
        &mut self,
        accepted: &[Accepted],
        drafts: &Drafts,
        advanced: &Advanced,
        now_ms: i64,
    ) -> std::result::Result<(), LogError> {
        let producer = |(key, state)| ProducerRow { key, state };
        let mut change = Change {
            partitions: drafts.values().map(Draft::change).collect(),
            producers: advanced.states.iter().map(producer).collect(),
            now_ms,
            expire_before_ms: self.shared.expire_before_ms(),
            ..Change::default()
        };
        for Accepted { pending, topic_of_key, topics_of_offsets, appended } in accepted {
            let offsets = topics_of_offsets.iter().zip(&pending.sealed.offsets);
            change.offsets.extend(offsets.map(|(topic, offset)| OffsetRow { topic: *topic, offset }));
            change.positions.extend(&pending.sealed.positions);
            change.dropped.extend(&pending.sealed.dropped);
            if let (Some(topic), Some(key)) = (topic_of_key, &pending.sealed.idempotency) {
                let answer = serde_json::to_string(appended).expect("an answer is plain data");
                change.keys.push(KeyRow { topic: *topic, key: &key.key, body_hash: key.body_hash, answer });
            }
        }
        let seq = self.ledger.seq() + 1;
        let committed = fault::point("log.commit.before")
            .map_err(injected)
            .and_then(|()| self.ledger.commit(&change))
            .and_then(|()| fault::point("log.commit.after").map_err(injected));
        let Err(cause) = committed else { return Ok(()) };
        if !cause.passes() {
            // What the disk holds cannot be known before it is read again from the beginning.
            return Err(self.stop(&cause));
        }
        let made =
            if cause.is_full_ledger() { self.ledger.settle_full(seq) } else { self.ledger.settle(seq) };
        match made {
            Ok(true) => Ok(()),
            Ok(false) => Err(cause),
            Err(undecided) => Err(self.stop(&undecided)),
        }
    }

    /// Cuts off what was written; returns what to answer.
    fn take_back(&self, drafts: &Drafts, cause: LogError) -> LogError {
        if self.shared.stopped().is_some() {
            // Nothing may be touched: the commit may be in the ledger.
            return cause;
        }
        for draft in drafts.values() {
            if let Err(also) = draft.undo() {
                return self.stop(&also);
            }
        }
        if cause.passes() {
            tracing::warn!(error = %cause, "an append was not made, and may be tried again");
            return cause;
        }
        self.stop(&cause)
    }

    fn publish(&self, drafts: Drafts) {
        drafts.values().for_each(Draft::index);
        let mut visible = self.shared.visible.write();
        for ((name, partition), draft) in drafts {
            let topic = visible.topics.get_mut(&name).expect("topics are never taken away during a commit");
            let index = usize::try_from(partition).expect("the append was admitted");
            draft.publish(&mut topic.partitions[index]);
        }
        drop(visible);
        self.shared.commits.send_replace(self.ledger.seq().unsigned_abs());
    }

    /// A producer id that was never given before: of a block that the ledger has noted as given.
    pub(crate) fn new_producer_id(&mut self) -> Result<i64> {
        self.shared.check_running()?;
        if self.producer_ids.is_empty() {
            let block = self.ledger.take_producer_ids(PRODUCER_ID_BLOCK);
            self.producer_ids = block.map_err(|cause| self.ledger_failed(&cause))?;
        }
        self.producer_ids.next().ok_or_else(|| Error::internal("there is no producer id left"))
    }

    /// Forgets producers that have not written for long.
    pub(crate) fn expire_producers(&mut self, now_ms: i64) -> Result<()> {
        let before_ms = now_ms.saturating_sub(PRODUCER_EXPIRATION_MS);
        if self.producers.expire(before_ms) {
            self.ledger.expire_producers(before_ms).map_err(|cause| self.ledger_failed(&cause))?;
        }
        Ok(())
    }

    /// The log does nothing more until it is opened again.
    pub(crate) fn stop(&self, cause: &LogError) -> LogError {
        self.shared.stop(cause)
    }

    pub(crate) fn is_group(&self) -> bool {
        self.shared.options.sync == SyncMode::Group
    }

    fn plan_sync(&mut self) {
        if self.shared.options.sync == SyncMode::Interval {
            let interval = self.shared.options.sync_interval.max(Duration::from_millis(1));
            self.next_sync = Some(Instant::now() + interval);
        }
    }

    fn sync_on_time(&mut self) {
        self.plan_sync();
        if self.syncing.is_none() && self.synced_seq < self.ledger.seq() && self.shared.stopped().is_none() {
            self.begin_sync();
        }
    }

    /// Answers `waiter` once all that is committed now is synced.
    pub(crate) fn sync_for(&mut self, waiter: oneshot::Sender<Result<()>>) {
        let answer = match self.shared.stopped() {
            Some(cause) => Err(cause.into()),
            None if self.synced_seq >= self.ledger.seq() => Ok(()),
            None => {
                self.sync_waiters.push((self.ledger.seq(), waiter));
                if self.syncing.is_none() {
                    self.begin_sync();
                }
                return;
            }
        };
        let _ = waiter.send(answer);
    }

    fn begin_sync(&mut self) {
        let (seq, files, shared) =
            (self.ledger.seq(), std::mem::take(&mut self.unsynced), self.shared.clone());
        let work = move || {
            let outcome = draft::sync(&files);
            shared.queue.job(Box::new(Committer::finish_sync));
            outcome
        };
        match std::thread::Builder::new().name("tarn-log-sync".to_owned()).spawn(work) {
            Ok(thread) => self.syncing = Some(Syncing { seq, thread }),
            Err(error) => {
                // The files went down with the closure: stop rather than forget them.
                let cause = LogError::Stopped { cause: format!("no thread to sync on ({error})") };
                self.answer_sync_waiters(i64::MAX, Err(&self.stop(&cause)));
            }
        }
    }

    fn finish_sync(&mut self) {
        let Some(Syncing { seq, thread }) = self.syncing.take() else { return };
        let synced = thread
            .join()
            .unwrap_or_else(|_| Err(LogError::Stopped { cause: "the sync panicked".to_owned() }));
        match synced.and_then(|()| self.ledger.synced_through(seq)) {
            Ok(()) => {
                self.synced_seq = seq;
                self.answer_sync_waiters(seq, Ok(()));
                if !self.sync_waiters.is_empty() {
                    self.begin_sync();
                }
            }
            Err(cause) => {
                let cause = self.stop(&cause);
                self.answer_sync_waiters(i64::MAX, Err(&cause));
            }
        }
    }

    fn answer_sync_waiters(&mut self, upto: i64, answer: std::result::Result<(), &LogError>) {
        let (ready, waiting): (Vec<_>, Vec<_>) =
            self.sync_waiters.drain(..).partition(|(seq, _)| *seq <= upto);
        self.sync_waiters = waiting;
        for (_, waiter) in ready {
            let _ = waiter.send(answer.map_err(|cause| cause.clone().into()));
        }
    }

    /// Makes all that is committed durable before it returns.
    pub(crate) fn sync_now(&mut self) -> Result<()> {
        self.finish_sync();
        self.shared.check_running()?;
        if self.synced_seq < self.ledger.seq() {
            let (seq, files) = (self.ledger.seq(), std::mem::take(&mut self.unsynced));
            let synced = draft::sync(&files).and_then(|()| self.ledger.synced_through(seq));
            if let Err(cause) = synced {
                return Err(self.stop(&cause).into());
            }
            self.synced_seq = seq;
        }
        self.answer_sync_waiters(self.synced_seq, Ok(()));
        Ok(())
    }
}

/// The answer to a key that is known.
fn repeated(key: &Idempotency, body_hash: u128, answer: &str) -> Result<Appended> {
    if body_hash != key.body_hash {
        return Err(other_body(key));
    }
    serde_json::from_str(answer)
        .map(|first: Appended| Appended { repeated: true, ..first })
        .map_err(|error| Error::corrupt("the ledger has an answer that cannot be read").with_source(error))
}

fn same_body(pending: &Pending, first: Option<&Idempotency>) -> Result<()> {
    match (&pending.sealed.idempotency, first) {
        (Some(key), Some(first)) if key.body_hash != first.body_hash => Err(other_body(key)),
        _ => Ok(()),
    }
}

fn other_body(key: &Idempotency) -> Error {
    Error::conflict(format!(
        "the idempotency key was used with another body: key=`{}` topic=`{}`",
        key.key, key.topic
    ))
    .with_hint("use a new key for a new request")
}
