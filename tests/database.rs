//! A whole database becomes tables: one source, one `[[table]]`.

use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "shop"
type = "database"
url = "sqlite:shop.sqlite"
table = "*"
mode = "append"
cursor = "rowid"
every = "50ms"
topic = "shop.{table}"

[[table]]
name = "shop_{table}"
topic = "shop.{table}"
commit_every = "100ms"
"#;

/// Tables with rows of several types, one without rows, and how many rows each has.
fn shop(folder: &Folder) -> (Connection, Vec<(&'static str, i64)>) {
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    shop.execute_batch(
        "CREATE TABLE Artist (ArtistId INTEGER PRIMARY KEY, Name NVARCHAR(120));
         CREATE TABLE Album (AlbumId INTEGER PRIMARY KEY, Title NVARCHAR(160) NOT NULL, ArtistId INTEGER NOT NULL);
         CREATE TABLE Track (TrackId INTEGER PRIMARY KEY, AlbumId INTEGER, Name TEXT, Price NUMERIC(10,2), Data BLOB, Added DATETIME);
         CREATE TABLE \"Play List\" (a INTEGER, b INTEGER, PRIMARY KEY (a, b));
         CREATE TABLE Unsold (x INTEGER, y TEXT);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 275)
         INSERT INTO Artist SELECT i, CASE WHEN i % 50 = 0 THEN NULL ELSE 'Artist ' || i END FROM n;
         INSERT INTO Album SELECT ArtistId, 'Über ' || ArtistId, ArtistId FROM Artist WHERE ArtistId <= 200;
         INSERT INTO Track SELECT a.AlbumId * 10 + t.AlbumId, a.AlbumId, 'T', 0.99, x'00ff', '2026-01-02 03:04:05'
             FROM Album a JOIN Album t ON t.AlbumId <= 10;
         INSERT INTO \"Play List\" SELECT AlbumId, AlbumId FROM Album;",
    )
    .expect("the shop");
    let rows = vec![("artist", 275), ("album", 200), ("track", 2000), ("play_list", 200), ("unsold", 0)];
    (shop, rows)
}

fn all_there(folder: &Folder, rows: &[(&str, i64)]) {
    for (table, rows) in rows {
        let table = format!("shop_{table}");
        assert_eq!(folder.number(&format!("SELECT count(*) FROM {table}")), *rows, "{table}");
        if *rows > 0 {
            exactly_once(folder, &table, *rows, 0);
        }
    }
}

#[test]
fn every_table_of_a_database_comes_whole_and_then_only_what_is_new() {
    let folder = Folder::new(CONFIG);
    let (shop, mut rows) = shop(&folder);
    folder.drained();
    all_there(&folder, &rows);
    let answer = folder.sql(
        "SELECT a.\"Name\", count(*) AS n, sum(\"Price\") AS price, min(\"Added\") AS added FROM shop_track t \
         JOIN shop_album b USING (\"AlbumId\") JOIN shop_artist a USING (\"ArtistId\") WHERE a.\"ArtistId\" = 7 GROUP BY 1",
    );
    assert_eq!(
        answer,
        [json!({"Name": "Artist 7", "n": 10, "price": 9.9, "added": "2026-01-02T03:04:05Z"})],
        "types come from the database"
    );

    folder.drained();
    all_there(&folder, &rows);
    shop.execute_batch(
        "INSERT INTO Artist VALUES (1000, 'New'); INSERT INTO Unsold VALUES (1, 'first');
         CREATE TABLE Genre (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO Genre VALUES (1, 'Rock'), (2, 'Jazz');",
    )
    .expect("new rows and a new table");
    folder.drained();
    rows[0].1 += 1;
    rows[4].1 += 1;
    rows.push(("genre", 2));
    all_there(&folder, &rows);
    folder.never_panicked();
}

#[test]
fn a_table_that_appears_in_the_database_becomes_one_while_it_runs() {
    let folder = Folder::new(CONFIG);
    let (shop, rows) = shop(&folder);
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the artists", seconds(60), || (count(&client, "shop_artist")? == 275).then_some(()));
    shop.execute_batch(
        "CREATE TABLE Genre (id INTEGER PRIMARY KEY, name TEXT); INSERT INTO Genre VALUES (1, 'Rock');",
    )
    .expect("a new table");
    wait_for("the new table", seconds(60), || (count(&client, "shop_genre")? == 1).then_some(()));
    wait_for("the tracks", seconds(60), || (count(&client, "shop_track")? == 2000).then_some(()));
    running.kill();
    folder.drained();
    all_there(&folder, &rows);
    all_there(&folder, &[("genre", 1)]);
}

#[test]
fn a_drain_that_waits_for_its_database_says_so_and_ends_when_it_comes() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start_with("", &["--drain"]);
    wait_for("the drain to say what it waits for", seconds(60), || {
        assert!(running.runs(), "{}", running.said());
        running
            .said()
            .lines()
            .any(|line| line.contains("the drain waits for a source") && line.contains("shop.sqlite"))
            .then_some(())
    });
    let stopped = running.stop();
    assert_eq!(stopped.code, Some(1), "a drain that was stopped is not done: {}", stopped.said);
    let running = folder.start_with("", &["--drain"]);
    wait_for("the source to wait", seconds(60), || running.said().contains("source waits").then_some(()));
    let aside = folder.path("aside.sqlite");
    let made = Connection::open(&aside).expect("a database");
    made.execute_batch("CREATE TABLE Genre (id INTEGER); INSERT INTO Genre VALUES (1), (2);")
        .expect("a table");
    drop(made);
    std::fs::rename(aside, folder.path("shop.sqlite")).expect("the database comes");
    let ended = running.end(seconds(60));
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    all_there(&folder, &[("genre", 2)]);
}

