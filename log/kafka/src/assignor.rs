//! How a group's partitions are shared out among its members, where the broker does it (KIP-848).
//!
//! *Invariants*: every partition of a topic that somebody subscribes to is one such member's; nobody gets a topic that it does not
//! subscribe to; the same members with the same shares get the same again.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use tarn_model::PartitionId;
use uuid::Uuid;

use crate::assignment::{Assignment, Place};

/// A way to share out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Assignor {
    /// As many partitions for each as can be, and as few moves.
    Uniform,
    /// Of every topic, neighbouring partitions for each: the same numbers of topics that have as many.
    Range,
}

/// A member as an assignor sees it.
#[derive(Debug)]
pub(crate) struct Subscriber<'a> {
    /// What members are sorted by: a static one's instance, else its id.
    pub(crate) name: &'a str,
    pub(crate) topics: &'a BTreeSet<Uuid>,
    /// What it was to have so far.
    pub(crate) had: &'a Assignment,
}

impl Assignor {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<Assignor> {
        match name {
            "uniform" => Some(Assignor::Uniform),
            "range" => Some(Assignor::Range),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// A share for each of `members`, in their order; `topics` has the numbers of partitions.
    pub(crate) fn share(
        self,
        members: &[Subscriber<'_>],
        topics: &BTreeMap<Uuid, PartitionId>,
    ) -> Vec<Assignment> {
        match self {
            Assignor::Uniform => Uniform::new(members, topics).share(topics),
            Assignor::Range => range(members, topics),
        }
    }
}

fn range(members: &[Subscriber<'_>], topics: &BTreeMap<Uuid, PartitionId>) -> Vec<Assignment> {
    let mut shares = vec![Assignment::new(); members.len()];
    for (topic, partitions) in topics {
        let mut of_topic: Vec<usize> =
            (0..members.len()).filter(|at| members[*at].topics.contains(topic)).collect();
        of_topic.sort_by_key(|at| members[*at].name);
        let Ok(count) = PartitionId::try_from(of_topic.len()) else { continue };
        if count == 0 {
            continue;
        }
        let (each, more) = (partitions / count, partitions % count);
        let mut next = 0;
        for (place, at) in (0..).zip(of_topic) {
            let end = next + each + PartitionId::from(place < more);
            shares[at].extend((next..end).map(|partition| (*topic, partition)));
            next = end;
        }
    }
    shares
}

/// Everybody keeps what it had, the rest goes to those who have least, and then those who have more give to those who have less.
struct Uniform<'a> {
    members: &'a [Subscriber<'a>],
    /// Who subscribes to a topic.
    of_topic: HashMap<Uuid, Vec<usize>>,
    shares: Vec<Assignment>,
    loads: Vec<usize>,
}

impl<'a> Uniform<'a> {
    fn new(members: &'a [Subscriber<'a>], topics: &BTreeMap<Uuid, PartitionId>) -> Uniform<'a> {
        let subscribers = |topic: &Uuid| -> Vec<usize> {
            (0..members.len()).filter(|at| members[*at].topics.contains(topic)).collect()
        };
        Uniform {
            members,
            of_topic: topics.keys().map(|topic| (*topic, subscribers(topic))).collect(),
            shares: vec![Assignment::new(); members.len()],
            loads: vec![0; members.len()],
        }
    }

    fn share(mut self, topics: &BTreeMap<Uuid, PartitionId>) -> Vec<Assignment> {
        let mut had: HashMap<Place, usize> = HashMap::new();
        for (at, member) in self.members.iter().enumerate() {
            for place in member.had.iter().filter(|(topic, _)| member.topics.contains(topic)) {
                had.entry(place).or_insert(at);
            }
        }
        let mut free = Vec::new();
        for place in topics.iter().flat_map(|(topic, count)| (0..*count).map(|p| (*topic, p))) {
            match had.get(&place) {
                Some(at) => self.give(place, *at),
                None => free.push(place),
            }
        }
        for place in free {
            if let Some(at) = self.least(place.0) {
                self.give(place, at);
            }
        }
        self.even_out();
        self.shares
    }

    fn give(&mut self, place: Place, to: usize) {
        self.shares[to].insert(place);
        self.loads[to] += 1;
    }

    /// The subscriber of a topic that has least.
    fn least(&self, topic: Uuid) -> Option<usize> {
        self.of_topic.get(&topic)?.iter().copied().min_by_key(|at| (self.loads[*at], *at))
    }

