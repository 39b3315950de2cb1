//! A table of PostgreSQL that several readers share: every row once, all of one moment.

use super::databases::config;
use super::postgres_server::Server;
use crate::harness::{Folder, exactly_once, seconds, wait_for};

pub(super) const ROWS: i64 = 6000;

/// A table with a column of each type that it can be split by; a fifth of their values is NULL. The order of `c_text` is not the database's.
pub(super) fn make_pairs(server: &Server) {
    server.sql(&format!(
        "CREATE TABLE pairs (id INT PRIMARY KEY, c_big BIGINT, c_decimal NUMERIC(20,4), c_float FLOAT8, c_date DATE, c_time TIMESTAMP,
             c_zoned TIMESTAMPTZ, c_text TEXT COLLATE \"en-x-icu\", c_bytes TEXT, c_char CHAR(9), c_uuid UUID, c_skew INT, c_nothing INT, amount BIGINT, j JSON);
         INSERT INTO pairs SELECT i, CASE i % 3 WHEN 0 THEN -9223372036854775808 + i WHEN 1 THEN 9223372036854775807 - i END, -i / 3.0,
             CASE i % 7 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE 1.0 / i END, date '2026-01-01' - i,
             CASE WHEN i = 1 THEN 'infinity' ELSE timestamp '2026-01-01' + i * interval '1 second' END, timestamptz '2026-03-29' + i * interval '1 hour',
             CASE i % 4 WHEN 0 THEN E'\\'' WHEN 1 THEN 'ä' || i WHEN 2 THEN upper(md5(i::text)) ELSE md5(i::text) END, md5(i::text), 'x' || i % 50,
             md5(i::text)::uuid, CASE WHEN i % 9 = 0 THEN i ELSE 7 END, NULL, 100, '1' FROM generate_series(1, {ROWS}) AS i;
         UPDATE pairs SET c_big = NULL, c_decimal = NULL, c_float = NULL, c_date = NULL, c_time = NULL, c_zoned = NULL, c_text = NULL, c_char = NULL,
             c_uuid = NULL, c_skew = NULL WHERE id % 5 = 0;
         CREATE VIEW seen AS SELECT * FROM pairs"
    ));
}

#[test]
fn readers_side_by_side_read_every_row_once_whatever_they_split_by() {
    let server = Server::start();
    make_pairs(&server);
    for column in [
        "id",
        "c_big",
        "c_decimal",
        "c_float",
        "c_date",
        "c_time",
        "c_zoned",
        "c_text",
        "c_bytes",
        "c_char",
        "c_uuid",
        "c_skew",
        "c_nothing",
    ] {
        let rest = format!("table = \"pairs\"\ncolumns = [\"id\"]\nsplit_by = \"{column}\"\nreaders = 3");
        let folder = Folder::new(&config(&server, &rest));
        folder.drained();
        let ids = "SELECT CAST(count(DISTINCT id) * 100000000 + sum(id) AS BIGINT) FROM pairs";
        assert_eq!(folder.number(ids), ROWS * 100_000_000 + ROWS * (ROWS + 1) / 2, "{column}");
        if column == "c_decimal" {
            exactly_once(&folder, "pairs", ROWS, 0);
        }
        let said = folder.said();
        let splits = said.matches("a split is staged").count();
        // A column without values has one split that is empty, and one for NULL.
        assert!(splits >= if column == "c_nothing" { 2 } else { 4 }, "{column}: {splits} splits: {said}");
        assert!(folder.find("data/staging", "").is_empty(), "staged rows are removed");
        folder.never_panicked();
    }
    for (table, column, told) in
        [("pairs", "j", "a type that cannot be split by"), ("pairs", "none", "does not exist")]
    {
        let folder = Folder::new(&config(&server, &format!("table = \"{table}\"\nsplit_by = \"{column}\"")));
        let ended = folder.drain();
        assert!(
            ended.code == Some(1) && ended.said.contains(told) && ended.said.contains("hint:"),
            "{}",
            ended.said
        );
    }
}

/// Every transaction leaves the sum as it is; a reader with a snapshot of its own would see one half of some.
#[test]
fn readers_side_by_side_see_one_snapshot_while_rows_change_and_survive_kills() {
    let server = Server::start();
    make_pairs(&server);
    // Each client has rows of its own, so that none waits for another one.
    let transfer = "\\set a :client_id * 1500 + random(1, 1500)\n\\set b :client_id * 1500 + random(1, 1500)\nBEGIN;\n\
         UPDATE pairs SET amount = amount - 50 WHERE id = :a;\nUPDATE pairs SET amount = amount + 50 WHERE id = :b;\nCOMMIT;\n";
    let mut writers = server.bench(transfer, 4, 1_000_000);
    for kills in [0, 1, 2] {
        let rest = "table = \"pairs\"\ncolumns = [\"id\", \"amount\"]\nwhere = \"id % 100 <> 1 OR true\"\nsplit_by = \"id\"\nreaders = 4";
        let folder = Folder::new(&config(&server, rest));
        for _ in 0..kills {
            let running = folder.start();
            wait_for("a split", seconds(60), || running.said().contains("a split is staged").then_some(()));
            running.kill();
        }
        folder.drained();
        assert_eq!(
            folder.number("SELECT CAST(sum(amount) AS BIGINT) FROM pairs"),
            ROWS * 100,
            "{kills} kills"
        );
        exactly_once(&folder, "pairs", ROWS, 0);
        folder.never_panicked();
    }
    assert!(writers.try_wait().expect("a child").is_none(), "the writers wrote all the time");
    let _ = writers.kill();
    let _ = writers.wait();
}
