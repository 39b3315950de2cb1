//! From a file to SQL: a year of made-up flights, gzipped, dropped into a folder, asked, joined, and asked again.

use std::fmt::Write as _;

use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "flights"
partitions = 2

[[source]]
name = "flights-spool"
type = "spooldir"
path = "in"
pattern = "flights*"
format = "csv"
null_values = ["NA"]
topic = "flights"
key = "tailnum"

[[source]]
name = "airlines-spool"
type = "spooldir"
path = "in"
pattern = "airlines*"
format = "csv"
topic = "airlines"

[[source]]
name = "planes-spool"
type = "spooldir"
path = "in"
pattern = "planes*"
format = "csv"
null_values = ["NA"]
topic = "planes"

[[table]]
name = "flights"
columns = "year INT, month INT, day INT, dep_delay DOUBLE, carrier VARCHAR, flight INT, tailnum VARCHAR, origin VARCHAR, distance DOUBLE, time_hour TIMESTAMP"
partition_by = ["origin"]

[[table]]
name = "airlines"

[[table]]
name = "planes"
columns = "tailnum VARCHAR NOT NULL, year INT, manufacturer VARCHAR, seats INT"

[[topic]]
name = "airlines"

[[topic]]
name = "planes"
"#;

const HEADER: &str = "year,month,day,dep_delay,carrier,flight,tailnum,origin,distance,time_hour\n";
const CARRIERS: [&str; 3] = ["UA", "AA", "B6"];
const ORIGINS: [&str; 3] = ["EWR", "LGA", "JFK"];

/// Flights `from..from + n`; every tenth has no delay.
fn flights(from: usize, n: usize) -> String {
    let mut csv = HEADER.to_string();
    for i in from..from + n {
        let delay = if i.is_multiple_of(10) { "NA".to_string() } else { format!("{}", (i % 90) as i64 - 20) };
        let (carrier, origin) = (CARRIERS[i % 3], ORIGINS[i / 7 % 3]);
        writeln!(
            csv,
            "2013,{},{},{delay},{carrier},{i},N{:05},{origin},{},2013-{:02}-{:02}T{:02}:00:00Z",
            i % 12 + 1,
            i % 28 + 1,
            i % 50,
            200 + i % 2000,
            i % 12 + 1,
            i % 28 + 1,
            i % 24
        )
        .expect("memory takes everything");
    }
    csv
}

fn dimensions(folder: &Folder) {
    folder.put(
        "in/airlines.csv",
        "carrier,name\nUA,United Air Lines Inc.\nAA,American Airlines Inc.\nB6,JetBlue Airways\n",
    );
    let mut planes = String::from("tailnum,year,manufacturer,seats\n");
    for i in 0..50 {
        let year = if i == 7 { "NA".to_string() } else { (1990 + i % 20).to_string() };
        writeln!(planes, "N{i:05},{year},{},{}", ["BOEING", "AIRBUS"][i % 2], 50 + i)
            .expect("memory takes everything");
    }
    folder.put("in/planes.csv", planes);
}

#[test]
fn a_gzipped_csv_becomes_a_table_once_however_often_it_is_drained() {
    let folder = Folder::new(CONFIG);
    dimensions(&folder);
    folder.put_gz("in/flights.csv.gz", flights(0, 5_000));
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM flights"), 5_000);
    assert_eq!(folder.number("SELECT count(*) AS n FROM flights WHERE dep_delay IS NULL"), 500, "NA is NULL");
    exactly_once(&folder, "flights", 5_000, 0);
    assert!(folder.path("in/flights.csv.gz.done").exists(), "the file was not retired");

    // A second run adds nothing.
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM flights"), 5_000);

    // A second file adds its rows only.
    folder.put_gz("in/flights-more.csv.gz", flights(5_000, 700));
    folder.drained();
    exactly_once(&folder, "flights", 5_700, 0);
    let rows = folder
        .sql("SELECT count(DISTINCT flight) AS n, sum(flight) AS s, min(time_hour) AS first FROM flights");
    assert_eq!(rows[0]["n"], 5_700);
    assert_eq!(rows[0]["s"], (0..5_700).sum::<i64>());
    assert!(rows[0]["first"].as_str().is_some_and(|t| t.starts_with("2013-01-01T")), "{}", rows[0]);

    // A join with the dimensions answers.
    let rows = folder.sql(
        "SELECT a.name, p.manufacturer, count(*) AS n FROM flights f JOIN airlines a ON f.carrier = a.carrier \
         JOIN planes p ON p.tailnum = f.tailnum GROUP BY 1, 2 ORDER BY 1, 2",
    );
    assert_eq!(rows.len(), 6);
    assert_eq!(rows[0]["name"], "American Airlines Inc.");
    assert_eq!(rows.iter().map(|row| row["n"].as_i64().expect("a number")).sum::<i64>(), 5_700);
    folder.never_panicked();
}

