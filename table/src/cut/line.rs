//! Lines: a table and its dead-letter table, with the fragments that feed both.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tarn_lake::LakeSnapshot;
use tarn_model::{Boundary, Error, Offset, PartitionId, Result};

use super::{CutTable, DEAD_LETTERS_SUFFIX};
use crate::fragment::{Fragment, SharedFragment};

/// Number of small neighbours that are merged into one.
const MERGE_FRAGMENTS: usize = 8;

/// Upper ends of the tiers of small fragments, bytes; a fragment above the last is never merged.
const TIER_BYTES: [usize; 4] = [4 << 10, 32 << 10, 256 << 10, 1 << 20];

/// All lines of a topic, by the name of their table.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: BTreeMap<String, Line>,
}

/// A table and its dead-letter table.
#[derive(Debug, Default)]
struct Line {
    rows: Option<Member>,
    dead: Option<Member>,
    /// End of the tail.
    decoded: Boundary,
    /// Fragments of `[floor, decoded)`, in order.
    tail: BTreeMap<PartitionId, Vec<SharedFragment>>,
}

/// One of both.
#[derive(Debug, Clone)]
struct Member {
    name: Arc<str>,
    schema: SchemaRef,
    lake: Option<Arc<LakeSnapshot>>,
    /// As last told.
    boundary: Boundary,
}

impl Lines {
    /// The line of the table `name`.
    pub(super) fn line_of(&self, name: &str) -> Option<String> {
        self.lines
            .iter()
            .find(|(_, line)| line.members().any(|m| &*m.name == name))
            .map(|(key, _)| key.clone())
    }

