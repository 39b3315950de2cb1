//! `tarn export` into SQLite: all or nothing, once, whatever happens to it.

use std::fmt::Write as _;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{Ended, Folder, count, seconds, wait_for};

/// Tables of several types in the lake, filled from files.
pub(crate) const CONFIG: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "spool"
type = "spooldir"
path = "in"
format = "ndjson"
topic = "people"

[[table]]
name = "people"
columns = "id BIGINT, name VARCHAR, paid DECIMAL(10,2), ratio DOUBLE, member BOOLEAN, born DATE, seen TIMESTAMP, photo BINARY"

[[view]]
name = "by_member"
query = "SELECT member, count(*) AS n, sum(paid) AS paid FROM people GROUP BY member"
"#;

const TABLE: &str = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, paid NUMERIC(10,2), ratio REAL, member BOOLEAN, born DATE, \
     seen DATETIME, photo BLOB)";

/// A lake with `rows` people, and a database with a table for them.
pub(crate) fn people(rows: i64) -> (Folder, Connection) {
    let folder = Folder::new(CONFIG);
    let mut text = String::new();
    for id in 1..=rows {
        let name = if id % 11 == 0 { json!(null) } else { json!(format!("Ünal '{id}' \\ \t☃")) };
        let row = json!({"id": id, "name": name, "paid": format!("{}.{:02}", id * 7 % 1000 - 500, id % 100), "ratio": 1.0 / (id as f64),
            "member": id % 3 == 0, "born": format!("19{:02}-03-04", id % 100), "seen": format!("2026-01-02T03:04:05.{:06}Z", id % 1_000_000), "photo": "AP8n"});
        writeln!(text, "{row}").expect("memory takes everything");
    }
    folder.put("in/people.ndjson", text);
    folder.drained();
    let target = Connection::open(folder.path("shop.sqlite")).expect("a database");
    target.execute_batch(TABLE).expect("a table");
    (folder, target)
}

/// Rows of a query, cells as text.
pub(crate) fn rows(target: &Connection, sql: &str) -> Vec<Vec<String>> {
    let mut statement = target.prepare(sql).expect("a query");
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|at| {
                Ok(match row.get_ref(at)? {
                    rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    rusqlite::types::ValueRef::Real(number) => number.to_string(),
                    rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    rusqlite::types::ValueRef::Blob(bytes) => format!("{bytes:02x?}"),
                })
            })
            .collect()
    });
    rows.expect("rows").collect::<Result<_, _>>().expect("rows")
}

fn number(target: &Connection, sql: &str) -> i64 {
    target.query_row(sql, [], |row| row.get(0)).expect("a number")
}

fn export(folder: &Folder, what: &str, into: &str, more: &[&str]) -> Ended {
    let start = ["export", what, "--to", "sqlite:shop.sqlite", "--into", into, "--output", "json"];
    folder.tarn(&start.iter().chain(more).copied().collect::<Vec<_>>())
}

/// What an export that ended well says.
#[track_caller]
fn exported(folder: &Folder, what: &str, into: &str, more: &[&str]) -> Value {
    let ended = export(folder, what, into, more);
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.said);
    serde_json::from_str(&ended.printed).expect("JSON")
}

#[track_caller]
fn counts(told: &Value, wanted: [i64; 5]) {
    let found = ["exported", "inserted", "updated", "unmatched", "rejected"].map(|name| told[name].as_i64());
    assert_eq!(found, wanted.map(Some), "{told}");
}

/// Every cell of the target is what the lake has.
#[track_caller]
pub(crate) fn cell_by_cell(folder: &Folder, target: &Connection, count: usize) {
    let ours = folder.sql(
        "SELECT id, name, CAST(paid AS VARCHAR) AS paid, CAST(ratio AS VARCHAR) AS ratio, member, CAST(born AS VARCHAR) AS born, \
         to_char(seen, '%Y-%m-%d %H:%M:%S%.6f') AS seen FROM people ORDER BY id",
    );
    let theirs = rows(
        target,
        "SELECT id, name, printf('%.2f', paid), ratio, member, born, seen, lower(hex(photo)) FROM people ORDER BY id",
    );
    assert_eq!((ours.len(), theirs.len()), (count, count));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let text = |name: &str| ours[name].as_str().unwrap_or("NULL").to_owned();
        // A time has as many digits as it needs.
        let (seen, they_saw) = (text("seen"), &theirs[6]);
        let padded = match they_saw.split_once('.') {
            Some((whole, fraction)) => format!("{whole}.{fraction:0<6}"),
            None => format!("{they_saw}.000000"),
        };
        let ratio: f64 = theirs[3].parse().expect("a number");
        let member = i64::from(ours["member"].as_bool().expect("a word")).to_string();
        assert_eq!(ours["id"].to_string(), theirs[0]);
        assert_eq!(
            [text("name"), text("paid"), text("born"), seen, "00ff27".to_owned()],
            [theirs[1].clone(), theirs[2].clone(), theirs[5].clone(), padded, theirs[7].clone()]
        );
        assert_eq!((text("ratio").parse().ok(), member), (Some(ratio), theirs[4].clone()));
    }
}

