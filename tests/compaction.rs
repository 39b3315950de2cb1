//! A compacted topic under faults: the table has every record once, the log the last one of every key where it was.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Folder, Kafka, Keyed, Producer, Running, exactly_once, keyed_batch, seconds, wait_for};
use crate::transactions::connect;

const CONFIG: &str = r#"
data_dir = "data"

[log]
kafka = "127.0.0.1:0"
segment_size = "4KiB"
retention_every = "200ms"
compression = "none"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"

[[table]]
name = "events"
columns = "n BIGINT NOT NULL"
key_column = "id"
commit_every = "100ms"
"#;

const KEYS: i64 = 7;

/// Sends numbered records of a few keys, each batch until it is acknowledged.
struct Feeder {
    by: Producer,
    next: i64,
}

impl Feeder {
    fn new(kafka: &mut Kafka) -> Feeder {
        Feeder { by: kafka.idempotent_producer().expect("a connection"), next: 0 }
    }

    /// One batch of four records; `None` when nobody answered.
    fn send(&mut self, kafka: &mut Kafka) -> Option<()> {
        let of =
            |n: i64| (format!("k{}", n % KEYS), format!("{{\"n\": {n}, \"pad\": \"{}\"}}", "x".repeat(200)));
        let texts: Vec<(String, String)> = (self.next..self.next + 4).map(of).collect();
        let records: Vec<Keyed<'_>> = texts
            .iter()
            .map(|(key, value)| Keyed {
                key: Some(key.as_bytes()),
                value: Some(value.as_bytes()),
                ..Keyed::default()
            })
            .collect();
        let sequence = i32::try_from(self.next).expect("few");
        kafka.produce("events", 0, keyed_batch(self.by, sequence, &records))?.expect("taken");
        self.next += 4;
        Some(())
    }
}

/// Makes the topic a compacted one.
fn compacting(folder: &Folder) {
    let altered = folder.tarn(&[
        "topic",
        "alter",
        "events",
        "--set",
        "cleanup.policy=compact",
        "--set",
        "min.cleanable.dirty.ratio=0",
    ]);
    assert_eq!(altered.code, Some(0), "{}", altered.said);
}

/// What the log has, by offset: the number in each record.
fn consumed(folder: &Folder) -> BTreeMap<i64, i64> {
    let ended = folder.tarn(&["consume", "events", "--output", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let lines = ended.printed.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let number = |record: &Value| {
        let value: Value = serde_json::from_str(record["value"].as_str().expect("text")).expect("JSON");
        (record["offset"].as_i64().expect("an offset"), value["n"].as_i64().expect("a number"))
    };
    lines.map(|record| number(&record)).collect()
}

/// Feeds until the log has been compacted so far that most of what was sent is gone, and proves.
#[track_caller]
fn proven(folder: &Folder, mut running: Running, mut feeder: Feeder) {
    let mut kafka = connect(&mut running);
    let found = wait_for("most records to be compacted away", seconds(60), || {
        feeder.send(&mut kafka).expect("the process runs");
        let found = consumed(folder);
        (i64::try_from(found.len()).expect("few") < feeder.next / 2 && feeder.next > 120).then_some(found)
    });
    assert!(found.iter().all(|(offset, n)| offset == n), "no offset has changed");
    let newest = feeder.next - KEYS;
    assert!(
        (newest..feeder.next).all(|n| found.contains_key(&n)),
        "the last of every key is there: {found:?}"
    );
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(folder, "events", feeder.next, 0);
    folder.never_panicked();
}

fn started(point: &str, passes: u32, action: &str) -> (Folder, Running, Feeder) {
    let folder = Folder::new(CONFIG);
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    let mut running = folder.start_with(&format!("{point}={skip}1*return({action})"), &[]);
    let mut kafka = connect(&mut running);
    compacting(&folder);
    let feeder = Feeder::new(&mut kafka);
    (folder, running, feeder)
}

/// Kills the process when `point` is passed, and proves.
pub(crate) fn killed(point: &str, passes: u32) {
    let (folder, mut running, mut feeder) = started(point, passes, "kill");
    let mut kafka = connect(&mut running);
    wait_for("a kill", seconds(60), || feeder.send(&mut kafka).is_none().then_some(()));
    assert_eq!(running.end(seconds(10)).signal, Some(9));
    proven(&folder, folder.start(), feeder);
}

/// Lets the step at `point` fail, or succeed and be reported as failed, and proves.
pub(crate) fn told_of_an_error(point: &str, passes: u32) {
    let (folder, mut running, mut feeder) = started(point, passes, "error");
    let mut kafka = connect(&mut running);
    let mark = format!("fault injected at `{point}`");
    wait_for("the fault", seconds(60), || {
        feeder.send(&mut kafka).expect("the process goes on");
        running.said().contains(&mark).then_some(())
    });
    proven(&folder, running, feeder);
}

#[test]
fn a_record_without_a_key_is_refused_where_keys_count() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let mut kafka = connect(&mut running);
    let by = kafka.idempotent_producer().expect("a connection");
    let record = Keyed { value: Some(b"{\"n\": 1}"), ..Keyed::default() };
    kafka.produce("events", 0, keyed_batch(by, 0, &[record])).expect("sent").expect("taken");
    compacting(&folder);
    // INVALID_RECORD
    assert_eq!(kafka.produce("events", 0, keyed_batch(by, 1, &[record])), Some(Err(87)));
    assert_eq!(running.stop().code, Some(0));
}
