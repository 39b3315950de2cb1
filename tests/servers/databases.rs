//! PostgreSQL as a source: what comes is what the database has, each row once.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::call;
use super::postgres_server::Server;
use crate::harness::{Client, Folder, count, exactly_once, seconds, verified, wait_for};

pub(super) const HEAD: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"
"#;

/// One source, with one table for each topic that it fills.
pub(super) fn config(server: &Server, rest: &str) -> String {
    let keys = server.keys();
    format!(
        "{HEAD}\n[[source]]\nname = \"shop\"\ntype = \"database\"\ntopic = \"shop.{{table}}\"\n{keys}\n{rest}\n\
         [[table]]\nname = \"{{table}}\"\ntopic = \"shop.{{table}}\"\ncommit_every = \"100ms\"\n"
    )
}

/// Rows as PostgreSQL's own JSON.
fn rows_of(server: &Server, sql: &str) -> Vec<Value> {
    let printed = server.sql(&format!("SELECT to_json(t) FROM ({sql}) AS t"));
    printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the source says of itself.
pub(super) fn source_status(client: &Client) -> Option<Value> {
    Some(client.get("/v1/status").ok()?.json()["sources"][0].clone())
}

pub(super) fn waits_for(client: &Client, what: &str) {
    wait_for(what, seconds(60), || {
        let source = source_status(client)?;
        let told = source["last_error"]["message"].as_str()?;
        (source["state"] == "waiting" && told.contains(what)).then_some(())
    });
}

#[test]
fn a_whole_database_of_postgresql_comes_cell_by_cell() {
    let server = Server::start();
    server.sql(
        "CREATE SCHEMA sales;
         CREATE TABLE artist (artist_id INT PRIMARY KEY, name VARCHAR(120));
         CREATE TABLE album (album_id INT PRIMARY KEY, title VARCHAR(160) NOT NULL, artist_id INT REFERENCES artist);
         CREATE TABLE track (track_id INT PRIMARY KEY, album_id INT, name TEXT, composer TEXT, unit_price NUMERIC(10,2), bytes BIGINT,
             added TIMESTAMP, seen TIMESTAMPTZ, day DATE, sold BOOLEAN, rating REAL, weight FLOAT8);
         CREATE TABLE sales.\"Invoice Line\" (\"Line Id\" INT PRIMARY KEY, \"Größe, cm\" TEXT);
         CREATE TABLE odd_names (id INT PRIMARY KEY, \"quote\"\"d\" TEXT); INSERT INTO odd_names VALUES (1, 'one');
         CREATE TABLE sales.left_out (x INT);
         CREATE TABLE nothing (id INT PRIMARY KEY, word TEXT);
         CREATE TABLE parts (id INT, at DATE) PARTITION BY RANGE (at);
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
         CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
         CREATE VIEW no_table AS SELECT 1 AS one;
         INSERT INTO artist SELECT i, CASE WHEN i % 50 <> 0 THEN 'Artist ' || i || E' \\'\"\\\\\\n\\t☃' END FROM generate_series(1, 275) AS i;
         INSERT INTO album SELECT i, repeat('ü', i % 100), i FROM generate_series(1, 200) AS i;
         INSERT INTO track SELECT i, i % 200, md5(i::text), NULLIF(md5(i::text || 'c'), ''), (i % 1000 - 500) / 100.0, i * 12345678901,
             timestamp '2009-01-01' + i * interval '1 hour 0.001 second', timestamptz '2009-01-01' - i * interval '7 days', date '1970-01-01' + i,
             i % 3 = 0, i / 7.0, i / 7.0 FROM generate_series(1, 3503) AS i;
         INSERT INTO sales.\"Invoice Line\" SELECT i, i || '\"' FROM generate_series(1, 100) AS i;
         INSERT INTO parts SELECT i, date '2026-01-01' + i FROM generate_series(0, 57) AS i",
    );
    let folder = Folder::new(&config(&server, "table = \"*\"\nexclude = [\"sales.left_*\"]"));
    folder.drained();
    let utc = |column: &str| format!("to_char({column}, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS {column}");
    let cells = format!(
        "track_id, album_id, name, composer, unit_price, bytes, {}, {}, day, sold, rating, weight",
        utc("added"),
        utc("seen")
    );
    let ours = "track_id, album_id, name, composer, unit_price, bytes, to_char(added, '%Y-%m-%dT%H:%M:%S%.3fZ') AS added, \
        to_char(seen, '%Y-%m-%dT%H:%M:%S%.3fZ') AS seen, day, sold, rating, weight";
    for (table, theirs, wanted, ours, key) in [
        ("artist", "artist", "artist_id, name", "artist_id, name", "artist_id"),
        ("album", "album", "album_id, title, artist_id", "album_id, title, artist_id", "album_id"),
        ("track", "track", cells.as_str(), ours, "track_id"),
        ("sales_invoice_line", "sales.\"Invoice Line\"", "*", "\"Line Id\", \"Größe, cm\"", "\"Line Id\""),
        ("parts", "parts", "id, at", "id, at", "id"),
    ] {
        let expected = rows_of(&server, &format!("SELECT {wanted} FROM {theirs} ORDER BY {key}"));
        let found = folder.sql(&format!("SELECT {ours} FROM {table} ORDER BY {key}"));
        assert_eq!(found.len(), expected.len(), "{table}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(without_nulls(found), without_nulls(expected), "{table}");
        }
        exactly_once(&folder, table, i64::try_from(expected.len()).expect("few rows"), 0);
    }
    assert_eq!(folder.number("SELECT count(*) FROM nothing"), 0, "a table without rows is a table");
    let tables = folder
        .sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1");
    let tables: Vec<&str> = tables.iter().filter_map(|row| row["table_name"].as_str()).collect();
    for no_table in ["sales_left_out", "no_table", "parts_1"] {
        assert!(!tables.contains(&no_table), "{tables:?}");
    }
    assert_eq!(
        folder.sql("SELECT id, _rest FROM odd_names"),
        [json!({"id": 1, "_rest": "{\"quote\\\"d\":\"one\"}"})]
    );
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM track"), 3503, "without a schedule there is one run");
    folder.never_panicked();
}

/// Cells by name, but for what is NULL, which our NDJSON may leave out; a number is one value however it is written.
pub(super) fn without_nulls(row: &Value) -> BTreeMap<String, Value> {
    let same = |value: &Value| match (value.as_i64(), value.as_f64()) {
        (None, Some(number)) if number.fract() == 0.0 => json!(format!("{number}")),
        (Some(number), _) => json!(format!("{number}")),
        _ => value.clone(),
    };
    let cells = row.as_object().expect("an object").iter();
    cells.filter(|(_, value)| !value.is_null()).map(|(name, value)| (name.clone(), same(value))).collect()
}

/// A column: its type there, two values, its type here, and how they read here as text. `None` for the same text.
pub(super) struct Typed {
    pub(super) declared: &'static str,
    pub(super) given: [&'static str; 2],
    pub(super) here: &'static str,
    pub(super) read: [Option<&'static str>; 2],
}

const fn typed(
    declared: &'static str,
    given: [&'static str; 2],
    here: &'static str,
    read: [Option<&'static str>; 2],
) -> Typed {
    Typed { declared, given, here, read }
}

/// The page docs/databases.md has the same list.
pub(super) const TYPES: &[Typed] = &[
    typed("SMALLINT", ["-32768", "32767"], "Int16", [None, None]),
    typed("INT", ["-2147483648", "2147483647"], "Int32", [None, None]),
    typed("BIGINT", ["-9223372036854775808", "9223372036854775807"], "Int64", [None, None]),
    typed("OID", ["0", "4294967295"], "Int64", [None, None]),
    typed("NUMERIC(20,4)", ["-1234567890123456.7891", "0.0001"], "Decimal128(20, 4)", [None, None]),
    typed(
        "NUMERIC(38,10)",
        ["1234567890123456789012345678.0123456789", "-0.0000000001"],
        "Decimal128(38, 10)",
        [None, None],
    ),
    typed("NUMERIC(3,-2)", ["12300", "-99900"], "Decimal128(5, 0)", [None, None]),
    typed("NUMERIC(2,5)", ["0.00012", "-0.00099"], "Decimal128(5, 5)", [None, None]),
    typed("NUMERIC", ["12345678901234567890123456789012345678901234567890.5", "-1.50"], "Utf8", [None, None]),
    typed("NUMERIC(60,2)", ["NaN", "-0.10"], "Utf8", [None, None]),
    typed("REAL", ["NaN", "3.4028235e38"], "Float32", [None, Some("3.4028235e38")]),
    typed("DOUBLE PRECISION", ["-Infinity", "5e-324"], "Float64", [Some("-inf"), Some("5e-324")]),
    typed("BOOLEAN", ["true", "false"], "Boolean", [None, None]),
    typed("TEXT", ["zwölf ☃ \\ \" 'x'", ""], "Utf8", [None, None]),
    typed("VARCHAR(10)", ["a  ", "\t"], "Utf8", [None, None]),
    typed("CHAR(5)", ["ab", "abcde"], "Utf8", [Some("ab   "), None]),
    typed("\"char\"", ["x", "~"], "Utf8", [None, None]),
    typed("NAME", ["n", "m"], "Utf8", [None, None]),
    typed("BYTEA", ["\\x00ff10", "\\x"], "Binary", [None, None]),
    typed("DATE", ["0001-01-01", "9999-12-31"], "Date32", [None, None]),
    typed("TIME", ["00:00:00", "23:59:59.999999"], "Utf8", [None, None]),
    typed("TIMETZ", ["01:02:03+05:30", "24:00:00-08"], "Utf8", [None, None]),
    typed(
        "TIMESTAMP",
        ["2026-03-29 02:30:00.123456", "0001-01-01 00:00:00"],
        "Timestamp(µs, \"UTC\")",
        [Some("2026-03-29T02:30:00.123456Z"), Some("0001-01-01T00:00:00Z")],
    ),
    typed(
        "TIMESTAMPTZ",
        ["2026-03-29 02:30:00.5+02", "9999-12-31 23:59:59.999999+00"],
        "Timestamp(µs, \"UTC\")",
        [Some("2026-03-29T00:30:00.500Z"), Some("9999-12-31T23:59:59.999999Z")],
    ),
    typed(
        "INTERVAL",
        ["1 year 2 mons -3 days 04:05:06.7", "-00:00:01"],
        "Utf8",
        [Some("P1Y2M-3DT4H5M6.7S"), Some("PT-1S")],
    ),
    typed(
        "UUID",
        ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "00000000-0000-0000-0000-000000000000"],
        "Utf8",
        [Some("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), None],
    ),
    typed("JSON", ["{\"b\": 1.0,  \"b\": [null]}", "\"text\""], "Utf8", [None, None]),
    typed(
        "JSONB",
        ["{\"b\": 1.0,  \"a\": [null]}", "null"],
        "Utf8",
        [Some("{\"a\": [null], \"b\": 1.0}"), None],
    ),
    typed("INT[]", ["{1,NULL,-3}", "{}"], "Utf8", [None, None]),
    typed("TEXT[]", ["{{a,\"b c\"},{\"\\\"\",NULL}}", "{\"\"}"], "Utf8", [None, None]),
    typed("mood", ["sad", "so so"], "Utf8", [None, None]),
    typed("price", ["1.50", "99999999.99"], "Decimal128(10, 2)", [None, None]),
    typed(
        "MONEY",
        ["-$1,234.56", "$92,233,720,368,547,758.07"],
        "Decimal128(19, 2)",
        [Some("-1234.56"), Some("92233720368547758.07")],
    ),
    typed("INET", ["192.168.0.1", "::1/64"], "Utf8", [None, None]),
    typed("CIDR", ["10.0.0.0/8", "2001:db8::/32"], "Utf8", [None, None]),
    typed("MACADDR", ["08:00:2b:01:02:03", "00:00:00:00:00:00"], "Utf8", [None, None]),
    typed("INT4RANGE", ["[1,10)", "empty"], "Utf8", [None, None]),
    typed("BIT(4)", ["1010", "0000"], "Utf8", [None, None]),
    typed("POINT", ["(1.5,-2)", "(0,0)"], "Utf8", [None, None]),
    typed("XML", ["<a>ä</a>", "text"], "Utf8", [None, None]),
    typed("pair", ["(1,\"a b\")", "(,)"], "Utf8", [None, None]),
    typed("TSVECTOR", ["'a':1 'b':2", ""], "Utf8", [None, None]),
];

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The table `types` with a column for each of them, and three rows, the last of NULLs.
pub(super) fn make_types(server: &Server) {
    let columns: String =
        TYPES.iter().enumerate().map(|(i, typed)| format!(", c{i} {}", typed.declared)).collect();
    let row =
        |which: usize| TYPES.iter().map(|typed| literal(typed.given[which])).collect::<Vec<_>>().join(", ");
    server.sql(&format!(
        "CREATE TYPE mood AS ENUM ('sad', 'so so'); CREATE DOMAIN price AS NUMERIC(10,2) CHECK (VALUE > 0); CREATE TYPE pair AS (a INT, b TEXT);
         CREATE TABLE types (id INT PRIMARY KEY{columns}); INSERT INTO types VALUES (0, {}), (1, {}); INSERT INTO types (id) VALUES (2)",
        row(0),
        row(1)
    ));
}

#[test]
fn every_type_of_postgresql_comes_as_the_docs_say_and_reads_back_the_same() {
    let server = Server::start();
    make_types(&server);
    let folder = Folder::new(&config(&server, "table = \"types\""));
    folder.drained();
    assert_eq!(folder.sql("SELECT reason FROM types_dead_letters"), Vec::<Value>::new());
    let mut back = String::from("SELECT 'all'");
    for (i, typed) in TYPES.iter().enumerate() {
        let here = folder.sql(&format!("SELECT arrow_typeof(c{i}) AS t FROM types WHERE id = 0"));
        let here = here[0]["t"]
            .as_str()
            .expect("a type")
            .replace("Utf8View", "Utf8")
            .replace("BinaryView", "Binary");
        assert_eq!(here, typed.here, "{}", typed.declared);
        let as_text = match typed.here {
            "Binary" => format!("CASE id WHEN 0 THEN c{i} = X'00ff10' WHEN 1 THEN c{i} = X'' END"),
            "Timestamp(µs, \"UTC\")" => format!("c{i}"),
            _ => format!("CAST(c{i} AS VARCHAR)"),
        };
        let rows = folder.sql(&format!("SELECT {as_text} AS v FROM types ORDER BY id"));
        assert!(rows[2].get("v").is_none_or(Value::is_null), "NULL of {}: {}", typed.declared, rows[2]);
        for which in [0, 1] {
            let read = typed.read[which].unwrap_or(typed.given[which]);
            match typed.here {
                "Binary" => assert_eq!(rows[which]["v"], json!(true)),
                _ => assert_eq!(rows[which]["v"], json!(read), "{}", typed.declared),
            }
            // What reads as text here is the same value when it is given back.
            if typed.here == "Utf8" {
                let (given, declared) = (literal(read), typed.declared);
                back += &format!(
                    " || (SELECT CASE WHEN c{i}::text = {given}::{declared}::text THEN '' ELSE ' {declared} {which}' END FROM types WHERE id = {which})"
                );
            }
        }
    }
    assert_eq!(server.sql(&format!("SET intervalstyle = 'iso_8601'; {back}")), "all");
    exactly_once(&folder, "types", 3, 0);
    folder.never_panicked();
}

#[test]
fn values_that_the_lake_has_none_for_are_dead_letters_with_the_databases_own_word() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE odd (id INT PRIMARY KEY, d DATE, t TIMESTAMP, z TIMESTAMPTZ, n NUMERIC(5,2), big TEXT);
         INSERT INTO odd (id, d) VALUES (1, 'infinity'), (2, '0044-03-15 BC'), (3, '10000-01-01');
         INSERT INTO odd (id, t) VALUES (4, '-infinity'), (5, '294276-12-31'); INSERT INTO odd (id, z) VALUES (6, 'infinity');
         INSERT INTO odd (id, n) VALUES (7, 'NaN'); INSERT INTO odd VALUES (8, '2026-01-01', '2026-01-01', '2026-01-01', 1.25, 'fits');
         INSERT INTO odd (id, big) VALUES (9, repeat('x', 3000000))",
    );
    let folder = Folder::new(&config(&server, "table = \"odd\""));
    folder.drained();
    assert_eq!(folder.sql("SELECT id, n FROM odd"), [json!({"id": 8, "n": 1.25})]);
    let dead = folder.sql("SELECT reason FROM odd_dead_letters ORDER BY _offset");
    assert_eq!(dead.len(), 8);
    for word in ["infinity", "0044-03-15 BC", "10000-01-01", "-infinity", "294276-12-31", "NaN"] {
        let told = |row: &Value| row["reason"].as_str().is_some_and(|reason| reason.contains(word));
        assert!(dead.iter().any(told), "{word}: {dead:?}");
    }
    exactly_once(&folder, "odd", 1, 8);
}

#[test]
fn columns_conditions_and_queries_choose_what_comes() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE orders (id INT PRIMARY KEY, secret TEXT, amount NUMERIC(10,2)); \
        INSERT INTO orders SELECT i, 'hidden', i FROM generate_series(1, 100) AS i",
    );
    let folder = Folder::new(&config(
        &server,
        "table = \"public.orders\"\ncolumns = [\"amount\", \"id\"]\nwhere = \"id > 90 -- the last ones\"",
    ));
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM public_orders WHERE _rest IS NULL"), 10);
    assert_eq!(folder.number("SELECT CAST(sum(amount) AS BIGINT) FROM public_orders"), 955);
    assert!(folder.tarn(&["sql", "-c", "tarn.toml", "SELECT secret FROM public_orders"]).code != Some(0));
    let query = Folder::new(
        &config(
            &server,
            "query = \"SELECT id % 3 AS rest, sum(amount) AS amount FROM orders GROUP BY 1 -- end\"",
        )
        .replace("{table}", "sums"),
    );
    query.drained();
    assert_eq!(query.number("SELECT count(*) FROM sums"), 3);
    assert_eq!(query.number("SELECT CAST(sum(CAST(amount AS DOUBLE)) AS BIGINT) FROM sums"), 5050);
}

const NEW_ROWS: &str = "table = \"events\"\nmode = \"append\"\nevery = \"50ms\"";

fn ids(folder: &Folder) -> Vec<i64> {
    let rows = folder.sql("SELECT id FROM events ORDER BY id");
    rows.iter().map(|row| row["id"].as_i64().expect("a number")).collect()
}

/// `WHERE id > 2`, and `WHERE xmin` beyond the snapshot's list of unfinished transactions, would both lose rows here.
#[test]
fn rows_of_transactions_that_commit_late_are_neither_lost_nor_doubled() {
    let server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY, at TIMESTAMPTZ DEFAULT now())");
    let folder = Folder::new(&config(&server, NEW_ROWS));
    let (mut late, mut prepared) = (server.session(), server.session());
    server.sql("INSERT INTO events VALUES (1)");
    folder.drained();
    assert_eq!(ids(&folder), [1]);
    // 2 to 4 are there first and commit last: one in a part of its transaction (a savepoint has a number of its own).
    late.sql("BEGIN; INSERT INTO events VALUES (2); SAVEPOINT s; INSERT INTO events VALUES (3)");
    prepared.sql("BEGIN; INSERT INTO events VALUES (4)");
    server.sql("INSERT INTO events VALUES (5)");
    folder.drained();
    assert_eq!(ids(&folder), [1], "what came after an open transaction waits for it");
    late.sql("RELEASE s; COMMIT");
    prepared.sql("PREPARE TRANSACTION 'x'");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3], "5 waits for the prepared transaction");
    late.sql("BEGIN; INSERT INTO events VALUES (6); SAVEPOINT s; INSERT INTO events VALUES (7); ROLLBACK TO s; INSERT INTO events VALUES (8)");
    server.sql("COMMIT PREPARED 'x'");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3, 4, 5]);
    late.sql("COMMIT");
    // A row that is locked, vacuumed or moved is no new row; one that is changed is.
    server.sql("SELECT * FROM events FOR UPDATE");
    server.sql("VACUUM (FULL, FREEZE) events");
    folder.drained();
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3, 4, 5, 6, 8]);
    server.sql("UPDATE events SET at = '2030-01-01' WHERE id = 5; DELETE FROM events WHERE id = 1");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3, 4, 5, 5, 6, 8], "a changed row comes as it is now");
    exactly_once(&folder, "events", 8, 0);
    folder.never_panicked();
}

