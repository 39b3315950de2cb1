use std::time::Duration as Time;

use proptest::prelude::*;
use rusqlite::Connection;
use serde_json::{Value as Json, json};
use tarn_log::Append;
use tarn_model::clock::ManualClock;
use xxhash_rust::xxh3::xxh3_64;

use crate::RunMode;
use crate::fixture::Fixture;

fn source(rest: &str) -> String {
    format!("[[source]]\nname = \"shop\"\ntype = \"database\"\nurl = \"sqlite:DIR/shop.sqlite\"\n{rest}\n")
}

fn full() -> String {
    source("topic = \"orders\"\ntable = \"orders\"")
}

fn append(cursor: &str) -> String {
    source(&format!("topic = \"orders\"\ntable = \"orders\"\nmode = \"append\"\ncursor = \"{cursor}\""))
}

fn shop(fixture: &Fixture) -> Connection {
    let connection = Connection::open(fixture.path("shop.sqlite")).unwrap();
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE IF NOT EXISTS orders (
                id INTEGER PRIMARY KEY, at INTEGER, price NUMERIC(10,2), name NVARCHAR(40), data BLOB, paid BOOLEAN)",
        )
        .unwrap();
    connection
}

fn insert(connection: &Connection, id: i64, at: Option<i64>) {
    connection
        .execute("INSERT INTO orders VALUES (?1, ?2, ?3, 'Zoë', x'00ff', 1)", (id, at, 0.5 + id as f64))
        .unwrap();
}

fn ids(fixture: &Fixture) -> Vec<i64> {
    fixture
        .records("orders")
        .iter()
        .map(|record| serde_json::from_slice::<Json>(&record.value).unwrap()["id"].as_i64().unwrap())
        .collect()
}

#[test]
fn a_table_comes_in_whole_once_with_the_types_that_are_declared() {
    let mut fixture = Fixture::new();
    let connection = shop(&fixture);
    (1..=300).for_each(|id| insert(&connection, id, None));
    connection.execute("INSERT INTO orders (id, at, name) VALUES (301, 'a word', x'ff')", ()).unwrap();
    fixture.drain(&full()).unwrap();
    assert_eq!(ids(&fixture), (1..=301).collect::<Vec<_>>());
    let records = fixture.records("orders");
    let first = r#"{"id":1,"at":null,"price":"1.5","name":"Zoë","data":"AP8=","paid":true}"#;
    assert_eq!(records[0].text(), first);
    assert!(records[300].text().contains("\"at\":\"a word\""), "a value of another type comes all the same");
    let columns = fixture.log().topic("orders").unwrap().columns.clone().unwrap();
    let declared = "id BIGINT, at BIGINT, price DECIMAL(10,2), name VARCHAR, data BINARY, paid BOOLEAN";
    assert_eq!(columns.to_string(), declared);
    assert!(fixture.names("data/staging").is_empty(), "the staged rows are removed");
    fixture.reopen();
    let status = fixture.drain(&full()).unwrap();
    assert_eq!(
        (ids(&fixture).len(), status[0].state.as_str()),
        (301, "done"),
        "without a schedule there is one run"
    );
}

#[test]
fn text_that_is_none_becomes_a_dead_letter() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    connection.execute("INSERT INTO orders (id, name) VALUES (1, CAST(x'41ff' AS TEXT))", ()).unwrap();
    fixture.drain(&full()).unwrap();
    let records = fixture.records("orders");
    assert_eq!(records[0].header("tarn.error"), "the column `name` is not valid UTF-8");
    assert!(records[0].text().contains("\"name\":\"A\u{fffd}\""));
}

