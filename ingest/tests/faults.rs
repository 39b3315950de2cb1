//! A step that fails, or succeeds while its caller is told that it failed, at each point between a source and the log:
//! afterwards every record is there once.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tarn_ingest::{Collectors, RunMode};
use tarn_log::{Log, LogOptions};
use tarn_model::clock;
use tarn_model::config::{Config, LogConfig};

const POINTS: &[&str] = &[
    "log.append.before",
    "log.append.after",
    "log.sync.before",
    "log.commit.before",
    "log.commit.after",
    "spool.rename.before",
    "spool.rename.after",
];

const SOURCES: &str = r#"
[[source]]
name = "spool"
type = "spooldir"
path = "DIR/in"
format = "ndjson"
topic = "spool"

[[source]]
name = "tail"
type = "taildir"
path = "DIR/log/*.log"
topic = "tail"

[[source]]
name = "base"
type = "database"
url = "sqlite:DIR/shop.sqlite"
table = "orders"
topic = "base"

[[source]]
name = "fresh"
type = "database"
url = "sqlite:DIR/shop.sqlite"
table = "orders"
mode = "append"
cursor = "id"
topic = "fresh"

[[source]]
name = "shop"
type = "generator"
count = 8000
rate = 0
topic = "shop"

[[source]]
name = "command"
type = "exec"
command = ["cat", "DIR/log/a.log"]
restart = "never"
topic = "command"

[[source]]
name = "net"
type = "netcat"
tcp = "127.0.0.1:0"
topic = "net"
"#;

const RECORDS: usize = 8000;
/// So that a file takes several appends.
const PADDING: usize = 400;

fn line(n: usize) -> String {
    format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "x".repeat(PADDING))
}

/// Sends `text` to the door of the last source, once it is open.
fn send(collectors: &Collectors, text: String) -> std::thread::JoinHandle<()> {
    let since = Instant::now();
    let address = loop {
        let status = collectors.status().pop().expect("a source");
        match status.addresses.first().and_then(|address| address.strip_prefix("tcp ")) {
            Some(address) => break address.to_owned(),
            None => assert!(since.elapsed() < Duration::from_secs(30), "no door was opened"),
        }
        std::thread::yield_now();
    };
    std::thread::spawn(move || {
        // A log that has stopped for good ends the connection.
        let sent = TcpStream::connect(address).and_then(|mut stream| stream.write_all(text.as_bytes()));
        drop(sent);
    })
}

