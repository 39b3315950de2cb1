//! Topics, retention, holds, trimming, and raw batches.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tarn_log::{Append, Log, TopicOptions};
use tarn_model::columns::Columns;
use tarn_model::config::Compression;
use tarn_model::{Boundary, Kind, OffsetRange};

use crate::support::{Bench, of, put, topic, values};

/// Segments of four records each.
fn bench() -> Bench {
    Bench::with(|options| (options.segment_bytes, options.compression) = (4096, Compression::None))
}

async fn fill(log: &Log, records: usize) {
    let t = topic(log, "t", 1);
    for n in 0..records {
        put(log, &t, 0, &[format!("{n:03}{}", "v".repeat(900))]).await;
    }
}

fn boundary(next: i64) -> Boundary {
    Boundary::from_iter([(0, next)])
}

#[tokio::test]
async fn retention_takes_whole_old_segments_and_stops_at_a_hold() {
    let bench = bench();
    let log = bench.open();
    fill(&log, 10).await;
    let mut append = Append::new();
    append.position("files", "x", Some(json!(10)));
    log.append(append).await.expect("append");
    assert_eq!(bench.segments().len(), 3);
    assert!(log.apply_retention().await.expect("retention").is_empty(), "nothing is old");
    bench.clock.advance(Duration::from_secs(3601));
    log.hold("t", "table", boundary(7));
    log.hold("t", "export", boundary(9));
    let gone = log.apply_retention().await.expect("retention");
    assert_eq!(gone, [("t".to_owned(), 0, OffsetRange::new(0, 4))]);
    assert_eq!(log.starts("t").expect("starts"), boundary(4));
    let error = log.fetch("t", 0, 3, 1).expect_err("gone");
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.to_string().contains("starts at offset 4"), "{error}");
    log.hold("t", "table", boundary(10));
    log.hold("t", "export", boundary(10));
    let gone = log.apply_retention().await.expect("retention");
    assert_eq!(
        gone,
        [("t".to_owned(), 0, OffsetRange::new(4, 10))],
        "the last segment was closed, being old"
    );
    assert_eq!(log.position("files", "x").expect("position"), Some(json!(10)), "positions outlive segments");
    put(&log, &log.topic("t").expect("topic"), 0, &["new"]).await;
    drop(log);
    let log = bench.open();
    assert_eq!(log.starts("t").expect("starts"), boundary(10));
    assert_eq!(values(&log, "t", 0), ["new"]);
    assert_eq!(bench.segments().len(), 1);
}

#[tokio::test]
async fn retention_by_size_keeps_the_newest() {
    let bench = bench();
    let log = bench.open();
    fill(&log, 20).await;
    let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: Some(9000) };
    log.create_topic("t", &options).expect("change");
    let size = log.stats().expect("stats")[0].size_bytes;
    log.apply_retention().await.expect("retention");
    let stats = log.stats().expect("stats").remove(0);
    assert!(stats.size_bytes <= 9000 && stats.size_bytes < size && stats.end == 20, "{stats:?}");
    assert_eq!(values(&log, "t", 0).len(), usize::try_from(20 - stats.start).expect("positive"));
}

#[tokio::test]
async fn a_trim_stops_at_a_hold_unless_forced_and_then_tells_what_was_lost() {
    let bench = bench();
    let log = bench.open();
    fill(&log, 10).await;
    log.hold("t", "table", boundary(5));
    log.trim("t", &boundary(3), false).await.expect("below the hold");
    let error = log.trim("t", &boundary(9), false).await.expect_err("held");
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.to_string().contains("`table`"), "{error}");
    assert_eq!(log.trim("t", &boundary(11), true).await.expect_err("beyond the end").kind(), Kind::Invalid);
    log.trim("t", &boundary(9), true).await.expect("forced");
    drop(log);
    let log = bench.open();
    assert_eq!(log.lost_ranges("t").expect("lost"), [(0, OffsetRange::new(5, 9))]);
    assert_eq!(log.starts("t").expect("starts"), boundary(9));
    let left = values(&log, "t", 0);
    assert_eq!(left.len(), 1, "records below the start are not read, though their segment is there");
    assert!(left[0].starts_with("009"));
    assert_eq!(bench.segments().len(), 1);
}

#[tokio::test]
async fn topics_keep_their_identity_and_only_gain_partitions() {
    let bench = Bench::new();
    let log = bench.open();
    let first = topic(&log, "t", 2);
    assert_eq!(topic(&log, "t", 2).id, first.id);
    let grown = topic(&log, "t", 4);
    assert_eq!((grown.id, grown.partitions), (first.id, 4));
    let options = TopicOptions { partitions: 3, retention_time: None, retention_bytes: None };
    assert_eq!(log.create_topic("t", &options).expect_err("fewer").kind(), Kind::Invalid);
    for name in ["", "a/b", "..", "naïve"] {
        assert_eq!(log.create_topic(name, &options).expect_err("a bad name").kind(), Kind::Invalid, "{name}");
    }
    let columns = Columns::parse("id BIGINT, price DECIMAL(10,2)").expect("columns");
    log.set_topic_columns("t", &columns).expect("columns");
    put(&log, &first, 1, &["an older view of the topic still appends"]).await;
    put(&log, &grown, 3, &["x"]).await;
    drop(log);
    let log = bench.open();
    let found = log.topic("t").expect("topic");
    assert_eq!((found.id, found.partitions, found.columns.clone()), (first.id, 4, Some(columns)));
    assert_eq!(log.ends("t").expect("ends").to_string(), "0=0,1=1,2=0,3=1");
    assert_eq!(log.topics().len(), 1);
    assert!(log.topic("other").is_none());
    assert_eq!(log.ends("other").expect_err("unknown").kind(), Kind::Invalid);
}

