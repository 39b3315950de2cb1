//! A client of Kafka's wire protocol, for tools and for a source that follows another cluster: it asks this process or any other
//! broker that speaks it.
//!
//! *Why*: what a tool does over the wire works against a Kafka cluster later without a change. A request goes to the broker
//! that is responsible for it: a partition's leader, a group's coordinator.
//!
//! *Invariants*: one request at a time on each connection; the versions of a request are those that both sides know; an answer
//! is bounded before it is read, and what it counts before it is decoded; every call ends within half a minute and its long poll.
//!
//! *Not here*: members of groups of the classic protocol, transactions, how a login is worded ([`Login`]), retries. A tool tells what failed, and its
//! user tries again; a source does so by itself.

mod admin;
mod connection;
mod following;
mod groups;
mod members;
mod records;

use std::collections::{BTreeMap, HashMap};

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName, metadata_request};
use kafka_protocol::protocol::StrBytes;
use tarn_model::{Error, Kind, PartitionId, Result};

use self::connection::Connection;

pub use admin::TopicSetting;
pub use connection::{Access, Conversation, Login, TlsConfig};
pub use following::{Part, Place};
pub use groups::{CommittedAt, GroupDetails, GroupMember, GroupState};
pub use members::Membership;
pub use records::{At, Fetched};

/// A cluster, reached through one of its brokers.
#[derive(Debug)]
pub struct Cluster {
    bootstrap: String,
    access: Access,
    /// The first connection, which answers what any broker can.
    any: Connection,
    /// Connections to brokers that are asked for what they alone can answer.
    brokers: HashMap<i32, Connection>,
    /// Where brokers are, as the newest metadata say.
    addresses: BTreeMap<i32, String>,
    leaders: HashMap<(String, PartitionId), i32>,
}

/// A topic of a cluster.
#[derive(Debug, Clone, serde::Serialize)]
pub struct TopicPartitions {
    /// Its name.
    pub name: String,
    /// Its identity, where the broker tells it.
    #[serde(skip)]
    pub id: uuid::Uuid,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionId>,
    /// Copies of each partition.
    pub replicas: usize,
}

impl Cluster {
    /// Reaches a cluster through the broker at `bootstrap`, `HOST:PORT`; of several, with commas, the first that answers.
    pub async fn connect(bootstrap: &str) -> Result<Cluster> {
        Cluster::connect_with(bootstrap, Access::default()).await
    }