#[test]
fn every_record_is_there_once_whatever_step_fails() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    assert!(fail::has_failpoints(), "built without fault points");
    for point in POINTS {
        for passes in [0, 1, 4] {
            let scenario = fail::FailScenario::setup();
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            fs::create_dir(path("in")).unwrap();
            fs::create_dir(path("log")).unwrap();
            let text: String = (0..RECORDS).map(line).collect();
            fs::write(path("in/a.ndjson"), &text).unwrap();
            fs::write(path("log/a.log"), &text).unwrap();
            let base = rusqlite::Connection::open(path("shop.sqlite")).unwrap();
            base.execute_batch(&format!(
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT);
                 WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {RECORDS})
                 INSERT INTO orders SELECT i, printf('%.400c', 'x') FROM n"
            ))
            .unwrap();
            let config = SOURCES.replace("DIR", &folder.path().to_string_lossy());
            let mut config: Config = toml::from_str(&config).unwrap();
            config.data_dir = path("data");
            let log =
                Log::open(&path("data"), LogOptions::from(&LogConfig::default()), clock::system()).unwrap();
            let collectors = {
                let _in_runtime = runtime.enter();
                Collectors::start(&config, log.clone(), clock::system(), RunMode::Drain).unwrap()
            };
            let sender = send(&collectors, text.clone());
            fail::cfg(*point, &format!("{passes}*off->2*return(error)->off")).unwrap();
            let drained = runtime.block_on(async {
                tokio::time::timeout(Duration::from_secs(60), collectors.drained()).await
            });
            let what = format!("{point} after {passes}");
            match drained
                .unwrap_or_else(|_| panic!("{what}: the drain does not end: {:?}", collectors.status()))
            {
                Ok(()) => {}
                // A log that has stopped for good is opened anew by a new process; that is the end-to-end tests' part.
                Err(error) => assert!(log.failure().is_some(), "{what}: {error:?}"),
            }
            // What was sent is read, however long the log could not commit.
            let since = Instant::now();
            while log.failure().is_none() {
                if collectors.status().last().is_some_and(|net| net.bytes == (text.len() - RECORDS) as u64) {
                    break;
                }
                assert!(
                    since.elapsed() < Duration::from_secs(60),
                    "{what}: {:?}",
                    collectors.status().last()
                );
                std::thread::yield_now();
            }
            runtime.block_on(collectors.stop());
            let stopped = log.failure().is_some();
            sender.join().unwrap();
            for topic in ["spool", "tail", "base", "fresh", "shop", "command", "net"] {
                let mut seen = BTreeMap::<Vec<u8>, usize>::new();
                let mut from = 0;
                loop {
                    let mut fetch = log.fetch(topic, 0, from, 8 << 20).unwrap();
                    if fetch.next == from {
                        break;
                    }
                    let read = fetch.records().unwrap();
                    from = fetch.next;
                    for record in read.iter() {
                        *seen.entry(record.value.unwrap_or_default().to_vec()).or_default() += 1;
                    }
                }
                assert!(
                    seen.values().all(|count| *count == 1),
                    "{what}: a record of `{topic}` is there twice"
                );
                assert!(stopped || seen.len() == RECORDS, "{what}: `{topic}` has {} records", seen.len());
            }
            scenario.teardown();
        }
    }
}

const HELD: &str = r#"
[[source]]
name = "command"
type = "exec"
command = ["cat", "DIR/a.log"]
topic = "command"

[[source]]
name = "net"
type = "netcat"
tcp = "127.0.0.1:0"
topic = "net"
"#;

#[test]
fn what_was_received_is_committed_by_a_stop_while_the_source_waits_for_the_log() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let scenario = fail::FailScenario::setup();
    let folder = tempfile::tempdir().unwrap();
    let text: String = (0..10).map(line).collect();
    fs::write(folder.path().join("a.log"), &text).unwrap();
    let config = HELD.replace("DIR", &folder.path().to_string_lossy());
    let mut config: Config = toml::from_str(&config).unwrap();
    config.data_dir = folder.path().join("data");
    let log = Log::open(&config.data_dir, LogOptions::from(&LogConfig::default()), clock::system()).unwrap();
    fail::cfg("log.append.before", "return(error)").unwrap();
    let collectors = {
        let _in_runtime = runtime.enter();
        Collectors::start(&config, log.clone(), clock::system(), RunMode::Continuous).unwrap()
    };
    send(&collectors, text.clone()).join().unwrap();
    let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < Duration::from_secs(30), "{what}: {:?}", collectors.status());
            std::thread::yield_now();
        }
    };
    wait_until("both wait, and hold what came", &|| {
        let bytes = (text.len() - 10) as u64;
        collectors.status().iter().all(|source| source.state == "waiting" && source.bytes == bytes)
    });
    std::thread::scope(|scope| {
        scope.spawn(|| runtime.block_on(collectors.stop()));
        wait_until("the door is closed", &|| {
            collectors.status().last().is_some_and(|net| net.addresses.is_empty())
        });
        fail::cfg("log.append.before", "off").unwrap();
    });
    for topic in ["command", "net"] {
        let mut fetch = log.fetch(topic, 0, 0, 8 << 20).unwrap();
        assert_eq!(fetch.records().unwrap().iter().count(), 10, "records of `{topic}`");
    }
    scenario.teardown();
}
