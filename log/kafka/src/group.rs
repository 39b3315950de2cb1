//! One consumer group: Kafka's classic protocol as a state machine, without network and without waiting.
//!
//! *States*:
//!
//! ```text
//!              first member                all joined, or time is up
//!   Empty ──────────────────▶ Preparing ─────────────────────────────▶ Completing
//!     ▲                        ▲   │ nobody left                           │ the leader's assignment
//!     └────────────────────────┼───┘                                       ▼
//!                              └──── a member joins, leaves, times out ── Stable
//! ```
//!
//! *Invariants*: a generation has one protocol, which all its members know, and one leader; a request of another generation,
//! of a member that is gone, or of a static member that was replaced changes nothing; whoever waits is answered when what it
//! waits for can no longer come.
//!
//! *Failure*: a generation is stored before anybody is told its number, and again before its members get their assignments; it is
//! there after a restart as far as it had come, and members go on as if nothing had been (`kept`, `membership.rs`).
//!
//! *Not here*: offsets (`committed.rs`), time (`coordinator.rs` calls [`Group::expire`] when it has come).

mod kept;
mod told;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use tarn_model::clock::new_id;
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::kept::KeptGroup;
pub(crate) use self::told::{Join, Joined, Reply, Sender, Synced};

/// A new group waits this long for more members before its first generation.
const INITIAL_DELAY: Duration = Duration::from_millis(200);
/// Most bytes of what the members of a group say of themselves together, and of what its leader assigns to them: what is stored of
/// the group fits into a row then.
const MOST_BYTES: usize = 5 << 19;
/// Most members of a group.
const MOST_MEMBERS: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Empty,
    Preparing,
    Completing,
    Stable,
}

#[derive(Debug)]
struct Member {
    /// Members are answered and elected in the order in which they came.
    number: u64,
    instance: Option<String>,
    client_id: String,
    client_host: String,
    session_timeout: Duration,
    rebalance_timeout: Duration,
    protocols: Vec<(String, Bytes)>,
    assignment: Bytes,
    /// When it is given up unless it is heard of.
    deadline: Instant,
    /// Whether it has joined this generation and has not named it yet, so that it may not know of it.
    unheard: bool,
    /// Whether a kill may have taken the answer by which it would know of it.
    cut_off: bool,
    joining: Option<oneshot::Sender<Joined>>,
    syncing: Option<oneshot::Sender<Synced>>,
}

/// A group.
#[derive(Debug)]
pub(crate) struct Group {
    phase: Phase,
    generation: i32,
    protocol_type: Option<String>,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Static members by instance.
    instances: HashMap<String, String>,
    /// Ids that were given and have not joined yet, with the time at which they are forgotten.
    pending: HashMap<String, Instant>,
    /// When the phase ends without those who have not come.
    deadline: Option<Instant>,
    /// A new group's first generation does not begin before.
    not_before: Option<Instant>,
    next_number: u64,
    /// Whether something has changed that must outlive the process.
    unsaved: bool,
}

/// A member as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Described {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) metadata: Bytes,
    pub(crate) assignment: Bytes,
}

impl Member {
    /// Whether it waits for an answer of ours, and so cannot send heartbeats; false once it has hung up.
    fn waits(&self) -> bool {
        self.joining.as_ref().is_some_and(|joining| !joining.is_closed())
            || self.syncing.as_ref().is_some_and(|syncing| !syncing.is_closed())
    }
}

impl Default for Group {
    fn default() -> Group {
        Group {
            phase: Phase::Empty,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: HashMap::new(),
            pending: HashMap::new(),
            deadline: None,
            not_before: None,
            next_number: 0,
            unsaved: false,
        }
    }
}

