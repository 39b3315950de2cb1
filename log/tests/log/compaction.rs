//! Compaction against a model: which records stay, and that nothing else moves.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tarn_log::{Append, Cleanup, Log, RecordRef, Records, TopicConfigs, TopicInfo, TopicOptions};
use tarn_model::Boundary;
use tarn_model::config::Compression;

use crate::support::Bench;

const DELETE_RETENTION: Duration = Duration::from_secs(100);

/// What a record was: key and value.
type Sent = (Option<String>, Option<String>);

fn configs() -> TopicConfigs {
    TopicConfigs {
        cleanup: Cleanup::Compact,
        min_dirty_ratio: Some(0.0),
        delete_retention_ms: Some(u64::try_from(DELETE_RETENTION.as_millis()).expect("short")),
        ..TopicConfigs::default()
    }
}

fn compacted_topic(log: &Log, configs: &TopicConfigs) -> Arc<TopicInfo> {
    let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
    log.configure_topic("t", &options, configs).expect("a topic")
}

/// One batch of these records.
async fn send(log: &Log, topic: &Arc<TopicInfo>, at_ms: i64, records: &[Sent]) {
    let mut append = Append::new();
    for (key, value) in records {
        let record = RecordRef {
            timestamp_ms: at_ms,
            key: key.as_ref().map(String::as_bytes),
            value: value.as_ref().map(String::as_bytes),
            headers: &[("h", b"kept")],
        };
        append.push_to(topic, 0, &record).expect("push");
    }
    log.append(append).await.expect("append");
}

/// What can be read, by offset; offsets rise, batches follow each other without a gap, headers and timestamps are there.
fn read(log: &Log) -> BTreeMap<i64, (Sent, i64)> {
    let mut found = BTreeMap::new();
    let span = log.span("t", 0).expect("a span");
    let mut next = span.from;
    while next < span.to {
        let mut fetch = log.fetch("t", 0, next, 4096).expect("fetch");
        assert!(fetch.next > next, "a fetch that is not at the end moves on");
        let records = fetch.records().expect("records");
        // A client finds out by itself what counts: from the batches, the markers among them, and what it is told was aborted.
        let bytes: Vec<u8> = fetch.batches.iter().flat_map(|batch| batch.to_vec()).collect();
        let told: Vec<(i64, i64)> =
            fetch.aborted.iter().map(|aborted| (aborted.producer, aborted.first)).collect();
        let (by_client, _) = Records::of_answer(&bytes.into(), next, &told).expect("an answer");
        let offsets =
            |records: &Records| -> Vec<i64> { records.iter().map(|record| record.offset).collect() };
        assert_eq!(offsets(&by_client), offsets(&records), "a client sees what we do, told {told:?}");
        for record in records.iter() {
            let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
            assert_eq!(record.header("h"), Some(&b"kept"[..]));
            let before =
                found.insert(record.offset, ((text(record.key), text(record.value)), record.timestamp_ms));
            assert!(before.is_none() && record.offset >= next && record.offset < fetch.next);
        }
        next = fetch.next;
    }
    found
}

/// Lets `log` compact until nothing is left to do.
async fn compact(log: &Log) {
    log.compact().await.expect("compaction");
}

/// What an offset was given to.
#[derive(Debug)]
enum Was {
    /// A record that counts, and its timestamp.
    Record(Sent, i64),
    /// A record that was aborted, or a marker.
    Nothing,
}

