//! `tarn import`: tables of a database straight into tables of the lake, each run in one commit, whatever kills it.
//!
//! SQLite here; PostgreSQL and MariaDB are in `servers`.

use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{Ended, Folder, count, seconds, verified, wait_for};

const HEAD: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"
"#;

/// A job over every table of `shop.sqlite`.
const WHOLE: &str = r#"
[[import]]
name = "shop"
url = "sqlite:shop.sqlite"
table = "*"
exclude = ["Left_*"]
into = "shop_{table}"
"#;

/// Tables of `shop.sqlite` with their rows.
const TABLES: [(&str, i64); 4] = [("album", 200), ("artist", 275), ("nothing", 0), ("track", 4_000)];

pub(crate) fn config(rest: &str) -> String {
    format!("{HEAD}{rest}")
}

fn shop(folder: &Folder) -> Connection {
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    shop.execute_batch(
        "CREATE TABLE Artist (id INTEGER PRIMARY KEY, name NVARCHAR(120));
         CREATE TABLE Album (id INTEGER PRIMARY KEY, title NVARCHAR(160) NOT NULL, artist INTEGER NOT NULL);
         CREATE TABLE Track (id INTEGER PRIMARY KEY, album INTEGER, name TEXT, price NUMERIC(10,2), data BLOB, added DATETIME,
             day DATE, sold BOOLEAN, rating DOUBLE);
         CREATE TABLE \"Nothing\" (id INTEGER, word TEXT);
         CREATE TABLE Left_Out (id INTEGER);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 275)
         INSERT INTO Artist SELECT i, CASE WHEN i % 50 = 0 THEN NULL ELSE 'Artist \"' || i || '\" ☃' END FROM n;
         INSERT INTO Album SELECT id, 'Über ' || id, id FROM Artist WHERE id <= 200;
         INSERT INTO Track SELECT a.id * 1000 + t.id, a.id, 'T' || t.id, 0.99, x'00ff', '2026-01-02 03:04:05.678', '2026-01-02',
             t.id % 2, t.id / 4.0 FROM Album a JOIN Album t ON t.id <= 20;
         INSERT INTO Left_Out VALUES (1);",
    )
    .expect("the shop");
    shop
}

pub(crate) fn import(folder: &Folder, arguments: &[&str]) -> Ended {
    let all: Vec<&str> = ["import", "-c", "tarn.toml"].iter().chain(arguments).copied().collect();
    folder.tarn(&all)
}

/// It ends well; its report.
#[track_caller]
pub(crate) fn imported(folder: &Folder, arguments: &[&str]) -> Vec<Value> {
    let all: Vec<&str> = arguments.iter().chain(&["--output", "json"]).copied().collect();
    let ended = import(folder, &all);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said);
    serde_json::from_str(&ended.printed).unwrap_or_else(|error| panic!("{error}: {}", ended.printed))
}

/// It fails with these words and a hint.
#[track_caller]
pub(crate) fn refused(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.said);
    for word in words.iter().chain(&["error:", "hint:"]) {
        assert!(ended.said.contains(word), "`{word}` is not said: {}", ended.said);
    }
}

/// Tables of the lake with their rows, by what their commits say.
fn rows_in_lake(folder: &Folder) -> Vec<(String, i64)> {
    if !folder.path("lake").is_dir() {
        return Vec::new();
    }
    let listed = folder.tarn(&["table", "-c", "tarn.toml", "list", "--output", "json"]);
    assert_eq!(listed.code, Some(0), "{}", listed.said);
    let tables: Vec<Value> = serde_json::from_str(&listed.printed).expect("JSON");
    let row = |table: &Value| {
        assert_eq!(table["kind"], "import", "{table}");
        (table["name"].as_str().expect("a name").to_owned(), table["rows"].as_i64().expect("a number"))
    };
    tables.iter().map(row).collect()
}

