//! All groups, of both protocols, and the time in which their members must be heard of.
//!
//! *Invariants*: a group is touched under one lock and never across a wait; a group with a deadline has one task that waits for
//! it, and a group without has none, so that idle groups cost nothing. A group changes its protocol only while nobody is in it.
//! Whoever is told something of a group waits until the group is stored as it was then (`membership.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use kafka_protocol::error::ResponseError as Code;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tarn_model::clock::Clock;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::consumers::{ConsumerGroup, DescribedConsumer};
use crate::group::{Described, Group, KeptGroup, Reply, Sender};

/// Most groups that are known at once.
const MOST_GROUPS: usize = 20_000;
/// Longest name of a group, in bytes: the log's.
const LONGEST_NAME: usize = 4 << 10;

/// All groups, by name.
#[derive(Debug)]
pub(crate) struct Coordinator {
    groups: Mutex<BTreeMap<String, Watched>>,
    clock: Arc<dyn Clock>,
    /// Groups that have changed, and are to be stored.
    unsaved: Mutex<BTreeSet<String>>,
    has_unsaved: Notify,
    changes: AtomicU64,
    /// Counts how often groups were stored, or could not be.
    rounds: watch::Sender<u64>,
}

#[derive(Debug)]
struct Watched {
    group: Kind,
    /// Since when nobody is in it, ms since 1970 UTC.
    emptied_ms: Option<i64>,
    progress: Progress,
    /// The deadline that a task waits for, and how it is told of an earlier one.
    watch: Option<(Instant, Arc<Notify>)>,
}

/// Numbers of changes, which count through all groups: a group's last; the last that is stored; the last that could not be; the
/// last that is too large to be.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    change: u64,
    stored: u64,
    refused: u64,
    too_large: u64,
}

/// A group of either protocol.
#[derive(Debug)]
enum Kind {
    Classic(Group),
    Consumer(ConsumerGroup),
}

/// A group as it is to be stored.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Nothing: it is gone.
    pub(crate) text: Option<String>,
    change: u64,
}

/// A group as it is stored.
#[derive(Debug, Serialize, Deserialize)]
struct Kept<C> {
    emptied_ms: Option<i64>,
    group: KeptKind<C>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KeptKind<C> {
    Classic(KeptGroup),
    Consumer(C),
}

/// A group as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Members,
}

/// Who is in a group.
#[derive(Debug, Clone)]
pub(crate) enum Members {
    Classic(Vec<Described>),
    /// With the group's epoch, and that of its target.
    Consumer {
        members: Vec<DescribedConsumer>,
        epoch: i32,
        target_epoch: i32,
        subscribed: Vec<String>,
    },
}

impl Summary {
    /// Name of its protocol's kind, as Kafka's tools know it.
    pub(crate) fn kind(&self) -> &'static str {
        match self.members {
            Members::Classic(_) => "classic",
            Members::Consumer { .. } => "consumer",
        }
    }
}

impl Kind {
    fn is_empty(&self) -> bool {
        match self {
            Kind::Classic(group) => group.is_empty(),
            Kind::Consumer(group) => group.is_empty(),
        }
    }

    fn expire(&mut self, now: Instant) {
        match self {
            Kind::Classic(group) => group.expire(now),
            Kind::Consumer(group) => group.expire(now),
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        match self {
            Kind::Classic(group) => group.next_deadline(),
            Kind::Consumer(group) => group.next_deadline(),
        }
    }

    fn take_unsaved(&mut self) -> bool {
        match self {
            Kind::Classic(group) => group.take_unsaved(),
            Kind::Consumer(group) => group.take_unsaved(),
        }
    }
}

impl Watched {
    fn new(group: Kind) -> Watched {
        Watched { group, emptied_ms: None, progress: Progress::default(), watch: None }
    }
}

impl Coordinator {
    /// No groups yet.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Coordinator {
        Coordinator {
            groups: Mutex::default(),
            clock,
            unsaved: Mutex::default(),
            has_unsaved: Notify::new(),
            changes: AtomicU64::new(0),
            rounds: watch::Sender::new(0),
        }
    }

