//! `POST /v1/sql` and its neighbours: formats, the vector, `AS OF`, and who may ask.

use std::io::{BufRead, BufReader, Cursor};
use std::process::{Child, Stdio};
use std::sync::mpsc;

use arrow::array::Int64Array;
use arrow::ipc::reader::StreamReader;
use serde_json::{Value, json};

use crate::harness::{Client, Folder, VECTOR, committed, count, events, push, seconds, visible, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"
optimize_after_files = 3

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "events"
partitions = 2

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "200ms"
"#;

fn pushed(client: &Client, from: i64, n: i64) {
    assert_eq!(push(client, &events(from, n)), 200);
    visible(client, from + n);
}

#[test]
fn an_answer_comes_in_the_format_that_was_asked_for() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 3);
    let ask = |accept: &str| {
        let sql = "SELECT id, text FROM events ORDER BY id";
        let answer =
            client.post("/v1/sql", &[("Accept", accept), ("Content-Type", "text/plain")], sql.as_bytes());
        let answer = answer.expect("an answer");
        assert_eq!(answer.status, 200, "{accept}: {}", answer.text());
        assert_eq!(
            answer.header(VECTOR).map(|v| v.starts_with("events:")),
            Some(true),
            "{:?}",
            answer.headers
        );
        answer
    };
    assert_eq!(ask("application/json").json()[2], json!({"id": 2, "text": "event 2"}));
    let lines = ask("application/x-ndjson").text();
    assert_eq!(
        lines.lines().nth(1).map(|line| serde_json::from_str(line).expect("JSON")),
        Some(json!({"id": 1, "text": "event 1"}))
    );
    assert_eq!(ask("text/csv").text().replace("\r\n", "\n"), "id,text\n0,event 0\n1,event 1\n2,event 2\n");
    let stream = ask("application/vnd.apache.arrow.stream");
    let batches: Vec<_> = StreamReader::try_new(Cursor::new(stream.body), None)
        .expect("a stream")
        .map(|b| b.expect("a batch"))
        .collect();
    let ids: Vec<i64> = batches
        .iter()
        .flat_map(|b| b.column(0).as_any().downcast_ref::<Int64Array>().expect("BIGINT").values().to_vec())
        .collect();
    assert_eq!(ids, [0, 1, 2]);
    assert_eq!(running.stop().code, Some(0));
}

#[test]
fn parameters_stand_for_values() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 5);
    let body = json!({"sql": "SELECT text FROM events WHERE id = $1 OR text = $2 ORDER BY id", "params": [3, "event 4"]}).to_string();
    let answer = client.post(
        "/v1/sql",
        &[("Content-Type", "application/json"), ("Accept", "application/json")],
        body.as_bytes(),
    );
    assert_eq!(answer.expect("an answer").json(), json!([{"text": "event 3"}, {"text": "event 4"}]));
}

#[test]
fn as_of_a_vector_is_repeatable_whatever_was_committed_and_merged_since() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 50);
    let sql = "SELECT count(*) AS n, sum(id) AS s, max(text) AS m FROM events";
    let first = client.try_sql(sql).expect("an answer");
    let vector = first.header(VECTOR).expect("a vector").to_string();
    let first = first.json();
    let again = format!("{sql} VERSION AS OF '{vector}'");
    assert_eq!(client.sql(&again), *first.as_array().expect("rows"), "at once");
    for round in 1..6 {
        pushed(&client, round * 50, 50);
        wait_for("a commit", seconds(20), || {
            let status = client.get("/v1/status").ok()?.json();
            (status["tables"][0]["uncommitted_records"] == 0).then_some(())
        });
        assert_eq!(client.sql(&again), *first.as_array().expect("rows"), "after commit {round}");
    }
    let answer = client.post("/v1/table/events/optimize", &[], b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client.sql(&again), *first.as_array().expect("rows"), "after a merge");
    assert_eq!(running.stop().code, Some(0));
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(client.sql(&again), *first.as_array().expect("rows"), "after a restart");
    assert_eq!(count(&client, "events"), Some(300));
}