#[test]
fn files_of_a_table_are_kept_apart_by_its_partition_columns() {
    let folder = Folder::new(CONFIG);
    folder.put("in/flights.csv", flights(0, 300));
    folder.drained();
    for origin in ORIGINS {
        assert!(
            !folder.find(&format!("lake/flights/origin={origin}"), ".parquet").is_empty(),
            "no file of {origin}"
        );
    }
    assert_eq!(
        folder.number("SELECT count(*) AS n FROM flights WHERE origin = 'EWR'"),
        (0..300).filter(|i| i / 7 % 3 == 0).count() as i64
    );
}

#[test]
fn lines_that_do_not_fit_are_dead_letters_that_tell_line_and_reason() {
    let folder = Folder::new(CONFIG);
    let mut csv = flights(0, 20);
    csv += "2013,1,1,5,UA\n"; // line 22: too few fields
    csv += "2013,1,1,late,UA,21,N00001,EWR,100,2013-01-01T10:00:00Z\n"; // line 23: a word for a number
    csv += "2013,1,1,5,UA,22,N00001,EWR,100,2013-01-01T10:00:00Z,more\n"; // line 24: too many fields
    csv += "2013,1,1,5,UA,23,N00001,EWR,100,2013-01-01T10:00:00Z\n";
    folder.put("in/flights.csv", csv);
    folder.drained();
    exactly_once(&folder, "flights", 21, 3);
    let dead =
        folder.sql("SELECT reason, field, headers FROM flights_dead_letters ORDER BY _partition, _offset");
    for (line, hint) in [("22", "field"), ("23", "late"), ("24", "field")] {
        let letter = dead
            .iter()
            .find(|letter| {
                mentions(&letter["headers"].to_string(), line)
                    || mentions(&letter["reason"].to_string(), line)
            })
            .unwrap_or_else(|| panic!("no dead letter tells line {line}: {dead:?}"));
        assert!(
            letter["reason"].to_string().contains(hint),
            "line {line} is dead for another reason: {letter}"
        );
        assert!(letter["headers"].to_string().contains("flights.csv"), "the file is not told: {letter}");
    }
    let word = dead.iter().find(|letter| letter["field"] == "dep_delay");
    assert!(word.is_some(), "the field is not told: {dead:?}");
}

/// Whether `text` holds the number as a word of its own.
fn mentions(text: &str, number: &str) -> bool {
    text.split(|c: char| !c.is_ascii_digit()).any(|word| word == number)
}

const MUSIC: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "artist"

[[topic]]
name = "track"

[[source]]
name = "artists"
type = "database"
url = "sqlite:music.sqlite"
table = "artist"
topic = "artist"

[[source]]
name = "tracks"
type = "database"
url = "sqlite:music.sqlite"
table = "track"
mode = "append"
cursor = "id"
every = "200ms"
topic = "track"
key = "id"

[[table]]
name = "artist"
commit_every = "200ms"

[[table]]
name = "track"
commit_every = "200ms"
"#;

fn music(folder: &Folder) -> Connection {
    let db = Connection::open(folder.path("music.sqlite")).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE track (id INTEGER PRIMARY KEY, artist INTEGER, title NVARCHAR(200) NOT NULL, price NUMERIC(10,2), cover BLOB);
         INSERT INTO artist VALUES (1, 'Antônio Carlos Jobim'), (2, 'Motörhead'), (3, NULL);",
    )
    .expect("make the tables");
    tracks(&db, 1, 200);
    db
}

fn tracks(db: &Connection, from: i64, to: i64) {
    db.execute(
        "WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2) \
         INSERT INTO track SELECT i, i % 3 + 1, 'Track ' || i, 0.99, NULL FROM n",
        [from, to],
    )
    .expect("insert");
}

#[test]
fn a_database_comes_in_whole_and_then_only_what_is_new() {
    let folder = Folder::new(MUSIC);
    let db = music(&folder);
    folder.drained();
    exactly_once(&folder, "artist", 3, 0);
    exactly_once(&folder, "track", 200, 0);
    let names = folder.sql("SELECT id, name FROM artist ORDER BY id");
    assert_eq!(names[0], json!({"id": 1, "name": "Antônio Carlos Jobim"}));
    assert!(names[2].get("name").is_none_or(serde_json::Value::is_null), "NULL came as {}", names[2]);

    // On schedule, only what is new.
    let mut running = folder.start();
    let client = running.ready();
    tracks(&db, 201, 260);
    wait_for("the new tracks", seconds(30), || (count(&client, "track")? == 260).then_some(()));
    tracks(&db, 261, 261);
    wait_for("one more track", seconds(30), || (count(&client, "track")? == 261).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "track", 261, 0);
    assert_eq!(folder.number("SELECT count(DISTINCT id) AS n FROM track"), 261);
    folder.never_panicked();
}
