//! Imports of new rows only: each comes once, and what a run goes on from is in the lake with the rows below it.
//!
//! SQLite here; PostgreSQL and MariaDB are in `servers`.

use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Folder, verified};
use crate::imports::{config, import, imported, refused};

/// The job over new rows of `events`.
fn events_job(more: &str) -> String {
    config(&format!(
        "[[import]]\nname = \"job\"\nurl = \"sqlite:shop.sqlite\"\ntable = \"events\"\nincremental = true\n{more}\n"
    ))
}

#[test]
fn new_rows_come_once_wherever_a_run_is_killed() {
    const EACH: i64 = 40;
    let folder = Folder::new(&events_job("cursor = \"id\""));
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    shop.execute_batch("CREATE TABLE events (id INTEGER PRIMARY KEY, word TEXT)").expect("a table");
    let mut there = 0;
    let mut insert = || {
        let rows = format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EACH}) INSERT INTO events SELECT {there} + i, 'w' || i FROM n"
        );
        shop.execute_batch(&rows).expect("more rows");
        there += EACH;
        there
    };
    for point in [
        "import.begin.before",
        "import.begin.after",
        "import.upload.before",
        "import.upload.after",
        "import.commit.before",
        "lake.commit.before",
        "lake.commit.after",
        "import.commit.after",
        "import.end.before",
        "import.end.after",
    ] {
        insert();
        let (mut command, _) = folder.command(&["import", "-c", "tarn.toml", "job"]);
        let killed =
            command.env("FAILPOINTS", format!("{point}=return(kill)")).output().expect("start the binary");
        assert_eq!(killed.status.code(), None, "{point} was not reached: {}", folder.said());
        let there = insert();
        // Where the killed run is in the lake, the next one finds it, and the one after brings the rest.
        if imported(&folder, &["job"])[0]["already_there"] == true {
            imported(&folder, &["job"]);
        }
        assert_eq!(
            folder.sql("SELECT count(*) AS n, count(DISTINCT id) AS ids, max(id) AS last FROM job"),
            [json!({"n": there, "ids": there, "last": there})],
            "{point}"
        );
    }
    verified(&folder);
    folder.never_panicked();
}

#[test]
fn rows_with_the_cursor_of_the_bound_are_neither_lost_nor_doubled() {
    let folder = Folder::new(&events_job("cursor = \"at\""));
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    let change = |sql: &str| shop.execute_batch(sql).expect("changed");
    let run = |rows: i64, why: &str| {
        assert_eq!(imported(&folder, &["job", "--validate"])[0]["rows"], rows, "{why}");
    };
    change(
        "CREATE TABLE events (id INTEGER, word TEXT, at INTEGER); INSERT INTO events VALUES (1, 'a', 10), (2, 'b', 10)",
    );
    run(2, "all");
    run(0, "nothing is new");
    change("INSERT INTO events VALUES (3, 'c', 10), (2, 'b', 10), (4, 'd', 11)");
    run(3, "two that have the cursor of the bound, one of which equals a row that was taken");
    change("UPDATE events SET word = 'new', at = 12 WHERE id = 1");
    run(1, "a changed row comes as it is now");
    change(
        "ALTER TABLE events ADD COLUMN more TEXT; INSERT INTO events VALUES (5, 'e', 12, 'm'), (6, 'f', NULL, 'm')",
    );
    run(1, "a column more makes no row new, and one without a cursor is not read");
    assert!(folder.said().contains("rows without a cursor are not read"), "{}", folder.said());
    assert_eq!(
        folder.sql("SELECT id, count(*) AS n FROM job GROUP BY 1 ORDER BY 1"),
        [(1, 2), (2, 2), (3, 1), (4, 1), (5, 1)].map(|(id, n)| json!({"id": id, "n": n}))
    );
    verified(&folder);
    // What a bound says is of its cursor only, and all rows are no bound.
    folder.configure(&events_job("cursor = \"id\""));
    refused(
        &import(&folder, &["job"]),
        1,
        &["the new rows of `events` were told by something else than now"],
    );
    folder.configure(
        &events_job("cursor = \"at\"").replace("incremental = true", "").replace("cursor = \"at\"", ""),
    );
    run(7, "each run of this one brings all");
    folder.configure(&events_job("cursor = \"at\""));
    refused(&import(&folder, &["job"]), 1, &["the last run of `job` read all rows"]);
    folder.configure(&events_job("cursor = \"at\"\nmode = \"overwrite\""));
    let ended = import(&folder, &["job"]);
    assert!(
        ended.code == Some(2) && ended.said.contains("`overwrite` takes away the rows"),
        "{}",
        ended.said
    );
    // More rows with one cursor than can be remembered.
    change(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) INSERT INTO events SELECT i, 'w', 77, NULL FROM n",
    );
    folder.configure(&events_job("cursor = \"at\"\ninto = \"other\""));
    refused(&import(&folder, &["job"]), 1, &["more than 1000 rows of `events` have one `at`"]);
    folder.never_panicked();
}
