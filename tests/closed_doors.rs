//! Every door only answers questions: HTTP, subscriptions, PostgreSQL's protocol, `tarn sql`. And all say the same of a mistake.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{
    Client, Folder, Postgres, Running, count, error_of, events, push, seconds, visible, wait_for,
};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"
postgres = "127.0.0.1:0"
statement_memory = "8MiB"

[[source]]
name = "push"
type = "http"
topic = "events"
key = "id"

[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "1h"

[[view]]
name = "totals"
query = "SELECT id % 2 AS odd, count(*) AS n FROM events GROUP BY 1"
"#;

/// What a door says to a statement: an error's message and hint, or `None` when it is answered.
type Told = Option<(String, Option<String>)>;

/// All doors to one process.
struct Doors<'f> {
    folder: &'f Folder,
    client: Client,
    postgres: Postgres,
}

const DOORS: [&str; 4] = ["http", "subscribe", "postgres", "tarn sql"];

impl Doors<'_> {
    fn open<'f>(folder: &'f Folder, running: &mut Running) -> Doors<'f> {
        let client = running.ready();
        let address = wait_for("the address", seconds(60), || running.postgres());
        Doors { folder, client, postgres: Postgres::connect(&address).expect("a session") }
    }

    fn ask(&mut self, door: &str, sql: &str) -> Told {
        match door {
            "http" => told_by_http(&self.client.try_sql(sql).expect("an answer")),
            "subscribe" => {
                let path = format!("/v1/subscribe?sql={}", percent(sql));
                told_by_http(&self.client.get(&path).expect("an answer"))
            }
            "postgres" => {
                let error = self.postgres.error(sql).expect("an answer")?;
                assert_ne!(error[&'C'], "XX000", "`{sql}` is not our bug: {error:?}");
                Some((error[&'M'].clone(), error.get(&'H').cloned()))
            }
            _ => {
                let ended = self.folder.tarn(&["sql", "-c", "tarn.toml", "--", sql]);
                if ended.code == Some(0) {
                    return None;
                }
                assert!(matches!(ended.code, Some(1 | 2)), "`{sql}`: {:?} {}", ended.code, ended.said);
                let line = |begin: &str| {
                    let mut lines = ended.said.lines();
                    lines.find_map(|line| line.strip_prefix(begin)).map(str::to_owned)
                };
                Some((line("error: ").expect("what is wrong"), line("hint: ")))
            }
        }
    }
}