    /// The same, through TLS or with a login.
    pub async fn connect_with(bootstrap: &str, access: Access) -> Result<Cluster> {
        let mut last = Error::invalid("no broker is named");
        for address in bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty()) {
            match Connection::open(address, &access).await {
                Ok(any) => {
                    return Ok(Cluster {
                        bootstrap: address.to_owned(),
                        access,
                        any,
                        brokers: HashMap::new(),
                        addresses: BTreeMap::new(),
                        leaders: HashMap::new(),
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The broker that was reached first.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// All topics but the cluster's own, by name.
    pub async fn topics(&mut self) -> Result<Vec<TopicPartitions>> {
        let mut topics = self.metadata(None).await?;
        topics.retain(|topic| !topic.name.starts_with("__"));
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// The topic of this name.
    pub async fn topic(&mut self, name: &str) -> Result<TopicPartitions> {
        let found = self.metadata(Some(&[name])).await?;
        found.into_iter().next().ok_or_else(|| Error::invalid(format!("there is no topic `{name}`")))
    }

    async fn metadata(&mut self, topics: Option<&[&str]>) -> Result<Vec<TopicPartitions>> {
        let named =
            |name: &str| metadata_request::MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(topics.map(|names| names.iter().map(|name| named(name)).collect()))
            .with_allow_auto_topic_creation(false);
        let answer = self.any.ask(&request, 12).await?;
        for broker in &answer.brokers {
            self.addresses.insert(broker.node_id.0, format!("{}:{}", broker.host, broker.port));
        }
        let mut topics = Vec::new();
        for found in answer.topics {
            let name = found.name.map(|name| name.to_string()).unwrap_or_default();
            check(found.error_code, None, || format!("topic `{name}`"))?;
            let mut partitions = Vec::new();
            for partition in &found.partitions {
                self.leaders.insert((name.clone(), partition.partition_index), partition.leader_id.0);
                partitions.push(partition.partition_index);
            }
            partitions.sort_unstable();
            let replicas = found.partitions.first().map_or(0, |p| p.replica_nodes.len());
            topics.push(TopicPartitions { name, id: found.topic_id, partitions, replicas });
        }
        Ok(topics)
    }

    /// The connection to the leader of a partition.
    async fn leader(&mut self, topic: &str, partition: PartitionId) -> Result<&mut Connection> {
        let key = (topic.to_owned(), partition);
        if !self.leaders.contains_key(&key) {
            self.metadata(Some(&[topic])).await?;
        }
        let leader = self.leaders.get(&key).copied();
        let leader = leader.ok_or_else(|| {
            Error::invalid(format!("topic `{topic}` has no partition {partition}"))
                .with_hint("`tarn topic describe` lists them")
        })?;
        self.broker(leader).await
    }

    /// The connection to the coordinator of a group.
    async fn coordinator(&mut self, group: &str) -> Result<&mut Connection> {
        let request = FindCoordinatorRequest::default().with_key(owned(group)).with_key_type(0);
        let answer = self.any.ask(&request, 3).await?;
        check(answer.error_code, answer.error_message.as_ref(), || {
            format!("the coordinator of group `{group}`")
        })?;
        let node = answer.node_id.0;
        self.addresses.insert(node, format!("{}:{}", answer.host, answer.port));
        self.broker(node).await
    }

    async fn broker(&mut self, node: i32) -> Result<&mut Connection> {
        if !self.brokers.contains_key(&node) {
            let address = self.addresses.get(&node).cloned();
            let address = address.ok_or_else(|| {
                Error::unavailable(format!("nobody leads that partition now: broker {node} is not known"))
            })?;
            let connection = Connection::open(&address, &self.access).await?;
            self.brokers.insert(node, connection);
        }
        Ok(self.brokers.get_mut(&node).expect("it was opened if it was not there"))
    }
}

/// An error of a broker, in words: what it was about, what it said, what to do.
fn check(code: i16, told: Option<&StrBytes>, what: impl FnOnce() -> String) -> Result<()> {
    let error = match ResponseError::try_from_code(code) {
        None => return Ok(()),
        Some(ResponseError::Unknown(code)) => {
            return Err(Error::unavailable(format!(
                "{}: the broker answers with the unknown error {code}",
                what()
            )));
        }
        Some(error) => error,
    };
    let (kind, hint) = match error {
        ResponseError::UnknownTopicOrPartition => {
            (Kind::Invalid, Some("`tarn topic list` says which topics there are"))
        }
        ResponseError::TopicAlreadyExists => (Kind::Conflict, Some("`tarn topic alter` changes it")),
        ResponseError::GroupIdNotFound => {
            (Kind::Invalid, Some("`tarn group list` says which groups there are"))
        }
        ResponseError::NonEmptyGroup | ResponseError::UnknownMemberId => {
            (Kind::Conflict, Some("stop its members first: `tarn group describe` lists them"))
        }
        ResponseError::PolicyViolation => (Kind::Conflict, None),
        ResponseError::OffsetOutOfRange => {
            (Kind::Invalid, Some("`tarn topic describe` says where partitions begin and end"))
        }
        error if error.is_retriable() => (Kind::Unavailable, None),
        _ => (Kind::Invalid, None),
    };
    let told = told.map(StrBytes::as_str).filter(|told| !told.is_empty());
    let words = told.map_or_else(|| words(&format!("{error:?}")), str::to_owned);
    let failed = Error::new(kind, format!("{}: {words}", what()));
    Err(match hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    })
}

/// `UnknownTopicOrPartition` as `unknown topic or partition`.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

fn owned(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(owned(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_error_says_what_it_was_about_and_what_to_do() {
        let error = check(3, None, || "topic `x`".to_owned()).expect_err("an error");
        assert_eq!(error.to_string(), "topic `x`: unknown topic or partition");
        assert!(error.hint().is_some_and(|hint| hint.contains("tarn topic list")));
        let told = StrBytes::from_static_str("a table is made from it");
        let error = check(44, Some(&told), || "topic `x`".to_owned()).expect_err("an error");
        assert_eq!(error.to_string(), "topic `x`: a table is made from it");
        assert!(check(0, None, String::new).is_ok());
        assert!(check(9999, None, String::new).expect_err("an error").to_string().contains("9999"));
    }
}
