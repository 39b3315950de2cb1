//! MariaDB as a source: what comes is what the database has, each row once.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::call;
use super::databases::{HEAD, source_status, waits_for, without_nulls};
use super::mariadb_server::{Server, own};
use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

/// One source, with one table for each topic that it fills.
pub(super) fn config(server: &Server, rest: &str) -> String {
    config_with(&server.keys(), rest)
}

fn config_with(keys: &str, rest: &str) -> String {
    format!(
        "{HEAD}\n[[source]]\nname = \"shop\"\ntype = \"database\"\ntopic = \"shop.{{table}}\"\n{keys}\n{rest}\n\
         [[table]]\nname = \"{{table}}\"\ntopic = \"shop.{{table}}\"\ncommit_every = \"100ms\"\n"
    )
}

/// A shop of eleven tables with rows of every kind that such a shop has.
pub(super) const SHOP: &str = "
    SET sql_mode = 'NO_UNSIGNED_SUBTRACTION';
    CREATE TABLE Artist (ArtistId INT PRIMARY KEY, Name VARCHAR(120));
    CREATE TABLE Album (AlbumId INT PRIMARY KEY, Title VARCHAR(160) NOT NULL, ArtistId INT NOT NULL, FOREIGN KEY (ArtistId) REFERENCES Artist (ArtistId));
    CREATE TABLE Genre (GenreId TINYINT UNSIGNED PRIMARY KEY, Name VARCHAR(120) CHARACTER SET latin1);
    CREATE TABLE MediaType (MediaTypeId SMALLINT PRIMARY KEY, Name ENUM('MPEG', 'AAC', 'PROTECTED') NOT NULL);
    CREATE TABLE Track (TrackId INT UNSIGNED PRIMARY KEY, Name VARCHAR(200) NOT NULL, AlbumId INT, MediaTypeId SMALLINT, GenreId TINYINT UNSIGNED,
        Composer TEXT, Milliseconds MEDIUMINT, Bytes BIGINT UNSIGNED, UnitPrice DECIMAL(10,2) NOT NULL, Weight DOUBLE, Added DATETIME(6), Seen TIMESTAMP(3) NULL);
    CREATE TABLE Employee (EmployeeId INT PRIMARY KEY, LastName VARCHAR(20), ReportsTo INT, BirthDate DATE, HireDate DATETIME, Active BOOLEAN);
    CREATE TABLE Customer (CustomerId INT PRIMARY KEY, FirstName VARCHAR(40), Email VARCHAR(60), SupportRepId INT);
    CREATE TABLE Invoice (InvoiceId INT PRIMARY KEY, CustomerId INT, InvoiceDate DATETIME, Total DECIMAL(12,4));
    CREATE TABLE `Invoice Line` (`Line Id` INT PRIMARY KEY, `Größe, cm` TEXT, UnitPrice DECIMAL(10,2), Quantity INT);
    CREATE TABLE Playlist (PlaylistId INT PRIMARY KEY, Name VARCHAR(120));
    CREATE TABLE PlaylistTrack (PlaylistId INT, TrackId INT, PRIMARY KEY (PlaylistId, TrackId));
    CREATE TABLE left_out_1 (x INT); CREATE TABLE nothing (id INT PRIMARY KEY, word TEXT);
    CREATE VIEW no_table AS SELECT 1 AS one; CREATE SEQUENCE numbers;
    INSERT INTO Artist SELECT seq, IF(seq % 50 <> 0, CONCAT('Artist ', seq, ' \\'\"\\\\\\n\\t☃🦆'), NULL) FROM seq_1_to_275;
    INSERT INTO Album SELECT seq, REPEAT('ü', seq % 100), seq % 275 + 1 FROM seq_1_to_347;
    INSERT INTO Genre SELECT seq, CONCAT('Café ', seq) FROM seq_1_to_25; INSERT INTO MediaType VALUES (1, 'MPEG'), (2, 'AAC'), (3, 'PROTECTED');
    INSERT INTO Track SELECT seq, MD5(seq), seq % 347, seq % 3 + 1, seq % 25, IF(seq % 7 = 0, NULL, SHA1(seq)), seq * 1000 - 2000000, seq * 12345678901,
        (seq % 1000 - 500) / 100.0, seq / 7e0, '2009-01-01' + INTERVAL seq * 3600 SECOND + INTERVAL seq MICROSECOND, '2009-01-01' + INTERVAL seq * 60 SECOND
        FROM seq_1_to_3503;
    INSERT INTO Employee SELECT seq, CONCAT('E', seq), NULLIF(seq - 1, 0), '1960-01-01' + INTERVAL seq YEAR, '2002-08-14', seq % 2 FROM seq_1_to_8;
    INSERT INTO Customer SELECT seq, CONCAT('Zoë ', seq), CONCAT(seq, '@example.com'), seq % 8 + 1 FROM seq_1_to_59;
    INSERT INTO Invoice SELECT seq, seq % 59 + 1, '2009-01-01' + INTERVAL seq DAY, seq / 3 FROM seq_1_to_412;
    INSERT INTO `Invoice Line` SELECT seq, CONCAT(seq, '\"'), 0.99, 1 FROM seq_1_to_2240;
    INSERT INTO Playlist SELECT seq, '' FROM seq_1_to_18; INSERT INTO PlaylistTrack SELECT a.seq, b.seq FROM seq_1_to_18 AS a, seq_1_to_484 AS b";

/// Tables of the shop: here, there, their key, and their columns, times with `@` before them.
const TABLES: &[(&str, &str, &[&str])] = &[
    ("artist", "Artist", &["ArtistId", "Name"]),
    ("album", "Album", &["AlbumId", "Title", "ArtistId"]),
    ("genre", "Genre", &["GenreId", "Name"]),
    ("mediatype", "MediaType", &["MediaTypeId", "Name"]),
    (
        "track",
        "Track",
        &[
            "TrackId",
            "Name",
            "AlbumId",
            "MediaTypeId",
            "GenreId",
            "Composer",
            "Milliseconds",
            "Bytes",
            "UnitPrice",
            "Weight",
            "@Added",
            "@Seen",
        ],
    ),
    ("employee", "Employee", &["EmployeeId", "LastName", "ReportsTo", "BirthDate", "@HireDate", "Active"]),
    ("customer", "Customer", &["CustomerId", "FirstName", "Email", "SupportRepId"]),
    ("invoice", "Invoice", &["InvoiceId", "CustomerId", "@InvoiceDate", "Total"]),
    ("invoice_line", "Invoice Line", &["Line Id", "Größe, cm", "UnitPrice", "Quantity"]),
    ("playlist", "Playlist", &["PlaylistId", "Name"]),
    ("playlisttrack", "PlaylistTrack", &["PlaylistId", "TrackId"]),
];

#[test]
fn a_whole_database_of_mariadb_comes_cell_by_cell() {
    let server = Server::start();
    server.sql(SHOP);
    let folder = Folder::new(&config(&server, "table = \"*\"\nexclude = [\"left_*\"]"));
    folder.drained();
    for (here, there, columns) in TABLES {
        let (mut theirs, mut ours, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for column in *columns {
            let name = column.trim_start_matches('@');
            match column.starts_with('@') {
                true => {
                    theirs.push(format!("'{name}', DATE_FORMAT(`{name}`, '%Y-%m-%dT%H:%i:%s.%fZ')"));
                    ours.push(format!("to_char(\"{name}\", '%Y-%m-%dT%H:%M:%S%.6fZ') AS \"{name}\""));
                }
                false => {
                    theirs.push(format!("'{name}', `{name}`"));
                    ours.push(format!("\"{name}\""));
                }
            }
            order.push(name);
        }
        let (first, second) = (order[0], order[1]);
        let printed = server.sql(&format!(
            "SELECT JSON_OBJECT({}) FROM `{there}` ORDER BY `{first}`, `{second}`",
            theirs.join(", ")
        ));
        let expected: Vec<Value> =
            printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let found =
            folder.sql(&format!("SELECT {} FROM {here} ORDER BY \"{first}\", \"{second}\"", ours.join(", ")));
        assert_eq!(found.len(), expected.len(), "{here}");
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(without_nulls(found), without_nulls(expected), "{here}");
        }
        exactly_once(&folder, here, i64::try_from(expected.len()).expect("few rows"), 0);
    }
    assert_eq!(folder.number("SELECT count(*) FROM nothing"), 0, "a table without rows is a table");
    let tables = folder
        .sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1");
    let tables: Vec<&str> = tables.iter().filter_map(|row| row["table_name"].as_str()).collect();
    for no_table in ["left_out_1", "no_table", "numbers"] {
        assert!(!tables.contains(&no_table), "{tables:?}");
    }
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM track"), 3503, "without a schedule there is one run");
    folder.never_panicked();
}

#[test]
fn columns_conditions_and_queries_choose_what_comes_and_nothing_is_changed() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE orders (id INT PRIMARY KEY, secret TEXT, amount DECIMAL(10,2));
         INSERT INTO orders SELECT seq, 'hidden', seq FROM seq_1_to_100;
         CREATE DATABASE other; CREATE TABLE other.notes (id INT); INSERT INTO other.notes VALUES (7); GRANT ALL ON shop.* TO ada",
    );
    let folder = Folder::new(&config(
        &server,
        "table = \"shop.orders\"\ncolumns = [\"amount\", \"id\"]\nwhere = \"orders.id > 90 -- the last ones\"",
    ));
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM shop_orders WHERE _rest IS NULL"), 10);
    assert_eq!(folder.number("SELECT CAST(sum(amount) AS BIGINT) FROM shop_orders"), 955);
    assert!(folder.tarn(&["sql", "-c", "tarn.toml", "SELECT secret FROM shop_orders"]).code != Some(0));

    let said = |arguments: &[&str]| {
        let ended = folder.tarn(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said);
        ended.printed
    };
    folder.configure(&config(&server, "table = \"*\""));
    let tables = said(&["source", "-c", "tarn.toml", "--output", "json", "tables", "shop"]);
    let tables: Vec<Value> = serde_json::from_str(&tables).expect("JSON");
    assert_eq!(tables, [json!({"table": "orders", "topic": "shop.orders"})]);
    let columns = said(&["source", "-c", "tarn.toml", "--output", "json", "schema", "shop", "orders"]);
    let columns: Vec<Value> = serde_json::from_str(&columns).expect("JSON");
    assert_eq!(columns[2], json!({"column": "amount", "type": "DECIMAL(10,2)"}));
    let columns = said(&["source", "-c", "tarn.toml", "--output", "json", "schema", "shop", "other.notes"]);
    assert!(columns.contains("INT"), "{columns}");
    let eval =
        |query: &str| ["eval", "-c", "tarn.toml", "shop", query, "--output", "ndjson"].map(str::to_owned);
    let asked = |query: &str| said(&eval(query).each_ref().map(String::as_str));
    assert_eq!(asked("SELECT id FROM orders ORDER BY id DESC LIMIT 2;"), "{\"id\":100}\n{\"id\":99}\n");
    assert_eq!(asked("/* names */ SHOW TABLES"), "{\"Tables_in_shop\":\"orders\"}\n");
    let long = asked("SELECT REPEAT('x', 40000000) AS x");
    assert_eq!(long.len(), 40_000_000 + "{\"x\":\"\"}\n".len(), "a row that comes in pieces");
    for (query, told) in [
        ("DROP TABLE orders", "this is no query"),
        ("/*!40000 DROP TABLE orders */", "this is no query"),
        ("INSERT INTO orders (id) VALUES (0)", "this is no query"),
        ("SELECT 1 AS a, 2 AS a", "two columns `a`"),
        ("SELECT ?", "there is a `?`"),
        ("SELECT nothing FROM orders", "Unknown column"),
    ] {
        let ended = folder.tarn(&eval(query).each_ref().map(String::as_str));
        assert_eq!(ended.code, Some(1), "{query}");
        assert!(ended.said.contains(told) && ended.said.contains("hint:"), "{query}: {}", ended.said);
    }
    assert_eq!(server.sql("SELECT COUNT(*) FROM orders"), "100");

    let query =
        "query = \"SELECT id % 3 AS rest, SUM(amount) AS amount FROM orders GROUP BY 1 ORDER BY 2 -- end\"";
    let query = Folder::new(&config(&server, query).replace("{table}", "sums"));
    query.drained();
    assert_eq!(query.number("SELECT count(*) FROM sums"), 3);
    assert_eq!(query.number("SELECT CAST(sum(CAST(amount AS DOUBLE)) AS BIGINT) FROM sums"), 5050);
}

