//! Consumer groups: who is in them, and what they have committed.

use std::collections::BTreeMap;

use bytes::{Buf as _, Bytes};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest,
    OffsetCommitRequest, OffsetFetchRequest, offset_commit_request,
};
use kafka_protocol::protocol::StrBytes;
use tarn_model::{Offset, PartitionId, Result};

use super::{Cluster, Membership, check, owned, topic_name};

/// The API that describes groups whose partitions the broker shares out.
const CONSUMERS: i16 = 69;

/// A group as the list shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GroupState {
    /// Its name.
    pub group: String,
    /// `Stable`, `Empty`, `PreparingRebalance`...
    pub state: String,
    /// `consumer`, or what its members say.
    pub protocol_type: String,
}

/// A group with its members.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GroupDetails {
    /// As the list shows it.
    #[serde(flatten)]
    pub state: GroupState,
    /// How partitions are shared out, `range` say.
    pub assignor: String,
    /// Who is in it.
    pub members: Vec<GroupMember>,
}

/// A member of a group.
#[derive(Debug, Clone, serde::Serialize)]
pub struct GroupMember {
    /// Its id.
    pub member: String,
    /// Its client's name.
    pub client: String,
    /// Where it is.
    pub host: String,
    /// The partitions that it has, by topic.
    pub partitions: BTreeMap<String, Vec<PartitionId>>,
}

/// What a group has committed of a partition.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CommittedAt {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// The next offset that it wants to read.
    pub offset: Offset,
}

impl Cluster {
    /// All groups of all brokers, by name.
    pub async fn groups(&mut self) -> Result<Vec<GroupState>> {
        self.metadata(Some(&[])).await?;
        let nodes: Vec<i32> = self.addresses.keys().copied().collect();
        let mut groups = Vec::new();
        for node in nodes {
            let answer = self.broker(node).await?.ask(&ListGroupsRequest::default(), 4).await?;
            check(answer.error_code, None, || "the list of groups".to_owned())?;
            groups.extend(answer.groups.into_iter().map(|group| GroupState {
                group: group.group_id.to_string(),
                state: group.group_state.to_string(),
                protocol_type: group.protocol_type.to_string(),
            }));
        }
        groups.sort_by(|a, b| a.group.cmp(&b.group));
        Ok(groups)
    }