#[test]
fn a_table_a_view_and_a_query_come_cell_by_cell_and_the_same_export_comes_once() {
    let (folder, target) = people(3_000);
    let told = exported(&folder, "people", "people", &[]);
    counts(&told, [3_000, 3_000, 0, 0, 0]);
    assert!(told["cut"].as_str().is_some_and(|cut| cut.contains("people:")), "it says at which cut: {told}");
    cell_by_cell(&folder, &target, 3_000);

    let again = exported(&folder, "people", "people", &[]);
    assert!(again["already_done_at"].is_string(), "{again}");
    counts(&again, [3_000, 3_000, 0, 0, 0]);
    assert_eq!((&told["run"], &told["cut"]), (&again["run"], &again["cut"]));
    cell_by_cell(&folder, &target, 3_000);

    target
        .execute_batch(
            "CREATE TABLE totals (member BOOLEAN, n INT NOT NULL, paid NUMERIC, note TEXT DEFAULT 'none')",
        )
        .expect("a table");
    counts(&exported(&folder, "by_member", "totals", &[]), [2, 2, 0, 0, 0]);
    let query = "SELECT count(*) AS \"N\", NULL AS paid, 'a query; not two' AS note FROM people";
    counts(&exported(&folder, query, "totals", &["--job", "whole"]), [1, 1, 0, 0, 0]);
    assert_eq!(
        rows(&target, "SELECT member, n, note FROM totals ORDER BY n"),
        [["1", "1000", "none"], ["0", "2000", "none"], ["NULL", "3000", "a query; not two"]]
    );
    assert_eq!(
        rows(&target, "SELECT job, state, exported FROM tarn_exports ORDER BY job"),
        [["people", "done", "3000"], ["totals", "done", "2"], ["whole", "done", "1"]]
    );
    folder.never_panicked();
}

#[test]
fn rows_that_came_since_are_not_inserted_behind_the_ones_that_were_unless_it_is_another_run() {
    let (folder, target) = people(20);
    counts(&exported(&folder, "people", "people", &["--run", "monday"]), [20, 20, 0, 0, 0]);
    let more = json!({"id": 21, "name": "late", "paid": "1.00", "ratio": 1.0, "member": true, "born": "2000-01-01", "seen": "2026-01-01T00:00:00Z", "photo": ""});
    folder.put("in/more.ndjson", format!("{more}\n"));
    folder.drained();
    // The same run is the same rows, whatever came since.
    let again = exported(&folder, "people", "people", &["--run", "monday"]);
    assert!(again["already_done_at"].is_string(), "{again}");
    assert_eq!(number(&target, "SELECT count(*) FROM people"), 20);
    let other = export(&folder, "SELECT * FROM people WHERE id = 21", "people", &["--run", "monday"]);
    assert!(other.code == Some(1) && other.said.contains("was another export"), "{}", other.said);

    target.execute_batch("DELETE FROM people").expect("none");
    counts(&exported(&folder, "people", "people", &[]), [21, 21, 0, 0, 0]);
    let more = more.to_string().replace("21", "22");
    folder.put("in/most.ndjson", format!("{more}\n"));
    folder.drained();
    let refused = export(&folder, "people", "people", &[]);
    assert!(refused.code == Some(1) && refused.said.contains("inserted once more"), "{}", refused.said);
    assert_eq!(number(&target, "SELECT count(*) FROM people"), 21);
    counts(&exported(&folder, "people", "people", &["--mode", "upsert", "--key", "id"]), [22, 1, 21, 0, 0]);
    assert_eq!(number(&target, "SELECT count(*) FROM people"), 22);

    // A run that was begun goes on with the rows of then.
    target.execute_batch("DELETE FROM people").expect("none");
    let start = ["export", "people", "--to", "sqlite:shop.sqlite", "--into", "people", "--run", "tuesday"];
    let killed = folder.tarn_armed("export.move.before=return(kill)", &start);
    assert_eq!(killed.signal, Some(9), "{}", killed.said);
    assert_eq!(number(&target, "SELECT count(*) FROM people"), 0);
    folder.put("in/last.ndjson", format!("{}\n", more.replace("22", "23")));
    folder.drained();
    counts(&exported(&folder, "people", "people", &["--run", "tuesday"]), [22, 22, 0, 0, 0]);
    assert_eq!(number(&target, "SELECT max(id) FROM people"), 22);
    folder.never_panicked();
}

