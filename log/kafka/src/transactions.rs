//! Transactions: who a producer is, what its transaction writes to, how it ends.
//!
//! The log keeps and decides everything; here requests become its calls, and its refusals the codes that each version of a
//! request knows. A partition gets a marker only if it has records of the transaction.
//!
//! *Two protocols*: a producer of the older one names partitions and groups before it writes to them; one of the newer
//! (KIP-890: Produce 12, TxnOffsetCommit 5, EndTxn 5) names them by writing, and gets a new epoch with every end.
//!
//! *Failure*: an open transaction outlives the process, and is aborted when its time is up, whoever is there.

use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddOffsetsToTxnResponse, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    EndTxnRequest, EndTxnResponse, InitProducerIdRequest, InitProducerIdResponse, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use tarn_log::{CommittedOffset, GroupOffset, Log, ProducerEpoch, Refused};
use tarn_model::{Error, Kind, clock};

use crate::broker::{Broker, code_of};
use crate::committed::LONGEST_METADATA;
use crate::group::Sender;

/// Longest time that a transaction may be open, as in Kafka.
const LONGEST_TIMEOUT_MS: i32 = 15 * 60 * 1000;
/// How often transactions whose time is up are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From this version of EndTxn on, an end renews the producer's epoch.
const RENEWING_END: i16 = 5;
/// From this version of TxnOffsetCommit on, the group need not have been named.
const ENLISTING_OFFSETS: i16 = 5;

/// Aborts transactions whose time is up, for ever.
pub(crate) async fn end_overdue(log: Log) {
    loop {
        clock::pause(LOOK_EVERY).await;
        if let Err(error) = log.end_overdue_transactions().await {
            tracing::debug!(%error, "overdue transactions were not aborted");
        }
    }
}

/// The code of a refusal; clients before `fenced_from` know only that an epoch is wrong.
fn transaction_code(error: &Error, version: i16, fenced_from: i16) -> Code {
    match Refused::of(error) {
        Some(Refused::StaleEpoch) if version >= fenced_from => Code::ProducerFenced,
        Some(_) => code_of(error),
        // The log cannot be written now: a client tries again.
        None if error.kind() == Kind::Unavailable => Code::CoordinatorNotAvailable,
        None => code_of(error),
    }
}

impl Broker {
    /// A producer's id and epoch: of a transactional id, or one that was never given before.
    pub(crate) async fn begin_producer(
        &self,
        request: InitProducerIdRequest,
        version: i16,
    ) -> InitProducerIdResponse {
        let answer = InitProducerIdResponse::default().with_producer_id((-1).into()).with_producer_epoch(-1);
        let Some(id) = request.transactional_id else {
            return match self.log.new_producer_id().await {
                Ok(id) => answer.with_producer_id(id.into()).with_producer_epoch(0),
                Err(error) => answer.with_error_code(code_of(&error).code()),
            };
        };
        if id.is_empty() {
            return answer.with_error_code(Code::InvalidRequest.code());
        }
        let timeout = request.transaction_timeout_ms;
        if !(1..=LONGEST_TIMEOUT_MS).contains(&timeout) {
            return answer.with_error_code(Code::InvalidTransactionTimeout.code());
        }
        let timeout = Duration::from_millis(u64::from(timeout.unsigned_abs()));
        let expected = ProducerEpoch { producer: request.producer_id.0, epoch: request.producer_epoch };
        let expected = (version >= 3 && expected.producer >= 0).then_some(expected);
        match self.log.begin_producer(&id, timeout, expected).await {
            Ok(by) => answer.with_producer_id(by.producer.into()).with_producer_epoch(by.epoch),
            Err(error) => answer.with_error_code(transaction_code(&error, version, 4).code()),
        }
    }

    pub(crate) async fn add_partitions(
        &self,
        request: AddPartitionsToTxnRequest,
        version: i16,
    ) -> AddPartitionsToTxnResponse {
        let by = ProducerEpoch {
            producer: request.v3_and_below_producer_id.0,
            epoch: request.v3_and_below_producer_epoch,
        };
        let asked = request.v3_and_below_topics.iter();
        let asked: Vec<(String, i32)> = asked
            .flat_map(|topic| topic.partitions.iter().map(|partition| (topic.name.to_string(), *partition)))
            .collect();
        let is_known = |name: &str, partition: i32| {
            self.log.topic(name).is_some_and(|info| (0..info.partitions).contains(&partition))
        };
        let all_known = asked.iter().all(|(name, partition)| is_known(name, *partition));
        let outcome = if all_known {
            let enlisted = self.log.enlist(&request.v3_and_below_transactional_id, by, &asked, &[]).await;
            enlisted.map_or_else(|error| transaction_code(&error, version, 2).code(), |()| 0)
        } else {
            Code::OperationNotAttempted.code()
        };
        let topics = request.v3_and_below_topics.into_iter().map(|topic| {
            let partition = |index: &i32| {
                let unknown = !all_known && !is_known(&topic.name, *index);
                let code = if unknown { Code::UnknownTopicOrPartition.code() } else { outcome };
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(code)
            };
            AddPartitionsToTxnTopicResult::default()
                .with_results_by_partition(topic.partitions.iter().map(partition).collect())
                .with_name(topic.name)
        });
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
    }

