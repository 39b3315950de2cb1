//! What Kafka's clients rely on: producers that number their batches, and groups that commit offsets.

use std::sync::Arc;

use bytes::Bytes;
use tarn_log::{Append, CommittedOffset, GroupOffset, Log, Refused, TopicConfigs, TopicInfo, TopicOptions};
use tarn_model::config::{Compression, SyncMode};
use tarn_model::{Boundary, Kind, OffsetRange, Result};

use crate::support::{BOOT, Bench, of, put, topic, values};

/// A batch of these values as a producer sends it.
async fn batch(log: &Log, producer: i64, epoch: i16, first: i32, texts: &[&str]) -> Bytes {
    let scratch = topic(log, "scratch", 1);
    let range = put(log, &scratch, 0, texts).await.ranges[0].2;
    let mut bytes = log.fetch("scratch", 0, range.from, 1).expect("fetch").batches[0].to_vec();
    bytes[..8].fill(0);
    bytes[43..51].copy_from_slice(&producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&first.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn append_of(topic: &Arc<TopicInfo>, batch: &Bytes) -> Append {
    let mut append = Append::new();
    append.push_batch(topic, 0, batch).expect("a good batch");
    append
}

async fn send(log: &Log, topic: &Arc<TopicInfo>, batch: &Bytes) -> Result<(OffsetRange, bool)> {
    let appended = log.append(append_of(topic, batch)).await?;
    Ok((appended.ranges[0].2, appended.repeated))
}

fn bench(sync: SyncMode) -> Bench {
    Bench::with(|options| {
        options.sync = sync;
        options.compression = Compression::None;
    })
}

#[tokio::test]
async fn a_batch_that_comes_again_is_kept_once_across_restarts_too() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let producer = log.new_producer_id().await.expect("an id");
    let first = batch(&log, producer, 0, 0, &["a", "b"]).await;
    let second = batch(&log, producer, 0, 2, &["c"]).await;
    let fourth = batch(&log, producer, 0, 4, &["e"]).await;
    assert_eq!(send(&log, &t, &first).await.expect("sent"), (OffsetRange::new(0, 2), false));
    assert_eq!(send(&log, &t, &first).await.expect("again"), (OffsetRange::new(0, 2), true));
    assert_eq!(send(&log, &t, &second).await.expect("sent"), (OffsetRange::new(2, 3), false));
    drop(log);

    let log = bench.open();
    assert_eq!(send(&log, &t, &first).await.expect("again"), (OffsetRange::new(0, 2), true));
    assert_eq!(send(&log, &t, &second).await.expect("again"), (OffsetRange::new(2, 3), true));
    let error = send(&log, &t, &fourth).await.expect_err("the third is missing");
    assert_eq!(Refused::of(&error), Some(Refused::OutOfOrder), "{error:?}");
    let newer = batch(&log, producer, 1, 0, &["d"]).await;
    send(&log, &t, &newer).await.expect("a new epoch begins anew");
    let error = send(&log, &t, &second).await.expect_err("the old epoch is over");
    assert_eq!((error.kind(), Refused::of(&error)), (Kind::Fenced, Some(Refused::StaleEpoch)));
    assert_eq!(values(&log, "t", 0), ["a", "b", "c", "d"]);
    assert!(log.new_producer_id().await.expect("an id") > producer, "no id is given twice");
}

#[tokio::test]
async fn batches_under_way_together_are_committed_in_their_order() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let mut waiting = Vec::new();
    for n in 0..20 {
        let next = batch(&log, 7, 0, n, &[&n.to_string()]).await;
        waiting.push(log.submit(log.pack(append_of(&t, &next)).await.expect("packed")));
        if n % 3 == 0 {
            waiting.push(log.submit(log.pack(append_of(&t, &next)).await.expect("packed twice")));
        }
    }
    for submitted in waiting {
        submitted.committed().await.expect("committed");
    }
    assert_eq!(values(&log, "t", 0), (0..20).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_power_failure_takes_back_what_a_producer_and_a_group_had_with_the_records() {
    let bench = bench(SyncMode::None);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let first = batch(&log, 7, 0, 0, &["a"]).await;
    let second = batch(&log, 7, 0, 1, &["b"]).await;
    send(&log, &t, &first).await.expect("sent");
    commit(&log, 1).await;
    let durable: Boundary = [(0, 1)].into_iter().collect();
    log.sync_to("t", &durable).await.expect("synced");
    send(&log, &t, &second).await.expect("sent");
    commit(&log, 2).await;
    drop(log);

    let log = bench.open_on("second boot").expect("open");
    assert_eq!(values(&log, "t", 0), ["a"]);
    assert_eq!(committed(&log), [1]);
    assert_eq!(send(&log, &t, &first).await.expect("again"), (OffsetRange::new(0, 1), true));
    assert_eq!(send(&log, &t, &second).await.expect("once more"), (OffsetRange::new(1, 2), false));
}

async fn commit(log: &Log, offset: i64) {
    let mut append = Append::new();
    append.group_offset(group_offset(Some(offset)));
    log.append(append).await.expect("committed");
}

fn group_offset(offset: Option<i64>) -> GroupOffset {
    let committed =
        |offset| CommittedOffset { offset, leader_epoch: 0, metadata: Some("note".to_owned()), at_ms: 5 };
    GroupOffset {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        topic_id: None,
        partition: 0,
        committed: offset.map(committed),
    }
}

fn committed(log: &Log) -> Vec<i64> {
    log.group_offsets("g").expect("read").into_iter().map(|(_, _, committed)| committed.offset).collect()
}

#[tokio::test]
async fn what_a_group_committed_stays_until_it_is_forgotten() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let t = topic(&log, "t", 1);
    commit(&log, 3).await;
    let mut append = of(&t, 0, &["with records"]);
    append.group_offset(group_offset(Some(4)));
    log.append(append).await.expect("committed");
    drop(log);
    let log = bench.open();
    let (topic_name, partition, stored) = log.group_offsets("g").expect("read").remove(0);
    assert_eq!((topic_name.as_str(), partition, Some(stored)), ("t", 0, group_offset(Some(4)).committed));
    assert_eq!(log.groups().expect("read"), ["g"]);
    let of_all = log.all_group_offsets().expect("read");
    assert_eq!(of_all.into_iter().collect::<Vec<_>>(), [("g".to_owned(), vec![("t".to_owned(), 0, 4)])]);
    log.forget_group("g").await.expect("forgotten");
    assert!(committed(&log).is_empty() && log.groups().expect("read").is_empty());

    let mut append = Append::new();
    append.group_offset(GroupOffset { topic: "none".to_owned(), ..group_offset(Some(1)) });
    let error = log.append(append).await.expect_err("there is no such topic");
    assert_eq!(Refused::of(&error), Some(Refused::UnknownPartition), "{error:?}");
}

#[tokio::test]
async fn a_deleted_topic_is_gone_with_its_producers_and_offsets_and_a_held_one_stays() {
    let bench = bench(SyncMode::None);
    let log = bench.open();
    let t = topic(&log, "t", 2);
    let first = batch(&log, 7, 0, 0, &["a"]).await;
    send(&log, &t, &first).await.expect("sent");
    commit(&log, 1).await;
    log.hold("t", "a table", Boundary::new());
    assert_eq!(log.delete_topic("t").await.expect_err("it is held").kind(), Kind::Conflict);
    log.release("t", "a table");
    log.delete_topic("t").await.expect("deleted");
    assert!(log.topic("t").is_none() && committed(&log).is_empty());
    let error = send(&log, &t, &first).await.expect_err("it is gone");
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");

    let again = topic(&log, "t", 1);
    assert_ne!(again.id, t.id);
    assert!(log.topic_of_id(t.id).is_none() && log.topic_of_id(again.id).is_some());
    assert_eq!(send(&log, &again, &first).await.expect("sent"), (OffsetRange::new(0, 1), false));
    drop(log);
    // What was committed before the deletion is neither taken back nor missed.
    let log = bench.open_on("second boot").expect("open");
    assert_eq!(log.topics().len(), 2);
    drop(log);
    drop(bench.open_on(BOOT).expect("open"));
}

#[tokio::test]
async fn configs_of_a_topic_stay_and_append_time_is_the_time_of_the_append() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
    let configs = TopicConfigs { max_batch_bytes: Some(500), append_time: true, ..TopicConfigs::default() };
    log.configure_topic("t", &options, &configs).expect("created");
    drop(log);

    let log = bench.open();
    let t = topic(&log, "t", 2);
    assert_eq!((t.partitions, &t.configs), (2, &configs), "what is not named stays");
    let sent = batch(&log, 7, 0, 0, &["a", "b"]).await;
    bench.clock.advance(std::time::Duration::from_secs(5));
    let now_ms = tarn_model::clock::Clock::now_ms(&*bench.clock);
    let appended = log.append(append_of(&t, &sent)).await.expect("appended");
    assert_eq!(appended.append_time_ms, Some(now_ms));
    // The CRC is verified with each fetch.
    let mut fetch = log.fetch("t", 0, 0, 1 << 20).expect("fetch");
    let times: Vec<i64> =
        fetch.records().expect("records").iter().map(|record| record.timestamp_ms).collect();
    assert_eq!(times, [now_ms; 2]);
    assert_eq!(log.newest_timestamp("t", 0).expect("newest"), Some(now_ms));
    let long = batch(&log, 7, 0, 2, &["x".repeat(600).as_str()]).await;
    let error = Append::new().push_batch(&t, 0, &long).expect_err("too large");
    assert_eq!(Refused::of(&error), Some(Refused::TooLarge));
    log.configure_topic("t", &TopicOptions { partitions: 2, ..options }, &TopicConfigs::default())
        .expect("changed");
    assert_eq!(log.topic("t").expect("a topic").configs, TopicConfigs::default());
}

