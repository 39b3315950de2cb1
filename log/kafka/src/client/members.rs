//! Being a member of a group whose partitions the broker shares out (KIP-848), for one topic.
//!
//! *Invariant*: a member reads what it was told to have. What it is no longer to have it commits first, lets go, and says so
//! with its next heartbeat; until then nobody else gets it.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, GroupId, consumer_group_heartbeat_request as heartbeat,
};
use kafka_protocol::protocol::StrBytes;
use tarn_model::{PartitionId, Result, clock};
use uuid::Uuid;

use super::{Cluster, check, owned, topic_name};

/// How long a member may take to give up partitions.
const REBALANCE_WITHIN_MS: i32 = 60_000;
/// The epoch of who joins, and of who leaves.
const JOINS: i32 = 0;
const LEAVES: i32 = -1;

/// A member of a group.
#[derive(Debug)]
pub struct Membership {
    pub(super) group: String,
    topic: String,
    topic_id: Uuid,
    pub(super) member: String,
    pub(super) epoch: i32,
    every: Duration,
    assigned: BTreeSet<PartitionId>,
}

impl Membership {
    /// The partitions that it is to have.
    pub fn assigned(&self) -> &BTreeSet<PartitionId> {
        &self.assigned
    }

    /// Whether the group has given it up.
    pub fn is_out(&self) -> bool {
        self.epoch == JOINS
    }

    /// How often it is to be heard of.
    pub fn every(&self) -> Duration {
        self.every
    }
}

impl Cluster {
    /// Joins a group, to read a topic.
    pub async fn join(&mut self, group: &str, topic: &str) -> Result<Membership> {
        let topic_id = self.topic(topic).await?.id;
        let mut member = Membership {
            group: group.to_owned(),
            topic: topic.to_owned(),
            topic_id,
            member: clock::new_id().to_string(),
            epoch: JOINS,
            every: Duration::ZERO,
            assigned: BTreeSet::new(),
        };
        self.beat(&mut member, &BTreeSet::new()).await?;
        Ok(member)
    }

    /// Says that the member is there, and which partitions it `has`; learns which it is to have. One that the group has given up
    /// is told to have none, and joins anew with its next heartbeat.
    pub async fn beat(&mut self, member: &mut Membership, has: &BTreeSet<PartitionId>) -> Result<()> {
        let joins = member.epoch == JOINS;
        let mut request = request_of(member, member.epoch);
        let of_topic = heartbeat::TopicPartitions::default()
            .with_topic_id(member.topic_id)
            .with_partitions(has.iter().copied().collect());
        let has_some = !joins && !has.is_empty();
        request.topic_partitions = Some(if has_some { vec![of_topic] } else { Vec::new() });
        if joins {
            request.rebalance_timeout_ms = REBALANCE_WITHIN_MS;
            request.subscribed_topic_names = Some(vec![topic_name(&member.topic)]);
        }
        let answer = self.coordinator(&member.group).await?.ask(&request, 1).await?;
        let refusal = ResponseError::try_from_code(answer.error_code);
        if matches!(refusal, Some(ResponseError::FencedMemberEpoch | ResponseError::UnknownMemberId)) {
            (member.epoch, member.assigned) = (JOINS, BTreeSet::new());
            return Ok(());
        }
        check(answer.error_code, answer.error_message.as_ref(), || format!("group `{}`", member.group))?;
        member.epoch = answer.member_epoch;
        member.every = Duration::from_millis(u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0));
        if let Some(assignment) = answer.assignment {
            let of_topic = assignment.topic_partitions.iter().filter(|t| t.topic_id == member.topic_id);
            member.assigned = of_topic.flat_map(|topic| topic.partitions.iter().copied()).collect();
        }
        Ok(())
    }

    /// Leaves the group: the others get its partitions at once.
    pub async fn leave(&mut self, member: Membership) -> Result<()> {
        if member.epoch == JOINS {
            return Ok(());
        }
        let request = request_of(&member, LEAVES);
        let answer = self.coordinator(&member.group).await?.ask(&request, 1).await?;
        check(answer.error_code, answer.error_message.as_ref(), || format!("group `{}`", member.group))
    }
}

fn request_of(member: &Membership, epoch: i32) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest::default()
        .with_group_id(GroupId(owned(&member.group)))
        .with_member_id(StrBytes::from_string(member.member.clone()))
        .with_member_epoch(epoch)
        .with_instance_id(None)
        .with_rack_id(None)
        .with_rebalance_timeout_ms(-1)
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(None)
        .with_server_assignor(None)
        .with_topic_partitions(None)
}
