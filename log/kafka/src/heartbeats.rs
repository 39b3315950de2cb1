//! Requests of members whose partitions the broker shares out (KIP-848), and of those who look at their groups: turned into what
//! `consumers.rs` understands, and back.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::consumer_group_describe_response::{self as described, DescribedGroup, Member};
use kafka_protocol::messages::consumer_group_heartbeat_response::{self as told, Assignment as Told};
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest,
    ConsumerGroupHeartbeatResponse, TopicName,
};
use tarn_log::{Log, TopicInfo};
use tarn_model::PartitionId;
use uuid::Uuid;

use crate::allowed;
use crate::assignment::Assignment;
use crate::broker::{Broker, Peer, text};
use crate::consumers::{BEAT_EVERY, Beat, COMES_BACK, DescribedConsumer, Topics};
use crate::coordinator::{Members, Summary};

/// From this version of the request on, members choose their ids themselves.
const OWN_IDS_VERSION: i16 = 1;
/// Longest time that a member may take to give up partitions.
const LONGEST_REBALANCE_MS: i32 = 30 * 60 * 1000;
/// Kind of a member of the new protocol.
const CONSUMER: i8 = 1;

/// The topics of the log.
impl Topics for Log {
    fn topic(&self, name: &str) -> Option<(Uuid, PartitionId)> {
        Log::topic(self, name).map(|info| (info.id, info.partitions))
    }

    fn names(&self) -> Vec<String> {
        let topics: Vec<Arc<TopicInfo>> = self.topics();
        topics.iter().map(|info| info.name.clone()).collect()
    }
}

impl Broker {
    pub(crate) async fn consumer_heartbeat(
        &self,
        request: ConsumerGroupHeartbeatRequest,
        version: i16,
        client_id: String,
        peer: &Peer,
    ) -> ConsumerGroupHeartbeatResponse {
        let refused = |code: Code, why: &str| {
            ConsumerGroupHeartbeatResponse::default()
                .with_error_code(code.code())
                .with_error_message(Some(text(why)))
                .with_member_epoch(0)
        };
        if let Err(why) = check(&request, version) {
            return refused(Code::InvalidRequest, why);
        }
        let group = request.group_id.to_string();
        let beat = beat_of(request, client_id, peer);
        let joins = beat.epoch == 0;
        let act = |group: &mut crate::consumers::ConsumerGroup, now| group.beat(beat, &self.log, now);
        let done = if joins {
            self.coordinator.with_consumers(&group, act)
        } else {
            self.coordinator.with_known_consumers(&group, act)
        };
        if let Err(code) = self.coordinator.stored(&group).await {
            return refused(code, "the group could not be stored");
        }
        match done.flatten() {
            Err(code) => refused(code, told_why(code)),
            Ok(beaten) => ConsumerGroupHeartbeatResponse::default()
                .with_error_message(None)
                .with_member_id(Some(text(beaten.member)))
                .with_member_epoch(beaten.epoch)
                .with_heartbeat_interval_ms(i32::try_from(BEAT_EVERY.as_millis()).unwrap_or(i32::MAX))
                .with_assignment(beaten.assignment.as_ref().map(told_assignment)),
        }
    }

    pub(crate) async fn describe_consumers(
        &self,
        request: ConsumerGroupDescribeRequest,
    ) -> ConsumerGroupDescribeResponse {
        let may = allowed::if_asked(request.include_authorized_operations, allowed::GROUP);
        let mut groups = Vec::with_capacity(request.group_ids.len());
        for name in request.group_ids {
            let of = DescribedGroup::default().with_group_id(name.clone()).with_error_message(None);
            let refused = |why: String| {
                of.clone()
                    .with_error_code(Code::GroupIdNotFound.code())
                    .with_error_message(Some(text(why)))
                    .with_group_state(text("Dead"))
            };
            groups.push(match self.find_group(&name).await {
                None => refused(format!("there is no group `{}`", name.as_str())),
                Some(Summary { members: Members::Classic(_), .. }) => {
                    refused(format!("group `{}` is not a consumer group", name.as_str()))
                }
                Some(Summary {
                    state,
                    protocol,
                    members: Members::Consumer { members, epoch, target_epoch, .. },
                    ..
                }) => of
                    .with_authorized_operations(may)
                    .with_group_state(text(state))
                    .with_group_epoch(epoch)
                    .with_assignment_epoch(target_epoch)
                    .with_assignor_name(text(protocol))
                    .with_members(members.into_iter().map(|member| self.described(member)).collect()),
            });
        }
        ConsumerGroupDescribeResponse::default().with_groups(groups)
    }

