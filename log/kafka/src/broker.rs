//! The one broker: which APIs it serves, and who serves them.
//!
//! *Invariants*: what is advertised works; a request is checked against its shape before it is decoded; what cannot be served
//! is answered with an error and never with silence.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::{self, ApiKey};
use kafka_protocol::protocol::{Decodable, StrBytes};
use tarn_log::{Log, TopicConfigs, TopicInfo, TopicOptions};
use tarn_model::clock::Clock;
use tarn_model::{Error, Kind};
use tokio::sync::Semaphore;

use crate::KafkaOptions;
use crate::coordinator::Coordinator;
use crate::frame::{Answer, Header};
use crate::{by_id, inventory, shape};

/// The number of this broker, the only one.
pub(crate) const BROKER_ID: i32 = 1;
/// Name of the cluster of one.
pub(crate) const CLUSTER_ID: &str = "tarn";

/// API, first and last version. Produce is advertised from 0 on, though 0 to 2 are refused: librdkafka takes a broker that does
/// not know them for one without compression.
pub(crate) const SERVED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 10),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::OffsetCommit, 2, 10),
    (ApiKey::OffsetFetch, 1, 10),
    (ApiKey::FindCoordinator, 0, 6),
    (ApiKey::JoinGroup, 0, 9),
    (ApiKey::Heartbeat, 0, 4),
    (ApiKey::LeaveGroup, 0, 5),
    (ApiKey::SyncGroup, 0, 5),
    (ApiKey::DescribeGroups, 0, 6),
    (ApiKey::ListGroups, 0, 5),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::CreateTopics, 2, 7),
    (ApiKey::DeleteTopics, 1, 6),
    (ApiKey::DeleteRecords, 0, 2),
    (ApiKey::InitProducerId, 0, 5),
    (ApiKey::DescribeAcls, 1, 3),
    (ApiKey::CreateAcls, 1, 3),
    (ApiKey::DeleteAcls, 1, 3),
    (ApiKey::AddPartitionsToTxn, 0, 3),
    (ApiKey::AddOffsetsToTxn, 0, 4),
    (ApiKey::EndTxn, 0, 5),
    (ApiKey::TxnOffsetCommit, 0, 5),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::AlterConfigs, 0, 2),
    (ApiKey::DescribeLogDirs, 1, 4),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
    (ApiKey::OffsetForLeaderEpoch, 2, 4),
    (ApiKey::ListPartitionReassignments, 0, 0),
    (ApiKey::OffsetDelete, 0, 0),
    (ApiKey::DescribeCluster, 0, 2),
    (ApiKey::DescribeProducers, 0, 0),
    (ApiKey::DescribeTransactions, 0, 0),
    (ApiKey::ListTransactions, 0, 2),
    (ApiKey::ConsumerGroupHeartbeat, 0, 1),
    (ApiKey::ConsumerGroupDescribe, 0, 1),
    (ApiKey::DescribeTopicPartitions, 0, 0),
];

/// What every connection shares.
#[derive(Debug)]
pub(crate) struct Broker {
    pub(crate) log: Log,
    pub(crate) options: KafkaOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) coordinator: Arc<Coordinator>,
    /// Memory for the records in answers.
    pub(crate) answers: crate::fetch::Answers,
    /// Places for Produce requests whose batches must be unpacked.
    pub(crate) unpacking: Arc<Semaphore>,
    /// Places for searches of a time, which unpack batches too.
    pub(crate) seeking: Arc<Semaphore>,
    /// Topics are created, changed and deleted one after the other.
    pub(crate) admin: tokio::sync::Mutex<()>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// The address by which the client reached us, which it is told to reach us by again.
    pub(crate) here: SocketAddr,
    pub(crate) there: SocketAddr,
}

/// A request whose header is known.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) header: Header,
    pub(crate) body: Bytes,
}

/// What became of a request; the error text goes to the log, and the connection is closed.
pub(crate) type Answered = Result<Option<Answer>, String>;

impl Incoming {
    /// Checks and decodes the body.
    pub(crate) fn decode<T: Decodable>(&self, key: ApiKey) -> Result<T, String> {
        let version = self.header.version;
        let told =
            |what: &dyn std::fmt::Display| format!("a request of {key:?} {version} cannot be read: {what}");
        shape::check(key, version, &self.body).map_err(|what| told(&what))?;
        let (version, mut body) =
            by_id::known(key, version, self.body.clone()).map_err(|what| told(&what))?;
        T::decode(&mut body, version).map_err(|error| told(&error))
    }
}

impl Broker {
    /// The API of a request, when it is served in its version.
    pub(crate) fn served(header: &Header) -> Option<ApiKey> {
        let (key, first, last) = SERVED.iter().find(|(key, _, _)| *key as i16 == header.key)?;
        let first = if *key == ApiKey::Produce { crate::produce::FIRST_VERSION } else { *first };
        (first..=*last).contains(&header.version).then_some(*key)
    }