fn told_by_http(answer: &crate::harness::Answer) -> Told {
    if answer.status == 200 {
        return None;
    }
    assert!(
        (400..500).contains(&answer.status) || answer.status == 503,
        "{}: {}",
        answer.status,
        answer.text()
    );
    let error = answer.json()["error"].clone();
    Some((
        error["message"].as_str().expect("a message").to_owned(),
        error["hint"].as_str().map(str::to_owned),
    ))
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Everything that a statement could change: the config, the lake's and the log's files by name, and the rows.
fn state(folder: &Folder, client: &Client) -> Value {
    let names = |below: &str, suffix: &str| -> Vec<String> {
        folder.find(below, suffix).iter().map(|path| path.display().to_string()).collect()
    };
    json!({
        "config": std::fs::read_to_string(folder.path("tarn.toml")).expect("the config"),
        "lake": names("lake", ""),
        "segments": names("data", ".log"),
        "tables": client.sql("SELECT table_name FROM information_schema.tables ORDER BY 1"),
        "rows": client.sql("SELECT * FROM events ORDER BY id"),
        "view": client.sql("SELECT * FROM totals ORDER BY odd"),
    })
}

#[test]
fn nothing_over_any_door_writes_reads_files_or_reaches_the_network() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let mut doors = Doors::open(&folder, &mut running);
    assert_eq!(push(&doors.client, &events(0, 20)), 200);
    visible(&doors.client, 20);
    folder.put("secret.csv", "a,b\n1,2\n");
    // Who listens here hears of everybody who calls.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("set");
    let called = listener.local_addr().expect("an address");
    // The view's first build is begun aside.
    let build = folder.path("lake/totals@v1/_delta_log/00000000000000000000.json");
    wait_for("the view's build", seconds(60), || build.exists().then_some(()));
    let before = state(&folder, &doors.client);
    let (stolen, secret) = (folder.path("stolen.csv"), folder.path("secret.csv"));
    let (stolen, secret) = (stolen.display(), secret.display());
    for sql in [
        format!("COPY events TO '{stolen}'"),
        format!("COPY (SELECT 1) TO '{stolen}' STORED AS CSV"),
        format!("COPY (SELECT 1) TO PROGRAM 'touch {stolen}'"),
        format!("COPY events FROM '{secret}'"),
        "COPY events FROM STDIN".to_owned(),
        format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{secret}'"),
        "CREATE TABLE t (a INT)".to_owned(),
        "CREATE TABLE t AS SELECT 1 AS a".to_owned(),
        "CREATE VIEW v AS SELECT 1 AS a".to_owned(),
        "CREATE SCHEMA s".to_owned(),
        "CREATE FUNCTION f() RETURNS INT LANGUAGE SQL RETURN 1".to_owned(),
        "INSERT INTO events VALUES (0, 0, now(), 21, 'x', NULL)".to_owned(),
        "INSERT INTO events (id) SELECT id FROM events".to_owned(),
        "UPDATE events SET text = 'x'".to_owned(),
        "DELETE FROM events".to_owned(),
        "TRUNCATE TABLE events".to_owned(),
        "MERGE INTO events USING totals ON true WHEN MATCHED THEN DELETE".to_owned(),
        "DROP TABLE events".to_owned(),
        "DROP VIEW totals".to_owned(),
        "ALTER TABLE events ADD COLUMN a INT".to_owned(),
        "EXPLAIN ANALYZE INSERT INTO events (id) VALUES (21)".to_owned(),
        "PREPARE p AS DELETE FROM events".to_owned(),
        "WITH gone AS (DELETE FROM events RETURNING id) SELECT * FROM gone".to_owned(),
        "SELECT * INTO t FROM events".to_owned(),
        "SELECT * FROM read_parquet('/etc/passwd')".to_owned(),
        format!("SELECT * FROM read_csv('{secret}')"),
        format!("SELECT * FROM '{secret}'"),
        format!("SELECT * FROM \"{secret}\""),
        "SELECT * FROM '/etc/passwd'".to_owned(),
        format!("SELECT * FROM 'http://{called}/x.parquet'"),
        format!("SELECT * FROM read_parquet('http://{called}/x.parquet')"),
        "SELECT pg_read_file('/etc/passwd')".to_owned(),
        "SET datafusion.execution.target_partitions = 1".to_owned(),
        "SET data_directory = '/'".to_owned(),
        "RESET datafusion.execution.target_partitions".to_owned(),
        "LOAD '/lib/x.so'".to_owned(),
        "ATTACH DATABASE 'x' AS y".to_owned(),
        "VACUUM events".to_owned(),
        "CALL f()".to_owned(),
    ] {
        for door in DOORS {
            let Some((message, hint)) = doors.ask(door, &sql) else { panic!("{door} answered `{sql}`") };
            assert!(message.len() > 10, "{door} to `{sql}`: `{message}`");
            assert!(
                hint.is_some() || message.contains('`') || message.contains("not "),
                "{door} to `{sql}`: `{message}` does not help"
            );
        }
    }
    // Several at once: the shell takes them apart and sends one after the other, the others refuse them.
    for door in DOORS {
        let told = doors.ask(door, "SELECT 1; DROP TABLE events");
        let (message, hint) = told.unwrap_or_else(|| panic!("{door} answered two statements"));
        assert!(message.contains("more than one") || message.contains("`DROP TABLE`"), "{door}: {message}");
        assert!(hint.is_some(), "{door}: {message}");
    }
    assert_eq!(state(&folder, &doors.client), before, "something has changed");
    assert!(!folder.path("stolen.csv").exists(), "a file was written");
    assert!(listener.accept().is_err(), "somebody called");
    assert!(running.runs());
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

/// A text beyond all measure is refused early, and the process goes on.
#[test]
fn a_hundred_megabytes_of_parentheses_are_refused_over_every_door() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let mut doors = Doors::open(&folder, &mut running);
    assert_eq!(push(&doors.client, &events(0, 3)), 200);
    visible(&doors.client, 3);
    let sql = format!("SELECT {}1{}", "(".repeat(50_000_000), ")".repeat(50_000_000));
    // A server may hang up on who goes on talking: then its answer can be lost on the way.
    if let Ok(answer) = doors.client.try_sql(&sql) {
        assert_eq!(answer.status, 413, "{}", answer.text());
        assert!(answer.text().contains("a statement has at most"), "{}", answer.text());
    }
    if let Ok(answer) = doors.client.get(&format!("/v1/subscribe?sql={}", &sql[7..])) {
        assert!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
    }
    let said = doors.postgres.query(&sql).expect("it is read past");
    let error = error_of(&said).expect("an error");
    assert_eq!(error[&'C'], "54000", "{error:?}");
    assert!(doors.postgres.error("SELECT 1").expect("the session goes on").is_none());
    let (mut command, said) = folder.command(&["sql", "-c", "tarn.toml"]);
    let mut piped = command.stdin(Stdio::piped()).spawn().expect("start the binary");
    // It may end before it has read all.
    let _ = piped.stdin.take().expect("stdin").write_all(sql.as_bytes());
    assert_eq!(piped.wait().expect("it ends").code(), Some(1));
    let said = std::fs::read_to_string(said).expect("what it said");
    assert!(
        said.contains("error: a statement has at most 262144 bytes") && said.contains("hint: "),
        "{said}"
    );
    // What is short enough to be read is refused for its depth.
    let deep = format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000));
    for door in ["http", "postgres", "tarn sql"] {
        let (message, _) = doors.ask(door, &deep).unwrap_or_else(|| panic!("{door} answered"));
        assert!(message.contains("nested"), "{door}: {message}");
    }
    assert_eq!(count(&doors.client, "events"), Some(3));
    assert!(running.runs());
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn every_door_says_the_same_of_a_mistake() {
    let folder = Folder::new(CONFIG);
    let mut running = folder.start();
    let mut doors = Doors::open(&folder, &mut running);
    assert_eq!(push(&doors.client, &events(0, 20)), 200);
    visible(&doors.client, 20);
    for (sql, message, hint) in [
        ("SELECT txet FROM events", "there is no column `txet`", "did you mean `text`?"),
        ("SELECT * FROM evnets", "there is no table `evnets`", "did you mean `events`?"),
        ("SELECT sun(id) FROM events", "there is no function `sun`", "did you mean `sum`?"),
        ("SELECT * FROM lakes.events", "there is no schema `lakes`", "`lake.t`"),
        ("SELECT text - id FROM events", "VARCHAR - BIGINT", ""),
        ("SELECT CAST('x' AS BIGINT) FROM events", "'x'", ""),
        ("SELECT abs(text) FROM events", "abs", ""),
        (
            "SELECT text, count(*) FROM events",
            "column `events.text` is neither in GROUP BY",
            "group by it too",
        ),
        ("SELECT 1 FORM events", "the statement cannot be parsed", ""),
        ("DROP TABLE events", "`DROP TABLE` is not allowed", "SELECT"),
        (
            "SELECT value FROM generate_series(1, 3000000) ORDER BY value % 1000, value",
            "the statement needs more memory than it may have",
            "raise `serving.statement_memory`",
        ),
        (
            "SELECT * FROM events VERSION AS OF 'nowhere:0=1'",
            "the vector names the topic `nowhere`",
            "topics: events",
        ),
    ] {
        let mut told: Vec<(&str, (String, Option<String>))> = Vec::new();
        for door in DOORS {
            let said = doors.ask(door, sql).unwrap_or_else(|| panic!("{door} answered `{sql}`"));
            assert!(said.0.contains(message), "{door} to `{sql}`: {said:?}");
            assert!(
                hint.is_empty() || said.1.as_ref().is_some_and(|told| told.contains(hint)),
                "{door}: {said:?}"
            );
            told.push((door, said));
        }
        for (door, said) in &told {
            assert_eq!(*said, told[0].1, "{door} and {} differ in `{sql}`", told[0].0);
        }
    }
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}
