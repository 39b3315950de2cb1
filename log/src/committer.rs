//! The one thread that writes: it turns all appends that wait into one commit, again and again.
//!
//! *A commit*: segment bytes are written, under `group` synced, then the ledger's transaction makes them count, then
//! readers see them, then the appends are answered. While one commit is made the next gathers: one sync serves them all.
//!
//! *Failure*:
//!
//! | what fails | what is left | what happens |
//! |---|---|---|
//! | a write, disk full or too many open files | bytes above the committed end | cut off; the appends may be tried again |
//! | a write, otherwise | the same | cut off; the log stops |
//! | a sync, of segments or of the ledger | pages that the kernel may have dropped | the log stops: no second try on them |
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
use tarn_model::{Error, Offset, PartitionId, Result, fault};
use tokio::sync::oneshot;

use crate::admission::{Accepted, Admission, Step, same_body};
use crate::append::Appended;
use crate::draft::{self, Draft, Unsynced, injected};
use crate::error::LogError;
use crate::ledger::{AbortedRow, Change, KeyRow, Ledger, OffsetRow, ProducerRow, TransactionRow};
use crate::producers::Producers;
use crate::queue::{Pending, Work};
use crate::shared::Shared;
use crate::visible::{Aborted, Partition, Visible};

/// A log that does not sync by itself does it after so many commits, beside them: until then the ledger remembers what each of
/// them replaced, and the files stay open.
const MOST_UNSYNCED: i64 = if cfg!(test) { 100 } else { 10_000 };
/// Producer ids that the ledger notes as given at once.
const PRODUCER_ID_BLOCK: i64 = 1000;
/// How long a producer that does not write is remembered: a day, as in Kafka.
const PRODUCER_EXPIRATION_MS: i64 = 24 * 60 * 60 * 1000;
/// How long a transactional id that nobody uses is remembered: a week, as in Kafka.
const TRANSACTION_EXPIRATION_MS: i64 = 7 * PRODUCER_EXPIRATION_MS;

/// The writing side of a log.
pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) ledger: Ledger,
    pub(crate) producers: Producers,
    /// Producer ids that may be given without asking the ledger.
    producer_ids: Range<i64>,
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
    what: Synced,
    thread: JoinHandle<std::result::Result<(), LogError>>,
}

/// What a sync makes durable: first segments, then that the ledger knows of it.
#[derive(Clone, Copy)]
enum Synced {
    Segments,
    Ledger,
}

/// The drafts of one commit, by topic and partition.
type Drafts = BTreeMap<(String, PartitionId), Draft>;

/// Where transactions stand in a partition after the commit.
struct Standing {
    /// The partition's topic, by its number in the ledger.
    topic: i64,
    open: HashMap<i64, Offset>,
    /// Those that the commit aborts.
    aborted: Vec<Aborted>,
}