#[derive(Debug, Clone)]
enum Step {
    /// Keys and whether there is a value.
    Send(Vec<(u8, bool)>),
    /// The same in a transaction, which is committed or not.
    Transact(Vec<(u8, bool)>, bool),
    Compact,
    Reopen,
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let records = || prop::collection::vec((0..12_u8, prop::bool::weighted(0.8)), 1..12);
    let step = prop_oneof![
        8 => records().prop_map(Step::Send),
        5 => (records(), any::<bool>()).prop_map(|(records, commit)| Step::Transact(records, commit)),
        3 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn the_last_value_of_every_key_stays_where_it_was(
        steps in steps(),
        compression in prop::sample::select(vec![Compression::None, Compression::Zstd]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::with(|options| {
                // Syncs are not what is compared here, and cost most of the time.
                options.sync = tarn_model::config::SyncMode::None;
                (options.segment_bytes, options.compression) = (4096, compression);
            });
            let mut log = bench.open();
            let mut topic = compacted_topic(&log, &configs());
            let by = log.begin_producer("shop", Duration::from_secs(60), None).await.expect("begun");
            let mut sequence = 0;
            let mut sent: Vec<Was> = Vec::new();
            let mut waited = false;
            for step in steps {
                let at_ms = 1_000 + i64::try_from(sent.len()).expect("few");
                let records_of = |keys: &[(u8, bool)]| -> Vec<Sent> {
                    let record = |(n, (key, valued)): (usize, &(u8, bool))| {
                        let value = valued.then(|| format!("{}-{n}-{}", sent.len(), "v".repeat(300)));
                        (Some(format!("key-{key}")), value)
                    };
                    keys.iter().enumerate().map(record).collect()
                };
                match step {
                    Step::Send(keys) => {
                        let records = records_of(&keys);
                        send(&log, &topic, at_ms, &records).await;
                        sent.extend(records.into_iter().map(|record| Was::Record(record, at_ms)));
                    }
                    Step::Transact(keys, commit) => {
                        let records = records_of(&keys);
                        log.enlist("shop", by, &[("t".to_owned(), 0)], &[]).await.expect("enlisted");
                        in_transaction(&log, &topic, by, sequence, (at_ms, &records)).await;
                        sequence += i32::try_from(records.len()).expect("few");
                        log.end_transaction("shop", by, commit, false).await.expect("ended");
                        let was = |record| if commit { Was::Record(record, at_ms) } else { Was::Nothing };
                        sent.extend(records.into_iter().map(was));
                        sent.push(Was::Nothing);
                    }
                    Step::Compact => compact(&log).await,
                    Step::Reopen => {
                        drop(log);
                        log = bench.open();
                        topic = log.topic("t").expect("the topic");
                    }
                    Step::Wait => {
                        bench.clock.advance(DELETE_RETENTION * 2);
                        waited = true;
                    }
                }
                let found = read(&log);
                let upto = log.compacted_to("t", 0).expect("the topic");
                let mut last: HashMap<&Option<String>, i64> = HashMap::new();
                for (offset, was) in (0..).zip(&sent).filter(|(offset, _)| *offset < upto) {
                    if let Was::Record((key, _), _) = was {
                        last.insert(key, offset);
                    }
                }
                prop_assert_eq!(log.span("t", 0).expect("a span").to, i64::try_from(sent.len()).expect("few"));
                for (offset, was) in (0..).zip(&sent) {
                    match (found.get(&offset), was) {
                        (Some(there), Was::Record(record, at_ms)) => {
                            prop_assert_eq!(&there.0, record, "a record is as it was sent");
                            prop_assert_eq!(there.1, *at_ms, "its timestamp, too");
                            let is_last = last.get(&record.0).is_none_or(|last| *last <= offset);
                            prop_assert!(is_last, "an older record of a key stayed below {}", upto);
                        }
                        (None, Was::Record(record, _)) => {
                            let is_replaced = last.get(&record.0).is_some_and(|last| *last > offset);
                            let is_over = waited && record.1.is_none();
                            prop_assert!(offset < upto && (is_replaced || is_over), "offset {} is gone", offset);
                        }
                        (Some(there), Was::Nothing) => {
                            prop_assert!(false, "offset {} was aborted, or is a marker: {:?}", offset, there);
                        }
                        (None, Was::Nothing) => {}
                    }
                }
            }
            Ok(())
        })?;
    }
}

/// Segments of about four records; the newest is written to.
async fn filled(bench: &Bench, log: &Log) -> Arc<TopicInfo> {
    let topic = compacted_topic(log, &configs());
    for n in 0..20 {
        let value = format!("{n}{}", "v".repeat(900));
        let at_ms = bench.options.retention_time.as_secs().try_into().unwrap_or(0);
        send(log, &topic, at_ms, &[(Some(format!("k{}", n % 3)), Some(value))]).await;
    }
    topic
}

fn small() -> Bench {
    Bench::with(|options| (options.segment_bytes, options.compression) = (4096, Compression::None))
}

#[tokio::test]
async fn what_a_table_still_needs_is_not_touched() {
    let bench = small();
    let log = bench.open();
    filled(&bench, &log).await;
    log.hold("t", "table", Boundary::from_iter([(0, 9)]));
    compact(&log).await;
    let upto = log.compacted_to("t", 0).expect("the topic");
    assert!(0 < upto && upto <= 9, "whole segments below the hold were compacted, up to {upto}");
    let found = read(&log);
    assert!((9..20).all(|offset| found.contains_key(&offset)), "{:?}", found.keys());
    assert!(found.len() < 20);
    log.hold("t", "table", Boundary::from_iter([(0, 20)]));
    compact(&log).await;
    assert!(log.compacted_to("t", 0).expect("the topic") > upto);
}