    /// A group and its members.
    pub async fn group(&mut self, name: &str) -> Result<GroupDetails> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(owned(name))]);
        let answer = self.coordinator(name).await?.ask(&request, 5).await?;
        let mut details = GroupDetails {
            state: GroupState {
                group: name.to_owned(),
                state: "Dead".to_owned(),
                protocol_type: String::new(),
            },
            assignor: String::new(),
            members: Vec::new(),
        };
        for group in answer.groups {
            check(group.error_code, None, || about(name))?;
            details.state.state = group.group_state.to_string();
            details.state.protocol_type = group.protocol_type.to_string();
            details.assignor = group.protocol_data.to_string();
            details.members = group
                .members
                .into_iter()
                .map(|member| GroupMember {
                    member: member.member_id.to_string(),
                    client: member.client_id.to_string(),
                    host: member.client_host.to_string(),
                    partitions: assigned(member.member_assignment),
                })
                .collect();
        }
        let is_asked_for = details.state.state == "Dead" && self.coordinator(name).await?.serves(CONSUMERS);
        if is_asked_for { self.consumer_group(details).await } else { Ok(details) }
    }

    /// The same of a group whose partitions the broker shares out, which the older request does not know.
    async fn consumer_group(&mut self, mut details: GroupDetails) -> Result<GroupDetails> {
        let name = details.state.group.clone();
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![GroupId(owned(&name))]);
        let answer = self.coordinator(&name).await?.ask(&request, 0).await?;
        for group in answer.groups.into_iter().filter(|group| group.error_code == 0) {
            details.state.state = group.group_state.to_string();
            details.state.protocol_type = "consumer".to_owned();
            details.assignor = group.assignor_name.to_string();
            details.members = group
                .members
                .into_iter()
                .map(|member| GroupMember {
                    member: member.member_id.to_string(),
                    client: member.client_id.to_string(),
                    host: member.client_host.to_string(),
                    partitions: member
                        .assignment
                        .topic_partitions
                        .into_iter()
                        .map(|topic| (topic.topic_name.to_string(), topic.partitions))
                        .collect(),
                })
                .collect();
        }
        Ok(details)
    }

    /// What a group has committed, by topic and partition.
    pub async fn committed(&mut self, group: &str) -> Result<Vec<CommittedAt>> {
        let request = OffsetFetchRequest::default().with_group_id(GroupId(owned(group))).with_topics(None);
        let answer = self.coordinator(group).await?.ask(&request, 7).await?;
        check(answer.error_code, None, || about(group))?;
        let mut committed = Vec::new();
        for topic in answer.topics {
            for partition in topic.partitions {
                check(partition.error_code, None, || about(group))?;
                if partition.committed_offset >= 0 {
                    committed.push(CommittedAt {
                        topic: topic.name.to_string(),
                        partition: partition.partition_index,
                        offset: partition.committed_offset,
                    });
                }
            }
        }
        committed.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(committed)
    }

    /// Commits offsets for a group without members.
    pub async fn commit(&mut self, group: &str, offsets: &[CommittedAt]) -> Result<()> {
        self.commit_by(group, "", -1, offsets).await
    }

    /// Commits offsets of partitions that a member has.
    pub async fn commit_as(&mut self, member: &Membership, offsets: &[CommittedAt]) -> Result<()> {
        self.commit_by(&member.group, &member.member, member.epoch, offsets).await
    }

    async fn commit_by(
        &mut self,
        group: &str,
        member: &str,
        epoch: i32,
        offsets: &[CommittedAt],
    ) -> Result<()> {
        let mut topics: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for at in offsets {
            let partition = offset_commit_request::OffsetCommitRequestPartition::default()
                .with_partition_index(at.partition)
                .with_committed_offset(at.offset)
                .with_committed_leader_epoch(-1)
                .with_committed_metadata(Some(StrBytes::from_static_str("")));
            topics.entry(&at.topic).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(topic, partitions)| {
            offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(topic_name(topic))
                .with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(owned(group)))
            .with_member_id(owned(member))
            .with_generation_id_or_member_epoch(epoch)
            .with_retention_time_ms(-1)
            .with_topics(topics.collect());
        let most = if epoch < 0 { 8 } else { 9 };
        let answer = self.coordinator(group).await?.ask(&request, most).await?;
        for topic in &answer.topics {
            for partition in &topic.partitions {
                check(partition.error_code, None, || {
                    format!(
                        "group `{group}`, topic `{}` partition {}",
                        topic.name.as_str(),
                        partition.partition_index
                    )
                })?;
            }
        }
        Ok(())
    }

    /// Forgets a group without members, and what it has committed.
    pub async fn delete_group(&mut self, name: &str) -> Result<()> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(owned(name))]);
        let answer = self.coordinator(name).await?.ask(&request, 2).await?;
        answer.results.iter().try_for_each(|group| check(group.error_code, None, || about(name)))
    }
}

fn about(name: &str) -> String {
    format!("group `{name}`")
}

/// A consumer's assignment: version, then topics with partitions; what is anything else names none.
fn assigned(mut bytes: Bytes) -> BTreeMap<String, Vec<PartitionId>> {
    let mut assigned = BTreeMap::new();
    let mut read = || -> Option<()> {
        bytes.try_get_i16().ok()?;
        for _ in 0..bytes.try_get_i32().ok()? {
            let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
            if length > bytes.len() {
                return None;
            }
            let topic = String::from_utf8_lossy(&bytes.split_to(length)).into_owned();
            let mut partitions = Vec::new();
            for _ in 0..bytes.try_get_i32().ok()? {
                partitions.push(bytes.try_get_i32().ok()?);
            }
            assigned.insert(topic, partitions);
        }
        Some(())
    };
    // What was read before the end came too early is shown all the same.
    let _ = read();
    assigned
}
