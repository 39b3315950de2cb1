//! All consumer groups, and the time in which their members must be heard of.
//!
//! *Invariants*: a group is touched under one lock and never across a wait; a group with a deadline has one task that waits for
//! it, and a group without has none, so that idle groups cost nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use kafka_protocol::error::ResponseError as Code;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::group::{Described, Group, Reply};

/// Most groups that are known at once.
const MOST_GROUPS: usize = 20_000;

/// All groups, by name.
#[derive(Debug, Default)]
pub(crate) struct Coordinator {
    groups: Mutex<BTreeMap<String, Watched>>,
}

#[derive(Debug, Default)]
struct Watched {
    group: Group,
    /// The deadline that a task waits for, and how it is told of an earlier one.
    watch: Option<(Instant, Arc<Notify>)>,
}

/// A group as others see it.
#[derive(Debug, Clone)]
pub(crate) struct Summary {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) protocol_type: String,
    pub(crate) protocol: String,
    pub(crate) members: Vec<Described>,
}

impl Coordinator {
    /// Does something with a group, which is made when it is not there.
    pub(crate) fn with<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut Group, Instant) -> T,
    ) -> Result<T, Code> {
        let mut groups = self.groups.lock();
        if !groups.contains_key(name) && groups.len() >= MOST_GROUPS {
            groups.retain(|_, watched| !watched.group.is_empty());
            if groups.len() >= MOST_GROUPS {
                return Err(Code::CoordinatorNotAvailable);
            }
        }
        let watched = groups.entry(name.to_owned()).or_default();
        let result = act(&mut watched.group, Instant::now());
        self.watch(name, watched);
        Ok(result)
    }

    /// Does something with a group that is there.
    pub(crate) fn with_known<T>(
        self: &Arc<Coordinator>,
        name: &str,
        act: impl FnOnce(&mut Group, Instant) -> T,
    ) -> Option<T> {
        let mut groups = self.groups.lock();
        let watched = groups.get_mut(name)?;
        let result = act(&mut watched.group, Instant::now());
        self.watch(name, watched);
        Some(result)
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
    fn expire(&self, name: &str) -> Option<Instant> {
        let mut groups = self.groups.lock();
        let watched = groups.get_mut(name)?;
        watched.group.expire(Instant::now());
        let next = watched.group.next_deadline();
        match (&mut watched.watch, next) {
            (Some((until, _)), Some(next)) => *until = next,
            (watch, _) => *watch = None,
        }
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

fn summary(name: &str, group: &Group) -> Summary {
    Summary {
        name: name.to_owned(),
        state: group.state(),
        protocol_type: group.protocol_type().to_owned(),
        protocol: group.protocol().to_owned(),
        members: group.describe(),
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
