//! Views against a running process: equal to their query in every statement, whatever is committed, merged, killed, damaged
//! or changed meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, Folder, Running, count, seconds, wait_for};

const BASE: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"
optimize_after_files = 3

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
columns = "id BIGINT NOT NULL, city VARCHAR, n INT"
commit_every = "200ms"
"#;

const QUERY: &str = "SELECT city, count(*) AS events, sum(n) AS total, max(id) AS last, count(DISTINCT n) AS kinds, \
    first_value(id ORDER BY id) AS first FROM events GROUP BY city";

fn config(query: &str) -> String {
    format!("{BASE}\n[[view]]\nname = \"cities\"\nquery = \"\"\"{query}\"\"\"\n")
}

/// Rows in which the view and its query differ, in one statement and so at one vector.
fn differences(query: &str) -> String {
    format!(
        "WITH raw AS ({query}) SELECT (SELECT count(*) FROM (SELECT * FROM cities EXCEPT SELECT * FROM raw)) \
         + (SELECT count(*) FROM (SELECT * FROM raw EXCEPT SELECT * FROM cities)) AS n"
    )
}

fn push(client: &Client, from: i64, records: i64) {
    let mut body = String::new();
    for id in from..from + records {
        let city = ["Oslo", "Lima", "Pune", "Kyiv", "Ürümqi"][usize::try_from(id % 5).expect("small")];
        writeln!(body, r#"{{"id":{id},"city":"{city}","n":{}}}"#, id % 11).expect("memory takes everything");
    }
    let answer =
        client.post("/v1/ingest/events", &[("Content-Type", "application/x-ndjson")], body.as_bytes());
    let answer = answer.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The line of `SHOW VIEWS`.
fn shown(client: &Client) -> Value {
    client.sql("SHOW VIEWS").into_iter().next().expect("a view")
}

/// Waits until the view's states in the lake cover `records` records.
fn states_cover(client: &Client, records: i64) -> Value {
    wait_for("states of all records in the lake", seconds(30), || {
        let view = shown(client);
        (covered(&view) == records).then_some(view)
    })
}

fn covered(view: &Value) -> i64 {
    let boundary = view["boundary"].as_str().unwrap_or_default();
    boundary.split(',').filter_map(|entry| entry.split_once('=')?.1.parse::<i64>().ok()).sum()
}

#[track_caller]
fn right(client: &Client, query: &str) {
    let rows = client.sql(&differences(query));
    assert_eq!(rows[0]["n"], 0, "the view differs from its query: {:?}", client.sql("EXPLAIN VIEW cities"));
}

#[test]
fn a_view_is_its_query_in_every_statement_while_commits_and_kills_go_on() {
    let folder = Folder::new(&config(QUERY));
    let mut pushed = 0;
    for _ in 0..3 {
        let mut running = folder.start();
        let client = running.ready();
        let over = AtomicBool::new(false);
        let answers = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|_| {
                    let (client, over, answers) = (&client, &over, &answers);
                    scope.spawn(move || {
                        while !over.load(Ordering::SeqCst) {
                            right(client, QUERY);
                            answers.fetch_add(1, Ordering::SeqCst);
                        }
                    })
                })
                .collect();
            let start = std::time::Instant::now();
            while start.elapsed() < Duration::from_secs(4) || answers.load(Ordering::SeqCst) < 10 {
                assert!(readers.iter().all(|reader| !reader.is_finished()), "a reader failed");
                assert!(start.elapsed() < seconds(60), "the readers got no answers");
                push(&client, pushed, 40);
                pushed += 40;
                std::thread::sleep(Duration::from_millis(20));
            }
            over.store(true, Ordering::SeqCst);
        });
        assert!(
            covered(&shown(&client)) > 0,
            "no states reached the lake: {:?}",
            client.sql("EXPLAIN VIEW cities")
        );
        running.kill();
    }
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(count(&client, "events"), Some(pushed));
    right(&client, QUERY);
    states_cover(&client, pushed);
    right(&client, QUERY);
    assert_eq!(running.stop().code, Some(0), "it did not stop well");
    // The lake at rest has the view, too.
    assert_eq!(folder.number(&differences(QUERY)), 0);
    assert_eq!(folder.number("SELECT sum(events) AS n FROM cities"), pushed);
    folder.never_panicked();
}

/// A running process with `records` records whose states are in the lake, and its version.
fn filled(folder: &Folder, records: i64) -> (Running, Client, i64) {
    let mut running = folder.start();
    let client = running.ready();
    push(&client, 0, records);
    let view = states_cover(&client, records);
    let version = view["version"].as_i64().expect("a version");
    (running, client, version)
}

