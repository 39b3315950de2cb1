//! Letting old records go: retention and trimming, jobs of the committer.
//!
//! *Invariants*: whole segments only, the oldest first, never the one that is written to (which is closed first when it is
//! old), and nothing that an owner holds, unless a trim is forced: then the ledger keeps which range was lost. Positions and
//! idempotency keys stay.
//!
//! *Failure*: the ledger moves the start first, then files go. A crash in between leaves files that the next open removes.

use std::sync::Arc;
use std::time::Duration;

use tarn_model::{Boundary, Error, Offset, OffsetRange, PartitionId, Result, fault};

use crate::committer::Committer;
use crate::draft::sync_dir;
use crate::segment::{Extent, Segment};
use crate::topics::number;
use crate::visible::{Aborted, Partition, Placed, Topic, aborted_within};

/// A segment that is written to is closed when it is older than this part of the retention time.
const ROLL_AT_PART: u32 = 4;

/// What is to go from one partition.
#[derive(Debug)]
struct Cut {
    partition: PartitionId,
    /// The start as it was and as it becomes.
    range: OffsetRange,
    segments: Vec<Placed>,
}

impl Committer {
    /// Drops what retention lets go, in all topics.
    pub(crate) fn apply_retention(&mut self) -> Result<Vec<(String, PartitionId, OffsetRange)>> {
        self.shared.check_running()?;
        let now_ms = self.shared.clock.now_ms();
        self.expire_producers(now_ms)?;
        self.expire_transactions(now_ms)?;
        // What is closed makes room whether or not more can be closed.
        let rolled = self.roll_old_segments(now_ms);
        let names: Vec<String> = self.shared.visible.read().topics.keys().cloned().collect();
        let mut gone = Vec::new();
        for name in names {
            let cuts = self.expired(&name, now_ms);
            if !cuts.is_empty() {
                self.cut(&name, &cuts, &[])?;
            }
            gone.extend(cuts.into_iter().map(|cut| (name.clone(), cut.partition, cut.range)));
        }
        rolled?;
        Ok(gone)
    }

    /// Moves the starts of a topic's partitions up to `upto`.
    pub(crate) fn trim(&mut self, name: &str, upto: &Boundary, force: bool) -> Result<()> {
        self.shared.check_running()?;
        let (mut cuts, mut lost) = (Vec::new(), Vec::new());
        {
            let visible = self.shared.visible.read();
            let topic = visible.topic(name)?;
            for (partition, to) in upto.iter() {
                let state = topic.partition(partition)?;
                if to > state.end() {
                    let end = state.end();
                    return Err(Error::invalid(format!(
                        "partition {partition} of topic `{name}` ends at offset {end}, below {to}"
                    )));
                }
                if to <= state.start {
                    continue;
                }
                lost.extend(lost_range(topic, partition, state.start, to, force)?);
                let below = state.segments[..state.segments.len() - 1]
                    .iter()
                    .filter(|placed| placed.extent.end <= to);
                let range = OffsetRange::new(state.start, to);
                cuts.push(Cut { partition, range, segments: below.cloned().collect() });
            }
        }
        if cuts.is_empty() { Ok(()) } else { self.cut(name, &cuts, &lost) }
    }

    fn expired(&self, name: &str, now_ms: i64) -> Vec<Cut> {
        let visible = self.shared.visible.read();
        let Ok(topic) = visible.topic(name) else { return Vec::new() };
        if !topic.info.configs.cleanup.deletes() {
            return Vec::new();
        }
        let options = &self.shared.options;
        let time = topic.retention_time.unwrap_or(options.retention_time);
        let bytes = topic.retention_bytes.or(options.retention_bytes);
        let mut cuts = Vec::new();
        for (index, partition) in topic.partitions.iter().enumerate() {
            // Nothing of an open transaction goes either.
            let held_from = topic.held_from(number(index)).unwrap_or(Offset::MAX).min(partition.stable());
            let count = expired_segments(partition, time, bytes, held_from, now_ms);
            if count > 0 {
                let range = OffsetRange::new(
                    partition.start,
                    partition.segments[count].extent.base.max(partition.start),
                );
                cuts.push(Cut {
                    partition: number(index),
                    range,
                    segments: partition.segments[..count].to_vec(),
                });
            }
        }
        cuts
    }

    fn cut(&mut self, name: &str, cuts: &[Cut], lost: &[(PartitionId, Offset, Offset)]) -> Result<()> {
        // What a power failure could take back must not lie below a start.
        self.sync_now()?;
        let topic = self.shared.visible.read().topic(name)?.id;
        let bases = |cut: &Cut| cut.segments.iter().map(|placed| placed.extent.base).collect::<Vec<_>>();
        let starts: Vec<_> = cuts.iter().map(|cut| (cut.partition, cut.range.to, bases(cut))).collect();
        let passed = self.passed(name, cuts, lost)?;
        fault::point("log.trim.before")?;
        let now_ms = self.shared.clock.now_ms();
        self.ledger
            .trim(topic, &starts, lost, &passed, now_ms)
            .map_err(|cause| self.ledger_failed(&cause))?;
        {
            let mut visible = self.shared.visible.write();
            let topic = visible.topic_mut(name)?;
            for cut in cuts {
                let index = usize::try_from(cut.partition).expect("it was found above");
                let partition = &mut topic.partitions[index];
                partition.start = cut.range.to;
                partition.segments.drain(..cut.segments.len());
                if partition.aborted.first().is_some_and(|aborted| aborted.last < partition.start) {
                    let start = partition.start;
                    Arc::make_mut(&mut partition.aborted).retain(|aborted| aborted.last >= start);
                }
            }
        }
        tracing::info!(topic = name, cuts = ?starts, "let old records go");
        fault::point("log.trim.after")?;
        for placed in cuts.iter().flat_map(|cut| &cut.segments) {
            if let Err(error) = placed.segment.remove() {
                tracing::warn!(%error, "a trimmed segment stays behind until the next start");
            }
        }
        Ok(())
    }