#[test]
fn only_queries_are_answered() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 1);
    let file = folder.path("stolen.csv");
    for sql in [
        format!("COPY events TO '{}'", file.display()),
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'tarn.toml'".to_string(),
        "DROP TABLE events".to_string(),
        "INSERT INTO events VALUES (1)".to_string(),
        "CREATE TABLE t AS SELECT 1".to_string(),
        "SELEC 1".to_string(),
        "SELECT nothing FROM events".to_string(),
        "SELECT * FROM 'tarn.toml'".to_string(),
    ] {
        let answer = client.try_sql(&sql).expect("an answer");
        assert_eq!(answer.status, 400, "`{sql}` was answered {}: {}", answer.status, answer.text());
        assert!(answer.text().len() > 10, "`{sql}` was refused without a word");
    }
    assert!(!file.exists());
    folder.never_panicked();
}

#[test]
fn a_page_from_elsewhere_may_not_ask() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let statuses = |headers: &[(&str, &str)]| {
        ["/v1/sql", "/v1/ingest/events"].map(|path| {
            let body: &[u8] = if path == "/v1/sql" { b"SELECT 1 AS one" } else { b"{\"id\":1}" };
            client.post(path, headers, body).expect("an answer").status
        })
    };
    assert_eq!(statuses(&[("Host", "evil.example")]), [403, 403], "another host");
    assert_eq!(statuses(&[("Origin", "http://evil.example")]), [403, 403], "another origin");
    assert_eq!(statuses(&[("Origin", "null")]), [403, 403], "no origin to speak of");
    let own = format!("http://{}", client.address());
    assert_eq!(statuses(&[("Origin", &own)]), [200, 200], "its own origin");
    let port = client.address().rsplit(':').next().expect("a port");
    assert_eq!(statuses(&[("Host", &format!("localhost:{port}"))]), [200, 200], "localhost");
}

#[test]
fn ingest_answers_a_repeat_like_the_first_and_refuses_what_is_wrong() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    let post = |path: &str, key: Option<&str>, body: &str| {
        let headers: Vec<(&str, &str)> = key.map(|key| ("Idempotency-Key", key)).into_iter().collect();
        let answer = client.post(path, &headers, body.as_bytes()).expect("an answer");
        (answer.status, answer.text())
    };
    let first = post("/v1/ingest/events", Some("a"), "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!(first.0, 200, "{}", first.1);
    let again = post("/v1/ingest/events", Some("a"), "{\"id\":1}\n{\"id\":2}\n");
    assert_eq!(again.0, 200, "{}", again.1);
    let ranges = |text: &str| serde_json::from_str::<Value>(text).expect("JSON")["ranges"].clone();
    assert_eq!(ranges(&again.1), ranges(&first.1), "the repeat was answered otherwise");
    assert_eq!(
        post("/v1/ingest/events", Some("a"), "{\"id\":3}\n").0,
        422,
        "another body under the same key"
    );
    assert_eq!(post("/v1/ingest/events", Some("b"), "[{\"id\":3},{\"id\":4}]").0, 200, "an array");
    let malformed = post("/v1/ingest/events", None, "{\"id\":5}\n{\"id\":\n");
    assert_eq!(malformed.0, 400, "{}", malformed.1);
    assert!(
        malformed.1.contains("line 2") || malformed.1.contains("line=`2`"),
        "the line is not told: {}",
        malformed.1
    );
    assert_eq!(post("/v1/ingest/nowhere", None, "{\"id\":5}").0, 404);
    wait_for("four records and no more", seconds(20), || (count(&client, "events")? == 4).then_some(()));
    assert_eq!(running.stop().code, Some(0));
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM events"), 4);
}

#[test]
fn metrics_and_status_tell_the_same_counts() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 7);
    wait_for("a commit", seconds(20), || {
        let status = client.get("/v1/status").ok()?.json();
        (status["tables"][0]["lake_rows"] == 7).then_some(())
    });
    let metrics = client.get("/metrics").expect("an answer");
    assert_eq!(metrics.status, 200);
    let text = metrics.text();
    assert!(
        text.lines().any(|line| line.contains("events") && line.ends_with(" 7")),
        "no metric says 7:\n{text}"
    );
    assert_eq!(client.get("/healthz").expect("an answer").status, 200);
    assert_eq!(client.get("/").expect("an answer").status, 200);
    assert_eq!(client.get("/nothing").expect("an answer").status, 404);
}