/// Transactions of eight clients that pause before they commit, so that they commit in another order than they began.
pub(super) const WRITERS: &str = "\\set pause random(1, 60)\n\\set back random(1, 4)\nBEGIN;\nINSERT INTO events (client) VALUES (:client_id);\n\\sleep :pause ms\n\
    SAVEPOINT s;\nINSERT INTO events (client) VALUES (:client_id);\n\\if :back = 1\nROLLBACK TO s;\n\\endif\n\
    INSERT INTO events (client) VALUES (:client_id);\n\\if :back = 2\nROLLBACK;\n\\else\nCOMMIT;\n\\endif\n";

/// How often a test kills what it tests: TARN_KILLS, or `few` times.
pub(super) fn kills(few: usize) -> usize {
    std::env::var("TARN_KILLS").map_or(few, |kills| kills.parse().expect("TARN_KILLS is a number"))
}

#[test]
fn kills_of_both_while_transactions_commit_out_of_order_lose_and_double_nothing() {
    let kills = kills(8);
    let mut server = Server::start();
    server.sql("CREATE TABLE events (id BIGSERIAL PRIMARY KEY, client INT)");
    let folder = Folder::new(&config(&server, NEW_ROWS));
    let mut writers = server.bench(WRITERS, 8, 100_000);
    let mut seen = 0;
    for kill in 0..kills {
        let mut running = folder.start();
        let client = running.ready();
        seen = wait_for("more rows", seconds(60), || count(&client, "events").filter(|rows| *rows > seen));
        if kill == kills / 2 {
            server.kill();
            let _ = writers.wait();
            waits_for(&client, "tried again");
            server.up();
            writers = server.bench(WRITERS, 8, 100_000);
            seen = wait_for("rows of the server that came back", seconds(60), || {
                count(&client, "events").filter(|rows| *rows > seen + 10)
            });
        }
        running.kill();
    }
    let _ = writers.kill();
    let _ = writers.wait();
    // What the killed writers began is undone by the server, sooner or later.
    wait_for("the writers' transactions to end", seconds(30), || {
        (server.sql("SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL") == "0")
            .then_some(())
    });
    // The first goes on with the run that was killed; the second reads what came after that one's snapshot.
    folder.drained();
    folder.drained();
    let expected: Vec<i64> = server
        .sql("SELECT id FROM events ORDER BY id")
        .lines()
        .map(|id| id.parse().expect("a number"))
        .collect();
    let found = ids(&folder);
    assert!(found.len() > 100, "{} rows", found.len());
    assert_eq!(found, expected);
    exactly_once(&folder, "events", i64::try_from(expected.len()).expect("few rows"), 0);
    folder.never_panicked();
}