/// Every table has been imported `runs` times, whole.
#[track_caller]
fn all_there(folder: &Folder, runs: i64) {
    let want: Vec<(String, i64)> =
        TABLES.iter().map(|(name, rows)| (format!("shop_{name}"), rows * runs)).collect();
    assert_eq!(rows_in_lake(folder), want);
    let once =
        "SELECT CAST(count(*) AS BIGINT) FROM (SELECT id FROM shop_track GROUP BY id HAVING count(*) = ";
    assert_eq!(folder.number(&format!("{once}{runs})")), 4_000, "each row came once a run");
    verified(folder);
    folder.never_panicked();
}

fn commits(folder: &Folder, table: &str) -> usize {
    folder.find(&format!("lake/{table}/_delta_log"), ".json").len()
}

#[test]
fn each_table_of_a_whole_database_comes_in_one_commit() {
    let folder = Folder::new(&config(WHOLE));
    let _shop = shop(&folder);
    let report = imported(&folder, &["shop"]);
    assert_eq!(report.len(), TABLES.len());
    assert_eq!((&report[3]["into"], &report[3]["rows"]), (&json!("shop_track"), &json!(4_000)));
    all_there(&folder, 1);
    for (table, _) in TABLES {
        assert_eq!(commits(&folder, &format!("shop_{table}")), 1, "{table} was made with its rows in it");
    }
    let row = folder.sql("SELECT * FROM shop_track WHERE id = 7003");
    let want = json!({"id": 7003, "album": 7, "name": "T3", "price": 0.99, "data": "00ff", "added": "2026-01-02T03:04:05.678Z",
        "day": "2026-01-02", "sold": true, "rating": 0.75});
    assert_eq!(row, [want], "types come from the database, and there are no system columns");
    assert_eq!(
        folder.sql("SELECT id, name FROM shop_artist WHERE id IN (49, 50) ORDER BY 1"),
        [json!({"id": 49, "name": "Artist \"49\" ☃"}), json!({"id": 50, "name": null})]
    );
    // A second run appends.
    assert_eq!(imported(&folder, &["--all"])[0]["run"], 2);
    all_there(&folder, 2);
    assert_eq!(commits(&folder, "shop_track"), 2);
}

#[test]
fn a_table_is_overwritten_at_once_and_keeps_the_columns_that_it_has() {
    let rest = "[[import]]\nname = \"artists\"\nurl = \"sqlite:shop.sqlite\"\ntable = \"Artist\"\ncolumns = [\"name\", \"id\"]\nwhere = \"id > 100\"\nmode = \"overwrite\"\n";
    let folder = Folder::new(&config(rest));
    let shop = shop(&folder);
    imported(&folder, &["artists"]);
    assert_eq!(
        folder.sql("SELECT count(*) AS n, min(id) AS least FROM artists"),
        [json!({"n": 175, "least": 101})]
    );
    shop.execute_batch("DELETE FROM Artist WHERE id > 110; ALTER TABLE Artist ADD COLUMN born INTEGER; UPDATE Artist SET born = id")
        .expect("changed");
    folder.configure(&config(&rest.replace("[\"name\", \"id\"]", "[\"id\", \"born\"]")));
    imported(&folder, &["artists"]);
    assert_eq!(
        folder.sql("SELECT * FROM artists ORDER BY id LIMIT 1"),
        [json!({"name": null, "id": 101, "born": 101})],
        "a new column comes last, one that is read no more is NULL"
    );
    assert_eq!(folder.number("SELECT count(*) FROM artists"), 10);
    verified(&folder);
    // The column has another type now.
    shop.execute_batch(
        "DROP TABLE Artist; CREATE TABLE Artist (id TEXT, born INTEGER); INSERT INTO Artist VALUES ('x', 1)",
    )
    .expect("changed");
    let ended = import(&folder, &["artists"]);
    refused(&ended, 1, &["`id` is BIGINT in the table, and VARCHAR in the database", "types ="]);
    assert_eq!(folder.number("SELECT count(*) FROM artists"), 10, "what was there stays");
    folder.never_panicked();
}

