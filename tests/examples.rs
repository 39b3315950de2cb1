//! The examples in configs/, each run as its head says.

use std::path::Path;

use serde_json::json;

use crate::harness::{Folder, count, exactly_once, seconds, wait_for};

/// An example as a folder's config, on a free port and with its data where tests look for it.
fn example(name: &str) -> Folder {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../configs/{name}.toml"));
    let text = std::fs::read_to_string(path).expect("read the example");
    Folder::new(&text.replace("127.0.0.1:8080", "127.0.0.1:0").replace(&format!("data-{name}"), "data"))
}

#[test]
fn weblogs_follows_lines_and_objects() {
    let folder = example("weblogs");
    let line = |n: u32| format!("127.0.0.1 - - [22/Nov/2026:10:00:0{n} +0000] \"GET / HTTP/1.1\" 200 {n}\n");
    folder.grow("logs/access.log", line(1) + &line(2) + "a line without an end");
    folder.grow(
        "logs/app.ndjson",
        "{\"ts\":\"2026-11-22T10:00:00Z\",\"level\":\"warn\",\"message\":\"m\",\"user\":7}\n",
    );
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM access"), 2, "a line counts once its break is there");
    assert_eq!(
        folder.sql("SELECT level, message, _rest FROM app"),
        [json!({"level": "warn", "message": "m", "_rest": "{\"user\":7}"})]
    );
    let status =
        "SELECT regexp_match(line, '\" (\\d{3}) ')[1] AS status, count(*) AS n FROM access GROUP BY 1";
    assert_eq!(folder.sql(status), [json!({"status": "200", "n": 2})]);
    folder.grow("logs/access.log", "\n");
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM access"), 3);
}

#[test]
fn http_takes_what_is_pushed() {
    let folder = example("http");
    let mut running = folder.start();
    let client = running.ready();
    let answer = client.post("/v1/ingest/clicks", &[], b"{\"user\": \"ada\", \"page\": \"/\", \"ms\": 12}");
    assert_eq!(answer.expect("an answer").status, 200);
    wait_for("the click", seconds(30), || (count(&client, "clicks")? == 1).then_some(()));
    assert_eq!(
        client.sql("SELECT page, count(*) AS n FROM clicks GROUP BY 1"),
        [json!({"page": "/", "n": 1})]
    );
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn database_comes_whole_and_then_only_what_is_new() {
    let folder = example("database");
    let shop = rusqlite::Connection::open(folder.path("shop.sqlite")).expect("a database");
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/database.sql");
    shop.execute_batch(&std::fs::read_to_string(sql).expect("the shop")).expect("the shop");
    folder.drained();
    let counts = || {
        ["customers", "products", "orders"]
            .map(|table| folder.number(&format!("SELECT count(*) FROM {table}")))
    };
    assert_eq!(counts(), [3, 2, 3]);
    let joined = "SELECT c.name, CAST(sum(o.amount) AS DOUBLE) AS amount FROM orders o JOIN customers c ON c.id = o.customer \
        GROUP BY 1 ORDER BY 1";
    assert_eq!(
        folder.sql(joined),
        [json!({"name": "Ada", "amount": 48.9}), json!({"name": "Grace", "amount": 39.9})]
    );
    shop.execute("INSERT INTO customers VALUES (4, 'Barbara', 'Boston')", ()).expect("a new customer");
    folder.drained();
    assert_eq!(counts(), [4, 2, 3], "only what is new came");
}

#[test]
fn access_is_taken_apart_filtered_hashed_and_routed() {
    let folder = example("access");
    let line = |path: &str, status: u32| {
        format!(
            "203.0.113.9 - - [22/Nov/2026:11:00:00 +0100] \"GET {path} HTTP/1.1\" {status} 512 \"-\" \"curl/8.5\"\n"
        )
    };
    let health = line("/health", 200);
    folder.grow("logs/access.log", line("/", 200) + &health + &line("/pay", 503) + "torn\n" + &health);
    folder.drained();
    let rows = folder
        .sql("SELECT time, path, status, size, host, _timestamp = time AS same FROM access ORDER BY _offset");
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (&rows[1]["path"], &rows[1]["status"], &rows[1]["size"]),
        (&json!("/pay"), &json!(503), &json!(512))
    );
    assert!(
        rows[0]["time"].as_str().is_some_and(|time| time.starts_with("2026-11-22T10:00:00")),
        "{}",
        rows[0]
    );
    assert_eq!((&rows[0]["same"], &rows[0]["host"]), (&json!(true), &rows[1]["host"]));
    assert!(rows[0]["host"].as_str().is_some_and(|host| host.len() == 32), "{}", rows[0]);
    assert_eq!(folder.sql("SELECT path FROM failures"), [json!({"path": "/pay"})]);
    let dead = folder.sql("SELECT reason FROM access_dead_letters");
    let reason = dead[0]["reason"].as_str().unwrap_or_default();
    assert!(
        reason.starts_with("line 4 of ") && reason.ends_with("the line ends before the field `host`"),
        "{reason}"
    );
}