#[tokio::test]
async fn a_tombstone_stays_for_its_time_and_then_goes_with_its_key() {
    let bench = small();
    let log = bench.open();
    let topic = filled(&bench, &log).await;
    send(&log, &topic, 5, &[(Some("k1".to_owned()), None)]).await;
    let more = |n: usize| (Some(format!("other{n}")), Some("v".repeat(900)));
    for n in 0..8 {
        send(&log, &topic, 5, &[more(n)]).await;
    }
    compact(&log).await;
    let of_k1 =
        |log: &Log| read(log).into_values().filter(|((key, _), _)| key.as_deref() == Some("k1")).count();
    assert_eq!(of_k1(&log), 1, "the tombstone, and no value below it");
    bench.clock.advance(DELETE_RETENTION / 2);
    for n in 8..16 {
        send(&log, &topic, 5, &[more(n)]).await;
    }
    compact(&log).await;
    assert_eq!(of_k1(&log), 1, "its time is not up");
    bench.clock.advance(DELETE_RETENTION);
    drop(log);
    let log = bench.open();
    let topic = log.topic("t").expect("the topic");
    for n in 16..24 {
        send(&log, &topic, 5, &[more(n)]).await;
    }
    compact(&log).await;
    assert_eq!(of_k1(&log), 0);
}

#[tokio::test]
async fn little_that_is_new_is_left_until_there_is_more() {
    let bench = small();
    let log = bench.open();
    let topic = filled(&bench, &log).await;
    compact(&log).await;
    let lazy = TopicConfigs { min_dirty_ratio: Some(0.99), ..configs() };
    compacted_topic(&log, &lazy);
    for n in 0..5 {
        send(&log, &topic, 5, &[(Some("k0".to_owned()), Some(format!("{n}{}", "v".repeat(900))))]).await;
    }
    assert!(log.compact().await.expect("compaction").is_empty(), "most of it is compacted already");
    let none = TopicConfigs { cleanup: Cleanup::Delete, ..configs() };
    compacted_topic(&log, &none);
    assert!(log.compact().await.expect("compaction").is_empty(), "retention's topics are left alone");
}

#[tokio::test]
async fn retention_takes_nothing_of_a_topic_that_is_only_compacted() {
    let bench = small();
    let log = bench.open();
    filled(&bench, &log).await;
    bench.clock.advance(Duration::from_secs(1_000_000));
    assert!(log.apply_retention().await.expect("retention").is_empty());
    let both = TopicConfigs { cleanup: Cleanup::CompactDelete, ..configs() };
    compacted_topic(&log, &both);
    assert!(!log.apply_retention().await.expect("retention").is_empty());
}

#[tokio::test]
async fn readers_go_on_while_segments_are_replaced() {
    let bench = small();
    let log = bench.open();
    let topic = filled(&bench, &log).await;
    let reader = {
        let log = log.clone();
        std::thread::spawn(move || {
            for _ in 0..200 {
                let found = read(&log);
                assert!(found.keys().last().is_some_and(|last| *last >= 19), "the newest record is there");
            }
        })
    };
    for n in 0..60 {
        send(&log, &topic, 5, &[(Some(format!("k{}", n % 5)), Some(format!("{n}{}", "v".repeat(900))))])
            .await;
        compact(&log).await;
    }
    reader.join().expect("the reader");
    let files = bench.segments();
    drop(log);
    let log = bench.open();
    assert_eq!(bench.segments(), files, "what is there is what the ledger names");
    read(&log);
}

