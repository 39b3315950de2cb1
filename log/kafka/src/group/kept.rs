//! What of a classic group outlives the process: a generation once its members have their assignments, and an empty group's number
//! of generations. A rebalance that is under way does not; its members are in the generation before it then, and join again.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Group, Member, Phase, Sender};

/// A group as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeptGroup {
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: Vec<KeptMember>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeptMember {
    id: String,
    instance: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    /// Names and metadata, in base64.
    protocols: Vec<(String, String)>,
    assignment: String,
}

impl Group {
    /// What is to be stored of the group as it is; `None` while that is not decided.
    pub(crate) fn kept(&self) -> Option<KeptGroup> {
        match self.phase {
            Phase::Empty | Phase::Stable => Some(self.kept_with(None)),
            Phase::Preparing | Phase::Completing => None,
        }
    }

    /// What is to be stored before the leader's assignments are given out; `None` when `sender` does not bring them now.
    pub(crate) fn kept_when_assigned(
        &self,
        sender: Sender<'_>,
        assignments: &[(String, Bytes)],
    ) -> Option<KeptGroup> {
        let leads = self.leader.as_deref() == Some(sender.member);
        let is_due = self.phase == Phase::Completing && leads && self.check(sender).is_ok();
        is_due.then(|| self.kept_with(Some(assignments)))
    }

    fn kept_with(&self, assignments: Option<&[(String, Bytes)]>) -> KeptGroup {
        let coming: Option<HashMap<&String, &Bytes>> =
            assignments.map(|all| all.iter().map(|(id, assignment)| (id, assignment)).collect());
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.number);
        let nothing = Bytes::new();
        let kept = |(id, member): (&String, &Member)| KeptMember {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            session_timeout: member.session_timeout,
            rebalance_timeout: member.rebalance_timeout,
            protocols: member.protocols.iter().map(|(n, data)| (n.clone(), STANDARD.encode(data))).collect(),
            assignment: STANDARD.encode(match &coming {
                Some(coming) => coming.get(id).copied().unwrap_or(&nothing),
                None => &member.assignment,
            }),
        };
        KeptGroup {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().filter(|_| !self.members.is_empty()),
            members: members.into_iter().map(kept).collect(),
        }
    }

    /// The group as it was stored; its members have a whole session to be heard of. `None` when it cannot be read.
    pub(crate) fn woken(kept: KeptGroup, now: Instant) -> Option<Group> {
        let mut group = Group {
            phase: if kept.members.is_empty() { Phase::Empty } else { Phase::Stable },
            generation: kept.generation,
            protocol_type: kept.protocol_type,
            protocol: kept.protocol,
            leader: kept.leader,
            ..Group::default()
        };
        for member in kept.members {
            let decoded = |(name, data): (String, String)| Some((name, STANDARD.decode(data).ok()?.into()));
            let woken = Member {
                number: group.next_number,
                instance: member.instance.clone(),
                client_id: member.client_id,
                client_host: member.client_host,
                session_timeout: member.session_timeout,
                rebalance_timeout: member.rebalance_timeout,
                protocols: member.protocols.into_iter().map(decoded).collect::<Option<_>>()?,
                assignment: STANDARD.decode(member.assignment).ok()?.into(),
                deadline: now + member.session_timeout,
                joining: None,
                syncing: None,
            };
            group.next_number += 1;
            if let Some(instance) = member.instance {
                group.instances.insert(instance, member.id.clone());
            }
            group.members.insert(member.id, woken);
        }
        Some(group)
    }

    /// A group that was one of the new protocol before: its generations go on behind those epochs.
    pub(crate) fn after(epoch: i32) -> Group {
        Group { generation: epoch, ..Group::default() }
    }

    /// The number of its newest generation.
    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    /// Whether something has changed since the last call that nobody has stored.
    pub(crate) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }
}
