//! One consumer group of the new protocol (KIP-848): the broker shares out the partitions, and members take and leave them one
//! heartbeat at a time.
//!
//! *Epochs*: every change of members, subscriptions or topics begins an epoch of the group; the shares are made anew for it (the
//! target); each member moves to the newest target by itself, and its epoch then is the target's.
//!
//! ```text
//!            target has less          all of it given up            target has what others still hold
//!   Stable ───────────────▶ Revoking ───────────────────▶ (again) ─────────────────────────────────▶ Waiting
//!     ▲                                                      │ target reached                           │ they let go
//!     └──────────────────────────────────────────────────────┴──────────────────────────────────────────┘
//! ```
//!
//! *Invariants*: a partition is in the hands (assigned, or being given up) of one member at most, so a member gets none before
//! the one that had it has said that it has let go, or is given up itself; a member of another epoch changes nothing, but for
//! one whose last answer was lost.
//!
//! *Failure*: what a member is told stands in the log's ledger first (`membership.rs`), so after a restart members go on.
//!
//! *Not here*: who may read which topic; racks; members of the classic protocol in the same group.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use kafka_protocol::error::ResponseError as Code;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use tarn_model::PartitionId;
use tarn_model::clock::new_id;
use tokio::time::Instant;
use uuid::Uuid;

use crate::assignment::Assignment;
#[cfg(test)]
use crate::assignment::Place;
use crate::assignor::{Assignor, Subscriber};
use crate::group::Sender;

/// A member that is not heard of for so long is given up; as in Kafka.
pub(crate) const SESSION: Duration = Duration::from_secs(45);
/// How often members are to send a heartbeat.
pub(crate) const BEAT_EVERY: Duration = Duration::from_secs(2);
/// Most members of a group.
const MOST_MEMBERS: usize = 1000;
/// Topics are looked at anew for regular expressions at most this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Longest regular expression, and the memory that one may take.
const LONGEST_PATTERN: usize = 1 << 10;
const PATTERN_BYTES: usize = 1 << 20;

/// A member that leaves for good.
pub(crate) const LEAVES: i32 = -1;
/// A static member that will come back.
pub(crate) const COMES_BACK: i32 = -2;

/// The topics that there are.
pub(crate) trait Topics {
    /// Identity and number of partitions.
    fn topic(&self, name: &str) -> Option<(Uuid, PartitionId)>;
    /// All their names.
    fn names(&self) -> Vec<String>;
}

/// A heartbeat; what is `None` is as it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct Beat {
    pub(crate) member: String,
    pub(crate) epoch: i32,
    pub(crate) instance: Option<String>,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) rebalance_timeout: Option<Duration>,
    pub(crate) names: Option<Vec<String>>,
    /// Empty: no expression any more.
    pub(crate) pattern: Option<String>,
    pub(crate) assignor: Option<String>,
    pub(crate) owned: Option<Assignment>,
}

/// What a member is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Beaten {
    pub(crate) member: String,
    pub(crate) epoch: i32,
    /// `None`: as before.
    pub(crate) assignment: Option<Assignment>,
}

/// How far a member is on its way to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// There, or at an older target.
    Stable,
    /// It has to give up partitions first.
    Revoking,
    /// It is to have partitions that others have not given up yet.
    Waiting,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Member {
    instance: Option<String>,
    client_id: String,
    client_host: String,
    rebalance_timeout: Duration,
    names: BTreeSet<String>,
    pattern: Option<String>,
    assignor: Option<Assignor>,
    epoch: i32,
    previous_epoch: i32,
    stage: Stage,
    assigned: Assignment,
    revoking: Assignment,
    target: Assignment,
    /// When it is given up unless it is heard of. After a restart it has as long again.
    #[serde(skip, default = "Instant::now")]
    deadline: Instant,
    /// When it is given up unless it has given up `revoking`.
    #[serde(skip)]
    revoke_by: Option<Instant>,
}

/// A member as others see it.
#[derive(Debug, Clone)]
pub(crate) struct DescribedConsumer {
    pub(crate) member: String,
    pub(crate) instance: Option<String>,
    pub(crate) epoch: i32,
    pub(crate) client_id: String,
    pub(crate) client_host: String,
    pub(crate) names: Vec<String>,
    pub(crate) pattern: Option<String>,
    pub(crate) assigned: Assignment,
    pub(crate) target: Assignment,
}

