//! Requests of group members and of those who look at groups: turned into what `group.rs` understands, and back.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse, SyncGroupRequest, SyncGroupResponse,
};
use tarn_model::Error;

use crate::allowed;
use crate::broker::{Broker, Peer, blocking, code_of, text};
use crate::coordinator::{Members, Summary};
use crate::group::{Join, Joined, Sender, Synced};

/// Shortest and longest session, as in Kafka.
const SESSION_MS: std::ops::RangeInclusive<i32> = 6_000..=1_800_000;
/// Longest time that a rebalance waits for a member.
const LONGEST_REBALANCE: Duration = Duration::from_secs(1800);
/// Most bytes of a member's metadata, and of its assignment; what is kept longer than its request is no part of the request's memory.
/// Above it the answer is the one that Kafka has for a group that is too large for its log: an unknown error of the server.
const LARGEST_METADATA_BYTES: usize = 1 << 20;
/// From this version on, a new member is given an id before it joins.
const IDS_FIRST_VERSION: i16 = 4;

impl Broker {
    pub(crate) async fn join_group(
        &self,
        request: JoinGroupRequest,
        version: i16,
        client_id: String,
        peer: &Peer,
    ) -> JoinGroupResponse {
        if request.protocols.iter().map(|p| p.metadata.len()).sum::<usize>() > LARGEST_METADATA_BYTES {
            return JoinGroupResponse::default()
                .with_error_code(Code::UnknownServerError.code())
                .with_generation_id(-1)
                .with_protocol_name((version < 7).then(|| text("")))
                .with_member_id(request.member_id);
        }
        let session_timeout = milliseconds(request.session_timeout_ms);
        let rebalance_timeout =
            if version == 0 { session_timeout } else { milliseconds(request.rebalance_timeout_ms) };
        let join = Join {
            member: request.member_id.to_string(),
            instance: request.group_instance_id.as_ref().map(ToString::to_string),
            client_id,
            client_host: format!("/{}", peer.there.ip().to_canonical()),
            session_timeout,
            rebalance_timeout: rebalance_timeout.min(LONGEST_REBALANCE),
            protocol_type: request.protocol_type.to_string(),
            protocols: request.protocols.iter().map(|p| (p.name.to_string(), kept(&p.metadata))).collect(),
            needs_id: version >= IDS_FIRST_VERSION,
        };
        let (group, member) = (request.group_id.to_string(), join.member.clone());
        let refused = |code: Code| Joined::refused(code, &member);
        let joined = if group.is_empty() {
            refused(Code::InvalidGroupId)
        } else if !SESSION_MS.contains(&request.session_timeout_ms) {
            refused(Code::InvalidSessionTimeout)
        } else {
            match self.coordinator.with(&group, |group, now| group.join(join, now)) {
                Ok(reply) => reply.wait().await.unwrap_or_else(|| refused(Code::UnknownMemberId)),
                Err(code) => refused(code),
            }
        };
        let stored = if joined.error == 0 { self.coordinator.stored(&group).await } else { Ok(()) };
        let joined = stored.map_or_else(refused, |()| joined);
        let old_protocol = || (version < 7).then(|| text(""));
        let members = joined.members.into_iter().map(|(id, instance, metadata)| {
            JoinGroupResponseMember::default()
                .with_member_id(text(id))
                .with_group_instance_id(instance.map(text))
                .with_metadata(metadata)
        });
        JoinGroupResponse::default()
            .with_error_code(joined.error)
            .with_generation_id(joined.generation)
            .with_protocol_type(joined.protocol_type.map(text))
            .with_protocol_name(joined.protocol.map(text).or_else(old_protocol))
            .with_leader(text(joined.leader))
            .with_skip_assignment(version >= 9 && joined.skip_assignment)
            .with_member_id(text(joined.member))
            .with_members(members.collect())
    }