impl Group {
    /// A member joins, or joins again.
    pub(crate) fn join(&mut self, join: Join, now: Instant) -> Reply<Joined> {
        let refuse = |code: Code| Reply::Now(Joined::refused(code, &join.member));
        // A static member that comes again takes its own place.
        let others = self.members.iter().filter(|(id, member)| {
            **id != join.member && (member.instance.is_none() || member.instance != join.instance)
        });
        let bytes: usize = others.map(|(id, member)| id.len() + member.bytes()).sum();
        if bytes + join.bytes() > MOST_BYTES {
            return refuse(Code::UnknownServerError);
        }
        if !self.supports(&join) {
            return refuse(Code::InconsistentGroupProtocol);
        }
        if join.member.is_empty() {
            return self.join_new(join, now);
        }
        if self.pending.remove(&join.member).is_some() {
            let id = join.member.clone();
            return self.add(id, join, now);
        }
        if let Err(code) = self.check_identity(&join.member, join.instance.as_deref()) {
            return refuse(code);
        }
        let member = self.members.get(&join.member).expect("its identity was checked");
        let unchanged = member.protocols == join.protocols;
        let is_leader = self.leader.as_deref() == Some(&join.member);
        match self.phase {
            Phase::Completing if unchanged => Reply::Now(self.told(&join.member, false)),
            Phase::Stable if unchanged && !is_leader => Reply::Now(self.told(&join.member, false)),
            _ => {
                let answer = self.update(join, now);
                self.prepare(now);
                self.complete_when_all_are_here(now);
                answer
            }
        }
    }

    fn join_new(&mut self, join: Join, now: Instant) -> Reply<Joined> {
        let name = join.instance.as_deref().unwrap_or(&join.client_id);
        let id = format!("{name}-{}", new_id());
        if let Some(old) = join.instance.as_ref().and_then(|instance| self.instances.get(instance)).cloned() {
            return self.replace(&old, id, join, now);
        }
        if self.members.len() + self.pending.len() >= MOST_MEMBERS {
            return Reply::Now(Joined::refused(Code::GroupMaxSizeReached, ""));
        }
        if join.needs_id && join.instance.is_none() {
            self.pending.insert(id.clone(), now + join.session_timeout);
            return Reply::Now(Joined::refused(Code::MemberIdRequired, &id));
        }
        self.add(id, join, now)
    }