#[test]
fn states_that_are_gone_or_damaged_are_made_anew() {
    let folder = Folder::new(&config(QUERY));
    let (running, client, version) = filled(&folder, 500);
    assert_eq!(version, 1);
    right(&client, QUERY);
    assert_eq!(running.stop().code, Some(0));

    type Damage<'a> = (&'a str, &'a dyn Fn(&std::path::Path));
    let damage: [Damage<'_>; 3] = [
        ("a data file is gone", &|table| {
            for file in files(table, ".parquet") {
                fs::remove_file(file).expect("delete");
            }
        }),
        ("a data file is torn", &|table| {
            for file in files(table, ".parquet") {
                fs::write(file, b"PAR1 but not really").expect("overwrite");
            }
        }),
        ("the whole table is gone", &|table| fs::remove_dir_all(table).expect("delete")),
    ];
    for (what, damage) in damage {
        let newest = folder.path("lake").read_dir().expect("the lake").flatten().map(|entry| entry.path());
        let newest = newest.filter(|path| path.to_string_lossy().contains("cities@v")).max().expect("states");
        damage(&newest);
        // At rest, and running.
        assert_eq!(folder.number(&differences(QUERY)), 0, "{what}, at rest");
        let mut running = folder.start();
        let client = running.ready();
        right(&client, QUERY);
        states_cover(&client, 500);
        right(&client, QUERY);
        assert_eq!(running.stop().code, Some(0));
    }
    assert!(folder.said().contains("are made anew"), "the log does not say so");
    folder.never_panicked();
}

fn files(table: &std::path::Path, suffix: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(table).expect("a table").flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().ends_with(suffix)).collect()
}

#[test]
fn a_changed_query_is_right_at_once_and_gets_a_build_of_its_own() {
    let folder = Folder::new(&config(QUERY));
    let (running, _, _) = filled(&folder, 300);
    assert_eq!(running.stop().code, Some(0));
    let changed = "SELECT city, min(n) AS least, sum(n) AS total FROM events WHERE n > 2 GROUP BY city";
    folder.configure(&config(changed));
    let mut running = folder.start();
    let client = running.ready();
    right(&client, changed);
    let view = states_cover(&client, 300);
    assert_eq!(view["version"], 2);
    right(&client, changed);
    assert_eq!(running.stop().code, Some(0));
    let diff = folder.tarn(&["view", "diff", "cities", "--output", "json"]);
    assert_eq!(diff.code, Some(0), "{}", diff.said);
    let diff: Value = serde_json::from_str(&diff.printed).expect("JSON");
    assert_eq!(
        (&diff["keys"][0], &diff["changed"], &diff["added"]),
        (&"city".into(), &5.into(), &0.into()),
        "{diff}"
    );
    // Back again: the first build is still there.
    folder.configure(&config(QUERY));
    let mut running = folder.start();
    let client = running.ready();
    let view = states_cover(&client, 300);
    assert_eq!(view["version"], 1);
    right(&client, QUERY);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn a_rebuild_by_command_serves_on_and_is_another_build() {
    let folder = Folder::new(&config(QUERY));
    let (running, client, version) = filled(&folder, 400);
    assert_eq!(version, 1);
    let rebuilt = folder.tarn(&["view", "rebuild", "cities"]);
    assert_eq!(
        (rebuilt.code, rebuilt.printed.trim()),
        (Some(0), "cities is rebuilt: version 2"),
        "{}",
        rebuilt.said
    );
    assert_eq!(shown(&client)["version"], 2);
    right(&client, QUERY);
    push(&client, 400, 100);
    states_cover(&client, 500);
    right(&client, QUERY);
    let diff = folder.tarn(&["view", "diff", "cities", "--output", "json"]);
    let diff: Value = serde_json::from_str(&diff.printed).expect("JSON");
    assert_eq!((&diff["same"], &diff["changed"], &diff["gone"]), (&5.into(), &0.into(), &0.into()), "{diff}");
    let listed = folder.tarn(&["view", "list"]);
    assert!(listed.printed.contains("cities") && listed.printed.contains("states"), "{}", listed.printed);
    let unknown = folder.tarn(&["view", "describe", "citis"]);
    assert!(unknown.code == Some(1) && unknown.said.contains("did you mean `cities`?"), "{}", unknown.said);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn another_engine_in_the_stamp_means_another_build() {
    let folder = Folder::new(&config(QUERY));
    let (running, _, _) = filled(&folder, 200);
    assert_eq!(running.stop().code, Some(0));
    for commit in files(&folder.path("lake/cities@v1/_delta_log"), ".json") {
        let text = fs::read_to_string(&commit).expect("a commit");
        let engine = text
            .split("\"tarn.view.engine\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .map(str::to_owned);
        if let Some(engine) = engine {
            fs::write(&commit, text.replace(&engine, "1.2.3")).expect("another stamp");
        }
    }
    let mut running = folder.start();
    let client = running.ready();
    right(&client, QUERY);
    let view = states_cover(&client, 200);
    assert_eq!(view["version"], 2, "{view}");
    right(&client, QUERY);
    assert_eq!(running.stop().code, Some(0));
    assert!(folder.said().contains("another version of the engine"), "the log does not say so");
    folder.never_panicked();
}

#[test]
fn a_view_of_what_changes_with_the_clock_is_refused_by_check_and_by_name() {
    let bad = "SELECT city, count(*) FROM events WHERE n > random() GROUP BY city";
    let folder = Folder::new(&config(bad));
    let ended = folder.tarn(&["check"]);
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("random()"), "{}", ended.said);
    assert!(ended.said.contains("view[0].query"), "{}", ended.said);
}