const NEW_ROWS: &str =
    "table = \"events\"\nmode = \"append\"\ncursor = \"id\"\nevery = \"50ms\"\nlag = \"500ms\"";

fn ids(folder: &Folder) -> Vec<i64> {
    let rows = folder.sql("SELECT id FROM events ORDER BY id");
    rows.iter().map(|row| row["id"].as_i64().expect("a number")).collect()
}

/// `WHERE id > 2` would lose 1 here, and 3 after it; so would any lag that is shorter than this test.
#[test]
fn rows_of_transactions_of_mariadb_that_commit_late_are_neither_lost_nor_doubled() {
    const WAITS: &str = "transactions are waited for";
    let server = Server::start();
    server.sql("CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, word TEXT)");
    let (mut late, mut prepared) = (server.session(), server.session());
    late.sql("BEGIN; INSERT INTO events (word) VALUES ('early'); SAVEPOINT s; INSERT INTO events (word) VALUES ('back'); ROLLBACK TO s");
    server.sql("INSERT INTO events (word) VALUES ('late')");
    let folder = Folder::new(&config(&server, NEW_ROWS));
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the run to wait", seconds(60), || running.said().contains(WAITS).then_some(()));
    // Whoever only reads is not waited for.
    let mut reader = server.session();
    reader.sql("START TRANSACTION WITH CONSISTENT SNAPSHOT; SELECT COUNT(*) FROM events");
    assert_eq!(count(&client, "events").unwrap_or(0), 0, "what came after an open transaction waits for it");
    prepared.sql("XA START 'x'; INSERT INTO events (word) VALUES ('prepared'); XA END 'x'; XA PREPARE 'x'");
    late.sql("COMMIT");
    wait_for("both rows", seconds(60), || (count(&client, "events")? == 2).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    server.sql("INSERT INTO events (word) VALUES ('after the prepared one')");
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the run to wait again", seconds(60), || running.said().contains(WAITS).then_some(()));
    // A prepared transaction outlives the session that made it: a few looks at it after that.
    drop(prepared);
    server.sql("DO SLEEP(1)");
    assert_eq!(count(&client, "events"), Some(2));
    server.sql("XA COMMIT 'x'");
    wait_for("all rows", seconds(60), || (count(&client, "events")? == 4).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    assert_eq!(ids(&folder), [1, 3, 4, 5]);
    exactly_once(&folder, "events", 4, 0);
    assert!(!folder.said().contains("transactions cannot be seen"));

    // Who may not see transactions is told what the lag is worth.
    server.sql("CREATE USER eve IDENTIFIED BY 'e'; GRANT SELECT ON shop.* TO eve");
    let keys = format!("url = \"mysql://eve:e@127.0.0.1:{}/shop\"", server.port);
    let blind = Folder::new(&config_with(&keys, NEW_ROWS));
    blind.drained();
    assert_eq!(ids(&blind), [1, 3, 4, 5]);
    let said = blind.said();
    assert!(said.contains("transactions cannot be seen") && said.contains("lag_ms=500"), "{said}");
    folder.never_panicked();
}

/// Cursors of every type, with the values of two runs; those of the first end with the one that the second begins with.
const CURSORS: &[(&str, &str, &[&str], &[&str])] = &[
    ("BIGINT UNSIGNED", "c_unsigned", &["0", "9223372036854775808"], &["18446744073709551615"]),
    ("DECIMAL(20,4)", "c_decimal", &["-3.5", "1234567890123456.7891"], &["1234567890123456.7892"]),
    ("DOUBLE", "c_double", &["-1e300", "0.1"], &["0.30000000000000004"]),
    ("FLOAT", "c_float", &["-0.5", "0.1"], &["16777216"]),
    ("DATE", "c_date", &["'1999-12-31'", "'2026-01-01'"], &["'2026-01-02'"]),
    (
        "DATETIME(6)",
        "c_datetime",
        &["'2026-01-01'", "'2026-01-01 00:00:00.000001'"],
        &["'2026-01-01 00:00:00.000002'"],
    ),
    (
        "TIMESTAMP(3) NULL",
        "c_timestamp",
        &["'2026-01-01'", "'2026-03-29 02:30:00.5'"],
        &["'2026-03-29 02:30:00.501'"],
    ),
    ("VARCHAR(9)", "c_text", &["'A'", "'a'"], &["'b'", "'ä'"]),
    ("VARBINARY(9)", "c_bytes", &["x'00'", "x'ff'"], &["x'ff00'"]),
    ("YEAR", "c_year", &["1999", "2025"], &["2026"]),
];

#[test]
fn ties_at_the_bound_are_neither_lost_nor_doubled_whatever_the_cursor() {
    let server = Server::start();
    let mut expected = Vec::new();
    for (declared, table, first, second) in CURSORS {
        server
            .sql(&format!("CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, c {declared}, KEY (c))"));
        let tied = first.last().expect("a value");
        let values: Vec<String> = first.iter().chain([tied]).map(|value| format!("({value})")).collect();
        server.sql(&format!("INSERT INTO {table} (c) VALUES {}, (NULL)", values.join(", ")));
        // Two more with the largest cursor of the first run, one of which is like none before.
        expected.push((*table, tied, second, first.len() + 1 + 2 + second.len()));
    }
    let rest = "table = \"*\"\nmode = \"last_modified\"\ncursor = \"c\"\nevery = \"1h\"\nlag = \"1ms\"";
    let folder = Folder::new(&config(&server, rest));
    folder.drained();
    let before: i64 = expected.iter().map(|(.., second, rows)| (rows - 2 - second.len()) as i64).sum();
    let union: Vec<String> =
        expected.iter().map(|(table, ..)| format!("SELECT '{table}' AS t, id FROM {table}")).collect();
    let all = format!(
        "SELECT count(*) FROM (SELECT DISTINCT t, id FROM ({}) AS u) AS d",
        union.join(" UNION ALL ")
    );
    assert_eq!(folder.number(&all), before);
    for (table, tied, second, _) in &expected {
        let values: Vec<String> =
            [*tied, *tied].into_iter().chain(second.iter()).map(|value| format!("({value})")).collect();
        server.sql(&format!("INSERT INTO {table} (c) VALUES {}", values.join(", ")));
    }
    folder.drained();
    folder.drained();
    let counts: Vec<String> = expected
        .iter()
        .map(|(table, _, _, rows)| {
            format!("SELECT '{table}' AS t, count(*) - {rows} AS more, count(DISTINCT id) - {rows} AS others FROM {table}")
        })
        .collect();
    for counted in folder.sql(&counts.join(" UNION ALL ")) {
        assert_eq!((&counted["more"], &counted["others"]), (&json!(0), &json!(0)), "{counted}");
    }
    exactly_once(&folder, "c_text", 7, 0);
    assert!(folder.said().contains("rows without a cursor are not read"));
    // A changed row comes again where the cursor grows with it.
    server.sql("UPDATE c_datetime SET c = '2026-02-01' WHERE id = 1");
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM c_datetime WHERE id = 1"), 2);
    for (cursor, told) in [("id2", "no column `id2`"), ("t", "of a type that has no order")] {
        server.sql("CREATE TABLE IF NOT EXISTS other (t TIME, j JSON)");
        let rest = format!("table = \"other\"\nmode = \"append\"\ncursor = \"{cursor}\"\nlag = \"1ms\"");
        let wrong = Folder::new(&config(&server, &rest));
        let ended = wrong.drain();
        assert!(ended.code == Some(1) && ended.said.contains(told), "{}", ended.said);
    }
    folder.never_panicked();
}

/// Transactions that pause before they commit, so that they commit in another order than they began.
fn writer(client: u32) -> String {
    let mut script = String::new();
    for i in 0..4000_u32 {
        let pause = (i * 37 + client * 11) % 60;
        script += &format!(
            "BEGIN; INSERT INTO events (client) VALUES ({client}); DO SLEEP(0.0{pause:02}); SAVEPOINT s;\n"
        );
        script += &format!("INSERT INTO events (client) VALUES ({client});\n");
        match (i + client) % 4 {
            0 => script += "ROLLBACK TO s; COMMIT;\n",
            1 => script += "ROLLBACK;\n",
            _ => script += &format!("INSERT INTO events (client) VALUES ({client}); COMMIT;\n"),
        }
    }
    script
}

#[test]
fn kills_of_both_while_transactions_of_mariadb_commit_out_of_order_lose_and_double_nothing() {
    const KILLS: u32 = 8;
    const WRITERS: u32 = 6;
    let mut server = Server::start();
    server.sql("CREATE TABLE events (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT)");
    let folder = Folder::new(&config(&server, NEW_ROWS));
    let begin = |server: &Server| -> Vec<_> {
        (0..WRITERS).map(|client| server.bench(&format!("script-{client}"), &writer(client))).collect()
    };
    let end = |writers: Vec<std::process::Child>| {
        for mut writer in writers {
            let _ = writer.kill();
            let _ = writer.wait();
        }
    };
    let mut writers = begin(&server);
    let mut seen = 0;
    for kill in 0..KILLS {
        let mut running = folder.start();
        let client = running.ready();
        seen = wait_for("more rows", seconds(60), || count(&client, "events").filter(|rows| *rows > seen));
        if kill == KILLS / 2 {
            server.kill();
            end(writers);
            waits_for(&client, "tried again");
            server.up();
            writers = begin(&server);
            seen = wait_for("rows of the server that came back", seconds(60), || {
                count(&client, "events").filter(|rows| *rows > seen + 10)
            });
        }
        running.kill();
    }
    end(writers);
    // What the killed writers began is undone by the server, sooner or later.
    wait_for("the writers' transactions to end", seconds(60), || {
        let open =
            "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_mysql_thread_id <> CONNECTION_ID()";
        (server.sql(open) == "0").then_some(())
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
fn what_goes_wrong_with_mariadb_is_waited_for_with_a_hint() {
    let mut server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY); INSERT INTO events VALUES (1)");
    server.kill();
    let folder = Folder::new(&config(&server, &NEW_ROWS.replace("500ms", "1ms")));
    let running = folder.start();
    let client = wait_for("the process", seconds(60), || running.address());
    waits_for(&client, "look whether the server runs");
    server.up();
    wait_for("the row", seconds(60), || (count(&client, "events")? == 1).then_some(()));
    server.sql("ALTER USER ada IDENTIFIED BY 'other'; INSERT INTO events VALUES (2)");
    waits_for(&client, "mend the user or its password");
    server.sql(&format!("ALTER USER ada IDENTIFIED BY '{}'", super::mariadb_server::PASSWORD));
    wait_for("the row", seconds(60), || (count(&client, "events")? == 2).then_some(()));
    server.sql(
        "ALTER TABLE events ADD COLUMN extra VARCHAR(9) DEFAULT 'more'; INSERT INTO events (id) VALUES (3)",
    );
    wait_for("the row", seconds(60), || (count(&client, "events")? == 3).then_some(()));
    assert_eq!(
        client.sql("SELECT _rest FROM events WHERE id = 3"),
        [json!({"_rest": "{\"extra\":\"more\"}"})]
    );
    assert_eq!(source_status(&client).map(|source| source["state"] == "stopped"), Some(false));
    server.sql("RENAME TABLE events TO elsewhere");
    let ended = running.end(seconds(60));
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    // It may go between two looks at it.
    let told = ["there is no table `events`", "doesn't exist"].iter().any(|told| ended.said.contains(told));
    assert!(told && ended.said.contains("hint:"), "{}", ended.said);
    server.sql("RENAME TABLE elsewhere TO events; INSERT INTO events (id) VALUES (4)");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2, 3, 4]);
    exactly_once(&folder, "events", 4, 0);
    assert!(!folder.said().contains(super::mariadb_server::PASSWORD), "the password was shown");
    folder.never_panicked();
}

#[test]
fn a_value_of_mariadb_beyond_all_bounds_fails_with_a_hint_and_can_be_left_out() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE words (id INT, word TEXT); INSERT INTO words VALUES (1, 'small'), (2, 'x'); \
         CREATE VIEW events AS SELECT id, IF(id = 2, REPEAT(word, 100000000), word) AS scan FROM words",
    );
    let folder = Folder::new(&config(&server, "table = \"events\""));
    let ended = folder.drain();
    assert_eq!(ended.code, Some(1), "{}", ended.said);
    assert!(
        ended.said.contains("are not read") && ended.said.contains("leave the column out"),
        "{}",
        ended.said
    );
    folder.configure(&config(&server, "table = \"events\"\ncolumns = [\"id\"]"));
    folder.drained();
    exactly_once(&folder, "events", 2, 0);
    folder.never_panicked();
}

