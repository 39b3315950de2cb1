//! Views against a running process: equal to their query in every statement, whatever is committed, merged, killed, damaged
//! or changed meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Client, Folder, Running, committed, count, seconds, wait_for};

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

/// Records of which states were made since the start of the process.
fn aggregated(client: &Client) -> i64 {
    let metrics = client.get("/metrics").expect("an answer").text();
    let line = "tarn_view_aggregated_records_total{view=\"cities\"} ";
    let value = metrics.lines().find_map(|told| told.strip_prefix(line)?.parse().ok());
    value.unwrap_or_else(|| panic!("{line} is not in {metrics}"))
}

#[test]
fn after_a_kill_a_view_is_right_at_once_and_live_by_the_records_that_no_commit_holds() {
    let folder = Folder::new(&config(QUERY));
    let (running, _, _) = filled(&folder, 3_000);
    assert_eq!(running.stop().code, Some(0));
    folder.configure(&config(QUERY).replace("commit_every = \"200ms\"", "commit_every = \"1h\""));
    let mut running = folder.start();
    let client = running.ready();
    push(&client, 3_000, 250);
    wait_for("all records", seconds(30), || (count(&client, "events") == Some(3_250)).then_some(()));
    for _ in 0..2 {
        running.kill();
        running = folder.start();
        let client = running.ready();
        // The first statement that is answered at all.
        right(&client, QUERY);
        let view = wait_for("states in memory of all that no commit holds", seconds(30), || {
            let view = shown(&client);
            (view["live_records"] == 250).then_some(view)
        });
        assert_eq!((&view["lag_records"], covered(&view), &view["version"]), (&250.into(), 3_000, &1.into()));
        assert_eq!(aggregated(&client), 250, "records that states in the lake hold were read again");
        right(&client, QUERY);
    }
    assert_eq!(running.stop().code, Some(0));
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

    // What is damaged, what the log says of it, and how.
    type Damage<'a> = (&'a str, &'a str, &'a dyn Fn(&std::path::Path));
    let damage: [Damage<'_>; 3] = [
        ("a data file is gone", "states are damaged; they are made anew", &|table| {
            for file in files(table, ".parquet") {
                fs::remove_file(file).expect("delete");
            }
        }),
        ("a data file is torn", "states are damaged; they are made anew", &|table| {
            for file in files(table, ".parquet") {
                fs::write(file, b"PAR1 but not really").expect("overwrite");
            }
        }),
        ("the whole table is gone", "states are made from the lake", &|table| {
            fs::remove_dir_all(table).expect("delete");
        }),
    ];
    for (what, says, damage) in damage {
        let said = || folder.said().matches(says).count();
        let before = said();
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
        assert!(said() > before, "{what}, and the log does not say `{says}`");
    }
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
    let unknown = folder.tarn(&["view", "diff", "citis"]);
    assert!(unknown.said.contains("did you mean `cities`?"), "{}", unknown.said);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn a_rollback_serves_the_older_build_and_outlives_a_restart() {
    let folder = Folder::new(&config(QUERY));
    let (running, _, _) = filled(&folder, 300);
    assert_eq!(running.stop().code, Some(0));
    let changed = "SELECT city, min(n) AS least, sum(n) AS total FROM events WHERE n > 2 GROUP BY city";
    folder.configure(&config(changed));
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(states_cover(&client, 300)["version"], 2);
    right(&client, changed);

    let rolled = folder.tarn(&["view", "rollback", "cities"]);
    assert_eq!(
        (rolled.code, rolled.printed.trim()),
        (Some(0), "cities is rolled back: version 1 serves"),
        "{}",
        rolled.said
    );
    right(&client, QUERY);
    assert_eq!(shown(&client)["version"], 1);
    assert!(format!("{:?}", client.sql("EXPLAIN VIEW cities")).contains("not the one in the config"));
    push(&client, 300, 50);
    assert_eq!(states_cover(&client, 350)["version"], 1);
    right(&client, QUERY);
    let twice = folder.tarn(&["view", "rollback", "cities", "--to", "1"]);
    assert!(twice.code == Some(1) && twice.said.contains("serves already"), "{}", twice.said);
    let nowhere = folder.tarn(&["view", "rollback", "cities", "--to", "7"]);
    assert!(nowhere.code == Some(1) && nowhere.said.contains("builds: 1, 2"), "{}", nowhere.said);
    assert_eq!(running.stop().code, Some(0));
    assert_eq!(folder.number(&differences(QUERY)), 0, "at rest");

    // A rebuild makes the states of what the view answers; the mark stays.
    let mut running = folder.start();
    let client = running.ready();
    right(&client, QUERY);
    let rebuilt = folder.tarn(&["view", "rebuild", "cities"]);
    assert_eq!(rebuilt.printed.trim(), "cities is rebuilt: version 3", "{}", rebuilt.said);
    right(&client, QUERY);
    let listed = folder.tarn(&["view", "builds", "cities", "--output", "json"]);
    let listed: Value = serde_json::from_str(&listed.printed).expect("JSON");
    let states: Vec<&str> = (0..3).map(|at| listed[at]["state"].as_str().expect("a state")).collect();
    assert_eq!(states, ["", "rolled back to build 1", "serves"], "{listed}");
    for (builds, why) in [
        ("3", "it serves"),
        ("2", "it says that the view"),
        ("1", "was rolled back to it"),
        ("9", "no build 9"),
    ] {
        let kept = folder.tarn(&["view", "drop-builds", "cities", builds]);
        assert!(kept.code == Some(1) && kept.said.contains(why), "{builds}: {}", kept.said);
    }
    let none = folder.tarn(&["view", "drop-builds", "cities", "--old"]);
    assert_eq!(none.printed.trim(), "cities: builds deleted: none", "{}", none.said);

    // And forward again.
    let rolled = folder.tarn(&["view", "rollback", "cities", "--to", "2"]);
    assert_eq!(rolled.printed.trim(), "cities is rolled back: version 2 serves", "{}", rolled.said);
    right(&client, changed);
    states_cover(&client, 350);
    right(&client, changed);
    let old = folder.tarn(&["view", "drop-builds", "cities", "--old"]);
    assert_eq!(old.printed.trim(), "cities: builds deleted: 1, 3", "{}", old.said);
    assert!(!folder.path("lake/cities@v1/_delta_log").join("00000000000000000000.json").exists());
    right(&client, changed);
    assert_eq!(running.stop().code, Some(0));
    assert_eq!(folder.number(&differences(changed)), 0, "at rest");
    folder.never_panicked();
}