    /// A static member comes again under a new id: the old one is fenced, and a generation that it does not change stays.
    fn replace(&mut self, old: &str, id: String, join: Join, now: Instant) -> Reply<Joined> {
        let mut member = self.members.remove(old).expect("instances name members");
        if let Some(joining) = member.joining.take() {
            let _ = joining.send(Joined::refused(Code::FencedInstanceId, old));
        }
        if let Some(syncing) = member.syncing.take() {
            let _ = syncing.send(Synced::refused(Code::FencedInstanceId));
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let was_leader = self.leader.as_deref() == Some(old);
        if was_leader {
            self.leader = Some(id.clone());
        }
        let unchanged = member.protocols == join.protocols;
        self.members.insert(id.clone(), member);
        let answer = self.update(Join { member: id.clone(), ..join }, now);
        if self.phase == Phase::Stable && unchanged {
            self.members.get_mut(&id).expect("just inserted").joining = None;
            self.unsaved = true;
            return Reply::Now(self.told(&id, was_leader));
        }
        self.prepare(now);
        self.complete_when_all_are_here(now);
        answer
    }

    fn add(&mut self, id: String, join: Join, now: Instant) -> Reply<Joined> {
        if self.phase == Phase::Empty {
            self.protocol_type = Some(join.protocol_type.clone());
            self.not_before = Some(now + INITIAL_DELAY.min(join.rebalance_timeout));
        }
        if let Some(instance) = &join.instance {
            self.instances.insert(instance.clone(), id.clone());
        }
        let member = Member {
            number: self.next_number,
            instance: join.instance.clone(),
            client_id: String::new(),
            client_host: String::new(),
            session_timeout: Duration::ZERO,
            rebalance_timeout: Duration::ZERO,
            protocols: Vec::new(),
            assignment: Bytes::new(),
            deadline: now,
            unheard: false,
            cut_off: false,
            joining: None,
            syncing: None,
        };
        self.next_number += 1;
        self.members.insert(id.clone(), member);
        self.leader.get_or_insert_with(|| id.clone());
        let answer = self.update(Join { member: id, ..join }, now);
        self.prepare(now);
        self.complete_when_all_are_here(now);
        answer
    }

    /// Takes over what a member says of itself; it waits for the next generation.
    fn update(&mut self, join: Join, now: Instant) -> Reply<Joined> {
        let member = self.members.get_mut(&join.member).expect("the member is there");
        member.client_id = join.client_id;
        member.client_host = join.client_host;
        member.session_timeout = join.session_timeout;
        member.rebalance_timeout = join.rebalance_timeout;
        member.protocols = join.protocols;
        member.deadline = now + join.session_timeout;
        let (answer, answered) = oneshot::channel();
        if let Some(earlier) = member.joining.replace(answer) {
            let _ = earlier.send(Joined::refused(Code::UnknownMemberId, &join.member));
        }
        Reply::Later(answered)
    }

    /// Begins a rebalance unless one is under way.
    fn prepare(&mut self, now: Instant) {
        if self.phase == Phase::Preparing {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(syncing) = member.syncing.take() {
                let _ = syncing.send(Synced::refused(Code::RebalanceInProgress));
            }
            if self.phase == Phase::Completing {
                member.assignment = Bytes::new();
            }
        }
        if self.phase != Phase::Empty {
            self.not_before = None;
        }
        self.phase = Phase::Preparing;
        self.deadline = Some(now + self.longest_rebalance());
    }

    fn longest_rebalance(&self) -> Duration {
        self.members.values().map(|member| member.rebalance_timeout).max().unwrap_or_default()
    }

    fn complete_when_all_are_here(&mut self, now: Instant) {
        if self.phase != Phase::Preparing {
            return;
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        let early = self.not_before.is_some_and(|not_before| not_before > now);
        let all = self.pending.is_empty() && self.members.values().all(|member| member.joining.is_some());
        if late || all && !early || self.members.is_empty() {
            self.complete_join(now);
        }
    }

    /// Begins the next generation with those who have come, and with static members whose session lasts.
    fn complete_join(&mut self, now: Instant) {
        let gone: Vec<String> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        gone.iter().for_each(|id| self.forget(id));
        self.not_before = None;
        self.generation += 1;
        self.unsaved = true;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            (self.protocol, self.deadline) = (None, None);
            return;
        }
        self.phase = Phase::Completing;
        self.deadline = Some(now + self.longest_rebalance());
        self.protocol = self.elect_protocol();
        let has_joined = |leader: &String| self.members.get(leader).is_some_and(|m| m.joining.is_some());
        if !self.leader.as_ref().is_some_and(has_joined) {
            let joined = self.members.iter().filter(|(_, member)| member.joining.is_some());
            let first = joined.min_by_key(|(_, member)| member.number).map(|(id, _)| id.clone());
            self.leader = first.or(self.leader.take());
        }
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let told = self.told(&id, false);
            let member = self.members.get_mut(&id).expect("listed above");
            member.deadline = now + member.session_timeout;
            let joining = member.joining.take();
            (member.unheard, member.cut_off) = (joining.is_some(), false);
            if let Some(joining) = joining {
                let _ = joining.send(told);
            }
        }
    }

    /// The protocol that most members prefer among those that all know.
    fn elect_protocol(&self) -> Option<String> {
        let known =
            |name: &str| self.members.values().all(|m| m.protocols.iter().any(|(other, _)| other == name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            if let Some((name, _)) = member.protocols.iter().find(|(name, _)| known(name)) {
                *votes.entry(name.as_str()).or_default() += 1;
            }
        }
        let most = votes.values().copied().max()?;
        votes.iter().find(|(_, count)| **count == most).map(|(name, _)| (*name).to_owned())
    }

    /// What a member of this generation is told when it joins.
    fn told(&self, id: &str, skip_assignment: bool) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let members = if leader == id { self.listed() } else { Vec::new() };
        Joined {
            error: 0,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader,
            member: id.to_owned(),
            skip_assignment,
            members,
        }
    }