/// A group.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct ConsumerGroup {
    epoch: i32,
    target_epoch: i32,
    assignor: Option<Assignor>,
    members: BTreeMap<String, Member>,
    /// What members subscribe to, as it was when the epoch began.
    topics: BTreeMap<String, (Uuid, PartitionId)>,
    #[serde(skip)]
    patterns: Patterns,
    /// Whether something has changed that must outlive the process.
    #[serde(skip)]
    unsaved: bool,
}

/// Members' regular expressions, and the topics that they found.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    /// `None` where it is none.
    compiled: HashMap<String, Option<Regex>>,
    found: HashMap<String, BTreeSet<String>>,
    looked: Option<Instant>,
}

impl Patterns {
    pub(crate) fn compile(pattern: &str) -> Result<Regex, Code> {
        if pattern.len() > LONGEST_PATTERN {
            return Err(Code::InvalidRegularExpression);
        }
        // Of a name, not of a part of it.
        RegexBuilder::new(&format!("^(?:{pattern})$"))
            .size_limit(PATTERN_BYTES)
            .build()
            .map_err(|_| Code::InvalidRegularExpression)
    }

    /// Looks which topics fit, when there is a new expression or the last look is old.
    fn look(&mut self, wanted: &BTreeSet<&str>, topics: &dyn Topics, now: Instant) {
        let is_new = wanted.len() != self.found.len() || wanted.iter().any(|p| !self.found.contains_key(*p));
        if wanted.is_empty() || !is_new && self.looked.is_some_and(|at| now < at + LOOK_EVERY) {
            self.found.retain(|pattern, _| wanted.contains(pattern.as_str()));
            return;
        }
        self.looked = Some(now);
        let names = topics.names();
        self.compiled.retain(|pattern, _| wanted.contains(pattern.as_str()));
        self.found = wanted
            .iter()
            .map(|pattern| {
                let compiled = self.compiled.entry((*pattern).to_owned());
                let regex = compiled.or_insert_with(|| Patterns::compile(pattern).ok()).as_ref();
                let fits = |name: &&String| regex.is_some_and(|regex| regex.is_match(name));
                ((*pattern).to_owned(), names.iter().filter(fits).cloned().collect())
            })
            .collect();
    }
}

impl ConsumerGroup {
    /// A group that was another's before: its epochs go on behind those.
    pub(crate) fn after(epoch: i32) -> ConsumerGroup {
        ConsumerGroup { epoch, target_epoch: epoch, ..ConsumerGroup::default() }
    }

