//! Record batches that Kafka's own clients sent (`batches/`, captured by `tests/servers/kafka_capture.py`): stored byte for byte,
//! and read by nothing but what they hold, whatever becomes of their bytes.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tarn_log::{Append, Records, TopicConfigs, TopicInfo, TopicOptions};
use tarn_model::config::Compression;

use crate::support::Bench;

const ATTRIBUTES: std::ops::Range<usize> = 21..23;
const TRANSACTIONAL: u8 = 0x10;
/// Base offset, and leader epoch: what the log sets.
const PLACE: [std::ops::Range<usize>; 2] = [0..8, 12..16];
/// What it sets besides when records have the time of their append: CRC, attributes, newest timestamp.
const TIME: [std::ops::Range<usize>; 3] = [17..21, 21..23, 35..43];

/// Name and bytes of each batch.
fn captured() -> Vec<(String, Bytes)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/log/batches");
    let mut batches: Vec<(String, Bytes)> = std::fs::read_dir(folder)
        .expect("the captured batches")
        .map(|entry| {
            let path = entry.expect("entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read(path).expect("read").into())
        })
        .collect();
    batches.sort();
    for needed in ["rdkafka", "kafka-", "kafkajs", "none", "gzip", "snappy", "lz4", "zstd", "idempotent"] {
        assert!(batches.iter().any(|(name, _)| name.contains(needed)), "no batch of {needed}");
    }
    batches
}

fn without(bytes: &[u8], parts: &[std::ops::Range<usize>]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    parts.iter().for_each(|part| bytes[part.clone()].fill(0));
    bytes
}

#[tokio::test]
async fn a_segment_has_a_clients_batch_byte_for_byte() {
    for append_time in [false, true] {
        for (name, batch) in captured() {
            // One of a transaction needs its transaction.
            if batch[ATTRIBUTES.end - 1] & TRANSACTIONAL != 0 {
                continue;
            }
            let bench = Bench::new();
            let log = bench.open();
            let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
            let configs = TopicConfigs { append_time, ..TopicConfigs::default() };
            let t = log.configure_topic("t", &options, &configs).expect("a topic");
            for _ in 0..2 {
                let mut append = Append::new();
                append.push_batch(&t, 0, &batch).unwrap_or_else(|error| panic!("{name}: {error}"));
                log.append(append).await.expect("append");
            }
            let stored = std::fs::read(&bench.segments()[0]).expect("the segment");
            let count = i64::from(i32::from_be_bytes(batch[57..61].try_into().expect("four bytes")));
            // The second of an idempotent producer is the first again.
            let copies = stored.len() / batch.len();
            assert!(
                stored.len() == copies * batch.len()
                    && copies == 1 + usize::from(!name.contains("idempotent"))
            );
            for (nth, stored) in (0..).zip(stored.chunks(batch.len())) {
                let base = i64::from_be_bytes(stored[..8].try_into().expect("eight bytes"));
                assert_eq!(base, count * nth, "{name}");
                if append_time {
                    assert_eq!(
                        without(&without(stored, &PLACE), &TIME),
                        without(&without(&batch, &PLACE), &TIME)
                    );
                } else {
                    assert_eq!(without(stored, &PLACE), without(&batch, &PLACE), "{name}");
                }
            }
        }
    }
}

/// Virtual memory at its highest, bytes: what was allocated counts, touched or not.
fn peak_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux machine");
    let line = status.lines().find(|line| line.starts_with("VmPeak:")).expect("a peak");
    let kib: usize = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    kib << 10
}

/// What unpacking a batch and its copies may take beside what the tests at its side do.
const MOST_BYTES: usize = 1 << 30;

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Flipped, cut, spliced: refused or read, never a panic, and never more memory than a batch may unpack to.
    #[test]
    fn a_damaged_batch_is_refused_or_read(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        mend in any::<bool>(),
    ) {
        let batches = captured();
        let (_, batch) = &batches[which.index(batches.len())];
        let mut bytes = batch.to_vec();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        // With a CRC and a length that fit, the damage reaches what is behind them.
        if mend && bytes.len() > 61 {
            let length = i32::try_from(bytes.len() - 12).expect("small");
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            let crc = crc32c::crc32c(&bytes[21..]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        let bytes = Bytes::from(bytes);
        let t = Arc::new(TopicInfo {
            name: "t".to_owned(),
            id: uuid::Uuid::nil(),
            partitions: 1,
            columns: None,
            max_record_bytes: 1 << 20,
            retention_time: None,
            retention_bytes: None,
            configs: TopicConfigs::default(),
        });
        let before = peak_bytes();
        let _ = Append::new().push_batch(&t, 0, &bytes);
        if let Ok((records, next)) = Records::of_answer(&bytes, 0, &[(0, 0)]) {
            prop_assert!(next >= 0 && records.iter().count() == records.len());
        }
        prop_assert!(peak_bytes() - before < MOST_BYTES);
    }
}

#[tokio::test]
async fn a_topic_with_a_compression_of_its_own_has_every_batch_in_it() {
    for compression in
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
    {
        for (name, batch) in captured() {
            if batch[ATTRIBUTES.end - 1] & TRANSACTIONAL != 0 {
                continue;
            }
            let bench = Bench::new();
            let log = bench.open();
            let options = TopicOptions { partitions: 1, retention_time: None, retention_bytes: None };
            let configs = TopicConfigs { compression: Some(compression), ..TopicConfigs::default() };
            let t = log.configure_topic("t", &options, &configs).expect("a topic");
            let mut append = Append::new();
            append.push_batch(&t, 0, &batch).unwrap_or_else(|error| panic!("{name}: {error}"));
            log.append(append).await.expect("append");
            let mut fetch = log.fetch("t", 0, 0, 1 << 20).expect("fetch");
            let code = [
                Compression::None,
                Compression::Gzip,
                Compression::Snappy,
                Compression::Lz4,
                Compression::Zstd,
            ];
            assert_eq!(Some(&compression), code.get(usize::from(fetch.batches[0][22] & 7)), "{name}");
            let (sent, _) = Records::of_answer(&batch, 0, &[]).expect("records");
            let stored = fetch.records().expect("records");
            let all = |records: &Records| {
                let one = |r: tarn_log::RecordView<'_>| {
                    (r.timestamp_ms, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec))
                };
                records.iter().map(one).collect::<Vec<_>>()
            };
            assert_eq!(all(&stored), all(&sent), "{name}");
        }
    }
}