#[test]
fn while_a_process_runs_the_rows_of_its_tail_come_too_at_one_cut() {
    let config = CONFIG.replace("columns =", "commit_every = \"1h\"\ncolumns =");
    let folder = Folder::new(&config);
    let target = Connection::open(folder.path("shop.sqlite")).expect("a database");
    target.execute_batch(TABLE).expect("a table");
    let mut running = folder.start();
    let client = running.ready();
    folder.put("in/one.ndjson", "{\"id\": 1, \"name\": \"one\"}\n{\"id\": 2, \"name\": \"two\"}\n");
    wait_for("the rows", seconds(60), || (count(&client, "people")? == 2).then_some(()));
    let told = exported(&folder, "people", "people", &[]);
    counts(&told, [2, 2, 0, 0, 0]);
    assert_eq!(told["cut"], "people:0=2", "the tail's rows are in the cut");
    // What is in the lake alone is another cut, and nothing.
    target.execute_batch("DELETE FROM people; DELETE FROM tarn_exports").expect("none");
    counts(&exported(&folder, "people", "people", &["--lake"]), [0, 0, 0, 0, 0]);
    let told = exported(&folder, "people", "people", &["--run", "1", "--as-of", "people:0=1"]);
    counts(&told, [1, 1, 0, 0, 0]);
    assert_eq!(rows(&target, "SELECT id, name FROM people"), [["1", "one"]]);
    running.kill();
    folder.never_panicked();
}

#[test]
fn rows_are_updated_and_added_by_a_key_and_an_update_of_nothing_is_told() {
    let (folder, target) = people(30);
    target
        .execute_batch(
            "CREATE TABLE stock (shop TEXT NOT NULL, item INT NOT NULL, n INT, note TEXT, PRIMARY KEY (shop, item));
             INSERT INTO stock SELECT 'a', value, -1, 'kept' FROM json_each('[1,2,3,4,5,6,7,8,9,10]');
             INSERT INTO stock VALUES ('b', 1, -1, 'another shop');",
        )
        .expect("a table");
    let query = "SELECT 'a' AS shop, id AS item, id * 2 AS n FROM people";
    let rejects = folder.path("unmatched.ndjson").display().to_string();
    let strict = export(&folder, query, "stock", &["--mode", "update", "--key", "shop,item", "--strict"]);
    assert!(strict.code == Some(1) && strict.said.contains("20 rows match nothing"), "{}", strict.said);
    assert_eq!(number(&target, "SELECT count(*) FROM stock WHERE n >= 0"), 0, "nothing was changed");
    let told =
        exported(&folder, query, "stock", &["--mode", "update", "--key", "shop,item", "--rejects", &rejects]);
    counts(&told, [10, 0, 10, 20, 0]);
    let noted = std::fs::read_to_string(&rejects).expect("a file");
    assert_eq!(noted.lines().count(), 20);
    let first: Value = serde_json::from_str(noted.lines().next().expect("a line")).expect("JSON");
    assert_eq!((&first["row"]["item"], &first["row"]["shop"]), (&json!(11), &json!("a")));
    assert!(first["reason"].as_str().is_some_and(|reason| reason.contains("no row of the target")));
    assert_eq!(number(&target, "SELECT sum(n) FROM stock WHERE shop = 'a' AND note = 'kept'"), 110);

    let told = exported(&folder, query, "stock", &["--mode", "upsert", "--key", "item,shop", "--job", "u"]);
    counts(&told, [30, 20, 10, 0, 0]);
    assert_eq!(number(&target, "SELECT sum(n) FROM stock WHERE shop = 'a'"), 30 * 31);
    assert_eq!(rows(&target, "SELECT n FROM stock WHERE shop = 'b'"), [["-1"]], "the key has two columns");

    // Two rows with one key: neither is taken, for which of them would stay is chance.
    let twins = "SELECT 'a' AS shop, CASE WHEN id < 3 THEN 7 ELSE 100 + id END AS item, id AS n FROM people";
    let refused = export(&folder, twins, "stock", &["--mode", "upsert", "--key", "shop,item", "--job", "t"]);
    assert!(refused.code == Some(1) && refused.said.contains("have this key"), "{}", refused.said);
    std::fs::remove_file(&rejects).expect("a file");
    let more = ["--mode", "upsert", "--key", "shop,item", "--job", "t", "--rejects", &rejects];
    counts(&exported(&folder, twins, "stock", &more), [28, 28, 0, 0, 2]);
    assert_eq!(rows(&target, "SELECT n FROM stock WHERE shop = 'a' AND item = 7"), [["14"]]);
    folder.never_panicked();
}