#[test]
fn what_goes_wrong_with_a_server_is_waited_for_with_a_hint() {
    let mut server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY); INSERT INTO events VALUES (1)");
    server.kill();
    let folder = Folder::new(&config(&server, NEW_ROWS));
    let running = folder.start();
    let client = wait_for("the process", seconds(60), || running.address());
    waits_for(&client, "look whether the server runs");
    server.up();
    wait_for("the row", seconds(60), || (count(&client, "events")? == 1).then_some(()));
    server.sql("ALTER ROLE ada PASSWORD 'other'; INSERT INTO events VALUES (2)");
    waits_for(&client, "mend the role or its password");
    server.sql(&format!("ALTER ROLE ada PASSWORD '{}'", super::postgres_server::PASSWORD));
    wait_for("the row", seconds(60), || (count(&client, "events")? == 2).then_some(()));
    server.sql("ALTER TABLE events ADD COLUMN extra TEXT DEFAULT 'more'; INSERT INTO events VALUES (3)");
    wait_for("the row", seconds(60), || (count(&client, "events")? == 3).then_some(()));
    assert_eq!(
        client.sql("SELECT _rest FROM events WHERE id = 3"),
        [json!({"_rest": "{\"extra\":\"more\"}"})]
    );
    server.sql("ALTER TABLE events RENAME TO elsewhere");
    let ended = running.end(seconds(60));
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    // It may go between two looks at it.
    let told = ["there is no table `events`", "does not exist"].iter().any(|told| ended.said.contains(told));
    assert!(told && ended.said.contains("hint:"), "{}", ended.said);
    server.sql("ALTER TABLE elsewhere RENAME TO events; INSERT INTO events VALUES (4)");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3, 4]);
    exactly_once(&folder, "events", 4, 0);
    let said = folder.said();
    assert!(!said.contains(super::postgres_server::PASSWORD), "the password was shown");
    folder.never_panicked();
}

