//! What groups have reached: OffsetCommit, OffsetFetch, OffsetDelete.
//!
//! Offsets are stored by the log's own commit; a commit is answered when it is durable as records are. From version 10 on, topics are named
//! by id (`by_id.rs`), so that an offset of a topic that was deleted is not committed to another that has its name.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::{Buf, Bytes};
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use kafka_protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName,
};
use tarn_log::{Append, CommittedOffset, GroupOffset};
use tarn_model::{Error, PartitionId};
use uuid::Uuid;

use crate::broker::{Broker, blocking, code_of, text};
use crate::by_id::{IDS_VERSION, id_in};
use crate::coordinator::Members;
use crate::group::Sender;

/// Longest metadata of an offset, as in Kafka.
pub(crate) const LONGEST_METADATA: usize = 4096;

/// Offsets of a group by topic and partition.
type Committed = BTreeMap<String, BTreeMap<PartitionId, CommittedOffset>>;

/// What is to be said of a partition: its offset, if there is one; or that an open transaction may change it.
enum Stored {
    Offset(Option<CommittedOffset>),
    Undecided,
}

impl Broker {
    pub(crate) async fn commit_offsets(
        &self,
        request: OffsetCommitRequest,
        version: i16,
    ) -> OffsetCommitResponse {
        let group = request.group_id.to_string();
        let instance = request.group_instance_id.as_ref().map(ToString::to_string);
        let sender = Sender {
            member: &request.member_id,
            instance: instance.as_deref(),
            generation: request.generation_id_or_member_epoch,
        };
        // Who shares nothing with others may call itself something all the same: a client of the new protocol does.
        let simple = sender.generation < 0;
        let refusal = if group.is_empty() {
            Some(Code::InvalidGroupId)
        } else {
            match self.coordinator.may_commit(&group, sender) {
                Some(allowed) => allowed.err(),
                None => (!simple).then_some(Code::UnknownMemberId),
            }
        };
        let (mut append, at_ms) = (Append::new(), self.clock.now_ms());
        let mut answer = OffsetCommitResponse::default();
        for topic in &request.topics {
            let (name, id) = named(&topic.name, version);
            let found = self.find_topic(name, id);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let (index, metadata) = (partition.partition_index, &partition.committed_metadata);
                let code = match (refusal, &found) {
                    (Some(code), _) => code.code(),
                    (None, Err(code)) => code.code(),
                    (None, Ok(info)) if !(0..info.partitions).contains(&index) => {
                        Code::UnknownTopicOrPartition.code()
                    }
                    _ if metadata.as_ref().is_some_and(|m| m.len() > LONGEST_METADATA) => {
                        Code::OffsetMetadataTooLarge.code()
                    }
                    (None, Ok(info)) => {
                        append.group_offset(GroupOffset {
                            group: group.clone(),
                            topic: info.name.clone(),
                            topic_id: Some(info.id),
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
                    OffsetCommitResponsePartition::default()
                        .with_partition_index(index)
                        .with_error_code(code),
                );
            }
            answer.topics.push(
                OffsetCommitResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_topic_id(id)
                    .with_partitions(partitions),
            );
        }
        if let Err(error) = self.log.append(append).await {
            tracing::warn!(group, error = ?error, "offsets were not committed");
            let code = code_of(&error).code();
            let accepted =
                answer.topics.iter_mut().flat_map(|t| &mut t.partitions).filter(|p| p.error_code == 0);
            accepted.for_each(|partition| partition.error_code = code);
        }
        answer
    }

    /// All offsets of a group.
    pub(crate) async fn committed(&self, group: &str) -> Result<Committed, Error> {
        let (log, group) = (self.log.clone(), group.to_owned());
        let rows = blocking(move || log.group_offsets(&group)).await?;
        let mut committed = Committed::new();
        for (topic, partition, offset) in rows {
            committed.entry(topic).or_default().insert(partition, offset);
        }
        Ok(committed)
    }

    pub(crate) async fn committed_offsets(
        &self,
        request: OffsetFetchRequest,
        version: i16,
    ) -> OffsetFetchResponse {
        let undecided = |group: &str| {
            if request.require_stable { self.log.undecided_offsets(group) } else { HashSet::new() }
        };
        if version >= 8 {
            let mut answer = OffsetFetchResponse::default();
            for group in request.groups {
                let mut unknown = Vec::new();
                let asked = group.topics.map(|topics| {
                    let asked = topics.into_iter().filter_map(|topic| {
                        let (name, id) = named(&topic.name, version);
                        match self.find_topic(name, id) {
                            Ok(info) => Some((info.name.clone(), topic.partition_indexes)),
                            // Of a name there may be offsets whatever became of the topic.
                            Err(_) if id.is_nil() => Some((name.to_owned(), topic.partition_indexes)),
                            Err(code) => {
                                unknown.push(not_found(id, code, topic.partition_indexes));
                                None
                            }
                        }
                    });
                    asked.collect()
                });
                let mut answered = OffsetFetchResponseGroup::default();
                let member = group.member_id.as_ref().map(|id| id.as_str()).unwrap_or_default();
                let reader = Sender { member, instance: None, generation: group.member_epoch };
                // A client of the new protocol says who it is, and everybody else nothing.
                let may_read = if member.is_empty() && group.member_epoch < 0 {
                    Ok(())
                } else {
                    self.coordinator.may_read(&group.group_id, reader)
                };
                match self.committed(&group.group_id).await {
                    Err(error) => answered.error_code = code_of(&error).code(),
                    Ok(_) if may_read.is_err() => {
                        answered.error_code = may_read.map_or_else(|code| code.code(), |()| 0);
                    }
                    Ok(committed) => {
                        let undecided = undecided(&group.group_id);
                        answered.topics = select(committed, asked, &undecided, |name, partitions| {
                            OffsetFetchResponseTopics::default()
                                .with_topic_id(self.log.topic(&name).map_or(Uuid::nil(), |info| info.id))
                                .with_name(name)
                                .with_partitions(partitions.into_iter().map(new_partition).collect())
                        });
                        answered.topics.extend(unknown);
                    }
                }
                answer.groups.push(answered.with_group_id(group.group_id));
            }
            return answer;
        }
        let asked = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name.to_string(), topic.partition_indexes)).collect()
        });
        match self.committed(&request.group_id).await {
            Err(error) => OffsetFetchResponse::default().with_error_code(code_of(&error).code()),
            Ok(committed) => {
                let undecided = undecided(&request.group_id);
                let topics = select(committed, asked, &undecided, |name, partitions| {
                    OffsetFetchResponseTopic::default()
                        .with_name(name)
                        .with_partitions(partitions.into_iter().map(old_partition).collect())
                });
                OffsetFetchResponse::default().with_topics(topics)
            }
        }
    }

    pub(crate) async fn delete_offsets(&self, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
        let group = request.group_id.to_string();
        let committed = match self.committed(&group).await {
            Ok(committed) => committed,
            Err(error) => return OffsetDeleteResponse::default().with_error_code(code_of(&error).code()),
        };
        let known = self.coordinator.describe(&group);
        if committed.is_empty() && known.is_none() {
            return OffsetDeleteResponse::default().with_error_code(Code::GroupIdNotFound.code());
        }
        let subscribed: HashSet<String> = match known.map(|known| known.members) {
            Some(Members::Classic(members)) => {
                members.iter().flat_map(|m| subscription(m.metadata.clone())).collect()
            }
            Some(Members::Consumer { subscribed, .. }) => subscribed.into_iter().collect(),
            None => HashSet::new(),
        };
        let mut append = Append::new();
        let mut answer = OffsetDeleteResponse::default();
        for topic in &request.topics {
            let name = topic.name.to_string();
            let partitions = topic.partitions.iter().map(|partition| {
                let code = if subscribed.contains(&name) {
                    Code::GroupSubscribedToTopic.code()
                } else {
                    if committed.get(&name).is_some_and(|c| c.contains_key(&partition.partition_index)) {
                        append.group_offset(GroupOffset {
                            group: group.clone(),
                            topic: name.clone(),
                            topic_id: None,
                            partition: partition.partition_index,
                            committed: None,
                        });
                    }
                    0
                };
                OffsetDeleteResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
            });
            let partitions = partitions.collect();
            answer.topics.push(
                OffsetDeleteResponseTopic::default()
                    .with_name(topic.name.clone())
                    .with_partitions(partitions),
            );
        }
        match self.log.append(append).await {
            Ok(_) => answer,
            Err(error) => OffsetDeleteResponse::default().with_error_code(code_of(&error).code()),
        }
    }
}

