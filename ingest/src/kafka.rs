//! `kafka`: topics of another Kafka cluster, record by record.
//!
//! *Layout* of positions: `<topic>/<partition>` of the other cluster: `{"next", "id", "missing"}`: the next offset, the topic's
//! identity (where its cluster tells one), and how many records were gone before they could be read. They are in the commit of the
//! records, and nowhere else: the other cluster keeps nothing of this source. `began` says that the source has run before.
//!
//! *Invariants*: a partition is read from its position on, and what is committed is what transactions committed there; each
//! record becomes one record with the same key, value, headers and timestamp. Nothing is passed over without a word: records
//! that are gone end the source, or are counted ([`OutOfRange`]).
//!
//! *Failure*: a broker that is away, or leads no more, is waited for, partition by partition; a cluster that cannot be reached at
//! all makes the source wait, and connect anew.
//!
//! *Memory*: one answer of each leader (8 MiB, or one batch), of which one batch is unpacked at a time.
//!
//! A record passes as it is, or its value is looked at ([`shaping`]).
//!
//! *Not here*: the protocol ([`tarn_kafka::client`]).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tarn_kafka::client::{At, Cluster, Part, Place, TopicPartitions};
use tarn_log::{Answer, RecordRef, TopicInfo, TopicOptions};
use tarn_model::config::{Config, KafkaConfig, KafkaStart, OutOfRange, Partitioning, is_like};
use tarn_model::{Error, Kind, Offset, PartitionId, Result};
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use crate::appender::Appender;
use crate::monitor::State;
use crate::shaper::{ERROR_HEADER, Sink};
use crate::source::{Collector, Source};

mod login;
mod shaping;
#[cfg(test)]
mod tests;

use shaping::Shaping;

/// Position key that says that the source has run before.
const BEGAN: &str = "began";
/// Longest wait of a broker for a record.
const LONGEST_POLL: Duration = Duration::from_millis(250);
/// Longest time without a look at the stop signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Rest of a partition that gave nothing but an error; twice as long each time, up to the longest.
const FIRST_REST: Duration = Duration::from_millis(200);
const LONGEST_REST: Duration = Duration::from_secs(10);
/// Looks on end without a topic after which a drain takes it for deleted: a broker that has just begun may not know all of them.
const LOOKS_WITHOUT: u32 = 3;
/// Longest time between two looks of a drain that has nothing to read.
const DRAIN_LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Follows topics of one cluster.
pub(crate) struct Kafka {
    config: KafkaConfig,
    whole_config: Config,
    /// In a drain: the ends of the partitions as they were at its begin.
    ends: Option<BTreeMap<(String, PartitionId), Offset>>,
    /// In a drain: topics that are not there any more, and in how many looks on end they were not.
    absent: BTreeMap<String, u32>,
    /// What is done to records; none where they pass as they are.
    shaping: Option<Shaping>,
}

/// How far a partition was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    next: Offset,
    #[serde(default)]
    id: Uuid,
    #[serde(default)]
    missing: u64,
}

/// A partition of the other cluster.
struct Followed {
    topic: String,
    partition: PartitionId,
    reached: Reached,
    local: Arc<TopicInfo>,
    /// Since it gave an error: until when it rests, and how long.
    rest: Option<(Instant, Duration)>,
}

impl Followed {
    fn rests(&self) -> bool {
        self.rest.is_some_and(|(until, _)| Instant::now() < until)
    }

    fn rest_longer(&mut self) {
        let rest = self.rest.map_or(FIRST_REST, |(_, rest)| (rest * 2).min(LONGEST_REST));
        self.rest = Some((Instant::now() + rest, rest));
    }

    fn key(&self) -> String {
        key(&self.topic, self.partition)
    }

    fn place(&self) -> Place {
        Place { topic: self.topic.clone(), partition: self.partition, from: self.reached.next }
    }

    fn told(&self) -> String {
        format!("topic `{}` partition {}", self.topic, self.partition)
    }
}

fn key(topic: &str, partition: PartitionId) -> String {
    format!("{topic}/{partition}")
}

/// What one round of fetches came to.
#[derive(Default)]
struct Round {
    came: bool,
    later: Option<Error>,
    /// Whether every partition rests.
    all_rest: bool,
}

impl Kafka {
    pub(crate) fn new(config: KafkaConfig, whole_config: &Config) -> Kafka {
        let whole_config = whole_config.clone();
        Kafka { config, whole_config, ends: None, absent: BTreeMap::new(), shaping: None }
    }