    pub(crate) async fn add_offsets(
        &self,
        request: AddOffsetsToTxnRequest,
        version: i16,
    ) -> AddOffsetsToTxnResponse {
        let by = ProducerEpoch { producer: request.producer_id.0, epoch: request.producer_epoch };
        let groups = [request.group_id.to_string()];
        let enlisted = self.log.enlist(&request.transactional_id, by, &[], &groups).await;
        let code = enlisted.map_or_else(|error| transaction_code(&error, version, 2).code(), |()| 0);
        AddOffsetsToTxnResponse::default().with_error_code(code)
    }

    pub(crate) async fn transaction_offsets(
        &self,
        request: TxnOffsetCommitRequest,
        version: i16,
    ) -> TxnOffsetCommitResponse {
        let by = ProducerEpoch { producer: request.producer_id.0, epoch: request.producer_epoch };
        let refusal = self.refuses_offsets(&request);
        let at_ms = self.clock.now_ms();
        let (mut offsets, mut answer) = (Vec::new(), TxnOffsetCommitResponse::default());
        for topic in &request.topics {
            let info = self.log.topic(&topic.name);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let (index, metadata) = (partition.partition_index, &partition.committed_metadata);
                let is_known = info.as_ref().is_some_and(|info| (0..info.partitions).contains(&index));
                let code = match refusal {
                    Some(code) => code.code(),
                    None if !is_known => Code::UnknownTopicOrPartition.code(),
                    None if metadata.as_ref().is_some_and(|m| m.len() > LONGEST_METADATA) => {
                        Code::OffsetMetadataTooLarge.code()
                    }
                    None => {
                        offsets.push(GroupOffset {
                            group: request.group_id.to_string(),
                            topic: topic.name.to_string(),
                            topic_id: info.as_ref().map(|info| info.id),
                            partition: index,
                            committed: Some(CommittedOffset {
                                offset: partition.committed_offset,
                                leader_epoch: partition.committed_leader_epoch,
                                metadata: metadata.as_ref().map(ToString::to_string),
                                at_ms,
                            }),
                        });
                        0
                    }
                };
                partitions.push(
                    TxnOffsetCommitResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(code),
                );
            }
            answer.topics.push(
                TxnOffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        if offsets.is_empty() {
            return answer;
        }
        let enlists = version >= ENLISTING_OFFSETS;
        let taken = self.log.transaction_offsets(&request.transactional_id, by, offsets, enlists).await;
        if let Err(error) = taken {
            // No version of this request knows a producer that is fenced.
            let code = transaction_code(&error, version, i16::MAX).code();
            let accepted =
                answer.topics.iter_mut().flat_map(|t| &mut t.partitions).filter(|p| p.error_code == 0);
            accepted.for_each(|partition| partition.error_code = code);
        }
        answer
    }

    /// Why a group does not take offsets of this sender; one that does not say who it is is taken for right.
    fn refuses_offsets(&self, request: &TxnOffsetCommitRequest) -> Option<Code> {
        if request.group_id.is_empty() {
            return Some(Code::InvalidGroupId);
        }
        let instance = request.group_instance_id.as_ref().map(ToString::to_string);
        if request.generation_id < 0 && request.member_id.is_empty() && instance.is_none() {
            return None;
        }
        let sender = Sender {
            member: &request.member_id,
            instance: instance.as_deref(),
            generation: request.generation_id,
        };
        match self.coordinator.may_commit(&request.group_id, sender) {
            // The records were read in this generation, whatever it does next.
            Some(Ok(()) | Err(Code::RebalanceInProgress)) => None,
            // No version of this request knows epochs of members.
            Some(Err(Code::StaleMemberEpoch)) => Some(Code::IllegalGeneration),
            Some(Err(code)) => Some(code),
            None => (request.generation_id >= 0).then_some(Code::UnknownMemberId),
        }
    }

    pub(crate) async fn end_transaction(&self, request: EndTxnRequest, version: i16) -> EndTxnResponse {
        let by = ProducerEpoch { producer: request.producer_id.0, epoch: request.producer_epoch };
        let (id, renews) = (&request.transactional_id, version >= RENEWING_END);
        match self.log.end_transaction(id, by, request.committed, renews).await {
            Ok(next) if renews => EndTxnResponse::default()
                .with_producer_id(next.producer.into())
                .with_producer_epoch(next.epoch),
            Ok(_) => EndTxnResponse::default(),
            Err(error) => {
                EndTxnResponse::default().with_error_code(transaction_code(&error, version, 2).code())
            }
        }
    }
}
