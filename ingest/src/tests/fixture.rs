//! A log in a temporary folder with collectors before it: what the tests of this crate stand on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tarn_log::{Log, LogOptions};
use tarn_model::clock::{self, Clock};
use tarn_model::config::{Config, LogConfig, SyncMode};
use tarn_model::status::SourceStatus;
use tarn_model::{Offset, PartitionId, Result};
use tokio::runtime::Runtime;

use crate::{Collectors, RunMode};

/// Appends of the tests: small, so that a file takes many.
const APPEND_BYTES: usize = 2048;

pub(crate) struct Fixture {
    pub(crate) runtime: Runtime,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) append_bytes: usize,
    folder: tempfile::TempDir,
    log: Option<Log>,
}

/// A record as the log has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) partition: PartitionId,
    pub(crate) offset: Offset,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Logged {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut fixture = Fixture {
            runtime,
            clock: clock::system(),
            append_bytes: APPEND_BYTES,
            folder: tempfile::tempdir().unwrap(),
            log: None,
        };
        fixture.open();
        fixture
    }

    fn open(&mut self) {
        let options = LogOptions::from(&LogConfig { sync: SyncMode::None, ..LogConfig::default() });
        self.log = Some(Log::open(&self.path("log"), options, self.clock.clone()).unwrap());
    }

    /// Closes the log, which must have no other user left, and opens it again.
    pub(crate) fn reopen(&mut self) {
        self.runtime.block_on(self.log().close()).unwrap();
        self.log = None;
        self.open();
    }

    /// Opens another log in place of this one, of which `make` has put the files into the folder that it is given.
    pub(crate) fn replace_log(&mut self, make: impl FnOnce(&Path)) {
        self.runtime.block_on(self.log().close()).unwrap();
        self.log = None;
        fs::remove_dir_all(self.path("log")).unwrap();
        make(&self.path("log"));
        self.open();
    }

    pub(crate) fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn append_to(&self, name: &str, bytes: impl AsRef<[u8]>) {
        use std::io::Write;
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
            .write_all(bytes.as_ref())
            .unwrap();
    }

    /// Names of the files in a folder, sorted.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The config, in which `DIR` is the fixture's folder.
    pub(crate) fn config(&self, text: &str) -> Config {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mut config: Config = toml::from_str(&text.replace("DIR", &folder)).unwrap();
        config.data_dir = self.path("data");
        config
    }

    pub(crate) fn start(&self, config: &str, mode: RunMode) -> Collectors {
        let _in_runtime = self.runtime.enter();
        let config = self.config(config);
        Collectors::start_with(&config, self.log().clone(), self.clock.clone(), mode, self.append_bytes)
            .unwrap()
    }

    /// Reads everything there is.
    pub(crate) fn drain(&self, config: &str) -> Result<Vec<SourceStatus>> {
        let collectors = self.start(config, RunMode::Drain);
        let drained = self.runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), collectors.drained()).await.expect("the drain ends")
        });
        self.stop(&collectors);
        drained.map(|()| collectors.status())
    }

    pub(crate) fn stop(&self, collectors: &Collectors) {
        self.runtime.block_on(collectors.stop());
    }

    /// Waits until `holds`.
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let since = Instant::now();
        while !holds() {
            assert!(since.elapsed() < Duration::from_secs(30), "{what} did not come to pass");
            std::thread::yield_now();
        }
    }

    pub(crate) fn count(&self, topic: &str) -> usize {
        let ends = self.log().ends(topic).unwrap();
        let info = self.log().topic(topic).unwrap();
        (0..info.partitions).map(|p| usize::try_from(ends.next(p)).unwrap()).sum()
    }

    pub(crate) fn wait_for_count(&self, topic: &str, count: usize) {
        self.wait_for(&format!("{count} records"), || self.count(topic) >= count);
    }

    /// All records of a topic, by partition and offset.
    pub(crate) fn records(&self, topic: &str) -> Vec<Logged> {
        let log = self.log();
        let mut records = Vec::new();
        for partition in 0..log.topic(topic).unwrap().partitions {
            let mut from = 0;
            loop {
                let mut fetch = log.fetch(topic, partition, from, 8 << 20).unwrap();
                if fetch.next == from {
                    break;
                }
                let read = fetch.records().unwrap();
                from = fetch.next;
                for record in read.iter() {
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    records.push(Logged {
                        partition,
                        offset: record.offset,
                        timestamp_ms: record.timestamp_ms,
                        key: record.key.map(text),
                        value: record.value.unwrap_or_default().to_vec(),
                        headers: record
                            .headers()
                            .map(|(name, value)| (name.to_owned(), text(value.unwrap_or_default())))
                            .collect(),
                    });
                }
            }
        }
        records
    }

    pub(crate) fn texts(&self, topic: &str) -> Vec<String> {
        self.records(topic).iter().map(Logged::text).collect()
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

/// `count` lines of NDJSON that differ.
pub(crate) fn ndjson(from: usize, count: usize) -> String {
    (from..from + count)
        .map(|n| format!("{{\"n\":{n},\"text\":\"record {n} with some more text\"}}\n"))
        .collect()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.try_exists().unwrap()
}
