//! Answers, as the encoder of `kafka-protocol` writes them.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};

use super::super::{ANSWERS, check_answer};

/// The versions that the client asks for.
const ASKED: &[(ApiKey, i16, i16)] = &[
    (ApiKey::Produce, 3, 9),
    (ApiKey::Fetch, 4, 11),
    (ApiKey::ListOffsets, 1, 6),
    (ApiKey::Metadata, 0, 12),
    (ApiKey::ApiVersions, 0, 3),
    (ApiKey::SaslHandshake, 0, 1),
    (ApiKey::SaslAuthenticate, 0, 2),
    (ApiKey::OffsetCommit, 2, 9),
    (ApiKey::OffsetFetch, 1, 7),
    (ApiKey::FindCoordinator, 0, 3),
    (ApiKey::DescribeGroups, 0, 5),
    (ApiKey::ListGroups, 0, 4),
    (ApiKey::DeleteGroups, 0, 2),
    (ApiKey::ConsumerGroupDescribe, 0, 0),
    (ApiKey::ConsumerGroupHeartbeat, 0, 0),
    (ApiKey::CreateTopics, 2, 5),
    (ApiKey::DeleteTopics, 1, 5),
    (ApiKey::CreatePartitions, 0, 3),
    (ApiKey::DescribeConfigs, 1, 4),
    (ApiKey::IncrementalAlterConfigs, 0, 1),
];

fn text() -> StrBytes {
    StrBytes::from_static_str("name")
}

/// An answer with two elements in every array that the version has.
fn filled(key: ApiKey, version: i16) -> Bytes {
    let topic = || TopicName(text());
    let mut bytes = BytesMut::new();
    macro_rules! put {
        ($answer:expr) => {
            $answer.encode(&mut bytes, version).expect("it can be written")
        };
    }
    match key {
        ApiKey::Produce => {
            let mut partition = produce_response::PartitionProduceResponse::default();
            if version >= 8 {
                let error = produce_response::BatchIndexAndErrorMessage::default()
                    .with_batch_index_error_message(Some(text()));
                partition = partition.with_record_errors(vec![error; 2]).with_error_message(Some(text()));
            }
            let of = produce_response::TopicProduceResponse::default()
                .with_name(topic())
                .with_partition_responses(vec![partition; 2]);
            put!(ProduceResponse::default().with_responses(vec![of; 2]));
        }
        ApiKey::Fetch => {
            let partition = fetch_response::PartitionData::default()
                .with_aborted_transactions(Some(vec![fetch_response::AbortedTransaction::default(); 2]))
                .with_records(Some(Bytes::from_static(b"xyz")));
            let of = fetch_response::FetchableTopicResponse::default()
                .with_topic(topic())
                .with_partitions(vec![partition; 2]);
            put!(FetchResponse::default().with_responses(vec![of; 2]));
        }
        ApiKey::ListOffsets => {
            let partition = list_offsets_response::ListOffsetsPartitionResponse::default();
            let of = list_offsets_response::ListOffsetsTopicResponse::default()
                .with_name(topic())
                .with_partitions(vec![partition; 2]);
            put!(ListOffsetsResponse::default().with_topics(vec![of; 2]));
        }
        ApiKey::Metadata => {
            let node = BrokerId(1);
            let mut partition = metadata_response::MetadataResponsePartition::default()
                .with_replica_nodes(vec![node; 3])
                .with_isr_nodes(vec![node; 2]);
            if version >= 5 {
                partition = partition.with_offline_replicas(vec![node; 2]);
            }
            let of = metadata_response::MetadataResponseTopic::default()
                .with_name(Some(topic()))
                .with_partitions(vec![partition; 2]);
            let broker = metadata_response::MetadataResponseBroker::default().with_host(text());
            put!(MetadataResponse::default().with_brokers(vec![broker; 2]).with_topics(vec![of; 2]));
        }
        ApiKey::ApiVersions => {
            let api = api_versions_response::ApiVersion::default();
            put!(ApiVersionsResponse::default().with_api_keys(vec![api; 2]));
        }
        ApiKey::SaslHandshake => put!(SaslHandshakeResponse::default().with_mechanisms(vec![text(); 2])),
        ApiKey::SaslAuthenticate => {
            let said = Bytes::from_static(b"xyz");
            put!(SaslAuthenticateResponse::default().with_error_message(Some(text())).with_auth_bytes(said));
        }
        ApiKey::OffsetCommit => {
            let partition = offset_commit_response::OffsetCommitResponsePartition::default();
            let of = offset_commit_response::OffsetCommitResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition; 2]);
            put!(OffsetCommitResponse::default().with_topics(vec![of; 2]));
        }
        ApiKey::OffsetFetch => {
            let partition =
                offset_fetch_response::OffsetFetchResponsePartition::default().with_metadata(Some(text()));
            let of = offset_fetch_response::OffsetFetchResponseTopic::default()
                .with_name(topic())
                .with_partitions(vec![partition; 2]);
            put!(OffsetFetchResponse::default().with_topics(vec![of; 2]));
        }
        ApiKey::FindCoordinator => put!(FindCoordinatorResponse::default().with_host(text())),
        ApiKey::DescribeGroups => {
            let member = describe_groups_response::DescribedGroupMember::default()
                .with_member_id(text())
                .with_member_metadata(Bytes::from_static(b"xyz"));
            let of = describe_groups_response::DescribedGroup::default()
                .with_group_id(GroupId(text()))
                .with_members(vec![member; 2]);
            put!(DescribeGroupsResponse::default().with_groups(vec![of; 2]));
        }
        ApiKey::ListGroups => {
            let of = list_groups_response::ListedGroup::default().with_group_id(GroupId(text()));
            put!(ListGroupsResponse::default().with_groups(vec![of; 2]));
        }
        ApiKey::DeleteGroups => {
            let of = delete_groups_response::DeletableGroupResult::default().with_group_id(GroupId(text()));
            put!(DeleteGroupsResponse::default().with_results(vec![of; 2]));
        }
        ApiKey::ConsumerGroupDescribe => {
            use consumer_group_describe_response::{Assignment, DescribedGroup, Member, TopicPartitions};
            let of = TopicPartitions::default().with_topic_name(topic()).with_partitions(vec![1, 2]);
            let assignment = Assignment::default().with_topic_partitions(vec![of; 2]);
            let member = Member::default()
                .with_subscribed_topic_names(vec![topic(); 2])
                .with_assignment(assignment.clone())
                .with_target_assignment(assignment);
            let of = DescribedGroup::default().with_members(vec![member; 2]);
            put!(ConsumerGroupDescribeResponse::default().with_groups(vec![of; 2]));
        }
        ApiKey::ConsumerGroupHeartbeat => {
            use consumer_group_heartbeat_response::{Assignment, TopicPartitions};
            let of = TopicPartitions::default().with_partitions(vec![1, 2]);
            let assignment = Assignment::default().with_topic_partitions(vec![of; 2]);
            put!(ConsumerGroupHeartbeatResponse::default().with_assignment(Some(assignment)));
        }
        ApiKey::CreateTopics => {
            let mut of = create_topics_response::CreatableTopicResult::default().with_name(topic());
            if version >= 5 {
                let config = create_topics_response::CreatableTopicConfigs::default().with_name(text());
                of = of.with_configs(Some(vec![config; 2]));
            }
            put!(CreateTopicsResponse::default().with_topics(vec![of; 2]));
        }
        ApiKey::DeleteTopics => {
            let of = delete_topics_response::DeletableTopicResult::default().with_name(Some(topic()));
            put!(DeleteTopicsResponse::default().with_responses(vec![of; 2]));
        }
        ApiKey::CreatePartitions => {
            let of = create_partitions_response::CreatePartitionsTopicResult::default().with_name(topic());
            put!(CreatePartitionsResponse::default().with_results(vec![of; 2]));
        }
        ApiKey::DescribeConfigs => {
            let synonym = describe_configs_response::DescribeConfigsSynonym::default().with_name(text());
            let config = describe_configs_response::DescribeConfigsResourceResult::default()
                .with_name(text())
                .with_synonyms(vec![synonym; 2]);
            let of = describe_configs_response::DescribeConfigsResult::default()
                .with_resource_name(text())
                .with_configs(vec![config; 2]);
            put!(DescribeConfigsResponse::default().with_results(vec![of; 2]));
        }
        ApiKey::IncrementalAlterConfigs => {
            let of = incremental_alter_configs_response::AlterConfigsResourceResponse::default()
                .with_resource_name(text());
            put!(IncrementalAlterConfigsResponse::default().with_responses(vec![of; 2]));
        }
        other => panic!("{other:?} has no answer here"),
    }
    bytes.freeze()
}