    /// Takes over the groups that were stored before the process began; one that cannot be read is as one that is new.
    pub(crate) fn wake(self: &Arc<Coordinator>, rows: Vec<(String, String)>) {
        let (mut groups, now) = (self.groups.lock(), Instant::now());
        for (name, row) in rows.into_iter().take(MOST_GROUPS) {
            let woken = serde_json::from_str::<Kept<ConsumerGroup>>(&row).ok().and_then(|kept| {
                let group = match kept.group {
                    KeptKind::Classic(group) => Kind::Classic(Group::woken(group, now)?),
                    KeptKind::Consumer(mut group) => {
                        group.wake(now);
                        Kind::Consumer(group)
                    }
                };
                Some(Watched { emptied_ms: kept.emptied_ms, ..Watched::new(group) })
            });
            let Some(mut watched) = woken else {
                tracing::warn!(
                    group = name,
                    "what was stored of a group cannot be read; its members join again"
                );
                continue;
            };
            self.settle(&name, &mut watched);
            groups.insert(name, watched);
        }
    }

    /// Does something with a classic group, which is made when it is not there.
    pub(crate) fn with<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut Group, Instant) -> T,
    ) -> Result<T, Code> {
        let mut groups = self.groups.lock();
        let watched = Coordinator::entry(&mut groups, name, || Kind::Classic(Group::default()))?;
        if let Kind::Consumer(group) = &watched.group {
            if !group.is_empty() {
                return Err(Code::InconsistentGroupProtocol);
            }
            watched.group = Kind::Classic(Group::after(group.epoch()));
        }
        let Kind::Classic(group) = &mut watched.group else { return Err(Code::UnknownServerError) };
        let result = act(group, Instant::now());
        self.settle(name, watched);
        Ok(result)
    }

    /// Does something with a group of the new protocol, which is made when it is not there.
    pub(crate) fn with_consumers<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut ConsumerGroup, Instant) -> T,
    ) -> Result<T, Code> {
        let mut groups = self.groups.lock();
        let watched = Coordinator::entry(&mut groups, name, || Kind::Consumer(ConsumerGroup::default()))?;
        if let Kind::Classic(group) = &watched.group {
            if !group.is_empty() {
                return Err(Code::GroupIdNotFound);
            }
            watched.group = Kind::Consumer(ConsumerGroup::after(group.generation()));
        }
        let Kind::Consumer(group) = &mut watched.group else { return Err(Code::UnknownServerError) };
        let result = act(group, Instant::now());
        self.settle(name, watched);
        Ok(result)
    }

    /// Does something with a group of the new protocol that is there.
    pub(crate) fn with_known_consumers<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut ConsumerGroup, Instant) -> T,
    ) -> Result<T, Code> {
        let mut groups = self.groups.lock();
        // Whoever takes itself for a member joins then, and learns more.
        let watched = groups.get_mut(name).ok_or(Code::UnknownMemberId)?;
        let Kind::Consumer(group) = &mut watched.group else { return Err(Code::UnknownMemberId) };
        let result = act(group, Instant::now());
        self.settle(name, watched);
        Ok(result)
    }

    fn entry<'a>(
        groups: &'a mut BTreeMap<String, Watched>,
        name: &str,
        new: impl FnOnce() -> Kind,
    ) -> Result<&'a mut Watched, Code> {
        if name.len() > LONGEST_NAME {
            return Err(Code::InvalidGroupId);
        }
        if !groups.contains_key(name) && groups.len() >= MOST_GROUPS {
            groups.retain(|_, watched| !watched.group.is_empty());
            if groups.len() >= MOST_GROUPS {
                return Err(Code::CoordinatorNotAvailable);
            }
        }
        Ok(groups.entry(name.to_owned()).or_insert_with(|| Watched::new(new())))
    }

    /// Does something with a classic group that is there.
    pub(crate) fn with_known<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut Group, Instant) -> T,
    ) -> Option<T> {
        let mut groups = self.groups.lock();
        let watched = groups.get_mut(name)?;
        let Kind::Classic(group) = &mut watched.group else { return None };
        let result = act(group, Instant::now());
        self.settle(name, watched);
        Some(result)
    }

    /// Whether this sender may commit offsets of a group; `None` when the group is not there.
    pub(crate) fn may_commit(
        self: &Arc<Coordinator>,
        name: &str,
        sender: Sender<'_>,
    ) -> Option<Result<(), Code>> {
        let mut groups = self.groups.lock();
        let watched = groups.get_mut(name)?;
        let allowed = match &mut watched.group {
            Kind::Classic(group) => group.may_commit(sender, Instant::now()),
            Kind::Consumer(group) => group.may_commit(sender),
        };
        self.settle(name, watched);
        Some(allowed)
    }

    /// Whether this sender, who says that it is a member of the new protocol, may read offsets of a group.
    pub(crate) fn may_read(&self, name: &str, sender: Sender<'_>) -> Result<(), Code> {
        match self.groups.lock().get(name).map(|watched| &watched.group) {
            Some(Kind::Consumer(group)) => group.may_commit(sender),
            // It shares nothing with others.
            Some(Kind::Classic(_)) | None if sender.generation < 0 => Ok(()),
            Some(Kind::Classic(_)) | None => Err(Code::UnknownMemberId),
        }
    }

    /// Forgets a group without members; `false` when it has some.
    pub(crate) fn forget(&self, name: &str) -> bool {
        let mut groups = self.groups.lock();
        if groups.get(name).is_some_and(|watched| !watched.group.is_empty()) {
            return false;
        }
        groups.remove(name);
        true
    }

    /// One group.
    pub(crate) fn describe(&self, name: &str) -> Option<Summary> {
        let groups = self.groups.lock();
        groups.get(name).map(|watched| summary(name, &watched.group))
    }

    /// All groups.
    pub(crate) fn list(&self) -> Vec<Summary> {
        self.groups.lock().iter().map(|(name, watched)| summary(name, &watched.group)).collect()
    }

    /// Groups that nobody is in, and since when.
    pub(crate) fn empty(&self) -> Vec<(String, Option<i64>)> {
        let groups = self.groups.lock();
        let empty = groups.iter().filter(|(_, watched)| watched.group.is_empty());
        empty.map(|(name, watched)| (name.clone(), watched.emptied_ms)).collect()
    }

    /// Waits until a group is stored as it is now; an error is for a client that may try again.
    pub(crate) async fn stored(&self, name: &str) -> Result<(), Code> {
        let mut rounds = self.rounds.subscribe();
        let Some(Progress { change, stored, too_large, .. }) = self.progress(name) else { return Ok(()) };
        if stored >= change {
            return Ok(());
        }
        if too_large >= change {
            return Err(Code::UnknownServerError);
        }
        while rounds.changed().await.is_ok() {
            match self.progress(name) {
                Some(now) if now.stored < change && now.too_large >= change => {
                    return Err(Code::UnknownServerError);
                }
                Some(now) if now.stored < change && now.refused >= change => break,
                Some(now) if now.stored < change => {}
                _ => return Ok(()),
            }
        }
        Err(Code::CoordinatorNotAvailable)
    }

    fn progress(&self, name: &str) -> Option<Progress> {
        self.groups.lock().get(name).map(|watched| watched.progress)
    }

    /// Waits for groups that have changed.
    pub(crate) async fn unsaved(&self) -> BTreeSet<String> {
        loop {
            let unsaved = std::mem::take(&mut *self.unsaved.lock());
            if !unsaved.is_empty() {
                return unsaved;
            }
            self.has_unsaved.notified().await;
        }
    }

    /// What is to be stored of a group as it is.
    pub(crate) fn row(&self, name: String) -> Row {
        let groups = self.groups.lock();
        let Some(watched) = groups.get(&name) else { return Row { name, text: None, change: 0 } };
        let group = match &watched.group {
            Kind::Classic(group) => KeptKind::Classic(group.kept()),
            Kind::Consumer(group) => KeptKind::Consumer(group),
        };
        let text = serde_json::to_string(&Kept { emptied_ms: watched.emptied_ms, group }).ok();
        Row { name, text, change: watched.progress.change }
    }

    /// These rows are stored, or could not be: answers that waited for that go out.
    pub(crate) fn done(&self, rows: &[Row], is_stored: bool) {
        let mut groups = self.groups.lock();
        for row in rows {
            if let Some(Watched { progress, .. }) = groups.get_mut(&row.name) {
                let last = if is_stored { &mut progress.stored } else { &mut progress.refused };
                *last = row.change.max(*last);
            }
        }
        drop(groups);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// This row is too large to be stored: what was stored of the group stays, and answers that waited for it say so.
    pub(crate) fn too_large(&self, row: &Row) {
        if let Some(Watched { progress, .. }) = self.groups.lock().get_mut(&row.name) {
            progress.too_large = row.change.max(progress.too_large);
        }
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// A group is to be stored, soon.
    pub(crate) fn store_soon(&self, name: &str) {
        self.unsaved.lock().insert(name.to_owned());
        self.has_unsaved.notify_one();
    }

    /// After every change: what follows from it.
    fn settle(self: &Arc<Coordinator>, name: &str, watched: &mut Watched) {
        if !watched.group.is_empty() {
            watched.emptied_ms = None;
        } else if watched.emptied_ms.is_none() {
            watched.emptied_ms = Some(self.clock.now_ms());
        }
        self.watch(name, watched);
        if watched.group.take_unsaved() {
            watched.progress.change = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
            self.store_soon(name);
        }
    }

    fn watch(self: &Arc<Coordinator>, name: &str, watched: &mut Watched) {
        let Some(deadline) = watched.group.next_deadline() else { return };
        match &mut watched.watch {
            Some((until, _)) if *until <= deadline => {}
            Some((until, earlier)) => {
                *until = deadline;
                earlier.notify_one();
            }
            none => {
                let earlier = Arc::new(Notify::new());
                *none = Some((deadline, Arc::clone(&earlier)));
                tokio::spawn(wait(Arc::downgrade(self), name.to_owned(), deadline, earlier));
            }
        }
    }

    /// The time of a group has come: returns how long to wait next, if at all.
    fn expire(self: &Arc<Coordinator>, name: &str) -> Option<Instant> {
        let mut groups = self.groups.lock();
        let watched = groups.get_mut(name)?;
        watched.group.expire(Instant::now());
        let next = watched.group.next_deadline();
        match (&mut watched.watch, next) {
            (Some((until, _)), Some(next)) => *until = next,
            (watch, _) => *watch = None,
        }
        self.settle(name, watched);
        next
    }
}

/// Waits for a group's deadlines, one after the other, as long as there are any.
async fn wait(coordinator: Weak<Coordinator>, name: String, mut deadline: Instant, earlier: Arc<Notify>) {
    loop {
        if tokio::time::timeout_at(deadline, earlier.notified()).await.is_ok() {
            tracing::trace!(group = name, "an earlier deadline");
        }
        let Some(coordinator) = coordinator.upgrade() else { return };
        match coordinator.expire(&name) {
            Some(next) => deadline = next,
            None => return,
        }
    }
}

fn summary(name: &str, group: &Kind) -> Summary {
    let name = name.to_owned();
    match group {
        Kind::Classic(group) => Summary {
            name,
            state: group.state(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: group.protocol().to_owned(),
            members: Members::Classic(group.describe()),
        },
        Kind::Consumer(group) => Summary {
            name,
            state: group.state(),
            protocol_type: "consumer".to_owned(),
            protocol: group.assignor().to_owned(),
            members: Members::Consumer {
                members: group.describe(),
                epoch: group.epoch(),
                target_epoch: group.target_epoch(),
                subscribed: group.subscribed().cloned().collect(),
            },
        },
    }
}

impl<T> Reply<T> {
    /// Waits for the answer, if it is not there yet; `None` when the group is gone.
    pub(crate) async fn wait(self) -> Option<T> {
        match self {
            Reply::Now(answer) => Some(answer),
            Reply::Later(answer) => answer.await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tarn_model::clock;

    use super::*;
    use crate::group::Join;

    /// Somebody joins a group, whose generation begins.
    fn join(coordinator: &Arc<Coordinator>, client: &str) {
        let join = Join {
            member: String::new(),
            instance: None,
            client_id: client.to_owned(),
            client_host: String::new(),
            session_timeout: Duration::from_secs(3600),
            rebalance_timeout: Duration::from_secs(3600),
            protocol_type: "consumer".to_owned(),
            protocols: vec![("range".to_owned(), Bytes::new())],
            needs_id: false,
        };
        let joined = coordinator.with("g", |group, now| {
            let reply = group.join(join, now);
            group.expire(now + Duration::from_secs(1));
            reply
        });
        assert!(joined.is_ok());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_group_that_is_too_large_to_be_stored_is_told_so() {
        let coordinator = Arc::new(Coordinator::new(clock::system()));
        join(&coordinator, "one");
        let row = coordinator.row("g".to_owned());
        let mut waits = Box::pin(coordinator.stored("g"));
        assert!(futures::poll!(&mut waits).is_pending());
        coordinator.too_large(&row);
        assert_eq!(waits.await, Err(Code::UnknownServerError));
        assert_eq!(coordinator.stored("g").await, Err(Code::UnknownServerError), "also who comes later");
        // It changes, and fits.
        coordinator.with("g", |group, now| group.expire(now + Duration::from_secs(7200))).expect("a group");
        let row = coordinator.row("g".to_owned());
        let mut waits = Box::pin(coordinator.stored("g"));
        assert!(futures::poll!(&mut waits).is_pending());
        coordinator.done(&[row], true);
        assert_eq!(waits.await, Ok(()));
    }
}
