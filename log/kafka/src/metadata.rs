//! What a client asks first: versions, brokers, topics, coordinators.
//!
//! The broker tells a client to come by the address by which it came. A partition has one leader for ever; its epoch is that of
//! the log.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Code;
use kafka_protocol::messages::api_versions_response::{ApiVersion, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, DescribeClusterResponse,
    FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use tarn_log::{TopicInfo, TopicOptions};
use uuid::Uuid;

use crate::allowed;
use crate::broker::{BROKER_ID, Broker, CLUSTER_ID, Peer, SERVED, code_of, text};
use crate::epochs::NO_EPOCH;

/// The feature by which clients know that an end of a transaction renews the producer's epoch (KIP-890).
const TRANSACTION_VERSION: &str = "transaction.version";

/// The feature by which clients know that the broker shares out partitions (KIP-848).
const GROUP_VERSION: &str = "group.version";

/// From this version on, an answer tells epochs.
const EPOCHS_FIRST_VERSION: i16 = 7;

/// What is served, with `error`.
pub(crate) fn api_versions(error: i16) -> ApiVersionsResponse {
    let keys = SERVED.iter().map(|(key, first, last)| {
        ApiVersion::default().with_api_key(*key as i16).with_min_version(*first).with_max_version(*last)
    });
    let feature = |name| StrBytes::from_static_str(name);
    ApiVersionsResponse::default()
        .with_error_code(error)
        .with_api_keys(keys.collect())
        .with_supported_features(vec![
            SupportedFeatureKey::default()
                .with_name(feature(TRANSACTION_VERSION))
                .with_min_version(0)
                .with_max_version(2),
            SupportedFeatureKey::default()
                .with_name(feature(GROUP_VERSION))
                .with_min_version(0)
                .with_max_version(1),
        ])
        .with_finalized_features_epoch(0)
        .with_finalized_features(vec![
            FinalizedFeatureKey::default()
                .with_name(feature(TRANSACTION_VERSION))
                .with_min_version_level(2)
                .with_max_version_level(2),
            FinalizedFeatureKey::default()
                .with_name(feature(GROUP_VERSION))
                .with_min_version_level(1)
                .with_max_version_level(1),
        ])
}

/// Answers which APIs are served; a client that says who it is must say it well.
pub(crate) fn versions(request: &ApiVersionsRequest, version: i16) -> ApiVersionsResponse {
    let plain = |name: &str| {
        let ends_plain = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'))
            && ends_plain(name.chars().next())
            && ends_plain(name.chars().last())
    };
    if version >= 3 && !(plain(&request.client_software_name) && plain(&request.client_software_version)) {
        return ApiVersionsResponse::default().with_error_code(Code::InvalidRequest.code());
    }
    tracing::debug!(
        client = request.client_software_name.as_str(),
        version = request.client_software_version.as_str(),
        "a client asks what is served"
    );
    api_versions(0)
}

/// Host and port of this broker for a client.
fn address(peer: &Peer) -> (StrBytes, i32) {
    (text(peer.here.ip().to_canonical().to_string()), i32::from(peer.here.port()))
}

impl Broker {
    pub(crate) async fn metadata(
        &self,
        request: MetadataRequest,
        version: i16,
        peer: &Peer,
    ) -> MetadataResponse {
        let (host, port) = address(peer);
        let broker =
            MetadataResponseBroker::default().with_node_id(BROKER_ID.into()).with_host(host).with_port(port);
        // Older versions have no room for it.
        let epoch = if version >= EPOCHS_FIRST_VERSION { self.log.leader_epoch() } else { NO_EPOCH };
        let may = allowed::if_asked(request.include_topic_authorized_operations, allowed::TOPIC);
        let described = |info: &TopicInfo| described(info, epoch).with_topic_authorized_operations(may);
        let mut topics = Vec::new();
        match request.topics {
            // The oldest version asks for all topics with an empty list, the others with none.
            Some(asked) if version > 0 || !asked.is_empty() => {
                for topic in asked {
                    let name = topic.name.as_ref().map(|name| name.as_str()).unwrap_or_default();
                    let found =
                        self.find_or_create(name, topic.topic_id, request.allow_auto_topic_creation).await;
                    topics.push(match found {
                        Ok(info) => described(&info),
                        Err(code) => MetadataResponseTopic::default()
                            .with_error_code(code.code())
                            .with_name(topic.name.clone().or_else(|| (version < 12).then(TopicName::default)))
                            .with_topic_id(topic.topic_id),
                    });
                }
            }
            _ => {
                topics.extend(self.log.topics().iter().map(|info| described(info)));
            }
        }
        MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str(CLUSTER_ID)))
            .with_controller_id(BROKER_ID.into())
            .with_cluster_authorized_operations(allowed::if_asked(
                request.include_cluster_authorized_operations,
                allowed::CLUSTER,
            ))
            .with_topics(topics)
    }

    async fn find_or_create(&self, name: &str, id: Uuid, may_create: bool) -> Result<Arc<TopicInfo>, Code> {
        match self.find_topic(name, id) {
            Err(Code::UnknownTopicOrPartition) if may_create && self.options.auto_create_topics => {
                if !is_name(name) {
                    return Err(Code::InvalidTopicException);
                }
                let _alone = self.admin.lock().await;
                if let Ok(topic) = self.find_topic(name, id) {
                    return Ok(topic);
                }
                let partitions = self.options.default_partitions;
                let options = TopicOptions { partitions, retention_time: None, retention_bytes: None };
                self.create_topic(name, options).await.map_err(|error| code_of(&error))
            }
            Err(Code::UnknownTopicOrPartition) if !is_name(name) => Err(Code::InvalidTopicException),
            found => found,
        }
    }

    pub(crate) fn describe_cluster(request: &DescribeClusterRequest, peer: &Peer) -> DescribeClusterResponse {
        let answer = DescribeClusterResponse::default().with_endpoint_type(request.endpoint_type);
        if request.endpoint_type != 1 {
            return answer.with_error_code(Code::UnsupportedEndpointType.code());
        }
        let (host, port) = address(peer);
        let broker =
            DescribeClusterBroker::default().with_broker_id(BROKER_ID.into()).with_host(host).with_port(port);
        answer
            .with_cluster_authorized_operations(allowed::if_asked(
                request.include_cluster_authorized_operations,
                allowed::CLUSTER,
            ))
            .with_cluster_id(StrBytes::from_static_str(CLUSTER_ID))
            .with_controller_id(BROKER_ID.into())
            .with_brokers(vec![broker])
    }

    /// Every group and every transaction is coordinated here.
    pub(crate) fn find_coordinator(
        request: &FindCoordinatorRequest,
        version: i16,
        peer: &Peer,
    ) -> FindCoordinatorResponse {
        let (host, port) = address(peer);
        let refused = match request.key_type {
            0 | 1 => None,
            _ => Some((Code::InvalidRequest, "coordinators of this type are not known here")),
        };
        let answer = FindCoordinatorResponse::default();
        if version >= 4 {
            let coordinator = |key: &StrBytes| {
                let coordinator = Coordinator::default().with_key(key.clone());
                match refused {
                    Some((code, why)) => coordinator
                        .with_error_code(code.code())
                        .with_error_message(Some(text(why)))
                        .with_node_id((-1).into())
                        .with_port(-1),
                    None => coordinator
                        .with_error_message(None)
                        .with_node_id(BROKER_ID.into())
                        .with_host(host.clone())
                        .with_port(port),
                }
            };
            return answer.with_coordinators(request.coordinator_keys.iter().map(coordinator).collect());
        }
        match refused {
            Some((code, why)) => answer
                .with_error_code(code.code())
                .with_error_message(Some(text(why)))
                .with_node_id((-1).into())
                .with_port(-1),
            None => {
                answer.with_error_message(None).with_node_id(BROKER_ID.into()).with_host(host).with_port(port)
            }
        }
    }
}

fn described(info: &TopicInfo, leader_epoch: i32) -> MetadataResponseTopic {
    let partition = |index: i32| {
        MetadataResponsePartition::default()
            .with_partition_index(index)
            .with_leader_id(BROKER_ID.into())
            .with_leader_epoch(leader_epoch)
            .with_replica_nodes(vec![BROKER_ID.into()])
            .with_isr_nodes(vec![BROKER_ID.into()])
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(info.name.clone()))))
        .with_topic_id(info.id)
        .with_partitions((0..info.partitions).map(partition).collect())
}

/// Whether a topic could be called so.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}