#[test]
fn a_log_of_the_version_before_is_opened_and_becomes_one_of_this() {
    let bench = bench(SyncMode::Group);
    drop(bench.open());
    std::fs::write(bench.path().join("version"), "tarn 1\n").expect("write");
    drop(bench.open());
    let version = std::fs::read_to_string(bench.path().join("version")).expect("read");
    assert_eq!(version.trim(), "tarn 4");
}

#[tokio::test]
async fn an_offset_that_was_committed_again_does_not_expire() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    topic(&log, "t", 2);
    let commit = |partition, offset, at_ms| {
        let (group, topic) = ("g".to_owned(), "t".to_owned());
        let committed = Some(CommittedOffset { offset, leader_epoch: -1, metadata: None, at_ms });
        let mut append = Append::new();
        append.group_offset(GroupOffset { group, topic, topic_id: None, partition, committed });
        append
    };
    log.append(commit(0, 5, 1)).await.expect("committed");
    log.append(commit(1, 7, 1)).await.expect("committed");
    let seen = log.group_offsets("g").expect("offsets");
    let mut expiry = Append::new();
    for (topic, partition, offset) in seen {
        expiry.expire_group_offset("g", &topic, partition, offset);
    }
    // A member commits between the look and the append; even with the same offset.
    log.append(commit(0, 5, 2)).await.expect("committed");
    log.append(expiry).await.expect("expired");
    let left = |log: &Log| -> Vec<(i32, i64)> {
        log.group_offsets("g").expect("offsets").iter().map(|(_, p, at)| (*p, at.offset)).collect()
    };
    assert_eq!(left(&log), [(0, 5)]);
    drop(log);
    assert_eq!(left(&bench.open()), [(0, 5)]);
}

