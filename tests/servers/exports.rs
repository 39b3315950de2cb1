//! `tarn export` into PostgreSQL and MariaDB: what was imported from them goes back the same, once, whoever is killed.

use serde_json::{Value, json};

use super::databases::{config, make_types};
use super::mariadb_server::{self, Server as MariaDb};
use super::mariadb_types;
use super::postgres_server::{self, Server as Postgres};
use crate::harness::{Ended, Folder, seconds, wait_for};

/// Fault points of an export, in their order.
const POINTS: [&str; 6] = [
    "export.begin.before",
    "export.begin.after",
    "export.stage.before",
    "export.stage.after",
    "export.move.before",
    "export.move.after",
];

/// One of the two, as far as the tests treat them alike.
enum Server {
    Postgres(Postgres),
    MariaDb(MariaDb),
}

impl Server {
    /// A server, on which `ada` may write.
    fn postgres() -> Server {
        let server = Postgres::start();
        server.sql("GRANT ALL ON SCHEMA public TO ada; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO ada");
        Server::Postgres(server)
    }

    fn mariadb() -> Server {
        let server = MariaDb::start();
        server.sql("GRANT ALL ON shop.* TO ada");
        Server::MariaDb(server)
    }

    fn sql(&self, sql: &str) -> String {
        match self {
            Server::Postgres(server) => server.sql(sql),
            Server::MariaDb(server) => server.sql(sql),
        }
    }

    fn kill(&mut self) {
        match self {
            Server::Postgres(server) => server.kill(),
            Server::MariaDb(server) => server.kill(),
        }
    }

    fn up(&mut self) {
        match self {
            Server::Postgres(server) => server.up(),
            Server::MariaDb(server) => server.up(),
        }
    }

    /// `url` and `password` of a source.
    fn keys(&self) -> String {
        match self {
            Server::Postgres(server) => server.keys(),
            Server::MariaDb(server) => server.keys(),
        }
    }

    /// Whether an export has brought its rows, and not committed.
    fn holds_an_export(&self) -> bool {
        let sql = match self {
            Server::Postgres(_) => {
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tarn' AND state = 'idle in transaction' AND query LIKE 'DROP TABLE \"%'"
            }
            Server::MariaDb(_) => {
                "SELECT count(*) FROM information_schema.innodb_trx WHERE trx_rows_modified > 0 AND trx_query IS NULL"
            }
        };
        self.sql(sql) != "0"
    }

    /// Whether an export waits for another one of its job.
    fn lets_an_export_wait(&self) -> bool {
        let sql = match self {
            Server::Postgres(_) => {
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            }
            Server::MariaDb(_) => {
                "SELECT count(*) FROM information_schema.processlist WHERE user = 'ada' AND state LIKE 'User lock%'"
            }
        };
        self.sql(sql) != "0"
    }

    fn staging_tables(&self) -> String {
        self.sql("SELECT count(*) FROM information_schema.tables WHERE table_name LIKE 'tarn\\_staging%'")
    }
}

/// A source `shop` that reads a table of the server, and the table in the lake.
fn sourced(server: &Server, rest: &str) -> Folder {
    let folder = match server {
        Server::Postgres(server) => Folder::new(&config(server, rest)),
        Server::MariaDb(server) => Folder::new(&super::mariadb::config(server, rest)),
    };
    folder.drained();
    folder
}

fn export(folder: &Folder, armed: &str, what: &str, into: &str, more: &[&str]) -> Ended {
    let start = ["export", what, "--to", "shop", "--into", into, "--output", "json"];
    folder.tarn_armed(armed, &start.iter().chain(more).copied().collect::<Vec<_>>())
}

#[track_caller]
fn exported(folder: &Folder, what: &str, into: &str, more: &[&str]) -> Value {
    let ended = export(folder, "", what, into, more);
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.said);
    serde_json::from_str(&ended.printed).expect("JSON")
}

#[track_caller]
fn counts(told: &Value, wanted: [i64; 5]) {
    let found = ["exported", "inserted", "updated", "unmatched", "rejected"].map(|name| told[name].as_i64());
    assert_eq!(found, wanted.map(Some), "{told}");
}