#[test]
fn a_value_beyond_all_bounds_fails_with_a_hint_and_can_be_left_out() {
    let server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY, scan TEXT); INSERT INTO events VALUES (1, 'small'), (2, repeat('x', 500000000))");
    let folder = Folder::new(&config(&server, "table = \"events\""));
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("500000") && ended.said.contains("leave the column out"), "{}", ended.said);
    folder.configure(&config(&server, "table = \"events\"\ncolumns = [\"id\"]"));
    folder.drained();
    exactly_once(&folder, "events", 2, 0);
    // The same straight into the lake.
    let job = |rest: &str| {
        format!("{HEAD}\n[[import]]\nname = \"job\"\n{}\ntable = \"events\"\n{rest}\n", server.keys())
    };
    let folder = Folder::new(&job(""));
    let ended = folder.tarn(&["import", "-c", "tarn.toml", "job"]);
    assert!(ended.code == Some(1) && ended.said.contains("leave the column out"), "{}", ended.said);
    assert!(folder.find("lake/job/_delta_log", ".json").is_empty(), "nothing is to be seen");
    folder.configure(&job("columns = [\"id\"]"));
    assert_eq!(folder.tarn(&["import", "-c", "tarn.toml", "job"]).code, Some(0));
    assert_eq!(folder.number("SELECT count(*) FROM job"), 2);
    folder.never_panicked();
}

