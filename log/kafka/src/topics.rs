//! CreateTopics, DeleteTopics, CreatePartitions, DeleteRecords.
//!
//! A topic that a table is made from is not deleted and gets no partitions while it is read, and its records are not deleted
//! before the table has them.

use std::collections::{HashMap, HashSet};

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsTopicResult,
};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse,
    DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{TopicInfo, TopicOptions};
use tarn_model::{Boundary, Offset, PartitionId};
use uuid::Uuid;

use crate::broker::{BROKER_ID, Broker, code_of, text, told};
use crate::metadata::is_name;

/// A code with what a person is told.
type Refusal = (Code, Option<StrBytes>);

fn refusal(code: Code, why: impl Into<String>) -> Refusal {
    (code, Some(text(why)))
}

/// Most partitions of a topic.
const MOST_PARTITIONS: i32 = 10_000;

impl Broker {
    pub(crate) async fn create_topics(&self, request: CreateTopicsRequest) -> CreateTopicsResponse {
        let _alone = self.admin.lock().await;
        let mut times: HashMap<String, usize> = HashMap::new();
        request.topics.iter().for_each(|topic| *times.entry(topic.name.to_string()).or_default() += 1);
        let mut answer = CreateTopicsResponse::default();
        for topic in request.topics {
            let name = topic.name.clone();
            let created = if times.get(name.as_str()).copied() > Some(1) {
                Err(refusal(Code::InvalidRequest, "the topic stands twice in the request"))
            } else {
                self.create_one(topic, request.validate_only).await
            };
            let result = CreatableTopicResult::default().with_name(name).with_configs(None);
            answer.topics.push(match created {
                Ok((id, partitions)) => result
                    .with_topic_id(id)
                    .with_num_partitions(partitions)
                    .with_replication_factor(1)
                    .with_error_message(None),
                Err((code, why)) => result
                    .with_error_code(code.code())
                    .with_error_message(why)
                    .with_num_partitions(-1)
                    .with_replication_factor(-1),
            });
        }
        answer
    }

    async fn create_one(&self, topic: CreatableTopic, validate_only: bool) -> Result<(Uuid, i32), Refusal> {
        if !is_name(&topic.name) {
            let why = "a topic's name has letters, digits, `.`, `_` and `-`, at most 249 of them";
            return Err(refusal(Code::InvalidTopicException, why));
        }
        if self.log.topic(&topic.name).is_some() {
            return Err(refusal(
                Code::TopicAlreadyExists,
                format!("topic `{}` is there already", topic.name.as_str()),
            ));
        }
        let mut partitions = topic.num_partitions;
        if topic.assignments.is_empty() {
            if partitions == -1 {
                partitions = self.options.default_partitions;
            }
            if !matches!(topic.replication_factor, -1 | 1) {
                return Err(refusal(
                    Code::InvalidReplicationFactor,
                    "there is one broker, so the replication factor is 1",
                ));
            }
        } else {
            let here = |a: &[kafka_protocol::messages::BrokerId]| {
                a == [kafka_protocol::messages::BrokerId(BROKER_ID)]
            };
            if topic.assignments.iter().any(|assignment| !here(&assignment.broker_ids)) {
                return Err(refusal(
                    Code::InvalidReplicaAssignment,
                    format!("the one broker is {BROKER_ID}"),
                ));
            }
            partitions = i32::try_from(topic.assignments.len()).unwrap_or(i32::MAX);
        }
        if !(1..=MOST_PARTITIONS).contains(&partitions) {
            let why = format!("a topic has 1 to {MOST_PARTITIONS} partitions");
            return Err(refusal(Code::InvalidPartitions, why));
        }
        let configs =
            topic.configs.iter().map(|c| (c.name.as_str(), c.value.as_ref().map(|value| value.as_str())));
        let (options, configs) =
            self.new_topic_options(partitions, configs).map_err(|why| refusal(Code::InvalidConfig, why))?;
        if validate_only {
            return Ok((Uuid::nil(), partitions));
        }
        match self.configure_topic(&topic.name, options, configs).await {
            Ok(info) => Ok((info.id, info.partitions)),
            Err(error) => Err((code_of(&error), told(&error))),
        }
    }