    fn described(&self, member: DescribedConsumer) -> Member {
        Member::default()
            .with_member_id(text(member.member))
            .with_instance_id(member.instance.map(text))
            .with_rack_id(None)
            .with_member_epoch(member.epoch)
            .with_client_id(text(member.client_id))
            .with_client_host(text(member.client_host))
            .with_subscribed_topic_names(member.names.into_iter().map(|name| TopicName(text(name))).collect())
            .with_subscribed_topic_regex(member.pattern.map(text))
            .with_assignment(self.named(&member.assigned))
            .with_target_assignment(self.named(&member.target))
            .with_member_type(CONSUMER)
    }

    /// An assignment with the topics' names; without those that are gone.
    fn named(&self, assignment: &Assignment) -> described::Assignment {
        let topics = assignment.topics().filter_map(|(id, partitions)| {
            let info = self.log.topic_of_id(id)?;
            Some(
                described::TopicPartitions::default()
                    .with_topic_id(id)
                    .with_topic_name(TopicName(text(info.name.clone())))
                    .with_partitions(partitions),
            )
        });
        described::Assignment::default().with_topic_partitions(topics.collect())
    }
}

/// What a request must say, by its epoch.
fn check(request: &ConsumerGroupHeartbeatRequest, version: i16) -> Result<(), &'static str> {
    let is_empty =
        |text: &Option<kafka_protocol::protocol::StrBytes>| text.as_ref().is_some_and(|t| t.is_empty());
    let epoch = request.member_epoch;
    if request.group_id.is_empty() {
        return Err("a group has a name");
    }
    if is_empty(&request.instance_id) || is_empty(&request.rack_id) {
        return Err("an instance and a rack have names, if there are any");
    }
    if epoch < COMES_BACK {
        return Err("there is no such epoch");
    }
    if request.member_id.is_empty() && (epoch != 0 || version >= OWN_IDS_VERSION) {
        return Err("the member says no id");
    }
    if epoch == COMES_BACK && request.instance_id.is_none() {
        return Err("only a static member comes back");
    }
    if epoch == 0 {
        if request.rebalance_timeout_ms < 0 {
            return Err("a member that joins says how long it takes to give up partitions");
        }
        if !request.topic_partitions.as_ref().is_some_and(Vec::is_empty) {
            return Err("a member that joins has no partitions");
        }
        if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() {
            return Err("a member that joins says what it subscribes to");
        }
    }
    Ok(())
}

fn beat_of(request: ConsumerGroupHeartbeatRequest, client_id: String, peer: &Peer) -> Beat {
    let timeout = request.rebalance_timeout_ms.min(LONGEST_REBALANCE_MS);
    let places = |topics: &Vec<
        kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions,
    >| {
        let of_topic = topics.iter().flat_map(|topic| topic.partitions.iter().map(|p| (topic.topic_id, *p)));
        of_topic.collect()
    };
    Beat {
        member: request.member_id.to_string(),
        epoch: request.member_epoch,
        instance: request.instance_id.as_ref().map(ToString::to_string),
        client_id,
        client_host: format!("/{}", peer.there.ip().to_canonical()),
        rebalance_timeout: u64::try_from(timeout).ok().map(Duration::from_millis),
        names: request
            .subscribed_topic_names
            .map(|names| names.iter().map(|name| name.to_string()).collect()),
        pattern: request.subscribed_topic_regex.as_ref().map(ToString::to_string),
        assignor: request.server_assignor.as_ref().map(ToString::to_string),
        owned: request.topic_partitions.as_ref().map(places),
    }
}

fn told_assignment(assignment: &Assignment) -> Told {
    let topics = assignment.topics().map(|(id, partitions)| {
        told::TopicPartitions::default().with_topic_id(id).with_partitions(partitions)
    });
    Told::default().with_topic_partitions(topics.collect())
}

/// What a person is told about a heartbeat that was refused.
fn told_why(code: Code) -> &'static str {
    match code {
        Code::GroupIdNotFound => "there is no such group whose partitions the broker shares out",
        Code::UnknownMemberId => "the member is not in the group",
        Code::FencedMemberEpoch => "the member's epoch is another one: it has to join anew",
        Code::FencedInstanceId => "another member has this instance now",
        Code::UnreleasedInstanceId => "another member has this instance, and has not left",
        Code::UnsupportedAssignor => "the assignors are `uniform` and `range`",
        Code::InvalidRegularExpression => "the regular expression cannot be read",
        Code::GroupMaxSizeReached => "the group has as many members as it may",
        _ => "the group cannot be used now",
    }
}