#[test]
fn a_query_is_imported_with_types_that_nobody_declared() {
    let rest = "[[import]]\nname = \"sales\"\nurl = \"sqlite:shop.sqlite\"\ntypes = \"total DECIMAL(20,2)\"\n\
        query = \"SELECT album, count(*) AS n, printf('%.2f', sum(price)) AS total, avg(rating) AS rating, NULL AS empty FROM Track WHERE $CONDITIONS GROUP BY 1\"\n";
    let folder = Folder::new(&config(rest));
    let _shop = shop(&folder);
    assert_eq!(imported(&folder, &["sales"])[0]["from"], "query");
    assert_eq!(
        folder.sql("SELECT * FROM sales WHERE album = 3"),
        [json!({"album": 3, "n": 20, "total": 19.8, "rating": 2.625, "empty": null})]
    );
    let types = folder.tarn(&["table", "-c", "tarn.toml", "describe", "sales"]);
    assert!(types.printed.contains("DECIMAL(20,2)"), "{}", types.printed);
}

#[test]
fn what_is_validated_agrees_or_is_not_committed() {
    let folder = Folder::new(&config(WHOLE));
    let _shop = shop(&folder);
    let report = imported(&folder, &["shop", "--validate"]);
    for (table, (name, rows)) in report.iter().zip(TABLES) {
        let split = &table["validated"][0];
        assert_eq!((&split["database_rows"], &split["lake_rows"]), (&json!(rows), &json!(rows)), "{name}");
        assert_eq!(split["database_checksum"], split["lake_checksum"], "{name}");
        assert_eq!((&split["agrees"], table["validated"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    }
    assert_ne!(report[3]["validated"][0]["lake_checksum"], "0000000000000000");
    let columns = report[3]["validated"][0]["columns"].as_array().expect("columns");
    let sums: Vec<(&Value, &Value)> = columns
        .iter()
        .filter(|column| column["database_sum"].is_string())
        .map(|column| (&column["column"], &column["lake_sum"]))
        .collect();
    let [id, album, name, data, sold] =
        [("id", "402042000"), ("album", "402000"), ("name", "10200"), ("data", "8000"), ("sold", "2000")]
            .map(|(column, sum)| (json!(column), json!(sum)));
    let want = [&id, &album, &name, &data, &sold].map(|(column, sum)| (column, sum));
    assert_eq!(sums, want, "SQLite has neither decimals nor times");
    all_there(&folder, 1);
    let report = import(&folder, &["shop", "--validate"]);
    assert!(report.code == Some(0) && report.printed.contains("agrees"), "{}", report.printed);
    // What the database says differently each time is not what was written.
    let job = "[[import]]\nname = \"dice\"\nurl = \"sqlite:shop.sqlite\"\nquery = \"SELECT id, random() AS dice FROM Artist\"\n";
    folder.configure(&config(job));
    let ended = import(&folder, &["dice", "--validate"]);
    refused(&ended, 1, &["DIFFERS", "what was written is not what the database has, in split 1"]);
    assert!(commits(&folder, "dice") == 0, "nothing is committed");
    imported(&folder, &["dice"]);
    assert_eq!(folder.number("SELECT count(*) FROM dice"), 275);
    folder.never_panicked();
}

const PAIRS: i64 = 6_000;

/// A table with values of every kind that SQLite has, some where another one is declared; a fifth is NULL.
fn make_pairs(folder: &Folder, journal: &str) -> Connection {
    let pairs = Connection::open(folder.path("pairs.sqlite")).expect("a database");
    pairs.busy_timeout(Duration::from_secs(60)).expect("a time-out");
    pairs
        .execute_batch(&format!(
            "PRAGMA journal_mode = {journal}; PRAGMA synchronous = OFF;
             CREATE TABLE pairs (id INTEGER PRIMARY KEY, c_text TEXT, c_real REAL, c_blob BLOB, c_mixed, c_nocase TEXT COLLATE NOCASE, c_number NUMERIC,
                 c_skew INTEGER, c_nothing INTEGER, amount INTEGER);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {PAIRS})
             INSERT INTO pairs SELECT i, CASE i % 3 WHEN 0 THEN '''' || i WHEN 1 THEN 'ä' || i ELSE hex(i * 7919) END, CASE i % 50 WHEN 0 THEN 9e999 ELSE 1.0 / i END,
                 randomblob(8), CASE i % 4 WHEN 0 THEN i WHEN 1 THEN i / 3.0 WHEN 2 THEN 'Text ' || i ELSE randomblob(4) END,
                 CASE i % 2 WHEN 0 THEN 'a' ELSE 'A' END || (i % 97), CASE i % 3 WHEN 0 THEN 'word' || i ELSE i / 8.0 END,
                 CASE WHEN i % 9 = 0 THEN i ELSE 7 END, NULL, 100 FROM n;
             UPDATE pairs SET c_text = NULL, c_real = NULL, c_blob = NULL, c_mixed = NULL, c_nocase = NULL, c_number = NULL, c_skew = NULL WHERE id % 5 = 0"
        ))
        .expect("the pairs");
    pairs
}

fn pairs_job(what: &str) -> String {
    config(&format!("[[import]]\nname = \"job\"\nurl = \"sqlite:pairs.sqlite\"\n{what}\n"))
}

#[test]
fn readers_side_by_side_import_every_row_of_sqlite_once_whatever_they_split_by() {
    let ids = "SELECT CAST(count(DISTINCT id) * 100000000 + sum(id) AS BIGINT) FROM ";
    let want = PAIRS * 100_000_000 + PAIRS * (PAIRS + 1) / 2;
    for (what, column) in [
        ("table", "id"),
        ("table", "rowid"),
        ("table", "c_text"),
        ("table", "c_real"),
        ("table", "c_blob"),
        ("table", "c_mixed"),
        ("table", "c_nocase"),
        ("table", "c_number"),
        ("table", "c_skew"),
        ("table", "c_nothing"),
        ("query", "half"),
    ] {
        let journal = if column.len() % 2 == 0 { "WAL" } else { "DELETE" };
        let read = match what {
            "table" => "table = \"pairs\"\ncolumns = [\"id\"]",
            _ => "query = \"SELECT id, amount / 2.0 + id AS half FROM pairs WHERE $CONDITIONS\"",
        };
        let folder = Folder::new(&pairs_job(&format!("{read}\nsplit_by = \"{column}\"\nreaders = 3")));
        let _pairs = make_pairs(&folder, journal);
        let report = imported(&folder, &["job", "--validate"]);
        let splits = report[0]["validated"].as_array().expect("splits").len();
        // A column without values has one split that is empty, and one for NULL.
        assert!(splits >= if column == "c_nothing" { 2 } else { 4 }, "{column}: {splits} splits");
        assert_eq!(folder.number(&format!("{ids}job")), want, "{column}");
        verified(&folder);
        folder.never_panicked();
    }
    let folder = Folder::new(&pairs_job("table = \"pairs\"\nsplit_by = \"none\""));
    let pairs = make_pairs(&folder, "WAL");
    refused(&import(&folder, &["job"]), 1, &["`pairs` has no column `none` to split by"]);
    // Through the log.
    let source = "[[source]]\nname = \"s\"\ntype = \"database\"\nurl = \"sqlite:pairs.sqlite\"\ntable = \"pairs\"\ncolumns = [\"id\"]\n\
        topic = \"pairs\"\nsplit_by = \"c_mixed\"\nreaders = 3\n[[table]]\nname = \"pairs\"\n";
    folder.configure(&config(source));
    folder.drained();
    assert_eq!(folder.number(&format!("{ids}pairs")), want);
    assert!(folder.said().matches("a split is staged").count() >= 4, "{}", folder.said());
    // While somebody else keeps the right to write, nobody can be held back: one reader, which is said.
    pairs.execute_batch("BEGIN IMMEDIATE; UPDATE pairs SET amount = 1 WHERE id = 1").expect("a transaction");
    folder.configure(&pairs_job("table = \"pairs\"\ncolumns = [\"id\"]\nsplit_by = \"id\""));
    assert_eq!(imported(&folder, &["job"])[0]["rows"], PAIRS);
    for word in ["one reader reads it", "somebody else writes to the database"] {
        assert!(folder.said().contains(word), "{}", folder.said());
    }
    assert_eq!(folder.number(&format!("{ids}job")), want);
    folder.never_panicked();
}

/// Says that all is done when it goes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every transaction leaves the sum as it is; readers of different snapshots would see one half of some.
#[test]
fn readers_side_by_side_import_one_snapshot_of_sqlite_while_rows_change() {
    for journal in ["WAL", "DELETE"] {
        let what = "table = \"pairs\"\ncolumns = [\"id\", \"amount\"]\nsplit_by = \"id\"\nreaders = 4\nmode = \"overwrite\"";
        let folder = Folder::new(&pairs_job(what));
        let pairs = make_pairs(&folder, journal);
        let (done, changes) = (&AtomicBool::new(false), &AtomicI64::new(0));
        std::thread::scope(|scope| {
            // Also when an assertion fails: the scope waits for the writer.
            let end = Ends(done);
            let writing = scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let i = changes.fetch_add(1, Ordering::Relaxed);
                    let (a, b) = (1 + i * 7919 % PAIRS, 1 + i * 104_729 % PAIRS);
                    let transfer = format!(
                        "BEGIN IMMEDIATE; UPDATE pairs SET amount = amount - 50 WHERE id = {a}; UPDATE pairs SET amount = amount + 50 WHERE id = {b}; COMMIT"
                    );
                    // Readers keep it out for a while where there is no WAL.
                    while pairs.execute_batch(&transfer).is_err() {
                        let _ = pairs.execute_batch("ROLLBACK");
                    }
                    // Others may want to write, too.
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            for _ in 0..3 {
                let before = changes.load(Ordering::Relaxed);
                wait_for("changes", seconds(60), || (changes.load(Ordering::Relaxed) > before).then_some(()));
                assert_eq!(imported(&folder, &["job"])[0]["rows"], PAIRS, "{journal}");
                assert_eq!(
                    folder.number("SELECT CAST(sum(amount) AS BIGINT) FROM job"),
                    PAIRS * 100,
                    "{journal}"
                );
                assert_eq!(folder.number("SELECT count(DISTINCT id) FROM job"), PAIRS, "{journal}");
            }
            drop(end);
            writing.join().expect("the writer");
        });
        assert!(!folder.said().contains("one reader reads it"), "{}", folder.said());
        verified(&folder);
        folder.never_panicked();
    }
}

#[test]
fn a_run_with_a_number_is_in_the_table_once() {
    let rest = "[[import]]\nname = \"album\"\nurl = \"sqlite:shop.sqlite\"\ntable = \"Album\"\n";
    let folder = Folder::new(&config(rest));
    let _shop = shop(&folder);
    let is_there = |arguments: &[&str]| imported(&folder, arguments)[0]["already_there"].clone();
    assert_eq!(is_there(&["album", "--run", "20261122"]), false);
    assert_eq!(is_there(&["album", "--run", "20261122"]), true, "the answer was lost, say");
    assert_eq!(is_there(&["album", "--run", "20261121"]), true, "numbers grow");
    assert_eq!(folder.number("SELECT count(*) FROM album"), 200);
    assert_eq!(is_there(&["album", "--run", "20261123"]), false);
    assert_eq!(folder.number("SELECT count(*) FROM album"), 400);
}

#[test]
fn what_was_imported_since_makes_another_export() {
    let rest = "[[import]]\nname = \"artists\"\nurl = \"sqlite:shop.sqlite\"\ntable = \"Artist\"\nmode = \"overwrite\"\n";
    let folder = Folder::new(&config(rest));
    let shop = shop(&folder);
    shop.execute_batch("CREATE TABLE copy (id INTEGER PRIMARY KEY, name TEXT)").expect("a table");
    let export = || -> Value {
        let to = ["--to", "sqlite:shop.sqlite", "--into", "copy", "--mode", "upsert", "--key", "id"];
        let all: Vec<&str> =
            ["export", "artists"].into_iter().chain(to).chain(["--output", "json"]).collect();
        let ended = folder.tarn(&all);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        serde_json::from_str(&ended.printed).expect("JSON")
    };
    imported(&folder, &["artists"]);
    assert_eq!(export()["inserted"], 275);
    assert!(export()["already_done_at"].is_string(), "no import came since");
    shop.execute("INSERT INTO Artist VALUES (9000, 'New')", ()).expect("a row");
    imported(&folder, &["artists"]);
    assert_eq!((&export()["inserted"], &export()["updated"]), (&json!(1), &json!(275)));
}

#[test]
fn a_running_process_shows_an_import_at_once_beside_tables_of_topics() {
    let rest = r#"
[[source]]
name = "push"
type = "http"
topic = "clicks"

[[table]]
name = "clicks"
columns = "artist BIGINT"
commit_every = "100ms"

[[view]]
name = "by_name"
query = "SELECT name, count(*) AS n FROM shop_artist GROUP BY name"
"#;
    let folder = Folder::new(&config(&format!("{WHOLE}{}", rest.split("[[view]]").next().expect("a part"))));
    let shop = shop(&folder);
    let mut running = folder.start();
    let client = running.ready();
    client.post("/v1/ingest/clicks", &[], b"{\"artist\": 7}\n{\"artist\": 8}").expect("an answer");
    imported(&folder, &["shop"]);
    assert_eq!(count(&client, "shop_track"), Some(4_000), "there once the command has ended");
    let joined = "SELECT a.name, count(*) AS n FROM clicks c JOIN shop_artist a ON a.id = c.artist GROUP BY 1 ORDER BY 1";
    wait_for("the clicks", seconds(30), || (client.sql(joined).len() == 2).then_some(()));
    let shown = client.sql("SHOW TABLES");
    let of = |name: &str| shown.iter().find(|table| table["table_name"] == name).expect("a table").clone();
    assert_eq!(of("shop_track")["plan"], "import");
    assert!(of("shop_track")["boundary"].is_null() && of("clicks")["plan"].is_null(), "{shown:?}");
    // What is overwritten meanwhile stays what it was for who reads it; what comes later sees the new rows.
    shop.execute("DELETE FROM Artist WHERE id > 75", ()).expect("deleted");
    imported(&folder, &["shop"]);
    assert_eq!(count(&client, "shop_artist"), Some(275 + 75));
    let status: Value = client.get("/v1/status").expect("an answer").json();
    let tables = status["tables"].as_array().expect("tables");
    let artists = tables.iter().find(|table| table["name"] == "shop_artist").expect("the table");
    assert_eq!((&artists["state"], &artists["lake_rows"]), (&json!("import"), &json!(350)));
    // Its upkeep goes through the process that runs.
    let ended = folder.tarn(&["table", "-c", "tarn.toml", "optimize", "shop_artist"]);
    assert!(
        ended.code == Some(0) && ended.printed.contains("merged 2 files"),
        "{} {}",
        ended.printed,
        ended.said
    );
    assert_eq!(count(&client, "shop_artist"), Some(350));
    verified(&folder);
    assert_eq!(running.stop().code, Some(0));
    let status = folder.tarn(&["status", "-c", "tarn.toml"]);
    assert!(status.printed.contains("shop_artist"), "{}", status.printed);
    verified(&folder);

    // A view with aggregates over it is run over its rows, at each question.
    folder.configure(&config(&format!("{WHOLE}{rest}")));
    let mut running = folder.start();
    let client = running.ready();
    let question = "SELECT n FROM by_name WHERE name = 'Artist \"7\" ☃'";
    assert_eq!(client.sql(question), [json!({"n": 2})]);
    imported(&folder, &["shop"]);
    assert_eq!(client.sql(question), [json!({"n": 3})]);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn one_table_that_cannot_be_read_keeps_no_other_from_being_shown() {
    let job = |name: &str, table: &str| {
        format!(
            "[[import]]\nname = \"{name}\"\nurl = \"sqlite:shop.sqlite\"\ntable = \"{table}\"\ninto = \"{name}\"\n"
        )
    };
    // Tables are looked at by their names.
    let jobs = [("a_album", "Album"), ("b_artist", "Artist"), ("c_nothing", "Nothing")];
    let folder = Folder::new(&config(&jobs.map(|(name, table)| job(name, table)).concat()));
    let shop = shop(&folder);
    imported(&folder, &["a_album"]);
    imported(&folder, &["b_artist"]);
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!((count(&client, "a_album"), count(&client, "b_artist")), (Some(200), Some(275)));
    folder.put("lake/a_album/_delta_log/00000000000000000001.json", "no commit\n");
    // One that is known, and one that is not yet.
    for (name, rows) in [("b_artist", 550), ("c_nothing", 1)] {
        shop.execute("INSERT INTO \"Nothing\" VALUES (1, 'word')", ()).expect("a row");
        imported(&folder, &[name]);
        wait_for("what was imported", seconds(60), || (count(&client, name)? >= rows).then_some(()));
    }
    assert_eq!(count(&client, "a_album"), Some(200), "what was seen of it stays");
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn what_cannot_be_imported_is_told_and_nothing_is_to_be_seen() {
    let job =
        |rest: &str| config(&format!("[[import]]\nname = \"job\"\nurl = \"sqlite:shop.sqlite\"\n{rest}\n"));
    let folder = Folder::new(&job("table = \"Artist\""));
    refused(&import(&folder, &["job"]), 1, &["there is no database", "nothing was imported: run it again"]);
    refused(&import(&folder, &[]), 2, &["no job is named", "jobs: job"]);
    refused(&import(&folder, &["other"]), 2, &["there is no import `other`", "jobs: job"]);
    let shop = shop(&folder);
    folder.configure(&job("table = \"Nobody\""));
    let ended = import(&folder, &["job"]);
    assert!(ended.code == Some(1) && ended.said.contains("no such table"), "{}", ended.said);
    folder.configure(&job("query = \"SELECT 1 AS _offset\""));
    refused(&import(&folder, &["job"]), 1, &["`_offset` is one of the system columns"]);
    // The last of many rows does not fit.
    shop.execute("INSERT INTO Track (id, price) VALUES (9000000, 'a word')", ()).expect("a row");
    folder.configure(&job("table = \"Track\""));
    refused(&import(&folder, &["job"]), 1, &["column `price` takes DECIMAL(10,2), not `a word`", "`types`"]);
    assert!(rows_in_lake(&folder).is_empty(), "nothing is to be seen of what broke off");
    folder.configure(&job("table = \"Track\"\ntypes = \"price VARCHAR\""));
    imported(&folder, &["job"]);
    assert_eq!(folder.number("SELECT count(*) FROM job WHERE price = 'a word'"), 1);

    // What is left of runs that broke off goes when it is old.
    let live = folder.sql("SELECT count(*) AS n FROM job");
    let (mut command, _) = folder.command(&["import", "-c", "tarn.toml", "job"]);
    let killed =
        command.env("FAILPOINTS", "import.commit.before=return(kill)").output().expect("start the binary");
    assert_eq!(killed.status.code(), None, "it was killed: {}", folder.said());
    fs::remove_file(folder.path("data/imports/job.json")).expect("the run is given up");
    let files = folder.find("lake/job", ".parquet");
    assert!(files.len() > 1, "the run that broke off has left files: {files:?}");
    for file in &files {
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        fs::File::options()
            .append(true)
            .open(file)
            .expect("a file")
            .set_modified(old)
            .expect("an older file");
    }
    let vacuum = ["table", "-c", "tarn.toml", "vacuum", "job", "--retention", "1ms"];
    let ended = folder.tarn(&vacuum);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(folder.find("lake/job", ".parquet").len() < files.len(), "{}", ended.printed);
    assert_eq!(folder.sql("SELECT count(*) AS n FROM job"), live);
    verified(&folder);

    // A table of a topic is not written to, whoever made it.
    let topic = "[[topic]]\nname = \"made\"\n[[table]]\nname = \"made\"\ncolumns = \"id INT\"\n";
    folder.configure(&config(topic));
    folder.drained();
    folder.configure(&job("table = \"Artist\"\ninto = \"made\""));
    refused(&import(&folder, &["job"]), 1, &["`made` is in the lake, and is no import table", "`into`"]);
    folder.configure(&format!("{}{topic}", job("table = \"Artist\"\ninto = \"made\"")));
    let ended = folder.tarn(&["check", "tarn.toml"]);
    assert!(
        ended.code == Some(2) && ended.said.contains("an import needs a table of its own"),
        "{}",
        ended.said
    );
    folder.never_panicked();
}

/// What holds whatever happened: every table has whole runs, and those of `told` runs at the least.
#[track_caller]
fn whole_runs_only(folder: &Folder, told: i64) {
    let there = rows_in_lake(folder);
    for (name, rows) in TABLES {
        let found = there.iter().find(|(table, _)| *table == format!("shop_{name}")).map(|(_, rows)| *rows);
        let may = [told * rows, (told + 1) * rows].map(Some);
        assert!(
            may.contains(&found) || (told == 0 && found.is_none()),
            "{name}: {found:?} after {told} runs"
        );
    }
}

/// A run in which `point` does `action` when it is passed for the `passes`th time, then another run, and the proof.
fn faulty(point: &str, action: &str, passes: u32) {
    let folder = Folder::new(&config(WHOLE));
    let _shop = shop(&folder);
    // What is done once a run: let some be whole before it.
    let once = point.contains(".begin.") || point.contains(".end.");
    let before = if once { i64::from(passes) } else { 0 };
    for _ in 0..before {
        imported(&folder, &["shop"]);
    }
    let skip = if once || passes == 0 { String::new() } else { format!("{passes}*off->") };
    let (mut command, _) = folder.command(&["import", "-c", "tarn.toml", "shop"]);
    command.stdout(Stdio::piped()).env("FAILPOINTS", format!("{point}={skip}1*return({action})"));
    let ended = command.output().expect("start the binary");
    let told = before + i64::from(!ended.stdout.is_empty() && point.contains(".end."));
    match action {
        "kill" => {
            use std::os::unix::process::ExitStatusExt as _;
            assert_eq!(ended.status.signal(), Some(9), "the fault was not reached: {}", folder.said());
        }
        _ => {
            assert_eq!(ended.status.code(), Some(1), "{}", folder.said());
            assert!(folder.said().contains(&format!("fault injected at `{point}`")), "{}", folder.said());
        }
    }
    if point.contains(".end.") {
        assert_eq!(told, before + 1, "the report comes before the end of the run");
    }
    whole_runs_only(&folder, told.min(before));
    let report = imported(&folder, &["shop"]);
    // Once the run's file is gone, the next run is another one.
    let is_new = point == "import.end.after";
    assert_eq!(report[0]["run"], before + 1 + i64::from(is_new));
    all_there(&folder, before + 1 + i64::from(is_new));
    imported(&folder, &["shop"]);
    all_there(&folder, before + 2 + i64::from(is_new));
    assert!(folder.find("data/imports", ".json").is_empty(), "a run that has ended is not under way");
}

/// Kills the command when `point` is passed for the `passes`th time, and proves.
pub(crate) fn killed(point: &str, passes: u32) {
    faulty(point, "kill", passes);
}

/// Lets the step at `point` fail, or succeed and be reported as failed, and proves.
pub(crate) fn told_of_an_error(point: &str, passes: u32) {
    faulty(point, "error", passes);
}

#[test]
fn killed_at_a_step_of_the_lake_a_run_is_there_once() {
    for point in ["lake.upload.before", "lake.upload.after", "lake.commit.before", "lake.commit.after"] {
        println!("{point}");
        faulty(point, "kill", 1);
    }
}

#[test]
fn a_commit_that_landed_and_was_reported_as_failed_is_not_made_twice() {
    let folder = Folder::new(&config(WHOLE));
    let _shop = shop(&folder);
    for runs in 1..=2 {
        // The first makes the tables, the second appends to them.
        let (mut command, _) = folder.command(&["import", "-c", "tarn.toml", "shop"]);
        command.env("FAILPOINTS", "lake.commit.after=return(error)");
        let ended = command.output().expect("start the binary");
        assert_eq!(ended.status.code(), Some(0), "{}", folder.said());
        all_there(&folder, runs);
    }
}

#[test]
fn two_processes_do_not_fill_one_table_at_a_time() {
    let folder = Folder::new(&config(WHOLE));
    let _shop = shop(&folder);
    fs::create_dir_all(folder.path("data/imports")).expect("a folder");
    let lock = fs::File::create(folder.path("data/imports/shop_track.lock")).expect("a file");
    lock.try_lock().expect("a lock");
    refused(&import(&folder, &["shop"]), 1, &["another process imports into the table `shop_track`"]);
    drop(lock);
    imported(&folder, &["shop"]);
    all_there(&folder, 1);
}
