//! Offsets, half-open ranges and boundaries: the arithmetic of progress.
//!
//! A [`Boundary`] maps partition → next offset: every offset below it is covered, none at or above it. Advancing is a
//! small truth table, see [`Boundary::advance`]; a rejected advance changes nothing.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The position of a record in its partition, counted from 0.
pub type Offset = i64;

/// The number of a partition within its topic, counted from 0.
pub type PartitionId = i32;

/// The offsets `[from, to)` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset in the range.
    pub from: Offset,
    /// First offset after the range.
    pub to: Offset,
}

impl OffsetRange {
    /// `[from, to)`; a range never runs backwards.
    pub fn new(from: Offset, to: Offset) -> OffsetRange {
        assert!(0 <= from && from <= to, "a range runs forwards from 0: [{from}, {to})");
        OffsetRange { from, to }
    }

    /// Number of offsets in the range.
    pub fn len(&self) -> u64 {
        self.to.abs_diff(self.from)
    }

    /// Whether the range holds no offset.
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Whether `offset` lies in the range.
    pub fn contains(&self, offset: Offset) -> bool {
        self.from <= offset && offset < self.to
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// How a range lies to the next offset of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It starts exactly at the boundary (an empty range there included).
    Next,
    /// It lies wholly below the boundary.
    Duplicate,
    /// It starts below the boundary and ends above it.
    Overlap,
    /// It starts above the boundary.
    Gap,
}

/// Partition → next offset. A partition that is absent is at 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Boundary {
    next: BTreeMap<PartitionId, Offset>,
}

impl Boundary {
    /// Nothing is covered.
    pub fn new() -> Boundary {
        Boundary::default()
    }

    /// The next offset of `partition`: 0 when it is absent.
    pub fn next(&self, partition: PartitionId) -> Offset {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// Sets the next offset, without a check; for building a boundary from what is stored.
    pub fn set(&mut self, partition: PartitionId, next: Offset) {
        assert!(next >= 0, "an offset is never negative: {next}");
        self.next.insert(partition, next);
    }

    /// Whether `offset` of `partition` is covered.
    pub fn covers(&self, partition: PartitionId, offset: Offset) -> bool {
        offset < self.next(partition)
    }

    /// How `range` lies to this boundary.
    pub fn relation(&self, partition: PartitionId, range: OffsetRange) -> Relation {
        let next = self.next(partition);
        if range.from == next {
            Relation::Next
        } else if range.from > next {
            Relation::Gap
        } else if range.to <= next {
            Relation::Duplicate
        } else {
            Relation::Overlap
        }
    }

    /// Moves the boundary over `range`, which must start exactly where the boundary stands.
    ///
    /// | the range | outcome |
    /// |---|---|
    /// | starts at the boundary | moves to `range.to` |
    /// | ends at or below it (duplicate) | rejected |
    /// | starts below, ends above (overlap) | rejected |
    /// | starts above (gap) | rejected |
    pub fn advance(&mut self, partition: PartitionId, range: OffsetRange) -> Result<()> {
        match self.relation(partition, range) {
            Relation::Next => {
                self.next.insert(partition, range.to);
                Ok(())
            }
            relation => Err(Error::conflict(format!(
                "offsets {range} of partition {partition} do not continue its boundary {}: {relation:?}",
                self.next(partition)
            ))),
        }
    }

    /// Whether nothing is covered.
    pub fn is_empty(&self) -> bool {
        self.next.values().all(|next| *next == 0)
    }

    /// The partitions that have an entry, with their next offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (PartitionId, Offset)> + '_ {
        self.next.iter().map(|(partition, next)| (*partition, *next))
    }

    /// Whether everything that `other` covers is covered here too.
    pub fn is_at_least(&self, other: &Boundary) -> bool {
        other.iter().all(|(partition, next)| self.next(partition) >= next)
    }

    /// The lower of both, partition by partition: what both cover.
    #[must_use]
    pub fn meet(&self, other: &Boundary) -> Boundary {
        let partitions = self.next.keys().chain(other.next.keys());
        partitions.map(|p| (*p, self.next(*p).min(other.next(*p)))).collect()
    }

    /// The higher of both, partition by partition: what either covers.
    #[must_use]
    pub fn join(&self, other: &Boundary) -> Boundary {
        let partitions = self.next.keys().chain(other.next.keys());
        partitions.map(|p| (*p, self.next(*p).max(other.next(*p)))).collect()
    }

    /// How many offsets this boundary covers that `lower` does not.
    pub fn records_above(&self, lower: &Boundary) -> u64 {
        self.iter().map(|(p, next)| u64::try_from(next - lower.next(p)).unwrap_or(0)).sum()
    }
}

impl FromIterator<(PartitionId, Offset)> for Boundary {
    fn from_iter<I: IntoIterator<Item = (PartitionId, Offset)>>(entries: I) -> Boundary {
        let mut boundary = Boundary::new();
        for (partition, next) in entries {
            boundary.set(partition, next);
        }
        boundary
    }
}

/// `0=17,1=4`: partition=next offset, in order.
impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (partition, next)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{partition}={next}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every boundary and every range over offsets 0..=4: the whole truth table of one partition.
    #[test]
    fn advance_follows_its_truth_table() {
        for next in 0..=4 {
            for from in 0..=4 {
                for to in from..=4 {
                    let mut boundary = Boundary::from_iter([(0, next), (1, 7)]);
                    let before = boundary.clone();
                    let range = OffsetRange::new(from, to);
                    let moved = boundary.advance(0, range).is_ok();
                    assert_eq!(moved, from == next, "boundary {next}, range {range}");
                    if moved {
                        assert_eq!(boundary.next(0), to);
                        assert_eq!(boundary.next(1), 7, "other partitions stay");
                    } else {
                        assert_eq!(boundary, before, "a rejected advance changes nothing");
                    }
                }
            }
        }
    }

    #[test]
    fn relation_names_every_case() {
        let boundary = Boundary::from_iter([(0, 2)]);
        let relation = |from, to| boundary.relation(0, OffsetRange::new(from, to));
        assert_eq!(relation(2, 2), Relation::Next);
        assert_eq!(relation(2, 3), Relation::Next);
        assert_eq!(relation(0, 2), Relation::Duplicate);
        assert_eq!(relation(1, 1), Relation::Duplicate);
        assert_eq!(relation(1, 3), Relation::Overlap);
        assert_eq!(relation(3, 3), Relation::Gap);
        assert_eq!(relation(3, 4), Relation::Gap);
        assert_eq!(boundary.relation(9, OffsetRange::new(0, 1)), Relation::Next, "absent means 0");
    }

    #[test]
    fn meet_and_join_are_the_bounds_of_both() {
        let a = Boundary::from_iter([(0, 3), (1, 1)]);
        let b = Boundary::from_iter([(0, 2), (2, 5)]);
        assert_eq!(a.meet(&b), Boundary::from_iter([(0, 2), (1, 0), (2, 0)]));
        assert_eq!(a.join(&b), Boundary::from_iter([(0, 3), (1, 1), (2, 5)]));
        assert!(a.join(&b).is_at_least(&a) && a.join(&b).is_at_least(&b));
        assert!(a.is_at_least(&a.meet(&b)) && b.is_at_least(&a.meet(&b)));
        assert_eq!(a.join(&b).records_above(&a), 5);
    }
}