    /// What outlives the process is there again: every member has a whole session to be heard of.
    pub(crate) fn wake(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.deadline = now + SESSION;
            member.revoke_by = (member.stage == Stage::Revoking).then(|| now + member.rebalance_timeout);
        }
    }

    /// A member is heard of.
    pub(crate) fn beat(&mut self, beat: Beat, topics: &dyn Topics, now: Instant) -> Result<Beaten, Code> {
        if matches!(beat.epoch, LEAVES | COMES_BACK) {
            return self.leave(&beat, now);
        }
        let assignor = match &beat.assignor {
            Some(name) => Some(Assignor::named(name).ok_or(Code::UnsupportedAssignor)?),
            None => None,
        };
        if let Some(pattern) = beat.pattern.as_deref().filter(|pattern| !pattern.is_empty()) {
            Patterns::compile(pattern)?;
        }
        let (id, is_new) = self.identify(&beat, now)?;
        let mut changed = is_new;
        changed |= self.subscribe(&id, &beat, assignor);
        changed |= self.look(topics, now);
        if changed {
            self.epoch += 1;
        }
        if self.target_epoch != self.epoch {
            self.share();
        }
        self.unsaved |= changed;
        let moved = self.reconcile(&id, beat.owned.as_ref(), now);
        let subscribes = beat.names.is_some() || beat.pattern.is_some();
        let is_whole =
            beat.epoch == 0 || beat.rebalance_timeout.is_some() && subscribes && beat.owned.is_some();
        let member = self.members.get_mut(&id).expect("it was found above");
        member.deadline = now + SESSION;
        Ok(Beaten {
            epoch: member.epoch,
            assignment: (is_whole || moved).then(|| member.assigned.clone()),
            member: id,
        })
    }

    /// Who sends a heartbeat, and whether it is new.
    fn identify(&mut self, beat: &Beat, now: Instant) -> Result<(String, bool), Code> {
        let mut id = beat.member.clone();
        if id.is_empty() {
            // The first version of the request leaves it to us.
            id = new_id().to_string();
        }
        let holder = beat.instance.as_ref().and_then(|instance| self.holder(instance)).map(str::to_owned);
        if beat.epoch > 0 {
            match (&beat.instance, &holder) {
                (Some(_), None) => return Err(Code::UnknownMemberId),
                (Some(_), Some(holder)) if *holder != id => return Err(Code::FencedInstanceId),
                _ => {}
            }
            let member = self.members.get(&id).ok_or(Code::UnknownMemberId)?;
            member.check_epoch(beat.epoch, beat.owned.as_ref())?;
            return Ok((id, false));
        }
        match holder {
            Some(old) if old != id => {
                if self.members.get(&old).is_some_and(|member| member.epoch != COMES_BACK) {
                    return Err(Code::UnreleasedInstanceId);
                }
                // It is back under another id, with what it had.
                let mut member = self.members.remove(&old).expect("a holder is a member");
                (member.epoch, member.previous_epoch) = (0, 0);
                self.members.insert(id.clone(), member);
                self.unsaved = true;
                return Ok((id, false));
            }
            _ => {}
        }
        let is_new = !self.members.contains_key(&id);
        if is_new {
            if self.members.len() >= MOST_MEMBERS {
                return Err(Code::GroupMaxSizeReached);
            }
            self.members.insert(id.clone(), Member::new(beat.instance.clone(), now));
        }
        Ok((id, is_new))
    }

    /// The member of a static name.
    fn holder(&self, instance: &str) -> Option<&str> {
        let has = |member: &Member| member.instance.as_deref() == Some(instance);
        self.members.iter().find(|(_, member)| has(member)).map(|(id, _)| id.as_str())
    }

    fn leave(&mut self, beat: &Beat, now: Instant) -> Result<Beaten, Code> {
        if let Some(instance) = &beat.instance {
            let holder = self.holder(instance).ok_or(Code::UnknownMemberId)?;
            if holder != beat.member {
                return Err(Code::FencedInstanceId);
            }
        }
        let member = self.members.get_mut(&beat.member).ok_or(Code::UnknownMemberId)?;
        if beat.epoch == COMES_BACK && member.instance.is_some() {
            (member.epoch, member.previous_epoch) = (COMES_BACK, COMES_BACK);
            (member.revoke_by, member.deadline) = (None, now + SESSION);
        } else {
            self.members.remove(&beat.member);
            self.epoch += 1;
        }
        self.unsaved = true;
        Ok(Beaten { member: beat.member.clone(), epoch: beat.epoch, assignment: None })
    }

    /// Takes over what a member says of itself; whether it subscribes to something else now.
    fn subscribe(&mut self, id: &str, beat: &Beat, assignor: Option<Assignor>) -> bool {
        let member = self.members.get_mut(id).expect("it was found above");
        if !beat.client_id.is_empty() || !beat.client_host.is_empty() {
            (member.client_id, member.client_host) = (beat.client_id.clone(), beat.client_host.clone());
        }
        if let Some(timeout) = beat.rebalance_timeout {
            member.rebalance_timeout = timeout;
        }
        let before = (member.names.clone(), member.pattern.clone(), member.assignor);
        if let Some(names) = &beat.names {
            member.names = names.iter().cloned().collect();
        }
        if let Some(pattern) = &beat.pattern {
            member.pattern = Some(pattern.clone()).filter(|pattern| !pattern.is_empty());
        }
        member.assignor = assignor.or(member.assignor);
        before != (member.names.clone(), member.pattern.clone(), member.assignor)
    }

    /// Whether the topics that members subscribe to are others than they were.
    fn look(&mut self, topics: &dyn Topics, now: Instant) -> bool {
        let wanted = self.members.values().filter_map(|member| member.pattern.as_deref()).collect();
        self.patterns.look(&wanted, topics, now);
        let named = self.members.values().flat_map(|member| member.names.iter());
        let found = self.patterns.found.values().flatten();
        let all: BTreeSet<&String> = named.chain(found).collect();
        let topics: BTreeMap<String, (Uuid, PartitionId)> =
            all.into_iter().filter_map(|name| Some((name.clone(), topics.topic(name)?))).collect();
        if topics == self.topics {
            return false;
        }
        self.topics = topics;
        true
    }

    /// Identities of the topics that a member subscribes to.
    fn topics_of(&self, member: &Member) -> BTreeSet<Uuid> {
        let found = member.pattern.as_ref().and_then(|pattern| self.patterns.found.get(pattern));
        let names = member.names.iter().chain(found.into_iter().flatten());
        names.filter_map(|name| self.topics.get(name).map(|(id, _)| *id)).collect()
    }

    /// Makes the shares of the newest epoch.
    fn share(&mut self) {
        let mut votes: BTreeMap<Assignor, usize> = BTreeMap::new();
        for assignor in self.members.values().filter_map(|member| member.assignor) {
            *votes.entry(assignor).or_default() += 1;
        }
        // Of two with as many votes the first.
        let most = votes.iter().max_by_key(|(assignor, count)| (**count, std::cmp::Reverse(**assignor)));
        let assignor = most.map_or(Assignor::Uniform, |(assignor, _)| *assignor);
        let topics: BTreeMap<Uuid, PartitionId> = self.topics.values().copied().collect();
        let wanted: Vec<BTreeSet<Uuid>> = self.members.values().map(|m| self.topics_of(m)).collect();
        let subscribers: Vec<Subscriber<'_>> = self
            .members
            .iter()
            .zip(&wanted)
            .map(|((id, member), topics)| Subscriber {
                name: member.instance.as_deref().unwrap_or(id),
                topics,
                had: &member.target,
            })
            .collect();
        let shares = assignor.share(&subscribers, &topics);
        for (member, share) in self.members.values_mut().zip(shares) {
            member.target = share;
        }
        (self.assignor, self.target_epoch, self.unsaved) = (Some(assignor), self.epoch, true);
    }

    /// Moves a member towards its target; whether what it is told to have is something else now.
    fn reconcile(&mut self, id: &str, owned: Option<&Assignment>, now: Instant) -> bool {
        let member = &self.members[id];
        let gives_up = |revoking: &Assignment| owned.is_some_and(|owned| owned.and(revoking).is_empty());
        let is_next = match member.stage {
            Stage::Stable => member.epoch != self.target_epoch,
            Stage::Revoking => gives_up(&member.revoking),
            Stage::Waiting => true,
        };
        if !is_next {
            return false;
        }
        let mut assigned = member.target.and(&member.assigned);
        let revoking = member.assigned.without(&member.target);
        let missing = member.target.without(&assigned);
        let (stage, epoch) = if !revoking.is_empty() && !gives_up(&revoking) {
            (Stage::Revoking, member.epoch)
        } else {
            let taken = if missing.is_empty() { Assignment::new() } else { self.in_hands_of_others(id) };
            let free = missing.without(&taken);
            let has_to_wait = free.len() < missing.len();
            assigned.extend(free.iter());
            (if has_to_wait { Stage::Waiting } else { Stage::Stable }, self.target_epoch)
        };
        let member = self.members.get_mut(id).expect("it was found above");
        let revoking = if stage == Stage::Revoking { revoking } else { Assignment::new() };
        let moved = assigned != member.assigned;
        let is_other = moved || (stage, epoch) != (member.stage, member.epoch) || revoking != member.revoking;
        if epoch != member.epoch {
            member.previous_epoch = member.epoch;
        }
        let timeout = member.rebalance_timeout;
        member.revoke_by = (stage == Stage::Revoking).then(|| now + timeout);
        (member.stage, member.epoch, member.assigned, member.revoking) = (stage, epoch, assigned, revoking);
        self.unsaved |= is_other;
        moved
    }

    fn in_hands_of_others(&self, id: &str) -> Assignment {
        let others = self.members.iter().filter(|(other, _)| *other != id);
        others.flat_map(|(_, member)| member.assigned.iter().chain(member.revoking.iter())).collect()
    }

    /// Gives up who was not heard of in time, and who kept what it was to give up.
    pub(crate) fn expire(&mut self, now: Instant) {
        let before = self.members.len();
        self.members.retain(|id, member| {
            let stays = member.deadline > now && member.revoke_by.is_none_or(|by| by > now);
            if !stays {
                tracing::info!(member = %id, "a consumer is given up");
            }
            stays
        });
        if self.members.len() < before {
            self.epoch += 1;
            self.unsaved = true;
        }
    }

    /// When [`ConsumerGroup::expire`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let members = self.members.values();
        members.flat_map(|member| std::iter::once(member.deadline).chain(member.revoke_by)).min()
    }

    /// Whether offsets may be committed or read by this sender: a member of its epoch; anybody who names no epoch, when
    /// there are no members.
    pub(crate) fn may_commit(&self, sender: Sender<'_>) -> Result<(), Code> {
        if sender.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(sender.member).ok_or(Code::UnknownMemberId)?;
        if member.epoch == sender.generation { Ok(()) } else { Err(Code::StaleMemberEpoch) }
    }

    /// Whether nobody is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn epoch(&self) -> i32 {
        self.epoch
    }

    pub(crate) fn target_epoch(&self) -> i32 {
        self.target_epoch
    }

    /// Name of the way in which it shares out.
    pub(crate) fn assignor(&self) -> &'static str {
        self.assignor.unwrap_or(Assignor::Uniform).name()
    }

    /// Name of the state, as Kafka's tools know it.
    pub(crate) fn state(&self) -> &'static str {
        if self.members.is_empty() {
            "Empty"
        } else if self.epoch > self.target_epoch {
            "Assigning"
        } else if self.members.values().all(|m| m.stage == Stage::Stable && m.epoch == self.target_epoch) {
            "Stable"
        } else {
            "Reconciling"
        }
    }

    /// Names of the topics that members subscribe to.
    pub(crate) fn subscribed(&self) -> impl Iterator<Item = &String> {
        self.topics.keys()
    }

    /// Whether something has changed since the last call.
    pub(crate) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// Its members.
    pub(crate) fn describe(&self) -> Vec<DescribedConsumer> {
        let described = |(id, member): (&String, &Member)| DescribedConsumer {
            member: id.clone(),
            instance: member.instance.clone(),
            epoch: member.epoch,
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            names: member.names.iter().cloned().collect(),
            pattern: member.pattern.clone(),
            assigned: member.assigned.clone(),
            target: member.target.clone(),
        };
        self.members.iter().map(described).collect()
    }

    /// Who has a partition in hand.
    #[cfg(test)]
    fn holders(&self, place: Place) -> usize {
        self.members.values().filter(|m| m.assigned.contains(place) || m.revoking.contains(place)).count()
    }
}

impl Member {
    fn new(instance: Option<String>, now: Instant) -> Member {
        Member {
            instance,
            client_id: String::new(),
            client_host: String::new(),
            rebalance_timeout: SESSION,
            names: BTreeSet::new(),
            pattern: None,
            assignor: None,
            epoch: 0,
            previous_epoch: 0,
            stage: Stage::Stable,
            assigned: Assignment::new(),
            revoking: Assignment::new(),
            target: Assignment::new(),
            deadline: now + SESSION,
            revoke_by: None,
        }
    }

    /// The epoch must be its own; or the one before it, from a member that has nothing but what it was told then.
    fn check_epoch(&self, epoch: i32, owned: Option<&Assignment>) -> Result<(), Code> {
        let missed_it =
            epoch == self.previous_epoch && owned.is_some_and(|owned| owned.is_within(&self.assigned));
        if epoch == self.epoch || missed_it { Ok(()) } else { Err(Code::FencedMemberEpoch) }
    }
}

#[cfg(test)]
mod tests;