/// A Parquet file of sales `from` to `to`, in row groups of 500.
fn sales(from: i64, to: i64) -> Vec<u8> {
    use arrow::array::{
        ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    };
    use std::sync::Arc;

    let mut writer = None;
    for first in (from..to).step_by(500) {
        let ids = first..to.min(first + 500);
        let amounts = Decimal128Array::from_iter_values(ids.clone().map(|id| i128::from(id) * 101));
        let times = TimestampMicrosecondArray::from_iter_values(ids.clone().map(|id| id * 1_000_001));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("id", Arc::new(Int64Array::from_iter_values(ids.clone()))),
            (
                "region",
                Arc::new(StringArray::from_iter_values(
                    ids.map(|id| ["north", "south"][usize::from(id % 2 > 0)]),
                )),
            ),
            ("amount", Arc::new(amounts.with_precision_and_scale(12, 2).expect("a decimal"))),
            ("at", Arc::new(times.with_timezone("UTC"))),
        ];
        let batch = RecordBatch::try_from_iter(columns).expect("rows");
        let writer = writer.get_or_insert_with(|| {
            parquet::arrow::ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer")
        });
        writer.write(&batch).expect("written");
        writer.flush().expect("a row group");
    }
    writer.expect("rows").into_inner().expect("a file")
}

#[test]
fn parquet_rows_come_with_their_types_once_whatever_is_killed() {
    let folder = example("parquet");
    // Slow enough to be killed in the middle.
    let text = std::fs::read_to_string(folder.path("tarn.toml")).expect("the config");
    let text = text.replace("records_per_second = 20000", "records_per_second = 2500");
    // Where the independent reader looks for it.
    folder.configure(&text.replace("file:data/lake", "file:lake"));
    folder.put("exports/sales-1.parquet", sales(0, 9000));
    for seen in [1, 2600, 4000] {
        let mut running = folder.start();
        let client = running.ready();
        wait_for("rows", seconds(60), || count(&client, "sales").filter(|n| *n >= seen));
        running.kill();
    }
    folder.drained();
    exactly_once(&folder, "sales", 9000, 0);
    let sums = "SELECT count(DISTINCT id) AS ids, CAST(sum(amount) AS VARCHAR) AS amount, CAST(min(amount) AS VARCHAR) AS least, \
        count(_rest) AS rest, max(at) = TIMESTAMP '1970-01-01T02:29:59.008999Z' AS last FROM sales";
    let wanted = json!({"ids": 9000, "amount": "40900455.00", "least": "0.00", "rest": 0, "last": true});
    assert_eq!(folder.sql(sums), [wanted]);
    assert!(folder.path("exports/sales-1.parquet.done").exists());
}

