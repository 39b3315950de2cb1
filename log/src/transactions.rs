//! Transactions: records of many partitions and the offsets of groups, which count together or not at all.
//!
//! A producer with a transactional id names the partitions it will write to, writes, and ends the transaction. Its records
//! get their offsets at once; readers of committed records stop before the first one that is undecided.
//!
//! *Why it cannot tear*: an end is one commit of the log. The markers of all its partitions, the groups' offsets and the
//! transaction's own row become true with the same write, so there is no state between "open" and "ended" to repair.
//!
//! *Invariants*: an id has one producer at a time, its newest epoch; whoever comes with an older one changes nothing. A
//! record of a transaction stands only in a partition that the transaction's row names, with its first offset there. Rows
//! change in the commit that makes the change true.
//!
//! *Failure*: a crash leaves a transaction open or ended. An open one goes on, and is aborted when its time is up.
//!
//! *Not here*: what a marker looks like (`batch`), where a reader stops (`visible`), the rows (`ledger`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tarn_model::{Error, Offset, PartitionId, Result};
use uuid::Uuid;

use crate::offsets::GroupOffset;
use crate::refused::Refused;
use crate::transacting::TransactionInfo;

/// Most transactional ids that are known at once.
const MOST_IDS: usize = 100_000;
/// Longest transactional id, in bytes.
const LONGEST_ID: usize = 4 << 10;
/// The last epoch that a producer is given: the one above it is left for the marker that shuts it out.
const LAST_EPOCH: i16 = i16::MAX - 1;

/// A producer and its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerEpoch {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
}

/// Where a transactional id stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransactionState {
    /// It never had a transaction since its producer began.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// The last one was committed.
    Committed,
    /// The last one was aborted.
    Aborted,
}

/// What a producer asks of its transaction.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) action: Action,
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// A producer begins: it shuts out the one before it, whose open transaction is aborted.
    Begin { timeout_ms: i64, expected: Option<ProducerEpoch> },
    /// Partitions and groups that will be written to.
    Enlist { by: ProducerEpoch, partitions: Vec<(String, Uuid, PartitionId)>, groups: Vec<String> },
    /// Offsets that count if the transaction is committed; with `enlists`, the group need not have been named before.
    Offsets { by: ProducerEpoch, offsets: Vec<GroupOffset>, enlists: bool },
    /// The end; with `renews`, the producer goes on with the next epoch.
    End { by: ProducerEpoch, commit: bool, renews: bool },
    /// The end that comes by itself.
    TimeOut { by: ProducerEpoch },
}

/// A transactional id, as its row has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Transaction {
    pub(crate) by: ProducerEpoch,
    /// What the producer was before it got a new epoch at its own wish: it may ask again.
    last: Option<ProducerEpoch>,
    pub(crate) state: TransactionState,
    timeout_ms: i64,
    begun_ms: i64,
    changed_ms: i64,
    partitions: Vec<Enlisted>,
    groups: Vec<String>,
    offsets: Vec<GroupOffset>,
}

/// A partition of an open transaction.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Enlisted {
    pub(crate) topic: String,
    pub(crate) id: Uuid,
    pub(crate) partition: PartitionId,
    /// The transaction's first record there.
    pub(crate) first: Option<Offset>,
    /// That record is in the append at this place of the commit that is being made.
    #[serde(skip)]
    under: Option<usize>,
}

/// What an ended transaction leaves: a marker in each partition, the offsets of groups.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The producer, with the epoch from which on it may write again.
    pub(crate) by: ProducerEpoch,
    pub(crate) committed: bool,
    /// Those that hold records of it.
    pub(crate) partitions: Vec<Enlisted>,
    /// Empty when it was aborted.
    pub(crate) offsets: Vec<GroupOffset>,
}

/// All transactional ids, as committed.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    by_id: HashMap<String, Arc<Transaction>>,
    by_producer: HashMap<i64, String>,
}

/// Transactional ids as the commit that is being made changes them.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) by_id: HashMap<String, Transaction>,
    by_producer: HashMap<i64, String>,
}

impl Transactions {
    pub(crate) fn new(rows: HashMap<String, Transaction>) -> Transactions {
        let mut transactions = Transactions::default();
        rows.into_iter().for_each(|(id, transaction)| transactions.put(id, transaction));
        transactions
    }

