//! Every fault point on the way of a record × {kill, error, error after success}: afterwards, exactly once.
//!
//! A case feeds files to a running process until the armed point is hit, so a point that is never reached fails its case.
//! A killed process is started again without faults (one that was killed at a view's step must have the view right in its first
//! answer; how soon that comes is not asserted here); one that was told of an error must mend itself or end with an error, and only the log may choose to end. Then a
//! drain, and the proof. Points that only Kafka's clients reach have their cases in `transactions`, `compaction` and `groups`,
//! those of `tarn import` in `imports`, those of exports in `exports`.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tarn_model::fault::POINTS;

use crate::harness::{Folder, Running, count, exactly_once, seconds, wait_for};
use crate::{compaction, exports, groups, imports, transactions};

const CONFIG: &str = r#"
data_dir = "data"

[log]
segment_size = "4KiB"
retention_size = "8KiB"
retention_every = "300ms"
compression = "none"

[lake]
url = "file:lake"
optimize_after_files = 3
checkpoint_after_commits = 3
vacuum_retention = "1ms"
log_retention = "1ms"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "spool"
type = "spooldir"
path = "in"
pattern = "*.ndjson"
format = "ndjson"
topic = "events"
key = "id"
every = "50ms"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, name VARCHAR, v DOUBLE"
commit_every = "100ms"

[[view]]
name = "by_name"
query = "SELECT id % 7 AS k, count(*) AS n, sum(id) AS ids, max(name) AS last FROM events GROUP BY id % 7"
"#;

/// Rows in which the view and its query over the rows differ, in one statement and so at one vector.
const DIFFERENCES: &str = "WITH raw AS (SELECT id % 7 AS k, count(*) AS n, sum(id) AS ids, max(name) AS last FROM events GROUP BY 1) \
    SELECT (SELECT count(*) FROM (SELECT * FROM by_name EXCEPT SELECT * FROM raw)) \
         + (SELECT count(*) FROM (SELECT * FROM raw EXCEPT SELECT * FROM by_name)) AS n";

const RECORDS_PER_FILE: i64 = 40;
const DEAD_PER_FILE: i64 = 2;

/// Files fed so far.
struct Feeder<'a> {
    folder: &'a Folder,
    files: i64,
    /// More of each record.
    more: &'a str,
}

impl Feeder<'_> {
    fn feed(&mut self) {
        let first = self.files * RECORDS_PER_FILE;
        let mut text = String::new();
        for id in first..first + RECORDS_PER_FILE {
            let v = if id % RECORDS_PER_FILE < DEAD_PER_FILE { "\"a word\"" } else { "0.5" };
            let more = self.more;
            writeln!(text, r#"{{"id":{id},"name":"record {id}","v":{v}{more}}}"#)
                .expect("memory takes everything");
        }
        self.folder.put(&format!("in/{:05}.ndjson", self.files), text);
        self.files += 1;
    }

    fn rows(&self) -> i64 {
        self.files * (RECORDS_PER_FILE - DEAD_PER_FILE)
    }

    fn dead(&self) -> i64 {
        self.files * DEAD_PER_FILE
    }

    /// Feeds until `hit` says so.
    fn feed_until(&mut self, what: &str, running: &mut Running, hit: impl Fn(&mut Running) -> bool) {
        let start = Instant::now();
        let mut fed = Instant::now();
        wait_for(what, seconds(45), || {
            if self.files < 100 && fed.elapsed() > Duration::from_millis(150) {
                self.feed();
                fed = Instant::now();
                if what.contains("lake.vacuum")
                    && let Some(client) = running.address()
                {
                    // By itself it looks once a minute at the most. The process may die of the question.
                    let _ = client.post("/v1/table/events/optimize", &[], b"");
                    let _ = client.post("/v1/table/events/vacuum?retention=1ms", &[], b"");
                }
                let asked = ["view.create", "view.swap", "view.rollback", "view.drop"];
                if asked.iter().any(|point| what.contains(point))
                    && let Some(client) = running.address()
                {
                    // A build that takes over, then what needs two of them. The process may die of each.
                    let _ = client.post("/v1/view/by_name/rebuild", &[], b"");
                    let more = if what.contains("drop") { "drop-builds?builds=old" } else { "rollback" };
                    let _ = client.post(&format!("/v1/view/by_name/{more}"), &[], b"");
                }
            }
            // Asked in this order: it may be hit, and the process end of it, at any time.
            let ran = running.runs();
            let hit = hit(running);
            assert!(
                hit || ran,
                "the process ended before the point was hit ({:?}): {}",
                start.elapsed(),
                running.said()
            );
            hit.then_some(())
        });
    }
}