#[test]
fn sensors_are_what_a_query_makes_of_them() {
    let folder = example("sensors");
    let reading = |sensor: &str, fahrenheit: &str| {
        format!(
            "{{\"sensor\": {sensor}, \"at\": \"2026-11-22T10:00:00Z\", \"fahrenheit\": {fahrenheit}, \"battery\": \"97%\"}}\n"
        )
    };
    let lines = [
        reading("\"attic\"", "68.0"),
        reading("null", "1"),
        reading("\"cellar\"", "\"hot\""),
        reading("\"attic\"", "\"50\""),
    ];
    folder.grow("logs/a.ndjson", lines.concat());
    folder.drained();
    assert_eq!(
        folder.sql("SELECT sensor, celsius, battery FROM readings WHERE _rest IS NULL ORDER BY _offset"),
        [
            json!({"sensor": "attic", "celsius": 20.0, "battery": 97}),
            json!({"sensor": "attic", "celsius": 10.0, "battery": 97}),
        ]
    );
    let dead = folder.sql("SELECT reason, CAST(value AS VARCHAR) AS value FROM readings_dead_letters");
    let reason = dead[0]["reason"].as_str().unwrap_or_default();
    assert!(
        dead.len() == 1
            && reason.starts_with("line 3 of ")
            && reason.contains("`sql` failed")
            && reason.contains("hot"),
        "{dead:?}"
    );
    assert_eq!(dead[0]["value"].as_str(), Some(lines[2].trim_end()), "the bytes that came");
    let text = std::fs::read_to_string(folder.path("tarn.toml")).expect("the config");
    for (query, why) in
        [("SELECT now() AS at FROM batch", "now()"), ("SELECT count(*) FROM batch", "one record at a time")]
    {
        let begin = text.find("query = ").expect("a query");
        let end = text[begin..].find("\n\n").expect("its end") + begin;
        folder.configure(&format!("{}query = \"{query}\"{}", &text[..begin], &text[end..]));
        let ended = folder.tarn(&["check", "tarn.toml"]);
        assert_eq!(ended.code, Some(2), "{query}: {}", ended.said);
        assert!(
            ended.said.contains("source[0].interceptor[0].query") && ended.said.contains(why),
            "{}",
            ended.said
        );
    }
}

#[test]
fn applog_keeps_stack_traces_together() {
    let folder = example("applog");
    folder.grow(
        "logs/app.log",
        "2026-11-22 10:00:00.250 ERROR [checkout] payment failed\njava.io.IOException: no\n    at A.b(A.java:1)\n\
         2026-11-22 10:00:01 INFO  [main] up\n",
    );
    folder.drained();
    assert_eq!(
        folder.sql("SELECT level, logger, message, host IS NOT NULL AS host FROM app ORDER BY _offset"),
        [
            json!({"level": "ERROR", "logger": "checkout", "host": true,
                "message": "payment failed\njava.io.IOException: no\n    at A.b(A.java:1)"}),
            json!({"level": "INFO", "logger": "main", "message": "up", "host": true})
        ]
    );
    let at = folder.number(
        "SELECT count(*) FROM app WHERE _timestamp = TIMESTAMP '2026-11-22T09:00:01Z' AND ts = _timestamp",
    );
    assert_eq!(at, 1, "the zone is Berlin's");
}

