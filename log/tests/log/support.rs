//! A log in a temporary folder, and shorthands.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tarn_log::{Append, Appended, Log, LogOptions, RecordRef, TopicInfo, TopicOptions};
use tarn_model::Result;
use tarn_model::clock::ManualClock;
use tarn_model::config::{Compression, SyncMode};

pub(crate) const BOOT: &str = "first boot";

/// A folder with a log, its clock, and how it is opened.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) options: LogOptions,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Bench {
            dir: tempfile::tempdir().expect("a folder"),
            clock: ManualClock::at(1_000_000_000),
            options: LogOptions {
                sync: SyncMode::Group,
                sync_interval: Duration::from_secs(3600),
                segment_bytes: 1 << 20,
                retention_time: Duration::from_secs(3600),
                retention_bytes: None,
                compression: Compression::Lz4,
                max_record_bytes: 1 << 20,
                idempotency_window: Duration::from_secs(600),
            },
        }
    }

    pub(crate) fn with(change: impl FnOnce(&mut LogOptions)) -> Bench {
        let mut bench = Bench::new();
        change(&mut bench.options);
        bench
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn open(&self) -> Log {
        self.try_open().expect("open")
    }

    pub(crate) fn try_open(&self) -> Result<Log> {
        self.open_on(BOOT)
    }

    pub(crate) fn open_on(&self, boot: &str) -> Result<Log> {
        Log::open_on_boot(self.path(), self.options.clone(), self.clock.clone(), boot)
    }

    /// All segment files, in order.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.path().join("log")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("list") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

pub(crate) fn topic(log: &Log, name: &str, partitions: i32) -> Arc<TopicInfo> {
    let options = TopicOptions { partitions, retention_time: None, retention_bytes: None };
    log.create_topic(name, &options).expect("create the topic")
}

pub(crate) fn record(value: &[u8]) -> RecordRef<'_> {
    RecordRef { timestamp_ms: 1, key: None, value: Some(value), headers: &[] }
}

/// An append of `values` to one partition.
pub(crate) fn of(topic: &Arc<TopicInfo>, partition: i32, values: &[impl AsRef<[u8]>]) -> Append {
    let mut append = Append::new();
    for value in values {
        append.push_to(topic, partition, &record(value.as_ref())).expect("push");
    }
    append
}

pub(crate) async fn put(
    log: &Log,
    topic: &Arc<TopicInfo>,
    partition: i32,
    values: &[impl AsRef<[u8]>],
) -> Appended {
    log.append(of(topic, partition, values)).await.expect("append")
}

/// All values of a partition from `from` on, in small fetches.
pub(crate) fn values_from(log: &Log, topic: &str, partition: i32, mut from: i64) -> Vec<String> {
    let mut values = Vec::new();
    loop {
        let mut fetch = log.fetch(topic, partition, from, 1).expect("fetch");
        if fetch.batches.is_empty() {
            assert_eq!(fetch.next, fetch.end, "a fetch without batches is at the end");
            return values;
        }
        let records = fetch.records().expect("records");
        assert_eq!(records.iter().count(), records.len());
        for record in records.iter() {
            assert_eq!(record.offset, from, "offsets follow each other");
            from += 1;
            values.push(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"));
        }
        assert_eq!(from, fetch.next);
    }
}

pub(crate) fn values(log: &Log, topic: &str, partition: i32) -> Vec<String> {
    let start = log.starts(topic).expect("starts").next(partition);
    values_from(log, topic, partition, start)
}