#[test]
fn every_column_that_does_not_fit_is_told_before_the_first_row() {
    let (folder, target) = people(5);
    target
        .execute_batch("CREATE TABLE odd (id INT NOT NULL, name INT, seen REAL, must TEXT NOT NULL, twice INT AS (id * 2))")
        .expect("a table");
    let query = "SELECT id, name, seen, 1 AS nowhere, 2 AS twice, id AS \"ID\" FROM people";
    let wrong = export(&folder, query, "odd", &[]);
    assert_eq!(wrong.code, Some(2), "{}", wrong.said);
    for told in [
        "name: VARCHAR does not go into `INT`",
        "seen: TIMESTAMP does not go into `REAL`",
        "nowhere: `odd` has no such column; it has id, name, seen, must, twice",
        "twice: the database gives this column its values",
        "ID: the statement gives this column twice",
        "must: `odd` takes no row without it",
        "6 problems",
        "hint: nothing was exported",
    ] {
        assert!(wrong.said.contains(told), "`{told}` is not said: {}", wrong.said);
    }
    let wrong = export(&folder, "SELECT id FROM people", "odd", &["--mode", "upsert", "--key", "id,name"]);
    assert!(wrong.said.contains("name: the statement does not give this key"), "{}", wrong.said);
    for (arguments, told) in [
        (&["--mode", "upsert"][..], "there is no key to find rows by"),
        (&["--key", "id"], "are not found by a key"),
        (&["--run", "cut-1"], "is no name of a run"),
    ] {
        let wrong = export(&folder, "people", "people", arguments);
        assert!(wrong.code == Some(2) && wrong.said.contains(told), "{}", wrong.said);
    }
    let wrong = folder.tarn(&[
        "export",
        "people",
        "--to",
        "postgres://ada:hunter2@127.0.0.1:1/shop",
        "--into",
        "people",
    ]);
    assert!(wrong.code == Some(1) && wrong.said.contains("TARN_EXPORT_PASSWORD"), "{}", wrong.said);
    assert!(!wrong.said.contains("hunter2"), "a password is shown: {}", wrong.said);
    let wrong = folder.tarn(&["export", "people", "--to", "shop", "--into", "people"]);
    assert!(wrong.code == Some(1) && wrong.said.contains("no database that is known"), "{}", wrong.said);
    assert_eq!(number(&target, "SELECT count(*) FROM odd"), 0);
    folder.never_panicked();
}

