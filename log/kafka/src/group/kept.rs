//! What of a classic group outlives the process: its generation, how far that has come, and who is in it. Who waits for what does not:
//! whoever was answered goes on, and whoever was not asks again.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Group, Member, Phase};

/// A group as it is stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct KeptGroup {
    generation: i32,
    /// Rows of older versions are of stable groups.
    #[serde(default)]
    phase: KeptPhase,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: Vec<KeptMember>,
}

/// How far a generation that has members has come.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptPhase {
    /// The next is about to begin.
    Preparing,
    /// The leader has not assigned yet.
    Completing,
    #[default]
    Stable,
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
    #[serde(default)]
    unheard: bool,
}

impl Member {
    /// Bytes of what it says of itself.
    pub(super) fn bytes(&self) -> usize {
        let texts = self.client_id.len() + self.instance.as_ref().map_or(0, String::len);
        texts + self.protocols.iter().map(|(name, data)| name.len() + data.len()).sum::<usize>()
    }
}

impl Group {
    /// What is to be stored of the group as it is.
    pub(crate) fn kept(&self) -> KeptGroup {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.number);
        let kept = |(id, member): (&String, &Member)| KeptMember {
            id: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            session_timeout: member.session_timeout,
            rebalance_timeout: member.rebalance_timeout,
            protocols: member.protocols.iter().map(|(n, data)| (n.clone(), STANDARD.encode(data))).collect(),
            assignment: STANDARD.encode(&member.assignment),
            unheard: member.unheard,
        };
        KeptGroup {
            generation: self.generation,
            phase: match self.phase {
                Phase::Preparing => KeptPhase::Preparing,
                Phase::Completing => KeptPhase::Completing,
                Phase::Empty | Phase::Stable => KeptPhase::Stable,
            },
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().filter(|_| !self.members.is_empty()),
            members: members.into_iter().map(kept).collect(),
        }
    }

    /// The group as it was stored; its members have a whole session to be heard of. `None` when it cannot be read.
    pub(crate) fn woken(kept: KeptGroup, now: Instant) -> Option<Group> {
        let phase = match kept.phase {
            _ if kept.members.is_empty() => Phase::Empty,
            KeptPhase::Preparing => Phase::Preparing,
            KeptPhase::Completing => Phase::Completing,
            KeptPhase::Stable => Phase::Stable,
        };
        let mut group = Group {
            phase,
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
                unheard: member.unheard,
                cut_off: member.unheard,
                joining: None,
                syncing: None,
            };
            group.next_number += 1;
            if let Some(instance) = member.instance {
                group.instances.insert(instance, member.id.clone());
            }
            group.members.insert(member.id, woken);
        }
        if matches!(phase, Phase::Preparing | Phase::Completing) {
            group.deadline = Some(now + group.longest_rebalance());
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

    /// Whether something has changed since the last call that must outlive the process.
    pub(crate) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }
}