    pub(crate) async fn sync_group(&self, request: SyncGroupRequest) -> SyncGroupResponse {
        let instance = request.group_instance_id.as_ref().map(ToString::to_string);
        let sender = Sender {
            member: &request.member_id,
            instance: instance.as_deref(),
            generation: request.generation_id,
        };
        let protocol = (
            request.protocol_type.as_ref().map(|name| name.as_str()),
            request.protocol_name.as_ref().map(|name| name.as_str()),
        );
        let refused = |code: Code| Synced { error: code.code(), ..Synced::default() };
        if request.assignments.iter().any(|a| a.assignment.len() > LARGEST_METADATA_BYTES) {
            return SyncGroupResponse::default().with_error_code(Code::UnknownServerError.code());
        }
        let assignments: Vec<_> =
            request.assignments.iter().map(|a| (a.member_id.to_string(), kept(&a.assignment))).collect();
        let reply = self
            .coordinator
            .with_known(&request.group_id, |group, now| group.sync(sender, protocol, assignments, now));
        let synced = match reply {
            Some(reply) => reply.wait().await,
            None => None,
        };
        let synced = synced.unwrap_or_else(|| refused(Code::UnknownMemberId));
        let stored =
            if synced.error == 0 { self.coordinator.stored(&request.group_id).await } else { Ok(()) };
        let synced = stored.map_or_else(refused, |()| synced);
        SyncGroupResponse::default()
            .with_error_code(synced.error)
            .with_protocol_type(synced.protocol_type.map(text))
            .with_protocol_name(synced.protocol.map(text))
            .with_assignment(synced.assignment)
    }

    pub(crate) fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let instance = request.group_instance_id.as_ref().map(ToString::to_string);
        let sender = Sender {
            member: &request.member_id,
            instance: instance.as_deref(),
            generation: request.generation_id,
        };
        let beat = self.coordinator.with_known(&request.group_id, |group, now| group.heartbeat(sender, now));
        HeartbeatResponse::default().with_error_code(code(beat.unwrap_or(Err(Code::UnknownMemberId))))
    }

    pub(crate) fn leave_group(&self, request: LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
        let leave = |member: &str, instance: Option<&str>| {
            let left = self
                .coordinator
                .with_known(&request.group_id, |group, now| group.leave(member, instance, now));
            code(left.unwrap_or(Err(Code::UnknownMemberId)))
        };
        if version < 3 {
            return LeaveGroupResponse::default().with_error_code(leave(&request.member_id, None));
        }
        let members = request.members.iter().map(|member| {
            let left = leave(&member.member_id, member.group_instance_id.as_ref().map(|id| id.as_str()));
            MemberResponse::default()
                .with_member_id(member.member_id.clone())
                .with_group_instance_id(member.group_instance_id.clone())
                .with_error_code(left)
        });
        LeaveGroupResponse::default().with_members(members.collect())
    }

    /// Groups that have members or had some, and groups that only have offsets.
    async fn all_groups(&self) -> Result<Vec<Summary>, Error> {
        let mut groups = self.coordinator.list();
        let log = self.log.clone();
        for name in blocking(move || log.groups()).await? {
            if !groups.iter().any(|group| group.name == name) {
                groups.push(offsets_only(name));
            }
        }
        Ok(groups)
    }

    pub(crate) async fn find_group(&self, name: &str) -> Option<Summary> {
        if let Some(group) = self.coordinator.describe(name) {
            return Some(group);
        }
        let committed = self.committed(name).await.ok()?;
        (!committed.is_empty()).then(|| offsets_only(name.to_owned()))
    }

    pub(crate) async fn describe_groups(
        &self,
        request: DescribeGroupsRequest,
        version: i16,
    ) -> DescribeGroupsResponse {
        let may = allowed::if_asked(request.include_authorized_operations, allowed::GROUP);
        let mut groups = Vec::with_capacity(request.groups.len());
        for name in request.groups {
            let (found, why) = match self.find_group(&name).await {
                Some(Summary { members: Members::Consumer { .. }, .. }) => {
                    (None, format!("group `{}` is not a classic group", name.as_str()))
                }
                found => (found, format!("there is no group `{}`", name.as_str())),
            };
            groups.push(match found {
                Some(group) => described(group).with_authorized_operations(may),
                None => {
                    let dead =
                        DescribedGroup::default().with_group_id(name.clone()).with_group_state(text("Dead"));
                    if version < 6 {
                        dead
                    } else {
                        dead.with_error_code(Code::GroupIdNotFound.code()).with_error_message(Some(text(why)))
                    }
                }
            });
        }
        DescribeGroupsResponse::default().with_groups(groups)
    }

    pub(crate) async fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        let groups = match self.all_groups().await {
            Ok(groups) => groups,
            Err(error) => return ListGroupsResponse::default().with_error_code(code_of(&error).code()),
        };
        let asked = |filter: &[kafka_protocol::protocol::StrBytes], is: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        let groups = groups
            .into_iter()
            .filter(|g| asked(&request.states_filter, g.state) && asked(&request.types_filter, g.kind()))
            .map(|group| {
                let kind = group.kind();
                ListedGroup::default()
                    .with_group_id(GroupId(text(group.name)))
                    .with_protocol_type(text(group.protocol_type))
                    .with_group_state(text(group.state))
                    .with_group_type(text(kind))
            });
        ListGroupsResponse::default().with_groups(groups.collect())
    }

    pub(crate) async fn delete_groups(&self, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
        let mut results = Vec::with_capacity(request.groups_names.len());
        for name in request.groups_names {
            let code = if self.find_group(&name).await.is_none() {
                Code::GroupIdNotFound.code()
            } else if !self.coordinator.forget(&name) {
                Code::NonEmptyGroup.code()
            } else {
                let forgotten = self.log.forget_group(&name).await;
                // It may just have been stored as it was.
                self.coordinator.store_soon(&name);
                forgotten.map_or_else(|error| code_of(&error).code(), |()| 0)
            };
            results.push(DeletableGroupResult::default().with_group_id(name).with_error_code(code));
        }
        DeleteGroupsResponse::default().with_results(results)
    }
}