    pub(crate) async fn delete_topics(
        &self,
        request: DeleteTopicsRequest,
        version: i16,
    ) -> DeleteTopicsResponse {
        let _alone = self.admin.lock().await;
        let asked: Vec<(Option<TopicName>, Uuid)> = if version >= 6 {
            request.topics.into_iter().map(|topic| (topic.name, topic.topic_id)).collect()
        } else {
            request.topic_names.into_iter().map(|name| (Some(name), Uuid::nil())).collect()
        };
        let mut answer = DeleteTopicsResponse::default();
        for (name, id) in asked {
            let found = self.find_topic(name.as_ref().map(|name| name.as_str()).unwrap_or_default(), id);
            let result = DeletableTopicResult::default().with_name(name.clone()).with_topic_id(id);
            answer.responses.push(match found {
                Err(code) => result.with_error_code(code.code()),
                Ok(info) => {
                    let result =
                        result.with_name(Some(TopicName(text(info.name.clone())))).with_topic_id(info.id);
                    match self.log.delete_topic(&info.name).await {
                        Ok(()) => result.with_error_message(None),
                        Err(error) => {
                            result.with_error_code(code_of(&error).code()).with_error_message(told(&error))
                        }
                    }
                }
            });
        }
        answer
    }

    pub(crate) async fn create_partitions(
        &self,
        request: CreatePartitionsRequest,
    ) -> CreatePartitionsResponse {
        let _alone = self.admin.lock().await;
        let mut answer = CreatePartitionsResponse::default();
        let mut seen = HashSet::new();
        for topic in request.topics {
            let created = if seen.insert(topic.name.clone()) {
                self.grow(&topic, request.validate_only).await
            } else {
                Err(refusal(Code::InvalidRequest, "the topic stands twice in the request"))
            };
            let (code, why) = created.err().map_or((0, None), |(code, why)| (code.code(), why));
            answer.results.push(
                CreatePartitionsTopicResult::default()
                    .with_name(topic.name)
                    .with_error_code(code)
                    .with_error_message(why),
            );
        }
        answer
    }

    async fn grow(&self, topic: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refusal> {
        let info = self.log.topic(&topic.name).ok_or((Code::UnknownTopicOrPartition, None))?;
        let TopicInfo { name, partitions, retention_time, retention_bytes, .. } = &*info;
        if topic.count <= *partitions || topic.count > MOST_PARTITIONS {
            let why = format!("topic `{name}` has {partitions} partitions and takes up to {MOST_PARTITIONS}");
            return Err(refusal(Code::InvalidPartitions, why));
        }
        if let Some(holder) = self.log.holder(name) {
            let why = format!("`{holder}` reads the topic: set `partitions` in the config and start anew");
            return Err(refusal(Code::PolicyViolation, why));
        }
        if validate_only {
            return Ok(());
        }
        let options = TopicOptions {
            partitions: topic.count,
            retention_time: *retention_time,
            retention_bytes: *retention_bytes,
        };
        let created = self.create_topic(name, options).await;
        created.map(|_| ()).map_err(|error| (code_of(&error), told(&error)))
    }

    pub(crate) async fn delete_records(&self, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
        let mut answer = DeleteRecordsResponse::default();
        for topic in request.topics {
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let deleted = self.delete_below(&topic.name, index, partition.offset).await;
                let result = DeleteRecordsPartitionResult::default().with_partition_index(index);
                partitions.push(match deleted {
                    Ok(start) => result.with_low_watermark(start),
                    Err(code) => result.with_low_watermark(-1).with_error_code(code.code()),
                });
            }
            answer
                .topics
                .push(DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions));
        }
        answer
    }

    /// Lets records below `offset` go (-1: all there are) and returns the new start.
    async fn delete_below(
        &self,
        topic: &str,
        partition: PartitionId,
        offset: Offset,
    ) -> Result<Offset, Code> {
        let span = self.log.span(topic, partition).map_err(|_| Code::UnknownTopicOrPartition)?;
        let upto = if offset == -1 { span.to } else { offset };
        if !(0..=span.to).contains(&upto) {
            return Err(Code::OffsetOutOfRange);
        }
        let boundary: Boundary = [(partition, upto)].into_iter().collect();
        self.log.trim(topic, &boundary, false).await.map_err(|error| {
            tracing::warn!(topic, partition, error = ?error, "records were not deleted");
            code_of(&error)
        })?;
        self.log.span(topic, partition).map(|span| span.from).map_err(|_| Code::UnknownTopicOrPartition)
    }
}
