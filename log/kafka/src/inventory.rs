//! What tools for clusters ask and a single broker has little to say about: topics page by page, folders, reassignments, and
//! access lists, of which there are none.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse, DescribeAclsResponse,
    DescribeLogDirsRequest, DescribeLogDirsResponse, DescribeTopicPartitionsRequest,
    DescribeTopicPartitionsResponse, ListPartitionReassignmentsResponse, TopicName, create_acls_response,
    delete_acls_response,
};
use tarn_model::PartitionId;

use crate::allowed;
use crate::broker::{BROKER_ID, Broker, code_of, text};

/// Most partitions in one answer, as in Kafka.
const MOST_PARTITIONS: i32 = 2000;
const NO_ACLS: &str = "there are no access lists here";

impl Broker {
    /// Topics by name, as many partitions as fit; where to go on is in the answer.
    pub(crate) fn describe_topic_partitions(
        &self,
        request: DescribeTopicPartitionsRequest,
    ) -> DescribeTopicPartitionsResponse {
        let mut names: Vec<String> = if request.topics.is_empty() {
            self.log.topics().iter().map(|info| info.name.clone()).collect()
        } else {
            request.topics.iter().map(|topic| topic.name.to_string()).collect()
        };
        names.sort();
        names.dedup();
        let (first, mut from) = match &request.cursor {
            Some(cursor) => (cursor.topic_name.to_string(), cursor.partition_index.max(0)),
            None => (String::new(), 0),
        };
        let mut left = request.response_partition_limit.clamp(1, MOST_PARTITIONS);
        let mut answer = DescribeTopicPartitionsResponse::default().with_next_cursor(None);
        for name in names.into_iter().filter(|name| *name >= first) {
            let begin = if name == first { from } else { 0 };
            from = 0;
            let of = DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(TopicName(text(name.clone()))));
            let Some(info) = self.log.topic(&name) else {
                answer.topics.push(of.with_error_code(Code::UnknownTopicOrPartition.code()));
                continue;
            };
            if left == 0 {
                answer.next_cursor = Some(cursor(name, begin));
                break;
            }
            let end = info.partitions.min(begin.saturating_add(left));
            left -= (end - begin).max(0);
            let partitions = (begin..end).map(|partition| self.described_partition(partition)).collect();
            answer.topics.push(
                of.with_topic_id(info.id)
                    .with_partitions(partitions)
                    .with_topic_authorized_operations(allowed::TOPIC),
            );
            if end < info.partitions {
                answer.next_cursor = Some(cursor(name, end));
                break;
            }
        }
        answer
    }

    fn described_partition(&self, partition: PartitionId) -> DescribeTopicPartitionsResponsePartition {
        DescribeTopicPartitionsResponsePartition::default()
            .with_partition_index(partition)
            .with_leader_id(BROKER_ID.into())
            .with_leader_epoch(self.log.leader_epoch())
            .with_replica_nodes(vec![BROKER_ID.into()])
            .with_isr_nodes(vec![BROKER_ID.into()])
            .with_eligible_leader_replicas(None)
            .with_last_known_elr(None)
    }

    /// The one folder, and the bytes of partitions in it.
    pub(crate) fn describe_log_dirs(&self, request: &DescribeLogDirsRequest) -> DescribeLogDirsResponse {
        let stats = match self.log.stats() {
            Ok(stats) => stats,
            Err(error) => return DescribeLogDirsResponse::default().with_error_code(code_of(&error).code()),
        };
        let asked: Option<HashSet<(&str, PartitionId)>> = request.topics.as_ref().map(|topics| {
            let of = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.as_str(), *p)));
            of.collect()
        });
        let mut topics: BTreeMap<String, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
        for of in stats {
            let is_asked =
                asked.as_ref().is_none_or(|asked| asked.contains(&(of.topic.as_str(), of.partition)));
            if is_asked {
                topics.entry(of.topic).or_default().push(
                    DescribeLogDirsPartition::default()
                        .with_partition_index(of.partition)
                        .with_partition_size(i64::try_from(of.size_bytes).unwrap_or(i64::MAX)),
                );
            }
        }
        let topics = topics.into_iter().map(|(name, partitions)| {
            DescribeLogDirsTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
        });
        let folder = DescribeLogDirsResult::default()
            .with_log_dir(text(self.log.dir().display().to_string()))
            .with_topics(topics.collect())
            .with_total_bytes(-1)
            .with_usable_bytes(-1);
        DescribeLogDirsResponse::default().with_results(vec![folder])
    }
}

fn cursor(name: String, partition: PartitionId) -> Cursor {
    Cursor::default().with_topic_name(TopicName(text(name))).with_partition_index(partition)
}

/// There is one broker, so nothing is on its way to another.
pub(crate) fn reassignments() -> ListPartitionReassignmentsResponse {
    ListPartitionReassignmentsResponse::default().with_error_message(None)
}

pub(crate) fn describe_acls() -> DescribeAclsResponse {
    DescribeAclsResponse::default()
        .with_error_code(Code::SecurityDisabled.code())
        .with_error_message(Some(text(NO_ACLS)))
}

pub(crate) fn create_acls(request: &CreateAclsRequest) -> CreateAclsResponse {
    let refused = create_acls_response::AclCreationResult::default()
        .with_error_code(Code::SecurityDisabled.code())
        .with_error_message(Some(text(NO_ACLS)));
    CreateAclsResponse::default().with_results(vec![refused; request.creations.len()])
}

pub(crate) fn delete_acls(request: &DeleteAclsRequest) -> DeleteAclsResponse {
    let refused = delete_acls_response::DeleteAclsFilterResult::default()
        .with_error_code(Code::SecurityDisabled.code())
        .with_error_message(Some(text(NO_ACLS)));
    DeleteAclsResponse::default().with_filter_results(vec![refused; request.filters.len()])
}