#[test]
fn every_type_of_postgresql_goes_back_and_is_the_same_value() {
    let server = Postgres::start();
    make_types(&server);
    server.sql(
        "GRANT ALL ON SCHEMA public TO ada; CREATE TABLE back (LIKE types INCLUDING ALL); GRANT ALL ON back TO ada",
    );
    let folder = Folder::new(&config(&server, "table = \"types\""));
    folder.drained();
    counts(&exported(&folder, "types", "back", &[]), [3, 3, 0, 0, 0]);
    let differ = "SELECT string_agg(a.key || ': ' || coalesce(a.value, 'NULL') || ' is ' || coalesce(b.value, 'NULL'), ', ') \
         FROM types t JOIN back USING (id), jsonb_each_text(to_jsonb(t)) a JOIN jsonb_each_text(to_jsonb(back)) b USING (key) \
         WHERE a.value IS DISTINCT FROM b.value";
    assert_eq!(server.sql(differ), "");
    assert_eq!(
        server.sql("SELECT count(*) FROM types t JOIN back b USING (id) WHERE t::text = b::text"),
        "3"
    );
    folder.never_panicked();
}

#[test]
fn every_type_of_mariadb_goes_back_and_is_the_same_value() {
    let server = MariaDb::start();
    let columns = mariadb_types::make_types(&server);
    server.sql("GRANT ALL ON shop.* TO ada; CREATE TABLE back LIKE types");
    let folder = Folder::new(&super::mariadb::config(&server, "table = \"types\""));
    folder.drained();
    counts(&exported(&folder, "types", "back", &[]), [3, 3, 0, 0, 0]);
    for i in 0..columns {
        let same = format!(
            "SELECT count(*) FROM types t JOIN back b USING (id) WHERE t.c{i} <=> b.c{i} AND HEX(t.c{i}) <=> HEX(b.c{i})"
        );
        assert_eq!(
            server.sql(&same),
            "3",
            "column c{i}: {}",
            server.sql(&format!("SELECT id, c{i} FROM back"))
        );
    }
    folder.never_panicked();
}

/// Rows with text that has to be escaped, an unusual name, NULLs, numbers and times.
fn people(server: &Server, rows: u32) {
    let (series, quote) = match server {
        Server::Postgres(_) => (format!("generate_series(1, {rows}) AS n(i)"), '"'),
        Server::MariaDb(_) => (format!("(SELECT CAST(seq AS SIGNED) AS i FROM seq_1_to_{rows}) AS n"), '`'),
    };
    for table in ["people", "back"] {
        server.sql(&format!(
            "CREATE TABLE {table} (id INT NOT NULL PRIMARY KEY, {quote}Odd name{quote} VARCHAR(200), paid DECIMAL(12,4), ratio DOUBLE PRECISION, \
             seen TIMESTAMP NULL, born DATE)"
        ));
    }
    server.sql(&format!(
        "INSERT INTO people SELECT i, CASE WHEN i % 7 <> 0 THEN CONCAT('it''s ', i, ' \\\\ ☃ ü') END, (i % 1000 - 500) / 7.0, 1.0 / i, \
         TIMESTAMP '2026-01-02 03:04:05', DATE '1999-12-31' FROM {series}"
    ));
}

#[track_caller]
fn the_same(server: &Server, rows: u32) {
    assert_eq!(server.sql("SELECT count(*) FROM back"), rows.to_string());
    let missing = server.sql("SELECT count(*) FROM (SELECT * FROM people EXCEPT SELECT * FROM back) AS q");
    let more = server.sql("SELECT count(*) FROM (SELECT * FROM back EXCEPT SELECT * FROM people) AS q");
    assert_eq!((missing.as_str(), more.as_str()), ("0", "0"), "rows that are not the same");
}