#[test]
fn disks_are_what_df_says() {
    let folder = example("disks");
    let mut running = folder.start();
    let client = running.ready();
    let rows = wait_for("rows", seconds(60), || count(&client, "disks").filter(|n| *n > 0));
    let whole = "SELECT count(*) AS n FROM disks WHERE device IS NOT NULL AND kib >= used AND mount LIKE '/%' AND host IS NOT NULL";
    assert_eq!(client.sql(whole), [json!({"n": rows})]);
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn shop_makes_orders_up_and_goes_on_with_them() {
    let folder = example("shop");
    let mut running = folder.start();
    let client = running.ready();
    let orders = wait_for("orders", seconds(60), || count(&client, "orders").filter(|n| *n > 20));
    wait_for("clicks", seconds(60), || count(&client, "clicks").filter(|n| *n > 20));
    let whole = "SELECT count(*) AS n FROM orders WHERE order_id IS NULL OR price IS NULL OR ts IS NULL OR _rest IS NOT NULL";
    assert_eq!(client.sql(whole), [json!({"n": 0})], "the columns fit what the generator makes");
    assert_eq!(running.stop().code, Some(0));
    let mut running = folder.start();
    let client = running.ready();
    assert!(count(&client, "orders").is_some_and(|n| n >= orders), "the count fell");
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn import_brings_tables_and_a_query_straight_into_the_lake() {
    let folder = example("import");
    let shop = rusqlite::Connection::open(folder.path("shop.sqlite")).expect("a database");
    let sql = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/database.sql");
    shop.execute_batch(&std::fs::read_to_string(sql).expect("the shop")).expect("the shop");
    let counts = || {
        ["shop_customers", "shop_orders", "revenue"]
            .map(|table| folder.number(&format!("SELECT count(*) FROM {table}")))
    };
    for revenues in [2, 4] {
        let ended = folder.tarn(&["import", "-c", "tarn.toml", "--all"]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert_eq!(counts(), [3, 3, revenues], "tables are replaced, revenues added");
    }
    let joined = "SELECT c.name, min(r.orders) AS orders FROM revenue r JOIN shop_customers c ON c.id = r.customer GROUP BY 1 ORDER BY 1";
    assert_eq!(
        folder.sql(joined),
        [json!({"name": "Ada", "orders": 2}), json!({"name": "Grace", "orders": 1})]
    );
}

#[test]
fn export_brings_what_is_new_and_what_has_changed_into_a_database() {
    let folder = example("export");
    let website = rusqlite::Connection::open(folder.path("website.sqlite")).expect("a database");
    website
        .execute_batch("CREATE TABLE turnover (country TEXT PRIMARY KEY, orders INTEGER NOT NULL, amount DECIMAL(12, 2) NOT NULL)")
        .expect("the table");
    let mut running = folder.start();
    let client = running.ready();
    let sell = |order: u32, country: &str, amount: &str| {
        let sale = json!({"order": order, "country": country, "amount": amount}).to_string();
        let answer = client.post("/v1/ingest/sales", &[], sale.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 200);
    };
    let command =
        "export -c tarn.toml turnover --to sqlite:website.sqlite --into turnover --mode upsert --key country";
    let exported = || {
        let ended = folder.tarn(&command.split(' ').collect::<Vec<_>>());
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        let mut rows = website
            .prepare("SELECT country || ' ' || orders || ' ' || amount FROM turnover ORDER BY 1")
            .expect("a query");
        let rows: Result<Vec<String>, _> = rows.query_map([], |row| row.get(0)).expect("rows").collect();
        rows.expect("rows")
    };
    sell(1, "NL", "12.50");
    sell(2, "DE", "3.25");
    wait_for("both", seconds(30), || (count(&client, "sales")? == 2).then_some(()));
    for _ in 0..2 {
        assert_eq!(exported(), ["DE 1 3.25", "NL 1 12.5"]);
    }
    sell(3, "NL", "7.25");
    sell(4, "PT", "1.75");
    wait_for("all four", seconds(30), || (count(&client, "sales")? == 4).then_some(()));
    assert_eq!(exported(), ["DE 1 3.25", "NL 2 19.75", "PT 1 1.75"]);
    assert_eq!(running.stop().code, Some(0));
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/export.toml"));
    let head = command.replace("tarn.toml", "configs/export.toml").replace("sqlite:", "sqlite:configs/");
    assert!(text.expect("the example").contains(&head), "its head says what was run here");
}
