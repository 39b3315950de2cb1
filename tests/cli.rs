//! The command line: exit codes, streams, and the commands around a pipeline.

use serde_json::{Value, json};

use crate::harness::{Folder, count, events, push, seconds, visible, wait_for};

const CONFIG: &str = r#"
data_dir = "data"

[lake]
url = "file:lake"

[serving]
http = "127.0.0.1:0"

[[topic]]
name = "orders"
partitions = 2

[[source]]
name = "shop"
type = "generator"
stream = "orders"
rate = 0
count = 2000
topic = "orders"

[[table]]
name = "orders"
commit_every = "200ms"
"#;

#[test]
fn exit_codes_tell_a_wrong_command_line_from_a_failure() {
    let folder = Folder::new(CONFIG);
    assert_eq!(folder.tarn(&["check", "tarn.toml"]).code, Some(0));
    assert_eq!(folder.tarn(&["--version"]).code, Some(0));
    assert_eq!(folder.tarn(&["no-such-command"]).code, Some(2));
    assert_eq!(folder.tarn(&["check", "nowhere.toml"]).code, Some(2));
    let ended = folder.tarn(&["--help"]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.printed.contains("demo"), "help goes to stdout: {}", ended.printed);
}

#[test]
fn check_reports_every_problem_at_once() {
    let folder =
        Folder::new(&CONFIG.replace("partitions = 2", "partitions = 0").replace("rate = 0", "rat = 0"));
    let ended = folder.tarn(&["check", "tarn.toml"]);
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    for word in ["partitions", "source[0].rat:", "`rate`"] {
        assert!(ended.said.contains(word), "`{word}` is not said: {}", ended.said);
    }
}

#[test]
fn whoever_finds_the_process_can_stop_it() {
    // The file is there before the lake is open.
    let folder = Folder::new(&CONFIG.replace("count = 2000", "count = 200"));
    for _ in 0..5 {
        let running = folder.start();
        wait_for("the process to write down where it is", seconds(60), || running.address());
        let ended = running.stop();
        assert_eq!(ended.code, Some(0), "signal {:?}: {}", ended.signal, ended.said);
    }
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM orders"), 200);
    assert!(folder.tarn(&["verify"]).code == Some(0), "{}", folder.said());
}