#[test]
fn another_database_in_the_place_of_the_first_is_refused() {
    let (first, second) = (Server::start(), Server::start());
    for server in [&first, &second] {
        server.sql("CREATE TABLE events (id INT PRIMARY KEY); INSERT INTO events VALUES (1)");
    }
    let folder = Folder::new(&config(&first, NEW_ROWS));
    folder.drained();
    folder.configure(&config(&second, NEW_ROWS));
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(ended.said.contains("another database than the one"), "{}", ended.said);
    folder.configure(&config(&first, NEW_ROWS));
    folder.drained();
    assert_eq!(ids(&folder), [1]);
    verified(&folder);
}

#[test]
fn a_certificate_is_checked_before_anything_is_said() {
    let server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY); INSERT INTO events VALUES (1)");
    for name in ["server", "other"] {
        let (key, certificate) =
            (server.path(&format!("data/{name}.key")), server.path(&format!("data/{name}.crt")));
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        ]);
        openssl.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        openssl
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate);
        call(openssl.stdin(Stdio::null()));
        call(Command::new("chown").arg("postgres:postgres").args([&key, &certificate]));
    }
    server.sql("ALTER SYSTEM SET ssl = on");
    server.sql("SELECT pg_reload_conf()");
    wait_for("TLS", seconds(30), || (server.sql("SHOW ssl") == "on").then_some(()));
    let at = |certificate: &str, host: &str| {
        let path = server.path(&format!("data/{certificate}.crt")).display().to_string();
        config(&server, NEW_ROWS)
            .replace("@127.0.0.1:", &format!("@{host}:"))
            .replace("/shop\"", &format!("/shop?sslmode=verify-full&sslrootcert={path}\""))
    };
    let folder = Folder::new(&at("server", "localhost"));
    folder.drained();
    assert_eq!(ids(&folder), [1]);
    for (certificate, host) in [("other", "localhost"), ("server", "127.0.0.1")] {
        folder.configure(&at(certificate, host));
        let mut running = folder.start();
        let client = running.ready();
        waits_for(&client, "cannot be trusted");
        assert_eq!(running.stop().code, Some(0));
    }
    folder.never_panicked();
}