    /// Moves partitions as long as a move makes two shares more alike; each makes the sum of the squares smaller, so it ends.
    /// One from each at a time, so that nobody gives what it must be given back.
    fn even_out(&mut self) {
        loop {
            let mut order: Vec<usize> = (0..self.members.len()).collect();
            order.sort_by_key(|at| std::cmp::Reverse(self.loads[*at]));
            let mut moved = false;
            for from in order {
                if let Some((place, to)) = self.surplus(from) {
                    self.shares[from].remove(place);
                    self.loads[from] -= 1;
                    self.give(place, to);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// A partition that a member has too much, and who needs it more.
    fn surplus(&self, from: usize) -> Option<(Place, usize)> {
        self.shares[from].last_of_topics().find_map(|place| {
            let to = self.least(place.0).filter(|to| self.loads[*to] + 1 < self.loads[from])?;
            Some((place, to))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(topic: usize) -> Uuid {
        Uuid::from_u128(topic as u128 + 1)
    }

    /// What each subscribes to, and how many partitions topics have.
    fn groups() -> impl Strategy<Value = (Vec<BTreeSet<Uuid>>, BTreeMap<Uuid, PartitionId>)> {
        let topics = prop::collection::vec(1..12_i32, 1..5);
        topics.prop_flat_map(|counts| {
            let topics: BTreeMap<Uuid, PartitionId> =
                counts.iter().enumerate().map(|(n, count)| (id(n), *count)).collect();
            let one =
                prop::sample::subsequence((0..counts.len()).map(id).collect::<Vec<_>>(), 0..=counts.len());
            let members = prop::collection::vec(one.prop_map(|ids| ids.into_iter().collect()), 1..8);
            (members, Just(topics))
        })
    }

    fn share(
        assignor: Assignor,
        members: &[BTreeSet<Uuid>],
        had: &[Assignment],
        topics: &BTreeMap<Uuid, PartitionId>,
    ) -> Vec<Assignment> {
        let names: Vec<String> = (0..members.len()).map(|n| format!("member-{n}")).collect();
        let subscribers: Vec<Subscriber<'_>> = (0..members.len())
            .map(|at| Subscriber { name: &names[at], topics: &members[at], had: &had[at] })
            .collect();
        assignor.share(&subscribers, topics)
    }

    /// Every partition that somebody wants is in one share, of one who wants it.
    fn check(
        members: &[BTreeSet<Uuid>],
        topics: &BTreeMap<Uuid, PartitionId>,
        shares: &[Assignment],
    ) -> Result<(), TestCaseError> {
        for (topic, count) in topics {
            let is_wanted = members.iter().any(|wanted| wanted.contains(topic));
            for partition in 0..*count {
                let owners = shares.iter().filter(|share| share.contains((*topic, partition))).count();
                prop_assert_eq!(owners, usize::from(is_wanted), "owners of {} {}", topic, partition);
            }
        }
        for (wanted, share) in members.iter().zip(shares) {
            prop_assert!(share.topics().all(|(topic, _)| wanted.contains(&topic)));
            prop_assert!(share.iter().all(|(topic, partition)| partition < topics[&topic]));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn everything_is_shared_out_evenly_and_nothing_moves_without_need(
            (members, topics) in groups(),
            leaves in any::<prop::sample::Index>(),
        ) {
            for assignor in [Assignor::Uniform, Assignor::Range] {
                let none = vec![Assignment::new(); members.len()];
                let first = share(assignor, &members, &none, &topics);
                check(&members, &topics, &first)?;
                prop_assert_eq!(&share(assignor, &members, &first, &topics), &first, "a second look moves nothing");
                // Somebody goes.
                let gone = leaves.index(members.len());
                let (mut left, mut had) = (members.clone(), first.clone());
                left.remove(gone);
                had.remove(gone);
                if left.is_empty() {
                    continue;
                }
                let second = share(assignor, &left, &had, &topics);
                check(&left, &topics, &second)?;
            }
        }

        #[test]
        fn members_that_want_the_same_differ_by_one_at_most(
            count in 1..9_usize,
            partitions in prop::collection::vec(1..20_i32, 1..4),
            joins in 1..4_usize,
        ) {
            let topics: BTreeMap<Uuid, PartitionId> =
                partitions.iter().enumerate().map(|(n, count)| (id(n), *count)).collect();
            let wanted: BTreeSet<Uuid> = topics.keys().copied().collect();
            let mut had = vec![Assignment::new(); count];
            for more in 0..joins {
                had.resize(count + more, Assignment::new());
                let members = vec![wanted.clone(); count + more];
                let shares = share(Assignor::Uniform, &members, &had, &topics);
                check(&members, &topics, &shares)?;
                let loads: Vec<usize> = shares.iter().map(Assignment::len).collect();
                let (least, most) = (loads.iter().min().expect("one"), loads.iter().max().expect("one"));
                prop_assert!(most - least <= 1, "{:?}", loads);
                // What moved is what those who joined needed.
                let kept: usize = had.iter().zip(&shares).map(|(before, now)| before.and(now).len()).sum();
                let had_before: usize = had.iter().map(Assignment::len).sum();
                let got: usize = had.iter().zip(&shares).filter(|(b, _)| b.is_empty()).map(|(_, now)| now.len()).sum();
                if had_before > 0 {
                    prop_assert!(had_before - kept <= got, "{} moved, {} needed", had_before - kept, got);
                }
                had = shares;
            }
        }
    }

    #[test]
    fn ranges_are_neighbours_and_the_same_of_topics_with_as_many() {
        let topics = BTreeMap::from([(id(0), 5), (id(1), 5)]);
        let wanted: BTreeSet<Uuid> = topics.keys().copied().collect();
        let none = vec![Assignment::new(); 2];
        let shares = share(Assignor::Range, &[wanted.clone(), wanted], &none, &topics);
        for (share, want) in shares.iter().zip([vec![0, 1, 2], vec![3, 4]]) {
            assert!(share.topics().all(|(_, partitions)| partitions == want), "{share:?}");
        }
    }
}