    /// Answers a request, whatever time it takes.
    pub(crate) async fn answer(self: &Arc<Broker>, peer: &Peer, incoming: Incoming) -> Answered {
        let header = &incoming.header;
        let Some(key) = Broker::served(header) else {
            if header.key == ApiKey::ApiVersions as i16 {
                // In the oldest form, which every client reads, with the list to choose from.
                let body = crate::metadata::api_versions(Code::UnsupportedVersion.code());
                return Answer::of(header, 0, &body).map(Some);
            }
            tracing::debug!(key = header.key, version = header.version, "a request that is not served");
            return Ok(Some(Answer::unsupported(header, Code::UnsupportedVersion.code())));
        };
        macro_rules! serve {
            ($request:ident, |$asked:ident, $version:ident| $body:expr) => {{
                let ($asked, $version): (messages::$request, i16) = (incoming.decode(key)?, header.version);
                let body = $body;
                Answer::of(header, $version, &body).map(Some)
            }};
        }
        match key {
            ApiKey::Produce => self.produce(incoming).await,
            ApiKey::Fetch => self.fetch(incoming).await,
            ApiKey::ListOffsets => serve!(ListOffsetsRequest, |r, v| self.list_offsets(r, v).await),
            ApiKey::Metadata => serve!(MetadataRequest, |r, v| self.metadata(r, v, peer).await),
            ApiKey::OffsetCommit => serve!(OffsetCommitRequest, |r, v| self.commit_offsets(r, v).await),
            ApiKey::OffsetFetch => serve!(OffsetFetchRequest, |r, v| self.committed_offsets(r, v).await),
            ApiKey::FindCoordinator => {
                serve!(FindCoordinatorRequest, |r, v| Broker::find_coordinator(&r, v, peer))
            }
            ApiKey::JoinGroup => serve!(JoinGroupRequest, |r, v| {
                let client = header.client_id.clone().unwrap_or_default();
                self.join_group(r, v, client, peer).await
            }),
            ApiKey::Heartbeat => serve!(HeartbeatRequest, |r, v| self.heartbeat(&r)),
            ApiKey::LeaveGroup => serve!(LeaveGroupRequest, |r, v| self.leave_group(r, v)),
            ApiKey::SyncGroup => serve!(SyncGroupRequest, |r, v| self.sync_group(r).await),
            ApiKey::DescribeGroups => serve!(DescribeGroupsRequest, |r, v| self.describe_groups(r, v).await),
            ApiKey::ListGroups => serve!(ListGroupsRequest, |r, v| self.list_groups(&r).await),
            ApiKey::DeleteGroups => serve!(DeleteGroupsRequest, |r, v| self.delete_groups(r).await),
            ApiKey::OffsetDelete => serve!(OffsetDeleteRequest, |r, v| self.delete_offsets(r).await),
            ApiKey::ApiVersions => serve!(ApiVersionsRequest, |r, v| crate::metadata::versions(&r, v)),
            ApiKey::CreateTopics => serve!(CreateTopicsRequest, |r, v| self.create_topics(r).await),
            ApiKey::DeleteTopics => serve!(DeleteTopicsRequest, |r, v| self.delete_topics(r, v).await),
            ApiKey::DeleteRecords => serve!(DeleteRecordsRequest, |r, v| self.delete_records(r).await),
            ApiKey::CreatePartitions => {
                serve!(CreatePartitionsRequest, |r, v| self.create_partitions(r).await)
            }
            ApiKey::DescribeConfigs => serve!(DescribeConfigsRequest, |r, v| self.describe_configs(r)),
            ApiKey::IncrementalAlterConfigs => {
                serve!(IncrementalAlterConfigsRequest, |r, v| self.alter_configs(r).await)
            }
            ApiKey::AlterConfigs => serve!(AlterConfigsRequest, |r, v| self.replace_configs(r).await),
            ApiKey::DescribeCluster => {
                serve!(DescribeClusterRequest, |r, v| Broker::describe_cluster(&r, peer))
            }
            ApiKey::DescribeProducers => {
                serve!(DescribeProducersRequest, |r, v| self.describe_producers(r).await)
            }
            ApiKey::ListTransactions => {
                serve!(ListTransactionsRequest, |r, v| self.list_transactions(&r))
            }
            ApiKey::DescribeTransactions => {
                serve!(DescribeTransactionsRequest, |r, v| self.describe_transactions(r))
            }
            ApiKey::DescribeTopicPartitions => {
                serve!(DescribeTopicPartitionsRequest, |r, v| self.describe_topic_partitions(r))
            }
            ApiKey::DescribeLogDirs => serve!(DescribeLogDirsRequest, |r, v| self.describe_log_dirs(&r)),
            ApiKey::ListPartitionReassignments => {
                serve!(ListPartitionReassignmentsRequest, |_r, v| inventory::reassignments())
            }
            ApiKey::DescribeAcls => serve!(DescribeAclsRequest, |_r, v| inventory::describe_acls()),
            ApiKey::CreateAcls => serve!(CreateAclsRequest, |r, v| inventory::create_acls(&r)),
            ApiKey::DeleteAcls => serve!(DeleteAclsRequest, |r, v| inventory::delete_acls(&r)),
            ApiKey::OffsetForLeaderEpoch => {
                serve!(OffsetForLeaderEpochRequest, |r, v| self.epoch_ends(r).await)
            }
            ApiKey::ConsumerGroupHeartbeat => serve!(ConsumerGroupHeartbeatRequest, |r, v| {
                let client = header.client_id.clone().unwrap_or_default();
                self.consumer_heartbeat(r, v, client, peer).await
            }),
            ApiKey::ConsumerGroupDescribe => {
                serve!(ConsumerGroupDescribeRequest, |r, v| self.describe_consumers(r).await)
            }
            ApiKey::InitProducerId => serve!(InitProducerIdRequest, |r, v| self.begin_producer(r, v).await),
            ApiKey::AddPartitionsToTxn => {
                serve!(AddPartitionsToTxnRequest, |r, v| self.add_partitions(r, v).await)
            }
            ApiKey::AddOffsetsToTxn => serve!(AddOffsetsToTxnRequest, |r, v| self.add_offsets(r, v).await),
            ApiKey::TxnOffsetCommit => {
                serve!(TxnOffsetCommitRequest, |r, v| self.transaction_offsets(r, v).await)
            }
            ApiKey::EndTxn => serve!(EndTxnRequest, |r, v| self.end_transaction(r, v).await),
            other => Err(format!("{other:?} is advertised and not served")),
        }
    }