/// Name or id of a topic, as a request names it; the other is empty.
fn named(name: &TopicName, version: i16) -> (&str, Uuid) {
    if version >= IDS_VERSION { ("", id_in(name)) } else { (name.as_str(), Uuid::nil()) }
}

/// Of a topic that is not there, no offsets.
fn not_found(id: Uuid, code: Code, partitions: Vec<PartitionId>) -> OffsetFetchResponseTopics {
    let partition = |index| new_partition((index, Stored::Offset(None))).with_error_code(code.code());
    OffsetFetchResponseTopics::default()
        .with_topic_id(id)
        .with_partitions(partitions.into_iter().map(partition).collect())
}

/// The offsets that were asked for (`None`: all), per topic; `None` for a partition that has none.
fn select<T>(
    committed: Committed,
    asked: Option<Vec<(String, Vec<PartitionId>)>>,
    undecided: &HashSet<(String, PartitionId)>,
    topic: impl Fn(TopicName, Vec<(PartitionId, Stored)>) -> T,
) -> Vec<T> {
    let name = |name: String| TopicName(text(name));
    let stored = |topic: &str, partition: PartitionId, committed: Option<CommittedOffset>| {
        let is_undecided = !undecided.is_empty() && undecided.contains(&(topic.to_owned(), partition));
        (partition, if is_undecided { Stored::Undecided } else { Stored::Offset(committed) })
    };
    match asked {
        None => committed
            .into_iter()
            .map(|(t, partitions)| {
                let partitions = partitions.into_iter().map(|(p, c)| stored(&t, p, Some(c))).collect();
                topic(name(t), partitions)
            })
            .collect(),
        Some(asked) => {
            let mut committed: HashMap<_, _> = committed.into_iter().collect();
            asked
                .into_iter()
                .map(|(t, partitions)| {
                    let mut of_topic = committed.remove(&t).unwrap_or_default();
                    let partitions = partitions.into_iter().map(|p| stored(&t, p, of_topic.remove(&p)));
                    let partitions = partitions.collect();
                    topic(name(t), partitions)
                })
                .collect()
        }
    }
}

