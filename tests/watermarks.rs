//! Watermarks and late rows against a running process: what they are, at which vector, and that they never go back.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use crate::harness::{Client, Folder, VECTOR, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"
optimize_after_files = 3

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"
key = "city"

[[table]]
name = "events"
columns = "city VARCHAR, at TIMESTAMP"
event_time = "at"
allowed_lateness = "10s"
idle_after = "5m"
commit_every = "200ms"

[[topic]]
name = "plain"

[[table]]
name = "plain"
columns = "n INT"

[[view]]
name = "per_minute"
query = "SELECT tumble(at, INTERVAL '1 minute') AS minute, count(*) AS events FROM events GROUP BY 1"
grace = "30s"
"#;

const LATENESS_US: i64 = 10_000_000;
const IDLE_US: i64 = 300_000_000;

/// One event of `city` at each of `times`, seconds after the second of January.
fn push(client: &Client, city: &str, times: &[i64]) {
    let mut body = String::new();
    for time in times {
        let time = time + 86_400;
        let (day, hour, minute, second) = (1 + time / 86_400, time / 3600 % 24, time / 60 % 60, time % 60);
        let at = format!("2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
        writeln!(body, r#"{{"city":"{city}","at":"{at}"}}"#).expect("memory takes everything");
    }
    let answer =
        client.post("/v1/ingest/events", &[("Content-Type", "application/x-ndjson")], body.as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The watermark, and what it must be by the newest event of each of two partitions; one statement, one vector.
const ASK: &str = "SELECT _partition AS p, CAST(max(at) AS BIGINT) AS newest, CAST(watermark('events') AS BIGINT) AS watermark \
                   FROM events GROUP BY _partition";

/// Late rows by the rows themselves, and as they are told of the whole table, its lake part and its tail; one statement.
const LATE: &str = "SELECT (SELECT count(*) FROM (SELECT at, max(at) OVER (PARTITION BY _partition ORDER BY _offset \
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest FROM events) AS seen WHERE at < newest - INTERVAL '10 seconds') AS late, \
    late_records, table_schema FROM information_schema.tables WHERE table_name = 'events' ORDER BY table_schema";

/// Late rows of the lake part and of the whole table, which must be what the rows say.
#[track_caller]
fn late(rows: &[Value]) -> (i64, i64) {
    let of = |at: usize, schema: &str| {
        assert_eq!(rows[at]["table_schema"], schema, "{rows:?}");
        rows[at]["late_records"].as_i64().expect("a count")
    };
    let (lake, live, both) = (of(0, "lake"), of(1, "live"), of(2, "public"));
    assert_eq!(lake + live, both, "{rows:?}");
    assert_eq!(rows[0]["late"].as_i64(), Some(both), "{rows:?}");
    (lake, both)
}

#[track_caller]
fn right(rows: &[Value]) -> Option<i64> {
    let newest: BTreeMap<i64, i64> = rows
        .iter()
        .map(|row| (row["p"].as_i64().expect("a partition"), row["newest"].as_i64().expect("a time")))
        .collect();
    let highest = *newest.values().max()?;
    let lowest = if newest.len() < 2 { i64::MIN } else { *newest.values().min()? };
    let wanted = lowest.max(highest - IDLE_US) - LATENESS_US;
    for row in rows {
        assert_eq!(row["watermark"].as_i64(), Some(wanted), "{rows:?}");
    }
    Some(wanted)
}

#[test]
fn a_watermark_is_a_fact_of_the_vector_and_never_goes_back() {
    let folder = Folder::new(CONFIG);
    let mut last = None;
    let mut old = None;
    for run in 0..4_i64 {
        let mut running = folder.start();
        let client = running.ready();
        if run == 0 {
            let none = client.sql("SELECT watermark('events') IS NULL AS nothing");
            assert_eq!(none[0]["nothing"], true, "there is no event yet");
        }
        let now = right(&client.sql(ASK));
        assert!(now >= last, "after a restart the watermark went from {last:?} to {now:?}");
        last = now;
        for step in 0..12 {
            let at = run * 600 + step * 30;
            // Oslo leads, Lima lags and sleeps for a while, each of them sends what is old.
            push(&client, "Oslo", &[at, at - 45, at - 400]);
            if run != 1 {
                push(&client, "Lima", &[at - 100]);
            }
            let now = right(&client.sql(ASK));
            assert!(now >= last, "the watermark went from {last:?} to {now:?}");
            last = now;
            if run == 0 && step == 5 {
                let answer = client.try_sql(ASK).expect("an answer");
                let vector = answer.header(VECTOR).expect("a vector").to_owned();
                let rows: Vec<Value> = serde_json::from_str(&answer.text()).expect("rows");
                old = Some((vector, right(&rows)));
            }
        }
        late(&client.sql(LATE));
        running.kill();
    }
    let mut running = folder.start();
    let client = running.ready();
    let (_, all) = late(&client.sql(LATE));
    assert!(all >= 96, "two of three rows of Oslo are late, and {all} are told");
    let shown = client.sql("SHOW TABLES");
    let shown = shown.iter().find(|row| row["table_name"] == "events").expect("the table");
    let told = client.sql("SELECT watermark('events') AS watermark");
    assert_eq!(
        (&shown["late_records"], &shown["watermark"]),
        (&all.into(), &told[0]["watermark"]),
        "{shown}"
    );
    let now = right(&client.sql(ASK));
    assert!(now >= last, "after the last restart the watermark went from {last:?} to {now:?}");
    last = now;
    // At an old vector it is what it was, by then from rows in the lake.
    let (vector, then) = old.expect("an old vector");
    let answer = client
        .post("/v1/sql", &[("Content-Type", "text/plain"), ("Tarn-As-Of", &vector)], ASK.as_bytes())
        .expect("an answer");
    let rows: Vec<Value> = serde_json::from_slice(answer.text().as_bytes()).expect("rows");
    assert_eq!(right(&rows), then);
    let status = folder.tarn(&["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&status.printed).expect("JSON");
    let table =
        status["tables"].as_array().and_then(|tables| tables.iter().find(|table| table["name"] == "events"));
    let shown = table.and_then(|table| table["watermark_ms"].as_i64());
    assert_eq!(shown, last.map(|at| at / 1000), "{status}");
    wait_for("all of it in the lake", seconds(30), || {
        let live = client.sql("SELECT count(*) AS n FROM live.events");
        (live[0]["n"] == 0).then_some(())
    });
    assert_eq!(running.stop().code, Some(0));
    // The lake at rest says the same, and other engines read it as before.
    exactly_once(&folder, "events", 180, 0);
    assert_eq!(right(&folder.sql(ASK)), last);
    assert_eq!(late(&folder.sql(LATE)), (all, all));
    let status = folder.tarn(&["status"]);
    assert!(
        status.printed.contains("watermark") && status.printed.contains("2026-01-02 "),
        "{}",
        status.printed
    );
    folder.never_panicked();
}

#[test]
fn a_table_that_gets_an_event_time_later_learns_it_from_its_rows() {
    let without =
        CONFIG.replace("event_time = \"at\"\nallowed_lateness = \"10s\"\nidle_after = \"5m\"\n", "");
    let folder = Folder::new(&without);
    let mut running = folder.start();
    let client = running.ready();
    push(&client, "Oslo", &[500, 100]);
    push(&client, "Lima", &[450]);
    let refused = client.try_sql("SELECT watermark('events')").expect("an answer");
    assert!(refused.status == 400 && refused.text().contains("has no event time"), "{}", refused.text());
    wait_for("all of it in the lake", seconds(30), || {
        (client.sql("SELECT count(*) AS n FROM lake.events")[0]["n"] == 3).then_some(())
    });
    assert_eq!(running.stop().code, Some(0));
    folder.configure(CONFIG);
    let at_rest = right(&folder.sql(ASK));
    assert!(at_rest.is_some());
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(right(&client.sql(ASK)), at_rest);
    push(&client, "Oslo", &[10]);
    assert_eq!(right(&client.sql(ASK)), at_rest, "an old event moves nothing");
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

/// Late rows of the view and of the table, as `SHOW VIEWS` and `/metrics` tell them.
fn told_late(client: &Client) -> (Option<u64>, Option<u64>) {
    let view = client.sql("SHOW VIEWS")[0]["late_records"].as_u64();
    let metrics = client.get("/metrics").expect("an answer").text();
    let value = |line: &str| {
        let found = metrics.lines().find_map(|told| told.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("{line} is not in {metrics}"))
    };
    let (in_metrics, of_table) = (
        value("tarn_view_late_records_total{view=\"per_minute\"}"),
        value("tarn_table_late_records_total{table=\"events\",topic=\"events\"}"),
    );
    // What is asked a moment later is at least as much.
    assert!(view <= Some(in_metrics), "{view:?} by SQL, {in_metrics} in the metrics");
    (view, Some(of_table))
}

#[track_caller]
fn is_told_late(client: &Client, late: (u64, u64)) {
    let wanted = (Some(late.0), Some(late.1));
    let told = wait_for("late rows", seconds(30), || {
        let told = told_late(client);
        (told >= wanted).then_some(told)
    });
    assert_eq!(told, wanted);
}

/// Waits until all that was pushed is in states in the lake.
fn states_cover(client: &Client, records: i64) {
    wait_for("states of all records", seconds(30), || {
        let view = client.sql("SHOW VIEWS").into_iter().next()?;
        let boundary = view["boundary"].as_str()?.to_owned();
        let covered = boundary.split(',').filter_map(|entry| entry.split_once('=')?.1.parse::<i64>().ok());
        (covered.sum::<i64>() == records).then_some(())
    });
}

#[test]
fn rows_that_come_after_their_window_and_its_grace_are_counted_and_in_the_answer() {
    let rarely = CONFIG.replace("commit_every = \"200ms\"", "commit_every = \"1h\"");
    let folder = Folder::new(&rarely);
    let mut running = folder.start();
    let client = running.ready();
    // The watermark is 10 s behind: at 190 s after the second row. With 30 s of grace the minutes up to 120 s are closed.
    push(&client, "Oslo", &[100, 200]);
    push(&client, "Oslo", &[130, 179, 119, 0]);
    is_told_late(&client, (2, 4));
    assert_eq!(client.sql("SELECT sum(events) AS n FROM per_minute")[0]["n"], 6, "they are in the answer");
    // Nothing of it is in the lake: it is counted again.
    running.kill();
    let mut running = folder.start();
    let client = running.ready();
    is_told_late(&client, (2, 4));
    running.kill();

    // In the lake, and beside it.
    folder.configure(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    states_cover(&client, 6);
    is_told_late(&client, (2, 4));
    push(&client, "Oslo", &[118]);
    is_told_late(&client, (3, 5));
    states_cover(&client, 7);
    running.kill();
    folder.configure(&rarely);
    let mut running = folder.start();
    let client = running.ready();
    is_told_late(&client, (3, 5));
    push(&client, "Oslo", &[117, 300]);
    is_told_late(&client, (4, 6));
    let rebuilt = folder.tarn(&["view", "rebuild", "per_minute"]);
    assert_eq!(rebuilt.code, Some(0), "{}", rebuilt.said);
    is_told_late(&client, (4, 6));
    assert_eq!(running.stop().code, Some(0));
    assert_eq!(folder.sql("SHOW VIEWS")[0]["late_records"], 3, "at rest, what the lake holds");
    folder.never_panicked();
}

#[test]
fn late_rows_are_counted_once_when_a_kill_comes_between_the_commits_of_a_table_and_its_view() {
    for point in ["view.commit.before", "view.commit.after"] {
        let folder = Folder::new(CONFIG);
        let mut running = folder.start();
        let client = running.ready();
        push(&client, "Oslo", &[100, 200, 0]);
        states_cover(&client, 3);
        is_told_late(&client, (1, 1));
        assert_eq!(running.stop().code, Some(0));
        let mut running = folder.start_with(&format!("{point}=1*return(kill)"), &[]);
        let client = running.ready();
        push(&client, "Oslo", &[130, 119, 1, 400, 210]);
        wait_for("a kill", seconds(30), || (!running.runs()).then_some(()));
        let mut running = folder.start();
        let client = running.ready();
        states_cover(&client, 8);
        // Of the window that ended at 240, and 130, 119 and 1 before it.
        let told = client.sql("SHOW VIEWS")[0]["late_records"].as_u64();
        let rows = "SELECT count(*) AS n FROM (SELECT tumble_end(at, INTERVAL '1 minute') + INTERVAL '30 seconds' AS closes, \
            max(at) OVER (PARTITION BY _partition ORDER BY _offset ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS newest \
            FROM events) AS q WHERE closes <= newest - INTERVAL '10 seconds'";
        let wanted = client.sql(rows)[0]["n"].as_u64();
        assert_eq!(told, wanted, "{point}");
        assert!(wanted >= Some(3), "{point}: {wanted:?}");
        let (view, table) = told_late(&client);
        push(&client, "Oslo", &[2]);
        is_told_late(&client, (view.unwrap_or(0) + 1, table.unwrap_or(0) + 1));
        assert_eq!(running.stop().code, Some(0));
        folder.never_panicked();
    }
}

#[test]
fn rows_that_are_settled_after_a_kill_bring_their_event_times_with_them() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start_with("lake.dead_letters.after=1*return(kill)", &[]);
    let client = running.ready();
    // Its dead letter is in the lake and none of its rows.
    let body = r#"{"city":"Oslo","at":"2026-01-02T00:05:00Z"}
        {"city":"Oslo","at":"no time"}
        {"city":"Oslo","at":"2026-01-02T00:01:00Z"}
        {"city":"Oslo","at":"2026-01-02T00:06:00Z"}"#;
    // The kill may come before the answer, but not before the log has it.
    let _ = client.post("/v1/ingest/events", &[("Content-Type", "application/x-ndjson")], body.as_bytes());
    wait_for("a kill", seconds(30), || (!running.runs()).then_some(()));
    assert_eq!(running.end(seconds(5)).signal, Some(9));
    let running = folder.start();
    wait_for("the process to start", seconds(30), || running.address());
    wait_for("rows to be settled", seconds(30), || running.said().contains("settled the rows").then_some(()));
    running.kill();
    let settled = folder.find("lake/events/_delta_log", ".json").into_iter().find_map(|commit| {
        let text = std::fs::read_to_string(commit).ok()?;
        text.contains("\"SETTLE\"").then_some(text)
    });
    let settled = settled.expect("a commit of what was settled");
    assert!(settled.contains("/event_time/at") && settled.contains("1767312360000000"), "{settled}");
    assert_eq!(late(&folder.sql(LATE)), (1, 1));
    assert!(right(&folder.sql(ASK)).is_some());
    exactly_once(&folder, "events", 3, 1);
    folder.never_panicked();
}

#[test]
fn wrong_use_of_a_watermark_says_what_to_do() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    for (sql, says) in [
        ("SELECT watermark('event')", "did you mean `events`?"),
        ("SELECT watermark('plain')", "event_time ="),
        ("SELECT watermark('per_minute')", "is a view"),
        ("SELECT watermark(city) FROM events", "the name of a table"),
        ("SELECT watermark()", "watermark"),
    ] {
        let answer = client.try_sql(sql).expect("an answer");
        assert!(
            answer.status == 400 && answer.text().contains(says),
            "{sql}: {} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(running.stop().code, Some(0));
    let view = "\n[[view]]\nname = \"bad\"\nquery = \"SELECT count(*) FROM events WHERE at < watermark('events')\"\n";
    folder.configure(&format!("{CONFIG}{view}"));
    let checked = folder.tarn(&["check"]);
    assert!(checked.code == Some(2) && checked.said.contains("calls `watermark()`"), "{}", checked.said);
    for (from, to, says) in [
        ("event_time = \"at\"", "event_time = \"ta\"", "there is no column `ta`"),
        ("event_time = \"at\"", "event_time = \"city\"", "is `VARCHAR`, not `TIMESTAMP`"),
        ("event_time = \"at\"\n", "", "this needs `event_time`"),
    ] {
        folder.configure(&CONFIG.replace(from, to));
        let checked = folder.tarn(&["check"]);
        assert!(checked.code == Some(2) && checked.said.contains(says), "{to}: {}", checked.said);
    }
}