#[test]
fn a_certificate_of_mariadb_is_checked_before_anything_is_said() {
    let mut server = Server::start();
    server.sql("CREATE TABLE events (id INT PRIMARY KEY); INSERT INTO events VALUES (1)");
    let at = |server: &Server, certificate: &str, host: &str| {
        let path = server.path(&format!("{certificate}.crt")).display().to_string();
        config(server, &NEW_ROWS.replace("500ms", "1ms"))
            .replace("@127.0.0.1:", &format!("@{host}:"))
            .replace("/shop\"", &format!("/shop?sslmode=verify-full&sslrootcert={path}\""))
    };
    for name in ["server", "other"] {
        let (key, certificate) = (server.path(&format!("{name}.key")), server.path(&format!("{name}.crt")));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]);
        call(openssl.arg(&key).arg("-out").arg(&certificate).stdin(Stdio::null()));
        own(&key);
        own(&certificate);
    }
    let folder = Folder::new(&at(&server, "server", "localhost"));
    let ended = folder.drain();
    assert!(ended.code == Some(1) && ended.said.contains("speaks no TLS"), "{}", ended.said);
    server.kill();
    for (setting, file) in [("cert", "server.crt"), ("key", "server.key")] {
        server.more.push(format!("--ssl-{setting}={}", server.path(file).display()));
    }
    server.more.push("--require-secure-transport=ON".to_owned());
    server.up();
    folder.drained();
    assert_eq!(ids(&folder), [1]);
    for (certificate, host) in [("other", "localhost"), ("server", "127.0.0.1")] {
        folder.configure(&at(&server, certificate, host));
        let mut running = folder.start();
        let client = running.ready();
        waits_for(&client, "cannot be trusted");
        assert_eq!(running.stop().code, Some(0));
    }
    // A socket is as good as TLS.
    let socket = format!("/shop?socket={}\"", server.path("socket").display());
    folder.configure(&config(&server, &NEW_ROWS.replace("500ms", "1ms")).replace("/shop\"", &socket));
    server.sql("INSERT INTO events VALUES (2)");
    folder.drained();
    assert_eq!(ids(&folder), [1, 2]);
    folder.never_panicked();
}