#[test]
fn rows_that_the_target_refuses_are_named_with_reasons_and_the_others_come() {
    let (folder, target) = people(2_000);
    target
        .execute_batch(
            "CREATE TABLE strict (id INTEGER PRIMARY KEY, name TEXT NOT NULL, boss INTEGER REFERENCES strict, \
             score REAL CHECK (score < 1500)) STRICT; INSERT INTO strict VALUES (77, 'there', NULL, 0);",
        )
        .expect("a table");
    // A boss has the larger number, so most rows refer to later ones. 11, 22, … have no name, and 1500 and more no score.
    let query = "SELECT id, name, CASE WHEN id % 10 <> 0 THEN (id / 10 + 1) * 10 END AS boss, \
         CASE WHEN id = 3 THEN 'NaN'::DOUBLE WHEN id > 1990 THEN CAST(id AS DOUBLE) ELSE 0.5 END AS score FROM people WHERE id % 11 <> 0 OR id < 100";
    let refused = export(&folder, query, "strict", &[]);
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    assert!(
        refused.said.contains("column `name` is NULL") && refused.said.contains("--rejects FILE"),
        "{}",
        refused.said
    );
    assert_eq!(number(&target, "SELECT count(*) FROM strict"), 1, "all or nothing");

    let rejects = folder.path("rejects.ndjson").display().to_string();
    let few = export(&folder, query, "strict", &["--rejects", &rejects, "--max-rejects", "8"]);
    assert!(few.code == Some(1) && few.said.contains("or more rows do not fit"), "{}", few.said);
    assert_eq!(number(&target, "SELECT count(*) FROM strict"), 1, "all or nothing");

    let told = exported(&folder, query, "strict", &["--rejects", &rejects]);
    let lines: Vec<Value> = std::fs::read_to_string(&rejects)
        .expect("a file")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut ids: Vec<i64> = lines.iter().map(|line| line["row"]["id"].as_i64().expect("an id")).collect();
    ids.sort_unstable();
    let wanted = number(&target, "SELECT count(*) FROM strict") - 1;
    let asked = folder.number(&format!("SELECT count(*) FROM ({query})"));
    counts(&told, [wanted, wanted, 0, 0, asked - wanted]);
    assert_eq!(lines.len() as i64, asked - wanted);
    // By hand: no name, NaN, too high a score, and those whose boss was refused.
    let boss = |id: i64| (id % 10 != 0).then_some((id / 10 + 1) * 10);
    let given = |id: i64| id % 11 != 0 || id < 100;
    let bad = |id: i64| id % 11 == 0 || id == 3 || id > 1990;
    let there = |id: i64| given(id) && !bad(id);
    let model: Vec<i64> = (1..=2_000)
        .filter(|id| given(*id) && (bad(*id) || boss(*id).is_some_and(|boss| !there(boss))))
        .collect();
    assert_eq!(ids, model);
    for (reason, id) in [
        ("is NULL, and the column takes none", 11),
        ("SQLite makes NULL of NaN", 3),
        ("CHECK constraint failed", 1992),
    ] {
        let line = lines.iter().find(|line| line["row"]["id"] == id).expect("a line");
        assert!(line["reason"].as_str().is_some_and(|told| told.contains(reason)), "{line}");
    }
    folder.never_panicked();
}

/// Kills an export at a fault point, or tells it of an error, then runs it again: every row is there once. Of a step that a run
/// takes once, the passes before the fault are runs.
pub(crate) fn faulted(point: &str, passes: u32, action: &str) {
    let many = point.starts_with("export.stage.") && passes > 0;
    let (count, runs) = if many { (30_000, 0) } else { (300, passes) };
    let (folder, target) = people(count);
    // Without a key, so that a row that comes twice is there twice.
    target.execute_batch("CREATE TABLE copies (id INT, name TEXT, run INT)").expect("a table");
    let query = |run: u32| format!("SELECT id, name, {run} AS run FROM people");
    for run in 0..runs {
        let told = exported(&folder, &query(run), "copies", &["--run", &run.to_string()]);
        counts(&told, [count, count, 0, 0, 0]);
    }
    let skip = if many && passes > 0 { format!("{passes}*off->") } else { String::new() };
    let armed = format!("{point}={skip}1*return({action})");
    let (query, run) = (query(runs), runs.to_string());
    let arguments = ["export", &query, "--to", "sqlite:shop.sqlite", "--into", "copies", "--run", &run];
    let ended = folder.tarn_armed(&armed, &arguments);
    if action == "kill" {
        assert_eq!(ended.signal, Some(9), "it ended otherwise: {}", ended.said);
    } else {
        assert_eq!(ended.code, Some(1), "it ended otherwise: {}", ended.said);
        assert!(ended.said.contains(&format!("fault injected at `{point}`")), "{}", ended.said);
    }
    let there = number(&target, "SELECT count(*) FROM copies");
    let moved = point == "export.move.after";
    let before = i64::from(runs) * count;
    assert_eq!(there, before + if moved { count } else { 0 }, "a part of an export is there");
    for _ in 0..2 {
        let told = exported(&folder, &query, "copies", &["--run", &run]);
        counts(&told, [count, count, 0, 0, 0]);
    }
    let once = "SELECT count(*), count(DISTINCT id || ' ' || run), sum(id) FROM copies";
    let (all, ids) = ((i64::from(runs) + 1) * count, count * (count + 1) / 2 * (i64::from(runs) + 1));
    assert_eq!(rows(&target, once), [[all.to_string(), all.to_string(), ids.to_string()]]);
    assert_eq!(rows(&target, "SELECT DISTINCT state FROM tarn_exports"), [["done"]]);
    folder.never_panicked();
}
