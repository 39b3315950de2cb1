//! What a transactional producer may ask of the log; see `transactions`.

use std::collections::HashSet;
use std::time::Duration;

use tarn_model::{Error, PartitionId, Result};

use crate::Log;
use crate::append::Append;
use crate::offsets::GroupOffset;
use crate::refused::Refused;
use crate::transactions::{Action, ProducerEpoch, Request, TransactionState};

/// A transactional id as it is.
#[derive(Debug, Clone)]
pub struct TransactionInfo {
    /// The id.
    pub id: String,
    /// Its producer now.
    pub producer: ProducerEpoch,
    /// Where it stands.
    pub state: TransactionState,
    /// How long a transaction may be open.
    pub timeout: Duration,
    /// When the open transaction began, ms since 1970 UTC.
    pub begun_ms: Option<i64>,
    /// Topic and partition of what it has named.
    pub partitions: Vec<(String, PartitionId)>,
}

/// A producer that a partition remembers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveProducer {
    /// Who it is.
    pub by: ProducerEpoch,
    /// Sequence of its last record, -1 when none is known.
    pub last_sequence: i32,
    /// When it last wrote, ms since 1970 UTC.
    pub at_ms: i64,
    /// First record of its open transaction, if it has one here.
    pub open_from: Option<tarn_model::Offset>,
}

impl Log {
    /// A producer begins under a transactional id: it shuts out the one before it, whose open transaction is aborted.
    /// `expected` is who it takes itself for, if it has begun before. A [`crate::Refused::StaleEpoch`] means that another has.
    pub async fn begin_producer(
        &self,
        id: &str,
        timeout: Duration,
        expected: Option<ProducerEpoch>,
    ) -> Result<ProducerEpoch> {
        let timeout_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
        self.request(id, Action::Begin { timeout_ms, expected }).await
    }

    /// Names partitions that the transaction will write to, and groups whose offsets it will commit; the first opens it.
    pub async fn enlist(
        &self,
        id: &str,
        by: ProducerEpoch,
        partitions: &[(String, PartitionId)],
        groups: &[String],
    ) -> Result<()> {
        let mut enlisted = Vec::with_capacity(partitions.len());
        {
            let visible = self.shared().visible.read();
            for (name, partition) in partitions {
                let unknown = |error: Error| error.with_source(Refused::UnknownPartition);
                let topic = visible.topic(name).map_err(unknown)?;
                topic.partition(*partition).map_err(unknown)?;
                enlisted.push((name.clone(), topic.info.id, *partition));
            }
        }
        self.request(id, Action::Enlist { by, partitions: enlisted, groups: groups.to_vec() })
            .await
            .map(|_| ())
    }

    /// Offsets of groups that count once the transaction is committed. With `enlists`, their groups need not have been named.
    pub async fn transaction_offsets(
        &self,
        id: &str,
        by: ProducerEpoch,
        mut offsets: Vec<GroupOffset>,
        enlists: bool,
    ) -> Result<()> {
        offsets.iter().try_for_each(GroupOffset::check)?;
        {
            let visible = self.shared().visible.read();
            for offset in &mut offsets {
                let unknown = |error: Error| error.with_source(Refused::UnknownPartition);
                let topic = visible.topic(&offset.topic).map_err(unknown)?;
                topic.partition(offset.partition).map_err(unknown)?;
                if !offset.is_of(topic.info.id) {
                    let what = format!("topic `{}` is another one now", offset.topic);
                    return Err(Refused::UnknownPartition.because(what));
                }
                offset.topic_id.get_or_insert(topic.info.id);
            }
        }
        self.request(id, Action::Offsets { by, offsets, enlists }).await.map(|_| ())
    }

    /// Ends the open transaction: one commit has the markers of all its partitions and the offsets of its groups. With
    /// `renews`, the producer goes on with the epoch that is returned.
    pub async fn end_transaction(
        &self,
        id: &str,
        by: ProducerEpoch,
        commit: bool,
        renews: bool,
    ) -> Result<ProducerEpoch> {
        self.request(id, Action::End { by, commit, renews }).await
    }

    /// Aborts the transactions whose time is up, and shuts out their producers.
    pub async fn end_overdue_transactions(&self) -> Result<()> {
        let now_ms = self.shared().clock.now_ms();
        let overdue = self.shared().visible.read().transactions.overdue(now_ms);
        for (id, by) in overdue {
            self.request(&id, Action::TimeOut { by }).await?;
        }
        Ok(())
    }

    /// All transactional ids.
    pub fn transactions(&self) -> Vec<TransactionInfo> {
        let visible = self.shared().visible.read();
        visible.transactions.iter().map(|(id, transaction)| transaction.info(id)).collect()
    }

    /// The producers that a partition remembers, by their ids.
    pub async fn producers(&self, topic: &str, partition: PartitionId) -> Result<Vec<ActiveProducer>> {
        let topic = topic.to_owned();
        self.ask(move |committer| {
            let visible = committer.shared.visible.read();
            let found = visible.topic(&topic)?;
            let open = &found.partition(partition)?.open;
            let mut producers: Vec<ActiveProducer> = committer
                .producers
                .of(found.id, partition)
                .map(|(producer, epoch, last_sequence, at_ms)| ActiveProducer {
                    by: ProducerEpoch { producer, epoch },
                    last_sequence,
                    at_ms,
                    open_from: open.get(&producer).copied(),
                })
                .collect();
            producers.sort_by_key(|producer| producer.by.producer);
            Ok(producers)
        })
        .await
    }

    /// Topics and partitions in which an open transaction has an offset of `group`.
    pub fn undecided_offsets(&self, group: &str) -> HashSet<(String, PartitionId)> {
        let visible = self.shared().visible.read();
        let pending = visible.transactions.iter().flat_map(|(_, transaction)| transaction.pending_offsets());
        let topic = |offset: &GroupOffset| visible.topics.get(&offset.topic);
        let is_there = |offset: &GroupOffset| topic(offset).is_some_and(|topic| offset.is_of(topic.info.id));
        let of_group = pending.filter(|offset| offset.group == group && is_there(offset));
        of_group.map(|offset| (offset.topic.clone(), offset.partition)).collect()
    }

    async fn request(&self, id: &str, action: Action) -> Result<ProducerEpoch> {
        let appended = self.append(Append::of_request(Request { id: id.to_owned(), action })).await?;
        appended
            .producer
            .ok_or_else(|| Error::internal("a transaction's request was answered without a producer"))
    }
}
