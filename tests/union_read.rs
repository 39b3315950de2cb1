//! The union read under fire: commits every 200 ms, files merged all the while, eight readers. Lake and tail meet at an
//! exact offset in every answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Client, Folder, VECTOR, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"
optimize_after_files = 3
checkpoint_after_commits = 5
vacuum_retention = "5s"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 3

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "200ms"
"#;

const READERS: usize = 8;

#[test]
fn every_answer_is_one_exact_cut_while_commits_and_merges_run() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let over = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    let pushed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut threads =
            vec![scope.spawn(|| push(&client, &over, &pushed)), scope.spawn(|| optimize(&client, &over))];
        for reader in 0..READERS {
            let (client, over, answers) = (&client, &over, &answers);
            threads.push(scope.spawn(move || read(client, over, answers, reader)));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let start = Instant::now();
            wait_for("25 commits, more than 100 answers, and some seconds of fire", seconds(90), || {
                assert!(threads.iter().all(|thread| !thread.is_finished()), "a thread of the test failed");
                let status = client.get("/v1/status").ok()?.json();
                let version = table(&status)["version"].as_u64().unwrap_or(0);
                let enough = version >= 25 && answers.load(Ordering::SeqCst) > 100;
                (enough && start.elapsed() > Duration::from_secs(5)).then_some(())
            });
        }));
        over.store(true, Ordering::SeqCst);
        for thread in threads {
            thread.join().expect("a thread of the test");
        }
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    let merges =
        folder.find("lake/events/_delta_log", ".json").iter().filter(|commit| is_merge(commit)).count();
    println!("{} answers were exact, {merges} merges", answers.load(Ordering::SeqCst));
    assert!(merges > 0, "nothing was merged while the readers ran");
    assert_eq!(running.stop().code, Some(0), "it did not stop well");
    folder.drained();
    let pushed = i64::try_from(pushed.load(Ordering::SeqCst)).expect("a small number");
    exactly_once(&folder, "events", pushed, 0);
    folder.never_panicked();
}

fn table(status: &Value) -> &Value {
    status["tables"]
        .as_array()
        .and_then(|tables| tables.iter().find(|t| t["name"] == "events"))
        .unwrap_or(&Value::Null)
}

/// A commit that adds files without changing data.
fn is_merge(commit: &std::path::Path) -> bool {
    let text = std::fs::read_to_string(commit).unwrap_or_default();
    text.lines().any(|line| line.contains("\"add\"") && line.contains("\"dataChange\":false"))
}

fn push(client: &Client, over: &AtomicBool, pushed: &AtomicU64) {
    let mut id = 0;
    while !over.load(Ordering::SeqCst) {
        let mut body = String::new();
        for _ in 0..50 {
            writeln!(body, r#"{{"id":{id},"text":"event {id}"}}"#).expect("memory takes everything");
            id += 1;
        }
        let answer =
            client.post("/v1/ingest/events", &[("Content-Type", "application/x-ndjson")], body.as_bytes());
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        pushed.store(id, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn optimize(client: &Client, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        // Before the first commit there is no table yet: any answer will do, the assertion is on the Delta log.
        client.post("/v1/table/events/optimize", &[], b"").expect("an answer");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn read(client: &Client, over: &AtomicBool, answers: &AtomicU64, reader: usize) {
    let mut last: BTreeMap<i64, i64> = BTreeMap::new();
    while !over.load(Ordering::SeqCst) {
        if reader.is_multiple_of(4) {
            seam(client);
        } else {
            let cut = cut(client);
            for (partition, next) in &last {
                let now = cut.get(partition).copied().unwrap_or(0);
                assert!(now >= *next, "partition {partition} fell from {next} to {now}");
            }
            last = cut;
        }
        answers.fetch_add(1, Ordering::SeqCst);
    }
}

/// Per partition: as many rows as distinct offsets as the greatest offset plus one, and the vector says the same.
fn cut(client: &Client) -> BTreeMap<i64, i64> {
    let query = "SELECT _partition AS p, count(*) AS n, count(DISTINCT _offset) AS d, max(_offset) AS m FROM events GROUP BY 1";
    let answer = client.try_sql(query).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let mut cut = BTreeMap::new();
    for row in answer.json().as_array().expect("rows") {
        let number = |field: &str| row[field].as_i64().unwrap_or_else(|| panic!("no {field} in {row}"));
        let (partition, n, distinct, max) = (number("p"), number("n"), number("d"), number("m"));
        assert!(n == distinct && n == max + 1, "lake and tail do not meet: {row}");
        cut.insert(partition, n);
    }
    let vector = answer.header(VECTOR).expect("the answer says what it saw");
    let vector: tarn_model::OffsetVector = vector.parse().expect("a vector");
    let boundary = vector.topic("events");
    for partition in 0..3 {
        let rows = cut.get(&i64::from(partition)).copied().unwrap_or(0);
        assert_eq!(boundary.next(partition), rows, "the vector says otherwise: partition {partition}");
    }
    cut
}

/// In one statement, the lake and the live part are the whole, and `_partition, _offset` is unique in it.
fn seam(client: &Client) {
    let query = "SELECT (SELECT count(*) FROM lake.events) AS lake, (SELECT count(*) FROM live.events) AS live, \
                 (SELECT count(*) FROM events) AS whole, \
                 (SELECT count(*) FROM (SELECT DISTINCT _partition, _offset FROM events)) AS distinct_offsets";
    let answer = client.try_sql(query).expect("an answer");
    if answer.status != 200 {
        // `lake.events` is there from the first commit on.
        assert!(answer.status < 500, "{}: {}", answer.status, answer.text());
        return;
    }
    let row = &answer.json()[0];
    let number = |field: &str| row[field].as_i64().unwrap_or_else(|| panic!("no {field} in {row}"));
    assert_eq!(number("lake") + number("live"), number("whole"), "{row}");
    assert_eq!(number("whole"), number("distinct_offsets"), "{row}");
}