#[test]
fn the_shape_of_every_answer_is_what_another_implementation_writes() {
    assert!(ANSWERS.iter().all(|(key, ..)| ASKED.iter().any(|(asked, ..)| asked == key)));
    for (key, first, last) in ASKED {
        for version in *first..=*last {
            let answer = filled(*key, version);
            let check = |bytes: &[u8]| check_answer(*key as i16, version, bytes);
            assert_eq!(check(&answer), Ok(()), "{key:?} {version}: {answer:?}");
            for cut in 0..answer.len() {
                assert!(check(&answer[..cut]).is_err(), "{key:?} {version} cut at {cut}");
            }
        }
    }
}

#[test]
fn an_answer_of_a_large_cluster_passes_and_one_without_end_does_not() {
    let partition = metadata_response::MetadataResponsePartition::default()
        .with_replica_nodes(vec![BrokerId(1); 3])
        .with_isr_nodes(vec![BrokerId(1); 3]);
    let told = |partitions: usize| {
        let of = metadata_response::MetadataResponseTopic::default()
            .with_name(Some(TopicName(text())))
            .with_partitions(vec![partition.clone(); partitions]);
        let mut bytes = BytesMut::new();
        MetadataResponse::default().with_topics(vec![of]).encode(&mut bytes, 12).expect("it can be written");
        check_answer(ApiKey::Metadata as i16, 12, &bytes)
    };
    assert_eq!(told(200_000), Ok(()));
    assert_eq!(told(400_000), Err("more elements than are allowed"));
}
