use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;

use super::*;
use crate::broker::{Broker, SERVED};
use crate::by_id::IDS_VERSION;
use crate::frame::Header;

mod answers;

/// A request of the version before that in which topics have ids, with an id in the place of the last name.
fn with_id(request: &[u8]) -> Bytes {
    let name = b"\x05name";
    let at = request.windows(name.len()).rposition(|bytes| bytes == name).expect("a name");
    [&request[..at], &[7; ID_BYTES], &request[at + name.len()..]].concat().into()
}

/// A request with something in every array, encoded in `version`.
fn filled(key: ApiKey, version: i16) -> Bytes {
    if matches!(key, ApiKey::OffsetCommit | ApiKey::OffsetFetch) && version >= IDS_VERSION {
        // The encoder does not know them, either.
        return with_id(&filled(key, IDS_VERSION - 1));
    }
    let name = || StrBytes::from_static_str("name");
    let topic = || TopicName(name());
    let group = || GroupId(name());
    let mut bytes = BytesMut::new();
    macro_rules! put {
        ($request:expr) => {
            $request.encode(&mut bytes, version).expect("it can be written")
        };
    }
    match key {
        ApiKey::Produce => {
            let partition = produce_request::PartitionProduceData::default()
                .with_records(Some(Bytes::from_static(b"xyz")));
            let of = produce_request::TopicProduceData::default()
                .with_name(topic())
                .with_partition_data(vec![partition; 2]);
            put!(ProduceRequest::default().with_topic_data(vec![of.clone(), of]));
        }
        ApiKey::Fetch => {
            let mut request = FetchRequest::default();
            let of = fetch_request::FetchTopic::default()
                .with_topic(if version < 13 { topic() } else { TopicName::default() })
                .with_partitions(vec![fetch_request::FetchPartition::default(); 2]);
            request.topics = vec![of.clone(), of];
            if version >= 7 {
                let gone = fetch_request::ForgottenTopic::default()
                    .with_topic(if version < 13 { topic() } else { TopicName::default() })
                    .with_partitions(vec![1, 2]);
                request.forgotten_topics_data = vec![gone];
            }
            put!(request);
        }
        ApiKey::ListOffsets => {
            let of = list_offsets_request::ListOffsetsTopic::default()
                .with_name(topic())
                .with_partitions(vec![list_offsets_request::ListOffsetsPartition::default(); 2]);
            put!(ListOffsetsRequest::default().with_topics(vec![of]));
        }
        ApiKey::Metadata => {
            let of = metadata_request::MetadataRequestTopic::default().with_name(Some(topic()));
            put!(MetadataRequest::default().with_topics(Some(vec![of.clone(), of])));
        }
        ApiKey::ApiVersions => put!(ApiVersionsRequest::default()),
        ApiKey::InitProducerId => put!(InitProducerIdRequest::default()),
        ApiKey::AddPartitionsToTxn => {
            let of = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default()
                .with_name(topic())
                .with_partitions(vec![1, 2]);
            put!(AddPartitionsToTxnRequest::default().with_v3_and_below_topics(vec![of.clone(), of]));
        }
        ApiKey::AddOffsetsToTxn => put!(AddOffsetsToTxnRequest::default().with_group_id(group())),
        ApiKey::AlterConfigs => {
            let of = alter_configs_request::AlterConfigsResource::default()
                .with_resource_name(name())
                .with_configs(vec![alter_configs_request::AlterableConfig::default().with_name(name()); 2]);
            put!(AlterConfigsRequest::default().with_resources(vec![of.clone(), of]));
        }
        ApiKey::EndTxn => put!(EndTxnRequest::default()),
        ApiKey::TxnOffsetCommit => {
            let of = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default()
                .with_name(topic())
                .with_partitions(vec![
                    txn_offset_commit_request::TxnOffsetCommitRequestPartition::default();
                    2
                ]);
            put!(TxnOffsetCommitRequest::default().with_group_id(group()).with_topics(vec![of]));
        }
        ApiKey::OffsetCommit => {
            let of = offset_commit_request::OffsetCommitRequestTopic::default()
                .with_name(topic())
                .with_partitions(vec![offset_commit_request::OffsetCommitRequestPartition::default(); 2]);
            put!(OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![of]));
        }
        ApiKey::OffsetFetch if version >= 8 => {
            let of = offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(topic())
                .with_partition_indexes(vec![1, 2]);
            let of = offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(group())
                .with_topics(Some(vec![of]));
            put!(OffsetFetchRequest::default().with_groups(vec![of]));
        }
        ApiKey::OffsetFetch => {
            let of = offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(topic())
                .with_partition_indexes(vec![1, 2]);
            put!(OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![of])));
        }
        ApiKey::FindCoordinator if version >= 4 => {
            put!(FindCoordinatorRequest::default().with_coordinator_keys(vec![name(), name()]));
        }
        ApiKey::FindCoordinator => put!(FindCoordinatorRequest::default().with_key(name())),
        ApiKey::JoinGroup => {
            let protocol = join_group_request::JoinGroupRequestProtocol::default().with_name(name());
            put!(JoinGroupRequest::default().with_group_id(group()).with_protocols(vec![protocol; 2]));
        }
        ApiKey::Heartbeat => put!(HeartbeatRequest::default()),
        ApiKey::LeaveGroup if version >= 3 => {
            put!(LeaveGroupRequest::default().with_members(vec![
                leave_group_request::MemberIdentity::default(
                );
                2
            ]));
        }
        ApiKey::LeaveGroup => put!(LeaveGroupRequest::default()),
        ApiKey::SyncGroup => {
            let assignment = sync_group_request::SyncGroupRequestAssignment::default().with_member_id(name());
            put!(SyncGroupRequest::default().with_assignments(vec![assignment; 2]));
        }
        ApiKey::DescribeGroups => put!(DescribeGroupsRequest::default().with_groups(vec![group(); 2])),
        ApiKey::ListGroups => {
            let mut request = ListGroupsRequest::default();
            if version >= 4 {
                request.states_filter = vec![name()];
            }
            put!(request);
        }
        ApiKey::DeleteGroups => put!(DeleteGroupsRequest::default().with_groups_names(vec![group(); 2])),
        ApiKey::OffsetDelete => {
            let of = offset_delete_request::OffsetDeleteRequestTopic::default()
                .with_name(topic())
                .with_partitions(vec![offset_delete_request::OffsetDeleteRequestPartition::default()]);
            put!(OffsetDeleteRequest::default().with_topics(vec![of]));
        }
        ApiKey::CreateTopics => {
            let assignment =
                create_topics_request::CreatableReplicaAssignment::default().with_broker_ids(vec![1.into()]);
            let config = create_topics_request::CreatableTopicConfig::default().with_name(name());
            let of = create_topics_request::CreatableTopic::default()
                .with_name(topic())
                .with_assignments(vec![assignment])
                .with_configs(vec![config; 2]);
            put!(CreateTopicsRequest::default().with_topics(vec![of]));
        }
        ApiKey::DeleteTopics if version >= 6 => {
            put!(
                DeleteTopicsRequest::default()
                    .with_topics(vec![delete_topics_request::DeleteTopicState::default(); 2])
            );
        }
        ApiKey::DeleteTopics => put!(DeleteTopicsRequest::default().with_topic_names(vec![topic(); 2])),
        ApiKey::DeleteRecords => {
            let of = delete_records_request::DeleteRecordsTopic::default()
                .with_name(topic())
                .with_partitions(vec![delete_records_request::DeleteRecordsPartition::default(); 2]);
            put!(DeleteRecordsRequest::default().with_topics(vec![of]));
        }
        ApiKey::CreatePartitions => {
            let assignment = create_partitions_request::CreatePartitionsAssignment::default()
                .with_broker_ids(vec![1.into()]);
            let of = create_partitions_request::CreatePartitionsTopic::default()
                .with_name(topic())
                .with_assignments(Some(vec![assignment]));
            put!(CreatePartitionsRequest::default().with_topics(vec![of]));
        }
        ApiKey::DescribeConfigs => {
            let of = describe_configs_request::DescribeConfigsResource::default()
                .with_resource_name(name())
                .with_configuration_keys(Some(vec![name(); 2]));
            put!(DescribeConfigsRequest::default().with_resources(vec![of]));
        }
        ApiKey::IncrementalAlterConfigs => {
            let config = incremental_alter_configs_request::AlterableConfig::default().with_name(name());
            let of = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_configs(vec![config; 2]);
            put!(IncrementalAlterConfigsRequest::default().with_resources(vec![of]));
        }
        ApiKey::DescribeTopicPartitions => {
            let of = describe_topic_partitions_request::TopicRequest::default().with_name(topic());
            let cursor = describe_topic_partitions_request::Cursor::default().with_topic_name(topic());
            put!(
                DescribeTopicPartitionsRequest::default().with_topics(vec![of; 2]).with_cursor(Some(cursor))
            );
        }
        ApiKey::DescribeLogDirs => {
            let of = describe_log_dirs_request::DescribableLogDirTopic::default()
                .with_topic(topic())
                .with_partitions(vec![1, 2]);
            put!(DescribeLogDirsRequest::default().with_topics(Some(vec![of.clone(), of])));
        }
        ApiKey::ListPartitionReassignments => {
            let of = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
                .with_name(topic())
                .with_partition_indexes(vec![1, 2]);
            put!(ListPartitionReassignmentsRequest::default().with_topics(Some(vec![of.clone(), of])));
        }
        ApiKey::DescribeAcls => put!(DescribeAclsRequest::default().with_principal_filter(Some(name()))),
        ApiKey::CreateAcls => {
            let of = create_acls_request::AclCreation::default().with_principal(name());
            put!(CreateAclsRequest::default().with_creations(vec![of; 2]));
        }
        ApiKey::DeleteAcls => {
            let of = delete_acls_request::DeleteAclsFilter::default().with_host_filter(Some(name()));
            put!(DeleteAclsRequest::default().with_filters(vec![of; 2]));
        }
        ApiKey::OffsetForLeaderEpoch => {
            let of = offset_for_leader_epoch_request::OffsetForLeaderTopic::default()
                .with_topic(topic())
                .with_partitions(vec![
                    offset_for_leader_epoch_request::OffsetForLeaderPartition::default();
                    2
                ]);
            put!(OffsetForLeaderEpochRequest::default().with_topics(vec![of.clone(), of]));
        }
        ApiKey::ConsumerGroupHeartbeat => {
            let of = consumer_group_heartbeat_request::TopicPartitions::default().with_partitions(vec![1, 2]);
            let mut request = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group())
                .with_member_id(name())
                .with_instance_id(Some(name()))
                .with_subscribed_topic_names(Some(vec![topic(); 2]))
                .with_server_assignor(Some(name()))
                .with_topic_partitions(Some(vec![of.clone(), of]));
            if version >= 1 {
                request.subscribed_topic_regex = Some(name());
            }
            put!(request);
        }
        ApiKey::ConsumerGroupDescribe => {
            put!(ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(); 2]));
        }
        ApiKey::DescribeCluster => put!(DescribeClusterRequest::default()),
        ApiKey::DescribeProducers => {
            let of = describe_producers_request::TopicRequest::default()
                .with_name(topic())
                .with_partition_indexes(vec![1, 2]);
            put!(DescribeProducersRequest::default().with_topics(vec![of.clone(), of]));
        }
        ApiKey::DescribeTransactions => {
            let ids = vec![TransactionalId(name()); 2];
            put!(DescribeTransactionsRequest::default().with_transactional_ids(ids));
        }
        ApiKey::ListTransactions => put!(
            ListTransactionsRequest::default()
                .with_state_filters(vec![name(); 2])
                .with_producer_id_filters(vec![1.into(), 2.into()])
        ),
        other => panic!("{other:?} is served and has no filled request here"),
    }
    bytes.freeze()
}