/// One batch of a transaction.
async fn in_transaction(
    log: &Log,
    topic: &Arc<TopicInfo>,
    by: tarn_log::ProducerEpoch,
    sequence: i32,
    (at_ms, records): (i64, &[Sent]),
) {
    let headers: &[(&str, &[u8])] = &[("h", b"kept")];
    let records: Vec<RecordRef<'_>> = records
        .iter()
        .map(|(key, value)| RecordRef {
            timestamp_ms: at_ms,
            key: key.as_ref().map(String::as_bytes),
            value: value.as_ref().map(String::as_bytes),
            headers,
        })
        .collect();
    let mut bytes = tarn_log::record_batch(&records, Compression::None).expect("a batch").to_vec();
    bytes[22] |= 0x10;
    bytes[43..51].copy_from_slice(&by.producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&by.epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let mut append = Append::new();
    append.push_batch(topic, 0, &bytes.into()).expect("a good batch");
    log.append(append).await.expect("append");
}

#[tokio::test]
async fn what_was_aborted_replaces_nothing_and_what_is_open_is_not_touched() {
    let bench = small();
    let log = bench.open();
    let topic = compacted_topic(&log, &configs());
    let by = log.begin_producer("shop", Duration::from_secs(60), None).await.expect("begun");
    let pad = "v".repeat(900);
    let mut sequence = 0;
    for (commit, key, text) in
        [(true, "a", "1"), (false, "a", "2"), (true, "b", "3"), (false, "b", "4"), (true, "b", "5")]
    {
        log.enlist("shop", by, &[("t".to_owned(), 0)], &[]).await.expect("enlisted");
        let record = (Some(key.to_owned()), Some(format!("{text}{pad}")));
        in_transaction(&log, &topic, by, sequence, (7, &[record])).await;
        sequence += 1;
        log.end_transaction("shop", by, commit, false).await.expect("ended");
    }
    // Closed segments behind it all, then a transaction that stays open, and more closed segments.
    let filler = |n: usize| (Some(format!("f{n}")), Some(pad.clone()));
    for n in 0..6 {
        send(&log, &topic, 7, &[filler(n)]).await;
    }
    log.enlist("shop", by, &[("t".to_owned(), 0)], &[]).await.expect("enlisted");
    let record = (Some("f0".to_owned()), Some("undecided".to_owned()));
    in_transaction(&log, &topic, by, sequence, (7, &[record])).await;
    let open = log.span("t", 0).expect("a span").to - 1;
    for n in 0..9 {
        send(&log, &topic, 7, &[filler(n)]).await;
    }
    compact(&log).await;
    assert!(log.compacted_to("t", 0).expect("the topic") <= open, "nothing at or above what is undecided");
    let values = |log: &Log| -> Vec<(i64, String)> {
        let mut found = Vec::new();
        let mut next = 0;
        while let Ok(mut fetch) = log.fetch("t", 0, next, 1 << 20) {
            let records = fetch.records().expect("records");
            let of_shop = records.iter().filter(|record| record.key.is_some_and(|key| key.len() == 1));
            found.extend(of_shop.map(|record| {
                (record.offset, String::from_utf8_lossy(&record.value.expect("a value")[..1]).into_owned())
            }));
            if fetch.next == next {
                break;
            }
            next = fetch.next;
        }
        found
    };
    // Each transaction took an offset for its record and one for its marker.
    let want = vec![(0, "1".to_owned()), (8, "5".to_owned())];
    assert_eq!(values(&log), want);
    log.end_transaction("shop", by, true, false).await.expect("ended");
    drop(log);
    let log = bench.open();
    assert_eq!(values(&log), want, "and after a restart");
    compact(&log).await;
    assert_eq!(values(&log), want);
}

/// Offsets of the markers that are there.
fn markers(log: &Log) -> Vec<i64> {
    let (mut found, mut next) = (Vec::new(), 0);
    while let Ok(fetch) = log.fetch_undecided("t", 0, next, 1 << 20) {
        for batch in &fetch.batches {
            let is_marker = batch[22] & 0x20 != 0;
            let base = i64::from_be_bytes(batch[..8].try_into().expect("eight bytes"));
            found.extend(is_marker.then_some(base));
        }
        if fetch.next == next {
            break;
        }
        next = fetch.next;
    }
    found
}

#[tokio::test]
async fn a_marker_goes_when_its_records_have_gone_and_its_time_is_up() {
    let bench = small();
    let log = bench.open();
    let topic = compacted_topic(&log, &configs());
    let by = log.begin_producer("shop", Duration::from_secs(60), None).await.expect("begun");
    let record = |key: &str, text: &str| (Some(key.to_owned()), Some(format!("{text}{}", "v".repeat(900))));
    // Committed and replaced later; aborted; committed and never replaced.
    for (sequence, (key, commit)) in [("a", true), ("a", false), ("kept", true)].into_iter().enumerate() {
        let sequence = i32::try_from(sequence).expect("few");
        log.enlist("shop", by, &[("t".to_owned(), 0)], &[]).await.expect("enlisted");
        in_transaction(&log, &topic, by, sequence, (7, &[record(key, "in")])).await;
        log.end_transaction("shop", by, commit, false).await.expect("ended");
    }
    let mut turn = 0;
    let mut compacted = async |log: &Log, topic: &Arc<TopicInfo>| {
        for n in 0..6 {
            turn += 1;
            send(log, topic, 7, &[record(if n == 0 { "a" } else { "filler" }, &turn.to_string())]).await;
        }
        compact(log).await;
    };
    assert_eq!(markers(&log), [1, 3, 5]);
    compacted(&log, &topic).await;
    assert_eq!(markers(&log), [1, 3, 5], "the records were there a moment ago");
    compacted(&log, &topic).await;
    assert_eq!(markers(&log), [1, 3, 5], "their time begins");
    compacted(&log, &topic).await;
    assert_eq!(markers(&log), [1, 3, 5], "and is not up");
    assert_eq!(log.fetch("t", 0, 0, 1 << 20).expect("fetch").aborted.len(), 1);
    bench.clock.advance(DELETE_RETENTION * 2);
    compacted(&log, &topic).await;
    assert_eq!(markers(&log), [5], "the record of the last one is there");
    assert!(log.fetch("t", 0, 0, 1 << 20).expect("fetch").aborted.is_empty(), "nobody looks for its marker");
    let before = read(&log);
    assert!(before.contains_key(&4));
    drop(log);
    let log = bench.open();
    assert_eq!((markers(&log), read(&log)), (vec![5], before));
}