#[test]
fn status_topic_and_source_answer_at_rest_from_log_and_lake() {
    let spool = "[[source]]\nname = \"spool\"\ntype = \"spooldir\"\npath = \"in\"\nformat = \"ndjson\"\ntopic = \"events\"\n";
    let folder = Folder::new(&format!("{CONFIG}{spool}"));
    std::fs::create_dir_all(folder.path("in")).expect("create the folder");
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 30);
    committed(&client);
    running.kill();
    // What is in the log and not in the lake, and a line that is no record.
    folder.configure(&format!("{CONFIG}{spool}").replace("200ms", "1h"));
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 30, 12);
    folder.put("in/a.ndjson", "{\"id\":42,\"text\":\"x\"}\nno record\n");
    wait_for("the file", seconds(30), || (count(&client, "events")? == 43).then_some(()));
    wait_for("its name to change", seconds(30), || folder.path("in/a.ndjson.done").exists().then_some(()));
    running.kill();

    let ask = |arguments: &[&str]| {
        let ended = folder.tarn(arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(ended.said.contains("nothing runs"), "{}", ended.said);
        ended.printed
    };
    let status: Value = serde_json::from_str(&ask(&["status", "--output", "json"])).expect("JSON");
    assert_eq!((&status["at_rest"], &status["ready"]), (&json!(true), &json!(false)));
    let table = &status["tables"][0];
    assert_eq!((&table["state"], &table["lake_rows"]), (&json!("at rest"), &json!(30)), "{table}");
    assert_eq!(table["uncommitted_records"], 14, "{table}");
    assert!(table["uncommitted_s"].as_f64().is_some_and(|s| s > 0.0), "{table}");
    let ends: Vec<i64> = status["topics"][0]["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|partition| partition["end"].as_i64().expect("an end"))
        .collect();
    assert_eq!(ends.iter().sum::<i64>(), 44, "{status}");
    let positions = status["sources"][1]["positions"].as_array().expect("positions");
    assert!(positions.iter().any(|position| position.to_string().contains("a.ndjson")), "{status}");
    let shown = ask(&["status"]);
    for word in ["at rest", "events", "spool", "a.ndjson", "14, "] {
        assert!(shown.contains(word), "`{word}` is missing: {shown}");
    }
    assert!(ask(&["topic", "describe", "events"]).contains("committed end"));
    assert!(ask(&["source", "list"]).contains("spooldir"));
    folder.drained();
    let status: Value = serde_json::from_str(&ask(&["status", "--output", "json"])).expect("JSON");
    let table = &status["tables"][0];
    assert_eq!(
        (&table["lake_rows"], &table["dead_letters"], &table["lag_records"]),
        (&json!(43), &json!(1), &json!(0))
    );
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn sql_watch_writes_each_answer_as_it_comes() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let client = running.ready();
    pushed(&client, 0, 3);
    let query = "SELECT count(*) AS n FROM events";
    let (mut command, said) =
        folder.command(&["sql", "-c", "tarn.toml", "--watch", "--output", "ndjson", query]);
    let mut watching = Killed(command.stdout(Stdio::piped()).spawn().expect("start the binary"));
    let stdout = watching.0.stdout.take().expect("a pipe");
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    // Reads answers, each with a blank line behind it, to the one that says `n`.
    let until = |n: i64| {
        let mut last = -1;
        while last != n {
            let line = || {
                let said = || std::fs::read_to_string(&said).unwrap_or_default();
                lines.recv_timeout(seconds(150)).unwrap_or_else(|error| panic!("{error}: {}", said()))
            };
            let answer: Value = serde_json::from_str(&line()).expect("a row");
            let now = answer["n"].as_i64().expect("a count");
            assert!(last <= now && now <= n, "{now} after {last}");
            last = now;
            assert_eq!(line(), "", "a blank line ends an answer");
        }
    };
    until(3);
    pushed(&client, 3, 2);
    until(5);
    drop(watching);
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}