#[tokio::test]
async fn who_is_in_a_group_is_kept_until_it_is_forgotten_and_goes_back_with_the_power() {
    for sync in [SyncMode::Group, SyncMode::None] {
        let bench = bench(sync);
        let log = bench.open();
        let put = |name: &str, members: Option<&str>| {
            let mut append = Append::new();
            append.group_members(name, members.map(str::to_owned));
            append
        };
        let named = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        log.append(put("a", Some("one"))).await.expect("stored");
        log.append(put("b", Some("two"))).await.expect("stored");
        log.close().await.expect("closed");
        let log = bench.open();
        log.append(put("a", Some("three"))).await.expect("stored");
        log.forget_group("b").await.expect("forgotten");
        drop(log);
        let log = bench.open();
        assert_eq!(log.group_members().expect("groups"), named(&[("a", "three")]), "{sync:?}");
        log.append(put("a", Some("four"))).await.expect("stored");
        drop(log);
        let log = bench.open_on("second boot").expect("open");
        let want = if sync == SyncMode::Group { "four" } else { "three" };
        assert_eq!(log.group_members().expect("groups"), named(&[("a", want)]), "{sync:?}");
    }
}

#[tokio::test]
async fn a_topic_that_somebody_waits_for_is_held_from_its_first_record_on() {
    let bench = bench(SyncMode::Group);
    let log = bench.open();
    log.hold_new(|topic| if topic.starts_with("shop.") { vec!["table".to_owned()] } else { Vec::new() });
    topic(&log, "shop.orders", 1);
    topic(&log, "clicks", 1);
    assert_eq!(log.holder("shop.orders").as_deref(), Some("table"));
    assert_eq!(log.holder("clicks"), None);
    let t = log.topic("shop.orders").expect("the topic");
    put(&log, &t, 0, &["a"]).await;
    let upto = Boundary::from_iter([(0, 1)]);
    assert_eq!(log.trim("shop.orders", &upto, false).await.expect_err("held").kind(), Kind::Conflict);
    log.hold("shop.orders", "table", upto.clone());
    log.trim("shop.orders", &upto, false).await.expect("the table has it");
}