fn versions() -> impl Iterator<Item = (ApiKey, i16)> {
    SERVED.iter().flat_map(|(key, first, last)| {
        let first = if *key == ApiKey::Produce { crate::produce::FIRST_VERSION } else { *first };
        (first..=*last).map(|version| (*key, version))
    })
}

#[test]
fn the_shape_of_every_served_version_is_what_another_implementation_writes() {
    for (key, version) in versions() {
        let request = filled(key, version);
        assert_eq!(check(key, version, &request), Ok(()), "{key:?} {version}: {request:?}");
        for cut in 0..request.len() {
            assert!(check(key, version, &request[..cut]).is_err(), "{key:?} {version} cut at {cut}");
        }
    }
}

#[test]
fn requests_with_ids_are_decoded_with_ids_for_names() {
    let id = uuid::Uuid::from_bytes([7; ID_BYTES]).simple().to_string();
    let known = |key| crate::by_id::known(key, IDS_VERSION, filled(key, IDS_VERSION)).expect("known");
    let (version, mut body) = known(ApiKey::OffsetCommit);
    let commit = OffsetCommitRequest::decode(&mut body, version).expect("decoded");
    assert_eq!((commit.topics[0].name.as_str(), commit.topics[0].partitions.len()), (&id[..], 2));
    let (version, mut body) = known(ApiKey::OffsetFetch);
    let fetch = OffsetFetchRequest::decode(&mut body, version).expect("decoded");
    let topics = fetch.groups[0].topics.as_ref().expect("topics");
    assert_eq!((topics[0].name.as_str(), &topics[0].partition_indexes[..]), (&id[..], &[1, 2][..]));
    assert!(body.is_empty(), "all of it was read");
}

