//! Reading many partitions on, for whoever follows a cluster: topics as they come and go, one request for each leader.
//!
//! *Why not [`Cluster::fetch`]*: that is one partition a request, and unpacks its answer whole. Here an answer stays packed until
//! its batches are taken one by one, and what goes wrong with one partition is told of that one only.
//!
//! *Not here*: retries. Whoever follows asks again, and looks for topics (and so for leaders) again after [`Part::Later`].

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::future::join_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    BrokerId, FetchRequest, FetchResponse, MetadataRequest, fetch_request, fetch_response,
};
use tarn_log::Answer;
use tarn_model::{Error, Kind, Offset, PartitionId, Result};

use super::{Cluster, Connection, TopicPartitions, check, topic_name};

const READ_COMMITTED: i8 = 1;
/// Of one answer, and of one partition in it; a batch that is larger comes all the same, but alone.
const ANSWER_BYTES: i32 = 8 << 20;
const PARTITION_BYTES: i32 = 1 << 20;

/// A partition, and the next offset to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset.
    pub from: Offset,
}

/// What came of a place.
#[derive(Debug)]
pub enum Part {
    /// Records, or none.
    Read(Answer),
    /// The partition does not have that offset.
    OutOfRange,
    /// Nothing for now: its leader is not known, or is away, or says why not.
    Later(Error),
}

impl Cluster {
    /// The topics whose name is `wanted`, by name, without those that the cluster says something is wrong with. Leaders are looked
    /// up with them.
    pub async fn topics_like(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Vec<TopicPartitions>> {
        let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
        let answer = self.any.ask(&request, 12).await?;
        for broker in &answer.brokers {
            let address = format!("{}:{}", broker.host, broker.port);
            // A broker that has moved is asked at its new address.
            if self.addresses.insert(broker.node_id.0, address.clone()).is_some_and(|old| old != address) {
                self.brokers.remove(&broker.node_id.0);
            }
        }
        let mut topics = Vec::new();
        for found in answer.topics {
            let name = found.name.map(|name| name.to_string()).unwrap_or_default();
            if found.error_code != 0 || name.starts_with("__") || !wanted(&name) {
                continue;
            }
            let mut partitions = Vec::new();
            for partition in &found.partitions {
                self.leaders.insert((name.clone(), partition.partition_index), partition.leader_id.0);
                partitions.push(partition.partition_index);
            }
            partitions.sort_unstable();
            let replicas = found.partitions.first().map_or(0, |p| p.replica_nodes.len());
            topics.push(TopicPartitions { name, id: found.topic_id, partitions, replicas });
        }
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Reads on from `places`, committed records only; waits up to `wait` for one. What came, in the same order.
    pub async fn fetch_all(&mut self, places: &[Place], wait: Duration) -> Vec<Part> {
        let mut parts: Vec<Option<Part>> = places.iter().map(|_| None).collect();
        let mut of_leaders: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for (at, place) in places.iter().enumerate() {
            match self.leaders.get(&(place.topic.clone(), place.partition)) {
                Some(leader) if *leader >= 0 => of_leaders.entry(*leader).or_default().push(at),
                _ => {
                    parts[at] = Some(Part::Later(Error::unavailable(format!("nobody leads {}", told(place)))))
                }
            }
        }
        let asking = of_leaders.into_iter().map(|(leader, asked)| {
            let (kept, address) = (self.brokers.remove(&leader), self.addresses.get(&leader).cloned());
            let access = &self.access;
            async move {
                let opened = match (kept, address) {
                    (Some(connection), _) => Ok(connection),
                    (None, Some(address)) => Connection::open(&address, access).await,
                    (None, None) => Err(Error::unavailable(format!("broker {leader} is not known"))),
                };
                let asked_for: Vec<&Place> = asked.iter().map(|at| &places[*at]).collect();
                let answered = match opened {
                    Ok(mut connection) => {
                        let answer = connection.ask_and_wait(&request(&asked_for, wait), 11, wait).await;
                        answer.map(|answer| (connection, answer))
                    }
                    Err(error) => Err(error),
                };
                (leader, asked, answered)
            }
        });
        for (leader, asked, answered) in join_all(asking).await {
            match answered {
                Ok((connection, answer)) => {
                    self.brokers.insert(leader, connection);
                    take(answer, places, &asked, &mut parts);
                }
                Err(error) => {
                    for at in asked {
                        parts[at] = Some(Part::Later(Error::unavailable(error.chain())));
                    }
                }
            }
        }
        let unanswered = |place: &Place| {
            Part::Later(Error::unavailable(format!("the broker says nothing of {}", told(place))))
        };
        parts.into_iter().zip(places).map(|(part, place)| part.unwrap_or_else(|| unanswered(place))).collect()
    }
}

fn request(places: &[&Place], wait: Duration) -> FetchRequest {
    let mut topics: Vec<fetch_request::FetchTopic> = Vec::new();
    for place in places {
        let partition = fetch_request::FetchPartition::default()
            .with_partition(place.partition)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(place.from)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(PARTITION_BYTES);
        let name = topic_name(&place.topic);
        match topics.iter_mut().find(|topic| topic.topic == name) {
            Some(topic) => topic.partitions.push(partition),
            None => topics
                .push(fetch_request::FetchTopic::default().with_topic(name).with_partitions(vec![partition])),
        }
    }
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(1)
        .with_max_bytes(ANSWER_BYTES)
        .with_isolation_level(READ_COMMITTED)
        .with_session_epoch(-1)
        .with_topics(topics)
}

/// Gives each place what the answer has of it.
fn take(answer: FetchResponse, places: &[Place], asked: &[usize], parts: &mut [Option<Part>]) {
    if let Err(error) = check(answer.error_code, None, || "the fetch".to_owned()) {
        for at in asked {
            parts[*at] = Some(Part::Later(Error::unavailable(error.chain())));
        }
        return;
    }
    let asked: HashMap<(&str, PartitionId), usize> =
        asked.iter().map(|at| ((places[*at].topic.as_str(), places[*at].partition), *at)).collect();
    for topic in answer.responses {
        for found in topic.partitions {
            if let Some(at) = asked.get(&(topic.topic.as_str(), found.partition_index)) {
                parts[*at] = Some(part(&places[*at], found));
            }
        }
    }
}

fn part(place: &Place, found: fetch_response::PartitionData) -> Part {
    if found.error_code == ResponseError::OffsetOutOfRange.code() {
        return Part::OutOfRange;
    }
    if let Err(error) = check(found.error_code, None, || told(place)) {
        // Whatever it is, another cluster's trouble may pass.
        return Part::Later(Error::unavailable(error.to_string()));
    }
    let aborted: Vec<(i64, Offset)> = found
        .aborted_transactions
        .iter()
        .flatten()
        .map(|aborted| (aborted.producer_id.0, aborted.first_offset))
        .collect();
    match Answer::read(&found.records.unwrap_or_default(), place.from, &aborted) {
        Ok(answer) => Part::Read(answer),
        Err(error) => Part::Later(Error::new(Kind::Corrupt, format!("{}: {error}", told(place)))),
    }
}

fn told(place: &Place) -> String {
    format!("topic `{}` partition {}", place.topic, place.partition)
}