    /// How many offsets of what goes held no record that counted: whoever compares a table with the log must know it when
    /// the log no longer has them.
    fn passed(
        &self,
        name: &str,
        cuts: &[Cut],
        lost: &[(PartitionId, Offset, Offset)],
    ) -> Result<Vec<(PartitionId, OffsetRange, u64)>> {
        let mut passed = Vec::new();
        for cut in cuts {
            let partition = self.shared.visible.read().topic(name)?.partition(cut.partition)?.clone();
            let lost_from =
                lost.iter().find(|(of, _, _)| *of == cut.partition).map_or(cut.range.to, |lost| lost.1);
            let range = OffsetRange::new(cut.range.from, lost_from.clamp(cut.range.from, cut.range.to));
            let aborted = aborted_within(&partition.aborted, range.from, range.to);
            let mut offsets = 0;
            for Placed { segment, extent } in partition.segments_from(range.from) {
                let reaches = |aborted: &Aborted| aborted.first < extent.end && aborted.last >= extent.base;
                if extent.base >= range.to {
                    break;
                }
                if extent.markers == 0 && !aborted.iter().any(reaches) {
                    continue;
                }
                segment.visit(extent, range.from, |header| {
                    if !header.counts(&aborted) {
                        let (from, to) =
                            (header.base_offset.max(range.from), header.next_offset().min(range.to));
                        offsets += from.abs_diff(to.max(from));
                    }
                    header.next_offset() < range.to
                })?;
            }
            if offsets > 0 {
                passed.push((cut.partition, range, offsets));
            }
        }
        Ok(passed)
    }

    /// Closes segments that have been written to for so long that retention would never come to them.
    fn roll_old_segments(&mut self, now_ms: i64) -> Result<()> {
        let mut old = Vec::new();
        {
            let visible = self.shared.visible.read();
            for (name, topic) in &visible.topics {
                let time = topic.retention_time.unwrap_or(self.shared.options.retention_time);
                let configs = &topic.info.configs;
                let lag = configs.max_compaction_lag_ms.filter(|_| configs.cleanup.compacts());
                let limit =
                    lag.map_or(time / ROLL_AT_PART, |ms| Duration::from_millis(ms).min(time / ROLL_AT_PART));
                for (index, partition) in topic.partitions.iter().enumerate() {
                    let extent = partition.last().extent;
                    if extent.bytes > 0 && age(extent.created_ms, now_ms) >= limit {
                        old.push((name.clone(), topic.id, index, partition.dir.clone(), extent));
                    }
                }
            }
        }
        if old.is_empty() {
            return Ok(());
        }
        self.sync_now()?;
        for (name, topic, index, dir, last) in old {
            fault::point("log.roll.before")?;
            let segment = Segment::create(&dir, last.end)?;
            sync_dir(&dir)?;
            let extent = Extent::empty(last.end, now_ms, last.last_append_ms);
            self.ledger
                .add_segment(topic, number(index), &extent)
                .map_err(|cause| self.ledger_failed(&cause))?;
            let mut visible = self.shared.visible.write();
            let partition = &mut visible.topic_mut(&name)?.partitions[index];
            partition.last().segment.retire();
            partition.segments.push(Placed { segment: Arc::new(segment), extent });
            drop(visible);
            fault::point("log.roll.after")?;
        }
        Ok(())
    }
}

/// How many segments of a partition may go.
fn expired_segments(
    partition: &Partition,
    time: Duration,
    bytes: Option<u64>,
    held_from: Offset,
    now_ms: i64,
) -> usize {
    let mut left = partition.bytes();
    let may_go = |placed: &&Placed| {
        let extent = placed.extent;
        let too_old = age(extent.last_append_ms.unwrap_or(extent.created_ms), now_ms) > time;
        let too_much = bytes.is_some_and(|bytes| left > bytes);
        left -= extent.bytes;
        (too_old || too_much) && extent.end <= held_from
    };
    partition.segments[..partition.segments.len() - 1].iter().take_while(may_go).count()
}

fn age(since_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms - since_ms).unwrap_or(0))
}

/// What a trim to `to` takes from an owner; an error unless it is forced.
fn lost_range(
    topic: &Topic,
    partition: PartitionId,
    start: Offset,
    to: Offset,
    force: bool,
) -> Result<Option<(PartitionId, Offset, Offset)>> {
    let held = topic.holds.iter().map(|(owner, boundary)| (boundary.next(partition), owner)).min();
    let Some((from, owner)) = held.filter(|(from, _)| *from < to) else { return Ok(None) };
    if !force {
        let name = &topic.info.name;
        return Err(Error::conflict(format!(
            "`{owner}` still needs partition {partition} of topic `{name}` from offset {from} on"
        ))
        .with_hint("wait until it has them, or force it and lose them"));
    }
    Ok(Some((partition, from.max(start), to)))
}