fn new_partition((index, stored): (PartitionId, Stored)) -> OffsetFetchResponsePartitions {
    let answer = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match stored {
        Stored::Undecided => answer
            .with_error_code(Code::UnstableOffsetCommit.code())
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(text(""))),
        Stored::Offset(None) => {
            answer.with_committed_offset(-1).with_committed_leader_epoch(-1).with_metadata(Some(text("")))
        }
        Stored::Offset(Some(committed)) => answer
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(committed.metadata.unwrap_or_default()))),
    }
}

fn old_partition((index, stored): (PartitionId, Stored)) -> OffsetFetchResponsePartition {
    let answer = OffsetFetchResponsePartition::default().with_partition_index(index);
    match stored {
        Stored::Undecided => answer
            .with_error_code(Code::UnstableOffsetCommit.code())
            .with_committed_offset(-1)
            .with_committed_leader_epoch(-1)
            .with_metadata(Some(text(""))),
        Stored::Offset(None) => {
            answer.with_committed_offset(-1).with_committed_leader_epoch(-1).with_metadata(Some(text("")))
        }
        Stored::Offset(Some(committed)) => answer
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(Some(text(committed.metadata.unwrap_or_default()))),
    }
}

/// The topics that a consumer's metadata names: version, then an array of names; anything else names none.
fn subscription(mut metadata: Bytes) -> Vec<String> {
    let mut topics = Vec::new();
    if metadata.try_get_i16().is_err() {
        return topics;
    }
    let count = metadata.try_get_i32().unwrap_or(0);
    for _ in 0..count {
        let Some(length) = metadata.try_get_i16().ok().and_then(|length| usize::try_from(length).ok()) else {
            break;
        };
        if length > metadata.len() {
            break;
        }
        topics.push(String::from_utf8_lossy(&metadata.split_to(length)).into_owned());
    }
    topics
}