    /// Looks which partitions there are; `None` when the source is to stop.
    fn look(
        &mut self,
        source: &Source,
        cluster: &mut Cluster,
        appender: &mut Appender<'_>,
        followed: &mut Vec<Followed>,
    ) -> Result<Option<()>> {
        let patterns = self.config.topics.patterns();
        let wanted = |topic: &str| patterns.iter().any(|pattern| is_like(pattern, topic));
        let Some(topics) = within(source, cluster.topics_like(wanted))? else { return Ok(None) };
        self.note_absent(&topics);
        let began = source.log.position(&source.name, BEGAN)?.is_some();
        let at = if began || self.config.start == KafkaStart::Earliest { At::Earliest } else { At::Latest };
        let mut is_news = !began;
        for topic in topics {
            let (local, known) = self.local(source, &topic.name, &topic.partitions)?;
            for partition in topic.partitions.into_iter().take(known) {
                let is = |one: &&mut Followed| one.topic == topic.name && one.partition == partition;
                if let Some(one) = followed.iter_mut().find(is) {
                    one.local = local.clone();
                    if self.was_made_anew(one, topic.id)? {
                        let Some(first) = offset(source, cluster, one, At::Earliest)? else {
                            return Ok(None);
                        };
                        self.pass_over(source, appender, one, first, topic.id)?;
                    }
                    continue;
                }
                let stored = stored(source, &topic.name, partition)?;
                let is_new = stored.is_none();
                let reached = stored.unwrap_or(Reached { next: 0, id: topic.id, missing: 0 });
                let mut one = Followed {
                    topic: topic.name.clone(),
                    partition,
                    reached,
                    local: local.clone(),
                    rest: None,
                };
                if is_new {
                    let next = match offset(source, cluster, &one, at) {
                        Ok(Some(next)) => next,
                        Ok(None) => return Ok(None),
                        // It is found again by a later look, and read from its first record then.
                        Err(error) if matches!(at, At::Earliest) && !source.draining() => {
                            warn!(source = source.name, topic = one.topic, partition, error = %error, "a new partition cannot be read yet");
                            source.monitor.error(&error);
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    one.reached.next = next;
                    info!(source = source.name, topic = one.topic, partition, from = next, "partition found");
                    position(appender, &one)?;
                    is_news = true;
                } else if self.was_made_anew(&one, topic.id)? {
                    let Some(first) = offset(source, cluster, &one, At::Earliest)? else { return Ok(None) };
                    self.pass_over(source, appender, &mut one, first, topic.id)?;
                }
                followed.push(one);
            }
        }
        if is_news {
            // From here on what is found is new, whatever happens before its first record.
            appender.position(BEGAN, Some(true.into()));
            appender.finish()?;
        }
        Ok(Some(()))
    }

    /// Notes which of the topics that a drain reads are not among `topics`.
    fn note_absent(&mut self, topics: &[TopicPartitions]) {
        let wanted: BTreeSet<&String> = self.ends.iter().flatten().map(|((topic, _), _)| topic).collect();
        for topic in wanted {
            if topics.iter().any(|found| found.name == *topic) {
                self.absent.remove(topic);
            } else {
                *self.absent.entry(topic.clone()).or_default() += 1;
            }
        }
    }

    /// The topic here that takes the partitions of one there, and how many of them it can take.
    fn local(
        &self,
        source: &Source,
        topic: &str,
        partitions: &[PartitionId],
    ) -> Result<(Arc<TopicInfo>, usize)> {
        let name = source.topic.replace("{topic}", topic);
        let wanted = i32::try_from(partitions.len()).unwrap_or(i32::MAX).max(1);
        let declared = self.whole_config.topics.iter().find(|topic| topic.name == name);
        let options = |partitions: i32, found: Option<&TopicInfo>| TopicOptions {
            partitions,
            retention_time: match (declared, found) {
                (Some(declared), _) => declared.retention_time.map(|span| span.0),
                (None, found) => found.and_then(|found| found.retention_time),
            },
            retention_bytes: match (declared, found) {
                (Some(declared), _) => declared.retention_size.map(|size| size.0),
                (None, found) => found.and_then(|found| found.retention_bytes),
            },
        };
        let Some(found) = source.log.topic(&name) else {
            let count = declared.map_or(wanted, |declared| declared.partitions);
            let made = source.log.create_topic(&name, &options(count, None))?;
            return self.taken(source, made, wanted, partitions.len());
        };
        let is_kept = self.config.partitioning == Partitioning::Kept;
        let target = declared.map_or(wanted, |declared| declared.partitions);
        if is_kept && found.partitions < target && source.log.holder(&name).is_none() {
            let grown = source.log.create_topic(&name, &options(target, Some(&found)))?;
            return self.taken(source, grown, wanted, partitions.len());
        }
        self.taken(source, found, wanted, partitions.len())
    }

    /// Says so when there are partitions that a topic here has no room for.
    fn taken(
        &self,
        source: &Source,
        local: Arc<TopicInfo>,
        wanted: i32,
        count: usize,
    ) -> Result<(Arc<TopicInfo>, usize)> {
        if self.config.partitioning == Partitioning::ByKey || local.partitions >= wanted {
            return Ok((local, count));
        }
        let (name, has) = (&local.name, local.partitions);
        let error = Error::invalid(format!(
            "topic `{name}` has {has} partitions here and {wanted} there: those from {has} on are not read"
        ))
        .with_hint(format!(
            "declare it, `[[topic]]` with `partitions = {wanted}`, and start again; or let keys choose: `partitioning = \"by_key\"`"
        ));
        if source.draining() {
            return Err(error);
        }
        warn!(source = source.name, topic = name, has, wanted, "partitions are not read");
        source.monitor.error(&error);
        let known = usize::try_from(has).unwrap_or(0);
        Ok((local, known))
    }

    /// Whether the topic is another one than was read; an error where that is not to be.
    fn was_made_anew(&self, one: &Followed, id: Uuid) -> Result<bool> {
        if id.is_nil() || one.reached.id.is_nil() || id == one.reached.id {
            return Ok(false);
        }
        if self.config.out_of_range == OutOfRange::Earliest {
            return Ok(true);
        }
        Err(Error::invalid(format!(
            "topic `{}` of the other cluster was deleted and made anew: nobody can tell which records are missing",
            one.topic
        ))
        .with_hint("`out_of_range = \"earliest\"` reads the new one from its first record"))
    }

    /// Goes on at `first`, and keeps how many records were passed over, as far as that can be known.
    fn pass_over(
        &self,
        source: &Source,
        appender: &mut Appender<'_>,
        one: &mut Followed,
        first: Offset,
        id: Uuid,
    ) -> Result<()> {
        let missing = u64::try_from(first - one.reached.next).unwrap_or(0);
        let what = if id == one.reached.id || id.is_nil() {
            format!("{missing} records of {} were gone before they could be read", one.told())
        } else {
            format!("{} was made anew: what was in the old one and not read is missing", one.told())
        };
        warn!(source = source.name, topic = one.topic, partition = one.partition, missing, "{what}");
        source.monitor.error(&Error::unavailable(what));
        one.reached = Reached { next: first, id, missing: one.reached.missing + missing };
        position(appender, one)?;
        appender.finish()
    }

    /// The partition does not have the next offset.
    fn out_of_range(
        &self,
        source: &Source,
        cluster: &mut Cluster,
        appender: &mut Appender<'_>,
        one: &mut Followed,
    ) -> Result<Option<()>> {
        let Some(first) = offset(source, cluster, one, At::Earliest)? else { return Ok(None) };
        let Some(end) = offset(source, cluster, one, At::Latest)? else { return Ok(None) };
        let next = one.reached.next;
        if next > end {
            let error = Error::invalid(format!(
                "{} of the other cluster ends at {end} and was read up to {next}: it has lost records",
                one.told()
            ));
            return Err(error.with_hint(format!(
                "`tarn source forget {}` reads everything again, whatever was read before",
                source.name
            )));
        }
        if next >= first {
            // It was so when it was asked.
            return Ok(Some(()));
        }
        match self.config.out_of_range {
            OutOfRange::Fail => {
                let missing = first - next;
                Err(Error::invalid(format!(
                    "{missing} records of {} are gone at the other cluster: {next} is the next, and it begins at {first}",
                    one.told()
                ))
                .with_hint("`out_of_range = \"earliest\"` goes on without them; longer retention there keeps them"))
            }
            OutOfRange::Earliest => {
                let id = one.reached.id;
                self.pass_over(source, appender, one, first, id).map(Some)
            }
        }
    }

    /// Reads on from all partitions, and hands over what came; `None` when the source is to stop.
    fn round(
        &mut self,
        source: &Source,
        cluster: &mut Cluster,
        appender: &mut Appender<'_>,
        followed: &mut [Followed],
        wait: Duration,
    ) -> Result<Option<Round>> {
        let mut asked: Vec<&mut Followed> = followed.iter_mut().filter(|one| !one.rests()).collect();
        let mut round = Round { all_rest: asked.is_empty(), ..Round::default() };
        let places: Vec<Place> = asked.iter().map(|one| one.place()).collect();
        let fetching = async { Ok(cluster.fetch_all(&places, wait).await) };
        let Some(parts) = within(source, fetching)? else { return Ok(None) };
        for (one, part) in asked.iter_mut().zip(parts) {
            match part {
                Part::Read(answer) => {
                    one.rest = None;
                    round.came |= self.take(source, appender, one, &answer)?;
                }
                Part::OutOfRange => {
                    if self.out_of_range(source, cluster, appender, one)?.is_none() {
                        return Ok(None);
                    }
                    round.came = true;
                }
                Part::Later(error) if error.kind() == Kind::Corrupt => return Err(error),
                Part::Later(error) => {
                    one.rest_longer();
                    round.later = Some(error);
                }
            }
        }
        appender.submit()?;
        Ok(Some(round))
    }

    /// Pushes the records of an answer; whether the partition was read on.
    fn take(
        &mut self,
        source: &Source,
        appender: &mut Appender<'_>,
        one: &mut Followed,
        answer: &Answer,
    ) -> Result<bool> {
        if answer.next() <= one.reached.next {
            return Ok(false);
        }
        let partition = (self.config.partitioning == Partitioning::Kept).then_some(one.partition);
        if let Some(shaping) = &mut self.shaping {
            shaping.begin(source, one)?;
        }
        for batch in answer.batches() {
            let (records, next) = batch?;
            source.monitor.read(records.bytes() as u64);
            for record in records.iter() {
                if record.headers_are_whole() {
                    match &mut self.shaping {
                        Some(shaping) => shaping.push(appender, one, partition, &record)?,
                        None => appender.push_copy(&one.local, partition, &record)?,
                    }
                } else {
                    let wrong = b"the record's headers cannot be read".as_slice();
                    let headers = [(ERROR_HEADER, wrong)];
                    let (timestamp_ms, key, value) = (record.timestamp_ms, record.key, record.value);
                    appender.push(&one.local, &RecordRef { timestamp_ms, key, value, headers: &headers })?;
                }
                one.reached.next = record.offset + 1;
                if appender.is_full() {
                    position(appender, one)?;
                    appender.submit()?;
                }
            }
            one.reached.next = one.reached.next.max(next);
        }
        one.reached.next = one.reached.next.max(answer.next());
        position(appender, one)?;
        Ok(true)
    }

    /// In a drain: whether everything that was there at its begin is read, or will never be.
    fn is_drained(
        &mut self,
        source: &Source,
        cluster: &mut Cluster,
        followed: &[Followed],
    ) -> Result<Option<bool>> {
        if self.ends.is_none() {
            let mut ends = BTreeMap::new();
            for one in followed.iter() {
                let Some(end) = offset(source, cluster, one, At::Latest)? else { return Ok(None) };
                ends.insert((one.topic.clone(), one.partition), end);
            }
            self.ends = Some(ends);
        }
        let Some(ends) = &self.ends else { return Ok(Some(false)) };
        let (mut all, mut given_up) = (true, Vec::new());
        for ((topic, partition), end) in ends {
            let at = followed.iter().position(|one| one.topic == *topic && one.partition == *partition);
            let stored = match at {
                Some(_) => None,
                // It was gone when the cluster was reached again.
                None => stored(source, topic, *partition)?,
            };
            let reached = at.map(|at| followed[at].reached).or(stored);
            let Some(reached) = reached.filter(|reached| reached.next < *end) else { continue };
            if self.absent.get(topic).is_none_or(|looks| *looks < LOOKS_WITHOUT) {
                all = false;
                continue;
            }
            let missing = end - reached.next;
            let told = format!("topic `{topic}` partition {partition}");
            if self.config.out_of_range == OutOfRange::Fail {
                return Err(Error::invalid(format!(
                    "{missing} records of {told} are gone: the other cluster has deleted the topic before they were read"
                ))
                .with_hint("`out_of_range = \"earliest\"` goes on without them"));
            }
            let what = format!("{missing} records of {told} cannot be read: the topic is not there any more");
            warn!(source = source.name, topic, partition, missing, "{what}");
            source.monitor.error(&Error::unavailable(what));
            // The position stays: should the same topic come back, nothing of it was passed over.
            given_up.push((topic.clone(), *partition));
        }
        if let Some(ends) = self.ends.as_mut().filter(|_| !given_up.is_empty()) {
            ends.retain(|partition, _| !given_up.contains(partition));
        }
        Ok(Some(all))
    }
}

impl Collector for Kafka {
    fn collect(&mut self, source: &Source) -> Result<()> {
        if self.shaping.is_none() {
            self.shaping = Shaping::of(source, &self.config)?;
        }
        let connecting = Cluster::connect_with(&self.config.brokers, login::access(&self.config)?);
        let Some(mut cluster) = within(source, connecting)? else { return Ok(()) };
        let mut appender = Appender::new(source);
        let (mut followed, mut looked) = (Vec::new(), None::<Instant>);
        let mut wait = Duration::ZERO;
        loop {
            if looked.is_none_or(|at| at.elapsed() >= self.config.look_every.0) {
                if self.look(source, &mut cluster, &mut appender, &mut followed)?.is_none() {
                    return appender.finish();
                }
                looked = Some(Instant::now());
            }
            if source.draining() {
                match self.is_drained(source, &mut cluster, &followed)? {
                    Some(false) => {}
                    Some(true) | None => return appender.finish(),
                }
            }
            if source.stopping() {
                return appender.finish();
            }
            if followed.is_empty() {
                let (topics, brokers) = (self.config.topics.patterns().join("`, `"), &self.config.brokers);
                source.monitor.waiting(&Error::unavailable(format!("no topic of {brokers} fits `{topics}`")));
                let longest = if source.draining() { DRAIN_LOOKS_EVERY } else { Duration::MAX };
                source.pause(self.config.look_every.0.min(longest));
                looked = None;
                continue;
            }
            if followed.iter().any(|one| one.rest.is_some() && !one.rests()) {
                // It may have another leader by now.
                self.look(source, &mut cluster, &mut appender, &mut followed)?;
            }
            let round = self.round(source, &mut cluster, &mut appender, &mut followed, wait)?;
            let Some(round) = round else { return appender.finish() };
            // The first of a request may be larger than an answer; so each is the first in its turn.
            followed.rotate_left(1);
            if round.came {
                while !appender.keep_pace(LONGEST_POLL)? {}
            } else {
                appender.finish()?;
            }
            let is_well = followed.iter().all(|one| one.rest.is_none());
            if is_well {
                source.monitor.recovered();
            }
            source.monitor.state(if round.came { State::Running } else { State::Idle });
            if let Some(error) = round.later {
                source.monitor.waiting(&error);
            }
            if round.all_rest {
                source.pause(FIRST_REST);
            }
            wait = if round.came { Duration::ZERO } else { LONGEST_POLL };
        }
    }
}

/// Sets how far a partition is read, with the records up to there.
fn position(appender: &mut Appender<'_>, one: &Followed) -> Result<()> {
    keep(appender, &one.key(), one.reached)
}

fn keep(appender: &mut Appender<'_>, key: &str, reached: Reached) -> Result<()> {
    let reached = serde_json::to_value(reached)
        .map_err(|error| Error::internal("a position is no JSON").with_source(error))?;
    appender.position(key, Some(reached));
    Ok(())
}

/// How far a partition was read in what is committed.
fn stored(source: &Source, topic: &str, partition: PartitionId) -> Result<Option<Reached>> {
    let stored = source.log.position(&source.name, &key(topic, partition))?;
    let read = stored.map(serde_json::from_value).transpose();
    read.map_err(|error| Error::internal("the position of a partition cannot be read").with_source(error))
}

/// The offset of a place in a partition of the other cluster.
fn offset(source: &Source, cluster: &mut Cluster, one: &Followed, at: At) -> Result<Option<Offset>> {
    let asked = within(source, cluster.offset_at(&one.topic, one.partition, at));
    // What a broker refuses now (it leads no more, say) it may answer later.
    asked.map_err(|error| Error::unavailable(error.to_string()).with_source(error))
}

/// Waits for an answer; `None` when the source is to stop meanwhile.
fn within<T>(source: &Source, asking: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    source.runtime.block_on(async {
        let mut asking = std::pin::pin!(asking);
        loop {
            match timeout(LOOK_EVERY, &mut asking).await {
                Ok(answer) => return answer.map(Some),
                Err(_) if source.stopping() => return Ok(None),
                Err(_) => {}
            }
        }
    })
}