#[test]
fn the_example_in_configs_runs_as_its_head_says() {
    let server = Server::start();
    server.sql(
        "CREATE SCHEMA audit; CREATE TABLE audit.changes (x INT); CREATE TABLE orders_backup (x INT);
         CREATE TABLE customers (id INT PRIMARY KEY, name TEXT, city TEXT);
         CREATE TABLE orders (id INT PRIMARY KEY, customer INT, amount NUMERIC(10,2));
         INSERT INTO customers VALUES (1, 'Ada', 'London'), (2, 'Edsger', NULL); INSERT INTO orders VALUES (1, 1, 9.00), (2, 2, 39.90)",
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/postgres.toml");
    let text = std::fs::read_to_string(path).expect("read the example");
    let folder = Folder::new(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("data-postgres", "data"))
        .with_env("PG_URL", &format!("postgres://ada@127.0.0.1:{}/shop", server.port))
        .with_env("PG_PASSWORD", super::postgres_server::PASSWORD);
    folder.drained();
    let joined = "SELECT c.name, CAST(sum(o.amount) AS DOUBLE) AS amount FROM orders o JOIN customers c ON c.id = o.customer GROUP BY 1 ORDER BY 1";
    assert_eq!(
        folder.sql(joined),
        [json!({"name": "Ada", "amount": 9.0}), json!({"name": "Edsger", "amount": 39.9})]
    );
    assert_eq!(folder.sql("SELECT id, city FROM customers_nightly"), [json!({"id": 1, "city": "London"})]);
    server.sql("INSERT INTO orders VALUES (3, 1, 1.00)");
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM orders"), 3, "only what is new came");
    let tables = folder.sql("SELECT table_name FROM information_schema.tables");
    assert!(
        !tables
            .iter()
            .any(|row| row["table_name"] == "audit_changes" || row["table_name"] == "orders_backup")
    );
}