#[test]
fn all_tables_come_in_and_on_schedule_only_what_is_new() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    connection
        .execute_batch("CREATE TABLE \"odd name\" (x TEXT); INSERT INTO \"odd name\" VALUES ('a'), ('b')")
        .unwrap();
    (1..=5).for_each(|id| insert(&connection, id, None));
    let config = source(
        "topic = \"shop.{table}\"\ntable = \"*\"\nmode = \"append\"\ncursor = \"rowid\"\nevery = \"1h\"",
    );
    fixture.drain(&config).unwrap();
    assert_eq!((fixture.count("shop.orders"), fixture.count("shop.odd_name")), (5, 2));
    insert(&connection, 6, None);
    fixture.drain(&config).unwrap();
    fixture.drain(&config).unwrap();
    assert_eq!((fixture.count("shop.orders"), fixture.count("shop.odd_name")), (6, 2));
}

#[test]
fn a_query_is_read_whole_at_each_run_of_a_schedule() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    (1..=3).for_each(|id| insert(&connection, id, None));
    let config = source(
        "topic = \"orders\"\nquery = \"SELECT id, id * 2 AS twice FROM orders WHERE id < 3;\"\ncron = \"0 3 * * *\"",
    );
    fixture.drain(&config).unwrap();
    fixture.drain(&config).unwrap();
    assert_eq!(fixture.texts("orders"), [r#"{"id":1,"twice":2}"#, r#"{"id":2,"twice":4}"#].repeat(2));
    assert!(fixture.log().topic("orders").unwrap().columns.is_none(), "an expression has no declared type");
}

#[test]
fn runs_come_when_they_are_due() {
    let clock = ManualClock::at(1_800_000_000_000_000);
    let mut fixture = Fixture::new();
    fixture.clock = clock.clone();
    let connection = shop(&fixture);
    insert(&connection, 1, None);
    let config = append("id") + "every = \"50ms\"\n";
    let collectors = fixture.start(&config, RunMode::Continuous);
    fixture.wait_for_count("orders", 1);
    insert(&connection, 2, None);
    fixture.wait_for("the source to wait for its time", || collectors.status()[0].state == "idle");
    assert_eq!(ids(&fixture), [1]);
    clock.advance(Time::from_millis(50));
    fixture.wait_for_count("orders", 2);
    fixture.stop(&collectors);
    assert_eq!(ids(&fixture), [1, 2]);
}

#[test]
fn ties_at_the_bound_are_neither_lost_nor_doubled() {
    let mut fixture = Fixture::new();
    let connection = shop(&fixture);
    [(1, 10), (2, 20), (3, 20)].iter().for_each(|(id, at)| insert(&connection, *id, Some(*at)));
    fixture.drain(&append("at")).unwrap();
    fixture.reopen();
    [(4, 20), (5, 20), (6, 30)].iter().for_each(|(id, at)| insert(&connection, *id, Some(*at)));
    fixture.drain(&append("at")).unwrap();
    insert(&connection, 7, Some(30));
    fixture.drain(&append("at")).unwrap();
    fixture.drain(&append("at")).unwrap();
    let mut ids = ids(&fixture);
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn rows_that_change_come_again_by_their_time_of_change() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    [(1, 10), (2, 20)].iter().for_each(|(id, at)| insert(&connection, *id, Some(*at)));
    let config = source(
        "topic = \"orders\"\ntable = \"orders\"\nmode = \"last_modified\"\ncursor = \"at\"\ncolumns = [\"name\", \"id\"]\nwhere = \"id < 5 -- few\"",
    );
    fixture.drain(&config).unwrap();
    connection.execute("UPDATE orders SET at = 20, name = 'again' WHERE id = 1", ()).unwrap();
    insert(&connection, 9, Some(30));
    fixture.drain(&config).unwrap();
    fixture.drain(&config).unwrap();
    let taken = [r#"{"name":"Zoë","id":1}"#, r#"{"name":"Zoë","id":2}"#, r#"{"name":"again","id":1}"#];
    assert_eq!(fixture.texts("orders"), taken);
}

#[test]
fn some_tables_are_chosen_by_patterns() {
    for (pattern, name, fits) in [
        ("orders", "orders", true),
        ("orders", "orders2", false),
        ("*", "", true),
        ("sales.*", "sales.orders", true),
        ("sales.*", "sale.orders", false),
        ("*_old", "a_old", true),
        ("*_old", "a_old_b", false),
        ("a*b*c", "axxbyyc", true),
        ("a*a", "a", false),
        ("a*b*c", "acb", false),
    ] {
        assert_eq!(super::is_like(pattern, name), fits, "{pattern} {name}");
    }
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    connection
        .execute_batch("CREATE TABLE orders_old (id INTEGER); CREATE TABLE other (id INTEGER)")
        .unwrap();
    let rest = "topic = \"{table}\"\ntable = \"*\"\ninclude = [\"orders*\"]\nexclude = [\"*_old\"]";
    fixture.drain(&source(rest)).unwrap();
    let topics: Vec<String> = fixture.log().topics().iter().map(|topic| topic.name.clone()).collect();
    assert_eq!(topics, ["orders"]);
}

#[test]
fn rows_without_a_cursor_are_told_of() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    insert(&connection, 1, Some(1));
    insert(&connection, 2, None);
    let status = fixture.drain(&append("at")).unwrap();
    assert_eq!(ids(&fixture), [1]);
    let error = status[0].last_error.as_ref().unwrap();
    assert!(error.message.contains("have no `at`"), "{error:?}");
}

#[test]
fn a_column_that_is_added_does_not_double_the_rows_at_the_bound() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    (1..=3).for_each(|id| insert(&connection, id, Some(7)));
    fixture.drain(&append("at")).unwrap();
    connection.execute_batch("ALTER TABLE orders ADD COLUMN extra TEXT DEFAULT 'more'").unwrap();
    connection.execute("INSERT INTO orders (id, at) VALUES (4, 7)", ()).unwrap();
    fixture.drain(&append("at")).unwrap();
    connection.execute("INSERT INTO orders (id, at) VALUES (5, 7)", ()).unwrap();
    fixture.drain(&append("at")).unwrap();
    connection.execute("INSERT INTO orders (id, at) VALUES (6, 8)", ()).unwrap();
    connection.execute_batch("ALTER TABLE orders ADD COLUMN another INTEGER").unwrap();
    fixture.drain(&append("at")).unwrap();
    fixture.drain(&append("at")).unwrap();
    assert_eq!(ids(&fixture), [1, 2, 3, 4, 5, 6]);
    assert!(fixture.records("orders")[3].text().contains("\"extra\":\"more\""));
}