/// Killed at each point, told of an error at each, the server killed when all rows are in and nothing is committed.
fn all_or_nothing_once(mut server: Server) {
    const ROWS: u32 = 20_000;
    people(&server, ROWS);
    let folder = sourced(&server, "table = \"people\"");
    for point in POINTS {
        for action in ["kill", "error"] {
            let armed = format!("{point}=1*return({action})");
            let ended = export(&folder, &armed, "people", "back", &["--writers", "2"]);
            match action {
                "kill" => assert_eq!(ended.signal, Some(9), "{point}: {}", ended.said),
                _ => assert_eq!(ended.code, Some(1), "{point}: {}", ended.said),
            }
            let committed = point == "export.move.after";
            assert_eq!(
                server.sql("SELECT count(*) FROM back") != "0",
                committed,
                "a part of an export is there"
            );
            let told = exported(&folder, "people", "back", &["--writers", "2"]);
            assert_eq!(told["already_done_at"].is_string(), committed, "{told}");
            counts(&told, [ROWS.into(), ROWS.into(), 0, 0, 0]);
            the_same(&server, ROWS);
            server.sql("DELETE FROM back");
            server.sql("DELETE FROM tarn_exports");
        }
    }
    // The one holds all rows in its transaction, the other waits for it; then the server is gone, and comes again.
    let begun = ["export", "people", "--to", "shop", "--into", "back"];
    let paused = |armed: &str| folder.start_armed(armed, &begun);
    let holds = paused("export.move.before=pause");
    wait_for("an export that holds its rows", seconds(60), || server.holds_an_export().then_some(()));
    let mut waits = paused("");
    wait_for("an export that waits", seconds(60), || server.lets_an_export_wait().then_some(()));
    assert!(waits.runs(), "{}", waits.said());
    holds.kill();
    let ended = waits.end(seconds(60));
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    the_same(&server, ROWS);
    server.sql("DELETE FROM back");
    server.sql("DELETE FROM tarn_exports");
    let holds = paused("export.move.before=pause");
    wait_for("an export that holds its rows", seconds(60), || server.holds_an_export().then_some(()));
    server.kill();
    holds.kill();
    server.up();
    assert_eq!(server.sql("SELECT count(*) FROM back"), "0");
    counts(&exported(&folder, "people", "back", &[]), [ROWS.into(), ROWS.into(), 0, 0, 0]);
    the_same(&server, ROWS);
    assert_eq!(server.staging_tables(), "0", "what the dead have left is gone");
    folder.never_panicked();
}

#[test]
fn killed_anywhere_an_export_to_postgresql_is_there_whole_or_not_at_all_and_once() {
    all_or_nothing_once(Server::postgres());
}

#[test]
fn killed_anywhere_an_export_to_mariadb_is_there_whole_or_not_at_all_and_once() {
    all_or_nothing_once(Server::mariadb());
}