    pub(super) fn add(&mut self, table: CutTable) -> Result<String> {
        let name = table.name.clone();
        if self.line_of(&name).is_some() {
            return Err(Error::conflict(format!("there is a table of that name already table=`{name}`")));
        }
        if !table.tail.is_empty() {
            return Err(Error::internal(format!("a table is added without a tail table=`{name}`")));
        }
        let key = match name.strip_suffix(DEAD_LETTERS_SUFFIX) {
            Some(of) if table.dead_letters => of.to_owned(),
            _ => name.to_string(),
        };
        let line = self.lines.entry(key.clone()).or_default();
        let member = Member { name, schema: table.schema, lake: table.lake, boundary: table.boundary };
        let slot = if table.dead_letters { &mut line.dead } else { &mut line.rows };
        if slot.is_some() || (!table.dead_letters && !line.tail.is_empty()) {
            return Err(Error::conflict(format!(
                "a table is added before its first fragment table=`{}`",
                member.name
            )));
        }
        *slot = Some(member);
        if line.tail.is_empty() {
            line.decoded = line.floor();
        }
        Ok(key)
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<String> {
        let key = self.line_of(name)?;
        let line = self.lines.get_mut(&key)?;
        if line.rows.as_ref().is_some_and(|rows| &*rows.name == name) {
            let floor = line.floor();
            line.rows = None;
            if let Some(dead) = &mut line.dead {
                dead.boundary = dead.boundary.join(&floor);
            }
        } else {
            line.dead = None;
        }
        if line.members().next().is_none() {
            self.lines.remove(&key);
        }
        Some(key)
    }

    pub(super) fn set_schema(&mut self, name: &str, schema: SchemaRef) -> Option<String> {
        let key = self.line_of(name)?;
        let line = self.lines.get_mut(&key)?;
        line.member_mut(name)?.schema = schema;
        Some(key)
    }

    /// Whether each fragment may be pushed to its line.
    pub(super) fn check(&self, partition: PartitionId, parts: &[(String, SharedFragment)]) -> Result<()> {
        for (key, fragment) in parts {
            if fragment.partition != partition {
                return Err(Error::internal(format!(
                    "a fragment of partition {} is published as one of partition {partition} table=`{key}`",
                    fragment.partition
                )));
            }
            let mut decoded = self.lines.get(key).map(|line| line.decoded.clone()).unwrap_or_default();
            decoded.advance(partition, fragment.range)?;
        }
        Ok(())
    }

    /// Appends a fragment that was checked, and merges small neighbours at the end.
    pub(super) fn push(&mut self, key: &str, fragment: SharedFragment) -> Result<()> {
        let line =
            self.lines.get_mut(key).ok_or_else(|| Error::internal(format!("no line table=`{key}`")))?;
        line.decoded.advance(fragment.partition, fragment.range)?;
        if !fragment.range.is_empty() {
            let fragments = line.tail.entry(fragment.partition).or_default();
            fragments.push(fragment);
            merge_small(fragments);
        }
        Ok(())
    }

    pub(super) fn committed(
        &mut self,
        name: &str,
        lake: Arc<LakeSnapshot>,
        boundary: Boundary,
    ) -> Result<()> {
        let key =
            self.line_of(name).ok_or_else(|| Error::invalid(format!("no such table table=`{name}`")))?;
        let line = self.lines.get_mut(&key).expect("its key was just found");
        let is_rows = line.rows.as_ref().is_some_and(|rows| &*rows.name == name);
        let member = line.member_mut(name).expect("its line was found by its name");
        if member.lake.as_ref().is_some_and(|known| known.version > lake.version) {
            return Err(Error::conflict(format!(
                "the lake snapshot is older than the one known table=`{name}`"
            )));
        }
        let known = member.boundary.clone();
        if !boundary.is_at_least(&known) {
            return Err(Error::conflict(format!(
                "a boundary never goes back table=`{name}` from=`{known}` to=`{boundary}`"
            )));
        }
        if !line.decoded.join(&known).is_at_least(&boundary) {
            return Err(Error::conflict(format!(
                "a commit is beyond what was decoded table=`{name}` decoded=`{}` boundary=`{boundary}`",
                line.decoded
            )));
        }
        let kept = if is_rows {
            line.check_dead_letters(&boundary)?;
            Some(line.tail_above(&boundary)?)
        } else if line.rows.is_none() {
            Some(line.tail_above(&boundary)?)
        } else {
            None
        };
        let member = line.member_mut(name).expect("its line was found by its name");
        member.lake = Some(lake);
        member.boundary = boundary;
        if let Some(kept) = kept {
            line.tail = kept;
        }
        Ok(())
    }

    /// The tables of a line, as they are now.
    pub(super) fn tables_of(&self, key: &str) -> Vec<CutTable> {
        let Some(line) = self.lines.get(key) else { return Vec::new() };
        let rows = line.rows.as_ref().map(|rows| line.table(rows, false, rows.boundary.clone()));
        let dead = line.dead.as_ref().map(|dead| line.table(dead, true, line.dead_boundary(dead)));
        rows.into_iter().chain(dead).collect()
    }

    /// What every line has decoded.
    pub(super) fn decoded(&self) -> Boundary {
        let mut lines = self.lines.values();
        let first = lines.next().map(|line| line.decoded.clone()).unwrap_or_default();
        lines.fold(first, |decoded, line| decoded.meet(&line.decoded))
    }

    /// Memory of all fragments, each counted once.
    pub(super) fn bytes(&self) -> usize {
        let mut seen = HashSet::new();
        let all = self.lines.values().flat_map(|line| line.tail.values().flatten());
        all.filter(|fragment| seen.insert(Arc::as_ptr(fragment))).map(|fragment| fragment.bytes).sum()
    }
}

impl Line {
    fn members(&self) -> impl Iterator<Item = &Member> {
        self.rows.iter().chain(&self.dead)
    }

    fn member_mut(&mut self, name: &str) -> Option<&mut Member> {
        self.rows.iter_mut().chain(&mut self.dead).find(|member| &*member.name == name)
    }

    /// Where the line's tail begins: at the table's boundary.
    fn floor(&self) -> Boundary {
        self.members().next().map(|member| member.boundary.clone()).unwrap_or_default()
    }

    /// Dead letters go first, so all of them below the table's boundary are committed.
    fn dead_boundary(&self, dead: &Member) -> Boundary {
        dead.boundary.join(&self.floor())
    }