    fn listed(&self) -> Vec<(String, Option<String>, Bytes)> {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(_, member)| member.number);
        members.iter().map(|(id, m)| ((*id).clone(), m.instance.clone(), self.metadata(m))).collect()
    }

    fn metadata(&self, member: &Member) -> Bytes {
        let of = |name: &String| member.protocols.iter().find(|(other, _)| other == name);
        self.protocol.as_ref().and_then(of).map(|(_, metadata)| metadata.clone()).unwrap_or_default()
    }

    fn supports(&self, join: &Join) -> bool {
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return false;
        }
        if self.members.is_empty() {
            return true;
        }
        let known = |name: &str| {
            let mut others = self.members.iter().filter(|(id, m)| {
                **id != join.member && (m.instance.is_none() || m.instance != join.instance)
            });
            others.all(|(_, m)| m.protocols.iter().any(|(other, _)| other == name))
        };
        self.protocol_type.as_deref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|(name, _)| known(name))
    }

    fn check_identity(&self, member: &str, instance: Option<&str>) -> Result<(), Code> {
        if let Some(instance) = instance {
            return match self.instances.get(instance) {
                None => Err(Code::UnknownMemberId),
                Some(current) if current != member => Err(Code::FencedInstanceId),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(Code::UnknownMemberId) }
    }

    /// The member of this generation that sends a request: it is alive.
    fn hear(&mut self, sender: Sender<'_>, now: Instant) -> Result<&mut Member, Code> {
        self.check_identity(sender.member, sender.instance)?;
        let generation = self.generation;
        let member = self.members.get_mut(sender.member).expect("its identity was checked");
        if sender.generation == generation {
            (member.unheard, member.cut_off) = (false, false);
            member.deadline = now + member.session_timeout;
            return Ok(member);
        }
        // Nobody has taken anything from it, and when it joins again it is told.
        let is_behind = member.cut_off && sender.generation < generation;
        Err(if is_behind { Code::RebalanceInProgress } else { Code::IllegalGeneration })
    }

    /// A member asks for its assignment; the leader brings everybody's.
    pub(crate) fn sync(
        &mut self,
        sender: Sender<'_>,
        (protocol_type, protocol): (Option<&str>, Option<&str>),
        assignments: Vec<(String, Bytes)>,
        now: Instant,
    ) -> Reply<Synced> {
        if let Err(code) = self.hear(sender, now) {
            return Reply::Now(Synced::refused(code));
        }
        let other = |said: Option<&str>, is: &Option<String>| said.is_some() && said != is.as_deref();
        if other(protocol_type, &self.protocol_type) || other(protocol, &self.protocol) {
            return Reply::Now(Synced::refused(Code::InconsistentGroupProtocol));
        }
        match self.phase {
            Phase::Empty => Reply::Now(Synced::refused(Code::UnknownMemberId)),
            Phase::Preparing => Reply::Now(Synced::refused(Code::RebalanceInProgress)),
            Phase::Stable => Reply::Now(self.synced(sender.member)),
            Phase::Completing => {
                let bytes: usize = assignments.iter().map(|(_, assignment)| assignment.len()).sum();
                if bytes > MOST_BYTES {
                    return Reply::Now(Synced::refused(Code::UnknownServerError));
                }
                let (answer, answered) = oneshot::channel();
                let member = self.members.get_mut(sender.member).expect("it was heard of");
                member.syncing = Some(answer);
                if self.leader.as_deref() == Some(sender.member) {
                    self.assign(assignments, now);
                }
                Reply::Later(answered)
            }
        }
    }

    fn assign(&mut self, assignments: Vec<(String, Bytes)>, now: Instant) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        (self.phase, self.unsaved) = (Phase::Stable, true);
        self.deadline = None;
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let synced = self.synced(&id);
            let member = self.members.get_mut(&id).expect("listed above");
            if let Some(syncing) = member.syncing.take() {
                member.deadline = now + member.session_timeout;
                let _ = syncing.send(synced);
            }
        }
    }

    fn synced(&self, id: &str) -> Synced {
        Synced {
            error: 0,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    /// A member is alive.
    pub(crate) fn heartbeat(&mut self, sender: Sender<'_>, now: Instant) -> Result<(), Code> {
        self.hear(sender, now)?;
        if self.phase == Phase::Preparing { Err(Code::RebalanceInProgress) } else { Ok(()) }
    }

    /// A member leaves; a static one may be named by its instance alone.
    pub(crate) fn leave(&mut self, member: &str, instance: Option<&str>, now: Instant) -> Result<(), Code> {
        let id = match instance {
            Some(instance) => {
                let current = self.instances.get(instance).ok_or(Code::UnknownMemberId)?;
                if !member.is_empty() && member != current {
                    return Err(Code::FencedInstanceId);
                }
                current.clone()
            }
            None => member.to_owned(),
        };
        if self.pending.remove(&id).is_none() {
            if !self.members.contains_key(&id) {
                return Err(Code::UnknownMemberId);
            }
            self.forget(&id);
            self.prepare(now);
        }
        self.complete_when_all_are_here(now);
        Ok(())
    }

    fn forget(&mut self, id: &str) {
        let Some(mut member) = self.members.remove(id) else { return };
        self.unsaved = true;
        if let Some(joining) = member.joining.take() {
            let _ = joining.send(Joined::refused(Code::UnknownMemberId, id));
        }
        if let Some(syncing) = member.syncing.take() {
            let _ = syncing.send(Synced::refused(Code::UnknownMemberId));
        }
        if let Some(instance) = &member.instance {
            self.instances.remove(instance);
        }
        if self.leader.as_deref() == Some(id) {
            let next = self.members.iter().min_by_key(|(_, m)| (m.joining.is_none(), m.number));
            self.leader = next.map(|(id, _)| id.clone());
        }
    }

    /// Whether offsets may be committed by this sender: a member of the generation, or who names none, when there are no members.
    pub(crate) fn may_commit(&mut self, sender: Sender<'_>, now: Instant) -> Result<(), Code> {
        if sender.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        self.hear(sender, now)?;
        if self.phase == Phase::Completing { Err(Code::RebalanceInProgress) } else { Ok(()) }
    }

    /// Gives up who was not heard of in time, and ends phases whose time is up.
    pub(crate) fn expire(&mut self, now: Instant) {
        self.pending.retain(|_, deadline| *deadline > now);
        self.not_before = self.not_before.filter(|not_before| *not_before > now);
        let silent = |m: &Member| !m.waits() && m.deadline <= now;
        let mut gone: Vec<String> =
            self.members.iter().filter(|(_, m)| silent(m)).map(|(id, _)| id.clone()).collect();
        let late = self.phase == Phase::Completing && self.deadline.is_some_and(|deadline| deadline <= now);
        if late {
            let silent = self.members.iter().filter(|(_, member)| member.syncing.is_none());
            gone.extend(silent.map(|(id, _)| id.clone()));
        }
        if late || !gone.is_empty() {
            gone.iter().for_each(|id| self.forget(id));
            self.prepare(now);
        }
        self.complete_when_all_are_here(now);
    }

    /// When [`Group::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let members = self.members.values().filter(|member| !member.waits()).map(|member| member.deadline);
        let phase = if self.phase == Phase::Preparing { self.not_before } else { None };
        members.chain(self.pending.values().copied()).chain(self.deadline).chain(phase).min()
    }

    /// Name of the state, as Kafka's tools know it.
    pub(crate) fn state(&self) -> &'static str {
        match self.phase {
            Phase::Empty => "Empty",
            Phase::Preparing => "PreparingRebalance",
            Phase::Completing => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }

    /// Protocol type; empty before anybody joined.
    pub(crate) fn protocol_type(&self) -> &str {
        self.protocol_type.as_deref().unwrap_or_default()
    }

    /// Protocol of the generation; empty without one.
    pub(crate) fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or_default()
    }

    /// Whether nobody is or is about to be in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    /// Its members.
    pub(crate) fn describe(&self) -> Vec<Described> {
        let described = |(id, member): (&String, &Member)| Described {
            member: id.clone(),
            instance: member.instance.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: self.metadata(member),
            assignment: member.assignment.clone(),
        };
        self.members.iter().map(described).collect()
    }
}

#[cfg(test)]
mod tests;