    /// A topic by its name or, where a client names it so, by its id.
    pub(crate) fn find_topic(&self, name: &str, id: uuid::Uuid) -> Result<Arc<TopicInfo>, Code> {
        if name.is_empty() && !id.is_nil() {
            return self.log.topic_of_id(id).ok_or(Code::UnknownTopicId);
        }
        self.log.topic(name).ok_or(Code::UnknownTopicOrPartition)
    }

    /// Creates a topic, off the async threads.
    pub(crate) async fn create_topic(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<Arc<TopicInfo>, Error> {
        let (log, name) = (self.log.clone(), name.to_owned());
        blocking(move || log.create_topic(&name, &options)).await
    }

    /// Creates a topic with these configs, or gives them to one, off the async threads.
    pub(crate) async fn configure_topic(
        &self,
        name: &str,
        options: TopicOptions,
        configs: TopicConfigs,
    ) -> Result<Arc<TopicInfo>, Error> {
        let (log, name) = (self.log.clone(), name.to_owned());
        blocking(move || log.configure_topic(&name, &options, &configs)).await
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal("a request broke off").with_source(error))?
}

/// The code that tells a client what to do about `error`.
pub(crate) fn code_of(error: &Error) -> Code {
    use tarn_log::Refused;
    match Refused::of(error) {
        Some(Refused::Corrupt) => Code::CorruptMessage,
        Some(Refused::Malformed) => Code::InvalidRecord,
        Some(Refused::TooLarge) => Code::MessageTooLarge,
        Some(Refused::Timestamps) => Code::InvalidTimestamp,
        Some(Refused::UnknownCompression) => Code::UnsupportedCompressionType,
        Some(Refused::StaleEpoch) => Code::InvalidProducerEpoch,
        Some(Refused::OutOfOrder) => Code::OutOfOrderSequenceNumber,
        Some(Refused::UnknownProducer) => Code::InvalidProducerIdMapping,
        Some(Refused::NotInTransaction) => Code::InvalidTxnState,
        Some(Refused::UnknownPartition) => Code::UnknownTopicOrPartition,
        None => match error.kind() {
            Kind::Invalid => Code::InvalidRequest,
            // The log has stopped, or the disk is full: a client tries again.
            Kind::Unavailable | Kind::Corrupt => Code::KafkaStorageError,
            Kind::Conflict => Code::PolicyViolation,
            Kind::Fenced => Code::InvalidProducerEpoch,
            Kind::Internal => Code::UnknownServerError,
        },
    }
}

/// What a person is told about `error`.
pub(crate) fn told(error: &Error) -> Option<StrBytes> {
    let hint = error.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    Some(text(format!("{}{hint}", error.chain())))
}

/// Text in an answer.
pub(crate) fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}
