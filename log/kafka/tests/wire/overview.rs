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