#[test]
fn a_table_of_its_own_comes_before_the_pattern() {
    let own = "[[table]]\nname = \"singers\"\ntopic = \"shop.Artist\"\npartition_by = [\"Name\"]\ncolumns = \"\\\"ArtistId\\\" BIGINT, \\\"Name\\\" VARCHAR\"\n";
    let folder = Folder::new(&format!("{CONFIG}{own}"));
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    shop.execute_batch(
        "CREATE TABLE Artist (ArtistId INTEGER, Name TEXT); INSERT INTO Artist VALUES (1, 'a'), (2, 'b');
         CREATE TABLE Album (AlbumId INTEGER); INSERT INTO Album VALUES (1);",
    )
    .expect("the shop");
    folder.drained();
    let listed = folder.tarn(&["table", "-c", "tarn.toml", "list", "--output", "json"]);
    let names: Vec<String> = serde_json::from_str::<Vec<serde_json::Value>>(&listed.printed)
        .expect("JSON")
        .iter()
        .map(|table| table["name"].as_str().expect("a name").to_owned())
        .collect();
    assert_eq!(names, ["shop_album", "shop_album_dead_letters", "singers", "singers_dead_letters"]);
    assert_eq!(folder.number("SELECT count(*) FROM singers"), 2);
}

#[test]
fn what_a_source_would_read_is_shown_and_what_it_has_read_can_be_forgotten() {
    let folder = Folder::new(CONFIG);
    let (_shop, rows) = shop(&folder);
    let said = |arguments: &[&str]| {
        let ended = folder.tarn(arguments);
        assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said);
        ended.printed
    };
    let tables = said(&["source", "-c", "tarn.toml", "--output", "json", "tables", "shop"]);
    let tables: Vec<serde_json::Value> = serde_json::from_str(&tables).expect("JSON");
    assert_eq!(tables.len(), 5);
    assert!(tables.contains(&json!({"table": "Play List", "topic": "shop.Play_List"})), "{tables:?}");
    let columns = said(&["source", "-c", "tarn.toml", "--output", "json", "schema", "shop", "Track"]);
    let columns: Vec<serde_json::Value> = serde_json::from_str(&columns).expect("JSON");
    assert!(columns.contains(&json!({"column": "Price", "type": "DECIMAL(10,2)"})), "{columns:?}");
    let asked =
        said(&["eval", "-c", "tarn.toml", "shop", "SELECT count(*) AS n FROM Artist", "--output", "ndjson"]);
    assert_eq!(asked, "{\"n\":275}\n");
    assert!(said(&["eval", "-c", "tarn.toml", "shop", "SELECT NULL AS x, 'word' AS y"]).contains("NULL"));
    let ended = folder.tarn(&["eval", "-c", "tarn.toml", "nothing", "SELECT 1"]);
    assert!(
        ended.code == Some(1) && ended.said.contains("sources that read databases: shop"),
        "{}",
        ended.said
    );
    let ended = folder.tarn(&["eval", "-c", "tarn.toml", "shop", "DELETE FROM Artist"]);
    assert_eq!(ended.code, Some(1), "only queries are asked: {}", ended.said);

    folder.drained();
    all_there(&folder, &rows);
    assert!(said(&["source", "-c", "tarn.toml", "forget", "shop"]).contains("forgotten"));
    folder.drained();
    all_there(&folder, &[("artist", 2 * 275), ("unsold", 0)]);
    folder.never_panicked();
}