    /// Refuses a commit of rows that passes dead letters which are not committed.
    fn check_dead_letters(&self, boundary: &Boundary) -> Result<()> {
        let settled = self.dead.as_ref().map_or_else(|| self.floor(), |dead| self.dead_boundary(dead));
        for (partition, fragments) in &self.tail {
            let (from, to) = (settled.next(*partition), boundary.next(*partition));
            let waiting: usize =
                overlapping(fragments, from, to).map(|part| part.dead_letters_in(from, to)).sum();
            if waiting > 0 {
                let name = self.rows.as_ref().map_or("", |rows| &rows.name);
                return Err(Error::conflict(format!(
                    "{waiting} dead letters in [{from}, {to}) of partition {partition} are not committed table=`{name}`"
                ))
                .with_hint("commit the dead letters of a range, and say so, before its rows"));
            }
        }
        Ok(())
    }

    /// The fragments at or above `boundary`, in buffers of their own.
    fn tail_above(&self, boundary: &Boundary) -> Result<BTreeMap<PartitionId, Vec<SharedFragment>>> {
        let mut tail = BTreeMap::new();
        for (partition, fragments) in &self.tail {
            let next = boundary.next(*partition);
            let mut kept = Vec::new();
            for fragment in fragments.iter().filter(|fragment| fragment.range.to > next) {
                let whole = fragment.range.from >= next;
                kept.push(if whole { fragment.clone() } else { Arc::new(fragment.split_off(next)?) });
            }
            if !kept.is_empty() {
                tail.insert(*partition, kept);
            }
        }
        Ok(tail)
    }

    fn table(&self, member: &Member, dead_letters: bool, boundary: Boundary) -> CutTable {
        let mut tail = Vec::with_capacity(self.tail.values().map(Vec::len).sum());
        for (partition, fragments) in &self.tail {
            let next = boundary.next(*partition);
            for fragment in fragments.iter().filter(|fragment| fragment.range.to > next) {
                let whole = fragment.range.from >= next;
                tail.push(if whole { fragment.clone() } else { Arc::new(fragment.slice(next, Offset::MAX)) });
            }
        }
        let tail_bytes = tail.iter().map(|fragment| fragment.bytes).sum();
        CutTable {
            name: member.name.clone(),
            schema: member.schema.clone(),
            dead_letters,
            lake: member.lake.clone(),
            boundary,
            tail,
            tail_bytes,
        }
    }
}

fn overlapping(
    fragments: &[SharedFragment],
    from: Offset,
    to: Offset,
) -> impl Iterator<Item = &SharedFragment> {
    fragments.iter().filter(move |fragment| fragment.range.from < to && from < fragment.range.to)
}

/// Merges the end of `fragments` as long as some tier has enough of them there.
fn merge_small(fragments: &mut Vec<SharedFragment>) {
    while let Some(start) = mergeable_from(fragments) {
        let merged = match Fragment::merge(&fragments[start..]) {
            Ok(merged) => merged,
            Err(error) => {
                tracing::warn!(%error, "small fragments stay apart");
                return;
            }
        };
        fragments.truncate(start);
        fragments.push(Arc::new(merged));
    }
}

/// Where the run at the end begins that should be merged: the fragments after the last one of a higher tier, when
/// [`MERGE_FRAGMENTS`] of them are of the run's highest tier.
fn mergeable_from(fragments: &[SharedFragment]) -> Option<usize> {
    let schema = fragments.last()?.rows.schema();
    let mut counts = [0_usize; TIER_BYTES.len()];
    let mut highest = 0;
    for (at, fragment) in fragments.iter().enumerate().rev() {
        let tier = TIER_BYTES.iter().position(|end| fragment.bytes < *end)?;
        let other = fragment.rows.schema();
        if !Arc::ptr_eq(&other, &schema) && other != schema {
            return None;
        }
        highest = highest.max(tier);
        counts[tier] += 1;
        if counts[highest] >= MERGE_FRAGMENTS {
            return Some(at);
        }
    }
    None
}
