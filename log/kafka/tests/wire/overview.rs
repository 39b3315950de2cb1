//! What is old goes, and what is there is told to those who look after it.

use super::*;

#[tokio::test]
async fn offsets_of_a_group_without_members_go_when_they_are_old() {
    let bench = Bench::with_retention(std::time::Duration::from_millis(400)).await;
    let t = bench.topic("t", 1).await;
    let commit = |group: &str| {
        let of = offset_commit_request::OffsetCommitRequestPartition::default()
            .with_committed_offset(0)
            .with_committed_leader_epoch(-1);
        let of = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(name(&t.name))
            .with_partitions(vec![of]);
        OffsetCommitRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(group.to_owned())))
            .with_generation_id_or_member_epoch(-1)
            .with_retention_time_ms(-1)
            .with_topics(vec![of])
    };
    let mut wire = bench.connect().await;
    assert_eq!(wire.ask(&commit("g"), 5).await.topics[0].partitions[0].error_code, 0);
    let log = bench.log.clone();
    let groups = move || log.groups().expect("groups");
    assert_eq!(groups(), ["g"]);
    let gone = async {
        while !groups().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("it goes");
}

#[tokio::test]
async fn transactions_are_listed_and_described() {
    let bench = Bench::new().await;
    bench.topic("t", 2).await;
    let mut wire = bench.connect().await;
    let by = begin_producer(&mut wire).await;
    let ids = vec![transactional_id(), TransactionalId(StrBytes::from_static_str("nobody"))];
    bench
        .log
        .enlist(
            transactional_id().as_str(),
            tarn_log::ProducerEpoch { producer: by.0.0, epoch: by.1 },
            &[("t".to_owned(), 0), ("t".to_owned(), 1)],
            &[],
        )
        .await
        .expect("enlisted");
    let listed = wire.ask(&ListTransactionsRequest::default().with_duration_filter(-1), 1).await;
    assert_eq!(listed.transaction_states.len(), 1);
    assert_eq!(listed.transaction_states[0].transaction_state.as_str(), "Ongoing");
    let filtered = ListTransactionsRequest::default()
        .with_state_filters(vec![StrBytes::from_static_str("Empty"), StrBytes::from_static_str("Odd")])
        .with_duration_filter(-1);
    let filtered = wire.ask(&filtered, 1).await;
    assert!(filtered.transaction_states.is_empty());
    assert_eq!(filtered.unknown_state_filters, [StrBytes::from_static_str("Odd")]);
    for (pattern, code, found) in [("t.", 0, 1), ("t", 0, 0), ("", 0, 1), ("(", 128, 0)] {
        let of = ListTransactionsRequest::default().with_duration_filter(-1);
        let of = of.with_transactional_id_pattern(Some(StrBytes::from_static_str(pattern)));
        let listed = wire.ask(&of, 2).await;
        assert_eq!((listed.error_code, listed.transaction_states.len()), (code, found), "{pattern}");
    }
    let described = wire.ask(&DescribeTransactionsRequest::default().with_transactional_ids(ids), 0).await;
    let [known, nobody] = described.transaction_states.as_slice() else { panic!("two answers") };
    assert_eq!((known.error_code, known.topics[0].partitions.len()), (0, 2));
    assert_eq!(known.producer_id, by.0);
    assert_eq!(nobody.error_code, 105);
}

#[tokio::test]
async fn producers_of_a_partition_are_described() {
    let bench = Bench::new().await;
    let t = bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    let producer = bench.log.new_producer_id().await.expect("an id");
    let batch = bench.batch(&["a", "b"], producer, 0).await;
    wire.ask(&produce(&t, 9, -1, &batch), 9).await;
    let of = describe_producers_request::TopicRequest::default()
        .with_name(name("t"))
        .with_partition_indexes(vec![0, 7]);
    let answer = wire.ask(&DescribeProducersRequest::default().with_topics(vec![of]), 0).await;
    let [known, missing] = answer.topics[0].partitions.as_slice() else { panic!("two answers") };
    assert_eq!(known.active_producers.len(), 1);
    let one = &known.active_producers[0];
    assert_eq!((one.producer_id.0, one.last_sequence, one.current_txn_start_offset), (producer, 1, -1));
    assert_eq!(missing.error_code, 3);
}