/// Keys of two columns, rows that no key fits, rows that are refused: on either server.
fn by_keys_with_rejects(server: &Server) {
    people(server, 100);
    let unsigned = match server {
        Server::Postgres(_) => "CHECK (n >= 0)",
        Server::MariaDb(_) => "CHECK (`n` >= 0)",
    };
    server.sql("CREATE TABLE shops (shop VARCHAR(5) NOT NULL PRIMARY KEY)");
    server.sql("INSERT INTO shops VALUES ('a'), ('b')");
    server.sql(&format!(
        "CREATE TABLE stock (shop VARCHAR(5) NOT NULL, item INT NOT NULL, n INT {unsigned}, code INT UNIQUE, note VARCHAR(10) DEFAULT 'kept', \
         PRIMARY KEY (shop, item), FOREIGN KEY (shop) REFERENCES shops (shop))"
    ));
    server.sql(
        "INSERT INTO stock (shop, item, n, code) VALUES ('a', 1, 0, 1), ('a', 2, 0, 2), ('b', 1, 0, 99)",
    );
    let folder = sourced(server, "table = \"people\"").with_env("TARN_EXPORT_PASSWORD", password(server));
    let query = "SELECT 'a' AS shop, id AS item, id * 10 AS n FROM people WHERE id <= 5";
    let strict = export(&folder, "", query, "stock", &["--mode", "update", "--key", "shop,item", "--strict"]);
    assert!(strict.code == Some(1) && strict.said.contains("3 rows match nothing"), "{}", strict.said);
    counts(&exported(&folder, query, "stock", &["--mode", "update", "--key", "shop,item"]), [2, 0, 2, 3, 0]);
    // Rows that are as they were are found, too.
    let more = ["--mode", "upsert", "--key", "shop,item", "--run", "1"];
    counts(&exported(&folder, query, "stock", &more), [5, 3, 2, 0, 0]);
    let all = "SELECT shop, item, n, note FROM stock ORDER BY shop, item";
    let lines = server.sql(all).replace('\t', "|");
    assert_eq!(lines, "a|1|10|kept\na|2|20|kept\na|3|30|kept\na|4|40|kept\na|5|50|kept\nb|1|0|kept");

    // 20 is checked, 30 has no shop, 40 has the code of another row, 50 is too long a name, 60 and 61 are twins.
    let query = "SELECT CASE WHEN id = 30 THEN 'c' WHEN id = 50 THEN 'too long' ELSE 'a' END AS shop, CASE WHEN id = 61 THEN 60 ELSE id END AS item, \
         CASE WHEN id = 20 THEN -1 ELSE id END AS n, CASE WHEN id = 40 THEN 99 ELSE 1000 + id END AS code FROM people WHERE id >= 10";
    let more = ["--mode", "upsert", "--key", "shop,item", "--run", "2"];
    let refused = export(&folder, "", query, "stock", &more);
    assert!(refused.code == Some(1) && refused.said.contains("8 characters, and 5 fit"), "{}", refused.said);
    assert_eq!(server.sql("SELECT count(*) FROM stock"), "6", "all or nothing");
    let file = folder.path("rejects.ndjson").display().to_string();
    let more = [&more[..], &["--rejects", &file]].concat();
    counts(&exported(&folder, query, "stock", &more), [85, 85, 0, 0, 6]);
    assert_eq!(server.sql("SELECT count(*) FROM stock WHERE item >= 10"), "85");
    let lines = std::fs::read_to_string(&file).expect("a file");
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut items: Vec<i64> =
        lines.iter().map(|line| line["row"]["item"].as_i64().expect("a number")).collect();
    items.sort_unstable();
    assert_eq!(items, [20, 30, 40, 50, 60, 60]);
    let of = |item: i64| lines.iter().find(|line| line["row"]["item"] == item).expect("a line");
    assert_eq!(of(40)["row"], json!({"shop": "a", "item": 40, "n": 40, "code": 99}));
    for item in [20, 30, 40] {
        assert!(
            of(item)["reason"].as_str().is_some_and(|told| told.contains('[')),
            "the server's word: {}",
            of(item)
        );
    }

    let wrong = export(
        &folder,
        "",
        "SELECT id AS item, 'x' AS n, ratio AS code FROM people",
        "stock",
        &["--run", "3"],
    );
    assert_eq!(wrong.code, Some(2), "{}", wrong.said);
    for told in [
        "n: VARCHAR does not go into",
        "code: DOUBLE does not go into",
        "shop: `stock` takes no row without it",
    ] {
        assert!(wrong.said.contains(told), "`{told}`: {}", wrong.said);
    }
    let wrong = export(
        &folder,
        "",
        "SELECT 'a' AS shop, id AS item FROM people",
        "stock",
        &["--mode", "upsert", "--key", "item"],
    );
    assert!(wrong.code == Some(2) && wrong.said.contains("no unique index on the key"), "{}", wrong.said);
    let wrong = export(&folder, "", "people", "nowhere", &[]);
    assert!(wrong.code == Some(1) && wrong.said.contains("there is no table `nowhere`"), "{}", wrong.said);

    // The address instead of a source; the password is nowhere to be seen.
    let keys = server.keys();
    let address = keys.split('"').nth(1).expect("an address");
    let ended = folder.tarn(&["export", "people", "--to", address, "--into", "back", "--log", "debug"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    the_same(server, 100);
    assert!(!folder.said().contains(password(server)), "a password is shown");
    folder.never_panicked();
}

fn password(server: &Server) -> &'static str {
    match server {
        Server::Postgres(_) => postgres_server::PASSWORD,
        Server::MariaDb(_) => mariadb_server::PASSWORD,
    }
}

#[test]
fn rows_go_to_postgresql_by_their_keys_and_what_it_refuses_is_named() {
    by_keys_with_rejects(&Server::postgres());
}

#[test]
fn rows_go_to_mariadb_by_their_keys_and_what_it_refuses_is_named() {
    by_keys_with_rejects(&Server::mariadb());
}
