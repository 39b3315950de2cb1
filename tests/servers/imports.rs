//! `tarn import` from PostgreSQL and MariaDB: the same cells as a source brings, which are compared with the database's own elsewhere.

use serde_json::Value;

use super::databases::{HEAD, make_types};
use super::splits::{ROWS, make_pairs};
use super::{mariadb, mariadb_server, mariadb_types, postgres_server};
use crate::harness::{Folder, seconds, verified, wait_for};

/// A source and an import over every table of one database, beside each other.
fn both(keys: &str, exclude: &str) -> String {
    format!(
        "{HEAD}\n[[source]]\nname = \"shop\"\ntype = \"database\"\ntopic = \"shop.{{table}}\"\n{keys}\ntable = \"*\"\nexclude = [{exclude}]\n\
         [[table]]\nname = \"{{table}}\"\ntopic = \"shop.{{table}}\"\nunknown_fields = \"drop\"\n\
         [[import]]\nname = \"shop\"\ninto = \"imported_{{table}}\"\n{keys}\ntable = \"*\"\nexclude = [{exclude}]\n"
    )
}

fn job(keys: &str, rest: &str) -> Folder {
    Folder::new(&format!("{HEAD}\n[[import]]\nname = \"job\"\n{keys}\n{rest}\n"))
}

