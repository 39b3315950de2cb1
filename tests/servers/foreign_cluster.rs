//! A Kafka cluster of several brokers that is not Tarn: the one that librdkafka has for its own tests.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::json;

use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

struct Cluster {
    child: Child,
    told: Lines<BufReader<ChildStdout>>,
    words: ChildStdin,
    brokers: String,
}

impl Cluster {
    fn start() -> Cluster {
        let python =
            std::env::var("TARN_PYTHON").expect("TARN_PYTHON: start these tests with tests/servers/run");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/servers/kafka_mock.py");
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python");
        let mut told = BufReader::new(child.stdout.take().expect("its output")).lines();
        let words = child.stdin.take().expect("its input");
        let brokers = told.next().expect("the brokers").expect("its output");
        assert_eq!(brokers.split(',').count(), 3, "{brokers}");
        Cluster { child, told, words, brokers }
    }

    /// Has so many more records, once this returns; how many there are in all.
    fn sends(&mut self, packing: &str, count: u32) -> i64 {
        writeln!(self.words, "{packing} {count}").expect("it reads");
        self.told.next().expect("a line").expect("its output").parse().expect("a number")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_cluster_of_three_brokers_that_is_not_tarn_is_mirrored_record_by_record_whatever_is_killed() {
    let mut cluster = Cluster::start();
    let brokers = &cluster.brokers;
    let folder = Folder::new(&format!(
        r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"
[[source]]
name = "mirror"
type = "kafka"
brokers = "{brokers}"
topics = "shop.*"
topic = "{{topic}}"
[[table]]
name = "{{table}}"
topic = "shop.{{table}}"
columns = "n BIGINT"
key_column = "key"
headers_column = "headers"
timestamp_column = "at"
commit_every = "200ms"
"#
    ));
    let mut all = 0;
    for packing in ["none", "gzip", "snappy", "lz4", "zstd"] {
        // There before it looks, and coming while it looks.
        cluster.sends(packing, 1_000);
        let mut running = folder.start();
        let client = running.ready();
        all = cluster.sends(packing, 1_000);
        wait_for("all of it", seconds(60), || (count(&client, "orders")? == all / 50 * 49).then_some(()));
        running.kill();
    }
    folder.drained();
    // One in fifty is a tombstone, of which a table makes no row.
    let rows = all / 50 * 49;
    exactly_once(&folder, "orders", rows, all - rows);
    let wrong = "SELECT count(*) AS n FROM orders WHERE n IS NOT NULL AND (key <> 'k' || (n % 100) \
        OR CAST(at AS TIMESTAMP) <> to_timestamp_millis(1700000000000 + n))";
    let values =
        "SELECT count(n) AS n, count(DISTINCT n) AS d, count(DISTINCT _partition) > 1 AS spread FROM orders";
    assert_eq!(folder.sql(wrong), [json!({"n": 0})]);
    assert_eq!(folder.sql(values), [json!({"n": rows, "d": rows, "spread": true})]);
    assert_eq!(folder.number("SELECT count(DISTINCT CAST(headers AS VARCHAR)) FROM orders"), rows);
}