#[test]
fn a_count_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    // Metadata 1: the number of topics, and nothing behind it.
    assert!(check(ApiKey::Metadata, 1, &i32::MAX.to_be_bytes()).is_err());
    // Metadata 12: the same as a varint.
    assert!(check(ApiKey::Metadata, 12, &[0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    // As many elements as bytes, but more than anybody needs.
    let mut many = 300_000_i32.to_be_bytes().to_vec();
    many.resize(4 + 2 * 300_000, 0);
    assert_eq!(check(ApiKey::Metadata, 1, &many), Err("more elements than are allowed"));
}

proptest! {
    /// What passes the walk can be decoded, or is refused; nothing panics, whatever the bytes.
    #[test]
    fn garbled_requests_never_panic(
        place in 0_usize..1000,
        garble in prop::collection::vec((0_usize..200, any::<u8>()), 0..8),
    ) {
        let all: Vec<_> = versions().collect();
        let (key, version) = all[place % all.len()];
        let mut bytes = filled(key, version).to_vec();
        for (at, byte) in garble {
            let at = at % bytes.len().max(1);
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        if check(key, version, &bytes).is_ok() {
            let _ = RequestKind::decode_any(key, version, bytes.into());
        }
    }
}

/// Decodes any request.
struct RequestKind;

impl RequestKind {
    fn decode_any(key: ApiKey, version: i16, bytes: Bytes) -> bool {
        let (version, mut bytes) = crate::by_id::known(key, version, bytes).expect("its shape was checked");
        macro_rules! decode {
            ($($name:ident => $request:ty),* $(,)?) => {
                match key {
                    $(ApiKey::$name => <$request>::decode(&mut bytes, version).is_ok(),)*
                    other => panic!("{other:?} is not decoded here"),
                }
            };
        }
        decode! {
            Produce => ProduceRequest, Fetch => FetchRequest, ListOffsets => ListOffsetsRequest,
            Metadata => MetadataRequest, ApiVersions => ApiVersionsRequest, InitProducerId => InitProducerIdRequest,
            OffsetCommit => OffsetCommitRequest, OffsetFetch => OffsetFetchRequest,
            FindCoordinator => FindCoordinatorRequest, JoinGroup => JoinGroupRequest, Heartbeat => HeartbeatRequest,
            LeaveGroup => LeaveGroupRequest, SyncGroup => SyncGroupRequest, DescribeGroups => DescribeGroupsRequest,
            ListGroups => ListGroupsRequest, DeleteGroups => DeleteGroupsRequest, OffsetDelete => OffsetDeleteRequest,
            CreateTopics => CreateTopicsRequest, DeleteTopics => DeleteTopicsRequest,
            DeleteRecords => DeleteRecordsRequest, CreatePartitions => CreatePartitionsRequest,
            DescribeConfigs => DescribeConfigsRequest, IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
            DescribeCluster => DescribeClusterRequest, AddPartitionsToTxn => AddPartitionsToTxnRequest,
            OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
            DescribeTopicPartitions => DescribeTopicPartitionsRequest, DescribeLogDirs => DescribeLogDirsRequest,
            ListPartitionReassignments => ListPartitionReassignmentsRequest, DescribeAcls => DescribeAclsRequest,
            CreateAcls => CreateAclsRequest, DeleteAcls => DeleteAclsRequest,
            ConsumerGroupHeartbeat => ConsumerGroupHeartbeatRequest,
            ConsumerGroupDescribe => ConsumerGroupDescribeRequest,
            AlterConfigs => AlterConfigsRequest, AddOffsetsToTxn => AddOffsetsToTxnRequest, EndTxn => EndTxnRequest,
            TxnOffsetCommit => TxnOffsetCommitRequest, DescribeTransactions => DescribeTransactionsRequest,
            ListTransactions => ListTransactionsRequest, DescribeProducers => DescribeProducersRequest,
        }
    }
}

/// Requests that Kafka's own clients sent, each as the bytes behind its length: see `tests/servers/kafka_capture.py`.
fn captured() -> Vec<(String, Bytes)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut all: Vec<(String, Bytes)> = std::fs::read_dir(folder)
        .expect("the corpus")
        .map(|entry| {
            let path = entry.expect("entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("read").into())
        })
        .collect();
    all.sort();
    all
}

/// What the way of a request does with its bytes: the header, the shape, the decoder.
fn take_in(mut bytes: Bytes) -> Option<bool> {
    let header = Header::take(&mut bytes)?;
    let key = Broker::served(&header)?;
    check(key, header.version, &bytes).ok()?;
    Some(RequestKind::decode_any(key, header.version, bytes))
}

#[test]
fn what_clients_sent_is_decoded() {
    let all = captured();
    assert!(all.len() > 60, "{} requests", all.len());
    for (name, bytes) in all {
        // Produce 0 to 2 are advertised and refused.
        assert_eq!(take_in(bytes), Some(true), "{name}");
    }
}

/// Virtual memory at its highest, bytes: what was allocated counts, touched or not.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux machine");
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") << 10
}

/// What one request may take, and what the tests beside this one take meanwhile.
const MOST_BYTES: usize = 512 << 20;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Flipped, cut, spliced with another: refused or decoded, never a panic, never memory for what only a length claims.
    #[test]
    fn what_clients_sent_and_somebody_damaged_is_refused_or_decoded(
        which in any::<prop::sample::Index>(),
        other in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>())),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        huge in prop::option::of((any::<prop::sample::Index>(), prop::sample::select(vec![i32::MAX, i32::MIN, -1, 1 << 24]))),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static ALL: std::sync::LazyLock<Vec<(String, Bytes)>> = std::sync::LazyLock::new(captured);
        let mut bytes = ALL[which.index(ALL.len())].1.to_vec();
        if let Some((other, at)) = other {
            let tail = &ALL[other.index(ALL.len())].1;
            let at = at.index(bytes.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&tail[at.min(tail.len())..]);
        }
        for (at, value) in changes {
            let at = at.index(bytes.len().max(1));
            if let Some(place) = bytes.get_mut(at) {
                *place = value;
            }
        }
        if let Some((at, length)) = huge {
            let at = at.index(bytes.len().max(1));
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&length.to_be_bytes());
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len().max(1)));
        }
        let before = peak_bytes();
        let _ = take_in(bytes.into());
        prop_assert!(peak_bytes() - before < MOST_BYTES);
    }

    /// A frame is read, refused, or waited for no longer than its bytes come; a length alone takes no memory.
    #[test]
    fn frames_of_any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        length in prop::option::of(prop::sample::select(vec![0_i32, 7, 8, 64, 64 << 20, (64 << 20) + 1, i32::MAX, -1])),
    ) {
        let mut stream = length.map_or_else(Vec::new, |length| length.to_be_bytes().to_vec());
        stream.extend(bytes);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let before = peak_bytes();
        let share = crate::frame::Budget::new().connection();
        let mut rest = &stream[..];
        while let Ok(Some(frame)) = runtime.block_on(crate::frame::read(&mut rest, &share)) {
            prop_assert!(frame.bytes.len() >= 8 && frame.bytes.len() <= stream.len());
            let _ = take_in(frame.bytes);
        }
        prop_assert!(peak_bytes() - before < MOST_BYTES);
    }
}