/// It ends well; its report.
#[track_caller]
fn imported(folder: &Folder, job: &str) -> Vec<Value> {
    let ended = folder.tarn(&["import", "-c", "tarn.toml", job, "--output", "json"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    serde_json::from_str(&ended.printed).expect("JSON")
}

/// Both ways of a table have the same rows.
#[track_caller]
fn same_cells(folder: &Folder, table: &str, rows: i64) {
    let columns = folder.sql(&format!(
        "SELECT column_name AS name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'imported_{table}' ORDER BY ordinal_position"
    ));
    let columns: Vec<String> =
        columns.iter().map(|column| format!("\"{}\"", column["name"].as_str().expect("a name"))).collect();
    assert!(!columns.is_empty() && !columns.contains(&"\"_offset\"".to_owned()), "{table}: {columns:?}");
    let columns = columns.join(", ");
    for (a, b) in
        [(format!("imported_{table}"), table.to_owned()), (table.to_owned(), format!("imported_{table}"))]
    {
        assert_eq!(folder.number(&format!("SELECT count(*) FROM \"{a}\"")), rows, "{a}");
        let differences = format!(
            "SELECT count(*) FROM (SELECT {columns} FROM \"{a}\" EXCEPT SELECT {columns} FROM \"{b}\") AS d"
        );
        assert_eq!(folder.number(&differences), 0, "rows of {a} that {b} has not");
    }
}

#[test]
fn what_is_imported_from_postgresql_is_what_a_source_brings_cell_by_cell() {
    let server = postgres_server::Server::start();
    make_types(&server);
    server.sql(
        "CREATE SCHEMA sales;
         CREATE TABLE artist (artist_id INT PRIMARY KEY, name VARCHAR(120));
         CREATE TABLE sales.\"Invoice Line\" (\"Line Id\" INT PRIMARY KEY, \"Größe, cm\" TEXT, at TIMESTAMPTZ, price NUMERIC(10,2));
         CREATE TABLE nothing (id INT PRIMARY KEY, word TEXT);
         CREATE TABLE parts (id INT, at DATE) PARTITION BY RANGE (at);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         CREATE TABLE left_out (x INT);
         INSERT INTO artist SELECT i, CASE WHEN i % 50 <> 0 THEN 'Artist ' || i || E' \\'\"\\\\\\n\\t☃' END FROM generate_series(1, 275) AS i;
         INSERT INTO sales.\"Invoice Line\" SELECT i, repeat('ü', i % 100), timestamptz '2009-01-01' - i * interval '7 days', i / 8.0 FROM generate_series(1, 2240) AS i;
         INSERT INTO parts SELECT i, date '2026-01-01' + i FROM generate_series(0, 57) AS i",
    );
    let folder = Folder::new(&both(&server.keys(), "\"left_*\""));
    folder.drained();
    let report = imported(&folder, "shop");
    assert_eq!(report.len(), 5);
    for (table, rows) in
        [("artist", 275), ("sales_invoice_line", 2240), ("nothing", 0), ("parts", 58), ("types", 3)]
    {
        same_cells(&folder, table, rows);
    }
    verified(&folder);
    folder.never_panicked();
}

#[test]
fn what_is_imported_from_mariadb_is_what_a_source_brings_cell_by_cell() {
    let server = mariadb_server::Server::start();
    server.sql(mariadb::SHOP);
    mariadb_types::make_types(&server);
    let folder = Folder::new(&both(&server.keys(), "\"left_*\""));
    folder.drained();
    assert_eq!(imported(&folder, "shop").len(), 13);
    for (table, rows) in [
        ("artist", 275),
        ("album", 347),
        ("genre", 25),
        ("mediatype", 3),
        ("track", 3503),
        ("employee", 8),
        ("customer", 59),
        ("invoice", 412),
        ("invoice_line", 2240),
        ("playlist", 18),
        ("playlisttrack", 18 * 484),
        ("nothing", 0),
        ("types", 3),
    ] {
        same_cells(&folder, table, rows);
    }
    verified(&folder);
    folder.never_panicked();
}

#[test]
fn readers_side_by_side_import_every_row_once_whatever_they_split_by() {
    let server = postgres_server::Server::start();
    make_pairs(&server);
    let (ids, want) = (
        "SELECT CAST(count(DISTINCT id) * 100000000 + sum(id) AS BIGINT) FROM job",
        ROWS * 100_000_000 + ROWS * (ROWS + 1) / 2,
    );
    for (what, column) in [
        ("table = \"pairs\"", "id"),
        ("table = \"pairs\"", "c_decimal"),
        ("table = \"pairs\"", "c_float"),
        ("table = \"pairs\"", "c_time"),
        ("table = \"pairs\"", "c_text"),
        ("table = \"pairs\"", "c_uuid"),
        ("table = \"pairs\"", "c_skew"),
        ("table = \"pairs\"", "c_nothing"),
        ("table = \"seen\"", "c_big"),
        ("query = \"SELECT id, c_date, amount * 2 AS twice FROM pairs WHERE $CONDITIONS\"", "c_date"),
    ] {
        let columns = if what.starts_with("table") { "columns = [\"id\"]\n" } else { "" };
        let folder = job(&server.keys(), &format!("{what}\n{columns}split_by = \"{column}\"\nreaders = 3"));
        let ended = folder.tarn(&["import", "-c", "tarn.toml", "job", "--validate", "--output", "json"]);
        assert_eq!(ended.code, Some(0), "{what} {column}: {}", ended.said);
        let report: Vec<Value> = serde_json::from_str(&ended.printed).expect("JSON");
        assert_eq!(report[0]["rows"], ROWS, "{what} {column}");
        // A column without values has one split that is empty, and one for NULL.
        let splits = report[0]["validated"].as_array().expect("splits").len();
        assert!(splits >= if column == "c_nothing" { 2 } else { 4 }, "{column}: {splits} splits");
        assert_eq!(folder.number(ids), want, "{what} {column}");
        verified(&folder);
        folder.never_panicked();
    }
    for (column, told) in [("j", "a type that cannot be split by"), ("none", "does not exist")] {
        let folder = job(&server.keys(), &format!("table = \"pairs\"\nsplit_by = \"{column}\""));
        let ended = folder.tarn(&["import", "-c", "tarn.toml", "job"]);
        assert!(
            ended.code == Some(1) && ended.said.contains(told) && ended.said.contains("hint:"),
            "{}",
            ended.said
        );
    }
    // A value that the lake has none for ends it, with the database's own word.
    let folder = job(&server.keys(), "table = \"pairs\"\nsplit_by = \"id\"");
    let ended = folder.tarn(&["import", "-c", "tarn.toml", "job"]);
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    for word in ["column `c_time` takes TIMESTAMP, not `infinity`", "hint:"] {
        assert!(ended.said.contains(word), "{word}: {}", ended.said);
    }
    assert!(folder.find("lake/job/_delta_log", ".json").is_empty(), "nothing is to be seen");
    folder.never_panicked();
}

/// Every transaction leaves the sum as it is; a reader with a snapshot of its own would see one half of some.
#[test]
fn readers_side_by_side_import_one_snapshot_while_rows_change() {
    let server = postgres_server::Server::start();
    make_pairs(&server);
    let transfer = "\\set a :client_id * 3000 + random(1, 3000)\n\\set b :client_id * 3000 + random(1, 3000)\nBEGIN;\n\
         UPDATE pairs SET amount = amount - 50 WHERE id = :a;\nUPDATE pairs SET amount = amount + 50 WHERE id = :b;\nCOMMIT;\n";
    let mut writers = server.bench(transfer, 2, 1_000_000);
    let folder = job(
        &server.keys(),
        "table = \"pairs\"\ncolumns = [\"id\", \"amount\"]\nsplit_by = \"id\"\nreaders = 4\nmode = \"overwrite\"",
    );
    for _ in 0..3 {
        assert_eq!(imported(&folder, "job")[0]["rows"], ROWS);
        assert_eq!(folder.number("SELECT CAST(sum(amount) AS BIGINT) FROM job"), ROWS * 100);
    }
    assert!(writers.try_wait().expect("a child").is_none(), "the writers wrote all the time");
    let _ = writers.kill();
    let _ = writers.wait();
    verified(&folder);
    folder.never_panicked();
}

#[test]
fn a_server_that_is_lost_in_mid_import_leaves_nothing_to_see() {
    let mut server = postgres_server::Server::start();
    // Its last rows do not come.
    let slow = "query = \"SELECT i, CASE WHEN i > 50000 THEN pg_sleep(3600)::text END AS w FROM generate_series(1, 50010) AS i\"";
    let keys = server.keys();
    let folder = job(&keys, slow);
    let (command, said) = folder.command(&["import", "-c", "tarn.toml", "job"]);
    let mut command = command;
    let mut running = command.spawn().expect("start the binary");
    wait_for("the import to read", seconds(60), || {
        let reading =
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'ada' AND wait_event = 'PgSleep'";
        (server.sql(reading) == "1").then_some(())
    });
    server.kill();
    let status = wait_for("the import to end", seconds(60), || running.try_wait().expect("a child"));
    let said = std::fs::read_to_string(said).expect("what it said");
    assert_eq!(status.code(), Some(1), "{said}");
    for word in ["is lost", "hint:", "nothing was imported: run it again"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(folder.find("lake/job/_delta_log", ".json").is_empty(), "nothing is to be seen");
    server.up();
    folder.configure(&format!(
        "{HEAD}\n[[import]]\nname = \"job\"\n{keys}\nquery = \"SELECT i FROM generate_series(1, 50010) AS i\"\n"
    ));
    let report = imported(&folder, "job");
    assert_eq!((&report[0]["run"], &report[0]["rows"]), (&Value::from(1), &Value::from(50_010)));
    verified(&folder);
    folder.never_panicked();
}
