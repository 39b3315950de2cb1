//! Sources told what to do: paused and resumed, run now, and what their last runs were.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{Client, Folder, count, exactly_once, seconds, wait_for};

const CONFIG: &str = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"

[[source]]
name = "orders"
type = "database"
url = "sqlite:shop.sqlite"
table = "orders"
mode = "append"
cursor = "id"
every = "50ms"
topic = "orders"

[[source]]
name = "customers"
type = "database"
url = "sqlite:shop.sqlite"
table = "customers"
mode = "append"
cursor = "id"
after = "nightly"
topic = "customers"

[[source]]
name = "nightly"
type = "database"
url = "sqlite:shop.sqlite"
table = "prices"
mode = "append"
cursor = "id"
cron = "0 0 1 1 *"
topic = "prices"

[[source]]
name = "pushes"
type = "http"
topic = "pushes"

[[table]]
name = "orders"
commit_every = "100ms"
columns = "id BIGINT NOT NULL, name VARCHAR"
[[table]]
name = "customers"
commit_every = "100ms"
columns = "id BIGINT NOT NULL"
[[table]]
name = "prices"
commit_every = "100ms"
columns = "id BIGINT NOT NULL"
"#;

fn shop(folder: &Folder) -> Connection {
    let shop = Connection::open(folder.path("shop.sqlite")).expect("a database");
    let tables = "PRAGMA journal_mode = WAL; CREATE TABLE orders (id INTEGER PRIMARY KEY, name TEXT); \
                  CREATE TABLE customers (id INTEGER PRIMARY KEY); CREATE TABLE prices (id INTEGER PRIMARY KEY);";
    shop.execute_batch(tables).expect("tables");
    shop
}

fn insert(shop: &Connection, from: i64, to: i64) {
    for id in from..to {
        shop.execute("INSERT INTO orders VALUES (?1, 'x')", [id]).expect("a row");
    }
}

/// What a command prints, which must end well.
#[track_caller]
fn told(folder: &Folder, arguments: &[&str]) -> String {
    let ended = folder.tarn(arguments);
    assert_eq!(ended.code, Some(0), "{arguments:?}: {}", ended.said);
    ended.printed
}

#[track_caller]
fn history(folder: &Folder, source: &str) -> Vec<Value> {
    let text = told(folder, &["source", "history", source, "--output", "json"]);
    serde_json::from_str(&text).expect("a list of runs")
}

fn state(client: &Client, source: &str) -> Option<String> {
    let status = client.get("/v1/status").ok()?.json();
    let found = status["sources"].as_array()?.iter().find(|found| found["name"] == source)?;
    found["state"].as_str().map(str::to_owned)
}

#[test]
fn a_paused_source_is_paused_after_a_kill_too_and_goes_on_where_it_was() {
    let folder = Folder::new(CONFIG);
    let shop = shop(&folder);
    insert(&shop, 0, 100);
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the rows", seconds(60), || (count(&client, "orders")? == 100).then_some(()));
    assert_eq!(
        told(&folder, &["source", "pause", "orders"]),
        "orders is paused, until it is resumed\n",
        "it comes to rest before the answer"
    );
    insert(&shop, 100, 150);
    assert_eq!(state(&client, "orders").as_deref(), Some("paused"));
    let metrics = client.get("/metrics").expect("metrics").text();
    assert!(metrics.contains("tarn_source_paused{source=\"orders\",type=\"database\",topic=\"orders\"} 1"));
    let refused = folder.tarn(&["source", "run", "orders"]);
    assert_eq!(refused.code, Some(1), "{}", refused.said);
    assert!(refused.said.contains("is paused") && refused.said.contains("tarn source resume orders"));
    running.kill();

    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(state(&client, "orders").as_deref(), Some("paused"));
    assert_eq!(count(&client, "orders"), Some(100));
    running.kill();
    let listed = told(&folder, &["source", "list"]);
    assert!(listed.contains("at rest, paused"), "{listed}");
    assert_eq!(told(&folder, &["source", "resume", "orders"]), "orders goes on where it was\n");
    let mut running = folder.start();
    let client = running.ready();
    wait_for("the rest", seconds(60), || (count(&client, "orders")? == 150).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    exactly_once(&folder, "orders", 150, 0);
    folder.never_panicked();
}

#[test]
fn pushes_to_a_paused_source_are_turned_away_until_it_is_resumed() {
    let folder = Folder::new(CONFIG);
    drop(shop(&folder));
    let mut running = folder.start();
    let client = running.ready();
    let push = || client.post("/v1/ingest/pushes", &[], b"{\"n\": 1}").expect("an answer");
    assert_eq!(push().status, 200);
    told(&folder, &["source", "pause", "pushes"]);
    let refused = push();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    assert!(refused.text().contains("tarn source resume pushes"), "{}", refused.text());
    told(&folder, &["source", "resume", "pushes"]);
    assert_eq!(push().status, 200);
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn a_run_now_is_done_when_it_is_answered_and_is_followed_by_those_that_wait_for_it() {
    let folder = Folder::new(CONFIG);
    let shop = shop(&folder);
    let nobody = folder.tarn(&["source", "run", "nightly"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.said);
    assert!(nobody.said.contains("nothing runs on this config"), "{}", nobody.said);
    let mut running = folder.start();
    let client = running.ready();
    shop.execute_batch("INSERT INTO prices VALUES (1), (2), (3); INSERT INTO customers VALUES (1), (2)")
        .expect("rows");
    let said = told(&folder, &["source", "run", "nightly"]);
    assert!(said.starts_with("run 1 of nightly is done: 3 rows in "), "{said}");
    wait_for("the rows", seconds(60), || (count(&client, "prices")? == 3).then_some(()));
    wait_for("those that follow", seconds(60), || (count(&client, "customers")? == 2).then_some(()));
    let asked = told(&folder, &["source", "run", "nightly", "--no-wait"]);
    assert_eq!(asked, "run 2 of nightly begins\n");
    wait_for("two runs, and two that follow", seconds(60), || {
        let done = |source| history(&folder, source).iter().filter(|run| run["state"] == "done").count();
        (done("nightly") == 2 && done("customers") == 2).then_some(())
    });
    assert_eq!(running.stop().code, Some(0));

    let runs = history(&folder, "nightly");
    assert_eq!(runs[1]["number"], 1);
    assert_eq!(
        (&runs[1]["rows"], &runs[1]["attempts"], &runs[1]["reached"], &runs[1]["error"]),
        (&json!(3), &json!(1), &json!({"prices": "3"}), &Value::Null)
    );
    assert_eq!((&runs[0]["rows"], &runs[0]["number"]), (&json!(0), &json!(2)));
    let took =
        runs[1]["ended_ms"].as_i64().zip(runs[1]["started_ms"].as_i64()).map(|(end, start)| end - start);
    assert!(took.is_some_and(|took| took >= 0));
    assert_eq!(history(&folder, "customers")[1]["rows"], 2);
    assert_eq!(history(&folder, "nightly").len(), 2);
    assert_eq!(
        serde_json::from_str::<Vec<Value>>(&told(
            &folder,
            &["source", "history", "nightly", "--last", "1", "--output", "json"]
        ))
        .expect("a list"),
        runs[..1]
    );
    let table = told(&folder, &["source", "history", "nightly"]);
    assert!(table.contains("done") && table.contains("attempts"), "{table}");
    let none = folder.tarn(&["source", "history", "pushes"]);
    assert!(none.code == Some(1) && none.said.contains("has no runs"), "{}", none.said);
}