#[test]
fn what_is_wrong_with_the_config_fails_and_what_passes_is_waited_for() {
    let fixture = Fixture::new();
    let collectors = fixture.start(&full(), RunMode::Continuous);
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    assert!(collectors.status()[0].last_error.as_ref().unwrap().message.contains("there is no database"));
    let connection = shop(&fixture);
    insert(&connection, 1, None);
    fixture.wait_for_count("orders", 1);
    fixture.stop(&collectors);
    let error = fixture.drain(&append("nothing")).unwrap_err();
    assert!(error.to_string().contains("no column `nothing`"), "{error}");
    let error = fixture.drain(&source("topic = \"t\"\ntable = \"nothing\"")).unwrap_err();
    assert!(error.to_string().contains("no such table"), "{error}");
}

#[test]
fn a_locked_database_is_waited_for() {
    let fixture = Fixture::new();
    let connection = Connection::open(fixture.path("shop.sqlite")).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE orders (id INTEGER PRIMARY KEY); INSERT INTO orders VALUES (1); BEGIN EXCLUSIVE",
        )
        .unwrap();
    let collectors = fixture.start(&full(), RunMode::Continuous);
    fixture.wait_for("the source to wait", || collectors.status()[0].state == "waiting");
    connection.execute_batch("COMMIT").unwrap();
    fixture.wait_for_count("orders", 1);
    fixture.stop(&collectors);
}