fn offsets_only(name: String) -> Summary {
    let (protocol_type, protocol) = (String::new(), String::new());
    Summary { name, state: "Empty", protocol_type, protocol, members: Members::Classic(Vec::new()) }
}

fn described(group: Summary) -> DescribedGroup {
    let members = match group.members {
        Members::Classic(members) => members,
        Members::Consumer { .. } => Vec::new(),
    };
    let members = members.into_iter().map(|member| {
        DescribedGroupMember::default()
            .with_member_id(text(member.member))
            .with_group_instance_id(member.instance.map(text))
            .with_client_id(text(member.client_id))
            .with_client_host(text(member.client_host))
            .with_member_metadata(member.metadata)
            .with_member_assignment(member.assignment)
    });
    DescribedGroup::default()
        .with_group_id(GroupId(text(group.name)))
        .with_group_state(text(group.state))
        .with_protocol_type(text(group.protocol_type))
        .with_protocol_data(text(group.protocol))
        .with_members(members.collect())
}

/// A copy, which does not keep the request that it came in.
fn kept(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn milliseconds(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn code(result: Result<(), Code>) -> i16 {
    result.map_or_else(|code| code.code(), |()| 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_a_request_does_not_keep_the_request() {
        let request = std::sync::Arc::new([7_u8; 100]);
        let held = std::sync::Arc::downgrade(&request);
        struct Frame(std::sync::Arc<[u8; 100]>);
        impl AsRef<[u8]> for Frame {
            fn as_ref(&self) -> &[u8] {
                &self.0[..]
            }
        }
        let frame = Bytes::from_owner(Frame(request));
        let metadata = kept(&frame.slice(10..20));
        drop(frame);
        assert_eq!((metadata, held.strong_count()), (Bytes::from_static(&[7; 10]), 0));
    }
}
