//! What a client's batch says of itself, and what is in it.

use std::sync::Arc;

use bytes::Bytes;
use tarn_log::{
    Append, Log, RecordRef, Records, Refused, TopicConfigs, TopicInfo, TopicOptions, record_batch,
};
use tarn_model::Kind;
use tarn_model::config::Compression;

use crate::support::{Bench, record, topic};

/// As [`tarn_log::Fetch::records`] says, and the batch that reaches beyond it.
const MOST_BYTES: usize = (8 << 20) + (64 << 20);
/// Records of 1 MB in a [`bomb`].
const RECORDS: usize = 20;
/// Attributes, and the newest timestamp, in a batch's header.
const ATTRIBUTES: usize = 21;
const MAX_TIMESTAMP: usize = 35;

/// A batch of a few KiB, or a few hundred, that unpacks to 20 MB: its values are zeros.
fn bomb(compression: Compression) -> Bytes {
    let zeros = vec![0; 1_000_000];
    record_batch(&[record(&zeros); RECORDS], compression).expect("a batch")
}

/// Puts `bytes` into a batch, and mends its CRC.
fn with(batch: &Bytes, at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

async fn send(log: &Log, topic: &Arc<TopicInfo>, batch: &Bytes) {
    let mut append = Append::new();
    append.push_batch(topic, 0, batch).expect("a good batch");
    log.append(append).await.expect("appended");
}

#[tokio::test]
async fn batches_that_unpack_to_much_are_read_a_part_at_a_time_and_all_of_them() {
    for (compression, batches) in [(Compression::Zstd, 10), (Compression::Lz4, 5), (Compression::Gzip, 5)] {
        let bench = Bench::new();
        let log = bench.open();
        let t = topic(&log, "t", 1);
        let bomb = bomb(compression);
        assert!(bomb.len() < 1 << 20, "{compression:?}");
        for _ in 0..batches {
            send(&log, &t, &bomb).await;
        }
        let (mut next, mut reads) = (0, 0);
        loop {
            let mut fetch = log.fetch("t", 0, next, 64 << 20).expect("fetch");
            if fetch.next == next {
                break;
            }
            let mut packed = Vec::new();
            fetch.batches.iter().for_each(|batch| packed.extend_from_slice(batch));
            let (by_client, client_next) = Records::of_answer(&packed.into(), next, &[]).expect("an answer");
            let records = fetch.records().expect("records");
            for read in [&records, &by_client] {
                assert!(read.bytes() <= MOST_BYTES, "{} bytes at once of {compression:?}", read.bytes());
            }
            let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
            assert_eq!(offsets, (next..fetch.next).collect::<Vec<_>>(), "nothing is passed over");
            assert_eq!(client_next, fetch.next);
            (next, reads) = (fetch.next, reads + 1);
        }
        assert_eq!((next, reads), (i64::try_from(RECORDS).expect("few") * batches, batches));
    }
}

#[tokio::test]
async fn what_waits_for_its_commit_counts_as_large_as_it_is() {
    let bench = Bench::new();
    let log = bench.open();
    let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
    let configs = TopicConfigs { compression: Some(Compression::None), ..TopicConfigs::default() };
    let t = log.configure_topic("t", &options, &configs).expect("a topic");
    let mut append = Append::new();
    append.push_batch(&t, 0, &bomb(Compression::Zstd)).expect("a good batch");
    assert!(append.bytes() > 20_000_000, "{} bytes", append.bytes());
}

#[tokio::test]
async fn the_newest_timestamp_of_a_batch_is_that_of_its_records_whatever_its_header_says() {
    for (compression, stored) in
        [(Compression::None, None), (Compression::Zstd, None), (Compression::Zstd, Some(Compression::Gzip))]
    {
        let value = [b'v'; 500];
        let at = |timestamp_ms| RecordRef { timestamp_ms, key: None, value: Some(&value), headers: &[] };
        let batch = record_batch(&[at(1000), at(6000), at(3000)], compression).expect("a batch");
        for claimed in [1000_i64, 6000, 900_000, -1, i64::MAX, i64::MIN] {
            let bench = Bench::new();
            let log = bench.open();
            let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
            let configs = TopicConfigs { compression: stored, ..TopicConfigs::default() };
            let t = log.configure_topic("t", &options, &configs).expect("a topic");
            send(&log, &t, &with(&batch, MAX_TIMESTAMP, &claimed.to_be_bytes())).await;
            assert_eq!(log.newest_timestamp("t", 0).expect("read"), Some(6000), "{claimed}");
            assert_eq!(log.seek_time("t", 0, 6000).expect("sought"), 0, "{claimed}");
            assert_eq!(log.seek_time("t", 0, 6001).expect("sought"), 3, "{claimed}");
            drop(log);
            // The CRC is verified with each fetch.
            let mut fetch = bench.open().fetch("t", 0, 0, 1 << 20).expect("fetch");
            assert_eq!(fetch.batches[0][MAX_TIMESTAMP..MAX_TIMESTAMP + 8], 6000_i64.to_be_bytes());
            let records = fetch.records().expect("records");
            let times: Vec<i64> = records.iter().map(|record| record.timestamp_ms).collect();
            assert_eq!(times, [1000, 6000, 3000]);
        }
    }
}

#[tokio::test]
async fn what_only_the_log_says_of_a_batch_no_client_says() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let batch = record_batch(&[record(b"v")], Compression::None).expect("a batch");
    for bit in 3..16 {
        let refused = match bit {
            // Of a transaction, which has a producer.
            3 => Refused::Timestamps,
            _ => Refused::Malformed,
        };
        let sent = with(&batch, ATTRIBUTES, &(1_u16 << bit).to_be_bytes());
        let error = Append::new().push_batch(&t, 0, &sent).expect_err("refused");
        assert_eq!(Refused::of(&error), Some(refused), "bit {bit}: {error}");
    }
    // What it says of its offset does not count.
    for (n, claimed) in (0..).zip([0, 7, i64::MAX - 1, i64::MAX, -1, i64::MIN]) {
        send(&log, &t, &with(&batch, 0, &i64::to_be_bytes(claimed))).await;
        assert_eq!(log.span("t", 0).expect("a span").to, n + 1, "{claimed}");
    }
    let two = record_batch(&[record(b"v"), record(b"w")], Compression::None).expect("a batch");
    let far = with(&two, 0, &i64::MAX.to_be_bytes());
    assert_eq!(Records::of_answer(&far, 0, &[]).expect_err("no such offsets").kind(), Kind::Corrupt);
}

#[tokio::test]
async fn what_was_under_way_to_a_topic_that_is_gone_is_refused_as_that() {
    let bench = Bench::new();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let batch = record_batch(&[record(b"v")], Compression::None).expect("a batch");
    let append = || {
        let mut append = Append::new();
        append.push_batch(&t, 0, &batch).expect("a good batch");
        append
    };
    let (one, two) = (log.pack(append()).await.expect("packed"), log.pack(append()).await.expect("packed"));
    log.delete_topic("t").await.expect("deleted");
    let unknown = |error: tarn_model::Error| {
        assert_eq!(Refused::of(&error), Some(Refused::UnknownPartition), "{error:?}");
    };
    unknown(log.commit(one).await.expect_err("it is gone"));
    unknown(log.append(append()).await.expect_err("it is gone"));
    topic(&log, "t", 1);
    unknown(log.commit(two).await.expect_err("it is another one"));
    unknown(log.append(append()).await.expect_err("it is another one"));
    assert_eq!(log.span("t", 0).expect("a span").to, 0);
}