#[tokio::test]
async fn topics_are_described_page_by_page() {
    let bench = Bench::new().await;
    for (topic, partitions) in [("a", 2), ("b", 3), ("c", 1)] {
        bench.topic(topic, partitions).await;
    }
    let mut wire = bench.connect().await;
    let (mut pages, mut cursor) = (Vec::new(), None);
    loop {
        let request = DescribeTopicPartitionsRequest::default()
            .with_response_partition_limit(2)
            .with_cursor(cursor.take());
        let answer = wire.ask(&request, 0).await;
        let page = answer.topics.iter().map(|topic| {
            let name = topic.name.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default();
            (name, topic.partitions.iter().map(|partition| partition.partition_index).collect::<Vec<_>>())
        });
        pages.push(page.collect::<Vec<_>>());
        let Some(next) = answer.next_cursor else { break };
        cursor = Some(
            describe_topic_partitions_request::Cursor::default()
                .with_topic_name(next.topic_name)
                .with_partition_index(next.partition_index),
        );
    }
    let of = |name: &str, partitions: &[i32]| (name.to_owned(), partitions.to_vec());
    assert_eq!(pages, [vec![of("a", &[0, 1])], vec![of("b", &[0, 1])], vec![of("b", &[2]), of("c", &[0])]]);
    let named = describe_topic_partitions_request::TopicRequest::default().with_name(name("none"));
    let request = DescribeTopicPartitionsRequest::default()
        .with_topics(vec![named])
        .with_response_partition_limit(100)
        .with_cursor(None);
    assert_eq!(wire.ask(&request, 0).await.topics[0].error_code, 3);
}

#[tokio::test]
async fn folders_are_described_and_access_lists_are_not_there() {
    let bench = Bench::new().await;
    let t = bench.topic("t", 2).await;
    let mut wire = bench.connect().await;
    let batch = bench.batch(&["a"], -1, 0).await;
    wire.ask(&produce(&t, 9, -1, &batch), 9).await;
    let asked = describe_log_dirs_request::DescribableLogDirTopic::default()
        .with_topic(name("t"))
        .with_partitions(vec![0, 1]);
    for version in 1..=4 {
        let request = DescribeLogDirsRequest::default().with_topics(Some(vec![asked.clone()]));
        let answer = wire.ask(&request, version).await;
        let sizes: Vec<i64> =
            answer.results[0].topics[0].partitions.iter().map(|partition| partition.partition_size).collect();
        assert_eq!(sizes, [i64::try_from(batch.len()).expect("short"), 0], "version {version}");
    }
    assert_eq!(wire.ask(&DescribeAclsRequest::default(), 3).await.error_code, 54);
    let creation = create_acls_request::AclCreation::default();
    let created = wire.ask(&CreateAclsRequest::default().with_creations(vec![creation]), 3).await;
    assert_eq!(created.results[0].error_code, 54);
    assert!(wire.ask(&ListPartitionReassignmentsRequest::default(), 0).await.topics.is_empty());
}

#[tokio::test]
async fn what_a_client_may_do_is_told_when_it_asks() {
    // Bits of Kafka's numbers: read 3, write 4, create 5, delete 6, alter 7, describe 8, cluster action 9, configs 10 and 11,
    // idempotent write 12.
    let (cluster, topic, not_asked) = (0b1_1111_1010_0000, 0b1101_1111_1000, i32::MIN);
    let bench = Bench::new().await;
    bench.topic("t", 1).await;
    let mut wire = bench.connect().await;
    for version in 8..=13 {
        for asks in [false, true] {
            let of = metadata_request::MetadataRequestTopic::default().with_name(Some(name("t")));
            let request = MetadataRequest::default()
                .with_topics(Some(vec![of]))
                .with_include_topic_authorized_operations(asks)
                .with_include_cluster_authorized_operations(asks && version <= 10);
            let answer = wire.ask(&request, version).await;
            let told = (answer.cluster_authorized_operations, answer.topics[0].topic_authorized_operations);
            let want = (
                if asks && version <= 10 { cluster } else { not_asked },
                if asks { topic } else { not_asked },
            );
            assert_eq!(told, want, "version {version}, asked {asks}");
        }
    }
    for asks in [false, true] {
        let request = DescribeClusterRequest::default().with_include_cluster_authorized_operations(asks);
        let told = wire.ask(&request, 1).await.cluster_authorized_operations;
        assert_eq!(told, if asks { cluster } else { not_asked });
    }
}