#[test]
fn a_view_that_became_rows_says_that_nothing_can_be_rolled_back_and_lets_old_builds_go() {
    let folder = Folder::new(&config(QUERY));
    let (running, _, _) = filled(&folder, 300);
    assert_eq!(running.stop().code, Some(0));
    let by_rows = "SELECT city, median(n) AS middle FROM events GROUP BY city";
    folder.configure(&config(by_rows));
    let mut running = folder.start();
    let client = running.ready();
    right(&client, by_rows);
    assert_eq!(shown(&client)["kept_as"], "rows");
    for command in [&["view", "rollback", "cities", "--to", "1"][..], &["view", "rebuild", "cities"]] {
        let refused = folder.tarn(command);
        assert!(
            refused.code == Some(1)
                && refused.said.contains("is kept as rows: no build serves it")
                && refused.said.contains("put that query back into the config"),
            "{command:?}: {}",
            refused.said
        );
    }
    right(&client, by_rows);
    // With its query back in the config the build would serve; nothing needs it, so it may go, too.
    let dropped = folder.tarn(&["view", "drop-builds", "cities", "--old"]);
    assert_eq!(dropped.printed.trim(), "cities: builds deleted: 1", "{}", dropped.said);
    right(&client, by_rows);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn a_view_over_an_old_table_is_right_at_once_and_filled_aside() {
    let folder = Folder::new(BASE);
    let mut running = folder.start();
    let client = running.ready();
    for from in (0..20_000).step_by(1000) {
        push(&client, from, 1000);
    }
    committed(&client);
    assert_eq!(running.stop().code, Some(0));
    folder.configure(&config(QUERY));
    let mut running = folder.start();
    let client = running.ready();
    right(&client, QUERY);
    assert_eq!(states_cover(&client, 20_000)["version"], 1);
    right(&client, QUERY);
    let background = folder.tarn(&["view", "rebuild", "cities", "--no-wait"]);
    assert_eq!(background.code, Some(0), "{}", background.said);
    wait_for("the build in the background to serve", seconds(30), || {
        right(&client, QUERY);
        (shown(&client)["version"] == 2).then_some(())
    });
    assert!(shown(&client)["building"].is_null(), "{}", shown(&client));
    let nothing = folder.tarn(&["view", "rebuild", "citys"]);
    assert!(nothing.code == Some(1) && nothing.said.contains("did you mean `cities`?"), "{}", nothing.said);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn freshness_is_told_alike_by_sql_status_and_metrics() {
    let folder = Folder::new(&config(QUERY));
    let (running, client, _) = filled(&folder, 500);
    let view = shown(&client);
    let tables = client.sql("SHOW TABLES");
    let row = |name: &str| tables.iter().find(|row| row["table_name"] == name).cloned().expect("a row");
    let (shown_view, shown_table) = (row("cities"), row("events"));
    assert_eq!(
        (&shown_view["table_type"], &shown_table["table_type"]),
        (&"VIEW".into(), &"BASE TABLE".into())
    );
    for column in ["version", "boundary", "lag_records", "lake_bytes", "plan"] {
        assert_eq!(shown_view[column], view[column], "{column}: {shown_view}");
    }
    assert_eq!(shown_table["boundary"], view["boundary"], "the view has followed its table");
    assert_eq!((&view["lag_records"], view["lag_s"].as_f64()), (&0.into(), Some(0.0)), "{view}");
    let standard = client.sql(
        "SELECT table_schema, table_type, plan FROM information_schema.tables WHERE table_name = 'cities' ORDER BY 1",
    );
    assert_eq!(standard.len(), 3, "{standard:?}");
    assert_eq!(standard[2]["plan"], view["plan"], "{standard:?}");

    let status = folder.tarn(&["status", "--output", "json"]);
    let status: Value = serde_json::from_str(&status.printed).expect("JSON");
    let told = &status["views"][0];
    for column in ["version", "lag_records", "lake_bytes", "plan", "kept_as"] {
        assert_eq!(told[column], view[column], "{column}: {told}");
    }
    let metrics = client.get("/metrics").expect("an answer").text();
    let lake_bytes = format!("tarn_view_lake_bytes{{view=\"cities\"}} {}", view["lake_bytes"]);
    for line in [
        lake_bytes.as_str(),
        "tarn_view_lag_records{view=\"cities\"} 0",
        "tarn_view_failing{view=\"cities\"} 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(metrics.contains(view["plan"].as_str().expect("a plan")), "{metrics}");
    let page = folder.tarn(&["status"]);
    assert!(page.printed.contains("kept as") && page.printed.contains("cities"), "{}", page.printed);
    assert_eq!(running.stop().code, Some(0));
    let rest = folder.tarn(&["status", "--output", "json"]);
    let rest: Value = serde_json::from_str(&rest.printed).expect("JSON");
    assert_eq!(rest["views"][0]["version"], view["version"], "{rest}");
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

#[test]
fn functions_that_are_only_names_tables_named_as_states_are_and_both_zeros_are_no_trouble() {
    let mut config = BASE.to_owned();
    for (topic, columns) in [
        ("states", "id BIGINT, city VARCHAR"),
        ("partial", "city VARCHAR, land VARCHAR"),
        ("floats", "x DOUBLE"),
    ] {
        write!(
            config,
            "\n[[source]]\nname = \"{topic}\"\ntype = \"http\"\ntopic = \"{topic}\"\n\n[[table]]\nname = \"{topic}\"\n\
             columns = \"{columns}\"\ncommit_every = \"200ms\"\n"
        )
        .expect("memory takes everything");
    }
    let views = [
        (
            "named",
            "SELECT coalesce(city, '?') AS c, sum(coalesce(n, 0)) AS s, count(*) FILTER (WHERE nvl(n, 0) > 3) AS f, \
          max(nvl2(city, n, 7)) AS m, first_value(id ORDER BY ifnull(n, 0), id) AS o FROM events GROUP BY 1",
        ),
        (
            "lands",
            "SELECT p.land, count(*) AS n, sum(e.n) AS s FROM events AS e JOIN partial AS p ON e.city = p.city GROUP BY 1",
        ),
        ("of_states", "SELECT city, count(*) AS n, avg(id) AS id FROM states GROUP BY city"),
        ("zeros", "SELECT x, count(*) AS n FROM floats GROUP BY x"),
    ];
    for (name, query) in views {
        write!(config, "\n[[view]]\nname = \"{name}\"\nquery = \"\"\"{query}\"\"\"\n")
            .expect("memory takes everything");
    }
    let folder = Folder::new(&config);
    let mut running = folder.start();
    let client = running.ready();
    let send = |topic: &str, body: &str| {
        let answer = client.post(
            &format!("/v1/ingest/{topic}"),
            &[("Content-Type", "application/x-ndjson")],
            body.as_bytes(),
        );
        assert_eq!(answer.expect("an answer").status, 200);
    };
    send("partial", "{\"city\":\"Oslo\",\"land\":\"NO\"}\n{\"city\":\"Lima\",\"land\":\"PE\"}\n");
    let zeros = "{\"x\":-0.0}\n{\"x\":0.0}\n{\"x\":1.5}\n{\"x\":2.0}\n{\"x\":3.0}\n{\"x\":4.0}\n";
    for round in 0..3 {
        push(&client, round * 50, 50);
        let nameless: String = (0..5).map(|id| format!("{{\"id\":{}}}\n", 1000 + round * 5 + id)).collect();
        send("events", &nameless);
        send("states", "{\"id\":1,\"city\":\"Oslo\"}\n{\"id\":4}\n");
        send("floats", zeros);
        for (name, query) in views {
            let differ = format!(
                "SELECT (SELECT count(*) FROM ((SELECT * FROM {name} EXCEPT SELECT * FROM ({query})) \
                 UNION ALL (SELECT * FROM ({query}) EXCEPT SELECT * FROM {name}))) AS n"
            );
            assert_eq!(client.sql(&differ)[0]["n"], 0, "{name}, round {round}");
            let says = format!("{:?}", client.sql(&format!("EXPLAIN VIEW {name}")));
            assert!(says.contains("states"), "{name} is not kept as states: {says}");
        }
        for only in ["x IN (0.0, 1.5, 2.0, 3.0, 4.0)", "x::VARCHAR = '0.0'", "x >= 0.0", "x = 0.0"] {
            // `OFFSET` holds the filter above the view.
            let asked = format!(
                "SELECT (SELECT sum(n) FROM zeros WHERE {only}) AS below, \
                 (SELECT sum(n) FROM (SELECT * FROM zeros OFFSET 0) WHERE {only}) AS above"
            );
            let row = &client.sql(&asked)[0];
            assert_eq!(row["below"], row["above"], "{only}, round {round}");
        }
        wait_for("a commit of every table", seconds(30), || {
            let shown = client.sql("SHOW VIEWS");
            shown.iter().all(|view| view["lag_records"] == 0).then_some(())
        });
    }
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn states_that_outgrow_their_memory_stay_right_come_forward_and_are_not_made_again_and_again() {
    let query = "SELECT id, city, count(*) AS events, sum(n) AS total, first_value(n ORDER BY n) AS first FROM events GROUP BY id, city";
    let config =
        config(query).replace("http = \"127.0.0.1:0\"", "http = \"127.0.0.1:0\"\nview_memory = \"2MiB\"");
    let folder = Folder::new(&config);
    let mut running = folder.start();
    let client = running.ready();
    let mut pushed = 0;
    for _ in 0..5 {
        push(&client, pushed, 8_000);
        pushed += 8_000;
        right(&client, query);
    }
    states_cover(&client, pushed);
    right(&client, query);
    running.kill();
    let before = folder.said().matches("states are made from the lake").count();
    assert!(before <= 3, "all states were made {before} times");

    // A restart goes on from what is there.
    let mut running = folder.start();
    let client = running.ready();
    states_cover(&client, pushed);
    let says = format!("{:?}", client.sql("EXPLAIN SELECT * FROM cities"));
    assert!(!says.contains("lake=none"), "the states in the lake are not read: {says}");
    right(&client, query);
    push(&client, pushed, 2_000);
    states_cover(&client, pushed + 2_000);
    right(&client, query);
    assert_eq!(running.stop().code, Some(0));
    assert_eq!(folder.said().matches("states are made from the lake").count(), before);
    assert_eq!(folder.number(&differences(query)), 0, "at rest");
    folder.never_panicked();
}