    fn put(&mut self, id: String, transaction: Transaction) {
        let producer = transaction.by.producer;
        if let Some(before) = self.by_id.insert(id.clone(), Arc::new(transaction))
            && before.by.producer != producer
        {
            self.by_producer.remove(&before.by.producer);
        }
        self.by_producer.insert(producer, id);
    }

    /// The commit was made.
    pub(crate) fn commit(&mut self, changed: Changed) {
        changed.by_id.into_iter().for_each(|(id, transaction)| self.put(id, transaction));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Transaction)> {
        self.by_id.iter().map(|(id, transaction)| (id, &**transaction))
    }

    /// Those that have been open for longer than they may be.
    pub(crate) fn overdue(&self, now_ms: i64) -> Vec<(String, ProducerEpoch)> {
        let overdue = self.iter().filter(|(_, transaction)| transaction.is_overdue(now_ms));
        overdue.map(|(id, transaction)| (id.clone(), transaction.by)).collect()
    }

    /// Ids that nobody has used since `before_ms`.
    pub(crate) fn unused(&self, before_ms: i64) -> Vec<String> {
        let unused = |t: &Transaction| t.state != TransactionState::Ongoing && t.changed_ms < before_ms;
        self.iter().filter(|(_, transaction)| unused(transaction)).map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn forget(&mut self, ids: &[String]) {
        for id in ids {
            if let Some(transaction) = self.by_id.remove(id) {
                self.by_producer.remove(&transaction.by.producer);
            }
        }
    }
}

impl Transaction {
    fn is_overdue(&self, now_ms: i64) -> bool {
        self.state == TransactionState::Ongoing && now_ms.saturating_sub(self.begun_ms) >= self.timeout_ms
    }

    /// Partitions with records of the open transaction, and where those begin.
    pub(crate) fn open_partitions(&self) -> impl Iterator<Item = (&Enlisted, Offset)> {
        self.partitions.iter().filter_map(|enlisted| Some((enlisted, enlisted.first?)))
    }

    pub(crate) fn info(&self, id: &str) -> TransactionInfo {
        TransactionInfo {
            id: id.to_owned(),
            producer: self.by,
            state: self.state,
            timeout: Duration::from_millis(self.timeout_ms.unsigned_abs()),
            begun_ms: (self.state == TransactionState::Ongoing).then_some(self.begun_ms),
            partitions: self.partitions.iter().map(|e| (e.topic.clone(), e.partition)).collect(),
        }
    }

    /// Offsets that will count once the open transaction is committed.
    pub(crate) fn pending_offsets(&self) -> &[GroupOffset] {
        &self.offsets
    }

    fn enlist(&mut self, now_ms: i64) {
        if self.state != TransactionState::Ongoing {
            self.state = TransactionState::Ongoing;
            self.begun_ms = now_ms;
        }
    }

    fn add_partition(&mut self, topic: &str, id: Uuid, partition: PartitionId) {
        if !self.partitions.iter().any(|known| known.id == id && known.partition == partition) {
            let topic = topic.to_owned();
            self.partitions.push(Enlisted { topic, id, partition, first: None, under: None });
        }
    }

    fn add_group(&mut self, group: String) {
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    /// Only the newest epoch may go on.
    fn check(&self, by: ProducerEpoch) -> Result<()> {
        if by.producer != self.by.producer {
            let what = format!("the id belongs to producer {}, not {}", self.by.producer, by.producer);
            return Err(Refused::UnknownProducer.because(what));
        }
        if by.epoch != self.by.epoch {
            let what = format!("the producer's epoch is {}, not {}", self.by.epoch, by.epoch);
            return Err(Refused::StaleEpoch.because(what));
        }
        Ok(())
    }

    /// Gives the next epoch, or behind the last one a new producer; returns what shuts out the old one.
    fn renew(&mut self, fresh: &mut dyn FnMut() -> Result<i64>) -> Result<ProducerEpoch> {
        let shut = ProducerEpoch { epoch: self.by.epoch.saturating_add(1), ..self.by };
        self.by =
            if self.by.epoch < LAST_EPOCH { shut } else { ProducerEpoch { producer: fresh()?, epoch: 0 } };
        Ok(shut)
    }

    fn end(&mut self, by: ProducerEpoch, commit: bool) -> Ending {
        self.state = if commit { TransactionState::Committed } else { TransactionState::Aborted };
        self.groups.clear();
        let mut partitions = std::mem::take(&mut self.partitions);
        partitions.retain(|enlisted| enlisted.first.is_some() || enlisted.under.is_some());
        let offsets = std::mem::take(&mut self.offsets);
        Ending { by, committed: commit, partitions, offsets: if commit { offsets } else { Vec::new() } }
    }
}

impl Changed {
    fn current<'a>(&'a self, committed: &'a Transactions, id: &str) -> Option<&'a Transaction> {
        self.by_id.get(id).or_else(|| committed.by_id.get(id).map(|transaction| &**transaction))
    }

