//! Random histories against a model in memory.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;

use proptest::prelude::*;
use serde_json::json;
use tarn_log::Append;
use tarn_model::config::{Compression, SyncMode};

use crate::support::{Bench, record, topic, values, values_from};

const PARTITIONS: i32 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// Records as (partition, size), and a position.
    Append(Vec<(i32, usize)>, u8),
    /// The log ends without a word and is opened again.
    Crash,
    /// The same, and bytes that were never committed lie behind each partition.
    CrashTorn(Vec<u8>),
    Close,
    /// All index files go while the log is closed.
    LoseIndexes,
    Read(i32, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let records = prop::collection::vec((0..PARTITIONS, prop_oneof![0..100_usize, 0..3000_usize]), 0..8);
    let step = prop_oneof![
        8 => (records, any::<u8>()).prop_map(|(records, position)| Step::Append(records, position)),
        1 => Just(Step::Crash),
        1 => prop::collection::vec(any::<u8>(), 1..200).prop_map(Step::CrashTorn),
        1 => Just(Step::Close),
        1 => Just(Step::LoseIndexes),
        3 => (0..PARTITIONS, any::<prop::sample::Index>()).prop_map(|(p, at)| Step::Read(p, at.index(100))),
    ];
    prop::collection::vec(step, 1..40)
}

fn modes() -> impl Strategy<Value = (SyncMode, Compression)> {
    let sync = prop::sample::select(vec![SyncMode::Group, SyncMode::Interval, SyncMode::None]);
    let compression = prop::sample::select(vec![
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ]);
    (sync, compression)
}

fn remove_indexes(bench: &Bench) {
    for segment in bench.segments() {
        let _ = std::fs::remove_file(segment.with_extension("index"));
        let _ = std::fs::remove_file(segment.with_extension("timeindex"));
    }
}

fn tear(bench: &Bench, bytes: &[u8]) {
    let mut last = BTreeMap::new();
    for segment in bench.segments() {
        last.insert(segment.parent().expect("a folder").to_owned(), segment);
    }
    for segment in last.values() {
        OpenOptions::new().append(true).open(segment).expect("open").write_all(bytes).expect("write");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_history_reads_as_its_model(steps in steps(), (sync, compression) in modes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::with(|options| {
                (options.sync, options.compression, options.segment_bytes) = (sync, compression, 8 << 10);
            });
            let mut log = bench.open();
            let mut model: Vec<Vec<String>> = vec![Vec::new(); PARTITIONS as usize];
            let mut position = None;
            let t = topic(&log, "t", PARTITIONS);
            for (number, step) in steps.iter().enumerate() {
                match step {
                    Step::Append(records, at) => {
                        let mut append = Append::new();
                        for (partition, size) in records {
                            let value = format!("{number} {}", "v".repeat(*size));
                            append.push_to(&t, *partition, &record(value.as_bytes())).expect("push");
                            model[*partition as usize].push(value);
                        }
                        append.position("files", "x", Some(json!(at)));
                        position = Some(json!(at));
                        let appended = log.append(append).await.expect("append");
                        prop_assert_eq!(appended.records, records.len() as u64);
                    }
                    Step::Crash => {
                        drop(log);
                        log = bench.open();
                    }
                    Step::CrashTorn(bytes) => {
                        drop(log);
                        tear(&bench, bytes);
                        log = bench.open();
                    }
                    Step::Close => {
                        log.close().await.expect("close");
                        log = bench.open();
                    }
                    Step::LoseIndexes => {
                        drop(log);
                        remove_indexes(&bench);
                        log = bench.open();
                    }
                    Step::Read(partition, at) => {
                        let expected = &model[*partition as usize];
                        let at = at % (expected.len() + 1);
                        prop_assert_eq!(&values_from(&log, "t", *partition, at as i64), &expected[at..]);
                    }
                }
                prop_assert_eq!(log.position("files", "x").expect("position"), position.clone());
            }
            for partition in 0..PARTITIONS {
                prop_assert_eq!(&values(&log, "t", partition), &model[partition as usize]);
            }
            Ok(())
        })?;
    }
}