#[tokio::test]
async fn a_raw_batch_is_stored_as_it_came_but_for_its_place() {
    let bench = Bench::with(|options| options.compression = Compression::Zstd);
    let log = bench.open();
    let (from, to) = (topic(&log, "from", 1), topic(&log, "to", 1));
    put(&log, &from, 0, &["x".repeat(300), "y".repeat(300)]).await;
    let mut sent = log.fetch("from", 0, 0, 1).expect("fetch").batches[0].to_vec();
    // A producer's id, epoch and sequence, and the CRC that goes with them.
    sent[43..57].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 0, 0, 0, 5]);
    let crc = crc32c::crc32c(&sent[21..]);
    sent[17..21].copy_from_slice(&crc.to_be_bytes());
    put(&log, &to, 0, &["before"]).await;
    let mut append = Append::new();
    append.push_batch(&to, 0, &Bytes::from(sent.clone())).expect("a good batch");
    append.push_to(&to, 0, &crate::support::record(b"more")).expect_err("a batch with a sequence is alone");
    assert_eq!(append.records(), 2);
    log.append(append).await.expect("append");
    put(&log, &to, 0, &["after"]).await;
    let stored = log.fetch("to", 0, 1, 1).expect("fetch").batches.remove(0);
    assert_eq!(stored[..8], [0, 0, 0, 0, 0, 0, 0, 1], "its base offset");
    assert_eq!(stored[16..], sent[16..]);
    assert_eq!(
        values(&log, "to", 0),
        ["before".to_owned(), "x".repeat(300), "y".repeat(300), "after".to_owned()]
    );

    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sent.clone();
        change(&mut bytes);
        let crc = crc32c::crc32c(&bytes[21.min(bytes.len())..]);
        if bytes.len() > 61 && bytes[30] != 0xee {
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        let error = Append::new().push_batch(&to, 0, &bytes.into()).expect_err("a bad batch");
        assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
        error.to_string()
    };
    assert!(refused(&|b| b.truncate(40)).contains("torn"));
    assert!(refused(&|b| b.truncate(65)).contains("length"));
    assert!(refused(&|b| b[30] = 0xee).contains("CRC"));
    assert!(refused(&|b| b[60] = 3).contains("offsets"));
    assert!(refused(&|b| b[22] |= 0x20).contains("control"));
    assert!(refused(&|b| b[22] = 7).contains("compression"));
    assert!(refused(&|b| b[22] = 1).contains("unpacked"));
    assert!(refused(&|b| (b[26], b[60]) = (2, 3)).contains("number of records"));
}

#[tokio::test]
async fn a_time_is_found_by_its_offset() {
    let bench = bench();
    let log = bench.open();
    let t = topic(&log, "t", 1);
    for n in 0..100_i64 {
        let mut append = Append::new();
        let value = vec![b'x'; 400];
        let record =
            tarn_log::RecordRef { timestamp_ms: n * 10, key: None, value: Some(&value), headers: &[] };
        append.push(&t, &record).expect("push");
        log.append(append).await.expect("append");
    }
    for time in [0, 5, 10, 555, 990] {
        let from = log.seek_time("t", 0, time).expect("seek");
        let first = (time + 9) / 10;
        assert!(from <= first && first - from < 16, "{time}: {from}");
    }
    assert_eq!(log.seek_time("t", 0, 991).expect("seek"), 100);
}

#[tokio::test]
async fn a_fetch_is_bounded_and_crosses_segments() {
    let bench = bench();
    let log = bench.open();
    fill(&log, 20).await;
    let one = log.fetch("t", 0, 5, 1).expect("fetch");
    assert_eq!((one.batches.len(), one.next, one.end), (1, 6, 20));
    let some = log.fetch("t", 0, 0, 5000).expect("fetch");
    assert_eq!(some.batches.iter().map(Bytes::len).sum::<usize>() / 900, 5, "five batches of 0.9 kB");
    let all = log.fetch("t", 0, 0, 1 << 30).expect("fetch");
    assert_eq!((all.batches.len(), all.next), (20, 20));
    let none = log.fetch("t", 0, 20, 1 << 20).expect("fetch");
    assert_eq!((none.batches.len(), none.next), (0, 20));
    assert_eq!(log.fetch("t", 0, 21, 1).expect_err("beyond").kind(), Kind::Invalid);
    assert_eq!(log.fetch("t", 1, 0, 1).expect_err("no partition").kind(), Kind::Invalid);
}

#[tokio::test]
async fn large_appends_are_split_into_batches() {
    let bench =
        Bench::with(|options| (options.segment_bytes, options.compression) = (64 << 20, Compression::None));
    let log = bench.open();
    let t = topic(&log, "t", 1);
    let records: Vec<Vec<u8>> = (0..50_u8).map(|n| vec![n; 100_000]).collect();
    let append = of(&t, 0, &records);
    assert!(append.bytes() > 5_000_000);
    log.append(append).await.expect("append");
    let mut fetch = log.fetch("t", 0, 0, 64 << 20).expect("fetch");
    assert!(fetch.batches.len() >= 5 && fetch.batches.iter().all(|batch| batch.len() <= 1 << 20));
    assert_eq!(fetch.records().expect("records").len(), 50);
}