    /// The transactional id that a producer writes for.
    fn id_of<'a>(&'a self, committed: &'a Transactions, producer: i64) -> Option<&'a String> {
        self.by_producer.get(&producer).or_else(|| committed.by_producer.get(&producer))
    }

    pub(crate) fn is_transactional(&self, committed: &Transactions, producer: i64) -> bool {
        self.id_of(committed, producer).is_some()
    }

    fn put(&mut self, id: &str, transaction: Transaction) {
        self.by_producer.insert(transaction.by.producer, id.to_owned());
        self.by_id.insert(id.to_owned(), transaction);
    }

    /// Whether a batch that came for the transactional id `named` may be of this producer.
    pub(crate) fn check_id(
        &self,
        committed: &Transactions,
        producer: i64,
        named: Option<&str>,
    ) -> Result<()> {
        let Some(named) = named else { return Ok(()) };
        if self.id_of(committed, producer).is_some_and(|id| id == named) {
            return Ok(());
        }
        Err(Refused::UnknownProducer.because(format!("producer {producer} is not that of the id `{named}`")))
    }

    /// Whether a batch of `by` may go into this partition now.
    pub(crate) fn check_batch(
        &self,
        committed: &Transactions,
        by: ProducerEpoch,
        (id, partition): (Uuid, PartitionId),
        enlists: bool,
    ) -> Result<()> {
        let transaction = self.id_of(committed, by.producer).and_then(|name| self.current(committed, name));
        let Some(transaction) = transaction else {
            let what = format!("producer {} has no transactional id", by.producer);
            return Err(Refused::UnknownProducer.because(what));
        };
        transaction.check(by)?;
        let is_open = transaction.state == TransactionState::Ongoing;
        let named = transaction.partitions.iter().any(|e| e.id == id && e.partition == partition);
        if enlists || is_open && named {
            return Ok(());
        }
        Err(Refused::NotInTransaction.because("the partition is not in an open transaction"))
    }

    /// A batch that [`Changed::check_batch`] let pass stands in the append at `place`; whether it is the transaction's first
    /// in its partition.
    pub(crate) fn batch(
        &mut self,
        committed: &Transactions,
        by: ProducerEpoch,
        (topic, id, partition): (&str, Uuid, PartitionId),
        place: usize,
        now_ms: i64,
    ) -> bool {
        let Some(name) = self.id_of(committed, by.producer).cloned() else { return false };
        let Some(current) = self.current(committed, &name) else { return false };
        let same = |e: &Enlisted| e.id == id && e.partition == partition;
        let has_begun = |e: &Enlisted| same(e) && (e.first.is_some() || e.under.is_some());
        if current.state == TransactionState::Ongoing && current.partitions.iter().any(has_begun) {
            return false;
        }
        let mut transaction = current.clone();
        transaction.enlist(now_ms);
        transaction.changed_ms = now_ms;
        transaction.add_partition(topic, id, partition);
        if let Some(enlisted) = transaction.partitions.iter_mut().find(|e| same(e)) {
            enlisted.under = Some(place);
        }
        self.put(&name, transaction);
        true
    }