/// Points that only Kafka's clients reach have their cases in `transactions`.
fn killed(point: &str, passes: u32) {
    if point.starts_with("log.transaction.") {
        return transactions::killed(point, passes);
    }
    if point.starts_with("log.delete_topic.") {
        return transactions::deleting(point, "kill", passes);
    }
    if point.starts_with("lake.event_time.") {
        return learning_event_times(point, "kill");
    }
    if point.starts_with("log.compact.") {
        return compaction::killed(point, passes);
    }
    if point.starts_with("kafka.groups.") {
        return groups::killed(point, passes);
    }
    if point.starts_with("import.") {
        return imports::killed(point, passes);
    }
    if point.starts_with("export.") {
        return exports::faulted(point, passes, "kill");
    }
    let folder = Folder::new(CONFIG);
    let mut feeder = Feeder { folder: &folder, files: 0, more: "" };
    (0..3).for_each(|_| feeder.feed());
    let mut running = folder.start_with(&armed(point, passes, "kill"), &[]);
    feeder.feed_until(&format!("a kill at `{point}`"), &mut running, |running| !running.runs());
    let ended = running.end(seconds(5));
    assert_eq!(ended.signal, Some(9), "it ended otherwise: {}", ended.said);
    if point.starts_with("view.") {
        // The next answer, whatever the kill left of the builds. Vacuum may take a file under a statement here.
        let mut running = folder.start();
        let client = running.ready_within(seconds(10));
        let answer = wait_for("an answer", seconds(10), || {
            client.try_sql(DIFFERENCES).ok().filter(|answer| answer.status == 200)
        });
        assert_eq!(answer.json()[0]["n"], 0, "the view is not its query: {:?}", client.sql("SHOW VIEWS"));
        running.kill();
    }
    proven(&folder, &feeder);
}

fn told_of_an_error(point: &str, passes: u32) {
    if point.starts_with("log.transaction.") {
        return transactions::told_of_an_error(point, passes);
    }
    if point.starts_with("log.delete_topic.") {
        return transactions::deleting(point, "error", passes);
    }
    if point.starts_with("lake.event_time.") {
        return learning_event_times(point, "error");
    }
    if point.starts_with("log.compact.") {
        return compaction::told_of_an_error(point, passes);
    }
    if point.starts_with("kafka.groups.") {
        return groups::told_of_an_error(point, passes);
    }
    if point.starts_with("import.") {
        return imports::told_of_an_error(point, passes);
    }
    if point.starts_with("export.") {
        return exports::faulted(point, passes, "error");
    }
    let folder = Folder::new(CONFIG);
    let mut feeder = Feeder { folder: &folder, files: 0, more: "" };
    (0..3).for_each(|_| feeder.feed());
    let mut running = folder.start_with(&armed(point, passes, "error"), &[]);
    let mark = format!("fault injected at `{point}`");
    feeder.feed_until(&format!("an error at `{point}` in the log of the process"), &mut running, |running| {
        running.said().contains(&mark)
    });
    let alive = wait_for("the process to mend itself or to end", seconds(30), || {
        if !running.runs() {
            return Some(false);
        }
        let client = running.address()?;
        (count(&client, "events")? == feeder.rows()).then_some(true)
    });
    if alive {
        let ended = running.stop();
        assert_eq!(ended.code, Some(0), "it did not stop well: {}", ended.said);
    } else {
        assert!(point.starts_with("log."), "it ended instead of trying again: {}", running.said());
        let ended = running.end(seconds(5));
        assert_eq!(ended.code, Some(1), "it ended otherwise: {}", ended.said);
        assert!(ended.said.contains("error:"), "it did not say why it ended: {}", ended.said);
    }
    proven(&folder, &feeder);
}