#[test]
fn the_example_of_mysql_in_configs_runs_as_its_head_says() {
    let server = Server::start();
    server.sql(
        "CREATE TABLE orders_backup (id INT, updated_at TIMESTAMP);
         CREATE TABLE customers (id INT PRIMARY KEY, name VARCHAR(40), city VARCHAR(40), updated_at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6));
         CREATE TABLE orders (id INT PRIMARY KEY, customer INT, amount DECIMAL(10,2), updated_at TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6));
         INSERT INTO customers (id, name, city) VALUES (1, 'Ada', 'London'), (2, 'Edsger', NULL);
         INSERT INTO orders (id, customer, amount) VALUES (1, 1, 9.00), (2, 2, 39.90)",
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/mysql.toml");
    let text = std::fs::read_to_string(path).expect("read the example");
    let folder = Folder::new(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("data-mysql", "data"))
        .with_env("MYSQL_URL", &format!("mysql://ada@127.0.0.1:{}/shop", server.port))
        .with_env("MYSQL_PASSWORD", super::mariadb_server::PASSWORD);
    folder.drained();
    let joined = "SELECT c.name, CAST(sum(o.amount) AS DOUBLE) AS amount FROM orders o JOIN customers c ON c.id = o.customer GROUP BY 1 ORDER BY 1";
    assert_eq!(
        folder.sql(joined),
        [json!({"name": "Ada", "amount": 9.0}), json!({"name": "Edsger", "amount": 39.9})]
    );
    assert_eq!(folder.sql("SELECT city, n FROM cities_nightly"), [json!({"city": "London", "n": 1})]);
    server.sql("INSERT INTO orders (id, customer, amount) VALUES (3, 1, 1.00); UPDATE orders SET amount = 10.00 WHERE id = 1");
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM orders"), 4, "only what is new or changed came");
    let tables = folder.sql("SELECT table_name FROM information_schema.tables");
    assert!(!tables.iter().any(|row| row["table_name"] == "orders_backup"));
}