    /// Does what a producer asks; `fresh` gives a producer id. An error changes nothing.
    pub(crate) fn apply(
        &mut self,
        committed: &Transactions,
        request: Request,
        now_ms: i64,
        fresh: &mut dyn FnMut() -> Result<i64>,
    ) -> Result<(ProducerEpoch, Option<Ending>)> {
        let Request { id, action } = request;
        let mut transaction = match (self.current(committed, &id), &action) {
            (Some(known), _) => known.clone(),
            (None, Action::Begin { timeout_ms, .. }) => {
                if id.is_empty() || id.len() > LONGEST_ID {
                    return Err(Error::invalid(format!("a transactional id has 1 to {LONGEST_ID} bytes")));
                }
                if committed.by_id.len() + self.by_id.len() >= MOST_IDS {
                    return Err(Error::unavailable(format!("there are {MOST_IDS} transactional ids"))
                        .with_hint("ids that are not used for a week are forgotten"));
                }
                let by = ProducerEpoch { producer: fresh()?, epoch: 0 };
                self.put(&id, Transaction::new(by, *timeout_ms, now_ms));
                return Ok((by, None));
            }
            (None, _) => {
                return Err(Refused::UnknownProducer.because("nothing is known of the transactional id"));
            }
        };
        let ending = match action {
            Action::Begin { timeout_ms, expected } => {
                if expected.is_some() && expected == transaction.last {
                    // It asks again: the answer was lost.
                    return Ok((transaction.by, None));
                }
                if expected.is_some_and(|expected| expected != transaction.by) {
                    let what = format!("a producer of epoch {} has taken over", transaction.by.epoch);
                    return Err(Refused::StaleEpoch.because(what));
                }
                let is_open = transaction.state == TransactionState::Ongoing;
                let shut = transaction.renew(fresh)?;
                let ending = is_open.then(|| transaction.end(shut, false));
                (transaction.last, transaction.timeout_ms) = (expected, timeout_ms);
                transaction.state = TransactionState::Empty;
                ending
            }
            Action::Enlist { by, partitions, groups } => {
                transaction.check(by)?;
                transaction.enlist(now_ms);
                for (topic, topic_id, partition) in partitions {
                    transaction.add_partition(&topic, topic_id, partition);
                }
                groups.into_iter().for_each(|group| transaction.add_group(group));
                None
            }
            Action::Offsets { by, offsets, enlists } => {
                transaction.check(by)?;
                let named = |offset: &GroupOffset| transaction.groups.contains(&offset.group);
                let is_open = transaction.state == TransactionState::Ongoing;
                if !(enlists || is_open && offsets.iter().all(named)) {
                    return Err(Refused::NotInTransaction.because("the group is not in an open transaction"));
                }
                transaction.enlist(now_ms);
                for offset in offsets {
                    transaction.add_group(offset.group.clone());
                    let same = |known: &GroupOffset| {
                        (&known.group, &known.topic, known.partition)
                            == (&offset.group, &offset.topic, offset.partition)
                    };
                    transaction.offsets.retain(|known| !same(known));
                    transaction.offsets.push(offset);
                }
                None
            }
            Action::End { by, commit, renews } => {
                let ended = if commit { TransactionState::Committed } else { TransactionState::Aborted };
                if renews && Some(by) == transaction.last && transaction.state == ended {
                    return Ok((transaction.by, None));
                }
                transaction.check(by)?;
                match transaction.state {
                    TransactionState::Ongoing => {}
                    // A transaction without a record may be aborted, which renews the producer.
                    _ if renews && !commit => {}
                    state if state == ended && !renews => return Ok((transaction.by, None)),
                    _ => return Err(Refused::NotInTransaction.because("no transaction is open")),
                }
                let marked = if renews {
                    transaction.last = Some(by);
                    transaction.renew(fresh)?
                } else {
                    by
                };
                Some(transaction.end(marked, commit))
            }
            Action::TimeOut { by } => {
                if transaction.by != by || !transaction.is_overdue(now_ms) {
                    return Ok((transaction.by, None));
                }
                tracing::warn!(
                    id,
                    producer = by.producer,
                    timeout_ms = transaction.timeout_ms,
                    "abort a transaction whose time is up"
                );
                transaction.last = None;
                let shut = transaction.renew(fresh)?;
                Some(transaction.end(shut, false))
            }
        };
        transaction.changed_ms = now_ms;
        let by = transaction.by;
        self.put(&id, transaction);
        Ok((by, ending))
    }

    /// The appends of this commit have their offsets: `base(place)` is where the append at `place` begins.
    pub(crate) fn settle(&mut self, base: impl Fn(usize) -> Offset) {
        for enlisted in self.by_id.values_mut().flat_map(|transaction| &mut transaction.partitions) {
            if let Some(place) = enlisted.under.take() {
                enlisted.first = Some(base(place));
            }
        }
    }
}

impl Transaction {
    fn new(by: ProducerEpoch, timeout_ms: i64, now_ms: i64) -> Transaction {
        Transaction {
            by,
            last: None,
            state: TransactionState::Empty,
            timeout_ms,
            begun_ms: now_ms,
            changed_ms: now_ms,
            partitions: Vec::new(),
            groups: Vec::new(),
            offsets: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