/// A table that is in the lake gets an event time, which is learnt from its rows once, at the start.
fn learning_event_times(point: &str, action: &str) {
    let without = CONFIG.replace("v DOUBLE", "v DOUBLE, at TIMESTAMP");
    let folder = Folder::new(&without);
    let mut feeder = Feeder { folder: &folder, files: 0, more: r#","at":"2026-01-01T00:00:07Z""# };
    (0..3).for_each(|_| feeder.feed());
    folder.drained();
    folder.configure(&without.replace("commit_every", "event_time = \"at\"\ncommit_every"));
    let mut running = folder.start_with(&armed(point, 0, action), &[]);
    if action == "kill" {
        feeder.feed_until(&format!("a kill at `{point}`"), &mut running, |running| !running.runs());
        let ended = running.end(seconds(5));
        assert_eq!(ended.signal, Some(9), "it ended otherwise: {}", ended.said);
    } else {
        let mark = format!("fault injected at `{point}`");
        feeder.feed_until(&format!("an error at `{point}`"), &mut running, |running| {
            running.said().contains(&mark)
        });
        wait_for("all rows", seconds(30), || {
            (count(&running.address()?, "events")? == feeder.rows()).then_some(())
        });
        assert_eq!(running.stop().code, Some(0));
    }
    proven(&folder, &feeder);
    // Both partitions have come to the same second; the lake alone says so.
    let same = "SELECT count(*) AS n FROM (SELECT max(at) AS newest FROM events) AS q WHERE newest = watermark('events')";
    assert_eq!(folder.number(same), 1, "the watermark is not what the rows say");
    let status = folder.tarn(&["status", "--output", "json"]);
    assert!(
        status.printed.contains("\"watermark_ms\": 1767225607000")
            || status.printed.contains("\"watermark_ms\":1767225607000"),
        "{}",
        status.printed
    );
}

fn armed(point: &str, passes: u32, action: &str) -> String {
    let skip = if passes == 0 { String::new() } else { format!("{passes}*off->") };
    format!("{point}={skip}1*return({action})")
}

fn proven(folder: &Folder, feeder: &Feeder<'_>) {
    folder.drained();
    assert!(folder.find("in", ".ndjson").is_empty(), "a spool file was not retired");
    exactly_once(folder, "events", feeder.rows(), feeder.dead());
    let distinct = folder.number("SELECT count(DISTINCT id) AS n FROM events");
    assert_eq!(distinct, feeder.rows(), "not every record is there under its own id");
    assert_eq!(folder.number(DIFFERENCES), 0, "the view is not its query");
    assert_eq!(folder.number("SELECT count(*) AS n FROM by_name"), 7, "the view has other groups");
    folder.never_panicked();
}

/// Runs `case` for every point that `wanted` names, a few at once, and reports all that fail.
fn at_each_point(wanted: impl Fn(&str) -> bool, case: impl Fn(&str) + Sync) {
    let only = std::env::var("TARN_POINT").unwrap_or_default();
    let points: Vec<&str> =
        POINTS.iter().copied().filter(|point| wanted(point) && point.contains(&only)).collect();
    let next = Mutex::new(points.into_iter());
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(point) = { next.lock().expect("a lock").next() } {
                    let start = Instant::now();
                    match catch_unwind(AssertUnwindSafe(|| case(point))) {
                        Ok(()) => println!("{point}: {:?}", start.elapsed()),
                        Err(_) => failed.lock().expect("a lock").push(point),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("a lock");
    assert!(failed.is_empty(), "not exactly once after a fault at: {failed:?}");
}

#[test]
fn killed_before_or_after_any_step_it_is_exactly_once() {
    at_each_point(|_| true, |point| killed(point, 0));
}

#[test]
fn killed_at_a_later_hit_of_any_step_it_is_exactly_once() {
    at_each_point(|_| true, |point| killed(point, 2));
}

#[test]
fn a_step_that_failed_is_done_again() {
    at_each_point(|point| point.ends_with(".before"), |point| told_of_an_error(point, 1));
}

#[test]
fn a_step_that_succeeded_but_was_reported_as_failed_is_not_done_twice() {
    at_each_point(|point| point.ends_with(".after"), |point| told_of_an_error(point, 1));
}