#[test]
fn a_key_and_its_partition_come_from_a_column() {
    let fixture = Fixture::new();
    let connection = shop(&fixture);
    (1..=20).for_each(|id| insert(&connection, id, None));
    let config = format!("[[topic]]\nname = \"orders\"\npartitions = 3\n{}key = \"id\"\n", full());
    fixture.drain(&config).unwrap();
    let records = fixture.records("orders");
    assert_eq!(records.len(), 20);
    assert!(
        records.iter().all(|record| record.key.is_some())
            && records.iter().any(|record| record.partition == 2)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// Wherever a run is stopped, and whatever comes with equal cursors meanwhile, each row is there once.
    #[test]
    fn stopped_anywhere_a_run_goes_on_exactly(
        batches in prop::collection::vec((1_i64..150, 0_usize..300), 1..5),
        is_append in any::<bool>(),
        values_per_cursor in 1_i64..60,
    ) {
        let mut fixture = Fixture::new();
        let connection = shop(&fixture);
        let config = if is_append { append("at") } else { full() };
        let mut next = 0;
        for (rows, stop) in batches {
            if is_append || next == 0 {
                for _ in 0..rows {
                    insert(&connection, next, Some(next / values_per_cursor));
                    next += 1;
                }
            }
            let collectors = fixture.start(&config, RunMode::Continuous);
            let total = usize::try_from(next).unwrap();
            fixture.wait_for("records", || fixture.count("orders") >= stop.min(total));
            fixture.stop(&collectors);
            drop(collectors);
            fixture.reopen();
        }
        fixture.drain(&config).unwrap();
        let mut ids = ids(&fixture);
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..next).collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 20, ..ProptestConfig::default() })]

    /// What several readers have staged is read on wherever that stopped, without any of them.
    #[test]
    fn files_of_several_readers_are_read_once_wherever_that_is_stopped(
        sizes in prop::collection::vec(0_usize..150, 1..5),
        stops in prop::collection::vec(0_usize..300, 0..4),
    ) {
        let mut fixture = Fixture::new();
        drop(shop(&fixture));
        let name = format!("data/staging/{:016x}-1", xxh3_64(b"shop\0orders"));
        let mut total = 0;
        for (file, rows) in sizes.iter().enumerate() {
            let path = if file == 0 { format!("{name}.rows") } else { format!("{name}-{file}.rows") };
            fixture.put(&path, (total..total + rows).map(|id| format!("{{\"id\":{id}}}\n")).collect::<String>());
            total += rows;
        }
        let mut append = Append::new();
        append.position("shop", "run", Some(json!({"number": 1, "started_ms": 0, "done": false})));
        let staged = json!({"run": 1, "offset": 0, "rows": 0, "done": false, "more_files": sizes.len() - 1});
        append.position("shop", "full:orders", Some(staged));
        fixture.runtime.block_on(fixture.log().append(append)).unwrap();
        for stop in stops {
            let collectors = fixture.start(&full(), RunMode::Continuous);
            fixture.wait_for("records", || fixture.count("orders") >= stop.min(total));
            fixture.stop(&collectors);
            drop(collectors);
            fixture.reopen();
        }
        fixture.drain(&full()).unwrap();
        let expected: Vec<i64> = (0..i64::try_from(total).unwrap()).collect();
        prop_assert_eq!(ids(&fixture), expected);
        prop_assert!(fixture.names("data/staging").is_empty());
    }
}

#[test]
fn the_clock_is_the_injected_one() {
    let mut fixture = Fixture::new();
    fixture.clock = ManualClock::at(5_000_000);
    let connection = shop(&fixture);
    insert(&connection, 1, None);
    fixture.drain(&full()).unwrap();
    let run = fixture.log().position("shop", "run").unwrap().unwrap();
    assert_eq!(run["started_ms"], 5_000);
}