type Standings = BTreeMap<(String, PartitionId), Standing>;

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, ledger: Ledger, producers: Producers) -> Committer {
        let synced_seq = ledger.seq();
        let mut committer = Committer {
            shared,
            ledger,
            producers,
            producer_ids: 0..0,
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
        let mut admission = Admission::default();
        let (mut accepted, repeats) = self.admit(appends, &mut admission);
        let made = if accepted.is_empty() { Ok(()) } else { self.commit_accepted(&mut accepted, admission) };
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

    fn commit_accepted(
        &mut self,
        accepted: &mut [Accepted],
        mut admission: Admission,
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
        let base =
            |place: usize| accepted[place].appended.ranges.first().map_or(0, |(_, _, range)| range.from);
        admission.advanced.settle(base);
        admission.changed.settle(base);
        let standings = standings(&self.shared.visible.read(), accepted, &admission.steps);
        if let Err(cause) = self.record(accepted, &drafts, &admission, &standings, now_ms) {
            return Err(self.take_back(&drafts, cause));
        }
        if self.is_group() {
            self.synced_seq = self.ledger.seq();
        } else {
            self.unsynced.extend(files);
            if self.syncing.is_none() && self.ledger.seq() - self.synced_seq >= MOST_UNSYNCED {
                self.begin_sync();
            }
        }
        self.producers.commit(admission.advanced);
        drafts.values().for_each(Draft::index);
        let mut visible = self.shared.visible.write();
        publish(&mut visible, drafts, standings);
        visible.transactions.commit(admission.changed);
        drop(visible);
        self.shared.commits.send_replace(self.ledger.seq().unsigned_abs());
        let parts = accepted.iter().flat_map(|accepted| &accepted.pending.sealed.parts);
        self.shared.waiters.tell(parts.map(|part| (part.topic.id, part.partition)));
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
                if part.topic.configs.append_time {
                    part.batches.iter_mut().for_each(|batch| batch.set_append_time(now_ms));
                    appended.append_time_ms = Some(now_ms);
                }
                let range = draft.write(
                    &mut part.batches,
                    self.shared.leader_epoch,
                    part.topic.configs.segment_bytes.unwrap_or(self.shared.options.segment_bytes),
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
        admission: &Admission,
        standings: &Standings,
        now_ms: i64,
    ) -> std::result::Result<(), LogError> {
        let producer = |(key, state)| ProducerRow { key, state };
        let transaction = |(id, transaction)| TransactionRow { id, transaction };
        let mut change = Change {
            partitions: drafts.values().map(Draft::change).collect(),
            producers: admission.advanced.states.iter().map(producer).collect(),
            transactions: admission
                .changed
                .by_id
                .iter()
                .map(|(id, t)| transaction((id.as_str(), t)))
                .collect(),
            now_ms,
            expire_before_ms: self.shared.expire_before_ms(),
            ..Change::default()
        };
        for Accepted { pending, topic_of_key, topics_of_offsets, appended } in accepted {
            let groups = &pending.sealed.groups;
            let offsets = topics_of_offsets.iter().zip(&groups.offsets);
            change.offsets.extend(offsets.map(|(topic, offset)| OffsetRow { topic: *topic, offset }));
            let visible = self.shared.visible.read();
            change.expired.extend(groups.expired.iter().filter_map(|offset| {
                // With its topic an offset is forgotten anyway.
                Some(OffsetRow { topic: visible.topics.get(&offset.topic)?.id, offset })
            }));
            drop(visible);
            change.group_members.extend(&groups.members);
            change.positions.extend(&pending.sealed.positions);
            change.dropped.extend(&pending.sealed.dropped);
            if let (Some(topic), Some(key)) = (topic_of_key, &pending.sealed.idempotency) {
                let answer = serde_json::to_string(appended).expect("an answer is plain data");
                change.keys.push(KeyRow { topic: *topic, key: &key.key, body_hash: key.body_hash, answer });
            }
        }
        for ((_, partition), standing) in standings {
            let row = |aborted: &Aborted| AbortedRow {
                topic: standing.topic,
                partition: *partition,
                aborted: *aborted,
            };
            change.aborted.extend(standing.aborted.iter().map(row));
        }
        let seq = self.ledger.seq() + 1;
        let ends = admission.steps.iter().any(|step| step.ends.is_some());
        let at_end = |point| if ends { fault::point(point).map_err(injected) } else { Ok(()) };
        let committed = at_end("log.transaction.before")
            .and_then(|()| fault::point("log.commit.before").map_err(injected))
            .and_then(|()| self.ledger.commit(&change))
            .and_then(|()| fault::point("log.commit.after").map_err(injected))
            .and_then(|()| at_end("log.transaction.after"));
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

    /// Forgets transactional ids that nobody has used for long.
    pub(crate) fn expire_transactions(&mut self, now_ms: i64) -> Result<()> {
        let before_ms = now_ms.saturating_sub(TRANSACTION_EXPIRATION_MS);
        let unused = self.shared.visible.read().transactions.unused(before_ms);
        if !unused.is_empty() {
            self.ledger.forget_transactions(&unused).map_err(|cause| self.ledger_failed(&cause))?;
            self.shared.visible.write().transactions.forget(&unused);
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
        let files = std::mem::take(&mut self.unsynced);
        self.sync_aside(self.ledger.seq(), Synced::Segments, files);
    }

    fn sync_aside(&mut self, seq: i64, what: Synced, files: Unsynced) {
        let shared = self.shared.clone();
        let work = move || {
            let outcome = draft::sync(&files);
            shared.queue.job(Box::new(Committer::finish_sync));
            outcome
        };
        match std::thread::Builder::new().name("tarn-log-sync".to_owned()).spawn(work) {
            Ok(thread) => self.syncing = Some(Syncing { seq, what, thread }),
            Err(error) => {
                // The files went down with the closure: stop rather than forget them.
                let cause = LogError::Stopped { cause: format!("no thread to sync on ({error})") };
                self.answer_sync_waiters(i64::MAX, Err(&self.stop(&cause)));
            }
        }
    }

    fn finish_sync(&mut self) {
        let Some(Syncing { seq, what, thread }) = self.syncing.take() else { return };
        let next = match (synced(thread), what) {
            (Err(cause), _) => Err(cause),
            (Ok(()), Synced::Segments) => self.ledger.synced_through_with(seq).map(Some),
            (Ok(()), Synced::Ledger) => Ok(None),
        };
        match next {
            Ok(Some(ledger)) => self.sync_aside(seq, Synced::Ledger, Unsynced::from([ledger])),
            Ok(None) => {
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
        if let Some(syncing) = self.syncing.take()
            && let Err(cause) = synced(syncing.thread)
        {
            let cause = self.stop(&cause);
            self.answer_sync_waiters(i64::MAX, Err(&cause));
        }
        self.shared.check_running()?;
        if self.synced_seq < self.ledger.seq() {
            let (seq, files) = (self.ledger.seq(), std::mem::take(&mut self.unsynced));
            let synced = draft::sync(&files).and_then(|()| self.ledger.synced_through(seq));
            if let Err(cause) = synced {
                let cause = self.stop(&cause);
                self.answer_sync_waiters(i64::MAX, Err(&cause));
                return Err(cause.into());
            }
            self.synced_seq = seq;
        }
        self.answer_sync_waiters(self.synced_seq, Ok(()));
        Ok(())
    }
}

/// Waits for a sync.
fn synced(thread: JoinHandle<std::result::Result<(), LogError>>) -> std::result::Result<(), LogError> {
    thread.join().unwrap_or_else(|_| Err(LogError::Stopped { cause: "the sync panicked".to_owned() }))
}

/// Where transactions stand once the commit is made, in the partitions where one begins or ends.
fn standings(visible: &Visible, accepted: &[Accepted], steps: &[Step]) -> Standings {
    let mut standings = Standings::new();
    for step in steps {
        let (_, _, range) = &accepted[step.place].appended.ranges[step.part];
        let standing = standings.entry((step.topic.clone(), step.partition)).or_insert_with(|| {
            let topic = visible.topic(&step.topic).expect("the append was admitted");
            let partition = topic.partition(step.partition).expect("partitions are never taken away");
            Standing { topic: topic.id, open: partition.open.clone(), aborted: Vec::new() }
        });
        let Some(committed) = step.ends else {
            standing.open.entry(step.producer).or_insert(range.from);
            continue;
        };
        if let (Some(first), false) = (standing.open.remove(&step.producer), committed) {
            let (producer, last) = (step.producer, range.from);
            // Whatever begins later begins behind the marker.
            let stable = standing.open.values().min().copied().unwrap_or(last + 1);
            standing.aborted.push(Aborted { producer, first, last, stable });
        }
    }
    standings
}

/// Shows all of a commit's partitions.
fn publish(visible: &mut Visible, drafts: Drafts, standings: Standings) {
    for ((name, number), draft) in drafts {
        draft.publish(partition(visible, &name, number));
    }
    for ((name, number), standing) in standings {
        let partition = partition(visible, &name, number);
        partition.open = standing.open;
        if !standing.aborted.is_empty() {
            Arc::make_mut(&mut partition.aborted).extend(standing.aborted);
        }
    }
}

fn partition<'a>(visible: &'a mut Visible, topic: &str, partition: PartitionId) -> &'a mut Partition {
    let topic = visible.topics.get_mut(topic).expect("topics are never taken away during a commit");
    &mut topic.partitions[usize::try_from(partition).expect("the append was admitted")]
}

#[cfg(test)]
mod tests;
