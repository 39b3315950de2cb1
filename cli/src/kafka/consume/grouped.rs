//! `tarn consume --group`: a member of a group, which reads what the broker gives it and commits what it has written.
//!
//! *Invariant*: an offset is committed after all records below it are written, and before another member gets the partition.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::time::{Duration, Instant};

use tarn_kafka::client::{At, Cluster, CommittedAt, Membership};
use tarn_model::{Offset, PartitionId, clock};

use super::{LOOK_EVERY, Reading, write_record};
use crate::args::{ConsumeArgs, Whereto};
use crate::kafka::{cluster, offset_of, partitions};
use crate::render::out;

const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Who is given nothing for so many heartbeats, and does not follow, ends.
const BEATS_WITHOUT: u32 = 5;

/// What a member has, and how far it is.
struct Reader<'a> {
    args: &'a ConsumeArgs,
    group: &'a str,
    cluster: Cluster,
    member: Membership,
    readings: BTreeMap<PartitionId, Reading>,
    /// What the group has committed of them, as far as this member knows.
    committed: BTreeMap<PartitionId, Offset>,
    left: u64,
}

pub(super) async fn read(args: &ConsumeArgs, group: &str) -> anyhow::Result<()> {
    let mut cluster = cluster(args.brokers.bootstrap.as_deref(), || args.config.load()).await?;
    partitions(&mut cluster, &args.topic).await?;
    let member = cluster.join(group, &args.topic).await?;
    let left = args.count.unwrap_or(u64::MAX);
    let (readings, committed) = (BTreeMap::new(), BTreeMap::new());
    let mut reader = Reader { args, group, cluster, member, readings, committed, left };
    let done = reader.go_on().await;
    // Whatever ended it: what was written is committed, and the others get its partitions now.
    let committed = reader.commit().await;
    let left = reader.cluster.leave(reader.member).await;
    done?;
    committed?;
    Ok(left?)
}

impl Reader<'_> {
    async fn go_on(&mut self) -> anyhow::Result<()> {
        let interrupted = tokio::spawn(tokio::signal::ctrl_c());
        let (mut next_beat, mut next_commit) = (Instant::now(), Instant::now() + COMMIT_EVERY);
        let mut beats_without = 0;
        while self.left > 0 && !interrupted.is_finished() {
            if Instant::now() >= next_beat {
                let has_given_up = self.beat().await?;
                beats_without = if self.readings.is_empty() { beats_without + 1 } else { 0 };
                // Who waits for what was given up is to get it soon.
                next_beat = Instant::now() + if has_given_up { Duration::ZERO } else { self.member.every() };
            }
            let moved = self.take().await?;
            if Instant::now() >= next_commit {
                self.commit().await?;
                next_commit = Instant::now() + COMMIT_EVERY;
            }
            let at_end = if self.readings.is_empty() {
                beats_without > BEATS_WITHOUT
            } else {
                self.readings.values().all(|reading| reading.next >= reading.end)
            };
            if at_end && !self.args.follow {
                break;
            }
            if !moved {
                clock::pause(LOOK_EVERY).await;
            }
        }
        interrupted.abort();
        Ok(())
    }

    /// A heartbeat, and what follows from it; whether something was given up.
    async fn beat(&mut self) -> anyhow::Result<bool> {
        let has: BTreeSet<PartitionId> = self.readings.keys().copied().collect();
        self.cluster.beat(&mut self.member, &has).await?;
        let assigned = self.member.assigned().clone();
        let gone: Vec<PartitionId> = has.difference(&assigned).copied().collect();
        if !gone.is_empty() {
            self.commit().await?;
            for partition in &gone {
                self.readings.remove(partition);
                self.committed.remove(partition);
            }
            return Ok(true);
        }
        let new: Vec<PartitionId> = assigned.difference(&has).copied().collect();
        if new.is_empty() {
            return Ok(false);
        }
        let committed = self.cluster.committed(self.group).await?;
        for partition in new {
            let topic = &self.args.topic;
            let end = self.cluster.offset_at(topic, partition, At::Latest).await?;
            let reached = committed.iter().find(|at| at.topic == *topic && at.partition == partition);
            let place = reached.map_or(self.args.from, |at| Whereto::Offset(at.offset));
            let next = offset_of(&mut self.cluster, topic, partition, place).await?;
            self.committed.extend(reached.map(|at| (partition, at.offset)));
            self.readings.insert(partition, Reading { partition, next, end });
        }
        Ok(false)
    }

    /// Writes what has come; whether something had.
    async fn take(&mut self) -> anyhow::Result<bool> {
        let mut moved = false;
        for reading in self.readings.values_mut() {
            if self.left == 0 || !self.args.follow && reading.next >= reading.end {
                continue;
            }
            let topic = &self.args.topic;
            let fetched = self.cluster.fetch(topic, reading.partition, reading.next, Duration::ZERO).await?;
            let mut out = out();
            let mut next = fetched.next;
            for record in fetched.records.iter() {
                if self.left == 0 {
                    next = record.offset;
                    break;
                }
                write_record(&mut out, self.args, reading.partition, &record)?;
                self.left -= 1;
            }
            out.flush()?;
            moved |= next > reading.next;
            reading.next = next;
        }
        Ok(moved)
    }

    /// Commits what was written; a member that was given up has nothing to commit any more.
    async fn commit(&mut self) -> anyhow::Result<()> {
        let offsets: Vec<CommittedAt> = self
            .readings
            .values()
            .filter(|reading| self.committed.get(&reading.partition) != Some(&reading.next))
            .map(|reading| CommittedAt {
                topic: self.args.topic.clone(),
                partition: reading.partition,
                offset: reading.next,
            })
            .collect();
        if offsets.is_empty() || self.member.is_out() {
            return Ok(());
        }
        self.cluster.commit_as(&self.member, &offsets).await?;
        self.committed.extend(offsets.iter().map(|at| (at.partition, at.offset)));
        Ok(())
    }
}