#[test]
fn an_inferred_table_from_a_generator_is_the_same_at_rest_and_running() {
    let folder = Folder::new(CONFIG);
    folder.drained();
    assert_eq!(folder.number("SELECT count(*) AS n FROM orders"), 2000);
    for (output, first) in [("csv", "n"), ("json", "["), ("ndjson", "{"), ("table", "+")] {
        let ended =
            folder.tarn(&["sql", "-c", "tarn.toml", "--output", output, "SELECT count(*) AS n FROM orders"]);
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        assert!(
            ended.printed.trim_start().starts_with(first) || output == "table",
            "{output}: {}",
            ended.printed
        );
        assert!(ended.printed.contains("2000"), "{output}: {}", ended.printed);
    }
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(count(&client, "orders"), Some(2000));
    assert_eq!(folder.number("SELECT count(*) AS n FROM orders"), 2000, "through the running process");
    let ended = folder.tarn(&["status", "-c", "tarn.toml"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.printed.contains("orders") && ended.printed.contains("2,000"), "{}", ended.printed);
    let ended = folder.tarn(&["verify", "-c", "tarn.toml"]);
    assert_eq!(ended.code, Some(0), "{}{}", ended.printed, ended.said);
    for command in ["optimize", "vacuum"] {
        let ended = folder.tarn(&["table", command, "-c", "tarn.toml", "orders"]);
        assert_eq!(ended.code, Some(0), "{command}: {}{}", ended.printed, ended.said);
    }
    assert_eq!(count(&client, "orders"), Some(2000));
    assert_eq!(running.stop().code, Some(0));
    folder.never_panicked();
}

#[test]
fn verify_finds_a_row_that_is_missing_and_one_that_is_doubled() {
    let folder = Folder::new(CONFIG);
    folder.drained();
    let commits = folder.find("lake/orders/_delta_log", ".json");
    let commit = commits
        .iter()
        .find(|commit| std::fs::read_to_string(commit).is_ok_and(|text| text.contains("\"add\"")));
    let commit = commit.expect("a commit that adds files");
    let text = std::fs::read_to_string(commit).expect("read the commit");
    // A commit of somebody else that takes a file away.
    let add: Value = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .find_map(|action| action.get("add").cloned())
        .expect("an add");
    let newest = commits
        .last()
        .and_then(|path| path.file_stem())
        .and_then(|s| s.to_str())
        .and_then(|s| s.parse::<u64>().ok());
    let next = folder.path(format!("lake/orders/_delta_log/{:020}.json", newest.expect("a version") + 1));
    let remove = serde_json::json!({"remove": {
        "path": add["path"], "deletionTimestamp": 0, "dataChange": true, "partitionValues": add["partitionValues"], "size": add["size"],
    }});
    std::fs::write(next, format!("{remove}\n")).expect("write");
    let ended = folder.tarn(&["verify", "-c", "tarn.toml"]);
    assert_eq!(
        ended.code,
        Some(1),
        "verify did not see that rows are missing: {}{}",
        ended.printed,
        ended.said
    );
    folder.never_panicked();
}

#[test]
fn the_demo_answers_and_goes_on_where_it_stopped() {
    let folder = Folder::new(CONFIG);
    let orders = |at_least: i64| {
        let mut running = folder.start_demo();
        let client = running.ready();
        let n = wait_for("orders", seconds(60), || count(&client, "orders").filter(|n| *n > at_least));
        assert_eq!(running.stop().code, Some(0));
        n
    };
    let first = orders(10);
    let second = orders(first);
    assert!(second > first);
    folder.never_panicked();
}

#[test]
fn a_forced_trim_is_a_lost_range_and_the_table_goes_on_behind_it() {
    let config = r#"
data_dir = "data"
[lake]
url = "file:lake"
[serving]
http = "127.0.0.1:0"
[[source]]
name = "push"
type = "http"
topic = "events"
[[table]]
name = "events"
columns = "id BIGINT NOT NULL, text VARCHAR"
commit_every = "1h"
"#;
    let folder = Folder::new(config);
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(push(&client, &events(0, 100)), 200);
    visible(&client, 100);
    let trim = |before: &str, more: &[&str]| {
        folder.tarn(&[&["topic", "trim", "events", "--before", before][..], more].concat())
    };
    let ended = trim("10", &[]);
    assert_eq!(ended.code, Some(1), "records are deleted only at rest: {}", ended.printed);
    running.kill();
    folder.drained();
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(push(&client, &events(100, 50)), 200);
    visible(&client, 150);
    running.kill();

    let ended = trim("130", &[]);
    assert_eq!(ended.code, Some(1), "{}", ended.printed);
    assert!(
        ended.said.contains("`events` still needs partition 0") && ended.said.contains("from offset 100"),
        "{}",
        ended.said
    );
    let ended = trim("130", &["--force"]);
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    assert!(ended.printed.contains("130 records are deleted, 30 of them lost"), "{}", ended.printed);
    assert_eq!(trim("1000", &["--force"]).code, Some(1), "the log ends before");
    assert_eq!(trim("1", &["--partition", "7"]).code, Some(1), "there is no such partition");

    folder.drained();
    assert_eq!(folder.number("SELECT count(*) FROM events"), 120);
    assert_eq!(folder.number("SELECT count(*) FROM events WHERE id >= 100 AND id < 130"), 0);
    let verified = folder.tarn(&["verify", "--output", "json"]);
    assert_eq!(verified.code, Some(0), "{}", verified.said);
    let report: Value = serde_json::from_str(&verified.printed).expect("JSON");
    let partition = &report[0]["partitions"][0];
    assert_eq!(
        (&partition["rows"], &partition["lost"], &partition["missing"]),
        (&json!(120), &json!(30), &json!(0))
    );
    let mut running = folder.start();
    let client = running.ready();
    assert_eq!(push(&client, &events(150, 10)), 200);
    visible(&client, 130);
    assert_eq!(running.stop().code, Some(0));
}
